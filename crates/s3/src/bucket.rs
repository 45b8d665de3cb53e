//! Operations on buckets themselves.
//!
//! Not here: what a bucket holds (`object`), settings that no bucket has (`unset`).

use larder_base::ErrorKind;
use larder_core::{Acl, Ownership};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput,
        HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
    },
    s3_error,
};

use crate::{
    acl,
    call::{Answer, Call},
    error::About,
    lock, public, wire,
};

/// The region that has no name where one can be given.
const FIRST_REGION: &str = "us-east-1";

/// Most buckets in an answer, and the number when none is given.
const BUCKETS_MAX: usize = 10_000;

pub(crate) async fn create(
    call: &Call,
    request: S3Request<CreateBucketInput>,
) -> Answer<CreateBucketOutput> {
    let S3Request { input, headers, .. } = request;
    let ownership = input.object_ownership.as_ref().map(public::ownership).transpose()?;
    let acl = acl::of_new_bucket(call, &headers, ownership).await?;
    let wanted = input
        .create_bucket_configuration
        .as_ref()
        .and_then(|configuration| configuration.location_constraint.as_ref())
        .map(BucketLocationConstraint::as_str)
        .filter(|region| !region.is_empty());
    let region = call.inner.options.region.as_str();
    if wanted.is_some_and(|wanted| wanted != region) {
        let message = format!("this server is the region {region}");
        return Err(s3_error!(IllegalLocationConstraintException, "{message}"));
    }
    let name = &input.bucket;
    let locked = input.object_lock_enabled_for_bucket.unwrap_or(false);
    match call.larder().create_bucket(&call.caller, name).await {
        Ok(bucket) => {
            open(call, &bucket, &acl, ownership).await?;
            if locked {
                lock::enable(call, &bucket).await?;
            }
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let known = call.larder().bucket(&call.caller, name).await.ok();
            let lacks_lock = locked && known.as_ref().is_some_and(|bucket| bucket.lock.is_none());
            let own = known.is_some_and(|bucket| bucket.owner == call.caller.user);
            if !own {
                return Err(s3_error!(BucketAlreadyExists, "the name is taken"));
            }
            // The first region forgives it, as it always has; a lock is not given later.
            if region != FIRST_REGION || lacks_lock {
                let message = "the bucket is there already, and yours";
                return Err(s3_error!(BucketAlreadyOwnedByYou, "{message}"));
            }
        }
        Err(error) if error.kind() == ErrorKind::RateLimited => {
            return Err(s3_error!(TooManyBuckets, "{error}"));
        }
        Err(error) => return Err(call.error(&error, About::Bucket)),
    }
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
}

/// Sets what a new bucket opens.
async fn open(
    call: &Call,
    bucket: &larder_core::Bucket,
    acl: &Acl,
    ownership: Option<Ownership>,
) -> S3Result<()> {
    let larder = call.larder();
    if let Some(ownership) = ownership {
        let set = larder.set_ownership(&call.caller, bucket, Some(ownership)).await;
        set.map_err(call.fails(About::Bucket))?;
    }
    if !acl.grants.is_empty() {
        let set = larder.set_bucket_acl(&call.caller, bucket, acl).await;
        set.map_err(call.fails(About::Bucket))?;
    }
    Ok(())
}

pub(crate) async fn head(
    call: &Call,
    request: S3Request<HeadBucketInput>,
) -> Answer<HeadBucketOutput> {
    let input = request.input;
    call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let region = call.inner.options.region.clone();
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(region), ..Default::default() }))
}

pub(crate) async fn delete(
    call: &Call,
    request: S3Request<DeleteBucketInput>,
) -> Answer<DeleteBucketOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let deleted = call.larder().delete_bucket(&call.caller, &bucket).await;
    deleted.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(crate) async fn list(
    call: &Call,
    request: S3Request<ListBucketsInput>,
) -> Answer<ListBucketsOutput> {
    let input = request.input;
    let limit = match input.max_buckets {
        None => BUCKETS_MAX,
        Some(limit) => match usize::try_from(limit) {
            Ok(limit @ 1..=BUCKETS_MAX) => limit,
            _ => {
                let message = "max-buckets must be 1 to 10000";
                return Err(s3_error!(InvalidArgument, "{message}"));
            }
        },
    };
    let region = call.inner.options.region.as_str();
    let elsewhere = input.bucket_region.as_deref().is_some_and(|wanted| wanted != region);
    let all = call.larder().buckets(&call.caller).await.map_err(call.fails(About::Bucket))?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = match input.continuation_token.as_deref() {
        None => None,
        Some(token) => Some(crate::object::list::after(token)?),
    };
    let mut found = all
        .into_iter()
        .filter(|bucket| !elsewhere && bucket.name.starts_with(&prefix))
        .filter(|bucket| after.as_deref().is_none_or(|after| bucket.name.as_str() > after));
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let last = page.last().map(|bucket| bucket.name.clone());
    let more = found.next().is_some();
    let buckets = page
        .into_iter()
        .map(|bucket| Bucket {
            bucket_region: Some(region.to_owned()),
            creation_date: Some(wire::time(bucket.created)),
            name: Some(bucket.name),
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token: last.filter(|_| more).map(|last| crate::object::list::token(&last)),
        owner: Some(call.owner(call.caller.user).await?),
        prefix: input.prefix,
    }))
}

pub(crate) async fn location(
    call: &Call,
    request: S3Request<GetBucketLocationInput>,
) -> Answer<GetBucketLocationOutput> {
    let input = request.input;
    call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let region = call.inner.options.region.clone();
    let named = (region != FIRST_REGION).then(|| BucketLocationConstraint::from(region));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: named }))
}
