//! A store that survives closing, for trying the durable suite itself: a log of accepted specs,
//! replayed at each opening. Told to, it loses something, as a broken engine would.
//!
//! Not here: files; the embedded engine's own tests have them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use larder_meta::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Snapshot, TxnSpec,
    conformance::{self, Reopen},
    engine::memory::MemoryStore,
};
use tokio::sync::Mutex;

use crate::mutants::finds;

type Log = Arc<Mutex<Vec<TxnSpec>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// The last commit was acknowledged before it was written.
    LastCommit,
    /// Removals are not written.
    Deletes,
    /// Operations are not written.
    Operations,
    /// Replay gives other versions.
    Versions,
    /// The next number is taken from the records, so it recurs after their removal.
    Numbers,
    /// Merges are applied again at each opening.
    MergesTwice,
    /// What is accepted while the store closes is acknowledged, but not written.
    WhileClosing,
}

#[derive(Debug)]
struct Kept {
    log: Log,
    loss: Loss,
}

impl Kept {
    fn new(loss: Loss) -> Self {
        Self { log: Log::default(), loss }
    }
}

#[async_trait]
impl Reopen for Kept {
    async fn open(&self) -> Arc<dyn MetaStore> {
        let inner = MemoryStore::new();
        let mut log = self.log.lock().await;
        match self.loss {
            Loss::LastCommit => drop(log.pop()),
            Loss::Deletes => log.iter_mut().for_each(|spec| spec.delete.clear()),
            Loss::Operations => log.iter_mut().for_each(|spec| spec.operation = None),
            Loss::Versions => log.insert(0, TxnSpec::default()),
            Loss::Numbers => {
                while let [.., put, delete] = &log[..]
                    && put.put.iter().map(|(key, _)| key).eq(&delete.delete)
                {
                    let left = log.len() - 2;
                    log.truncate(left);
                }
            }
            Loss::MergesTwice => {
                let merge = log.iter().rev().find(|spec| !spec.merge.is_empty()).cloned();
                log.extend(merge.map(|spec| TxnSpec { merge: spec.merge, ..TxnSpec::default() }));
            }
            Loss::Nothing | Loss::WhileClosing => {}
        }
        for spec in log.iter() {
            // A log that lost something may not replay whole; the suite sees what is missing.
            drop(inner.commit(spec.clone()).await);
        }
        drop(log);
        let (log, loss) = (Arc::clone(&self.log), self.loss);
        Arc::new(KeptStore { inner, log, closed: AtomicBool::new(false), loss })
    }
}

#[derive(Debug)]
struct KeptStore {
    inner: MemoryStore,
    log: Log,
    closed: AtomicBool,
    loss: Loss,
}

#[async_trait]
impl MetaStore for KeptStore {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        let mut log = self.log.lock().await;
        if self.closed.load(Ordering::Acquire) && self.loss == Loss::WhileClosing {
            return self.inner.commit(spec).await;
        }
        let result = self.inner.commit(spec.clone()).await;
        if let Ok(Committed::Now(_)) = result {
            log.push(spec);
        }
        result
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn compact(&self) -> Result<(), MetaError> {
        self.inner.compact().await
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.closed.store(true, Ordering::Release);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let _log = self.log.lock().await;
        self.inner.close().await
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.inner.statistics()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_replays_its_log_is_durable() {
    conformance::run_durable(&Kept::new(Loss::Nothing)).await;
}

#[test]
fn the_durable_suite_finds_every_loss() {
    for loss in [
        Loss::LastCommit,
        Loss::Deletes,
        Loss::Operations,
        Loss::Versions,
        Loss::Numbers,
        Loss::MergesTwice,
        Loss::WhileClosing,
    ] {
        let found = finds(async move || conformance::run_durable(&Kept::new(loss)).await);
        assert!(found, "the suite passed a store with the defect {loss:?}");
    }
}
