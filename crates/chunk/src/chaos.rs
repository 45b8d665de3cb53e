//! Makes a store slow, faulty and damaged at random, as a seed determines.
//!
//! Promises: an injected error comes before the call reaches the store behind, so that "nothing
//! was stored" stays true; a flipped byte is told as [`ChunkError::Corrupt`], as every store
//! tells it, and never served (I-CHK-3); the empty plan changes nothing.
//!
//! Not here: faults of a disk (`disk::fault`), which a local store meets below its own code.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
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

/// What goes wrong, and how often. Of a million calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Determines which calls are hit.
    pub seed: u64,
    /// The longest delay of a call; zero for none.
    pub delay_max: Duration,
    /// How many calls find the store unavailable.
    pub unavailable: u32,
    /// How many creations and writes find it full.
    pub full: u32,
    /// How many reads meet a flipped byte.
    pub flipped: u32,
}

const MILLION: u64 = 1_000_000;

#[derive(Debug)]
struct Dice {
    plan: Mutex<Plan>,
    env: Env,
}

impl Dice {
    /// SplitMix64 (Steele, Lea, Flood, OOPSLA'14): the state is the seed.
    fn roll(&self, bound: u64) -> u64 {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.seed = plan.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (plan.seed ^ (plan.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or(0)
    }

    fn plan(&self) -> Plan {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hits(&self, per_million: u32) -> bool {
        per_million > 0 && self.roll(MILLION) < u64::from(per_million)
    }

    async fn before(&self, writes: bool) -> Result<(), ChunkError> {
        let plan = self.plan();
        if !plan.delay_max.is_zero() {
            let bound = u64::try_from(plan.delay_max.as_nanos()).unwrap_or(u64::MAX);
            self.env.sleep(Duration::from_nanos(self.roll(bound))).await;
        }
        if self.hits(plan.unavailable) {
            return Err(ChunkError::Unavailable("injected".to_owned()));
        }
        if writes && self.hits(plan.full) {
            return Err(ChunkError::Full);
        }
        Ok(())
    }
}

/// A store with injected faults. Cheap to clone; clones share plan and randomness.
#[derive(Clone, Debug)]
pub struct Chaos {
    inner: Arc<dyn ChunkStore>,
    dice: Arc<Dice>,
}

impl Chaos {
    /// Puts `plan` before `inner`.
    pub fn new(inner: Arc<dyn ChunkStore>, plan: Plan, env: Env) -> Self {
        Self { inner, dice: Arc::new(Dice { plan: Mutex::new(plan), env }) }
    }

    /// Replaces the plan.
    pub fn set(&self, plan: Plan) {
        *self.dice.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }
}

#[async_trait]
impl ChunkStore for Chaos {
    fn server(&self) -> ServerId {
        self.inner.server()
    }

    async fn create(
        &self,
        id: ChunkId,
        length: Option<u64>,
    ) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        self.dice.before(true).await?;
        let inner = self.inner.create(id, length).await?;
        Ok(Box::new(Writer { inner, dice: Arc::clone(&self.dice) }))
    }

    async fn open(
        &self,
        id: ChunkId,
        range: Range<u64>,
    ) -> Result<Box<dyn ChunkReader>, ChunkError> {
        self.dice.before(false).await?;
        let inner = self.inner.open(id, range).await?;
        Ok(Box::new(Reader { inner, id, dice: Arc::clone(&self.dice) }))
    }

    async fn head(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        self.dice.before(false).await?;
        self.inner.head(id).await
    }

    async fn delete(&self, id: ChunkId) -> Result<(), ChunkError> {
        self.dice.before(false).await?;
        self.inner.delete(id).await
    }

    async fn sync_deletes(&self) -> Result<(), ChunkError> {
        self.dice.before(false).await?;
        self.inner.sync_deletes().await
    }

    async fn list(
        &self,
        owner: Incarnation,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Vec<ChunkId>, ChunkError> {
        self.dice.before(false).await?;
        self.inner.list(owner, after, limit).await
    }

    async fn owners(&self) -> Result<Vec<Incarnation>, ChunkError> {
        self.dice.before(false).await?;
        self.inner.owners().await
    }

    async fn capacity(&self) -> Result<Capacity, ChunkError> {
        self.dice.before(false).await?;
        self.inner.capacity().await
    }

    async fn scrub(
        &self,
        after: Option<ChunkId>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ChunkError> {
        self.dice.before(false).await?;
        self.inner.scrub(after, bytes_max).await
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }
}

#[derive(Debug)]
struct Writer {
    inner: Box<dyn ChunkWriter>,
    dice: Arc<Dice>,
}

#[async_trait]
impl ChunkWriter for Writer {
    async fn buffer(&mut self, wanted: usize) -> Result<Buffer, ChunkError> {
        self.inner.buffer(wanted).await
    }

    async fn write(&mut self, buffer: Arc<Buffer>) -> Result<(), ChunkError> {
        self.dice.before(true).await?;
        self.inner.write(buffer).await
    }

    async fn finish(self: Box<Self>) -> Result<ChunkStat, ChunkError> {
        self.dice.before(true).await?;
        self.inner.finish().await
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn ChunkReader>,
    id: ChunkId,
    dice: Arc<Dice>,
}

#[async_trait]
impl ChunkReader for Reader {
    async fn prepare(&mut self) -> Result<(), ChunkError> {
        self.inner.prepare().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ChunkError> {
        self.dice.before(false).await?;
        let bytes = self.inner.next().await?;
        if bytes.is_some() && self.dice.hits(self.dice.plan().flipped) {
            let detail = "an injected flipped byte does not match its checksum".to_owned();
            return Err(ChunkError::Corrupt { id: self.id, detail });
        }
        Ok(bytes)
    }
}
