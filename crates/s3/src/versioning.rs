//! Versioning of buckets.
//!
//! Not here: what it does to objects (core), listings of versions (`object::list`).

use larder_core::Versioning;
use s3s::{
    S3Request, S3Response,
    dto::{
        BucketVersioningStatus, GetBucketVersioningInput, GetBucketVersioningOutput,
        PutBucketVersioningInput, PutBucketVersioningOutput,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call},
    error::About,
};

pub(crate) async fn get(
    call: &Call,
    request: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let status = match bucket.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    let status = status.map(BucketVersioningStatus::from_static);
    Ok(S3Response::new(GetBucketVersioningOutput { status, mfa_delete: None }))
}

pub(crate) async fn put(
    call: &Call,
    request: S3Request<PutBucketVersioningInput>,
) -> Answer<PutBucketVersioningOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let asked = input.versioning_configuration;
    if asked.mfa_delete.as_ref().is_some_and(|state| state.as_str() == "Enabled") {
        return Err(s3_error!(NotImplemented, "MFA delete is not offered"));
    }
    let versioning = match asked.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => {
            let message = "the status must be Enabled or Suspended";
            return Err(s3_error!(IllegalVersioningConfigurationException, "{message}"));
        }
    };
    if bucket.lock.is_some() && versioning != Versioning::Enabled {
        let message = "a bucket with object lock keeps versions";
        return Err(s3_error!(InvalidBucketState, "{message}"));
    }
    let changed = call.larder().change_bucket(&call.caller, &bucket, Some(versioning), None).await;
    changed.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(PutBucketVersioningOutput {}))
}
