//! One chunk of a session on its way to the disk, and the digests of what passes by.
//!
//! As with every upload (`blob::write`) each buffer is hashed and written at the same time, while
//! it has its turn ([`crate::work`]), and a client that stands still or is slow holds one block.
//!
//! Promises: every call can be dropped at any await, and the piece then holds exactly the bytes
//! that it has counted: a client that vanishes in the middle of a write loses nothing of what was
//! taken before.
//!
//! Not here: which chunk, and what becomes of it (`append`).

use std::{sync::Arc, time::Duration};

use larder_base::{
    ErrorKind,
    checksum::ChecksumStream,
    digest::Sha256Stream,
    id::{ChunkId, ServerId},
};
use larder_chunk::{
    ChunkError, ChunkWriter,
    format::BLOCK,
    placement::{self, Placement},
    store::Buffer,
};
use tokio::task::JoinHandle;

use crate::{
    Larder,
    blob::write::{FAST, GROWTH, SLOW},
    error::{Error, Result},
    schema::ChunkRef,
    work::Task,
};

/// What is computed of the bytes that pass by.
#[derive(Clone, Debug, Default)]
pub(super) struct Digests {
    /// Of the whole session, while all of it has passed by this process.
    pub(super) whole: Option<Sha256Stream>,
    /// Of the append.
    pub(super) check: Option<ChecksumStream>,
}

impl Digests {
    fn is_empty(&self) -> bool {
        self.whole.is_none() && self.check.is_none()
    }

    /// Adds the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(whole) = &mut self.whole {
            whole.update(bytes);
        }
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
    }
}

/// The digests, wherever they are being computed.
#[expect(clippy::large_enum_variant, reason = "there is one for each append")]
#[derive(Debug)]
pub(super) enum Hashing {
    Idle(Digests),
    Busy(JoinHandle<Digests>),
}

impl Hashing {
    /// Waits until what was handed over is hashed.
    pub(super) async fn settle(&mut self) -> Result<&mut Digests> {
        if let Self::Busy(task) = self {
            let digests = task.await;
            let digests =
                digests.map_err(|error| Error::internal("hashing stopped").with_source(error))?;
            *self = Self::Idle(digests);
        }
        match self {
            Self::Idle(digests) => Ok(digests),
            Self::Busy(_) => Err(Error::internal("hashing goes on")),
        }
    }

    /// Hashes a buffer, elsewhere.
    async fn add(&mut self, buffer: Arc<Buffer>) -> Result<()> {
        let digests = self.settle().await?;
        if !digests.is_empty() {
            let mut digests = std::mem::take(digests);
            *self = Self::Busy(tokio::task::spawn_blocking(move || {
                digests.update(buffer.as_slice());
                digests
            }));
        }
        Ok(())
    }
}

/// A chunk that is being written.
#[derive(Debug)]
pub(super) struct Piece {
    server: ServerId,
    writer: Box<dyn ChunkWriter>,
    filling: Option<Filling>,
    /// What a buffer that was written before it was full had too much; it goes into the next one.
    carried: Vec<u8>,
    /// A buffer that waits for its turn.
    ready: Option<Buffer>,
    /// One that has it, and was not handed over yet.
    full: Option<Arc<Buffer>>,
    /// Whether `full` was hashed, or is being.
    hashed: bool,
    /// How much the next buffer should hold; less for a slow client.
    wanted: usize,
    /// Bytes taken.
    pub(super) taken: u64,
    /// Bytes that it may still take.
    pub(super) left: u64,
}

/// A buffer that is being filled.
#[derive(Debug)]
struct Filling {
    buffer: Buffer,
    since: Duration,
}

/// What every piece of one append works with.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) hashing: Hashing,
    pub(super) task: Task,
}

impl Piece {
    /// Begins a chunk of at most `bytes_max` bytes; exactly `length` if that is known.
    pub(super) async fn create(
        larder: &Larder,
        placement: &Placement,
        id: ChunkId,
        length: Option<u64>,
        bytes_max: u64,
    ) -> Result<Self> {
        // One store holds each chunk until servers join; the policy says which.
        let stores = larder.inner.stores.all();
        let chosen = placement::choose(placement, id.index, stores)
            .map_err(|error| Error::new(ErrorKind::DiskFull, error.to_string()))?;
        let store = chosen.first().ok_or_else(|| Error::internal("no store was chosen"))?;
        let writer = store.create(id, length).await.map_err(taken_over)?;
        Ok(Self {
            server: store.server(),
            writer,
            filling: None,
            carried: Vec::new(),
            ready: None,
            full: None,
            hashed: false,
            wanted: usize::MAX,
            taken: 0,
            left: length.unwrap_or(bytes_max),
        })
    }

    /// Takes as much of `bytes` as it may and leaves the rest there.
    pub(super) async fn write(
        &mut self,
        larder: &Larder,
        bytes: &mut &[u8],
        bench: &mut Bench,
    ) -> Result<()> {
        while !bytes.is_empty() && self.left > 0 {
            self.hand_over(bench).await?;
            let now = larder.inner.env.monotonic();
            let allowed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let filling = self.filling(now, bench.task.step_bytes_max()).await?;
            let (head, _) = bytes.split_at(allowed);
            let taken = filling.buffer.extend_from_slice(head);
            let since = filling.since;
            let (full, capacity) = (filling.buffer.is_full(), filling.buffer.capacity());
            *bytes = bytes.split_at(taken).1;
            self.taken += taken as u64;
            self.left -= taken as u64;
            let took = now.saturating_sub(since);
            if self.left == 0 || full {
                if full && took < FAST {
                    self.wanted = capacity.saturating_mul(GROWTH);
                }
                self.ready = self.filling.take().map(|filling| filling.buffer);
            } else if took >= SLOW {
                self.slow_down();
            }
        }
        self.hand_over(bench).await
    }

    /// The buffer that is being filled; a new one is to hold at most `most` bytes.
    async fn filling(&mut self, now: Duration, most: usize) -> Result<&mut Filling> {
        if self.filling.is_none() {
            let wanted = self.wanted.min(most).max(self.carried.len());
            let mut buffer = self.writer.buffer(wanted).await?;
            // A buffer has room for a block at least, and this is less than one.
            buffer.extend_from_slice(&self.carried);
            self.carried = Vec::new();
            self.filling = Some(Filling { buffer, since: now });
        }
        self.filling.as_mut().ok_or_else(|| Error::internal("no buffer"))
    }

    /// Sets aside the whole blocks of a buffer that does not become full.
    fn slow_down(&mut self) {
        self.wanted = BLOCK;
        let Some(Filling { mut buffer, since }) = self.filling.take() else { return };
        let whole = buffer.len() / BLOCK * BLOCK;
        if whole == 0 && buffer.capacity() <= BLOCK {
            self.filling = Some(Filling { buffer, since });
            return;
        }
        self.carried = buffer.as_slice().get(whole..).unwrap_or_default().to_vec();
        if whole > 0 {
            buffer.set_len(whole);
            self.ready = Some(buffer);
        }
    }

    /// The client sends nothing: writes what can be written.
    pub(super) async fn pause(&mut self, bench: &mut Bench) -> Result<()> {
        self.hand_over(bench).await?;
        self.slow_down();
        self.hand_over(bench).await
    }

    /// Hashes and writes the buffer that is ready, both at once.
    async fn hand_over(&mut self, bench: &mut Bench) -> Result<()> {
        if self.ready.is_some() {
            bench.hashing.settle().await?;
            let turn = bench.task.turn().await;
            if let Some(mut buffer) = self.ready.take() {
                buffer.keep(turn);
                self.full = Some(Arc::new(buffer));
                self.hashed = false;
            }
        }
        let Some(full) = &self.full else { return Ok(()) };
        if !self.hashed {
            bench.hashing.add(Arc::clone(full)).await?;
            self.hashed = true;
        }
        self.writer.write(Arc::clone(full)).await?;
        self.full = None;
        Ok(())
    }

    /// Hands over what is left, so that the digests are of all of it.
    pub(super) async fn flush(&mut self, bench: &mut Bench) -> Result<()> {
        self.hand_over(bench).await?;
        if !self.carried.is_empty() {
            self.filling(Duration::ZERO, BLOCK).await?;
        }
        self.ready = self.filling.take().map(|filling| filling.buffer);
        self.hand_over(bench).await
    }

    /// Makes it durable under its name; to be called after [`Self::flush`].
    pub(super) async fn finish(self) -> Result<ChunkRef> {
        let stat = self.writer.finish().await.map_err(taken_over)?;
        let servers = vec![self.server];
        Ok(ChunkRef { id: stat.id, length: stat.length, checksum: stat.checksum, servers })
    }
}

/// A piece of this number that is there already was written by another process.
fn taken_over(error: ChunkError) -> Error {
    match error {
        ChunkError::Exists(_) => {
            Error::new(ErrorKind::Conflict, "another process has gone on with this upload")
                .with_source(error)
        }
        error => error.into(),
    }
}
