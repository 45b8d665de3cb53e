//! Which actions of S3 an operation is, and what policies may ask about a request.
//!
//! Promises: an operation that is not in the table is no action, and nobody may do it; key and
//! bucket are those that the library hands to the operation.
//!
//! Not here: who may do what (core).

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, Uri, request::Parts};
use larder_core::{Caller, VersionId};
use percent_encoding::percent_decode_str;
use s3s::{access::S3AccessContext, path::S3Path};

use crate::call::header;

/// Parameters that policies may ask for, and the keys that they do it by.
const PARAMETERS: &[(&str, &str)] = &[
    ("prefix", "s3:prefix"),
    ("delimiter", "s3:delimiter"),
    ("max-keys", "s3:max-keys"),
    ("versionId", "s3:versionid"),
];

/// Headers that policies may ask for by `s3:` and their names.
const HEADERS: &[&str] = &[
    "x-amz-acl",
    "x-amz-copy-source",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
];

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The address of who asks, behind the proxies.
    pub(crate) address: IpAddr,
    /// Whether it came by TLS.
    pub(crate) secure: bool,
}

/// What a request is about.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) bucket: String,
    pub(crate) key: Option<String>,
    pub(crate) version: Option<VersionId>,
    /// The last of them is what it does.
    pub(crate) actions: &'static [&'static str],
    /// What conditions of policies may ask for.
    pub(crate) context: Vec<(String, String)>,
}

impl Scene {
    /// What a request is about; `None` if it is about no bucket, or an operation that is not here.
    pub(crate) fn of(
        context: &S3AccessContext<'_>,
        caller: Option<&Caller>,
        origin: Origin,
    ) -> Option<Self> {
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => return None,
            S3Path::Bucket { bucket } => (bucket, None),
            S3Path::Object { bucket, key } => (bucket, Some(key.to_string())),
        };
        let version = parameter(context.uri(), "versionId").filter(|id| !id.is_empty());
        Some(Self {
            bucket: bucket.to_string(),
            key,
            // One that is none is refused by the operation.
            version: version.as_ref().and_then(|version| version.parse().ok()),
            actions: actions(context.s3_op().name(), version.is_some())?,
            context: told(context.uri(), context.headers(), caller, origin),
        })
    }
}

impl Scene {
    /// What a form is about, which makes an object with these tags and this canned list.
    pub(crate) fn of_form(
        head: &Parts,
        (bucket, key): (&str, &str),
        (tags, acl): (&[(String, String)], Option<&str>),
        caller: Option<&Caller>,
        origin: Origin,
    ) -> Option<Self> {
        let mut context = told(&head.uri, &head.headers, caller, origin);
        context.retain(|(name, _)| !name.starts_with("s3:"));
        context.extend(acl.map(|acl| ("s3:x-amz-acl".to_owned(), acl.to_owned())));
        for (name, value) in tags {
            context.push((format!("s3:requestobjecttag/{name}"), value.clone()));
        }
        let (bucket, key) = (bucket.to_owned(), Some(key.to_owned()));
        Some(Self { bucket, key, version: None, actions: actions("PostObject", false)?, context })
    }
}

/// Whether conditions of policies may ask for this; in lower case.
pub(crate) fn is_known(key: &str) -> bool {
    let aws = [
        "aws:sourceip",
        "aws:securetransport",
        "aws:useragent",
        "aws:referer",
        "aws:username",
        "aws:userid",
    ];
    let s3 = key.strip_prefix("s3:");
    aws.contains(&key)
        || PARAMETERS.iter().any(|(_, known)| *known == key)
        || s3.is_some_and(|name| {
            HEADERS.contains(&name)
                || ["existingobjecttag/", "requestobjecttag/"]
                    .iter()
                    .any(|start| name.strip_prefix(start).is_some_and(|tag| !tag.is_empty()))
        })
}

fn decoded(raw: &str) -> String {
    let spaced = raw.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// A parameter of the target, as the library reads it.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

fn told(
    uri: &Uri,
    headers: &HeaderMap,
    caller: Option<&Caller>,
    origin: Origin,
) -> Vec<(String, String)> {
    let mut told = vec![
        ("aws:sourceip".to_owned(), origin.address.to_canonical().to_string()),
        ("aws:securetransport".to_owned(), origin.secure.to_string()),
    ];
    if let Some(caller) = caller {
        told.push(("aws:userid".to_owned(), caller.user.to_string()));
        told.push(("aws:username".to_owned(), caller.name.to_string()));
    }
    for (name, key) in [("user-agent", "aws:useragent"), ("referer", "aws:referer")] {
        told.extend(header(headers, name).map(|value| (key.to_owned(), value.to_owned())));
    }
    for (name, key) in PARAMETERS {
        told.extend(parameter(uri, name).map(|value| ((*key).to_owned(), value)));
    }
    for name in HEADERS {
        let Some(value) = header(headers, name) else { continue };
        let value = if *name == "x-amz-copy-source" { source(value) } else { Cow::Borrowed(value) };
        told.push((format!("s3:{name}"), value.into_owned()));
    }
    for pair in header(headers, "x-amz-tagging").unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !key.is_empty() {
            told.push((format!("s3:requestobjecttag/{}", decoded(key)), decoded(value)));
        }
    }
    told
}

/// `BUCKET/KEY` of the source of a copy, however it is written.
fn source(value: &str) -> Cow<'_, str> {
    let value = value.split_once('?').map_or(value, |(path, _)| path);
    let text = percent_decode_str(value).decode_utf8_lossy();
    match text.strip_prefix('/') {
        Some(rest) => Cow::Owned(rest.to_owned()),
        None => text,
    }
}

/// The actions that an operation is, of a version that is named or not.
fn actions(operation: &str, version: bool) -> Option<&'static [&'static str]> {
    let of = |one: &'static [&'static str], other| Some(if version { other } else { one });
    match operation {
        "GetObject" | "HeadObject" => of(&["s3:GetObject"], &["s3:GetObjectVersion"]),
        "GetObjectAttributes" => of(
            &["s3:GetObject", "s3:GetObjectAttributes"],
            &["s3:GetObjectVersion", "s3:GetObjectVersionAttributes"],
        ),
        "GetObjectAcl" => of(&["s3:GetObjectAcl"], &["s3:GetObjectVersionAcl"]),
        "PutObjectAcl" => of(&["s3:PutObjectAcl"], &["s3:PutObjectVersionAcl"]),
        "GetObjectTagging" => of(&["s3:GetObjectTagging"], &["s3:GetObjectVersionTagging"]),
        "PutObjectTagging" => of(&["s3:PutObjectTagging"], &["s3:PutObjectVersionTagging"]),
        "DeleteObjectTagging" => {
            of(&["s3:DeleteObjectTagging"], &["s3:DeleteObjectVersionTagging"])
        }
        "DeleteObject" => of(&["s3:DeleteObject"], &["s3:DeleteObjectVersion"]),
        _ => of_object(operation).or_else(|| of_bucket(operation)),
    }
}

/// The actions on an object that have no version.
fn of_object(operation: &str) -> Option<&'static [&'static str]> {
    Some(match operation {
        "PutObject"
        | "PostObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => &["s3:PutObject"],
        "GetObjectTorrent" => &["s3:GetObjectTorrent"],
        "AbortMultipartUpload" => &["s3:AbortMultipartUpload"],
        "ListParts" => &["s3:ListMultipartUploadParts"],
        "GetObjectRetention" => &["s3:GetObjectRetention"],
        "PutObjectRetention" => &["s3:PutObjectRetention"],
        "GetObjectLegalHold" => &["s3:GetObjectLegalHold"],
        "PutObjectLegalHold" => &["s3:PutObjectLegalHold"],
        _ => return None,
    })
}

/// The actions on a bucket.
fn of_bucket(operation: &str) -> Option<&'static [&'static str]> {
    Some(match operation {
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => &["s3:ListBucket"],
        "ListObjectVersions" => &["s3:ListBucketVersions"],
        "ListMultipartUploads" => &["s3:ListBucketMultipartUploads"],
        // Each of the objects asks for itself.
        "DeleteObjects" => &["s3:DeleteObject"],
        "DeleteBucket" => &["s3:DeleteBucket"],
        "GetBucketLocation" => &["s3:GetBucketLocation"],
        "GetBucketVersioning" => &["s3:GetBucketVersioning"],
        "PutBucketVersioning" => &["s3:PutBucketVersioning"],
        "GetBucketAcl" => &["s3:GetBucketAcl"],
        "PutBucketAcl" => &["s3:PutBucketAcl"],
        "GetBucketPolicy" => &["s3:GetBucketPolicy"],
        "GetBucketPolicyStatus" => &["s3:GetBucketPolicyStatus"],
        "PutBucketPolicy" => &["s3:PutBucketPolicy"],
        "DeleteBucketPolicy" => &["s3:DeleteBucketPolicy"],
        "GetBucketCors" => &["s3:GetBucketCORS"],
        "PutBucketCors" | "DeleteBucketCors" => &["s3:PutBucketCORS"],
        "GetBucketTagging" => &["s3:GetBucketTagging"],
        "PutBucketTagging" | "DeleteBucketTagging" => &["s3:PutBucketTagging"],
        "GetPublicAccessBlock" => &["s3:GetBucketPublicAccessBlock"],
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => &["s3:PutBucketPublicAccessBlock"],
        "GetBucketOwnershipControls" => &["s3:GetBucketOwnershipControls"],
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => {
            &["s3:PutBucketOwnershipControls"]
        }
        "GetBucketLifecycle" | "GetBucketLifecycleConfiguration" => {
            &["s3:GetLifecycleConfiguration"]
        }
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            &["s3:PutLifecycleConfiguration"]
        }
        "GetObjectLockConfiguration" => &["s3:GetBucketObjectLockConfiguration"],
        "PutObjectLockConfiguration" => &["s3:PutBucketObjectLockConfiguration"],
        "GetBucketEncryption" => &["s3:GetEncryptionConfiguration"],
        "GetBucketWebsite" => &["s3:GetBucketWebsite"],
        "GetBucketReplication" => &["s3:GetReplicationConfiguration"],
        "GetBucketLogging" => &["s3:GetBucketLogging"],
        "GetBucketNotificationConfiguration" => &["s3:GetBucketNotification"],
        "GetBucketRequestPayment" => &["s3:GetBucketRequestPayment"],
        "GetBucketAccelerateConfiguration" => &["s3:GetAccelerateConfiguration"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_the_action_that_policies_name() {
        assert_eq!(actions("HeadObject", false), Some(&["s3:GetObject"][..]));
        assert_eq!(actions("GetObject", true), Some(&["s3:GetObjectVersion"][..]));
        assert_eq!(actions("UploadPart", false), Some(&["s3:PutObject"][..]));
        assert_eq!(actions("ListObjectsV2", false), Some(&["s3:ListBucket"][..]));
        assert_eq!(actions("RestoreObject", false), None);
    }

    #[test]
    fn what_policies_ask_for_is_read_as_the_library_reads_it() {
        let uri: Uri = "/b?pre%66ix=a+b%2f&versionId=null".parse().expect("a target");
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-copy-source", "/a/p%75blic?versionId=x".parse().expect("a value"));
        headers.insert("x-amz-tagging", "k%65y=a+b".parse().expect("a value"));
        let origin = Origin { address: IpAddr::from([127, 0, 0, 1]), secure: true };
        let told = told(&uri, &headers, None, origin);
        let of = |key: &str| {
            told.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
        };
        assert_eq!(of("s3:prefix"), Some("a b/"));
        assert_eq!(of("s3:versionid"), Some("null"));
        assert_eq!(of("s3:x-amz-copy-source"), Some("a/public"));
        assert_eq!(of("s3:requestobjecttag/key"), Some("a b"));
        assert_eq!(of("aws:sourceip"), Some("127.0.0.1"));
        assert_eq!(of("aws:username"), None);
        assert_eq!(of("aws:securetransport"), Some("true"));
        assert!(is_known("s3:existingobjecttag/x") && !is_known("aws:multifactorauthage"));
    }
}
