//! Objects: keys byte for byte, listings against a list, copies, multipart uploads, and the races
//! of S3 clients.
//!
//! Not here: the protocol (the door), crashes of a process (e2e).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use larder_base::{ErrorKind, id::UploadId};
use larder_core::{
    Bucket, Completion, Conditions, CopyOptions, EtagSet, KeyEntry, KeyListing, MultipartEntry,
    MultipartListing, MultipartRef, NamedPart, NewMultipart, ObjectDigest, ObjectEntry, ObjectInfo,
    Result, SpaceRef, Target, UploadOptions,
    testing::{Body, Fixture, fixture::path},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};

use super::{cases, fresh_seed, race, runtime};

const MIB: usize = 1 << 20;

async fn bucket(fixture: &Fixture, name: &str) -> Bucket {
    fixture.larder.create_bucket(&fixture.root, name).await.unwrap()
}

fn info(marker: u8) -> ObjectInfo {
    let metadata = vec![("who".to_owned(), format!("client {marker}"))];
    ObjectInfo { digest: Some(ObjectDigest::Md5([marker; 16])), metadata, ..ObjectInfo::default() }
}

async fn put_as(
    fixture: &Fixture,
    bucket: &Bucket,
    key: &str,
    body: &[u8],
    conditions: Conditions,
) -> Result<()> {
    let options =
        UploadOptions { length: Some(body.len() as u64), conditions, ..UploadOptions::default() };
    let mut upload = fixture.larder.object_upload(&fixture.root, bucket, key, options).await?;
    upload.write(Bytes::copy_from_slice(body)).await?;
    upload.describe(info(body.first().copied().unwrap_or_default()));
    upload.commit().await.map(drop)
}

async fn put(fixture: &Fixture, bucket: &Bucket, key: &str, body: &[u8]) {
    put_as(fixture, bucket, key, body, Conditions::default()).await.unwrap();
}

async fn get(fixture: &Fixture, bucket: &Bucket, key: &str) -> Result<(ObjectEntry, Vec<u8>)> {
    let download = fixture.larder.object(&fixture.root, bucket, key, None).await?;
    let object = download.object();
    let mut body = download.read(0..object.size).await?;
    drop(download);
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok((object, bytes))
}

async fn keys(fixture: &Fixture, bucket: &Bucket, listing: &KeyListing) -> Vec<String> {
    let mut listing = listing.clone();
    let mut names = Vec::new();
    loop {
        let page = fixture.larder.list_objects(&fixture.root, bucket, &listing).await.unwrap();
        assert!(page.entries.len() <= listing.limit);
        names.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
        listing.after = page.entries.last().map(|entry| entry.name().to_owned()).or(listing.after);
        if !page.truncated {
            return names;
        }
        assert!(!page.entries.is_empty(), "a page that is cut off tells something");
    }
}

fn all(limit: usize) -> KeyListing {
    KeyListing { limit, ..KeyListing::default() }
}

#[test]
fn keys_of_a_bucket_are_kept_byte_for_byte_and_stand_alone() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "bytes").await;
        let long = "x/".repeat(512);
        let names = [
            "a",
            "a/",
            "a/b",
            "a//b",
            "/a",
            "./a",
            "..",
            "cafe\u{301}",
            "caf\u{e9}",
            "A",
            " ",
            "a\nb",
            "\u{10ffff}",
            long.as_str(),
        ];
        for (number, key) in names.iter().enumerate() {
            put(&fixture, &bucket, key, &[number as u8]).await;
        }
        for (number, key) in names.iter().enumerate() {
            let (object, body) = get(&fixture, &bucket, key).await.unwrap();
            assert_eq!((object.key.as_str(), body.as_slice()), (*key, &[number as u8][..]));
            assert_eq!(object.info.as_deref(), Some(&info(number as u8)));
            assert_eq!(object.etag, format!("{number:02x}").repeat(16));
        }
        let sorted: BTreeSet<String> = names.iter().map(|key| (*key).to_owned()).collect();
        let listed = keys(&fixture, &bucket, &all(3)).await;
        assert_eq!(listed, sorted.into_iter().collect::<Vec<_>>());
        for key in ["", "a\0b", "\u{1}", &"x".repeat(1025)] {
            let refused = put_as(&fixture, &bucket, key, b"x", Conditions::default()).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{key:?}");
            assert!(get(&fixture, &bucket, key).await.is_err());
        }
        for key in names {
            let none = Conditions::default();
            let larder = &fixture.larder;
            for there in [true, false] {
                let gone = larder.delete_object(&fixture.root, &bucket, key, None, &none).await;
                assert_eq!(gone.unwrap().existed, there, "{key:?}");
            }
        }
        assert!(keys(&fixture, &bucket, &all(10)).await.is_empty());
        fixture.assert_sound().await;
        let space = fixture.larder.space(&fixture.root, &SpaceRef::Id(bucket.id)).await.unwrap();
        assert_eq!((space.usage.live, space.usage.retained), (0, 0), "nothing stays in a trash");
        fixture.larder.delete_bucket(&fixture.root, &bucket).await.unwrap();
        let gone = fixture.larder.bucket(&fixture.root, "bytes").await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_bucket_that_holds_anything_is_not_removed() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "full").await;
        put(&fixture, &bucket, "k", b"x").await;
        let refused = fixture.larder.delete_bucket(&fixture.root, &bucket).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotEmpty);
        let none = Conditions::default();
        fixture.larder.delete_object(&fixture.root, &bucket, "k", None, &none).await.unwrap();
        fixture.larder.delete_bucket(&fixture.root, &bucket).await.unwrap();
    });
}

/// What a listing should be, from a list of keys.
fn expected(names: &BTreeSet<String>, listing: &KeyListing) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for key in names.iter().filter(|key| key.starts_with(&listing.prefix)) {
        let rest = &key[listing.prefix.len()..];
        let common =
            listing.delimiter.as_deref().filter(|text| !text.is_empty()).and_then(|text| {
                let at = rest.find(text)?;
                Some(key[..listing.prefix.len() + at + text.len()].to_owned())
            });
        let name = common.unwrap_or_else(|| key.clone());
        if told.last() != Some(&name) && listing.after.as_ref().is_none_or(|after| name > *after) {
            told.push(name);
        }
    }
    told
}

#[test]
fn i_list_1_listings_are_those_of_a_sorted_list_in_buckets_and_in_trees() {
    // Characters around the slash, so that the order of keys is not that of names.
    let name = || vec(select(vec!['a', 'b', '-', '.', '0', '/']), 1..7);
    let texts = vec(name().prop_map(|all| all.into_iter().collect::<String>()), 1..40);
    let prefix = select(vec!["", "a", "a/", "a-", "b/a", "/", "-"]);
    let delimiter = select(vec![None, Some("/"), Some("a"), Some("/a"), Some("")]);
    let after = proptest::option::of(name().prop_map(|all| all.into_iter().collect::<String>()));
    let strategy = (texts, vec((prefix, delimiter, after, 1usize..8), 1..12));
    let mut runner = TestRunner::new(cases(40));
    runner
        .run(&strategy, |(texts, listings)| {
            runtime().block_on(async {
                let fixture = Fixture::new().await;
                let flat = bucket(&fixture, "flat").await;
                let home = fixture.larder.buckets(&fixture.root).await.unwrap();
                assert_eq!(home.len(), 1, "a home comes into being when it is used");
                put_home(&fixture).await;
                let homes = fixture.larder.buckets(&fixture.root).await.unwrap();
                let tree = homes.into_iter().find(|one| one.id != flat.id).unwrap();
                let (mut in_bucket, mut in_tree) = (BTreeSet::new(), BTreeSet::new());
                for key in &texts {
                    put(&fixture, &flat, key, b"x").await;
                    in_bucket.insert(key.clone());
                    if put_as(&fixture, &tree, key, b"x", Conditions::default()).await.is_ok() {
                        in_tree.insert(key.clone());
                    }
                }
                for (prefix, delimiter, after, limit) in listings {
                    let listing = KeyListing {
                        prefix: prefix.to_owned(),
                        delimiter: delimiter.map(str::to_owned),
                        after,
                        limit,
                    };
                    for (bucket, names) in [(&flat, &in_bucket), (&tree, &in_tree)] {
                        let listed = keys(&fixture, bucket, &listing).await;
                        assert_eq!(listed, expected(names, &listing), "{listing:?} of {names:?}");
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}

/// Makes the home.
async fn put_home(fixture: &Fixture) {
    fixture.put("first", "x").await.unwrap();
    let target = Target::Path(SpaceRef::Home, path("first"));
    fixture.larder.delete(&fixture.root, &target, &Conditions::default()).await.unwrap();
}

#[test]
fn listings_step_over_what_a_prefix_stands_for() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "steps").await;
        for group in 0..5 {
            for number in 0..200 {
                put(&fixture, &bucket, &format!("{group}/{number:04}"), b"x").await;
            }
        }
        let listing = KeyListing { delimiter: Some("/".to_owned()), ..all(2) };
        let listed = keys(&fixture, &bucket, &listing).await;
        assert_eq!(listed, ["0/", "1/", "2/", "3/", "4/"]);
    });
}

#[test]
fn copies_share_bytes_and_carry_or_replace_what_is_known() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let (one, two) = (bucket(&fixture, "one").await, bucket(&fixture, "two").await);
        let body = Body::new(fresh_seed(), (3 * MIB) as u32).bytes();
        put(&fixture, &one, "from", &body).await;
        let larder = &fixture.larder;
        let (from, to) = ((&one, "from"), (&two, "to"));
        let copy =
            larder.copy_object(&fixture.root, from, to, CopyOptions::default()).await.unwrap();
        assert_eq!(copy.info.as_deref(), Some(&info(body[0])));
        assert_eq!(get(&fixture, &two, "to").await.unwrap().1, body);
        // Onto itself, with other metadata.
        let replaced = ObjectInfo { metadata: Vec::new(), ..ObjectInfo::default() };
        let replace = Some((Some("text/plain".to_owned()), replaced));
        let options = CopyOptions { replace, ..CopyOptions::default() };
        let copy = larder.copy_object(&fixture.root, to, to, options).await.unwrap();
        assert_eq!((&*copy.content_type, copy.size), ("text/plain", body.len() as u64));
        let known = copy.info.unwrap();
        assert!(known.metadata.is_empty());
        assert_eq!(known.digest, Some(ObjectDigest::Md5([body[0]; 16])), "the bytes are the same");
        // A source that is not as demanded, or not there.
        let source = Conditions {
            if_match: Some(EtagSet::These(vec!["nonsense".to_owned()])),
            ..Conditions::default()
        };
        let options = CopyOptions { source, ..CopyOptions::default() };
        let refused = larder.copy_object(&fixture.root, from, to, options).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        let missing = (&one, "missing");
        let refused = larder.copy_object(&fixture.root, missing, to, CopyOptions::default()).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        // The bytes stay as long as one of them.
        larder
            .delete_object(&fixture.root, &one, "from", None, &Conditions::default())
            .await
            .unwrap();
        fixture.settle().await;
        assert_eq!(get(&fixture, &two, "to").await.unwrap().1, body);
        larder
            .delete_object(&fixture.root, &two, "to", None, &Conditions::default())
            .await
            .unwrap();
        fixture.assert_clean().await;
        assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0, "nothing is left");
    });
}

#[test]
fn objects_of_a_tree_are_its_files_with_revisions_and_directories() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        put_home(&fixture).await;
        let home = fixture.larder.buckets(&fixture.root).await.unwrap().remove(0);
        put(&fixture, &home, "a/b/c", b"one").await;
        put(&fixture, &home, "a/b/c", b"two").await;
        assert_eq!(fixture.get("a/b/c").await.unwrap(), "two");
        assert_eq!(fixture.revisions("a/b/c").await.unwrap().len(), 2);
        for key in ["a/b/", "a//b", "/a", "../a", "a/b/c/d", "a/b"] {
            let refused = put_as(&fixture, &home, key, b"x", Conditions::default()).await;
            assert!(refused.is_err(), "{key}");
            assert_eq!(get(&fixture, &home, key).await.unwrap_err().kind(), ErrorKind::NotFound);
        }
        let none = Conditions::default();
        fixture.larder.delete_object(&fixture.root, &home, "a/b/c", None, &none).await.unwrap();
        assert!(get(&fixture, &home, "a/b/c").await.is_err());
        fixture.assert_sound().await;
    });
}

fn named(bucket: &Bucket, id: UploadId) -> MultipartRef<'_> {
    MultipartRef { bucket, key: "k", id }
}

async fn part(
    fixture: &Fixture,
    bucket: &Bucket,
    id: UploadId,
    number: u32,
    body: &Bytes,
) -> NamedPart {
    let mut part = fixture
        .larder
        .multipart_part(&fixture.root, named(bucket, id), number, Some(body.len() as u64))
        .await
        .unwrap();
    part.write(body.clone()).await.unwrap();
    let md5 = [number as u8; 16];
    part.describe(md5, None);
    part.finish().await.unwrap();
    NamedPart { number, etag: format!("{:02x}", number as u8).repeat(16), checksum: None }
}

async fn complete(
    fixture: &Fixture,
    bucket: &Bucket,
    id: UploadId,
    parts: &[NamedPart],
    conditions: Conditions,
) -> Result<ObjectEntry> {
    let completion = Completion { parts: parts.to_vec(), conditions, checksum: None };
    fixture.larder.complete_multipart(&fixture.root, named(bucket, id), completion).await
}

async fn begin(fixture: &Fixture, bucket: &Bucket) -> UploadId {
    let new = NewMultipart { info: info(9), ..NewMultipart::default() };
    fixture.larder.create_multipart(&fixture.root, bucket, "k", new).await.unwrap()
}

#[test]
fn a_multipart_upload_becomes_an_object_of_the_parts_named() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "parts").await;
        let id = begin(&fixture, &bucket).await;
        let bodies: Vec<Bytes> = [6 * MIB, 6 * MIB, 5 * MIB, 100]
            .map(|n| Body::new(fresh_seed(), n as u32).bytes())
            .into();
        let mut parts = Vec::new();
        for (number, body) in [1, 3, 7, 10_000].into_iter().zip(&bodies) {
            parts.push(part(&fixture, &bucket, id, number, body).await);
        }
        let larder = &fixture.larder;
        assert_eq!(uploads(&fixture, &bucket, listing("", None)).await, (vec!["k".into()], false));
        let (_, stored, more) =
            larder.multipart_parts(&fixture.root, named(&bucket, id), 1, 2).await.unwrap();
        let numbers: Vec<u32> = stored.iter().map(|part| part.number).collect();
        assert_eq!((numbers, more), (vec![3, 7], true));
        let none = Conditions::default();
        for (bad, why) in [
            (vec![parts[1].clone(), parts[0].clone()], "InvalidPartOrder"),
            (vec![NamedPart { number: 2, ..parts[0].clone() }], "InvalidPart"),
            (vec![NamedPart { number: 1, ..parts[1].clone() }], "InvalidPart"),
            (Vec::new(), "InvalidPart"),
        ] {
            let refused = complete(&fixture, &bucket, id, &bad, none.clone()).await.unwrap_err();
            assert!(refused.to_string().contains(why), "{refused} {why}");
        }
        let small = part(&fixture, &bucket, id, 2, &Bytes::from_static(b"small")).await;
        let bad = [parts[0].clone(), small, parts[1].clone()];
        let refused = complete(&fixture, &bucket, id, &bad, none.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("EntityTooSmall"), "{refused}");
        let object = complete(&fixture, &bucket, id, &parts, none.clone()).await.unwrap();
        assert!(object.etag.ends_with("-4"), "{}", object.etag);
        let known = object.info.clone().unwrap();
        assert_eq!(known.metadata, info(9).metadata);
        assert_eq!(known.parts_count(), 4);
        assert_eq!(known.part_range(3), Some(12 * MIB as u64..17 * MIB as u64));
        assert_eq!(known.part_range(5), None);
        assert_eq!(get(&fixture, &bucket, "k").await.unwrap().1, bodies.concat());
        // Again, and with others.
        let again = complete(&fixture, &bucket, id, &parts, none.clone()).await.unwrap();
        assert_eq!((again.etag, again.revision), (object.etag, object.revision));
        let others = complete(&fixture, &bucket, id, &parts[..2], none.clone()).await.unwrap_err();
        assert_eq!(others.kind(), ErrorKind::NotFound);
        assert_eq!(uploads(&fixture, &bucket, listing("", None)).await, (Vec::new(), false));
        fixture.settle().await;
        fixture.assert_sound().await;
        larder.delete_object(&fixture.root, &bucket, "k", None, &none).await.unwrap();
        fixture.assert_clean().await;
        assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0, "nothing is left");
    });
}

fn listing(prefix: &str, delimiter: Option<&str>) -> KeyListing {
    let delimiter = delimiter.map(str::to_owned);
    KeyListing { prefix: prefix.to_owned(), delimiter, after: None, limit: 1000 }
}

/// The keys and prefixes of a page, and whether there are more.
async fn uploads(fixture: &Fixture, bucket: &Bucket, keys: KeyListing) -> (Vec<String>, bool) {
    let listing = MultipartListing { keys, after_upload: None };
    let page = fixture.larder.multiparts(&fixture.root, bucket, &listing).await.unwrap();
    let names = page.entries.into_iter().map(|entry| match entry {
        MultipartEntry::Upload(upload) => upload.key,
        MultipartEntry::Prefix(prefix) => prefix,
    });
    (names.collect(), page.truncated)
}

#[test]
fn unfinished_uploads_are_listed_by_common_prefixes_and_in_pages() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "listed").await;
        let many = (0..100).map(|n| format!("many/{n}"));
        let keys = many.chain(["a", "a", "a/1", "a/1/x", "a/2", "b"].map(str::to_owned));
        for key in keys {
            let new = NewMultipart::default();
            fixture.larder.create_multipart(&fixture.root, &bucket, &key, new).await.unwrap();
        }
        let all = listing("", Some("/"));
        let expected = ["a", "a", "a/", "b", "many/"].map(str::to_owned);
        assert_eq!(uploads(&fixture, &bucket, all.clone()).await, (expected.to_vec(), false));
        let below = uploads(&fixture, &bucket, listing("a/", Some("/"))).await;
        assert_eq!(below, (vec!["a/1".into(), "a/1/".into(), "a/2".into()], false));
        assert_eq!(uploads(&fixture, &bucket, listing("a", None)).await.0.len(), 5);
        // Page by page, behind what the last one told.
        let (mut told, mut after, mut after_upload) = (Vec::new(), None, None);
        loop {
            let keys = KeyListing { after: after.clone(), limit: 1, ..all.clone() };
            let listing = MultipartListing { keys, after_upload };
            let page = fixture.larder.multiparts(&fixture.root, &bucket, &listing).await.unwrap();
            (after, after_upload) = match page.entries.last().unwrap() {
                MultipartEntry::Upload(upload) => (Some(upload.key.clone()), Some(upload.id)),
                MultipartEntry::Prefix(prefix) => (Some(prefix.clone()), None),
            };
            told.extend(after.clone());
            if !page.truncated {
                break;
            }
        }
        assert_eq!(told, expected);
    });
}

#[test]
fn of_a_completion_and_an_abort_one_wins() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "ends").await;
        let body = Bytes::from_static(b"a last part may be small");
        for _ in 0..30 {
            let id = begin(&fixture, &bucket).await;
            let parts = vec![part(&fixture, &bucket, id, 1, &body).await];
            let (done, aborted) = tokio::join!(
                complete(&fixture, &bucket, id, &parts, Conditions::default()),
                fixture.larder.abort_multipart(&fixture.root, named(&bucket, id))
            );
            assert!(done.is_ok() != aborted.is_ok(), "{done:?} {aborted:?}");
            assert_eq!(get(&fixture, &bucket, "k").await.is_ok(), done.is_ok());
            let none = Conditions::default();
            fixture.larder.delete_object(&fixture.root, &bucket, "k", None, &none).await.unwrap();
        }
        fixture.assert_clean().await;
        assert_eq!(fixture.chunks.as_ref().unwrap().count(), 0, "nothing is left");
    });
}

#[test]
fn i_upl_3_of_conditional_puts_and_completions_at_once_one_wins() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "one-winner").await;
        let body = Bytes::from_static(b"x");
        for round in 0..10 {
            let free = Conditions { if_none_match: Some(EtagSet::Any), ..Conditions::default() };
            let outcomes = race(&fixture, 16, |client, fixture| {
                let (bucket, free, body) = (bucket.clone(), free.clone(), body.clone());
                async move {
                    if client % 2 == 0 {
                        return put_as(&fixture, &bucket, "k", &[client as u8], free).await;
                    }
                    let id = begin(&fixture, &bucket).await;
                    let parts = vec![part(&fixture, &bucket, id, 1, &body).await];
                    complete(&fixture, &bucket, id, &parts, free).await.map(drop)
                }
            })
            .await;
            let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(won, 1, "round {round}: {outcomes:?}");
            let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
            let mut kinds = BTreeMap::new();
            lost.for_each(|error| *kinds.entry(error.kind()).or_insert(0) += 1);
            assert_eq!(kinds.keys().collect::<Vec<_>>(), [&ErrorKind::Precondition]);
            let (object, _) = get(&fixture, &bucket, "k").await.unwrap();
            let same = Conditions {
                if_match: Some(EtagSet::These(vec![object.etag])),
                ..Conditions::default()
            };
            let larder = &fixture.larder;
            let gone = larder.delete_object(&fixture.root, &bucket, "k", None, &same).await;
            assert!(gone.unwrap().existed);
        }
        fixture.assert_sound().await;
    });
}

#[test]
fn entries_of_a_listing_have_what_is_known_of_objects() {
    runtime().block_on(async {
        let fixture = Fixture::new().await;
        let bucket = bucket(&fixture, "known").await;
        put(&fixture, &bucket, "k", b"\x07").await;
        let page = fixture.larder.list_objects(&fixture.root, &bucket, &all(1)).await.unwrap();
        let Some(KeyEntry::Object(object)) = page.entries.first() else { panic!("{page:?}") };
        assert_eq!((object.size, object.etag.as_str()), (1, "07".repeat(16).as_str()));
        assert!(!page.truncated);
    });
}
