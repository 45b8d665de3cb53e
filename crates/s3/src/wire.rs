//! Core's types as S3 shows them.
//!
//! Not here: what any of them means.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use larder_base::Timestamp;
use larder_core::{Bucket, Conditions, EtagSet, ObjectEntry, ObjectInfo, VersionId, Versioning};
use larder_http::{
    condition::{Preconditions, Tag, Tags},
    date,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Result,
    dto::{ETag, ETagCondition, Metadata},
    s3_error,
};

use crate::{call::header, tagging};

/// Most bytes of user metadata, names and values together.
const METADATA_BYTES_MAX: usize = 2 << 10;

/// Most bytes of the other headers that are kept with an object.
const HEADERS_BYTES_MAX: usize = 8 << 10;

/// Headers that are kept with an object and come back with it.
const KEPT: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
];

/// Storage classes that mean nothing here but can be named; the others would promise something.
const CLASSES: &[&str] = &[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
];

/// What stays as it is in a key of a listing with `encoding-type=url`.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

pub(crate) fn time(time: Timestamp) -> s3s::dto::Timestamp {
    let millis = u64::try_from(time.millis()).unwrap_or(0);
    // S3 shows milliseconds in documents and seconds in headers.
    s3s::dto::Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

pub(crate) fn etag(text: &str) -> ETag {
    ETag::Strong(text.to_owned())
}

pub(crate) fn size(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A text of a listing as the client wants it encoded.
pub(crate) fn encoded(text: &str, url: bool) -> String {
    if url { utf8_percent_encode(text, PLAIN).to_string() } else { text.to_owned() }
}

fn tags(condition: &ETagCondition) -> Tags {
    match condition {
        ETagCondition::Any => Tags::Any,
        ETagCondition::ETag(tag) => {
            Tags::These(vec![Tag { weak: tag.as_weak().is_some(), text: tag.value().to_owned() }])
        }
    }
}

/// The conditions of a read. The library has understood etags with and without quotes; dates are
/// read here, so that one that is malformed is ignored as HTTP wants it.
pub(crate) fn preconditions(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    headers: &HeaderMap,
    [modified, unmodified]: [&str; 2],
) -> Preconditions {
    let date = |name| header(headers, name).and_then(date::parse);
    Preconditions {
        if_match: if_match.map(tags),
        if_none_match: if_none_match.map(tags),
        if_modified_since: date(modified),
        if_unmodified_since: date(unmodified),
        if_range: None,
    }
}

/// The conditions of a write.
pub(crate) fn conditions(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> Conditions {
    let set = |condition: &ETagCondition, weak: bool| match condition {
        ETagCondition::Any => EtagSet::Any,
        ETagCondition::ETag(tag) if !weak && tag.as_weak().is_some() => EtagSet::These(Vec::new()),
        ETagCondition::ETag(tag) => EtagSet::These(vec![tag.value().to_owned()]),
    };
    Conditions {
        if_match: if_match.map(|condition| set(condition, false)),
        if_none_match: if_none_match.map(|condition| set(condition, true)),
        if_unmodified_since: None,
    }
}

/// What the headers of a request say about an object: headers, metadata and tags.
pub(crate) fn info(headers: &HeaderMap, metadata: Option<&Metadata>) -> S3Result<ObjectInfo> {
    let mut info = ObjectInfo::default();
    let mut length = 0;
    for name in KEPT {
        let Some(value) = headers.get(*name) else { continue };
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return Err(s3_error!(InvalidArgument, "the header {name} is no text"));
        };
        let value = if *name == "content-encoding" { unframed(value) } else { value.to_owned() };
        if value.is_empty() {
            continue;
        }
        if *name == "x-amz-storage-class" {
            if !CLASSES.contains(&value.as_str()) {
                let message = "objects of this storage class are not offered";
                return Err(s3_error!(InvalidStorageClass, "{message}"));
            }
            if value == "STANDARD" {
                continue;
            }
        }
        length += name.len() + value.len();
        info.headers.push(((*name).to_owned(), value));
    }
    if length > HEADERS_BYTES_MAX {
        return Err(s3_error!(
            RequestHeaderSectionTooLarge,
            "the headers of the object are too long"
        ));
    }
    let mut metadata: Vec<(String, String)> =
        metadata.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        > METADATA_BYTES_MAX
    {
        return Err(s3_error!(MetadataTooLarge, "user metadata may have 2 KiB"));
    }
    metadata.sort();
    info.metadata = metadata;
    info.tags = tagging::of_header(headers)?;
    Ok(info)
}

/// A content coding without the frames of the body, which are gone.
fn unframed(value: &str) -> String {
    let codings = value.split(',').map(str::trim);
    let kept: Vec<&str> =
        codings.filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect();
    kept.join(", ")
}

/// The MIME type of what headers describe.
pub(crate) fn content_type(headers: &HeaderMap) -> S3Result<Option<String>> {
    match headers.get(http::header::CONTENT_TYPE) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => match value.to_str() {
            Ok(text) if text.len() <= 255 => Ok(Some(text.to_owned())),
            _ => Err(s3_error!(InvalidArgument, "Content-Type must be ASCII of at most 255 bytes")),
        },
    }
}

/// A header that is kept with an object.
pub(crate) fn kept<'a>(object: &'a ObjectEntry, name: &str) -> Option<&'a str> {
    let headers = &object.info.as_ref()?.headers;
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The user metadata of an object.
pub(crate) fn metadata(object: &ObjectEntry) -> Option<Metadata> {
    let metadata = &object.info.as_ref()?.metadata;
    (!metadata.is_empty()).then(|| metadata.iter().cloned().collect())
}

/// The id of the version that an object is, where its bucket keeps versions.
pub(crate) fn version(bucket: &Bucket, object: &ObjectEntry) -> Option<String> {
    (bucket.versioning != Versioning::Off).then(|| object.version.to_string())
}

/// The id of a version just made, as it is shown: one that a later write replaces has none.
pub(crate) fn new_version(version: VersionId) -> Option<String> {
    (version != VersionId::Null).then(|| version.to_string())
}

/// The storage class of an object.
pub(crate) fn class(object: &ObjectEntry) -> &str {
    kept(object, "x-amz-storage-class").unwrap_or("STANDARD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn what_is_kept_is_what_clients_say_of_the_object() {
        let given = headers(&[
            ("cache-control", "no-cache"),
            ("content-encoding", "gzip, aws-chunked"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-other", "1"),
        ]);
        let info = info(&given, None).expect("well-formed");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair("cache-control", "no-cache"), pair("content-encoding", "gzip")];
        assert_eq!(info.headers, expected);
        let only_frames = headers(&[("content-encoding", "aws-chunked")]);
        assert!(super::info(&only_frames, None).expect("well-formed").headers.is_empty());
    }

    #[test]
    fn metadata_has_a_bound() {
        let of = |length: usize| Metadata::from([("a".to_owned(), "x".repeat(length))]);
        assert!(info(&HeaderMap::new(), Some(&of(2047))).is_ok());
        let refused = info(&HeaderMap::new(), Some(&of(2048))).expect_err("too large");
        assert_eq!(refused.code().as_str(), "MetadataTooLarge");
        let cold = headers(&[("x-amz-storage-class", "GLACIER")]);
        let refused = info(&cold, None).expect_err("a class that would promise something");
        assert_eq!(refused.code().as_str(), "InvalidStorageClass");
    }

    #[test]
    fn conditions_compare_as_http_wants_it() {
        let strong = ETagCondition::ETag(ETag::Strong("a".to_owned()));
        let weak = ETagCondition::ETag(ETag::Weak("a".to_owned()));
        let these = |tags: &[&str]| {
            Some(EtagSet::These(tags.iter().map(|tag| (*tag).to_owned()).collect()))
        };
        assert_eq!(conditions(Some(&strong), None).if_match, these(&["a"]));
        assert_eq!(conditions(Some(&weak), None).if_match, these(&[]));
        assert_eq!(conditions(None, Some(&weak)).if_none_match, these(&["a"]));
        assert_eq!(conditions(None, Some(&ETagCondition::Any)).if_none_match, Some(EtagSet::Any));
    }

    #[test]
    fn texts_of_listings_are_encoded_when_asked() {
        assert_eq!(encoded("a b/\u{e9}+*", true), "a%20b/%C3%A9%2B*");
        assert_eq!(encoded("a b", false), "a b");
    }
}
