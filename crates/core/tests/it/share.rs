//! Grants, groups, references and public links: who may do what, and until when.
//!
//! Not here: the same over REST (black-box tests).

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use larder_base::{ErrorKind, id::ShareId};
use larder_core::{
    Caller, Conditions, EntryKind, LinkTerms, ListOptions, NewShare, Result, Role, ShareChange,
    ShareFilter, ShareWith, SharedWith, SpaceLimits, SpaceRef, Target, UploadOptions,
    testing::{
        Fixture,
        fixture::{path, read_all},
    },
};

use super::{race, racy};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn put(fixture: &Fixture, by: &Caller, space: &SpaceRef, at: &str, body: &str) -> Result<()> {
    let options = UploadOptions { length: Some(body.len() as u64), ..Default::default() };
    let mut upload = fixture.larder.open_upload(by, space, &path(at), options).await?;
    upload.write(Bytes::copy_from_slice(body.as_bytes())).await?;
    upload.commit().await.map(drop)
}

async fn get(fixture: &Fixture, by: &Caller, space: &SpaceRef, at: &str) -> Result<Vec<u8>> {
    let target = Target::Path(space.clone(), path(at));
    let download = fixture.larder.download(by, &target, None).await?;
    Ok(read_all(&download).await?.to_vec())
}

async fn grant(
    fixture: &Fixture,
    space: &SpaceRef,
    at: &str,
    with: ShareWith,
    role: Role,
) -> ShareId {
    let target = Target::Path(space.clone(), path(at));
    let new = NewShare { target, with, role, expires: None };
    fixture.larder.create_share(&fixture.root, new).await.expect("share").id
}

/// Everything that can be done with files, each with the right that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Stat,
    List,
    Get,
    GetOld,
    Revisions,
    CopyOut,
    Mkdir,
    PutNew,
    PutOver,
    Move,
    Rename,
    Delete,
    RestoreRevision,
    DeleteRevision,
    Share,
}

impl Verb {
    const ALL: [Self; 15] = [
        Self::Stat,
        Self::List,
        Self::Get,
        Self::GetOld,
        Self::Revisions,
        Self::CopyOut,
        Self::Mkdir,
        Self::PutNew,
        Self::PutOver,
        Self::Move,
        Self::Rename,
        Self::Delete,
        Self::RestoreRevision,
        Self::DeleteRevision,
        Self::Share,
    ];

    /// The least role that may do it.
    fn takes(self) -> Role {
        if self <= Self::CopyOut {
            Role::Viewer
        } else if self < Self::Share {
            Role::Editor
        } else {
            Role::Manager
        }
    }

    /// Does it as `by` in the directory `dir` of the space.
    async fn run(self, fixture: &Fixture, by: &Caller, space: &SpaceRef, dir: &str) -> Result<()> {
        let larder = &fixture.larder;
        let at =
            |name: &str| path(&if dir.is_empty() { name.into() } else { format!("{dir}/{name}") });
        let target = |name: &str| Target::Path(space.clone(), at(name));
        let all = ListOptions::default();
        match self {
            Self::Stat => larder.stat(by, &target("f")).await.map(drop),
            Self::List => larder.list(by, space, &at("sub"), &all).await.map(drop),
            Self::Get => larder.download(by, &target("f"), None).await.map(drop),
            Self::GetOld => larder.download(by, &target("f"), Some(1)).await.map(drop),
            Self::Revisions => larder.revisions(by, space, &at("f"), &all).await.map(drop),
            Self::CopyOut => {
                let to = (&SpaceRef::Home, &path("copied"));
                larder.copy_entry(by, (space, &at("f")), to, true).await.map(drop)
            }
            Self::Mkdir => larder.create_dir(by, space, &at("new"), false).await.map(drop),
            Self::PutNew => {
                let mut upload =
                    larder.open_upload(by, space, &at("fresh"), UploadOptions::default()).await?;
                upload.write(Bytes::from_static(b"fresh")).await?;
                upload.commit().await.map(drop)
            }
            Self::PutOver => {
                let mut upload =
                    larder.open_upload(by, space, &at("f"), UploadOptions::default()).await?;
                upload.write(Bytes::from_static(b"over")).await?;
                upload.commit().await.map(drop)
            }
            Self::Move => larder.move_entry(by, space, &at("f"), &at("g"), false).await.map(drop),
            Self::Rename => {
                larder.move_entry(by, space, &at("f"), &at("sub/f"), false).await.map(drop)
            }
            Self::Delete => larder.delete(by, &target("f"), &Conditions::default()).await.map(drop),
            Self::RestoreRevision => {
                larder.restore_revision(by, space, &at("f"), 1).await.map(drop)
            }
            Self::DeleteRevision => larder.delete_revision(by, space, &at("f"), 1).await,
            Self::Share => {
                let with = ShareWith::Link(LinkTerms::default());
                let new = NewShare { target: target("f"), with, role: Role::Viewer, expires: None };
                larder.create_share(by, new).await.map(drop)
            }
        }
    }
}

/// A directory with a file of two revisions, and a directory in it.
async fn plant(fixture: &Fixture, space: &SpaceRef, dir: &str) {
    let root = &fixture.root;
    fixture.larder.create_dir(root, space, &path(&format!("{dir}/sub")), true).await.unwrap();
    put(fixture, root, space, &format!("{dir}/f"), "one").await.unwrap();
    put(fixture, root, space, &format!("{dir}/f"), "two").await.unwrap();
}

#[tokio::test]
async fn every_verb_is_allowed_to_the_roles_that_it_takes_and_to_no_other() {
    let fixture = Fixture::new().await;
    let space = fixture.space("matrix", SpaceLimits::default()).await;
    let ways = ["user", "group"];
    for (i, role) in
        [None, Some(Role::Viewer), Some(Role::Editor), Some(Role::Manager)].into_iter().enumerate()
    {
        for way in ways {
            let name = format!("{way}{i}");
            let by = fixture.user(&name).await;
            for verb in Verb::ALL {
                let dir = format!("{name}-{verb:?}");
                plant(&fixture, &space, &format!("{dir}/in")).await;
                plant(&fixture, &space, &format!("{dir}/out")).await;
                if let Some(role) = role {
                    let with = match way {
                        "group" => {
                            let group = format!("{}-{}", name, verb as u8);
                            let made = fixture.larder.create_group(&fixture.root, &group).await;
                            let group = larder_core::GroupRef::Id(made.unwrap().id);
                            let user = larder_core::UserRef::Id(by.user);
                            let root = &fixture.root;
                            fixture.larder.add_member(root, &group, &user).await.unwrap();
                            ShareWith::Group(format!("{}-{}", name, verb as u8))
                        }
                        _ => ShareWith::User(name.clone()),
                    };
                    let at = format!("{dir}/in");
                    grant(&fixture, &space, &at, with, role).await;
                }
                let inside = verb.run(&fixture, &by, &space, &format!("{dir}/in")).await;
                let inside = inside.map_err(|error| error.kind());
                let expected = match role {
                    None => Err(ErrorKind::NotFound),
                    Some(role) if role >= verb.takes() => Ok(()),
                    Some(_) => Err(ErrorKind::Denied),
                };
                assert_eq!(inside, expected, "{verb:?} as {role:?} by {way}");
                let outside = verb.run(&fixture, &by, &space, &format!("{dir}/out")).await;
                let outside = outside.map_err(|error| error.kind());
                assert_eq!(outside, Err(ErrorKind::NotFound), "{verb:?} beside it as {role:?}");
            }
        }
    }
    fixture.assert_clean().await;
}

#[tokio::test]
async fn what_cannot_be_seen_answers_like_what_is_not_there() {
    let fixture = Fixture::new().await;
    let space = fixture.space("attic", SpaceLimits::default()).await;
    plant(&fixture, &space, "secret").await;
    plant(&fixture, &space, "open").await;
    let by = fixture.user("ann").await;
    grant(&fixture, &space, "open", ShareWith::User("ann".into()), Role::Manager).await;
    for name in ["secret", "nothing"] {
        for at in [format!("{name}/f"), format!("{name}/x/y"), format!("{name}/f/g")] {
            let target = Target::Path(space.clone(), path(&at));
            let stat = fixture.larder.stat(&by, &target).await.unwrap_err();
            let upload = put(&fixture, &by, &space, &at, "x").await.unwrap_err();
            let mkdir = fixture.larder.create_dir(&by, &space, &path(&at), false).await;
            for error in [stat, upload, mkdir.unwrap_err()] {
                assert_eq!(
                    (error.kind(), error.detail()),
                    (ErrorKind::NotFound, "no such file or directory"),
                    "{at}"
                );
            }
        }
    }
}

#[tokio::test]
async fn i_share_4_a_grant_goes_with_its_node_and_an_inherited_one_stays_behind() {
    let fixture = Fixture::new().await;
    let space = fixture.space("moves", SpaceLimits::default()).await;
    let (root, larder) = (&fixture.root, &fixture.larder);
    plant(&fixture, &space, "shared").await;
    plant(&fixture, &space, "own").await;
    let by = fixture.user("ann").await;
    grant(&fixture, &space, "shared", ShareWith::User("ann".into()), Role::Viewer).await;
    grant(&fixture, &space, "own/f", ShareWith::User("ann".into()), Role::Editor).await;
    assert_eq!(get(&fixture, &by, &space, "shared/f").await.unwrap(), b"two");
    // Out of the shared directory: the inherited right is gone with the move.
    larder.move_entry(root, &space, &path("shared/f"), &path("away"), false).await.unwrap();
    let gone = get(&fixture, &by, &space, "away").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    // A directly granted one keeps it, and may be changed in place but not taken away.
    larder.move_entry(root, &space, &path("own/f"), &path("own/sub/g"), false).await.unwrap();
    put(&fixture, &by, &space, "own/sub/g", "mine").await.unwrap();
    assert_eq!(get(&fixture, &by, &space, "own/sub/g").await.unwrap(), b"mine");
    let target = Target::Path(space.clone(), path("own/sub/g"));
    let delete = larder.delete(&by, &target, &Conditions::default()).await.unwrap_err();
    assert_eq!(delete.kind(), ErrorKind::NotFound);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_share_1_nothing_is_acknowledged_after_a_revocation_was() {
    let fixture = racy(11).await;
    let space = fixture.space("revoke", SpaceLimits::default()).await;
    plant(&fixture, &space, "d").await;
    let by = fixture.user("ann").await;
    for round in 0..30 {
        let share = grant(&fixture, &space, "d", ShareWith::User("ann".into()), Role::Editor).await;
        let (by, space) = (by.clone(), space.clone());
        let revoked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let answers = race(&fixture, 8, |i, fixture| {
            let (by, space, revoked) = (by.clone(), space.clone(), revoked.clone());
            async move {
                if i == 0 {
                    fixture.larder.delete_share(&fixture.root, share).await.unwrap();
                    revoked.store(true, std::sync::atomic::Ordering::SeqCst);
                    return true;
                }
                let mut done = 0;
                loop {
                    let late = revoked.load(std::sync::atomic::Ordering::SeqCst);
                    let at = format!("d/{round}-{i}-{done}");
                    match put(&fixture, &by, &space, &at, "x").await {
                        Ok(()) => assert!(!late, "acknowledged after the revocation"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
                            return true;
                        }
                    }
                    done += 1;
                }
            }
        })
        .await;
        assert_eq!(answers.len(), 8);
    }
    fixture.assert_sound().await;
}

#[tokio::test]
async fn a_reference_leads_to_its_target_with_the_rights_that_there_are_there() {
    let fixture = Fixture::new().await;
    let (root, larder) = (&fixture.root, &fixture.larder);
    let space = fixture.space("target", SpaceLimits::default()).await;
    plant(&fixture, &space, "team/docs").await;
    let by = fixture.user("ann").await;
    let share =
        grant(&fixture, &space, "team/docs", ShareWith::User("ann".into()), Role::Editor).await;
    let shared = larder.shares(&by, &ShareFilter::WithMe, &ListOptions::default()).await.unwrap();
    let node = shared.entries.first().expect("one share").node;
    let home = SpaceRef::Home;
    let made =
        larder.create_reference(&by, &home, &path("docs"), &Target::Node(node)).await.unwrap();
    assert_eq!(made.kind, EntryKind::Ref);
    assert_eq!(made.target.unwrap().kind, Some(EntryKind::Dir));
    // Twice: one reference.
    let again = larder.create_reference(&by, &home, &path("docs"), &Target::Node(node)).await;
    assert_eq!(again.unwrap_err().existing(), Some(&*made.id.to_string()));
    // Through it.
    assert_eq!(get(&fixture, &by, &home, "docs/f").await.unwrap(), b"two");
    put(&fixture, &by, &home, "docs/sub/new", "through").await.unwrap();
    assert_eq!(get(&fixture, root, &space, "team/docs/sub/new").await.unwrap(), b"through");
    let all = ListOptions::default();
    let listed = larder.list(&by, &home, &path("docs"), &all).await.unwrap();
    let paths: Vec<String> = listed.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["docs/f", "docs/sub"]);
    let listed = larder.list(&by, &home, &path(""), &ListOptions { recursive: true, ..all }).await;
    assert_eq!(listed.unwrap().entries.len(), 1, "a recursive listing stops at a reference");
    larder.move_entry(&by, &home, &path("docs/f"), &path("docs/sub/f"), false).await.unwrap();
    let out = larder.move_entry(&by, &home, &path("docs/sub/f"), &path("f"), false).await;
    assert_eq!(out.unwrap_err().kind(), ErrorKind::CrossSpace);
    larder.copy_entry(&by, (&home, &path("docs/sub/f")), (&home, &path("f")), false).await.unwrap();
    assert_eq!(get(&fixture, &by, &home, "f").await.unwrap(), b"two");
    // Less right at the target: less through the reference.
    let change = ShareChange { role: Some(Role::Viewer), ..Default::default() };
    larder.change_share(root, share, change).await.unwrap();
    let refused = put(&fixture, &by, &home, "docs/no", "x").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    // None: the reference is shown as dangling, and can be removed; the target stays.
    larder.delete_share(root, share).await.unwrap();
    let refused = get(&fixture, &by, &home, "docs/sub/f").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let target = Target::Path(home.clone(), path("docs"));
    assert_eq!(larder.stat(&by, &target).await.unwrap().target.unwrap().kind, None);
    larder.delete(&by, &target, &Conditions::default()).await.unwrap();
    assert_eq!(larder.stat(&by, &target).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(get(&fixture, root, &space, "team/docs/sub/f").await.unwrap(), b"two");
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_path_passes_through_one_reference_and_no_more() {
    let fixture = Fixture::new().await;
    let (root, larder, home) = (&fixture.root, &fixture.larder, SpaceRef::Home);
    larder.create_dir(root, &home, &path("a"), false).await.unwrap();
    let target = |at: &str| Target::Path(SpaceRef::Home, path(at));
    // A loop: a/up stands for the root that holds a.
    larder.create_reference(root, &home, &path("a/up"), &target("")).await.unwrap();
    let once = larder.stat(root, &target("a/up/a")).await.unwrap();
    assert_eq!((once.kind, &*once.path.to_string()), (EntryKind::Dir, "a/up/a"));
    let shown = larder.stat(root, &target("a/up/a/up")).await.unwrap();
    assert_eq!(shown.kind, EntryKind::Ref, "shown, not followed");
    let twice = larder.stat(root, &target("a/up/a/up/a")).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::WrongType);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn i_link_2_a_link_opens_its_node_and_nothing_beside_it() {
    let fixture = Fixture::new().await;
    let (root, larder) = (&fixture.root, &fixture.larder);
    let space = fixture.space("links", SpaceLimits::default()).await;
    plant(&fixture, &space, "open/d").await;
    plant(&fixture, &space, "closed").await;
    let with = ShareWith::Link(LinkTerms { name: "x".into(), ..Default::default() });
    let id = grant(&fixture, &space, "open/d", with, Role::Viewer).await;
    let info = larder.share(root, id).await.unwrap();
    let SharedWith::Link(link) = info.with else { panic!("a link") };
    let by = larder.open_link(&link.token, None, HERE).await.unwrap();
    let inside = SpaceRef::Link;
    assert_eq!(get(&fixture, &by, &inside, "f").await.unwrap(), b"two");
    let listed = larder.list(&by, &inside, &path(""), &ListOptions::default()).await.unwrap();
    let paths: Vec<String> = listed.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["f", "sub"]);
    assert_eq!(put(&fixture, &by, &inside, "g", "x").await.unwrap_err().kind(), ErrorKind::Denied);
    let closed = larder.stat(root, &Target::Path(space.clone(), path("closed/f"))).await.unwrap();
    let stolen = larder.download(&by, &Target::Node(closed.id), None).await.unwrap_err();
    assert_eq!(stolen.kind(), ErrorKind::NotFound);
    assert_eq!(
        larder.trash(&by, &space, &ListOptions::default()).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    assert!(larder.spaces(&by, &ListOptions::default()).await.unwrap().entries.is_empty());
    assert!(larder.shares(&by, &ShareFilter::ByMe, &ListOptions::default()).await.is_err());
    // Revoked: what was let in before does nothing any more.
    larder.delete_share(root, id).await.unwrap();
    assert_eq!(
        larder.open_link(&link.token, None, HERE).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    fixture.assert_clean().await;
}

#[tokio::test]
async fn an_upload_link_adds_and_shows_nothing() {
    let fixture = Fixture::new().await;
    let (root, larder) = (&fixture.root, &fixture.larder);
    let space = fixture.space("inbox", SpaceLimits::default()).await;
    plant(&fixture, &space, "in").await;
    let id =
        grant(&fixture, &space, "in", ShareWith::Link(LinkTerms::default()), Role::Uploader).await;
    let SharedWith::Link(link) = larder.share(root, id).await.unwrap().with else { panic!() };
    let by = larder.open_link(&link.token, None, HERE).await.unwrap();
    let inside = SpaceRef::Link;
    // The name is taken: the upload takes another one, and the file there is untouched.
    put(&fixture, &by, &inside, "f", "sent").await.unwrap();
    assert_eq!(get(&fixture, root, &space, "in/f").await.unwrap(), b"two");
    assert_eq!(get(&fixture, root, &space, "in/f (2)").await.unwrap(), b"sent");
    assert_eq!(get(&fixture, &by, &inside, "f").await.unwrap_err().kind(), ErrorKind::NotFound);
    let list = larder.list(&by, &inside, &path(""), &ListOptions::default()).await;
    assert_eq!(list.unwrap_err().kind(), ErrorKind::NotFound);
    fixture.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_link_3_of_a_limited_number_of_downloads_no_more_are_begun() {
    let fixture = racy(5).await;
    let (root, larder) = (&fixture.root, &fixture.larder);
    let space = fixture.space("few", SpaceLimits::default()).await;
    put(&fixture, root, &space, "f", "x").await.unwrap();
    let terms = LinkTerms {
        downloads_max: Some(5),
        password: Some("correct horse".into()),
        ..Default::default()
    };
    let id = grant(&fixture, &space, "f", ShareWith::Link(terms), Role::Viewer).await;
    let SharedWith::Link(link) = larder.share(root, id).await.unwrap().with else { panic!() };
    for password in [None, Some("wrong horse")] {
        let refused = larder.open_link(&link.token, password, HERE).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    }
    let by = larder.open_link(&link.token, Some("correct horse"), HERE).await.unwrap();
    let counted = race(&fixture, 20, |_, fixture| {
        let by = by.clone();
        async move { fixture.larder.count_download(&by).await.map_err(|error| error.kind()) }
    })
    .await;
    let begun = counted.iter().filter(|counted| counted.is_ok()).count();
    assert_eq!(begun, 5);
    assert!(counted.iter().all(|counted| matches!(counted, Ok(()) | Err(ErrorKind::Gone))));
    // The link is to the file itself.
    assert_eq!(get(&fixture, &by, &SpaceRef::Link, "").await.unwrap(), b"x");
}

#[tokio::test]
async fn i_share_2_whoever_may_share_sees_and_revokes_every_share() {
    let fixture = Fixture::new().await;
    let larder = &fixture.larder;
    let space = fixture.space("seen", SpaceLimits::default()).await;
    plant(&fixture, &space, "d").await;
    let (ann, bob) = (fixture.user("ann").await, fixture.user("bob").await);
    grant(&fixture, &space, "d", ShareWith::User("ann".into()), Role::Manager).await;
    let target = Target::Path(space.clone(), path("d/f"));
    let link = NewShare {
        target: target.clone(),
        with: ShareWith::Link(LinkTerms::default()),
        role: Role::Viewer,
        expires: None,
    };
    let made = larder.create_share(&ann, link).await.unwrap();
    let all = ListOptions::default();
    let seen = larder.shares(&fixture.root, &ShareFilter::In(space.clone()), &all).await.unwrap();
    assert_eq!(seen.entries.len(), 2);
    let of = larder.shares(&fixture.root, &ShareFilter::Of(target), &all).await.unwrap();
    assert_eq!(of.entries.len(), 1);
    for result in [
        larder.share(&bob, made.id).await.map(drop),
        larder.change_share(&bob, made.id, ShareChange::default()).await.map(drop),
        larder.delete_share(&bob, made.id).await,
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
    // A link dies with the right of whoever made it.
    let SharedWith::Link(link) = made.with else { panic!() };
    larder.view_link(&link.token).await.unwrap();
    let grant = seen.entries.iter().find(|share| share.id != made.id).unwrap();
    larder.delete_share(&fixture.root, grant.id).await.unwrap();
    assert_eq!(larder.view_link(&link.token).await.unwrap_err().kind(), ErrorKind::NotFound);
    larder.delete_share(&fixture.root, made.id).await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_share_ends_at_its_time_and_with_its_node() {
    let (env, clock) = larder_base::Env::manual(4);
    let meta = std::sync::Arc::new(larder_meta::engine::memory::MemoryStore::new());
    let fixture = Fixture::over(meta, env.clone()).await;
    let larder = &fixture.larder;
    let space = fixture.space("ends", SpaceLimits::default()).await;
    plant(&fixture, &space, "d").await;
    let by = fixture.user("ann").await;
    let target = Target::Path(space.clone(), path("d"));
    let expires = Some(env.now().after(std::time::Duration::from_secs(60)));
    let with = ShareWith::User("ann".into());
    let new = NewShare { target: target.clone(), with, role: Role::Viewer, expires };
    larder.create_share(&fixture.root, new).await.unwrap();
    assert!(get(&fixture, &by, &space, "d/f").await.is_ok());
    clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(get(&fixture, &by, &space, "d/f").await.unwrap_err().kind(), ErrorKind::NotFound);
    larder.delete(&fixture.root, &target, &Conditions::default()).await.unwrap();
    larder.empty_trash(&fixture.root, &space).await.unwrap();
    fixture.settle().await;
    let left = larder.shares(&fixture.root, &ShareFilter::In(space), &ListOptions::default()).await;
    assert!(left.unwrap().entries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_share_3_of_many_grants_for_one_principal_on_one_node_there_is_one() {
    let fixture = racy(9).await;
    let space = fixture.space("one", SpaceLimits::default()).await;
    plant(&fixture, &space, "d").await;
    fixture.user("ann").await;
    let made = race(&fixture, 16, |_, fixture| {
        let space = space.clone();
        async move {
            let target = Target::Path(space, path("d"));
            let with = ShareWith::User("ann".into());
            let new = NewShare { target, with, role: Role::Viewer, expires: None };
            fixture.larder.create_share(&fixture.root, new).await.map(|share| share.id)
        }
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let winner = won.into_iter().next().unwrap().unwrap().to_string();
    for error in lost.into_iter().map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(&*winner)));
    }
    fixture.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i_share_4_what_is_shared_while_it_is_purged_goes_with_it() {
    for round in 0..60 {
        let fixture = racy(100 + round).await;
        let space = fixture.space("purged", SpaceLimits::default()).await;
        plant(&fixture, &space, "d").await;
        fixture.user("ann").await;
        let made = race(&fixture, 12, |number, fixture| {
            let space = space.clone();
            async move {
                let (root, larder) = (&fixture.root, &fixture.larder);
                let target = Target::Path(space.clone(), path(["d", "d/f"][number % 4 / 3]));
                if number == 0 {
                    larder.delete(root, &target, &Conditions::default()).await.unwrap();
                    larder.empty_trash(root, &space).await.unwrap();
                    larder.collect(root).await.unwrap();
                    return None;
                }
                let with = ShareWith::Link(LinkTerms::default());
                let new = NewShare { target, with, role: Role::Viewer, expires: None };
                larder.create_share(root, new).await.ok().map(|share| share.id)
            }
        })
        .await;
        fixture.larder.collect(&fixture.root).await.unwrap();
        for id in made.into_iter().flatten() {
            let error = fixture.larder.share(&fixture.root, id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "round {round}: a share of nothing");
        }
        fixture.assert_sound().await;
    }
}

#[tokio::test]
async fn i_link_1_a_link_is_found_by_its_whole_token_alone() {
    let fixture = Fixture::new().await;
    let larder = &fixture.larder;
    let space = fixture.space("token", SpaceLimits::default()).await;
    plant(&fixture, &space, "d").await;
    let with = ShareWith::Link(LinkTerms::default());
    let id = grant(&fixture, &space, "d", with, Role::Viewer).await;
    let SharedWith::Link(link) = larder.share(&fixture.root, id).await.unwrap().with else {
        panic!("a link")
    };
    assert!(link.token.len() >= 32, "192 bits in base64: {}", link.token);
    larder.view_link(&link.token).await.unwrap();
    let mut other = link.token.clone();
    other.replace_range(..1, if other.starts_with('A') { "B" } else { "A" });
    let tokens = ["", "x", &link.token[1..], &link.token[..31], &other, &id.to_string()];
    for token in tokens {
        let error = larder.view_link(token).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{token:?}");
    }
}
