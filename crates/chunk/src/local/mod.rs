//! Chunks as files on a local disk.
//!
//! One file a chunk, written past the page cache into a file without a name, synced, and only
//! then linked under its name, whose directory is synced last: the recipe of docs/transactions.md
//! section 7.
//!
//! Promises: I-CHK-1 to I-CHK-5 (see the crate); a directory that is not this store, belongs to
//! another instance, or is empty where data should be is refused, never filled (hazard B09); two
//! processes never share one.
//!
//! Crash: an unfinished file has no name, or one in `tmp/` that the next start removes; a
//! finished one that nobody refers to is found by [`ChunkStore::list`] of its incarnation; an
//! unlink that was not yet synced may be undone by a power cut, see
//! [`ChunkStore::sync_deletes`].
//!
//! Not here: bytes of a file ([`crate::format`]), which chunks are referenced (core).

mod capacity;
mod paths;
mod reader;
mod scrub;
mod writer;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use larder_base::{
    Env, failpoint,
    id::{ChunkId, Incarnation, InstanceId, ServerId},
};
use larder_disk::{
    buffer::BufferPool,
    fault::Faults,
    fsx::{self, DirectoryLock, Identity, IdentityError},
};

use self::{capacity::Room, paths::Paths};
use crate::store::{
    Capacity, ChunkError, ChunkReader, ChunkStat, ChunkStore, ChunkWriter, ScrubReport, StoreHealth,
};

const KIND: &str = "larder chunk store";
const FORMAT: &str = "1";

/// What the metadata say about a directory before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No store was ever there: make one in a missing or empty directory. One of the same
    /// instance that is there already is fine: its maker ended before it could tell.
    New,
    /// A store must be there, and this one if its id is known.
    Existing(Option<ServerId>),
}

/// How to open a [`LocalStore`].
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Where buffers come from.
    pub pool: BufferPool,
    /// The instance that the store belongs to.
    pub instance: InstanceId,
    /// Whether a store must be there.
    pub expect: Expect,
    /// Bytes of the disk that chunks leave to metadata and deletes; by default 64 MiB or 1 % of
    /// the disk, whichever is less.
    pub reserve_bytes: Option<u64>,
    /// Writes to files with names in `tmp/` although the file system has nameless ones, so that
    /// this way can be tested where it is not needed.
    pub named_temporaries: bool,
    /// Faults to inject; none outside of tests.
    pub faults: Faults,
}

impl LocalOptions {
    /// The defaults.
    pub fn new(pool: BufferPool, instance: InstanceId, expect: Expect) -> Self {
        Self {
            pool,
            instance,
            expect,
            reserve_bytes: None,
            named_temporaries: false,
            faults: Faults::none(),
        }
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no store where one must be: is the disk mounted?
    #[error("no chunk store at {}, but there must be one: is its disk mounted?", .0.display())]
    Missing(PathBuf),
    /// The directory holds something else.
    #[error("{} is not empty and is no chunk store", .0.display())]
    NotEmpty(PathBuf),
    /// The store belongs to another instance, or is another store of this one.
    #[error("the chunk store at {} is not the expected one: {detail}", path.display())]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// What is different.
        detail: String,
    },
    /// A newer program made it.
    #[error("the chunk store at {} has the newer format {format}", path.display())]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        format: String,
    },
    /// Another process, or another part of this one, has it open.
    #[error("the chunk store at {} is in use", .0.display())]
    InUse(PathBuf),
    /// Its identity file cannot be read.
    #[error("read the identity of a chunk store")]
    Identity(#[source] IdentityError),
    /// The operating system refused.
    #[error("open chunk store at {}", path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A store in a directory of a local disk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: ServerId,
    pool: BufferPool,
    faults: Faults,
    paths: Paths,
    room: Room,
    env: Env,
    _lock: DirectoryLock,
}

impl LocalStore {
    /// Opens the store in `directory`, or makes one there if `options.expect` says so. Removes
    /// what unfinished writers left in `tmp/`. Blocks for a few file system calls.
    pub fn open(directory: &Path, options: LocalOptions, env: &Env) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: directory.to_owned(), source };
        let faults = options.faults;
        if options.expect == Expect::New {
            fsx::create_directory(directory, &faults).map_err(io_error)?;
        } else if !directory.join("store").try_exists().map_err(io_error)? {
            // Before the lock: an unmounted disk must not even get a lock file.
            return Err(OpenError::Missing(directory.to_owned()));
        }
        let lock = DirectoryLock::acquire(&directory.join("lock"))
            .map_err(io_error)?
            .ok_or_else(|| OpenError::InUse(directory.to_owned()))?;
        let server = match Identity::read(&directory.join("store")) {
            Ok(identity) => check_identity(directory, &identity, options.instance)?,
            Err(IdentityError::Missing(_)) if options.expect == Expect::New => {
                make_store(directory, options.instance, &faults, env)?
            }
            Err(IdentityError::Missing(_)) => {
                return Err(OpenError::Missing(directory.to_owned()));
            }
            Err(error) => return Err(OpenError::Identity(error)),
        };
        if let Expect::Existing(Some(expected)) = options.expect
            && expected != server
        {
            let detail = format!("it is {server}, the metadata name {expected}");
            return Err(OpenError::Foreign { path: directory.to_owned(), detail });
        }
        let paths =
            Paths::open(directory, options.named_temporaries, faults.clone()).map_err(io_error)?;
        let room = Room::new(directory, options.reserve_bytes, env.clone()).map_err(io_error)?;
        let pool = options.pool;
        let env = env.clone();
        let shared = Shared { server, pool, faults, paths, room, env, _lock: lock };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs file work on a blocking thread.
    async fn blocking<T, F>(&self, work: F) -> Result<T, ChunkError>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Shared>) -> Result<T, ChunkError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        joined(tokio::task::spawn_blocking(move || work(&shared)).await)
    }
}

/// The outcome of blocking work, which has failed if it panicked or the runtime ended.
fn joined<T>(
    outcome: Result<Result<T, ChunkError>, tokio::task::JoinError>,
) -> Result<T, ChunkError> {
    outcome.unwrap_or_else(|error| Err(ChunkError::Unavailable(error.to_string())))
}

/// Makes the store of `instance` in an empty directory; its identity comes last.
fn make_store(
    directory: &Path,
    instance: InstanceId,
    faults: &Faults,
    env: &Env,
) -> Result<ServerId, OpenError> {
    let make = || {
        if !is_empty(directory)? {
            return Ok(None);
        }
        Paths::make(directory, faults)?;
        let server = ServerId::new(env);
        let identity = Identity {
            kind: KIND.to_owned(),
            values: vec![
                ("format".to_owned(), FORMAT.to_owned()),
                ("server".to_owned(), server.to_string()),
                ("instance".to_owned(), instance.to_string()),
            ],
        };
        identity.write(&directory.join("store"), faults)?;
        Ok(Some(server))
    };
    match make() {
        Ok(Some(server)) => Ok(server),
        Ok(None) => Err(OpenError::NotEmpty(directory.to_owned())),
        Err(source) => Err(OpenError::Io { path: directory.to_owned(), source }),
    }
}

/// Whether nothing is there but what an interrupted [`make_store`] and a fresh disk leave.
fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in directory.read_dir()? {
        let entry = entry?;
        let left = match entry.file_name().to_str() {
            Some("lock" | "store.tmp" | "lost+found") => true,
            Some("chunks" | "quarantine" | "tmp") => entry.path().read_dir()?.next().is_none(),
            _ => false,
        };
        if !left {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_identity(
    directory: &Path,
    identity: &Identity,
    instance: InstanceId,
) -> Result<ServerId, OpenError> {
    let foreign = |detail: String| OpenError::Foreign { path: directory.to_owned(), detail };
    if identity.kind != KIND {
        return Err(foreign(format!("it is a {}", identity.kind)));
    }
    match identity.get("format") {
        Some(FORMAT) => {}
        other => {
            let format = other.unwrap_or_default().to_owned();
            return Err(OpenError::Newer { path: directory.to_owned(), format });
        }
    }
    match identity.get("instance") {
        Some(found) if found == instance.to_string() => {}
        other => {
            let found = other.unwrap_or_default();
            return Err(foreign(format!("it belongs to instance {found}, not to {instance}")));
        }
    }
    let server = identity.get("server").unwrap_or_default();
    server.parse().map_err(|_not_an_id| foreign(format!("its server id is {server}")))
}

#[async_trait]
impl ChunkStore for LocalStore {
    fn server(&self) -> ServerId {
        self.shared.server
    }

    async fn create(
        &self,
        id: ChunkId,
        length: Option<u64>,
    ) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        self.blocking(move |shared| writer::create(shared, id, length)).await
    }

    async fn open(
        &self,
        id: ChunkId,
        range: Range<u64>,
    ) -> Result<Box<dyn ChunkReader>, ChunkError> {
        reader::open(&self.shared, id, range)
    }

    async fn head(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        self.blocking(move |shared| reader::head(shared, id)).await
    }

    async fn delete(&self, id: ChunkId) -> Result<(), ChunkError> {
        self.blocking(move |shared| {
            shared.room.check_failed()?;
            let removed = shared.paths.unlink(id);
            removed.map_err(|source| shared.room.failed_io("delete chunk", source))?;
            failpoint::reach("chunk.deleted");
            Ok(())
        })
        .await
    }

    async fn sync_deletes(&self) -> Result<(), ChunkError> {
        self.blocking(|shared| {
            shared.room.check_failed()?;
            let synced = shared.paths.sync_unlinked();
            synced.map_err(|source| shared.room.failed_sync("sync directory", source))
        })
        .await
    }

    async fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<ChunkId>, ChunkError> {
        self.blocking(move |shared| {
            let listed = shared.paths.list(owner, after, limit);
            listed.map_err(|source| ChunkError::Io { what: "list chunks", source })
        })
        .await
    }

    async fn owners(&self) -> Result<Vec<Incarnation>, ChunkError> {
        self.blocking(|shared| {
            let owners = shared.paths.owners();
            owners.map_err(|source| ChunkError::Io { what: "list owners of chunks", source })
        })
        .await
    }

    async fn capacity(&self) -> Result<Capacity, ChunkError> {
        self.blocking(|shared| shared.room.capacity()).await
    }

    async fn scrub(
        &self,
        after: Option<ChunkId>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ChunkError> {
        scrub::scrub(self, after, bytes_max).await
    }

    fn health(&self) -> StoreHealth {
        self.shared.room.health()
    }
}
