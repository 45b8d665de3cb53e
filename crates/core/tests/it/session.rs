//! Upload sessions: offsets, cut-offs, checksums, restarts, expiry, completion, and what they
//! reserve and leave.
//!
//! Not here: files of several sessions or parts (`session_parts`), tus (the door), crashes of a
//! process (e2e).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_base::{Env, ErrorKind, digest::Sha256, env::ManualClock, id::UploadId};
use larder_core::{
    Checksum, Conditions, EtagSet, HomePolicy, ListOptions, NewAppend, NewSession, Result,
    SessionInfo, SessionState, SpaceLimits, SpaceRef, Target, UserRef, Written,
    testing::{Body, Fixture, fixture::path},
};
use larder_meta::engine::memory::MemoryStore;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::{cases, fresh_seed, race, runtime};

pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn body(length: usize) -> Bytes {
    Body::new(fresh_seed(), u32::try_from(length).unwrap()).bytes()
}

pub(crate) fn home(at: &str, length: Option<u64>) -> NewSession {
    NewSession::new(SpaceRef::Home, Some(path(at)), length)
}

pub(crate) async fn begin(fixture: &Fixture, at: &str, length: usize) -> UploadId {
    let new = home(at, Some(length as u64));
    fixture.larder.create_session(&fixture.root, new).await.unwrap().id
}

pub(crate) async fn send(
    fixture: &Fixture,
    id: UploadId,
    at: usize,
    bytes: &Bytes,
) -> Result<SessionInfo> {
    send_as(fixture, id, at, bytes, NewAppend::default()).await
}

async fn send_as(
    fixture: &Fixture,
    id: UploadId,
    at: usize,
    bytes: &Bytes,
    new: NewAppend,
) -> Result<SessionInfo> {
    let append = fixture.larder.append(&fixture.root, id, at as u64, new).await;
    let mut append = append.map_err(|refused| refused.error)?;
    for piece in bytes.chunks(100_000) {
        append.write(Bytes::copy_from_slice(piece)).await?;
    }
    append.finish().await
}

pub(crate) async fn offset(fixture: &Fixture, id: UploadId) -> usize {
    let info = fixture.larder.session(&fixture.root, id).await.unwrap();
    usize::try_from(info.offset).unwrap()
}

pub(crate) fn written(info: SessionInfo) -> Written {
    match info.state {
        SessionState::Completed(written) => *written,
        other => panic!("not completed: {other:?}, {:?}", info.refused),
    }
}

/// A store by a clock that stands, and what a restart needs.
pub(crate) async fn by_the_clock(seed: u64) -> (Fixture, ManualClock) {
    let (env, clock) = Env::manual(seed);
    (Fixture::over(Arc::new(MemoryStore::new()), env).await, clock)
}

/// Another process over the same stores; the one before can commit no more.
pub(crate) async fn restarted(fixture: &Fixture) -> Fixture {
    let chunks = fixture.chunks.clone().unwrap();
    Fixture::with(Arc::clone(&fixture.meta), chunks, fixture.env.clone()).await
}

/// Appends of every size, of which some are records, some chunks, some merged.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_1_appends_become_the_file_and_every_offset_holds_across_restarts() {
    let mut fixture = Fixture::new().await;
    let sizes = [1, 70_000, 5, 300_000, 64 << 10, (64 << 10) + 1, 5 * MIB, 10, 20 * MIB, 3];
    let whole = body(sizes.iter().sum());
    let id = begin(&fixture, "file", whole.len()).await;
    let mut at = 0;
    for (i, size) in sizes.into_iter().enumerate() {
        let info = send(&fixture, id, at, &whole.slice(at..at + size)).await.unwrap();
        at += size;
        assert_eq!(info.offset, at as u64);
        if i % 2 == 1 {
            fixture = restarted(&fixture).await;
        }
        assert_eq!(offset(&fixture, id).await, at);
    }
    let entry = fixture.stat("file").await.unwrap();
    assert_eq!(entry.size, whole.len() as u64);
    assert!(fixture.get("file").await.unwrap() == whole);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_1_what_has_come_when_a_connection_breaks_counts() {
    let fixture = Fixture::new().await;
    let whole = body(40 * MIB);
    let id = begin(&fixture, "file", whole.len()).await;
    let mut at = 0;
    for step in [30_000, 17 * MIB, 100_000, 1, 900_000] {
        let new = NewAppend { length: Some((whole.len() - at) as u64), checksum: None };
        let append = fixture.larder.append(&fixture.root, id, at as u64, new).await;
        let mut append = append.unwrap();
        append.write(whole.slice(at..at + step)).await.unwrap();
        if step % 2 == 0 {
            drop(append);
        } else {
            append.settle().await.unwrap();
        }
        at += step;
        assert_eq!(offset(&fixture, id).await, at);
    }
    let info = send(&fixture, id, at, &whole.slice(at..)).await.unwrap();
    assert_eq!(written(info).entry.sha256, Some(Sha256::of(&whole)));
    assert!(fixture.get("file").await.unwrap() == whole);
    fixture.assert_clean().await;
}

/// A write that is dropped at any await loses nothing of what was taken, and repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_1_a_write_that_is_dropped_in_the_middle_leaves_a_prefix() {
    let fixture = Fixture::new().await;
    let whole = body(24 * MIB);
    for polls in 0..12 {
        let id = begin(&fixture, &format!("file{polls}"), whole.len()).await;
        let new = NewAppend { length: Some(whole.len() as u64), checksum: None };
        let mut append = fixture.larder.append(&fixture.root, id, 0, new).await.unwrap();
        append.write(whole.slice(..MIB)).await.unwrap();
        {
            let mut write = std::pin::pin!(append.write(whole.slice(MIB..)));
            for _ in 0..=polls {
                tokio::select! {
                    biased;
                    _done = write.as_mut() => break,
                    () = fixture.env.sleep(Duration::from_millis(2)) => {}
                }
            }
        }
        drop(append);
        let at = offset(&fixture, id).await;
        assert!((MIB..=whole.len()).contains(&at), "offset {at}");
        if at < whole.len() {
            written(send(&fixture, id, at, &whole.slice(at..)).await.unwrap());
        }
        assert!(fixture.get(&format!("file{polls}")).await.unwrap() == whole);
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_2_a_newer_request_cuts_off_the_older_and_its_offset_holds() {
    let fixture = Fixture::new().await;
    let whole = body(3 * MIB);
    let id = begin(&fixture, "file", whole.len()).await;
    let first = fixture.larder.append(&fixture.root, id, 0, NewAppend::default()).await;
    let mut first = first.unwrap();
    let cut = fixture.env.spawn("wait", first.cut_off());
    first.write(whole.slice(..MIB)).await.unwrap();
    // The older client does nothing at all, and the newer one is not kept waiting.
    assert_eq!(offset(&fixture, id).await, MIB);
    cut.await.unwrap();
    let error = first.write(whole.slice(MIB..2 * MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(first.finish().await.unwrap_err().kind(), ErrorKind::Conflict);
    let refused = fixture.larder.append(&fixture.root, id, 0, NewAppend::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.error.kind(), refused.offset), (ErrorKind::Conflict, Some(MIB as u64)));
    assert_eq!(offset(&fixture, id).await, MIB);
    written(send(&fixture, id, MIB, &whole.slice(MIB..)).await.unwrap());
    assert!(fixture.get("file").await.unwrap() == whole);
    fixture.assert_clean().await;
}

/// Each racer sends bytes of its own at offset 0 and goes on from there if it wins.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_2_of_racing_appends_at_one_offset_each_byte_comes_from_one() {
    for round in 0..20 {
        let fixture = Fixture::new().await;
        let length = if round % 2 == 0 { 50_000 } else { 300_000 };
        let id = begin(&fixture, "file", 2 * length).await;
        let answers = race(&fixture, 6, |i, fixture| async move {
            let bytes = Bytes::from(vec![u8::try_from(i).unwrap(); length]);
            send(&fixture, id, 0, &bytes).await.map(|info| (i, info.offset))
        })
        .await;
        let won: Vec<_> = answers.iter().flatten().collect();
        for answer in &answers {
            if let Err(error) = answer {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            }
        }
        // Whoever was cut off has left a prefix; the offset says how much.
        let at = offset(&fixture, id).await;
        assert!(won.len() <= 1 && at <= length);
        let rest = Bytes::from(vec![99; 2 * length - at]);
        written(send(&fixture, id, at, &rest).await.unwrap());
        let file = fixture.get("file").await.unwrap();
        assert!(file[..at].windows(2).all(|pair| pair[0] == pair[1]), "bytes of two appends");
        if let [(winner, _)] = won[..] {
            assert_eq!((file[0], at), (u8::try_from(*winner).unwrap(), length));
        }
        fixture.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_body_without_its_checksum_leaves_the_offset_and_one_with_it_counts() {
    let fixture = Fixture::new().await;
    for length in [1000, 200_000, 20 * MIB] {
        let at = format!("file{length}");
        let whole = body(length);
        let id = begin(&fixture, &at, 2 * length).await;
        let right = Checksum::Sha256(Sha256::of(&whole).0);
        let declared = Some(length as u64);
        for wrong in [Checksum::Sha256([7; 32]), Checksum::Crc32c(1), Checksum::Sha1([0; 20])] {
            let new = NewAppend { length: declared, checksum: Some(wrong) };
            let error = send_as(&fixture, id, 0, &whole, new).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadDigest);
            assert_eq!(offset(&fixture, id).await, 0);
        }
        // Half of a body is not checked, so it does not count.
        let new = NewAppend { length: declared, checksum: Some(right) };
        let append = fixture.larder.append(&fixture.root, id, 0, new).await;
        let mut append = append.unwrap();
        append.write(whole.slice(..length / 2)).await.unwrap();
        drop(append);
        assert_eq!(offset(&fixture, id).await, 0);
        let info = send_as(&fixture, id, 0, &whole, new).await.unwrap();
        assert_eq!(info.offset, length as u64);
        let done = written(send(&fixture, id, length, &whole).await.unwrap());
        let twice = Bytes::from([&whole[..], &whole[..]].concat());
        assert_eq!(done.entry.sha256, Some(Sha256::of(&twice)));
        assert!(fixture.get(&at).await.unwrap() == twice);
    }
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lengths_are_set_once_and_never_exceeded() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let id = larder.create_session(root, home("file", None)).await.unwrap().id;
    send(&fixture, id, 0, &body(1000)).await.unwrap();
    let length = |bytes| larder.set_session_length(root, id, bytes);
    assert_eq!(length(999).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(length(3000).await.unwrap().length, Some(3000));
    assert_eq!(length(3000).await.unwrap().length, Some(3000));
    assert_eq!(length(3001).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Declared or not, more than that does not count.
    let new = NewAppend { length: Some(2001), checksum: None };
    let error = send_as(&fixture, id, 1000, &body(2001), new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(send(&fixture, id, 1000, &body(2001)).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(offset(&fixture, id).await, 1000);
    // Less than declared is told, and what came counts.
    let new = NewAppend { length: Some(500), checksum: None };
    let error = send_as(&fixture, id, 1000, &body(400), new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(offset(&fixture, id).await, 1400);
    // Completed before it is full: refused, nothing lost.
    let error = larder.complete_session(root, id, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(send(&fixture, id, 1400, &body(1600)).await.is_ok());
    assert_eq!(fixture.stat("file").await.unwrap().size, 3000);
    // Without a length it ends where it is when somebody says so; one of no bytes at once.
    let id = larder.create_session(root, home("open", None)).await.unwrap().id;
    send(&fixture, id, 0, &body(10)).await.unwrap();
    assert_eq!(larder.complete_session(root, id, None).await.unwrap().entry.size, 10);
    let empty = larder.create_session(root, home("empty", Some(0))).await.unwrap();
    assert_eq!(written(empty).entry.size, 0);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_4_completions_at_once_make_one_revision_and_all_are_told_the_same() {
    for length in [500, 300_000] {
        let fixture = Fixture::new().await;
        let id = fixture.larder.create_session(&fixture.root, home("file", None)).await.unwrap().id;
        send(&fixture, id, 0, &body(length)).await.unwrap();
        let answers = race(&fixture, 8, |_, fixture| async move {
            fixture.larder.complete_session(&fixture.root, id, None).await.unwrap()
        })
        .await;
        let etags: std::collections::BTreeSet<_> =
            answers.iter().map(|written| written.entry.etag.to_string()).collect();
        assert_eq!(etags.len(), 1);
        assert_eq!(fixture.revisions("file").await.unwrap().len(), 1);
        // Also after a restart, and after the file has gone on.
        let fixture = restarted(&fixture).await;
        fixture.put("file", "later").await.unwrap();
        let info = fixture.larder.session(&fixture.root, id).await.unwrap();
        assert_eq!(info.offset, length as u64);
        assert!(etags.contains(&written(info).entry.etag.to_string()));
        // Deleting the session now deletes no file (and is told that it is over).
        let error = fixture.larder.abort_session(&fixture.root, id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone);
        assert_eq!(fixture.revisions("file").await.unwrap().len(), 2);
        fixture.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_completion_keeps_the_bytes_and_they_can_go_elsewhere() {
    for length in [500, 300_000] {
        let fixture = Fixture::new().await;
        let whole = body(length);
        let conditions = Conditions { if_none_match: Some(EtagSet::Any), ..Conditions::default() };
        let new = NewSession { conditions, ..home("file", Some(length as u64)) };
        let id = fixture.larder.create_session(&fixture.root, new).await.unwrap().id;
        fixture.put("file", "was first").await.unwrap();
        let info = send(&fixture, id, 0, &whole).await.unwrap();
        assert_eq!(info.refused.map(|refused| refused.0), Some(ErrorKind::Precondition));
        assert!(matches!(info.state, SessionState::Open));
        let fixture = restarted(&fixture).await;
        let info = fixture.larder.session(&fixture.root, id).await.unwrap();
        assert_eq!(info.offset, length as u64);
        assert_eq!(info.refused.map(|refused| refused.0), Some(ErrorKind::Precondition));
        let target = Some((SpaceRef::Home, path("other")));
        fixture.larder.complete_session(&fixture.root, id, target).await.unwrap();
        assert!(fixture.get("other").await.unwrap() == whole);
        assert_eq!(fixture.usage().await.reserved, 0);
        fixture.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_follows_its_directory_and_is_refused_when_that_is_deleted() {
    let fixture = Fixture::new().await;
    fixture.mkdir("a").await;
    let ids = [begin(&fixture, "a/one", 10).await, begin(&fixture, "a/two", 10).await];
    let bytes = body(10);
    fixture.mv("a", "b", false).await.unwrap();
    written(send(&fixture, ids[0], 0, &bytes).await.unwrap());
    assert!(fixture.get("b/one").await.unwrap() == bytes);
    fixture.rm("b").await.unwrap();
    let info = send(&fixture, ids[1], 0, &bytes).await.unwrap();
    assert_eq!(info.refused.map(|refused| refused.0), Some(ErrorKind::Conflict));
    let target = Some((SpaceRef::Home, path("two")));
    fixture.larder.complete_session(&fixture.root, ids[1], target).await.unwrap();
    assert!(fixture.get("two").await.unwrap() == bytes);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_digest_of_the_whole_is_demanded_at_the_completion_also_after_a_restart() {
    let whole = body(300_000);
    for (at, right) in [("right", true), ("wrong", false)] {
        let fixture = Fixture::new().await;
        let sha256 = if right { Sha256::of(&whole) } else { Sha256::of(b"else") };
        let new = NewSession { sha256: Some(sha256), ..home(at, Some(whole.len() as u64)) };
        let id = fixture.larder.create_session(&fixture.root, new).await.unwrap().id;
        send(&fixture, id, 0, &whole.slice(..200_000)).await.unwrap();
        let again = restarted(&fixture).await;
        let info = send(&again, id, 200_000, &whole.slice(200_000..)).await.unwrap();
        assert_eq!(info.refused.is_none(), right);
        if right {
            assert_eq!(written(info).entry.sha256, Some(sha256));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_5_what_is_reserved_is_counted_refused_and_given_back() {
    let fixture = Fixture::new().await;
    fixture.put("file", body(400)).await.unwrap();
    fixture.limit(Some(1000)).await;
    // Only what goes beyond the file that is replaced.
    let id = begin(&fixture, "file", 900).await;
    assert_eq!(fixture.usage().await.reserved, 500);
    let error = fixture.larder.create_session(&fixture.root, home("more", Some(101))).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    assert_eq!(fixture.put("more", body(101)).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    let other = begin(&fixture, "more", 100).await;
    let fixture = restarted(&fixture).await;
    assert_eq!(fixture.usage().await.reserved, 600);
    // What was promised is kept though the space is full.
    written(send(&fixture, id, 0, &body(900)).await.unwrap());
    assert_eq!((fixture.usage().await.live, fixture.usage().await.reserved), (900, 100));
    fixture.larder.abort_session(&fixture.root, other).await.unwrap();
    assert_eq!(fixture.usage().await.reserved, 0);
    // Of unknown length: reserved as it comes, refused where it must be.
    let id = fixture.larder.create_session(&fixture.root, home("open", None)).await.unwrap().id;
    send(&fixture, id, 0, &body(60)).await.unwrap();
    let usage = fixture.usage().await;
    assert!((60..=100).contains(&usage.reserved), "{usage:?}");
    assert_eq!(
        send(&fixture, id, 60, &body(41)).await.unwrap_err().kind(),
        ErrorKind::QuotaExceeded
    );
    send(&fixture, id, 60, &body(40)).await.unwrap();
    fixture.larder.complete_session(&fixture.root, id, None).await.unwrap();
    assert_eq!((fixture.usage().await.live, fixture.usage().await.reserved), (1000, 0));
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_has_so_many_sessions_and_no_more() {
    let fixture = Fixture::tuned(|config| config.upload_sessions_per_user_max = 5).await;
    let answers = race(&fixture, 12, |i, fixture| async move {
        fixture.larder.create_session(&fixture.root, home(&format!("f{i}"), Some(9))).await
    })
    .await;
    let made: Vec<_> = answers.iter().flatten().map(|info| info.id).collect();
    assert_eq!(made.len(), 5);
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::RateLimited);
    }
    let page = fixture.larder.sessions(&fixture.root, &ListOptions::default()).await.unwrap();
    assert_eq!(page.entries.len(), 5);
    fixture.larder.abort_session(&fixture.root, made[0]).await.unwrap();
    written(send(&fixture, made[1], 0, &body(9)).await.unwrap());
    begin(&fixture, "x", 1).await;
    begin(&fixture, "y", 1).await;
    let full = fixture.larder.create_session(&fixture.root, home("z", Some(1))).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::RateLimited);
    // Others have their own.
    let other = fixture.user("other").await;
    let info = fixture.larder.create_session(&other, home("z", Some(1))).await.unwrap();
    // And cannot use each other's, nor see that they are there.
    let theirs = fixture.larder.session(&fixture.root, info.id).await;
    assert_eq!(theirs.unwrap_err().kind(), ErrorKind::NotFound);
    let theirs = fixture.larder.append(&fixture.root, info.id, 0, NewAppend::default()).await;
    assert_eq!(theirs.unwrap_err().error.kind(), ErrorKind::NotFound);
    fixture.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_expire_by_silence_are_gone_with_their_bytes_and_then_forgotten() {
    let (fixture, clock) = by_the_clock(fresh_seed()).await;
    let hour = Duration::from_secs(3600);
    let id = begin(&fixture, "file", 30 * MIB).await;
    let sleeper = begin(&fixture, "sleeper", 10).await;
    let mut at = 0;
    for size in [MIB, 1000, 200_000] {
        clock.advance(hour - Duration::from_secs(1));
        fixture.settle().await;
        let bytes = body(size);
        let info = send(&fixture, id, at, &bytes).await.unwrap();
        let expires = info.expires.unwrap();
        assert_eq!(expires, fixture.env.now().after(hour));
        at += size;
    }
    // It came to an end that nothing came to; the other lives.
    let error = fixture.larder.session(&fixture.root, sleeper).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert_eq!(offset(&fixture, id).await, at);
    // A restart shortens nothing.
    clock.advance(hour - Duration::from_secs(1));
    let fixture = restarted(&fixture).await;
    clock.advance(hour - Duration::from_secs(1));
    fixture.settle().await;
    assert_eq!(offset(&fixture, id).await, at);
    clock.advance(hour + Duration::from_secs(2));
    fixture.settle().await;
    let error = fixture.larder.append(&fixture.root, id, at as u64, NewAppend::default()).await;
    assert_eq!(error.unwrap_err().error.kind(), ErrorKind::Gone);
    assert_eq!(fixture.usage().await.reserved, 0);
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
    fixture.assert_clean().await;
    clock.advance(Duration::from_secs(25 * 3600));
    fixture.settle().await;
    let error = fixture.larder.session(&fixture.root, id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_running_append_keeps_its_session_from_expiring() {
    let (fixture, clock) = by_the_clock(fresh_seed()).await;
    let id = begin(&fixture, "file", 2000).await;
    let append = fixture.larder.append(&fixture.root, id, 0, NewAppend::default()).await;
    let mut append = append.unwrap();
    append.write(body(1000)).await.unwrap();
    clock.advance(Duration::from_secs(2 * 3600));
    fixture.settle().await;
    append.write(body(1000)).await.unwrap();
    assert_eq!(written(append.finish().await.unwrap()).entry.size, 2000);
    fixture.assert_clean().await;
}

/// Completion and expiry meet: whoever commits first has won, for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_ses_3_expiry_and_completion_exclude_each_other() {
    let (mut completed, mut expired) = (0, 0);
    for round in 0..60 {
        let (fixture, clock) = by_the_clock(fresh_seed()).await;
        let length = if round % 2 == 0 { 300 } else { 300_000 };
        let whole = body(length);
        let id = fixture.larder.create_session(&fixture.root, home("file", None)).await.unwrap().id;
        send(&fixture, id, 0, &whole).await.unwrap();
        clock.advance(Duration::from_secs(3601 + 1));
        let answers = race(&fixture, 2, |i, fixture| async move {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            match i {
                0 => fixture.larder.collect(&fixture.root).await.map(|_| ()),
                _ => fixture.larder.complete_session(&fixture.root, id, None).await.map(|_| ()),
            }
        })
        .await;
        fixture.settle().await;
        match &answers[1] {
            Ok(()) => {
                completed += 1;
                assert!(fixture.get("file").await.unwrap() == whole);
                assert!(fixture.larder.session(&fixture.root, id).await.is_ok());
            }
            Err(error) => {
                expired += 1;
                assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
                assert!(fixture.stat("file").await.is_err());
                assert_eq!(fixture.usage().await.live, 0);
            }
        }
        assert_eq!(fixture.usage().await.reserved, 0);
        fixture.assert_clean().await;
    }
    assert!(completed > 0 && expired > 0, "{completed} completed, {expired} expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_small_appends_become_few_chunks_and_keep_their_offset() {
    let mut fixture = Fixture::new().await;
    let whole = body(300 * 1500 + 200 * 70_000);
    let id = fixture.larder.create_session(&fixture.root, home("file", None)).await.unwrap().id;
    let mut at = 0;
    for i in 0..500 {
        let size = if i < 300 { 1500 } else { 70_000 };
        let info = send(&fixture, id, at, &whole.slice(at..at + size)).await.unwrap();
        at += size;
        assert_eq!(info.offset, at as u64);
        if i % 100 == 77 {
            fixture = restarted(&fixture).await;
            assert_eq!(offset(&fixture, id).await, at);
        }
    }
    fixture.assert_sound().await;
    fixture.larder.complete_session(&fixture.root, id, None).await.unwrap();
    assert!(fixture.get("file").await.unwrap() == whole);
    let report = fixture.assert_clean().await;
    assert!(report.counts.chunks <= 60, "{} chunks", report.counts.chunks);
    // And all of them go with the file.
    let item = fixture.rm("file").await.unwrap().item;
    fixture.purge(item).await.unwrap();
    fixture.assert_clean().await;
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_end_with_their_space_and_with_their_user() {
    let fixture = Fixture::new().await;
    let space = fixture.space("project", SpaceLimits::default()).await;
    let new = NewSession::new(space.clone(), Some(path("file")), Some(400_000));
    let id = fixture.larder.create_session(&fixture.root, new).await.unwrap().id;
    send(&fixture, id, 0, &body(300_000)).await.unwrap();
    fixture.larder.delete_space(&fixture.root, &space).await.unwrap();
    fixture.assert_clean().await;
    let error = fixture.larder.session(&fixture.root, id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);
    let user = fixture.user("user").await;
    let info = fixture.larder.create_session(&user, home("file", Some(400_000))).await.unwrap();
    let append = fixture.larder.append(&user, info.id, 0, NewAppend::default()).await;
    let mut append = append.unwrap();
    append.write(body(300_000)).await.unwrap();
    let name = UserRef::Name("user".into());
    fixture.larder.delete_user(&fixture.root, &name, HomePolicy::default()).await.unwrap();
    drop(append);
    fixture.assert_clean().await;
    assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_that_is_taken_ends_a_running_append_and_stops_the_completion() {
    let (fixture, clock) = by_the_clock(fresh_seed()).await;
    let user = fixture.user("user").await;
    let info = fixture.larder.create_session(&user, home("file", Some(400_000))).await.unwrap();
    let append = fixture.larder.append(&user, info.id, 0, NewAppend::default()).await;
    let mut append = append.unwrap();
    append.write(body(100_000)).await.unwrap();
    let change = larder_core::UserChange { disabled: Some(true), ..Default::default() };
    let name = UserRef::Name("user".into());
    fixture.larder.change_user(&fixture.root, &name, change).await.unwrap();
    clock.advance(Duration::from_millis(1001));
    let error = append.write(body(300_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    drop(append);
    let target: Target = Target::Path(SpaceRef::Home, path("file"));
    assert!(fixture.larder.stat(&user, &target).await.is_err());
}

/// One step of the life of a session.
#[derive(Clone, Debug)]
enum Step {
    /// Appends so many bytes, in writes of so many.
    Append(usize, usize),
    /// The same, but the connection breaks after so many eighths.
    Break(usize, u8),
    /// With a checksum, right or wrong.
    Checked(usize, bool),
    /// At a wrong offset.
    Stale,
    /// A newer append cuts off one that has taken so many bytes.
    Cut(usize),
    Head,
    Restart,
    Collect,
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![1..2000_usize, 60_000..70_000_usize, 100_000..400_000_usize];
    prop_oneof![
        6 => (size.clone(), 1..50_000_usize).prop_map(|(size, by)| Step::Append(size, by)),
        2 => (size.clone(), 0..8_u8).prop_map(|(size, at)| Step::Break(size, at)),
        2 => (size.clone(), any::<bool>()).prop_map(|(size, right)| Step::Checked(size, right)),
        1 => Just(Step::Stale),
        1 => size.prop_map(Step::Cut),
        1 => Just(Step::Head),
        1 => Just(Step::Restart),
        1 => Just(Step::Collect),
        1 => Just(Step::Check),
    ]
}

/// Bytes of a session in the model, at most.
const TOTAL: usize = 4_000_000;

/// Does one step, and the same to the model: the bytes that were acknowledged.
async fn apply(fixture: &mut Fixture, id: UploadId, model: &mut Vec<u8>, step: Step) {
    let at = model.len();
    let bytes = match step {
        Step::Append(size, _) | Step::Break(size, _) | Step::Checked(size, _) | Step::Cut(size) => {
            if at + size >= TOTAL {
                return;
            }
            body(size)
        }
        _ => Bytes::new(),
    };
    let begin = async |at: usize, new: NewAppend| {
        fixture.larder.append(&fixture.root, id, at as u64, new).await
    };
    let declared = Some(bytes.len() as u64);
    match step {
        Step::Append(_, by) => {
            let mut append = begin(at, NewAppend::default()).await.unwrap();
            for piece in bytes.chunks(by) {
                append.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            append.finish().await.unwrap();
            model.extend_from_slice(&bytes);
        }
        Step::Break(size, eighths) => {
            let new = NewAppend { length: declared, checksum: None };
            let mut append = begin(at, new).await.unwrap();
            let sent = bytes.slice(..size * usize::from(eighths) / 8);
            append.write(sent.clone()).await.unwrap();
            drop(append);
            model.extend_from_slice(&sent);
            // Until somebody is told, a crash may still take it.
            assert_eq!(offset(fixture, id).await, model.len());
        }
        Step::Checked(_, right) => {
            let digest = if right { Sha256::of(&bytes).0 } else { [1; 32] };
            let checksum = Some(Checksum::Sha256(digest));
            let sent = send_as(fixture, id, at, &bytes, NewAppend { length: declared, checksum });
            assert_eq!(sent.await.is_ok(), right);
            if right {
                model.extend_from_slice(&bytes);
            }
        }
        Step::Stale => {
            let refused = begin(at + 1, NewAppend::default()).await.unwrap_err();
            assert_eq!(refused.offset, Some(at as u64));
        }
        Step::Cut(_) => {
            let mut older = begin(at, NewAppend::default()).await.unwrap();
            older.write(bytes.clone()).await.unwrap();
            model.extend_from_slice(&bytes);
            let newer = begin(model.len(), NewAppend::default()).await.unwrap();
            assert!(older.write(bytes).await.is_err());
            newer.finish().await.unwrap();
        }
        Step::Head => assert_eq!(offset(fixture, id).await, at),
        Step::Restart => *fixture = restarted(fixture).await,
        Step::Collect => {
            fixture.larder.collect(&fixture.root).await.unwrap();
        }
        Step::Check => {
            fixture.assert_sound().await;
        }
    }
}

/// Whatever happens to it, a session is the bytes that were acknowledged, in their order.
#[test]
fn i_ses_1_a_session_is_what_was_acknowledged_whatever_happens_in_between() {
    let script = (vec(step(), 1..60), any::<bool>());
    let result = TestRunner::new(cases(40)).run(&script, |(steps, known)| {
        runtime().block_on(async {
            let mut fixture = Fixture::new().await;
            let new = home("file", known.then_some(TOTAL as u64));
            let id = fixture.larder.create_session(&fixture.root, new).await.unwrap().id;
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                apply(&mut fixture, id, &mut model, step).await;
            }
            if known {
                let rest = body(TOTAL - model.len());
                written(send(&fixture, id, model.len(), &rest).await.unwrap());
                model.extend_from_slice(&rest);
            } else {
                fixture.larder.complete_session(&fixture.root, id, None).await.unwrap();
            }
            assert!(fixture.get("file").await.unwrap() == model);
            fixture.assert_clean().await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// A process that was replaced while it slept can add nothing that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_was_replaced_changes_no_session() {
    let old = Fixture::new().await;
    let id = begin(&old, "file", 1000).await;
    send(&old, id, 0, &body(100)).await.unwrap();
    let append = old.larder.append(&old.root, id, 100, NewAppend::default()).await;
    let mut append = append.unwrap();
    append.write(body(50)).await.unwrap();
    let new = restarted(&old).await;
    assert_eq!(offset(&new, id).await, 100);
    assert!(append.finish().await.is_err());
    assert!(old.larder.complete_session(&old.root, id, None).await.is_err());
    let bytes = body(900);
    written(send(&new, id, 100, &bytes).await.unwrap());
    assert!(new.get("file").await.unwrap()[100..] == bytes[..]);
}
