//! Several callers at once: what strict serializability (I-META-1, I-META-3) forbids must not
//! happen, however they interleave.
//!
//! Each check is a known anomaly made likely: lost update, double create, phantom, write skew,
//! torn read, long fork, stale read after an acknowledgement, a commit after its fence.
//!
//! Not here: histories in general, which `model` replays one by one.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use larder_base::id::Incarnation;

use super::{Area, as_seen, merge, put};
use crate::{
    Bound, CommitError, Committed, Compare, FieldOp, Merge, MetaStore, Record, Revision, Snapshot,
    TxnSpec, spec::incarnation_key,
};

/// Callers at once.
const CALLERS: u64 = 8;

pub(super) async fn run(store: &Arc<dyn MetaStore>) {
    one_create_of_many_wins(Area::new(store, "create")).await;
    no_update_is_lost(Area::new(store, "update")).await;
    merges_at_once_sum_exactly(Area::new(store, "sum")).await;
    bounded_merges_fill_exactly(Area::new(store, "fill")).await;
    a_directory_is_never_removed_with_an_entry(Area::new(store, "phantom")).await;
    two_who_saw_the_same_do_not_both_write(Area::new(store, "skew")).await;
    pairs_are_never_torn(Area::new(store, "torn")).await;
    all_see_one_order(Area::new(store, "order")).await;
    a_ledger_always_fits_its_entries(Area::new(store, "ledger")).await;
    what_is_acknowledged_is_seen(Area::new(store, "seen")).await;
    an_operation_sent_by_many_happens_once(Area::new(store, "once")).await;
    nothing_is_committed_after_the_fence(Area::new(store, "fencing")).await;
}

fn number(record: Option<&Record>) -> u64 {
    record.map_or(0, |record| {
        std::str::from_utf8(&record.value)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("the checks write numbers")
    })
}

fn add(key: &Bytes, amount: i64, limit: i64) -> Merge {
    let fields = [FieldOp::Add(amount), FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep];
    Merge { key: key.clone(), fields, bounds: vec![Bound { fields: 0b0001, limit }] }
}

/// Whether the commit was accepted; anything but a conflict is no answer to a race.
fn won(result: Result<Committed, CommitError>) -> bool {
    match result {
        Ok(Committed::Now(_)) => true,
        Err(CommitError::Conflict(_)) => false,
        other => panic!("a race was answered {other:?}"),
    }
}

async fn one_create_of_many_wins(area: Area) {
    for round in 0..300_u64 {
        let key = area.key(round.to_be_bytes());
        let results = area
            .together(CALLERS, |area, caller| {
                let mut spec = put(&key, caller.to_string());
                spec.expect_absent(key.clone());
                async move { won(area.store.commit(spec).await) }
            })
            .await;
        let winners: Vec<usize> = (0..results.len()).filter(|i| results[*i]).collect();
        assert_eq!(winners.len(), 1, "round {round}: one create of many wins: {results:?}");
        let stored = number(area.record(&key).await.as_ref());
        assert_eq!(stored, winners[0] as u64, "round {round}: the winner's record is stored");
    }
}

async fn no_update_is_lost(area: Area) {
    const UPDATES: u64 = 40;
    let key = area.key("number");
    let conflicts = area
        .together(CALLERS, |area, _| {
            let key = key.clone();
            async move {
                let mut conflicts = 0;
                for _ in 0..UPDATES {
                    // Each conflict is another's success, of which there are only so many.
                    for attempt in 0.. {
                        assert!(attempt <= CALLERS * UPDATES, "a conflict without its winner");
                        let seen = area.record(&key).await;
                        tokio::task::yield_now().await;
                        let mut spec = put(&key, (number(seen.as_ref()) + 1).to_string());
                        let expect = as_seen(seen.as_ref());
                        spec.compare.push(Compare { key: key.clone(), expect });
                        if won(area.store.commit(spec).await) {
                            break;
                        }
                        conflicts += 1;
                    }
                }
                conflicts
            }
        })
        .await;
    let stored = number(area.record(&key).await.as_ref());
    assert_eq!(stored, CALLERS * UPDATES, "no update is lost ({conflicts:?} conflicts)");
}

async fn merges_at_once_sum_exactly(area: Area) {
    let (one, two) = (area.key("1"), area.key("2"));
    area.together(CALLERS, |area, caller| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            for i in 1..=100 {
                let mut spec = merge(add(&one, i, i64::MAX));
                let top = FieldOp::Max(i * 100 + caller as i64);
                let fields = [FieldOp::Add(-i), FieldOp::Keep, top, FieldOp::Keep];
                spec.merge.push(Merge { key: two.clone(), fields, bounds: vec![] });
                area.commit(spec).await;
            }
        }
    })
    .await;
    let calls = CALLERS as i64;
    assert_eq!(area.counters(&one).await, [calls * 5050, calls * 100, 0, 0]);
    assert_eq!(area.counters(&two).await, [calls * -5050, 0, 10_000 + calls - 1, 0]);
}

async fn bounded_merges_fill_exactly(area: Area) {
    const LIMIT: i64 = 1000;
    for round in 0..3_u64 {
        let key = area.key(round.to_string());
        let added = area
            .together(CALLERS, |area, caller| {
                let key = key.clone();
                async move {
                    let (mut added, mut amount) = (0, caller as i64 * 3 + 1);
                    // Large steps first, then ones, until nothing more fits.
                    while added <= LIMIT {
                        match area.store.commit(merge(add(&key, amount, LIMIT))).await {
                            Ok(_) => added += amount,
                            Err(CommitError::Bound(_)) if amount > 1 => amount = 1,
                            Err(CommitError::Bound(_)) => break,
                            Err(other) => panic!("a bounded merge was answered {other:?}"),
                        }
                        let used = area.counters(&key).await[0];
                        assert!(used <= LIMIT, "a bound is never exceeded: {used}");
                    }
                    added
                }
            })
            .await;
        assert_eq!(added.iter().sum::<i64>(), LIMIT, "what fits is accepted: {added:?}");
        assert_eq!(area.counters(&key).await[0], LIMIT, "what was accepted is stored");
    }
}

async fn a_directory_is_never_removed_with_an_entry(area: Area) {
    for round in 0..200_u64 {
        let dir = area.key(format!("{round:04}"));
        let version = area.put(&dir, "directory").await;
        let under = area.key(format!("{round:04}/"));
        let entry = area.key(format!("{round:04}/entry"));
        let results = area
            .together(2, |area, caller| {
                // The creator only compares the directory; the guard is all that tells the other.
                let mut spec = if caller == 0 {
                    put(&entry, "entry")
                } else {
                    let (delete, empty) = (vec![dir.clone()], vec![under.clone()]);
                    TxnSpec { delete, empty, ..TxnSpec::default() }
                };
                spec.expect_version(dir.clone(), version);
                async move { won(area.store.commit(spec).await) }
            })
            .await;
        assert_eq!(results.iter().filter(|won| **won).count(), 1, "round {round}: {results:?}");
        let (dir, entry) = (area.value(&dir).await, area.value(&entry).await);
        assert_eq!(dir.is_some(), results[0], "round {round}: the directory stays with its entry");
        assert_eq!(entry.is_some(), results[0], "round {round}: no entry without its directory");
    }
}

async fn two_who_saw_the_same_do_not_both_write(area: Area) {
    for round in 0..200_u64 {
        let keys = [area.key(format!("{round:04}a")), area.key(format!("{round:04}b"))];
        let results = area
            .together(2, |area, caller| {
                // Both compare both and each writes one: any order lets only the first through.
                let mut spec = put(&keys[caller as usize], "1");
                keys.iter().for_each(|key| spec.expect_absent(key.clone()));
                async move { won(area.store.commit(spec).await) }
            })
            .await;
        assert_eq!(results.iter().filter(|won| **won).count(), 1, "round {round}: {results:?}");
    }
}

/// Runs `readers` readers until all of `writers` writers have ended.
async fn read_while<R, W, FR, FW>(area: &Area, writers: u64, read: R, write: W)
where
    R: Fn(Area, Arc<AtomicBool>) -> FR,
    W: Fn(Area, u64) -> FW,
    FR: Future<Output = ()> + Send + 'static,
    FW: Future<Output = ()> + Send + 'static,
{
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> =
        (0..3).map(|_| area.env.spawn("reader", read(area.clone(), Arc::clone(&done)))).collect();
    area.together(writers, write).await;
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.await.expect("no reader of a check panics");
    }
}

async fn pairs_are_never_torn(area: Area) {
    // First and last in the order of keys, with others between them, so that pages differ.
    let pairs: Vec<(Bytes, Bytes)> =
        (0..4_u8).map(|i| (area.key([b'a', i]), area.key([b'z', 0xff - i]))).collect();
    for i in 0..40_u8 {
        area.put(&area.key([b'm', i]), "filler").await;
    }
    let read = |area: Area, done: Arc<AtomicBool>| {
        let pairs = pairs.clone();
        async move {
            let mut last = Revision(0);
            loop {
                let ending = done.load(Ordering::Acquire);
                let view = area.view().await;
                assert!(view.revision() >= last, "a later snapshot is not of an earlier moment");
                last = view.revision();
                for (first, second) in &pairs {
                    check_pair(&*view, first, second).await;
                }
                let all = area.all_of(&*view).await;
                for (first, second) in &pairs {
                    let find = |key| all.iter().find(|(k, _)| k == key).map(|(_, record)| record);
                    assert_eq!(find(first), find(second), "a scan never sees half a commit");
                }
                let newest = all.iter().map(|(_, record)| record.version.0).max();
                assert!(newest <= Some(last.0), "a snapshot sees nothing after its own number");
                if ending {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    read_while(&area, 4, read, |area, caller| {
        let (first, second) = pairs[caller as usize].clone();
        async move {
            for i in 0..150_u64 {
                let mut spec = put(&first, i.to_string());
                if i % 5 == 4 {
                    spec = TxnSpec {
                        delete: vec![first.clone(), second.clone()],
                        ..TxnSpec::default()
                    };
                } else {
                    spec.put.push((second.clone(), i.to_string().into()));
                }
                area.commit(spec).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

async fn check_pair(view: &dyn Snapshot, first: &Bytes, second: &Bytes) {
    let one = view.get(first).await.expect("readable");
    tokio::task::yield_now().await;
    let two = view.get(second).await.expect("readable");
    assert_eq!(one, two, "two reads of a snapshot never see half a commit");
    let both = view.get_many(&[second.clone(), first.clone()]).await.expect("readable");
    assert_eq!(both, [two, one], "all reads of a snapshot are of one moment");
}

async fn all_see_one_order(area: Area) {
    const WRITERS: u64 = 4;
    let keys: Vec<Bytes> = (0..WRITERS).map(|i| area.key(i.to_string())).collect();
    let seen = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let read = |area: Area, done: Arc<AtomicBool>| {
        let (keys, seen) = (keys.clone(), Arc::clone(&seen));
        async move {
            loop {
                let ending = done.load(Ordering::Acquire);
                let view = area.view().await;
                let found = view.get_many(&keys).await.expect("readable");
                let numbers: Vec<u64> = found.iter().map(|it| number(it.as_ref())).collect();
                seen.lock().expect("no reader panics").insert((view.revision(), numbers));
                if ending {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    read_while(&area, WRITERS, read, |area, caller| {
        let key = keys[caller as usize].clone();
        async move {
            for i in 1..=200_u64 {
                area.put(&key, i.to_string()).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    // Independent writers: if two readers disagreed on who was first, no order would fit both.
    let seen = seen.lock().expect("no reader panicked");
    for ((earlier, before), (later, after)) in seen.iter().zip(seen.iter().skip(1)) {
        assert_ne!(earlier, later, "snapshots of one number see the same");
        let ordered = before.iter().zip(after).all(|(before, after)| before <= after);
        assert!(ordered, "{before:?} at {earlier:?}, but {after:?} at {later:?}");
    }
}

async fn a_ledger_always_fits_its_entries(area: Area) {
    let ledger = area.key("ledger");
    let read = |area: Area, done: Arc<AtomicBool>| {
        let ledger = ledger.clone();
        async move {
            loop {
                let ending = done.load(Ordering::Acquire);
                let all = area.all_of(&*area.view().await).await;
                let mut counted = [0; 4];
                let mut bytes = 0;
                for (key, record) in &all {
                    if *key == ledger {
                        counted = Merge::decode(&record.value).expect("the ledger is counters");
                    } else {
                        bytes += number(Some(record)) as i64;
                    }
                }
                let entries = all.len().saturating_sub(1) as i64;
                assert_eq!(counted, [bytes, entries, 0, 0], "a count is changed with the counted");
                if ending {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    read_while(&area, 4, read, |area, caller| {
        let ledger = ledger.clone();
        async move {
            for i in 0..60_i64 {
                let key = area.key(format!("{caller}/{}", i % 6));
                let spec = if area.record(&key).await.is_none() {
                    TxnSpec { merge: vec![add(&ledger, i, 200)], ..put(&key, i.to_string()) }
                } else {
                    let size = number(area.record(&key).await.as_ref()) as i64;
                    let fields = [-size, -1, 0, 0].map(FieldOp::Add);
                    let merge = vec![Merge { key: ledger.clone(), fields, bounds: vec![] }];
                    TxnSpec { delete: vec![key], merge, ..TxnSpec::default() }
                };
                match area.store.commit(spec).await {
                    Ok(_) | Err(CommitError::Bound(_)) => {}
                    Err(other) => panic!("a change of the ledger was answered {other:?}"),
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

async fn what_is_acknowledged_is_seen(area: Area) {
    // One task writes and tells another, which must see it: real time is part of the order.
    let key = area.key("key");
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let writer = {
        let (area, key) = (area.clone(), key.clone());
        area.env.clone().spawn("writer", async move {
            for i in 1..=300_u64 {
                let version = area.put(&key, i.to_string()).await;
                tell.send((i, version)).await.expect("the reader reads to the end");
            }
        })
    };
    while let Some((i, version)) = told.recv().await {
        let view = area.view().await;
        assert!(view.revision().0 >= version.0, "a snapshot is of no earlier moment than a commit");
        let found = view.get(&key).await.expect("readable").expect("it was written");
        assert!(number(Some(&found)) >= i && found.version >= version, "a stale read");
    }
    writer.await.expect("the writer does not panic");
}

async fn an_operation_sent_by_many_happens_once(area: Area) {
    let key = area.key("count");
    for round in 1..=100_i64 {
        let mut spec = merge(add(&key, 1, i64::MAX));
        spec.operation = Some(area.operation("outcome"));
        let results = area
            .together(4, |area, _| {
                let spec = spec.clone();
                async move { area.store.commit(spec).await.expect("a repetition is no failure") }
            })
            .await;
        let first = results.iter().filter(|it| matches!(it, Committed::Now(_))).count();
        let told = results.iter().filter(|it| **it == Committed::Before("outcome".into())).count();
        assert_eq!((first, told), (1, 3), "round {round}: {results:?}");
        assert_eq!(area.counters(&key).await[0], round, "an operation happens once");
    }
}

async fn nothing_is_committed_after_the_fence(area: Area) {
    let process = Incarnation(u64::from_be_bytes(*b"fencing!"));
    for round in 0..50_u64 {
        area.put(&incarnation_key(process), "alive").await;
        let results = area
            .together(4, |area, caller| async move {
                let mut committed = 0;
                if caller == 0 {
                    tokio::task::yield_now().await;
                    return area.delete(&incarnation_key(process)).await.0;
                }
                for i in 0..20_u64 {
                    let key = area.key(format!("{round}/{caller}/{i}"));
                    let spec = TxnSpec { fence: Some(process), ..put(&key, "1") };
                    match area.store.commit(spec).await {
                        Ok(Committed::Now(revision)) => committed = revision.0,
                        Err(CommitError::Fenced) => break,
                        other => panic!("a fenced commit was answered {other:?}"),
                    }
                    tokio::task::yield_now().await;
                }
                committed
            })
            .await;
        let fenced = results[0];
        assert!(results[1..].iter().all(|last| *last < fenced), "round {round}: {results:?}");
        let newest = area.all().await.iter().map(|(_, record)| record.version.0).max();
        assert!(newest < Some(fenced), "round {round}: no record of a fenced process is newer");
    }
}
