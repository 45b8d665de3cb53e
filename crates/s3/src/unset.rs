//! Settings of buckets and objects that nothing here has: asked for, they are not configured.
//!
//! Clients ask for them before they begin, and expect S3's own answers. Setting one is refused
//! (the library answers `NotImplemented` for what is not in `operations`).
//!
//! Promises: nothing is told of a bucket or an object that the caller may not know of.

use s3s::{
    S3Request, S3Response,
    dto::{GetObjectTorrentInput, GetObjectTorrentOutput},
    s3_error,
};

use crate::call::{Answer, Call, coded};

/// The answer for a setting that is not configured: an error with this code, and status 404.
pub(crate) async fn not_configured<T>(
    call: &Call,
    bucket: &str,
    owner: Option<&str>,
    code: &'static str,
) -> Answer<T> {
    call.bucket(bucket, owner).await?;
    let mut error = coded(code, "this is not configured");
    error.set_status_code(http::StatusCode::NOT_FOUND);
    Err(error)
}

/// The answer for a setting that has an empty form.
pub(crate) async fn empty<T: Default>(call: &Call, bucket: &str, owner: Option<&str>) -> Answer<T> {
    call.bucket(bucket, owner).await?;
    Ok(S3Response::new(T::default()))
}

/// No object has a torrent.
pub(crate) async fn torrent(
    call: &Call,
    request: S3Request<GetObjectTorrentInput>,
) -> Answer<GetObjectTorrentOutput> {
    let input = request.input;
    call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Err(s3_error!(NoSuchKey, "the object has no torrent"))
}
