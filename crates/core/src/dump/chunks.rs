//! The chunks of loaded blobs, written as they were: same pieces, same checksums, other owners.
//!
//! Promises: a chunk counts only when it is durable here and has the checksum that it had there.
//!
//! Not here: which ids they get ([`super::load`]).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    id::{ChunkId, ServerId},
};
use larder_chunk::{
    ChunkWriter,
    placement::{self, Placement},
    store::Buffer,
};

use crate::{
    Larder,
    error::{Error, Result},
    schema::ChunkRef,
};

/// A chunk that is being written.
#[derive(Debug)]
pub(super) struct OpenChunk {
    id: ChunkId,
    /// What it must have; `None` if that is not known.
    checksum: Option<u32>,
    length: u64,
    server: ServerId,
    writer: Box<dyn ChunkWriter>,
    buffer: Option<Buffer>,
    left: u64,
}

impl OpenChunk {
    pub(super) async fn create(
        larder: &Larder,
        id: ChunkId,
        length: u64,
        checksum: Option<u32>,
    ) -> Result<Self> {
        let stores = larder.inner.stores.all();
        let chosen = placement::choose(&Placement::SINGLE, id.index, stores)
            .map_err(|error| Error::new(ErrorKind::DiskFull, error.to_string()))?;
        let store = chosen.first().ok_or_else(|| Error::internal("no store was chosen"))?;
        let writer = store.create(id, Some(length)).await?;
        let server = store.server();
        Ok(Self { id, checksum, length, server, writer, buffer: None, left: length })
    }

    /// Whether it has all its bytes.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Takes as many bytes as belong to it from the front of `bytes`.
    pub(super) async fn write(&mut self, bytes: &mut Bytes) -> Result<()> {
        while !bytes.is_empty() && self.left > 0 {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => {
                    self.writer.buffer(usize::try_from(self.left).unwrap_or(usize::MAX)).await?
                }
            };
            let allowed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let taken = buffer.extend_from_slice(bytes.get(..allowed).unwrap_or_default());
            let _taken = bytes.split_to(taken);
            self.left -= taken as u64;
            if buffer.is_full() || self.left == 0 {
                self.writer.write(Arc::new(buffer)).await?;
            } else {
                self.buffer = Some(buffer);
            }
        }
        Ok(())
    }

    /// Makes it durable.
    pub(super) async fn finish(self) -> Result<ChunkRef> {
        let Self { id, checksum, length, server, writer, .. } = self;
        let stat = writer.finish().await?;
        if stat.length != length || checksum.is_some_and(|checksum| checksum != stat.checksum) {
            let detail = "the dump is damaged: content does not have the checksum that it had";
            return Err(Error::new(ErrorKind::BadDigest, detail));
        }
        Ok(ChunkRef { id, length, checksum: stat.checksum, servers: vec![server] })
    }
}
