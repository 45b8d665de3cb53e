//! `DeleteObject` and `DeleteObjects`.
//!
//! Promises: that an object is gone already is no error; of many, each is removed or reported by
//! itself, and conditions of one are its own.

use futures_util::{StreamExt as _, stream};
use larder_core::{Bucket, Caller, Conditions, EtagSet, Removed};
use s3s::{
    S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
        DeletedObject, Error, ObjectIdentifier,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call, Way},
    error::About,
    wire,
};

/// Most objects in one request.
const OBJECTS_MAX: usize = 1000;

/// How many of them are removed at once.
const AT_ONCE: usize = 32;

async fn remove(
    call: &Call,
    (bucket, caller): (&Bucket, &Caller),
    (key, version): (&str, Option<&str>),
    bypass: bool,
    conditions: &Conditions,
) -> S3Result<Removed> {
    Call::check_key(key)?;
    let version = Call::version(version)?;
    let larder = call.larder();
    let removed = if bypass {
        larder.delete_object_bypassing(caller, bucket, key, version, conditions).await
    } else {
        larder.delete_object(caller, bucket, key, version, conditions).await
    };
    removed.map_err(call.fails(About::Object))
}

pub(crate) async fn one(
    call: &Call,
    request: S3Request<DeleteObjectInput>,
) -> Answer<DeleteObjectOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let conditions = wire::conditions(input.if_match.as_ref(), None);
    let object = (input.key.as_str(), input.version_id.as_deref());
    let bypass = input.bypass_governance_retention.unwrap_or(false);
    let owned = (&bucket, &*call.caller);
    let removed = remove(call, owned, object, bypass, &conditions).await?;
    let Removed { version, marker, .. } = removed;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: marker.then_some(true),
        version_id: version.map(|version| version.to_string()).or(input.version_id),
        request_charged: None,
    }))
}

pub(crate) async fn many(
    call: &Call,
    request: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    let input = request.input;
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > OBJECTS_MAX {
        return Err(s3_error!(MalformedXML, "1 to 1000 objects can be deleted at once"));
    }
    let bypass = input.bypass_governance_retention.unwrap_or(false);
    let quiet = input.delete.quiet.unwrap_or(false);
    let (bucket, owner) = (input.bucket.as_str(), input.expected_bucket_owner.as_deref());
    if let Err(error) = call.bucket(bucket, owner).await
        && (owner.is_some() || *error.code() != S3ErrorCode::AccessDenied)
    {
        return Err(error);
    }
    // Each object asks for itself: not all of them need be allowed.
    let mut results = stream::iter(objects)
        .map(|object| async move {
            let result = named(call, (bucket, owner), &object, bypass).await;
            (object, result)
        })
        .buffered(AT_ONCE);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    while let Some((object, result)) = results.next().await {
        let (key, version_id) = (Some(object.key), object.version_id);
        match result {
            Ok(_) if quiet => {}
            Ok(Removed { version, marker, .. }) => {
                let of_marker = version.filter(|_| marker).map(|version| version.to_string());
                deleted.push(DeletedObject {
                    delete_marker: marker.then_some(true),
                    delete_marker_version_id: of_marker,
                    key,
                    version_id,
                });
            }
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                key,
                message: error.message().map(ToOwned::to_owned),
                version_id,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        request_charged: None,
    }))
}

/// Removes one of many.
async fn named(
    call: &Call,
    (bucket, owner): (&str, Option<&str>),
    object: &ObjectIdentifier,
    bypass: bool,
) -> S3Result<Removed> {
    if object.last_modified_time.is_some() || object.size.is_some() {
        let message = "conditions on time and size are not offered; use the ETag";
        return Err(s3_error!(NotImplemented, "{message}"));
    }
    let if_match = object.e_tag.as_ref().map(|tag| match tag.value() {
        "*" => EtagSet::Any,
        _ if tag.as_weak().is_some() => EtagSet::These(Vec::new()),
        text => EtagSet::These(vec![text.to_owned()]),
    });
    let conditions = Conditions { if_match, ..Conditions::default() };
    let version = Call::version(object.version_id.as_deref())?;
    let actions: &[_] =
        if version.is_some() { &["s3:DeleteObjectVersion"] } else { &["s3:DeleteObject"] };
    let way = Way { bucket, key: Some(&object.key), version, actions, owner };
    let (bucket, caller) = call.enter(way).await?;
    let named = (object.key.as_str(), object.version_id.as_deref());
    remove(call, (&bucket, &caller), named, bypass, &conditions).await
}
