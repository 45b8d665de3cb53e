//! Chunks in memory: the reference store, for tests and simulations.
//!
//! Promises: behaves as the suite in [`crate::conformance`] demands, durability excepted: what it
//! holds ends with it. Content is verified block by block, as everywhere (I-CHK-3), so that
//! [`MemoryChunks::damage`] shows what a flipped byte does.
//!
//! Not here: delays and random failures ([`crate::chaos`]).

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::{
    Env,
    id::{ChunkId, Incarnation, ServerId},
    memory::{Use, WAIT_MAX},
};

use crate::{
    format::{self, BLOCK},
    store::{
        Buffer, BufferPool, Capacity, ChunkError, ChunkReader, ChunkStat, ChunkStore, ChunkWriter,
        ScrubReport, StoreHealth,
    },
};

/// A store in memory. Cheap to clone; clones share the chunks.
#[derive(Clone, Debug)]
pub struct MemoryChunks {
    server: ServerId,
    pool: BufferPool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    chunks: BTreeMap<ChunkId, Stored>,
    total: u64,
    used: u64,
    failed: Option<String>,
}

#[derive(Clone, Debug)]
struct Stored {
    content: Bytes,
    sums: Arc<[u32]>,
}

impl Stored {
    fn stat(&self, id: ChunkId) -> ChunkStat {
        let length = self.content.len() as u64;
        let checksum = format::table_checksum(&self.sums);
        ChunkStat { id, length, checksum, stored_bytes: format::file_length(length) }
    }

    /// The blocks that `range` touches, verified; then the range of them.
    fn read(&self, id: ChunkId, range: Range<u64>) -> Result<Bytes, ChunkError> {
        let block = range.start / BLOCK as u64;
        let from = block * BLOCK as u64;
        let until = range.end.next_multiple_of(BLOCK as u64).min(self.content.len() as u64);
        let whole = self.content.slice(from as usize..until as usize);
        for (i, sum) in format::block_sums(&whole).enumerate() {
            if self.sums.get(block as usize + i) != Some(&sum) {
                let detail = format!("block {} does not match its checksum", block as usize + i);
                return Err(ChunkError::Corrupt { id, detail });
            }
        }
        Ok(self.content.slice(range.start as usize..range.end as usize))
    }
}

impl MemoryChunks {
    /// An empty store with room for a tebibyte, as far as it tells.
    pub fn new(server: ServerId, pool: BufferPool) -> Self {
        let state = State { chunks: BTreeMap::new(), total: 1 << 40, used: 0, failed: None };
        Self { server, pool, state: Arc::new(Mutex::new(state)) }
    }

    /// Changes its size to `bytes`; it is full when the files of its chunks would take more.
    pub fn set_total(&self, bytes: u64) {
        self.lock().total = bytes;
    }

    /// Fails as a store fails whose disk answered an error to a sync.
    pub fn fail(&self, why: &str) {
        self.lock().failed = Some(why.to_owned());
    }

    /// Flips a bit of byte `at` of a chunk; `false` if there is no such byte.
    pub fn damage(&self, id: ChunkId, at: u64) -> bool {
        let mut state = self.lock();
        let Some(stored) = state.chunks.get_mut(&id) else { return false };
        let mut content = stored.content.to_vec();
        let Some(byte) = usize::try_from(at).ok().and_then(|at| content.get_mut(at)) else {
            return false;
        };
        *byte ^= 1;
        stored.content = content.into();
        true
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.lock().chunks.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self, id: ChunkId) -> Result<Stored, ChunkError> {
        self.lock().chunks.get(&id).cloned().ok_or(ChunkError::NotFound(id))
    }
}

impl State {
    fn admit(&self, bytes: u64) -> Result<(), ChunkError> {
        if let Some(why) = &self.failed {
            return Err(ChunkError::Unavailable(why.clone()));
        }
        if self.used.saturating_add(bytes) > self.total { Err(ChunkError::Full) } else { Ok(()) }
    }
}

#[async_trait]
impl ChunkStore for MemoryChunks {
    fn server(&self) -> ServerId {
        self.server
    }

    async fn create(
        &self,
        id: ChunkId,
        length: Option<u64>,
    ) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        let state = self.lock();
        state.admit(format::file_length(length.unwrap_or(0)))?;
        if state.chunks.contains_key(&id) {
            return Err(ChunkError::Exists(id));
        }
        let content = Vec::new();
        Ok(Box::new(MemoryWriter { store: self.clone(), id, declared: length, content }))
    }

    async fn open(
        &self,
        id: ChunkId,
        range: Range<u64>,
    ) -> Result<Box<dyn ChunkReader>, ChunkError> {
        let stored = self.stored(id)?;
        if range.start > range.end || range.end > stored.content.len() as u64 {
            return Err(ChunkError::Range(id));
        }
        Ok(Box::new(MemoryReader { stored, id, range }))
    }

    async fn head(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        Ok(self.stored(id)?.stat(id))
    }

    async fn delete(&self, id: ChunkId) -> Result<(), ChunkError> {
        let mut state = self.lock();
        if let Some(why) = &state.failed {
            return Err(ChunkError::Unavailable(why.clone()));
        }
        if let Some(stored) = state.chunks.remove(&id) {
            state.used -= stored.stat(id).stored_bytes;
        }
        Ok(())
    }

    async fn sync_deletes(&self) -> Result<(), ChunkError> {
        Ok(())
    }

    async fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<ChunkId>, ChunkError> {
        let state = self.lock();
        let of_owner = state.chunks.keys().filter(|id| id.blob.incarnation == owner);
        Ok(of_owner
            .filter(|id| after.is_none_or(|after| **id > after))
            .take(limit)
            .copied()
            .collect())
    }

    async fn owners(&self) -> Result<Vec<Incarnation>, ChunkError> {
        let mut owners: Vec<_> = self.lock().chunks.keys().map(|id| id.blob.incarnation).collect();
        owners.dedup();
        Ok(owners)
    }

    async fn capacity(&self) -> Result<Capacity, ChunkError> {
        let state = self.lock();
        Ok(Capacity { total: state.total, free: state.total.saturating_sub(state.used) })
    }

    async fn scrub(
        &self,
        after: Option<ChunkId>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ChunkError> {
        let mut report = ScrubReport { next: after, ..ScrubReport::default() };
        let mut state = self.lock();
        loop {
            let after = report.next;
            let next = state.chunks.iter().find(|(id, _)| after.is_none_or(|after| **id > after));
            let Some((id, stored)) = next.map(|(id, stored)| (*id, stored.clone())) else {
                report.next = None;
                return Ok(report);
            };
            let length = stored.content.len() as u64;
            if stored.read(id, 0..length).is_ok() {
                report.chunks += 1;
                report.bytes += length;
            } else {
                report.damaged.push(id);
                state.chunks.remove(&id);
            }
            report.next = Some(id);
            if report.bytes >= bytes_max {
                return Ok(report);
            }
        }
    }

    fn health(&self) -> StoreHealth {
        let state = self.lock();
        match &state.failed {
            Some(why) => StoreHealth::Failed(why.clone()),
            None if state.used >= state.total => StoreHealth::Full,
            None => StoreHealth::Ready,
        }
    }
}

#[derive(Debug)]
struct MemoryWriter {
    store: MemoryChunks,
    id: ChunkId,
    declared: Option<u64>,
    content: Vec<u8>,
}

fn invalid(what: &'static str) -> ChunkError {
    ChunkError::Io { what, source: std::io::ErrorKind::InvalidInput.into() }
}

#[async_trait]
impl ChunkWriter for MemoryWriter {
    async fn buffer(&mut self, wanted: usize) -> Result<Buffer, ChunkError> {
        let left = self.declared.map_or(u64::MAX, |all| all - self.content.len() as u64);
        let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        // No time passes here.
        let buffer = self.store.pool.acquire(Use::Writes, wanted, WAIT_MAX, &Env::system()).await;
        buffer.ok_or(ChunkError::Busy)
    }

    async fn write(&mut self, buffer: Arc<Buffer>) -> Result<(), ChunkError> {
        let end = (self.content.len() + buffer.len()) as u64;
        if !self.content.len().is_multiple_of(BLOCK) || self.declared.is_some_and(|all| end > all) {
            return Err(invalid("write chunk"));
        }
        self.store.lock().admit(buffer.len() as u64)?;
        self.content.extend_from_slice(buffer.as_slice());
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<ChunkStat, ChunkError> {
        if self.declared.is_some_and(|all| all != self.content.len() as u64) {
            return Err(invalid("finish chunk"));
        }
        let sums = format::block_sums(&self.content).collect();
        let stored = Stored { content: self.content.into(), sums };
        let stat = stored.stat(self.id);
        let mut state = self.store.lock();
        state.admit(stat.stored_bytes)?;
        if state.chunks.contains_key(&self.id) {
            return Err(ChunkError::Exists(self.id));
        }
        state.used += stat.stored_bytes;
        state.chunks.insert(self.id, stored);
        Ok(stat)
    }
}

#[derive(Debug)]
struct MemoryReader {
    stored: Stored,
    id: ChunkId,
    range: Range<u64>,
}

#[async_trait]
impl ChunkReader for MemoryReader {
    async fn next(&mut self) -> Result<Option<Bytes>, ChunkError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        // Pieces of any size are allowed; these end at the blocks' ends.
        let end = (self.range.start + 1).next_multiple_of(BLOCK as u64).min(self.range.end);
        let bytes = self.stored.read(self.id, self.range.start..end)?;
        self.range.start = end;
        Ok(Some(bytes))
    }
}
