//! Versions of objects: against a list, whatever is done to them; locks; races.
//!
//! Not here: revisions of trees (`revision`).

use bytes::Bytes;
use larder_base::ErrorKind;
use larder_core::{
    Bucket, Caller, Conditions, KeyEntry, KeyListing, LockRules, NewShare, ObjectChange, Removed,
    Result, Retention, RetentionMode, Role, ShareWith, SpaceRef, Target, UploadOptions, VersionId,
    VersionListing, Versioning,
    testing::{Fixture, fixture::path},
};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use super::{cases, race, runtime};

async fn bucket(fixture: &Fixture, versioning: Versioning) -> Bucket {
    fixture.larder.create_bucket(&fixture.root, "versions").await.unwrap();
    switch(fixture, versioning).await
}

async fn switch(fixture: &Fixture, versioning: Versioning) -> Bucket {
    let bucket = fixture.larder.bucket(&fixture.root, "versions").await.unwrap();
    if versioning != Versioning::Off {
        let versioning = Some(versioning);
        fixture.larder.change_bucket(&fixture.root, &bucket, versioning, None).await.unwrap();
    }
    fixture.larder.bucket(&fixture.root, "versions").await.unwrap()
}

async fn put(fixture: &Fixture, bucket: &Bucket, key: &str, body: &str) -> Result<()> {
    let options = UploadOptions { length: Some(body.len() as u64), ..UploadOptions::default() };
    let mut upload = fixture.larder.object_upload(&fixture.root, bucket, key, options).await?;
    upload.write(Bytes::copy_from_slice(body.as_bytes())).await?;
    upload.commit().await.map(drop)
}

async fn get(
    fixture: &Fixture,
    bucket: &Bucket,
    key: &str,
    version: Option<VersionId>,
) -> Result<(VersionId, String)> {
    let download = fixture.larder.object(&fixture.root, bucket, key, version).await?;
    let object = download.object();
    let mut body = download.read(0..object.size).await?;
    let mut text = Vec::new();
    while let Some(piece) = body.next().await? {
        text.extend_from_slice(&piece);
    }
    Ok((object.version, String::from_utf8(text).unwrap()))
}

async fn delete(
    fixture: &Fixture,
    bucket: &Bucket,
    key: &str,
    version: Option<VersionId>,
) -> Result<Removed> {
    let none = Conditions::default();
    fixture.larder.delete_object(&fixture.root, bucket, key, version, &none).await
}

/// Key, version, whether it is a marker, whether it is current; by pages of `limit`.
async fn listed(
    fixture: &Fixture,
    bucket: &Bucket,
    limit: usize,
) -> Vec<(String, VersionId, bool, bool)> {
    let mut all = Vec::new();
    let keys = KeyListing { limit, ..KeyListing::default() };
    let mut listing = VersionListing { keys, after_version: None };
    loop {
        let page = fixture.larder.list_versions(&fixture.root, bucket, &listing).await.unwrap();
        assert!(page.entries.len() <= limit);
        for entry in &page.entries {
            let KeyEntry::Object(object) = entry else { panic!("{entry:?}") };
            all.push((object.key.clone(), object.version, object.marker, object.latest));
            listing.keys.after = Some(object.key.clone());
            listing.after_version = Some(object.version);
        }
        if !page.truncated {
            return all;
        }
    }
}

/// A version as the model has it.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    id: VersionId,
    /// `None` is a delete marker.
    body: Option<String>,
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Delete(usize),
    /// The version at this place in the list of all of the key.
    Destroy(usize, usize),
    Switch(Versioning),
}

const KEYS: [&str; 3] = ["a", "a/b", "b"];

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        4 => key().prop_map(Step::Put),
        2 => key().prop_map(Step::Delete),
        3 => (key(), 0..6usize).prop_map(|(key, at)| Step::Destroy(key, at)),
        1 => select(vec![Versioning::Enabled, Versioning::Suspended]).prop_map(Step::Switch),
    ]
}

/// Proves I-VER-2 too.
#[test]
fn i_ver_1_versions_are_those_of_a_list_whatever_is_done() {
    let begin = select(vec![Versioning::Off, Versioning::Enabled]);
    let strategy = (begin, proptest::collection::vec(step(), 1..40), 1usize..4);
    let mut runner = TestRunner::new(cases(40));
    runner
        .run(&strategy, |(begin, steps, limit)| {
            runtime().block_on(async {
                let fixture = Fixture::new().await;
                let mut bucket = bucket(&fixture, begin).await;
                // Newest first.
                let mut model: Vec<Vec<Model>> = vec![Vec::new(); KEYS.len()];
                for (number, step) in steps.into_iter().enumerate() {
                    apply(&fixture, &mut bucket, &mut model, step, number).await;
                    compare(&fixture, &bucket, &model, limit).await;
                }
                fixture.assert_sound().await;
                for (key, versions) in KEYS.iter().zip(model) {
                    for version in versions {
                        delete(&fixture, &bucket, key, Some(version.id)).await.unwrap();
                    }
                }
                fixture.assert_clean().await;
                let space = SpaceRef::Id(bucket.id);
                let usage = fixture.larder.space(&fixture.root, &space).await.unwrap().usage;
                assert_eq!((usage.live, usage.retained), (0, 0));
                fixture.larder.delete_bucket(&fixture.root, &bucket).await.unwrap();
                fixture.assert_clean().await;
            });
            Ok(())
        })
        .unwrap();
}

async fn apply(
    fixture: &Fixture,
    bucket: &mut Bucket,
    model: &mut [Vec<Model>],
    step: Step,
    number: usize,
) {
    let named = bucket.versioning == Versioning::Enabled;
    let push = |versions: &mut Vec<Model>, version: Model| {
        if !named {
            versions.retain(|version| version.id != VersionId::Null);
        }
        versions.insert(0, version);
    };
    match step {
        Step::Put(key) => {
            let body = format!("body {number}");
            put(fixture, bucket, KEYS[key], &body).await.unwrap();
            let (id, read) = get(fixture, bucket, KEYS[key], None).await.unwrap();
            assert_eq!((id != VersionId::Null, &read), (named, &body));
            push(&mut model[key], Model { id, body: Some(body) });
        }
        Step::Delete(key) => {
            let removed = delete(fixture, bucket, KEYS[key], None).await.unwrap();
            let there = model[key].first().is_some_and(|version| version.body.is_some());
            assert_eq!(removed.existed, there);
            if bucket.versioning == Versioning::Off {
                model[key].clear();
                return;
            }
            assert!(removed.marker);
            let id = removed.version.unwrap();
            assert_eq!(id != VersionId::Null, named);
            push(&mut model[key], Model { id, body: None });
        }
        Step::Destroy(key, at) => {
            let Some(version) = model[key].get(at).cloned() else { return };
            let removed = delete(fixture, bucket, KEYS[key], Some(version.id)).await.unwrap();
            assert!(removed.existed);
            if bucket.versioning != Versioning::Off {
                assert_eq!(removed.marker, version.body.is_none());
            }
            model[key].remove(at);
            let again = delete(fixture, bucket, KEYS[key], Some(version.id)).await.unwrap();
            assert!(!again.existed, "{version:?} came back");
        }
        Step::Switch(versioning) => *bucket = switch(fixture, versioning).await,
    }
}

async fn compare(fixture: &Fixture, bucket: &Bucket, model: &[Vec<Model>], limit: usize) {
    let mut expected = Vec::new();
    let mut live = Vec::new();
    for (key, versions) in KEYS.iter().zip(model) {
        for (at, version) in versions.iter().enumerate() {
            let is_marker = version.body.is_none();
            expected.push(((*key).to_owned(), version.id, is_marker, at == 0));
            let read = get(fixture, bucket, key, Some(version.id)).await;
            match &version.body {
                Some(body) => assert_eq!(&read.unwrap().1, body),
                None => assert_eq!(read.unwrap_err().kind(), ErrorKind::WrongType),
            }
        }
        let current = get(fixture, bucket, key, None).await;
        match versions.first().map(|version| version.body.clone()) {
            Some(Some(body)) => {
                assert_eq!(current.unwrap().1, body);
                live.push((*key).to_owned());
            }
            Some(None) => {
                let error = current.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert_eq!(error.existing(), Some(versions[0].id.to_string().as_str()));
            }
            None => assert_eq!(current.unwrap_err().kind(), ErrorKind::NotFound),
        }
    }
    if bucket.versioning != Versioning::Off {
        assert_eq!(listed(fixture, bucket, limit).await, expected);
    }
    let keys = KeyListing { limit: 10, ..KeyListing::default() };
    let page = fixture.larder.list_objects(&fixture.root, bucket, &keys).await.unwrap();
    let names: Vec<_> = page.entries.iter().map(|entry| entry.name().to_owned()).collect();
    assert_eq!(names, live, "what is deleted is not listed");
}

#[test]
fn i_ver_3_what_is_locked_is_destroyed_by_nobody() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, Versioning::Enabled).await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let lock = LockRules { default: Some((RetentionMode::Governance, 1)) };
        larder.change_bucket(root, &bucket, None, Some(lock)).await.unwrap();
        let bucket = larder.bucket(root, "versions").await.unwrap();
        let off = larder.change_bucket(root, &bucket, Some(Versioning::Suspended), None).await;
        assert_eq!(off.unwrap_err().kind(), ErrorKind::Conflict);
        put(&fixture, &bucket, "k", "one").await.unwrap();
        let (id, _) = get(&fixture, &bucket, "k", None).await.unwrap();
        let denied = |error: larder_core::Error| assert_eq!(error.kind(), ErrorKind::Denied);
        denied(delete(&fixture, &bucket, "k", Some(id)).await.unwrap_err());
        // A marker above it destroys nothing, and goes.
        let marker = delete(&fixture, &bucket, "k", None).await.unwrap().version;
        denied(delete(&fixture, &bucket, "k", Some(id)).await.unwrap_err());
        delete(&fixture, &bucket, "k", marker).await.unwrap();
        // Nor does the administrator, through the space.
        denied(larder.delete_space(root, &SpaceRef::Id(bucket.id)).await.unwrap_err());
        let change = |change| async move {
            let bucket = larder.bucket(root, "versions").await.unwrap();
            larder.change_object(root, &bucket, "k", Some(id), &change).await
        };
        let none = ObjectChange { retention: Some(None), ..ObjectChange::default() };
        denied(change(none.clone()).await.unwrap_err());
        change(ObjectChange { hold: Some(true), ..ObjectChange::default() }).await.unwrap();
        change(ObjectChange { bypass: true, ..none.clone() }).await.unwrap();
        denied(delete(&fixture, &bucket, "k", Some(id)).await.unwrap_err());
        change(ObjectChange { hold: Some(false), ..ObjectChange::default() }).await.unwrap();
        // Compliance binds everybody.
        let until = fixture.env.now().after(std::time::Duration::from_secs(3600));
        let strict = Some(Some(Retention { mode: RetentionMode::Compliance, until }));
        change(ObjectChange { retention: strict, ..ObjectChange::default() }).await.unwrap();
        denied(change(ObjectChange { bypass: true, ..none }).await.unwrap_err());
        denied(delete(&fixture, &bucket, "k", Some(id)).await.unwrap_err());
        fixture.assert_sound().await;
    });
}

#[test]
fn governance_is_bypassed_only_by_who_manages_the_bucket_and_says_so() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, Versioning::Enabled).await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let lock = LockRules { default: Some((RetentionMode::Governance, 1)) };
        larder.change_bucket(root, &bucket, None, Some(lock)).await.unwrap();
        let bucket = &larder.bucket(root, "versions").await.unwrap();
        let destroy = |caller: Caller, id| async move {
            let none = Conditions::default();
            let version = Some(id);
            larder.delete_object_bypassing(&caller, bucket, "k", version, &none).await
        };
        let kind = |error: larder_core::Error| error.kind();
        let mut ids = Vec::new();
        for body in ["one", "two", "three"] {
            put(&fixture, bucket, "k", body).await.unwrap();
            ids.push(get(&fixture, bucket, "k", None).await.unwrap().0);
        }
        let writer = fixture.user("ann").await;
        let target = Target::Path(SpaceRef::Id(bucket.id), path(""));
        let with = ShareWith::User("ann".into());
        let new = NewShare { target, with, role: Role::Editor, expires: None };
        larder.create_share(root, new).await.unwrap();
        for id in &ids {
            assert_eq!(destroy(writer.clone(), *id).await.map_err(kind), Err(ErrorKind::Denied));
        }
        let until = fixture.env.now().after(std::time::Duration::from_secs(3600));
        let as_mode = |mode| ObjectChange {
            retention: Some(Some(Retention { mode, until })),
            ..ObjectChange::default()
        };
        let (one, two, three) = (Some(ids[0]), Some(ids[1]), Some(ids[2]));
        let strict = ObjectChange { bypass: true, ..as_mode(RetentionMode::Compliance) };
        let refused = larder.change_object(&writer, bucket, "k", one, &strict).await;
        assert_eq!(refused.map_err(kind), Err(ErrorKind::Denied));
        let plain = as_mode(RetentionMode::Compliance);
        let refused = larder.change_object(root, bucket, "k", one, &plain).await;
        assert_eq!(refused.map_err(kind), Err(ErrorKind::Denied), "another mode");
        larder.change_object(root, bucket, "k", one, &strict).await.unwrap();
        let hold = ObjectChange { hold: Some(true), ..ObjectChange::default() };
        larder.change_object(root, bucket, "k", two, &hold).await.unwrap();
        for (id, gone) in [(one, false), (two, false), (three, true)] {
            let destroyed = destroy(root.clone(), id.unwrap()).await;
            assert_eq!(destroyed.is_ok_and(|removed| removed.existed), gone, "{id:?}");
        }
        // An older one too, once nothing else holds it.
        put(&fixture, bucket, "k", "four").await.unwrap();
        let free = ObjectChange { hold: Some(false), ..ObjectChange::default() };
        larder.change_object(root, bucket, "k", two, &free).await.unwrap();
        assert!(destroy(root.clone(), ids[1]).await.unwrap().existed);
        fixture.assert_sound().await;
    });
}

#[test]
fn tags_change_without_a_new_version() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, Versioning::Enabled).await;
        put(&fixture, &bucket, "k", "one").await.unwrap();
        let (id, _) = get(&fixture, &bucket, "k", None).await.unwrap();
        put(&fixture, &bucket, "k", "two").await.unwrap();
        let tags = vec![("a".to_owned(), "b".to_owned())];
        let change = ObjectChange { tags: Some(tags.clone()), ..ObjectChange::default() };
        for version in [Some(id), None] {
            let (larder, root) = (&fixture.larder, &fixture.root);
            larder.change_object(root, &bucket, "k", version, &change).await.unwrap();
            let found = larder.object(root, &bucket, "k", version).await.unwrap();
            assert_eq!(found.object().info.unwrap().tags, tags);
        }
        assert_eq!(listed(&fixture, &bucket, 10).await.len(), 2);
        let many = (0..11).map(|n| (n.to_string(), String::new())).collect();
        let change = ObjectChange { tags: Some(many), ..ObjectChange::default() };
        let refused =
            fixture.larder.change_object(&fixture.root, &bucket, "k", None, &change).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    });
}

#[test]
fn of_puts_and_deletes_at_once_every_one_leaves_its_version() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, Versioning::Enabled).await;
        let outcomes = race(&fixture, 24, |client, fixture| {
            let bucket = bucket.clone();
            async move {
                if client % 3 == 0 {
                    return delete(&fixture, &bucket, "k", None).await.map(drop);
                }
                put(&fixture, &bucket, "k", &format!("client {client}")).await
            }
        })
        .await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let versions = listed(&fixture, &bucket, 5).await;
        let markers = versions.iter().filter(|version| version.2).count();
        assert_eq!((versions.len(), markers), (24, 8));
        assert_eq!(versions.iter().filter(|version| version.3).count(), 1);
        fixture.assert_clean().await;
    });
}

#[test]
fn versions_and_markers_come_back_from_a_dump() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, Versioning::Enabled).await;
        for (key, body) in [("a", "one"), ("a", "two"), ("b", "three")] {
            put(&fixture, &bucket, key, body).await.unwrap();
        }
        delete(&fixture, &bucket, "a", None).await.unwrap();
        put(&fixture, &bucket, "b", "four").await.unwrap();
        delete(&fixture, &bucket, "b", None).await.unwrap();
        put(&fixture, &bucket, "b", "five").await.unwrap();
        let before = listed(&fixture, &bucket, 10).await;
        let mut dump = fixture.larder.dump(&fixture.root, None).await.unwrap();
        let other = Fixture::new().await;
        let mut load = other.larder.load(&other.root).unwrap();
        while let Some(bytes) = dump.next().await.unwrap() {
            load.write(bytes).await.unwrap();
        }
        load.finish().await.unwrap();
        let bucket = other.larder.bucket(&other.root, "versions").await.unwrap();
        assert_eq!(listed(&other, &bucket, 10).await, before);
        assert_eq!(get(&other, &bucket, "b", None).await.unwrap().1, "five");
        other.assert_clean().await;
        fixture.assert_clean().await;
    });
}
