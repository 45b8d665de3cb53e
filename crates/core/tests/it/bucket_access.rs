//! Access lists and policies of buckets: what they open and forbid, and for how long.
//!
//! Not here: grants and links (`share`), documents of S3 (the door).

use bytes::Bytes;
use larder_base::ErrorKind;
use larder_core::{
    Acl, AclGrant, Ask, Bucket, BucketSetting, Caller, Compare, Conditions, Effect, Grantee,
    ObjectChange, ObjectInfo, Ownership, Patterns, Permission, Policy, PolicyCondition, Principals,
    PublicAccess, Result, Statement, UploadOptions, testing::Fixture,
};

use super::runtime;

async fn put(
    fixture: &Fixture,
    caller: &Caller,
    bucket: &Bucket,
    key: &str,
    acl: Acl,
) -> Result<()> {
    let options = UploadOptions { length: Some(1), ..UploadOptions::default() };
    let mut upload = fixture.larder.object_upload(caller, bucket, key, options).await?;
    upload.write(Bytes::from_static(b"x")).await?;
    upload.describe(ObjectInfo { acl, ..ObjectInfo::default() });
    upload.commit().await.map(drop)
}

fn ask<'a>(action: &'a str, key: Option<&'a str>) -> Ask<'a> {
    Ask { action, bucket: "shared", key, version: None, context: Vec::new() }
}

fn gives(to: Grantee, gives: Permission) -> Acl {
    Acl { grants: vec![AclGrant { to, gives }] }
}

fn patterns(patterns: &[&str]) -> Patterns {
    Patterns { patterns: patterns.iter().map(|one| (*one).to_owned()).collect(), negated: false }
}

fn statement(effect: Effect, who: &str, actions: &[&str], resources: &[&str]) -> Statement {
    Statement {
        effect,
        principals: Principals::Are(vec![who.to_owned()]),
        actions: patterns(actions),
        resources: patterns(resources),
        conditions: Vec::new(),
    }
}

/// A bucket of root's, and a user who has nothing to do with it.
async fn stage() -> (Fixture, Bucket, Caller) {
    let fixture = Fixture::new().await;
    let bucket = fixture.larder.create_bucket(&fixture.root, "shared").await.unwrap();
    let other = fixture.user("other").await;
    put(&fixture, &fixture.root, &bucket, "a/private", Acl::default()).await.unwrap();
    let public = gives(Grantee::Everybody, Permission::Read);
    put(&fixture, &fixture.root, &bucket, "a/public", public).await.unwrap();
    (fixture, bucket, other)
}

async fn may(fixture: &Fixture, caller: Option<&Caller>, ask: &Ask<'_>) -> bool {
    match fixture.larder.enter_bucket(caller, "shared", ask).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Denied);
            false
        }
    }
}

#[test]
fn i_acl_1_lists_open_what_they_say_and_to_whom() {
    runtime().block_on(async {
        let (fixture, bucket, other) = stage().await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        for (action, key) in [
            ("s3:ListBucket", None),
            ("s3:GetObject", Some("a/private")),
            ("s3:GetObject", Some("missing")),
            ("s3:PutObject", Some("a/new")),
            ("s3:DeleteObject", Some("a/public")),
            ("s3:PutBucketPolicy", None),
        ] {
            assert!(may(&fixture, Some(root), &ask(action, key)).await, "{action}");
            assert!(!may(&fixture, Some(&other), &ask(action, key)).await, "{action}");
            assert!(!may(&fixture, None, &ask(action, key)).await, "{action}");
        }
        assert!(may(&fixture, None, &ask("s3:GetObject", Some("a/public"))).await);
        let acl = gives(Grantee::Users, Permission::Read);
        larder.set_bucket_acl(root, &bucket, &acl).await.unwrap();
        assert!(may(&fixture, Some(&other), &ask("s3:ListBucket", None)).await);
        assert!(!may(&fixture, None, &ask("s3:ListBucket", None)).await);
        assert!(!may(&fixture, Some(&other), &ask("s3:GetObject", Some("a/private"))).await);
        // Who does something in the name of the owner can do no more than that.
        let read = ask("s3:ListBucket", None);
        let (_, entered) = larder.enter_bucket(Some(&other), "shared", &read).await.unwrap();
        let refused = put(&fixture, &entered, &bucket, "new", Acl::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(larder.buckets(&entered).await.unwrap().iter().all(|one| one.id == bucket.id));
        let denied = larder.set_bucket_acl(&other, &bucket, &acl).await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn i_acl_1_policies_allow_and_forbid() {
    runtime().block_on(async {
        let (fixture, bucket, other) = stage().await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let mut guarded = statement(Effect::Deny, "*", &["s3:Put*"], &["shared/a/*"]);
        guarded.conditions.push(PolicyCondition {
            key: "s3:x-amz-acl".to_owned(),
            values: vec!["public-*".to_owned()],
            compare: Compare::Like,
            negated: false,
            if_exists: false,
        });
        let policy = Policy {
            text: "{}".to_owned(),
            statements: vec![
                statement(Effect::Allow, "other", &["s3:*Object"], &["shared/a/*"]),
                statement(Effect::Deny, "*", &["s3:DeleteObject"], &["shared/a/p?ivate"]),
                guarded,
            ],
        };
        larder.set_bucket_policy(root, &bucket, Some(policy)).await.unwrap();
        let text = larder.bucket_setting(root, &bucket, BucketSetting::Policy).await.unwrap();
        assert_eq!(text.as_deref(), Some("{}"));
        assert!(may(&fixture, Some(&other), &ask("s3:GetObject", Some("a/private"))).await);
        assert!(!may(&fixture, Some(&other), &ask("s3:GetObject", Some("b"))).await);
        assert!(!may(&fixture, None, &ask("s3:GetObject", Some("a/private"))).await);
        // What is forbidden is forbidden to the owner too.
        for caller in [&other, root] {
            assert!(!may(&fixture, Some(caller), &ask("s3:DeleteObject", Some("a/private"))).await);
            assert!(may(&fixture, Some(caller), &ask("s3:DeleteObject", Some("a/public"))).await);
        }
        let mut shown = ask("s3:PutObject", Some("a/new"));
        assert!(may(&fixture, Some(&other), &shown).await);
        shown.context = vec![("s3:x-amz-acl".to_owned(), "public-read".to_owned())];
        assert!(!may(&fixture, Some(&other), &shown).await);
        assert!(may(&fixture, Some(root), &ask("s3:DeleteBucketPolicy", None)).await);
    });
}

#[test]
fn i_acl_2_what_was_taken_back_allows_no_further_commit() {
    runtime().block_on(async {
        let (fixture, bucket, other) = stage().await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let acl = gives(Grantee::User(other.user), Permission::Write);
        larder.set_bucket_acl(root, &bucket, &acl).await.unwrap();
        let write = ask("s3:PutObject", Some("k"));
        let (_, entered) = larder.enter_bucket(Some(&other), "shared", &write).await.unwrap();
        put(&fixture, &entered, &bucket, "k", Acl::default()).await.unwrap();
        larder.set_bucket_acl(root, &bucket, &Acl::default()).await.unwrap();
        let refused = put(&fixture, &entered, &bucket, "k", Acl::default()).await.unwrap_err();
        // Judged anew it would be denied; that is not known where it is noticed.
        assert_eq!(refused.kind(), ErrorKind::Busy);
        let none = Conditions::default();
        let gone = larder.delete_object(&entered, &bucket, "k", None, &none).await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Busy);
        let object = larder.object(root, &bucket, "k", None).await.unwrap();
        assert_eq!(&*object.entry().id.to_string(), &*object.object().node.to_string());
        fixture.assert_sound().await;
    });
}

#[test]
fn i_acl_2_what_an_object_allows_is_not_so_for_what_comes_in_its_place() {
    runtime().block_on(async {
        let (fixture, bucket, other) = stage().await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let read = ask("s3:GetObject", Some("a/public"));
        let (_, entered) = larder.enter_bucket(None, "shared", &read).await.unwrap();
        assert!(larder.object(&entered, &bucket, "a/public", None).await.is_ok());
        put(&fixture, root, &bucket, "a/public", Acl::default()).await.unwrap();
        let error = larder.object(&entered, &bucket, "a/public", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        // The same where a policy judges by tags, also for those with a right of their own.
        let mut secret = statement(Effect::Deny, "*", &["s3:GetObject"], &["shared/*"]);
        secret.conditions.push(PolicyCondition {
            key: "s3:existingobjecttag/secret".to_owned(),
            values: vec!["yes".to_owned()],
            compare: Compare::Equal,
            negated: false,
            if_exists: false,
        });
        let policy = Policy {
            text: "{}".to_owned(),
            statements: vec![
                secret,
                statement(Effect::Allow, "other", &["s3:GetObject"], &["shared/*"]),
            ],
        };
        larder.set_bucket_policy(root, &bucket, Some(policy)).await.unwrap();
        let read = ask("s3:GetObject", Some("a/private"));
        let (_, by_policy) = larder.enter_bucket(Some(&other), "shared", &read).await.unwrap();
        let (_, owner) = larder.enter_bucket(Some(root), "shared", &read).await.unwrap();
        let tags = Some(vec![("secret".to_owned(), "yes".to_owned())]);
        let change = ObjectChange { tags, ..ObjectChange::default() };
        larder.change_object(root, &bucket, "a/private", None, &change).await.unwrap();
        for caller in [&by_policy, &owner] {
            let error = larder.object(caller, &bucket, "a/private", None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
        }
        assert!(!may(&fixture, Some(&other), &read).await);
    });
}

#[test]
fn i_acl_1_what_is_shut_to_everybody_stays_shut() {
    runtime().block_on(async {
        let (fixture, bucket, other) = stage().await;
        let (larder, root) = (&fixture.larder, &fixture.root);
        let public = gives(Grantee::Everybody, Permission::Read);
        larder.set_bucket_acl(root, &bucket, &public).await.unwrap();
        let all = statement(Effect::Allow, "*", &["s3:GetObject"], &["shared/a/*"]);
        let policy = Policy { text: "{}".to_owned(), statements: vec![all] };
        larder.set_bucket_policy(root, &bucket, Some(policy)).await.unwrap();
        let (list, private) = (ask("s3:ListBucket", None), ask("s3:GetObject", Some("a/private")));
        let open = ask("s3:GetObject", Some("a/public"));
        let limits = PublicAccess { ignore_acls: true, ..PublicAccess::default() };
        larder.set_public_access(root, &bucket, Some(limits)).await.unwrap();
        for caller in [None, Some(&other)] {
            assert!(!may(&fixture, caller, &list).await);
            assert!(may(&fixture, caller, &private).await);
        }
        let limits = PublicAccess { restrict: true, ..PublicAccess::default() };
        larder.set_public_access(root, &bucket, Some(limits)).await.unwrap();
        for caller in [None, Some(&other)] {
            assert!(may(&fixture, caller, &list).await && may(&fixture, caller, &open).await);
            assert!(!may(&fixture, caller, &private).await);
        }
        larder.set_ownership(root, &bucket, Some(Ownership::Enforced)).await.unwrap();
        assert!(!may(&fixture, Some(&other), &list).await);
        assert!(!may(&fixture, None, &open).await && may(&fixture, Some(root), &open).await);
        larder.set_ownership(root, &bucket, None).await.unwrap();
        larder.set_public_access(root, &bucket, None).await.unwrap();
        assert!(may(&fixture, None, &list).await && may(&fixture, None, &private).await);
        // Nobody gets nothing, whatever was opened.
        let nobody = Caller::nobody();
        assert!(larder.object(&nobody, &bucket, "a/public", None).await.is_err());
        assert!(larder.create_bucket(&nobody, "mine").await.is_err());
        assert!(larder.buckets(&nobody).await.unwrap().is_empty());
    });
}
