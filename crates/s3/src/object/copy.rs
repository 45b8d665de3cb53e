//! `CopyObject`.
//!
//! Promises: no byte of content moves, except to compute a checksum that the source does not
//! have; the source is a bucket and a key as they stand, and nothing in it is resolved.

use larder_core::{
    Bucket, Caller, Conditions, CopyOptions, EtagSet, ObjectChecksum, ObjectEntry, ObjectInfo,
    VersionId, Versioning,
};
use larder_http::condition::Verdict;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, MetadataDirective,
        TaggingDirective,
    },
    s3_error,
};

use crate::{
    acl,
    call::{Answer, Call, Way},
    checksum::{self, Hasher, show},
    error::About,
    wire,
};

pub(crate) const MODIFIED: [&str; 2] =
    ["x-amz-copy-source-if-modified-since", "x-amz-copy-source-if-unmodified-since"];

/// The bucket and the key that a copy is made of.
pub(crate) async fn source(
    call: &Call,
    source: &CopySource,
    owner: Option<&str>,
) -> S3Result<(Bucket, String, Option<VersionId>, Caller)> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "access points are not offered"));
    };
    Call::check_key(key)?;
    let version = Call::version(version_id.as_deref())?;
    let actions = if version.is_some() { &["s3:GetObjectVersion"] } else { &["s3:GetObject"] };
    let (bucket, reader) =
        call.enter(Way { bucket, key: Some(key), version, actions, owner }).await?;
    Ok((bucket, key.to_string(), version, reader))
}

/// Whether what is said of the source is replaced.
fn directives(input: &CopyObjectInput) -> S3Result<bool> {
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => {
            let message = "x-amz-metadata-directive must be COPY or REPLACE";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
    };
    let tagging = input.tagging_directive.as_ref().map(TaggingDirective::as_str);
    if !matches!(tagging, None | Some(TaggingDirective::COPY | TaggingDirective::REPLACE)) {
        let message = "x-amz-tagging-directive must be COPY or REPLACE";
        return Err(s3_error!(InvalidArgument, "{message}"));
    }
    Ok(replace)
}

pub(crate) async fn copy(
    call: &Call,
    request: S3Request<CopyObjectInput>,
) -> Answer<CopyObjectOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let replace = directives(&input)?;
    let algorithm =
        input.checksum_algorithm.as_ref().map(|name| checksum::algorithm(name.as_str()));
    let algorithm = algorithm.transpose()?;
    let expected = input.expected_source_bucket_owner.as_deref();
    let (from, from_key, version, reader) = source(call, &input.copy_source, expected).await?;
    let to = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let acl = acl::of_object(call, &to, &headers).await?;
    let given = wire::info(&headers, input.metadata.as_ref())?;
    let itself = from.id == to.id && from_key == input.key;
    let other_class = input.storage_class.is_some() || input.website_redirect_location.is_some();
    if itself && !replace && !other_class && algorithm.is_none() {
        let message = "this copy of an object to itself would change nothing";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    let download = call.larder().object(&reader, &from, &from_key, version).await;
    let download = download.map_err(call.fails(About::Object))?;
    let object = download.object().clone();
    let (if_match, if_none_match) =
        (input.copy_source_if_match.as_ref(), input.copy_source_if_none_match.as_ref());
    let conditions = wire::preconditions(if_match, if_none_match, &headers, MODIFIED);
    if conditions.evaluate(&object.etag, object.modified) != Verdict::Proceed {
        return Err(s3_error!(PreconditionFailed, "the source is another one"));
    }
    let known = object.info.as_ref().and_then(|info| info.checksum.as_ref());
    let checksum = match algorithm {
        Some(algorithm)
            if !known
                .is_some_and(|known| known.algorithm == algorithm && known.parts.is_none()) =>
        {
            Some(compute(call, &download, object.size, algorithm).await?)
        }
        _ => None,
    };
    drop(download);
    let replace = if replace {
        Some((wire::content_type(&headers)?, given))
    } else if other_class {
        Some((Some(object.content_type.to_string()), reclassed(&object, given)))
    } else {
        None
    };
    let options = CopyOptions {
        version,
        acl,
        reader: Some(reader),
        retention: (None, false),
        // What was judged is what must be copied.
        source: Conditions {
            if_match: Some(EtagSet::These(vec![object.etag.clone()])),
            ..Conditions::default()
        },
        conditions: Conditions::default(),
        replace,
        checksum,
    };
    let copied = call
        .larder()
        .copy_object(&call.caller, (&from, &from_key), (&to, &input.key), options)
        .await
        .map_err(call.fails(About::Write))?;
    let mut result = CopyObjectResult {
        e_tag: Some(wire::etag(&copied.etag)),
        last_modified: Some(wire::time(copied.modified)),
        ..Default::default()
    };
    let checksum = copied.info.as_ref().and_then(|info| info.checksum.as_ref());
    show!(result, checksum, with type);
    let copy_source_version_id =
        (from.versioning != Versioning::Off).then(|| object.version.to_string());
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id,
        version_id: (to.versioning != Versioning::Off).then(|| copied.version.to_string()),
        ..Default::default()
    }))
}

/// What is known of the source, with the storage class and the redirection that are asked for.
fn reclassed(object: &ObjectEntry, given: ObjectInfo) -> ObjectInfo {
    let mut info = object.info.as_deref().cloned().unwrap_or_default();
    for name in ["x-amz-storage-class", "x-amz-website-redirect-location"] {
        info.headers.retain(|(known, _)| known != name);
        info.headers.extend(given.headers.iter().filter(|(known, _)| known == name).cloned());
    }
    info
}

async fn compute(
    call: &Call,
    download: &larder_core::Download,
    size: u64,
    algorithm: larder_core::ChecksumAlgorithm,
) -> S3Result<ObjectChecksum> {
    let mut hasher = Hasher::new(algorithm);
    let mut body = download.read(0..size).await.map_err(call.fails(About::Object))?;
    while let Some(bytes) = body.next().await.map_err(call.fails(About::Object))? {
        hasher.update(&bytes);
    }
    Ok(hasher.finish())
}
