//! The thread that keeps segments ready, so that a commit never waits for one to be zeroed.
//!
//! Three are ready: one to continue in, and two that only what frees room may use when the disk
//! is full (hazard B18). Two, because then one can be emptied while the other is being filled:
//! specs that free room can go on without end as long as the tables can be written.
//!
//! Not here: who takes them (the committer), where spare files come from ([`super::collect`]).

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use larder_disk::log::{Segment, SegmentHeader};

use super::shared::{Shared, lock};

/// Segments kept ready.
pub(super) const READY: usize = RESERVE + 1;

/// Those of them that are the reserve for a full disk.
pub(super) const RESERVE: usize = 2;

/// Spare files kept; more are given back to the file system.
const SPARES: usize = 1;

/// How long to wait before a full disk is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// Keeps segments ready until the engine ends.
pub(super) fn run(shared: &Shared) {
    let status = &shared.status;
    loop {
        let seen = status.supply_wanted.seen();
        if status.ending() {
            return;
        }
        let (ready, spares) = {
            let supply = lock(&shared.supply);
            (supply.ready.len(), supply.spares.len())
        };
        if ready >= READY {
            status.log_full.store(false, Ordering::Release);
            let keep = if status.is_full() { 0 } else { SPARES };
            trim(shared, keep);
            status.supply_wanted.wait(seen);
            continue;
        }
        if spares == 0 && status.tables_full.load(Ordering::Acquire) {
            // What room there is belongs to the tables: only by writing them can more be freed.
            status.log_full.store(true, Ordering::Release);
            status.supplied.notify();
            status.supply_wanted.wait_at_most(seen, RETRY);
            continue;
        }
        match prepare(shared) {
            Ok(segment) => {
                lock(&shared.supply).ready.push_back(Arc::new(segment));
                status.supplied.notify();
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                if !status.log_full.swap(true, Ordering::AcqRel) {
                    tracing::warn!("metadata disk is full: only what frees room is accepted");
                }
                status.supplied.notify();
                status.collect_wanted.notify();
                status.supply_wanted.wait_at_most(seen, RETRY);
            }
            Err(error) => status.fail(&format!("prepare log segment: {error}")),
        }
    }
}

/// Makes the next segment.
pub(super) fn prepare(shared: &Shared) -> io::Result<Segment> {
    let (sequence, spare) = {
        let mut supply = lock(&shared.supply);
        (supply.next_sequence, supply.spares.pop())
    };
    let mut salt = [0; 8];
    shared.env.fill_random(&mut salt);
    let header = SegmentHeader {
        sequence,
        salt: u64::from_le_bytes(salt),
        capacity: shared.options.segment_bytes,
    };
    let segment = shared.segments.directory.prepare(header, spare)?;
    lock(&shared.supply).next_sequence = sequence + 1;
    Ok(segment)
}

fn trim(shared: &Shared, keep: usize) {
    loop {
        let mut supply = lock(&shared.supply);
        if supply.spares.len() <= keep {
            return;
        }
        let spare = supply.spares.pop();
        drop(supply);
        if let Some(spare) = spare
            && let Err(error) = shared.segments.directory.remove(spare)
        {
            tracing::warn!(%error, "remove spare log segment");
        }
    }
}
