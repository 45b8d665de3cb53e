//! Records of policies and of what is remembered for a while: lifecycle rules, files with an end,
//! operations with a name, notes on jobs.
//!
//! | family | key | value | written by |
//! |---|---|---|---|
//! | `lc` | space | [`Lifecycle`] | lifecycle |
//! | `lw` | | [`Walked`] | job::lifecycle |
//! | `en` | node | [`Expiry`] | expiry |
//! | `ex` | time, node | nothing | expiry |
//! | `ox` | time, operation | its user | idempotency |
//! | `oc` | user | counter: operations remembered | idempotency |
//! | `jx` | job | [`JobNote`] | job |
//! | `jc` | job | [`Cancel`] | job |
//! | `jd` | job | [`FinishedJob`] | job |
//!
//! The outcome of an operation itself is the `op` record of the engine, as [`Done`].
//!
//! Not here: what the records mean (their modules).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::{
    Timestamp,
    digest::Sha256,
    id::{JobId, NodeId, OpId, SpaceId, UserId},
};
use serde::{Deserialize, Serialize};

use super::{JobWork, key};
use crate::lifecycle::LifecycleRule;

/// The lifecycle rules of a space.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Lifecycle {
    pub(crate) rules: Vec<LifecycleRule>,
}

/// When the last walk for lifecycle rules began, by the steady clock of its process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Walked {
    pub(crate) began: Timestamp,
}

/// When a revision of a file ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Expiry {
    pub(crate) at: Timestamp,
    pub(crate) space: SpaceId,
    /// It holds for this revision only: an overwrite ends it.
    pub(crate) revision: u64,
}

/// What an operation with a name has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Digest of the head of the request.
    pub(crate) head: Sha256,
    /// Digest of its body, if it had one.
    pub(crate) body: Option<Sha256>,
    /// When, as in the key of its `ox` record.
    pub(crate) at: Timestamp,
    /// What was answered, in the form of the operation's own type.
    pub(crate) outcome: Option<Vec<u8>>,
}

/// What is known of a job besides its record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct JobNote {
    /// Name of the user who wanted it; none for what the server starts by itself.
    pub(crate) by: Option<Arc<str>>,
    /// How far it is, in a form of its own.
    pub(crate) cursor: Vec<u8>,
}

/// Somebody does not want a job any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) by: Arc<str>,
    pub(crate) at: Timestamp,
}

/// A job that has come to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FinishedJob {
    pub(crate) work: JobWork,
    pub(crate) end: JobEnd,
    pub(crate) by: Option<Arc<str>>,
    pub(crate) progress: u64,
    pub(crate) created: Timestamp,
    pub(crate) finished: Timestamp,
    pub(crate) detail: Option<String>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobEnd {
    Done,
    Cancelled,
    Failed,
}

pub(crate) fn lifecycle_key(space: SpaceId) -> Bytes {
    key(*b"lc", &[space.as_bytes()])
}

/// Prefix of the rules of all spaces.
pub(crate) fn lifecycles_prefix() -> Bytes {
    key(*b"lc", &[])
}

/// When the last walk for lifecycle rules began.
pub(crate) fn walked_key() -> Bytes {
    key(*b"lw", &[])
}

pub(crate) fn expiry_key(node: NodeId) -> Bytes {
    key(*b"en", &[node.as_bytes()])
}

/// The place of a node in the order of ends; times before 1970 count as 1970.
pub(crate) fn expires_key(at: Timestamp, node: NodeId) -> Bytes {
    key(*b"ex", &[&time(at), node.as_bytes()])
}

/// Prefix of all ends of files, earliest first.
pub(crate) fn expires_prefix() -> Bytes {
    key(*b"ex", &[])
}

/// The place of an operation in the order of being forgotten.
pub(crate) fn remembered_key(at: Timestamp, operation: OpId) -> Bytes {
    key(*b"ox", &[&time(at), operation.as_bytes()])
}

/// Prefix of all remembered operations, oldest first.
pub(crate) fn remembered_prefix() -> Bytes {
    key(*b"ox", &[])
}

/// How many operations of a user are remembered.
pub(crate) fn remembered_count_key(user: UserId) -> Bytes {
    key(*b"oc", &[user.as_bytes()])
}

/// The time in the key of an `ex` or `ox` record.
pub(crate) fn time_of(key: &[u8]) -> Option<Timestamp> {
    let millis = u64::from_be_bytes(key.get(2..10)?.try_into().ok()?);
    Some(Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

fn time(at: Timestamp) -> [u8; 8] {
    u64::try_from(at.millis()).unwrap_or(0).to_be_bytes()
}

pub(crate) fn job_note_key(job: JobId) -> Bytes {
    key(*b"jx", &[job.as_bytes()])
}

pub(crate) fn job_cancel_key(job: JobId) -> Bytes {
    key(*b"jc", &[job.as_bytes()])
}

pub(crate) fn finished_job_key(job: JobId) -> Bytes {
    key(*b"jd", &[job.as_bytes()])
}

/// Prefix of all finished jobs that are remembered, the ones made first before the others.
pub(crate) fn finished_jobs_prefix() -> Bytes {
    key(*b"jd", &[])
}
