//! From a blob to a stream of verified bytes.
//!
//! Promises: what [`Body::next`] gives has matched its checksum; after an error nothing more
//! comes, and the door must abort its connection rather than end the body (docs/semantics.md,
//! Download). A body goes on to its end although its file is overwritten, deleted and purged
//! meanwhile.
//!
//! Not here: finding the revision (`download`), prefetching (the chunk store's reader).

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use larder_base::ErrorKind;
use larder_chunk::ChunkReader;

use crate::{
    Larder,
    blob::epoch::Note,
    error::{Error, Result},
    schema::{Blob, ChunkRef, Content},
};

/// The bytes of one range of one blob, in order.
#[derive(Debug)]
pub struct Body {
    larder: Larder,
    inline: Option<Bytes>,
    /// Chunks that are still to be read, and which part of each.
    waiting: VecDeque<(ChunkRef, Range<u64>)>,
    reader: Option<Box<dyn ChunkReader>>,
    /// Keeps the blob's bytes until this body ends.
    _note: std::sync::Arc<Note>,
}

impl Body {
    pub(crate) fn new(
        larder: &Larder,
        blob: &Blob,
        range: Range<u64>,
        note: std::sync::Arc<Note>,
    ) -> Result<Self> {
        if range.start > range.end || range.end > blob.size {
            return Err(Error::invalid("the range lies outside of the file"));
        }
        let larder = larder.clone();
        let mut body =
            Self { larder, inline: None, waiting: VecDeque::new(), reader: None, _note: note };
        match &blob.content {
            Content::Inline(bytes) => {
                let slice = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                // Within bounds: decoding has checked that the bytes are as many as the size.
                body.inline = Some(bytes.slice(slice(range.start)..slice(range.end)));
            }
            Content::Chunks(chunks) => body.waiting = cut(chunks, &range)?,
        }
        Ok(body)
    }

    /// The next bytes; `None` at the end. Never an empty piece.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.inline.take().filter(|bytes| !bytes.is_empty()) {
            self.larder.inner.metrics.downloaded_bytes.add(bytes.len() as u64);
            return Ok(Some(bytes));
        }
        let result = self.next_of_chunks().await;
        match &result {
            Ok(Some(bytes)) => {
                self.larder.inner.metrics.downloaded_bytes.add(bytes.len() as u64);
            }
            Ok(None) => {}
            Err(error) => {
                self.waiting.clear();
                self.reader = None;
                if error.kind() == ErrorKind::Corrupt {
                    self.larder.inner.metrics.damaged_reads.add(1);
                    tracing::error!(%error, "read damaged content");
                }
            }
        }
        result
    }

    async fn next_of_chunks(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(reader) = &mut self.reader {
                if let Some(bytes) = reader.next().await? {
                    return Ok(Some(bytes));
                }
                self.reader = None;
            }
            let Some((chunk, range)) = self.waiting.pop_front() else { return Ok(None) };
            let store = self.larder.inner.stores.holding(&chunk)?;
            self.reader = Some(store.open(chunk.id, range).await?);
        }
    }
}

/// The parts of chunks that make up a range of their blob.
fn cut(chunks: &[ChunkRef], range: &Range<u64>) -> Result<VecDeque<(ChunkRef, Range<u64>)>> {
    let mut parts = VecDeque::new();
    let mut start: u64 = 0;
    for chunk in chunks {
        let end = start.checked_add(chunk.length).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "a blob's chunks are longer than a file can be")
        })?;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            parts.push_back((chunk.clone(), from - start..to - start));
        }
        start = end;
    }
    Ok(parts)
}
