//! Tags of objects and buckets.
//!
//! Promises: tags that are taken come back as they were given, in order of keys; nothing but a
//! whole set of them is ever set.
//!
//! Not here: what a policy makes of them (core).

use http::HeaderMap;
use larder_core::{BucketSetting, ObjectChange};
use percent_encoding::percent_decode_str;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeleteObjectTaggingInput,
        DeleteObjectTaggingOutput, GetBucketTaggingInput, GetBucketTaggingOutput,
        GetObjectTaggingInput, GetObjectTaggingOutput, PutBucketTaggingInput,
        PutBucketTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput, Tag, Tagging,
    },
    s3_error,
    xml::{Deserialize as _, Deserializer},
};

use crate::{
    call::{Answer, Call},
    error::{About, is_xml},
};

/// Most tags of an object.
const OBJECT_TAGS_MAX: usize = 10;

/// Most tags of a bucket.
const BUCKET_TAGS_MAX: usize = 50;

/// Longest key and longest value, in characters.
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

const NAME: &str = "x-amz-tagging";

/// Keys and values.
pub(crate) type Tags = Vec<(String, String)>;

/// The tags that a header gives an object, written as the query of a URL.
pub(crate) fn of_header(headers: &HeaderMap) -> S3Result<Tags> {
    let Some(value) = headers.get(NAME) else { return Ok(Vec::new()) };
    let malformed = || {
        let message = "x-amz-tagging must be a query of a URL, with each key once";
        s3_error!(InvalidArgument, "{message}")
    };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| malformed())?;
    let decoded = |text: &str| -> S3Result<String> {
        let text = text.replace('+', " ");
        let text = percent_decode_str(&text).decode_utf8().map_err(|_| malformed())?;
        Ok(text.into_owned())
    };
    let mut tags = Tags::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decoded(key)?, decoded(value)?);
        if tags.iter().any(|(known, _)| *known == key) {
            return Err(malformed());
        }
        tags.push((key, value));
        // What is too much is not looked at any further.
        if tags.len() > OBJECT_TAGS_MAX {
            break;
        }
    }
    checked(tags, OBJECT_TAGS_MAX)
}

/// The tags that the field of a form gives an object: the text of a document.
pub(crate) fn of_field(text: &str) -> S3Result<Tags> {
    let document = Tagging::deserialize(&mut Deserializer::new(text.as_bytes()));
    let document = document.map_err(|_| s3_error!(MalformedXML, "tagging is no Tagging"))?;
    of_document(document.tag_set, OBJECT_TAGS_MAX)
}

/// The tags of a document.
fn of_document(set: Vec<Tag>, max: usize) -> S3Result<Tags> {
    let pair = |tag: Tag| match (tag.key, tag.value) {
        (Some(key), Some(value)) => Ok((key, value)),
        _ => Err(s3_error!(MalformedXML, "a tag has a key and a value")),
    };
    checked(set.into_iter().map(pair).collect::<S3Result<_>>()?, max)
}

/// Tags in order, if they can be some.
fn checked(mut tags: Tags, max: usize) -> S3Result<Tags> {
    if tags.len() > max {
        return Err(s3_error!(InvalidTag, "there can be at most {max} tags"));
    }
    for (key, value) in &tags {
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
            let message = "the key of a tag has 1 to 128 characters";
            return Err(s3_error!(InvalidTag, "{message}"));
        }
        if value.chars().count() > VALUE_CHARS_MAX {
            let message = "the value of a tag has at most 256 characters";
            return Err(s3_error!(InvalidTag, "{message}"));
        }
        if !key.chars().chain(value.chars()).all(is_xml) {
            let message = "a tag has characters that no document could show";
            return Err(s3_error!(InvalidTag, "{message}"));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            let message = "keys of tags that begin with aws: are reserved";
            return Err(s3_error!(InvalidTag, "{message}"));
        }
    }
    tags.sort();
    let twice = |pair: &[(String, String)]| match pair {
        [(one, _), (other, _)] => one == other,
        _ => false,
    };
    if tags.windows(2).any(twice) {
        return Err(s3_error!(InvalidTag, "the keys of tags must differ"));
    }
    Ok(tags)
}

fn shown(tags: &[(String, String)]) -> Vec<Tag> {
    let tags = tags.iter();
    tags.map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetObjectTaggingInput>,
) -> Answer<GetObjectTaggingOutput> {
    let input = request.input;
    Call::check_key(&input.key)?;
    let version = Call::version(input.version_id.as_deref())?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let found = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    let object = found.map_err(call.fails(About::Object))?.object();
    Ok(S3Response::new(GetObjectTaggingOutput {
        tag_set: object.info.as_ref().map(|info| shown(&info.tags)).unwrap_or_default(),
        version_id: crate::wire::version(&bucket, &object),
    }))
}

/// Sets the tags of an object; answers the version whose tags they are.
async fn set(
    call: &Call,
    (name, owner): (&str, Option<&str>),
    (key, version): (&str, Option<&str>),
    tags: Tags,
) -> S3Result<Option<String>> {
    Call::check_key(key)?;
    let version = Call::version(version)?;
    let bucket = call.bucket(name, owner).await?;
    let change = ObjectChange { tags: Some(tags), ..ObjectChange::default() };
    let changed = call.larder().change_object(&call.caller, &bucket, key, version, &change).await;
    let changed = changed.map_err(call.fails(About::Object))?;
    let keeps = bucket.versioning != larder_core::Versioning::Off;
    Ok(keeps.then(|| changed.to_string()))
}

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutObjectTaggingInput>,
) -> Answer<PutObjectTaggingOutput> {
    let input = request.input;
    let tags = of_document(input.tagging.tag_set, OBJECT_TAGS_MAX)?;
    let bucket = (input.bucket.as_str(), input.expected_bucket_owner.as_deref());
    let object = (input.key.as_str(), input.version_id.as_deref());
    let version_id = set(call, bucket, object, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(crate) async fn delete(
    call: &Call,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Answer<DeleteObjectTaggingOutput> {
    let input = request.input;
    let bucket = (input.bucket.as_str(), input.expected_bucket_owner.as_deref());
    let object = (input.key.as_str(), input.version_id.as_deref());
    let version_id = set(call, bucket, object, Tags::new()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

pub(crate) async fn get_bucket(
    call: &Call,
    request: S3Request<GetBucketTaggingInput>,
) -> Answer<GetBucketTaggingOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let text = call.larder().bucket_setting(&call.caller, &bucket, BucketSetting::Tags).await;
    let Some(text) = text.map_err(call.fails(About::Bucket))? else {
        return Err(s3_error!(NoSuchTagSet, "the bucket has no tags"));
    };
    let tags: Tags = serde_json::from_str(&text).map_err(|error| {
        let detail = format!("the tags of bucket {}: {error}", bucket.id);
        call.error(&larder_core::Error::internal(detail), About::Bucket)
    })?;
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set: shown(&tags) }))
}

async fn set_bucket(
    call: &Call,
    name: &str,
    owner: Option<&str>,
    text: Option<String>,
) -> S3Result<()> {
    let bucket = call.bucket(name, owner).await?;
    let setting = BucketSetting::Tags;
    let set = call.larder().set_bucket_setting(&call.caller, &bucket, setting, text).await;
    set.map_err(call.fails(About::Bucket))
}

pub(crate) async fn put_bucket(
    call: &Call,
    request: S3Request<PutBucketTaggingInput>,
) -> Answer<PutBucketTaggingOutput> {
    let input = request.input;
    let tags = of_document(input.tagging.tag_set, BUCKET_TAGS_MAX)?;
    let text = serde_json::to_string(&tags).map_err(|error| {
        let detail = format!("write the tags of a bucket: {error}");
        call.error(&larder_core::Error::internal(detail), About::Bucket)
    })?;
    set_bucket(call, &input.bucket, input.expected_bucket_owner.as_deref(), Some(text)).await?;
    Ok(S3Response::new(PutBucketTaggingOutput {}))
}

pub(crate) async fn delete_bucket(
    call: &Call,
    request: S3Request<DeleteBucketTaggingInput>,
) -> Answer<DeleteBucketTaggingOutput> {
    let input = request.input;
    set_bucket(call, &input.bucket, input.expected_bucket_owner.as_deref(), None).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Tags, String> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, text.parse().expect("a value"));
        of_header(&headers).map_err(|error| error.code().as_str().to_owned())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn headers_are_queries() {
        let tags = header("foo=bar&bar&a%26b=c+d%3d").expect("well-formed");
        assert_eq!(tags, [pair("a&b", "c d="), pair("bar", ""), pair("foo", "bar")]);
        assert_eq!(header(""), Ok(Vec::new()));
        assert_eq!(of_header(&HeaderMap::new()).expect("nothing"), Vec::new());
        for malformed in ["a=1&a=2", "a=%ff", "a=1&%61=1"] {
            assert_eq!(header(malformed), Err("InvalidArgument".to_owned()), "{malformed}");
        }
        let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(header(&numbers(10).join("&")).map(|tags| tags.len()), Ok(10));
        let eleven = numbers(11).join("&");
        for bad in [eleven.as_str(), "=1", "aws:a=1", "AWS:a=1", "a=%01"] {
            assert_eq!(header(bad), Err("InvalidTag".to_owned()), "{bad}");
        }
    }

    #[test]
    fn lengths_are_in_characters() {
        let of = |key: usize, value: usize| {
            let tags = vec![(pair(&"\u{e9}".repeat(key), &"\u{e9}".repeat(value)))];
            checked(tags, 1).map_err(|error| error.code().as_str().to_owned())
        };
        assert!(of(128, 256).is_ok());
        assert!(of(129, 0).is_err() && of(1, 257).is_err() && of(0, 1).is_err());
    }

    #[test]
    fn documents_have_whole_tags_that_differ() {
        let tag = |key: Option<&str>, value: Option<&str>| Tag {
            key: key.map(ToOwned::to_owned),
            value: value.map(ToOwned::to_owned),
        };
        let of = |set| of_document(set, 2).map_err(|error| error.code().as_str().to_owned());
        let set = vec![tag(Some("b"), Some("")), tag(Some("a"), Some("1"))];
        assert_eq!(of(set), Ok(vec![pair("a", "1"), pair("b", "")]));
        assert_eq!(of(vec![tag(None, Some("1"))]), Err("MalformedXML".to_owned()));
        let twice = vec![tag(Some("a"), Some("1")), tag(Some("a"), Some("2"))];
        assert_eq!(of(twice), Err("InvalidTag".to_owned()));
    }
}
