//! A file on a disk: positioned reads and writes, syncs, and the faults of both.
//!
//! Promises: every operation passes the [`Faults`] it was opened with; a failed operation is an
//! error, never a short count; `sync_*` answer `Ok` only after the kernel said so. After a
//! failed sync nothing that was written before is known to be durable, and a second sync proves
//! nothing (Rebello et al., ATC'20; hazard C04): give the file up.
//!
//! Calls block. Async code runs them on a blocking thread, [`DiskFile::read_at_nowait`]
//! excepted.
//!
//! Not here: names of files and directories ([`crate::fsx`]), aligned memory
//! ([`crate::buffer`]).

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::{Errno, ReadWriteFlags},
};

use crate::fault::{DiskOp, Fault, Faults};

/// Offset, length and memory address of every direct read and write must be multiples of this.
pub const ALIGNMENT: usize = 4096;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Also for writing.
    pub write: bool,
    /// Past the page cache, if the file system can; see [`DiskFile::is_direct`].
    pub direct: bool,
}

impl Access {
    /// For reading, through the page cache.
    pub const READ: Self = Self { write: false, direct: false };
    /// For reading and writing, through the page cache.
    pub const WRITE: Self = Self { write: true, direct: false };
    /// For reading and writing, past the page cache if the file system can.
    pub const DIRECT: Self = Self { write: true, direct: true };
}

/// An open file.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    direct: bool,
    faults: Faults,
}

impl DiskFile {
    /// Opens the file at `path`, which must exist.
    pub fn open(path: &Path, access: Access, faults: &Faults) -> io::Result<Self> {
        Self::open_with(path, access, OFlags::empty(), faults)
    }

    /// Creates the file at `path`, which must not exist. Its name is durable only after its
    /// directory has been synced.
    pub fn create_new(path: &Path, access: Access, faults: &Faults) -> io::Result<Self> {
        let access = Access { write: true, ..access };
        Self::open_with(path, access, OFlags::CREATE | OFlags::EXCL, faults)
    }

    /// Creates a file without a name in `directory` (`O_TMPFILE`): it vanishes unless it is
    /// linked. [`path`](Self::path) is the directory. Fails as `Unsupported` where the file
    /// system has no such thing.
    pub fn temporary(directory: &Path, access: Access, faults: &Faults) -> io::Result<Self> {
        let access = Access { write: true, ..access };
        Self::open_with(directory, access, OFlags::TMPFILE, faults).map_err(|error| {
            // Kernels answer EISDIR and some file systems EINVAL or EOPNOTSUPP.
            match Errno::from_io_error(&error) {
                Some(Errno::ISDIR | Errno::OPNOTSUPP | Errno::INVAL) => {
                    io::Error::new(io::ErrorKind::Unsupported, error)
                }
                _ => error,
            }
        })
    }

    fn open_with(path: &Path, access: Access, extra: OFlags, faults: &Faults) -> io::Result<Self> {
        faults.check(DiskOp::Open, path)?;
        let mut flags = OFlags::CLOEXEC | extra;
        flags |= if access.write { OFlags::RDWR } else { OFlags::RDONLY };
        let open = |flags| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let mut direct = access.direct;
        let fd = if direct {
            match open(flags | OFlags::DIRECT) {
                // The file system has no direct I/O (tmpfs, some overlays).
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    direct = false;
                    match open(flags) {
                        // With O_CREAT the refused open has left the file behind.
                        Err(Errno::EXIST) if extra.contains(OFlags::EXCL) => {
                            open(flags.difference(OFlags::EXCL | OFlags::CREATE))
                        }
                        other => other,
                    }
                }
                other => other,
            }
        } else {
            open(flags)
        }?;
        Ok(Self { file: fd.into(), path: path.to_owned(), direct, faults: faults.clone() })
    }

    /// Whether reads and writes go past the page cache, and so must be aligned to [`ALIGNMENT`].
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The path it was opened by; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file is no collection")]
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Writes all of `bytes` at `offset`. On an error any part of it may have been written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(fault) = self.faults.meet(DiskOp::Write, &self.path) {
            return self.torn(&[IoSlice::new(bytes)], offset, fault);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Writes all of `parts`, one after another, from `offset` on. Errors as
    /// [`write_all_at`](Self::write_all_at).
    pub fn write_vectored(&self, parts: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        if let Some(fault) = self.faults.meet(DiskOp::Write, &self.path) {
            return self.torn(parts, offset, fault);
        }
        let mut parts = parts.to_vec();
        let mut rest = parts.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The kernel takes at most IOV_MAX (1024) at a time.
            let some = rest.get(..1024).unwrap_or(rest);
            match rustix::io::pwritev(&self.file, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn torn(&self, parts: &[IoSlice<'_>], mut offset: u64, fault: Fault) -> io::Result<()> {
        let mut left = fault.written();
        for part in parts {
            let some = part.get(..left.min(part.len())).unwrap_or_default();
            // Direct files take whole blocks; a torn write tears between them.
            let whole = if self.direct { some.len() / ALIGNMENT * ALIGNMENT } else { some.len() };
            let some = some.get(..whole).unwrap_or_default();
            self.file.write_all_at(some, offset)?;
            offset += some.len() as u64;
            left -= some.len();
        }
        Err(fault.error())
    }

    /// Fills `buffer` from `offset`; fails as `UnexpectedEof` if the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.faults.check(DiskOp::Read, &self.path)?;
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        self.faults.check(DiskOp::Read, &self.path)?;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..)
            && !rest.is_empty()
        {
            match self.file.read_at(rest, offset) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Fills `buffer` from `offset` if all of it is in memory: `None` if the disk would have to
    /// be asked (or the file system cannot tell), and then `buffer` may hold anything. Never
    /// blocks on the disk, so it may be called from async code.
    pub fn read_at_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<()>> {
        self.faults.check(DiskOp::Read, &self.path)?;
        let wanted = buffer.len();
        let parts = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, parts, offset, ReadWriteFlags::NOWAIT) {
            // A part of it was in memory, or the file ends: the blocking call will tell which.
            Ok(count) => Ok((count == wanted).then_some(())),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR | Errno::INVAL) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the bytes durable, and the length if it changed (`fdatasync`).
    pub fn sync_data(&self) -> io::Result<()> {
        match self.faults.meet(DiskOp::Sync, &self.path) {
            None => self.file.sync_data(),
            Some(Fault::Lost) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    /// Makes the bytes and all of the file's attributes durable (`fsync`).
    pub fn sync_all(&self) -> io::Result<()> {
        match self.faults.meet(DiskOp::Sync, &self.path) {
            None => self.file.sync_all(),
            Some(Fault::Lost) => Ok(()),
            Some(fault) => Err(fault.error()),
        }
    }

    /// Reserves room for `length` bytes from the start, and makes the file at least that long.
    /// Where the file system cannot reserve, only the length is set.
    pub fn allocate(&self, length: u64) -> io::Result<()> {
        self.faults.check(DiskOp::Allocate, &self.path)?;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                if self.len()? < length {
                    self.set_len(length)
                } else {
                    Ok(())
                }
            }
            other => Ok(other?),
        }
    }

    /// Cuts the file, or extends it with zeros that take no room.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.faults.check(DiskOp::Write, &self.path)?;
        self.file.set_len(length)
    }

    /// Tells the kernel that reads will jump about, so that it reads nothing ahead.
    pub fn expect_random_reads(&self) {
        // Advice only: what it costs to be refused is some speed.
        let _refused = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Random);
    }

    /// The faults it was opened with.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Rule;

    fn file(faults: &Faults) -> (tempfile::TempDir, DiskFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = DiskFile::create_new(&dir.path().join("f"), Access::WRITE, faults).unwrap();
        (dir, file)
    }

    #[test]
    fn parts_are_written_one_after_another() {
        let (_dir, file) = file(&Faults::none());
        let many = vec![7_u8; 3];
        let parts: Vec<IoSlice<'_>> = (0..2500).map(|_| IoSlice::new(&many)).collect();
        file.write_vectored(&parts, 5).unwrap();
        let mut read = vec![0; 7500];
        file.read_exact_at(&mut read, 5).unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
        assert_eq!(file.len().unwrap(), 7505);
    }

    #[test]
    fn a_torn_write_leaves_its_head_and_fails() {
        let faults = Faults::new(vec![Rule::nth(DiskOp::Write, 1, Fault::Torn(3))]);
        let (_dir, file) = file(&faults);
        assert!(file.write_all_at(b"abcdef", 0).is_err());
        assert_eq!(file.len().unwrap(), 3);
        file.write_all_at(b"abcdef", 0).unwrap();
        let mut read = [0; 6];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"abcdef");
    }

    #[test]
    fn what_was_just_written_is_read_without_waiting_or_not_at_all() {
        let (_dir, file) = file(&Faults::none());
        file.write_all_at(b"abcdef", 0).unwrap();
        let mut read = [0; 6];
        if file.read_at_nowait(&mut read, 0).unwrap().is_some() {
            assert_eq!(&read, b"abcdef");
        }
        // Beyond the end it never claims to have filled the buffer.
        assert!(file.read_at_nowait(&mut read, 3).unwrap().is_none());
    }

    #[test]
    fn a_failed_sync_is_an_error_and_a_lost_one_is_not() {
        let faults = Faults::new(vec![
            Rule::nth(DiskOp::Sync, 1, Fault::Io),
            Rule::nth(DiskOp::Sync, 2, Fault::Lost),
        ]);
        let (_dir, file) = file(&faults);
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        assert_eq!(faults.met(), 2);
    }

    #[test]
    fn a_temporary_file_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        match DiskFile::temporary(dir.path(), Access::DIRECT, &Faults::none()) {
            Ok(file) => {
                file.allocate(8192).unwrap();
                assert_eq!(file.len().unwrap(), 8192);
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }
}
