//! A decorator that fails on purpose, after a plan: what an engine over a network does on a bad
//! day, on any engine and at will.
//!
//! Promises: every injected answer is one that the contract allows, so that code which breaks
//! under it is wrong: a refusal was not applied, an unknown outcome may have been. The empty plan
//! changes nothing. A seed determines the random faults by the order of calls.
//!
//! Not here: faults of the disk (`disk::fault`), which test an engine from below.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::env::Env;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Record, Revision, Snapshot,
    TxnSpec, spec::operation_key,
};

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is sent on after this time.
    Delay(Duration),
    /// It is not sent on; a conflict names the first thing that it compares. Nothing happens to
    /// a commit that compares nothing, or whose operation is recorded already: no engine may
    /// answer a conflict to these.
    Conflict,
    /// It is not sent on and is answered as `Unavailable`.
    Unavailable,
    /// It is not sent on and is answered as `Unknown`: the request was lost.
    RequestLost,
    /// It is sent on, and whatever came of it is answered as `Unknown`: the reply was lost.
    ReplyLost,
}

/// Which faults happen: first those of the script, one for each commit in the order of the
/// calls; after them by chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The fate of the first commits.
    pub script: Vec<Fault>,
    /// What chance is drawn from.
    pub seed: u64,
    /// How many of a thousand calls, reads too, wait up to [`delay_max`](Self::delay_max).
    pub delay: u32,
    /// The longest wait. Of no time, a call lets others go first.
    pub delay_max: Duration,
    /// How many of a thousand commits are a [`Fault::Conflict`].
    pub conflict: u32,
    /// How many of a thousand commits are a [`Fault::Unavailable`].
    pub unavailable: u32,
    /// How many of a thousand commits are a [`Fault::RequestLost`].
    pub request_lost: u32,
    /// How many of a thousand commits are a [`Fault::ReplyLost`].
    pub reply_lost: u32,
    /// How many of a thousand reads, and requests for a snapshot, fail.
    pub read: u32,
}

/// A store that fails after a [`Plan`].
#[derive(Debug)]
pub struct ChaosStore {
    inner: Arc<dyn MetaStore>,
    dice: Arc<Dice>,
}

#[derive(Debug)]
struct Dice {
    env: Env,
    plan: Plan,
    state: Mutex<DiceState>,
    injected: AtomicU64,
}

#[derive(Debug)]
struct DiceState {
    script: VecDeque<Fault>,
    rng: StdRng,
}

impl ChaosStore {
    /// Lets `plan` happen to `inner`. Delays are of `env`'s time.
    pub fn new(inner: Arc<dyn MetaStore>, env: Env, plan: Plan) -> Self {
        let state = DiceState {
            script: plan.script.iter().copied().collect(),
            rng: StdRng::seed_from_u64(plan.seed),
        };
        let injected = AtomicU64::new(0);
        Self { inner, dice: Arc::new(Dice { env, plan, state: Mutex::new(state), injected }) }
    }

    /// How many answers were not the inner store's. Delays do not count.
    pub fn injected(&self) -> u64 {
        self.dice.injected.load(Ordering::Relaxed)
    }

    /// Whether the operation of `spec` may have been committed before.
    async fn is_repeated(&self, spec: &TxnSpec) -> bool {
        let Some(operation) = &spec.operation else { return false };
        let recorded =
            async || self.inner.snapshot().await?.get(&operation_key(operation.id)).await;
        // If it cannot be asked, it may have been.
        !matches!(recorded().await, Ok(None))
    }
}

impl Dice {
    fn state(&self) -> std::sync::MutexGuard<'_, DiceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws what happens to a commit.
    fn draw(&self) -> Fault {
        let mut state = self.state();
        if let Some(fault) = state.script.pop_front() {
            return fault;
        }
        let plan = &self.plan;
        let mut drawn = state.rng.random_range(0..1000);
        for (odds, fault) in [
            (plan.conflict, Fault::Conflict),
            (plan.unavailable, Fault::Unavailable),
            (plan.request_lost, Fault::RequestLost),
            (plan.reply_lost, Fault::ReplyLost),
        ] {
            if drawn < odds {
                return fault;
            }
            drawn -= odds;
        }
        if drawn < plan.delay { Fault::Delay(self.duration(&mut state)) } else { Fault::None }
    }

    fn duration(&self, state: &mut DiceState) -> Duration {
        let micros = u64::try_from(self.plan.delay_max.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(state.rng.random_range(0..=micros))
    }

    async fn wait(&self, duration: Duration) {
        if duration.is_zero() {
            tokio::task::yield_now().await;
        } else {
            self.env.sleep(duration).await;
        }
    }

    fn inject(&self, what: &'static str) -> crate::store::Source {
        self.injected.fetch_add(1, Ordering::Relaxed);
        what.into()
    }

    /// Lets the plan happen to a read.
    async fn before_read(&self) -> Result<(), MetaError> {
        let (fails, delay) = {
            let mut state = self.state();
            let drawn = state.rng.random_range(0..1000);
            let delayed = state.rng.random_range(0..1000) < self.plan.delay;
            (drawn < self.plan.read, delayed.then(|| self.duration(&mut state)))
        };
        if let Some(delay) = delay {
            self.wait(delay).await;
        }
        if fails {
            return Err(MetaError::Unavailable(self.inject("injected: read failed")));
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MetaStore for ChaosStore {
    fn limits(&self) -> Limits {
        let plan = &self.dice.plan;
        let lost = |fault: &Fault| matches!(fault, Fault::RequestLost | Fault::ReplyLost);
        let unknown = plan.request_lost + plan.reply_lost > 0 || plan.script.iter().any(lost);
        let inner = self.inner.limits();
        Limits { may_be_unknown: inner.may_be_unknown || unknown, ..inner }
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        self.dice.before_read().await?;
        let inner = self.inner.snapshot().await?;
        Ok(Arc::new(ChaosView { inner, dice: Arc::clone(&self.dice) }))
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        match self.dice.draw() {
            Fault::None => {}
            Fault::Delay(duration) => self.dice.wait(duration).await,
            Fault::Conflict => {
                let compared = spec.compare.first().map(|compare| &compare.key);
                if let Some(key) = compared.or(spec.empty.first())
                    && !self.is_repeated(&spec).await
                {
                    self.dice.injected.fetch_add(1, Ordering::Relaxed);
                    return Err(CommitError::Conflict(key.clone()));
                }
            }
            Fault::Unavailable => {
                let source = self.dice.inject("injected: not sent");
                return Err(CommitError::Unavailable(source));
            }
            Fault::RequestLost => {
                return Err(CommitError::Unknown(self.dice.inject("injected: request lost")));
            }
            Fault::ReplyLost => {
                // Whatever it was, nobody hears it.
                drop(self.inner.commit(spec).await);
                return Err(CommitError::Unknown(self.dice.inject("injected: reply lost")));
            }
        }
        self.inner.commit(spec).await
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
struct ChaosView {
    inner: Arc<dyn Snapshot>,
    dice: Arc<Dice>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Snapshot for ChaosView {
    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError> {
        self.dice.before_read().await?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError> {
        self.dice.before_read().await?;
        self.inner.get_many(keys).await
    }

    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        self.dice.before_read().await?;
        self.inner.scan(start, end, limit).await
    }

    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError> {
        self.dice.before_read().await?;
        self.inner.scan_back(start, end, limit).await
    }
}
