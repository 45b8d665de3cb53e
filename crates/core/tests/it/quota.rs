//! Limits under concurrency: never passed, and nothing refused that fits.
//!
//! Not here: meters after other races (the checker compares them at the end of every test).

use larder_base::ErrorKind;
use larder_core::{
    SpaceRef, UploadOptions,
    testing::{Body, Fixture, fixture::path},
};

use super::{fresh_seed, race, racy};

fn body(length: u32) -> bytes::Bytes {
    Body::new(fresh_seed(), length).bytes()
}

/// Uploads bytes without saying how many.
async fn put_unsized(fixture: &Fixture, at: &str, bytes: bytes::Bytes) -> larder_core::Result<()> {
    let mut upload = fixture.open_upload(at, UploadOptions::default()).await?;
    for piece in bytes.chunks(60_000) {
        upload.write(bytes.slice_ref(piece)).await?;
    }
    upload.commit().await.map(drop)
}

/// Demands that the home takes exactly what is left up to the limit, and not a byte more.
async fn fills_up_to(fixture: &Fixture, limit: u64) {
    let usage = fixture.usage().await;
    assert_eq!(usage.reserved, 0, "nothing stays promised");
    assert!(usage.live <= limit);
    let left = usize::try_from(limit - usage.live).unwrap();
    let one_more = fixture.put("brim", vec![0; left + 1]).await.unwrap_err();
    assert_eq!(one_more.kind(), ErrorKind::QuotaExceeded);
    fixture.put("brim", vec![0; left]).await.unwrap();
    assert_eq!(fixture.usage().await.live, limit);
    fixture.rm("brim").await.unwrap();
}

fn count<T>(answers: &[larder_core::Result<T>]) -> usize {
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error:?}");
    }
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_1_meters_count_revisions_and_trash_where_they_belong() {
    let fixture = Fixture::new().await;
    let meters = async || {
        let usage = fixture.usage().await;
        (usage.live, usage.retained)
    };
    fixture.put("d/a", body(100)).await.unwrap();
    fixture.put("d/a", body(30)).await.unwrap();
    assert_eq!(meters().await, (30, 100));
    fixture.cp("d", "e", false).await.unwrap();
    assert_eq!(meters().await, (60, 100));
    let item = fixture.rm("d").await.unwrap().item;
    assert_eq!(meters().await, (30, 130));
    fixture.restore(item).await.unwrap();
    assert_eq!(meters().await, (60, 100));
    fixture.restore_revision("d/a", 1).await.unwrap();
    assert_eq!(meters().await, (130, 130));
    fixture.delete_revision("d/a", 1).await.unwrap();
    assert_eq!(meters().await, (130, 30));
    fixture.mv("e/a", "d/a", true).await.unwrap();
    assert_eq!(meters().await, (30, 130));
    fixture.larder.empty_trash(&fixture.root, &SpaceRef::Home).await.unwrap();
    fixture.settle().await;
    assert_eq!(meters().await, (30, 0));
    fixture.assert_clean().await;
}

/// Fifty uploads at once, small or large, and one who looks: nobody ever sees more than the
/// limit.
async fn uploads(seed: u64, size: u32, sized: bool) -> (Fixture, u64, usize) {
    let limit = u64::from(size) * 17 + u64::from(size) / 2;
    let fixture = racy(seed).await;
    fixture.limit(Some(limit)).await;
    let answers = race(&fixture, 51, move |i, fixture| async move {
        if i == 50 {
            for _ in 0..200 {
                assert!(fixture.usage().await.live <= limit);
            }
            return Ok(());
        }
        let at = format!("d{}/f{i}", i % 4);
        match sized {
            true => fixture.put(&at, body(size)).await.map(drop),
            false => put_unsized(&fixture, &format!("f{i}"), body(size)).await,
        }
    })
    .await;
    let won = count(&answers[..50]);
    assert_eq!(fixture.usage().await.live, won as u64 * u64::from(size));
    (fixture, limit, won)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_of_uploads_at_once_as_many_win_as_fit() {
    for (seed, size) in [(50, 1_000), (51, 150_000)] {
        let (fixture, limit, won) = uploads(seed, size, true).await;
        assert_eq!(won, 17, "as many as fit");
        fills_up_to(&fixture, limit).await;
        fixture.assert_clean().await;
    }
}

/// Uploads of unknown length are promised their room piece by piece, so that two may stop each
/// other; what is left is there for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_uploads_of_unknown_length_at_once_stay_below_the_limit() {
    for (seed, size) in [(58, 1_000), (59, 150_000)] {
        let (fixture, limit, won) = uploads(seed, size, false).await;
        assert!(won <= 17);
        for i in won..17 {
            put_unsized(&fixture, &format!("next-{i}"), body(size)).await.unwrap();
        }
        fills_up_to(&fixture, limit).await;
        fixture.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_overwrites_at_once_are_charged_by_what_they_add() {
    for (seed, unit) in [(52, 100), (53, 140_000_u32)] {
        let fixture = racy(seed).await;
        for i in 0..10 {
            fixture.put(&format!("f{i}"), body(unit)).await.unwrap();
        }
        let limit = u64::from(unit) * 15;
        fixture.limit(Some(limit)).await;
        // One for each: five can grow.
        let grow = move |i: usize, fixture: Fixture| async move {
            fixture.put(&format!("f{}", i % 10), body(2 * unit)).await
        };
        assert_eq!(count(&race(&fixture, 10, grow).await), 5);
        assert_eq!(fixture.usage().await.live, limit);
        // Many for each: those that have grown can be overwritten, and only those.
        let answers = race(&fixture, 50, grow).await;
        assert_eq!(count(&answers), 25);
        assert_eq!(fixture.usage().await.live, limit);
        fixture.assert_clean().await;
    }
}

/// More is promised to many overwrites of one file than they will take; it is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_overwrites_of_one_file_at_once_leave_room_for_others_afterwards() {
    let fixture = racy(64).await;
    fixture.limit(Some(1_000)).await;
    for round in 0..10 {
        let answers = race(&fixture, 8, move |i, fixture| async move {
            fixture.put(&format!("f{round}"), body(50 + i as u32)).await
        })
        .await;
        count(&answers);
        let usage = fixture.usage().await;
        assert_eq!(usage.reserved, 0);
        assert!((50 * (round + 1)..58 * (round + 1)).contains(&usage.live));
    }
    fills_up_to(&fixture, 1_000).await;
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_of_copies_at_once_as_many_win_as_fit() {
    let fixture = racy(54).await;
    fixture.put("dir/a", body(60)).await.unwrap();
    fixture.put("dir/b", body(40)).await.unwrap();
    fixture.put("file", body(100)).await.unwrap();
    fixture.limit(Some(1_050)).await;
    let answers = race(&fixture, 40, |i, fixture| async move {
        let from = if i % 2 == 0 { "dir" } else { "file" };
        fixture.cp(from, &format!("copy-{i}"), false).await
    })
    .await;
    assert_eq!(count(&answers), 8);
    fills_up_to(&fixture, 1_050).await;
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_of_restores_and_uploads_at_once_as_many_win_as_fit() {
    let fixture = racy(55).await;
    for round in 0..5 {
        let mut items = Vec::new();
        for i in 0..20 {
            fixture.put(&format!("d{i}/f"), body(100)).await.unwrap();
            let at = if i % 2 == 0 { format!("d{i}") } else { format!("d{i}/f") };
            items.push(fixture.rm(&at).await.unwrap().item);
        }
        fixture.limit(Some(550)).await;
        let answers = race(&fixture, 30, |i, fixture| {
            let item = items.get(i).copied();
            async move {
                match item {
                    Some(item) => fixture.restore(item).await.map(drop),
                    None => fixture.put(&format!("new-{i}"), body(100)).await.map(drop),
                }
            }
        })
        .await;
        assert_eq!(count(&answers), 5, "round {round}");
        fills_up_to(&fixture, 550).await;
        fixture.limit(None).await;
        for entry in fixture
            .larder
            .list(&fixture.root, &SpaceRef::Home, &path(""), &larder_core::ListOptions::default())
            .await
            .unwrap()
            .entries
        {
            fixture.rm(&entry.path.to_string()).await.unwrap();
        }
        fixture.larder.empty_trash(&fixture.root, &SpaceRef::Home).await.unwrap();
        fixture.assert_clean().await;
        assert_eq!(fixture.usage().await.live, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_2_of_restores_of_revisions_at_once_as_many_win_as_fit() {
    let fixture = racy(56).await;
    for i in 0..20 {
        fixture.put(&format!("f{i}"), body(100)).await.unwrap();
        fixture.put(&format!("f{i}"), body(10)).await.unwrap();
    }
    // Each adds 90 to the 200 that are there.
    fixture.limit(Some(200 + 7 * 90 + 5)).await;
    let answers = race(&fixture, 20, |i, fixture| async move {
        fixture.restore_revision(&format!("f{i}"), 1).await
    })
    .await;
    assert_eq!(count(&answers), 7);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_3_below_its_limit_a_space_takes_all_that_does_not_add() {
    let fixture = Fixture::new().await;
    fixture.put("a", body(100)).await.unwrap();
    fixture.put("b", body(200_000)).await.unwrap();
    fixture.limit(Some(50)).await;
    fixture.put("a", body(100)).await.unwrap();
    fixture.put("b", body(199_999)).await.unwrap();
    put_unsized(&fixture, "b", body(199_999)).await.unwrap();
    fixture.put("empty", "").await.unwrap();
    fixture.mkdir("dir").await;
    fixture.mv("a", "dir/a", false).await.unwrap();
    fixture.cp("empty", "dir/empty", false).await.unwrap();
    fixture.cp("dir/empty", "dir/a", true).await.unwrap();
    assert_eq!(fixture.put("c", "x").await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    let grown = fixture.put("b", body(200_000)).await.unwrap_err();
    assert_eq!(grown.kind(), ErrorKind::QuotaExceeded);
    let item = fixture.rm("b").await.unwrap().item;
    assert_eq!(fixture.restore(item).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    fixture.put("c", body(50)).await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_3_a_copy_over_something_needs_room_only_for_what_it_adds() {
    let fixture = Fixture::new().await;
    fixture.put("a", body(50)).await.unwrap();
    fixture.put("b", body(50)).await.unwrap();
    fixture.put("dir/x", body(30)).await.unwrap();
    fixture.put("full/x", body(30)).await.unwrap();
    fixture.limit(Some(160)).await;
    fixture.cp("a", "b", true).await.unwrap();
    fixture.cp("dir", "full", true).await.unwrap();
    fixture.cp("dir", "b", true).await.unwrap();
    assert_eq!(fixture.usage().await.live, 140);
    let refused = fixture.cp("a", "full", true).await.map(drop);
    refused.unwrap();
    assert_eq!(fixture.usage().await.live, 160);
    assert_eq!(fixture.cp("a", "dir", true).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    fixture.assert_clean().await;
}

/// While large uploads come and are broken off, what fits beside them is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_quo_3_promises_end_with_their_requests() {
    let fixture = racy(57).await;
    fixture.limit(Some(1_000_000)).await;
    for _ in 0..20 {
        let options = UploadOptions { length: Some(900_000), ..UploadOptions::default() };
        let mut upload = fixture.open_upload("large", options).await.unwrap();
        upload.write(body(100_000)).await.unwrap();
        assert_eq!(fixture.usage().await.reserved, 900_000);
        let refused = fixture.put("x", body(100_001)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded, "it is promised to another");
        fixture.put("x", body(100_000)).await.unwrap();
        drop(upload);
        fixture.put("x", body(1_000_000)).await.unwrap();
        fixture.rm("x").await.unwrap();
    }
    fills_up_to(&fixture, 1_000_000).await;
    fixture.assert_clean().await;
}
