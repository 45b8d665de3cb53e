//! What the threads of the engine and its readers share.
//!
//! Order of locks: none of these locks is held while another is taken.
//!
//! Not here: the threads.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_base::{digest::crc32c, env::Env};
use larder_disk::{
    file::DiskFile,
    fsx::DirectoryLock,
    log::{LogDirectory, Segment},
};

use super::{
    EmbeddedOptions,
    record::{Account, Pointer},
    tables::Tables,
    tracker::Tracker,
};
use crate::store::{MetaError, Source};

/// Log segments that are kept open for reading.
const OPEN_SEGMENTS: usize = 128;

/// Bytes of the log that the collector's moves leave when the disk is full; less only if a
/// segment is smaller.
const KEPT_FOR_FREES: u64 = 4 << 20;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that outlives a call.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: EmbeddedOptions,
    /// Room that is given up when the disk is full, so that the tables can be written.
    pub(super) reserve: PathBuf,
    pub(super) env: Env,
    pub(super) tables: Tables,
    pub(super) tracker: Tracker,
    pub(super) status: Status,
    pub(super) segments: Segments,
    /// What each segment holds, the one that is being written included.
    pub(super) accounts: Mutex<BTreeMap<u64, Account>>,
    /// Segments ready to be written.
    pub(super) supply: Mutex<Supply>,
    /// For each part of the overlay that was sealed: its last number, and the segment where
    /// replay starts once it is durable.
    pub(super) seals: Mutex<VecDeque<(u64, u64)>>,
    /// Replay would start in this segment; those before it are needed for pointers only.
    pub(super) replay_from: AtomicU64,
    pub(super) statistics: Statistics,
    /// The directory is ours.
    pub(super) _lock: DirectoryLock,
}

impl Shared {
    /// Bytes of the log that the collector's moves may use on a full disk: they leave enough for
    /// a thousand commits that free room, each of which takes a block.
    pub(super) fn room_for_moves(&self, room: u64, ready: u64) -> u64 {
        let segment = self.options.segment_bytes;
        let kept = segment.min(KEPT_FOR_FREES);
        (room + ready * segment).saturating_sub(kept)
    }
}

/// Segments ready to be written, in order of their sequence.
#[derive(Debug, Default)]
pub(super) struct Supply {
    pub(super) ready: VecDeque<Arc<Segment>>,
    pub(super) next_sequence: u64,
    pub(super) spares: Vec<larder_disk::log::Spare>,
}

/// Counts for operators.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    pub(super) commits: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) group_commits: AtomicU64,
    pub(super) log_written: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) flushes_full: AtomicU64,
    pub(super) merges: AtomicU64,
    pub(super) moved_bytes: AtomicU64,
    pub(super) recycled: AtomicU64,
    pub(super) stalls: AtomicU64,
}

impl Statistics {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// How the engine is, and how its threads wake each other.
#[derive(Debug, Default)]
pub(super) struct Status {
    failed: OnceLock<String>,
    stops_taking: AtomicBool,
    closing: AtomicBool,
    /// The disk had no room for a segment, or for tables.
    pub(super) log_full: AtomicBool,
    pub(super) tables_full: AtomicBool,
    /// A segment is wanted.
    pub(super) supply_wanted: Signal,
    /// A segment is ready, or cannot be made.
    pub(super) supplied: Signal,
    /// A part of the overlay was sealed.
    pub(super) flush_wanted: Signal,
    /// A flush ended.
    pub(super) flushed: Signal,
    /// Tables may need merging.
    pub(super) merge_wanted: Signal,
    /// Tables were merged.
    pub(super) merged: Signal,
    /// Segments may have become collectable.
    pub(super) collect_wanted: Signal,
}

impl Status {
    /// Stops the engine for good.
    pub(super) fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "metadata engine stops");
        }
        self.wake_all();
    }

    /// Why the engine stopped, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// The committer is to finish what is waiting, and then close.
    pub(super) fn stop_taking(&self) {
        self.stops_taking.store(true, Ordering::Release);
    }

    pub(super) fn stops_taking(&self) -> bool {
        self.stops_taking.load(Ordering::Acquire)
    }

    /// Nothing is committed any more: the other threads finish.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Whether the engine is closing or has failed: background work ends.
    pub(super) fn ending(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.failed.get().is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn is_full(&self) -> bool {
        self.log_full.load(Ordering::Acquire) || self.tables_full.load(Ordering::Acquire)
    }

    fn wake_all(&self) {
        for signal in [
            &self.supply_wanted,
            &self.supplied,
            &self.flush_wanted,
            &self.flushed,
            &self.merge_wanted,
            &self.merged,
            &self.collect_wanted,
        ] {
            signal.notify();
        }
    }

    /// The error of every call after the engine failed or was closed.
    pub(super) fn unavailable(&self) -> Source {
        self.failure().map_or_else(|| "closed".into(), |reason| reason.to_owned().into())
    }
}

/// Wakes a thread that waits for something to happen. A notification between looking and
/// waiting is not lost.
#[derive(Debug, Default)]
pub(super) struct Signal {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    /// What to give to `wait`: take it before looking at whatever is waited for.
    pub(super) fn seen(&self) -> u64 {
        *lock(&self.count)
    }

    pub(super) fn notify(&self) {
        *lock(&self.count) += 1;
        self.changed.notify_all();
    }

    /// Waits until there has been a notification since `seen`.
    pub(super) fn wait(&self, seen: u64) {
        let mut count = lock(&self.count);
        while *count == seen {
            count = self.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As `wait`, but no longer than `most`.
    pub(super) fn wait_at_most(&self, seen: u64, most: Duration) {
        let count = lock(&self.count);
        let _ended = self.changed.wait_timeout_while(count, most, |count| *count == seen);
    }
}

/// The log's files, for readers.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) directory: LogDirectory,
    open: Mutex<HashMap<u64, Arc<DiskFile>>>,
}

impl Segments {
    pub(super) fn new(directory: LogDirectory) -> Self {
        Self { directory, open: Mutex::default() }
    }

    fn file(&self, sequence: u64) -> io::Result<Arc<DiskFile>> {
        if let Some(file) = lock(&self.open).get(&sequence) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.directory.open_for_reads(sequence)?);
        let mut open = lock(&self.open);
        if open.len() >= OPEN_SEGMENTS {
            // Any one will do: which are hot shows at once.
            let some = open.keys().next().copied();
            some.and_then(|some| open.remove(&some));
        }
        open.insert(sequence, Arc::clone(&file));
        Ok(file)
    }

    /// The file is about to become another segment.
    pub(super) fn forget(&self, sequence: u64) {
        lock(&self.open).remove(&sequence);
    }

    /// The value, if it can be had without waiting for the disk.
    pub(super) fn read_now(&self, pointer: &Pointer) -> Result<Option<Bytes>, MetaError> {
        let failed = |error: io::Error| unreadable(pointer, error);
        let file = self.file(pointer.segment).map_err(failed)?;
        let mut value = vec![0; pointer.length as usize];
        match file.read_at_nowait(&mut value, u64::from(pointer.offset)).map_err(failed)? {
            Some(()) => verify(pointer, value).map(Some),
            None => Ok(None),
        }
    }

    /// The value. Waits for the disk.
    pub(super) fn read(&self, pointer: &Pointer) -> Result<Bytes, MetaError> {
        let failed = |error: io::Error| unreadable(pointer, error);
        let file = self.file(pointer.segment).map_err(failed)?;
        let mut value = vec![0; pointer.length as usize];
        file.read_exact_at(&mut value, u64::from(pointer.offset)).map_err(failed)?;
        verify(pointer, value)
    }
}

fn verify(pointer: &Pointer, value: Vec<u8>) -> Result<Bytes, MetaError> {
    if crc32c(&value) == pointer.crc {
        Ok(value.into())
    } else {
        let Pointer { segment, offset, length, .. } = pointer;
        tracing::error!(segment, offset, length, "damaged value in the log");
        Err(MetaError::Corrupt(format!("log segment {segment}, {length} bytes at {offset}")))
    }
}

fn unreadable(pointer: &Pointer, error: io::Error) -> MetaError {
    let Pointer { segment, offset, .. } = pointer;
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
            MetaError::Corrupt(format!("log segment {segment} at {offset}: {error}"))
        }
        _ => MetaError::Unavailable(error.into()),
    }
}
