//! Ordered records under single-shot transactions, over several engines.
//!
//! The waist (docs/transactions.md section 1): records are byte strings under byte-string keys,
//! ordered by key; reads see one snapshot; all change is one [`TxnSpec`], a mini-transaction in
//! the sense of Sinfonia (SOSP'07): compare, then put, delete and add, all or nothing. No engine
//! transaction ever spans a wait for a client, and none is larger than [`Limits`] says.
//!
//! Promises of every engine (the [`conformance`] suite holds them to it):
//! - I-META-1 commits are strictly serializable: one order, consistent with real time;
//! - I-META-2 a commit is durable before it is acknowledged;
//! - I-META-3 a snapshot never changes, and its reads are all of one moment;
//! - I-META-4 a refused commit has no effect, now or later; only
//!   [`CommitError::Unknown`] leaves that open, and it is never treated as a failure;
//! - I-META-5 the version of a record changes with each write of it and never recurs.
//!
//! Not here: what the records mean (core), retries on conflict (core's one loop), bytes of files
//! beyond the inline limit (chunk).

#[cfg(feature = "testing")]
pub mod chaos;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod engine;
pub mod observe;
pub mod spec;
pub mod store;

pub use spec::{Append, Bound, Compare, Expect, FieldOp, Merge, Operation, TxnSpec};
pub use store::{
    CommitError, Committed, Health, Limits, MetaError, MetaStore, Record, Revision, Snapshot,
    Version,
};
