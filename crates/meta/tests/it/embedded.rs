//! The embedded engine: the conformance suite on it, and what only an engine with files can get
//! wrong: crashes, torn and damaged logs, failing disks, recycling.
//!
//! Not here: full disks (`full`), crashes of a whole server (e2e).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_base::{env::Env, id::OpId};
use larder_disk::fault::{DiskOp, Fault, Faults, Rule};
use larder_meta::{
    CommitError, Committed, Health, MetaError, MetaStore, Operation, Snapshot, TxnSpec,
    conformance::{self, Reopen},
    engine::embedded::{EmbeddedOptions, EmbeddedStore, OpenError},
    spec::operation_key,
};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

/// Small parts, so that everything that happens to large stores happens here.
pub(crate) fn small() -> EmbeddedOptions {
    EmbeddedOptions {
        cache_bytes: 1 << 20,
        segment_bytes: 2 << 20,
        overlay_bytes: 128 << 10,
        unflushed_bytes: 3 << 20,
        ..EmbeddedOptions::default()
    }
}

pub(crate) fn open_with(path: &Path, options: EmbeddedOptions) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(path, options, &Env::system())
}

pub(crate) fn open(path: &Path) -> EmbeddedStore {
    open_with(path, small()).unwrap()
}

pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> TxnSpec {
    TxnSpec {
        put: vec![(Bytes::copy_from_slice(key.as_bytes()), value.into())],
        ..TxnSpec::default()
    }
}

pub(crate) fn delete(key: &str) -> TxnSpec {
    TxnSpec { delete: vec![Bytes::copy_from_slice(key.as_bytes())], ..TxnSpec::default() }
}

/// A body that is different for every seed and has no short period.
pub(crate) fn body(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect::<Vec<_>>()
        .into()
}

pub(crate) async fn get(store: &EmbeddedStore, key: &str) -> Option<Bytes> {
    let view = store.snapshot().await.unwrap();
    view.get(key.as_bytes()).await.unwrap().map(|record| record.value)
}

async fn everything(view: &dyn Snapshot) -> BTreeMap<Bytes, Bytes> {
    let found = view.scan(b"", &[0xff; 2000], usize::MAX).await.unwrap();
    found.into_iter().map(|(key, record)| (key, record.value)).collect()
}

pub(crate) fn statistic(store: &EmbeddedStore, name: &str) -> u64 {
    let all = store.statistics();
    all.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// What a crash at this moment leaves: the directory as it is, copied while in use. Copied
/// again if anything changed meanwhile: a crash is one moment.
fn crash(from: &Path) -> tempfile::TempDir {
    loop {
        let to = tempfile::tempdir().unwrap();
        let mut before = Vec::new();
        let mut after = Vec::new();
        if list(from, &mut before).is_ok()
            && copy(from, to.path()).is_ok()
            && list(from, &mut after).is_ok()
            && before == after
        {
            return to;
        }
    }
}

type Listing = Vec<(PathBuf, u64, std::time::SystemTime)>;

fn list(from: &Path, found: &mut Listing) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            list(&entry.path(), found)?;
        } else {
            found.push((entry.path(), metadata.len(), metadata.modified()?));
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Waits until the store has made all the segments that it keeps ready.
pub(crate) async fn supplied(store: &EmbeddedStore) {
    while statistic(store, "log_segments_ready") < 3 {
        tokio::task::yield_now().await;
    }
}

fn segment(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("log/{sequence:020}.seg"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[derive(Debug)]
struct Directory(tempfile::TempDir);

#[async_trait]
impl Reopen for Directory {
    async fn open(&self) -> Arc<dyn MetaStore> {
        Arc::new(open(self.0.path()))
    }
}

#[test]
fn conformance_of_an_open_store() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut stores = 0;
        let counter = std::sync::atomic::AtomicU64::new(0);
        conformance::run(async || {
            let number = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = directory.path().join(number.to_string());
            Arc::new(open(&path)) as Arc<dyn MetaStore>
        })
        .await;
        stores += counter.load(std::sync::atomic::Ordering::Relaxed);
        assert!(stores > 3);
    });
}

#[test]
fn conformance_of_a_store_that_is_reopened() {
    let directory = Directory(tempfile::tempdir().unwrap());
    runtime().block_on(conformance::run_durable(&directory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_at_any_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut model = BTreeMap::new();
    for round in 0..6_u64 {
        for i in 0..60_u64 {
            let key = format!("key {}", i * 7 % 40);
            let value = body(round * 100 + i, if i % 5 == 0 { 20_000 } else { 100 });
            store.commit(put(&key, value.clone())).await.unwrap();
            model.insert(Bytes::from(key), value);
        }
        let key = format!("key {}", round * 3);
        store.commit(delete(&key)).await.unwrap();
        model.remove(key.as_bytes());
        let copy = crash(directory.path());
        let again = open(copy.path());
        let view = again.snapshot().await.unwrap();
        assert_eq!(everything(&*view).await, model, "after round {round}");
        let original = store.snapshot().await.unwrap();
        let (a, b) = (view.get(b"key 1").await.unwrap(), original.get(b"key 1").await.unwrap());
        assert_eq!(a, b, "versions survive too");
        again.commit(put("after", "x")).await.unwrap();
    }
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_costs_only_the_commit_that_was_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open(directory.path());
        store.commit(put("kept", "1")).await.unwrap();
        // No close: nothing is flushed, so the log is all there is.
        let copy = crash(directory.path());
        let log = segment(copy.path(), 1);
        drop(store);
        let store = open(copy.path());
        drop(store);
        let file = fs::File::options().read(true).write(true).open(log).unwrap();
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 4096).unwrap();
        assert_eq!(&magic, b"LARDERBT");
    }
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.commit(put("kept", "1")).await.unwrap();
    store.commit(put("last", body(1, 40))).await.unwrap();
    let crashed = crash(directory.path());
    drop(store);
    let last = 2 * 4096;
    let mut whole = vec![0; 200];
    fs::File::open(segment(crashed.path(), 1)).unwrap().read_exact_at(&mut whole, last).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for torn in (0..end).step_by(7).chain([end - 1]) {
        let copy = crash(crashed.path());
        let file = fs::File::options().write(true).open(segment(copy.path(), 1)).unwrap();
        file.write_all_at(&vec![0; end - torn], last + torn as u64).unwrap();
        let store = open(copy.path());
        assert_eq!(get(&store, "kept").await.as_deref(), Some(&b"1"[..]), "torn at {torn}");
        assert_eq!(get(&store, "last").await, None, "torn at {torn}");
        store.commit(put("last", "2")).await.unwrap();
        drop(store);
        assert_eq!(get(&open(copy.path()), "last").await.as_deref(), Some(&b"2"[..]));
    }
    assert_eq!(get(&open(crashed.path()), "last").await, Some(body(1, 40)));
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_named_and_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..150 {
        store.commit(put(&format!("{i}"), body(i, 30_000))).await.unwrap();
    }
    let crashed = crash(directory.path());
    drop(store);
    let segments = fs::read_dir(crashed.path().join("log")).unwrap().count();
    assert!(segments > 3, "several segments: {segments}");
    // In a segment with batches behind it, in the last batch of a segment, in a first one.
    let mut ends = Vec::new();
    for sequence in 1..3 {
        let bytes = fs::read(segment(crashed.path(), sequence)).unwrap();
        let starts: Vec<u64> = (4096..bytes.len())
            .step_by(4096)
            .filter(|at| bytes[*at..].starts_with(b"LARDERBT"))
            .map(|at| at as u64)
            .collect();
        ends.push((sequence, starts[3]));
        ends.push((sequence, starts[0]));
        ends.push((sequence, *starts.last().unwrap()));
    }
    let replayed = {
        let copy = crash(crashed.path());
        let store = open(copy.path());
        statistic(&store, "records")
    };
    assert!(replayed >= 150);
    let mut refused = 0;
    for (sequence, offset) in ends {
        let copy = crash(crashed.path());
        let file = fs::File::options().write(true).open(segment(copy.path(), sequence)).unwrap();
        file.write_all_at(b"damage", offset + 100).unwrap();
        match open_with(copy.path(), small()) {
            Err(OpenError::Damaged(place)) => {
                refused += 1;
                let expected = format!("log segment {sequence} at offset {offset}");
                assert!(place.contains(&expected), "{place}, expected {expected}");
            }
            // It stands before the checkpoint, where only values are read.
            Ok(store) => {
                let view = store.snapshot().await.unwrap();
                let mut damaged = 0;
                for i in 0..150 {
                    match view.get(format!("{i}").as_bytes()).await {
                        Ok(Some(record)) => assert_eq!(record.value, body(i, 30_000)),
                        Err(MetaError::Corrupt(place)) => {
                            damaged += 1;
                            assert!(place.contains(&format!("log segment {sequence}")), "{place}");
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(damaged, 1, "segment {sequence}, offset {offset}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "some of the log is needed for replay");
}

#[tokio::test]
async fn a_flipped_bit_in_a_large_value_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let value = body(9, 5000);
    store.commit(put("large", value.clone())).await.unwrap();
    store.commit(put("other", body(10, 5000))).await.unwrap();
    assert_eq!(get(&store, "large").await, Some(value.clone()));
    let path = segment(directory.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(64).position(|window| window == &value[..64]).unwrap() + 1234;
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
    let view = store.snapshot().await.unwrap();
    match view.get(b"large").await {
        Err(MetaError::Corrupt(place)) => assert!(place.contains("log segment 1"), "{place}"),
        other => panic!("{other:?}"),
    }
    assert!(view.scan(b"a", b"z", 10).await.is_err());
    assert_eq!(get(&store, "other").await, Some(body(10, 5000)));
}

#[tokio::test]
async fn a_failed_sync_stops_the_store_and_pretends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(Vec::new());
    let store =
        open_with(directory.path(), EmbeddedOptions { faults: faults.clone(), ..small() }).unwrap();
    store.commit(put("before", "1")).await.unwrap();
    faults.set(vec![Rule::always(DiskOp::Sync, ".seg", Fault::Io)]);
    let outcome = store.commit(put("lost?", "2")).await;
    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
    faults.clear();
    let outcome = store.commit(put("after", "3")).await;
    assert!(matches!(outcome, Err(CommitError::Unavailable(_))), "{outcome:?}");
    assert!(matches!(store.health(), Health::Failed(_)));
    assert!(store.snapshot().await.is_err());
    drop(store);
    let store = open(directory.path());
    assert_eq!(get(&store, "before").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&store, "after").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacting_gives_back_room_and_keeps_every_live_value() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let keys: Vec<String> = (0..200).map(|i| format!("key {i}")).collect();
    for (i, key) in keys.iter().enumerate() {
        store.commit(put(key, body(i as u64, 100_000))).await.unwrap();
    }
    let versions = everything(&*store.snapshot().await.unwrap()).await;
    assert_eq!(versions.len(), 200);
    let full = statistic(&store, "log_bytes");
    assert!(full > 20_000_000, "{full}");
    let before = store.snapshot().await.unwrap().get(b"key 150").await.unwrap();
    for key in &keys[..150] {
        store.commit(delete(key)).await.unwrap();
    }
    store.compact().await.unwrap();
    // The second run sees what became free by the first.
    store.compact().await.unwrap();
    let left = statistic(&store, "log_bytes");
    // Besides what is alive: the one being written, three ready, one spare.
    let live = statistic(&store, "log_live_bytes");
    assert_eq!(live, 50 * 100_000);
    assert!(left <= live + (6 << 20) + (6 << 20), "{left} of {full} bytes left for {live}");
    let after = store.snapshot().await.unwrap().get(b"key 150").await.unwrap();
    assert_eq!(before, after, "moving a value changes neither it nor its version");
    for (i, key) in keys.iter().enumerate() {
        let expected = (i >= 150).then(|| body(i as u64, 100_000));
        assert_eq!(get(&store, key).await, expected, "{key}");
    }
    let copy = crash(directory.path());
    drop(store);
    for path in [copy.path(), directory.path()] {
        let store = open(path);
        for (i, key) in keys.iter().enumerate() {
            let expected = (i >= 150).then(|| body(i as u64, 100_000));
            assert_eq!(get(&store, key).await, expected, "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_view_keeps_its_moment_through_flush_merge_and_collection() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let value = |i: u64| if i.is_multiple_of(3) { body(i, 50_000) } else { body(i, 200) };
    for i in 0..120 {
        store.commit(put(&format!("{i:03}"), value(i))).await.unwrap();
    }
    let view = store.snapshot().await.unwrap();
    let expected = everything(&*view).await;
    for round in 1..4 {
        for i in 0..120 {
            let key = format!("{i:03}");
            if i % 4 == 0 {
                store.commit(delete(&key)).await.unwrap();
            } else {
                store.commit(put(&key, value(1000 * round + i))).await.unwrap();
            }
        }
        store.compact().await.unwrap();
        assert_eq!(everything(&*view).await, expected, "round {round}");
    }
    let held = statistic(&store, "log_bytes");
    drop(view);
    store.compact().await.unwrap();
    store.compact().await.unwrap();
    let free = statistic(&store, "log_bytes");
    assert!(free < held, "what only the view needed is given back: {free} of {held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_holds_too_much_memory_fails_and_new_ones_work() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.commit(put("a", "1")).await.unwrap();
    let old = store.snapshot().await.unwrap();
    let mut commits = 0_u64;
    while let Ok(found) = old.get(b"a").await {
        assert_eq!(found.unwrap().value, "1");
        let puts = (0..50).map(|i| (format!("{}", i * 31 % 99).into(), body(i, 500)));
        let spec =
            TxnSpec { put: puts.chain([("a".into(), "2".into())]).collect(), ..TxnSpec::default() };
        store.commit(spec).await.unwrap();
        commits += 1;
        assert!(statistic(&store, "overlay_bytes") < 24 * (128 << 10), "memory is bounded");
        assert!(commits < 10_000);
    }
    assert!(commits > 10, "a view may be kept for a while");
    assert!(matches!(old.scan(b"", b"z", 9).await, Err(MetaError::Unavailable(_))));
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(store.health(), Health::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_names_a_commit_that_was_made_so_that_later_ones_have_larger_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut seen = 0;
    for round in 0..20 {
        let committed = store.commit(put("a", format!("{round}"))).await.unwrap();
        let Committed::Now(revision) = committed else { panic!("{committed:?}") };
        assert!(revision.0 > seen, "round {round}: commit {revision:?} after a view of {seen}");
        // Flushes and merges draw numbers of their own.
        store.compact().await.unwrap();
        let view = store.snapshot().await.unwrap();
        assert_eq!(view.revision(), revision);
        seen = view.revision().0;
        drop(view);
        if round % 5 == 0 {
            let copy = crash(directory.path());
            drop(store);
            store = open(copy.path());
            let view = store.snapshot().await.unwrap();
            assert!(view.revision().0 >= seen);
            drop((view, store));
            store = open(directory.path());
        }
    }
}

#[tokio::test]
async fn a_second_open_is_refused_and_a_closed_store_can_be_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let error = open_with(directory.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(error.to_string().starts_with("data directory in use"), "{error}");
    store.commit(put("a", "1")).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.commit(put("b", "1")).await, Err(CommitError::Unavailable(_))));
    drop(store);
    assert_eq!(get(&open(directory.path()), "a").await.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_directory_that_is_not_whole_or_not_ours_is_left_alone() {
    let foreign = tempfile::tempdir().unwrap();
    fs::create_dir(foreign.path().join("photos")).unwrap();
    let error = open_with(foreign.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");
    assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);

    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..100 {
        store.commit(put(&format!("{i}"), body(i, 50_000))).await.unwrap();
    }
    drop(store);
    for part in ["log", "tables", "tables/current", "identity"] {
        let copy = crash(directory.path());
        let path = copy.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let error = open_with(copy.path(), small()).unwrap_err();
        assert!(matches!(error, OpenError::Missing(_) | OpenError::Foreign(_)), "{part}: {error}");
        assert!(!path.try_exists().unwrap(), "{part} was not made anew");
    }
    let copy = crash(directory.path());
    for entry in fs::read_dir(copy.path().join("log")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(matches!(open_with(copy.path(), small()), Err(OpenError::Missing(_))));
    // One segment with values that are still wanted.
    let copy = crash(directory.path());
    fs::remove_file(segment(copy.path(), 1)).unwrap();
    let error = open_with(copy.path(), small()).unwrap_err();
    assert!(error.to_string().contains("00000000000000000001.seg"), "{error}");
    // A later version of the program.
    let copy = crash(directory.path());
    let identity = larder_disk::fsx::Identity {
        kind: "larder metadata".into(),
        values: vec![("format".into(), "2".into())],
    };
    identity.write(&copy.path().join("identity"), &Faults::none()).unwrap();
    let error = open_with(copy.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Format { .. }), "{error}");
}

#[tokio::test]
async fn an_interrupted_first_start_begins_again() {
    let faults = Faults::new(Vec::new());
    for n in 1..40 {
        for op in [DiskOp::Sync, DiskOp::Write, DiskOp::Directory] {
            let directory = tempfile::tempdir().unwrap();
            faults.set(vec![Rule::nth(op, n, Fault::Io)]);
            let options = EmbeddedOptions { faults: faults.clone(), ..small() };
            let path = directory.path().join("meta");
            let first = open_with(&path, options);
            faults.clear();
            drop(first);
            let store = open(&path);
            store.commit(put("a", "1")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_sent_twice_at_once_happens_once_however_long_its_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    for length in [10, 5000] {
        let id = OpId::new(&Env::system());
        let outcome = body(length, length as usize);
        let spec = |i: u64| TxnSpec {
            operation: Some(Operation { id, outcome: outcome.clone() }),
            ..put(&format!("{length}/{i}"), "x")
        };
        let sent = (0..50).map(|i| store.commit(spec(i)));
        let outcomes = futures_util::future::join_all(sent).await;
        let now = outcomes.iter().filter(|o| matches!(o, Ok(Committed::Now(_)))).count();
        let expected = Committed::Before(outcome.clone());
        let before = outcomes.iter().filter(|o| o.as_ref().ok() == Some(&expected)).count();
        assert_eq!((now, before), (1, 49));
        let view = store.snapshot().await.unwrap();
        assert_eq!(view.get(&operation_key(id)).await.unwrap().unwrap().value, outcome);
    }
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32),
    Delete(u8),
    Compact,
    Reopen,
    Crash,
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => (any::<u8>(), 0..3_000_u32).prop_map(|(key, length)| Step::Put(key, length)),
        15 => (any::<u8>(), 3_000..120_000_u32).prop_map(|(key, length)| Step::Put(key, length)),
        15 => any::<u8>().prop_map(Step::Delete),
        2 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        3 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 60..220)
}

async fn walk(steps: Vec<Step>) {
    let mut directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut model = BTreeMap::new();
    let mut looks = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put(key, length) => {
                let value = body(number as u64, length as usize);
                let key = format!("{:02}", key % 50);
                store.commit(put(&key, value.clone())).await.unwrap();
                model.insert(Bytes::from(key), value);
            }
            Step::Delete(key) => {
                let key = format!("{:02}", key % 50);
                store.commit(delete(&key)).await.unwrap();
                model.remove(key.as_bytes());
            }
            Step::Compact => store.compact().await.unwrap(),
            Step::Look => {
                looks.push((store.snapshot().await.unwrap(), model.clone()));
                if looks.len() > 3 {
                    let (view, model): (Arc<dyn Snapshot>, _) = looks.remove(0);
                    assert_eq!(everything(&*view).await, model);
                }
            }
            Step::Reopen => {
                looks.clear();
                store.close().await.unwrap();
                drop(store);
                store = open(directory.path());
            }
            Step::Crash => {
                looks.clear();
                let copy = crash(directory.path());
                drop(store);
                directory = copy;
                store = open(directory.path());
            }
        }
    }
    for (view, model) in looks {
        assert_eq!(everything(&*view).await, model);
    }
    assert_eq!(everything(&*store.snapshot().await.unwrap()).await, model);
    let live: usize = model.values().map(Bytes::len).filter(|length| *length >= 1024).sum();
    assert_eq!(statistic(&store, "log_live_bytes"), live as u64, "the accounts are exact");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]
    #[test]
    fn random_histories_keep_every_live_value(steps in steps()) {
        runtime().block_on(walk(steps));
    }
}

const CRASH_DIRECTORY: &str = "LARDER_TEST_CRASH_DIRECTORY";
const CRASH_STEP: &str = "LARDER_TEST_CRASH_STEP";

/// Writes until the armed step ends the process. Does nothing unless the test below starts it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent speaks to it by its environment")]
fn child_of_the_crash_test() {
    let (Ok(directory), Ok(step)) = (std::env::var(CRASH_DIRECTORY), std::env::var(CRASH_STEP))
    else {
        return;
    };
    let store = Arc::new(open(Path::new(&directory)));
    larder_base::failpoint::arm(&step).unwrap();
    let env = Env::system();
    runtime().block_on(async {
        let writers = (0..8_u64).map(|writer| {
            let (store, step) = (Arc::clone(&store), step.clone());
            env.spawn("writer", async move {
                for i in 0..120 {
                    let seed = writer * 1000 + i;
                    let key = format!("{step}/{seed}");
                    let value = body(seed, if i % 3 == 0 { 15_000 } else { 300 });
                    let mut spec = put(&key, value);
                    // Churn, so that segments are recycled.
                    spec.put.push((format!("churn {writer}").into(), body(seed, 40_000)));
                    store.commit(spec).await.unwrap();
                    println!("ack {key} {seed} {i}");
                    if i % 40 == 39 {
                        store.compact().await.unwrap();
                    }
                }
            })
        });
        futures_util::future::join_all(writers).await;
    });
    // A crash at the end as well.
    std::process::abort();
}

#[tokio::test]
async fn whatever_step_the_process_ends_at_everything_acknowledged_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut crashed = 0;
    let steps = larder_base::failpoint::STEPS;
    let ours = steps.iter().filter(|s| s.starts_with("log.") || s.starts_with("tables."));
    for step in ours.flat_map(|step| [1, 4, 25].map(|n| format!("{step}:{n}"))) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::child_of_the_crash_test", "--nocapture"])
            .env(CRASH_DIRECTORY, directory.path())
            .env(CRASH_STEP, &step)
            .output()
            .unwrap();
        assert!(!output.status.success(), "the child ends by a crash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let before = acknowledged.len();
        for line in text.lines().filter_map(|line| line.split_once("ack ")) {
            let words: Vec<&str> = line.1.split(' ').collect();
            if let [key, seed, i] = words[..] {
                let length = if i.parse::<u64>().unwrap() % 3 == 0 { 15_000 } else { 300 };
                acknowledged.push((key.to_owned(), body(seed.parse().unwrap(), length)));
            }
        }
        crashed += u32::from(acknowledged.len() - before < 8 * 120);
        let store = open(directory.path());
        let view = store.snapshot().await.unwrap();
        for (key, value) in &acknowledged {
            let found = view.get(key.as_bytes()).await.unwrap();
            assert_eq!(found.map(|record| record.value).as_ref(), Some(value), "{step}: {key}");
        }
        drop(view);
        store.close().await.unwrap();
    }
    assert!(crashed >= 15, "most of the steps were reached: {crashed}");
    assert!(acknowledged.len() > 500);
}
