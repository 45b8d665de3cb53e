//! Appending batches to a segment.
//!
//! Relies on: one writer per log; [`BatchBuffer`] memory being aligned.
//!
//! Not here: when to move to the next segment (the owner, who knows what is waiting).

use std::{io, sync::Arc};

use larder_base::{digest::crc32c, failpoint};

use super::{BATCH_HEADER, BLOCK, BatchHeader, Segment, padded};
use crate::buffer::Buffer;

/// The smallest batch that is written past the page cache.
///
/// Measured on ext4 over NVMe: up to 64 KiB both ways cost the same; at 256 KiB a direct write
/// and sync takes 78 us of CPU instead of 240, at 1 MiB 160 instead of 1,010. But what is
/// written directly must be read from the disk when it is read for the first time, which costs
/// more than that: so groups of small bodies (64 writers of 4 KiB make 320 KiB) stay cached.
const DIRECT_BYTES: usize = 512 << 10;

/// A buffer this large is given back after use.
const KEEP_BYTES: usize = 1 << 20;

/// A batch in the making.
#[derive(Debug)]
pub struct BatchBuffer {
    buffer: Buffer,
}

impl Default for BatchBuffer {
    fn default() -> Self {
        let mut batch = Self { buffer: Buffer::detached(64 << 10) };
        batch.clear();
        batch
    }
}

impl BatchBuffer {
    /// Forgets the content.
    pub fn clear(&mut self) {
        if self.buffer.capacity() > KEEP_BYTES {
            self.buffer = Buffer::detached(KEEP_BYTES);
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; BATCH_HEADER]);
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == BATCH_HEADER
    }

    /// Bytes of header and payload. What is appended next will stand that far behind the start
    /// of the batch.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// What was appended.
    pub fn payload(&self) -> &[u8] {
        &self.buffer.as_slice()[BATCH_HEADER..]
    }

    /// Appends `bytes` to the payload.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.buffer.remaining() < bytes.len() {
            self.grow(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn grow(&mut self, more: usize) {
        let wanted = (self.buffer.len() + more).max(self.buffer.capacity() * 2);
        let mut larger = Buffer::detached(wanted);
        larger.extend_from_slice(self.buffer.as_slice());
        self.buffer = larger;
    }

    /// Cuts the batch back to `length` bytes, which it had before.
    pub fn truncate(&mut self, length: usize) {
        self.buffer.set_len(length.clamp(BATCH_HEADER, self.buffer.len()));
    }

    /// Replaces bytes that were appended before.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        let length = self.buffer.len();
        self.buffer.capacity_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        self.buffer.set_len(length);
    }
}

/// Why a batch was not appended.
#[derive(Debug)]
pub enum AppendError {
    /// There was no room on the disk. The batch is not in the log and never will be; the writer
    /// can be used again.
    NoSpace(io::Error),
    /// Nobody knows whether the batch is in the log, nor what the disk will do next. Do not use
    /// the writer again.
    Unknown(io::Error),
}

/// The end of a log, where batches are appended.
#[derive(Debug)]
pub struct Writer {
    segment: Arc<Segment>,
    position: u64,
    number: u64,
    syncs: u64,
}

impl Writer {
    /// Appends to `segment` from `position` on, a multiple of [`BLOCK`]; the first batch gets
    /// `number`.
    pub fn new(segment: Arc<Segment>, position: u64, number: u64) -> Self {
        debug_assert!(position.is_multiple_of(BLOCK as u64) && position > 0);
        Self { segment, position, number, syncs: 0 }
    }

    /// The segment that is being appended to.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where the next batch will start.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number that the next batch will have.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How often a batch has been synced.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Bytes that a batch, header included, may have to fit into the segment.
    pub fn room(&self) -> usize {
        (self.segment.header().capacity - self.position) as usize
    }

    /// Continues in the next segment.
    pub fn roll(&mut self, segment: Arc<Segment>) {
        self.segment = segment;
        self.position = BLOCK as u64;
    }

    /// Writes `batch` and waits until it is durable.
    pub fn append(&mut self, batch: &mut BatchBuffer) -> Result<(), AppendError> {
        let length = batch.len();
        debug_assert!(padded(length) <= self.room(), "the owner rolls before");
        let header = BatchHeader {
            segment: self.segment.sequence(),
            salt: self.segment.header().salt,
            number: self.number,
            length: (length - BATCH_HEADER) as u32,
            crc: crc32c(&batch.buffer.as_slice()[BATCH_HEADER..]),
        };
        batch.patch(0, &header.encode());
        let bytes = batch.buffer.as_padded();
        failpoint::reach("log.before-write");
        let file = match self.segment.direct() {
            Some(direct) if bytes.len() >= DIRECT_BYTES => direct,
            _ => self.segment.file(),
        };
        if let Err(error) = file.write_all_at(bytes, self.position) {
            // Whatever part of it was written lacks its end and is overwritten by the next one.
            return Err(if error.kind() == io::ErrorKind::StorageFull {
                AppendError::NoSpace(error)
            } else {
                AppendError::Unknown(error)
            });
        }
        failpoint::reach("log.written");
        file.sync_data().map_err(AppendError::Unknown)?;
        failpoint::reach("log.synced");
        self.position += bytes.len() as u64;
        self.number += 1;
        self.syncs += 1;
        Ok(())
    }
}
