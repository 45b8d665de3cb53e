//! The one thread that commits: takes what waits, checks it, logs it, publishes it, answers.
//!
//! A group is whatever is waiting when the last one is done: one spec when the engine is idle,
//! dozens under load; no timers. Each spec is checked against the state that all accepted
//! before it leave behind, those of the same group included. The group's records are written
//! and synced once, entered into the overlay, made visible, and only then is anyone answered,
//! the refused included: a refusal may rest on a commit of the same group.
//!
//! Promises: I-META-1, I-META-2, I-META-4. After a write or sync whose outcome is unknown the
//! engine stops (hazard C04): nothing can be known about what the disk holds.
//!
//! On a full disk (hazard B18) the log has a reserve of two whole segments: nothing but specs
//! that free room, and the collector's moves, is accepted before it is touched, and moves leave
//! room for a thousand more of the former. It is whole again before anything else is accepted.
//!
//! Crash: before the write, nothing happened; between write and sync, all of the group or
//! nothing; after the sync, all of it, whether anyone was answered or not.
//!
//! Not here: the checks ([`super::evaluate`]), segments ([`super::supply`]), tables.

use std::sync::{Arc, atomic::Ordering};

use larder_base::failpoint;
use larder_disk::log::{AppendError, BATCH_HEADER, BLOCK, BatchBuffer, Writer};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    evaluate::{Frame, Group, Staged, State},
    record::{Checkpoint, ENTRY_OVERHEAD, Pointer, RECORD_OVERHEAD},
    shared::{Shared, Statistics, lock},
    supply::{RESERVE, RETRY},
    tables::Pair,
};
use crate::{
    spec::{APPEND_KEY_BYTES, TxnSpec},
    store::{CommitError, Committed, Revision, Version},
};

/// Most bytes of one group: what is read, checked and rewritten at once.
const GROUP_BYTES: usize = 4 << 20;

/// As many times its size may the overlay grow while the disk is too full to flush it.
const OVERLAYS_FULL: u64 = 4;

/// What can be asked of the committer.
#[derive(Debug)]
pub(super) enum Request {
    /// Commit a spec.
    Commit(Box<Waiting>),
    /// Move values to the end of the log.
    Move(Moves),
    /// Make the last drawn number visible.
    Tick,
    /// Seal the overlay; answers the number to wait for.
    Seal(oneshot::Sender<u64>),
    /// Seal the overlay, and go on in another segment.
    Roll(oneshot::Sender<u64>),
    /// Finish what is waiting, seal, stop.
    Close,
}

/// A spec and whoever waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) spec: TxnSpec,
    /// For each put, then for each append: the checksum of the value, if it is to be pointed to.
    pub(super) checksums: Vec<u32>,
    pub(super) answer: oneshot::Sender<Result<Committed, CommitError>>,
    /// The room in the queue that it takes.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Values to be moved, each if its key still has this raw value.
#[derive(Debug)]
pub(super) struct Moves {
    pub(super) values: Vec<MovedValue>,
    /// Answers whether the values were moved, or had changed.
    pub(super) answer: oneshot::Sender<bool>,
}

/// A value to be moved.
#[derive(Debug)]
pub(super) struct MovedValue {
    pub(super) pair: Pair,
    pub(super) version: Version,
    pub(super) from: Pointer,
    pub(super) value: Vec<u8>,
}

enum Reply {
    Commit(oneshot::Sender<Result<Committed, CommitError>>, Result<Committed, CommitError>),
    Moved(oneshot::Sender<bool>),
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Request>,
    /// Taken from the queue, but the group was full.
    carried: Option<Request>,
    writer: Writer,
    batch: BatchBuffer,
    state: State,
    staged: Staged,
    replies: Vec<Reply>,
    accepted: u64,
    /// The last commit of the group.
    last: u64,
    /// Bytes of the log that replay would read.
    unflushed: u64,
    /// The reserve has been whole since the open, or there is nothing yet that it could free.
    settled: bool,
}

/// What a record is for; decides what it may use of the room that is left when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Needs room of its own: refused while the disk is full, before the reserve is touched.
    Add,
    /// Moves values so that their segment goes: leaves some of the reserve, see
    /// [`Shared::room_for_moves`].
    Move,
    /// Gives room back ([`TxnSpec::frees`]): may use all of the reserve.
    Free,
}

/// What became of a request.
enum Taken {
    Done,
    /// It does not fit into the group.
    GroupFull(Request),
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Request>,
        writer: Writer,
        unflushed: u64,
        settled: bool,
    ) -> Self {
        Self {
            state: State::new(Arc::clone(&shared)),
            shared,
            queue,
            carried: None,
            writer,
            batch: BatchBuffer::default(),
            staged: Staged::default(),
            replies: Vec::new(),
            accepted: 0,
            last: 0,
            unflushed,
            settled,
        }
    }

    /// Commits until the engine is closed or fails.
    pub(super) fn run(mut self) {
        while let Some(first) = self.carried.take().or_else(|| self.queue.blocking_recv()) {
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match self.take(request) {
                    Taken::Done => next = self.queue.try_recv().ok(),
                    Taken::GroupFull(request) => self.carried = Some(request),
                }
            }
            self.finish_group();
            self.bound_overlay();
            if self.shared.status.stops_taking() {
                self.queue.close();
            }
        }
        if self.shared.status.failure().is_none() {
            self.seal();
        }
        self.shared.status.close();
    }

    fn take(&mut self, request: Request) -> Taken {
        match request {
            Request::Commit(waiting) => return self.take_commit(waiting),
            Request::Move(moves) => return self.take_moves(moves),
            Request::Tick => {
                // Nothing drawn may be missing in what becomes visible.
                self.finish_group();
                self.shared.tracker.advance(self.shared.tables.last_drawn());
                self.shared.status.merge_wanted.notify();
            }
            Request::Seal(answer) => {
                self.finish_group();
                let _gone = answer.send(self.seal());
            }
            Request::Roll(answer) => {
                self.finish_group();
                if self.shared.status.failure().is_none() {
                    // Without a segment to go on in, it stays.
                    let _rolled = self.roll(Purpose::Move);
                }
                let _gone = answer.send(self.seal());
            }
            Request::Close => self.queue.close(),
        }
        Taken::Done
    }

    fn take_commit(&mut self, waiting: Box<Waiting>) -> Taken {
        let bytes = record_bytes(&waiting.spec);
        let purpose = if waiting.spec.frees { Purpose::Free } else { Purpose::Add };
        match self.make_room(bytes, purpose) {
            Room::Here => {}
            Room::AfterGroup => return Taken::GroupFull(Request::Commit(waiting)),
            Room::None(error) => {
                self.replies.push(Reply::Commit(waiting.answer, Err(error)));
                return Taken::Done;
            }
        }
        let Waiting { spec, checksums, answer, _room: _ } = *waiting;
        let place = (self.writer.segment().sequence(), self.writer.position());
        let group = Group { batch: &self.batch, place, staged: &self.staged };
        let outcome = match self.state.evaluate(&spec, &group) {
            Ok(Some(before)) => Ok(Committed::Before(before)),
            Ok(None) => {
                let commit = self.shared.tables.next_commit();
                let (batch, staged) = (&mut self.batch, &mut self.staged);
                let frame = Frame { batch, place, staged, commit };
                match self.state.apply(spec, &checksums, frame) {
                    Ok(()) => {
                        self.accepted += 1;
                        self.last = commit;
                        Ok(Committed::Now(Revision(commit)))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        self.replies.push(Reply::Commit(answer, outcome));
        Taken::Done
    }

    fn take_moves(&mut self, moves: Moves) -> Taken {
        let overhead = ENTRY_OVERHEAD * 2;
        let bytes: usize =
            moves.values.iter().map(|m| m.pair.0.len() + m.value.len() + overhead).sum();
        match self.make_room(bytes + RECORD_OVERHEAD, Purpose::Move) {
            Room::Here => {}
            Room::AfterGroup => return Taken::GroupFull(Request::Move(moves)),
            // Dropping the answer says that nothing was moved.
            Room::None(_) => return Taken::Done,
        }
        let commit = self.shared.tables.next_commit();
        let place = (self.writer.segment().sequence(), self.writer.position());
        let (batch, staged) = (&mut self.batch, &mut self.staged);
        let frame = Frame { batch, place, staged, commit };
        if self.state.relocate(moves.values, frame).is_ok() {
            self.last = commit;
            self.replies.push(Reply::Moved(moves.answer));
        }
        Taken::Done
    }

    /// Sees to it that a record of `bytes` fits behind what the group has.
    fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Room {
        if purpose == Purpose::Add && !self.settled {
            self.settle();
        }
        let status = &self.shared.status;
        if status.failure().is_some() {
            return Room::None(CommitError::Unavailable(status.unavailable()));
        }
        let whole = BATCH_HEADER + bytes + BLOCK;
        if whole > self.shared.options.segment_bytes as usize - BLOCK {
            return Room::None(crate::spec::SpecError::TooManyBytes(bytes).into());
        }
        let wanted = self.batch.len() + bytes + BLOCK;
        if status.is_full() {
            // The overlay stays bounded even if it cannot be flushed.
            let overlay = self.shared.tables.overlay_bytes();
            let bounded = overlay < OVERLAYS_FULL * self.shared.options.overlay_bytes;
            let permitted = match purpose {
                Purpose::Add => false,
                Purpose::Move => wanted as u64 <= self.room_for_moves(),
                Purpose::Free => true,
            };
            if !permitted || !bounded {
                return Room::None(CommitError::Full);
            }
        }
        if !self.batch.is_empty() && wanted > GROUP_BYTES.min(self.writer.room()) {
            return Room::AfterGroup;
        }
        if wanted > self.writer.room() && !self.roll(purpose) {
            return match self.shared.status.failure() {
                Some(_) => Room::None(CommitError::Unavailable(self.shared.status.unavailable())),
                None => Room::None(CommitError::Full),
            };
        }
        Room::Here
    }

    /// Waits until the reserve is whole, or the disk is known to be full: the process before may
    /// have used the reserve up, and the first spec of this one must not add to that.
    fn settle(&mut self) {
        let status = &self.shared.status;
        loop {
            let seen = status.supplied.seen();
            let whole = lock(&self.shared.supply).ready.len() >= RESERVE;
            self.settled |= whole;
            if whole || status.log_full.load(Ordering::Acquire) || status.failure().is_some() {
                return;
            }
            status.supplied.wait(seen);
        }
    }

    /// Bytes of the log that moves may use on a full disk.
    fn room_for_moves(&self) -> u64 {
        let ready = lock(&self.shared.supply).ready.len() as u64;
        self.shared.room_for_moves(self.writer.room() as u64, ready)
    }

    /// Goes on in the next segment; `false` if there is none for this purpose. As long as the
    /// disk is not full the reserve stays whole, so whoever needs a segment waits for it.
    fn roll(&mut self, purpose: Purpose) -> bool {
        let status = &self.shared.status;
        loop {
            let seen = status.supplied.seen();
            if status.failure().is_some() {
                return false;
            }
            let mut supply = lock(&self.shared.supply);
            let full = status.log_full.load(Ordering::Acquire);
            let kept = if full && purpose != Purpose::Add { 0 } else { RESERVE };
            if supply.ready.len() > kept
                && let Some(segment) = supply.ready.pop_front()
            {
                drop(supply);
                status.supply_wanted.notify();
                self.note_account(0);
                self.writer.roll(segment);
                self.note_account(0);
                return true;
            }
            drop(supply);
            if full {
                return false;
            }
            Statistics::add(&self.shared.statistics.stalls, 1);
            status.supplied.wait(seen);
        }
    }

    /// Brings the account of the current segment up to date; `written` are the bytes of values
    /// that have come to be pointed to.
    fn note_account(&self, written: u64) {
        let mut accounts = lock(&self.shared.accounts);
        let account = accounts.entry(self.writer.segment().sequence()).or_default();
        account.capacity = self.writer.segment().header().capacity;
        account.used = self.writer.position();
        account.live += written;
        account.pointed += written;
    }

    /// Writes, publishes and answers what was accepted.
    fn finish_group(&mut self) {
        let refused = self.replies.len() as u64;
        if self.batch.is_empty() {
            Statistics::add(&self.shared.statistics.refused, refused);
            return self.reply();
        }
        let before = self.writer.position();
        match self.writer.append(&mut self.batch) {
            Ok(()) => {
                let written = self.writer.position() - before;
                self.unflushed += written;
                self.publish();
                let statistics = &self.shared.statistics;
                Statistics::add(&statistics.refused, refused.saturating_sub(self.accepted));
                Statistics::add(&statistics.commits, self.accepted);
                Statistics::add(&statistics.groups, 1);
                statistics.group_commits.store(self.accepted, Ordering::Relaxed);
                Statistics::add(&statistics.log_written, written);
                failpoint::reach("log.published");
                self.reply();
            }
            Err(AppendError::NoSpace(error)) => {
                tracing::warn!(%error, "metadata log is full");
                self.shared.status.log_full.store(true, Ordering::Release);
                self.shared.status.supply_wanted.notify();
                self.refuse(|| CommitError::Full);
            }
            Err(AppendError::Unknown(error)) => {
                self.shared.status.fail(&format!("write metadata log: {error}"));
                // Those that were refused may have been so because of those that are unknown.
                self.refuse(|| CommitError::Unknown("the disk failed while committing".into()));
            }
        }
        self.batch.clear();
        self.staged.clear();
        self.accepted = 0;
    }

    fn publish(&mut self) {
        for write in self.staged.writes.drain(..) {
            self.shared.tables.insert(&write.key, write.raw, write.commit);
        }
        self.note_account(self.staged.live.written);
        let live = &mut self.staged.live;
        if !live.dead.is_empty() {
            let mut accounts = lock(&self.shared.accounts);
            for (segment, length) in live.dead.drain(..) {
                if let Some(account) = accounts.get_mut(&segment) {
                    account.live = account.live.saturating_sub(u64::from(length));
                }
            }
        }
        self.shared.tracker.publish(self.last);
    }

    fn reply(&mut self) {
        for reply in self.replies.drain(..) {
            // Whoever asked may be gone.
            match reply {
                Reply::Commit(answer, outcome) => drop(answer.send(outcome)),
                Reply::Moved(answer) => drop(answer.send(true)),
            }
        }
    }

    /// Answers everyone of the group with `error`; nothing of it was published.
    fn refuse(&mut self, error: impl Fn() -> CommitError) {
        // What was remembered may rest on the group.
        self.state.forget();
        for reply in self.replies.drain(..) {
            if let Reply::Commit(answer, _) = reply {
                let _gone = answer.send(Err(error()));
            }
        }
    }

    /// Seals the overlay when it, or the log that it was replayed from, has grown enough; waits
    /// if two sealed parts have not been flushed yet.
    fn bound_overlay(&mut self) {
        let options = &self.shared.options;
        let overlay = self.shared.tables.overlay_bytes();
        if overlay < options.overlay_bytes && self.unflushed < options.unflushed_bytes {
            return;
        }
        let status = &self.shared.status;
        while self.shared.tables.sealed() >= 2 {
            let seen = status.flushed.seen();
            if status.failure().is_some() || self.shared.tables.sealed() < 2 {
                break;
            }
            if status.tables_full.load(Ordering::Acquire) {
                // Only what frees room comes in now, and that must not wait for room.
                return;
            }
            Statistics::add(&self.shared.statistics.stalls, 1);
            status.flushed.wait_at_most(seen, RETRY);
        }
        if status.failure().is_none() {
            self.seal();
        }
    }

    /// Seals the overlay; returns the number that is durable when it is flushed.
    fn seal(&mut self) -> u64 {
        self.note_account(0);
        let accounts = lock(&self.shared.accounts).iter().map(|(s, a)| (*s, *a)).collect();
        let checkpoint = Checkpoint {
            segment: self.writer.segment().sequence(),
            offset: self.writer.position(),
            number: self.writer.number(),
            accounts,
        };
        let commit = self.shared.tables.seal(&checkpoint);
        lock(&self.shared.seals).push_back((commit, checkpoint.segment));
        self.unflushed = 0;
        self.shared.tracker.advance(commit);
        self.shared.status.flush_wanted.notify();
        commit
    }
}

enum Room {
    Here,
    AfterGroup,
    None(CommitError),
}

/// Most bytes that the spec's record can have.
fn record_bytes(spec: &TxnSpec) -> usize {
    // Each write may also end the life of an old value.
    let entry = 2 * ENTRY_OVERHEAD;
    let puts: usize = spec.put.iter().map(|(k, v)| k.len() + v.len() + entry).sum();
    let deletes: usize = spec.delete.iter().map(|key| key.len() + entry).sum();
    let appends = spec.append.iter();
    let appends: usize =
        appends.map(|a| a.prefix.len() + APPEND_KEY_BYTES + a.value.len() + entry).sum();
    let merges: usize = spec.merge.iter().map(|merge| merge.key.len() + 32 + entry).sum();
    let operation = spec.operation.as_ref().map_or(0, |op| op.outcome.len() + 18 + entry);
    RECORD_OVERHEAD + puts + appends + deletes + merges + operation
}
