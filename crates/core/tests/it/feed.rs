//! The change feed: a mirror that follows it has the tree, and no reader loses or repeats a
//! change.
//!
//! Not here: long polls and events over HTTP, kills of the process (e2e).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder_base::{Env, ErrorKind, id::NodeId};
use larder_core::{
    CURSOR_NOW, Caller, Change, ChangeKind, EntryKind, ListOptions, SpaceLimits, SpaceRef,
    UserChange, UserRef,
    testing::{
        Driver, Fixture, Model, Op,
        fixture::path,
        generate::{Draft, Mix, draft},
    },
};
use larder_meta::{engine::memory::MemoryStore, store::prefix_end};
use proptest::{collection::vec, test_runner::TestRunner};

use super::{cases, fresh_seed, race, racy, runtime};

/// What a client that follows the feed knows of a space.
#[derive(Debug, Default)]
struct Mirror {
    entries: BTreeMap<String, (NodeId, EntryKind, u64)>,
    cursor: Option<String>,
}

/// Every entry of a space, below `at`.
async fn listed(
    fixture: &Fixture,
    space: &SpaceRef,
    at: &str,
) -> Vec<(String, (NodeId, EntryKind, u64))> {
    let mut options = ListOptions { recursive: true, ..ListOptions::default() };
    let mut all = Vec::new();
    loop {
        let page = fixture.larder.list(&fixture.root, space, &path(at), &options).await.unwrap();
        all.extend(
            page.entries
                .into_iter()
                .map(|entry| (entry.path.to_string(), (entry.id, entry.kind, entry.revision))),
        );
        match page.cursor {
            Some(cursor) => options.cursor = Some(cursor),
            None => return all,
        }
    }
}

fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(dir)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl Mirror {
    /// Reads what is new, `limit` changes at a time; answers how many there were. What was `copied`
    /// came with what is in it, and is listed.
    async fn follow(
        &mut self,
        fixture: &Fixture,
        space: &SpaceRef,
        limit: usize,
        copied: bool,
    ) -> usize {
        let mut count = 0;
        loop {
            let cursor = self.cursor.as_deref();
            let page = fixture.larder.changes(&fixture.root, space, cursor, limit).await.unwrap();
            self.cursor = Some(page.cursor);
            if page.changes.is_empty() {
                return count;
            }
            for change in &page.changes {
                self.take(fixture, space, change, copied).await;
            }
            count += page.changes.len();
        }
    }

    async fn take(&mut self, fixture: &Fixture, space: &SpaceRef, change: &Change, copied: bool) {
        let at = &change.path;
        let state = (change.node, change.entry, change.revision.unwrap_or(0));
        match change.kind {
            ChangeKind::Created | ChangeKind::Restored => {
                let before = self.entries.insert(at.clone(), state);
                assert_eq!(before, None, "the name was free: {change:?}");
                if change.entry == EntryKind::Dir && (copied || change.kind == ChangeKind::Restored)
                {
                    self.entries.extend(listed(fixture, space, at).await);
                }
            }
            ChangeKind::Updated => {
                let before = self.entries.insert(at.clone(), state).expect("it was there");
                assert_eq!(before.0, change.node, "{change:?}");
                assert_eq!(before.2 + 1, state.2, "revisions go up by one: {change:?}");
            }
            ChangeKind::Moved => {
                let from = change.from.as_deref().expect("a move has an origin");
                let moved: Vec<_> =
                    self.entries.extract_if(.., |path, _| below(path, from).is_some()).collect();
                assert!(moved.iter().any(|(_, entry)| entry.0 == change.node), "{change:?}");
                for (path, entry) in moved {
                    let rest = below(&path, from).unwrap();
                    let before = self.entries.insert(format!("{at}{rest}"), entry);
                    assert_eq!(before, None, "the name was free: {change:?}");
                }
            }
            ChangeKind::Deleted => {
                assert_eq!(self.entries.get(at).map(|entry| entry.0), Some(change.node));
                self.entries.retain(|path, _| below(path, at).is_none());
            }
            ChangeKind::RevisionDeleted => {
                assert_eq!(self.entries.get(at), Some(&state), "the file is as it was");
            }
        }
    }
}

async fn mirrors_agree(drafts: Vec<Draft>, mix: Mix) {
    let driver = Driver::new(Fixture::new().await, mix.spaces).await;
    let fixture = &driver.fixture;
    let mut model = Model::new(mix.spaces);
    let mut mirrors: Vec<Mirror> = driver.spaces.iter().map(|_| Mirror::default()).collect();
    let mut done = Vec::new();
    for draft in &drafts {
        let mut op = draft.aim(&model);
        if let Op::Upload { body, .. } = &mut op {
            *body = larder_core::testing::Body::new(fresh_seed(), body.length);
        }
        let ours = model.apply(&op);
        let told = driver.run(&op, &model.bound).await;
        done.push(format!("{op:?} -> {:?}", told.answer));
        let refused = told.answer.is_err();
        if let Err(reason) = model.agrees(&ours, &told.answer) {
            panic!("{reason}");
        }
        // This is also how the model comes to know what its items are called.
        model.same_spaces(&driver.observe(false).await.unwrap()).unwrap();
        for (mirror, space) in mirrors.iter_mut().zip(&driver.spaces) {
            let copied = matches!(op, Op::Copy { .. });
            let told = mirror.follow(fixture, space, 1 + done.len() % 3, copied).await;
            assert!(!refused || told == 0, "a refusal is no change: {done:#?}");
            let real: BTreeMap<_, _> = listed(fixture, space, "").await.into_iter().collect();
            assert_eq!(mirror.entries, real, "after {done:#?}");
        }
    }
    // From the beginning it is all told again.
    for (mirror, space) in mirrors.iter().zip(&driver.spaces) {
        let all = read_all(fixture, space, 1000).await;
        let cursors: Vec<&String> = all.iter().map(|change| &change.cursor).collect();
        assert!(cursors.is_sorted_by(|a, b| a < b), "positions go up");
        let last = fixture.larder.changes(&fixture.root, space, mirror.cursor.as_deref(), 1).await;
        assert!(last.unwrap().changes.is_empty());
    }
}

#[test]
fn i_feed_1_a_mirror_that_follows_every_sequence_of_operations_has_the_tree() {
    let runtime = runtime();
    let mix = Mix { spaces: 2, limits: true, long: true };
    let mut runner = TestRunner::new(cases(150));
    let run = |drafts| {
        runtime.block_on(mirrors_agree(drafts, mix));
        Ok(())
    };
    runner.run(&vec(draft(mix), 1..60), run).unwrap();
}

/// The whole feed.
async fn read_all(fixture: &Fixture, space: &SpaceRef, limit: usize) -> Vec<Change> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page =
            fixture.larder.changes(&fixture.root, space, cursor.as_deref(), limit).await.unwrap();
        if page.changes.is_empty() {
            return all;
        }
        cursor = Some(page.cursor);
        all.extend(page.changes);
    }
}

fn line(change: &Change) -> String {
    format!("{} {} {:?} {}", change.cursor, change.kind, change.from, change.path)
}

/// Writes into a directory of its own; answers what each acknowledged step must be told as.
async fn write(fixture: Fixture, writer: usize, steps: usize) -> Vec<(ChangeKind, String)> {
    let dir = format!("w{writer}");
    fixture.mkdir(&dir).await;
    let mut told = vec![(ChangeKind::Created, dir.clone())];
    for step in 0..steps {
        let (at, to) = (format!("{dir}/f{step}"), format!("{dir}/g{step}"));
        fixture.put(&at, "one").await.unwrap();
        told.push((ChangeKind::Created, at.clone()));
        match step % 4 {
            0 => {
                fixture.put(&at, "two").await.unwrap();
                told.push((ChangeKind::Updated, at));
            }
            1 => {
                fixture.mv(&at, &to, false).await.unwrap();
                told.push((ChangeKind::Moved, to));
            }
            2 => {
                let item = fixture.rm(&at).await.unwrap().item;
                told.push((ChangeKind::Deleted, at.clone()));
                fixture.restore(item).await.unwrap();
                told.push((ChangeKind::Restored, at));
            }
            _ => {
                fixture.cp(&at, &to, false).await.unwrap();
                told.push((ChangeKind::Created, to));
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_feed_2_many_readers_of_many_writers_lose_and_repeat_nothing() {
    const WRITERS: usize = 6;
    const READERS: usize = 4;
    const STEPS: usize = 25;
    let fixture = racy(5).await;
    let writing = Arc::new(AtomicUsize::new(WRITERS));
    let answers = race(&fixture, WRITERS + READERS, |i, fixture| {
        let writing = Arc::clone(&writing);
        async move {
            if i < WRITERS {
                let told = write(fixture, i, STEPS).await;
                writing.fetch_sub(1, Ordering::SeqCst);
                return (told, Vec::new());
            }
            let (mut seen, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let ended = writing.load(Ordering::SeqCst) == 0;
                let (limit, wait) = ([1, 3, 1000][i % 3], Duration::from_millis(50));
                let (root, home) = (&fixture.root, SpaceRef::Home);
                let from = cursor.as_deref();
                let page = fixture.larder.changes_within(root, &home, from, limit, wait).await;
                let page = page.unwrap();
                if ended && page.changes.is_empty() {
                    return (Vec::new(), seen);
                }
                seen.extend(page.changes);
                cursor = Some(page.cursor);
            }
        }
    })
    .await;
    let whole = read_all(&fixture, &SpaceRef::Home, 1000).await;
    let lines: Vec<String> = whole.iter().map(line).collect();
    for (_, seen) in &answers[WRITERS..] {
        assert_eq!(seen.iter().map(line).collect::<Vec<_>>(), lines, "all readers see the same");
    }
    for (writer, (told, _)) in answers[..WRITERS].iter().enumerate() {
        let dir = format!("w{writer}");
        let own: Vec<(ChangeKind, String)> = whole
            .iter()
            .filter(|change| below(&change.path, &dir).is_some())
            .map(|change| (change.kind, change.path.clone()))
            .collect();
        assert_eq!(own, *told, "what writer {writer} was told, each once, in its order");
    }
    assert_eq!(whole.len(), answers.iter().map(|(told, _)| told.len()).sum::<usize>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wait_ends_with_the_change_whenever_that_comes() {
    let fixture = Fixture::new().await;
    fixture.mkdir("d").await;
    let home = SpaceRef::Home;
    let (root, larder) = (&fixture.root, &fixture.larder);
    let mut cursor = larder.changes(root, &home, Some(CURSOR_NOW), 10).await.unwrap().cursor;
    for round in 0..200 {
        let (at, from) = (format!("d/{round}"), cursor.clone());
        let patience = Duration::from_secs(60);
        let wait = larder.changes_within(root, &home, Some(&from), 10, patience);
        let started = fixture.env.monotonic();
        let (page, written) = tokio::join!(wait, fixture.put(&at, "x"));
        let node = written.unwrap().entry.id;
        let page = page.unwrap();
        assert_eq!(page.changes.len(), 1);
        assert_eq!((page.changes[0].node, &*page.changes[0].path), (node, &*at));
        assert!(fixture.env.monotonic() - started < patience / 2, "it was woken");
        cursor = page.cursor;
    }
    let page = larder.changes_within(root, &home, Some(&cursor), 10, Duration::from_millis(1));
    let page = page.await.unwrap();
    assert!(page.changes.is_empty(), "nothing happened since");
    assert!(page.cursor >= cursor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_is_told_nothing_that_they_may_not_know_any_more() {
    let fixture = Fixture::new().await;
    let bob = fixture.user("bob").await;
    let home = SpaceRef::Home;
    let cursor = fixture.larder.changes(&bob, &home, Some(CURSOR_NOW), 10).await.unwrap().cursor;
    let space = SpaceRef::Id(fixture.larder.space(&bob, &home).await.unwrap().id);
    let patience = Duration::from_secs(60);
    let wait = fixture.larder.changes_within(&bob, &home, Some(&cursor), 10, patience);
    let meanwhile = async {
        let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
        let user = UserRef::Name("bob".to_owned());
        fixture.larder.change_user(&fixture.root, &user, disabled).await.unwrap();
        fixture.upload(&space, "secret", "x", larder_core::UploadOptions::default()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(wait, meanwhile);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

async fn refused(fixture: &Fixture, caller: &Caller, space: &SpaceRef, cursor: &str) -> ErrorKind {
    fixture.larder.changes(caller, space, Some(cursor), 10).await.unwrap_err().kind()
}

#[tokio::test]
async fn only_cursors_of_this_feed_are_taken_and_only_readers_see_it() {
    let fixture = Fixture::new().await;
    let bob = fixture.user("bob").await;
    let limits = SpaceLimits::default();
    let (a, b) = (fixture.space("a-space", limits).await, fixture.space("b-space", limits).await);
    let now = |space: SpaceRef| {
        let fixture = fixture.clone();
        async move {
            let page = fixture.larder.changes(&fixture.root, &space, Some(CURSOR_NOW), 10).await;
            page.unwrap().cursor
        }
    };
    let (of_a, of_b) = (now(a.clone()).await, now(b.clone()).await);
    assert_eq!(refused(&fixture, &bob, &a, &of_a).await, ErrorKind::NotFound);
    assert_eq!(refused(&fixture, &fixture.root, &a, &of_b).await, ErrorKind::Gone);
    for garbage in ["", "0", "Now", &of_a[1..], &format!("{of_a}0"), &"x".repeat(28)] {
        let kind = refused(&fixture, &fixture.root, &a, garbage).await;
        assert_eq!(kind, ErrorKind::Invalid, "{garbage}");
    }
    // A cursor of a state that was never reached, as after going back to an older backup.
    let later = format!("{}{:016x}0000", &of_a[..8], u64::MAX / 2);
    assert_eq!(refused(&fixture, &fixture.root, &a, &later).await, ErrorKind::Gone);
    assert!(fixture.larder.changes(&fixture.root, &a, Some(&of_a), 10).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::embedded(directory.path()).await;
    fixture.put("a", "1").await.unwrap();
    let page = fixture.larder.changes(&fixture.root, &SpaceRef::Home, None, 10).await.unwrap();
    assert_eq!(page.changes.len(), 1);
    fixture.put("b", "2").await.unwrap();
    fixture.shutdown().await;
    drop(fixture);
    let fixture = Fixture::embedded(directory.path()).await;
    fixture.put("c", "3").await.unwrap();
    let (root, home) = (&fixture.root, SpaceRef::Home);
    let page = fixture.larder.changes(root, &home, Some(&page.cursor), 10).await.unwrap();
    let paths: Vec<&str> = page.changes.iter().map(|change| &*change.path).collect();
    assert_eq!(paths, ["b", "c"]);
    fixture.shutdown().await;
}

#[tokio::test]
async fn i_feed_3_a_cursor_before_what_is_kept_is_told_so() {
    let (env, clock) = Env::manual(1);
    let fixture = Fixture::over(Arc::new(MemoryStore::new()), env).await;
    let (root, larder, home) = (&fixture.root, &fixture.larder, SpaceRef::Home);
    let start = larder.changes(root, &home, Some(CURSOR_NOW), 10).await.unwrap().cursor;
    for i in 0..250 {
        fixture.put(&format!("old/{i}"), "x").await.unwrap();
    }
    let old = larder.changes(root, &home, None, 1000).await.unwrap();
    assert_eq!(old.changes.len(), 251);
    clock.advance(Duration::from_secs(6 * 24 * 3600));
    fixture.put("new", "x").await.unwrap();
    larder.collect(root).await.unwrap();
    let kept = larder.changes(root, &home, Some(&start), 1000).await.unwrap();
    assert_eq!(kept.changes.len(), 252, "nothing is old enough to go");
    clock.advance(Duration::from_secs(2 * 24 * 3600));
    larder.collect(root).await.unwrap();
    assert_eq!(refused(&fixture, root, &home, &start).await, ErrorKind::Gone);
    let missed = &old.changes[249].cursor;
    assert_eq!(refused(&fixture, root, &home, missed).await, ErrorKind::Gone);
    // Who had read all that is gone goes on.
    for cursor in [&old.changes[250].cursor, &old.cursor] {
        let page = larder.changes(root, &home, Some(cursor), 1000).await.unwrap();
        assert_eq!(page.changes.len(), 1, "and is told the rest");
        assert_eq!(page.changes[0].path, "new");
    }
    let page = larder.changes(root, &home, None, 1000).await.unwrap();
    assert_eq!(page.changes.len(), 1, "without a cursor it starts with what is kept");
}

#[tokio::test]
async fn the_feed_goes_with_its_space() {
    let fixture = Fixture::new().await;
    let space = fixture.space("going", SpaceLimits::default()).await;
    for i in 0..230 {
        let at = format!("{i}");
        fixture.upload(&space, &at, "x", larder_core::UploadOptions::default()).await.unwrap();
    }
    let records = async || {
        let view = fixture.meta.snapshot().await.unwrap();
        let mut count = 0;
        for family in [b"cf", b"cb"] {
            let end = prefix_end(family).unwrap();
            count += view.scan(family, &end, usize::MAX).await.unwrap().len();
        }
        count
    };
    assert_eq!(records().await, 230);
    fixture.larder.delete_space(&fixture.root, &space).await.unwrap();
    fixture.settle().await;
    assert_eq!(records().await, 0, "nothing of it is left");
}
