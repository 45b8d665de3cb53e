//! A log of segments: preallocated files that are written once from front to back, in batches.
//!
//! A batch is the unit of durability: it is framed, checksummed, written with one call and
//! synced with one call, and after a crash it is there whole or not at all. What a batch holds
//! is its writer's business. Segments are zeroed before their first use and recycled after
//! their last: overwriting blocks that have been written before costs one device write and no
//! journal commit, a third of what a growing file costs.
//!
//! Promises: I-LOG-1 a batch of an earlier use of a recycled segment is never taken for a
//! current one (each use has a sequence number and a random salt, and each batch names both);
//! I-LOG-2 only the last batch of a log can be incomplete, because a batch is written after the
//! one before it has been synced; so an invalid batch with a later one behind it is damage,
//! never a torn tail; I-LOG-3 a segment's file name says its sequence number, and its header
//! says the same.
//!
//! The bytes: `docs/formats/log.md`.
//!
//! Not here: what batches mean and which segments are still needed (the log's owner).

mod reader;
mod segment;
mod writer;

use larder_base::digest::crc32c;

pub use self::{
    reader::{Batch, Reader},
    segment::{LogDirectory, Segment, Spare},
    writer::{AppendError, BatchBuffer, Writer},
};

/// Batches start and end at multiples of this, so that they can be written directly.
pub const BLOCK: usize = crate::file::ALIGNMENT;

/// Bytes of a batch's header; its payload follows.
pub const BATCH_HEADER: usize = 64;

/// Version of the format of segments and batches.
pub const FORMAT: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"LARDERSG";
const BATCH_MAGIC: [u8; 8] = *b"LARDERBT";

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Place of the segment in its log; also its name.
    pub sequence: u64,
    /// Random number of this use of the file. Nobody outside can guess it, so nobody can store
    /// bytes that look like a batch.
    pub salt: u64,
    /// Bytes of the file.
    pub capacity: u64,
}

impl SegmentHeader {
    fn encode(&self) -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32c(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; 44] =
            bytes.get(..44).and_then(|some| some.try_into().ok()).ok_or(HeaderError::Damaged)?;
        if bytes[0..8] != SEGMENT_MAGIC || u32_at(bytes, 40) != crc32c(&bytes[..40]) {
            return Err(HeaderError::Damaged);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        Ok(Self {
            sequence: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            capacity: u64_at(bytes, 32),
        })
    }
}

/// Why a segment's header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is not what was written.
    #[error("damaged header")]
    Damaged,
    /// A later version of the program wrote it.
    #[error("format version {0} is unknown to this version of the program")]
    Format(u32),
}

/// Why a log, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: std::path::PathBuf,
        /// Its error.
        source: std::io::Error,
    },
    /// A segment's header is refused.
    #[error("log segment {}: {source}", path.display())]
    Header {
        /// The segment's file.
        path: std::path::PathBuf,
        /// Why.
        source: HeaderError,
    },
    /// The directory holds a file that is none of the log's.
    #[error("{} does not belong to the log", .0.display())]
    Foreign(std::path::PathBuf),
}

impl LogError {
    fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchHeader {
    segment: u64,
    salt: u64,
    /// One more than that of the batch before it in the log.
    number: u64,
    /// Bytes of the payload.
    length: u32,
    crc: u32,
}

impl BatchHeader {
    fn encode(&self) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        bytes[0..8].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.length.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes` if it is one of this use of this segment.
    fn decode(bytes: &[u8], segment: &SegmentHeader) -> Option<Self> {
        let bytes: &[u8; BATCH_HEADER] = bytes.get(..BATCH_HEADER)?.try_into().ok()?;
        let intact = bytes[0..8] == BATCH_MAGIC && u32_at(bytes, 60) == crc32c(&bytes[..60]);
        let header = Self {
            segment: u64_at(bytes, 8),
            salt: u64_at(bytes, 16),
            number: u64_at(bytes, 24),
            length: u32_at(bytes, 32),
            crc: u32_at(bytes, 36),
        };
        let ours = header.segment == segment.sequence && header.salt == segment.salt;
        (intact && ours).then_some(header)
    }

    /// Bytes from the start of this batch to the end of its last block.
    fn blocks(&self) -> u64 {
        padded(BATCH_HEADER + self.length as usize) as u64
    }
}

/// `length` rounded up to whole blocks.
pub fn padded(length: usize) -> usize {
    length.next_multiple_of(BLOCK)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests;
