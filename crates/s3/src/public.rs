//! What everybody may not be given: the public access block and the ownership controls of
//! buckets.
//!
//! Not here: what they keep shut (core).

use larder_core::{Bucket, Ownership, PublicAccess};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput,
        DeletePublicAccessBlockInput, DeletePublicAccessBlockOutput,
        GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput,
        GetPublicAccessBlockInput, GetPublicAccessBlockOutput, ObjectOwnership, OwnershipControls,
        OwnershipControlsRule, PublicAccessBlockConfiguration, PutBucketOwnershipControlsInput,
        PutBucketOwnershipControlsOutput, PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call, coded},
    error::About,
};

/// The ownership that a name stands for.
pub(crate) fn ownership(name: &ObjectOwnership) -> S3Result<Ownership> {
    Ok(match name.as_str() {
        ObjectOwnership::BUCKET_OWNER_ENFORCED => Ownership::Enforced,
        ObjectOwnership::BUCKET_OWNER_PREFERRED => Ownership::Preferred,
        ObjectOwnership::OBJECT_WRITER => Ownership::Writer,
        _ => return Err(s3_error!(InvalidArgument, "there is no such ownership")),
    })
}

fn name(ownership: Ownership) -> ObjectOwnership {
    ObjectOwnership::from_static(match ownership {
        Ownership::Enforced => ObjectOwnership::BUCKET_OWNER_ENFORCED,
        Ownership::Preferred => ObjectOwnership::BUCKET_OWNER_PREFERRED,
        Ownership::Writer => ObjectOwnership::OBJECT_WRITER,
    })
}

async fn limits(
    call: &Call,
    bucket: &Bucket,
) -> S3Result<(Option<PublicAccess>, Option<Ownership>)> {
    let limits = call.larder().bucket_limits(&call.caller, bucket).await;
    limits.map_err(call.fails(About::Bucket))
}

fn absent(code: &'static str) -> s3s::S3Error {
    let mut error = coded(code, "this is not configured");
    error.set_status_code(http::StatusCode::NOT_FOUND);
    error
}

pub(crate) async fn get_block(
    call: &Call,
    request: S3Request<GetPublicAccessBlockInput>,
) -> Answer<GetPublicAccessBlockOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let (public, _) = limits(call, &bucket).await?;
    let public = public.ok_or_else(|| absent("NoSuchPublicAccessBlockConfiguration"))?;
    let configuration = PublicAccessBlockConfiguration {
        block_public_acls: Some(public.block_acls),
        block_public_policy: Some(public.block_policy),
        ignore_public_acls: Some(public.ignore_acls),
        restrict_public_buckets: Some(public.restrict),
    };
    let public_access_block_configuration = Some(configuration);
    Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration }))
}

pub(crate) async fn put_block(
    call: &Call,
    request: S3Request<PutPublicAccessBlockInput>,
) -> Answer<PutPublicAccessBlockOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let asked = input.public_access_block_configuration;
    let public = PublicAccess {
        block_acls: asked.block_public_acls.unwrap_or(false),
        ignore_acls: asked.ignore_public_acls.unwrap_or(false),
        block_policy: asked.block_public_policy.unwrap_or(false),
        restrict: asked.restrict_public_buckets.unwrap_or(false),
    };
    let set = call.larder().set_public_access(&call.caller, &bucket, Some(public)).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

pub(crate) async fn delete_block(
    call: &Call,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> Answer<DeletePublicAccessBlockOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let set = call.larder().set_public_access(&call.caller, &bucket, None).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
}

pub(crate) async fn get_ownership(
    call: &Call,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> Answer<GetBucketOwnershipControlsOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let (_, ownership) = limits(call, &bucket).await?;
    let ownership = ownership.ok_or_else(|| absent("OwnershipControlsNotFoundError"))?;
    let rules = vec![OwnershipControlsRule { object_ownership: name(ownership) }];
    let ownership_controls = Some(OwnershipControls { rules });
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
}

pub(crate) async fn put_ownership(
    call: &Call,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> Answer<PutBucketOwnershipControlsOutput> {
    let input = request.input;
    let [rule] = input.ownership_controls.rules.as_slice() else {
        return Err(s3_error!(MalformedXML, "ownership controls have one rule"));
    };
    let ownership = ownership(&rule.object_ownership)?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let larder = call.larder();
    if ownership == Ownership::Enforced {
        let acl = larder.bucket_acl(&call.caller, &bucket).await;
        if !acl.map_err(call.fails(About::Bucket))?.grants.is_empty() {
            let message = "the bucket has a list that would not count any more";
            return Err(coded("InvalidBucketAclWithObjectOwnership", message));
        }
    }
    let set = larder.set_ownership(&call.caller, &bucket, Some(ownership)).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

pub(crate) async fn delete_ownership(
    call: &Call,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> Answer<DeleteBucketOwnershipControlsOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let set = call.larder().set_ownership(&call.caller, &bucket, None).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
}
