//! Settings of buckets and objects that nothing here has: asked for, they are not configured.
//!
//! Clients ask for them before they begin, and expect S3's own answers. Setting one is refused
//! (the library answers `NotImplemented` for what is not in `operations`).
//!
//! Promises: nothing is told of a bucket or an object that the caller may not know of.

use s3s::{
    S3Request, S3Response,
    dto::{
        GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput, Grant,
        Grantee, Permission, Type,
    },
};

use crate::{
    call::{Answer, Call, coded},
    error::About,
    wire,
};

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

fn private(owner: larder_base::id::UserId) -> Vec<Grant> {
    let grantee = Grantee {
        display_name: None,
        email_address: None,
        id: Some(owner.to_string()),
        type_: Type::from_static(Type::CANONICAL_USER),
        uri: None,
    };
    vec![Grant {
        grantee: Some(grantee),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }]
}

pub(crate) async fn bucket_acl(
    call: &Call,
    request: S3Request<GetBucketAclInput>,
) -> Answer<GetBucketAclOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(private(bucket.owner)),
        owner: Some(wire::owner(bucket.owner)),
    }))
}

pub(crate) async fn object_acl(
    call: &Call,
    request: S3Request<GetObjectAclInput>,
) -> Answer<GetObjectAclOutput> {
    let input = request.input;
    let version = Call::version(input.version_id.as_deref())?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let found = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    found.map_err(call.fails(About::Object))?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(private(bucket.owner)),
        owner: Some(wire::owner(bucket.owner)),
        request_charged: None,
    }))
}
