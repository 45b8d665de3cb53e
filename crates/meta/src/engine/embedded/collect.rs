//! The thread that gives back log segments: values still pointed to move to the end of the log,
//! and when nobody can look into a segment any more it is recycled.
//!
//! Promises: I-META-6 no value that a pointer leads to is ever lost to recycling. The accounts
//! only choose which segments are worth it; before a segment goes, all of it is read and each of
//! its values is looked up. It goes when (a) replay does not need it, (b) no pointer leads into
//! it, (c) every open view was opened after (b).
//!
//! Crash: moved values are commits like any other; a segment that was to be recycled is found
//! again by its account.
//!
//! Not here: preparing recycled files for their next use ([`super::supply`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use larder_base::failpoint;
use larder_disk::log::{BLOCK, Reader};
use lsm_tree::Slice;
use tokio::sync::{mpsc, oneshot};

use super::{
    committer::{MovedValue, Moves, Request},
    evaluate::pointer_of,
    record::{Account, Entry, POINTER_BYTES, decode_raw, read_payload},
    shared::{Shared, Statistics, lock},
    tables,
};

/// Of the whole log, and of a segment, how much must be dead for it to be rewritten.
const DEAD_PERCENT: u64 = 30;

/// A log with less dead than this many segments is left alone.
const DEAD_SEGMENTS: u64 = 4;

/// When asked to give back what can be given back: how much of a segment must be dead.
const DEAD_PERCENT_ASKED: u64 = 5;

/// When the disk is full: how much of a segment must be dead.
const DEAD_PERCENT_FULL: u64 = 15;

/// How many failed flushes are waited for.
const FLUSHES_FULL_MAX: u64 = 8;

/// Bytes of values that move in one commit. Not more than a 32nd of a segment either: the end
/// of a segment into which the next commit does not fit is lost.
const MOVE_BYTES: usize = 512 << 10;

/// How often segments that wait for old views are looked at again.
const PAUSE: Duration = Duration::from_millis(500);

/// Who waits for [`compact`](crate::MetaStore::compact).
pub(super) type Asked = Mutex<Vec<oneshot::Sender<Result<(), String>>>>;

pub(super) struct Collector {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::Sender<Request>,
    pub(super) asked: Arc<Asked>,
    /// Segments that nothing points into, and the last commit that could see otherwise.
    pub(super) empty: BTreeMap<u64, u64>,
    /// Segments that could not be read whole: they stay.
    pub(super) damaged: Vec<u64>,
}

impl Collector {
    /// Collects until the engine ends.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let status = &shared.status;
        loop {
            let seen = status.collect_wanted.seen();
            if status.ending() {
                return;
            }
            let asked = std::mem::take(&mut *lock(&self.asked));
            if asked.is_empty() {
                if status.is_full() {
                    self.make_room();
                }
                self.round();
            } else {
                let outcome = self.everything();
                for answer in asked {
                    let _gone = answer.send(outcome.clone());
                }
                continue;
            }
            if self.empty.is_empty() && !status.is_full() {
                status.collect_wanted.wait(seen);
            } else {
                status.collect_wanted.wait_at_most(seen, PAUSE);
            }
        }
    }

    /// Collects what is worth it.
    fn round(&mut self) {
        loop {
            self.retire();
            if self.shared.status.ending() {
                return;
            }
            let candidates = self.candidates();
            let capacity: u64 = candidates.values().map(|account| account.capacity).sum();
            let dead: u64 = candidates.values().map(dead).sum();
            // On a full disk `make_room` decides what moves.
            let worth = !self.shared.status.is_full()
                && dead * 100 > capacity * DEAD_PERCENT
                && dead > DEAD_SEGMENTS * self.shared.options.segment_bytes;
            let deadest = candidates
                .iter()
                .filter(|(_, account)| {
                    account.live == 0 || (worth && dead_percent(account) > DEAD_PERCENT)
                })
                .max_by_key(|(_, account)| dead_percent(account));
            match deadest {
                Some((segment, account)) => {
                    let (segment, account) = (*segment, *account);
                    if !self.empty_out(segment, &account) {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// The disk is full: frees what can be freed, the deadest first. A segment's live values
    /// need less room than the segment gives back; none is begun whose values find no place in
    /// the part of the reserve that moves may use, so that none of it is spent for nothing.
    fn make_room(&mut self) {
        let sealed_before = lock(&self.shared.seals).back().copied();
        loop {
            self.retire();
            if self.shared.status.ending() || !self.shared.status.is_full() {
                return;
            }
            let worth = |account: &Account| dead_percent(account) >= DEAD_PERCENT_FULL;
            let candidates = self.candidates();
            let most = self.room_for_moves();
            let deadest = candidates
                .iter()
                .filter(|(_, account)| worth(account) && moving_bytes(account) <= most)
                .max_by_key(|(_, account)| dead_percent(account));
            if let Some((segment, account)) = deadest {
                let (segment, account) = (*segment, *account);
                if !self.empty_out(segment, &account) {
                    return;
                }
                continue;
            }
            // Segments that replay needs become candidates by a flush.
            let replay_from = self.shared.replay_from.load(Ordering::Acquire);
            let mut waiting: Vec<Account> =
                lock(&self.shared.accounts).range(replay_from..).map(|(_, a)| *a).collect();
            waiting.pop();
            let flushed = lock(&self.shared.seals).back().copied() != sealed_before;
            if flushed || !waiting.iter().any(worth) || self.settle(Request::Seal).is_err() {
                return;
            }
        }
    }

    /// Collects everything that can be collected now, and merges the tables.
    fn everything(&mut self) -> Result<(), String> {
        self.settle(|answer| {
            // A segment that is being written can be collected only after the next has begun.
            Request::Roll(answer)
        })?;
        for (segment, account) in self.candidates() {
            let worth = dead_percent(&account) >= DEAD_PERCENT_ASKED || account.live == 0;
            let room =
                !self.shared.status.is_full() || moving_bytes(&account) <= self.room_for_moves();
            if worth && room {
                self.empty_out(segment, &account);
            }
        }
        self.settle(Request::Seal)?;
        self.retire();
        let floor = self.shared.tables.next_table();
        let merged = self.shared.tables.merge_all(self.shared.tracker.watermark());
        self.shared.status.merge_wanted.notify();
        match merged {
            // What could be freed without room has been.
            Err(error) if tables::is_full(&error) => {
                let watermark = self.shared.tracker.watermark();
                let removed = self.shared.tables.remove_leftovers(floor, watermark);
                removed.map_err(|error| format!("remove unfinished tables: {error}"))
            }
            merged => merged.map_err(|error| format!("merge tables: {error}")),
        }
    }

    /// Has the overlay sealed and waits until it is in the tables.
    fn settle(&self, request: impl FnOnce(oneshot::Sender<u64>) -> Request) -> Result<(), String> {
        let closed = || "closed".to_owned();
        let full_before = Statistics::get(&self.shared.statistics.flushes_full);
        let (answer, answered) = oneshot::channel();
        self.queue.blocking_send(request(answer)).map_err(|_| closed())?;
        let wanted = answered.blocking_recv().map_err(|_| closed())?;
        let status = &self.shared.status;
        loop {
            let seen = status.flushed.seen();
            if self.shared.tables.durable() >= wanted {
                return Ok(());
            }
            if let Some(reason) = status.failure() {
                return Err(reason.to_owned());
            }
            if status.ending() {
                return Err(closed());
            }
            let full = Statistics::get(&self.shared.statistics.flushes_full) - full_before;
            if full > FLUSHES_FULL_MAX {
                return Err("metadata disk is full".to_owned());
            }
            status.flushed.wait(seen);
        }
    }

    /// Segments that replay does not need, and that are not being dealt with.
    fn candidates(&self) -> BTreeMap<u64, Account> {
        let replay_from = self.shared.replay_from.load(Ordering::Acquire);
        lock(&self.shared.accounts)
            .range(..replay_from)
            .filter(|(segment, _)| {
                !self.empty.contains_key(segment) && !self.damaged.contains(segment)
            })
            .map(|(segment, account)| (*segment, *account))
            .collect()
    }

    /// Moves what is alive in the segment away; `false` if that is not possible now.
    fn empty_out(&mut self, segment: u64, account: &Account) -> bool {
        if account.pointed > 0 {
            match self.move_values(segment, account) {
                Ok(Moved::All) => {}
                Ok(Moved::Damaged) => {
                    tracing::error!(segment, "damaged log segment is kept");
                    self.damaged.push(segment);
                    return true;
                }
                Ok(Moved::NotNow) => return false,
                Err(error) => {
                    tracing::error!(segment, error, "collect log segment");
                    self.damaged.push(segment);
                    return true;
                }
            }
        }
        self.empty.insert(segment, self.shared.tracker.visible());
        self.retire();
        true
    }

    /// Bytes of the log that moves may use on a full disk.
    fn room_for_moves(&self) -> u64 {
        let ready = lock(&self.shared.supply).ready.len() as u64;
        let accounts = lock(&self.shared.accounts);
        let last = accounts.values().next_back();
        let room = last.map_or(0, |account| account.capacity.saturating_sub(account.used));
        drop(accounts);
        self.shared.room_for_moves(room, ready)
    }

    fn move_values(&self, sequence: u64, account: &Account) -> Result<Moved, String> {
        let segment = self.shared.segments.directory.open_segment(sequence);
        let segment = Arc::new(segment.map_err(|error| error.to_string())?);
        let mut reader = Reader::new(segment, BLOCK as u64, None);
        let mut values = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = reader.next_batch().map_err(|error| error.to_string())? {
            let mut failed = None;
            let read = read_payload(batch.payload, |_, entry| {
                if let Entry::Put { key, value, at, .. } = entry
                    && value.len() >= POINTER_BYTES
                {
                    let offset = batch.payload_offset + at as u64;
                    match self.alive(sequence, offset, key, value) {
                        Ok(Some(moved)) => {
                            bytes += value.len();
                            values.push(moved);
                        }
                        Ok(None) => {}
                        Err(error) => failed = Some(error.to_string()),
                    }
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            if read.is_err() {
                return Ok(Moved::Damaged);
            }
            if bytes >= self.move_bytes() && !self.send(&mut values, &mut bytes) {
                return Ok(Moved::NotNow);
            }
        }
        if reader.offset() < account.used {
            // What stands behind the damage may be alive.
            return Ok(Moved::Damaged);
        }
        Ok(if self.send(&mut values, &mut bytes) { Moved::All } else { Moved::NotNow })
    }

    /// The value, if the newest state of its key points to it.
    fn alive(
        &self,
        segment: u64,
        offset: u64,
        key: &[u8],
        value: &[u8],
    ) -> lsm_tree::Result<Option<MovedValue>> {
        let Some(raw) = self.shared.tables.get_latest(key)? else { return Ok(None) };
        let from = match pointer_of(&raw) {
            Some(from) if from.segment == segment && u64::from(from.offset) == offset => from,
            _ => return Ok(None),
        };
        let Ok((version, _)) = decode_raw(&raw) else { return Ok(None) };
        let pair = (Slice::from(key), raw);
        Ok(Some(MovedValue { pair, version, from, value: value.to_vec() }))
    }

    fn move_bytes(&self) -> usize {
        MOVE_BYTES.min(self.shared.options.segment_bytes as usize / 32)
    }

    /// Has values moved, in commits of bounded size.
    fn send(&self, values: &mut Vec<MovedValue>, bytes: &mut usize) -> bool {
        *bytes = 0;
        let most = self.move_bytes();
        let mut rest = std::mem::take(values);
        while !rest.is_empty() {
            let mut size = 0;
            let fits = rest
                .iter()
                .take_while(|moved| {
                    size += moved.value.len() + moved.pair.0.len();
                    size <= most
                })
                .count();
            let later = rest.split_off(fits.max(1));
            let moving = std::mem::replace(&mut rest, later);
            let length: usize = moving.iter().map(|moved| moved.value.len()).sum();
            let (answer, answered) = oneshot::channel();
            let request = Request::Move(Moves { values: moving, answer });
            if self.queue.blocking_send(request).is_err() || answered.blocking_recv() != Ok(true) {
                return false;
            }
            Statistics::add(&self.shared.statistics.moved_bytes, length as u64);
        }
        true
    }

    /// Recycles the empty segments that no view can look into.
    fn retire(&mut self) {
        let watermark = self.shared.tracker.watermark();
        let ready: Vec<u64> = self
            .empty
            .iter()
            .filter(|(_, commit)| watermark > **commit)
            .map(|(segment, _)| *segment)
            .collect();
        for segment in ready {
            self.empty.remove(&segment);
            let Some(account) = lock(&self.shared.accounts).remove(&segment) else { continue };
            debug_assert_eq!(account.live, 0, "segment {segment}: account and content disagree");
            self.shared.segments.forget(segment);
            match self.shared.segments.directory.retire(segment, account.capacity) {
                Ok(spare) => {
                    failpoint::reach("log.recycled");
                    Statistics::add(&self.shared.statistics.recycled, 1);
                    lock(&self.shared.supply).spares.push(spare);
                    self.shared.status.supply_wanted.notify();
                }
                Err(error) => {
                    self.shared.status.fail(&format!("recycle log segment {segment}: {error}"));
                }
            }
        }
    }
}

enum Moved {
    All,
    Damaged,
    NotNow,
}

/// What the file takes beyond its live values; nobody writes to a candidate any more.
fn dead(account: &Account) -> u64 {
    account.capacity.saturating_sub(account.live)
}

/// Most bytes of the log that its live values take where they move to: keys, blocks that are not
/// filled, and the end of a segment into which a move does not fit. Nothing if none is alive.
fn moving_bytes(account: &Account) -> u64 {
    let live = account.live;
    if live == 0 { 0 } else { live + live / 8 + account.capacity / 16 }
}

fn dead_percent(account: &Account) -> u64 {
    dead(account) * 100 / account.capacity.max(1)
}
