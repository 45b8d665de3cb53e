//! `PutObject`, and how content is taken for objects and for parts.
//!
//! Promises: an object is committed only when its whole declared content has come and every
//! digest that came with it has been compared; nothing of it is asked for before everything that
//! can refuse it has been checked.

use larder_core::{ObjectDigest, UploadOptions};
use s3s::{
    S3Request, S3Response, S3Result, TrailingHeaders,
    dto::{PutObjectInput, PutObjectOutput, StreamingBlob},
    s3_error,
};

use crate::{
    acl,
    body::{Arrival, Content},
    call::{Answer, Call},
    checksum::{Digests, Verified, show},
    error::About,
    lifecycle,
    lock::Asked,
    wire,
};

/// Where content goes.
pub(crate) trait Sink {
    /// Takes the next bytes.
    fn write(
        &mut self,
        bytes: bytes::Bytes,
    ) -> impl Future<Output = Result<(), larder_core::Error>> + Send;
    /// Nothing has come for so long.
    fn pause(
        &mut self,
        still: std::time::Duration,
    ) -> impl Future<Output = Result<(), larder_core::Error>> + Send;
}

impl Sink for larder_core::Upload {
    async fn write(&mut self, bytes: bytes::Bytes) -> Result<(), larder_core::Error> {
        Self::write(self, bytes).await
    }

    async fn pause(&mut self, still: std::time::Duration) -> Result<(), larder_core::Error> {
        Self::pause(self, still).await
    }
}

impl Sink for larder_core::PartUpload {
    async fn write(&mut self, bytes: bytes::Bytes) -> Result<(), larder_core::Error> {
        Self::write(self, bytes).await
    }

    async fn pause(&mut self, still: std::time::Duration) -> Result<(), larder_core::Error> {
        Self::pause(self, still).await
    }
}

/// The content of a request and its length, which must be declared and allowed.
pub(crate) fn content(call: &Call, blob: Option<StreamingBlob>) -> S3Result<(Content, u64)> {
    let blob = blob.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
    let content = Content::new(blob, call.env());
    let length = content
        .length()
        .ok_or_else(|| s3_error!(MissingContentLength, "the request needs a Content-Length"))?;
    if call.inner.options.file_bytes_max.is_some_and(|limit| length > limit) {
        return Err(s3_error!(EntityTooLarge, "the object is larger than this server takes"));
    }
    Ok((content, length))
}

/// Moves content to where it goes and verifies it.
pub(crate) async fn store(
    call: &Call,
    (mut content, length): (Content, u64),
    mut digests: Digests,
    trailer: Option<&TrailingHeaders>,
    sink: &mut impl Sink,
    about: About,
) -> S3Result<Verified> {
    let mut come = 0u64;
    loop {
        match content.next().await.map_err(|error| call.body_error(&error))? {
            Arrival::Bytes(bytes) => {
                come = come.saturating_add(bytes.len() as u64);
                if come > length {
                    return Err(s3_error!(IncompleteBody, "the content is longer than declared"));
                }
                digests.update(&bytes);
                sink.write(bytes).await.map_err(call.fails(about))?;
            }
            Arrival::Pause(still) => sink.pause(still).await.map_err(call.fails(about))?,
            Arrival::End => break,
        }
    }
    // An empty body is not read, so what is wrong with it is only known here.
    if let Some(fault) = call.trail.fault() {
        return Err(call.error(&fault, About::Body));
    }
    if come != length {
        return Err(s3_error!(IncompleteBody, "the content is shorter than declared"));
    }
    digests.finish(trailer)
}

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutObjectInput>,
) -> Answer<PutObjectOutput> {
    let S3Request { input, headers, trailing_headers, .. } = request;
    Call::check_key(&input.key)?;
    let mut info = wire::info(&headers, input.metadata.as_ref())?;
    let digests = Digests::new(&headers)?;
    let (content, length) = content(call, input.body)?;
    let options = UploadOptions {
        length: Some(length),
        content_type: wire::content_type(&headers)?,
        conditions: wire::conditions(input.if_match.as_ref(), input.if_none_match.as_ref()),
        parents: true,
        ..UploadOptions::default()
    };
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let lock = Asked {
        mode: input.object_lock_mode.as_ref(),
        until: input.object_lock_retain_until_date.as_ref(),
        hold: input.object_lock_legal_hold_status.as_ref(),
    };
    let (retention, hold) = lock.read(call.env().now(), &bucket)?;
    info.acl = acl::of_object(call, &bucket, &headers).await?;
    let upload = call.larder().object_upload(&call.caller, &bucket, &input.key, options).await;
    let mut upload = upload.map_err(call.fails(About::Write))?;
    upload.retain(retention, hold);
    let content = (content, length);
    let trailer = trailing_headers.as_ref();
    let verified = store(call, content, digests, trailer, &mut upload, About::Write).await?;
    let digest = ObjectDigest::Md5(verified.md5);
    info.digest = Some(digest);
    info.checksum.clone_from(&verified.checksum);
    upload.describe(info.clone());
    let written = upload.commit().await.map_err(call.fails(About::Write))?;
    let mut output =
        PutObjectOutput { e_tag: Some(wire::etag(&digest.to_string())), ..Default::default() };
    let times = (length, written.entry.modified);
    output.expiration = lifecycle::expiration(call, &bucket, &input.key, times, Some(&info)).await;
    output.version_id = written.version.and_then(wire::new_version);
    show!(output, &verified.checksum, with type);
    Ok(S3Response::new(output))
}
