//! `GetObject`, `HeadObject`, `GetObjectAttributes`.
//!
//! Promises: headers and bytes of an answer belong to one revision; content is served so that no
//! browser runs it; small content leaves in one piece.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use larder_core::{Bucket, ObjectEntry, ObjectInfo};
use larder_http::{
    ResponseBody,
    condition::{Preconditions, Verdict},
    date, range,
};
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        self, Checksum, ChecksumMode, GetObjectAttributesInput, GetObjectAttributesOutput,
        GetObjectAttributesParts, GetObjectInput, GetObjectOutput, HeadObjectInput,
        HeadObjectOutput, ObjectAttributes, ObjectPart, StorageClass,
    },
    s3_error,
};

use super::multipart;
use crate::{
    call::{Answer, Call},
    checksum::show,
    error::{About, set_headers},
    lifecycle, lock, nothing, wire,
};

const TAGGING_COUNT: HeaderName = HeaderName::from_static("x-amz-tagging-count");

const MODIFIED: [&str; 2] = ["if-modified-since", "if-unmodified-since"];

/// What of an object is asked for.
struct Wanted {
    range: Option<Range<u64>>,
    /// How many parts it has, where one of them is asked for.
    parts: Option<i32>,
}

/// Judges the conditions of a read.
pub(crate) fn judge(conditions: &Preconditions, object: &ObjectEntry) -> S3Result<()> {
    match conditions.evaluate(&object.etag, object.modified) {
        Verdict::Proceed => Ok(()),
        Verdict::Failed => Err(s3_error!(PreconditionFailed, "the object is another one")),
        Verdict::NotModified => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            error.set_status_code(http::StatusCode::NOT_MODIFIED);
            let mut headers = HeaderMap::new();
            if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", object.etag)) {
                headers.insert(header::ETAG, etag);
            }
            headers.insert(header::LAST_MODIFIED, date::header(object.modified));
            for name in [header::CACHE_CONTROL, header::EXPIRES] {
                let value = wire::kept(object, name.as_str()).map(HeaderValue::try_from);
                if let Some(Ok(value)) = value {
                    headers.insert(name, value);
                }
            }
            set_headers(&mut error, headers);
            Err(error)
        }
    }
}

/// Which bytes are asked for.
fn wanted(object: &ObjectEntry, given: Option<dto::Range>, part: Option<i32>) -> S3Result<Wanted> {
    let size = object.size;
    match (given, part) {
        (None, None) => Ok(Wanted { range: None, parts: None }),
        (Some(_), Some(_)) => {
            let message = "Range and partNumber cannot both be asked for";
            Err(s3_error!(InvalidRequest, "{message}"))
        }
        (Some(range), None) => match range.check(size) {
            Ok(range) => Ok(Wanted { range: Some(range), parts: None }),
            Err(_) => Err(unsatisfiable(size)),
        },
        (None, Some(number)) => {
            let number = multipart::part_number(number)?;
            let count = object.info.as_ref().map_or(0, |info| info.parts_count());
            if count == 0 && number == 1 {
                return Ok(Wanted { range: (size > 0).then_some(0..size), parts: None });
            }
            let range = object.info.as_ref().and_then(|info| info.part_range(number));
            let Some(range) = range else {
                return Err(s3_error!(InvalidPart, "the object has no such part"));
            };
            Ok(Wanted { range: Some(range), parts: i32::try_from(count).ok() })
        }
    }
}

fn unsatisfiable(size: u64) -> S3Error {
    let mut error = s3_error!(InvalidRange, "the object has {} bytes", size);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    set_headers(&mut error, headers);
    error
}

/// Sets what GET and HEAD both show of an object.
macro_rules! describe {
    ($output:expr, $object:expr, $bucket:expr) => {
        let kept = |name| wire::kept($object, name).map(ToOwned::to_owned);
        $output.version_id = wire::version($bucket, $object);
        $output.accept_ranges = Some("bytes".to_owned());
        $output.cache_control = kept("cache-control");
        $output.content_disposition = kept("content-disposition");
        $output.content_encoding = kept("content-encoding");
        $output.content_language = kept("content-language");
        $output.content_type = Some($object.content_type.to_string());
        $output.e_tag = Some(wire::etag(&$object.etag));
        $output.last_modified = Some(wire::time($object.modified));
        $output.metadata = wire::metadata($object);
        $output.website_redirect_location = kept("x-amz-website-redirect-location");
        $output.storage_class = kept("x-amz-storage-class").map(StorageClass::from);
        $output.object_lock_mode = lock::shown_mode($object);
        $output.object_lock_retain_until_date = $object.retention.map(|it| wire::time(it.until));
        $output.object_lock_legal_hold_status = lock::shown_hold($object);
    };
}

/// Headers of every answer with content, and those that the library has no text for.
fn guarded(object: &ObjectEntry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // An object must not run as a page of ours.
    let sandbox = HeaderValue::from_static("sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    if let Some(Ok(value)) = wire::kept(object, "expires").map(HeaderValue::try_from) {
        headers.insert(header::EXPIRES, value);
    }
    let tags = object.info.as_ref().map_or(0, |info| info.tags.len());
    if tags > 0 {
        headers.insert(TAGGING_COUNT, HeaderValue::from(tags));
    }
    headers
}

/// When the object ends, if it is the current version.
pub(crate) async fn end(call: &Call, bucket: &Bucket, object: &ObjectEntry) -> Option<String> {
    if !object.latest {
        return None;
    }
    let written = (object.size, object.modified);
    lifecycle::expiration(call, bucket, &object.key, written, object.info.as_deref()).await
}

fn checksum_asked(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetObjectInput>,
) -> Answer<GetObjectOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let version = Call::version(input.version_id.as_deref())?;
    let download = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    let download = download.map_err(call.fails(About::Object))?;
    let object = download.object().clone();
    let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
    judge(&wire::preconditions(if_match, if_none_match, &headers, MODIFIED), &object)?;
    let size = object.size;
    let wanted = wanted(&object, input.range, input.part_number)?;
    let mut output = GetObjectOutput::default();
    describe!(output, &object, &bucket);
    output.expiration = end(call, &bucket, &object).await;
    output.parts_count = wanted.parts;
    let span = match wanted.range {
        Some(span) => {
            output.content_range = Some(range::content_range(&span, size));
            span
        }
        None => {
            if checksum_asked(input.checksum_mode.as_ref()) {
                let checksum = object.info.as_ref().and_then(|info| info.checksum.as_ref());
                show!(output, checksum, with type);
            }
            0..size
        }
    };
    let length = span.end - span.start;
    output.content_length = Some(wire::size(length));
    let body = if length == 0 {
        nothing()
    } else {
        let body = download.read(span).await.map_err(call.fails(About::Object))?;
        ResponseBody::read(body, length).await.map_err(call.fails(About::Object))?
    };
    call.trail.answer(body);
    Ok(S3Response::with_headers(output, guarded_for(&object, input.response_expires.is_some())))
}

/// Those of [`guarded`] that the request does not override.
fn guarded_for(object: &ObjectEntry, expires_given: bool) -> HeaderMap {
    let mut headers = guarded(object);
    if expires_given {
        headers.remove(header::EXPIRES);
    }
    headers
}

pub(crate) async fn head(
    call: &Call,
    request: S3Request<HeadObjectInput>,
) -> Answer<HeadObjectOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let version = Call::version(input.version_id.as_deref())?;
    let download = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    let download = download.map_err(call.fails(About::Object))?;
    let object = download.object().clone();
    let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
    judge(&wire::preconditions(if_match, if_none_match, &headers, MODIFIED), &object)?;
    let size = object.size;
    let wanted = wanted(&object, input.range, input.part_number)?;
    let mut output = HeadObjectOutput::default();
    describe!(output, &object, &bucket);
    output.expiration = end(call, &bucket, &object).await;
    output.parts_count = wanted.parts;
    let mut status = None;
    let length = match wanted.range {
        Some(span) => {
            status = Some(http::StatusCode::PARTIAL_CONTENT);
            output.content_range = Some(range::content_range(&span, size));
            span.end - span.start
        }
        None => {
            if checksum_asked(input.checksum_mode.as_ref()) {
                let checksum = object.info.as_ref().and_then(|info| info.checksum.as_ref());
                show!(output, checksum, with type);
            }
            size
        }
    };
    output.content_length = Some(wire::size(length));
    let mut response = S3Response::with_headers(output, guarded(&object));
    response.status = status;
    Ok(response)
}

pub(crate) async fn attributes(
    call: &Call,
    request: S3Request<GetObjectAttributesInput>,
) -> Answer<GetObjectAttributesOutput> {
    let input = request.input;
    Call::check_key(&input.key)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let version = Call::version(input.version_id.as_deref())?;
    let download = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    let download = download.map_err(call.fails(About::Object))?;
    let object = download.object().clone();
    // The library takes one value for each header line; clients send a list in one.
    let asked: Vec<&str> = input
        .object_attributes
        .iter()
        .flat_map(|attributes| attributes.as_str().split(','))
        .map(str::trim)
        .collect();
    let has = |name| asked.contains(&name);
    let mut output = GetObjectAttributesOutput {
        version_id: wire::version(&bucket, &object),
        last_modified: Some(wire::time(object.modified)),
        ..Default::default()
    };
    if has(ObjectAttributes::ETAG) {
        output.e_tag = Some(wire::etag(&object.etag));
    }
    if has(ObjectAttributes::OBJECT_SIZE) {
        output.object_size = Some(wire::size(object.size));
    }
    if has(ObjectAttributes::STORAGE_CLASS) {
        output.storage_class = Some(StorageClass::from(wire::class(&object).to_owned()));
    }
    if has(ObjectAttributes::CHECKSUM)
        && let Some(known) = object.info.as_ref().and_then(|info| info.checksum.as_ref())
    {
        let mut checksum = Checksum::default();
        show!(checksum, Some(known), with type);
        output.checksum = Some(checksum);
    }
    if has(ObjectAttributes::OBJECT_PARTS)
        && let Some(info) = object.info.as_ref().filter(|info| info.parts_count() > 0)
    {
        output.object_parts = Some(parts_of(info, input.part_number_marker, input.max_parts));
    }
    Ok(S3Response::new(output))
}

fn parts_of(
    info: &ObjectInfo,
    marker: Option<i32>,
    limit: Option<i32>,
) -> GetObjectAttributesParts {
    let count = info.parts_count();
    let after = u32::try_from(marker.unwrap_or(0)).unwrap_or(0).min(count);
    let limit = u32::try_from(limit.unwrap_or(1000)).unwrap_or(0).min(1000);
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let last = after.saturating_add(limit).min(count);
    let shown = (after + 1..=last).filter_map(|at| {
        let range = info.part_range(at)?;
        let size = Some(wire::size(range.end - range.start));
        Some(ObjectPart { part_number: Some(number(at)), size, ..Default::default() })
    });
    GetObjectAttributesParts {
        is_truncated: Some(last < count),
        max_parts: Some(number(limit)),
        next_part_number_marker: Some(number(last)),
        part_number_marker: Some(number(after)),
        parts: Some(shown.collect()),
        total_parts_count: Some(number(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_paged() {
        let info = ObjectInfo { parts: vec![(1, 5), (2, 6)], ..ObjectInfo::default() };
        let page = parts_of(&info, Some(1), Some(1));
        assert_eq!(page.is_truncated, Some(true));
        assert_eq!(page.next_part_number_marker, Some(2));
        let sizes: Vec<_> = page.parts.into_iter().flatten().map(|part| part.size).collect();
        assert_eq!(sizes, [Some(6)]);
        let page = parts_of(&info, Some(-1), None);
        assert_eq!(page.is_truncated, Some(false));
        assert_eq!(page.parts.map(|parts| parts.len()), Some(3));
    }

    #[test]
    fn a_range_beyond_the_end_says_how_long_the_object_is() {
        let error = unsatisfiable(10);
        assert_eq!(error.status_code(), Some(http::StatusCode::RANGE_NOT_SATISFIABLE));
        let headers = error.headers().expect("headers");
        assert_eq!(headers["content-range"], "bytes */10");
    }
}
