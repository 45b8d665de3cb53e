//! Records of loads that are under way: keys and values.
//!
//! | family | key | value | written by |
//! |---|---|---|---|
//! | `lo` | load: the space, or zeros for a whole instance | [`LoadState`] | dump::load |
//! | `lx` | load, key | the record under that key, written when the load has won | dump::load |
//!
//! Not here: how a load goes on, or is removed (`dump`).

use bytes::Bytes;
use larder_base::{
    Timestamp,
    id::{JobId, SpaceId, UserId},
};
use serde::{Deserialize, Serialize};

use super::key;

/// A load that has begun and not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadState {
    pub(crate) of: LoadOf,
    /// Incarnations that own the chunks of this load and nothing else: first and one past the
    /// last of each range.
    pub(crate) claimed: Vec<(u64, u64)>,
    /// Whether it may have written anything.
    pub(crate) began: bool,
    /// Whether everything is visible, and only what was put off is still to be written.
    pub(crate) won: bool,
    pub(crate) started: Timestamp,
}

impl LoadState {
    /// Whether blobs of this incarnation belong to it.
    pub(crate) fn owns(&self, incarnation: u64) -> bool {
        self.claimed.iter().any(|(first, end)| (*first..*end).contains(&incarnation))
    }
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LoadOf {
    /// A whole instance, in which there was only this user.
    Instance { user: UserId, name: String },
    /// A space.
    Space(SpaceId),
}

/// The load of a whole instance: there can be only one.
pub(crate) const WHOLE_LOAD: JobId = JobId::from_bytes([0; 16]);

/// The load of a space: there can be only one at a time.
pub(crate) fn load_of_space(space: SpaceId) -> JobId {
    JobId::from_bytes(*space.as_bytes())
}

pub(crate) fn load_key(load: JobId) -> Bytes {
    key(*b"lo", &[load.as_bytes()])
}

/// Prefix of all loads.
pub(crate) fn loads_prefix() -> Bytes {
    key(*b"lo", &[])
}

/// Where the record under `later` stands until the load has won.
pub(crate) fn put_off_key(load: JobId, later: &[u8]) -> Bytes {
    key(*b"lx", &[load.as_bytes(), later])
}

/// Prefix of what a load has put off.
pub(crate) fn put_off_prefix(load: JobId) -> Bytes {
    key(*b"lx", &[load.as_bytes()])
}
