//! Reading the batches of a segment, and telling a torn tail from damage.
//!
//! Not here: what the batches hold.

use std::{io, sync::Arc};

use larder_base::digest::crc32c;

use super::{BATCH_HEADER, BLOCK, BatchHeader, Segment};

/// How much is read at once.
const WINDOW: usize = 1 << 20;

/// A batch as it was appended.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where it starts in its segment.
    pub offset: u64,
    /// Its number.
    pub number: u64,
    /// Where its payload starts in its segment.
    pub payload_offset: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Reads batches in the order in which they were appended.
#[derive(Debug)]
pub struct Reader {
    segment: Arc<Segment>,
    offset: u64,
    /// The number that the next batch must have; `None` takes whatever the first has.
    number: Option<u64>,
    window: Vec<u8>,
    window_offset: u64,
}

impl Reader {
    /// Reads from `offset`, the start of a batch, on.
    pub fn new(segment: Arc<Segment>, offset: u64, number: Option<u64>) -> Self {
        Self { segment, offset, number, window: Vec::new(), window_offset: 0 }
    }

    /// The next batch; `None` at the first place where no intact one with the next number
    /// stands. Whether the log ends there is what [`later`](Self::later) says.
    pub fn next_batch(&mut self) -> io::Result<Option<Batch<'_>>> {
        let offset = self.offset;
        let Some(header) = self.header_at(offset)? else { return Ok(None) };
        if self.number.is_some_and(|number| number != header.number) {
            return Ok(None);
        }
        let blocks = header.blocks();
        if offset + blocks > self.segment.header().capacity {
            return Ok(None);
        }
        let bytes = self.bytes(offset, BATCH_HEADER + header.length as usize)?;
        let payload = &bytes[BATCH_HEADER..];
        if crc32c(payload) != header.crc {
            return Ok(None);
        }
        self.offset += blocks;
        self.number = Some(header.number + 1);
        Ok(Some(Batch {
            offset,
            number: header.number,
            payload_offset: offset + BATCH_HEADER as u64,
            payload: self.in_window(offset + BATCH_HEADER as u64, header.length as usize),
        }))
    }

    /// Where the next batch is looked for: after `None`, where the log ends or is damaged.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number that the next batch must have, if any has been read or was given.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// After `None`: where the header of a batch stands that was written later than the one
    /// looked for. If there is one, the one looked for had been synced before: it is damaged,
    /// not torn.
    pub fn later(&mut self) -> io::Result<Option<u64>> {
        let mut offset = self.offset;
        let end = self.segment.header().capacity;
        while offset + BLOCK as u64 <= end {
            if let Some(header) = self.header_at(offset)?
                && self.number.is_none_or(|number| header.number > number)
            {
                return Ok(Some(offset));
            }
            offset += BLOCK as u64;
        }
        Ok(None)
    }

    /// After `None`: goes on at the next place where the header of a batch stands.
    pub fn resume(&mut self) -> io::Result<bool> {
        let mut offset = self.offset + BLOCK as u64;
        while offset + BLOCK as u64 <= self.segment.header().capacity {
            if let Some(header) = self.header_at(offset)? {
                self.offset = offset;
                self.number = Some(header.number);
                return Ok(true);
            }
            offset += BLOCK as u64;
        }
        Ok(false)
    }

    fn header_at(&mut self, offset: u64) -> io::Result<Option<BatchHeader>> {
        if offset + BLOCK as u64 > self.segment.header().capacity {
            return Ok(None);
        }
        let segment = *self.segment.header();
        Ok(BatchHeader::decode(self.bytes(offset, BATCH_HEADER)?, &segment))
    }

    /// The bytes of the segment from `offset` on, which must lie within it.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + length as u64 > end {
            let left = self.segment.header().capacity - offset;
            let wanted = (WINDOW.max(length) as u64).min(left) as usize;
            self.window.resize(wanted, 0);
            let read = self.segment.file().read_at(&mut self.window, offset);
            let filled = *read.as_ref().unwrap_or(&0);
            self.window.truncate(filled);
            self.window_offset = offset;
            read?;
            if filled < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.in_window(offset, length))
    }

    fn in_window(&self, offset: u64, length: usize) -> &[u8] {
        let from = (offset - self.window_offset) as usize;
        &self.window[from..from + length]
    }
}
