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

use super::get::end;
use crate::{
    acl,
    call::{Answer, Call, Way},
    checksum::{self, Hasher, show},
    error::About,
    lock::Asked,
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

pub(crate) async fn copy(
    call: &Call,
    request: S3Request<CopyObjectInput>,
) -> Answer<CopyObjectOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let (replace, tagging) = directives(&input)?;
    let algorithm =
        input.checksum_algorithm.as_ref().map(|name| checksum::algorithm(name.as_str()));
    let algorithm = algorithm.transpose()?;
    let expected = input.expected_source_bucket_owner.as_deref();
    let (from, from_key, version, reader) = source(call, &input.copy_source, expected).await?;
    let to = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let retention = asked_lock(&input).read(call.env().now(), &to)?;
    let acl = acl::of_object(call, &to, &headers).await?;
    let given = wire::info(&headers, input.metadata.as_ref())?;
    let itself = from.id == to.id && from_key == input.key;
    let other_class = input.storage_class.is_some() || input.website_redirect_location.is_some();
    if itself && !replace && !other_class && !tagging && algorithm.is_none() {
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
    let changes = Changes { metadata: replace, class: other_class, tags: tagging };
    let replace = changes.of(&object, wire::content_type(&headers)?, given);
    let options = CopyOptions {
        version,
        acl,
        reader: Some(reader),
        retention,
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
    let end = end(call, &to, &copied).await;
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
        expiration: end,
        copy_source_version_id,
        version_id: (to.versioning != Versioning::Off).then(|| copied.version.to_string()),
        ..Default::default()
    }))
}

/// Whether metadata, and whether tags, are as the request says, not as they are with the source.
fn directives(input: &CopyObjectInput) -> S3Result<(bool, bool)> {
    let metadata = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => {
            let message = "x-amz-metadata-directive must be COPY or REPLACE";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
    };
    let tagging = match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
        None | Some(TaggingDirective::COPY) => false,
        Some(TaggingDirective::REPLACE) => true,
        Some(_) => {
            let message = "x-amz-tagging-directive must be COPY or REPLACE";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
    };
    Ok((metadata, tagging))
}

fn asked_lock(input: &CopyObjectInput) -> Asked<'_> {
    Asked {
        mode: input.object_lock_mode.as_ref(),
        until: input.object_lock_retain_until_date.as_ref(),
        hold: input.object_lock_legal_hold_status.as_ref(),
    }
}

/// What of the copy is as the request says, not as it is with the source.
struct Changes {
    metadata: bool,
    class: bool,
    tags: bool,
}

impl Changes {
    /// MIME type and information in place of those of the source, if anything is another.
    fn of(
        self,
        object: &ObjectEntry,
        content_type: Option<String>,
        given: ObjectInfo,
    ) -> Option<(Option<String>, ObjectInfo)> {
        if !self.metadata && !self.class && !self.tags {
            return None;
        }
        let before = object.info.as_ref().map(|info| info.tags.clone()).unwrap_or_default();
        let tags = if self.tags { given.tags.clone() } else { before };
        let (content_type, info) = if self.metadata {
            (content_type, given)
        } else if self.class {
            (Some(object.content_type.to_string()), reclassed(object, given))
        } else {
            let info = object.info.as_deref().cloned().unwrap_or_default();
            (Some(object.content_type.to_string()), info)
        };
        Some((content_type, ObjectInfo { tags, ..info }))
    }
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
