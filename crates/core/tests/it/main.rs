//! The file store through its public operations: against the model, in races, and under faults.
//!
//! Names of tests that begin with an id (`i_tree_1_...`) prove the invariant that the head of a
//! module declares.
//!
//! Not here: crashes of a process and doors (e2e), engines and stores alone (their crates).

#![expect(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod blob;
mod bucket_access;
mod bucket_lifecycle;
mod concurrent;
mod dump;
mod faults;
mod feed;
mod idempotency;
mod identity;
mod jobs;
mod lifecycle;
mod object;
mod quota;
mod revision;
mod sequential;
mod session;
mod session_cost;
mod session_faults;
mod session_parts;
mod share;
mod trash;
mod tree;
mod upload;
mod versions;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use larder_base::Env;
use larder_core::testing::Fixture;
use larder_meta::{
    chaos::{ChaosStore, Plan},
    engine::memory::MemoryStore,
};
use proptest::test_runner::{Config, RngSeed};

/// A runtime on which tasks really run at once.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(4).enable_all().build().unwrap()
}

/// So many cases, the same in every run unless `PROPTEST_RNG_SEED` says otherwise.
fn cases(cases: u32) -> Config {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    match config.rng_seed {
        RngSeed::Random => Config { rng_seed: RngSeed::Fixed(7), ..config },
        RngSeed::Fixed(_) => config,
    }
}

/// Seeds of bodies that no other body of this process has.
fn fresh_seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A store in memory whose engine lets others go first now and then, so that operations meet.
async fn racy(seed: u64) -> Fixture {
    let env = Env::system();
    let plan = Plan { seed, delay: 300, ..Plan::default() };
    let chaos = ChaosStore::new(Arc::new(MemoryStore::new()), env.clone(), plan);
    Fixture::over(Arc::new(chaos), env).await
}

/// Runs `work` for each of `0..count`, all at once; answers what they answered, in that order.
async fn race<T, F>(fixture: &Fixture, count: usize, work: impl Fn(usize, Fixture) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(count));
    let mut tasks = Vec::new();
    for i in 0..count {
        let (start, work) = (Arc::clone(&start), work(i, fixture.clone()));
        tasks.push(fixture.env.spawn("racer", async move {
            start.wait().await;
            work.await
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}
