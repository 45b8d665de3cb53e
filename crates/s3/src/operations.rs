//! Which operations are offered: one table, from the library's names to the functions here.
//!
//! Its names count requests in `/metrics`, too. What is not in it the library answers with
//! `NotImplemented`.
//!
//! Not here: what an operation does.

use s3s::{S3, S3Request, S3Response, S3Result, dto};

use crate::{
    acl, bucket,
    call::Call,
    cors, lifecycle, lock,
    object::{copy, delete, get, list, multipart, put},
    policy, public, tagging, unset, versioning,
};

/// Uploads by HTML forms, which the library does not know.
pub(crate) const POST: &str = "PostObject";

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
        /// Names of all operations; the last is for requests that are refused before theirs is
        /// known.
        pub(crate) const NAMES: &[&str] =
            &[$($name,)+ $($unset_name,)+ $($empty_name,)+ POST, "none"];

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
        get_bucket_acl "GetBucketAcl" GetBucketAclInput GetBucketAclOutput acl::get_bucket;
        put_bucket_acl "PutBucketAcl" PutBucketAclInput PutBucketAclOutput acl::put_bucket;
        get_bucket_policy "GetBucketPolicy"
            GetBucketPolicyInput GetBucketPolicyOutput policy::get;
        get_bucket_policy_status "GetBucketPolicyStatus"
            GetBucketPolicyStatusInput GetBucketPolicyStatusOutput policy::status;
        put_bucket_policy "PutBucketPolicy"
            PutBucketPolicyInput PutBucketPolicyOutput policy::put;
        delete_bucket_policy "DeleteBucketPolicy"
            DeleteBucketPolicyInput DeleteBucketPolicyOutput policy::delete;
        get_bucket_cors "GetBucketCors" GetBucketCorsInput GetBucketCorsOutput cors::get;
        put_bucket_cors "PutBucketCors" PutBucketCorsInput PutBucketCorsOutput cors::put;
        delete_bucket_cors "DeleteBucketCors"
            DeleteBucketCorsInput DeleteBucketCorsOutput cors::delete;
        get_public_access_block "GetPublicAccessBlock"
            GetPublicAccessBlockInput GetPublicAccessBlockOutput public::get_block;
        put_public_access_block "PutPublicAccessBlock"
            PutPublicAccessBlockInput PutPublicAccessBlockOutput public::put_block;
        delete_public_access_block "DeletePublicAccessBlock"
            DeletePublicAccessBlockInput DeletePublicAccessBlockOutput public::delete_block;
        get_bucket_ownership_controls "GetBucketOwnershipControls"
            GetBucketOwnershipControlsInput GetBucketOwnershipControlsOutput public::get_ownership;
        put_bucket_ownership_controls "PutBucketOwnershipControls"
            PutBucketOwnershipControlsInput PutBucketOwnershipControlsOutput public::put_ownership;
        delete_bucket_ownership_controls "DeleteBucketOwnershipControls"
            DeleteBucketOwnershipControlsInput DeleteBucketOwnershipControlsOutput
            public::delete_ownership;
        get_bucket_lifecycle_configuration "GetBucketLifecycleConfiguration"
            GetBucketLifecycleConfigurationInput GetBucketLifecycleConfigurationOutput
            lifecycle::get;
        put_bucket_lifecycle_configuration "PutBucketLifecycleConfiguration"
            PutBucketLifecycleConfigurationInput PutBucketLifecycleConfigurationOutput
            lifecycle::put;
        delete_bucket_lifecycle "DeleteBucketLifecycle"
            DeleteBucketLifecycleInput DeleteBucketLifecycleOutput lifecycle::delete;

        get_object_torrent "GetObjectTorrent"
            GetObjectTorrentInput GetObjectTorrentOutput unset::torrent;
        put_object "PutObject" PutObjectInput PutObjectOutput put::put;
        get_object "GetObject" GetObjectInput GetObjectOutput get::get;
        head_object "HeadObject" HeadObjectInput HeadObjectOutput get::head;
        get_object_attributes "GetObjectAttributes"
            GetObjectAttributesInput GetObjectAttributesOutput get::attributes;
        get_object_acl "GetObjectAcl" GetObjectAclInput GetObjectAclOutput acl::get_object;
        put_object_acl "PutObjectAcl" PutObjectAclInput PutObjectAclOutput acl::put_object;
        get_object_tagging "GetObjectTagging"
            GetObjectTaggingInput GetObjectTaggingOutput tagging::get;
        put_object_tagging "PutObjectTagging"
            PutObjectTaggingInput PutObjectTaggingOutput tagging::put;
        delete_object_tagging "DeleteObjectTagging"
            DeleteObjectTaggingInput DeleteObjectTaggingOutput tagging::delete;
        get_bucket_tagging "GetBucketTagging"
            GetBucketTaggingInput GetBucketTaggingOutput tagging::get_bucket;
        put_bucket_tagging "PutBucketTagging"
            PutBucketTaggingInput PutBucketTaggingOutput tagging::put_bucket;
        delete_bucket_tagging "DeleteBucketTagging"
            DeleteBucketTaggingInput DeleteBucketTaggingOutput tagging::delete_bucket;
        get_object_lock_configuration "GetObjectLockConfiguration"
            GetObjectLockConfigurationInput GetObjectLockConfigurationOutput
            lock::get_configuration;
        put_object_lock_configuration "PutObjectLockConfiguration"
            PutObjectLockConfigurationInput PutObjectLockConfigurationOutput
            lock::put_configuration;
        get_object_retention "GetObjectRetention"
            GetObjectRetentionInput GetObjectRetentionOutput lock::get_retention;
        put_object_retention "PutObjectRetention"
            PutObjectRetentionInput PutObjectRetentionOutput lock::put_retention;
        get_object_legal_hold "GetObjectLegalHold"
            GetObjectLegalHoldInput GetObjectLegalHoldOutput lock::get_hold;
        put_object_legal_hold "PutObjectLegalHold"
            PutObjectLegalHoldInput PutObjectLegalHoldOutput lock::put_hold;
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
        get_bucket_encryption "GetBucketEncryption"
            GetBucketEncryptionInput GetBucketEncryptionOutput
            "ServerSideEncryptionConfigurationNotFoundError";
        get_bucket_website "GetBucketWebsite"
            GetBucketWebsiteInput GetBucketWebsiteOutput "NoSuchWebsiteConfiguration";
        get_bucket_replication "GetBucketReplication"
            GetBucketReplicationInput GetBucketReplicationOutput
            "ReplicationConfigurationNotFoundError";
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
