//! What does not fit is refused before anything happens, and what just fits does (E01).
//!
//! Not here: bounds of counters (`conflict`).

use std::sync::Arc;

use bytes::Bytes;

use super::{Area, put};
use crate::{Bound, CommitError, FieldOp, Merge, MetaError, MetaStore, TxnSpec, spec::SpecError};

pub(super) async fn run(store: &Arc<dyn MetaStore>) {
    lists_up_to_the_limit_pass(Area::new(store, "lists")).await;
    lists_over_the_limit_are_refused(Area::new(store, "long-lists")).await;
    merges_are_outside_the_limit_where_they_fold(Area::new(store, "merges")).await;
    bytes_up_to_the_limit_pass_and_one_more_is_refused(Area::new(store, "bytes")).await;
    keys_up_to_the_limit_pass_and_one_more_is_refused(Area::new(store, "keys")).await;
    a_key_is_written_once(Area::new(store, "twice")).await;
}

/// A spec that adds one to a counter.
fn add(key: &Bytes) -> Merge {
    let fields = [FieldOp::Add(1), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    let bounds = vec![Bound { fields: 1, limit: 1000 }];
    Merge { key: key.clone(), fields, bounds }
}

async fn is_refused(area: &Area, spec: TxnSpec, why: SpecError) {
    match area.refused(spec).await {
        CommitError::Spec(found) => assert_eq!(found, why),
        other => panic!("{:?}: instead of {why:?} the answer is {other:?}", area.prefix),
    }
}

fn numbered(area: &Area, name: &str, count: usize) -> Vec<Bytes> {
    (0..count).map(|i| area.key(format!("{name}{i:06}"))).collect()
}

async fn lists_up_to_the_limit_pass(area: Area) {
    let max = area.store.limits().items_max;
    let keys = numbered(&area, "k", max);
    let full = TxnSpec {
        put: keys.iter().map(|key| (key.clone(), "1".into())).collect(),
        empty: numbered(&area, "no", max),
        ..TxnSpec::default()
    };
    let version = area.commit(full).await;
    assert_eq!(area.all().await.len(), max, "every record of a full list is written");

    let mut full = TxnSpec { delete: keys.clone(), ..TxnSpec::default() };
    for key in &keys {
        full.expect_version(key.clone(), version);
    }
    area.commit(full).await;
    assert_eq!(area.all().await, [], "every record of a full list is removed");

    let (written, removed) = keys.split_at(max / 2);
    area.commit(TxnSpec {
        put: written.iter().map(|key| (key.clone(), "1".into())).collect(),
        delete: removed.to_vec(),
        ..TxnSpec::default()
    })
    .await;
    assert_eq!(area.all().await.len(), max / 2);
}

async fn lists_over_the_limit_are_refused(area: Area) {
    let over = area.store.limits().items_max + 1;
    let keys = numbered(&area, "k", over);
    area.put(&keys[0], "kept").await;
    let why = SpecError::TooManyItems(over);
    let puts: Vec<_> = keys.iter().map(|key| (key.clone(), Bytes::from("1"))).collect();

    let compare = keys[1..]
        .iter()
        .chain([&area.key("one more")])
        .map(|key| crate::Compare { key: key.clone(), expect: crate::Expect::Absent })
        .collect();
    let written = (area.key("new"), Bytes::from("1"));
    let spec = TxnSpec { compare, put: vec![written.clone()], ..TxnSpec::default() };
    is_refused(&area, spec, why).await;
    let spec = TxnSpec {
        empty: numbered(&area, "no", over),
        put: vec![written.clone()],
        ..TxnSpec::default()
    };
    is_refused(&area, spec, why).await;
    is_refused(&area, TxnSpec { put: puts.clone(), ..TxnSpec::default() }, why).await;
    is_refused(&area, TxnSpec { delete: keys.clone(), ..TxnSpec::default() }, why).await;
    let both = TxnSpec {
        operation: Some(area.operation("never")),
        put: puts[1..].to_vec(),
        delete: vec![keys[0].clone()],
        ..TxnSpec::default()
    };
    is_refused(&area, both, why).await;
}

async fn merges_are_outside_the_limit_where_they_fold(area: Area) {
    let limits = area.store.limits();
    if !limits.folds_in_commit {
        return;
    }
    // A chain of directories is longer than any list may be.
    let count = limits.items_max * 3;
    let keys = numbered(&area, "m", count);
    for _ in 0..2 {
        let merge = keys.iter().map(add).collect();
        area.commit(TxnSpec { merge, ..TxnSpec::default() }).await;
    }
    let all = area.all().await;
    assert_eq!(all.len(), count);
    for (key, record) in all {
        let counters = Merge::decode(&record.value);
        assert_eq!(counters, Some([2, 0, 0, 0]), "{key:?}");
    }
}

async fn bytes_up_to_the_limit_pass_and_one_more_is_refused(area: Area) {
    let limits = area.store.limits();
    let (a, b) = (area.key("a"), area.key("b"));
    let sized = |total: usize| {
        let first = total / 2 - a.len();
        let second = total - total / 2 - b.len();
        let put = vec![(a.clone(), vec![1; first].into()), (b.clone(), vec![2; second].into())];
        TxnSpec { put, ..TxnSpec::default() }
    };
    let over = limits.bytes_max + 1;
    is_refused(&area, sized(over), SpecError::TooManyBytes(over)).await;
    let one = put(&a, vec![0; over - a.len()]);
    is_refused(&area, one, SpecError::TooManyBytes(over)).await;

    let full = sized(limits.bytes_max);
    let expected: Vec<(Bytes, Bytes)> = full.put.clone();
    area.commit(full).await;
    let found: Vec<_> =
        area.all().await.into_iter().map(|(key, record)| (key, record.value)).collect();
    assert!(found == expected, "a commit of the full size is read back whole");
}

async fn keys_up_to_the_limit_pass_and_one_more_is_refused(area: Area) {
    let max = area.store.limits().key_bytes_max;
    let long = |length: usize, last: u8| {
        let mut key = area.prefix.to_vec();
        key.resize(length - 1, b'k');
        key.push(last);
        Bytes::from(key)
    };
    for bad in [Bytes::new(), long(max + 1, b'k')] {
        let why = SpecError::KeyLength(bad.len());
        let good = (area.key("good"), Bytes::from("1"));
        let mut spec = put(&bad, "1");
        spec.put.insert(0, good.clone());
        is_refused(&area, spec, why).await;
        let delete = vec![bad.clone()];
        let spec = TxnSpec { delete, put: vec![good.clone()], ..TxnSpec::default() };
        is_refused(&area, spec, why).await;
        let merge = vec![add(&bad)];
        is_refused(&area, TxnSpec { merge, put: vec![good], ..TxnSpec::default() }, why).await;
    }

    // The longest keys are told apart by their last byte.
    let (first, second) = (long(max, b'1'), long(max, b'2'));
    area.put(&first, "first").await;
    area.put(&second, "second").await;
    assert_eq!(area.value(&first).await, Some("first".into()));
    let view = area.view().await;
    let found = view.scan(&first, &second, 10).await.expect("readable");
    assert_eq!(found.len(), 1, "the end of a range is outside it");
    area.delete(&first).await;
    assert_eq!(area.value(&first).await, None);
    assert_eq!(area.value(&second).await, Some("second".into()));
    area.commit(super::merge(add(&first))).await;
    assert_eq!(area.counters(&first).await, [1, 0, 0, 0]);
}

async fn a_key_is_written_once(area: Area) {
    let (key, other) = (area.key("key"), area.key("other"));
    area.put(&other, "0").await;
    let value = || (key.clone(), Bytes::from("1"));
    let delete = || key.clone();
    let merge = || add(&key);
    let lists = [
        (vec![value(), value()], vec![], vec![]),
        (vec![value()], vec![delete()], vec![]),
        (vec![value()], vec![], vec![merge()]),
        (vec![], vec![delete(), delete()], vec![]),
        (vec![], vec![delete()], vec![merge()]),
        (vec![], vec![], vec![merge(), merge()]),
    ];
    for (mut put, delete, merge) in lists {
        put.push((other.clone(), "changed".into()));
        let spec = TxnSpec { put, delete, merge, ..TxnSpec::default() };
        is_refused(&area, spec, SpecError::WrittenTwice).await;
    }
    // Compared and written is another matter.
    let mut spec = put(&key, "1");
    spec.expect_absent(key.clone());
    spec.expect_absent(key.clone());
    spec.empty = vec![key.clone(), key.clone()];
    area.commit(spec).await;
    assert_eq!(area.value(&key).await, Some("1".into()));
}

/// After `close` nothing is read or committed, and closing again does no harm.
pub(super) async fn a_closed_store_is_unavailable(store: Arc<dyn MetaStore>) {
    let area = Area::new(&store, "closed");
    let key = area.key("key");
    area.put(&key, "1").await;
    store.close().await.expect("a store that works can be closed");
    match store.commit(put(&key, "2")).await {
        Err(CommitError::Unavailable(_)) => {}
        other => panic!("a closed store answered a commit with {other:?}"),
    }
    match store.snapshot().await {
        Err(MetaError::Unavailable(_)) => {}
        other => panic!("a closed store answered a snapshot with {other:?}"),
    }
    match store.close().await {
        Ok(()) | Err(MetaError::Unavailable(_)) => {}
        Err(other) => panic!("closing again was answered {other:?}"),
    }
}
