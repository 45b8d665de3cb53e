//! The metadata engines and decorators from outside: each passes the conformance suite, and the
//! suite fails each defect that it is there to find (`mutants`).
//!
//! Not here: the checks themselves (`larder_meta::conformance`), crashes of an engine.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod decorators;
mod embedded;
mod full;
mod kept;
mod mutants;

use std::{sync::Arc, time::Duration};

use larder_base::env::Env;
use larder_meta::{
    MetaStore,
    chaos::{ChaosStore, Plan},
    conformance,
    engine::memory::MemoryStore,
    observe::ObservedStore,
};

fn memory() -> Arc<dyn MetaStore> {
    Arc::new(MemoryStore::new())
}

fn observed(inner: Arc<dyn MetaStore>) -> Arc<dyn MetaStore> {
    Arc::new(ObservedStore::new(inner, Env::system(), Duration::from_secs(60)))
}

fn chaotic(inner: Arc<dyn MetaStore>, plan: Plan) -> Arc<dyn MetaStore> {
    Arc::new(ChaosStore::new(inner, Env::system(), plan))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_engine_conforms() {
    conformance::run(async || memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_observed_store_conforms() {
    conformance::run(async || observed(memory())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chaos_store_without_a_plan_conforms() {
    conformance::run(async || chaotic(memory(), Plan::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decorators_on_one_another_conform_under_delays() {
    let plan = Plan { seed: 7, delay: 100, ..Plan::default() };
    conformance::run(async || observed(chaotic(observed(memory()), plan.clone()))).await;
}
