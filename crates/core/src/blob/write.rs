//! From a stream of bytes to a blob: inline while it is small, else chunks.
//!
//! Each full buffer is hashed and written at the same time, by two blocking threads that share
//! it, while the next one fills from the network. Memory: two buffers per upload, from the pool
//! that all uploads share.
//!
//! Promises: when [`BlobWriter::finish`] returns, every chunk is durable. A writer that is
//! dropped leaves at most chunks that the collector removes.
//!
//! Not here: the commit that makes a blob exist (`upload`).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    digest::{Sha256, Sha256Stream},
    id::{BlobId, ChunkId, ServerId},
};
use larder_chunk::{
    ChunkError, ChunkWriter,
    placement::{self, Placement, Plan},
    store::Buffer,
};
use tokio::task::JoinHandle;

use crate::{
    Larder,
    blob::Staged,
    error::{Error, Result},
    schema::{ChunkRef, Content},
};

/// Takes the bytes of one blob.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    larder: Larder,
    placement: Placement,
    length: Option<u64>,
    size: u64,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Inline(Vec<u8>),
    Chunks(Box<ChunkSink>),
}

/// A blob whose bytes are durable, or will be with the commit.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256,
    pub(crate) content: Content,
    /// To be kept until the commit is decided.
    pub(crate) staged: Option<Staged>,
}

impl BlobWriter {
    pub(crate) fn new(larder: &Larder, placement: Placement, length: Option<u64>) -> Self {
        let sink = Sink::Inline(Vec::new());
        Self { larder: larder.clone(), placement, length, size: 0, sink }
    }

    /// Bytes taken so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        let inline_max = self.larder.inner.inline_bytes_max as u64;
        match &mut self.sink {
            Sink::Chunks(sink) => sink.write(&bytes).await,
            Sink::Inline(body) if self.size.max(self.length.unwrap_or(0)) <= inline_max => {
                if body.is_empty() {
                    // The declared length is at most the inline limit here.
                    let length = usize::try_from(self.length.unwrap_or(0)).unwrap_or(0);
                    body.reserve_exact(length.max(bytes.len()));
                }
                body.extend_from_slice(&bytes);
                Ok(())
            }
            Sink::Inline(body) => {
                let body = std::mem::take(body);
                let mut sink = Box::new(ChunkSink::new(&self.larder, self.placement, self.length)?);
                sink.write(&body).await?;
                sink.write(&bytes).await?;
                self.sink = Sink::Chunks(sink);
                Ok(())
            }
        }
    }

    /// Makes everything durable that is not part of the commit.
    pub(crate) async fn finish(self) -> Result<Finished> {
        let size = self.size;
        match self.sink {
            Sink::Inline(body) => {
                let inner = &self.larder.inner;
                Ok(Finished {
                    id: inner.staging.inline_id(inner.incarnation),
                    size,
                    sha256: Sha256::of(&body),
                    content: Content::Inline(body.into()),
                    staged: None,
                })
            }
            Sink::Chunks(sink) => {
                let (staged, sha256, chunks) = sink.finish().await?;
                Ok(Finished {
                    id: staged.blob,
                    size,
                    sha256,
                    content: Content::Chunks(chunks),
                    staged: Some(staged),
                })
            }
        }
    }
}

#[derive(Debug)]
struct ChunkSink {
    larder: Larder,
    staged: Staged,
    placement: Placement,
    plan: Plan,
    done: Vec<ChunkRef>,
    open: Option<OpenChunk>,
    hash: Hash,
}

#[derive(Debug)]
struct OpenChunk {
    server: ServerId,
    writer: Box<dyn ChunkWriter>,
    buffer: Option<Buffer>,
    /// Bytes that it may still take.
    left: u64,
}

/// The digest, wherever it is being computed.
#[derive(Debug)]
enum Hash {
    Idle(Sha256Stream),
    Busy(JoinHandle<Sha256Stream>),
}

impl ChunkSink {
    fn new(larder: &Larder, placement: Placement, length: Option<u64>) -> Result<Self> {
        let inner = &larder.inner;
        Ok(Self {
            larder: larder.clone(),
            staged: inner.staging.stage(inner.incarnation),
            placement,
            plan: placement.split.plan(length),
            done: Vec::new(),
            open: None,
            hash: Hash::Idle(Sha256Stream::default()),
        })
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let chunk = self.open_chunk().await?;
            let allowed = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(bytes.len());
            let mut buffer = match chunk.buffer.take() {
                Some(buffer) => buffer,
                None => chunk.writer.buffer().await?,
            };
            let (head, _) = bytes.split_at(allowed);
            let taken = buffer.extend_from_slice(head);
            chunk.left -= taken as u64;
            bytes = bytes.split_at(taken).1;
            let chunk_full = chunk.left == 0;
            if chunk_full || buffer.is_full() {
                self.hand_over(buffer).await?;
            } else {
                chunk.buffer = Some(buffer);
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

    /// Hashes and writes a buffer, both at once.
    async fn hand_over(&mut self, buffer: Buffer) -> Result<()> {
        let buffer = Arc::new(buffer);
        let mut hash = self.take_hash().await?;
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
        if let Some(buffer) = chunk.buffer.take() {
            self.open = Some(chunk);
            self.hand_over(buffer).await?;
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

    async fn finish(mut self: Box<Self>) -> Result<(Staged, Sha256, Vec<ChunkRef>)> {
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
