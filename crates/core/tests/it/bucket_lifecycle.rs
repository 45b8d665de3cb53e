//! Lifecycle rules of buckets: what ends, and what stays.
//!
//! Not here: rules of trees (`lifecycle`), the documents of S3 (the door).

use std::time::Duration;

use bytes::Bytes;
use larder_base::{ErrorKind, Timestamp};
use larder_core::{
    Bucket, BucketExpire, BucketLifecycle, BucketRule, Conditions, KeyEntry, KeyListing,
    MultipartEntry, MultipartListing, MultipartRef, NewMultipart, NewRule, ObjectInfo, SpaceRef,
    UploadOptions, VersionListing, Versioning, testing::Fixture,
};

/// A day of these tests.
const DAY: Duration = Duration::from_millis(50);

async fn stage(versioning: Versioning) -> (Fixture, Bucket) {
    let fixture = Fixture::tuned(|config| config.lifecycle_day = DAY).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    let mut bucket = larder.create_bucket(root, "rules").await.unwrap();
    if versioning != Versioning::Off {
        larder.change_bucket(root, &bucket, Some(versioning), None).await.unwrap();
        bucket = larder.bucket(root, "rules").await.unwrap();
    }
    (fixture, bucket)
}

async fn put(fixture: &Fixture, bucket: &Bucket, key: &str, tag: &str) {
    let options = UploadOptions { length: Some(1), ..UploadOptions::default() };
    let upload = fixture.larder.object_upload(&fixture.root, bucket, key, options).await;
    let mut upload = upload.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let tags = vec![("tag".to_owned(), tag.to_owned())];
    upload.describe(ObjectInfo { tags, ..ObjectInfo::default() });
    upload.commit().await.unwrap();
}

fn rule(prefix: &str) -> BucketRule {
    let prefix = prefix.to_owned();
    BucketRule { id: "one".to_owned(), enabled: true, prefix, ..BucketRule::default() }
}

async fn set(fixture: &Fixture, bucket: &Bucket, rules: Vec<BucketRule>) {
    let lifecycle = Some(BucketLifecycle { text: "document".to_owned(), rules });
    let (larder, root) = (&fixture.larder, &fixture.root);
    larder.set_bucket_lifecycle(root, bucket, lifecycle).await.unwrap();
}

/// Lets some days pass and applies the rules to the end.
async fn apply(fixture: &Fixture, days: u32) {
    fixture.env.sleep(DAY * days).await;
    super::lifecycle::apply(fixture).await;
}

/// Keys and what they are: `+` an object, `-` a delete marker, each newest first.
async fn versions(fixture: &Fixture, bucket: &Bucket) -> Vec<String> {
    let keys = KeyListing { limit: 1000, ..KeyListing::default() };
    let (larder, root) = (&fixture.larder, &fixture.root);
    let page = if bucket.versioning == Versioning::Off {
        larder.list_objects(root, bucket, &keys).await.unwrap()
    } else {
        let listing = VersionListing { keys, after_version: None };
        larder.list_versions(root, bucket, &listing).await.unwrap()
    };
    let told = page.entries.iter().filter_map(|entry| match entry {
        KeyEntry::Object(object) => {
            Some(format!("{}{}", object.key, if object.marker { "-" } else { "+" }))
        }
        KeyEntry::Prefix(_) => None,
    });
    told.collect()
}

#[tokio::test]
async fn objects_of_a_prefix_or_with_a_tag_end_for_good() {
    let (fixture, bucket) = stage(Versioning::Off).await;
    for (key, tag) in [("log", "a"), ("logs/1", "a"), ("logs/2", "b"), ("other", "b")] {
        put(&fixture, &bucket, key, tag).await;
    }
    let tags = vec![("tag".to_owned(), "b".to_owned())];
    let due = Some(BucketExpire::After(1));
    set(&fixture, &bucket, vec![BucketRule { expire: due, tags, ..rule("logs/") }]).await;
    apply(&fixture, 2).await;
    assert_eq!(versions(&fixture, &bucket).await, ["log+", "logs/1+", "other+"]);
    let past = Some(BucketExpire::At(Timestamp::from_millis(0)));
    let off = BucketRule { enabled: false, expire: past, ..rule("") };
    let large = BucketRule { larger_than: Some(1), expire: past, ..rule("") };
    let late = BucketRule { expire: Some(BucketExpire::After(1_000_000)), ..rule("") };
    set(&fixture, &bucket, vec![off, large, late]).await;
    apply(&fixture, 0).await;
    assert_eq!(versions(&fixture, &bucket).await.len(), 3);
    set(&fixture, &bucket, vec![BucketRule { expire: past, ..rule("log") }]).await;
    apply(&fixture, 0).await;
    assert_eq!(versions(&fixture, &bucket).await, ["other+"]);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn in_versioned_buckets_expiry_is_a_delete_marker_and_older_versions_have_their_own_rule() {
    let (fixture, bucket) = stage(Versioning::Enabled).await;
    for key in ["a", "a", "a", "b"] {
        put(&fixture, &bucket, key, "").await;
    }
    let due = Some(BucketExpire::After(1));
    set(&fixture, &bucket, vec![BucketRule { expire: due, ..rule("a") }]).await;
    apply(&fixture, 2).await;
    let expected = ["a-", "a+", "a+", "a+", "b+"];
    assert_eq!(versions(&fixture, &bucket).await, expected);
    apply(&fixture, 2).await;
    assert_eq!(versions(&fixture, &bucket).await, expected, "a marker does not expire again");
    set(&fixture, &bucket, vec![BucketRule { noncurrent: Some((1, 2)), ..rule("a") }]).await;
    apply(&fixture, 2).await;
    assert_eq!(versions(&fixture, &bucket).await, ["a-", "a+", "a+", "b+"], "two are kept");
    set(&fixture, &bucket, vec![BucketRule { noncurrent: Some((1, 0)), ..rule("") }]).await;
    apply(&fixture, 0).await;
    assert_eq!(versions(&fixture, &bucket).await, ["a-", "b+"]);
    set(&fixture, &bucket, vec![BucketRule { markers: true, ..rule("") }]).await;
    apply(&fixture, 0).await;
    assert_eq!(versions(&fixture, &bucket).await, ["b+"]);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn many_older_versions_end_in_batches() {
    let (fixture, bucket) = stage(Versioning::Enabled).await;
    for at in 0..80 {
        put(&fixture, &bucket, "a", if at % 2 == 0 { "even" } else { "odd" }).await;
    }
    let tags = vec![("tag".to_owned(), "odd".to_owned())];
    let odd = BucketRule { noncurrent: Some((1, 5)), tags, ..rule("") };
    set(&fixture, &bucket, vec![odd]).await;
    apply(&fixture, 2).await;
    // 79 are older. Of the newest five of them, two are odd; so is the current one.
    assert_eq!(versions(&fixture, &bucket).await.len(), 40 + 2 + 1);
    fixture.assert_clean().await;
}

#[tokio::test]
async fn unfinished_uploads_end_and_their_bytes_are_given_back() {
    let (fixture, bucket) = stage(Versioning::Off).await;
    let (larder, root) = (&fixture.larder, &fixture.root);
    for key in ["a/1", "b/1"] {
        let new = NewMultipart::default();
        larder.create_multipart(root, &bucket, key, new).await.unwrap();
    }
    set(&fixture, &bucket, vec![BucketRule { abort_after: Some(1), ..rule("a/") }]).await;
    apply(&fixture, 2).await;
    let keys = KeyListing { limit: 10, ..KeyListing::default() };
    let listing = MultipartListing { keys, after_upload: None };
    let left = larder.multiparts(root, &bucket, &listing).await.unwrap().entries;
    let [MultipartEntry::Upload(left)] = &left[..] else { panic!("{left:?}") };
    assert_eq!(left.key, "b/1");
    let upload = MultipartRef { bucket: &bucket, key: "b/1", id: left.id };
    larder.abort_multipart(root, upload).await.unwrap();
}

#[tokio::test]
async fn it_is_known_when_an_object_ends() {
    let (fixture, bucket) = stage(Versioning::Off).await;
    let larder = &fixture.larder;
    let later = BucketRule { expire: Some(BucketExpire::After(4)), ..rule("a") };
    let sooner = BucketRule {
        id: "two".to_owned(),
        expire: Some(BucketExpire::After(2)),
        smaller_than: Some(10),
        ..rule("")
    };
    set(&fixture, &bucket, vec![later, sooner]).await;
    let at = Timestamp::from_millis(1);
    let end = async |key: &str, size| {
        let end = larder.object_end(&bucket, key, (size, at), None).await.unwrap();
        end.map(|(end, id)| (end.millis(), id))
    };
    assert_eq!(end("a", 5).await, Some((150, "two".to_owned())));
    assert_eq!(end("a", 10).await, Some((250, "one".to_owned())));
    assert_eq!(end("b", 10).await, None);
    larder.set_bucket_lifecycle(&fixture.root, &bucket, None).await.unwrap();
    assert_eq!(end("a", 5).await, None);
}

#[tokio::test]
async fn rules_are_for_buckets_and_their_owners() {
    let (fixture, bucket) = stage(Versioning::Off).await;
    let (larder, other) = (&fixture.larder, fixture.user("other").await);
    let lifecycle = Some(BucketLifecycle::default());
    let refused = larder.set_bucket_lifecycle(&other, &bucket, lifecycle.clone()).await;
    assert!(refused.is_err());
    fixture.space("tree", larder_core::SpaceLimits::default()).await;
    let tree = larder.bucket(&fixture.root, "tree").await.unwrap();
    let refused = larder.set_bucket_lifecycle(&fixture.root, &tree, lifecycle).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let rules = vec![NewRule {
        id: None,
        name: String::new(),
        enabled: true,
        prefix: String::new(),
        expire: Some(larder_core::Expire::At(Timestamp::from_millis(0))),
        noncurrent: None,
        abort_uploads_after: None,
    }];
    let refused = larder.set_lifecycle(&fixture.root, &SpaceRef::Id(bucket.id), rules).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    put(&fixture, &bucket, "a", "").await;
    let none = Conditions::default();
    larder.delete_object(&fixture.root, &bucket, "a", None, &none).await.unwrap();
}
