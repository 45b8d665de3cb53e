//! What operations on objects take and answer.
//!
//! An object is a file as S3 knows it: with a whole key as its name, and an [`ObjectInfo`]. What
//! it is beyond that (revisions, quota, feed, conditions, collection) it shares with every other
//! file.
//!
//! Not here: the operations (`bucket`), the S3 protocol (the door).

use std::{fmt, sync::Arc};

use larder_base::{
    Timestamp,
    id::{NodeId, SpaceId, UploadId, UserId},
};
use serde::{Deserialize, Serialize};

use crate::{
    caller::Caller,
    entry::{Conditions, SpaceKind},
    error::{Error, Result},
};

/// What S3 clients say of an object besides its bytes and its MIME type; kept with its revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// The digest that S3 clients expect as its ETag.
    pub digest: Option<ObjectDigest>,
    /// Headers that come back with it as they were given, by lower-case name: `cache-control`,
    /// `content-disposition`, `content-encoding`, `content-language`, `expires`,
    /// `x-amz-website-redirect-location`, `x-amz-storage-class`.
    pub headers: Vec<(String, String)>,
    /// `x-amz-meta-*`: names without that prefix, in lower case, and values.
    pub metadata: Vec<(String, String)>,
    /// The checksum that was declared or computed.
    pub checksum: Option<ObjectChecksum>,
    /// Tags: keys and values.
    pub tags: Vec<(String, String)>,
    /// Who else may read it.
    pub acl: Acl,
    /// The parts that it was uploaded in: how many in a row have how many bytes each. Empty for
    /// what came in one piece.
    pub parts: Vec<(u32, u64)>,
}

impl ObjectInfo {
    /// How many parts it was uploaded in; 0 for what came in one piece.
    pub fn parts_count(&self) -> u32 {
        self.parts.iter().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }

    /// The range of bytes of part `number`, from 1 on.
    pub fn part_range(&self, number: u32) -> Option<std::ops::Range<u64>> {
        let (mut first, mut start) = (1u32, 0u64);
        for (count, size) in &self.parts {
            let end = first.checked_add(*count)?;
            if (first..end).contains(&number) {
                let from = start + u64::from(number - first) * size;
                return Some(from..from + size);
            }
            start += u64::from(*count) * size;
            first = end;
        }
        None
    }

    /// Notes one more part of `size` bytes.
    pub(crate) fn add_part(&mut self, size: u64) {
        match self.parts.last_mut() {
            Some((count, last)) if *last == size => *count += 1,
            _ => self.parts.push((1, size)),
        }
    }
}

/// A digest of content as S3's ETag shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectDigest {
    /// MD5 of the bytes.
    Md5([u8; 16]),
    /// MD5 of the MD5s of so many parts.
    Parts([u8; 16], u32),
}

impl fmt::Display for ObjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Md5(bytes) | Self::Parts(bytes, _)) = self;
        write!(f, "{:032x}", u128::from_be_bytes(*bytes))?;
        match self {
            Self::Md5(_) => Ok(()),
            Self::Parts(_, count) => write!(f, "-{count}"),
        }
    }
}

/// Checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO 3309).
    Crc32,
    /// CRC-32C, Castagnoli.
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A checksum of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChecksum {
    /// How it is computed.
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes, big-endian.
    pub value: Vec<u8>,
    /// `None` is of the whole content; else it is the checksum of the checksums of so many parts.
    pub parts: Option<u32>,
}

/// Whether a bucket keeps what is overwritten or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// Nothing is kept, and never was.
    #[default]
    Off,
    /// Everything is kept, under ids of its own.
    Enabled,
    /// What was kept stays; new objects have the version `null`, which replaces the one before.
    Suspended,
}

/// Who may shorten a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionMode {
    /// Who manages the bucket, if they say that they want to.
    Governance,
    /// Nobody.
    Compliance,
}

/// Until when a version must not be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Who may shorten it.
    pub mode: RetentionMode,
    /// Its end.
    pub until: Timestamp,
}

/// Object lock of a bucket: versions can be kept from being destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRules {
    /// The retention that new versions get where none is given: mode and days.
    pub default: Option<(RetentionMode, u32)>,
}

/// Which version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionId {
    /// The one of a time without versioning.
    Null,
    /// Of this node, this revision.
    Revision(u64, u64),
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Revision(node, number) => write!(f, "{number:016x}{node:016x}"),
        }
    }
}

impl std::str::FromStr for VersionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "null" {
            return Ok(Self::Null);
        }
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let halves = text.get(..16).zip(text.get(16..)).filter(|_| hex);
        let half = |text: &str| u64::from_str_radix(text, 16).ok();
        let parsed = halves.and_then(|(number, node)| half(node).zip(half(number)));
        parsed
            .map(|(node, number)| Self::Revision(node, number))
            .ok_or_else(|| Error::invalid("this is no version id that a listing gave"))
    }
}

/// A space as S3 sees it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its id.
    pub id: SpaceId,
    /// Its name.
    pub name: String,
    /// `Bucket`, or that of a tree which is reachable as one.
    pub kind: SpaceKind,
    /// Its owner.
    pub owner: UserId,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it keeps what is overwritten.
    pub versioning: Versioning,
    /// Its object lock, if it has one.
    pub lock: Option<LockRules>,
}

/// One object of a listing, or the one that a request is about.
#[derive(Clone, Debug)]
pub struct ObjectEntry {
    /// Its key.
    pub key: String,
    /// Its node.
    pub node: NodeId,
    /// Number of the revision.
    pub revision: u64,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
    /// Its ETag as S3 shows it, without quotes.
    pub etag: String,
    /// MIME type.
    pub content_type: Arc<str>,
    /// What else is known of it; nothing where it did not come over S3.
    pub info: Option<Arc<ObjectInfo>>,
    /// Which version it is.
    pub version: VersionId,
    /// Whether it says that the object is deleted, and nothing else.
    pub marker: bool,
    /// Whether it is the current one.
    pub latest: bool,
    /// Until when it must not be destroyed.
    pub retention: Option<Retention>,
    /// Whether it must not be destroyed until that is taken back.
    pub hold: bool,
}

/// One page of a listing by keys.
#[derive(Clone, Debug, Default)]
pub struct KeyListing {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that have this behind the prefix are listed once, as what they have in common.
    pub delimiter: Option<String>,
    /// Only keys (and common prefixes) behind this one.
    pub after: Option<String>,
    /// Most entries, common prefixes included; 1,000 at most.
    pub limit: usize,
}

/// What a listing has at one place, in order of keys.
#[derive(Clone, Debug)]
pub enum KeyEntry {
    /// An object.
    Object(Box<ObjectEntry>),
    /// All keys that begin with this.
    Prefix(String),
}

impl KeyEntry {
    /// The key or the prefix.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(object) => &object.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Entries in order of keys, and whether more come behind the last one.
#[derive(Clone, Debug)]
pub struct KeyPage {
    /// The entries.
    pub entries: Vec<KeyEntry>,
    /// Whether there are more behind the last of them.
    pub truncated: bool,
}

/// How an object is copied.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// Which version of the source; `None` is the current one.
    pub version: Option<VersionId>,
    /// What must hold for the source.
    pub source: Conditions,
    /// What must hold for what is replaced.
    pub conditions: Conditions,
    /// MIME type, headers and metadata in place of those of the source.
    pub replace: Option<(Option<String>, ObjectInfo)>,
    /// Who else may read the copy, whoever may read the source.
    pub acl: Acl,
    /// Who reads the source, if that is not who writes the copy.
    pub reader: Option<Caller>,
    /// Retention and legal hold of the copy.
    pub retention: (Option<Retention>, bool),
    /// The checksum of the copy, where one was asked for that the source does not have.
    pub checksum: Option<ObjectChecksum>,
}

/// What a multipart upload is for.
#[derive(Clone, Debug, Default)]
pub struct NewMultipart {
    /// MIME type.
    pub content_type: Option<String>,
    /// Headers and metadata; its checksum and digest are not used.
    pub info: ObjectInfo,
    /// Retention and legal hold of the object.
    pub retention: (Option<Retention>, bool),
    /// The algorithm of the checksums of the parts, and whether that of the object is of the
    /// whole content.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// An unfinished multipart upload.
#[derive(Clone, Debug)]
pub struct MultipartInfo {
    /// Its id.
    pub id: UploadId,
    /// The key that it is for.
    pub key: String,
    /// Who began it.
    pub owner: UserId,
    /// When.
    pub created: Timestamp,
    /// As given when it began.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// One page of a listing of unfinished multipart uploads.
#[derive(Clone, Debug, Default)]
pub struct MultipartListing {
    /// As of keys; its `after` is a key of which all uploads have been told, or a common prefix.
    pub keys: KeyListing,
    /// Only uploads to the key `after` that come behind this one, and what comes behind.
    pub after_upload: Option<UploadId>,
}

/// What a listing of unfinished uploads has at one place, in order of keys.
#[derive(Clone, Debug)]
pub enum MultipartEntry {
    /// An upload.
    Upload(MultipartInfo),
    /// All uploads to keys that begin with this.
    Prefix(String),
}

/// Uploads in order of their keys, and whether more come behind the last one.
#[derive(Clone, Debug, Default)]
pub struct MultipartPage {
    /// Uploads and common prefixes.
    pub entries: Vec<MultipartEntry>,
    /// Whether there are more behind the last of them.
    pub truncated: bool,
}

/// How a request names a multipart upload.
#[derive(Clone, Copy, Debug)]
pub struct MultipartRef<'a> {
    /// The bucket that it is in.
    pub bucket: &'a Bucket,
    /// The key that it is for.
    pub key: &'a str,
    /// Its id.
    pub id: UploadId,
}

/// How a multipart upload ends.
#[derive(Clone, Debug, Default)]
pub struct Completion {
    /// The parts that make up the object, in ascending order.
    pub parts: Vec<NamedPart>,
    /// What must hold for what is replaced.
    pub conditions: Conditions,
    /// The checksum that the client declares for the whole.
    pub checksum: Option<ObjectChecksum>,
}

/// A part that is durable.
#[derive(Clone, Debug)]
pub struct MultipartPart {
    /// Its number.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// MD5 of its bytes.
    pub md5: [u8; 16],
    /// Its checksum, by the algorithm of the upload or the one that came with it.
    pub checksum: Option<ObjectChecksum>,
    /// When it came.
    pub created: Timestamp,
}

/// A part as a completion names it.
#[derive(Clone, Debug)]
pub struct NamedPart {
    /// Its number.
    pub number: u32,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its checksum, where the client repeats it.
    pub checksum: Option<ObjectChecksum>,
}

/// What a delete has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whether there was anything.
    pub existed: bool,
    /// The version that was made or destroyed, in a bucket that keeps versions.
    pub version: Option<VersionId>,
    /// Whether that is a delete marker.
    pub marker: bool,
}

/// A change of one version of an object that makes no new one; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ObjectChange {
    /// Its tags.
    pub tags: Option<Vec<(String, String)>>,
    /// Its retention.
    pub retention: Option<Option<Retention>>,
    /// Its legal hold.
    pub hold: Option<bool>,
    /// Its access list.
    pub acl: Option<Acl>,
    /// Whether a governance retention may be shortened.
    pub bypass: bool,
}

/// One page of a listing of versions.
#[derive(Clone, Debug, Default)]
pub struct VersionListing {
    /// As of keys; its `after` is a key of which all versions have been told, or a common prefix.
    pub keys: KeyListing,
    /// Only versions of the key `after` that are older than this one, and what comes behind.
    pub after_version: Option<VersionId>,
}

/// Whom an access list gives something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// Everybody, without credentials too.
    Everybody,
    /// Every user.
    Users,
    /// This user.
    User(UserId),
}

/// What an access list gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    /// Of a bucket its listings, of an object its content.
    Read,
    /// Of a bucket making, replacing and removing objects.
    Write,
    /// Reading the list itself.
    ReadAcp,
    /// Changing the list itself.
    WriteAcp,
    /// All of them.
    Full,
}

/// One line of an access list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclGrant {
    /// Whom.
    pub to: Grantee,
    /// What.
    pub gives: Permission,
}

/// An access list of S3: what it gives besides what the owner has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// Its lines.
    pub grants: Vec<AclGrant>,
}

/// What lists and policies of a bucket may not open to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAccess {
    /// Whether lists that would are refused.
    pub block_acls: bool,
    /// Whether lists that do count as if they did not.
    pub ignore_acls: bool,
    /// Whether policies that would are refused.
    pub block_policy: bool,
    /// Whether policies that do open nothing to anybody else.
    pub restrict: bool,
}

/// Whose objects are that others write, and with that whether access lists count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// The bucket owner's; access lists do not count.
    Enforced,
    /// The bucket owner's.
    Preferred,
    /// Theirs, where a store knows such objects; here they are the bucket owner's too.
    Writer,
}

/// A setting of a bucket, one text each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketSetting {
    /// Who may do what; see [`Policy`].
    Policy,
    /// Who may do what; see [`Acl`].
    Acl,
    /// Tags.
    Tags,
    /// What pages of other origins may do.
    Cors,
    /// What lists and policies may not open; see [`PublicAccess`].
    PublicAccess,
    /// Whether lists count; see [`Ownership`].
    Ownership,
    /// Rules of expiry.
    Lifecycle,
}

impl BucketSetting {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Policy,
        Self::Acl,
        Self::Tags,
        Self::Cors,
        Self::PublicAccess,
        Self::Ownership,
        Self::Lifecycle,
    ];
}

/// Whether a statement allows or forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It allows, unless another one forbids.
    Allow,
    /// It forbids.
    Deny,
}

/// Whom a statement is about: names or ids of users, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principals {
    /// These.
    Are(Vec<String>),
    /// All but these.
    AreNot(Vec<String>),
}

/// Patterns with `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patterns {
    /// One of them must fit.
    pub patterns: Vec<String>,
    /// None of them may.
    pub negated: bool,
}

/// What a statement demands of a request besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCondition {
    /// The key of the request's context.
    pub key: String,
    /// Patterns for strings; else texts.
    pub values: Vec<String>,
    /// How they are compared.
    pub compare: Compare,
    /// Whether none of them may fit.
    pub negated: bool,
    /// Whether a request without the key fits.
    pub if_exists: bool,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// Texts.
    Equal,
    /// Texts, whatever their case.
    EqualIgnoreCase,
    /// Patterns.
    Like,
    /// Whether the key is there: `true` says that it is not.
    Null,
    /// Addresses, within networks as `10.0.0.0/8`.
    Network,
}

/// One statement of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What it does.
    pub effect: Effect,
    /// To whom.
    pub principals: Principals,
    /// About which actions, as `s3:GetObject`.
    pub actions: Patterns,
    /// About which resources: `BUCKET` or `BUCKET/KEY`.
    pub resources: Patterns,
    /// All of these must hold.
    pub conditions: Vec<PolicyCondition>,
}

/// A bucket policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its document as it was given.
    pub text: String,
    /// What it says.
    pub statements: Vec<Statement>,
}

/// What a request wants to do, for [`Larder::enter_bucket`](crate::Larder::enter_bucket).
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// As policies name it: `s3:GetObject`.
    pub action: &'a str,
    /// The bucket's name.
    pub bucket: &'a str,
    /// The key, if it is about one.
    pub key: Option<&'a str>,
    /// The version, if one is named.
    pub version: Option<VersionId>,
    /// What conditions of policies may ask for: keys and values.
    pub context: Vec<(String, String)>,
}

impl Ask<'_> {
    /// What it is about, as policies name it.
    pub(crate) fn resource(&self) -> String {
        match self.key {
            Some(key) => format!("{}/{key}", self.bucket),
            None => self.bucket.to_owned(),
        }
    }
}
