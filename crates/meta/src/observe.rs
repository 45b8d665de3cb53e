//! A decorator that measures: latencies, outcomes of commits, and a log of the slow ones.
//!
//! Promises: answers are the inner store's, unchanged; measuring takes no lock and a bounded
//! amount of memory; no key or value is logged, because names of files are in them.
//!
//! Not here: the text form of metrics (the binary's metrics page), figures of the engine itself
//! ([`MetaStore::statistics`]).

use std::{
    array,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::env::Env;

use crate::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Record, Revision, Snapshot,
    TxnSpec,
};

/// Number of buckets of a [`Latencies`]: the last but one ends at 2^25 us, about 34 s.
pub const BUCKETS: usize = 27;

/// The slow log speaks at most once in this time, and says how often it was silent.
const SLOW_LOG_EVERY: Duration = Duration::from_secs(1);

/// A store that measures what is asked of another.
#[derive(Debug)]
pub struct ObservedStore {
    inner: Arc<dyn MetaStore>,
    meter: Arc<Meter>,
    reads_every: NonZeroU32,
    /// Snapshots given, modulo 2^32.
    snapshots: AtomicU32,
}

/// What an [`ObservedStore`] has measured since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Time from the call of a commit to its answer, whatever that was.
    pub commit: Latencies,
    /// Time of each `get` and `get_many`.
    pub get: Latencies,
    /// Time of each `scan` and `scan_back`.
    pub scan: Latencies,
    /// What commits came to.
    pub outcomes: Outcomes,
    /// Reads, and requests for a snapshot, that failed.
    pub read_errors: u64,
    /// Calls that took longer than the threshold of the slow log.
    pub slow: u64,
}

/// How many commits were answered in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Committed now.
    pub committed: u64,
    /// Recognised as committed before.
    pub repeated: u64,
    /// Refused because a record had changed.
    pub conflicts: u64,
    /// Refused because of a bound.
    pub bounds: u64,
    /// Refused because the process is fenced.
    pub fenced: u64,
    /// Refused because the spec breaks the limits: a defect of ours.
    pub specs: u64,
    /// Refused for want of room.
    pub full: u64,
    /// Not done because the engine is unavailable.
    pub unavailable: u64,
    /// Refused because a stored record is damaged.
    pub corrupt: u64,
    /// Left open.
    pub unknown: u64,
}

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How many durations were in each bucket; see [`upper_bound`](Self::upper_bound).
    pub buckets: [u64; BUCKETS],
    /// All durations together.
    pub sum: Duration,
}

impl Latencies {
    /// Durations in `bucket` are less than this, and not less than the bound of the bucket
    /// before; `None` for the last bucket, which has no bound.
    pub fn upper_bound(bucket: usize) -> Option<Duration> {
        (bucket + 1 < BUCKETS).then(|| Duration::from_micros(1 << bucket))
    }

    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// A duration that at least `percent` of a hundred did not reach, as far as the buckets tell;
    /// `None` if there were no durations, or if it is beyond the last bound.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.count() * percent).div_ceil(100).max(1);
        let mut below = 0;
        let bucket = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        });
        Self::upper_bound(bucket?)
    }
}

#[derive(Debug)]
struct Meter {
    env: Env,
    slow_from: Duration,
    commit: Histogram,
    get: Histogram,
    scan: Histogram,
    outcomes: OutcomeCounts,
    read_errors: AtomicU64,
    slow: AtomicU64,
    /// When the slow log speaks again, in microseconds of `env`'s monotonic time.
    slow_log_from: AtomicU64,
    slow_unlogged: AtomicU64,
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

#[derive(Debug, Default)]
struct OutcomeCounts {
    committed: AtomicU64,
    repeated: AtomicU64,
    conflicts: AtomicU64,
    bounds: AtomicU64,
    fenced: AtomicU64,
    specs: AtomicU64,
    full: AtomicU64,
    unavailable: AtomicU64,
    corrupt: AtomicU64,
    unknown: AtomicU64,
}

impl ObservedStore {
    /// Measures `inner`. Calls that take `slow_from` or longer are logged as warnings.
    pub fn new(inner: Arc<dyn MetaStore>, env: Env, slow_from: Duration) -> Self {
        let meter = Meter {
            env,
            slow_from,
            commit: Histogram::new(),
            get: Histogram::new(),
            scan: Histogram::new(),
            outcomes: OutcomeCounts::default(),
            read_errors: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_log_from: AtomicU64::new(0),
            slow_unlogged: AtomicU64::new(0),
        };
        let (meter, snapshots) = (Arc::new(meter), AtomicU32::new(0));
        Self { inner, meter, reads_every: NonZeroU32::MIN, snapshots }
    }

    /// Measures the reads of one in `every` snapshots only: a read from memory takes hardly more
    /// time than to measure it.
    pub fn with_reads_every(self, every: NonZeroU32) -> Self {
        Self { reads_every: every, ..self }
    }

    /// What was measured until now. The figures are read one after another, so calls under way
    /// may be in one and not yet in the next.
    pub fn snapshot_metrics(&self) -> Metrics {
        Metrics {
            commit: self.meter.commit.read(),
            get: self.meter.get.read(),
            scan: self.meter.scan.read(),
            outcomes: self.meter.outcomes.read(),
            read_errors: self.meter.read_errors.load(Ordering::Relaxed),
            slow: self.meter.slow.load(Ordering::Relaxed),
        }
    }
}

// Relaxed throughout: each figure stands for itself and nothing is decided by it.
impl Histogram {
    fn new() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), sum_micros: AtomicU64::new(0) }
    }

    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // The number of significant bits: 0 for 0, i for 2^(i-1) to 2^i - 1.
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(count) = self.buckets.get(bucket.min(BUCKETS - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn read(&self) -> Latencies {
        Latencies {
            buckets: array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed)),
            sum: Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)),
        }
    }
}

impl OutcomeCounts {
    fn add(&self, result: &Result<Committed, CommitError>) {
        let count = match result {
            Ok(Committed::Now(_)) => &self.committed,
            Ok(Committed::Before(_)) => &self.repeated,
            Err(CommitError::Conflict(_)) => &self.conflicts,
            Err(CommitError::Bound(_)) => &self.bounds,
            Err(CommitError::Fenced) => &self.fenced,
            Err(CommitError::Spec(_)) => &self.specs,
            Err(CommitError::Full) => &self.full,
            Err(CommitError::Unavailable(_)) => &self.unavailable,
            Err(CommitError::Corrupt(_)) => &self.corrupt,
            Err(CommitError::Unknown(_)) => &self.unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Outcomes {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Outcomes {
            committed: read(&self.committed),
            repeated: read(&self.repeated),
            conflicts: read(&self.conflicts),
            bounds: read(&self.bounds),
            fenced: read(&self.fenced),
            specs: read(&self.specs),
            full: read(&self.full),
            unavailable: read(&self.unavailable),
            corrupt: read(&self.corrupt),
            unknown: read(&self.unknown),
        }
    }
}

impl Meter {
    /// Counts a call that began at `start`, and logs it if it was slow.
    fn took(&self, histogram: &Histogram, start: Duration, call: &'static str, items: usize) {
        let now = self.env.monotonic();
        let took = now.saturating_sub(start);
        histogram.add(took);
        if took < self.slow_from {
            return;
        }
        self.slow.fetch_add(1, Ordering::Relaxed);
        // A slow disk makes every call slow: one line in a while says so as well as all of them.
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let from = self.slow_log_from.load(Ordering::Relaxed);
        let next = micros(now + SLOW_LOG_EVERY);
        let ours = micros(now) >= from
            && self
                .slow_log_from
                .compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            let unlogged = self.slow_unlogged.swap(0, Ordering::Relaxed);
            tracing::warn!(call, items, micros = micros(took), unlogged, "slow metadata call");
        } else {
            self.slow_unlogged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read<T>(&self, result: Result<T, MetaError>) -> Result<T, MetaError> {
        if result.is_err() {
            self.read_errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MetaStore for ObservedStore {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        let inner = self.meter.read(self.inner.snapshot().await)?;
        if self.snapshots.fetch_add(1, Ordering::Relaxed) % self.reads_every != 0 {
            return Ok(inner);
        }
        Ok(Arc::new(ObservedView { inner, meter: Arc::clone(&self.meter) }))
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        let items = spec.put.len() + spec.delete.len() + spec.merge.len() + spec.append.len();
        let start = self.meter.env.monotonic();
        let result = self.inner.commit(spec).await;
        self.meter.took(&self.meter.commit, start, "commit", items);
        self.meter.outcomes.add(&result);
        result
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn compact(&self) -> Result<(), MetaError> {
        self.inner.compact().await
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.inner.close().await
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.inner.statistics()
    }
}

#[derive(Debug)]
struct ObservedView {
    inner: Arc<dyn Snapshot>,
    meter: Arc<Meter>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Snapshot for ObservedView {
    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        let start = self.meter.env.monotonic();
        let result = self.inner.get(key).await;
        self.meter.took(&self.meter.get, start, "get", 1);
        self.meter.read(result)
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        let start = self.meter.env.monotonic();
        let result = self.inner.get_many(keys).await;
        self.meter.took(&self.meter.get, start, "get_many", keys.len());
        self.meter.read(result)
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let began = self.meter.env.monotonic();
        let result = self.inner.scan(start, end, limit).await;
        self.meter.took(&self.meter.scan, began, "scan", result.as_ref().map_or(0, Vec::len));
        self.meter.read(result)
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        let began = self.meter.env.monotonic();
        let result = self.inner.scan_back(start, end, limit).await;
        self.meter.took(&self.meter.scan, began, "scan_back", result.as_ref().map_or(0, Vec::len));
        self.meter.read(result)
    }
}
