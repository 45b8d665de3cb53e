//! Opening the directory of an embedded store: whose it is, whether all of it is there, and
//! starting the threads.
//!
//! ```text
//! lock        held while open; never removed
//! identity    what the directory is, in which format
//! log/        segments
//! tables/     the tables
//! reserve     room for the tables when the disk is full
//! ```
//!
//! Promises: a directory is only filled if it is empty; one whose log or tables are missing, or
//! that a later version of the program has written, is refused and left as it is.
//!
//! Not here: replay ([`super::replay`]).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use larder_base::env::Env;
use larder_disk::{
    fsx::{self, DirectoryLock, Identity, IdentityError},
    log::{LogDirectory, LogError},
};
use tokio::sync::{Semaphore, mpsc};

use super::{
    EmbeddedOptions, EmbeddedStore, QUEUE_KIB, QUEUE_SPECS,
    collect::{Asked, Collector},
    committer::Committer,
    flusher, replay,
    shared::{Segments, Shared, Statistics, Status, Supply},
    supply,
    tables::Tables,
    tracker::Tracker,
};

const KIND: &str = "larder metadata";
const FORMAT: &str = "1";
/// Present while a directory is being filled for the first time.
const FILLING: &str = "filling";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this one, has it open.
    #[error("data directory in use: {}", .0.display())]
    InUse(PathBuf),
    /// It is the directory of something else.
    #[error("{} is not a metadata directory of larder", .0.display())]
    Foreign(PathBuf),
    /// A later version of the program has written it.
    #[error("{} has format {found}, which this version of larder does not know", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format it has.
        found: String,
    },
    /// A part of the store is not there. Nothing was made in its place.
    #[error("{0} is missing; restore it or the whole directory from a backup")]
    Missing(String),
    /// Stored bytes are not what was written.
    #[error("metadata damaged: {0}; restore the directory from a backup")]
    Damaged(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The tables cannot be read.
    #[error("read metadata tables")]
    Tables(#[from] lsm_tree::Error),
    /// The operating system refused.
    #[error("{}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn damaged_log(segment: u64, offset: u64) -> Self {
        Self::Damaged(format!("log segment {segment} at offset {offset}"))
    }
}

impl EmbeddedStore {
    /// Opens the store in `directory`, or makes one there if the directory is empty or missing.
    ///
    /// Blocks while the log is replayed: at most about half a second, see
    /// [`EmbeddedOptions::unflushed_bytes`].
    pub fn open(directory: &Path, options: EmbeddedOptions, env: &Env) -> Result<Self, OpenError> {
        let mut salt = [0; 8];
        env.fill_random(&mut salt);
        let options = options.for_directory(directory).map_err(OpenError::io(directory))?;
        let lock = take(directory, &options, u64::from_le_bytes(salt))?;
        let (log, segments, spares) = LogDirectory::open(&directory.join("log"), &options.faults)?;
        if segments.is_empty() {
            return Err(OpenError::Missing(format!("log in {}", directory.join("log").display())));
        }
        let tables = Tables::open(&directory.join("tables"), options.cache_bytes)?;
        let reserve = directory.join("reserve");
        let give_up_reserve = || fsx::remove(&reserve, &options.faults).unwrap_or(false);
        let replayed =
            replay::replay(&log, &segments, &tables, options.overlay_bytes, &give_up_reserve)?;
        tables.number_after(replayed.last_commit);
        let next_sequence = segments.last().map_or(1, |last| last + 1);
        let shared = Arc::new(Shared {
            options,
            reserve,
            env: env.clone(),
            tables,
            tracker: Tracker::default(),
            status: Status::default(),
            segments: Segments::new(log),
            accounts: Mutex::new(replayed.accounts),
            supply: Mutex::new(Supply { next_sequence, spares, ..Supply::default() }),
            seals: Mutex::default(),
            replay_from: AtomicU64::new(replayed.replay_from),
            statistics: Statistics::default(),
            _lock: lock,
        });
        shared.tracker.publish(replayed.last_commit);
        shared.tracker.advance(shared.tables.last_drawn());
        adopt(&shared, &segments, &replayed.unused)?;
        let (sender, receiver) = mpsc::channel(QUEUE_SPECS);
        let writer = replayed.writer;
        // In a new store nothing can be freed, and nobody should wait for its reserve.
        let settled = replayed.last_commit == 0;
        let unflushed = replayed.unflushed;
        let committer = Committer::new(Arc::clone(&shared), receiver, writer, unflushed, settled);
        let asked = Arc::new(Asked::default());
        let collector = Collector {
            shared: Arc::clone(&shared),
            queue: sender.clone(),
            asked: Arc::clone(&asked),
            empty: Default::default(),
            damaged: Vec::new(),
        };
        let threads = start(&shared, sender.clone(), committer, collector);
        Ok(Self {
            room: Arc::new(Semaphore::new(QUEUE_KIB)),
            shared,
            queue: sender,
            asked,
            threads: Mutex::new(threads.map_err(OpenError::io(directory))?),
        })
    }
}

/// Locks the directory and sees that it is ours and whole; fills it if it is empty.
fn take(
    directory: &Path,
    options: &EmbeddedOptions,
    salt: u64,
) -> Result<DirectoryLock, OpenError> {
    let faults = &options.faults;
    fsx::create_directory(directory, faults).map_err(OpenError::io(directory))?;
    let identity_path = directory.join("identity");
    let identity = match Identity::read(&identity_path) {
        Ok(identity) => Some(identity),
        Err(IdentityError::Missing(_)) => None,
        Err(IdentityError::Damaged(path)) => {
            return Err(OpenError::Damaged(path.display().to_string()));
        }
        Err(IdentityError::Io(source)) => {
            return Err(OpenError::Io { path: identity_path, source });
        }
    };
    if identity.is_none() && !is_empty(directory).map_err(OpenError::io(directory))? {
        return Err(OpenError::Foreign(directory.to_owned()));
    }
    let lock = DirectoryLock::acquire(&directory.join("lock")).map_err(OpenError::io(directory))?;
    let lock = lock.ok_or_else(|| OpenError::InUse(directory.to_owned()))?;
    match identity {
        None => fill(directory, options, salt)?,
        Some(identity) if identity.kind != KIND => {
            return Err(OpenError::Foreign(directory.to_owned()));
        }
        Some(identity) if identity.get("format") != Some(FORMAT) => {
            let found = identity.get("format").unwrap_or("none").to_owned();
            return Err(OpenError::Format { path: directory.to_owned(), found });
        }
        Some(_) => {}
    }
    for part in ["log", "tables"] {
        let path = directory.join(part);
        if !path.try_exists().map_err(OpenError::io(&path))? {
            return Err(OpenError::Missing(path.display().to_string()));
        }
    }
    let tables = directory.join("tables");
    if !Tables::exist(&tables).map_err(OpenError::io(&tables))? {
        return Err(OpenError::Missing(tables.join("current").display().to_string()));
    }
    Ok(lock)
}

/// Whether there is nothing in the directory, or what an interrupted first start has left.
fn is_empty(directory: &Path) -> io::Result<bool> {
    if directory.join(FILLING).try_exists()? {
        return Ok(true);
    }
    for entry in fs::read_dir(directory)? {
        if entry?.file_name() != "lock" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes an empty store. Its identity comes last: until then nothing was committed, and an
/// interrupted first start begins again.
fn fill(directory: &Path, options: &EmbeddedOptions, salt: u64) -> Result<(), OpenError> {
    let faults = &options.faults;
    let marker = directory.join(FILLING);
    fsx::write_atomic(&marker, b"", faults).map_err(OpenError::io(&marker))?;
    for part in ["log", "tables"] {
        let path = directory.join(part);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io { path, source: error });
            }
            _ => {}
        }
    }
    let log = LogDirectory::create(&directory.join("log"), faults)?;
    let header =
        larder_disk::log::SegmentHeader { sequence: 1, salt, capacity: options.segment_bytes };
    log.prepare(header, None).map_err(OpenError::io(&log.segment_path(1)))?;
    drop(Tables::open(&directory.join("tables"), options.cache_bytes)?);
    fsx::sync_directory(directory, faults).map_err(OpenError::io(directory))?;
    let identity =
        Identity { kind: KIND.to_owned(), values: vec![("format".to_owned(), FORMAT.to_owned())] };
    let path = directory.join("identity");
    identity.write(&path, faults).map_err(OpenError::io(&path))?;
    fsx::remove(&marker, faults).map_err(OpenError::io(&marker))?;
    Ok(())
}

/// Brings the files of the log in line with what replay found: prepared segments become spares
/// (they get a new salt when they are used), so do segments that nothing has an account of.
fn adopt(
    shared: &Shared,
    segments: &[u64],
    unused: &[larder_disk::log::Segment],
) -> Result<(), OpenError> {
    let directory = &shared.segments.directory;
    let mut supply = super::shared::lock(&shared.supply);
    for segment in unused.iter().rev() {
        let (sequence, capacity) = (segment.sequence(), segment.header().capacity);
        let path = directory.segment_path(sequence);
        let spare = directory.retire(sequence, capacity).map_err(OpenError::io(&path))?;
        supply.spares.push(spare);
        supply.next_sequence = sequence;
    }
    let mut accounts = super::shared::lock(&shared.accounts);
    let replay_from = shared.replay_from.load(Ordering::Acquire);
    for sequence in segments.iter().filter(|sequence| **sequence < replay_from) {
        if !accounts.contains_key(sequence) {
            // It was recycled after the checkpoint that knew it, and the rename was lost; or it
            // never held anything. Its values are looked up before it goes.
            let header = *directory.open_segment(*sequence)?.header();
            let account = super::record::Account {
                capacity: header.capacity,
                pointed: 1,
                ..Default::default()
            };
            accounts.insert(*sequence, account);
        }
    }
    // Accounts of segments that have been recycled since the checkpoint.
    accounts.retain(|sequence, _| segments.contains(sequence));
    Ok(())
}

fn start(
    shared: &Arc<Shared>,
    queue: mpsc::Sender<super::committer::Request>,
    committer: Committer,
    collector: Collector,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (a, b, c) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    Ok(vec![
        spawn(shared, "meta-commit", move || committer.run())?,
        spawn(shared, "meta-segments", move || supply::run(&a))?,
        spawn(shared, "meta-flush", move || flusher::run(&b, &queue))?,
        spawn(shared, "meta-merge", move || flusher::run_merger(&c))?,
        spawn(shared, "meta-collect", move || collector.run())?,
    ])
}

/// Starts a thread. If it panics, the engine stops: nothing that is shared can be trusted.
fn spawn(
    shared: &Arc<Shared>,
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let watched = Arc::clone(shared);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if outcome.is_err() {
            watched.status.fail(&format!("thread {name} panicked"));
        }
    })
}
