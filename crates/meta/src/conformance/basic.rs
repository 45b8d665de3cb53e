//! Reads, order, ranges, values, versions and snapshots, one caller at a time.
//!
//! Not here: refusals (`conflict`), several callers (`race`).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Area, last_key, put};
use crate::{
    FieldOp, Health, Merge, MetaStore, Record, Snapshot, TxnSpec, Version, spec::operation_key,
    store::prefix_end,
};

/// Suffixes that a text collation, a C string or a separator would get wrong, in order.
const SUFFIXES: [&[u8]; 17] = [
    b"",
    b"\x00",
    b"\x00\x00",
    b"\x00\xff",
    b"\x01",
    b"B",
    b"a",
    b"a\x00",
    b"a/b",
    b"a\xff",
    b"a\xff\x00",
    b"a\xff\xff",
    b"b",
    b"\xc3\xa9",
    b"\xfe\xff",
    b"\xff",
    b"\xff\xff",
];

pub(super) async fn run(store: &Arc<dyn MetaStore>) {
    a_fresh_store_is_empty(store).await;
    gets_answer_what_was_asked_in_its_order(Area::new(store, "get")).await;
    scans_answer_the_range_in_byte_order(Area::new(store, "scan")).await;
    a_prefix_ends_where_prefix_end_says(Area::new(store, "prefix")).await;
    pages_put_together_are_the_whole(Area::new(store, "pages")).await;
    removed_records_take_no_room_in_a_page(Area::new(store, "removed")).await;
    values_of_every_size_come_back(Area::new(store, "values")).await;
    versions_are_the_number_of_the_commit(Area::new(store, "versions")).await;
    versions_grow_with_each_write(Area::new(store, "growing")).await;
    one_commit_does_all_it_says(Area::new(store, "whole")).await;
    a_snapshot_never_changes(Area::new(store, "snapshot")).await;
    a_snapshot_sees_every_commit_before_it(Area::new(store, "fresh")).await;
}

async fn a_fresh_store_is_empty(store: &Arc<dyn MetaStore>) {
    let view = store.snapshot().await.expect("an open store gives snapshots");
    let found = view.scan(b"", &last_key(store), usize::MAX).await.expect("readable");
    assert_eq!(found, [], "the factory of the suite gives empty stores");
    assert_eq!(store.health(), Health::Ready);
    let mut names: Vec<_> = store.statistics().into_iter().map(|(name, _)| name).collect();
    let suffix = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(names.iter().all(|name| suffix(name)), "statistics are metric suffixes: {names:?}");
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "a statistic is there once: {names:?}");
    // The empty prefix is the prefix of everything.
    let nothing = TxnSpec { empty: vec![Bytes::new()], ..TxnSpec::default() };
    store.commit(nothing).await.expect("an empty store has no record under any prefix");
}

async fn gets_answer_what_was_asked_in_its_order(area: Area) {
    let (a, b, absent) = (area.key("a"), area.key("b"), area.key("absent"));
    let version = area.put(&a, "1").await;
    area.put(&b, "2").await;
    let view = area.view().await;
    let get = async |key: &[u8]| view.get(key).await.expect("readable");
    assert_eq!(get(&a).await, Some(Record { value: "1".into(), version }));
    assert_eq!(get(&absent).await, None);
    assert_eq!(get(&area.prefix).await, None, "a key is not found by its beginning");
    assert_eq!(get(&area.key("aa")).await, None, "a key is not found by more than itself");
    assert_eq!(get(&last_key(&area.store)).await, None, "no record has a key that is too long");
    assert_eq!(get(b"").await, None, "no record has an empty key");

    let asked = [b.clone(), absent.clone(), a.clone(), b.clone()];
    let found = view.get_many(&asked).await.expect("readable");
    let values: Vec<_> = found.into_iter().map(|record| record.map(|it| it.value)).collect();
    assert_eq!(values, [Some("2".into()), None, Some("1".into()), Some("2".into())]);
    assert_eq!(view.get_many(&[]).await.expect("readable"), []);
}

async fn scans_answer_the_range_in_byte_order(area: Area) {
    let mut model = BTreeMap::new();
    // Backwards, so that the order of writing is not the order of keys.
    for suffix in SUFFIXES.iter().rev() {
        let (key, value) = (area.key(suffix), Bytes::from_static(suffix));
        let version = area.put(&key, &value).await;
        model.insert(key, Record { value, version });
    }
    let mut edges: Vec<Bytes> = model.keys().cloned().collect();
    edges.extend([area.key("a/"), area.key("nothing"), area.key([0xff; 3])]);
    let view = area.view().await;
    for start in &edges {
        for end in &edges {
            check_range(&*view, &model, start, end).await;
        }
    }

    // From before everything to after everything; other checks' records stand outside.
    let all = view.scan(b"", &last_key(&area.store), usize::MAX).await.expect("readable");
    let back = view.scan_back(b"", &last_key(&area.store), usize::MAX).await.expect("readable");
    assert!(all.is_sorted_by(|(a, _), (b, _)| a < b), "a scan ascends");
    assert!(all.iter().eq(back.iter().rev()), "a scan back is the scan turned round");
    let ours: BTreeMap<_, _> =
        all.into_iter().filter(|(key, _)| key.starts_with(&area.prefix)).collect();
    assert_eq!(ours, model);
    let none = view.scan(&last_key(&area.store), b"", usize::MAX).await.expect("readable");
    assert_eq!(none, [], "an inverted range holds nothing");
}

/// Holds both scans of `start..end` against `model`.
async fn check_range(
    view: &dyn Snapshot,
    model: &BTreeMap<Bytes, Record>,
    start: &Bytes,
    end: &Bytes,
) {
    let within: Vec<(Bytes, Record)> = model
        .iter()
        .filter(|(key, _)| start <= *key && *key < end)
        .map(|(key, record)| (key.clone(), record.clone()))
        .collect();
    for limit in [0, 1, 3, usize::MAX] {
        let expected: Vec<_> = within.iter().take(limit).cloned().collect();
        let found = view.scan(start, end, limit).await.expect("readable");
        assert_eq!(found, expected, "scan {start:?} to {end:?}, limit {limit}");
        let expected: Vec<_> = within.iter().rev().take(limit).cloned().collect();
        let found = view.scan_back(start, end, limit).await.expect("readable");
        assert_eq!(found, expected, "scan back {start:?} to {end:?}, limit {limit}");
    }
}

async fn a_prefix_ends_where_prefix_end_says(area: Area) {
    assert_eq!(prefix_end(b"a"), Some("b".into()));
    assert_eq!(prefix_end(b"a\xff\xff"), Some("b".into()));
    assert_eq!(prefix_end(b"a\x00"), Some(Bytes::from_static(b"a\x01")));
    assert_eq!(prefix_end(b"\xff\xff"), None);
    assert_eq!(prefix_end(b""), None);

    for suffix in SUFFIXES {
        area.put(&area.key(suffix), suffix).await;
    }
    let view = area.view().await;
    for prefix in SUFFIXES {
        let expected: Vec<Bytes> = SUFFIXES
            .iter()
            .filter(|suffix| suffix.starts_with(prefix))
            .map(|suffix| area.key(suffix))
            .collect();
        let start = area.key(prefix);
        let end = prefix_end(&start).expect("the area's name is not all 0xff");
        let found = view.scan(&start, &end, usize::MAX).await.expect("readable");
        let keys: Vec<Bytes> = found.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, expected, "prefix {prefix:?}");
    }
}

async fn pages_put_together_are_the_whole(area: Area) {
    for batch in 0..10_u32 {
        let put = (0..100_u32).map(|i| {
            // Interleaved batches, so that neighbours come from different commits.
            (area.key((i * 10 + batch).to_be_bytes()), Bytes::from(i.to_string()))
        });
        area.commit(TxnSpec { put: put.collect(), ..TxnSpec::default() }).await;
    }
    let view = area.view().await;
    let all = area.all_of(&*view).await;
    assert_eq!(all.len(), 1000);
    for size in [1, 7, 999, 1000, 1001] {
        let mut paged = Vec::new();
        let mut start = area.prefix.clone();
        let end = prefix_end(&area.prefix).expect("the area's name is not all 0xff");
        while paged.len() < 1000 {
            let page = view.scan(&start, &end, size).await.expect("readable");
            let (last, _) = page.last().expect("there are records left");
            start = [last, &b"\x00"[..]].concat().into();
            paged.extend(page);
        }
        assert_eq!(paged, all, "pages of {size}");

        let mut paged = Vec::new();
        let mut end = end;
        while paged.len() < 1000 {
            let page = view.scan_back(&area.prefix, &end, size).await.expect("readable");
            let (last, _) = page.last().expect("there are records left");
            end = last.clone();
            paged.extend(page);
        }
        paged.reverse();
        assert_eq!(paged, all, "pages of {size}, backwards");
    }
}

async fn removed_records_take_no_room_in_a_page(area: Area) {
    let keys: Vec<Bytes> = (0..90_u8).map(|i| area.key([i])).collect();
    let put = keys.iter().map(|key| (key.clone(), Bytes::from_static(b"old"))).collect();
    area.commit(TxnSpec { put, ..TxnSpec::default() }).await;
    area.store.compact().await.expect("a store that works can be compacted");
    // What is left: every third as it was, every third overwritten, every third removed.
    let delete = keys.iter().skip(2).step_by(3).cloned().collect();
    let put = keys.iter().skip(1).step_by(3).map(|key| (key.clone(), "new".into())).collect();
    area.commit(TxnSpec { delete, put, ..TxnSpec::default() }).await;
    let expected: Vec<(Bytes, Bytes)> = keys
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 3 != 2)
        .map(|(i, key)| (key.clone(), if i % 3 == 0 { "old".into() } else { "new".into() }))
        .collect();
    for _ in 0..2 {
        let view = area.view().await;
        let end = prefix_end(&area.prefix).expect("the area's name is not all 0xff");
        let page = view.scan(&area.prefix, &end, 40).await.expect("readable");
        let page: Vec<_> = page.into_iter().map(|(key, record)| (key, record.value)).collect();
        assert_eq!(page, expected[..40]);
        let page = view.scan_back(&area.prefix, &end, 40).await.expect("readable");
        let page: Vec<_> = page.into_iter().map(|(key, record)| (key, record.value)).collect();
        assert!(page.iter().eq(expected[20..].iter().rev()), "the last forty, backwards");
        // The second time round, of the compacted store.
        area.store.compact().await.expect("a store that works can be compacted");
    }
}

async fn values_of_every_size_come_back(area: Area) {
    let limits = area.store.limits();
    let sizes = [0, 1, 255, 256, 4095, 4096, 65_536, limits.inline_bytes_max, 500_000];
    let mut written = Vec::new();
    for size in sizes.into_iter().filter(|size| size + 1000 < limits.bytes_max) {
        let key = area.key(size.to_string());
        // Every byte value, and no period that a block size divides.
        let value: Bytes = (0..size).map(|i| (i % 257 % 256) as u8).collect::<Vec<_>>().into();
        let version = area.put(&key, &value).await;
        written.push((key, Record { value, version }));
    }
    written.sort_by(|(a, _), (b, _)| a.cmp(b));
    for _ in 0..2 {
        let view = area.view().await;
        let keys: Vec<Bytes> = written.iter().map(|(key, _)| key.clone()).collect();
        let many = view.get_many(&keys).await.expect("readable");
        for ((key, record), found) in written.iter().zip(many) {
            assert_eq!(found.as_ref(), Some(record), "{key:?}");
            assert_eq!(view.get(key).await.expect("readable").as_ref(), Some(record), "{key:?}");
        }
        assert_eq!(area.all().await, written);
        area.store.compact().await.expect("a store that works can be compacted");
    }
}

async fn versions_are_the_number_of_the_commit(area: Area) {
    let [put, merged, created] = ["put", "merged", "created"].map(|name| area.key(name));
    let operation = area.operation("done");
    let id = operation.id;
    let add = [FieldOp::Add(1), FieldOp::Keep, FieldOp::Max(3), FieldOp::Keep];
    let version = area
        .commit(TxnSpec {
            operation: Some(operation),
            put: vec![(put.clone(), "1".into()), (created.clone(), "2".into())],
            merge: vec![Merge { key: merged.clone(), fields: add, bounds: vec![] }],
            ..TxnSpec::default()
        })
        .await;
    for key in [&put, &merged, &created, &operation_key(id)] {
        assert_eq!(area.version(key).await, version, "a record's version is its commit's number");
    }
    let revision = area.view().await.revision();
    assert_eq!(revision.0, version.0, "a snapshot's number is the last commit's");

    area.put(&put, "other").await;
    assert_eq!(area.version(&created).await, version, "the version of others' records stays");
}

async fn versions_grow_with_each_write(area: Area) {
    let (key, counter) = (area.key("key"), area.key("counter"));
    let mut last = Version(0);
    for round in 0..200 {
        // The same value again is a write too; so is what a merge leaves as it was.
        let version = match round % 4 {
            0 | 1 => area.put(&key, "same").await,
            2 => area.put(&key, round.to_string()).await,
            _ => {
                area.delete(&key).await;
                assert_eq!(area.record(&key).await, None);
                area.put(&key, "again").await
            }
        };
        assert!(version > last, "{version:?} after {last:?}: a version never recurs");
        assert_eq!(area.version(&key).await, version);
        let keep = Merge { key: counter.clone(), fields: Default::default(), bounds: vec![] };
        last = area.commit(super::merge(keep)).await;
        assert!(last > version, "the numbers of commits grow");
        assert_eq!(area.version(&counter).await, last);
    }
    assert_eq!(area.all().await.len(), 2, "a record is there once, however often written");
    assert_eq!(area.counters(&counter).await, [0; 4], "an absent counter counts as zeros");
}

async fn one_commit_does_all_it_says(area: Area) {
    let [kept, changed, gone, absent, new] =
        ["kept", "changed", "gone", "absent", "new"].map(|name| area.key(name));
    for key in [&kept, &changed, &gone] {
        area.put(key, "before").await;
    }
    area.commit(TxnSpec {
        put: vec![(changed.clone(), "after".into()), (new.clone(), "after".into())],
        delete: vec![gone, absent.clone()],
        ..TxnSpec::default()
    })
    .await;
    let found: Vec<_> =
        area.all().await.into_iter().map(|(key, record)| (key, record.value)).collect();
    let expected = [(changed, "after"), (kept, "before"), (new, "after")];
    assert_eq!(found, expected.map(|(key, value)| (key, Bytes::from(value))));

    // Removing what is not there is a commit like any other.
    let version = area.delete(&absent).await;
    assert!(area.put(&absent, "now").await > version);
    // So is one that only compares.
    let mut nothing = TxnSpec::default();
    nothing.expect_version(absent.clone(), area.version(&absent).await);
    area.commit(nothing).await;
    area.commit(TxnSpec::default()).await;
}

async fn a_snapshot_never_changes(area: Area) {
    let keys: Vec<Bytes> = (0..30_u8).map(|i| area.key([i, 0xff, 0])).collect();
    for key in &keys[..20] {
        area.put(key, "first").await;
    }
    let counter = area.key("counter");
    let add = |amount| Merge {
        key: counter.clone(),
        fields: [FieldOp::Add(amount), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep],
        bounds: vec![],
    };
    area.commit(super::merge(add(5))).await;

    let view = area.view().await;
    let revision = view.revision();
    let seen = area.all_of(&*view).await;
    assert_eq!(seen.len(), 21);
    for round in 0..150_usize {
        let mut spec = put(&keys[round % 30], round.to_string());
        spec.delete = vec![keys[(round + 10) % 30].clone()];
        spec.merge = vec![add(1)];
        area.commit(spec).await;
        if round % 50 == 49 {
            area.store.compact().await.expect("a store that works can be compacted");
        }
    }
    let end = prefix_end(&area.prefix).expect("the area's name is not all 0xff");
    let mut back = view.scan_back(&area.prefix, &end, usize::MAX).await.expect("readable");
    back.reverse();
    assert_eq!(back, seen, "a later scan of a snapshot sees what the first saw");
    assert_eq!(area.all_of(&*view).await, seen);
    let many = view.get_many(&keys).await.expect("readable");
    for (key, found) in keys.iter().zip(many) {
        let first = seen.iter().find(|(seen, _)| seen == key).map(|(_, record)| record.clone());
        assert_eq!(view.get(key).await.expect("readable"), first, "{key:?}");
        assert_eq!(found, first, "{key:?}");
    }
    assert_eq!(view.revision(), revision);
    assert_eq!(area.counters(&counter).await[0], 155, "a new snapshot sees what came since");
    assert_ne!(area.all().await, seen);
}

async fn a_snapshot_sees_every_commit_before_it(area: Area) {
    let key = area.key("key");
    let mut last = area.view().await.revision();
    for round in 0..200 {
        let version = area.put(&key, round.to_string()).await;
        let view = area.view().await;
        let found = view.get(&key).await.expect("readable").expect("it was written");
        assert_eq!((found.value, found.version), (round.to_string().into(), version));
        assert!(view.revision() > last, "the numbers of snapshots follow the commits");
        last = view.revision();
    }
}
