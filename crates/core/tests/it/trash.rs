//! The trash: what is deleted is one item, comes back as it was, and is destroyed once.
//!
//! Not here: room for what comes back (`quota`), bytes of what is destroyed (`blob`).

use std::{sync::Arc, time::Duration};

use larder_base::{Env, ErrorKind, id::TrashId};
use larder_core::{
    ListOptions, RestoreOptions, SpaceRef,
    testing::{Body, Fixture, fixture::path},
};
use larder_meta::{TxnSpec, engine::memory::MemoryStore, store::prefix_end};

use super::{fresh_seed, race, racy};

async fn restore_to(fixture: &Fixture, item: TrashId, options: RestoreOptions) -> ErrorKind {
    let home = SpaceRef::Home;
    let refused = fixture.larder.restore(&fixture.root, &home, item, &options).await;
    refused.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_1_deleting_a_tree_is_one_item_and_a_commit_whatever_its_size() {
    let fixture = Fixture::new().await;
    for i in 0..300 {
        fixture.put(&format!("dir/{}/{i}", i % 10), vec![0; 10]).await.unwrap();
    }
    fixture.settle().await;
    let before = fixture.meta.snapshot().await.unwrap().revision().0;
    let item = fixture.rm("dir").await.unwrap();
    let commits = fixture.meta.snapshot().await.unwrap().revision().0 - before;
    // Its own, and at most some of the background's.
    assert!(commits < 5, "{commits} commits");
    let items = fixture.trash().await;
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].item, &*items[0].path, items[0].size), (item.item, "dir", 3000));
    assert_eq!(&*items[0].deleted_by, "root");
    assert!(items[0].deleted.since(fixture.env.now()).is_zero(), "deleted before now");
    let usage = fixture.usage().await;
    assert_eq!((usage.live, usage.retained), (0, 3000));
    assert!(fixture.stat("dir/1/1").await.is_err());
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_1_of_many_deletes_of_one_entry_one_happens() {
    let fixture = racy(40).await;
    for round in 0..30 {
        fixture.put(&format!("d{round}/f"), "x").await.unwrap();
        let answers =
            race(
                &fixture,
                8,
                move |_, fixture| async move { fixture.rm(&format!("d{round}")).await },
            )
            .await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for error in answers.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        assert_eq!(fixture.trash().await.len(), round + 1);
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_2_of_many_restores_one_happens() {
    let fixture = racy(41).await;
    for round in 0..30 {
        fixture.put(&format!("d{round}/f"), vec![1; 200_000]).await.unwrap();
        let item = fixture.rm(&format!("d{round}")).await.unwrap().item;
        let answers = race(&fixture, 8, move |i, fixture| async move {
            let to = (i % 2 == 0).then(|| path(&format!("elsewhere-{round}-{i}")));
            let options = RestoreOptions { to, ..RestoreOptions::default() };
            fixture.larder.restore(&fixture.root, &SpaceRef::Home, item, &options).await
        })
        .await;
        let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let file = fixture.get(&format!("{}/f", won[0].path)).await.unwrap();
        assert_eq!(file.len(), 200_000);
        assert!(fixture.trash().await.is_empty());
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_2_of_a_restore_and_a_purge_one_happens() {
    let fixture = racy(42).await;
    let mut restored = 0;
    for round in 0..60 {
        let at = format!("d{round}");
        let body = Body::new(fresh_seed(), 200_000).bytes();
        fixture.put(&format!("{at}/f"), body.clone()).await.unwrap();
        fixture.put(&format!("{at}/f"), "small").await.unwrap();
        let item = fixture.rm(&at).await.unwrap().item;
        let answers = race(&fixture, 3, move |i, fixture| async move {
            match i {
                0 => fixture.restore(item).await.map(drop),
                1 if round % 2 == 0 => fixture.purge(item).await,
                1 => fixture.larder.empty_trash(&fixture.root, &SpaceRef::Home).await,
                _ => fixture.larder.collect(&fixture.root).await.map(drop),
            }
        })
        .await;
        fixture.settle().await;
        match &answers[0] {
            Ok(()) => {
                restored += 1;
                assert!(round % 2 == 1 || answers[1].is_err(), "both happened");
                let home = SpaceRef::Home;
                let old = fixture.get_of(&home, &format!("{at}/f"), Some(1)).await.unwrap();
                assert!(old == body, "it came back whole");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert!(answers[1].is_ok(), "neither happened");
                assert!(fixture.stat(&at).await.is_err());
            }
        }
        assert!(fixture.trash().await.is_empty());
    }
    assert!((1..60).contains(&restored), "both won now and then: {restored} restores");
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_3_what_is_restored_is_what_it_was() {
    let fixture = Fixture::new().await;
    let old = Body::new(fresh_seed(), 200_000).bytes();
    fixture.put("a/b/f", old.clone()).await.unwrap();
    let before = fixture.put("a/b/f", "new").await.unwrap().entry;
    let dir = fixture.stat("a").await.unwrap();
    let item = fixture.rm("a").await.unwrap();
    assert_eq!(item.id, dir.id);
    fixture.settle().await;
    let restored = fixture.restore(item.item).await.unwrap();
    assert_eq!((restored.id, restored.etag, restored.size), (dir.id, dir.etag, dir.size));
    let after = fixture.stat("a/b/f").await.unwrap();
    assert_eq!((after.id, after.etag, after.revision), (before.id, before.etag, 2));
    assert!(fixture.get_of(&SpaceRef::Home, "a/b/f", Some(1)).await.unwrap() == old);
    fixture.assert_clean().await;
}

/// A directory in the trash that was emptied out of its own: where things go back to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_restored_follows_its_directory_or_says_that_it_is_gone() {
    let fixture = Fixture::new().await;
    fixture.put("a/b/f", "x").await.unwrap();
    let file = fixture.rm("a/b/f").await.unwrap().item;
    fixture.mv("a/b", "moved", false).await.unwrap();
    assert_eq!(fixture.restore(file).await.unwrap().path.to_string(), "moved/f");
    let file = fixture.rm("moved/f").await.unwrap().item;
    let dir = fixture.rm("moved").await.unwrap().item;
    let here = RestoreOptions::default();
    assert_eq!(restore_to(&fixture, file, here.clone()).await, ErrorKind::Conflict);
    fixture.purge(dir).await.unwrap();
    fixture.settle().await;
    assert_eq!(restore_to(&fixture, file, here).await, ErrorKind::Conflict);
    let options = RestoreOptions { recreate_parents: true, ..RestoreOptions::default() };
    let home = SpaceRef::Home;
    let restored = fixture.larder.restore(&fixture.root, &home, file, &options).await.unwrap();
    assert_eq!(restored.path.to_string(), "moved/f");
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_trash_4_one_name_can_be_in_the_trash_many_times() {
    let fixture = racy(43).await;
    for i in 0..5 {
        fixture.put("name.txt", format!("{i}")).await.unwrap();
        fixture.rm("name.txt").await.unwrap();
    }
    let items = fixture.trash().await;
    assert_eq!(items.len(), 5);
    assert!(items.iter().all(|item| item.path == "name.txt"));
    fixture.put("name.txt", "taken").await.unwrap();
    let here = RestoreOptions::default();
    assert_eq!(restore_to(&fixture, items[0].item, here).await, ErrorKind::AlreadyExists);
    let restored = race(&fixture, 5, |i, fixture| {
        let item = items[i].item;
        async move {
            let options = RestoreOptions { rename: true, ..RestoreOptions::default() };
            let home = SpaceRef::Home;
            fixture.larder.restore(&fixture.root, &home, item, &options).await.unwrap()
        }
    })
    .await;
    let mut names: Vec<_> = restored.iter().map(|entry| entry.path.to_string()).collect();
    names.sort();
    let expected: Vec<_> = (2..7).map(|i| format!("name ({i}).txt")).collect();
    assert_eq!(names, expected);
    assert_eq!(fixture.get("name.txt").await.unwrap(), "taken");
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_trash_is_listed_in_pages_and_emptied_whole() {
    let (env, clock) = Env::manual(44);
    let fixture = Fixture::over(Arc::new(MemoryStore::new()), env).await;
    for i in 0..130 {
        clock.advance(Duration::from_millis(1));
        fixture.put(&format!("f{i}"), "x").await.unwrap();
        fixture.rm(&format!("f{i}")).await.unwrap();
    }
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let options = ListOptions { cursor, limit: 17, recursive: false };
        let page = fixture.larder.trash(&fixture.root, &SpaceRef::Home, &options).await.unwrap();
        found.extend(page.entries);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let found: Vec<_> = found.into_iter().map(|item| item.path).collect();
    let newest_first: Vec<_> = (0..130).rev().map(|i| format!("f{i}")).collect();
    assert_eq!(found, newest_first);
    fixture.larder.empty_trash(&fixture.root, &SpaceRef::Home).await.unwrap();
    assert!(fixture.trash().await.is_empty());
    fixture.settle().await;
    assert_eq!(fixture.usage().await.retained, 0);
    assert_eq!(fixture.assert_clean().await.counts.blobs, 0);
}

/// The checker looks again and again while a job destroys a tree.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_purge_1_every_state_on_the_way_of_a_purge_is_sound() {
    let fixture = racy(45).await;
    for i in 0..160 {
        let at = format!("dir/{}/{}/f{i}", i % 4, i % 3);
        fixture.put(&at, vec![0; if i % 16 == 0 { 200_000 } else { 10 }]).await.unwrap();
        if i % 5 == 0 {
            fixture.put(&at, "newer").await.unwrap();
        }
    }
    fixture.put("kept", "x").await.unwrap();
    let item = fixture.rm("dir").await.unwrap().item;
    fixture.purge(item).await.unwrap();
    assert!(fixture.trash().await.is_empty(), "it is gone at once for users");
    assert_eq!(restore_to(&fixture, item, RestoreOptions::default()).await, ErrorKind::NotFound);
    let mut retained = u64::MAX;
    let mut looks = Vec::new();
    while looks.len() < 100 && !fixture.larder.jobs(&fixture.root).await.unwrap().is_empty() {
        // What each sees is the state of now, however long it looks.
        let looking = fixture.clone();
        looks.push(fixture.env.spawn("look", async move { looking.assert_sound().await }));
        let now = fixture.usage().await.retained;
        assert!(now <= retained, "a purge only frees");
        retained = now;
    }
    for look in looks {
        look.await.unwrap();
    }
    let report = fixture.assert_clean().await;
    assert_eq!((report.counts.directories, report.counts.blobs), (1, 1));
}

/// A record that cannot be read stops the purge: it is not skipped, and nothing below is lost
/// sight of.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_purge_2_a_record_that_cannot_be_read_stops_a_purge_and_is_said() {
    let fixture = Fixture::new().await;
    for i in 0..60 {
        fixture.put(&format!("dir/f{i:02}"), "x").await.unwrap();
    }
    let item = fixture.rm("dir").await.unwrap().item;
    let snapshot = fixture.meta.snapshot().await.unwrap();
    let end = prefix_end(b"de").unwrap();
    let entries = snapshot.scan(b"de", &end, 100).await.unwrap();
    let (key, whole) =
        entries.into_iter().find(|(key, _)| key.ends_with(b"f40")).expect("its entry");
    let damaged = vec![(key.clone(), vec![1, 0xff].into())];
    fixture.meta.commit(TxnSpec { put: damaged, ..TxnSpec::default() }).await.unwrap();
    fixture.purge(item).await.unwrap();
    fixture.larder.collect(&fixture.root).await.unwrap();
    let jobs = fixture.larder.jobs(&fixture.root).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].state, "failed");
    assert!(jobs[0].detail.as_ref().unwrap().contains("f40"), "{:?}", jobs[0].detail);
    let snapshot = fixture.meta.snapshot().await.unwrap();
    assert!(snapshot.get(&key).await.unwrap().is_some(), "it has not been skipped");
    // Mended, the same job ends.
    let mended = vec![(key, whole.value)];
    fixture.meta.commit(TxnSpec { put: mended, ..TxnSpec::default() }).await.unwrap();
    fixture.larder.collect(&fixture.root).await.unwrap();
    assert_eq!(fixture.assert_clean().await.counts.blobs, 0);
}
