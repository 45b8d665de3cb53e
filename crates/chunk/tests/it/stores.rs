//! The conformance suite on every store and decorator.

use std::sync::Arc;

use larder_base::{Env, id::ServerId};
use larder_chunk::{
    BufferPool, ChunkError, ChunkStore, MemoryChunks,
    chaos::{Chaos, Plan},
    conformance::{self, body, get, id, put},
    observe::{Call, Observed},
};

use crate::local::TestStore;

fn memory() -> MemoryChunks {
    MemoryChunks::new(ServerId::new(&Env::system()), BufferPool::new(8 << 20))
}

#[tokio::test]
async fn memory_conforms() {
    conformance::run(|| async { Arc::new(memory()) as Arc<dyn ChunkStore> }).await;
}

async fn check_local(make: fn() -> TestStore) {
    // Kept until the end of the suite, then removed.
    let kept = std::sync::Mutex::new(Vec::new());
    conformance::run(|| async {
        let test = make();
        let store = Arc::new(test.store.clone()) as Arc<dyn ChunkStore>;
        kept.lock().unwrap().push(test);
        store
    })
    .await;
    for test in kept.into_inner().unwrap() {
        assert_eq!(test.pool.in_use(), 0, "every buffer came back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_disk_conforms() {
    check_local(TestStore::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_disk_without_nameless_files_conforms() {
    check_local(TestStore::with_named_temporaries).await;
}

#[tokio::test]
async fn observed_conforms_and_counts() {
    let env = Env::system();
    conformance::run(|| async {
        Arc::new(Observed::new(Arc::new(memory()), env.clone())) as Arc<dyn ChunkStore>
    })
    .await;

    let memory = memory();
    let store = Observed::new(Arc::new(memory.clone()), env);
    put(&store, id(1, 1, 0), &body(1, 300_000), None).await.unwrap();
    get(&store, id(1, 1, 0), 5..100_005).await.unwrap();
    assert!(memory.damage(id(1, 1, 0), 0));
    get(&store, id(1, 1, 0), 0..10).await.unwrap_err();
    store.head(id(9, 9, 9)).await.unwrap_err();
    let counts = store.snapshot();
    assert_eq!((counts.bytes_written, counts.bytes_read, counts.corrupt), (300_000, 100_000, 1));
    assert_eq!((counts.of(Call::Finish).count, counts.of(Call::Finish).errors), (1, 0));
    assert_eq!((counts.of(Call::Other).count, counts.of(Call::Other).errors), (1, 1));
    assert_eq!(counts.of(Call::Read).errors, 1);
}

#[tokio::test]
async fn chaos_without_a_plan_conforms() {
    let env = Env::system();
    conformance::run(|| async {
        let chaos = Chaos::new(Arc::new(memory()), Plan::default(), env.clone());
        Arc::new(chaos) as Arc<dyn ChunkStore>
    })
    .await;
}

#[tokio::test]
async fn chaos_fails_as_its_seed_says_and_never_serves_or_keeps_wrong_bytes() {
    let run = async |seed| {
        let memory = memory();
        let plan =
            Plan { seed, unavailable: 50_000, full: 50_000, flipped: 100_000, ..Plan::default() };
        let store = Chaos::new(Arc::new(memory.clone()), plan, Env::system());
        let mut outcomes = Vec::new();
        for counter in 0..200 {
            let chunk = id(1, counter, 0);
            let content = body(counter, 1000);
            let written = put(&store, chunk, &content, Some(1000)).await;
            assert_eq!(
                written.is_ok(),
                memory.head(chunk).await.is_ok(),
                "an error stores nothing"
            );
            let read = get(&store, chunk, 0..1000).await;
            match &read {
                Ok(bytes) => assert!(*bytes == content),
                Err(ChunkError::NotFound(_)) => assert!(written.is_err()),
                Err(ChunkError::Corrupt { .. } | ChunkError::Unavailable(_)) => {}
                Err(other) => panic!("unexpected {other}"),
            }
            outcomes.push((written.is_ok(), read.is_ok()));
        }
        assert!(outcomes.contains(&(false, false)) && outcomes.contains(&(true, false)));
        assert!(outcomes.contains(&(true, true)));
        outcomes
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}
