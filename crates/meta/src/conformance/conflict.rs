//! Comparisons, guards, fences, replays and bounds, one caller at a time: each refuses what it
//! must, names the cause, and leaves nothing behind.
//!
//! Not here: several callers at once (`race`), limits of a spec (`limits`).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::id::{Incarnation, OpId};

use super::{Area, merge, put};
use crate::{
    Bound, CommitError, Committed, FieldOp, Merge, MetaStore, Operation, TxnSpec, Version,
    spec::{incarnation_key, operation_key},
};

pub(super) async fn run(store: &Arc<dyn MetaStore>) {
    comparisons_hold_or_refuse(Area::new(store, "compare")).await;
    a_compared_record_may_come_back_but_not_unseen(Area::new(store, "aba")).await;
    a_refusal_undoes_every_part(Area::new(store, "parts")).await;
    a_guard_sees_every_key_under_its_prefix(Area::new(store, "guard")).await;
    a_guard_reaches_to_the_end_of_keys(Area::new(store, "guard-end")).await;
    checks_see_the_state_before_the_commit(Area::new(store, "before")).await;
    a_fenced_process_commits_nothing(Area::new(store, "fence")).await;
    a_repeated_operation_is_told_its_outcome(Area::new(store, "replay")).await;
    a_refused_operation_may_be_sent_again(Area::new(store, "again")).await;
    merges_keep_add_and_raise(Area::new(store, "merge")).await;
    bounds_hold_exactly(Area::new(store, "bound")).await;
    bounds_forgive_what_does_not_grow(Area::new(store, "shrink")).await;
    bounds_sum_what_their_mask_says(Area::new(store, "mask")).await;
    broken_counters_are_corrupt(Area::new(store, "corrupt")).await;
}

fn counter(key: &Bytes, fields: [FieldOp; 4], bounds: &[Bound]) -> Merge {
    Merge { key: key.clone(), fields, bounds: bounds.to_vec() }
}

/// A merge that adds to the first counter.
fn add(key: &Bytes, amount: i64, bounds: &[Bound]) -> Merge {
    let fields = [FieldOp::Add(amount), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    counter(key, fields, bounds)
}

/// Commits `refused`, which must be refused because of the bounds of `key`.
async fn exceeds(area: &Area, spec: TxnSpec, key: &Bytes) {
    match area.refused(spec).await {
        CommitError::Bound(named) => assert_eq!(named, *key, "a broken bound names its key"),
        other => panic!("{:?}: a broken bound was answered {other:?}", area.prefix),
    }
}

async fn comparisons_hold_or_refuse(area: Area) {
    let (key, other) = (area.key("key"), area.key("other"));
    let absent = |mut spec: TxnSpec| {
        spec.expect_absent(key.clone());
        spec
    };
    let at = |mut spec: TxnSpec, version: Version| {
        spec.expect_version(key.clone(), version);
        spec
    };
    // Of a record that is not there.
    area.conflicts(at(put(&other, "1"), Version(0)), &key).await;
    area.conflicts(at(put(&key, "1"), Version(1)), &key).await;
    let first = area.commit(absent(put(&key, "1"))).await;
    // Of one that is there.
    area.conflicts(absent(put(&key, "2")), &key).await;
    area.conflicts(at(put(&key, "2"), Version(first.0 - 1)), &key).await;
    area.conflicts(at(put(&key, "2"), Version(first.0 + 1)), &key).await;
    let second = area.commit(at(put(&key, "1"), first)).await;
    // Of one that was overwritten, even by the value that it had.
    area.conflicts(at(put(&key, "2"), first), &key).await;
    // Neighbours in order are other records.
    area.put(&area.key("ke"), "1").await;
    area.put(&area.key(b"key\x00"), "1").await;
    area.commit(at(put(&other, "1"), second)).await;
    let remove = TxnSpec { delete: vec![key.clone()], ..TxnSpec::default() };
    area.conflicts(absent(remove.clone()), &key).await;
    area.commit(at(remove, second)).await;
    // Of one that was removed.
    area.conflicts(at(put(&key, "2"), second), &key).await;
    area.commit(absent(put(&key, "3"))).await;
    assert_eq!(area.value(&key).await, Some("3".into()));

    // Of several, the one that differs is named.
    let mut spec = put(&other, "2");
    spec.expect_version(area.key("ke"), area.version(&area.key("ke")).await);
    spec.expect_absent(area.key("nothing"));
    spec.expect_absent(other.clone());
    spec.expect_version(key.clone(), area.version(&key).await);
    area.conflicts(spec, &other).await;
}

async fn a_compared_record_may_come_back_but_not_unseen(area: Area) {
    let key = area.key("key");
    let seen = area.put(&key, "1").await;
    area.delete(&key).await;
    area.put(&key, "1").await;
    let mut spec = put(&key, "2");
    spec.expect_version(key.clone(), seen);
    area.conflicts(spec, &key).await;
}

async fn a_refusal_undoes_every_part(area: Area) {
    let [there, gone, count, guarded] =
        ["there", "gone", "count", "guarded/x"].map(|name| area.key(name));
    area.put(&there, "1").await;
    area.put(&gone, "1").await;
    area.put(&guarded, "1").await;
    area.commit(merge(add(&count, 5, &[]))).await;
    let whole = || TxnSpec {
        operation: Some(area.operation("never")),
        put: vec![(there.clone(), "2".into()), (area.key("new"), "2".into())],
        delete: vec![gone.clone()],
        merge: vec![add(&count, 1, &[]), add(&area.key("new count"), 1, &[])],
        ..TxnSpec::default()
    };

    let mut spec = whole();
    spec.expect_absent(there.clone());
    area.conflicts(spec, &there).await;

    let mut spec = whole();
    spec.empty = vec![area.key("free/"), area.key("guarded/")];
    area.conflicts(spec, &area.key("guarded/")).await;

    let mut spec = whole();
    spec.merge.push(add(&area.key("full"), 2, &[Bound { fields: 1, limit: 1 }]));
    exceeds(&area, spec, &area.key("full")).await;

    let mut spec = whole();
    spec.fence = Some(Incarnation(u64::from_be_bytes(*b"no such!")));
    assert!(matches!(area.refused(spec).await, CommitError::Fenced));

    let mut spec = whole();
    spec.merge.push(add(&guarded, 1, &[]));
    assert!(matches!(area.refused(spec).await, CommitError::Corrupt(_)));

    area.commit(whole()).await;
    assert_eq!(area.value(&there).await, Some("2".into()));
    assert_eq!(area.value(&gone).await, None);
    assert_eq!(area.counters(&count).await[0], 6);
}

async fn a_guard_sees_every_key_under_its_prefix(area: Area) {
    let guard = |prefix: &[u8]| TxnSpec {
        empty: vec![area.key(prefix)],
        put: vec![(area.key("done"), "1".into())],
        ..TxnSpec::default()
    };
    // Neighbours of the prefix on both sides are not under it.
    for neighbour in [&b"d"[..], b"d.", b"d.\xff", b"d0", b"e"] {
        area.put(&area.key(neighbour), "1").await;
    }
    area.commit(guard(b"d/")).await;
    for under in [&b"d/"[..], b"d/\x00", b"d/a/b", b"d/\xff\xff\xff"] {
        let key = area.key(under);
        area.put(&key, "").await;
        area.conflicts(guard(b"d/"), &area.key("d/")).await;
        area.delete(&key).await;
        area.commit(guard(b"d/")).await;
    }
    // The end of a prefix that ends in 0xff carries into the byte before it.
    let key = area.key(b"f\xff\x00");
    area.put(&key, "1").await;
    area.conflicts(guard(b"f\xff"), &area.key(b"f\xff")).await;
    area.commit(guard(b"f\xff\xff")).await;
    area.commit(guard(b"f\x00")).await;
    // A counter record is a record too.
    area.commit(merge(add(&area.key("g/count"), 0, &[]))).await;
    area.conflicts(guard(b"g/"), &area.key("g/")).await;
}

async fn a_guard_reaches_to_the_end_of_keys(area: Area) {
    let guard = |prefix: &'static [u8]| TxnSpec {
        empty: vec![Bytes::from_static(prefix)],
        put: vec![(area.key("done"), "1".into())],
        ..TxnSpec::default()
    };
    let all = Bytes::from_static(b"");
    area.put(&area.key("a record"), "1").await;
    area.conflicts(guard(b""), &all).await;
    area.commit(guard(b"\xff")).await;
    area.commit(guard(b"\xff\xff")).await;
    let key = Bytes::from_static(b"\xff\xff\x01");
    area.put(&key, "1").await;
    area.conflicts(guard(b"\xff"), &Bytes::from_static(b"\xff")).await;
    area.conflicts(guard(b"\xff\xff"), &Bytes::from_static(b"\xff\xff")).await;
    area.conflicts(guard(b"\xff\xff\x01"), &key).await;
    area.commit(guard(b"\xff\xff\xff")).await;
    area.commit(guard(b"\xff\xff\x00")).await;
    area.delete(&key).await;
    area.commit(guard(b"\xff")).await;
}

async fn checks_see_the_state_before_the_commit(area: Area) {
    // A guard is not broken by what the same commit writes, nor mended by what it removes.
    let (key, under) = (area.key("d"), area.key("d/x"));
    let mut create = put(&under, "1");
    create.empty = vec![area.key("d/")];
    create.expect_absent(under.clone());
    let version = area.commit(create).await;
    let mut remove = TxnSpec { delete: vec![under.clone()], ..TxnSpec::default() };
    remove.empty = vec![area.key("d/")];
    area.conflicts(remove, &area.key("d/")).await;
    // A move: compare and remove one, write another.
    let mut rename = put(&key, "1");
    rename.delete = vec![under.clone()];
    rename.expect_version(under.clone(), version);
    rename.expect_absent(key.clone());
    area.commit(rename).await;
    assert_eq!(area.value(&key).await, Some("1".into()));
    assert_eq!(area.value(&under).await, None);
}

async fn a_fenced_process_commits_nothing(area: Area) {
    // Numbers that only this check uses; they differ in the last byte.
    let ours = Incarnation(u64::from_be_bytes(*b"fenced-0"));
    let other = Incarnation(ours.0 + 1);
    let key = area.key("key");
    let fenced = |incarnation, value| TxnSpec { fence: Some(incarnation), ..put(&key, value) };
    assert!(matches!(area.refused(fenced(ours, "0")).await, CommitError::Fenced));
    area.put(&incarnation_key(other), "").await;
    assert!(matches!(area.refused(fenced(ours, "0")).await, CommitError::Fenced));
    area.put(&incarnation_key(ours), "alive").await;
    area.commit(fenced(ours, "1")).await;
    // The record's content and version do not matter, its presence does.
    area.put(&incarnation_key(ours), "renewed").await;
    area.commit(fenced(ours, "2")).await;
    // The last commit of a process may be its own end.
    let mut last = fenced(ours, "3");
    last.delete = vec![incarnation_key(ours)];
    area.commit(last).await;
    assert!(matches!(area.refused(fenced(ours, "4")).await, CommitError::Fenced));
    area.commit(fenced(other, "5")).await;
    assert_eq!(area.value(&key).await, Some("5".into()));
}

async fn a_repeated_operation_is_told_its_outcome(area: Area) {
    let [new, gone, count] = ["new", "gone", "count"].map(|name| area.key(name));
    area.put(&gone, "1").await;
    let mut spec = put(&new, "1");
    spec.operation = Some(area.operation("made file 7"));
    spec.expect_absent(new.clone());
    spec.delete = vec![gone.clone()];
    spec.merge = vec![add(&count, 5, &[Bound { fields: 1, limit: 8 }])];
    let id = spec.operation.as_ref().expect("set above").id;
    let version = area.commit(spec.clone()).await;
    let recorded = area.record(&operation_key(id)).await.expect("the operation is recorded");
    assert_eq!((recorded.value, recorded.version), ("made file 7".into(), version));

    // Its comparison fails and its bound is broken by now; it is told what it did all the same.
    for _ in 0..2 {
        let before = area.all().await;
        let told = area.store.commit(spec.clone()).await.expect("a repetition is no failure");
        assert_eq!(told, Committed::Before("made file 7".into()));
        assert_eq!(area.all().await, before, "a repetition changes nothing, versions included");
    }
    // The id alone makes the operation: another body under it is not applied either.
    let mut changed = put(&area.key("other"), "1");
    changed.operation = Some(Operation { id, outcome: "otherwise".into() });
    let told = area.store.commit(changed).await.expect("a repetition is no failure");
    assert_eq!(told, Committed::Before("made file 7".into()));
    assert_eq!(area.value(&area.key("other")).await, None);
    assert_eq!(area.version(&operation_key(id)).await, version);

    // Ids that differ in one bit are different operations, and an outcome may be empty.
    let mut bytes = *id.as_bytes();
    bytes[15] ^= 1;
    let mut near = put(&area.key("near"), "1");
    near.operation = Some(Operation { id: OpId::from_bytes(bytes), outcome: Bytes::new() });
    area.commit(near.clone()).await;
    let told = area.store.commit(near).await.expect("a repetition is no failure");
    assert_eq!(told, Committed::Before(Bytes::new()));

    // A record that was removed, as old ones are, is forgotten.
    area.commit(TxnSpec { delete: vec![operation_key(id), new.clone()], ..TxnSpec::default() })
        .await;
    spec.merge = vec![];
    area.commit(spec).await;
    assert_eq!(area.counters(&count).await[0], 5);
}

async fn a_refused_operation_may_be_sent_again(area: Area) {
    let (key, busy) = (area.key("key"), area.key("busy"));
    area.put(&busy, "1").await;
    let mut spec = put(&key, "1");
    spec.operation = Some(area.operation("done"));
    spec.expect_absent(busy.clone());
    area.conflicts(spec.clone(), &busy).await;
    area.delete(&busy).await;
    area.commit(spec.clone()).await;
    area.put(&busy, "1").await;
    let told = area.store.commit(spec).await.expect("a repetition is no failure");
    assert_eq!(told, Committed::Before("done".into()));
}

async fn merges_keep_add_and_raise(area: Area) {
    let key = area.key("count");
    let steps = [
        ([FieldOp::Add(5), FieldOp::Keep, FieldOp::Max(-1), FieldOp::Max(7)], [5, 0, 0, 7]),
        ([FieldOp::Add(-8), FieldOp::Add(0), FieldOp::Max(4), FieldOp::Max(6)], [-3, 0, 4, 7]),
        (
            [FieldOp::Max(-9), FieldOp::Add(i64::MAX), FieldOp::Keep, FieldOp::Max(7)],
            [-3, i64::MAX, 4, 7],
        ),
        (
            [FieldOp::Add(3), FieldOp::Add(-i64::MAX), FieldOp::Add(i64::MIN), FieldOp::Max(8)],
            [0, 0, i64::MIN + 4, 8],
        ),
    ];
    for (fields, expected) in steps {
        area.commit(merge(counter(&key, fields, &[]))).await;
        assert_eq!(area.counters(&key).await, expected);
    }
    // What a merge adds to may have been put, and what it made may be put over or removed.
    area.put(&key, Merge::encode(&[1, 2, 3, 4])).await;
    area.commit(merge(add(&key, 1, &[]))).await;
    assert_eq!(area.counters(&key).await, [2, 2, 3, 4]);
    area.delete(&key).await;
    area.commit(merge(add(&key, 1, &[]))).await;
    assert_eq!(area.counters(&key).await, [1, 0, 0, 0]);
    // A comparison sees the commit of a merge like any other write.
    let seen = area.version(&key).await;
    area.commit(merge(add(&key, 0, &[]))).await;
    let mut spec = merge(add(&key, 1, &[]));
    spec.expect_version(key.clone(), seen);
    area.conflicts(spec, &key).await;
}

async fn bounds_hold_exactly(area: Area) {
    let key = area.key("count");
    let limit = [Bound { fields: 0b0001, limit: 100 }];
    exceeds(&area, merge(add(&key, 101, &limit)), &key).await;
    area.commit(merge(add(&key, 100, &limit))).await;
    exceeds(&area, merge(add(&key, 1, &limit)), &key).await;
    area.commit(merge(add(&key, 0, &limit))).await;
    area.commit(merge(add(&key, -1, &limit))).await;
    exceeds(&area, merge(add(&key, 2, &limit)), &key).await;
    area.commit(merge(add(&key, 1, &limit))).await;
    // A bound is of its merge alone.
    area.commit(merge(add(&key, 7, &[]))).await;
    assert_eq!(area.counters(&key).await[0], 107);
    let raise = [FieldOp::Max(108), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    exceeds(&area, merge(counter(&key, raise, &limit)), &key).await;
    // Of several merges the one that fails is named.
    let other = area.key("other");
    let mut spec = merge(add(&other, 100, &limit));
    spec.merge.push(add(&key, 1, &limit));
    exceeds(&area, spec, &key).await;
    // A limit below zero is a limit.
    let below = [Bound { fields: 0b0001, limit: -1 }];
    area.commit(merge(add(&other, -5, &below))).await;
    area.commit(merge(add(&other, 4, &below))).await;
    exceeds(&area, merge(add(&other, 1, &below)), &other).await;
}

async fn bounds_forgive_what_does_not_grow(area: Area) {
    let key = area.key("count");
    let fields = [FieldOp::Add(100), FieldOp::Add(20), FieldOp::Keep, FieldOp::Keep];
    area.commit(merge(counter(&key, fields, &[]))).await;
    // The limit was lowered below what is used: less is welcome, and moving within the sum too.
    let limit = [Bound { fields: 0b0011, limit: 50 }];
    area.commit(merge(add(&key, -10, &limit))).await;
    area.commit(merge(add(&key, 0, &limit))).await;
    let shift = [FieldOp::Add(-30), FieldOp::Add(30), FieldOp::Keep, FieldOp::Keep];
    area.commit(merge(counter(&key, shift, &limit))).await;
    exceeds(&area, merge(add(&key, 1, &limit)), &key).await;
    let grow = [FieldOp::Add(-30), FieldOp::Add(31), FieldOp::Keep, FieldOp::Keep];
    exceeds(&area, merge(counter(&key, grow, &limit)), &key).await;
    assert_eq!(area.counters(&key).await, [60, 50, 0, 0]);
}

async fn bounds_sum_what_their_mask_says(area: Area) {
    let key = area.key("count");
    let put_in =
        |fields: [i64; 4], bounds: &[Bound]| merge(counter(&key, fields.map(FieldOp::Add), bounds));
    let even = Bound { fields: 0b0101, limit: 10 };
    let odd = Bound { fields: 0b1010, limit: 10 };
    let whole = Bound { fields: 0b1111, limit: 15 };
    area.commit(put_in([5, 1000, 5, 0], &[even])).await;
    exceeds(&area, put_in([0, 0, 1, 0], &[even]), &key).await;
    area.commit(put_in([0, -1000, 0, 4], &[even, odd, whole])).await;
    // Each of several bounds holds by itself.
    exceeds(&area, put_in([1, 0, 0, 0], &[odd, even]), &key).await;
    exceeds(&area, put_in([0, 7, 0, 0], &[even, odd]), &key).await;
    exceeds(&area, put_in([0, 2, 0, 0], &[even, odd, whole]), &key).await;
    area.commit(put_in([0, 1, 0, 0], &[even, odd, whole])).await;
    assert_eq!(area.counters(&key).await, [5, 1, 5, 4]);
    // No counter in it, no sum to exceed.
    area.commit(put_in([1, 0, 0, 0], &[Bound { fields: 0, limit: -1 }])).await;
    // A sum of counters may exceed what one counter holds.
    let most = area.key("most");
    area.put(&most, Merge::encode(&[i64::MAX, i64::MAX, 0, 0])).await;
    let limit = [Bound { fields: 0b0111, limit: i64::MAX }];
    let more = [FieldOp::Keep, FieldOp::Keep, FieldOp::Add(1), FieldOp::Keep];
    exceeds(&area, merge(counter(&most, more, &limit)), &most).await;
}

async fn broken_counters_are_corrupt(area: Area) {
    let (high, low, text) = (area.key("high"), area.key("low"), area.key("text"));
    area.commit(merge(add(&high, i64::MAX, &[]))).await;
    area.commit(merge(add(&low, i64::MIN, &[]))).await;
    area.put(&text, "neither 32 bytes nor counters").await;
    for (key, amount) in [(&high, 1), (&low, -1), (&text, 1), (&text, 0)] {
        let mut spec = put(&area.key("new"), "1");
        spec.operation = Some(area.operation("never"));
        spec.merge = vec![add(&area.key("good"), 1, &[]), add(key, amount, &[])];
        match area.refused(spec).await {
            CommitError::Corrupt(_) => {}
            other => panic!("{key:?}: a merge that cannot be was answered {other:?}"),
        }
    }
    // One bad record does not take the store down.
    area.commit(merge(add(&high, -1, &[]))).await;
    assert_eq!(area.counters(&high).await[0], i64::MAX - 1);
}
