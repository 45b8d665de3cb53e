//! Failing and full disks.

use larder_chunk::{
    ChunkError, ChunkStore, StoreHealth,
    conformance::{body, get, id, put},
};
use larder_disk::fault::{DiskOp, Fault, Rule};

use crate::local::{TestStore, files};

#[tokio::test]
async fn i_chk_4_a_failed_sync_or_write_stops_writing_for_good() {
    for rule in [
        Rule::nth(DiskOp::Sync, 1, Fault::Io),
        Rule::nth(DiskOp::Sync, 1, Fault::NoSpace),
        Rule::nth(DiskOp::Write, 1, Fault::Io),
        Rule::nth(DiskOp::Write, 1, Fault::Torn(4096)),
        Rule::nth(DiskOp::Write, 2, Fault::Io),
        // The link of the chunk, and the sync of its directory.
        Rule::nth(DiskOp::Directory, 1, Fault::Io),
        Rule::nth(DiskOp::Directory, 2, Fault::Io),
    ] {
        let test = TestStore::new();
        put(&test.store, id(1, 1, 0), b"before", None).await.unwrap();
        test.faults.set(vec![rule.clone()]);
        let outcome = put(&test.store, id(1, 2, 0), &body(1, 300_000), None).await;
        assert!(matches!(outcome, Err(ChunkError::Io { .. })), "{rule:?}: {outcome:?}");
        assert_eq!(test.faults.met(), 1, "{rule:?}");
        test.faults.clear();

        let health = test.store.health();
        assert!(matches!(health, StoreHealth::Failed(_)), "{rule:?}: {health:?}");
        let refused = put(&test.store, id(1, 3, 0), b"after", None).await;
        assert!(matches!(refused, Err(ChunkError::Unavailable(_))), "{rule:?}: {refused:?}");
        let refused = test.store.delete(id(1, 1, 0)).await;
        assert!(matches!(refused, Err(ChunkError::Unavailable(_))), "{rule:?}: {refused:?}");
        let read = get(&test.store, id(1, 1, 0), 0..6).await.unwrap();
        assert_eq!(read, b"before", "reads go on");
        assert_eq!(files(test.directory.path()).len(), 3, "{rule:?}: one chunk, store, lock");
    }
}

#[tokio::test]
async fn every_single_fault_is_told_and_leaves_no_chunk() {
    // Walks one write from its first to its last disk operation of each kind.
    for op in [DiskOp::Open, DiskOp::Write, DiskOp::Sync, DiskOp::Allocate, DiskOp::Directory] {
        for fault in [Fault::Io, Fault::NoSpace] {
            let mut reached = 0;
            loop {
                let test = TestStore::new();
                test.faults.set(vec![Rule::nth(op, reached + 1, fault)]);
                let outcome = put(&test.store, id(1, 1, 0), &body(1, 2 << 20), Some(2 << 20)).await;
                if test.faults.met() == 0 {
                    outcome.unwrap();
                    break;
                }
                reached += 1;
                outcome.expect_err("a fault is told");
                test.faults.clear();
                let there = test.store.head(id(1, 1, 0)).await;
                assert!(
                    matches!(there, Err(ChunkError::NotFound(_))),
                    "{op:?} {reached} {fault:?}: {there:?}"
                );
                assert_eq!(test.pool.in_use(), 0);
            }
            assert!(reached > 0, "{op:?} was reached");
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_then_recovers_by_itself_and_always_deletes() {
    let test = TestStore::new();
    put(&test.store, id(1, 1, 0), b"before", None).await.unwrap();
    for op in [DiskOp::Write, DiskOp::Allocate, DiskOp::Directory] {
        test.faults.set(vec![Rule::always(op, "chunks", Fault::NoSpace)]);
        let outcome = put(&test.store, id(1, 2, 0), &body(1, 1 << 20), Some(1 << 20)).await;
        assert!(matches!(outcome, Err(ChunkError::Full)), "{op:?}: {outcome:?}");
        assert_eq!(test.store.health(), StoreHealth::Full, "{op:?}");
        assert_eq!(get(&test.store, id(1, 1, 0), 0..6).await.unwrap(), b"before");
        if op != DiskOp::Directory {
            test.store.delete(id(1, 1, 0)).await.unwrap();
        }
        test.faults.clear();
        put(&test.store, id(1, 2, 0), &body(1, 1 << 20), Some(1 << 20)).await.unwrap();
        assert_eq!(test.store.health(), StoreHealth::Ready, "{op:?}");
        test.store.delete(id(1, 2, 0)).await.unwrap();
        if op != DiskOp::Directory {
            put(&test.store, id(1, 1, 0), b"before", None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_read_error_is_told_and_fails_only_the_read() {
    let test = TestStore::new();
    put(&test.store, id(1, 1, 0), &body(1, 300_000), None).await.unwrap();
    for n in 1..=4 {
        test.faults.set(vec![Rule::nth(DiskOp::Read, n, Fault::Io)]);
        let outcome = get(&test.store, id(1, 1, 0), 0..300_000).await;
        assert!(matches!(outcome, Err(ChunkError::Io { .. })), "read {n}: {outcome:?}");
    }
    test.faults.set(vec![Rule::always(DiskOp::Read, "chunks", Fault::Io)]);
    let report = test.store.scrub(None, u64::MAX).await.unwrap();
    assert_eq!(report.damaged, [id(1, 1, 0)]);
    test.faults.clear();
    let read = get(&test.store, id(1, 1, 0), 0..300_000).await.unwrap();
    assert!(read == body(1, 300_000), "an unreadable chunk was not moved");
    assert_eq!(test.store.health(), StoreHealth::Ready);
}
