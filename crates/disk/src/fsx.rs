//! Names on a disk: directories, links, renames and small files that survive a power cut.
//!
//! A name is durable only when the directory that holds it has been synced, and a directory only
//! when its own name is (hazard C02); each function here says which of that it has done when it
//! returns. Nothing is ever truncated in place (C03).
//!
//! Calls block.
//!
//! Not here: the bytes of files ([`crate::file`]).

use std::{
    fmt::Write as _,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use larder_base::digest::crc32c;
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use crate::{
    fault::{DiskOp, Faults},
    file::{Access, DiskFile},
};

/// The directory that holds `path`; `.` for a plain name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in `directory` durable.
///
/// After an error nothing is known about them, and syncing again proves nothing (C04).
pub fn sync_directory(directory: &Path, faults: &Faults) -> io::Result<()> {
    faults.check(DiskOp::Directory, directory)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty())?;
    Ok(rustix::fs::fsync(fd)?)
}

/// Creates `path` and the directories above it that are missing, and makes their names durable.
///
/// An existing directory is fine; its name is synced all the same, because whoever made it may
/// have ended before doing so.
pub fn create_directory(path: &Path, faults: &Faults) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut level = path;
    loop {
        match make_directory(level, faults) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(level);
                level = match level.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => return Err(error),
                };
            }
            Err(error) => return Err(error),
        }
    }
    sync_directory(parent(level), faults)?;
    for level in missing.into_iter().rev() {
        make_directory(level, faults)?;
        sync_directory(parent(level), faults)?;
    }
    Ok(())
}

/// Creates one directory, for its owner only, or finds it there; syncs nothing.
fn make_directory(path: &Path, faults: &Faults) -> io::Result<()> {
    faults.check(DiskOp::Directory, path)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Gives the nameless or differently named `file` the name `to` as well. Fails as
/// `AlreadyExists` if that is taken. The name is durable after [`sync_directory`].
///
/// The bytes must have been synced before: a name must not appear before its content.
pub fn link(file: &DiskFile, to: &Path) -> io::Result<()> {
    file.faults().check(DiskOp::Directory, to)?;
    let from = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    match rustix::fs::linkat(CWD, from.as_str(), CWD, to, AtFlags::SYMLINK_FOLLOW) {
        // No /proc: this way needs more privileges (linkat(2)), but then it works. If the
        // directory of `to` is what is missing, the answer is the same.
        Err(Errno::NOENT) => {
            Ok(rustix::fs::linkat(file.as_fd(), "", CWD, to, AtFlags::EMPTY_PATH)?)
        }
        other => Ok(other?),
    }
}

/// Renames `from` to `to`, which must not exist, and makes both durable.
pub fn rename_new(from: &Path, to: &Path, faults: &Faults) -> io::Result<()> {
    faults.check(DiskOp::Directory, to)?;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag: check first, for want of better.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            rustix::fs::rename(from, to)?;
        }
        other => other?,
    }
    sync_both(from, to, faults)
}

/// Renames `from` to `to`, replacing what is there, and makes both durable.
pub fn rename(from: &Path, to: &Path, faults: &Faults) -> io::Result<()> {
    faults.check(DiskOp::Directory, to)?;
    rustix::fs::rename(from, to)?;
    sync_both(from, to, faults)
}

fn sync_both(from: &Path, to: &Path, faults: &Faults) -> io::Result<()> {
    sync_directory(parent(to), faults)?;
    if parent(from) != parent(to) {
        sync_directory(parent(from), faults)?;
    }
    Ok(())
}

/// Removes the name of a file; `false` if it was not there. Durable after [`sync_directory`].
pub fn unlink(path: &Path, faults: &Faults) -> io::Result<bool> {
    faults.check(DiskOp::Directory, path)?;
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the name of a file and makes that durable; `false` if it was not there.
pub fn remove(path: &Path, faults: &Faults) -> io::Result<bool> {
    let removed = unlink(path, faults)?;
    if removed {
        sync_directory(parent(path), faults)?;
    }
    Ok(removed)
}

/// Replaces the small file at `path` by `bytes`: after a crash it is the old or the new one,
/// whole. Durable on return. Nobody else may write the same path at the same time.
pub fn write_atomic(path: &Path, bytes: &[u8], faults: &Faults) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    unlink(&temporary, faults)?;
    let written = DiskFile::create_new(&temporary, Access::WRITE, faults)
        .and_then(|file| file.write_all_at(bytes, 0).and_then(|()| file.sync_all()))
        .and_then(|()| rename(&temporary, path, faults));
    if written.is_err() {
        // It was not renamed, or cannot be told from that; the name is ours, so it may go.
        let _gone = unlink(&temporary, faults);
    }
    written
}

/// Room on the file system of a path, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What an ordinary process may still write.
    pub free: u64,
}

/// Room on the file system that holds `path`. Does not wait for the disk.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Space {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        // Without inodes there is no room either. Some file systems count none and say 0 of 0.
        free: if found.f_files > 0 && found.f_favail == 0 {
            0
        } else {
            found.f_bavail.saturating_mul(found.f_frsize)
        },
    })
}

/// The sole right to a directory, as long as it lives: an advisory lock on a file in it.
///
/// The file is never removed: a removed lock file can be locked by two processes at once.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: fs::File,
}

impl DirectoryLock {
    /// Locks `path`, creating the file if need be; `None` if somebody else holds it, in this
    /// process or another one.
    pub fn acquire(path: &Path) -> io::Result<Option<Self>> {
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A small file that says what a directory is: `name = value` lines, closed by their checksum.
///
/// ```text
/// larder chunk store
/// format = 1
/// server = 0198c0de-0000-7000-8000-000000000001
/// crc32c = 0a1b2c3d
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What kind of directory it is; the first line.
    pub kind: String,
    /// The values, in the order of their lines.
    pub values: Vec<(String, String)>,
}

/// Why an identity file was not read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error("no identity file at {}", .0.display())]
    Missing(PathBuf),
    /// It is not what was written.
    #[error("identity file {} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The operating system refused.
    #[error("read identity file")]
    Io(#[from] io::Error),
}

impl Identity {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8(bytes)
                .map_err(|_not_text| IdentityError::Damaged(path.to_owned()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing(path.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        Self::parse(&text).ok_or_else(|| IdentityError::Damaged(path.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let sum = u32::from_str_radix(sum.strip_prefix("crc32c = ")?, 16).ok()?;
        if sum != crc32c(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        let kind = lines.next()?.to_owned();
        let values = lines
            .map(|line| line.split_once(" = ").map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { kind, values })
    }

    /// Writes the file at `path` atomically and durably. Values must not contain line breaks.
    pub fn write(&self, path: &Path, faults: &Faults) -> io::Result<()> {
        let mut text = self.kind.clone();
        for (name, value) in &self.values {
            if name.contains(['\n', '=']) || value.contains('\n') {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            text.push('\n');
            text.push_str(name);
            text.push_str(" = ");
            text.push_str(value);
        }
        let sum = crc32c(text.as_bytes());
        writeln!(text, "\ncrc32c = {sum:08x}").map_err(io::Error::other)?;
        write_atomic(path, text.as_bytes(), faults)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests damage files")]
mod tests {
    use super::*;
    use crate::fault::{Fault, Rule};

    #[test]
    fn missing_levels_are_made_and_each_parent_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_directory(&path, &Faults::none()).unwrap();
        assert!(path.is_dir());
        create_directory(&path, &Faults::none()).unwrap();
        // mkdir of d/e, d, d/e: the fourth and fifth directory operations are the two syncs
        // around them; whichever fails, the caller hears of it.
        for n in 1..=5 {
            let faults = Faults::new(vec![Rule::nth(DiskOp::Directory, n, Fault::Io)]);
            let path = dir.path().join(format!("{n}/e"));
            assert!(create_directory(&path, &faults).is_err(), "operation {n}");
        }
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(create_directory(&dir.path().join("file"), &Faults::none()).is_err());
    }

    #[test]
    fn an_atomic_write_that_fails_anywhere_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"old", &Faults::none()).unwrap();
        for rule in [
            Rule::nth(DiskOp::Open, 1, Fault::NoSpace),
            Rule::nth(DiskOp::Write, 1, Fault::Short(1)),
            Rule::nth(DiskOp::Sync, 1, Fault::Io),
            Rule::nth(DiskOp::Directory, 2, Fault::Io),
        ] {
            let faults = Faults::new(vec![rule.clone()]);
            assert!(write_atomic(&path, b"new", &faults).is_err(), "{rule:?}");
            assert_eq!(fs::read(&path).unwrap(), b"old", "{rule:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{rule:?}");
        }
        write_atomic(&path, b"new", &Faults::none()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_link_or_new_rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::none();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let file = DiskFile::create_new(&a, Access::WRITE, &faults).unwrap();
        link(&file, &b).unwrap();
        assert_eq!(link(&file, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let away = link(&file, &dir.path().join("none/c")).unwrap_err();
        assert_eq!(away.kind(), io::ErrorKind::NotFound);
        assert_eq!(rename_new(&a, &b, &faults).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(remove(&b, &faults).unwrap());
        assert!(!remove(&b, &faults).unwrap());
        rename_new(&a, &b, &faults).unwrap();
        assert!(b.is_file() && !a.try_exists().unwrap());
    }

    #[test]
    fn an_identity_reads_back_and_any_flipped_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        assert!(matches!(Identity::read(&path), Err(IdentityError::Missing(_))));
        let identity = Identity {
            kind: "larder test".into(),
            values: vec![("format".into(), "1".into()), ("x".into(), "a = b".into())],
        };
        identity.write(&path, &Faults::none()).unwrap();
        assert_eq!(Identity::read(&path).unwrap(), identity);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(Identity::read(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_lock_is_held_once_and_free_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = DirectoryLock::acquire(&path).unwrap();
        assert!(lock.is_some());
        assert!(DirectoryLock::acquire(&path).unwrap().is_none());
        drop(lock);
        assert!(DirectoryLock::acquire(&path).unwrap().is_some());
        assert!(path.is_file());
    }
}
