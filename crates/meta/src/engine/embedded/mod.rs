//! The default engine: one commit log, ordered tables behind it, in one directory.
//!
//! A commit is appended to the log, synced with whatever else waits, entered into an ordered
//! overlay in memory, and answered. The tables are written from the overlay in the background,
//! in large sorted batches; they are not touched on the way of a commit. Values of a kilobyte
//! and more are never rewritten into the tables: those point into the log, whose segments are
//! recycled when little of them is alive.
//!
//! The threads: one *commits* ([`committer`]), one keeps log *segments* ready ([`supply`]), one
//! *flushes* and one *merges* tables ([`flusher`]), one *collects* segments ([`collect`]).
//! Nothing waits for the last two.
//!
//! Promises: those of [`crate::store`]; I-META-6 (see [`collect`]). Memory is bounded: the
//! overlay, the block cache and the queue of waiting specs each have a limit. A disk that is
//! full refuses what needs room, takes what frees it, and recovers by itself. A disk that fails
//! to write or sync stops the engine.
//!
//! Not here: what the records mean.

mod collect;
mod committer;
mod evaluate;
mod flusher;
mod open;
mod record;
mod replay;
mod shared;
mod statistics;
mod supply;
mod tables;
mod tracker;
mod view;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    thread::JoinHandle,
};

use async_trait::async_trait;
use larder_base::{digest::crc32c, limits};
use larder_disk::{fault::Faults, fsx};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::{
    collect::Asked,
    committer::{Request, Waiting},
    record::POINTER_BYTES,
    shared::{Shared, Statistics, lock},
    view::View,
};
pub use self::{open::OpenError, statistics::STATISTICS};
use crate::{
    spec::TxnSpec,
    store::{CommitError, Committed, Health, Limits, MetaError, MetaStore, Snapshot},
};

/// Specs that may wait; senders beyond that wait themselves.
const QUEUE_SPECS: usize = 1024;

/// KiB of specs that may wait.
const QUEUE_KIB: usize = 16 << 10;

/// Smallest segment that holds the largest spec with room to spare.
const SEGMENT_BYTES_MIN: u64 = 2 << 20;

/// Settings of an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Memory for blocks of tables.
    pub cache_bytes: u64,
    /// Size of new log segments; at least 2 MiB, below 4 GiB, a multiple of 4 KiB. 0 fits it to
    /// the file system: 32 MiB, less on small ones.
    pub segment_bytes: u64,
    /// The overlay is written to the tables when it has this size. Up to four times as much is
    /// in memory: one part that grows, two that wait, one that was just written; and up to
    /// eight times if snapshots stay open. Beyond that the oldest of those fail.
    pub overlay_bytes: u64,
    /// The overlay is also written when this much of the log has been written since. Both bound
    /// what is replayed at open.
    pub unflushed_bytes: u64,
    /// Room that is kept for the tables when the disk is full. 0 fits it to the overlay.
    pub reserve_bytes: u64,
    /// Faults of the disk; none outside of tests. The tables' own files do not meet them.
    pub faults: Faults,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 40 << 20,
            segment_bytes: 0,
            overlay_bytes: 10 << 20,
            unflushed_bytes: 192 << 20,
            reserve_bytes: 0,
            faults: Faults::none(),
        }
    }
}

impl EmbeddedOptions {
    /// Fills in what depends on the directory.
    fn for_directory(mut self, directory: &Path) -> io::Result<Self> {
        if self.segment_bytes == 0 {
            let existing = directory.ancestors().find(|path| path.is_dir());
            let space = fsx::space(existing.unwrap_or(Path::new(".")))?;
            // Four segments' worth of a small disk is a sixteenth to an eighth of it.
            let fitting = (space.total / 64).max(1).next_power_of_two();
            self.segment_bytes = fitting.clamp(4 << 20, 32 << 20);
        }
        let blocks = larder_disk::log::BLOCK as u64;
        self.segment_bytes = self
            .segment_bytes
            .clamp(SEGMENT_BYTES_MIN, u64::from(u32::MAX) - blocks)
            .next_multiple_of(blocks);
        // A small disk gets a small overlay, so that the reserve can take all of it.
        self.overlay_bytes = self.overlay_bytes.min(self.segment_bytes);
        if self.reserve_bytes == 0 {
            self.reserve_bytes = 2 * self.overlay_bytes;
        }
        Ok(self)
    }
}

/// A metadata store in a directory.
///
/// Dropping it does what [`close`](MetaStore::close) does, and blocks while doing so.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    /// Room in the queue, in KiB.
    room: Arc<Semaphore>,
    asked: Arc<Asked>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl EmbeddedStore {
    fn unavailable(&self) -> CommitError {
        CommitError::Unavailable(self.shared.status.unavailable())
    }

    fn check(&self) -> Result<(), MetaError> {
        if self.shared.status.ending() || self.shared.status.stops_taking() {
            return Err(MetaError::Unavailable(self.shared.status.unavailable()));
        }
        Ok(())
    }

    /// Has the threads finish, and waits for them.
    fn join(&self) {
        self.shared.status.stop_taking();
        // If the queue is full, the committer will see the flag after the group it is in.
        let _full = self.queue.try_send(Request::Close);
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A panic has been reported where it happened.
            let _panicked = thread.join();
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.join();
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    fn limits(&self) -> Limits {
        Limits {
            items_max: limits::TXN_ITEMS_MAX,
            bytes_max: limits::TXN_BYTES_MAX,
            key_bytes_max: limits::KEY_BYTES_MAX,
            inline_bytes_max: limits::INLINE_BYTES_MAX,
            folds_in_commit: true,
            may_be_unknown: false,
        }
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        self.check()?;
        Ok(Arc::new(View::open(&self.shared)))
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        spec.check(&self.limits())?;
        self.check().map_err(|_| self.unavailable())?;
        let bytes = spec.written_bytes();
        // Here, so that the one thread that commits need not do it.
        let checksums = spec
            .put
            .iter()
            .map(|(_, value)| value)
            .chain(spec.append.iter().map(|append| &append.value))
            .map(|value| if value.len() < POINTER_BYTES { 0 } else { crc32c(value) })
            .collect();
        let kib = (bytes / 1024 + 1).min(QUEUE_KIB) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        let room = room.map_err(|_closed| self.unavailable())?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { spec, checksums, answer, _room: room };
        let request = Request::Commit(Box::new(waiting));
        self.queue.send(request).await.map_err(|_closed| self.unavailable())?;
        match answered.await {
            Ok(outcome) => outcome,
            // The committer has panicked, maybe while writing.
            Err(_) => Err(CommitError::Unknown(self.shared.status.unavailable())),
        }
    }

    fn health(&self) -> Health {
        let status = &self.shared.status;
        match status.failure() {
            Some(reason) => Health::Failed(reason.to_owned()),
            None if status.is_full() => Health::Full,
            None => Health::Ready,
        }
    }

    async fn compact(&self) -> Result<(), MetaError> {
        self.check()?;
        let (answer, answered) = oneshot::channel();
        lock(&self.asked).push(answer);
        self.shared.status.collect_wanted.notify();
        match answered.await {
            Ok(outcome) => outcome.map_err(|reason| MetaError::Unavailable(reason.into())),
            Err(_) => Err(MetaError::Unavailable(self.shared.status.unavailable())),
        }
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.shared.status.stop_taking();
        if self.queue.send(Request::Close).await.is_err() {
            // The committer is gone already.
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        let join = move || {
            for thread in threads {
                let _panicked = thread.join();
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let joined = runtime.spawn_blocking(join).await;
                joined.map_err(|error| MetaError::Unavailable(error.into()))?;
            }
            Err(_no_runtime) => join(),
        }
        match self.shared.status.failure() {
            Some(reason) => Err(MetaError::Unavailable(reason.to_owned().into())),
            None => Ok(()),
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let shared = &*self.shared;
        let (segments, bytes, live) = {
            let accounts = lock(&shared.accounts);
            let bytes: u64 = accounts.values().map(|account| account.capacity).sum();
            let live: u64 = accounts.values().map(|account| account.live).sum();
            (accounts.len() as u64, bytes, live)
        };
        let ready = {
            let supply = lock(&shared.supply);
            (supply.ready.len() + supply.spares.len()) as u64
        };
        let (tables, records) = shared.tables.counts();
        let s = &shared.statistics;
        let get = Statistics::get;
        let values: [u64; STATISTICS.len()] = [
            get(&s.commits),
            get(&s.refused),
            get(&s.groups),
            s.group_commits.load(Ordering::Relaxed),
            segments,
            ready,
            bytes + ready * shared.options.segment_bytes,
            live,
            get(&s.log_written),
            get(&s.moved_bytes),
            get(&s.recycled),
            get(&s.stalls),
            tables,
            shared.tables.disk_bytes(),
            get(&s.flushes),
            get(&s.flushes_full),
            get(&s.merges),
            shared.tables.runs() as u64,
            records,
            shared.tables.memory_bytes(),
            shared.tracker.views(),
        ];
        STATISTICS.iter().map(|(name, _)| *name).zip(values).collect()
    }
}
