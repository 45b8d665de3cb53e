//! Files of several upload sessions, and of numbered parts.
//!
//! Not here: sessions of one file that come in order (`session`).

use std::time::Duration;

use bytes::Bytes;
use larder_base::{ErrorKind, digest::Sha256, id::UploadId};
use larder_core::{
    Conditions, EtagSet, ListOptions, NewAppend, NewSession, Result, SessionState, SpaceRef,
    testing::Fixture,
};

use super::{
    fresh_seed, race,
    session::{MIB, body, by_the_clock, home, restarted, send, written},
};

fn part(length: usize) -> NewSession {
    NewSession::new(SpaceRef::Home, None, Some(length as u64))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partial_sessions_become_one_file_without_a_copy_and_are_used_once() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let sizes = [200_000, 10, 5 * MIB, 70_000];
    let whole = body(sizes.iter().sum());
    let mut parts = Vec::new();
    let mut at = 0;
    for size in sizes {
        let id = larder.create_session(root, part(size)).await.unwrap().id;
        let info = send(&fixture, id, 0, &whole.slice(at..at + size)).await.unwrap();
        assert!(info.partial && matches!(info.state, SessionState::Open));
        parts.push(id);
        at += size;
    }
    assert_eq!(fixture.usage().await.reserved, whole.len() as u64);
    // One that is not full: nothing happens to the others.
    let unfinished = larder.create_session(root, part(10)).await.unwrap().id;
    let wrong = [&parts[..], &[unfinished]].concat();
    let error = larder.create_final_session(root, home("file", None), &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let twice = [parts[0], parts[0]];
    let error = larder.create_final_session(root, home("file", None), &twice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    fixture.assert_sound().await;
    let answers = race(&fixture, 3, |i, fixture| {
        let parts = parts.clone();
        async move {
            let new = home(&format!("file{i}"), None);
            fixture.larder.create_final_session(&fixture.root, new, &parts).await
        }
    })
    .await;
    let won: Vec<_> = answers.into_iter().flatten().collect();
    assert!(won.len() <= 1);
    let done = match won.into_iter().next() {
        Some(done) => done,
        // They were in each other's way: one alone succeeds.
        None => larder.create_final_session(root, home("file", None), &parts).await.unwrap(),
    };
    let (id, at) = (done.id, done.path.clone().unwrap());
    assert_eq!(written(done).entry.size, whole.len() as u64);
    assert!(fixture.get(&at).await.unwrap() == whole);
    let again = larder.create_final_session(root, home("other", None), &parts[..1]).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    let part = larder.session(root, parts[0]).await.unwrap();
    assert!(matches!(part.state, SessionState::Consumed(by) if by == id));
    assert_eq!(larder.abort_session(root, parts[0]).await.unwrap_err().kind(), ErrorKind::Gone);
    larder.abort_session(root, unfinished).await.unwrap();
    assert_eq!(fixture.usage().await.reserved, 0);
    let fixture = restarted(&fixture).await;
    fixture.assert_clean().await;
    assert!(fixture.get(&at).await.unwrap() == whole);
    let item = fixture.rm(&at).await.unwrap().item;
    fixture.purge(item).await.unwrap();
    fixture.assert_clean().await;
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parts_of_a_file_that_is_never_completed_go_with_it() {
    let (fixture, clock) = by_the_clock(fresh_seed()).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let id = larder.create_session(root, part(300_000)).await.unwrap().id;
    send(&fixture, id, 0, &body(300_000)).await.unwrap();
    fixture.put("file", "there").await.unwrap();
    let conditions = Conditions { if_none_match: Some(EtagSet::Any), ..Conditions::default() };
    let early = NewSession { conditions: conditions.clone(), ..home("file", None) };
    let error = larder.create_final_session(root, early, &[id]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    let new = NewSession { conditions, ..home("free", None) };
    // The name is taken while it is being joined.
    fixture.put("free", "taken").await.unwrap();
    assert!(larder.create_final_session(root, new, &[id]).await.is_err());
    fixture.rm("free").await.unwrap();
    let fixture = restarted(&fixture).await;
    fixture.assert_sound().await;
    clock.advance(Duration::from_secs(3 * 3600));
    fixture.settle().await;
    clock.advance(Duration::from_secs(3 * 3600));
    fixture.settle().await;
    assert_eq!(fixture.usage().await.reserved, 0);
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
    fixture.assert_clean().await;
}

async fn put_part(fixture: &Fixture, id: UploadId, number: u32, bytes: &Bytes) -> Result<()> {
    let new = NewAppend { length: Some(bytes.len() as u64), checksum: None };
    let mut part = fixture.larder.append_part(&fixture.root, id, number, new).await?;
    part.write(bytes.clone()).await?;
    let info = part.finish().await?;
    assert_eq!((info.number, info.sha256), (number, Sha256::of(bytes)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbered_parts_come_in_any_order_at_once_and_again() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let new = NewSession { numbered: true, ..home("file", None) };
    let id = larder.create_session(root, new).await.unwrap().id;
    let parts: Vec<Bytes> =
        [200_000, 5, 7, 300_000, 9, 150_000, 1].iter().map(|size| body(*size)).collect();
    let sent = parts.clone();
    race(&fixture, parts.len() * 2, |i, fixture| {
        let i = i % sent.len();
        let (number, bytes) = (u32::try_from(sent.len() - i).unwrap() * 3, sent[i].clone());
        async move { put_part(&fixture, id, number, &bytes).await.unwrap() }
    })
    .await;
    // Another one for a number that is there, and one that nobody will want.
    put_part(&fixture, id, 3, &body(180_000)).await.unwrap();
    put_part(&fixture, id, 3, &parts[6]).await.unwrap();
    put_part(&fixture, id, 10_000, &body(400_000)).await.unwrap();
    let error = put_part(&fixture, id, 10_001, &body(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let page = larder.session_parts(root, id, &ListOptions::default()).await.unwrap();
    assert_eq!(page.entries.len(), parts.len() + 1);
    fixture.assert_sound().await;
    let fixture = restarted(&fixture).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let complete = |parts: Vec<u32>| async move {
        larder.complete_session_parts(root, id, &parts, None).await
    };
    assert_eq!(complete(vec![3, 4]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(complete(vec![6, 3]).await.unwrap_err().kind(), ErrorKind::Invalid);
    let all = vec![3, 6, 9, 12, 15, 18, 21];
    let done = complete(all.clone()).await.unwrap();
    let whole: Vec<u8> = parts.iter().rev().flatten().copied().collect();
    assert!(fixture.get("file").await.unwrap() == whole);
    assert_eq!(complete(all).await.unwrap().entry.etag, done.entry.etag);
    assert!(put_part(&fixture, id, 1, &body(1)).await.is_err());
    assert_eq!(fixture.usage().await.reserved, 0);
    fixture.assert_clean().await;
    let item = fixture.rm("file").await.unwrap().item;
    fixture.purge(item).await.unwrap();
    fixture.assert_clean().await;
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbered_parts_are_within_the_quota_and_go_when_aborted() {
    let fixture = Fixture::new().await;
    fixture.limit(Some(1_000_000)).await;
    let new = NewSession { numbered: true, ..home("file", None) };
    let id = fixture.larder.create_session(&fixture.root, new).await.unwrap().id;
    let answers = race(&fixture, 8, |i, fixture| async move {
        put_part(&fixture, id, u32::try_from(i).unwrap() + 1, &body(200_000)).await
    })
    .await;
    let stored = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(stored, 5);
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
    }
    fixture.assert_sound().await;
    fixture.larder.abort_session(&fixture.root, id).await.unwrap();
    fixture.assert_clean().await;
    assert_eq!(fixture.usage().await.reserved, 0);
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
}
