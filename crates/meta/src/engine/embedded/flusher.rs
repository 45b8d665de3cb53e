//! The threads that write the overlay to the tables and merge the tables.
//!
//! Neither is ever waited for by a commit, unless they fall so far behind that the overlay
//! would outgrow its bound.
//!
//! Not here: sealing the overlay (the committer), recycling the log ([`super::collect`]).

use std::sync::atomic::Ordering;

use larder_base::failpoint;
use larder_disk::{
    file::{Access, DiskFile},
    fsx,
};
use tokio::sync::mpsc;

use super::{
    committer::Request,
    shared::{Shared, Statistics, lock},
    supply::RETRY,
    tables::{self, RUNS_MAX},
};

/// With more than this many times the overlay's size in memory, old views are given up. Four
/// are in use without any.
const VIEWS_OVERLAYS: u64 = 8;

/// Flushes what is sealed until the engine ends; at a close, all of it.
pub(super) fn run(shared: &Shared, queue: &mpsc::Sender<Request>) {
    let status = &shared.status;
    loop {
        let seen = status.flush_wanted.seen();
        if status.failure().is_some() {
            return;
        }
        if shared.tables.sealed() == 0 {
            if status.is_closing() {
                return;
            }
            keep_reserve(shared);
            let pause = if status.is_full() { RETRY } else { RETRY * 20 };
            status.flush_wanted.wait_at_most(seen, pause);
            continue;
        }
        let merged = status.merged.seen();
        if shared.tables.runs() > RUNS_MAX && !status.ending() {
            // Not longer than this: on a full disk, merging may be what cannot go on.
            status.merge_wanted.notify();
            status.merged.wait_at_most(merged, RETRY);
        }
        if flush(shared) {
            give_up_old_views(shared);
            // The number that the flush drew is to become visible, so that what it replaced can
            // be let go of. If the queue is full, the next commit does that.
            let _full = queue.try_send(Request::Tick);
        } else {
            status.flush_wanted.wait_at_most(status.flush_wanted.seen(), RETRY);
        }
    }
}

/// What the tables keep for old views is in memory. Keeps that within bounds.
fn give_up_old_views(shared: &Shared) {
    let bound = VIEWS_OVERLAYS * shared.options.overlay_bytes;
    while shared.tables.memory_bytes() > bound && shared.tracker.give_up_oldest() {
        tracing::warn!("gave up snapshots that were kept open for too long");
        if let Err(error) = shared.tables.tidy(shared.tracker.watermark()) {
            tracing::warn!(%error, "let go of old tables");
        }
    }
}

/// One flush; `false` if there was no room.
pub(super) fn flush(shared: &Shared) -> bool {
    let status = &shared.status;
    failpoint::reach("tables.before-flush");
    let floor = shared.tables.next_table();
    match shared.tables.flush(shared.tracker.watermark()) {
        Ok(()) => {
            failpoint::reach("tables.flushed");
            Statistics::add(&shared.statistics.flushes, 1);
            let durable = shared.tables.durable();
            let mut seals = lock(&shared.seals);
            while let Some((commit, segment)) = seals.front().copied()
                && commit <= durable
            {
                shared.replay_from.store(segment, Ordering::Release);
                seals.pop_front();
            }
            drop(seals);
            keep_reserve(shared);
            status.flushed.notify();
            status.merge_wanted.notify();
            status.collect_wanted.notify();
            true
        }
        Err(error) if tables::is_full(&error) => {
            if !status.tables_full.swap(true, Ordering::AcqRel) {
                tracing::warn!("metadata disk is full: only what frees room is accepted");
            }
            if let Err(error) = shared.tables.remove_leftovers(floor, shared.tracker.watermark()) {
                tracing::warn!(%error, "remove unfinished tables");
            }
            match fsx::remove(&shared.reserve, &shared.options.faults) {
                // There is room now.
                Ok(true) => return flush(shared),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "give up reserve"),
            }
            Statistics::add(&shared.statistics.flushes_full, 1);
            status.flushed.notify();
            status.collect_wanted.notify();
            false
        }
        Err(error) => {
            status.fail(&format!("flush tables: {error}"));
            false
        }
    }
}

/// Sees to it that there is a reserve of room for the tables.
pub(super) fn keep_reserve(shared: &Shared) {
    let path = &shared.reserve;
    let faults = &shared.options.faults;
    if path.try_exists().unwrap_or(true) {
        shared.status.tables_full.store(false, Ordering::Release);
        return;
    }
    let made = DiskFile::create_new(path, Access::WRITE, faults).and_then(|file| {
        file.allocate(shared.options.reserve_bytes).and_then(|()| file.sync_all())
    });
    match made {
        Ok(()) => {
            shared.status.tables_full.store(false, Ordering::Release);
            shared.status.supply_wanted.notify();
        }
        Err(_no_room) => {
            let _gone = fsx::remove(path, faults);
            if !shared.status.tables_full.swap(true, Ordering::AcqRel) {
                tracing::warn!("metadata disk is full: only what frees room is accepted");
            }
            shared.status.collect_wanted.notify();
            shared.status.supply_wanted.notify();
        }
    }
}

/// Merges tables until the engine ends.
pub(super) fn run_merger(shared: &Shared) {
    let status = &shared.status;
    loop {
        let seen = status.merge_wanted.seen();
        if status.ending() {
            return;
        }
        let floor = shared.tables.next_table();
        match shared.tables.merge(shared.tracker.watermark()) {
            Ok(true) => {
                Statistics::add(&shared.statistics.merges, 1);
                status.merged.notify();
                continue;
            }
            Ok(false) => {}
            Err(error) if tables::is_full(&error) => {
                let watermark = shared.tracker.watermark();
                if let Err(error) = shared.tables.remove_leftovers(floor, watermark) {
                    tracing::warn!(%error, "remove unfinished tables");
                }
                status.merge_wanted.wait_at_most(seen, RETRY);
            }
            Err(error) => return status.fail(&format!("merge tables: {error}")),
        }
        status.merged.notify();
        if let Err(error) = shared.tables.tidy(shared.tracker.watermark()) {
            tracing::warn!(%error, "let go of old tables");
        }
        status.merge_wanted.wait(seen);
    }
}
