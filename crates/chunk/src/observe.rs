//! Counts what a store does, how long it takes and what fails.
//!
//! Promises: changes nothing of what the store behind it answers; costs two clock readings and
//! a few relaxed atomic additions a call.
//!
//! Not here: names and formats of metrics (the binary turns a [`Snapshot`] into them).

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::{
    Env,
    id::{ChunkId, Incarnation, ServerId},
};

use crate::store::{
    Buffer, Capacity, ChunkError, ChunkReader, ChunkStat, ChunkStore, ChunkWriter, ScrubReport,
    StoreHealth,
};

/// The kinds of calls that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`ChunkStore::create`].
    Create,
    /// [`ChunkWriter::write`]: the time that the caller waits for the disk.
    Write,
    /// [`ChunkWriter::finish`].
    Finish,
    /// [`ChunkStore::open`].
    Open,
    /// [`ChunkReader::next`]: the time that the caller waits for the disk.
    Read,
    /// [`ChunkStore::delete`].
    Delete,
    /// Everything else.
    Other,
}

impl Call {
    /// Every kind, in the order of [`Snapshot::calls`].
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Write,
        Self::Finish,
        Self::Open,
        Self::Read,
        Self::Delete,
        Self::Other,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Finish => "finish",
            Self::Open => "open",
            Self::Read => "read",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }
}

/// What has been counted of one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many ended.
    pub count: u64,
    /// How many of them failed, for whatever reason.
    pub errors: u64,
    /// How long all of them took together.
    pub time: Duration,
    /// The longest.
    pub longest: Duration,
}

/// What has been counted since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// By kind, in the order of [`Call::ALL`].
    pub calls: [Calls; 7],
    /// Bytes of content of finished chunks.
    pub bytes_written: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Damaged chunks that were met.
    pub corrupt: u64,
}

impl Snapshot {
    /// What was counted of `call`.
    pub fn of(&self, call: Call) -> Calls {
        self.calls.get(call as usize).copied().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    longest: AtomicU64,
}

#[derive(Debug)]
struct Counters {
    env: Env,
    calls: [Counter; 7],
    written: AtomicU64,
    read: AtomicU64,
    corrupt: AtomicU64,
}

impl Counters {
    async fn timed<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, ChunkError>>,
    ) -> Result<T, ChunkError> {
        let start = self.env.monotonic();
        let outcome = work.await;
        let nanos = self.env.monotonic().saturating_sub(start).as_nanos() as u64;
        if let Some(counter) = self.calls.get(call as usize) {
            counter.count.fetch_add(1, Ordering::Relaxed);
            counter.nanos.fetch_add(nanos, Ordering::Relaxed);
            counter.longest.fetch_max(nanos, Ordering::Relaxed);
            counter.errors.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
        }
        if matches!(outcome, Err(ChunkError::Corrupt { .. })) {
            self.corrupt.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

/// A store that is watched. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Observed {
    inner: Arc<dyn ChunkStore>,
    counters: Arc<Counters>,
}

impl Observed {
    /// Watches `inner`.
    pub fn new(inner: Arc<dyn ChunkStore>, env: Env) -> Self {
        let counters = Counters {
            env,
            calls: Default::default(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        };
        Self { inner, counters: Arc::new(counters) }
    }

    /// What has been counted so far; each number by itself is exact.
    pub fn snapshot(&self) -> Snapshot {
        let calls = self.counters.calls.each_ref().map(|counter| Calls {
            count: counter.count.load(Ordering::Relaxed),
            errors: counter.errors.load(Ordering::Relaxed),
            time: Duration::from_nanos(counter.nanos.load(Ordering::Relaxed)),
            longest: Duration::from_nanos(counter.longest.load(Ordering::Relaxed)),
        });
        Snapshot {
            calls,
            bytes_written: self.counters.written.load(Ordering::Relaxed),
            bytes_read: self.counters.read.load(Ordering::Relaxed),
            corrupt: self.counters.corrupt.load(Ordering::Relaxed),
        }
    }
}

#[async_trait]
impl ChunkStore for Observed {
    fn server(&self) -> ServerId {
        self.inner.server()
    }

    async fn create(
        &self,
        id: ChunkId,
        length: Option<u64>,
    ) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        let inner = self.counters.timed(Call::Create, self.inner.create(id, length)).await?;
        Ok(Box::new(Writer { inner, counters: Arc::clone(&self.counters) }))
    }

    async fn open(
        &self,
        id: ChunkId,
        range: Range<u64>,
    ) -> Result<Box<dyn ChunkReader>, ChunkError> {
        let inner = self.counters.timed(Call::Open, self.inner.open(id, range)).await?;
        Ok(Box::new(Reader { inner, counters: Arc::clone(&self.counters) }))
    }

    async fn head(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        self.counters.timed(Call::Other, self.inner.head(id)).await
    }

    async fn delete(&self, id: ChunkId) -> Result<(), ChunkError> {
        self.counters.timed(Call::Delete, self.inner.delete(id)).await
    }

    async fn sync_deletes(&self) -> Result<(), ChunkError> {
        self.counters.timed(Call::Other, self.inner.sync_deletes()).await
    }

    async fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<ChunkId>, ChunkError> {
        self.counters.timed(Call::Other, self.inner.list(owner, after, limit)).await
    }

    async fn owners(&self) -> Result<Vec<Incarnation>, ChunkError> {
        self.counters.timed(Call::Other, self.inner.owners()).await
    }

    async fn capacity(&self) -> Result<Capacity, ChunkError> {
        self.counters.timed(Call::Other, self.inner.capacity()).await
    }

    async fn scrub(
        &self,
        after: Option<ChunkId>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ChunkError> {
        let report = self.counters.timed(Call::Other, self.inner.scrub(after, bytes_max)).await?;
        self.counters.corrupt.fetch_add(report.damaged.len() as u64, Ordering::Relaxed);
        Ok(report)
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }
}

#[derive(Debug)]
struct Writer {
    inner: Box<dyn ChunkWriter>,
    counters: Arc<Counters>,
}

#[async_trait]
impl ChunkWriter for Writer {
    async fn buffer(&mut self, wanted: usize) -> Result<Buffer, ChunkError> {
        self.inner.buffer(wanted).await
    }

    async fn write(&mut self, buffer: Arc<Buffer>) -> Result<(), ChunkError> {
        self.counters.timed(Call::Write, self.inner.write(buffer)).await
    }

    async fn finish(self: Box<Self>) -> Result<ChunkStat, ChunkError> {
        let stat = self.counters.timed(Call::Finish, self.inner.finish()).await?;
        self.counters.written.fetch_add(stat.length, Ordering::Relaxed);
        Ok(stat)
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn ChunkReader>,
    counters: Arc<Counters>,
}

#[async_trait]
impl ChunkReader for Reader {
    async fn prepare(&mut self) -> Result<(), ChunkError> {
        self.inner.prepare().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ChunkError> {
        let bytes = self.counters.timed(Call::Read, self.inner.next()).await?;
        let count = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.counters.read.fetch_add(count, Ordering::Relaxed);
        Ok(bytes)
    }
}
