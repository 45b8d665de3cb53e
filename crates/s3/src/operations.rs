//! Which operations are offered: one table, from the library's names to the functions here.
//!
//! What is not in it the library answers with `NotImplemented`.
//!
//! Not here: what an operation does.

use s3s::{S3, S3Request, S3Response, S3Result, dto};

use crate::{
    bucket,
    call::Call,
    lifecycle,
    object::{copy, delete, get, list, multipart, put},
    unset, versioning,
};

/// Declares the operations: method, name, what it takes and answers, and the function.
macro_rules! operations {
    (
        offered {
            $($method:ident $name:literal $input:ident $output:ident $run:path;)+
        }
        not_configured {
            $($unset:ident $unset_name:literal $unset_in:ident $unset_out:ident $code:literal;)+
        }
        empty {
            $($empty:ident $empty_name:literal $empty_in:ident $empty_out:ident;)+
        }
    ) => {
        #[async_trait::async_trait]
        impl S3 for Call {
            $(
                async fn $method(
                    &self,
                    request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    // One request is one operation.
                    self.trail.operation.set($name).ok();
                    $run(self, request).await
                }
            )+
            $(
                async fn $unset(
                    &self,
                    request: S3Request<dto::$unset_in>,
                ) -> S3Result<S3Response<dto::$unset_out>> {
                    self.trail.operation.set($unset_name).ok();
                    let input = &request.input;
                    let owner = input.expected_bucket_owner.as_deref();
                    unset::not_configured(self, &input.bucket, owner, $code).await
                }
            )+
            $(
                async fn $empty(
                    &self,
                    request: S3Request<dto::$empty_in>,
                ) -> S3Result<S3Response<dto::$empty_out>> {
                    self.trail.operation.set($empty_name).ok();
                    let input = &request.input;
                    let owner = input.expected_bucket_owner.as_deref();
                    unset::empty(self, &input.bucket, owner).await
                }
            )+
        }
    };
}

operations! {
    offered {
        create_bucket "CreateBucket" CreateBucketInput CreateBucketOutput bucket::create;
        head_bucket "HeadBucket" HeadBucketInput HeadBucketOutput bucket::head;
        delete_bucket "DeleteBucket" DeleteBucketInput DeleteBucketOutput bucket::delete;
        list_buckets "ListBuckets" ListBucketsInput ListBucketsOutput bucket::list;
        get_bucket_location "GetBucketLocation"
            GetBucketLocationInput GetBucketLocationOutput bucket::location;
        get_bucket_versioning "GetBucketVersioning"
            GetBucketVersioningInput GetBucketVersioningOutput versioning::get;
        put_bucket_versioning "PutBucketVersioning"
            PutBucketVersioningInput PutBucketVersioningOutput versioning::put;
        get_bucket_lifecycle_configuration "GetBucketLifecycleConfiguration"
            GetBucketLifecycleConfigurationInput GetBucketLifecycleConfigurationOutput
            lifecycle::get;
        put_bucket_lifecycle_configuration "PutBucketLifecycleConfiguration"
            PutBucketLifecycleConfigurationInput PutBucketLifecycleConfigurationOutput
            lifecycle::put;
        delete_bucket_lifecycle "DeleteBucketLifecycle"
            DeleteBucketLifecycleInput DeleteBucketLifecycleOutput lifecycle::delete;
        get_bucket_acl "GetBucketAcl" GetBucketAclInput GetBucketAclOutput unset::bucket_acl;

        put_object "PutObject" PutObjectInput PutObjectOutput put::put;
        get_object "GetObject" GetObjectInput GetObjectOutput get::get;
        head_object "HeadObject" HeadObjectInput HeadObjectOutput get::head;
        get_object_attributes "GetObjectAttributes"
            GetObjectAttributesInput GetObjectAttributesOutput get::attributes;
        get_object_acl "GetObjectAcl" GetObjectAclInput GetObjectAclOutput unset::object_acl;
        get_object_tagging "GetObjectTagging"
            GetObjectTaggingInput GetObjectTaggingOutput unset::object_tagging;
        delete_object "DeleteObject" DeleteObjectInput DeleteObjectOutput delete::one;
        delete_objects "DeleteObjects" DeleteObjectsInput DeleteObjectsOutput delete::many;
        copy_object "CopyObject" CopyObjectInput CopyObjectOutput copy::copy;
        list_objects "ListObjects" ListObjectsInput ListObjectsOutput list::v1;
        list_objects_v2 "ListObjectsV2" ListObjectsV2Input ListObjectsV2Output list::v2;
        list_object_versions "ListObjectVersions"
            ListObjectVersionsInput ListObjectVersionsOutput list::versions;

        create_multipart_upload "CreateMultipartUpload"
            CreateMultipartUploadInput CreateMultipartUploadOutput multipart::create;
        upload_part "UploadPart" UploadPartInput UploadPartOutput multipart::part;
        upload_part_copy "UploadPartCopy"
            UploadPartCopyInput UploadPartCopyOutput multipart::part_copy;
        list_parts "ListParts" ListPartsInput ListPartsOutput multipart::list_parts;
        complete_multipart_upload "CompleteMultipartUpload"
            CompleteMultipartUploadInput CompleteMultipartUploadOutput multipart::complete;
        abort_multipart_upload "AbortMultipartUpload"
            AbortMultipartUploadInput AbortMultipartUploadOutput multipart::abort;
        list_multipart_uploads "ListMultipartUploads"
            ListMultipartUploadsInput ListMultipartUploadsOutput multipart::list_uploads;
    }
    not_configured {
        get_bucket_policy "GetBucketPolicy"
            GetBucketPolicyInput GetBucketPolicyOutput "NoSuchBucketPolicy";
        get_bucket_policy_status "GetBucketPolicyStatus"
            GetBucketPolicyStatusInput GetBucketPolicyStatusOutput "NoSuchBucketPolicy";
        get_bucket_cors "GetBucketCors"
            GetBucketCorsInput GetBucketCorsOutput "NoSuchCORSConfiguration";
        get_bucket_tagging "GetBucketTagging"
            GetBucketTaggingInput GetBucketTaggingOutput "NoSuchTagSet";
        get_bucket_encryption "GetBucketEncryption"
            GetBucketEncryptionInput GetBucketEncryptionOutput
            "ServerSideEncryptionConfigurationNotFoundError";
        get_object_lock_configuration "GetObjectLockConfiguration"
            GetObjectLockConfigurationInput GetObjectLockConfigurationOutput
            "ObjectLockConfigurationNotFoundError";
        get_public_access_block "GetPublicAccessBlock"
            GetPublicAccessBlockInput GetPublicAccessBlockOutput
            "NoSuchPublicAccessBlockConfiguration";
        get_bucket_website "GetBucketWebsite"
            GetBucketWebsiteInput GetBucketWebsiteOutput "NoSuchWebsiteConfiguration";
        get_bucket_replication "GetBucketReplication"
            GetBucketReplicationInput GetBucketReplicationOutput
            "ReplicationConfigurationNotFoundError";
        get_bucket_ownership_controls "GetBucketOwnershipControls"
            GetBucketOwnershipControlsInput GetBucketOwnershipControlsOutput
            "OwnershipControlsNotFoundError";
    }
    empty {
        get_bucket_logging "GetBucketLogging" GetBucketLoggingInput GetBucketLoggingOutput;
        get_bucket_notification_configuration "GetBucketNotificationConfiguration"
            GetBucketNotificationConfigurationInput GetBucketNotificationConfigurationOutput;
        get_bucket_request_payment "GetBucketRequestPayment"
            GetBucketRequestPaymentInput GetBucketRequestPaymentOutput;
        get_bucket_accelerate_configuration "GetBucketAccelerateConfiguration"
            GetBucketAccelerateConfigurationInput GetBucketAccelerateConfigurationOutput;
    }
}
