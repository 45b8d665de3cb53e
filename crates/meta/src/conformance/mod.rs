//! The suite that each engine and each decorator must pass.
//!
//! Plain async functions over `dyn MetaStore` (the shape of object_store's `integration.rs`):
//! they return if the store keeps what [`crate::store`] and [`crate::spec`] promise, and panic
//! with the promise that it broke. [`run`] is for every store, [`run_durable`] also for those
//! that survive their process.
//!
//! Promises: nothing is assumed beyond the documented contract. In particular, where a spec has
//! several reasons to be refused, any of them may be answered; and a store may be slow.
//!
//! Relies on: a tokio runtime; only one with several threads lets the races of `race` happen.
//!
//! Not here: crashes and faults of the disk (each engine's own tests), speed.

mod append;
mod basic;
mod conflict;
mod durable;
mod limits;
mod model;
mod race;

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{env::Env, id::OpId};

pub use self::durable::{Reopen, run_durable};
use crate::{
    CommitError, Committed, Expect, Merge, MetaStore, Operation, Record, Snapshot, TxnSpec,
    Version,
    spec::{COUNTERS, operation_key},
    store::prefix_end,
};

/// Runs the whole suite; panics at the first broken promise.
///
/// `factory` gives a fresh, empty store at each call. Each is closed at the end of its part.
pub async fn run(factory: impl AsyncFn() -> Arc<dyn MetaStore>) {
    let store = factory().await;
    basic::run(&store).await;
    finish(&store).await;

    let store = factory().await;
    conflict::run(&store).await;
    finish(&store).await;

    let store = factory().await;
    append::run(&store).await;
    finish(&store).await;

    let store = factory().await;
    limits::run(&store).await;
    finish(&store).await;
    limits::a_closed_store_is_unavailable(factory().await).await;

    for part in 0..model::PARTS {
        let store = factory().await;
        model::run(&store, part).await;
        finish(&store).await;
    }

    let store = factory().await;
    race::run(&store).await;
    finish(&store).await;

    let store = factory().await;
    model::run_concurrent(&store).await;
    finish(&store).await;
}

async fn finish(store: &Arc<dyn MetaStore>) {
    store.close().await.expect("a store that works can be closed");
}

/// A part of the key space that belongs to one check, so that many checks share a store.
#[derive(Clone, Debug)]
struct Area {
    store: Arc<dyn MetaStore>,
    env: Env,
    prefix: Bytes,
}

impl Area {
    /// `name` must not be the beginning of another area's name.
    fn new(store: &Arc<dyn MetaStore>, name: &str) -> Self {
        tracing::info!(check = name, "conformance");
        Self { store: Arc::clone(store), env: Env::system(), prefix: format!("{name}/").into() }
    }

    fn key(&self, suffix: impl AsRef<[u8]>) -> Bytes {
        [&self.prefix, suffix.as_ref()].concat().into()
    }

    fn operation(&self, outcome: &'static str) -> Operation {
        Operation { id: OpId::new(&self.env), outcome: Bytes::from_static(outcome.as_bytes()) }
    }

    async fn view(&self) -> Arc<dyn Snapshot> {
        self.store.snapshot().await.expect("an open store gives snapshots")
    }

    async fn record(&self, key: &[u8]) -> Option<Record> {
        self.view().await.get(key).await.expect("an open store is readable")
    }

    async fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.record(key).await.map(|record| record.value)
    }

    async fn version(&self, key: &[u8]) -> Version {
        self.record(key).await.expect("the record was written").version
    }

    async fn counters(&self, key: &[u8]) -> [i64; COUNTERS] {
        match self.value(key).await {
            None => [0; COUNTERS],
            Some(value) => Merge::decode(&value).expect("a merged record holds counters"),
        }
    }

    /// Every record of the area.
    async fn all(&self) -> Vec<(Bytes, Record)> {
        self.all_of(&*self.view().await).await
    }

    async fn all_of(&self, view: &dyn Snapshot) -> Vec<(Bytes, Record)> {
        let end = prefix_end(&self.prefix).expect("no area's name is all 0xff");
        view.scan(&self.prefix, &end, usize::MAX).await.expect("an open store is readable")
    }

    /// Commits `spec`, which must be accepted and new; answers the version of what it wrote.
    async fn commit(&self, spec: TxnSpec) -> Version {
        match self.store.commit(spec).await {
            Ok(Committed::Now(revision)) => Version(revision.0),
            other => panic!("{:?}: a valid commit was answered {other:?}", self.prefix),
        }
    }

    async fn put(&self, key: &Bytes, value: impl AsRef<[u8]>) -> Version {
        self.commit(put(key, value)).await
    }

    async fn delete(&self, key: &Bytes) -> Version {
        self.commit(TxnSpec { delete: vec![key.clone()], ..TxnSpec::default() }).await
    }

    /// Commits `spec`, which must be refused without any effect (I-META-4); answers why it was.
    async fn refused(&self, spec: TxnSpec) -> CommitError {
        let operation = spec.operation.as_ref().map(|operation| operation_key(operation.id));
        let before = self.all().await;
        let result = self.store.commit(spec).await;
        let Err(error) = result else {
            panic!("{:?}: a commit was to be refused, but was answered {result:?}", self.prefix)
        };
        assert_eq!(self.all().await, before, "a refused commit has no effect");
        if let Some(key) = operation {
            assert_eq!(self.record(&key).await, None, "a refused operation is not recorded");
        }
        error
    }

    /// Commits `spec`, which must be refused because of `key`.
    async fn conflicts(&self, spec: TxnSpec, key: &Bytes) {
        match self.refused(spec).await {
            CommitError::Conflict(named) => assert_eq!(named, *key, "a conflict names its key"),
            other => panic!("{:?}: a conflict was answered {other:?}", self.prefix),
        }
    }

    /// Runs `work` for each number below `count` at once, as tasks; answers what each came to.
    async fn together<F, T>(&self, count: u64, work: impl Fn(Self, u64) -> F) -> Vec<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let start = Arc::new(tokio::sync::Barrier::new(count as usize));
        let mut tasks = Vec::new();
        for number in 0..count {
            let (task, start) = (work(self.clone(), number), Arc::clone(&start));
            tasks.push(self.env.spawn("conformance", async move {
                start.wait().await;
                task.await
            }));
        }
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.expect("no task of a check panics"));
        }
        results
    }
}

/// A spec that writes one record.
fn put(key: &Bytes, value: impl AsRef<[u8]>) -> TxnSpec {
    let value = Bytes::copy_from_slice(value.as_ref());
    TxnSpec { put: vec![(key.clone(), value)], ..TxnSpec::default() }
}

/// A spec that changes one counter record.
fn merge(merge: Merge) -> TxnSpec {
    TxnSpec { merge: vec![merge], ..TxnSpec::default() }
}

/// What a record that was read must still be.
fn as_seen(record: Option<&Record>) -> Expect {
    record.map_or(Expect::Absent, |record| Expect::Version(record.version))
}

/// A key after every key that an engine takes.
fn last_key(store: &Arc<dyn MetaStore>) -> Bytes {
    vec![0xff; store.limits().key_bytes_max + 1].into()
}
