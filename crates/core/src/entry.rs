//! What operations take and answer: targets, entries, pages, spaces, revisions, trash items.
//!
//! These are core's own types. Doors convert them to wire types; [`crate::schema`] has the
//! stored ones.

use std::{fmt, sync::Arc};

use larder_base::{
    Timestamp,
    digest::Sha256,
    id::{NodeId, SpaceId, TrashId, UserId},
    limits::PAGE_ENTRIES_MAX,
    name::{EntryName, TreePath},
};
pub use larder_chunk::placement::{Copies, Placement, Split};
use serde::{Deserialize, Serialize};

use crate::object::{LockRules, VersionId, Versioning};

/// How a request names a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpaceRef {
    /// The caller's own home.
    Home,
    /// By id.
    Id(SpaceId),
    /// By name, unique in the instance.
    Name(String),
    /// What the caller's public link opens: paths begin at the node that it is for.
    Link,
    /// A node of a space that paths begin at, as a reference names it.
    Mount(Mount),
}

/// A node that paths begin at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub(crate) space: SpaceId,
    pub(crate) node: NodeId,
    /// Its path as the caller sees it.
    pub(crate) shown: TreePath,
}

impl SpaceRef {
    /// The text of [`SpaceRef::Link`]; no space can have this name.
    pub const LINK: &str = "@link";

    /// `home` is the caller's home, an id is an id, everything else is a name.
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            _ if text == "home" => Self::Home,
            _ if text == Self::LINK => Self::Link,
            Ok(id) => Self::Id(id),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug)]
pub enum Target {
    /// A place in a space.
    Path(SpaceRef, TreePath),
    /// A node, wherever it is.
    Node(NodeId),
}

/// A target that somebody else holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot<'a> {
    Path(&'a SpaceRef, &'a TreePath),
    Node(NodeId),
}

impl<'a> From<&'a Target> for Spot<'a> {
    fn from(target: &'a Target) -> Self {
        match target {
            Target::Path(space, path) => Self::Path(space, path),
            Target::Node(node) => Self::Node(*node),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A reference to a node elsewhere: a leaf, which paths pass through to what it stands for.
    Ref,
}

/// The state of one entry at one moment.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The space it is in.
    pub space: SpaceId,
    /// From the space's root.
    pub path: TreePath,
    /// Its node.
    pub id: NodeId,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes: of the current revision, or of all files below a directory.
    pub size: u64,
    /// Strong and opaque; changes exactly with the content (for a directory: of anything below).
    pub etag: Etag,
    /// The current revision; 0 for directories.
    pub revision: u64,
    /// MIME type; `None` for directories.
    pub content_type: Option<Arc<str>>,
    /// Digest of the content; `None` for directories and for content assembled from parts.
    pub sha256: Option<Sha256>,
    /// When the content last changed, by this server's clock.
    pub modified: Timestamp,
    /// When the file goes to the trash by itself; only told by stat, download and upload.
    pub expires: Option<Timestamp>,
    /// What a reference stands for; `None` for files and directories.
    pub target: Option<RefTarget>,
}

/// What a reference stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefTarget {
    /// The space.
    pub space: SpaceId,
    /// The node.
    pub node: NodeId,
    /// What the node is; `None` if it is gone, or the caller may not know of it any more.
    pub kind: Option<EntryKind>,
}

/// A server token for one state of an entry; never derived from content, size or client times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Etag(pub u64, pub u64);

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:x}", self.0, self.1)
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Conditions that must hold when the operation commits (RFC 9110 section 13).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// The current etag must be one of these.
    pub if_match: Option<EtagSet>,
    /// The current etag must be none of these.
    pub if_none_match: Option<EtagSet>,
    /// The content must not have changed after this (whole seconds, as HTTP dates are).
    pub if_unmodified_since: Option<Timestamp>,
}

impl Conditions {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Etags of a condition, as text without quotes; weak ones have been left out by the door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtagSet {
    /// `*`: any that exists.
    Any,
    /// One of these.
    These(Vec<String>),
}

/// How a listing goes on.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// The cursor that the page before gave.
    pub cursor: Option<String>,
    /// Most entries in the page; 1,000 at most, and if 0.
    pub limit: usize,
    /// Everything below, in depth-first order of names; else only the directory's own entries.
    pub recursive: bool,
}

impl ListOptions {
    /// Entries that the page may have.
    pub(crate) fn page_limit(&self) -> usize {
        if self.limit == 0 { PAGE_ENTRIES_MAX } else { self.limit.min(PAGE_ENTRIES_MAX) }
    }
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Where the next page starts; `None` on the last.
    pub cursor: Option<String>,
}

/// What an upload says about itself before its bytes.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Content length, if it is known.
    pub length: Option<u64>,
    /// MIME type; guessed by nobody.
    pub content_type: Option<String>,
    /// What must hold at the commit.
    pub conditions: Conditions,
    /// Make missing directories of the path.
    pub parents: bool,
    /// Digest that the content must have.
    pub sha256: Option<Sha256>,
    /// When the file goes to the trash by itself, unless it is overwritten before.
    pub expires: Option<Timestamp>,
}

/// A file as an operation has left it.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its state.
    pub entry: Entry,
    /// Whether the name is new (201) or a revision was added (200).
    pub created: bool,
    /// Replicas that were durable at the answer, of how many wanted.
    pub durability: (u32, u32),
    /// Which version it is, in a bucket that keeps versions.
    pub version: Option<VersionId>,
}

/// One revision of a file.
#[derive(Clone, Debug)]
pub struct RevisionInfo {
    /// Its number, in commit order.
    pub revision: u64,
    /// Bytes.
    pub size: u64,
    /// Its etag.
    pub etag: Etag,
    /// Its digest, where known.
    pub sha256: Option<Sha256>,
    /// MIME type.
    pub content_type: Arc<str>,
    /// Name of the user who wrote it.
    pub author: Arc<str>,
    /// When it was committed.
    pub created: Timestamp,
    /// `upload`, `copy` or `restore:N`.
    pub origin: String,
}

/// One item of a space's trash.
#[derive(Clone, Debug)]
pub struct TrashItem {
    /// Its id.
    pub item: TrashId,
    /// The node that was deleted.
    pub id: NodeId,
    /// Where it was.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes: of the current revision, or of all current revisions below.
    pub size: u64,
    /// Name of the user who deleted it.
    pub deleted_by: Arc<str>,
    /// When.
    pub deleted: Timestamp,
}

/// Where a restored item goes.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Another place than where it was.
    pub to: Option<TreePath>,
    /// If the name is taken: take a free one (`name (2)`).
    pub rename: bool,
    /// Make missing directories of the place.
    pub recreate_parents: bool,
}

/// Kind of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpaceKind {
    /// A user's own tree.
    Home,
    /// A shared tree.
    Project,
    /// Flat: keys, no directories.
    Bucket,
}

/// Limits of a space, in bytes; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceLimits {
    /// Of the current revisions of all files in the tree, and of uploads in flight.
    pub live: Option<u64>,
    /// Of older revisions and everything in the trash.
    pub retained: Option<u64>,
}

/// How a space keeps what is written to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpacePolicy {
    /// Where chunks go.
    pub placement: Placement,
    /// Older revisions kept per file; `None` is all.
    pub versions_keep: Option<u32>,
    /// Days that older revisions are kept; `None` is for ever.
    pub versions_days: Option<u32>,
    /// Days that trash is kept; `None` is the instance's setting.
    pub trash_days: Option<u32>,
}

/// A space and what it holds.
#[derive(Clone, Debug)]
pub struct SpaceInfo {
    /// Its id.
    pub id: SpaceId,
    /// Its name, unique in the instance.
    pub name: String,
    /// Its kind.
    pub kind: SpaceKind,
    /// Its owner.
    pub owner: UserId,
    /// Its limits.
    pub limits: SpaceLimits,
    /// Its policy.
    pub policy: SpacePolicy,
    /// What it holds.
    pub usage: Usage,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it keeps versions of objects; only buckets do.
    pub versioning: Versioning,
    /// Its object lock; only buckets have one.
    pub lock: Option<LockRules>,
}

/// What a space holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Current revisions of all files in the tree.
    pub live: u64,
    /// Older revisions and everything in the trash.
    pub retained: u64,
    /// Promised to uploads in flight.
    pub reserved: u64,
}

/// A space to be made.
#[derive(Clone, Debug)]
pub struct NewSpace {
    /// Its name; S3's bucket-name rules.
    pub name: String,
    /// Its kind: project or bucket.
    pub kind: SpaceKind,
    /// Its limits.
    pub limits: SpaceLimits,
    /// In what its policy differs from [`SpacePolicy::default_of`] its kind.
    pub policy: PolicyChange,
}

/// A change of a space; what is `None` stays as it is at the commit.
#[derive(Clone, Debug, Default)]
pub struct SpaceChange {
    /// Another name.
    pub name: Option<String>,
    /// Other limits.
    pub limits: LimitsChange,
    /// Another policy.
    pub policy: PolicyChange,
}

/// A change of limits; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    /// Of [`SpaceLimits::live`].
    pub live: Option<Option<u64>>,
    /// Of [`SpaceLimits::retained`].
    pub retained: Option<Option<u64>>,
}

impl LimitsChange {
    /// Whether everything stays.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `before`, changed.
    pub fn apply(&self, before: SpaceLimits) -> SpaceLimits {
        SpaceLimits {
            live: self.live.unwrap_or(before.live),
            retained: self.retained.unwrap_or(before.retained),
        }
    }
}

/// A change of a policy; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Of how contents are split.
    pub split: Option<Split>,
    /// Of how many copies there are.
    pub copies: Option<Copies>,
    /// Of how many copies are durable at the answer.
    pub ack: Option<u32>,
    /// Of [`SpacePolicy::versions_keep`].
    pub versions_keep: Option<Option<u32>>,
    /// Of [`SpacePolicy::versions_days`].
    pub versions_days: Option<Option<u32>>,
    /// Of [`SpacePolicy::trash_days`].
    pub trash_days: Option<Option<u32>>,
}

impl PolicyChange {
    /// Whether everything stays.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `before`, changed.
    pub fn apply(&self, before: &SpacePolicy) -> SpacePolicy {
        let Placement { split, copies, ack } = before.placement;
        SpacePolicy {
            placement: Placement {
                split: self.split.unwrap_or(split),
                copies: self.copies.unwrap_or(copies),
                ack: self.ack.unwrap_or(ack),
            },
            versions_keep: self.versions_keep.unwrap_or(before.versions_keep),
            versions_days: self.versions_days.unwrap_or(before.versions_days),
            trash_days: self.trash_days.unwrap_or(before.trash_days),
        }
    }
}

/// The last name of a path, or nothing for a root.
pub fn last_name(path: &TreePath) -> &str {
    path.names().last().map_or("", EntryName::as_str)
}
