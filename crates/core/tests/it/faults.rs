//! An engine that refuses, conflicts and leaves in the dark what became of a commit: nothing
//! acknowledged is lost, nothing refused has happened, an unknown outcome destroys no bytes.
//!
//! Not here: crashes and faults of disks (e2e and the engines' own tests).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use async_trait::async_trait;
use larder_base::{Env, ErrorKind, Outcome};
use larder_core::testing::{
    Body, Driver, Fixture, Model, Op,
    driver::is_fault,
    generate::{Draft, Mix, draft},
};
use larder_meta::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Snapshot, TxnSpec,
    chaos::{ChaosStore, Fault, Plan},
    engine::memory::MemoryStore,
};
use proptest::{collection::vec, test_runner::TestRunner};

use super::{cases, fresh_seed, runtime, sequential::finish};

/// Explanations of unknown outcomes that are followed.
const MODELS_MAX: usize = 16;

/// A store whose faults can be switched on and off, so that a test can look at what there is.
#[derive(Debug)]
pub(super) struct Switched {
    calm: Arc<dyn MetaStore>,
    faulty: ChaosStore,
    on: AtomicBool,
}

impl Switched {
    pub(super) fn new(env: &Env, plan: Plan) -> Arc<Self> {
        let calm: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
        let faulty = ChaosStore::new(Arc::clone(&calm), env.clone(), plan);
        Arc::new(Self { calm, faulty, on: AtomicBool::new(false) })
    }

    pub(super) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    fn store(&self) -> &dyn MetaStore {
        if self.on.load(Ordering::SeqCst) { &self.faulty } else { &*self.calm }
    }
}

#[async_trait]
impl MetaStore for Switched {
    fn limits(&self) -> Limits {
        self.faulty.limits()
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError> {
        self.store().snapshot().await
    }

    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError> {
        // What jobs do by the clock would use up a script.
        let background = |key: &[u8]| key.starts_with(b"le") || key.starts_with(b"rt");
        if !spec.put.is_empty() && spec.put.iter().all(|(key, _)| background(key)) {
            return self.calm.commit(spec).await;
        }
        self.store().commit(spec).await
    }

    fn health(&self) -> Health {
        self.calm.health()
    }

    async fn compact(&self) -> Result<(), MetaError> {
        self.calm.compact().await
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.calm.close().await
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        self.calm.statistics()
    }
}

/// Every operation meets faults. What it answers says what there is afterwards; where it says
/// that nobody knows, both are allowed and what is seen decides.
async fn is_honest(mix: Mix, plan: Plan, drafts: Vec<Draft>) {
    let env = Env::system();
    let store = Switched::new(&env, plan);
    let fixture = Fixture::over(store.clone(), env).await;
    let driver = Driver::new(fixture, mix.spaces).await;
    let mut models = vec![Model::new(mix.spaces)];
    let mut done = Vec::new();
    for draft in &drafts {
        let first = models[0].clone();
        let mut op = draft.aim(&first);
        if let Op::Upload { body, .. } = &mut op {
            *body = Body::new(fresh_seed(), body.length);
        }
        store.switch(true);
        let told = driver.run(&op, &first.bound).await;
        store.switch(false);
        done.push(format!("{op:?} -> {:?} {:?} {}", told.answer, told.fate, told.detail));
        let mut next = Vec::new();
        let mut reasons = Vec::new();
        let seen = driver.observe(false).await.unwrap();
        for before in models {
            let op = first.bound.translate(&op, &before.bound);
            let mut after = before.clone();
            let ours = after.apply(&op);
            let mut possible = Vec::new();
            if !is_fault(&told) {
                match after.agrees(&ours, &told.answer) {
                    Ok(()) => possible.push(after),
                    Err(reason) => reasons.push(reason),
                }
            } else if told.fate == Outcome::NotApplied {
                possible.push(before);
            } else {
                possible.extend([before, after]);
            }
            for mut model in possible {
                // Jobs may have been refused what they began.
                model.unsettled = true;
                match model.same_spaces(&seen) {
                    Ok(()) => next.push(model),
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        next.truncate(MODELS_MAX);
        assert!(!next.is_empty(), "{reasons:#?}\nafter\n{}", done.join("\n"));
        models = next;
    }
    let mut model = models.swap_remove(0);
    if models.is_empty() {
        finish(&driver, &mut model).await;
    } else {
        driver.fixture.assert_clean().await;
        driver.observe(true).await.unwrap();
        driver.fixture.shutdown().await;
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_refused_happens_under_faults_of_commits() {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(120));
    let mix = Mix { spaces: 2, limits: true, long: true };
    let run = |drafts| {
        let (conflict, unavailable, request_lost, reply_lost) = (100, 50, 50, 100);
        let seed = fresh_seed();
        let plan =
            Plan { seed, conflict, unavailable, request_lost, reply_lost, ..Plan::default() };
        runtime.block_on(is_honest(mix, plan, drafts));
        Ok(())
    };
    runner.run(&vec(draft(mix), 1..60), run).unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_refused_happens_under_faults_of_reads() {
    let runtime = runtime();
    let mut runner = TestRunner::new(cases(120));
    let mix = Mix { spaces: 2, limits: true, long: true };
    let run = |drafts| {
        let plan = Plan { seed: fresh_seed(), conflict: 100, read: 40, ..Plan::default() };
        runtime.block_on(is_honest(mix, plan, drafts));
        Ok(())
    };
    runner.run(&vec(draft(mix), 1..60), run).unwrap();
}

/// A store whose next commits fare as said, once it is switched on.
async fn scripted(script: Vec<Fault>) -> (Arc<Switched>, Fixture) {
    let env = Env::system();
    let store = Switched::new(&env, Plan { script, ..Plan::default() });
    let fixture = Fixture::over(store.clone(), env).await;
    // The home is made.
    fixture.mkdir("").await;
    (store, fixture)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_of_unknown_outcome_that_happened_stays_readable() {
    for fault in [Fault::ReplyLost, Fault::RequestLost] {
        for length in [100, 200_000] {
            let (store, fixture) = scripted(vec![fault]).await;
            let body = Body::new(fresh_seed(), length).bytes();
            store.switch(true);
            let error = fixture.put("file", body.clone()).await.unwrap_err();
            store.switch(false);
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(error.outcome(), Outcome::Unknown);
            fixture.settle().await;
            match fault {
                Fault::ReplyLost => assert!(fixture.get("file").await.unwrap() == body),
                _ => assert!(fixture.get("file").await.is_err()),
            }
            fixture.assert_clean().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_that_was_refused_leaves_no_bytes() {
    let (store, fixture) = scripted(vec![Fault::Unavailable]).await;
    store.switch(true);
    let error = fixture.put("file", vec![1; 200_000]).await.unwrap_err();
    store.switch(false);
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert!(fixture.stat("file").await.is_err());
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0, "gone at once");
    fixture.assert_clean().await;
}

/// The copy is attached, but its maker is not told: it must not take it for broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copied_directory_of_unknown_outcome_that_happened_stays() {
    let script = vec![Fault::None, Fault::None, Fault::ReplyLost];
    let (store, fixture) = scripted(script).await;
    let body = Body::new(fresh_seed(), 200_000).bytes();
    fixture.put("dir/file", body.clone()).await.unwrap();
    store.switch(true);
    let error = fixture.cp("dir", "copy", false).await.unwrap_err();
    store.switch(false);
    assert_eq!(error.outcome(), Outcome::Unknown);
    fixture.settle().await;
    assert!(fixture.get("copy/file").await.unwrap() == body);
    assert!(fixture.get("dir/file").await.unwrap() == body);
    fixture.assert_clean().await;
}

/// The same, when the copy was not attached: what was built of it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copied_directory_of_unknown_outcome_that_did_not_happen_goes() {
    let script = vec![Fault::None, Fault::None, Fault::RequestLost];
    let (store, fixture) = scripted(script).await;
    fixture.put("dir/sub/file", vec![1; 200_000]).await.unwrap();
    store.switch(true);
    fixture.cp("dir", "copy", false).await.unwrap_err();
    store.switch(false);
    fixture.settle().await;
    assert!(fixture.stat("copy").await.is_err());
    let report = fixture.assert_clean().await;
    assert_eq!(report.counts.directories, 3, "the root, dir and sub");
    assert_eq!(fixture.get("dir/sub/file").await.unwrap().len(), 200_000);
}

/// Whoever asked for the copy went away in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_that_is_broken_off_leaves_nothing() {
    let fixture = super::racy(70).await;
    for i in 0..100 {
        fixture.put(&format!("dir/{i}/f"), "x").await.unwrap();
    }
    for steps in 0..60 {
        let mut copy = Box::pin(fixture.cp("dir", "copy", false));
        // Drops the copy at one of its waits.
        for _ in 0..steps * 3 {
            let look =
                std::future::poll_fn(|context| Poll::Ready(copy.as_mut().poll(context).is_ready()));
            if look.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(copy);
        fixture.assert_sound().await;
        fixture.settle().await;
        if fixture.stat("copy").await.is_ok() {
            assert_eq!(fixture.tree("copy").await.len(), 200, "it is whole");
            fixture.rm("copy").await.unwrap();
            fixture.larder.empty_trash(&fixture.root, &larder_core::SpaceRef::Home).await.unwrap();
        }
        let report = fixture.assert_clean().await;
        assert_eq!(report.counts.directories, 102, "nothing of it is left");
    }
}
