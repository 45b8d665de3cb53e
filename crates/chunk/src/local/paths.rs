//! Where the files of chunks are, and the directories above them.
//!
//! `chunks/{incarnation}/{counter without its last two digits}/{id}`: a dead incarnation is one
//! walk; names sort like ids, so a page of a listing reads one small directory and not all; a
//! directory is made once in 256 blobs.
//!
//! Promises: a directory's own name is durable before a file in it is acknowledged (hazard C02).
//! A directory is only removed when nobody in this process can be about to link into it.
//!
//! Not here: the files themselves.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_base::{
    failpoint,
    id::{ChunkId, Incarnation},
};
use larder_disk::{
    fault::Faults,
    file::{Access, DiskFile},
    fsx,
};
use rustix::io::Errno;

/// Most directories whose unlinks wait to be synced together, and most that are remembered as
/// made: beyond that some are synced, or made, once more.
const REMEMBERED_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Paths {
    chunks: PathBuf,
    quarantine: PathBuf,
    temporary: PathBuf,
    named_temporaries: bool,
    staged: AtomicU64,
    faults: Faults,
    /// Held while directories are made and removed, so locked on blocking threads only (and, for
    /// want of one, when a `finish` is dropped after its end).
    directories: Mutex<Directories>,
}

#[derive(Debug, Default)]
struct Directories {
    /// Known to exist with durable names.
    made: BTreeSet<PathBuf>,
    /// Incarnations that were written to; their directories stay. One for each start of a
    /// gateway that writes here, until this process ends.
    written: BTreeSet<Incarnation>,
    /// With unlinks that are not synced.
    unlinked: BTreeSet<PathBuf>,
}

/// A file that has no name yet, or one in `tmp/` that goes away with this.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: DiskFile,
    temporary: Option<PathBuf>,
    faults: Faults,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary
            && let Err(error) = fsx::unlink(path, &self.faults)
        {
            let path = path.display();
            tracing::warn!(%path, %error, "leave an unfinished file to the next start");
        }
    }
}

impl Paths {
    /// Makes the directories of a new store.
    pub(super) fn make(directory: &Path, faults: &Faults) -> io::Result<()> {
        fsx::create_directory(&directory.join("chunks"), faults)?;
        fsx::create_directory(&directory.join("quarantine"), faults)
    }

    /// Takes the directories of an existing store; empties `tmp/`.
    pub(super) fn open(
        directory: &Path,
        named_temporaries: bool,
        faults: Faults,
    ) -> io::Result<Self> {
        let temporary = directory.join("tmp");
        for path in entries(&temporary)? {
            fsx::unlink(&path, &faults)?;
        }
        let chunks = directory.join("chunks");
        if !chunks.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its `chunks` is not there"));
        }
        let quarantine = directory.join("quarantine");
        let (staged, directories) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { chunks, quarantine, temporary, named_temporaries, staged, faults, directories })
    }

    /// The name of a finished chunk.
    pub(super) fn of(&self, id: ChunkId) -> PathBuf {
        self.directory(id).join(id.to_string())
    }

    fn owner(&self, owner: Incarnation) -> PathBuf {
        self.chunks.join(owner.to_string())
    }

    fn directory(&self, id: ChunkId) -> PathBuf {
        self.owner(id.blob.incarnation).join(group(id))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Directories> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new file for chunk `id`, past the page cache if possible.
    pub(super) fn stage(&self, id: ChunkId) -> io::Result<Staged> {
        let faults = self.faults.clone();
        if !self.named_temporaries {
            match DiskFile::temporary(&self.chunks, Access::DIRECT, &faults) {
                Ok(file) => return Ok(Staged { file, temporary: None, faults }),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        fsx::create_directory(&self.temporary, &faults)?;
        // The number tells writers of one id apart: the write of an abandoned one may still run.
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.temporary.join(format!("{id}.{number}"));
        let file = DiskFile::create_new(&path, Access::DIRECT, &faults)?;
        Ok(Staged { file, temporary: Some(path), faults })
    }

    /// Gives a synced file its name, and makes that durable together with the directories above.
    /// The flag of an error says whether it is that of a sync.
    pub(super) fn link(&self, staged: &Staged, id: ChunkId) -> Result<(), (bool, io::Error)> {
        let directory = self.directory(id);
        self.ensure(id, &directory).map_err(|error| (false, error))?;
        let path = directory.join(id.to_string());
        // A named file is renamed, as file systems without nameless files may have no links.
        let named = match &staged.temporary {
            Some(temporary) => fsx::rename_new(temporary, &path, &self.faults),
            None => fsx::link(&staged.file, &path),
        };
        named.map_err(|error| (false, error))?;
        failpoint::reach("chunk.linked");
        fsx::sync_directory(&directory, &self.faults).map_err(|error| {
            // Not acknowledged, so it should not stay; if it does, it is a leftover like others.
            let _removed = fsx::unlink(&path, &Faults::none());
            (true, error)
        })?;
        failpoint::reach("chunk.directory-synced");
        Ok(())
    }

    /// Makes the directory of a chunk and the one above it, unless that has been done.
    fn ensure(&self, id: ChunkId, directory: &Path) -> io::Result<()> {
        let mut directories = self.lock();
        if directories.made.contains(directory) {
            return Ok(());
        }
        directories.written.insert(id.blob.incarnation);
        let owner = self.owner(id.blob.incarnation);
        if directories.made.len() >= REMEMBERED_MAX {
            directories.made.clear();
        }
        if !directories.made.contains(&owner) {
            fsx::create_directory(&owner, &self.faults)?;
            directories.made.insert(owner);
        }
        fsx::create_directory(directory, &self.faults)?;
        directories.made.insert(directory.to_owned());
        Ok(())
    }

    /// Removes the name of a chunk, and directories that this leaves empty.
    pub(super) fn unlink(&self, id: ChunkId) -> io::Result<()> {
        let directory = self.directory(id);
        if !fsx::unlink(&directory.join(id.to_string()), &self.faults)? {
            return Ok(());
        }
        let mut directories = self.lock();
        directories.unlinked.insert(directory.clone());
        self.remove_empty(&mut directories, id.blob.incarnation, &directory);
        if directories.unlinked.len() < REMEMBERED_MAX {
            return Ok(());
        }
        drop(directories);
        self.sync_unlinked()
    }

    /// Removes `directory`, and the one of its owner, if they are empty and not written to.
    fn remove_empty(&self, directories: &mut Directories, owner: Incarnation, directory: &Path) {
        if directories.written.contains(&owner) {
            return;
        }
        // It may well be full; there is nothing else to be learnt from an error.
        if fs::remove_dir(directory).is_err() {
            return;
        }
        let owner = self.owner(owner);
        directories.unlinked.remove(directory);
        directories.unlinked.insert(owner.clone());
        if fs::remove_dir(&owner).is_ok() {
            directories.unlinked.remove(&owner);
            directories.unlinked.insert(self.chunks.clone());
        }
    }

    /// Makes all unlinks so far durable.
    pub(super) fn sync_unlinked(&self) -> io::Result<()> {
        let unlinked = std::mem::take(&mut self.lock().unlinked);
        for directory in unlinked {
            match fsx::sync_directory(&directory, &self.faults) {
                // Removed meanwhile, which is an unlink of its own and remembered as such.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Moves the file of a chunk to quarantine; `false` if it was deleted meanwhile.
    pub(super) fn quarantine(&self, id: ChunkId) -> io::Result<bool> {
        let to = self.quarantine.join(id.to_string());
        match fsx::rename(&self.of(id), &to, &self.faults) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Up to `limit` chunks of `owner` after `after`, in order. Memory is bounded by `limit` and
    /// the number of groups. Removes empty directories that it meets.
    pub(super) fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> io::Result<Vec<ChunkId>> {
        let mut found = Vec::new();
        if after.is_some_and(|after| after.blob.incarnation > owner) {
            return Ok(found);
        }
        let after = after.filter(|after| after.blob.incarnation == owner);
        let first = after.map(group).unwrap_or_default();
        let mut groups = entries(&self.owner(owner))?;
        groups.retain(|path| path.file_name().is_some_and(|name| name >= first.as_str()));
        groups.sort_unstable();
        for directory in groups {
            if found.len() >= limit {
                break;
            }
            let page = page(&directory, owner, after, limit - found.len())?;
            if page.is_none() {
                self.remove_empty(&mut self.lock(), owner, &directory);
            }
            found.extend(page.unwrap_or_default());
        }
        Ok(found)
    }

    /// Incarnations with finished chunks, in order.
    pub(super) fn owners(&self) -> io::Result<Vec<Incarnation>> {
        let mut owners = Vec::new();
        for path in entries(&self.chunks)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(owner) = u64::from_str_radix(name, 16).map(Incarnation) else {
                tracing::warn!(path = %path.display(), "ignore a foreign directory");
                continue;
            };
            if owner.to_string() == name && !self.list(owner, None, 1)?.is_empty() {
                owners.push(owner);
            }
        }
        owners.sort_unstable();
        Ok(owners)
    }
}

/// The directory name of a chunk's neighbours.
fn group(id: ChunkId) -> String {
    format!("{:014x}", id.blob.counter >> 8)
}

/// The paths of everything in `directory`; nothing if it does not exist.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match directory.read_dir() {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The first `limit` chunks after `after` in `directory`; `None` if it has no entry at all.
fn page(
    directory: &Path,
    owner: Incarnation,
    after: Option<ChunkId>,
    limit: usize,
) -> io::Result<Option<BTreeSet<ChunkId>>> {
    let mut page = BTreeSet::new();
    let mut empty = true;
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        // It was removed meanwhile, or is a file that is not ours.
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => return Ok(Some(page)),
            _ => return Err(error),
        },
    };
    for entry in entries {
        empty = false;
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<ChunkId>().ok()) else {
            continue;
        };
        if id.blob.incarnation == owner && after.is_none_or(|after| id > after) {
            page.insert(id);
            if page.len() > limit {
                page.pop_last();
            }
        }
    }
    Ok((!empty).then_some(page))
}
