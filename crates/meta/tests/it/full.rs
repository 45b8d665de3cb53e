//! The embedded engine on a full disk: what it refuses, what it still takes, and that it recovers.
//!
//! Not here: full file systems, which end-to-end tests make; here faults say that there is no room.

use larder_disk::fault::{DiskOp, Fault, Faults, Rule};
use larder_meta::{
    CommitError, Health, MetaStore as _, TxnSpec, engine::embedded::EmbeddedOptions,
};

use crate::embedded::{body, delete, get, open, open_with, put, small, statistic, supplied};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_needs_room_takes_deletes_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(Vec::new());
    let options = EmbeddedOptions { faults: faults.clone(), ..small() };
    let store = open_with(directory.path(), options).unwrap();
    supplied(&store).await;
    // No new file can be made.
    faults.set(vec![
        Rule::always(DiskOp::Allocate, "", Fault::NoSpace),
        Rule::always(DiskOp::Open, ".new", Fault::NoSpace),
    ]);
    let mut kept = Vec::new();
    let refused = loop {
        let number = kept.len() as u64;
        match store.commit(put(&format!("{number:04}"), body(number, 60_000))).await {
            Ok(_) => kept.push(number),
            Err(error) => break error,
        }
        assert!(kept.len() < 1000);
    };
    assert!(matches!(refused, CommitError::Full), "{refused:?}");
    assert_eq!(store.health(), Health::Full);
    // Deleting goes on, with some bookkeeping beside it.
    for number in kept.drain(..20) {
        let mut spec = delete(&format!("{number:04}"));
        spec.put.push((format!("trash/{number}").into(), body(number, 300)));
        spec.frees = true;
        store.commit(spec).await.unwrap();
    }
    for number in &kept {
        let value = get(&store, &format!("{number:04}")).await;
        assert_eq!(value, Some(body(*number, 60_000)));
    }
    faults.clear();
    let mut tries = 0;
    while let Err(error) = store.commit(put("again", body(1, 60_000))).await {
        assert!(matches!(error, CommitError::Full), "{error:?}");
        tries += 1;
        assert!(tries < 1_000_000, "it recovers by itself");
        tokio::task::yield_now().await;
    }
    while store.health() != Health::Ready {
        tokio::task::yield_now().await;
    }
    drop(store);
    assert_eq!(get(&open(directory.path()), "again").await, Some(body(1, 60_000)));
}

/// What the log's reserve promises while no new file can be made: everything else is refused,
/// marks that only put are accepted like deletes, and their number is not bounded by the reserve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_specs_that_free_room_go_on_for_ever_and_nothing_else_uses_their_room() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(Vec::new());
    let options = EmbeddedOptions { faults: faults.clone(), ..small() };
    let store = open_with(directory.path(), options.clone()).unwrap();
    supplied(&store).await;
    let full = vec![
        Rule::always(DiskOp::Allocate, "", Fault::NoSpace),
        Rule::always(DiskOp::Open, ".new", Fault::NoSpace),
    ];
    faults.set(full.clone());
    let mut kept = 0;
    let refused = loop {
        match store.commit(put(&format!("{kept:04}"), body(kept, 60_000))).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000);
    };
    assert!(matches!(refused, CommitError::Full), "{refused:?}");
    let reserve = || statistic(&store, "log_segments_ready");
    assert_eq!(reserve(), 2, "the reserve is whole when the first spec is refused");
    for number in 0..500u64 {
        let length = if number % 2 == 0 { 10 } else { 60_000 };
        let mut spec = put("other", body(number, length));
        spec.delete.push("nothing".into());
        let other = store.commit(spec).await;
        assert!(matches!(other, Err(CommitError::Full)), "{number}: {other:?}");
    }
    assert_eq!(reserve(), 2, "what is refused uses nothing");
    // Each of them takes a block: these are ten segments' worth, five times the reserve, of
    // marks that delete nothing and are too large to be taken for bookkeeping.
    let mark = |number: u64, length| TxnSpec {
        frees: true,
        ..put(&format!("mark {}", number % 50), body(number, length))
    };
    for number in 0..5_000 {
        let length = if number % 100 == 0 { 25_000 } else { 300 };
        let marked = store.commit(mark(number, length)).await;
        assert!(marked.is_ok(), "{number}: {marked:?}");
    }
    // The same holds for a process that finds its disk full when it starts.
    drop(store);
    let store = open_with(directory.path(), options).unwrap();
    let mut others = 0;
    while store.commit(put("other", "x")).await.is_ok() {
        others += 1;
        assert!(others < 1000, "what is left of one segment is not the reserve");
    }
    for number in 0..kept {
        let value = get(&store, &format!("{number:04}")).await;
        assert_eq!(value, Some(body(number, 60_000)));
        let spec = TxnSpec { frees: true, ..delete(&format!("{number:04}")) };
        store.commit(spec).await.unwrap();
    }
    faults.clear();
    let mut tries = 0;
    while let Err(error) = store.commit(put("other", body(1, 60_000))).await {
        assert!(matches!(error, CommitError::Full), "{error:?}");
        tries += 1;
        assert!(tries < 1_000_000, "it recovers by itself");
        tokio::task::yield_now().await;
    }
    assert!(statistic(&store, "log_segments_ready") >= 2, "the reserve comes first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_write_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::new(Vec::new());
    let options = EmbeddedOptions { faults: faults.clone(), ..small() };
    let store = open_with(directory.path(), options).unwrap();
    supplied(&store).await;
    store.commit(put("a", "1")).await.unwrap();
    faults.set(vec![Rule::nth(DiskOp::Write, 1, Fault::Short(4096))]);
    let mut spec = put("a", "2");
    spec.expect_absent("b".into());
    assert!(matches!(store.commit(spec.clone()).await, Err(CommitError::Full)));
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
    // It is not remembered either: the same comparison still holds.
    spec.put.push(("b".into(), "3".into()));
    while let Err(error) = store.commit(spec.clone()).await {
        assert!(matches!(error, CommitError::Full), "{error:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"2"[..]));
}
