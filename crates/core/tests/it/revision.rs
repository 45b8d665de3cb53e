//! Revisions under concurrent uploads, restores and deletes.
//!
//! Not here: uploads alone (`upload`).

use std::collections::{BTreeMap, BTreeSet};

use larder_base::ErrorKind;
use larder_core::{
    PolicyChange, SpaceChange, SpaceRef,
    testing::{Body, Fixture},
};

use super::{fresh_seed, race, racy};

async fn keep(fixture: &Fixture, versions: Option<u32>) {
    let policy = PolicyChange { versions_keep: Some(versions), ..PolicyChange::default() };
    let change = SpaceChange { policy, ..SpaceChange::default() };
    fixture.larder.change_space(&fixture.root, &SpaceRef::Home, change).await.unwrap();
}

/// Body of each revision, read back.
async fn bodies(fixture: &Fixture, at: &str) -> BTreeMap<u64, bytes::Bytes> {
    let mut bodies = BTreeMap::new();
    for info in fixture.revisions(at).await.unwrap() {
        let bytes = fixture.get_of(&SpaceRef::Home, at, Some(info.revision)).await.unwrap();
        assert_eq!(bytes.len() as u64, info.size);
        bodies.insert(info.revision, bytes);
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_rev_1_uploads_and_restores_at_once_are_numbered_in_one_order_without_gaps() {
    let fixture = racy(30).await;
    for round in 0..10 {
        let at = format!("file-{round}");
        let first = Body::new(fresh_seed(), 100).bytes();
        fixture.put(&at, first.clone()).await.unwrap();
        let before = fixture.revisions(&at).await.unwrap()[0].etag;
        let name = at.clone();
        let made = race(&fixture, 16, move |i, fixture| {
            let at = name.clone();
            async move {
                if i % 2 == 0 {
                    return (fixture.restore_revision(&at, 1).await.unwrap().revision, None);
                }
                let body = Body::new(fresh_seed(), 100).bytes();
                (fixture.put(&at, body.clone()).await.unwrap().entry.revision, Some(body))
            }
        })
        .await;
        let numbers: BTreeSet<u64> = made.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (2..=17).collect());
        let bodies = bodies(&fixture, &at).await;
        for (number, body) in made {
            assert!(bodies[&number] == body.unwrap_or_else(|| first.clone()));
        }
        let oldest = fixture.revisions(&at).await.unwrap().pop().unwrap();
        assert_eq!((oldest.revision, oldest.etag), (1, before), "a revision never changes");
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_rev_2_a_restore_brings_back_all_of_a_revision_and_loses_none() {
    let fixture = Fixture::new().await;
    let body = Body::new(fresh_seed(), 200_000).bytes();
    let first = fixture.put("file", body.clone()).await.unwrap().entry;
    fixture.put("file", "second").await.unwrap();
    let restored = fixture.restore_revision("file", 1).await.unwrap();
    assert_eq!((restored.revision, restored.size, restored.id), (3, first.size, first.id));
    assert_eq!((restored.sha256, restored.content_type), (first.sha256, first.content_type));
    assert_ne!(restored.etag, first.etag, "it is another revision");
    assert!(fixture.get("file").await.unwrap() == body);
    let revisions = fixture.revisions("file").await.unwrap();
    let origins: Vec<&str> = revisions.iter().map(|info| &*info.origin).collect();
    assert_eq!(origins, ["restore:1", "upload", "upload"]);
    // The one restored from can go; the restored one stays whole.
    for number in [1, 2] {
        fixture.delete_revision("file", number).await.unwrap();
    }
    fixture.assert_clean().await;
    assert!(fixture.get("file").await.unwrap() == body);
    assert_eq!(fixture.usage().await.retained, 0);
}

/// A restore and a delete of the same old revision: the restore has it whole or says that it is
/// gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_rev_2_a_restore_races_with_the_removal_of_its_revision() {
    let fixture = racy(31).await;
    for round in 0..40 {
        let at = format!("file-{round}");
        let body = Body::new(fresh_seed(), if round % 2 == 0 { 200_000 } else { 10 }).bytes();
        fixture.put(&at, body.clone()).await.unwrap();
        fixture.put(&at, "newer").await.unwrap();
        let name = at.clone();
        let answers = race(&fixture, 3, move |i, fixture| {
            let at = name.clone();
            async move {
                match i {
                    0 => fixture.restore_revision(&at, 1).await.map(drop),
                    1 => fixture.delete_revision(&at, 1).await,
                    _ => fixture.larder.collect(&fixture.root).await.map(drop),
                }
            }
        })
        .await;
        assert!(answers[1].is_ok(), "{:?}", answers[1]);
        fixture.settle().await;
        match &answers[0] {
            Ok(()) => assert!(fixture.get(&at).await.unwrap() == body),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_rev_3_the_current_revision_is_never_removed_alone() {
    let fixture = racy(32).await;
    fixture.put("file", "0").await.unwrap();
    for round in 1..60 {
        let answers = race(&fixture, 2, move |i, fixture| async move {
            if i == 0 {
                return fixture.put("file", format!("{round}")).await.map(drop);
            }
            fixture.delete_revision("file", round).await
        })
        .await;
        assert!(answers[0].is_ok());
        if let Err(error) = &answers[1] {
            assert_eq!(error.kind(), ErrorKind::Conflict, "it was current");
        }
        assert_eq!(fixture.get("file").await.unwrap(), format!("{round}"));
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_smaller_number_of_kept_revisions_holds_from_the_next_write_on() {
    let fixture = Fixture::new().await;
    for i in 0..8 {
        fixture.put("file", format!("{i}")).await.unwrap();
    }
    keep(&fixture, Some(2)).await;
    fixture.put("file", "8").await.unwrap();
    let numbers: Vec<u64> =
        fixture.revisions("file").await.unwrap().iter().map(|info| info.revision).collect();
    assert_eq!(numbers, [9, 8, 7]);
    keep(&fixture, Some(0)).await;
    fixture.put("file", "9").await.unwrap();
    assert_eq!(fixture.revisions("file").await.unwrap().len(), 1);
    assert_eq!(fixture.usage().await.retained, 0);
    let report = fixture.assert_clean().await;
    assert_eq!(report.counts.blobs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uploads_at_once_keep_as_many_revisions_as_the_space_says() {
    let fixture = racy(33).await;
    for versions in [0, 1, 3] {
        keep(&fixture, Some(versions)).await;
        let at = format!("file-{versions}");
        let name = at.clone();
        race(&fixture, 16, move |i, fixture| {
            let at = name.clone();
            async move {
                let body = Body::new(fresh_seed(), if i % 3 == 0 { 200_000 } else { 50 });
                fixture.put(&at, body.bytes()).await.unwrap();
            }
        })
        .await;
        let bodies = bodies(&fixture, &at).await;
        let kept: Vec<u64> = bodies.keys().copied().collect();
        assert_eq!(kept, (16 - u64::from(versions)..=16).collect::<Vec<_>>());
        fixture.assert_clean().await;
    }
}
