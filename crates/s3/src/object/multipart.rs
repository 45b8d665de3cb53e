//! Multipart uploads.
//!
//! Promises: a part is durable, and verified against every digest that came with it, when it is
//! answered; an upload id opens only the upload of its bucket and key (core); a completion that
//! is repeated is answered again.

use std::collections::{BTreeMap, btree_map::Entry};

use larder_base::id::UploadId;
use larder_core::{
    Completion, KeyListing, MultipartEntry, MultipartInfo, MultipartListing, MultipartRef,
    NamedPart, NewMultipart, ObjectDigest,
};
use larder_http::condition::Verdict;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
        CommonPrefix, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
        CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput, Initiator,
        ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
        MultipartUpload, Owner, Part, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
        UploadPartOutput,
    },
    s3_error,
};

use super::{copy, get::end, list, put};
use crate::{
    acl,
    call::{Answer, Call},
    checksum::{self, Digests, Hasher, show},
    error::About,
    lock::Asked,
    wire,
};

/// Most parts of an upload, and most entries of a page of them.
const PARTS_MAX: i32 = 10_000;
const PAGE_MAX: i32 = 1000;

fn upload_id(text: &str) -> S3Result<UploadId> {
    text.parse().map_err(|_| s3_error!(NoSuchUpload, "there is no such upload"))
}

pub(crate) fn part_number(number: i32) -> S3Result<u32> {
    let valid = (1..=PARTS_MAX).contains(&number).then(|| u32::try_from(number).ok()).flatten();
    valid.ok_or_else(|| s3_error!(InvalidArgument, "partNumber must be 1 to 10000"))
}

fn page_limit(asked: Option<i32>) -> S3Result<usize> {
    match asked {
        None => Ok(1000),
        Some(asked) => usize::try_from(asked.min(PAGE_MAX))
            .map_err(|_| s3_error!(InvalidArgument, "the length of a page cannot be negative")),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn type_of((_, whole): (larder_core::ChecksumAlgorithm, bool)) -> ChecksumType {
    ChecksumType::from_static(if whole {
        ChecksumType::FULL_OBJECT
    } else {
        ChecksumType::COMPOSITE
    })
}

fn algorithm_of((algorithm, _): (larder_core::ChecksumAlgorithm, bool)) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(checksum::name(algorithm))
}

/// The checksum that an upload asks for.
fn asked(
    algorithm: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(larder_core::ChecksumAlgorithm, bool)>> {
    use larder_core::ChecksumAlgorithm as Algorithm;
    let Some(name) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => {
                let message = "x-amz-checksum-type needs x-amz-checksum-algorithm";
                Err(s3_error!(InvalidRequest, "{message}"))
            }
        };
    };
    let algorithm = checksum::algorithm(name.as_str())?;
    let whole = match (kind.map(ChecksumType::as_str), algorithm) {
        (None, algorithm) => algorithm == Algorithm::Crc64Nvme,
        (Some(ChecksumType::COMPOSITE), Algorithm::Crc64Nvme)
        | (Some(ChecksumType::FULL_OBJECT), Algorithm::Sha1 | Algorithm::Sha256) => {
            let message = "this checksum algorithm cannot be used with this checksum type";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        (Some(ChecksumType::COMPOSITE), _) => false,
        (Some(ChecksumType::FULL_OBJECT), _) => true,
        (Some(_), _) => {
            let message = "x-amz-checksum-type must be COMPOSITE or FULL_OBJECT";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
    };
    Ok(Some((algorithm, whole)))
}

pub(crate) async fn create(
    call: &Call,
    request: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let checksum = asked(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let lock = Asked {
        mode: input.object_lock_mode.as_ref(),
        until: input.object_lock_retain_until_date.as_ref(),
        hold: input.object_lock_legal_hold_status.as_ref(),
    };
    let mut new = NewMultipart {
        retention: lock.read(call.env().now(), &bucket)?,
        content_type: wire::content_type(&headers)?,
        info: wire::info(&headers, input.metadata.as_ref())?,
        checksum,
    };
    new.info.acl = acl::of_object(call, &bucket, &headers).await?;
    let id = call.larder().create_multipart(&call.caller, &bucket, &input.key, new).await;
    let id = id.map_err(call.fails(About::Write))?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: checksum.map(algorithm_of),
        checksum_type: checksum.map(type_of),
        key: Some(input.key),
        upload_id: Some(id.to_string()),
        ..Default::default()
    }))
}

pub(crate) async fn part(
    call: &Call,
    request: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let S3Request { input, headers, trailing_headers, .. } = request;
    let id = upload_id(&input.upload_id)?;
    let part_number = part_number(input.part_number)?;
    let digests = Digests::new(&headers)?;
    let (content, length) = put::content(call, input.body)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let upload = MultipartRef { bucket: &bucket, key: &input.key, id };
    let part = call.larder().multipart_part(&call.caller, upload, part_number, Some(length)).await;
    let mut part = part.map_err(call.fails(About::Upload))?;
    let content = (content, length);
    let trailer = trailing_headers.as_ref();
    let verified = put::store(call, content, digests, trailer, &mut part, About::Upload).await?;
    part.describe(verified.md5, verified.checksum.clone());
    part.finish().await.map_err(call.fails(About::Upload))?;
    let etag = ObjectDigest::Md5(verified.md5).to_string();
    let mut output = UploadPartOutput { e_tag: Some(wire::etag(&etag)), ..Default::default() };
    show!(output, &verified.checksum);
    Ok(S3Response::new(output))
}

pub(crate) async fn part_copy(
    call: &Call,
    request: S3Request<UploadPartCopyInput>,
) -> Answer<UploadPartCopyOutput> {
    let S3Request { input, headers, .. } = request;
    let id = upload_id(&input.upload_id)?;
    let number = part_number(input.part_number)?;
    let expected = input.expected_source_bucket_owner.as_deref();
    let (from, from_key, version, reader) =
        copy::source(call, &input.copy_source, expected).await?;
    let to = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let upload = MultipartRef { bucket: &to, key: &input.key, id };
    let info = info(call, upload).await?;
    let download = call.larder().object(&reader, &from, &from_key, version).await;
    let download = download.map_err(call.fails(About::Object))?;
    let object = download.object().clone();
    let (if_match, if_none_match) =
        (input.copy_source_if_match.as_ref(), input.copy_source_if_none_match.as_ref());
    let conditions = wire::preconditions(if_match, if_none_match, &headers, copy::MODIFIED);
    if conditions.evaluate(&object.etag, object.modified) != Verdict::Proceed {
        return Err(s3_error!(PreconditionFailed, "the source is another one"));
    }
    let span = match &input.copy_source_range {
        None => 0..object.size,
        Some(text) => span(text, object.size)?,
    };
    let length = span.end - span.start;
    let part = call.larder().multipart_part(&call.caller, upload, number, Some(length)).await;
    let mut part = part.map_err(call.fails(About::Upload))?;
    let mut digests = Digests::new(&http::HeaderMap::new())?;
    let mut hasher = info.checksum.map(|(algorithm, _)| Hasher::new(algorithm));
    let mut body = download.read(span).await.map_err(call.fails(About::Object))?;
    drop(download);
    while let Some(bytes) = body.next().await.map_err(call.fails(About::Object))? {
        digests.update(&bytes);
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        part.write(bytes).await.map_err(call.fails(About::Upload))?;
    }
    let md5 = digests.finish(None)?.md5;
    let checksum = hasher.map(Hasher::finish);
    part.describe(md5, checksum.clone());
    part.finish().await.map_err(call.fails(About::Upload))?;
    let mut result = CopyPartResult {
        e_tag: Some(wire::etag(&ObjectDigest::Md5(md5).to_string())),
        last_modified: Some(wire::time(call.env().now())),
        ..Default::default()
    };
    show!(result, &checksum);
    let copy_part_result = Some(result);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..Default::default() }))
}

/// `bytes=FIRST-LAST`, which must lie within the source.
fn span(text: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    let message = "x-amz-copy-source-range must be bytes=FIRST-LAST";
    let malformed = || s3_error!(InvalidArgument, "{message}");
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, last) = text
        .strip_prefix("bytes=")
        .and_then(|text| text.split_once('-'))
        .and_then(|(first, last)| Some((number(first)?, number(last)?)))
        .ok_or_else(malformed)?;
    if first > last {
        return Err(malformed());
    }
    if last >= size {
        return Err(s3_error!(InvalidRange, "the source has {} bytes", size));
    }
    Ok(first..last + 1)
}

/// What is known of an upload itself.
async fn info(call: &Call, upload: MultipartRef<'_>) -> S3Result<MultipartInfo> {
    let behind_all = PARTS_MAX.unsigned_abs();
    let found = call.larder().multipart_parts(&call.caller, upload, behind_all, 1).await;
    let (info, ..) = found.map_err(call.fails(About::Upload))?;
    Ok(info)
}

fn named(part: CompletedPart) -> S3Result<NamedPart> {
    let (Some(number), Some(etag)) = (part.part_number, &part.e_tag) else {
        return Err(s3_error!(MalformedXML, "a part needs a PartNumber and an ETag"));
    };
    let texts = [
        part.checksum_crc32.as_deref(),
        part.checksum_crc32c.as_deref(),
        part.checksum_crc64nvme.as_deref(),
        part.checksum_sha1.as_deref(),
        part.checksum_sha256.as_deref(),
    ];
    Ok(NamedPart {
        number: part_number(number)?,
        etag: etag.value().to_owned(),
        checksum: checksum::of_part(texts)?,
    })
}

pub(crate) async fn complete(
    call: &Call,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    let S3Request { input, headers, .. } = request;
    let id = upload_id(&input.upload_id)?;
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    if parts.is_empty() || parts.len() > 10_000 {
        return Err(s3_error!(MalformedXML, "a completion names 1 to 10000 parts"));
    }
    let mut parts: Vec<NamedPart> = parts.into_iter().map(named).collect::<S3Result<_>>()?;
    // Of a part that was sent and is named twice, the last one counts.
    parts.reverse();
    parts.dedup_by_key(|part| part.number);
    parts.reverse();
    let declared = checksum::of_object(&headers)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let upload = MultipartRef { bucket: &bucket, key: &input.key, id };
    if let Some(size) = input.mpu_object_size {
        check_size(call, upload, &parts, size).await?;
    }
    let conditions = wire::conditions(input.if_match.as_ref(), input.if_none_match.as_ref());
    let completion = Completion { parts, conditions, checksum: declared };
    let object = call.larder().complete_multipart(&call.caller, upload, completion).await;
    let object = object.map_err(call.fails(About::Upload))?;
    let end = end(call, &bucket, &object).await;
    let mut output = CompleteMultipartUploadOutput {
        expiration: end,
        location: Some(format!("/{}/{}", input.bucket, larder_http::path::encode(&input.key))),
        bucket: Some(input.bucket),
        e_tag: Some(wire::etag(&object.etag)),
        version_id: wire::new_version(object.version),
        key: Some(input.key),
        ..Default::default()
    };
    let checksum = object.info.as_ref().and_then(|info| info.checksum.as_ref());
    show!(output, checksum, with type);
    Ok(S3Response::new(output))
}

/// Whether the named parts together are as long as the client says.
async fn check_size(
    call: &Call,
    upload: MultipartRef<'_>,
    named: &[NamedPart],
    size: i64,
) -> S3Result<()> {
    let mut sum = 0u64;
    let mut after = 0;
    loop {
        let page = call.larder().multipart_parts(&call.caller, upload, after, 1000).await;
        let page = match page {
            // It may have been completed before; core knows, and says so again.
            Err(error) if error.kind() == larder_base::ErrorKind::NotFound => return Ok(()),
            page => page.map_err(call.fails(About::Upload))?,
        };
        let (_, parts, more) = page;
        for part in &parts {
            let is_named = named.binary_search_by_key(&part.number, |named| named.number).is_ok();
            sum = sum.saturating_add(if is_named { part.size } else { 0 });
        }
        match parts.last() {
            Some(last) if more => after = last.number,
            _ => break,
        }
    }
    if u64::try_from(size) != Ok(sum) {
        let message = "the parts together do not have the size of x-amz-mp-object-size";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    Ok(())
}

pub(crate) async fn abort(
    call: &Call,
    request: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    let input = request.input;
    let id = upload_id(&input.upload_id)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let upload = MultipartRef { bucket: &bucket, key: &input.key, id };
    let aborted = call.larder().abort_multipart(&call.caller, upload).await;
    aborted.map_err(call.fails(About::Upload))?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// Who began an upload owns it until it is finished.
fn initiator(owner: &Owner) -> Initiator {
    Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }
}

pub(crate) async fn list_parts(
    call: &Call,
    request: S3Request<ListPartsInput>,
) -> Answer<ListPartsOutput> {
    let input = request.input;
    let id = upload_id(&input.upload_id)?;
    let limit = page_limit(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u32::try_from(marker)
        .map_err(|_| s3_error!(InvalidArgument, "part-number-marker cannot be negative"))?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let upload = MultipartRef { bucket: &bucket, key: &input.key, id };
    let page = call.larder().multipart_parts(&call.caller, upload, after, limit.max(1)).await;
    let (info, mut parts, mut more) = page.map_err(call.fails(About::Upload))?;
    if limit == 0 {
        parts.clear();
        more = false;
    }
    let last = parts.last().map_or(marker, |part| i32::try_from(part.number).unwrap_or(i32::MAX));
    let shown = parts.into_iter().map(|part| {
        let mut shown = Part {
            e_tag: Some(wire::etag(&ObjectDigest::Md5(part.md5).to_string())),
            last_modified: Some(wire::time(part.created)),
            part_number: i32::try_from(part.number).ok(),
            size: Some(wire::size(part.size)),
            ..Default::default()
        };
        show!(shown, &part.checksum);
        shown
    });
    let shown = shown.collect();
    let owner = call.owner(info.owner).await?;
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: info.checksum.map(algorithm_of),
        checksum_type: info.checksum.map(type_of),
        initiator: Some(initiator(&owner)),
        is_truncated: Some(more),
        key: Some(input.key),
        max_parts: Some(number(limit)),
        next_part_number_marker: Some(last),
        owner: Some(owner),
        part_number_marker: Some(marker),
        parts: Some(shown),
        storage_class: Some(s3s::dto::StorageClass::from_static("STANDARD")),
        upload_id: Some(input.upload_id),
        ..Default::default()
    }))
}

pub(crate) async fn list_uploads(
    call: &Call,
    request: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    let input = request.input;
    let url = list::is_url(input.encoding_type.as_ref())?;
    let limit = page_limit(input.max_uploads)?;
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let id_marker = input.upload_id_marker.as_deref().filter(|marker| !marker.is_empty());
    // Without a key, S3 does not look at the id.
    let after_upload = match id_marker {
        Some(marker) if !key_marker.is_empty() => {
            let message = "upload-id-marker is no id of an upload";
            let id = marker.parse().map_err(|_| s3_error!(InvalidArgument, "{message}"))?;
            Some(id)
        }
        _ => None,
    };
    let listing = MultipartListing {
        keys: KeyListing {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: (!key_marker.is_empty()).then(|| key_marker.clone()),
            limit,
        },
        after_upload,
    };
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let page = call.larder().multiparts(&call.caller, &bucket, &listing).await;
    let page = page.map_err(call.fails(About::Bucket))?;
    let encoded = |text: &str| wire::encoded(text, url);
    let (next_key_marker, next_upload_id_marker) =
        match page.entries.last().filter(|_| page.truncated) {
            Some(MultipartEntry::Upload(last)) => {
                (Some(encoded(&last.key)), Some(last.id.to_string()))
            }
            Some(MultipartEntry::Prefix(last)) => (Some(encoded(last)), None),
            None => (None, None),
        };
    let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
    let mut owners = BTreeMap::new();
    for entry in &page.entries {
        match entry {
            MultipartEntry::Upload(upload) => {
                let owner = match owners.entry(upload.owner) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(call.owner(upload.owner).await?),
                };
                uploads.push(MultipartUpload {
                    checksum_algorithm: upload.checksum.map(algorithm_of),
                    checksum_type: upload.checksum.map(type_of),
                    initiated: Some(wire::time(upload.created)),
                    initiator: Some(initiator(owner)),
                    key: Some(encoded(&upload.key)),
                    owner: Some(owner.clone()),
                    storage_class: Some(s3s::dto::StorageClass::from_static("STANDARD")),
                    upload_id: Some(upload.id.to_string()),
                });
            }
            MultipartEntry::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(encoded(prefix)) });
            }
        }
    }
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(prefixes),
        delimiter: input.delimiter,
        encoding_type: input.encoding_type,
        is_truncated: Some(page.truncated),
        key_marker: Some(encoded(&key_marker)),
        max_uploads: Some(number(limit)),
        next_key_marker,
        next_upload_id_marker,
        prefix: Some(encoded(&listing.keys.prefix)),
        request_charged: None,
        upload_id_marker: input.upload_id_marker,
        uploads: Some(uploads),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_source_lies_within_it() {
        assert_eq!(span("bytes=0-4", 5).expect("within"), 0..5);
        assert_eq!(span("bytes=2-2", 5).expect("within"), 2..3);
        for (text, code) in [
            ("bytes=0-5", "InvalidRange"),
            ("bytes=-5", "InvalidArgument"),
            ("bytes=3-", "InvalidArgument"),
            ("bytes=3-2", "InvalidArgument"),
            ("bytes=+1-2", "InvalidArgument"),
            ("0-1", "InvalidArgument"),
            ("bytes=0-18446744073709551615", "InvalidRange"),
        ] {
            assert_eq!(span(text, 5).expect_err(text).code().as_str(), code, "{text}");
        }
    }

    #[test]
    fn parts_are_numbered_from_one() {
        assert!(
            part_number(0).is_err() && part_number(-1).is_err() && part_number(10_001).is_err()
        );
        assert_eq!(part_number(10_000).expect("valid"), 10_000);
        assert_eq!(upload_id("x").expect_err("no id").code().as_str(), "NoSuchUpload");
    }

    #[test]
    fn checksums_of_uploads_are_of_a_type_that_their_algorithm_has() {
        let of = |algorithm: Option<&'static str>, kind: Option<&'static str>| {
            let algorithm = algorithm.map(ChecksumAlgorithm::from_static);
            let kind = kind.map(ChecksumType::from_static);
            asked(algorithm.as_ref(), kind.as_ref()).map_err(|_| ())
        };
        use larder_core::ChecksumAlgorithm as Algorithm;
        assert_eq!(of(None, None), Ok(None));
        assert_eq!(of(Some("CRC32"), None), Ok(Some((Algorithm::Crc32, false))));
        assert_eq!(of(Some("CRC32"), Some("FULL_OBJECT")), Ok(Some((Algorithm::Crc32, true))));
        assert_eq!(of(Some("CRC64NVME"), None), Ok(Some((Algorithm::Crc64Nvme, true))));
        assert!(of(Some("CRC64NVME"), Some("COMPOSITE")).is_err());
        assert!(of(Some("SHA256"), Some("FULL_OBJECT")).is_err());
        assert!(of(Some("MD5"), None).is_err());
        assert!(of(None, Some("COMPOSITE")).is_err());
    }
}
