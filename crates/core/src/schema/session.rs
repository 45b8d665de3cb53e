//! Records of upload sessions.
//!
//! | family | key | value |
//! |---|---|---|
//! | `se` | session | [`Session`] |
//! | `su` | user, session | nothing: the open sessions of a user |
//! | `mu` | space, key, session | nothing: the open multipart uploads of a space |
//! | `sc` | user | counters: their number |
//! | `sd` | session | nothing: it has ended and is to be cleaned up |
//! | `up` | session, number | [`Part`]: small pieces at an offset, or numbered parts |
//! | `uq` | session | counters: bytes and number of numbered parts |
//! | `ow` | blob | [`Owner`]: who needs chunks that were staged under this id |
//!
//! A chunk whose own blob has no record is needed exactly if its `ow` record says so; see
//! `session::owner`.
//!
//! Not here: what the records mean together (`session`).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    ErrorKind, Timestamp,
    digest::Sha256,
    id::{BlobId, ChunkId, NodeId, ShareId, SpaceId, UploadId, UserId},
};
use serde::{Deserialize, Serialize};

use super::{ChunkRef, Content, decode_tail_of, encode, key};
use crate::{
    entry::{Conditions, Etag},
    error::{Error, Result},
    object::{ChecksumAlgorithm, ObjectChecksum, ObjectInfo, Retention},
};

/// `sc`: open sessions of a user.
pub(crate) const SESSIONS_OPEN: usize = 0;
/// `uq`: bytes of all parts.
pub(crate) const PARTS_BYTES: usize = 0;
/// `uq`: number of parts.
pub(crate) const PARTS_COUNT: usize = 1;

/// An upload session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) owner: UserId,
    /// The public link that it came through.
    pub(crate) link: Option<ShareId>,
    /// Where its bytes are reserved.
    pub(crate) space: SpaceId,
    /// Where the file goes; nowhere for a part.
    pub(crate) target: Option<SessionTarget>,
    pub(crate) kind: SessionKind,
    pub(crate) content_type: Arc<str>,
    pub(crate) conditions: Conditions,
    pub(crate) parents: bool,
    pub(crate) metadata: Option<String>,
    /// What the whole must be.
    pub(crate) sha256: Option<Sha256>,
    pub(crate) length: Option<u64>,
    /// Size of the file that is replaced, as it was at the start.
    pub(crate) replaces_bytes: u64,
    /// Bytes counted as reserved in the space.
    pub(crate) reserved: u64,
    /// The blob that it becomes. Its pieces are chunks with this id, or were merged into others.
    pub(crate) blob: BlobId,
    /// The first bytes, in chunks that stay as they are unless they are merged.
    pub(crate) layout: Vec<ChunkRef>,
    /// The number of the first piece behind those: the first that is found by looking for it.
    pub(crate) next_index: u32,
    pub(crate) created: Timestamp,
    /// When this record was last written.
    pub(crate) touched: Timestamp,
    pub(crate) state: SessionState,
}

/// Where the file of a session goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionTarget {
    /// The node that the path is relative to, if it is not the root of the space.
    pub(crate) base: Option<NodeId>,
    /// The path of that node as the owner sees it.
    pub(crate) shown: String,
    pub(crate) path: String,
    /// The directory that the path named at the start, if it was there.
    pub(crate) parent: Option<NodeId>,
}

/// What a session takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SessionKind {
    /// Bytes at its offset, which become a file.
    Whole,
    /// The same, which become a part of a file.
    Partial,
    /// Numbered parts.
    Numbered,
    /// Nothing: it is made of these.
    Final {
        parts: Vec<UploadId>,
        /// Whether all of them are its own.
        ready: bool,
    },
    /// Numbered parts of an object.
    Multipart(Box<Multipart>),
}

/// What a multipart upload is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Multipart {
    pub(crate) key: String,
    /// Whether the key is a name in a bucket, not a path.
    pub(crate) flat: bool,
    pub(crate) info: ObjectInfo,
    /// Retention and legal hold of the object.
    pub(crate) retention: (Option<Retention>, bool),
    /// The algorithm of its checksums, and whether that of the object is of the whole content.
    pub(crate) checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// How far a session is. Only `Open` and `Consumed` are ever left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SessionState {
    Open,
    Completed(Box<SessionResult>),
    Aborted {
        at: Timestamp,
    },
    Expired {
        at: Timestamp,
    },
    /// It belongs to a session made of parts, and shares its fate.
    Consumed {
        by: UploadId,
        at: Timestamp,
    },
}

/// What a session became.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionResult {
    pub(crate) space: SpaceId,
    pub(crate) path: String,
    pub(crate) node: NodeId,
    pub(crate) size: u64,
    pub(crate) etag: Etag,
    pub(crate) revision: u64,
    pub(crate) content_type: Option<Arc<str>>,
    pub(crate) sha256: Option<Sha256>,
    pub(crate) modified: Timestamp,
    pub(crate) created: bool,
    pub(crate) at: Timestamp,
}

/// A piece of a session that is a record, or stands behind one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) size: u64,
    /// Of numbered parts.
    pub(crate) sha256: Option<Sha256>,
    /// What its chunks were staged as.
    pub(crate) blob: BlobId,
    pub(crate) created: Timestamp,
    /// Of parts of an object.
    pub(crate) object: Option<ObjectPart>,
    pub(crate) content: Content,
}

/// What S3 knows of a part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectPart {
    pub(crate) md5: [u8; 16],
    pub(crate) checksum: Option<ObjectChecksum>,
}

/// Who needs the chunks that were staged under a blob id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) upload: UploadId,
    /// The blob that they become part of.
    pub(crate) blob: BlobId,
    /// The numbered part that they are.
    pub(crate) part: Option<u32>,
}

impl Session {
    /// Whether it takes numbered parts.
    pub(crate) fn is_numbered(&self) -> bool {
        matches!(self.kind, SessionKind::Numbered | SessionKind::Multipart(_))
    }

    /// The multipart upload that it is.
    pub(crate) fn multipart(&self) -> Option<&Multipart> {
        match &self.kind {
            SessionKind::Multipart(multipart) => Some(multipart),
            _ => None,
        }
    }

    /// The records by which it is found while it is open.
    pub(crate) fn index_keys(&self, id: UploadId) -> Vec<Bytes> {
        let of_user = user_session_key(self.owner, id);
        let of_key =
            self.multipart().map(|multipart| multipart_key(self.space, &multipart.key, id));
        [Some(of_user), of_key].into_iter().flatten().collect()
    }

    /// Whether it ends as a file of its own.
    pub(crate) fn is_partial(&self) -> bool {
        self.kind == SessionKind::Partial
    }

    /// Bytes of the chunks that are settled.
    pub(crate) fn base(&self) -> u64 {
        self.layout.iter().map(|chunk| chunk.length).sum()
    }

    /// Whether an open session needs this chunk, as far as its own record says.
    pub(crate) fn holds(&self, chunk: ChunkId) -> bool {
        let piece = chunk.blob == self.blob && chunk.index >= self.next_index;
        piece || self.layout.iter().any(|known| known.id == chunk)
    }
}

pub(crate) fn session_key(upload: UploadId) -> Bytes {
    key(*b"se", &[upload.as_bytes()])
}

/// Prefix of all sessions.
pub(crate) fn sessions_prefix() -> Bytes {
    key(*b"se", &[])
}

pub(crate) fn user_session_key(user: UserId, upload: UploadId) -> Bytes {
    key(*b"su", &[user.as_bytes(), upload.as_bytes()])
}

/// Prefix of the open sessions of a user.
pub(crate) fn user_sessions_prefix(user: UserId) -> Bytes {
    key(*b"su", &[user.as_bytes()])
}

/// Keys end at the NUL, which none of them has.
pub(crate) fn multipart_key(space: SpaceId, object: &str, upload: UploadId) -> Bytes {
    key(*b"mu", &[space.as_bytes(), object.as_bytes(), &[0], upload.as_bytes()])
}

/// Prefix of the open multipart uploads to the keys of a space that begin with `object`.
pub(crate) fn multiparts_prefix(space: SpaceId, object: &str) -> Bytes {
    key(*b"mu", &[space.as_bytes(), object.as_bytes()])
}

/// What the key of an open multipart upload names.
pub(crate) fn multipart_of(record: &[u8]) -> Result<(&str, UploadId)> {
    let id = UploadId::from_bytes(super::trailing_id(record)?);
    let head = multiparts_prefix(SpaceId::from_bytes([0; 16]), "").len();
    let object = record.get(head..record.len().saturating_sub(17)).unwrap_or_default();
    let object = std::str::from_utf8(object)
        .map_err(|_| Error::new(ErrorKind::Corrupt, "an upload to a key that is no text"))?;
    Ok((object, id))
}

pub(crate) fn sessions_count_key(user: UserId) -> Bytes {
    key(*b"sc", &[user.as_bytes()])
}

/// Prefix of the numbers of open sessions of all users.
pub(crate) fn sessions_counts_prefix() -> Bytes {
    key(*b"sc", &[])
}

pub(crate) fn cleanup_key(upload: UploadId) -> Bytes {
    key(*b"sd", &[upload.as_bytes()])
}

/// Prefix of the sessions that are to be cleaned up.
pub(crate) fn cleanups_prefix() -> Bytes {
    key(*b"sd", &[])
}

pub(crate) fn part_key(upload: UploadId, number: u32) -> Bytes {
    key(*b"up", &[upload.as_bytes(), &number.to_be_bytes()])
}

/// Prefix of the pieces and parts of a session that are records.
pub(crate) fn parts_prefix(upload: UploadId) -> Bytes {
    key(*b"up", &[upload.as_bytes()])
}

/// The number in the key of a part.
pub(crate) fn part_number(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

pub(crate) fn parts_count_key(upload: UploadId) -> Bytes {
    key(*b"uq", &[upload.as_bytes()])
}

pub(crate) fn owner_key(blob: BlobId) -> Bytes {
    key(*b"ow", &[&blob.to_bytes()])
}

/// Prefix of the owners of all staged chunks.
pub(crate) fn owners_prefix() -> Bytes {
    key(*b"ow", &[])
}

/// Format of a part that may be one of an object; those before it had no such field.
const PART_FORMAT: u8 = 2;

/// The stored form of a part: its record, then its bytes if they are inline.
pub(crate) fn encode_part(part: &Part) -> Bytes {
    let mut bytes = Vec::from(encode(part));
    if let Some(format) = bytes.first_mut() {
        *format = PART_FORMAT;
    }
    if let Content::Inline(body) = &part.content {
        bytes.extend_from_slice(body);
    }
    bytes.into()
}

/// The part of a stored form; inline bytes share its memory.
pub(crate) fn decode_part(key: &[u8], bytes: &Bytes) -> Result<Part> {
    let (mut part, body) = match bytes.first() {
        Some(&PART_FORMAT) => decode_tail_of::<Part>(PART_FORMAT, key, bytes)?,
        _ => {
            let (before, body) = decode_tail_of::<PartBefore>(super::FORMAT, key, bytes)?;
            let PartBefore { size, sha256, blob, created, content } = before;
            (Part { size, sha256, blob, created, object: None, content }, body)
        }
    };
    if let Content::Inline(inline) = &mut part.content {
        if body.len() as u64 != part.size {
            return Err(super::damaged(key));
        }
        *inline = body;
    }
    Ok(part)
}

/// A part of the format before.
#[derive(Deserialize)]
struct PartBefore {
    size: u64,
    sha256: Option<Sha256>,
    blob: BlobId,
    created: Timestamp,
    content: Content,
}
