//! Whether a store may write: room on its disk, and whether the disk has failed.
//!
//! Promises: I-CHK-4 a failed sync, or a write that failed for a reason of the disk, stops
//! writing for good, because nobody knows what the disk holds then (hazard C04). A full disk
//! stops writing only until there is room again, and leaves the reserve to metadata and deletes
//! (B18).
//!
//! Not here: quotas (core).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use larder_base::Env;
use larder_disk::fsx;
use rustix::io::Errno;

use crate::store::{Capacity, ChunkError, StoreHealth};

const RESERVE_MAX: u64 = 64 << 20;

/// How long the disk counts as full after it said so although it shows room (inodes, project
/// quotas): then somebody may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Room {
    directory: PathBuf,
    reserve: u64,
    env: Env,
    failed: OnceLock<String>,
    full_since: Mutex<Option<Duration>>,
}

impl Room {
    pub(super) fn new(directory: &Path, reserve: Option<u64>, env: Env) -> io::Result<Self> {
        let total = fsx::space(directory)?.total;
        let reserve = reserve.unwrap_or((total / 100).min(RESERVE_MAX));
        let directory = directory.to_owned();
        let full_since = Mutex::new(None);
        Ok(Self { directory, reserve, env, failed: OnceLock::new(), full_since })
    }

    pub(super) fn capacity(&self) -> Result<Capacity, ChunkError> {
        let space = fsx::space(&self.directory)
            .map_err(|source| ChunkError::Io { what: "read room on disk", source })?;
        Ok(Capacity { total: space.total, free: space.free.saturating_sub(self.reserve) })
    }

    /// Refuses if the disk has failed, or has no room for `bytes` more.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), ChunkError> {
        self.check_failed()?;
        if self.capacity()?.free < bytes { Err(ChunkError::Full) } else { Ok(()) }
    }

    pub(super) fn check_failed(&self) -> Result<(), ChunkError> {
        match self.failed.get() {
            Some(why) => Err(ChunkError::Unavailable(why.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn health(&self) -> StoreHealth {
        if let Some(why) = self.failed.get() {
            return StoreHealth::Failed(why.clone());
        }
        match self.capacity() {
            Err(error) => StoreHealth::Failed(error.to_string()),
            Ok(Capacity { free: 0, .. }) => StoreHealth::Full,
            Ok(_) => {
                let full_since = *self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
                match full_since {
                    Some(since) if self.env.monotonic() < since + RETRY_AFTER => StoreHealth::Full,
                    _ => StoreHealth::Ready,
                }
            }
        }
    }

    /// A chunk was finished: there is room.
    pub(super) fn has_room(&self) {
        *self.full_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The error of a write, allocation or change of a directory.
    pub(super) fn failed_io(&self, what: &'static str, source: io::Error) -> ChunkError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let mut full = self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
                if full.is_none() {
                    tracing::warn!(directory = %self.directory.display(), "disk is full");
                }
                *full = Some(self.env.monotonic());
                ChunkError::Full
            }
            Some(
                Errno::IO | Errno::NODEV | Errno::NXIO | Errno::ROFS | Errno::UCLEAN | Errno::STALE,
            ) => self.failed_sync(what, source),
            _ => ChunkError::Io { what, source },
        }
    }

    /// The error of a sync, whatever it is: the store has failed.
    pub(super) fn failed_sync(&self, what: &'static str, source: io::Error) -> ChunkError {
        let why = format!("{what} in {}: {source}", self.directory.display());
        if self.failed.set(why).is_ok() {
            let directory = self.directory.display();
            tracing::error!(%directory, what, error = %source, "chunk store has failed");
        }
        ChunkError::Io { what, source }
    }
}
