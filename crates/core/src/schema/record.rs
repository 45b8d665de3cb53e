//! The values of the record families, as they are stored.
//!
//! A field is only ever added together with a new format number, or at the very end of a record,
//! where its absence is told from the record's length.
//!
//! Not here: keys and encoding ([`super`]).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    Timestamp,
    digest::Sha256,
    id::{
        BlobId, ChunkId, GroupId, Incarnation, InstanceId, NodeId, ServerId, SpaceId, TrashId,
        UserId,
    },
    name::EntryName,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    entry::{EntryKind, Etag, SpaceKind, SpaceLimits, SpacePolicy},
    object::{LockRules, ObjectInfo, Retention, VersionId, Versioning},
};

/// The installation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) created: Timestamp,
    /// Incarnation of the last process that started.
    pub(crate) incarnation: Incarnation,
    /// The chunk stores that belong to it.
    pub(crate) servers: Vec<ServerId>,
}

/// A space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) kind: SpaceKind,
    pub(crate) owner: UserId,
    pub(crate) root: NodeId,
    pub(crate) state: SpaceState,
    pub(crate) limits: SpaceLimits,
    pub(crate) policy: SpacePolicy,
    pub(crate) created: Timestamp,
    /// What only buckets have; last, as older records end before it.
    #[serde(deserialize_with = "if_there")]
    pub(crate) bucket: Option<BucketRules>,
}

/// What a bucket keeps.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BucketRules {
    pub(crate) versioning: Versioning,
    pub(crate) lock: Option<LockRules>,
}

impl Space {
    /// Whether it keeps versions as S3 has them.
    pub(crate) fn versioning(&self) -> Versioning {
        self.bucket.map_or(Versioning::Off, |rules| rules.versioning)
    }
}

/// What may be done with a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SpaceState {
    /// Everything.
    Enabled,
    /// It is being destroyed; nothing can commit into it.
    Purging,
}

/// Where a directory is: compared by every change below it (docs/transactions.md section 4).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Authority {
    /// Parent and name; `None` for the root of a space, and meaningless in the trash.
    pub(crate) place: Option<(NodeId, EntryName)>,
    pub(crate) state: DirState,
}

/// Whether a directory is attached through its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DirState {
    /// As far as its parent is.
    Live,
    /// It is the root of this trash item.
    Trash(TrashId),
    /// It is the root of a copy that is being built.
    Staging,
}

/// An entry of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dirent {
    pub(crate) node: NodeId,
    pub(crate) body: DirentBody,
}

/// What a directory entry stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum DirentBody {
    Dir,
    File(FileState),
    /// A leaf that stands for a node of another space, or of elsewhere in this one.
    Ref(RefState),
}

/// What a reference stands for: ids, never a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefState {
    pub(crate) space: SpaceId,
    pub(crate) node: NodeId,
    pub(crate) created: Timestamp,
}

impl Dirent {
    pub(crate) fn kind(&self) -> EntryKind {
        match self.body {
            DirentBody::Dir => EntryKind::Dir,
            DirentBody::File(_) => EntryKind::File,
            DirentBody::Ref(_) => EntryKind::Ref,
        }
    }
}

/// One revision of a file: immutable once committed, but for the two tallies at the end, which
/// only the current revision keeps up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileState {
    pub(crate) revision: u64,
    pub(crate) size: u64,
    pub(crate) blob: BlobId,
    pub(crate) sha256: Option<Sha256>,
    pub(crate) content_type: Arc<str>,
    pub(crate) modified: Timestamp,
    pub(crate) author: Arc<str>,
    pub(crate) origin: Origin,
    /// Number of older revisions kept.
    pub(crate) older: u32,
    /// Their bytes.
    pub(crate) older_bytes: u64,
    /// What S3 knows of it. Last in every record that has a state: older ones end before it.
    #[serde(deserialize_with = "if_there")]
    pub(crate) object: Option<Arc<ObjectInfo>>,
    /// What it is among the versions of a bucket that keeps them; nothing in any other space.
    #[serde(deserialize_with = "if_there")]
    pub(crate) version: Option<VersionMark>,
}

/// What a revision is among the versions of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionMark {
    /// Whether it has an id of its own; else it is the version `null`.
    pub(crate) named: bool,
    /// Whether it is a delete marker: without content, and the blob [`NO_BLOB`].
    pub(crate) marker: bool,
    /// Of the current one alone: which older revision is the version `null`.
    pub(crate) null: Option<u64>,
    pub(crate) retention: Option<Retention>,
    pub(crate) hold: bool,
}

/// Stands for no content.
pub(crate) const NO_BLOB: BlobId = BlobId { incarnation: Incarnation(0), counter: 0 };

/// The last field of a record, or nothing where the record is from before there was one.
fn if_there<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    match Option::deserialize(deserializer) {
        Err(error) if error.to_string() == END.to_string() => Ok(None),
        read => read,
    }
}

/// What a record that ends early is told by.
const END: postcard::Error = postcard::Error::DeserializeUnexpectedEnd;

impl FileState {
    /// The etag of this revision of `node`: node ids end in random bits, revisions never recur.
    pub(crate) fn etag(&self, node: NodeId) -> Etag {
        Etag(etag_head(node), self.revision)
    }

    pub(crate) fn mark(&self) -> VersionMark {
        self.version.unwrap_or_default()
    }

    /// Whether it is a delete marker.
    pub(crate) fn is_marker(&self) -> bool {
        self.mark().marker
    }

    /// Whether it must not be destroyed now.
    pub(crate) fn is_locked(&self, now: Timestamp) -> bool {
        let VersionMark { retention, hold, .. } = self.mark();
        hold || retention.is_some_and(|retention| retention.until > now)
    }

    /// Its id among the versions of its object.
    pub(crate) fn version_id(&self, node: NodeId) -> VersionId {
        match self.mark().named {
            true => VersionId::Revision(etag_head(node), self.revision),
            false => VersionId::Null,
        }
    }

    /// The etag that S3 shows: a digest where one is known, which is none of the server's tokens.
    pub(crate) fn object_etag(&self, node: NodeId) -> String {
        match self.object.as_ref().and_then(|object| object.digest) {
            Some(digest) => digest.to_string(),
            None => self.etag(node).to_string(),
        }
    }
}

/// The part of an etag that tells nodes apart.
pub(crate) fn etag_head(node: NodeId) -> u64 {
    let [_, _, _, _, _, _, _, _, tail @ ..] = *node.as_bytes();
    u64::from_be_bytes(tail)
}

/// How a revision came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    Upload,
    Copy,
    Restore(u64),
    Deleted,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upload => f.write_str("upload"),
            Self::Copy => f.write_str("copy"),
            Self::Deleted => f.write_str("deleted"),
            Self::Restore(revision) => write!(f, "restore:{revision}"),
        }
    }
}

/// Where a node is to be found by its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Location {
    pub(crate) space: SpaceId,
    pub(crate) place: Place,
}

/// The place of a node within its space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// A directory; its authority record says where.
    Dir,
    /// A file in a directory.
    File(NodeId, EntryName),
    /// A file that is a trash item.
    Trash(TrashId),
    /// An object that is deleted, with versions that are kept.
    Marked(NodeId, EntryName),
}

/// The immutable content of revisions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) state: BlobState,
    pub(crate) size: u64,
    /// Revisions that refer to it.
    pub(crate) refs: u32,
    pub(crate) content: Content,
}

/// Life of a blob (docs/semantics.md B2). Staged ones have no record: their process is their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BlobState {
    Committed,
    /// Nothing refers to it; never revived.
    Condemned,
    /// Its bytes are being destroyed.
    Deleting,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Content {
    /// Here: behind the encoded record, so that they are neither copied in nor out.
    Inline(#[serde(skip)] Bytes),
    /// In these chunks, in this order.
    Chunks(Vec<ChunkRef>),
}

/// A chunk of a blob.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChunkRef {
    pub(crate) id: ChunkId,
    pub(crate) length: u64,
    pub(crate) checksum: u32,
    /// The stores that had it durable at the commit.
    pub(crate) servers: Vec<ServerId>,
}

/// An item of the trash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trashed {
    pub(crate) node: NodeId,
    /// The directory that it was in.
    pub(crate) parent: NodeId,
    pub(crate) name: EntryName,
    /// Its path then, for people.
    pub(crate) path: String,
    pub(crate) deleted_by: Arc<str>,
    pub(crate) deleted: Timestamp,
    /// Bytes of the current revisions in it, counted as retained.
    pub(crate) size: u64,
    /// Gone for users; a job removes what is left.
    pub(crate) purging: bool,
    pub(crate) body: TrashedBody,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum TrashedBody {
    Dir,
    File(FileState),
}

impl Trashed {
    pub(crate) fn kind(&self) -> EntryKind {
        match self.body {
            TrashedBody::Dir => EntryKind::Dir,
            TrashedBody::File(_) => EntryKind::File,
        }
    }
}

/// A user.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    /// Argon2id in PHC form.
    pub(crate) password: String,
    pub(crate) admin: bool,
    pub(crate) disabled: bool,
    pub(crate) created: Timestamp,
}

/// An API key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ApiKey {
    pub(crate) user: UserId,
    pub(crate) name: String,
    /// SHA-256 of the secret, which has 256 random bits.
    pub(crate) digest: Sha256,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
}

/// A background job that must be finished.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) work: JobWork,
    pub(crate) state: JobState,
    pub(crate) progress: u64,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) detail: Option<String>,
}

/// What a job does. New kinds come last: the place of a kind is what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobWork {
    /// Removes what is left of a trash item.
    Purge { space: SpaceId, item: TrashId },
    /// Removes a copy that was never attached, once its process is dead.
    Unstage { space: SpaceId, root: NodeId, owner: Incarnation },
    /// Removes what is left of a space.
    PurgeSpace { space: SpaceId },
    /// Reads every chunk and verifies it.
    Scrub,
    /// Proves every invariant again.
    Check,
    /// Frees what nothing refers to.
    Collect,
    /// Applies the lifecycle rules of a space, or of all.
    Lifecycle { space: Option<SpaceId> },
    /// Brings what a space retains below its limit.
    Trim { space: SpaceId },
    /// Removes what is left of a user.
    ForgetUser { user: UserId },
    /// Removes what is left of a group.
    ForgetGroup { group: GroupId },
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobState {
    Queued,
    Running,
    /// It met something that it must not skip; it is tried again at every start.
    Failed,
}

/// A time-bounded right of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) holder: Incarnation,
    pub(crate) until: Timestamp,
}
