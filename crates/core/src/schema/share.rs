//! Records of grants and public links: keys and values.
//!
//! | family | key | value | written by |
//! |---|---|---|---|
//! | `sg` | principal, space, node | [`Grant`]; decides | share |
//! | `lk` | share | [`Link`]; decides | share |
//! | `lt` | digest of a token | share | share |
//! | `ld` | share | counters: downloads | share |
//! | `sh` | share | [`Shared`]: where it is | share |
//! | `si` | space, node, share | nothing; index of `sh` | share |
//! | `sy` | user, share | nothing; index of `sh` by who made it | share |
//!
//! Not here: what they mean (`room`, `share`).

use bytes::Bytes;
use larder_base::{
    Timestamp,
    digest::Sha256,
    id::{GroupId, NodeId, ShareId, SpaceId, UserId},
};
use serde::{Deserialize, Serialize};

use super::key;
use crate::access::{Principal, Role};

/// A role of a user or a group on a node. Whoever relies on it compares this record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) share: ShareId,
    pub(crate) role: Role,
    /// Who made it.
    pub(crate) by: UserId,
    pub(crate) created: Timestamp,
    /// When it ends; `None` is never.
    pub(crate) expires: Option<Timestamp>,
}

/// A public link to a node. Whoever came with it compares this record.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) space: SpaceId,
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    /// Who made it: it works only as long as that user does.
    pub(crate) by: UserId,
    pub(crate) name: String,
    pub(crate) token: Sha256,
    /// The token again, for whoever manages the link, sealed under the master key.
    pub(crate) sealed: Vec<u8>,
    /// Argon2id in PHC form.
    pub(crate) password: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
    /// Downloads that it allows; `None` is any number.
    pub(crate) downloads_max: Option<u64>,
}

/// Where a grant or link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) space: SpaceId,
    pub(crate) node: NodeId,
    pub(crate) by: UserId,
    /// Whom it is for; `None` is a link.
    pub(crate) to: Option<Principal>,
}

/// The principal in a key: a byte of kind, and the id.
fn principal_bytes(principal: Principal) -> [u8; 17] {
    let (kind, id) = match &principal {
        Principal::User(id) => (b'u', id.as_bytes()),
        Principal::Group(id) => (b'g', id.as_bytes()),
    };
    let mut bytes = [kind; 17];
    bytes[1..].copy_from_slice(id);
    bytes
}

pub(crate) fn grant_key(to: Principal, space: SpaceId, node: NodeId) -> Bytes {
    key(*b"sg", &[&principal_bytes(to), space.as_bytes(), node.as_bytes()])
}

/// Prefix of the grants of a principal in a space.
pub(crate) fn grants_prefix(to: Principal, space: SpaceId) -> Bytes {
    key(*b"sg", &[&principal_bytes(to), space.as_bytes()])
}

/// Prefix of all grants of a principal.
pub(crate) fn principal_grants_prefix(to: Principal) -> Bytes {
    key(*b"sg", &[&principal_bytes(to)])
}

/// The space and the node in the key of a grant.
pub(crate) fn grant_place(key: &[u8]) -> Option<(SpaceId, NodeId)> {
    let space = key.get(19..35)?.try_into().ok()?;
    let node = key.get(35..51)?.try_into().ok()?;
    Some((SpaceId::from_bytes(space), NodeId::from_bytes(node)))
}

/// Whom the grant with this key is for.
pub(crate) fn grant_principal(key: &[u8]) -> Option<Principal> {
    let id = key.get(3..19)?.try_into().ok()?;
    match key.get(2)? {
        b'u' => Some(Principal::User(UserId::from_bytes(id))),
        b'g' => Some(Principal::Group(GroupId::from_bytes(id))),
        _ => None,
    }
}

pub(crate) fn link_key(share: ShareId) -> Bytes {
    key(*b"lk", &[share.as_bytes()])
}

pub(crate) fn link_token_key(token: &Sha256) -> Bytes {
    key(*b"lt", &[&token.0])
}

pub(crate) fn link_downloads_key(share: ShareId) -> Bytes {
    key(*b"ld", &[share.as_bytes()])
}

pub(crate) fn shared_key(share: ShareId) -> Bytes {
    key(*b"sh", &[share.as_bytes()])
}

pub(crate) fn shared_at_key(space: SpaceId, node: NodeId, share: ShareId) -> Bytes {
    key(*b"si", &[space.as_bytes(), node.as_bytes(), share.as_bytes()])
}

/// Prefix of everything shared in a space.
pub(crate) fn shared_in_prefix(space: SpaceId) -> Bytes {
    key(*b"si", &[space.as_bytes()])
}

/// Prefix of the shares of one node.
pub(crate) fn shared_at_prefix(space: SpaceId, node: NodeId) -> Bytes {
    key(*b"si", &[space.as_bytes(), node.as_bytes()])
}

pub(crate) fn shared_by_key(by: UserId, share: ShareId) -> Bytes {
    key(*b"sy", &[by.as_bytes(), share.as_bytes()])
}

/// Prefix of the shares that a user has made.
pub(crate) fn shared_by_prefix(by: UserId) -> Bytes {
    key(*b"sy", &[by.as_bytes()])
}
