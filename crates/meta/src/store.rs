//! The trait that every metadata engine implements, and what its calls may answer.
//!
//! Not here: the engines ([`crate::engine`]) and the suite that they must pass
//! ([`crate::conformance`]).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::spec::{SpecError, TxnSpec};

/// The commit that last wrote a record. Versions of one record only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A point in the order of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A stored value and the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The commit that wrote it.
    pub version: Version,
}

/// What an engine can take. Constant for the life of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most items in each list of a [`TxnSpec`], merges excepted.
    pub items_max: usize,
    /// Most bytes of keys and values written by one [`TxnSpec`].
    pub bytes_max: usize,
    /// Longest key.
    pub key_bytes_max: usize,
    /// Largest body of a file that should ride in a record; larger ones go to a chunk store.
    pub inline_bytes_max: usize,
    /// Whether merges are cheap and exact in the commit however many they are. Where not,
    /// statistics of directories are folded by a job (docs/transactions.md section 5).
    pub folds_in_commit: bool,
    /// Whether a commit may end in [`CommitError::Unknown`] while the store stays usable, so
    /// that every commit needs an [`Operation`](crate::Operation) to ask for.
    pub may_be_unknown: bool,
}

/// A commit that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It happened now, at this point. Every record it wrote has the version of that number.
    Now(Revision),
    /// The same operation had been committed before; this is its recorded outcome. Nothing of
    /// this spec was applied again.
    Before(Bytes),
}

/// Why a commit did not, or may not have, happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A compared record is otherwise, or a prefix is not empty. Read again and decide anew.
    #[error("record changed")]
    Conflict(Bytes),
    /// A bound of the merge of this key does not hold.
    #[error("bound exceeded")]
    Bound(Bytes),
    /// The incarnation has been fenced: this process must stop.
    #[error("fenced")]
    Fenced,
    /// The spec breaks the engine's limits: a defect of ours.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no room. Nothing was applied; specs that free room are still accepted.
    #[error("metadata disk is full")]
    Full,
    /// The engine cannot be reached, is closed or has failed. Nothing was applied.
    #[error("metadata engine unavailable")]
    Unavailable(#[source] Source),
    /// A record is not what it must be. Nothing was applied.
    #[error("metadata damaged: {0}")]
    Corrupt(String),
    /// It may have been applied. Ask for the operation's record; never undo.
    #[error("commit outcome unknown")]
    Unknown(#[source] Source),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The engine cannot be reached, is closed or has failed.
    #[error("metadata engine unavailable")]
    Unavailable(#[source] Source),
    /// Stored bytes are not what they must be; the text names the place.
    #[error("metadata damaged: {0}")]
    Corrupt(String),
}

/// The cause of an error, of whatever type the engine's library has.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// How an engine is, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and commits work.
    Ready,
    /// Only commits that free room work.
    Full,
    /// Nothing works until the process is started again; the text says why.
    Failed(String),
}

/// A metadata engine.
///
/// Cancel-safety: dropping the future of [`commit`](Self::commit) leaves open whether the commit
/// happens; dropping any other future has no effect.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug {
    /// What the engine can take.
    fn limits(&self) -> Limits;

    /// A view of everything committed before this call. It holds back the reclaiming of what it
    /// sees: keep it for one request or one page, not for a stream.
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, MetaError>;

    /// Commits `spec`, durably, or says why not.
    async fn commit(&self, spec: TxnSpec) -> Result<Committed, CommitError>;

    /// How the engine is.
    fn health(&self) -> Health;

    /// Gives back disk space that no record needs any more, as far as it can at once.
    async fn compact(&self) -> Result<(), MetaError>;

    /// Finishes what was accepted and stops. Later calls fail as `Unavailable`.
    async fn close(&self) -> Result<(), MetaError>;

    /// Numbers for operators: name (a metrics suffix such as `log_bytes`; it ends in `_total`
    /// if it only grows) and value.
    fn statistics(&self) -> Vec<(&'static str, u64)>;
}

/// A view of one moment.
#[async_trait]
pub trait Snapshot: Send + Sync + fmt::Debug {
    /// The last commit that this view sees.
    fn revision(&self) -> Revision;

    /// The record under `key`.
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, MetaError>;

    /// The records under `keys`, in their order.
    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Record>>, MetaError>;

    /// Up to `limit` records with `start <= key < end`, in ascending order of key.
    async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError>;

    /// Up to `limit` records with `start <= key < end`, in descending order of key.
    async fn scan_back(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Record)>, MetaError>;
}

/// The smallest key after every key with this prefix; `None` if the prefix is all 0xff.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end.into())
}
