//! Lifecycle rules and files with an end.

use std::{sync::Arc, time::Duration};

use larder_base::{Env, ErrorKind, Timestamp};
use larder_core::{
    Expire, JobInfo, JobKind, NewRule, Noncurrent, Result, SpaceRef, UploadOptions, Written,
    testing::Fixture,
};
use larder_meta::{MetaStore, engine::memory::MemoryStore};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn rule(prefix: &str) -> NewRule {
    NewRule {
        id: None,
        name: String::new(),
        enabled: true,
        prefix: prefix.to_owned(),
        expire: None,
        noncurrent: None,
        abort_uploads_after: None,
    }
}

fn expire(prefix: &str, expire: Expire) -> NewRule {
    NewRule { expire: Some(expire), ..rule(prefix) }
}

/// All that there is, at once.
fn now() -> Expire {
    Expire::At(Timestamp::from_millis(0))
}

async fn set(fixture: &Fixture, rules: Vec<NewRule>) {
    fixture.larder.set_lifecycle(&fixture.root, &SpaceRef::Home, rules).await.unwrap();
}

/// Applies the rules to the end.
pub(super) async fn apply(fixture: &Fixture) -> JobInfo {
    let (larder, root) = (&fixture.larder, &fixture.root);
    let (job, _) = larder.start_job(root, JobKind::Lifecycle, None).await.unwrap();
    for _ in 0..4000 {
        let job = larder.job(root, job.id).await.unwrap();
        if job.finished.is_some() {
            assert_eq!(job.state, "done", "{job:?}");
            return job;
        }
        fixture.env.sleep(Duration::from_millis(2)).await;
    }
    panic!("the walk does not end");
}

async fn paths(fixture: &Fixture) -> Vec<String> {
    let tree = fixture.tree("").await;
    let files = tree.iter().filter(|entry| entry.kind == larder_core::EntryKind::File);
    files.map(|entry| entry.path.to_string()).collect()
}

#[tokio::test]
async fn expired_files_go_to_the_trash_and_say_why() {
    let fixture = Fixture::new().await;
    for at in ["a", "tmp/a", "tmp/deep/b", "tmpx/a", "keep/tmp/a"] {
        fixture.put(at, at.to_owned()).await.unwrap();
    }
    let young = Expire::After(DAY);
    set(&fixture, vec![expire("/tmp/", now()), expire("", young)]).await;
    let job = apply(&fixture).await;
    assert_eq!(paths(&fixture).await, ["a", "keep/tmp/a", "tmpx/a"], "{job:?}");
    let trash = fixture.trash().await;
    let mut gone: Vec<_> = trash.iter().map(|item| item.path.as_str()).collect();
    gone.sort_unstable();
    assert_eq!(gone, ["tmp/a", "tmp/deep/b"]);
    assert!(trash.iter().all(|item| &*item.deleted_by == "lifecycle"), "{trash:?}");
    let back = fixture.restore(trash[0].item).await.unwrap();
    assert_eq!(back.path.to_string(), trash[0].path, "it can be had back");
    assert!(job.detail.unwrap().starts_with("2 files expired"));
    fixture.assert_clean().await;
}

#[tokio::test]
async fn age_counts_from_the_last_change() {
    let fixture = Fixture::new().await;
    fixture.put("old", "1").await.unwrap();
    fixture.put("touched", "1").await.unwrap();
    let wait = Duration::from_millis(120);
    let start = fixture.env.monotonic();
    while fixture.env.monotonic() - start < wait {
        fixture.env.sleep(Duration::from_millis(10)).await;
    }
    fixture.put("touched", "2").await.unwrap();
    set(&fixture, vec![expire("", Expire::After(wait))]).await;
    apply(&fixture).await;
    assert_eq!(fixture.stat("old").await.unwrap_err().kind(), ErrorKind::NotFound);
    // Unless this machine took longer than the age for it.
    if fixture.env.monotonic() - start < 2 * wait {
        fixture.stat("touched").await.unwrap();
    }
}

#[tokio::test]
async fn older_revisions_are_removed_as_the_rule_says() {
    let fixture = Fixture::new().await;
    for i in 0..50 {
        fixture.put("a/f", format!("{i}")).await.unwrap();
        fixture.put("b/f", format!("{i}")).await.unwrap();
    }
    let noncurrent = Noncurrent { older_than: Duration::ZERO, keep_newest: 3 };
    set(&fixture, vec![NewRule { noncurrent: Some(noncurrent), ..rule("a") }]).await;
    apply(&fixture).await;
    let revisions = fixture.revisions("a/f").await.unwrap();
    let numbers: Vec<u64> = revisions.iter().map(|revision| revision.revision).collect();
    assert_eq!(numbers, [50, 49, 48, 47]);
    assert_eq!(fixture.revisions("b/f").await.unwrap().len(), 50);
    let noncurrent = Noncurrent { older_than: DAY, keep_newest: 0 };
    set(&fixture, vec![NewRule { noncurrent: Some(noncurrent), ..rule("a") }]).await;
    apply(&fixture).await;
    assert_eq!(fixture.revisions("a/f").await.unwrap().len(), 4, "they are young");
    fixture.assert_clean().await;
}

#[tokio::test]
async fn rules_that_are_off_or_gone_do_nothing() {
    let fixture = Fixture::new().await;
    fixture.put("a", "1").await.unwrap();
    set(&fixture, vec![NewRule { enabled: false, ..expire("", now()) }]).await;
    apply(&fixture).await;
    set(&fixture, Vec::new()).await;
    apply(&fixture).await;
    assert_eq!(paths(&fixture).await, ["a"]);
}

#[tokio::test]
async fn what_is_in_the_trash_or_being_copied_is_let_alone() {
    let fixture = Fixture::new().await;
    fixture.put("d/a", "1").await.unwrap();
    let item = fixture.rm("d").await.unwrap().item;
    set(&fixture, vec![expire("", now())]).await;
    apply(&fixture).await;
    set(&fixture, Vec::new()).await;
    fixture.restore(item).await.unwrap();
    assert_eq!(paths(&fixture).await, ["d/a"]);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_rule_that_is_removed_while_it_is_applied_stops_there() {
    let fixture = Fixture::new().await;
    for i in 0..600 {
        fixture.put(&format!("d{}/f{i}", i / 20), "x").await.unwrap();
    }
    set(&fixture, vec![expire("", now())]).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let (job, _) = larder.start_job(root, JobKind::Lifecycle, None).await.unwrap();
    while fixture.trash().await.is_empty() {
        tokio::task::yield_now().await;
    }
    set(&fixture, Vec::new()).await;
    // From the answer on nothing more is expired.
    let left = paths(&fixture).await.len();
    while larder.job(root, job.id).await.unwrap().finished.is_none() {
        fixture.env.sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(paths(&fixture).await.len(), left);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn rules_keep_their_ids_and_are_checked() {
    let fixture = Fixture::new().await;
    let (larder, root, home) = (&fixture.larder, &fixture.root, SpaceRef::Home);
    assert!(larder.lifecycle(root, &home).await.unwrap().is_empty());
    let one = vec![expire("/a/", Expire::After(DAY))];
    let kept = larder.set_lifecycle(root, &home, one.clone()).await.unwrap();
    assert_eq!(kept[0].prefix, "a");
    let id = kept[0].id;
    let named = NewRule { id: Some(id), name: "n".into(), ..expire("b", now()) };
    let kept = larder.set_lifecycle(root, &home, vec![named, rule_of(2)]).await.unwrap();
    assert_eq!((kept[0].id, kept.len()), (id, 2));
    assert_eq!(larder.lifecycle(root, &home).await.unwrap(), kept);
    let wrong: [(&str, Vec<NewRule>); 7] = [
        ("does nothing", vec![rule("")]),
        ("no age", vec![expire("", Expire::After(Duration::ZERO))]),
        ("too old", vec![expire("", Expire::After(DAY * 40_000))]),
        ("no path", vec![expire("a/../b", now())]),
        ("twice", vec![NewRule { id: Some(id), ..expire("", now()) }; 2]),
        ("too many", vec![expire("", now()); 101]),
        ("no such id", vec![NewRule { id: Some(kept[1].id), ..expire("", now()) }; 1]),
    ];
    for (i, (what, rules)) in wrong.into_iter().enumerate() {
        let gone = larder.set_lifecycle(root, &home, one.clone()).await;
        gone.unwrap();
        let error = larder.set_lifecycle(root, &home, rules).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
        let alice = fixture.user(&format!("u{i}")).await;
        let space = SpaceRef::Id(larder.space(root, &home).await.unwrap().id);
        let error = larder.set_lifecycle(&alice, &space, Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{what}");
    }
}

fn rule_of(keep_newest: u32) -> NewRule {
    let noncurrent = Noncurrent { older_than: DAY, keep_newest };
    NewRule { noncurrent: Some(noncurrent), ..rule("") }
}

#[tokio::test]
async fn c09_a_clock_that_jumped_expires_nothing_for_an_hour() {
    let (env, clock) = Env::manual(5);
    let meta: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    let fixture = Fixture::over(Arc::clone(&meta), env.clone()).await;
    fixture.put("a", "1").await.unwrap();
    set(&fixture, vec![expire("", Expire::After(7 * DAY))]).await;
    // Time stands still unless it is moved: whoever waits gets it in small pieces.
    let ticks = clock.clone();
    let tick = move || ticks.advance(Duration::from_millis(5));
    let walk = |fixture: Fixture| {
        let tick = tick.clone();
        async move {
            let (larder, root) = (fixture.larder.clone(), fixture.root.clone());
            let (job, _) = larder.start_job(&root, JobKind::Lifecycle, None).await.unwrap();
            loop {
                let job = larder.job(&root, job.id).await.unwrap();
                if job.finished.is_some() {
                    return job.detail.unwrap();
                }
                tick();
                tokio::task::yield_now().await;
            }
        }
    };
    assert!(walk(fixture.clone()).await.starts_with("0 files"), "it is young");
    let chunks = fixture.chunks.clone().unwrap();
    clock.advance(30 * DAY);
    let fixture = Fixture::with(meta, chunks, env).await;
    assert!(walk(fixture.clone()).await.starts_with("nothing expires yet"));
    fixture.stat("a").await.unwrap();
    clock.advance(Duration::from_secs(3601));
    assert!(walk(fixture.clone()).await.starts_with("1 files"));
    fixture.stat("a").await.unwrap_err();
}

async fn put_until(fixture: &Fixture, at: &str, expires: Option<Timestamp>) -> Result<Written> {
    let options = UploadOptions { expires, ..UploadOptions::default() };
    fixture.upload(&SpaceRef::Home, at, "x", options).await
}

/// Has the jobs look until `done`.
async fn rounds(fixture: &Fixture, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        let change = larder_core::SpaceChange::default();
        fixture.larder.change_space(&fixture.root, &SpaceRef::Home, change).await.unwrap();
        if done().await {
            return;
        }
        fixture.env.sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not happen");
}

#[tokio::test]
async fn a_file_with_an_end_goes_to_the_trash_then() {
    let fixture = Fixture::new().await;
    let soon = || Some(fixture.env.now().after(Duration::from_millis(150)));
    let later = Some(fixture.env.now().after(DAY));
    let ends = soon();
    let written = put_until(&fixture, "ends", ends).await.unwrap();
    assert_eq!(written.entry.expires, ends);
    assert_eq!(fixture.stat("ends").await.unwrap().expires, ends, "it is shown");
    put_until(&fixture, "overwritten", soon()).await.unwrap();
    fixture.put("overwritten", "y").await.unwrap();
    assert_eq!(fixture.stat("overwritten").await.unwrap().expires, None);
    put_until(&fixture, "longer", soon()).await.unwrap();
    put_until(&fixture, "longer", later).await.unwrap();
    assert_eq!(fixture.stat("longer").await.unwrap().expires, later);
    put_until(&fixture, "moved", soon()).await.unwrap();
    fixture.mv("moved", "elsewhere", false).await.unwrap();
    put_until(&fixture, "copied", later).await.unwrap();
    fixture.cp("copied", "copy", false).await.unwrap();
    assert_eq!(fixture.stat("copy").await.unwrap().expires, None);
    rounds(&fixture, async || {
        fixture.stat("ends").await.is_err() && fixture.stat("elsewhere").await.is_err()
    })
    .await;
    assert_eq!(paths(&fixture).await, ["copied", "copy", "longer", "overwritten"]);
    let trash = fixture.trash().await;
    assert!(trash.iter().all(|item| &*item.deleted_by == "expiry"), "{trash:?}");
    let back = fixture.restore(trash[0].item).await.unwrap();
    assert_eq!(back.expires, None, "it came to its end once");
    fixture.assert_clean().await;
}

#[tokio::test]
async fn an_end_lies_ahead() {
    let fixture = Fixture::new().await;
    let past = Some(fixture.env.now());
    let error = put_until(&fixture, "a", past).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    fixture.stat("a").await.unwrap_err();
}
