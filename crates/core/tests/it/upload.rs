//! Uploads at once to one name, under conditions, and broken off.
//!
//! Not here: room for them (`quota`), what becomes of their bytes (`blob`).

use std::collections::BTreeSet;

use larder_base::{ErrorKind, digest::Sha256};
use larder_core::{
    Conditions, EtagSet, SpaceRef, UploadOptions, UserChange, UserRef,
    testing::{Body, Fixture},
};

use super::{fresh_seed, race, racy};

const LARGE: u32 = 200_000;

/// Every way in which a body is not what was said, small and in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_upl_1_a_body_that_is_not_what_was_said_has_no_effect() {
    let fixture = Fixture::new().await;
    fixture.put("file", "before").await.unwrap();
    for length in [10, LARGE] {
        for wrong in ["short", "long", "digest", "dropped", "dropped before the commit"] {
            let said = match wrong {
                "short" => length + 1,
                "long" => length - 1,
                _ => length,
            };
            let bytes = Body::new(fresh_seed(), length).bytes();
            let sha256 = (wrong == "digest").then(|| Sha256::of(b"something else"));
            let length = Some(u64::from(said));
            let options = UploadOptions { length, sha256, ..UploadOptions::default() };
            let mut upload = fixture.open_upload("file", options).await.unwrap();
            if wrong == "dropped" {
                upload.write(bytes.slice(..bytes.len() / 2)).await.unwrap();
                drop(upload);
                continue;
            }
            let written = upload.write(bytes).await;
            if wrong == "long" {
                assert_eq!(written.unwrap_err().kind(), ErrorKind::Invalid);
                drop(upload);
                continue;
            }
            written.unwrap();
            if wrong == "dropped before the commit" {
                drop(upload);
                continue;
            }
            assert_eq!(upload.commit().await.unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
    }
    assert_eq!(fixture.get("file").await.unwrap(), "before");
    assert_eq!(fixture.revisions("file").await.unwrap().len(), 1);
    let report = fixture.assert_clean().await;
    assert_eq!(report.counts.chunks, 0, "what was staged is gone");
    let usage = fixture.usage().await;
    assert_eq!((usage.live, usage.retained, usage.reserved), (6, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_upl_2_uploads_at_once_to_one_path_are_all_kept_as_revisions_of_one_node() {
    let fixture = racy(20).await;
    for round in 0..6 {
        let at = format!("dir-{round}/file");
        let name = at.clone();
        let written = race(&fixture, 32, move |i, fixture| {
            let at = name.clone();
            async move {
                let body = Body::new(fresh_seed(), if i % 4 == 0 { LARGE } else { 1000 });
                (fixture.put(&at, body.bytes()).await.unwrap(), body)
            }
        })
        .await;
        let nodes: BTreeSet<_> = written.iter().map(|(written, _)| written.entry.id).collect();
        assert_eq!(nodes.len(), 1, "one node");
        assert_eq!(written.iter().filter(|(written, _)| written.created).count(), 1);
        let numbers: BTreeSet<u64> =
            written.iter().map(|(written, _)| written.entry.revision).collect();
        assert_eq!(numbers, (1..=32).collect(), "numbered without a gap");
        for (written, body) in &written {
            let number = Some(written.entry.revision);
            let bytes = fixture.get_of(&SpaceRef::Home, &at, number).await.unwrap();
            assert!(bytes == body.bytes(), "revision {number:?} is what its upload brought");
        }
        let current = written.iter().max_by_key(|(written, _)| written.entry.revision).unwrap();
        assert_eq!(fixture.stat(&at).await.unwrap().etag, current.0.entry.etag);
        let revisions = fixture.revisions(&at).await.unwrap();
        let newest_first: Vec<u64> = revisions.iter().map(|info| info.revision).collect();
        assert_eq!(newest_first, (1..=32).rev().collect::<Vec<_>>());
        assert!(revisions.is_sorted_by(|newer, older| newer.created >= older.created));
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_upl_3_of_uploads_that_demand_a_free_name_one_wins() {
    let fixture = racy(21).await;
    for round in 0..30 {
        let written = race(&fixture, 12, move |i, fixture| async move {
            let new = Conditions { if_none_match: Some(EtagSet::Any), ..Conditions::default() };
            let body = Body::new(fresh_seed(), if i % 3 == 0 { LARGE } else { 10 });
            let at = format!("file-{round}");
            fixture.put_if(&at, body.bytes(), new).await.map(|written| (written, body))
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = written.into_iter().partition(Result::is_ok);
        let won: Vec<_> = won.into_iter().map(Result::unwrap).collect();
        assert_eq!(won.len(), 1, "one winner");
        assert!(fixture.get(&format!("file-{round}")).await.unwrap() == won[0].1.bytes());
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Precondition);
        }
    }
    let report = fixture.assert_clean().await;
    assert_eq!(report.counts.blobs, 30, "the losers left nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_upl_3_of_uploads_that_demand_one_etag_one_wins() {
    let fixture = racy(22).await;
    let mut etag = fixture.put("file", "0").await.unwrap().entry.etag.to_string();
    for round in 2..32 {
        let demanded = etag.clone();
        let written = race(&fixture, 12, move |i, fixture| {
            let these = Some(EtagSet::These(vec![demanded.clone()]));
            let same = Conditions { if_match: these, ..Conditions::default() };
            let body = Body::new(fresh_seed(), if i % 3 == 0 { LARGE } else { 10 });
            async move { fixture.put_if("file", body.bytes(), same).await }
        })
        .await;
        let won: Vec<_> = written.iter().filter_map(|written| written.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "one winner");
        assert_eq!(won[0].entry.revision, round);
        etag = won[0].entry.etag.to_string();
        for error in written.iter().filter_map(|written| written.as_ref().err()) {
            assert_eq!(error.kind(), ErrorKind::Precondition);
        }
    }
    fixture.assert_clean().await;
}

/// Of counters that are read, raised and written back under `If-Match` none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_upl_3_no_conditional_update_is_lost() {
    let fixture = racy(23).await;
    fixture.put("counter", "0").await.unwrap();
    race(&fixture, 6, |_, fixture| async move {
        let mut left = 8;
        while left > 0 {
            let entry = fixture.stat("counter").await.unwrap();
            let number = Some(entry.revision);
            let bytes = fixture.get_of(&SpaceRef::Home, "counter", number).await.unwrap();
            let count: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
            let these = Some(EtagSet::These(vec![entry.etag.to_string()]));
            let same = Conditions { if_match: these, ..Conditions::default() };
            match fixture.put_if("counter", format!("{}", count + 1), same).await {
                Ok(_) => left -= 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Precondition),
            }
        }
    })
    .await;
    assert_eq!(fixture.get("counter").await.unwrap(), "48");
    fixture.assert_clean().await;
}

/// The body comes after its directory was moved: it goes with it, as it was addressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_upload_follows_its_directory_when_that_is_moved() {
    let fixture = Fixture::new().await;
    fixture.mkdir("a").await;
    let body = Body::new(fresh_seed(), LARGE).bytes();
    let options = UploadOptions { length: Some(u64::from(LARGE)), ..UploadOptions::default() };
    let mut upload = fixture.open_upload("a/file", options).await.unwrap();
    upload.write(body.slice(..100_000)).await.unwrap();
    fixture.mv("a", "b", false).await.unwrap();
    upload.write(body.slice(100_000..)).await.unwrap();
    let written = upload.commit().await.unwrap();
    assert_eq!(written.entry.path.to_string(), "b/file");
    assert!(fixture.get("b/file").await.unwrap() == body);
    fixture.assert_clean().await;
}

/// A right that is taken while the body comes is not used when it commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_of_a_user_who_is_disabled_meanwhile_is_refused() {
    let fixture = Fixture::new().await;
    let user = fixture.user("alice").await;
    let options = UploadOptions { length: Some(u64::from(LARGE)), ..UploadOptions::default() };
    let home = SpaceRef::Home;
    let at = larder_core::testing::fixture::path("file");
    let mut upload = fixture.larder.open_upload(&user, &home, &at, options).await.unwrap();
    upload.write(Body::new(fresh_seed(), LARGE).bytes()).await.unwrap();
    let change = UserChange { disabled: Some(true), ..UserChange::default() };
    let alice = UserRef::Id(user.user);
    fixture.larder.change_user(&fixture.root, &alice, change).await.unwrap();
    assert_eq!(upload.commit().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(fixture.assert_clean().await.counts.blobs, 0);
}
