//! The files of a log: making, opening, recycling them.
//!
//! Names: `00000000000000000007.seg` is the segment with that sequence number; `*.spare` is a
//! file whose content nobody needs, kept because its blocks have been written; `*.new` is one
//! that is being made. Only `.seg` files are read.
//!
//! Not here: their content ([`super::writer`], [`super::reader`]).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{BLOCK, HeaderError, LogError, SegmentHeader};
use crate::{
    buffer::Buffer,
    fault::Faults,
    file::{Access, DiskFile},
    fsx,
};

/// How much is zeroed with one write: large direct writes reach the disk's full rate.
const ZERO_BYTES: usize = 1 << 20;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    header: SegmentHeader,
    buffered: DiskFile,
    /// The same file without the page cache; `None` where the file system cannot.
    direct: Option<DiskFile>,
}

impl Segment {
    /// Its header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Its sequence number.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// The file, opened through the page cache.
    pub fn file(&self) -> &DiskFile {
        &self.buffered
    }

    pub(super) fn direct(&self) -> Option<&DiskFile> {
        self.direct.as_ref()
    }
}

/// A file whose content nobody needs.
#[derive(Debug)]
pub struct Spare {
    path: PathBuf,
    capacity: u64,
}

impl Spare {
    /// Bytes of the file.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

/// The directory of a log.
#[derive(Clone, Debug)]
pub struct LogDirectory {
    path: PathBuf,
    faults: Faults,
}

impl LogDirectory {
    /// Creates the directory, durably, if it is not there.
    pub fn create(path: &Path, faults: &Faults) -> Result<Self, LogError> {
        fsx::create_directory(path, faults).map_err(|error| LogError::io(path, error))?;
        Ok(Self { path: path.to_owned(), faults: faults.clone() })
    }

    /// The directory, and what is in it: the sequence numbers of its segments, ascending, and
    /// its spare files. Removes files that were being made when the process ended.
    pub fn open(path: &Path, faults: &Faults) -> Result<(Self, Vec<u64>, Vec<Spare>), LogError> {
        let failed = |error| LogError::io(path, error);
        let mut segments = BTreeMap::new();
        let mut spares = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let found = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.rsplit_once('.') {
                Some((number, "seg")) if number.len() == 20 => {
                    let sequence = number.parse::<u64>().map_err(|_| LogError::Foreign(found))?;
                    segments.insert(sequence, ());
                }
                Some((_, "spare")) => {
                    let capacity = entry.metadata().map_err(failed)?.len();
                    spares.push(Spare { path: found, capacity });
                }
                Some((_, "new")) => {
                    fsx::unlink(&found, faults).map_err(failed)?;
                }
                _ => return Err(LogError::Foreign(found)),
            }
        }
        let directory = Self { path: path.to_owned(), faults: faults.clone() };
        Ok((directory, segments.into_keys().collect(), spares))
    }

    /// Where the segment with this number is.
    pub fn segment_path(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("{sequence:020}.seg"))
    }

    /// Opens a segment for reading and appending.
    pub fn open_segment(&self, sequence: u64) -> Result<Segment, LogError> {
        let path = self.segment_path(sequence);
        let header = self.read_header(&path, sequence)?;
        self.handles(&path, header).map_err(|error| LogError::io(&path, error))
    }

    /// Opens a segment's file for reading through the page cache, without looking at it.
    pub fn open_for_reads(&self, sequence: u64) -> io::Result<DiskFile> {
        let file = DiskFile::open(&self.segment_path(sequence), Access::READ, &self.faults)?;
        file.expect_random_reads();
        Ok(file)
    }

    fn read_header(&self, path: &Path, sequence: u64) -> Result<SegmentHeader, LogError> {
        let refused = |source| LogError::Header { path: path.to_owned(), source };
        let file = DiskFile::open(path, Access::READ, &self.faults)
            .map_err(|error| LogError::io(path, error))?;
        let mut block = [0; 512];
        let length = file.read_at(&mut block, 0).map_err(|error| LogError::io(path, error))?;
        let header = SegmentHeader::decode(&block[..length]).map_err(refused)?;
        let size = file.len().map_err(|error| LogError::io(path, error))?;
        if header.sequence != sequence || header.capacity != size {
            return Err(refused(HeaderError::Damaged));
        }
        Ok(header)
    }

    fn handles(&self, path: &Path, header: SegmentHeader) -> io::Result<Segment> {
        let buffered = DiskFile::open(path, Access::WRITE, &self.faults)?;
        buffered.expect_random_reads();
        let direct = DiskFile::open(path, Access::DIRECT, &self.faults)?;
        let direct = direct.is_direct().then_some(direct);
        Ok(Segment { header, buffered, direct })
    }

    /// Makes the segment with this header, from `spare` if that has its size, else from a new
    /// file that is filled with zeros. On return it is durable and ready to be appended to.
    pub fn prepare(&self, header: SegmentHeader, spare: Option<Spare>) -> io::Result<Segment> {
        let path = self.segment_path(header.sequence);
        let source = match spare {
            Some(spare) if spare.capacity == header.capacity => {
                // Its old batches stay; they name another sequence and another salt.
                self.write_header(&spare.path, &header)?;
                spare.path
            }
            other => {
                if let Some(spare) = other {
                    self.remove(spare)?;
                }
                let new = path.with_extension("new");
                let made = self.fill(&new, &header);
                if let Err(error) = made {
                    let _gone = fsx::unlink(&new, &self.faults);
                    return Err(error);
                }
                new
            }
        };
        fsx::rename_new(&source, &path, &self.faults)?;
        self.handles(&path, header)
    }

    fn write_header(&self, path: &Path, header: &SegmentHeader) -> io::Result<()> {
        let file = DiskFile::open(path, Access::WRITE, &self.faults)?;
        let mut block = vec![0; BLOCK];
        block[..44].copy_from_slice(&header.encode());
        file.write_all_at(&block, 0)?;
        file.sync_all()
    }

    fn fill(&self, path: &Path, header: &SegmentHeader) -> io::Result<()> {
        fsx::unlink(path, &self.faults)?;
        let file = DiskFile::create_new(path, Access::DIRECT, &self.faults)?;
        file.allocate(header.capacity)?;
        let mut zeros = Buffer::detached(ZERO_BYTES);
        zeros.capacity_mut().fill(0);
        let mut offset = 0;
        while offset < header.capacity {
            let length = (header.capacity - offset).min(ZERO_BYTES as u64) as usize;
            if offset == 0 {
                zeros.capacity_mut()[..44].copy_from_slice(&header.encode());
            } else if offset == ZERO_BYTES as u64 {
                zeros.capacity_mut()[..44].fill(0);
            }
            zeros.set_len(length);
            file.write_all_at(zeros.as_slice(), offset)?;
            offset += length as u64;
        }
        file.sync_all()
    }

    /// Turns a segment that nobody needs any more into a spare, durably.
    pub fn retire(&self, sequence: u64, capacity: u64) -> io::Result<Spare> {
        let from = self.segment_path(sequence);
        let mut number = 0;
        loop {
            // A sequence number may be used again after a restart, and then its last spare may
            // still be waiting.
            let path = self.path.join(format!("{sequence:020}-{number}.spare"));
            match fsx::rename_new(&from, &path, &self.faults) {
                Ok(()) => return Ok(Spare { path, capacity }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the room of a spare back to the file system.
    pub fn remove(&self, spare: Spare) -> io::Result<()> {
        fsx::remove(&spare.path, &self.faults).map(|_removed| ())
    }
}
