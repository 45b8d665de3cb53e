//! From a blob to a stream of verified bytes.
//!
//! Each window of a chunk waits for its turn ([`crate::work`]), and the next one is read while
//! this one is consumed as long as there is memory to spare: a client that does not read holds
//! two windows at best and one small one when it is crowded.
//!
//! Promises: what [`Body::next`] gives has matched its checksum; after an error nothing more
//! comes, and the door must abort its connection rather than end the body (docs/semantics.md,
//! Download). A body goes on to its end although its file is overwritten, deleted and purged
//! meanwhile.
//!
//! Not here: finding the revision (`download`), how windows are read (the chunk store).

use std::{collections::VecDeque, fmt, mem, ops::Range, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{
    ErrorKind,
    memory::{ENTRY_WAIT_MAX, Share, Use},
};
use larder_chunk::ChunkReader;
use tokio::task::JoinHandle;

use crate::{
    Larder,
    blob::epoch::Note,
    error::{Error, Result},
    schema::{Blob, ChunkRef, Content},
    work::{Class, Client, Task},
};

/// The next window is read ahead while so many eighths of the memory budget are free.
const AHEAD_ROOM: usize = 4;

/// Small contents up to this length need no more memory than their connection has anyway.
const FREE_BYTES: usize = 8 << 10;

/// When to try again if there is no memory for an answer.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// Bytes and the right to have them.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of one range of one blob, in order.
#[derive(Debug)]
pub struct Body {
    larder: Larder,
    inline: Option<Bytes>,
    chunks: Chunks,
    /// Keeps the blob's bytes until this body ends.
    _note: Arc<Note>,
}

/// What is still to be read from chunks.
#[derive(Debug)]
enum Chunks {
    /// Nothing.
    None,
    /// These, of which nothing is read right now.
    Idle(Box<Parts>),
    /// The next window is being read.
    Reading(Reading),
}

/// Parts of chunks in order.
#[derive(Debug)]
struct Parts {
    /// Chunks that are still to be read, and which part of each.
    waiting: VecDeque<(ChunkRef, Range<u64>)>,
    reader: Option<Box<dyn ChunkReader>>,
    /// Bytes that are still to come from all of them: nobody waits for a turn to learn that there
    /// are none.
    left: u64,
    task: Option<Task>,
}

/// A window that is being read; it stops with this.
struct Reading(Pin<Box<dyn Future<Output = Outcome> + Send>>);

/// A task that reads; it stops with this.
struct Ahead(JoinHandle<Outcome>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Outcome = Result<(Box<Parts>, Option<Bytes>)>;

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl Body {
    pub(crate) fn new(
        larder: &Larder,
        blob: &Blob,
        range: Range<u64>,
        note: Arc<Note>,
    ) -> Result<Self> {
        if range.start > range.end || range.end > blob.size {
            return Err(Error::invalid("the range lies outside of the file"));
        }
        let larder = larder.clone();
        let mut body = Self { larder, inline: None, chunks: Chunks::None, _note: note };
        match &blob.content {
            Content::Inline(bytes) => {
                let slice = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                // Within bounds: decoding has checked that the bytes are as many as the size.
                let bytes = bytes.slice(slice(range.start)..slice(range.end));
                body.inline = Some(bytes).filter(|bytes| !bytes.is_empty());
            }
            Content::Chunks(chunks) => {
                let waiting = cut(chunks, &range)?;
                let left = range.end - range.start;
                let parts = Parts { waiting, reader: None, left, task: None };
                body.chunks = Chunks::Idle(Box::new(parts));
            }
        }
        Ok(body)
    }

    /// Says for whom the bytes are read; else it is the server. `Busy` if too much work waits.
    pub(crate) fn on_behalf_of(mut self, client: &Client) -> Result<Self> {
        if let Chunks::Idle(parts) = &mut self.chunks {
            parts.task = Some(self.larder.inner.work.enter(client, Class::Download)?);
        }
        Ok(self)
    }

    /// The next bytes; `None` at the end. Never an empty piece. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = &self.inline {
            let bytes = counted(&self.larder, bytes.clone()).await?;
            self.inline = None;
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
                self.chunks = Chunks::None;
                if error.kind() == ErrorKind::Corrupt {
                    self.larder.inner.metrics.damaged_reads.add(1);
                    tracing::error!(%error, "read damaged content");
                }
            }
        }
        result
    }

    async fn next_of_chunks(&mut self) -> Result<Option<Bytes>> {
        let reading = match mem::replace(&mut self.chunks, Chunks::None) {
            Chunks::None => return Ok(None),
            Chunks::Idle(parts) => self.read(parts),
            Chunks::Reading(reading) => reading,
        };
        // What is being read stays in place until it has been read.
        self.chunks = Chunks::Reading(reading);
        let Chunks::Reading(Reading(reading)) = &mut self.chunks else { return Ok(None) };
        let (parts, bytes) = reading.await?;
        let ahead = bytes.is_some() && self.larder.inner.config.memory.room() >= AHEAD_ROOM;
        self.chunks = match parts {
            parts if bytes.is_none() || parts.left == 0 => Chunks::None,
            parts if ahead => Chunks::Reading(self.read_ahead(parts)),
            parts => Chunks::Idle(parts),
        };
        Ok(bytes)
    }

    /// Reads the next window while somebody waits for it.
    fn read(&self, mut parts: Box<Parts>) -> Reading {
        let larder = self.larder.clone();
        Reading(Box::pin(async move {
            let bytes = parts.next(&larder).await?;
            Ok((parts, bytes))
        }))
    }

    /// Begins to read the next window in a task of its own.
    fn read_ahead(&self, parts: Box<Parts>) -> Reading {
        let Reading(reading) = self.read(parts);
        let mut task = Ahead(self.larder.inner.env.spawn("read a window", reading));
        Reading(Box::pin(async move {
            let stopped = |error| Error::internal("reading stopped").with_source(error);
            (&mut task.0).await.map_err(stopped)?
        }))
    }
}

impl Parts {
    async fn next(&mut self, larder: &Larder) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let task = match self.task.take() {
            Some(task) => task,
            None => larder.inner.work.enter(&Client::background(), Class::Download)?,
        };
        let task = self.task.insert(task);
        loop {
            if let Some(reader) = &mut self.reader {
                // First the memory: whoever has a turn must not wait for others.
                reader.prepare().await?;
                let _turn = task.turn().await;
                if let Some(bytes) = reader.next().await? {
                    self.left = self.left.saturating_sub(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                self.reader = None;
            }
            let Some((chunk, range)) = self.waiting.pop_front() else { return Ok(None) };
            let store = larder.inner.stores.holding(&chunk)?;
            self.reader = Some(store.open(chunk.id, range).await?);
        }
    }
}

/// The content of a small file with the right to its memory until it has been sent.
async fn counted(larder: &Larder, bytes: Bytes) -> Result<Bytes> {
    if bytes.len() <= FREE_BYTES {
        return Ok(bytes);
    }
    let inner = &larder.inner;
    let memory = &inner.config.memory;
    // A client may hold it still: others come first.
    let leaves = memory.budget() / 8;
    let share = memory
        .take_leaving(Use::Reads, bytes.len(), leaves, ENTRY_WAIT_MAX, &inner.env)
        .await
        .ok_or_else(|| {
            let detail = "too many answers are on their way; try again later";
            Error::new(ErrorKind::Busy, detail).with_retry_after(BUSY_PAUSE)
        })?;
    Ok(Bytes::from_owner(Counted { bytes, _share: share }))
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
