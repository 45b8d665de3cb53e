//! Writes one chunk: checksums and direct writes on a blocking thread, one at a time, while the
//! caller fills the next buffer; then sync, name, sync of the directory.
//!
//! Promises: I-CHK-1, I-CHK-2; any failure abandons the file, and a failed sync the store.
//! Relies on: buffers being whole blocks except the last (checked).
//! Crash: before the link there is no name; after it the chunk is whole.
//! Cancel: a dropped writer leaves nothing, even if it is dropped while `finish` runs.
//! Not here: where the file goes (`paths`), room (`capacity`).

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use async_trait::async_trait;
use larder_base::{
    failpoint,
    id::ChunkId,
    memory::{Share, Use, WAIT_MAX},
};
use larder_disk::buffer::Buffer;
use tokio::task::JoinHandle;

use super::{Shared, joined, paths::Staged};
use crate::{
    format::{self, BLOCK, Footer, HEADER, LENGTH_MAX},
    store::{ChunkError, ChunkStat, ChunkWriter},
};

/// Begins a chunk; blocks.
pub(super) fn create(
    shared: &Arc<Shared>,
    id: ChunkId,
    length: Option<u64>,
) -> Result<Box<dyn ChunkWriter>, ChunkError> {
    if length.is_some_and(|length| length > LENGTH_MAX) {
        return Err(invalid("create chunk", "it is longer than the format allows"));
    }
    shared.room.admit(format::file_length(length.unwrap_or(0)))?;
    match shared.paths.of(id).try_exists() {
        Ok(false) => {}
        Ok(true) => return Err(ChunkError::Exists(id)),
        Err(source) => return Err(ChunkError::Io { what: "look up chunk", source }),
    }
    let staged = shared.paths.stage(id);
    let staged = staged.map_err(|source| shared.room.failed_io("create chunk", source))?;
    if let Some(length) = length {
        let allocated = staged.file.allocate(format::file_length(length));
        allocated.map_err(|source| shared.room.failed_io("allocate chunk", source))?;
    }
    failpoint::reach("chunk.created");
    // Too little to wait for, too much not to be counted: 64 KiB a GiB.
    let sums = format::blocks(length.unwrap_or(0)) * 4;
    let table = shared.pool.memory().charge(Use::Writes, usize::try_from(sums).unwrap_or(0));
    let file = Written { staged, sums: Vec::new(), table, length: 0, footer: None };
    Ok(Box::new(LocalWriter {
        shared: Arc::clone(shared),
        id,
        declared: length,
        accepted: 0,
        state: State::Idle(file),
    }))
}

fn invalid(what: &'static str, why: &'static str) -> ChunkError {
    ChunkError::Io { what, source: io::Error::new(io::ErrorKind::InvalidInput, why) }
}

/// The file and what has been written to it.
#[derive(Debug)]
struct Written {
    staged: Staged,
    sums: Vec<u32>,
    /// The right to the memory of `sums`.
    table: Share,
    length: u64,
    /// Set once the trailer is written too.
    footer: Option<Footer>,
}

#[derive(Debug)]
enum State {
    Idle(Written),
    Writing(JoinHandle<Result<Written, ChunkError>>),
    /// A write has failed and was told, or `finish` has begun.
    Gone,
}

#[derive(Debug)]
struct LocalWriter {
    shared: Arc<Shared>,
    id: ChunkId,
    declared: Option<u64>,
    /// Bytes taken from the caller, written or not.
    accepted: u64,
    state: State,
}

impl LocalWriter {
    /// Waits for the write in flight. Cancel-safe: the state changes after the wait.
    async fn settle(&mut self) -> Result<Written, ChunkError> {
        let outcome = match &mut self.state {
            State::Idle(_) | State::Gone => None,
            State::Writing(handle) => Some(joined(handle.await)),
        };
        match (outcome, std::mem::replace(&mut self.state, State::Gone)) {
            (Some(outcome), _) => outcome,
            (None, State::Idle(file)) => Ok(file),
            (None, _) => Err(invalid("write chunk", "an earlier write has failed")),
        }
    }

    fn check(&self, length: usize) -> Result<u64, ChunkError> {
        if !self.accepted.is_multiple_of(BLOCK as u64) {
            return Err(invalid("write chunk", "an earlier buffer was not whole blocks"));
        }
        let end = self.accepted + length as u64;
        if end > self.declared.unwrap_or(LENGTH_MAX) {
            return Err(invalid("write chunk", "it is longer than declared"));
        }
        Ok(end)
    }
}

#[async_trait]
impl ChunkWriter for LocalWriter {
    async fn buffer(&mut self, wanted: usize) -> Result<Buffer, ChunkError> {
        let Shared { room, pool, env, .. } = &*self.shared;
        room.check_failed()?;
        let left = self.declared.map_or(u64::MAX, |length| length.saturating_sub(self.accepted));
        let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = pool.acquire(Use::Writes, wanted, WAIT_MAX, env).await;
        buffer.ok_or(ChunkError::Busy)
    }

    async fn write(&mut self, buffer: Arc<Buffer>) -> Result<(), ChunkError> {
        let accepted = self.check(buffer.len())?;
        let mut file = self.settle().await?;
        if buffer.is_empty() {
            self.state = State::Idle(file);
            return Ok(());
        }
        self.accepted = accepted;
        if self.declared.is_none() {
            let more = format::blocks(buffer.len() as u64) * 4;
            file.table.merge(self.shared.pool.memory().charge(Use::Writes, more as usize));
        }
        let (shared, id, last) =
            (Arc::clone(&self.shared), self.id, self.declared == Some(accepted));
        let declared = self.declared.is_some();
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            if !declared {
                shared.room.admit(buffer.len() as u64)?;
            }
            let written = file.append(id, &buffer, last);
            written.map_err(|source| shared.room.failed_io("write chunk", source))
        }));
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<ChunkStat, ChunkError> {
        let file = self.settle().await?;
        if self.declared.is_some_and(|length| length != self.accepted) {
            return Err(invalid("finish chunk", "it is shorter than declared"));
        }
        let finish = Arc::new(Finish { shared: Arc::clone(&self.shared), id: self.id });
        let mut watch = Watch { stage: Arc::new(AtomicU8::new(RUNNING)), finish };
        let (stage, finish) = (Arc::clone(&watch.stage), Arc::clone(&watch.finish));
        let work = move || {
            let stat = finish.run(file)?;
            if stage.swap(DONE, Ordering::AcqRel) == ABANDONED {
                finish.undo();
            }
            Ok(stat)
        };
        let outcome = joined(tokio::task::spawn_blocking(work).await);
        // From here on the caller has the answer.
        watch.stage = Arc::new(AtomicU8::new(RUNNING));
        outcome
    }
}

impl Written {
    /// Appends the content of `buffer`, and the trailer if it is the last one.
    fn append(mut self, id: ChunkId, buffer: &Buffer, last: bool) -> io::Result<Self> {
        self.sums.extend(format::block_sums(buffer.as_slice()));
        let offset = self.length;
        self.length += buffer.len() as u64;
        let trailer = last.then(|| self.trailer(id));
        // One call for header, content and trailer where they meet: a chunk of 1 MiB is one.
        let header = (offset == 0).then(|| aligned(&format::header(id)));
        let parts = [header.as_ref(), Some(buffer), trailer.as_ref()];
        let parts: Vec<_> =
            parts.into_iter().flatten().map(|part| IoSlice::new(part.as_padded())).collect();
        let at = if offset == 0 { 0 } else { HEADER as u64 + offset };
        self.staged.file.write_vectored(&parts, at)?;
        Ok(self)
    }

    fn trailer(&mut self, id: ChunkId) -> Buffer {
        let (bytes, footer) = format::trailer(id, self.length, &self.sums);
        self.footer = Some(footer);
        aligned(&bytes)
    }

    /// Writes what `append` could not know to be the end; returns what the footer says.
    fn close(&mut self, id: ChunkId) -> io::Result<Footer> {
        if let Some(footer) = self.footer {
            return Ok(footer);
        }
        if self.length == 0 {
            self.staged.file.write_all_at(aligned(&format::header(id)).as_padded(), 0)?;
        }
        let trailer = self.trailer(id);
        let at = format::trailer_offset(self.length);
        self.staged.file.write_all_at(trailer.as_padded(), at)?;
        self.footer.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A copy in memory that direct I/O takes. Headers are 4 KiB, trailers 64 KiB a GiB.
fn aligned(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::detached(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}

/// The last steps of a chunk, on a blocking thread.
#[derive(Debug)]
struct Finish {
    shared: Arc<Shared>,
    id: ChunkId,
}

impl Finish {
    fn run(&self, mut file: Written) -> Result<ChunkStat, ChunkError> {
        let room = &self.shared.room;
        room.check_failed()?;
        let footer = file.close(self.id).map_err(|source| room.failed_io("write chunk", source))?;
        failpoint::reach("chunk.written");
        let synced = file.staged.file.sync_data();
        synced.map_err(|source| room.failed_sync("sync chunk", source))?;
        failpoint::reach("chunk.synced");
        self.shared.paths.link(&file.staged, self.id).map_err(|(sync, source)| {
            if sync {
                return room.failed_sync("sync directory", source);
            }
            if source.kind() == io::ErrorKind::AlreadyExists {
                return ChunkError::Exists(self.id);
            }
            room.failed_io("link chunk", source)
        })?;
        room.has_room();
        Ok(ChunkStat {
            id: self.id,
            length: footer.length,
            checksum: footer.checksum,
            stored_bytes: format::file_length(footer.length),
        })
    }

    /// Nobody waits for the chunk any more.
    fn undo(&self) {
        if let Err(error) = self.shared.paths.unlink(self.id) {
            tracing::warn!(id = %self.id, %error, "leave an abandoned chunk to its collection");
        }
    }
}

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;

/// Sees to it that a `finish` whose future is dropped leaves no chunk: whoever comes second, the
/// blocking work or the drop, removes it.
struct Watch {
    stage: Arc<AtomicU8>,
    finish: Arc<Finish>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.stage.swap(ABANDONED, Ordering::AcqRel) == DONE {
            self.finish.undo();
        }
    }
}
