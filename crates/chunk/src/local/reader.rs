//! Reads and verifies ranges of chunks, window by window.
//!
//! A window is as large as the buffer that the pool gives: 1 MiB while there is room, one block
//! when it is crowded, and then a reader waits for its window and leaves a reserve to writers.
//! Whoever wants the next window while this one is consumed asks for it ahead (core does).
//!
//! Promises: I-CHK-3 a block is verified before a byte of it is returned; I-CHK-5 the file stays
//! open from the first piece on, so a deleted chunk is read to its end.
//! Not here: what to do about damage (core reports it, `scrub` quarantines).

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::{
    id::ChunkId,
    memory::{Share, Use, WAIT_MAX},
};
use larder_disk::{
    buffer::{Buffer, LARGE, SMALL},
    file::{Access, DiskFile},
};
use rustix::fs::Advice;
use tokio::task::JoinHandle;

use super::{Shared, joined};
use crate::{
    format::{self, BLOCK, FOOTER, Footer, FormatError, HEADER},
    store::{ChunkError, ChunkReader, ChunkStat},
};

/// How far the kernel is told to read ahead of the window being read, once a long range has
/// turned out not to be in memory. Measured with a kernel that reads 8 MiB ahead by itself: 1.0
/// to 1.5 times the rate without it; where the kernel's default of 128 KiB is left, more.
const AHEAD: u64 = 4 * LARGE as u64;

/// The kernel cuts advice to its largest I/O, so it is given in pieces of this size.
const ADVICE: u64 = 512 << 10;

/// What is known of chunk `id`; blocks.
pub(super) fn head(shared: &Shared, id: ChunkId) -> Result<ChunkStat, ChunkError> {
    let (_file, footer, stored_bytes) = probe(shared, id, Access::READ)?;
    Ok(ChunkStat { id, length: footer.length, checksum: footer.checksum, stored_bytes })
}

/// Opens the file of a chunk and checks header and footer.
fn probe(
    shared: &Shared,
    id: ChunkId,
    access: Access,
) -> Result<(DiskFile, Footer, u64), ChunkError> {
    let file = DiskFile::open(&shared.paths.of(id), access, &shared.faults).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            return ChunkError::NotFound(id);
        }
        ChunkError::Io { what: "open chunk", source }
    })?;
    let bytes = file.len().map_err(|source| ChunkError::Io { what: "open chunk", source })?;
    let least = format::file_length(0);
    if bytes < least || !bytes.is_multiple_of(HEADER as u64) {
        let detail = format!("{bytes} bytes are no whole chunk");
        return Err(ChunkError::Corrupt { id, detail });
    }
    // Whole aligned pages, so that it works for direct files too.
    let mut page = Buffer::detached(HEADER);
    let mut read = |at| match file.read_exact_at(page.capacity_mut(), at) {
        Ok(()) => {
            page.set_len(HEADER);
            Ok(page.as_slice().first_chunk::<HEADER>().copied().unwrap_or([0; HEADER]))
        }
        Err(source) => Err(read_error(id, source)),
    };
    format::check_header(&read(0)?, id).map_err(|error| refused(id, error))?;
    let last = read(bytes - HEADER as u64)?;
    let footer = last.last_chunk::<FOOTER>().copied().unwrap_or([0; FOOTER]);
    let footer = format::check_footer(&footer, id, bytes).map_err(|error| refused(id, error))?;
    Ok((file, footer, bytes))
}

fn refused(id: ChunkId, error: FormatError) -> ChunkError {
    match error {
        FormatError::Damaged(detail) => ChunkError::Corrupt { id, detail },
        FormatError::Newer(_) => ChunkError::Unavailable(format!("read chunk {id}: {error}")),
    }
}

fn read_error(id: ChunkId, source: io::Error) -> ChunkError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return ChunkError::Corrupt { id, detail: "the file ends too early".to_owned() };
    }
    ChunkError::Io { what: "read chunk", source }
}

/// An open chunk with the checksums of its blocks (4 bytes each: 640 KiB for 10 GiB).
#[derive(Debug)]
pub(super) struct Opened {
    file: DiskFile,
    pub(super) id: ChunkId,
    pub(super) length: u64,
    /// Of the blocks from `first` on.
    sums: Vec<u32>,
    first: usize,
    /// The right to their memory.
    _table: Share,
}

impl Opened {
    /// Opens chunk `id` and checks everything but its content; blocks. Only the `range` of it
    /// can be read then.
    pub(super) fn open(
        shared: &Shared,
        id: ChunkId,
        access: Access,
        range: Option<Range<u64>>,
    ) -> Result<Self, ChunkError> {
        let (file, footer, _) = probe(shared, id, access)?;
        let table = format::blocks(footer.length) * 4;
        let mut buffer = Buffer::detached(usize::try_from(table).map_err(|_too_long| {
            ChunkError::Corrupt { id, detail: "longer than memory".to_owned() }
        })?);
        let at = format::trailer_offset(footer.length);
        file.read_exact_at(buffer.capacity_mut(), at).map_err(|error| read_error(id, error))?;
        buffer.set_len(table as usize);
        let sums = format::check_table(buffer.as_slice(), footer);
        let mut sums = sums.map_err(|error| refused(id, error))?;
        let range = range.unwrap_or(0..footer.length);
        let blocks = |at: u64| usize::try_from(format::blocks(at)).unwrap_or(usize::MAX);
        let first = usize::try_from(range.start / BLOCK as u64).unwrap_or(0).min(sums.len());
        sums.truncate(blocks(range.end));
        let sums = sums.split_off(first.min(sums.len()));
        // Too little to wait for, too much not to be counted.
        let table = shared.pool.memory().charge(Use::Reads, sums.len() * 4);
        Ok(Self { file, id, length: footer.length, sums, first, _table: table })
    }

    /// Reads and verifies the blocks from `from`, a block's start, up to `until` or as far as
    /// `buffer` goes; blocks.
    pub(super) fn read(
        &self,
        mut buffer: Buffer,
        from: u64,
        until: u64,
        ahead: Option<&Ahead>,
    ) -> Result<Buffer, ChunkError> {
        let until = until.next_multiple_of(BLOCK as u64).min(self.length);
        let length = buffer.capacity().min(usize::try_from(until - from).unwrap_or(usize::MAX));
        // Direct reads take whole pages; the file has them, as content is padded.
        let padded = length.next_multiple_of(HEADER);
        let place = buffer.capacity_mut().get_mut(..padded).unwrap_or_default();
        self.fill(place, from, ahead).map_err(|error| read_error(self.id, error))?;
        buffer.set_len(length);
        let first = (from / BLOCK as u64) as usize;
        let wanted = first.checked_sub(self.first).and_then(|from| self.sums.get(from..));
        let wanted = wanted.unwrap_or_default();
        for (i, sum) in format::block_sums(buffer.as_slice()).enumerate() {
            if wanted.get(i) != Some(&sum) {
                let detail = format!("block {} does not match its checksum", first + i);
                return Err(ChunkError::Corrupt { id: self.id, detail });
            }
        }
        Ok(buffer)
    }

    fn fill(&self, place: &mut [u8], from: u64, ahead: Option<&Ahead>) -> io::Result<()> {
        let at = HEADER as u64 + from;
        if let Some(ahead) = ahead {
            let cold = ahead.told.load(Ordering::Relaxed) > 0;
            if !cold && self.file.read_at_nowait(place, at)?.is_some() {
                return Ok(());
            }
            self.read_ahead(ahead, at);
        }
        self.file.read_exact_at(place, at)
    }

    /// Tells the kernel to read on from `at`, of what it has not been told yet.
    fn read_ahead(&self, ahead: &Ahead, at: u64) {
        let end = (at + AHEAD).min(ahead.end);
        let mut told = ahead.told.load(Ordering::Relaxed).max(at);
        while told < end {
            let piece = ADVICE.min(end - told);
            // Only advice: without it reads are right and slower.
            let length = std::num::NonZeroU64::new(piece);
            let _advised = rustix::fs::fadvise(&self.file, told, length, Advice::WillNeed);
            told += piece;
        }
        ahead.told.store(told, Ordering::Relaxed);
    }
}

/// What the kernel has been told about a long range. One read at a time uses it.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Where the range ends in the file.
    end: u64,
    /// Up to where the kernel was told to read; zero while all was found in memory.
    told: AtomicU64,
}

/// A chunk of which a range is being read.
#[derive(Debug)]
struct Source {
    opened: Opened,
    ahead: Option<Ahead>,
}

impl Source {
    /// Opens `range` of chunk `id`; blocks.
    fn open(shared: &Shared, id: ChunkId, range: Range<u64>) -> Result<Self, ChunkError> {
        let opened = Opened::open(shared, id, Access::READ, Some(range.clone()))?;
        if range.end > opened.length {
            return Err(ChunkError::Range(id));
        }
        let end = HEADER as u64 + range.end.next_multiple_of(BLOCK as u64).min(opened.length);
        let long = range.end - range.start > SMALL as u64;
        let ahead = long.then(|| Ahead { end, told: AtomicU64::new(0) });
        Ok(Self { opened, ahead })
    }
}

/// A reader of `range` of chunk `id`. The file is opened with the first piece: going to another
/// thread and back costs as much as the reading of a small one.
pub(super) fn open(
    shared: &Arc<Shared>,
    id: ChunkId,
    range: Range<u64>,
) -> Result<Box<dyn ChunkReader>, ChunkError> {
    if range.start > range.end {
        return Err(ChunkError::Range(id));
    }
    let shared = Arc::clone(shared);
    Ok(Box::new(LocalReader { shared, id, range, source: None, next: Next::Nothing }))
}

#[derive(Debug)]
enum Next {
    /// Not begun, or told as an error.
    Nothing,
    /// Memory for it.
    Empty(Buffer),
    Reading(JoinHandle<Result<(Arc<Source>, Buffer), ChunkError>>),
}

#[derive(Debug)]
struct LocalReader {
    shared: Arc<Shared>,
    id: ChunkId,
    /// What is still to be read.
    range: Range<u64>,
    source: Option<Arc<Source>>,
    next: Next,
}

impl LocalReader {
    /// What reads the next window into `buffer`, and opens the chunk before the first one.
    fn work(
        &self,
        buffer: Buffer,
    ) -> impl FnOnce() -> Result<(Arc<Source>, Buffer), ChunkError> + Send + use<> {
        let (shared, id, range) = (Arc::clone(&self.shared), self.id, self.range.clone());
        let source = self.source.clone();
        move || {
            let source = match source {
                Some(source) => source,
                None => Arc::new(Source::open(&shared, id, range.clone())?),
            };
            let from = range.start / BLOCK as u64 * BLOCK as u64;
            let buffer = source.opened.read(buffer, from, range.end, source.ahead.as_ref())?;
            Ok((source, buffer))
        }
    }
}

#[async_trait]
impl ChunkReader for LocalReader {
    async fn prepare(&mut self) -> Result<(), ChunkError> {
        if !matches!(self.next, Next::Nothing) {
            return Ok(());
        }
        if self.range.is_empty() {
            // That there is such a chunk is looked up all the same.
            if self.source.is_none() {
                self.next = Next::Empty(Buffer::detached(0));
            }
        } else {
            let left = self.range.end - self.range.start / BLOCK as u64 * BLOCK as u64;
            let wanted = usize::try_from(left).unwrap_or(LARGE);
            let Shared { pool, env, .. } = &*self.shared;
            let buffer = pool.acquire(Use::Reads, wanted, WAIT_MAX, env).await;
            self.next = Next::Empty(buffer.ok_or(ChunkError::Busy)?);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ChunkError> {
        self.prepare().await?;
        // Cancel-safe: what is being read stays in place until it has been read.
        self.next = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => return Ok(None),
            Next::Empty(buffer) => Next::Reading(tokio::task::spawn_blocking(self.work(buffer))),
            reading @ Next::Reading(_) => reading,
        };
        let Next::Reading(handle) = &mut self.next else { return Ok(None) };
        let outcome = joined(handle.await);
        self.next = Next::Nothing;
        let (source, buffer) = outcome?;
        self.source = Some(source);
        // Blocks are whole at both ends of the range; the caller wants only the range.
        let skip = (self.range.start % BLOCK as u64) as usize;
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let taken = buffer.len().saturating_sub(skip).min(left);
        if taken == 0 {
            return Ok(None);
        }
        let bytes = Bytes::from_owner(buffer).slice(skip..skip + taken);
        self.range.start += taken as u64;
        Ok(Some(bytes))
    }
}
