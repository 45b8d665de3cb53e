//! What becomes of bytes: they stay while anything refers to them or reads them, and go after.
//!
//! Not here: bytes of commits of unknown outcome (`faults`).

use larder_base::ErrorKind;
use larder_core::{
    PolicyChange, SpaceChange, SpaceRef, Split, Target, UploadOptions,
    testing::{Body, Fixture, fixture::path},
};

use super::{fresh_seed, race, racy};

const LARGE: u32 = 200_000;

fn body() -> bytes::Bytes {
    Body::new(fresh_seed(), LARGE).bytes()
}

async fn policy(fixture: &Fixture, policy: PolicyChange) {
    let change = SpaceChange { policy, ..SpaceChange::default() };
    fixture.larder.change_space(&fixture.root, &SpaceRef::Home, change).await.unwrap();
}

async fn keep_none(fixture: &Fixture) {
    policy(fixture, PolicyChange { versions_keep: Some(Some(0)), ..PolicyChange::default() }).await;
}

fn chunks(fixture: &Fixture) -> usize {
    fixture.chunks.as_ref().unwrap().count()
}

/// The source's last reference is dropped and its bytes collected while it is copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_blob_1_a_copy_never_refers_to_bytes_that_are_going() {
    let fixture = racy(60).await;
    keep_none(&fixture).await;
    for round in 0..80 {
        let (old, new) = (body(), body());
        let dir = round % 2 == 0;
        let file = format!("d{round}/file");
        fixture.put(&file, old.clone()).await.unwrap();
        let bytes = new.clone();
        let answers = race(&fixture, 3, move |i, fixture| {
            let (file, bytes) = (format!("d{round}/file"), bytes.clone());
            async move {
                match i {
                    0 if dir => fixture
                        .cp(&format!("d{round}"), &format!("copy{round}"), false)
                        .await
                        .map(drop),
                    0 => {
                        let to = format!("copy{round}");
                        fixture.mkdir(&to).await;
                        fixture.cp(&file, &format!("{to}/file"), false).await.map(drop)
                    }
                    1 if round % 3 == 0 => {
                        let item = fixture.rm(&file).await.unwrap().item;
                        fixture.purge(item).await
                    }
                    1 => fixture.put(&file, bytes).await.map(drop),
                    _ => fixture.larder.collect(&fixture.root).await.map(drop),
                }
            }
        })
        .await;
        fixture.settle().await;
        match &answers[0] {
            Ok(()) => match fixture.get(&format!("copy{round}/file")).await {
                Ok(copied) => assert!(copied == old || copied == new),
                Err(error) => assert!(dir && error.kind() == ErrorKind::NotFound, "{error:?}"),
            },
            Err(error) => {
                assert!(
                    [ErrorKind::NotFound, ErrorKind::Busy].contains(&error.kind()),
                    "{error:?}"
                );
            }
        }
    }
    fixture.assert_clean().await;
}

/// Whoever has begun to read goes on to the end; when nobody reads, the bytes go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_blob_2_a_started_download_outlives_overwrite_delete_purge_and_collection() {
    for large in [true, false] {
        let fixture = racy(61).await;
        keep_none(&fixture).await;
        let bytes = if large { body() } else { Body::new(fresh_seed(), 1_000).bytes() };
        fixture.put("file", bytes.clone()).await.unwrap();
        let target = Target::Path(SpaceRef::Home, path("file"));
        let found = fixture.larder.download(&fixture.root, &target, None).await.unwrap();
        let later = fixture.larder.download(&fixture.root, &target, None).await.unwrap();
        let mut running = found.read(0..bytes.len() as u64).await.unwrap();
        drop(found);
        let mut read = running.next().await.unwrap().unwrap().to_vec();

        fixture.put("file", "newer").await.unwrap();
        let item = fixture.rm("file").await.unwrap().item;
        fixture.purge(item).await.unwrap();
        let report = fixture.larder.collect(&fixture.root).await.unwrap();
        assert_eq!(report.waiting, u64::from(large), "it waits for its readers");
        assert_eq!(chunks(&fixture), usize::from(large));

        while let Some(piece) = running.next().await.unwrap() {
            read.extend_from_slice(&piece);
        }
        assert!(read == bytes);
        drop(running);
        let late = larder_core::testing::fixture::read_all(&later).await.unwrap();
        assert!(late == bytes, "what was found can be opened later");
        drop(later);
        assert_eq!(fixture.assert_clean().await.counts.blobs, 0);
    }
}

/// Reads begin all the time while content is replaced and collected: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_coll_1_no_reader_meets_bytes_that_were_destroyed() {
    let fixture = racy(62).await;
    keep_none(&fixture).await;
    fixture.put("file", body()).await.unwrap();
    race(&fixture, 6, |i, fixture| async move {
        for _ in 0..40 {
            match i {
                0 => drop(fixture.put("file", body()).await.unwrap()),
                1 => drop(fixture.larder.collect(&fixture.root).await.unwrap()),
                _ => assert_eq!(fixture.get("file").await.unwrap().len(), LARGE as usize),
            }
        }
    })
    .await;
    fixture.assert_clean().await;
    assert_eq!(chunks(&fixture), 1);
}

/// One MiB a chunk, so that some of an upload's are finished while it goes on.
async fn half_an_upload(fixture: &Fixture) -> (larder_core::Upload, bytes::Bytes) {
    let split = Some(Split::Fixed { bytes: 1 << 20 });
    policy(fixture, PolicyChange { split, ..PolicyChange::default() }).await;
    let bytes = Body::new(fresh_seed(), 3 << 20).bytes();
    let options = UploadOptions { length: Some(3 << 20), ..UploadOptions::default() };
    let before = chunks(fixture);
    let mut upload = fixture.open_upload("file", options).await.unwrap();
    upload.write(bytes.slice(..5 << 19)).await.unwrap();
    assert_eq!(chunks(fixture), before + 2, "two are finished");
    (upload, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_coll_2_chunks_of_a_running_upload_are_left_alone_and_those_of_a_broken_one_go() {
    let fixture = Fixture::new().await;
    let (mut upload, bytes) = half_an_upload(&fixture).await;
    fixture.settle().await;
    fixture.assert_sound().await;
    assert_eq!(chunks(&fixture), 2, "they have an owner");
    upload.write(bytes.slice(5 << 19..)).await.unwrap();
    upload.commit().await.unwrap();
    assert!(fixture.get("file").await.unwrap() == bytes);
    assert_eq!(fixture.assert_clean().await.counts.chunks, 3);

    let (upload, _) = half_an_upload(&fixture).await;
    drop(upload);
    assert_eq!(fixture.assert_clean().await.counts.chunks, 3, "only what is referred to");
}

/// A process that was thought dead goes on: it can commit no more, and what it staged is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_coll_2_chunks_of_a_dead_process_go_and_it_can_commit_no_more() {
    let old = Fixture::new().await;
    old.put("kept", body()).await.unwrap();
    let (mut upload, bytes) = half_an_upload(&old).await;
    let store = old.chunks.clone().unwrap();
    let new = Fixture::with(old.meta.clone(), store, old.env.clone()).await;
    new.settle().await;
    assert_eq!(chunks(&new), 1, "only what is referred to");
    upload.write(bytes.slice(5 << 19..)).await.unwrap();
    assert_eq!(upload.commit().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(new.stat("file").await.is_err());
    assert!(old.put("x", "x").await.is_err(), "it is fenced");
    assert_eq!(new.get("kept").await.unwrap().len(), LARGE as usize);
    new.assert_sound().await;
}
