//! Access lists: canned ones, headers and documents, on buckets and on objects.
//!
//! Promises: a list is understood whole or refused; what the owner of a bucket has is not in it,
//! and cannot be taken away.
//!
//! Not here: what a list allows (core), what may not be opened to everybody (`public`).

use http::HeaderMap;
use larder_base::id::UserId;
use larder_core::{Acl, AclGrant, Bucket, Grantee, ObjectChange, Ownership, Permission};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, AccessControlPolicy, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput,
        GetObjectAclOutput, Grant, PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput,
        PutObjectAclOutput, Type,
    },
    s3_error,
};

use crate::{
    call::{Answer, Call, coded, header},
    error::About,
};

/// The header of canned lists.
pub(crate) const CANNED: &str = "x-amz-acl";

const EVERYBODY: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

/// Most lines of a list, as S3 has it.
const GRANTS_MAX: usize = 100;

const GRANT_HEADERS: &[(&str, Permission)] = &[
    ("x-amz-grant-full-control", Permission::Full),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

/// What headers ask for.
struct Asked {
    acl: Acl,
    /// Whether it is what every object has where lists do not count.
    plain: bool,
}

/// The list of a new object, as headers ask for it.
pub(crate) async fn of_object(call: &Call, bucket: &Bucket, headers: &HeaderMap) -> S3Result<Acl> {
    match asked(call, headers).await? {
        None => Ok(Acl::default()),
        Some(asked) => allowed(call, bucket, asked).await,
    }
}

/// The list of a new bucket, with the ownership that is asked for at the same time.
pub(crate) async fn of_new_bucket(
    call: &Call,
    headers: &HeaderMap,
    ownership: Option<Ownership>,
) -> S3Result<Acl> {
    let Some(asked) = asked(call, headers).await? else { return Ok(Acl::default()) };
    if ownership == Some(Ownership::Enforced) && !asked.acl.grants.is_empty() {
        let message = "a bucket whose lists do not count cannot have one";
        return Err(coded("InvalidBucketAclWithObjectOwnership", message));
    }
    Ok(asked.acl)
}

/// A list, if the bucket may have such ones.
async fn allowed(call: &Call, bucket: &Bucket, asked: Asked) -> S3Result<Acl> {
    let limits = call.larder().bucket_limits(&call.caller, bucket).await;
    let (public, ownership) = limits.map_err(call.fails(About::Bucket))?;
    if ownership == Some(Ownership::Enforced) && !asked.plain {
        return Err(coded("AccessControlListNotSupported", "the bucket does not allow lists"));
    }
    if public.is_some_and(|public| public.block_acls) && asked.acl.is_public() {
        return Err(s3_error!(AccessDenied, "the bucket blocks public access by lists"));
    }
    let Asked { mut acl, .. } = asked;
    // What the owner has is said by no line.
    acl.grants.retain(|grant| grant.to != Grantee::User(bucket.owner));
    Ok(acl)
}

async fn asked(call: &Call, headers: &HeaderMap) -> S3Result<Option<Asked>> {
    let mut grants = Vec::new();
    let mut named = false;
    for (name, gives) in GRANT_HEADERS {
        let Some(value) = headers.get(*name) else { continue };
        named = true;
        if headers.get_all(*name).iter().nth(1).is_some() {
            return Err(s3_error!(InvalidRequest, "the header {name} is there more than once"));
        }
        let text = std::str::from_utf8(value.as_bytes())
            .map_err(|_| s3_error!(InvalidArgument, "the header {name} is no text"))?;
        for (kind, text) in grantees(text)? {
            let to = match kind.as_str() {
                "id" => by_id(call, text).await?,
                "uri" => group(text)?,
                _ => by_email(call, text).await?,
            };
            grants.push(AclGrant { to, gives: *gives });
        }
    }
    if !headers.contains_key(CANNED) {
        return if named { list(grants).map(Some) } else { Ok(None) };
    }
    if named {
        let message = "canned lists and grants cannot both be asked for";
        return Err(s3_error!(InvalidRequest, "{message}"));
    }
    canned(header(headers, CANNED).unwrap_or_default()).map(Some)
}

fn list(grants: Vec<AclGrant>) -> S3Result<Asked> {
    if grants.len() > GRANTS_MAX {
        return Err(s3_error!(InvalidRequest, "a list has at most 100 grants"));
    }
    let mut acl = Acl::default();
    for grant in grants {
        if !acl.grants.contains(&grant) {
            acl.grants.push(grant);
        }
    }
    Ok(Asked { acl, plain: false })
}

fn canned(name: &str) -> S3Result<Asked> {
    let line = |to, gives| AclGrant { to, gives };
    let grants = match name {
        // Objects are the bucket owner's whoever writes them.
        "bucket-owner-full-control" => return Ok(Asked { acl: Acl::default(), plain: true }),
        "private" | "bucket-owner-read" => Vec::new(),
        "public-read" => vec![line(Grantee::Everybody, Permission::Read)],
        "public-read-write" => vec![
            line(Grantee::Everybody, Permission::Read),
            line(Grantee::Everybody, Permission::Write),
        ],
        "authenticated-read" => vec![line(Grantee::Users, Permission::Read)],
        "aws-exec-read" | "log-delivery-write" => {
            return Err(s3_error!(NotImplemented, "this canned list is not offered"));
        }
        _ => return Err(s3_error!(InvalidArgument, "there is no such canned list")),
    };
    list(grants)
}

/// `id="...", uri="..."` as kinds, in lower case, and texts.
fn grantees(text: &str) -> S3Result<Vec<(String, &str)>> {
    text.split(',')
        .map(|part| {
            let (kind, value) = part.split_once('=').map(|(kind, value)| {
                let value = value.trim();
                let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                (kind.trim().to_ascii_lowercase(), bare.unwrap_or(value))
            })?;
            matches!(kind.as_str(), "id" | "uri" | "emailaddress").then_some((kind, value))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| s3_error!(InvalidArgument, "a grant is id=, uri= or emailAddress="))
}

fn group(uri: &str) -> S3Result<Grantee> {
    match uri {
        EVERYBODY => Ok(Grantee::Everybody),
        USERS => Ok(Grantee::Users),
        _ => Err(s3_error!(InvalidArgument, "there is no such group")),
    }
}

async fn by_id(call: &Call, text: &str) -> S3Result<Grantee> {
    let user = text.parse::<UserId>().ok();
    let known = match user {
        Some(user) => call.larder().user_name(user).await.map_err(call.fails(About::Bucket))?,
        None => None,
    };
    match user.filter(|_| known.is_some()) {
        Some(user) => Ok(Grantee::User(user)),
        None => Err(s3_error!(InvalidArgument, "there is no user of this id")),
    }
}

async fn by_email(call: &Call, text: &str) -> S3Result<Grantee> {
    let name = text.split_once('@').map_or("", |(name, _)| name);
    let user = call.larder().user_named(name).await.map_err(call.fails(About::Bucket))?;
    user.map(Grantee::User)
        .ok_or_else(|| s3_error!(UnresolvableGrantByEmailAddress, "there is no such user"))
}

/// The list of a document.
async fn of_document(
    call: &Call,
    bucket: &Bucket,
    document: AccessControlPolicy,
) -> S3Result<Asked> {
    let owner = document.owner.and_then(|owner| owner.id);
    if owner.is_some_and(|owner| owner != bucket.owner.to_string()) {
        return Err(s3_error!(AccessDenied, "a list cannot give something another owner"));
    }
    let mut grants = Vec::new();
    for grant in document.grants.unwrap_or_default() {
        let malformed = || coded("MalformedACLError", "a grant has a grantee and a permission");
        let grantee = grant.grantee.ok_or_else(malformed)?;
        let gives = match grant.permission.as_ref().map(dto::Permission::as_str) {
            Some(dto::Permission::FULL_CONTROL) => Permission::Full,
            Some(dto::Permission::READ) => Permission::Read,
            Some(dto::Permission::READ_ACP) => Permission::ReadAcp,
            Some(dto::Permission::WRITE) => Permission::Write,
            Some(dto::Permission::WRITE_ACP) => Permission::WriteAcp,
            _ => return Err(malformed()),
        };
        let to = match (&grantee.id, &grantee.uri, &grantee.email_address) {
            (Some(id), None, None) => by_id(call, id).await?,
            (None, Some(uri), None) => group(uri)?,
            (None, None, Some(address)) => by_email(call, address).await?,
            _ => return Err(malformed()),
        };
        grants.push(AclGrant { to, gives });
    }
    list(grants)
}

/// The list that a request sets.
async fn set(
    call: &Call,
    bucket: &Bucket,
    headers: &HeaderMap,
    document: Option<AccessControlPolicy>,
) -> S3Result<Acl> {
    let asked = match (asked(call, headers).await?, document) {
        (Some(_), Some(_)) => {
            let message = "a list is in headers or in the body, not in both";
            return Err(coded("UnexpectedContent", message));
        }
        (Some(asked), None) => asked,
        (None, Some(document)) => of_document(call, bucket, document).await?,
        (None, None) => {
            return Err(coded("MissingSecurityHeader", "the request has no list"));
        }
    };
    allowed(call, bucket, asked).await
}

pub(crate) async fn put_bucket(
    call: &Call,
    request: S3Request<PutBucketAclInput>,
) -> Answer<PutBucketAclOutput> {
    let S3Request { input, headers, .. } = request;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let acl = set(call, &bucket, &headers, input.access_control_policy).await?;
    let set = call.larder().set_bucket_acl(&call.caller, &bucket, &acl).await;
    set.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(crate) async fn put_object(
    call: &Call,
    request: S3Request<PutObjectAclInput>,
) -> Answer<PutObjectAclOutput> {
    let S3Request { input, headers, .. } = request;
    Call::check_key(&input.key)?;
    let version = Call::version(input.version_id.as_deref())?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let acl = set(call, &bucket, &headers, input.access_control_policy).await?;
    let change = ObjectChange { acl: Some(acl), ..ObjectChange::default() };
    let larder = call.larder();
    let set = larder.change_object(&call.caller, &bucket, &input.key, version, &change).await;
    set.map_err(call.fails(About::Object))?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

/// The lines of a list as S3 shows them: of groups, what the owner has, and of other users.
async fn shown(call: &Call, owner: UserId, acl: &Acl) -> S3Result<Vec<Grant>> {
    let owner = AclGrant { to: Grantee::User(owner), gives: Permission::Full };
    let mut shown = Vec::new();
    let (users, groups): (Vec<_>, Vec<_>) =
        acl.grants.iter().partition(|grant| matches!(grant.to, Grantee::User(_)));
    for AclGrant { to, gives } in groups.into_iter().chain([&owner]).chain(users) {
        let mut grantee = dto::Grantee {
            display_name: None,
            email_address: None,
            id: None,
            type_: Type::from_static(Type::GROUP),
            uri: None,
        };
        match to {
            Grantee::Everybody => grantee.uri = Some(EVERYBODY.to_owned()),
            Grantee::Users => grantee.uri = Some(USERS.to_owned()),
            Grantee::User(user) => {
                let user = call.owner(*user).await?;
                grantee.type_ = Type::from_static(Type::CANONICAL_USER);
                (grantee.id, grantee.display_name) = (user.id, user.display_name);
            }
        }
        let permission = dto::Permission::from_static(match gives {
            Permission::Full => dto::Permission::FULL_CONTROL,
            Permission::Read => dto::Permission::READ,
            Permission::ReadAcp => dto::Permission::READ_ACP,
            Permission::Write => dto::Permission::WRITE,
            Permission::WriteAcp => dto::Permission::WRITE_ACP,
        });
        shown.push(Grant { grantee: Some(grantee), permission: Some(permission) });
    }
    Ok(shown)
}

pub(crate) async fn get_bucket(
    call: &Call,
    request: S3Request<GetBucketAclInput>,
) -> Answer<GetBucketAclOutput> {
    let input = request.input;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let acl = call.larder().bucket_acl(&call.caller, &bucket).await;
    let acl = acl.map_err(call.fails(About::Bucket))?;
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(shown(call, bucket.owner, &acl).await?),
        owner: Some(call.owner(bucket.owner).await?),
    }))
}

pub(crate) async fn get_object(
    call: &Call,
    request: S3Request<GetObjectAclInput>,
) -> Answer<GetObjectAclOutput> {
    let input = request.input;
    let version = Call::version(input.version_id.as_deref())?;
    let bucket = call.bucket(&input.bucket, input.expected_bucket_owner.as_deref()).await?;
    let found = call.larder().object(&call.caller, &bucket, &input.key, version).await;
    let object = found.map_err(call.fails(About::Object))?.object();
    let acl = object.info.as_ref().map(|info| info.acl.clone()).unwrap_or_default();
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(shown(call, bucket.owner, &acl).await?),
        owner: Some(call.owner(bucket.owner).await?),
        request_charged: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canned_lists_open_what_they_say() {
        let of = |name| canned(name).map(|asked| asked.acl.grants.len()).ok();
        assert_eq!(of("private"), Some(0));
        assert_eq!(of("public-read"), Some(1));
        assert_eq!(of("public-read-write"), Some(2));
        assert!(canned("public-read").is_ok_and(|asked| asked.acl.is_public() && !asked.plain));
        assert!(canned("authenticated-read").is_ok_and(|asked| asked.acl.is_public()));
        for name in ["", "Private", "log-delivery-write", "everything"] {
            assert!(canned(name).is_err(), "{name}");
        }
    }

    #[test]
    fn headers_name_who_gets_something() {
        let pair = |kind: &str, value| (kind.to_owned(), value);
        let found = grantees("id=\"1\", emailAddress=a@b,URI=\"c\"").expect("well-formed");
        assert_eq!(found, [pair("id", "1"), pair("emailaddress", "a@b"), pair("uri", "c")]);
        for wrong in ["", "id", "name=1", "id=1,"] {
            assert!(grantees(wrong).is_err(), "{wrong}");
        }
    }
}
