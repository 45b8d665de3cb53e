//! `ListObjects`, `ListObjectsV2`, `ListObjectVersions`.
//!
//! Promises: a page goes on behind the last thing that the page before showed, whatever has
//! changed in between; texts are encoded as the client asks.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use larder_core::{KeyEntry, KeyListing, KeyPage, ObjectEntry, VersionListing, Versioning};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        ChecksumAlgorithm, ChecksumType, CommonPrefix, DeleteMarkerEntry, EncodingType,
        ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput,
        ListObjectsV2Input, ListObjectsV2Output, Object, ObjectStorageClass, ObjectVersion,
        ObjectVersionStorageClass, Owner,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call, KEY_BYTES_MAX},
    checksum,
    error::{About, is_xml},
    wire,
};

/// Most entries of a page.
const KEYS_MAX: i32 = 1000;

/// What a token begins with: those of other servers, or of other times, are none of ours.
const TOKEN: &str = "1:";

/// A token that stands for "behind this".
pub(crate) fn token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{TOKEN}{last}"))
}

/// What a token stands behind.
pub(crate) fn after(token: &str) -> S3Result<String> {
    let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.as_deref().and_then(|text| text.strip_prefix(TOKEN)).map(ToOwned::to_owned);
    let message = "the continuation token is none that was given out";
    last.filter(|last| last.len() <= KEY_BYTES_MAX && last.chars().all(is_xml))
        .ok_or_else(|| s3_error!(InvalidArgument, "{message}"))
}

fn limit(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        None => Ok(KEYS_MAX),
        Some(asked) if asked < 0 => {
            Err(s3_error!(InvalidArgument, "the most keys of a page cannot be negative"))
        }
        Some(asked) => Ok(asked.min(KEYS_MAX)),
    }
}

pub(crate) fn is_url(encoding: Option<&EncodingType>) -> S3Result<bool> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(false),
        Some(EncodingType::URL) => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "encoding-type must be url")),
    }
}

/// The prefix of a listing. It is encoded only where it would be read as another text: not every
/// client decodes it.
fn shown_prefix(prefix: String, url: bool) -> String {
    let means_another = |c: char| matches!(c, '%' | '+' | '\r') || !is_xml(c);
    if prefix.contains(means_another) { wire::encoded(&prefix, url) } else { prefix }
}

/// Refuses what Ceph's `allow-unordered` does not go with. Pages are always in order here.
fn check_order(uri: &Uri, delimiter: Option<&String>) -> S3Result<()> {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    if delimiter.is_some_and(|delimiter| !delimiter.is_empty())
        && pairs.any(|pair| pair.eq_ignore_ascii_case("allow-unordered=true"))
    {
        return Err(s3_error!(InvalidArgument, "allow-unordered does not go with a delimiter"));
    }
    Ok(())
}

async fn page(
    call: &Call,
    bucket: &larder_core::Bucket,
    listing: &KeyListing,
) -> S3Result<KeyPage> {
    if listing.limit == 0 {
        return Ok(KeyPage { entries: Vec::new(), truncated: false });
    }
    let page = call.larder().list_objects(&call.caller, bucket, listing).await;
    page.map_err(call.fails(About::Bucket))
}

fn listing(
    prefix: Option<&String>,
    delimiter: Option<&String>,
    after: Option<String>,
    limit: i32,
) -> KeyListing {
    KeyListing {
        prefix: prefix.cloned().unwrap_or_default(),
        delimiter: delimiter.cloned().filter(|delimiter| !delimiter.is_empty()),
        after: after.filter(|after| !after.is_empty()),
        limit: usize::try_from(limit).unwrap_or(0),
    }
}

/// What a page shows: objects, and what others have in common.
fn split(page: KeyPage, url: bool) -> (Vec<ObjectEntry>, Vec<CommonPrefix>) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            KeyEntry::Object(object) => objects.push(*object),
            KeyEntry::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(wire::encoded(&prefix, url)) });
            }
        }
    }
    (objects, prefixes)
}

fn shown(object: &ObjectEntry, url: bool, owner: Option<Owner>) -> Object {
    let checksum = object.info.as_ref().and_then(|info| info.checksum.as_ref());
    let algorithm = |name| vec![ChecksumAlgorithm::from_static(name)];
    Object {
        checksum_algorithm: checksum.map(|known| algorithm(checksum::name(known.algorithm))),
        checksum_type: checksum.map(|known| ChecksumType::from_static(checksum::kind(known))),
        e_tag: Some(wire::etag(&object.etag)),
        key: Some(wire::encoded(&object.key, url)),
        last_modified: Some(wire::time(object.modified)),
        owner,
        restore_status: None,
        size: Some(wire::size(object.size)),
        storage_class: Some(ObjectStorageClass::from(wire::class(object).to_owned())),
    }
}

pub(crate) async fn v1(
    call: &Call,
    request: S3Request<ListObjectsInput>,
) -> Answer<ListObjectsOutput> {
    let S3Request { input, uri, .. } = request;
    check_order(&uri, input.delimiter.as_ref())?;
    let url = is_url(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
    let listing = listing(prefix, delimiter, input.marker.clone(), limit);
    let page = page(call, &bucket, &listing).await?;
    let truncated = page.truncated;
    let last = page.entries.last().map(|entry| entry.name().to_owned());
    let (objects, prefixes) = split(page, url);
    let owner = Some(call.owner(bucket.owner).await?);
    let contents = objects.iter().map(|object| shown(object, url, owner.clone())).collect();
    let encoded = |text: String| wire::encoded(&text, url);
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(shown_prefix(input.prefix.unwrap_or_default(), url)),
        marker: Some(encoded(input.marker.unwrap_or_default())),
        max_keys: Some(limit),
        is_truncated: Some(truncated),
        contents: Some(contents),
        common_prefixes: Some(prefixes),
        next_marker: last.filter(|_| truncated).map(encoded),
        delimiter: input.delimiter.filter(|text| !text.is_empty()).map(encoded),
        encoding_type: input.encoding_type,
        request_charged: None,
    }))
}

pub(crate) async fn v2(
    call: &Call,
    request: S3Request<ListObjectsV2Input>,
) -> Answer<ListObjectsV2Output> {
    let S3Request { input, uri, .. } = request;
    check_order(&uri, input.delimiter.as_ref())?;
    let url = is_url(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let behind = match input.continuation_token.as_deref() {
        None | Some("") => input.start_after.clone(),
        Some(token) => Some(after(token)?),
    };
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
    let page = page(call, &bucket, &listing(prefix, delimiter, behind, limit)).await?;
    let truncated = page.truncated;
    let last = page.entries.last().map(|entry| token(entry.name()));
    let count = i32::try_from(page.entries.len()).unwrap_or(i32::MAX);
    let (objects, prefixes) = split(page, url);
    let owner = match input.fetch_owner {
        Some(true) => Some(call.owner(bucket.owner).await?),
        _ => None,
    };
    let contents = objects.iter().map(|object| shown(object, url, owner.clone())).collect();
    let encoded = |text: String| wire::encoded(&text, url);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(shown_prefix(input.prefix.unwrap_or_default(), url)),
        max_keys: Some(limit),
        key_count: Some(count),
        continuation_token: input.continuation_token,
        is_truncated: Some(truncated),
        next_continuation_token: last.filter(|_| truncated),
        contents: Some(contents),
        common_prefixes: Some(prefixes),
        delimiter: input.delimiter.filter(|text| !text.is_empty()).map(encoded),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(encoded),
        request_charged: None,
    }))
}

pub(crate) async fn versions(
    call: &Call,
    request: S3Request<ListObjectVersionsInput>,
) -> Answer<ListObjectVersionsOutput> {
    let input = request.input;
    let url = is_url(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let no_key = input.key_marker.as_deref().unwrap_or_default().is_empty();
    if no_key && input.version_id_marker.as_ref().is_some_and(|marker| !marker.is_empty()) {
        let message = "a version-id marker cannot be specified without a key marker";
        return Err(s3_error!(InvalidArgument, "{message}"));
    }
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
    let keys = listing(prefix, delimiter, input.key_marker.clone(), limit);
    let page = if bucket.versioning == Versioning::Off {
        page(call, &bucket, &keys).await?
    } else {
        let after_version = Call::version(input.version_id_marker.as_deref())?;
        let listing = VersionListing { keys, after_version };
        let page = call.larder().list_versions(&call.caller, &bucket, &listing).await;
        page.map_err(call.fails(About::Bucket))?
    };
    let truncated = page.truncated;
    let last = page.entries.last().map(|entry| entry.name().to_owned());
    let last_version = match page.entries.last() {
        Some(KeyEntry::Object(object)) => Some(object.version.to_string()),
        _ => None,
    };
    let (objects, prefixes) = split(page, url);
    let (markers, objects): (Vec<_>, Vec<_>) = objects.into_iter().partition(|one| one.marker);
    let owner = call.owner(bucket.owner).await?;
    let markers = markers.into_iter().map(|object| DeleteMarkerEntry {
        is_latest: Some(object.latest),
        key: Some(wire::encoded(&object.key, url)),
        last_modified: Some(wire::time(object.modified)),
        owner: Some(owner.clone()),
        version_id: Some(object.version.to_string()),
    });
    let markers = markers.collect();
    let versions = objects.iter().map(|version| {
        let object = shown(version, url, Some(owner.clone()));
        let class = object.storage_class.as_ref().map_or("STANDARD", ObjectStorageClass::as_str);
        ObjectVersion {
            storage_class: Some(ObjectVersionStorageClass::from(class.to_owned())),
            checksum_algorithm: object.checksum_algorithm,
            checksum_type: object.checksum_type,
            e_tag: object.e_tag,
            is_latest: Some(version.latest),
            key: object.key,
            last_modified: object.last_modified,
            owner: object.owner,
            restore_status: None,
            size: object.size,
            version_id: Some(version.version.to_string()),
        }
    });
    let versions = versions.collect();
    let encoded = |text: String| wire::encoded(&text, url);
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: Some(prefixes),
        delete_markers: Some(markers),
        delimiter: input.delimiter.filter(|text| !text.is_empty()).map(encoded),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: Some(encoded(input.key_marker.unwrap_or_default())),
        max_keys: Some(limit),
        name: Some(input.bucket),
        next_version_id_marker: last_version.filter(|_| truncated),
        next_key_marker: last.filter(|_| truncated).map(encoded),
        prefix: Some(shown_prefix(input.prefix.unwrap_or_default(), url)),
        request_charged: None,
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: Some(versions),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_bound_to_what_was_listed_last() {
        for last in ["a", "photos/", "\u{e9} &", ""] {
            assert_eq!(after(&token(last)).expect("ours"), last);
        }
        for foreign in ["", "a", "####", "MjphYmM", &token("\u{1}"), &token(&"x".repeat(1025))] {
            let error = after(foreign).expect_err("none of ours");
            assert_eq!(error.code().as_str(), "InvalidArgument", "{foreign}");
        }
    }

    #[test]
    fn a_prefix_reads_the_same_decoded_or_not() {
        for plain in ["", "a/b", "\n", "\u{e9} &"] {
            assert_eq!(shown_prefix(plain.into(), true), plain);
        }
        for special in ["a+b", "a%20b", "\u{1}", "\r"] {
            let shown = shown_prefix(special.into(), true);
            assert_ne!(shown, special);
            let decoded = percent_encoding::percent_decode_str(&shown).decode_utf8();
            assert_eq!(decoded.expect("UTF-8"), special);
            assert_eq!(shown_prefix(special.into(), false), special);
        }
    }

    #[test]
    fn unordered_pages_have_no_prefixes() {
        let uri = Uri::from_static("/b?list-type=2&allow-unordered=true");
        assert!(check_order(&uri, None).is_ok());
        assert!(check_order(&uri, Some(&"/".to_owned())).is_err());
        assert!(check_order(&Uri::from_static("/b?delimiter=/"), Some(&"/".to_owned())).is_ok());
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(limit(None).expect("fine"), 1000);
        assert_eq!(limit(Some(0)).expect("fine"), 0);
        assert_eq!(limit(Some(5000)).expect("fine"), 1000);
        assert!(limit(Some(-1)).is_err());
    }
}
