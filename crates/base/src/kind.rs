//! The one list of error kinds, by what the caller should do about them.
//!
//! Every door maps [`ErrorKind`] in one exhaustive `match`, so a new kind does not compile until
//! each door has chosen its answer. A new kind needs an ADR.
//!
//! Source: the shape is SlateDB RFC 0007 and Upspin's `errors.go`; [`Outcome`] is Materialize's
//! determinate/indeterminate split.

use std::fmt;

/// What went wrong, said as what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Nothing has that name or id, or the caller may not know that it exists.
    NotFound,
    /// The name is taken: choose another one, or overwrite on purpose.
    AlreadyExists,
    /// A directory that must be empty is not.
    NotEmpty,
    /// A file stands where a directory is needed, or the reverse.
    WrongType,
    /// The operation would leave its space: copy and delete instead.
    CrossSpace,
    /// The request itself is malformed: correct it before sending it again.
    Invalid,
    /// The request is larger than a limit that was told to the caller.
    TooLarge,
    /// No or wrong credentials.
    Unauthenticated,
    /// The caller is known and may not do this.
    Denied,
    /// A user-visible lock stands in the way: present its token or wait.
    Locked,
    /// A condition of the request (`If-Match` and the like) does not hold.
    Precondition,
    /// What the request asks for cannot be done to the thing as it is now: look at it again.
    Conflict,
    /// It was there and has ended for good (an upload that expired, a cursor that is too old):
    /// begin anew.
    Gone,
    /// The bytes do not have the digest that was declared: send them again.
    BadDigest,
    /// The caller asks too often or for too much at once: slow down.
    RateLimited,
    /// The space's limit would be exceeded: delete something or raise the limit.
    QuotaExceeded,
    /// The disk is full: reads and deletes still work.
    DiskFull,
    /// Too much work is waiting, or others change the same things: try again after a pause.
    Busy,
    /// A part of the system cannot be reached or has been switched off.
    Unavailable,
    /// Stored bytes do not match their checksum: they are never served.
    Corrupt,
    /// Larder does not do this.
    NotImplemented,
    /// A broken invariant of our own: a person must look.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of the list above.
    pub const ALL: [Self; 22] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::NotEmpty,
        Self::WrongType,
        Self::CrossSpace,
        Self::Invalid,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::Denied,
        Self::Locked,
        Self::Precondition,
        Self::Conflict,
        Self::Gone,
        Self::BadDigest,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::DiskFull,
        Self::Busy,
        Self::Unavailable,
        Self::Corrupt,
        Self::NotImplemented,
        Self::Internal,
    ];

    /// The stable `code` that clients, logs and documents use.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NotEmpty => "not_empty",
            Self::WrongType => "wrong_type",
            Self::CrossSpace => "cross_space",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Locked => "locked",
            Self::Precondition => "precondition",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::BadDigest => "bad_digest",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::DiskFull => "disk_full",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::NotImplemented => "not_implemented",
            Self::Internal => "internal",
        }
    }

    /// The kind whose [`code`](Self::code) this is.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Whether a failed operation may still have taken, or take, effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It has no effect, now or later.
    NotApplied,
    /// Nobody knows. It must never be treated as a failure: nothing it staged may be destroyed.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(kind));
        }
    }
}
