//! Dumps: what goes in comes out, all of it or nothing, while others write.
//!
//! Not here: doors and processes that are killed (e2e).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use larder_base::{Env, ErrorKind, id::ServerId};
use larder_chunk::{BufferPool, MemoryChunks};
use larder_core::{
    Caller, Error, LinkTerms, ListOptions, NewShare, Role, ShareFilter, ShareWith, SharedWith,
    SpaceLimits, SpaceRef, Target,
    dump::{LoadReport, Verifier},
    testing::{
        Body, Driver, Fixture, Model, Op,
        fixture::path,
        generate::{Draft, Mix, draft},
    },
};
use larder_meta::{MetaStore, engine::memory::MemoryStore};
use proptest::{collection::vec, test_runner::TestRunner};

use super::{cases, fresh_seed, racy, runtime, sequential::finish};

const MIX: Mix = Mix { spaces: 2, limits: true, long: true };

/// What spaces have in common comes once for each when they are dumped one by one.
const ONE: Mix = Mix { spaces: 1, ..MIX };

async fn dump(fixture: &Fixture, space: Option<&SpaceRef>) -> Vec<u8> {
    let mut dump = fixture.larder.dump(&fixture.root, space).await.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = dump.next().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

/// Loads a dump that comes in pieces of so many bytes.
async fn load(fixture: &Fixture, dump: &[u8], piece: usize) -> Result<LoadReport, Error> {
    let mut load = fixture.larder.load(&fixture.root)?;
    for bytes in dump.chunks(piece) {
        load.write(Bytes::copy_from_slice(bytes)).await?;
    }
    load.finish().await
}

fn verify(dump: &[u8]) -> Result<(), Error> {
    let mut verifier = Verifier::default();
    verifier.write(dump)?;
    verifier.finish().map(drop)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    result.is_err_and(|error| matches!(error.kind(), ErrorKind::Invalid | ErrorKind::BadDigest))
}

/// A body that is stored inline, and one that is stored in chunks.
const SIZES: [usize; 2] = [3_000, 300_000];

fn body(seed: u64, size: usize) -> Bytes {
    (0..size).map(|at| (at as u64 ^ (seed << 3)).wrapping_mul(0x9e37_79b9) as u8).collect()
}

/// A store with a bit of everything.
async fn furnished() -> Fixture {
    let fixture = Fixture::new().await;
    for (no, size) in SIZES.into_iter().enumerate() {
        fixture.put(&format!("dir/file-{no}"), body(1, size)).await.unwrap();
        fixture.put(&format!("dir/file-{no}"), body(2, size)).await.unwrap();
        fixture.put(&format!("gone-{no}"), body(3, size)).await.unwrap();
        fixture.rm(&format!("gone-{no}")).await.unwrap();
    }
    fixture.put("empty", Bytes::new()).await.unwrap();
    fixture.cp("dir", "copy", false).await.unwrap();
    fixture
}

async fn home(fixture: &Fixture) -> SpaceRef {
    SpaceRef::Id(fixture.larder.space(&fixture.root, &SpaceRef::Home).await.unwrap().id)
}

async fn round_trip(drafts: Vec<Draft>, source: Fixture, target: Fixture, whole: bool) {
    let mix = if whole { MIX } else { ONE };
    let driver = Driver::new(source, mix.spaces).await;
    let mut model = Model::new(mix.spaces);
    for draft in &drafts {
        let mut op = draft.aim(&model);
        if let Op::Upload { body, .. } = &mut op {
            *body = Body::new(fresh_seed(), body.length);
        }
        let ours = model.apply(&op);
        let told = driver.run(&op, &model.bound).await;
        model.agrees(&ours, &told.answer).unwrap();
        // The model learns which ids there are.
        model.same_spaces(&driver.observe(false).await.unwrap()).unwrap();
    }
    let target = if whole {
        let all = dump(&driver.fixture, None).await;
        verify(&all).unwrap();
        load(&target, &all, 777).await.unwrap();
        target.with_other_users().await
    } else {
        for space in &driver.spaces {
            let one = dump(&driver.fixture, Some(space)).await;
            let report = load(&target, &one, 1 << 16).await.unwrap();
            assert!(report.owner_replaced, "its owner is not known here");
        }
        target
    };
    driver.fixture.assert_sound().await;
    let loaded = driver.over(target);
    loaded.fixture.assert_sound().await;
    model.unsettled = true;
    finish(&loaded, &mut model).await;
}

#[test]
fn i_dump_4_whatever_was_done_comes_back_with_ids_revisions_trash_and_every_byte() {
    let runtime = runtime();
    for (mix, whole) in [(MIX, true), (ONE, false)] {
        let mut runner = TestRunner::new(cases(30));
        let run = |drafts| {
            runtime.block_on(async {
                let (source, target) = (Fixture::new().await, Fixture::new().await);
                round_trip(drafts, source, target, whole).await;
            });
            Ok(())
        };
        runner.run(&vec(draft(mix), 1..80), run).unwrap();
    }
}

#[test]
fn dumps_between_engines_with_files_come_back_too() {
    let runtime = runtime();
    for (mix, whole) in [(MIX, true), (ONE, false)] {
        let mut runner = TestRunner::new(cases(2));
        let run = |drafts| {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            runtime.block_on(async {
                let source = Fixture::embedded(from.path()).await;
                let target = Fixture::embedded(to.path()).await;
                round_trip(drafts, source, target, whole).await;
            });
            Ok(())
        };
        runner.run(&vec(draft(mix), 20..60), run).unwrap();
    }
}

#[tokio::test]
async fn users_keys_and_passwords_come_back_and_the_root_of_before_is_gone() {
    let source = furnished().await;
    source.user("anna").await;
    let target = Fixture::new().await;
    let before = target.root.clone();
    let all = dump(&source, None).await;
    let report = load(&target, &all, 4096).await.unwrap();
    assert_eq!((report.counts.users, report.counts.spaces), (2, 1));
    let target = target.with_other_users().await;
    let users = target.larder.users(&target.root, &ListOptions::default()).await.unwrap();
    let names: Vec<String> = users.entries.into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["root", "anna"]);
    assert_eq!(target.root.user, source.root.user);
    let gone = target.larder.me(&before).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    target.assert_clean().await;
}

#[tokio::test]
async fn i_dump_2_a_dump_is_refused_wherever_it_is_cut_off_or_changed() {
    let source = furnished().await;
    let space = home(&source).await;
    let all = dump(&source, Some(&space)).await;
    verify(&all).unwrap();
    // Most bytes are content: what is between the contents is where forms could go wrong.
    let step = |at: usize| at < 6_000 || at + 3_000 > all.len() || at.is_multiple_of(251);
    let mut changed = all.clone();
    for at in (0..all.len()).filter(|at| step(*at)) {
        assert!(refused(verify(&all[..at])), "cut off at {at}");
        changed[at] ^= 1 << (at % 8);
        assert!(refused(verify(&changed)), "changed at {at}");
        changed[at] = all[at];
    }
    assert!(refused(verify(&[&all[..], &[0]].concat())), "a byte too many");
    let target = Fixture::new().await;
    for at in (0..all.len()).filter(|at| at.is_multiple_of(40_009) || *at + 5 > all.len()) {
        assert!(refused(load(&target, &all[..at], 1 << 14).await), "cut off at {at}");
        changed[at] ^= 0x10;
        assert!(refused(load(&target, &changed, 1 << 14).await), "changed at {at}");
        changed[at] = all[at];
    }
    let report = target.assert_clean().await;
    assert_eq!((report.counts.spaces, report.counts.blobs), (0, 0), "nothing is left");
    load(&target, &all, 1 << 14).await.unwrap();
    target.assert_clean().await;
}

#[tokio::test]
async fn i_dump_3_nothing_is_seen_before_the_end_and_a_broken_load_leaves_nothing() {
    let source = furnished().await;
    let space = home(&source).await;
    let target = Fixture::new().await;
    let empty = target.assert_clean().await;
    for whole in [false, true] {
        let all = dump(&source, (!whole).then_some(&space)).await;
        let rest = &all[..all.len() - 1];
        let mut loading = target.larder.load(&target.root).unwrap();
        for piece in rest.chunks(10_000) {
            loading.write(Bytes::copy_from_slice(piece)).await.unwrap();
            match target.larder.check(&target.root).await {
                Ok(report) => assert_eq!(report.violations, 0, "{:?}", report.findings),
                Err(error) => assert!(whole, "{error}"),
            }
        }
        if whole {
            let login = larder_core::Credentials::Password { user: "root", password: "x" };
            let from = std::net::IpAddr::from([127, 0, 0, 1]);
            let shut = target.larder.authenticate(login, from).await.unwrap_err();
            assert_eq!(shut.kind(), ErrorKind::Unavailable, "{shut}");
            assert!(!target.larder.not_ready().is_empty());
        } else {
            let hidden = target.larder.space(&target.root, &space).await.unwrap_err();
            assert_eq!(hidden.kind(), ErrorKind::NotFound);
            let twice = load(&target, &all, 10_000).await.unwrap_err();
            assert_eq!(twice.kind(), ErrorKind::Busy, "{twice}");
        }
        drop(loading);
        // The next load removes what is left, and wins.
        let report = load(&target, &all, 1 << 20).await.unwrap();
        assert!(report.counts.nodes > 8, "{report:?}");
        if !whole {
            let loaded = target.assert_clean().await;
            assert!(loaded.counts.chunks > 0);
            target.larder.delete_space(&target.root, &space).await.err();
            break_down(&target, &space).await;
            let again = target.assert_clean().await;
            assert_eq!(again.counts.blobs, empty.counts.blobs);
        }
    }
    let target = target.with_other_users().await;
    assert_eq!(target.get("dir/file-1").await.unwrap(), body(2, SIZES[1]));
    target.assert_clean().await;
}

/// Removes a space, which is a project since its home's owner is not known.
async fn break_down(fixture: &Fixture, space: &SpaceRef) {
    fixture.settle().await;
    let gone = fixture.larder.space(&fixture.root, space).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_process_that_ends_in_mid_load_leaves_nothing_for_the_next_one() {
    let source = furnished().await;
    let space = home(&source).await;
    for whole in [false, true] {
        let all = dump(&source, (!whole).then_some(&space)).await;
        for cut in 1..12 {
            let env = Env::system();
            let meta: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
            let chunks = MemoryChunks::new(ServerId::new(&env), BufferPool::new(16 << 20));
            let first = Fixture::with(Arc::clone(&meta), chunks.clone(), env.clone()).await;
            let mut loading = first.larder.load(&first.root).unwrap();
            let part = &all[..all.len() * cut / 12];
            for piece in part.chunks(5_000) {
                loading.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            // What a process has begun to write ends with it.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            let second = Fixture::with(Arc::clone(&meta), chunks, env).await;
            drop(loading);
            if whole {
                while !second.larder.not_ready().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
            let report = second.assert_clean().await;
            assert_eq!((report.counts.spaces, report.counts.blobs), (0, 0), "cut at {cut}/12");
            load(&second, &all, 50_000).await.unwrap();
            let second = if whole { second.with_other_users().await } else { second };
            second.assert_clean().await;
        }
    }
}

#[tokio::test]
async fn i_dump_1_what_is_destroyed_after_a_dump_began_is_in_it() {
    let source = furnished().await;
    let space = home(&source).await;
    let mut dump = source.larder.dump(&source.root, Some(&space)).await.unwrap();
    for name in ["dir", "copy", "empty"] {
        source.rm(name).await.unwrap();
    }
    source.larder.empty_trash(&source.root, &SpaceRef::Home).await.unwrap();
    for _ in 0..3 {
        source.larder.collect(&source.root).await.unwrap();
    }
    let mut all = Vec::new();
    while let Some(bytes) = dump.next().await.unwrap() {
        all.extend_from_slice(&bytes);
        source.larder.collect(&source.root).await.unwrap();
    }
    drop(dump);
    let target = Fixture::new().await;
    load(&target, &all, 1 << 20).await.unwrap();
    for (no, size) in SIZES.into_iter().enumerate() {
        for dir in ["dir", "copy"] {
            let at = format!("{dir}/file-{no}");
            assert_eq!(target.get_of(&space, &at, None).await.unwrap(), body(2, size), "{at}");
        }
        let old = target.get_of(&space, &format!("dir/file-{no}"), Some(1)).await.unwrap();
        assert_eq!(old, body(1, size));
    }
    target.assert_clean().await;
    let left = source.assert_clean().await;
    assert_eq!(left.counts.blobs, 0, "nothing is kept longer than the dump");
}

#[test]
fn i_dump_1_a_dump_under_load_is_one_moment_and_has_all_that_was_acknowledged() {
    runtime().block_on(async {
        for seed in 0..3 {
            under_load(racy(seed).await, 1 + seed).await;
        }
        let directory = tempfile::tempdir().unwrap();
        under_load(Fixture::embedded(directory.path()).await, 9).await;
    });
}

/// Writers count up in files of their own, two by two: the second never has more than the first.
async fn under_load(source: Fixture, seed: u64) {
    const WRITERS: usize = 6;
    source.mkdir("there").await;
    let stop = Arc::new(AtomicBool::new(false));
    let done: Arc<[std::sync::atomic::AtomicU64; WRITERS]> = Arc::default();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (source, stop, done) = (source.clone(), Arc::clone(&stop), Arc::clone(&done));
        let size = SIZES[writer % 2];
        tasks.push(source.env.clone().spawn("writer", async move {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                for half in ["first", "second"] {
                    let bytes = body(round, size + (round as usize % 7));
                    source.put(&format!("w{writer}/{half}"), bytes).await.unwrap();
                }
                done[writer].store(round, Ordering::SeqCst);
                if round.is_multiple_of(3) {
                    let (from, to) = (format!("w{writer}"), format!("there/w{writer}"));
                    source.mv(&from, &to, false).await.unwrap();
                    source.mv(&to, &from, false).await.unwrap();
                    source.put(&format!("gone{writer}"), body(round, size)).await.unwrap();
                    let item = source.rm(&format!("gone{writer}")).await.unwrap();
                    source.purge(item.item).await.unwrap();
                }
            }
        }));
    }
    let space = home(&source).await;
    for _ in 0..3 {
        while done.iter().any(|done| done.load(Ordering::SeqCst) < 2) {
            tokio::task::yield_now().await;
        }
        let acknowledged: Vec<u64> = done.iter().map(|done| done.load(Ordering::SeqCst)).collect();
        let collect = source.larder.collect(&source.root);
        let (one, collected) = tokio::join!(dump(&source, Some(&space)), collect);
        collected.unwrap();
        let target = Fixture::new().await;
        load(&target, &one, 100_000).await.unwrap_or_else(|error| panic!("{seed}: {error:?}"));
        target.assert_sound().await;
        for (writer, at_least) in acknowledged.into_iter().enumerate() {
            check_writer(&target, &target.root, &space, writer, at_least).await;
        }
        target.assert_clean().await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    source.assert_clean().await;
}

async fn check_writer(
    target: &Fixture,
    root: &Caller,
    space: &SpaceRef,
    writer: usize,
    at_least: u64,
) {
    let size = SIZES[writer % 2];
    let mut rounds = Vec::new();
    let mut found = None;
    for dir in [format!("w{writer}"), format!("there/w{writer}")] {
        let at = Target::Path(space.clone(), path(&dir));
        if target.larder.stat(root, &at).await.is_ok() {
            assert!(found.replace(dir).is_none(), "w{writer} is in two places");
        }
    }
    let dir = found.unwrap_or_else(|| panic!("w{writer} is nowhere"));
    for half in ["first", "second"] {
        let at = format!("{dir}/{half}");
        let all = ListOptions::default();
        let revisions = target.larder.revisions(root, space, &path(&at), &all).await.unwrap();
        let newest = revisions.entries.first().unwrap().revision;
        for round in 1..=newest {
            let bytes = target.get_of(space, &at, Some(round)).await.unwrap();
            assert_eq!(bytes, body(round, size + (round as usize % 7)), "{at} {round}");
        }
        assert!(newest >= at_least, "{at}: {at_least} were acknowledged, there are {newest}");
        rounds.push(newest);
    }
    assert!(rounds[0] == rounds[1] || rounds[0] == rounds[1] + 1, "{rounds:?} is no one moment");
}

#[tokio::test]
async fn what_is_here_already_is_never_overwritten() {
    let source = furnished().await;
    let project = source.space("project", SpaceLimits::default()).await;
    let (one, all) = (dump(&source, Some(&project)).await, dump(&source, None).await);
    let conflict = |result: Result<LoadReport, Error>| result.unwrap_err().kind();
    assert_eq!(conflict(load(&source, &one, 1 << 20).await), ErrorKind::Conflict);
    assert_eq!(conflict(load(&source, &all, 1 << 20).await), ErrorKind::Conflict);
    source.assert_clean().await;
    let target = Fixture::new().await;
    target.space("project", SpaceLimits::default()).await;
    let taken = load(&target, &one, 1 << 20).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    assert!(taken.detail().contains("project"), "{taken}");
    assert_eq!(conflict(load(&target, &all, 1 << 20).await), ErrorKind::Conflict);
    // A user is enough.
    let target = Fixture::new().await;
    target.user("anna").await;
    assert_eq!(conflict(load(&target, &all, 1 << 20).await), ErrorKind::Conflict);
    target.assert_clean().await;
    target.user("berta").await;
}

#[tokio::test]
async fn grants_and_links_come_back_and_those_for_unknown_users_are_counted() {
    let source = furnished().await;
    let space = home(&source).await;
    let anna = source.user("anna").await;
    let with = [
        ShareWith::User("anna".to_owned()),
        ShareWith::Link(LinkTerms { name: "open".to_owned(), ..LinkTerms::default() }),
    ];
    for with in with {
        let target = Target::Path(space.clone(), path("dir"));
        let new = NewShare { target, with, role: Role::Viewer, expires: None };
        source.larder.create_share(&source.root, new).await.unwrap();
    }
    let shared = |fixture: Fixture| async move {
        let filter = ShareFilter::In(space);
        let all = ListOptions::default();
        fixture.larder.shares(&fixture.root, &filter, &all).await.unwrap().entries
    };
    let before = shared.clone()(source.clone()).await;
    let space = home(&source).await;
    let token = before.iter().find_map(|share| match &share.with {
        SharedWith::Link(link) => Some(link.token.clone()),
        _ => None,
    });
    let token = token.unwrap();
    let from = std::net::IpAddr::from([127, 0, 0, 1]);
    // Everything: who may see it still may.
    let all = Fixture::new().await;
    let report = load(&all, &dump(&source, None).await, 1 << 20).await.unwrap();
    assert_eq!((report.grants_dropped, report.secrets_readable), (0, true));
    let all = all.with_other_users().await;
    let ids = |shares: Vec<larder_core::ShareInfo>| {
        shares.into_iter().map(|share| (share.id, share.node, share.by)).collect::<Vec<_>>()
    };
    assert_eq!(ids(shared.clone()(all.clone()).await), ids(before.clone()));
    let seen = Target::Path(space.clone(), path("dir/file-0"));
    assert!(all.larder.stat(&anna, &seen).await.is_ok(), "the same user has the same rights");
    assert!(all.larder.open_link(&token, None, from).await.is_ok(), "the same link opens it");
    all.assert_clean().await;
    // One space where nobody knows her.
    let one = Fixture::new().await;
    let report = load(&one, &dump(&source, Some(&space)).await, 1 << 20).await.unwrap();
    assert_eq!((report.grants_dropped, report.owner_replaced), (1, true));
    let left = shared(one.clone()).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].by, "root");
    assert!(one.larder.open_link(&token, None, from).await.is_ok());
    one.assert_clean().await;
}

#[tokio::test]
async fn only_administrators_dump_and_load() {
    let fixture = Fixture::new().await;
    let anna = fixture.user("anna").await;
    let error = fixture.larder.dump(&anna, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let error = fixture.larder.dump(&anna, Some(&SpaceRef::Home)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(fixture.larder.load(&anna).unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_home_goes_to_its_owner_if_that_user_has_none_and_is_a_project_else() {
    let source = Fixture::new().await;
    let anna = source.user("anna").await;
    let made = source.larder.create_dir(&anna, &SpaceRef::Home, &path("a"), false).await;
    let space = SpaceRef::Id(made.unwrap().0.space);
    let one = dump(&source, Some(&space)).await;
    let target = Fixture::new().await;
    let report = load(&target, &one, 1 << 20).await.unwrap();
    assert!(report.owner_replaced);
    let loaded = target.larder.space(&target.root, &space).await.unwrap();
    assert_eq!((loaded.owner, loaded.kind), (target.root.user, larder_core::SpaceKind::Project));
    assert_eq!(target.usage().await.live, 0, "the home of who loaded it is another one");
    // An instance that has the same users, but not the space.
    let twin = Fixture::new().await;
    let users = {
        let fresh = Fixture::new().await;
        let anna = fresh.user("anna").await;
        (dump(&fresh, None).await, anna, fresh)
    };
    load(&twin, &users.0, 1 << 20).await.unwrap();
    let twin = twin.with_other_users().await;
    let theirs = users.1;
    let mkdir = users.2.larder.create_dir(&theirs, &SpaceRef::Home, &path("b"), false).await;
    let space = SpaceRef::Id(mkdir.unwrap().0.space);
    let one = dump(&users.2, Some(&space)).await;
    let report = load(&twin, &one, 1 << 20).await.unwrap();
    assert!(!report.owner_replaced);
    let loaded = twin.larder.space(&twin.root, &space).await.unwrap();
    assert_eq!((loaded.owner, loaded.kind), (theirs.user, larder_core::SpaceKind::Home));
}
