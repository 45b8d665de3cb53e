//! What administration answers: findings of a check, work of a collection, state of jobs.

use std::sync::Arc;

use larder_base::{Timestamp, id::JobId};

/// What a check of every invariant found (docs/semantics.md section 3).
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Violations, at most [`CheckReport::FINDINGS_MAX`] of them.
    pub findings: Vec<Finding>,
    /// All violations, also those beyond the list.
    pub violations: u64,
    /// What was looked at.
    pub counts: CheckCounts,
}

impl CheckReport {
    /// Most findings that a report lists.
    pub const FINDINGS_MAX: usize = 1000;
}

/// One violation.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Id of the invariant, such as `T1` or `Q1`.
    pub invariant: &'static str,
    /// What is wrong, naming the records.
    pub detail: String,
}

/// What a check looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckCounts {
    /// Spaces.
    pub spaces: u64,
    /// Directories.
    pub directories: u64,
    /// Files.
    pub files: u64,
    /// Revisions.
    pub revisions: u64,
    /// Trash items.
    pub trash_items: u64,
    /// Blobs.
    pub blobs: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of all blobs.
    pub bytes: u64,
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollectReport {
    /// Blobs destroyed.
    pub blobs: u64,
    /// Bytes of content given back.
    pub bytes: u64,
    /// Chunks of dead processes removed.
    pub orphans: u64,
    /// Condemned blobs that wait for readers.
    pub waiting: u64,
}

/// Work that an administrator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Reads every chunk and verifies its checksums.
    Scrub,
    /// Proves every invariant again.
    Check,
    /// Frees what nothing refers to.
    Collect,
    /// Applies the lifecycle rules now.
    Lifecycle,
}

impl JobKind {
    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "scrub" => Some(Self::Scrub),
            "check" => Some(Self::Check),
            "collect" => Some(Self::Collect),
            "lifecycle" => Some(Self::Lifecycle),
            _ => None,
        }
    }
}

/// A background job.
#[derive(Clone, Debug)]
pub struct JobInfo {
    /// Its id.
    pub id: JobId,
    /// What it does: `purge`, `copy`, `collect`, `scrub` and so on.
    pub kind: String,
    /// What it works on.
    pub subject: String,
    /// `queued`, `running`, `cancelling`, `done`, `cancelled` or `failed`.
    pub state: String,
    /// Steps done so far: records looked at, batches removed, bytes read, as the kind has it.
    pub progress: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it last got on.
    pub updated: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Name of the user who wanted it; `None` for what the server starts by itself.
    pub started_by: Option<Arc<str>>,
    /// Whether it can be cancelled now.
    pub cancellable: bool,
    /// Why it failed or waits, or what it came to.
    pub detail: Option<String>,
}
