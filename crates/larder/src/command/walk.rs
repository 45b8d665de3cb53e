//! Finds and reads what `larder put` uploads.
//!
//! One thread walks directories with an explicit stack, a few others open, read and hash small
//! files, so that the thread that talks to the server never waits for the local disk. Large
//! files are only looked at here; they are read while they are sent.
//!
//! Promises: every queue is bounded; symbolic links are not followed unless asked for, also when
//! one takes a file's place after the walk has seen it; a directory that contains itself through
//! links is entered once; each name that cannot be uploaded is reported.
//!
//! Not here: sending ([`super::put`]).

use std::{
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
};

use bytes::Bytes;
use larder_base::digest::Sha256;
use tokio::sync::mpsc;

use super::path::Remote;
use crate::client::error::ClientError;

/// Files up to this size are read into memory and sent in one write.
const SMALL_BYTES_MAX: u64 = 256 << 10;
/// Threads that read small files: a cold disk answers several at once.
const READERS: usize = 3;
/// Found files that wait to be read.
const FOUND_MAX: usize = 256;
/// Read files that wait to be sent; with [`SMALL_BYTES_MAX`] this bounds their memory.
const READY_MAX: usize = 64;

/// Something to upload, or to say.
#[derive(Debug)]
pub(crate) enum Job {
    /// A file that has been read.
    Small { local: PathBuf, remote: Remote, bytes: Bytes, digest: Sha256 },
    /// A file of this length, to be read while it is sent.
    Large { local: PathBuf, remote: Remote, length: u64 },
    /// A directory that nothing else makes.
    Dir { local: PathBuf, remote: Remote },
    /// Something that is left out on purpose, and why.
    Skipped(PathBuf, &'static str),
    /// Something that could not be read.
    Failed(ClientError),
}

/// A local path and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// File or directory.
    pub(crate) local: PathBuf,
    /// Its place on the server.
    pub(crate) remote: Remote,
}

/// Whether symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are skipped.
    Skip,
    /// What they point to is taken in their place.
    Follow,
}

/// Starts to walk `sources`. The channel ends when everything has been found and read, or when
/// its receiver is dropped.
pub(crate) fn start(sources: Vec<Source>, links: Links) -> io::Result<mpsc::Receiver<Job>> {
    let (ready, jobs) = mpsc::channel(READY_MAX);
    let (found, to_read) = std_mpsc::sync_channel(FOUND_MAX);
    let to_read = Arc::new(Mutex::new(to_read));
    for _ in 0..READERS {
        let (to_read, ready) = (Arc::clone(&to_read), ready.clone());
        thread::Builder::new().name("put-read".to_owned()).spawn(move || {
            loop {
                let next = to_read.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(source) = next else { return };
                if ready.blocking_send(read(source, links)).is_err() {
                    return;
                }
            }
        })?;
    }
    let walker = Walker { links, found, ready };
    thread::Builder::new().name("put-walk".to_owned()).spawn(move || {
        // It ends early only when nobody wants the rest.
        walker.run(sources).ok();
    })?;
    Ok(jobs)
}

/// The other side has gone.
struct Gone;

struct Walker {
    links: Links,
    found: std_mpsc::SyncSender<Source>,
    ready: mpsc::Sender<Job>,
}

/// A directory that is still to be read, and the directories it is in.
struct Pending {
    source: Source,
    /// Only kept when links are followed: without them no directory contains itself.
    lineage: Option<Arc<Lineage>>,
}

/// Device and inode of a directory and of those above it.
struct Lineage {
    key: (u64, u64),
    parent: Option<Arc<Self>>,
}

impl Lineage {
    fn contains(start: Option<&Arc<Self>>, key: (u64, u64)) -> bool {
        let mut next = start;
        while let Some(step) = next {
            if step.key == key {
                return true;
            }
            next = step.parent.as_ref();
        }
        false
    }
}

impl Walker {
    fn run(&self, sources: Vec<Source>) -> Result<(), Gone> {
        for source in sources {
            // What is named on the command line is meant, link or not.
            match fs::metadata(&source.local) {
                Err(error) => self.failed(&source.local, error)?,
                Ok(metadata) => {
                    let mut stack = Vec::new();
                    self.visit(source, &metadata, None, &mut stack)?;
                    while let Some(pending) = stack.pop() {
                        self.directory(&pending, &mut stack)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn directory(&self, pending: &Pending, stack: &mut Vec<Pending>) -> Result<(), Gone> {
        let local = &pending.source.local;
        let entries = match fs::read_dir(local) {
            Ok(entries) => entries,
            Err(error) => return self.failed(local, error),
        };
        let mut is_bare = true;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.failed(local, error)?;
                    continue;
                }
            };
            is_bare &= !self.entry(&entry, pending, stack)?;
        }
        if is_bare && !pending.source.remote.path.is_empty() {
            let remote = pending.source.remote.clone();
            self.send(Job::Dir { local: local.clone(), remote })?;
        }
        Ok(())
    }

    /// Handles one entry; the answer is whether something of it will be uploaded.
    fn entry(
        &self,
        entry: &fs::DirEntry,
        pending: &Pending,
        stack: &mut Vec<Pending>,
    ) -> Result<bool, Gone> {
        let local = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let error = io::Error::new(
                io::ErrorKind::InvalidData,
                "the name is not UTF-8, which Larder needs",
            );
            self.failed(&local, error)?;
            return Ok(false);
        };
        let source = Source { remote: pending.source.remote.join(name), local };
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) => {
                self.failed(&source.local, error)?;
                return Ok(false);
            }
        };
        if kind.is_file() {
            self.found.send(source).map_err(|_| Gone)?;
            return Ok(true);
        }
        if kind.is_symlink() && self.links == Links::Skip {
            self.send(Job::Skipped(source.local, "a symbolic link; --follow uploads its target"))?;
            return Ok(false);
        }
        if kind.is_dir() && self.links == Links::Skip {
            stack.push(Pending { source, lineage: None });
            return Ok(true);
        }
        match fs::metadata(&source.local) {
            Ok(metadata) => self.visit(source, &metadata, pending.lineage.as_ref(), stack),
            Err(error) => self.failed(&source.local, error).map(|()| false),
        }
    }

    fn visit(
        &self,
        source: Source,
        metadata: &Metadata,
        parent: Option<&Arc<Lineage>>,
        stack: &mut Vec<Pending>,
    ) -> Result<bool, Gone> {
        let kind: FileType = metadata.file_type();
        if kind.is_file() {
            self.found.send(source).map_err(|_| Gone)?;
        } else if kind.is_dir() {
            let key = (metadata.dev(), metadata.ino());
            if Lineage::contains(parent, key) {
                self.send(Job::Skipped(source.local, "a link to a directory it is in"))?;
                return Ok(false);
            }
            let lineage = (self.links == Links::Follow)
                .then(|| Arc::new(Lineage { key, parent: parent.cloned() }));
            stack.push(Pending { source, lineage });
        } else {
            self.send(Job::Skipped(source.local, "neither a file nor a directory"))?;
            return Ok(false);
        }
        Ok(true)
    }

    fn failed(&self, path: &Path, error: io::Error) -> Result<(), Gone> {
        self.send(Job::Failed(ClientError::local(path, error)))
    }

    fn send(&self, job: Job) -> Result<(), Gone> {
        self.ready.blocking_send(job).map_err(|_| Gone)
    }
}

/// Opens a file, and reads it if it is small.
fn read(source: Source, links: Links) -> Job {
    match read_small(&source.local, links) {
        Ok((_, Some(bytes))) => {
            let digest = Sha256::of(&bytes);
            Job::Small { local: source.local, remote: source.remote, bytes, digest }
        }
        Ok((length, None)) => Job::Large { local: source.local, remote: source.remote, length },
        Err(error) => Job::Failed(ClientError::local(&source.local, error)),
    }
}

fn read_small(path: &Path, links: Links) -> io::Result<(u64, Option<Bytes>)> {
    // Without O_NONBLOCK a pipe that took the file's place would block for ever.
    let mut flags = rustix::fs::OFlags::NONBLOCK;
    if links == Links::Skip {
        flags |= rustix::fs::OFlags::NOFOLLOW;
    }
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file: File = match opened {
        // A link named on the command line itself.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            File::open(path)?
        }
        other => other?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no longer a file"));
    }
    if metadata.len() > SMALL_BYTES_MAX {
        return Ok((metadata.len(), None));
    }
    // One byte of room lets a single read find the end too.
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    file.by_ref().take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL_BYTES_MAX {
        // It has grown since we looked.
        return Ok((file.metadata()?.len(), None));
    }
    Ok((bytes.len() as u64, Some(Bytes::from(bytes))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn walk(local: &Path, links: Links) -> Vec<String> {
        let remote = Remote::parse("home:/dst").expect("remote");
        let mut jobs =
            start(vec![Source { local: local.to_owned(), remote }], links).expect("start");
        let mut seen = Vec::new();
        while let Some(job) = jobs.blocking_recv() {
            seen.push(match job {
                Job::Small { remote, bytes, .. } => format!("small {remote} {}", bytes.len()),
                Job::Large { remote, length, .. } => format!("large {remote} {length}"),
                Job::Dir { remote, .. } => format!("dir {remote}"),
                Job::Skipped(path, _) => {
                    format!("skipped {}", path.file_name().expect("name").display())
                }
                Job::Failed(error) => format!("failed {error}"),
            });
        }
        seen.sort();
        seen
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path();
        fs::create_dir_all(path.join("a/empty")).expect("mkdir");
        fs::create_dir_all(path.join("a/b/c")).expect("mkdir");
        fs::write(path.join("a/b/c/file"), "123").expect("write");
        fs::write(path.join("zero"), "").expect("write");
        fs::write(path.join("big"), vec![0; SMALL_BYTES_MAX as usize + 1]).expect("write");
        symlink("zero", path.join("link")).expect("link");
        symlink("..", path.join("a/up")).expect("link");
        dir
    }

    #[test]
    fn a_tree_is_found_whole_and_links_are_skipped() {
        let dir = tree();
        let expected = [
            "dir home:/dst/a/empty",
            "large home:/dst/big 262145",
            "skipped link",
            "skipped up",
            "small home:/dst/a/b/c/file 3",
            "small home:/dst/zero 0",
        ];
        assert_eq!(walk(dir.path(), Links::Skip), expected);
    }

    #[test]
    fn followed_links_that_lead_back_are_entered_once() {
        let dir = tree();
        let expected = [
            "dir home:/dst/a/empty",
            "large home:/dst/big 262145",
            "skipped up",
            "small home:/dst/a/b/c/file 3",
            "small home:/dst/link 0",
            "small home:/dst/zero 0",
        ];
        assert_eq!(walk(dir.path(), Links::Follow), expected);
    }

    #[test]
    fn what_is_named_is_taken_even_through_a_link_and_even_if_empty() {
        let dir = tree();
        assert_eq!(walk(&dir.path().join("link"), Links::Skip), ["small home:/dst 0"]);
        assert_eq!(walk(&dir.path().join("a/empty"), Links::Skip), ["dir home:/dst"]);
        let missing = walk(&dir.path().join("missing"), Links::Skip);
        assert!(missing.len() == 1 && missing[0].starts_with("failed "), "{missing:?}");
    }
}
