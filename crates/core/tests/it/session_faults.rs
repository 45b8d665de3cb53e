//! Upload sessions over an engine that refuses, conflicts and leaves in the dark what became of a
//! commit: no offset that was told is taken back, and what nobody knows destroys no bytes.
//!
//! Not here: crashes of a process (e2e).

use bytes::Bytes;
use larder_base::{Env, id::UploadId};
use larder_core::{NewAppend, NewSession, SessionState, SpaceRef, testing::Fixture};
use larder_meta::chaos::Plan;

use super::{
    faults::Switched,
    session::{body, home, send},
};

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        conflict: 60,
        unavailable: 60,
        request_lost: 60,
        reply_lost: 60,
        read: 20,
        ..Plan::default()
    }
}

/// Appends `whole` under faults, looking without them how far it is; completes it by itself.
async fn push(fixture: &Fixture, store: &Switched, id: UploadId, whole: &Bytes, sizes: &[usize]) {
    for turn in 0..1000 {
        let info = fixture.larder.session(&fixture.root, id).await.unwrap();
        let at = usize::try_from(info.offset).unwrap();
        if at == whole.len() && (info.partial || matches!(info.state, SessionState::Completed(_))) {
            return;
        }
        let end = (at + sizes[turn % sizes.len()]).min(whole.len());
        store.switch(true);
        let sent = send(fixture, id, at, &whole.slice(at..end)).await;
        store.switch(false);
        let now = fixture.larder.session(&fixture.root, id).await.unwrap().offset;
        let least = if sent.is_ok() { end } else { at };
        assert!((least..=end).contains(&usize::try_from(now).unwrap()), "{now} after {at}..{end}");
    }
    panic!("it does not come to an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_of_the_engine_take_back_no_offset_and_leave_no_chunk() {
    for seed in 0..40 {
        let env = Env::system();
        let store = Switched::new(&env, plan(seed));
        let fixture = Fixture::over(store.clone(), env).await;
        let sizes = [700, 70_000, 1, 150_000, 30_000];
        for (round, length) in [3000, 900_000, 2_000_000].into_iter().enumerate() {
            let at = format!("file{round}");
            let whole = body(length);
            let id = loop {
                store.switch(true);
                let new = home(&at, Some(length as u64));
                let made = fixture.larder.create_session(&fixture.root, new).await;
                store.switch(false);
                if let Ok(made) = made {
                    break made.id;
                }
            };
            push(&fixture, &store, id, &whole, &sizes).await;
            assert!(fixture.get(&at).await.unwrap() == whole, "seed {seed}");
            assert_eq!(fixture.revisions(&at).await.unwrap().len(), 1, "seed {seed}");
            fixture.assert_sound().await;
        }
        end_all(&fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_of_the_engine_lose_no_part_and_use_none_twice() {
    for seed in 100..140 {
        let env = Env::system();
        let store = Switched::new(&env, plan(seed));
        let fixture = Fixture::over(store.clone(), env).await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let whole = body(650_000);
        let mut parts = Vec::new();
        for piece in whole.chunks(200_000) {
            let length = Some(piece.len() as u64);
            let new = NewSession::new(SpaceRef::Home, None, length);
            let id = larder.create_session(root, new).await.unwrap().id;
            let piece = Bytes::copy_from_slice(piece);
            push(&fixture, &store, id, &piece, &[1000, 90_000, 199_000]).await;
            parts.push(id);
        }
        let mut tries = 0;
        while fixture.stat("joined").await.is_err() {
            tries += 1;
            assert!(tries < 200, "seed {seed}: it is never joined");
            store.switch(true);
            let joined = larder.create_final_session(root, home("joined", None), &parts).await;
            store.switch(false);
            if joined.is_ok_and(|info| matches!(info.state, SessionState::Completed(_))) {
                assert!(fixture.stat("joined").await.is_ok());
            }
            // What is half done is undone, what is ready is completed by a look.
            fixture.larder.collect(root).await.unwrap();
            let open = larder.sessions(root, &larder_core::ListOptions::default()).await.unwrap();
            for session in open.entries.iter().filter(|session| !session.partial) {
                larder.session(root, session.id).await.unwrap();
            }
        }
        assert!(fixture.get("joined").await.unwrap() == whole);
        numbered(&fixture, &store, &whole).await;
        assert!(fixture.get("numbered").await.unwrap() == whole);
        end_all(&fixture).await;
    }
}

/// Makes `numbered` of parts, each sent under faults until it is accepted.
async fn numbered(fixture: &Fixture, store: &Switched, whole: &Bytes) {
    let (larder, root) = (&fixture.larder, &fixture.root);
    let new = NewSession { numbered: true, ..home("numbered", None) };
    let id = larder.create_session(root, new).await.unwrap().id;
    let mut numbers = Vec::new();
    for (number, piece) in (1..).zip(whole.chunks(160_000)) {
        numbers.push(number);
        let mut stored = false;
        while !stored {
            store.switch(true);
            let sent = async {
                let mut part = larder.append_part(root, id, number, NewAppend::default()).await?;
                part.write(Bytes::copy_from_slice(piece)).await?;
                part.finish().await
            };
            stored = sent.await.is_ok();
            store.switch(false);
        }
    }
    fixture.assert_sound().await;
    let mut done = false;
    while !done {
        store.switch(true);
        done = larder.complete_session_parts(root, id, &numbers, None).await.is_ok();
        store.switch(false);
    }
}

/// Ends what is left, and demands that nothing is.
async fn end_all(fixture: &Fixture) {
    let all = larder_core::ListOptions::default();
    let open = fixture.larder.sessions(&fixture.root, &all).await.unwrap();
    for session in open.entries {
        fixture.larder.abort_session(&fixture.root, session.id).await.unwrap();
    }
    assert_eq!(fixture.usage().await.reserved, 0);
    fixture.assert_clean().await;
}
