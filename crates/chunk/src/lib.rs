//! Bytes at rest: immutable chunks under ids that are never reused, and where to put them.
//!
//! Write path: a caller opens a [`ChunkWriter`], fills [`Buffer`]s, hands them over, and
//! finishes; when `finish` returns, the chunk is on stable storage under its name, checksummed
//! block by block. Read path: a caller opens a [`ChunkReader`] for a range and takes verified
//! buffers from it until it ends.
//!
//! Promises: I-CHK-1 a finished chunk survives a crash and a power cut; I-CHK-2 an unfinished one
//! has no name; I-CHK-3 bytes that fail their checksum are never returned; I-CHK-4 a failed fsync
//! fails the store; I-CHK-5 an open reader finishes although the chunk is deleted.
//!
//! Not here: which chunks are referenced (core), metadata of any kind.

pub mod chaos;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod format;
pub mod local;
pub mod memory;
pub mod observe;
pub mod placement;
pub mod store;

pub use local::{Expect, LocalOptions, LocalStore, OpenError};
pub use memory::MemoryChunks;
pub use store::{
    Buffer, BufferPool, Capacity, ChunkError, ChunkReader, ChunkStat, ChunkStore, ChunkWriter,
    ScrubReport, StoreHealth,
};
