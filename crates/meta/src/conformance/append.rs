//! Appended records: keys that name the commit, in its order, with all the rest or not at all.
//!
//! Not here: random specs that append (`model`), restarts (`durable`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use bytes::Bytes;
use larder_base::id::Incarnation;

use super::{Area, put};
use crate::{
    Append, Bound, CommitError, Committed, FieldOp, Merge, MetaStore, Record, TxnSpec, Version,
    spec::{APPEND_KEY_BYTES, SpecError, append_key, append_position},
    store::{Revision, prefix_end},
};

pub(super) async fn run(store: &Arc<dyn MetaStore>) {
    keys_name_the_commit_and_the_item(Area::new(store, "append-keys")).await;
    a_refused_commit_appends_nothing(Area::new(store, "append-refused")).await;
    a_repeated_operation_appends_once(Area::new(store, "append-repeated")).await;
    an_appended_record_is_an_ordinary_one(Area::new(store, "append-ordinary")).await;
    appended_items_count_in_the_limits(Area::new(store, "append-limits")).await;
    readers_see_each_log_grow_at_its_end_only(Area::new(store, "append-order")).await;
}

fn append(prefix: &Bytes, value: impl AsRef<[u8]>) -> Append {
    Append { prefix: prefix.clone(), value: Bytes::copy_from_slice(value.as_ref()) }
}

async fn log(area: &Area, prefix: &Bytes) -> Vec<(Bytes, Record)> {
    let end = prefix_end(prefix).expect("the area's name is not all 0xff");
    area.view().await.scan(prefix, &end, usize::MAX).await.expect("readable")
}

async fn keys_name_the_commit_and_the_item(area: Area) {
    let (a, b) = (area.key("a"), area.key("b"));
    let mut expected = Vec::new();
    for round in 0..70_u8 {
        let large = vec![round; 3000];
        let spec = TxnSpec {
            append: vec![append(&a, [round]), append(&b, &large), append(&a, b"")],
            put: vec![(area.key("put"), "1".into())],
            ..TxnSpec::default()
        };
        let version = area.commit(spec).await;
        let revision = Revision(version.0);
        for (prefix, index, value) in [(&a, 0, &[round][..]), (&b, 1, &large), (&a, 2, b"")] {
            let key = [&prefix[..], &version.0.to_be_bytes(), &[0, index]].concat();
            assert_eq!(append_key(prefix, revision, index.into()), key);
            assert_eq!(append_position(&key), Some((revision, index.into())));
            let value = Bytes::copy_from_slice(value);
            expected.push((Bytes::from(key), Record { value, version }));
        }
    }
    for prefix in [&a, &b] {
        let expected: Vec<_> =
            expected.iter().filter(|(key, _)| key.starts_with(prefix)).cloned().collect();
        assert_eq!(log(&area, prefix).await, expected, "appended records are in commit order");
    }
}

async fn a_refused_commit_appends_nothing(area: Area) {
    let (there, full) = (area.key("there"), area.key("full"));
    area.put(&there, "1").await;
    let appending = || TxnSpec {
        append: vec![append(&area.key("log"), "never")],
        ..put(&area.key("new"), "never")
    };
    let mut absent = appending();
    absent.expect_absent(there.clone());
    area.conflicts(absent, &there).await;
    let mut changed = appending();
    changed.expect_version(there.clone(), Version(area.version(&there).await.0 - 1));
    area.conflicts(changed, &there).await;
    area.conflicts(TxnSpec { empty: vec![there.clone()], ..appending() }, &there).await;
    let fields = [FieldOp::Add(2), FieldOp::Keep, FieldOp::Keep, FieldOp::Keep];
    let bounds = vec![Bound { fields: 1, limit: 1 }];
    let merge = vec![Merge { key: full.clone(), fields, bounds }];
    let error = area.refused(TxnSpec { merge, ..appending() }).await;
    assert!(matches!(error, CommitError::Bound(key) if key == full));
    let fence = Some(Incarnation(u64::from_be_bytes(*b"nowhere!")));
    let error = area.refused(TxnSpec { fence, ..appending() }).await;
    assert!(matches!(error, CommitError::Fenced));
    area.commit(appending()).await;
    assert_eq!(log(&area, &area.key("log")).await.len(), 1);
}

async fn a_repeated_operation_appends_once(area: Area) {
    let prefix = area.key("log");
    let operation = Some(area.operation("done"));
    let spec = TxnSpec { operation, append: vec![append(&prefix, "1")], ..TxnSpec::default() };
    area.commit(spec.clone()).await;
    let once = log(&area, &prefix).await;
    let told = area.store.commit(spec).await.expect("a repetition is no failure");
    assert_eq!(told, Committed::Before("done".into()));
    assert_eq!(log(&area, &prefix).await, once, "a repetition appends nothing");
}

async fn an_appended_record_is_an_ordinary_one(area: Area) {
    let prefix = area.key("log");
    let mut keys = Vec::new();
    for value in ["a", "b", "c"] {
        let spec = TxnSpec { append: vec![append(&prefix, value)], ..TxnSpec::default() };
        let version = area.commit(spec).await;
        keys.push(append_key(&prefix, Revision(version.0), 0));
    }
    let [first, second, third] = &keys[..] else { panic!("three commits, three keys") };
    let guarded = TxnSpec { empty: vec![prefix.clone()], ..put(&area.key("new"), "1") };
    area.conflicts(guarded.clone(), &prefix).await;
    let mut spec = put(second, "B");
    spec.expect_version(second.clone(), area.version(second).await);
    spec.delete = vec![first.clone()];
    let version = area.commit(spec).await;
    assert_eq!(area.value(first).await, None, "it can be removed");
    let written = Record { value: "B".into(), version };
    assert_eq!(area.record(second).await, Some(written), "it can be compared and overwritten");
    assert_eq!(area.value(third).await, Some("c".into()));
    for key in [second, third] {
        area.delete(key).await;
    }
    area.commit(guarded).await;
    area.store.compact().await.expect("a store that works can be compacted");
    assert_eq!(log(&area, &prefix).await, [], "what was removed stays so");
}

async fn appended_items_count_in_the_limits(area: Area) {
    let limits = area.store.limits();
    let prefix = area.key("log");
    let is_refused = async |spec: TxnSpec, why: SpecError| match area.refused(spec).await {
        CommitError::Spec(found) => assert_eq!(found, why),
        other => panic!("{:?}: instead of {why:?} the answer is {other:?}", area.prefix),
    };
    let items = |count: usize| vec![append(&prefix, "1"); count];
    let over = limits.items_max + 1;
    let spec = TxnSpec { append: items(over), ..TxnSpec::default() };
    is_refused(spec, SpecError::TooManyItems(over)).await;
    let spec = TxnSpec { append: items(limits.items_max), ..put(&area.key("put"), "1") };
    is_refused(spec, SpecError::TooManyItems(over)).await;
    area.commit(TxnSpec { append: items(limits.items_max), ..TxnSpec::default() }).await;
    assert_eq!(log(&area, &prefix).await.len(), limits.items_max, "every item is a record");

    let (key, value) = (area.key("put"), "1");
    let room = limits.bytes_max - key.len() - value.len() - prefix.len() - APPEND_KEY_BYTES;
    let sized =
        |bytes| TxnSpec { append: vec![append(&prefix, vec![7; bytes])], ..put(&key, value) };
    is_refused(sized(room + 1), SpecError::TooManyBytes(limits.bytes_max + 1)).await;
    area.commit(sized(room)).await;

    let long = |length: usize| {
        let mut prefix = area.key("long").to_vec();
        prefix.resize(length - APPEND_KEY_BYTES, b'k');
        TxnSpec { append: vec![append(&prefix.into(), "1")], ..TxnSpec::default() }
    };
    let over = limits.key_bytes_max + 1;
    is_refused(long(over), SpecError::KeyLength(over)).await;
    area.commit(long(limits.key_bytes_max)).await;
    let empty = TxnSpec { append: vec![append(&Bytes::new(), "1")], ..TxnSpec::default() };
    is_refused(empty, SpecError::KeyLength(0)).await;
}

/// What a change feed rests on: whoever has read a log up to some record never finds another one
/// before it, and has missed none up to the number of the snapshot.
async fn readers_see_each_log_grow_at_its_end_only(area: Area) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 150;
    let prefix = area.key("log");
    let writing = Arc::new(AtomicU64::new(WRITERS));
    let results = area
        .together(WRITERS + 2, |area, caller| {
            let (prefix, writing) = (prefix.clone(), Arc::clone(&writing));
            async move {
                if caller >= WRITERS {
                    read_log(&area, &prefix, &writing).await;
                    return Vec::new();
                }
                let mut written = Vec::new();
                for i in 0..EACH {
                    let value = format!("{caller}/{i}");
                    let spec = TxnSpec {
                        append: vec![append(&prefix, &value)],
                        ..put(&area.key(format!("put{caller}")), &value)
                    };
                    written.push((area.commit(spec).await, value));
                }
                writing.fetch_sub(1, SeqCst);
                written
            }
        })
        .await;
    let mut written: Vec<_> = results.into_iter().flatten().collect();
    written.sort();
    let found: Vec<_> = log(&area, &prefix)
        .await
        .into_iter()
        .map(|(_, record)| (record.version, record.value))
        .collect();
    let written: Vec<_> = written.into_iter().map(|(v, value)| (v, Bytes::from(value))).collect();
    assert_eq!(found, written, "the log is every commit, in the order of commits");
}

/// Follows the log until nobody is `writing` any more.
async fn read_log(area: &Area, prefix: &Bytes, writing: &AtomicU64) {
    let end = prefix_end(prefix).expect("the area's name is not all 0xff");
    let mut seen: Vec<Bytes> = Vec::new();
    let mut goes_on = true;
    while goes_on {
        // Asked first, so that the last view has everything; an engine that loses records must
        // not keep its reader waiting for them.
        goes_on = writing.load(SeqCst) > 0;
        let view = area.view().await;
        let found = view.scan(prefix, &end, usize::MAX).await.expect("readable");
        let keys: Vec<Bytes> = found.into_iter().map(|(key, _)| key).collect();
        assert!(keys.starts_with(&seen), "records appear behind those that were seen only");
        let last = keys.last().and_then(|key| append_position(key));
        assert!(last.is_none_or(|(revision, _)| revision <= view.revision()));
        seen = keys;
        tokio::task::yield_now().await;
    }
}
