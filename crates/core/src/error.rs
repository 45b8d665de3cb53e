//! The only error that leaves core: what, doing what, which class.
//!
//! Promises: [`Error::kind`] is what doors map and clients act on; [`Error::outcome`] says
//! whether the operation may still have happened. `detail` is for people and no contract.
//! A corrupt record or an unknown commit keeps its cause as `source`.
//!
//! Not here: status codes (each door has its own exhaustive match).

use std::{borrow::Cow, fmt, time::Duration};

use larder_base::{
    ErrorKind, Outcome,
    id::{NodeId, SpaceId},
    name::{EntryName, NameError, TreePath},
};
use larder_chunk::ChunkError;
use larder_meta::{CommitError, MetaError};

/// Result of every operation of core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Boxed inside: results stay small.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    outcome: Outcome,
    detail: Cow<'static, str>,
    existing: Option<String>,
    retry_after: Option<Duration>,
    redirect: Option<Redirect>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Where an operation goes on whose path passes through a reference.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) space: SpaceId,
    /// What the reference stands for.
    pub(crate) node: NodeId,
    /// The path below that.
    pub(crate) rest: Vec<EntryName>,
    /// The path of the reference, as the caller sees it.
    pub(crate) shown: TreePath,
}

impl Error {
    /// An error of `kind` that had no effect. `detail` says, for people, what to do about it.
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            kind,
            outcome: Outcome::NotApplied,
            detail: detail.into(),
            existing: None,
            retry_after: None,
            redirect: None,
            source: None,
        }))
    }

    /// A name that stands for nothing, or for nothing that the caller may know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("no such {what}"))
    }

    /// A malformed request.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, detail)
    }

    /// A broken invariant of ours.
    pub fn internal(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, detail)
    }

    /// Names the thing that already stands there (hazard N01: losers learn the winner's id).
    #[must_use]
    pub fn with_existing(mut self, id: impl fmt::Display) -> Self {
        self.0.existing = Some(id.to_string());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says when it may be tried again.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// Says where the operation can be done instead.
    pub(crate) fn with_redirect(mut self, redirect: Redirect) -> Self {
        self.0.redirect = Some(redirect);
        self
    }

    /// The same for what is called `name` below the place that the operation was looking for.
    pub(crate) fn below(mut self, name: &EntryName) -> Self {
        if let Some(redirect) = &mut self.0.redirect {
            redirect.rest.push(name.clone());
        }
        self
    }

    /// Where the operation can be done instead, or the error itself.
    pub(crate) fn into_redirect(mut self) -> Result<Redirect, Self> {
        self.0.redirect.take().ok_or(self)
    }

    /// Marks that the operation may have taken effect.
    #[must_use]
    pub fn of_unknown_outcome(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the operation may still have taken effect.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// What happened, for people.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// After which pause it may be tried again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The id of the thing that stands in the way, where there is one.
    pub fn existing(&self) -> Option<&str> {
        self.0.existing.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("outcome", &self.0.outcome)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<MetaError> for Error {
    fn from(error: MetaError) -> Self {
        let kind = match &error {
            MetaError::Unavailable(_) => ErrorKind::Unavailable,
            MetaError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<ChunkError> for Error {
    fn from(error: ChunkError) -> Self {
        let kind = match &error {
            ChunkError::Full => ErrorKind::DiskFull,
            ChunkError::Unavailable(_) => ErrorKind::Unavailable,
            // A referenced chunk that is not there is damage, not a wrong name of the caller's.
            ChunkError::NotFound(_) | ChunkError::Corrupt { .. } => ErrorKind::Corrupt,
            ChunkError::Exists(_) | ChunkError::Range(_) => ErrorKind::Internal,
            ChunkError::Io { .. } => ErrorKind::Unavailable,
            ChunkError::Busy => ErrorKind::Busy,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        let kind = match &error {
            CommitError::Conflict(_) => ErrorKind::Busy,
            CommitError::Bound(_) => ErrorKind::QuotaExceeded,
            CommitError::Fenced | CommitError::Unavailable(_) | CommitError::Unknown(_) => {
                ErrorKind::Unavailable
            }
            CommitError::Spec(_) => ErrorKind::Internal,
            CommitError::Full => ErrorKind::DiskFull,
            CommitError::Corrupt(_) => ErrorKind::Corrupt,
        };
        let unknown = matches!(error, CommitError::Unknown(_));
        let error = Self::new(kind, error.to_string()).with_source(error);
        if unknown { error.of_unknown_outcome() } else { error }
    }
}
