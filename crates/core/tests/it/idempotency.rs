//! Requests with a name: done once, told again.

#![allow(clippy::large_futures, reason = "tests hold whole operations; doors box theirs")]

use larder_base::{Env, ErrorKind, Outcome, digest::Sha256};
use larder_core::{
    Conditions, Entry, Error, ListOptions, NewSpace, PolicyChange, RestoreOptions, SpaceKind,
    SpaceLimits, SpaceRef, Target, UploadOptions, idempotency,
    testing::{Fixture, fixture::path},
};
use larder_meta::chaos::Plan;

use super::faults::Switched;

fn head(text: &str) -> Sha256 {
    Sha256::of(text.as_bytes())
}

/// Runs `work` as the request that `key` and `head` name.
async fn named<T>(
    fixture: &Fixture,
    key: &str,
    request: &str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let operation = fixture.larder.operation(&fixture.root, key, head(request)).await?;
    assert!(!operation.differs(), "it is the same request");
    Box::pin(operation.run(work)).await
}

/// All that can be told of two answers.
fn same(one: &Entry, two: &Entry) {
    let all = |entry: &Entry| format!("{entry:?}");
    assert_eq!(all(one), all(two));
}

#[tokio::test]
async fn i_once_1_a_repeated_upload_makes_no_second_revision() {
    let fixture = Fixture::new().await;
    // Inline, and in chunks, whose commit has a task of its own.
    for (name, size) in [("small", 100), ("large", 3 << 20)] {
        let body = vec![7u8; size];
        let put = || named(&fixture, name, name, fixture.put(name, body.clone()));
        let first = put().await.unwrap();
        let second = put().await.unwrap();
        same(&first.entry, &second.entry);
        assert!(first.created && second.created, "the answer is the same in every part");
        assert_eq!(fixture.revisions(name).await.unwrap().len(), 1);
        // Under no key, or another one, it is another request.
        assert_eq!(fixture.put(name, body.clone()).await.unwrap().entry.revision, 2);
        let other = format!("another-{name}");
        let third = named(&fixture, &other, name, fixture.put(name, body.clone()));
        assert_eq!(third.await.unwrap().entry.revision, 3);
        assert_eq!(put().await.unwrap().entry.revision, 1, "the answer of then");
        fixture.rm(name).await.unwrap();
        assert_eq!(put().await.unwrap().entry.revision, 1, "also when the file is gone");
        fixture.stat(name).await.unwrap_err();
    }
    fixture.assert_clean().await;
}

#[tokio::test]
async fn i_once_1_every_operation_tells_what_it_told() {
    let fixture = Fixture::new().await;
    let (larder, root, home) = (&fixture.larder, &fixture.root, SpaceRef::Home);
    fixture.put("d/a", "1").await.unwrap();
    fixture.put("d/a", "2").await.unwrap();
    fixture.put("d/b", "3").await.unwrap();
    fixture.put("gone", "4").await.unwrap();
    let item = fixture.rm("gone").await.unwrap().item;
    let at = |text: &str| path(text);
    macro_rules! twice {
        ($key:literal, $call:expr) => {{
            let first = named(&fixture, $key, $key, $call).await.unwrap();
            let again = named(&fixture, $key, $key, $call).await.unwrap();
            same(&first.0, &again.0);
            assert_eq!(first.1, again.1, $key);
            first.0
        }};
    }
    let made = twice!("mkdir", larder.create_dir(root, &home, &at("x/y"), true));
    same(&made, &fixture.stat("x/y").await.unwrap());
    twice!("mkdir-again", larder.create_dir(root, &home, &at("x/y"), true));
    let (from, to) = (at("d/b"), at("x/b"));
    twice!("move", larder.move_entry(root, &home, &from, &to, false));
    let (from, to) = (at("x"), at("z"));
    twice!("move-dir", larder.move_entry(root, &home, &from, &to, false));
    let (from, to) = (at("z/b"), at("c"));
    twice!("copy", larder.copy_entry(root, (&home, &from), (&home, &to), false));
    let (from, to) = (at("z"), at("zz"));
    let copied = twice!("copy-dir", larder.copy_entry(root, (&home, &from), (&home, &to), false));
    same(&copied, &fixture.stat("zz").await.unwrap());
    let options = RestoreOptions::default();
    twice!("restore", async { Ok((larder.restore(root, &home, item, &options).await?, true)) });
    let file = at("d/a");
    twice!("revert", async { Ok((larder.restore_revision(root, &home, &file, 1).await?, true)) });
    assert_eq!(fixture.revisions("d/a").await.unwrap().len(), 3, "one revision was added");
    let tree = fixture.tree("").await;
    let paths: Vec<String> = tree.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["c", "d", "d/a", "gone", "z", "z/b", "z/y", "zz", "zz/b", "zz/y"]);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn i_once_1_a_space_is_made_once_and_shown_again() {
    let fixture = Fixture::new().await;
    let make = || {
        let policy = PolicyChange::default();
        let limits = SpaceLimits::default();
        let new = NewSpace { name: "team".into(), kind: SpaceKind::Project, limits, policy };
        named(&fixture, "k", "make", fixture.larder.create_space(&fixture.root, new))
    };
    let (first, again) = (make().await.unwrap(), make().await.unwrap());
    assert_eq!(first.id, again.id);
}

#[tokio::test]
async fn i_once_1_a_trash_that_is_emptied_twice_keeps_what_came_between() {
    let fixture = Fixture::new().await;
    for i in 0..100 {
        fixture.put(&format!("f{i}"), "x").await.unwrap();
        fixture.rm(&format!("f{i}")).await.unwrap();
    }
    let operation = fixture.larder.operation(&fixture.root, "k", head("empty")).await.unwrap();
    let empty = fixture.larder.empty_trash(&fixture.root, &SpaceRef::Home);
    operation.run(empty).await.unwrap();
    drop(operation);
    assert!(fixture.trash().await.is_empty());
    fixture.put("late", "x").await.unwrap();
    fixture.rm("late").await.unwrap();
    let operation = fixture.larder.operation(&fixture.root, "k", head("empty")).await.unwrap();
    assert!(operation.done_before_in_silence(), "the door answers by itself");
    assert_eq!(fixture.trash().await.len(), 1);
}

#[tokio::test]
async fn i_once_2_the_outcome_is_kept_when_the_answer_is_lost() {
    let env = Env::system();
    let plan = Plan { seed: 11, reply_lost: 400, request_lost: 300, ..Plan::default() };
    let meta = Switched::new(&env, plan);
    let fixture = Fixture::over(meta.clone(), env).await;
    fixture.mkdir("d").await;
    meta.switch(true);
    let mut unknown = 0;
    for i in 0..60 {
        let (at, key) = (format!("d/f{i}"), format!("k{i}"));
        let written = loop {
            match named(&fixture, &key, "put", fixture.put(&at, "x")).await {
                Ok(written) => break written,
                Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
            }
            unknown += 1;
            assert!(unknown < 10_000, "it never succeeds");
        };
        assert_eq!((written.entry.revision, written.created), (1, true));
    }
    meta.switch(false);
    assert!(unknown > 20, "answers were lost: {unknown}");
    for entry in fixture.tree("d").await {
        assert_eq!(entry.revision, 1, "{}", entry.path);
    }
    assert_eq!(fixture.tree("d").await.len(), 60);
    fixture.assert_sound().await;
}

#[tokio::test]
async fn i_once_3_another_request_under_the_key_is_refused_and_does_nothing() {
    let fixture = Fixture::new().await;
    named(&fixture, "k", "put a", fixture.put("a", "1")).await.unwrap();
    let other = fixture.larder.operation(&fixture.root, "k", head("put b")).await.unwrap();
    assert!(other.differs(), "another head");
    drop(other);
    let same_head = fixture.larder.operation(&fixture.root, "k", head("put a")).await.unwrap();
    let error = same_head.run(fixture.put("a", "2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "another body");
    assert!(same_head.differs());
    drop(same_head);
    // JSON bodies are told of before the operation.
    let noted = || async {
        idempotency::note_body(b"{1}")?;
        fixture.mv("a", "b", false).await
    };
    named(&fixture, "m", "move", noted()).await.unwrap();
    let other = || async {
        idempotency::note_body(b"{2}")?;
        fixture.mv("b", "c", false).await
    };
    let error = named(&fixture, "m", "move", other()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(fixture.get("b").await.unwrap(), "1");
    fixture.stat("c").await.unwrap_err();
}

#[tokio::test]
async fn i_once_3_keys_are_each_user_s_own() {
    let fixture = Fixture::new().await;
    let alice = fixture.user("alice").await;
    named(&fixture, "k", "x", fixture.put("a", "1")).await.unwrap();
    let operation = fixture.larder.operation(&alice, "k", head("x")).await.unwrap();
    let put = async {
        let options = UploadOptions { length: Some(1), ..UploadOptions::default() };
        let larder = &fixture.larder;
        let mut upload = larder.open_upload(&alice, &SpaceRef::Home, &path("a"), options).await?;
        upload.write("2".into()).await?;
        upload.commit().await
    };
    assert!(!operation.is_repetition());
    operation.run(put).await.unwrap();
    let target = Target::Path(SpaceRef::Home, path("a"));
    let entry = fixture.larder.stat(&alice, &target).await.unwrap();
    assert_eq!(entry.sha256, Some(Sha256::of(b"2")));
}

#[tokio::test]
async fn i_once_4_while_it_runs_a_repetition_waits_its_turn() {
    let fixture = Fixture::new().await;
    let first = fixture.larder.operation(&fixture.root, "k", head("x")).await.unwrap();
    let error = fixture.larder.operation(&fixture.root, "k", head("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    first.run(fixture.put("a", "1")).await.unwrap();
    drop(first);
    let again = fixture.larder.operation(&fixture.root, "k", head("x")).await.unwrap();
    assert!(again.is_repetition());
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_under_its_key() {
    let fixture = Fixture::new().await;
    let put = || {
        let none =
            Conditions { if_match: Some(larder_core::EtagSet::Any), ..Conditions::default() };
        named(&fixture, "k", "x", fixture.put_if("a", "1", none))
    };
    assert_eq!(put().await.unwrap_err().kind(), ErrorKind::Precondition);
    fixture.put("a", "0").await.unwrap();
    assert_eq!(put().await.unwrap().entry.revision, 2);
    assert_eq!(put().await.unwrap().entry.revision, 2);
}

#[tokio::test]
async fn what_has_no_kept_answer_is_refused_instead_of_done_again() {
    let fixture = Fixture::new().await;
    let alice = || async {
        let new = larder_core::NewUser {
            name: "alice".into(),
            password: "long enough".into(),
            admin: false,
        };
        fixture.larder.create_user(&fixture.root, new).await.map(|_| ())
    };
    named(&fixture, "k", "x", alice()).await.unwrap();
    assert_eq!(named(&fixture, "k", "x", alice()).await.unwrap_err().kind(), ErrorKind::Conflict);
    let users = fixture.larder.users(&fixture.root, &ListOptions::default()).await.unwrap();
    assert_eq!(users.entries.len(), 2);
}

#[tokio::test]
async fn keys_are_bounded_per_user_and_forgotten_in_time() {
    let fixture = Fixture::tuned(|config| {
        config.idempotency_keys_max = 2;
        config.idempotency_retention = std::time::Duration::ZERO;
        config.collect_interval = std::time::Duration::from_secs(3600);
    })
    .await;
    // The first round of jobs is over when a second one can be asked for.
    fixture.settle().await;
    let put = |key: &'static str| named(&fixture, key, "x", fixture.put(key, "x"));
    put("a").await.unwrap();
    put("b").await.unwrap();
    assert_eq!(put("c").await.unwrap_err().kind(), ErrorKind::RateLimited);
    fixture.stat("c").await.unwrap_err();
    let change = larder_core::SpaceChange::default();
    fixture.larder.change_space(&fixture.root, &SpaceRef::Home, change).await.unwrap();
    // That woke the jobs, which forget.
    for _ in 0..1000 {
        match put("c").await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::RateLimited),
        }
        fixture.env.sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("nothing was forgotten");
}

#[tokio::test]
async fn a_key_is_visible_ascii() {
    let fixture = Fixture::new().await;
    for key in ["", "a b", "\u{e9}", &"x".repeat(256)] {
        let error = fixture.larder.operation(&fixture.root, key, head("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{key}");
    }
    fixture.larder.operation(&fixture.root, &"x".repeat(255), head("x")).await.unwrap();
}
