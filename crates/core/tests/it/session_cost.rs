//! What upload sessions cost: commits of the engine, counted.
//!
//! Not here: syncs of the chunk store (one for each chunk), and time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use larder_base::Env;
use larder_core::testing::Fixture;
use larder_meta::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Snapshot, TxnSpec,
    engine::memory::MemoryStore,
};

use super::session::{MIB, begin, body, offset, send, written};

/// A store that counts commits; what jobs commit by the clock does not count.
#[derive(Debug, Default)]
struct Counting {
    inner: MemoryStore,
    commits: AtomicU64,
}

#[async_trait]
impl MetaStore for Counting {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        let background =
            |key: &[u8]| [b"le", b"rt", b"ri", b"lw"].iter().any(|family| key.starts_with(*family));
        let by_the_clock = !spec.put.is_empty() && spec.put.iter().all(|(key, _)| background(key));
        if !by_the_clock {
            self.commits.fetch_add(1, Ordering::SeqCst);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_costs_one_commit_an_append_none_or_one_and_a_completion_one() {
    let store = Arc::new(Counting { inner: MemoryStore::new(), ..Counting::default() });
    let fixture = Fixture::over(store.clone(), Env::system()).await;
    fixture.put("before", "the home").await.unwrap();
    fixture.settle().await;
    store.commits.store(0, Ordering::SeqCst);
    let cost = |of: &str, expected: u64| {
        assert_eq!(store.commits.swap(0, Ordering::SeqCst), expected, "{of}");
    };
    let large = begin(&fixture, "large", 40 * MIB).await;
    cost("a session", 1);
    send(&fixture, large, 0, &body(20 * MIB)).await.unwrap();
    cost("a large append", 0);
    assert_eq!(offset(&fixture, large).await, 20 * MIB);
    cost("a look", 0);
    written(send(&fixture, large, 20 * MIB, &body(20 * MIB)).await.unwrap());
    cost("a large append and the completion", 1);
    let small = begin(&fixture, "small", 3000).await;
    cost("a session", 1);
    send(&fixture, small, 0, &body(1000)).await.unwrap();
    cost("a small append", 1);
    written(send(&fixture, small, 1000, &body(2000)).await.unwrap());
    cost("a small append and the completion", 1);
    fixture.assert_clean().await;
}
