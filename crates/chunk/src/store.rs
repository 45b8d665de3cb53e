//! The trait that every chunk store implements.
//!
//! Not here: the stores themselves, and the suite that they must pass.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use larder_base::id::{ChunkId, Incarnation, ServerId};
pub use larder_disk::buffer::{Buffer, BufferPool};

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStat {
    /// Its id.
    pub id: ChunkId,
    /// Bytes of content.
    pub length: u64,
    /// CRC-32C over the checksums of its blocks: equal for equal content.
    pub checksum: u32,
    /// Bytes that it takes on the disk, with header, padding and checksums.
    pub stored_bytes: u64,
}

/// Room in a store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Size of the disk.
    pub total: u64,
    /// What may still be written, after the reserve for metadata and deletes.
    pub free: u64,
}

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Reads and writes work.
    Ready,
    /// Only reads and deletes work: the disk is full.
    Full,
    /// Only reads work: an fsync or write failed, and what the disk holds is not known any more.
    Failed(String),
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Chunks read and verified.
    pub chunks: u64,
    /// Bytes of content read and verified.
    pub bytes: u64,
    /// Chunks whose bytes do not match their checksums; they have been moved to quarantine
    /// unless that failed.
    pub damaged: Vec<ChunkId>,
    /// Where to go on; `None` at the end.
    pub next: Option<ChunkId>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// There is no such chunk.
    #[error("no such chunk: {0}")]
    NotFound(ChunkId),
    /// A chunk with this id exists: ids are never reused.
    #[error("chunk exists: {0}")]
    Exists(ChunkId),
    /// Its bytes do not match their checksums.
    #[error("chunk damaged: {id}: {detail}")]
    Corrupt {
        /// Which chunk.
        id: ChunkId,
        /// What does not match.
        detail: String,
    },
    /// The requested range does not lie in the chunk.
    #[error("range outside of chunk {0}")]
    Range(ChunkId),
    /// There is no room; nothing was stored.
    #[error("chunk store is full")]
    Full,
    /// The store has failed or cannot be reached; nothing was stored.
    #[error("chunk store unavailable: {0}")]
    Unavailable(String),
    /// No memory was free in time: it may be tried again later.
    #[error("no memory was free in time")]
    Busy,
    /// The operating system refused.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// A place where chunks are kept.
///
/// Durability: a chunk is durable when [`ChunkWriter::finish`] returns; deletes when
/// [`sync_deletes`](Self::sync_deletes) returns.
#[async_trait]
pub trait ChunkStore: Send + Sync + fmt::Debug {
    /// The identity of this store, recorded with every chunk that is written to it.
    fn server(&self) -> ServerId;

    /// Begins chunk `id`. `length` is its content length where it is known: room is allocated
    /// for it at once, so that a full disk is told early. `Exists` if there is such a chunk.
    async fn create(
        &self,
        id: ChunkId,
        length: Option<u64>,
    ) -> Result<Box<dyn ChunkWriter>, ChunkError>;

    /// A reader of `range` of chunk `id`. That there is no such chunk or range may be told by the
    /// reader's first piece; once that is read it goes on to the end although the chunk is deleted.
    async fn open(
        &self,
        id: ChunkId,
        range: Range<u64>,
    ) -> Result<Box<dyn ChunkReader>, ChunkError>;

    /// What is known of chunk `id`, from its own header and trailer.
    async fn head(&self, id: ChunkId) -> Result<ChunkStat, ChunkError>;

    /// Removes chunk `id`. Removing one that is not there is fine.
    async fn delete(&self, id: ChunkId) -> Result<(), ChunkError>;

    /// Makes all earlier deletes durable: a power cut before it may bring their chunks back. To
    /// be called once for many deletes, before the records that name the chunks are removed.
    async fn sync_deletes(&self) -> Result<(), ChunkError> {
        Ok(())
    }

    /// Up to `limit` finished chunks of `owner` after `after`, in order of id.
    async fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<ChunkId>, ChunkError>;

    /// The incarnations that own finished chunks here, in order.
    async fn owners(&self) -> Result<Vec<Incarnation>, ChunkError>;

    /// Room in the store.
    async fn capacity(&self) -> Result<Capacity, ChunkError>;

    /// Reads and verifies up to `bytes_max` bytes of chunks after `after`, and moves damaged ones
    /// to quarantine, where reads do not find them.
    async fn scrub(
        &self,
        after: Option<ChunkId>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ChunkError>;

    /// How the store is.
    fn health(&self) -> StoreHealth;
}

/// Writes one chunk. Dropping it unfinished leaves nothing behind.
#[async_trait]
pub trait ChunkWriter: Send + Sync + fmt::Debug {
    /// Takes an empty buffer to fill, for up to about `wanted` bytes, waiting for memory a while
    /// and then failing with [`ChunkError::Busy`]. Buffers differ in size: less is given while
    /// many are in use, and no more than the rest of a known length needs; at least one block.
    async fn buffer(&mut self, wanted: usize) -> Result<Buffer, ChunkError>;

    /// Appends the content of `buffer`. Every buffer but the last must be full (or at least whole
    /// blocks of [`BLOCK`](crate::format::BLOCK) bytes); an empty one is fine. The write goes on
    /// while the caller fills the next one, or hashes this one (hence the `Arc`: it returns to
    /// the pool when the last holder drops it); its error is told by a later call.
    async fn write(&mut self, buffer: Arc<Buffer>) -> Result<(), ChunkError>;

    /// Makes the chunk durable under its name: content, checksums, name, and the name's directory.
    async fn finish(self: Box<Self>) -> Result<ChunkStat, ChunkError>;
}

/// Reads one range of one chunk, in order.
#[async_trait]
pub trait ChunkReader: Send + Sync + fmt::Debug {
    /// Takes the memory for the next piece, waiting for it a while and then failing with
    /// [`ChunkError::Busy`]; [`next`](Self::next) waits for none then.
    async fn prepare(&mut self) -> Result<(), ChunkError> {
        Ok(())
    }

    /// The next verified bytes; `None` at the end of the range. Never an empty buffer.
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, ChunkError>;
}
