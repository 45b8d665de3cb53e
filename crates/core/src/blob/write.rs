//! From a stream of bytes to a blob: inline while it is small, else chunks.
//!
//! Each full buffer is hashed and written at the same time, by two blocking threads that share
//! it, while the next one fills from the network. Memory: two buffers per upload, from the budget
//! that all requests share. Each buffer waits for a turn ([`crate::work`]) and has it until it is
//! hashed and written.
//!
//! Promises: when [`BlobWriter::finish`] returns, every chunk is durable. A writer that is
//! dropped leaves at most chunks that the collector removes. One whose client stands still
//! ([`BlobWriter::pause`]) or is slow holds at most one block ([`BLOCK`]) of memory.
//!
//! Not here: the commit that makes a blob exist (`upload`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    digest::{Sha256, Sha256Stream},
    id::{BlobId, ChunkId, ServerId},
    memory::{Share, Use, WAIT_MAX},
};
use larder_chunk::{
    ChunkError, ChunkWriter,
    format::BLOCK,
    placement::{self, Placement, Plan},
    store::Buffer,
};
use tokio::task::JoinHandle;

use crate::{
    Larder,
    blob::Staged,
    error::{Error, Result},
    schema::{ChunkRef, Content},
    work::{Class, Client, Task},
};

/// A buffer that is not full after this time is written as far as it is whole blocks, and the
/// next one is small.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

/// The next buffer is larger after one that was full within this time.
pub(crate) const FAST: Duration = Duration::from_millis(250);

/// How much larger.
pub(crate) const GROWTH: usize = 4;

/// Memory for small bodies is taken in pieces of this size.
const STEP: usize = 16 << 10;

/// An upload that has stood still for so long is given up while memory is short: it keeps less
/// than others need, but there may be thousands of it.
pub(crate) const STILL_MAX: Duration = Duration::from_secs(5);

/// Takes the bytes of one blob.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    larder: Larder,
    placement: Placement,
    length: Option<u64>,
    size: u64,
    client: Option<Client>,
    task: Option<Task>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Nothing is kept but the digest.
    Digest(Sha256Stream),
    Inline(Vec<u8>, Option<Share>),
    Chunks(Box<ChunkSink>),
}

/// A blob whose bytes are durable, or will be with the commit.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    /// Unknown where it came in pieces that this process has not seen all of.
    pub(crate) sha256: Option<Sha256>,
    pub(crate) content: Content,
    /// To be kept until the commit is decided.
    pub(crate) staged: Option<Staged>,
    /// The right to the memory of an inline body, which its commit needs.
    pub(crate) _memory: Option<Share>,
}

impl BlobWriter {
    pub(crate) fn new(larder: &Larder, placement: Placement, length: Option<u64>) -> Self {
        let sink = Sink::Inline(Vec::new(), None);
        let larder = larder.clone();
        Self { larder, placement, length, size: 0, client: None, task: None, sink }
    }

    /// Says for whom the bytes are written; else it is the server. If they are known to be many
    /// and too much work waits already it is `Busy`, before any of them has been read.
    pub(crate) fn on_behalf_of(&mut self, client: Client) -> Result<()> {
        if self.length.is_some_and(|length| length > self.larder.inner.inline_bytes_max as u64) {
            self.task = Some(self.larder.inner.work.enter(&client, Class::Upload)?);
        }
        self.client = Some(client);
        Ok(())
    }

    /// A writer that keeps nothing: only the digest of what it is given is wanted.
    pub(crate) fn digest_only(larder: &Larder) -> Self {
        let sink = Sink::Digest(Sha256Stream::default());
        Self { sink, ..Self::new(larder, Placement::SINGLE, None) }
    }

    /// Bytes taken so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes. `Busy` if no memory came free for too long.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        let inline_max = self.larder.inner.inline_bytes_max as u64;
        match &mut self.sink {
            Sink::Chunks(sink) => sink.write(&bytes).await,
            Sink::Digest(stream) => {
                stream.update(&bytes);
                Ok(())
            }
            Sink::Inline(body, share) if self.size.max(self.length.unwrap_or(0)) <= inline_max => {
                // The declared length is at most the inline limit here.
                let length = usize::try_from(self.length.unwrap_or(0)).unwrap_or(0);
                let needed = body.len() + bytes.len();
                grow(&self.larder, share, needed, length).await?;
                if body.is_empty() {
                    body.reserve_exact(length.max(bytes.len()));
                }
                body.extend_from_slice(&bytes);
                Ok(())
            }
            Sink::Inline(body, share) => {
                let (body, _share) = (std::mem::take(body), share.take());
                let task = match self.task.take() {
                    Some(task) => task,
                    None => {
                        let client = self.client.take().unwrap_or_else(Client::background);
                        self.larder.inner.work.enter(&client, Class::Upload)?
                    }
                };
                let sink = ChunkSink::new(&self.larder, self.placement, self.length, task)?;
                let mut sink = Box::new(sink);
                sink.write(&body).await?;
                sink.write(&bytes).await?;
                self.sink = Sink::Chunks(sink);
                Ok(())
            }
        }
    }

    /// The client has sent nothing for `still`: writes what can be written, so that little memory
    /// is held. `Busy` if that has lasted too long while others wait for memory: it keeps less
    /// than they need, but there may be thousands of it.
    pub(crate) async fn pause(&mut self, still: Duration) -> Result<()> {
        if let Sink::Chunks(sink) = &mut self.sink {
            sink.slow_down().await?;
        }
        if still >= STILL_MAX && self.larder.inner.config.memory.room() == 0 {
            let detail = "the body stands still while memory is short; try again";
            return Err(Error::new(ErrorKind::Busy, detail));
        }
        Ok(())
    }

    /// Makes everything durable that is not part of the commit.
    pub(crate) async fn finish(self) -> Result<Finished> {
        let size = self.size;
        match self.sink {
            Sink::Inline(body, memory) => {
                let inner = &self.larder.inner;
                Ok(Finished {
                    id: inner.staging.inline_id(inner.incarnation),
                    size,
                    sha256: Some(Sha256::of(&body)),
                    content: Content::Inline(body.into()),
                    staged: None,
                    _memory: memory,
                })
            }
            Sink::Digest(stream) => {
                let inner = &self.larder.inner;
                Ok(Finished {
                    id: inner.staging.inline_id(inner.incarnation),
                    size,
                    sha256: Some(stream.finish()),
                    content: Content::Inline(Bytes::new()),
                    staged: None,
                    _memory: None,
                })
            }
            Sink::Chunks(sink) => {
                let (staged, sha256, chunks) = sink.finish().await?;
                Ok(Finished {
                    id: staged.blob,
                    size,
                    sha256: Some(sha256),
                    content: Content::Chunks(chunks),
                    staged: Some(staged),
                    _memory: None,
                })
            }
        }
    }
}

/// Sees to it that a small body of `declared` bytes may have `needed` bytes.
pub(crate) async fn grow(
    larder: &Larder,
    share: &mut Option<Share>,
    needed: usize,
    declared: usize,
) -> Result<()> {
    let had = share.as_ref().map_or(0, Share::bytes);
    if needed <= had {
        return Ok(());
    }
    // What came at once needs one share; what comes in pieces a few.
    let target = if needed == declared { needed } else { needed.next_multiple_of(STEP) };
    let inner = &larder.inner;
    let more = inner.config.memory.take(Use::Bodies, target - had, WAIT_MAX, &inner.env).await;
    let more = more.ok_or_else(|| Error::new(ErrorKind::Busy, "no memory was free in time"))?;
    match share {
        Some(share) => share.merge(more),
        None => *share = Some(more),
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct ChunkSink {
    larder: Larder,
    staged: Staged,
    placement: Placement,
    plan: Plan,
    done: Vec<ChunkRef>,
    open: Option<OpenChunk>,
    hash: Hash,
    task: Task,
    /// How much the next buffer should hold; less for a slow client.
    wanted: usize,
}

#[derive(Debug)]
struct OpenChunk {
    server: ServerId,
    writer: Box<dyn ChunkWriter>,
    buffer: Option<Filling>,
    /// Bytes that it may still take.
    left: u64,
}

/// A buffer that is being filled.
#[derive(Debug)]
struct Filling {
    buffer: Buffer,
    since: Duration,
}

/// The digest, wherever it is being computed.
#[derive(Debug)]
enum Hash {
    Idle(Sha256Stream),
    Busy(JoinHandle<Sha256Stream>),
}

impl ChunkSink {
    pub(crate) fn new(
        larder: &Larder,
        placement: Placement,
        length: Option<u64>,
        task: Task,
    ) -> Result<Self> {
        let inner = &larder.inner;
        Ok(Self {
            larder: larder.clone(),
            staged: inner.staging.stage(inner.incarnation),
            placement,
            plan: placement.split.plan(length),
            done: Vec::new(),
            open: None,
            hash: Hash::Idle(Sha256Stream::default()),
            task,
            wanted: usize::MAX,
        })
    }

    /// Takes the next bytes.
    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let now = self.larder.inner.env.monotonic();
            let wanted = self.wanted.min(self.task.step_bytes_max());
            let chunk = self.open_chunk().await?;
            let allowed = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(bytes.len());
            let mut filling = match chunk.buffer.take() {
                Some(filling) => filling,
                None => Filling { buffer: chunk.writer.buffer(wanted).await?, since: now },
            };
            let (head, _) = bytes.split_at(allowed);
            let taken = filling.buffer.extend_from_slice(head);
            chunk.left -= taken as u64;
            bytes = bytes.split_at(taken).1;
            let took = now.saturating_sub(filling.since);
            let (chunk_full, buffer_full) = (chunk.left == 0, filling.buffer.is_full());
            if chunk_full || buffer_full {
                if buffer_full && took < FAST {
                    self.wanted = filling.buffer.capacity().saturating_mul(GROWTH);
                }
                self.hand_over(filling.buffer).await?;
            } else {
                chunk.buffer = Some(filling);
                if took >= SLOW {
                    self.slow_down().await?;
                }
            }
            if chunk_full {
                self.close_chunk().await?;
            }
        }
        Ok(())
    }

    async fn open_chunk(&mut self) -> Result<&mut OpenChunk> {
        if self.open.is_none() {
            let index = u32::try_from(self.done.len())
                .map_err(|_| Error::new(ErrorKind::TooLarge, "the file has too many chunks"))?;
            let id = ChunkId { blob: self.staged.blob, index };
            let part = self.plan.next_part();
            // One store holds each chunk until servers join; the policy says which.
            let stores = self.larder.inner.stores.all();
            let chosen = placement::choose(&self.placement, index, stores)
                .map_err(|error| Error::new(ErrorKind::DiskFull, error.to_string()))?;
            let store = chosen.first().ok_or_else(|| Error::internal("no store was chosen"))?;
            let writer = store.create(id, part.length).await?;
            let server = store.server();
            self.open = Some(OpenChunk { server, writer, buffer: None, left: part.bytes_max });
        }
        self.open.as_mut().ok_or_else(|| Error::internal("no open chunk"))
    }

    /// Writes the whole blocks of a buffer that does not become full, and keeps the rest in a
    /// small one.
    async fn slow_down(&mut self) -> Result<()> {
        let now = self.larder.inner.env.monotonic();
        self.wanted = BLOCK;
        let Some(chunk) = &mut self.open else { return Ok(()) };
        let Some(Filling { mut buffer, .. }) = chunk.buffer.take() else { return Ok(()) };
        let whole = buffer.len() / BLOCK * BLOCK;
        if whole == 0 && buffer.capacity() <= BLOCK {
            chunk.buffer = Some(Filling { buffer, since: now });
            return Ok(());
        }
        let rest = buffer.as_slice().get(whole..).unwrap_or_default().to_vec();
        if whole > 0 {
            buffer.set_len(whole);
            self.hand_over(buffer).await?;
        } else {
            drop(buffer);
        }
        if rest.is_empty() {
            return Ok(());
        }
        let chunk = self.open.as_mut().ok_or_else(|| Error::internal("no open chunk"))?;
        let mut buffer = chunk.writer.buffer(BLOCK).await?;
        buffer.extend_from_slice(&rest);
        chunk.buffer = Some(Filling { buffer, since: now });
        Ok(())
    }

    /// Hashes and writes a buffer, both at once, when it has its turn.
    async fn hand_over(&mut self, mut buffer: Buffer) -> Result<()> {
        let mut hash = self.take_hash().await?;
        buffer.keep(self.task.turn().await);
        let buffer = Arc::new(buffer);
        let shared = Arc::clone(&buffer);
        self.hash = Hash::Busy(tokio::task::spawn_blocking(move || {
            hash.update(shared.as_slice());
            hash
        }));
        let chunk = self.open.as_mut().ok_or_else(|| Error::internal("no open chunk"))?;
        chunk.writer.write(buffer).await.map_err(Error::from)
    }

    async fn take_hash(&mut self) -> Result<Sha256Stream> {
        match std::mem::replace(&mut self.hash, Hash::Idle(Sha256Stream::default())) {
            Hash::Idle(hash) => Ok(hash),
            Hash::Busy(task) => {
                task.await.map_err(|error| Error::internal("hashing stopped").with_source(error))
            }
        }
    }

    async fn close_chunk(&mut self) -> Result<()> {
        let Some(mut chunk) = self.open.take() else { return Ok(()) };
        if let Some(filling) = chunk.buffer.take() {
            self.open = Some(chunk);
            self.hand_over(filling.buffer).await?;
            chunk = self.open.take().ok_or_else(|| Error::internal("no open chunk"))?;
        }
        self.staged.leaks = true;
        let stat = chunk.writer.finish().await?;
        let server = chunk.server;
        self.done.push(ChunkRef {
            id: stat.id,
            length: stat.length,
            checksum: stat.checksum,
            servers: vec![server],
        });
        Ok(())
    }

    /// Whether a chunk has been begun and not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Makes the chunk durable that has been begun: the next bytes go into another one.
    pub(crate) async fn end_chunk(&mut self) -> Result<()> {
        self.close_chunk().await
    }

    /// Makes everything durable.
    pub(crate) async fn finish(mut self: Box<Self>) -> Result<(Staged, Sha256, Vec<ChunkRef>)> {
        self.close_chunk().await?;
        let sha256 = self.take_hash().await?.finish();
        Ok((self.staged, sha256, self.done))
    }
}

/// The chunk stores of this instance.
#[derive(Clone, Debug)]
pub struct Stores(Arc<[Arc<dyn larder_chunk::ChunkStore>]>);

impl Stores {
    /// These stores; at least one.
    pub fn new(stores: Vec<Arc<dyn larder_chunk::ChunkStore>>) -> Result<Self> {
        if stores.is_empty() {
            return Err(Error::invalid("there must be a chunk store"));
        }
        Ok(Self(stores.into()))
    }

    /// Every store.
    pub(crate) fn all(&self) -> &[Arc<dyn larder_chunk::ChunkStore>] {
        &self.0
    }

    /// The store that a chunk was recorded on.
    pub(crate) fn holding(&self, chunk: &ChunkRef) -> Result<&Arc<dyn larder_chunk::ChunkStore>> {
        self.all()
            .iter()
            .find(|store| chunk.servers.contains(&store.server()))
            .ok_or_else(|| Error::from(ChunkError::NotFound(chunk.id)))
    }
}
