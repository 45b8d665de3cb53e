//! A store on a directory: opening, refusing, cleaning up, memory.

use std::{fs, path::PathBuf, sync::Arc};

use larder_base::{
    Env,
    id::{InstanceId, ServerId},
};
use larder_chunk::{
    BufferPool, ChunkError, ChunkStore, Expect, LocalOptions, LocalStore, OpenError,
    conformance::{body, get, id, put},
};
use larder_disk::fault::Faults;

/// A store in a temporary directory.
pub(crate) struct TestStore {
    pub(crate) store: LocalStore,
    pub(crate) pool: BufferPool,
    pub(crate) faults: Faults,
    pub(crate) instance: InstanceId,
    pub(crate) directory: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        Self::with_budget(8 << 20)
    }

    pub(crate) fn with_budget(budget: usize) -> Self {
        Self::with(budget, false)
    }

    /// As on a file system without nameless files.
    pub(crate) fn with_named_temporaries() -> Self {
        Self::with(8 << 20, true)
    }

    fn with(budget: usize, named_temporaries: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (pool, faults) = (BufferPool::new(budget), Faults::new(Vec::new()));
        let instance = InstanceId::new(&Env::system());
        let mut options = LocalOptions::new(pool.clone(), instance, Expect::New);
        options.faults = faults.clone();
        options.named_temporaries = named_temporaries;
        let store = LocalStore::open(directory.path(), options, &Env::system()).unwrap();
        Self { store, pool, faults, instance, directory }
    }

    /// The only file with a chunk's name.
    pub(crate) fn file(&self) -> PathBuf {
        let mut files = files(&self.directory.path().join("chunks"));
        assert_eq!(files.len(), 1);
        files.remove(0)
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(
        self,
        expect: Expect,
    ) -> (tempfile::TempDir, Result<LocalStore, OpenError>) {
        let options = LocalOptions::new(self.pool.clone(), self.instance, expect);
        drop(self.store);
        let opened = LocalStore::open(self.directory.path(), options, &Env::system());
        (self.directory, opened)
    }
}

/// All files below `directory`.
pub(crate) fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut waiting = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn directories(directory: &std::path::Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn a_store_opened_again_has_its_chunks_and_its_id() {
    let test = TestStore::new();
    let content = body(1, 200_000);
    let stat = put(&test.store, id(1, 1, 0), &content, None).await.unwrap();
    let server = test.store.server();
    let (directory, opened) = test.reopen(Expect::Existing(Some(server)));
    let store = opened.unwrap();
    assert_eq!(store.server(), server);
    assert_eq!(store.head(id(1, 1, 0)).await.unwrap(), stat);
    assert_eq!(get(&store, id(1, 1, 0), 0..200_000).await.unwrap(), content);
    drop(directory);
}

#[test]
fn an_empty_foreign_or_wrong_store_is_refused_and_left_alone() {
    let env = Env::system();
    let pool = BufferPool::new(0);
    let directory = tempfile::tempdir().unwrap();
    let instance = InstanceId::new(&env);
    let open = |expect, instance| {
        LocalStore::open(directory.path(), LocalOptions::new(pool.clone(), instance, expect), &env)
    };

    let missing = open(Expect::Existing(None), instance);
    assert!(matches!(missing, Err(OpenError::Missing(_))), "{missing:?}");
    assert!(files(directory.path()).is_empty(), "nothing is put where a disk may be missing");

    fs::write(directory.path().join("photo.jpg"), "x").unwrap();
    let strange = open(Expect::New, instance);
    assert!(matches!(strange, Err(OpenError::NotEmpty(_))), "{strange:?}");
    fs::remove_file(directory.path().join("photo.jpg")).unwrap();

    let server = open(Expect::New, instance).unwrap().server();
    for expect in [Expect::New, Expect::Existing(None), Expect::Existing(Some(server))] {
        assert_eq!(open(expect, instance).unwrap().server(), server, "{expect:?}");
        let foreign = open(expect, InstanceId::new(&env));
        assert!(matches!(foreign, Err(OpenError::Foreign { .. })), "{foreign:?}");
    }
    let other = open(Expect::Existing(Some(ServerId::new(&env))), instance);
    assert!(matches!(other, Err(OpenError::Foreign { .. })), "{other:?}");

    let identity = directory.path().join("store");
    let good = fs::read(&identity).unwrap();
    fs::write(&identity, &good[..good.len() - 1]).unwrap();
    let damaged = open(Expect::Existing(None), instance);
    assert!(matches!(damaged, Err(OpenError::Identity(_))), "{damaged:?}");

    // Even an empty store of ours that lost its identity is not made anew.
    fs::remove_file(&identity).unwrap();
    let missing = open(Expect::Existing(Some(server)), instance);
    assert!(matches!(missing, Err(OpenError::Missing(_))), "{missing:?}");
}

#[test]
fn a_newer_store_is_refused() {
    let test = TestStore::new();
    let path = test.directory.path().join("store");
    let mut identity = larder_disk::fsx::Identity::read(&path).unwrap();
    identity.values[0].1 = "2".into();
    identity.write(&path, &Faults::none()).unwrap();
    let (_directory, opened) = test.reopen(Expect::Existing(None));
    assert!(matches!(opened, Err(OpenError::Newer { .. })), "{opened:?}");
}

#[test]
fn a_store_is_open_once() {
    let test = TestStore::new();
    let options = LocalOptions::new(test.pool.clone(), test.instance, Expect::Existing(None));
    let second = LocalStore::open(test.directory.path(), options, &Env::system());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    let (_directory, opened) = test.reopen(Expect::Existing(None));
    opened.unwrap();
}

#[test]
fn leftovers_of_unfinished_writers_go_at_start() {
    let test = TestStore::new();
    let tmp = test.directory.path().join("tmp");
    fs::create_dir_all(&tmp).unwrap();
    fs::write(tmp.join("leftover"), "x").unwrap();
    let (_directory, opened) = test.reopen(Expect::Existing(None));
    opened.unwrap();
    assert!(files(&tmp).is_empty());
}

#[tokio::test]
async fn named_temporary_files_go_with_their_writer() {
    let test = TestStore::with_named_temporaries();
    let tmp = test.directory.path().join("tmp");
    let writer = test.store.create(id(1, 1, 0), None).await.unwrap();
    assert_eq!(files(&tmp).len(), 1);
    drop(writer);
    assert_eq!(files(&tmp).len(), 0);
    put(&test.store, id(1, 1, 0), b"x", None).await.unwrap();
    assert_eq!(files(&tmp).len(), 0);
}

#[tokio::test]
async fn empty_directories_of_ended_incarnations_go_with_their_last_chunk() {
    let test = TestStore::new();
    for (incarnation, counter) in [(1, 1), (1, 1000), (2, 1)] {
        put(&test.store, id(incarnation, counter, 0), b"x", None).await.unwrap();
    }
    let chunks = test.directory.path().join("chunks");
    test.store.delete(id(2, 1, 0)).await.unwrap();
    assert_eq!(directories(&chunks), 2, "a directory that may be written to stays");
    let (_directory, opened) = test.reopen(Expect::Existing(None));
    let store = opened.unwrap();
    store.delete(id(1, 1, 0)).await.unwrap();
    assert_eq!(directories(&chunks.join("0000000000000001")), 1);
    store.delete(id(1, 1000, 0)).await.unwrap();
    assert_eq!(directories(&chunks), 1);
    store.sync_deletes().await.unwrap();
    assert!(store.owners().await.unwrap().is_empty());
    assert_eq!(directories(&chunks), 0, "listing removes what an earlier process left empty");
}

#[test]
fn a_finish_that_nobody_waits_for_leaves_nothing() {
    let test = TestStore::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let finished = runtime.block_on(async {
        let mut finished = 0;
        for counter in 0..100 {
            let mut writer = test.store.create(id(1, counter, 0), Some(5)).await.unwrap();
            let mut buffer = writer.buffer(usize::MAX).await.unwrap();
            buffer.extend_from_slice(b"hello");
            writer.write(Arc::new(buffer)).await.unwrap();
            // Dropped after more and more polls, so before, while and after the file is linked.
            let mut finish = Box::pin(writer.finish());
            for _ in 0..counter {
                let ready = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(finish.as_mut().poll(context).is_ready())
                });
                if ready.await {
                    finished += 1;
                    test.store.delete(id(1, counter, 0)).await.unwrap();
                    break;
                }
                std::thread::yield_now();
            }
        }
        finished
    });
    // Waits for the blocking work that still runs.
    drop(runtime);
    assert_eq!(files(&test.directory.path().join("chunks")), [] as [PathBuf; 0]);
    assert!(finished < 100, "some were dropped before their end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_and_readers_stay_within_the_budget() {
    let test = TestStore::with_budget(6 << 20);
    let content = Arc::new(body(5, 3 << 20));
    let mut tasks = tokio::task::JoinSet::new();
    for counter in 0..100 {
        let (store, pool, content) = (test.store.clone(), test.pool.clone(), Arc::clone(&content));
        tasks.spawn(async move {
            let chunk = id(1, counter, 0);
            put(&store, chunk, &content, None).await.unwrap();
            assert!(pool.in_use() <= pool.budget());
            let mut reader = store.open(chunk, 0..content.len() as u64).await.unwrap();
            let mut at = 0;
            while let Some(bytes) = reader.next().await.unwrap() {
                assert!(pool.in_use() <= pool.budget());
                assert!(bytes[..] == content[at..at + bytes.len()]);
                at += bytes.len();
            }
            assert_eq!(at, content.len());
            store.delete(chunk).await.unwrap();
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap();
    }
    assert_eq!(test.pool.in_use(), 0);
}

#[tokio::test]
async fn slow_readers_never_keep_a_writer_from_its_memory() {
    let test = TestStore::with_budget(8 << 20);
    let content = body(5, 3 << 20);
    put(&test.store, id(1, 1, 0), &content, None).await.unwrap();
    // Many readers that hold what they were given and take no more.
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut reader = test.store.open(id(1, 1, 0), 0..content.len() as u64).await.unwrap();
        let bytes = reader.next().await.unwrap().unwrap();
        held.push((reader, bytes));
    }
    put(&test.store, id(1, 2, 0), &content, None).await.unwrap();
    for (mut reader, first) in held {
        let mut read = first.to_vec();
        drop(first);
        while let Some(bytes) = reader.next().await.unwrap() {
            read.extend_from_slice(&bytes);
        }
        assert!(read == content);
    }
}

#[tokio::test]
async fn no_chunk_is_begun_that_cannot_fit() {
    let test = TestStore::new();
    let all = test.store.capacity().await.unwrap();
    let giant = test.store.create(id(1, 1, 0), Some(all.total * 2)).await;
    assert!(matches!(giant, Err(ChunkError::Full)), "{giant:?}");
    put(&test.store, id(1, 1, 0), b"small", None).await.unwrap();
}
