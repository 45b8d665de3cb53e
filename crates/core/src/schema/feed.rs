//! Records of change feeds.
//!
//! | family | key | value |
//! |---|---|---|
//! | `cf` | space, revision of the commit, index | [`ChangeRecord`] |
//! | `cb` | space | [`FeedBase`] |
//!
//! The first are appended by the commits that change a tree, so that their order is that of the
//! commits and no two commits conflict for them; nobody changes one afterwards.
//!
//! Not here: reading them (`feed`), removing old ones (`job::feed`).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    Timestamp,
    id::{NodeId, SpaceId},
};
use larder_meta::{Revision, spec::append_key};
use serde::{Deserialize, Serialize};

use super::key;
use crate::{
    entry::EntryKind,
    feed::{ChangeKind, Position},
};

/// One change of a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    pub(crate) kind: ChangeKind,
    pub(crate) node: NodeId,
    pub(crate) entry: EntryKind,
    /// From the root of the space, at the commit.
    pub(crate) path: String,
    /// Where it was, of a move.
    pub(crate) from: Option<String>,
    /// The revision of the file that is current afterwards.
    pub(crate) revision: Option<u64>,
    pub(crate) author: Arc<str>,
    pub(crate) at: Timestamp,
}

/// How much of the beginning of a feed is gone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FeedBase {
    /// The last record that was removed.
    pub(crate) removed: Position,
}

/// Prefix of the changes of a space: what they are appended under.
pub(crate) fn changes_prefix(space: SpaceId) -> Bytes {
    key(*b"cf", &[space.as_bytes()])
}

/// Whether something is appended to a feed under this prefix.
pub(crate) fn is_changes_prefix(prefix: &[u8]) -> bool {
    prefix.len() == 18 && prefix.starts_with(b"cf")
}

/// The key of the change at a position.
pub(crate) fn change_key(space: SpaceId, at: Position) -> Bytes {
    append_key(&changes_prefix(space), Revision(at.revision), at.index)
}

pub(crate) fn feed_base_key(space: SpaceId) -> Bytes {
    key(*b"cb", &[space.as_bytes()])
}
