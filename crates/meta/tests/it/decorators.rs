//! What the decorators add: faults that are what they are called, and figures that are right.
//!
//! Not here: that they change nothing else, which is the conformance suite's to say.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{env::Env, id::OpId};
use larder_meta::{
    Bound, CommitError, Committed, Compare, Expect, FieldOp, Merge, MetaStore, Operation, Record,
    TxnSpec,
    chaos::{ChaosStore, Fault, Plan},
    engine::memory::MemoryStore,
    observe::{BUCKETS, Latencies, ObservedStore, Outcomes},
    spec::operation_key,
};

const KEY: Bytes = Bytes::from_static(b"key");

fn put(value: &'static str) -> TxnSpec {
    TxnSpec { put: vec![(KEY, value.into())], ..TxnSpec::default() }
}

fn named(spec: TxnSpec) -> (OpId, TxnSpec) {
    let id = OpId::new(&Env::system());
    (id, TxnSpec { operation: Some(Operation { id, outcome: "done".into() }), ..spec })
}

async fn read(store: &dyn MetaStore, key: &[u8]) -> Option<Record> {
    store.snapshot().await.unwrap().get(key).await.unwrap()
}

fn scripted(script: &[Fault]) -> ChaosStore {
    let plan = Plan { script: script.to_vec(), ..Plan::default() };
    ChaosStore::new(Arc::new(MemoryStore::new()), Env::system(), plan)
}

#[tokio::test]
async fn an_injected_fault_is_what_it_is_called() {
    let store =
        scripted(&[Fault::Unavailable, Fault::RequestLost, Fault::ReplyLost, Fault::Conflict]);
    assert!(store.limits().may_be_unknown);

    let (id, spec) = named(put("1"));
    let refused = store.commit(spec.clone()).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
    assert_eq!(read(&store, &KEY).await, None, "an unavailable engine applied nothing");

    let lost = store.commit(spec.clone()).await;
    assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
    assert_eq!(read(&store, &operation_key(id)).await, None, "a lost request was not applied");

    let lost = store.commit(spec.clone()).await;
    assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
    let recorded = read(&store, &operation_key(id)).await.expect("a lost reply hides a commit");
    assert_eq!(recorded.value, "done");
    assert_eq!(read(&store, &KEY).await.map(|record| record.value), Some("1".into()));

    let mut compared = put("2");
    compared.expect_version(KEY, recorded.version);
    match store.commit(compared.clone()).await {
        Err(CommitError::Conflict(key)) => assert_eq!(key, KEY),
        other => panic!("an injected conflict was answered {other:?}"),
    }
    assert_eq!(read(&store, &KEY).await.map(|record| record.value), Some("1".into()));
    assert_eq!(store.injected(), 4);

    // The script has ended.
    assert_eq!(store.commit(spec).await.unwrap(), Committed::Before("done".into()));
    store.commit(compared).await.unwrap();
    assert_eq!(store.injected(), 4);
}

#[tokio::test]
async fn no_conflict_meets_what_cannot_have_one() {
    let store = scripted(&[Fault::Conflict, Fault::Conflict]);
    store.commit(put("1")).await.unwrap();
    assert_eq!(read(&store, &KEY).await.map(|record| record.value), Some("1".into()));
    let guarded = TxnSpec { empty: vec!["free/".into()], ..put("2") };
    match store.commit(guarded).await {
        Err(CommitError::Conflict(prefix)) => assert_eq!(prefix, "free/"),
        other => panic!("an injected conflict was answered {other:?}"),
    }
    assert!(!store.limits().may_be_unknown, "this plan leaves no outcome open");

    // Nor does what was committed before: its sender would do it a second time.
    let store = scripted(&[Fault::None, Fault::Conflict]);
    let (_, mut spec) = named(put("1"));
    spec.expect_absent(KEY);
    store.commit(spec.clone()).await.unwrap();
    assert_eq!(store.commit(spec).await.unwrap(), Committed::Before("done".into()));
}

#[tokio::test]
async fn a_seed_determines_the_faults() {
    let fates = async |seed| {
        let odds = Plan { seed, unavailable: 200, request_lost: 100, read: 300, ..Plan::default() };
        let store = ChaosStore::new(Arc::new(MemoryStore::new()), Env::system(), odds);
        let mut fates = Vec::new();
        for _ in 0..200 {
            fates.push((store.commit(put("1")).await.is_ok(), store.snapshot().await.is_ok()));
        }
        fates
    };
    let (first, again, other) = (fates(1).await, fates(1).await, fates(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let failed = first.iter().filter(|(committed, _)| !committed).count();
    assert!((30..=90).contains(&failed), "about 300 of a thousand commits fail: {failed} of 200");
    let failed = first.iter().filter(|(_, read)| !read).count();
    assert!((30..=90).contains(&failed), "about 300 of a thousand reads fail: {failed} of 200");
}

/// Commits like a careful caller: an unknown outcome is asked for, never taken for a failure.
async fn surely(store: &dyn MetaStore, decide: impl Fn(Option<&Record>) -> TxnSpec) {
    'decide: for _ in 0..10_000 {
        let Ok(view) = store.snapshot().await else { continue };
        let Ok(seen) = view.get(&KEY).await else { continue };
        let (id, mut spec) = named(decide(seen.as_ref()));
        let expect = seen.map_or(Expect::Absent, |record| Expect::Version(record.version));
        spec.compare.push(Compare { key: KEY, expect });
        loop {
            match store.commit(spec.clone()).await {
                Ok(_) => return,
                Err(CommitError::Conflict(_)) => continue 'decide,
                Err(CommitError::Unavailable(_)) => {}
                Err(CommitError::Unknown(_)) => {
                    let asked = async || store.snapshot().await?.get(&operation_key(id)).await;
                    if let Ok(Some(_)) = asked().await {
                        return;
                    }
                }
                Err(other) => panic!("answered {other:?}"),
            }
        }
    }
    panic!("never decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_who_ask_for_unknown_outcomes_lose_and_double_nothing() {
    let plan = Plan {
        seed: 3,
        delay: 100,
        conflict: 50,
        unavailable: 50,
        request_lost: 100,
        reply_lost: 150,
        read: 50,
        ..Plan::default()
    };
    let chaos = Arc::new(ChaosStore::new(Arc::new(MemoryStore::new()), Env::system(), plan));
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let store: Arc<dyn MetaStore> = Arc::clone(&chaos) as _;
            Env::system().spawn("caller", async move {
                for _ in 0..50 {
                    surely(&*store, |seen| {
                        let number: u64 = seen.map_or(0, |record| {
                            std::str::from_utf8(&record.value).unwrap().parse().unwrap()
                        });
                        let value = (number + 1).to_string().into();
                        TxnSpec { put: vec![(KEY, value)], ..TxnSpec::default() }
                    })
                    .await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(chaos.injected() > 100, "much went wrong: {}", chaos.injected());
    let value = loop {
        if let Ok(view) = chaos.snapshot().await
            && let Ok(record) = view.get(&KEY).await
        {
            break record.expect("it was written").value;
        }
    };
    assert_eq!(value, "300", "each change happened once");
}

#[tokio::test]
async fn an_observed_store_counts_every_outcome() {
    let script = [Fault::Unavailable, Fault::RequestLost];
    let store = ObservedStore::new(Arc::new(scripted(&script)), Env::system(), Duration::MAX);
    let (_, first) = named(put("1"));
    for _ in 0..5 {
        // Unavailable, unknown, committed, repeated, repeated.
        drop(store.commit(first.clone()).await);
    }
    let mut conflict = put("2");
    conflict.expect_absent(KEY);
    assert!(store.commit(conflict).await.is_err());
    let counters = |amount, bounds| TxnSpec {
        merge: vec![Merge {
            key: "count".into(),
            fields: [FieldOp::Add(amount), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep],
            bounds,
        }],
        ..TxnSpec::default()
    };
    store.commit(counters(i64::MAX, vec![])).await.unwrap();
    assert!(store.commit(counters(1, vec![])).await.is_err(), "overflow");
    let limit = vec![Bound { fields: 0b11, limit: 5 }];
    let more = [FieldOp::Keep, FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep];
    let mut bounded = counters(0, limit);
    bounded.merge[0].fields = more;
    assert!(store.commit(bounded).await.is_err());
    let fence = Some(larder_base::id::Incarnation(1));
    assert!(store.commit(TxnSpec { fence, ..put("3") }).await.is_err());
    assert!(store.commit(TxnSpec { put: vec![(Bytes::new(), KEY)], ..put("4") }).await.is_err());

    let view = store.snapshot().await.unwrap();
    view.get(&KEY).await.unwrap();
    view.get_many(&[KEY, KEY]).await.unwrap();
    view.scan(b"a", b"z", 9).await.unwrap();
    view.scan_back(b"a", b"z", 9).await.unwrap();
    view.scan_back(b"a", b"z", 9).await.unwrap();
    store.close().await.unwrap();
    assert!(store.snapshot().await.is_err());

    let metrics = store.snapshot_metrics();
    let expected = Outcomes {
        committed: 2,
        repeated: 2,
        conflicts: 1,
        bounds: 1,
        fenced: 1,
        specs: 1,
        full: 0,
        unavailable: 1,
        corrupt: 1,
        unknown: 1,
    };
    assert_eq!(metrics.outcomes, expected);
    let counts = [&metrics.commit, &metrics.get, &metrics.scan].map(Latencies::count);
    assert_eq!(counts, [11, 2, 3]);
    assert_eq!((metrics.read_errors, metrics.slow), (1, 0));
}

#[tokio::test]
async fn latencies_fall_into_their_buckets_and_slow_calls_are_counted() {
    let (env, clock) = Env::manual(1);
    let millis = Duration::from_millis;
    let waits = [millis(3), millis(3), Duration::from_micros(1), millis(5), millis(100_000)];
    let plan = Plan { script: waits.map(Fault::Delay).to_vec(), ..Plan::default() };
    let chaos = ChaosStore::new(Arc::new(MemoryStore::new()), env.clone(), plan);
    let store = Arc::new(ObservedStore::new(Arc::new(chaos), env.clone(), millis(5)));
    for wait in waits {
        let task = {
            let store = Arc::clone(&store);
            env.spawn("commit", async move { store.commit(put("1")).await })
        };
        // One thread: the commit runs until it waits for the clock, which stands still.
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "a delayed commit waits");
        clock.advance(wait);
        task.await.unwrap().unwrap();
    }
    store.commit(put("2")).await.unwrap();

    let metrics = store.snapshot_metrics();
    let latencies = &metrics.commit;
    assert_eq!(latencies.count(), 6);
    assert_eq!(latencies.sum, waits.iter().sum());
    for (bucket, count) in latencies.buckets.iter().enumerate() {
        let from = bucket.checked_sub(1).map_or(Duration::ZERO, |it| {
            Latencies::upper_bound(it).expect("only the last has no bound")
        });
        let below = Latencies::upper_bound(bucket).unwrap_or(Duration::MAX);
        let mut all = waits.iter().chain([&Duration::ZERO]);
        let expected = all.by_ref().filter(|wait| (from..below).contains(*wait)).count();
        assert_eq!(*count, expected as u64, "bucket {bucket}: {from:?} to {below:?}");
    }
    assert_eq!(metrics.slow, 2, "the threshold itself is slow");
    assert_eq!(latencies.percentile(50), Some(Duration::from_micros(4096)));
    assert_eq!(latencies.percentile(1), Some(Duration::from_micros(1)));
    assert_eq!(latencies.percentile(100), None, "beyond the last bound");
    assert_eq!(Latencies::default().percentile(50), None);
    assert_eq!(Latencies::upper_bound(BUCKETS - 1), None);
}
