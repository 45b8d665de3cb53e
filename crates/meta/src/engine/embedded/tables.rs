//! The ordered tables behind the log: a log-structured merge tree whose memory part is the
//! overlay.
//!
//! The library is `lsm-tree`. What we rely on, all of it read in its source: a table file and
//! its directory are synced before a new version names it, and the version file, the pointer to
//! it and the directory are synced before `flush` returns; memory tables are flushed in the
//! order in which they were sealed; files that no version names are removed at open; a read
//! with bound `b` sees exactly the entries with a number below `b`, in the newest state of the
//! tree that was installed below `b`. State changes draw their numbers from the counter that
//! also numbers commits, so that older views keep reading older states.
//!
//! Not here: the log, and when to seal or flush (the committer, [`super::flusher`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use larder_base::limits;
use lsm_tree::{
    AbstractTree, AnyTree, Cache, Config, DescriptorTable, Guard, SequenceNumberCounter, Slice,
    compaction::Leveled,
};

use super::record::{Checkpoint, Malformed};
use crate::store::MetaError;

/// Key of the [`Checkpoint`]: longer than any key of a user, so it is none.
const CHECKPOINT_KEY: [u8; limits::KEY_BYTES_MAX + 64] = [0xff; limits::KEY_BYTES_MAX + 64];

/// Open files of tables; the rest are opened when they are read.
const OPEN_FILES: usize = 128;

/// Above this many sorted runs in the first level, reads get slow, and flushes wait.
pub(super) const RUNS_MAX: usize = 32;

/// A raw value and the key it belongs to.
pub(super) type Pair = (Slice, Slice);

/// The tables and their overlay.
pub(super) struct Tables {
    tree: AnyTree,
    path: PathBuf,
    counter: SequenceNumberCounter,
    strategy: Arc<Leveled>,
    /// Held while tables are merged.
    merging: Mutex<()>,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tables({})", self.path.display())
    }
}

impl Tables {
    /// Whether there are tables at `path`.
    pub(super) fn exist(path: &Path) -> io::Result<bool> {
        path.join("current").try_exists()
    }

    /// Opens the tables at `path`, or makes them.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> lsm_tree::Result<Self> {
        let counter = SequenceNumberCounter::new(1);
        // The library's own counter of visible entries is not used: the tracker is.
        let tree = Config::new(path, counter.clone(), SequenceNumberCounter::default())
            .use_cache(Arc::new(Cache::with_capacity_bytes(cache_bytes)))
            .use_descriptor_table(Some(Arc::new(DescriptorTable::new(OPEN_FILES))))
            .open()?;
        let strategy = Arc::new(Leveled::default().with_table_target_size(32 << 20));
        Ok(Self { tree, path: path.to_owned(), counter, strategy, merging: Mutex::default() })
    }

    /// Draws the next commit number.
    pub(super) fn next_commit(&self) -> u64 {
        self.counter.next()
    }

    /// The last number that was drawn.
    pub(super) fn last_drawn(&self) -> u64 {
        self.counter.get() - 1
    }

    /// Numbers drawn from now on are larger than `commit`.
    pub(super) fn number_after(&self, commit: u64) {
        self.counter.fetch_max(commit + 1);
    }

    /// The raw value of `key` below `bound`.
    pub(super) fn get(&self, key: &[u8], bound: u64) -> lsm_tree::Result<Option<Slice>> {
        if key.is_empty() || key.len() > limits::KEY_BYTES_MAX {
            return Ok(None);
        }
        self.tree.get(key, bound)
    }

    /// The raw value of `key`, whether visible yet or not.
    pub(super) fn get_latest(&self, key: &[u8]) -> lsm_tree::Result<Option<Slice>> {
        self.get(key, u64::MAX >> 1)
    }

    /// What is below `bound` with `start <= key < end`, in ascending order, or in descending
    /// order if read from its end.
    pub(super) fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        bound: u64,
    ) -> impl DoubleEndedIterator<Item = lsm_tree::Result<Pair>> + use<> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let empty = end.is_some_and(|end| start >= end);
        let bounds = (Included(start), end.map_or(Unbounded, Excluded));
        let found = (!empty).then(|| self.tree.range::<&[u8], _>(bounds, bound, None));
        found.into_iter().flatten().map(Guard::into_inner).filter(|pair| match pair {
            Ok((key, _)) => key.len() <= limits::KEY_BYTES_MAX,
            Err(_) => true,
        })
    }

    /// Puts a raw value, or its absence, into the overlay.
    pub(super) fn insert(&self, key: &[u8], raw: Option<Slice>, commit: u64) {
        // The sizes that come back are asked for when it matters (`overlay_bytes`).
        let _sizes = match raw {
            Some(raw) => self.tree.insert(key, raw, commit),
            None => self.tree.remove(key, commit),
        };
    }

    /// Bytes of the part of the overlay that takes new entries.
    pub(super) fn overlay_bytes(&self) -> u64 {
        self.tree.active_memtable().size()
    }

    /// Bytes of all parts of the overlay that are still in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.tree.version_memtable_size_sum()
    }

    /// How many parts of the overlay wait to be flushed.
    pub(super) fn sealed(&self) -> usize {
        self.tree.sealed_memtable_count()
    }

    /// Closes the overlay with `checkpoint`, to be flushed, and starts a new one. Returns the
    /// number that is durable when the flush is.
    pub(super) fn seal(&self, checkpoint: &Checkpoint) -> u64 {
        let commit = self.next_commit();
        let _sizes = self.tree.insert(CHECKPOINT_KEY, checkpoint.encode(), commit);
        self.tree.rotate_memtable();
        commit
    }

    /// The checkpoint that is durable.
    pub(super) fn checkpoint(&self) -> lsm_tree::Result<Option<Result<Checkpoint, Malformed>>> {
        let raw = self.tree.get(CHECKPOINT_KEY, u64::MAX >> 1)?;
        Ok(raw.map(|raw| Checkpoint::decode(&raw)))
    }

    /// The last number that is durable; 0 if none.
    pub(super) fn durable(&self) -> u64 {
        self.tree.get_highest_persisted_seqno().unwrap_or(0)
    }

    /// Writes what has been sealed to the disk, durably.
    pub(super) fn flush(&self, watermark: u64) -> lsm_tree::Result<()> {
        let lock = self.tree.get_flush_lock();
        self.tree.flush(&lock, watermark)?;
        Ok(())
    }

    /// Merges some tables if that is due; `false` if nothing was.
    pub(super) fn merge(&self, watermark: u64) -> lsm_tree::Result<bool> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.tree.current_version().id();
        self.tree.compact(Arc::<Leveled>::clone(&self.strategy), watermark)?;
        Ok(self.tree.current_version().id() != before)
    }

    /// Merges all tables.
    pub(super) fn merge_all(&self, watermark: u64) -> lsm_tree::Result<()> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        self.tree.major_compact(64 << 20, watermark)
    }

    /// Lets go of states of the tree that no view needs.
    pub(super) fn tidy(&self, watermark: u64) -> lsm_tree::Result<()> {
        self.tree.get_version_history_lock().maintenance(&self.path, watermark)
    }

    /// Sorted runs in the first level.
    pub(super) fn runs(&self) -> usize {
        self.tree.l0_run_count()
    }

    /// Bytes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// Number of tables, and about how many records they and the overlay hold.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.tree.table_count() as u64, self.tree.approximate_len() as u64)
    }

    /// The number that the next table will have or exceed.
    pub(super) fn next_table(&self) -> u64 {
        self.tree.get_next_table_id()
    }

    /// Removes the files that a flush or merge which ran out of room has left: those from
    /// number `floor` on that no state of the tree names. Nothing if an old view is open, since
    /// its files cannot be told apart.
    pub(super) fn remove_leftovers(&self, floor: u64, watermark: u64) -> io::Result<()> {
        let _flushing = self.tree.get_flush_lock();
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        self.tidy(watermark).map_err(io::Error::other)?;
        if self.tree.version_free_list_len() > 0 {
            return Ok(());
        }
        let version = self.tree.current_version();
        let named: Vec<u64> = version.iter_tables().map(lsm_tree::Table::id).collect();
        for entry in fs::read_dir(self.path.join("tables"))? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(number) = name.to_str().and_then(|name| name.parse::<u64>().ok())
                && number >= floor
                && !named.contains(&number)
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether the disk was full.
pub(super) fn is_full(error: &lsm_tree::Error) -> bool {
    matches!(error, lsm_tree::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
}

/// What a reader is told of a failure of the tables.
pub(super) fn read_failed(error: lsm_tree::Error) -> MetaError {
    match error {
        lsm_tree::Error::Io(error) => MetaError::Unavailable(error.into()),
        // The library says no more than what was wrong; the file is in its log lines.
        error => MetaError::Corrupt(format!("tables: {error}")),
    }
}
