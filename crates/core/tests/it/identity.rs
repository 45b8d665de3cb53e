//! Users, groups and credentials: who gets in, what a credential may do, what is left of whoever
//! was removed, and how slow guessing is.
//!
//! Not here: what groups are granted (shares), how requests carry credentials (doors).

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use larder_base::{
    Env, ErrorKind, Timestamp,
    env::ManualClock,
    id::{ServerId, SpaceId},
};
use larder_chunk::{BufferPool, MemoryChunks};
use larder_core::{
    Access, Caller, CredentialKind, Credentials, GroupRef, HomePolicy, Larder, ListOptions,
    MadeKey, NewKey, NewUser, Result, SpaceKind, SpaceLimits, SpaceRef, Target, UploadOptions,
    UserChange, UserRef,
    testing::{
        Fixture,
        fixture::{PASSWORD, path, read_all},
    },
};
use larder_meta::{MetaStore, engine::memory::MemoryStore, observe::ObservedStore};

use super::{race, racy};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn there() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn me() -> UserRef {
    UserRef::Me
}

fn named(name: &str) -> UserRef {
    UserRef::Name(name.to_owned())
}

/// A store whose clock stands still until it is moved.
async fn still(seed: u64) -> (Fixture, ManualClock) {
    let (env, clock) = Env::manual(seed);
    (Fixture::over(Arc::new(MemoryStore::new()), env).await, clock)
}

async fn by_password(larder: &Larder, user: &str, password: &str, from: IpAddr) -> Result<Caller> {
    larder.authenticate(Credentials::Password { user, password }, from).await
}

async fn by_key(larder: &Larder, key: &str) -> Result<Caller> {
    larder.authenticate(Credentials::Key(key), HERE).await
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn of(kind: CredentialKind) -> NewKey {
    NewKey { kind, ..NewKey::default() }
}

/// A key of the caller with this scope, and the caller who comes with it.
async fn scoped(
    fixture: &Fixture,
    owner: &Caller,
    access: Access,
    spaces: Option<Vec<SpaceId>>,
) -> (MadeKey, Caller) {
    let new = NewKey { access: Some(access), spaces, ..NewKey::default() };
    let made = fixture.larder.create_key(owner, &me(), new).await.unwrap();
    let caller = by_key(&fixture.larder, &made.secret).await.unwrap();
    (made, caller)
}

async fn put(fixture: &Fixture, caller: &Caller, at: &str) -> Result<larder_core::Written> {
    let options = UploadOptions { length: Some(4), ..UploadOptions::default() };
    let mut upload =
        fixture.larder.open_upload(caller, &SpaceRef::Home, &path(at), options).await?;
    upload.write("body".into()).await?;
    upload.commit().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deleting_a_user_ends_every_way_in_and_leaves_nothing_of_them() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let alice = fixture.user("alice").await;
    put(&fixture, &alice, "file").await.unwrap();
    let api = larder.create_key(&alice, &me(), of(CredentialKind::Api)).await.unwrap();
    let app = larder.create_key(&alice, &me(), of(CredentialKind::App)).await.unwrap();
    let s3 = larder.create_key(&alice, &me(), of(CredentialKind::S3)).await.unwrap();
    let access_key = s3.key.access_key_id.clone().unwrap();
    for _ in 0..90 {
        larder.create_key(&alice, &me(), of(CredentialKind::S3)).await.unwrap();
    }
    for i in 0..60 {
        let group = larder.create_group(root, &format!("group-{i}")).await.unwrap();
        larder.add_member(root, &GroupRef::Id(group.id), &named("alice")).await.unwrap();
    }
    by_key(larder, &api.secret).await.unwrap();
    by_password(larder, "alice", &app.secret, HERE).await.unwrap();
    let opened = by_password(larder, "alice", PASSWORD, HERE).await.unwrap();
    assert!(larder.s3_secret(&access_key).await.is_ok());

    larder.delete_user(root, &named("alice"), HomePolicy::Remove).await.unwrap();
    let refused = ErrorKind::Unauthenticated;
    assert_eq!(kind(by_key(larder, &api.secret).await), refused);
    assert_eq!(kind(by_password(larder, "alice", &app.secret, HERE).await), refused);
    assert_eq!(kind(by_password(larder, "alice", PASSWORD, HERE).await), refused);
    assert_eq!(kind(larder.s3_secret(&access_key).await), refused);
    assert!(put(&fixture, &opened, "late").await.is_err());
    fixture.assert_clean().await;
    let left = fixture.families_with(alice.user.as_bytes()).await;
    assert!(left.is_empty(), "records with the user's id: {left:?}");
    let left = fixture.families_with(access_key.as_bytes()).await;
    assert!(left.is_empty(), "records with the access key: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kept_home_is_a_project_of_the_administrator_and_a_new_user_gets_a_new_one() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let alice = fixture.user("alice").await;
    put(&fixture, &alice, "file").await.unwrap();
    let home = larder.space(&alice, &SpaceRef::Home).await.unwrap();
    larder.delete_user(root, &named("alice"), HomePolicy::Keep).await.unwrap();
    let kept = larder.space(root, &SpaceRef::Id(home.id)).await.unwrap();
    assert_eq!((kept.kind, kept.owner), (SpaceKind::Project, root.user));
    assert_eq!((kept.name, kept.usage), (home.name, home.usage));
    let target = Target::Path(SpaceRef::Id(home.id), path("file"));
    let download = larder.download(root, &target, None).await.unwrap();
    assert_eq!(read_all(&download).await.unwrap(), "body");

    let again = fixture.user("alice").await;
    assert_eq!(kind(larder.space(&again, &SpaceRef::Id(home.id)).await), ErrorKind::NotFound);
    put(&fixture, &again, "file").await.unwrap();
    let other = larder.space(&again, &SpaceRef::Home).await.unwrap();
    assert_ne!(other.id, home.id);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn what_runs_when_a_user_is_disabled_does_not_commit() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let alice = fixture.user("alice").await;
    let (made, _) = scoped(&fixture, &alice, Access::Write, None).await;
    for key in [None, Some(&made.secret)] {
        let caller = match key {
            None => by_password(larder, "alice", PASSWORD, HERE).await.unwrap(),
            Some(key) => by_key(larder, key).await.unwrap(),
        };
        put(&fixture, &caller, "before").await.unwrap();
        let options = UploadOptions { length: Some(4), ..UploadOptions::default() };
        let home = SpaceRef::Home;
        let upload = larder.open_upload(&caller, &home, &path("running"), options).await;
        let mut upload = upload.unwrap();
        upload.write("body".into()).await.unwrap();
        let change = UserChange { disabled: Some(true), ..UserChange::default() };
        larder.change_user(root, &named("alice"), change).await.unwrap();
        assert_eq!(kind(upload.commit().await), ErrorKind::Unauthenticated);
        assert_eq!(kind(put(&fixture, &caller, "after").await), ErrorKind::Unauthenticated);
        let change = UserChange { disabled: Some(false), ..UserChange::default() };
        larder.change_user(root, &named("alice"), change).await.unwrap();
    }
    fixture.assert_clean().await;
}

#[tokio::test]
async fn an_account_is_not_changed_by_whoever_was_just_disabled() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let new = NewUser { name: "eve".to_owned(), password: PASSWORD.to_owned(), admin: true };
    larder.create_user(root, new).await.unwrap();
    let eve = by_password(larder, "eve", PASSWORD, HERE).await.unwrap();
    let change = UserChange { disabled: Some(true), ..UserChange::default() };
    larder.change_user(root, &named("eve"), change).await.unwrap();
    let refused = ErrorKind::Unauthenticated;
    let new = NewUser { name: "mallory".to_owned(), password: PASSWORD.to_owned(), admin: true };
    assert_eq!(kind(larder.create_user(&eve, new).await), refused);
    assert_eq!(kind(larder.create_key(&eve, &me(), NewKey::default()).await), refused);
    assert_eq!(kind(larder.create_group(&eve, "evil").await), refused);
    fixture.user("victim").await;
    let gone = larder.delete_user(&eve, &named("victim"), HomePolicy::Remove).await;
    assert_eq!(kind(gone), refused);
}

#[tokio::test]
async fn i_key_1_no_key_makes_one_that_may_do_more_than_itself() {
    let (fixture, _) = still(1).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let mut spaces = Vec::new();
    for name in ["one", "two"] {
        let SpaceRef::Id(id) = fixture.space(name, SpaceLimits::default()).await else {
            panic!("an id");
        };
        spaces.push(id);
    }
    let [one, two] = spaces[..] else { panic!("two") };
    let accesses = [Access::Read, Access::Write, Access::Full];
    let sets = [None, Some(vec![one]), Some(vec![two]), Some(vec![one, two])];
    let inside = |small: &Option<Vec<SpaceId>>, large: &Option<Vec<SpaceId>>| match (small, large) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(small), Some(large)) => small.iter().all(|space| large.contains(space)),
    };
    for parent_access in accesses {
        for parent_spaces in &sets {
            let (made, parent) = scoped(&fixture, root, parent_access, parent_spaces.clone()).await;
            assert_eq!(parent.admin, parent_access == Access::Full && parent_spaces.is_none());
            for access in accesses {
                for spaces in &sets {
                    let fits = parent_access == Access::Full && inside(spaces, parent_spaces);
                    let (access, spaces) = (Some(access), spaces.clone());
                    let new = NewKey { access, spaces, ..NewKey::default() };
                    let child = larder.create_key(&parent, &me(), new).await;
                    assert_eq!(child.is_ok(), fits, "{parent_access:?} {parent_spaces:?}");
                    match child {
                        Ok(child) => {
                            larder.delete_key(root, &me(), child.key.id).await.unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
                    }
                }
            }
            larder.delete_key(root, &me(), made.key.id).await.unwrap();
        }
    }
    // Nor one that lasts longer, nor the secret of one that may do more.
    let soon = fixture.env.now().after(Duration::from_secs(60));
    let new = NewKey { expires: Some(soon), ..NewKey::default() };
    let short = larder.create_key(root, &me(), new.clone()).await.unwrap();
    let short = by_key(larder, &short.secret).await.unwrap();
    let denied = ErrorKind::Denied;
    assert_eq!(kind(larder.create_key(&short, &me(), NewKey::default()).await), denied);
    larder.create_key(&short, &me(), new).await.unwrap();
    let change = UserChange { password: Some("new password".to_owned()), ..UserChange::default() };
    assert_eq!(kind(larder.change_user(&short, &me(), change.clone()).await), denied);
    let (full, _) = scoped(&fixture, root, Access::Full, None).await;
    let (_, in_one) = scoped(&fixture, root, Access::Full, Some(vec![one])).await;
    let rotated = larder.rotate_key(&in_one, &me(), full.key.id, Duration::ZERO).await;
    assert_eq!(kind(rotated), denied);
    let rotated = larder.rotate_key(&short, &me(), full.key.id, Duration::ZERO).await;
    assert_eq!(kind(rotated), denied);
    assert_eq!(kind(larder.change_user(&in_one, &me(), change).await), denied);
}

#[tokio::test]
async fn a_key_for_files_touches_no_account_group_or_key() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let group = larder.create_group(root, "staff").await.unwrap();
    let group = GroupRef::Id(group.id);
    larder.add_member(root, &group, &named("root")).await.unwrap();
    for access in [Access::Read, Access::Write] {
        let (made, caller) = scoped(&fixture, root, access, None).await;
        let id = made.key.id;
        let all = ListOptions::default();
        let change =
            UserChange { password: Some("new password".to_owned()), ..UserChange::default() };
        let new = NewUser { name: "x".to_owned(), password: PASSWORD.to_owned(), admin: true };
        let answers = [
            larder.users(&caller, &all).await.err(),
            larder.create_user(&caller, new).await.err(),
            larder.change_user(&caller, &me(), change).await.err(),
            larder.delete_user(&caller, &me(), HomePolicy::Remove).await.err(),
            larder.keys(&caller, &me()).await.err(),
            larder.create_key(&caller, &me(), NewKey::default()).await.err(),
            larder.rotate_key(&caller, &me(), id, Duration::ZERO).await.err(),
            larder.delete_key(&caller, &me(), id).await.err(),
            larder.groups(&caller, &all).await.err(),
            larder.create_group(&caller, "x").await.err(),
            larder.group(&caller, &group).await.err(),
            larder.rename_group(&caller, &group, "x").await.err(),
            larder.delete_group(&caller, &group).await.err(),
            larder.group_members(&caller, &group, &all).await.err(),
            larder.add_member(&caller, &group, &me()).await.err(),
            larder.remove_member(&caller, &group, &me()).await.err(),
        ];
        for (i, answer) in answers.into_iter().enumerate() {
            let answer = answer.unwrap_or_else(|| panic!("call {i} with {access:?} is refused"));
            assert_eq!(answer.kind(), ErrorKind::Denied, "call {i}");
        }
        // Whose key it is is no secret to whoever has it.
        assert_eq!(larder.me(&caller).await.unwrap().name, "root");
    }
}

#[tokio::test]
async fn each_kind_of_credential_opens_only_its_own_door() {
    let fixture = Fixture::new().await;
    let larder = &fixture.larder;
    let alice = fixture.user("alice").await;
    fixture.user("bob").await;
    let api = larder.create_key(&alice, &me(), of(CredentialKind::Api)).await.unwrap();
    let app = larder.create_key(&alice, &me(), of(CredentialKind::App)).await.unwrap();
    let s3 = larder.create_key(&alice, &me(), of(CredentialKind::S3)).await.unwrap();
    assert!(api.secret.starts_with("lk_") && app.secret.starts_with("la_"));
    assert_eq!((s3.key.access_key_id.as_ref().unwrap().len(), s3.secret.len()), (20, 40));

    let caller = by_password(larder, "alice", &app.secret, HERE).await.unwrap();
    assert_eq!(&*caller.name, "alice");
    put(&fixture, &caller, "by app password").await.unwrap();
    let refused = ErrorKind::Unauthenticated;
    assert_eq!(kind(by_password(larder, "bob", &app.secret, HERE).await), refused);
    assert_eq!(kind(by_key(larder, &app.secret).await), refused);
    assert_eq!(kind(by_password(larder, "alice", &api.secret, HERE).await), refused);
    assert_eq!(kind(by_key(larder, &s3.secret).await), refused);
    for forged in [
        app.secret.replacen("la_", "lk_", 1),
        api.secret.replacen("lk_", "la_", 1),
        "lk_".to_owned(),
        String::new(),
    ] {
        assert_eq!(kind(by_key(larder, &forged).await), refused);
        assert_eq!(kind(by_password(larder, "alice", &forged, HERE).await), refused);
    }
    let new = NewKey { access: Some(Access::Full), ..of(CredentialKind::App) };
    assert_eq!(kind(larder.create_key(&alice, &me(), new).await), ErrorKind::Invalid);
    let found = larder.s3_secret(s3.key.access_key_id.as_ref().unwrap()).await.unwrap();
    assert_eq!(found.secrets, std::slice::from_ref(&s3.secret));
    assert_eq!(&*found.caller.name, "alice");
    for unknown in ["", "LKAAAAAAAAAAAAAAAAAA", &s3.secret, "\u{e9}"] {
        assert_eq!(kind(larder.s3_secret(unknown).await), refused);
    }
    // I-KEY-3: no record has a secret.
    for secret in [&api.secret, &app.secret, &s3.secret] {
        let left = fixture.families_with(secret.as_bytes()).await;
        assert!(left.is_empty(), "a secret is in {left:?}");
    }
    let shown = format!("{api:?} {app:?} {s3:?} {found:?}");
    for secret in [&api.secret, &app.secret, &s3.secret] {
        assert!(!shown.contains(&***secret));
    }
}

#[tokio::test]
async fn a_rotated_secret_replaces_the_old_one_at_once_or_after_the_overlap() {
    let (fixture, clock) = still(2).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    for key_kind in [CredentialKind::Api, CredentialKind::App, CredentialKind::S3] {
        let made = larder.create_key(root, &me(), of(key_kind)).await.unwrap();
        let access_key = made.key.access_key_id.clone().unwrap_or_default();
        let accepted = async |secret: &str| match key_kind {
            CredentialKind::Api => by_key(larder, secret).await.is_ok(),
            CredentialKind::App => by_password(larder, "root", secret, HERE).await.is_ok(),
            CredentialKind::S3 => {
                let found = larder.s3_secret(&access_key).await.unwrap();
                found.secrets.iter().any(|found| **found == secret)
            }
        };
        let id = made.key.id;
        let hour = Duration::from_secs(3600);
        let second = larder.rotate_key(root, &me(), id, hour).await.unwrap();
        assert!(second.key.rotated.is_some() && second.key.previous_until.is_some());
        assert!(accepted(&made.secret).await && accepted(&second.secret).await);
        clock.advance(hour);
        assert!(!accepted(&made.secret).await && accepted(&second.secret).await);
        let third = larder.rotate_key(root, &me(), id, hour).await.unwrap();
        let fourth = larder.rotate_key(root, &me(), id, Duration::ZERO).await.unwrap();
        assert_eq!(fourth.key.previous_until, None);
        for old in [&made, &second, &third] {
            assert!(!accepted(&old.secret).await);
        }
        assert!(accepted(&fourth.secret).await);
        let missing = larder.rotate_key(root, &named("root"), id, hour * 24 * 31).await;
        assert_eq!(kind(missing), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn i_key_2_what_runs_with_a_deleted_or_replaced_key_fails_and_with_an_overlap_does_not() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let begin = async |caller: &Caller| {
        let options = UploadOptions { length: Some(4), ..UploadOptions::default() };
        let home = SpaceRef::Home;
        let mut upload =
            larder.open_upload(caller, &home, &path("running"), options).await.unwrap();
        upload.write("body".into()).await.unwrap();
        upload
    };
    let (made, caller) = scoped(&fixture, root, Access::Write, None).await;
    let upload = begin(&caller).await;
    larder.rotate_key(root, &me(), made.key.id, Duration::from_secs(60)).await.unwrap();
    upload.commit().await.unwrap();
    let upload = begin(&caller).await;
    let made = larder.rotate_key(root, &me(), made.key.id, Duration::ZERO).await.unwrap();
    assert_eq!(kind(upload.commit().await), ErrorKind::Unauthenticated);
    let caller = by_key(larder, &made.secret).await.unwrap();
    let upload = begin(&caller).await;
    larder.delete_key(root, &me(), made.key.id).await.unwrap();
    assert_eq!(kind(upload.commit().await), ErrorKind::Unauthenticated);
    assert_eq!(kind(by_key(larder, &made.secret).await), ErrorKind::Unauthenticated);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let (fixture, clock) = still(3).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let expires = Some(fixture.env.now().after(Duration::from_secs(60)));
    let new = NewKey { expires, ..NewKey::default() };
    let made = larder.create_key(root, &me(), new).await.unwrap();
    by_key(larder, &made.secret).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(kind(by_key(larder, &made.secret).await), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_key_of_the_first_version_works_and_can_be_rotated_and_deleted() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let (id, text) = fixture.old_key().await;
    let caller = by_key(larder, &text).await.unwrap();
    assert!(caller.admin);
    let listed = larder.keys(root, &me()).await.unwrap();
    let [listed] = &listed[..] else { panic!("one key") };
    assert_eq!((listed.id, &*listed.name, listed.kind), (id, "old", CredentialKind::Api));
    assert_eq!((listed.scope.access, &listed.scope.spaces), (Access::Full, &None));
    let overlap = Duration::from_secs(60);
    let rotated = larder.rotate_key(root, &me(), id, overlap).await.unwrap();
    by_key(larder, &text).await.unwrap();
    by_key(larder, &rotated.secret).await.unwrap();
    let rotated = larder.rotate_key(root, &me(), id, Duration::ZERO).await.unwrap();
    assert!(by_key(larder, &text).await.is_err());
    by_key(larder, &rotated.secret).await.unwrap();
    larder.delete_key(root, &me(), id).await.unwrap();
    assert!(by_key(larder, &rotated.secret).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_has_at_most_a_hundred_keys_and_all_are_listed() {
    let fixture = racy(7).await;
    let root = fixture.root.clone();
    for _ in 0..95 {
        fixture.larder.create_key(&root, &me(), NewKey::default()).await.unwrap();
    }
    let answers = race(&fixture, 12, |_, fixture| async move {
        fixture.larder.create_key(&fixture.root, &me(), NewKey::default()).await
    })
    .await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    for error in answers.into_iter().filter_map(Result::err) {
        assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Busy), "{error}");
    }
    assert!(made <= 5, "{made}");
    let listed = fixture.larder.keys(&root, &me()).await.unwrap();
    assert_eq!(listed.len(), 95 + made);
}

#[tokio::test]
async fn the_last_use_of_a_key_is_noted_once_in_an_hour() {
    let (fixture, clock) = still(4).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let made = larder.create_key(root, &me(), NewKey::default()).await.unwrap();
    let used = async || larder.keys(root, &me()).await.unwrap()[0].last_used;
    assert_eq!(used().await, None);
    let noted = async |until: Option<Timestamp>| {
        for _ in 0..10_000 {
            if used().await == until {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the use is not noted");
    };
    by_key(larder, &made.secret).await.unwrap();
    let first = fixture.env.now();
    noted(Some(first)).await;
    let commits = async || fixture.meta.snapshot().await.unwrap().revision().0;
    let before = commits().await;
    for _ in 0..100 {
        clock.advance(Duration::from_secs(30));
        by_key(larder, &made.secret).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(commits().await, before, "no commit for each request");
    clock.advance(Duration::from_secs(3600));
    by_key(larder, &made.secret).await.unwrap();
    noted(Some(fixture.env.now())).await;
}

#[tokio::test]
async fn sealed_secrets_survive_a_restart_and_another_master_key_is_refused() {
    let meta: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    let env = Env::system();
    let chunks = MemoryChunks::new(ServerId::new(&env), BufferPool::new(16 << 20));
    let fixture = Fixture::with(Arc::clone(&meta), chunks.clone(), env.clone()).await;
    let new = of(CredentialKind::S3);
    let made = fixture.larder.create_key(&fixture.root, &me(), new).await.unwrap();
    let access_key = made.key.access_key_id.clone().unwrap();
    let fixture = Fixture::with(Arc::clone(&meta), chunks.clone(), env.clone()).await;
    assert_eq!(fixture.larder.s3_secret(&access_key).await.unwrap().secrets, [made.secret]);

    let first = || larder_core::FirstUser { name: "root".to_owned(), password: None };
    let open = async |replace: bool| {
        let config = larder_core::Config {
            master_key: Some(larder_core::MasterKey::new(&env)),
            master_key_replace: replace,
            ..larder_core::Config::default()
        };
        let stores = larder_core::Stores::new(vec![Arc::new(chunks.clone())]).unwrap();
        Larder::open(config, Arc::clone(&meta), stores, first(), env.clone()).await
    };
    assert_eq!(kind(open(false).await), ErrorKind::Denied);
    // The process that was refused has not pushed out the one that runs.
    fixture.put("still", "here").await.unwrap();
    let (replaced, _) = open(true).await.unwrap();
    assert_eq!(kind(replaced.s3_secret(&access_key).await), ErrorKind::Corrupt);
    by_password(&replaced, "root", PASSWORD, HERE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_guesses_are_hardly_looked_at_and_lock_nobody_else_out() {
    let (fixture, clock) = still(5).await;
    let larder = &fixture.larder;
    for name in ["alice", "bob", "carol"] {
        fixture.user(name).await;
    }
    by_password(larder, "carol", PASSWORD, HERE).await.unwrap();
    let checked = || {
        larder
            .metrics()
            .lines()
            .find_map(|line| {
                line.strip_prefix("larder_core_logins_failed_total ")?.parse::<u64>().ok()
            })
            .unwrap()
    };
    let answers = race(&fixture, 1000, |i, fixture| async move {
        by_password(&fixture.larder, "alice", &format!("guess {i}"), HERE).await
    })
    .await;
    let limited = answers.iter().filter_map(|answer| answer.as_ref().err());
    let limited: Vec<_> = limited.filter(|error| error.kind() == ErrorKind::RateLimited).collect();
    assert!(limited.iter().all(|error| error.retry_after().is_some_and(|wait| !wait.is_zero())));
    assert!(checked() <= 6, "{} were checked", checked());
    assert_eq!(limited.len() as u64 + checked(), 1000);
    // The right one is not looked at from there, or 994 of these would have told which it is.
    assert_eq!(kind(by_password(larder, "alice", PASSWORD, HERE).await), ErrorKind::RateLimited);
    // From elsewhere it is; so is that of another user, and one that is remembered.
    by_password(larder, "alice", PASSWORD, there()).await.unwrap();
    by_password(larder, "alice", PASSWORD, HERE).await.unwrap();
    by_password(larder, "bob", PASSWORD, HERE).await.unwrap();
    by_password(larder, "carol", PASSWORD, HERE).await.unwrap();

    // Guesses at many accounts, which do not exist, make the address pause.
    for i in 0..100 {
        let error = by_password(larder, &format!("nobody-{i}"), "guess", HERE).await;
        assert!(error.is_err());
    }
    fixture.user("dave").await;
    assert_eq!(kind(by_password(larder, "dave", PASSWORD, HERE).await), ErrorKind::RateLimited);
    by_password(larder, "dave", PASSWORD, there()).await.unwrap();
    for name in ["alice", "bob", "carol"] {
        by_password(larder, name, PASSWORD, HERE).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    fixture.user("erin").await;
    by_password(larder, "erin", PASSWORD, HERE).await.unwrap();
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_are_told_the_same() {
    let (fixture, _) = still(6).await;
    fixture.user("alice").await;
    for _ in 0..10 {
        let wrong = by_password(&fixture.larder, "alice", "wrong", HERE).await.unwrap_err();
        let unknown = by_password(&fixture.larder, "nobody", "wrong", HERE).await.unwrap_err();
        assert_eq!(wrong.kind(), unknown.kind());
        assert_eq!(wrong.detail(), unknown.detail());
        assert_eq!(wrong.retry_after(), unknown.retry_after());
    }
}

#[tokio::test]
async fn a_login_reads_as_much_among_a_hundred_thousand_users_as_among_ten() {
    let env = Env::system();
    let meta = ObservedStore::new(Arc::new(MemoryStore::new()), env.clone(), Duration::MAX);
    let meta = Arc::new(meta.with_reads_every(NonZeroU32::MIN));
    let fixture = Fixture::over(meta.clone(), env).await;
    fixture.crowd(10).await;
    fixture.settle().await;
    let key = fixture.larder.create_key(&fixture.root, &me(), NewKey::default()).await.unwrap();
    by_key(&fixture.larder, &key.secret).await.unwrap();
    // The first use is noted in the background.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let reads = async |name: &str| {
        let before = meta.snapshot_metrics();
        by_password(&fixture.larder, name, PASSWORD, HERE).await.unwrap();
        by_password(&fixture.larder, name, PASSWORD, HERE).await.unwrap();
        by_key(&fixture.larder, &key.secret).await.unwrap();
        let after = meta.snapshot_metrics();
        (after.get.count() - before.get.count(), after.scan.count() - before.scan.count())
    };
    let few = reads("crowd-3").await;
    fixture.crowd(100_000).await;
    let many = reads("crowd-77777").await;
    assert_eq!(few, many, "(gets, scans)");
    assert_eq!(few.1, 0, "nothing is scanned");
}

#[tokio::test]
async fn groups_are_seen_by_their_members_and_nobody_else() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let (alice, bob) = (fixture.user("alice").await, fixture.user("bob").await);
    let staff = larder.create_group(root, "staff").await.unwrap();
    let other = larder.create_group(root, "other").await.unwrap();
    let group = GroupRef::parse("staff");
    assert!(larder.add_member(root, &group, &named("alice")).await.unwrap());
    assert!(!larder.add_member(root, &group, &named("alice")).await.unwrap(), "once is enough");
    let all = ListOptions::default();
    let ids = async |caller: &Caller| {
        let page = larder.groups(caller, &all).await.unwrap();
        page.entries.into_iter().map(|group| group.id).collect::<Vec<_>>()
    };
    let mut both = [staff.id, other.id];
    both.sort_unstable();
    assert_eq!(ids(root).await, both);
    assert_eq!(ids(&alice).await, [staff.id]);
    assert!(ids(&bob).await.is_empty());
    let members = larder.group_members(&alice, &group, &all).await.unwrap().entries;
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].user, &*members[0].name), (alice.user, "alice"));
    let missing = ErrorKind::NotFound;
    assert_eq!(kind(larder.group(&bob, &group).await), missing);
    assert_eq!(kind(larder.group(&bob, &GroupRef::Id(staff.id)).await), missing);
    assert_eq!(kind(larder.group_members(&bob, &group, &all).await), missing);
    for answer in [
        larder.create_group(&alice, "mine").await.err(),
        larder.rename_group(&alice, &group, "mine").await.err(),
        larder.delete_group(&alice, &group).await.err(),
        larder.add_member(&alice, &group, &me()).await.err(),
        larder.remove_member(&alice, &group, &me()).await.err(),
    ] {
        assert_eq!(answer.unwrap().kind(), ErrorKind::Denied);
    }
    let taken = larder.create_group(root, "staff").await.unwrap_err();
    assert_eq!(taken.existing(), Some(&*staff.id.to_string()));
    assert_eq!(kind(larder.rename_group(root, &group, "other").await), ErrorKind::AlreadyExists);
    let renamed = larder.rename_group(root, &group, "crew").await.unwrap();
    assert_eq!((renamed.id, &*renamed.name), (staff.id, "crew"));
    assert_eq!(kind(larder.group(root, &group).await), missing);
    let group = GroupRef::parse("crew");
    larder.remove_member(root, &group, &named("alice")).await.unwrap();
    assert_eq!(kind(larder.remove_member(root, &group, &named("alice")).await), missing);
    assert_eq!(kind(larder.group(&alice, &group).await), missing);
    for bad in ["", "A", "a b", "-a", "me", &"x".repeat(65), &staff.id.to_string()] {
        assert_eq!(kind(larder.create_group(root, bad).await), ErrorKind::Invalid, "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_of_many_is_removed_by_one_commit_and_leaves_nothing() {
    let fixture = racy(8).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    fixture.crowd(100).await;
    let id = larder.create_group(root, "crowd").await.unwrap().id;
    for i in 0..100 {
        larder.add_member(root, &GroupRef::Id(id), &named(&format!("crowd-{i}"))).await.unwrap();
    }
    // Some come while it goes: they are members of a group, or are told that there is none.
    fixture.user("late").await;
    race(&fixture, 8, move |i, fixture| async move {
        let group = GroupRef::Id(id);
        if i == 3 {
            fixture.larder.delete_group(&fixture.root, &group).await.unwrap();
        } else {
            let added = fixture.larder.add_member(&fixture.root, &group, &named("late")).await;
            let error = added.err().map(|error| error.kind());
            assert!(matches!(error, None | Some(ErrorKind::NotFound)), "{error:?}");
        }
    })
    .await;
    assert_eq!(kind(larder.group(root, &GroupRef::Id(id)).await), ErrorKind::NotFound);
    let late = by_password(larder, "late", PASSWORD, HERE).await.unwrap();
    let all = ListOptions::default();
    assert!(larder.groups(&late, &all).await.unwrap().entries.is_empty());
    larder.create_group(root, "crowd").await.unwrap();
    fixture.assert_clean().await;
    let left = fixture.families_with(id.as_bytes()).await;
    assert!(left.is_empty(), "records of the group: {left:?}");
}

#[tokio::test]
async fn a_user_belongs_to_a_bounded_number_of_groups() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    for i in 0..257 {
        let id = larder.create_group(root, &format!("group-{i}")).await.unwrap().id;
        let added = larder.add_member(root, &GroupRef::Id(id), &me()).await;
        assert_eq!(added.is_ok(), i < 256, "{i}");
    }
    let all = ListOptions { limit: 1000, ..ListOptions::default() };
    assert_eq!(larder.groups(root, &all).await.unwrap().entries.len(), 257);
}

#[tokio::test]
async fn the_check_finds_records_of_identity_that_disagree() {
    let fixture = Fixture::new().await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let alice = fixture.user("alice").await;
    let group = larder.create_group(root, "staff").await.unwrap();
    larder.add_member(root, &GroupRef::Id(group.id), &named("alice")).await.unwrap();
    let made = larder.create_key(&alice, &me(), of(CredentialKind::S3)).await.unwrap();
    fixture.assert_sound().await;
    let access_key = made.key.access_key_id.unwrap();
    let (user, group, id) = (alice.user.as_bytes(), group.id.as_bytes(), made.key.id.as_bytes());
    let breaks: [(&[&[u8]], &str); 9] = [
        (&[b"un", b"alice"], "I1"),
        (&[b"us", user], "I3"),
        (&[b"gn", b"staff"], "I1"),
        (&[b"gr", group], "I3"),
        (&[b"gm", group, user], "I2"),
        (&[b"ug", user, group], "I2"),
        (&[b"uk", user, id], "I2"),
        (&[b"ks", id], "I2"),
        (&[b"kn", access_key.as_bytes()], "I2"),
    ];
    for (parts, rule) in breaks {
        let key = bytes::Bytes::from(parts.concat());
        let record = fixture.meta.snapshot().await.unwrap().get(&key).await.unwrap().unwrap();
        let mut spec = larder_meta::TxnSpec::default();
        spec.delete.push(key.clone());
        fixture.meta.commit(spec).await.unwrap();
        let report = larder.check(root).await.unwrap();
        let found = report.findings.iter().any(|finding| finding.invariant == rule);
        assert!(found, "{rule} without {}: {report:?}", key.escape_ascii());
        let mut spec = larder_meta::TxnSpec::default();
        spec.put.push((key, record.value));
        fixture.meta.commit(spec).await.unwrap();
        fixture.assert_sound().await;
    }
}
