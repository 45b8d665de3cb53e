//! What was acknowledged is there after closing and opening again (I-META-2), as it was:
//! values, versions, counters, operations, fences, and the numbers of commits.
//!
//! Not here: crashes, which each engine tests with its own files.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::id::Incarnation;

use super::{
    Area, finish, merge,
    model::{Maker, Model, drive},
    put,
};
use crate::{
    Append, Bound, CommitError, Committed, FieldOp, Merge, MetaStore, Record, TxnSpec,
    spec::incarnation_key,
};

/// A place that keeps a store while no store is open.
#[async_trait]
pub trait Reopen: Send + Sync {
    /// Opens the store with everything that was committed to it before; the first time, empty.
    ///
    /// Whatever store was opened before has been closed, and all of its snapshots dropped.
    async fn open(&self) -> Arc<dyn MetaStore>;
}

/// Runs the suite of stores that survive; panics at the first broken promise.
///
/// [`run`](super::run) is the suite of what an open store does.
pub async fn run_durable(reopenable: &dyn Reopen) {
    everything_acknowledged_is_there(reopenable).await;
    refused_commits_stay_refused(reopenable).await;
    numbers_never_recur(reopenable).await;
    closing_loses_no_acknowledged_commit(reopenable).await;
    random_histories_survive(reopenable).await;
}

/// Closes the store of `area` and opens it again.
async fn reopened(reopenable: &dyn Reopen, area: Area) -> Area {
    finish(&area.store).await;
    let Area { store, env, prefix } = area;
    drop(store);
    Area { store: reopenable.open().await, env, prefix }
}

async fn everything_acknowledged_is_there(reopenable: &dyn Reopen) {
    let mut area = Area::new(&reopenable.open().await, "everything");
    let inline_max = area.store.limits().inline_bytes_max;
    let count = area.key("count");
    let process = Incarnation(u64::from_be_bytes(*b"survive!"));
    area.put(&incarnation_key(process), "alive").await;
    let mut sent = TxnSpec {
        operation: Some(area.operation("done")),
        fence: Some(process),
        ..put(&area.key("by operation"), "1")
    };
    sent.expect_absent(area.key("by operation"));
    area.commit(sent.clone()).await;
    for size in [0, 1, 4096, 65_536, inline_max] {
        let value: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
        area.put(&area.key(format!("size{size}")), value).await;
    }
    for i in 0..100_i64 {
        let fields = [FieldOp::Add(i), FieldOp::Max(i), FieldOp::Add(-1), FieldOp::Keep];
        let bounds = vec![Bound { fields: 1, limit: 4950 }];
        let mut spec = merge(Merge { key: count.clone(), fields, bounds });
        spec.put = vec![(area.key([0, 0xff, i as u8]), i.to_string().into())];
        spec.delete = (i >= 50).then(|| area.key([0, 0xff, i as u8 - 50])).into_iter().collect();
        // Short values and such as stand elsewhere in some engines.
        let value = vec![i as u8; if i % 10 == 0 { 5000 } else { 5 }].into();
        spec.append = vec![Append { prefix: area.key("log"), value }];
        area.commit(spec).await;
    }
    let all = area.all().await;
    assert_eq!(all.len(), 157);

    // The second time without a commit between, the third after a compaction.
    for round in 0..3 {
        area = reopened(reopenable, area).await;
        assert_eq!(area.all().await, all, "round {round}: all is as it was, versions included");
        let told = area.store.commit(sent.clone()).await.expect("a repetition is no failure");
        assert_eq!(told, Committed::Before("done".into()), "an operation is still recognised");
        assert_eq!(area.counters(&count).await, [4950, 99, -100, 0]);
        if round == 1 {
            area.store.compact().await.expect("a store that works can be compacted");
        }
    }

    // What was read before the store was closed may be compared after it was opened.
    let compared = area.key("size1");
    let find = |(key, record): &(Bytes, Record)| (*key == compared).then_some(record.version);
    let mut spec = put(&area.key("compared"), "1");
    spec.expect_version(compared.clone(), all.iter().find_map(find).expect("it was written"));
    spec.fence = Some(process);
    area.commit(spec).await;
    let one = [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    let bounds = vec![Bound { fields: 1, limit: 4950 }];
    let spec = merge(Merge { key: count.clone(), fields: one, bounds });
    assert!(matches!(area.refused(spec).await, CommitError::Bound(_)), "a counter is as it was");
    area.delete(&incarnation_key(process)).await;
    area = reopened(reopenable, area).await;
    let spec = TxnSpec { fence: Some(process), ..put(&count, "1") };
    assert!(matches!(area.refused(spec).await, CommitError::Fenced), "a fence outlives a restart");
    finish(&area.store).await;
}

async fn refused_commits_stay_refused(reopenable: &dyn Reopen) {
    let mut area = Area::new(&reopenable.open().await, "refused");
    let (key, count) = (area.key("key"), area.key("count"));
    area.put(&key, "1").await;
    let mut conflict = put(&area.key("new"), "1");
    conflict.operation = Some(area.operation("never"));
    conflict.delete = vec![key.clone()];
    conflict.expect_absent(key.clone());
    area.conflicts(conflict.clone(), &key).await;
    let bounds = vec![Bound { fields: 1, limit: 1 }];
    let fields = [FieldOp::Add(2), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    let mut bounded = put(&area.key("new"), "1");
    bounded.merge = vec![Merge { key: count.clone(), fields, bounds }];
    assert!(matches!(area.refused(bounded).await, CommitError::Bound(_)));
    let all = area.all().await;
    for _ in 0..2 {
        area = reopened(reopenable, area).await;
        assert_eq!(area.all().await, all, "a refused commit has no effect later either");
    }
    area.conflicts(conflict, &key).await;
    finish(&area.store).await;
}

async fn numbers_never_recur(reopenable: &dyn Reopen) {
    let mut area = Area::new(&reopenable.open().await, "numbers");
    let (key, stays) = (area.key("key"), area.key("stays"));
    area.put(&stays, "1").await;
    let mut last = area.put(&key, "1").await;
    for round in 0..6 {
        // The newest commits leave no record behind from which their numbers could be guessed.
        for _ in 0..=round {
            let written = area.put(&key, "1").await;
            assert!(written > last, "{written:?} after {last:?}: a version never recurs");
            last = area.delete(&key).await;
        }
        if round % 2 == 1 {
            area.store.compact().await.expect("a store that works can be compacted");
        }
        let revision = area.view().await.revision();
        area = reopened(reopenable, area).await;
        assert!(area.view().await.revision() >= revision, "the order of commits goes on");
    }
    let version = area.put(&key, "1").await;
    assert!(version > last, "{version:?} after {last:?}: a version never recurs");
    finish(&area.store).await;
}

async fn closing_loses_no_acknowledged_commit(reopenable: &dyn Reopen) {
    let mut area = Area::new(&reopenable.open().await, "closing");
    for round in 0..5_u64 {
        let outcomes = area
            .together(6, |area, caller| async move {
                let mut outcomes = Vec::new();
                for i in 0..200_u64 {
                    if caller == 0 && i == 20 {
                        finish(&area.store).await;
                        break;
                    }
                    let key = area.key(format!("{round}/{caller}/{i}"));
                    let result = area.store.commit(put(&key, "1")).await;
                    let stop = result.is_err();
                    outcomes.push((key, result));
                    if stop {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                outcomes
            })
            .await;
        let Area { store, env, prefix } = area;
        drop(store);
        area = Area { store: reopenable.open().await, env, prefix };
        for (key, result) in outcomes.into_iter().flatten() {
            let found = area.record(&key).await.map(|record| record.version.0);
            match result {
                Ok(Committed::Now(revision)) => {
                    assert_eq!(found, Some(revision.0), "{key:?} was acknowledged");
                }
                Err(CommitError::Unavailable(_)) => {
                    assert_eq!(found, None, "{key:?} was not applied, so its sender was told");
                }
                Err(CommitError::Unknown(_)) => {}
                other => panic!("a commit during a close was answered {other:?}"),
            }
        }
    }
    finish(&area.store).await;
}

async fn random_histories_survive(reopenable: &dyn Reopen) {
    for seed in 2000..2003_u64 {
        let mut area = Area::new(&reopenable.open().await, &format!("durable{seed}"));
        let mut maker = Maker::new(&area, seed);
        let mut model = Model::default();
        for round in 0..8 {
            drive(&area, &mut maker, &mut model, 20 << (round % 3)).await;
            area = reopened(reopenable, area).await;
            model.compare_all(&area, &*area.view().await).await;
        }
        finish(&area.store).await;
    }
}
