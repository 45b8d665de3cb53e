//! Named steps at which a test may end the process, as a crash would.
//!
//! Debug builds only: in a release build [`reach`] is nothing. The binary arms one step from
//! `LARDER_FAIL=step[:n]` at start; when that step is reached for the n-th time the process
//! aborts, running no destructor and flushing nothing.
//!
//! Promises: [`STEPS`] is the whole list, in the order of the write path, so that a test can go
//! through all of them.
//!
//! Not here: faults of the disk (`disk::fault`) and of the engine (`meta::chaos`).

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Every step that [`reach`] may name.
pub const STEPS: &[&str] = &[
    // chunk store
    "chunk.created",
    "chunk.written",
    "chunk.synced",
    "chunk.linked",
    "chunk.directory-synced",
    "chunk.deleted",
    // metadata log
    "log.before-write",
    "log.written",
    "log.synced",
    "log.published",
    "tables.before-flush",
    "tables.flushed",
    "log.recycled",
    // core: before and after the commit of every operation
    "commit.before",
    "commit.after",
    // upload sessions
    "session.created",
    "session.piece-durable",
    "session.merging",
    "session.merged",
    "session.part-durable",
    "session.part-claimed",
    "session.completed",
    "session.expired",
    "session.chunks-deleted",
    // background jobs
    "purge.batch",
    "collect.condemned",
    "collect.deleting",
    "collect.bytes-deleted",
    "reconcile.listed",
];

static ARMED: OnceLock<Armed> = OnceLock::new();

struct Armed {
    step: &'static str,
    remaining: AtomicU64,
}

/// The text does not name a step, or a step is armed already.
#[derive(Debug, thiserror::Error)]
#[error("no such step, or one is armed already: {0}")]
pub struct ArmError(String);

/// Arms the step that `text` (`step` or `step:n`) names: its n-th reaching aborts the process.
pub fn arm(text: &str) -> Result<(), ArmError> {
    let error = || ArmError(text.to_owned());
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let step = *STEPS.iter().find(|step| **step == name).ok_or_else(error)?;
    let remaining = AtomicU64::new(count.parse().map_err(|_| error())?);
    ARMED.set(Armed { step, remaining }).map_err(|_| error())
}

/// Marks that `step` has been reached.
#[inline]
pub fn reach(step: &'static str) {
    if cfg!(debug_assertions) {
        debug_assert!(STEPS.contains(&step), "undeclared step {step}");
        if let Some(armed) = ARMED.get()
            && armed.step == step
            && armed.remaining.fetch_sub(1, Ordering::SeqCst) == 1
        {
            std::process::abort();
        }
    }
}
