//! What can go wrong for a client verb, how it reads, and which exit code it has.
//!
//! Promises: every error says what it is about, and the server's request id where there is one;
//! the exit code follows from the error's kind in one exhaustive `match`.
//!
//! Not here: mistakes on the command line that the parser finds (`args`).

use std::{error::Error, fmt, io, path::Path};

use http::StatusCode;
use larder_base::ErrorKind;
use serde::Deserialize;

use crate::output::printable;

/// Result of client work.
pub(crate) type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct ClientError {
    /// What it is about, such as `home:/photos`.
    subject: Option<String>,
    /// What went wrong.
    pub(crate) cause: Cause,
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The server said no.
    Problem(Problem),
    /// No answer came: whether the request had an effect is not known unless it says so.
    NoAnswer(String),
    /// The answer makes no sense.
    BadAnswer(String),
    /// Bytes changed on their way, or are missing.
    Damaged(String),
    /// A local file, or a stream of this process.
    Local(io::Error),
    /// The arguments do not fit together.
    Usage(String),
    /// The work was done and found something wrong, which has been printed.
    Found(String),
    /// Several errors that have been printed, and the exit code they make together.
    Reported(usize, u8),
}

/// An RFC 9457 problem as Larder sends it, or what its status says when there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// HTTP status.
    pub(crate) status: u16,
    /// Kind, from `code` or else from the status.
    pub(crate) kind: ErrorKind,
    /// For people.
    pub(crate) detail: Option<String>,
    /// For the server's log.
    pub(crate) request_id: Option<String>,
}

impl Problem {
    /// What a server would say, found out without asking it.
    pub(crate) fn local(kind: ErrorKind, detail: &str) -> Self {
        Self { status: 409, kind, detail: Some(detail.to_owned()), request_id: None }
    }

    /// Adds what the user can do about it.
    pub(crate) fn advise(&mut self, advice: &str) {
        let detail = self.detail.take().map_or_else(String::new, |detail| format!("{detail}; "));
        self.detail = Some(format!("{detail}{advice}"));
    }

    /// Reads the body of an answer with an error status.
    pub(crate) fn parse(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Wire {
            code: Option<String>,
            title: Option<String>,
            detail: Option<String>,
            request_id: Option<String>,
        }
        let wire: Wire = serde_json::from_slice(body).unwrap_or_default();
        let known = wire.code.as_deref().and_then(ErrorKind::from_code);
        // A newer server may have codes we do not know: say them, and go by the status.
        let strange = wire.code.filter(|_| known.is_none());
        Self {
            status: status.as_u16(),
            kind: known.unwrap_or_else(|| kind_of_status(status)),
            detail: wire.detail.or(strange).or(wire.title).map(|text| printable(&text)),
            request_id: wire.request_id.map(|text| printable(&text)),
        }
    }
}

fn kind_of_status(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        400 | 405 | 411 | 414 | 415 | 416 | 431 => ErrorKind::Invalid,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Conflict,
        410 => ErrorKind::Gone,
        412 => ErrorKind::Precondition,
        413 => ErrorKind::TooLarge,
        423 => ErrorKind::Locked,
        429 => ErrorKind::RateLimited,
        501 => ErrorKind::NotImplemented,
        502..=504 => ErrorKind::Unavailable,
        507 => ErrorKind::QuotaExceeded,
        _ => ErrorKind::Internal,
    }
}

impl ClientError {
    fn new(cause: Cause) -> Self {
        Self { subject: None, cause }
    }

    /// The arguments do not fit together.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Cause::Usage(text.into()))
    }

    /// The answer makes no sense.
    pub(crate) fn bad_answer(text: impl Into<String>) -> Self {
        Self::new(Cause::BadAnswer(text.into()))
    }

    /// No answer came.
    pub(crate) fn no_answer(text: impl Into<String>) -> Self {
        Self::new(Cause::NoAnswer(text.into()))
    }

    /// Bytes changed on their way.
    pub(crate) fn damaged(text: impl Into<String>) -> Self {
        Self::new(Cause::Damaged(text.into()))
    }

    /// The work was done and found something wrong.
    pub(crate) fn found(text: impl Into<String>) -> Self {
        Self::new(Cause::Found(text.into()))
    }

    /// A stream of this process.
    pub(crate) fn stream(error: io::Error) -> Self {
        Self::new(Cause::Local(error))
    }

    /// Errors that have been printed.
    pub(crate) fn reported(count: usize, exit_code: u8) -> Self {
        Self::new(Cause::Reported(count, exit_code))
    }

    /// A local file.
    pub(crate) fn local(path: &Path, error: io::Error) -> Self {
        Self::new(Cause::Local(error)).about(path.display())
    }

    /// Says what the error is about, unless that is known already.
    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.subject.get_or_insert_with(|| printable(&subject.to_string()));
        self
    }

    /// The kind of the server's answer, if it is one.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match &self.cause {
            Cause::Problem(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// Whether the reader of our output has gone away, which is no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(&self.cause, Cause::Local(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether further requests are bound to fail in the same way.
    pub(crate) fn is_hopeless(&self) -> bool {
        match &self.cause {
            Cause::NoAnswer(_) => true,
            // Not a full quota: a smaller file may still fit.
            Cause::Problem(problem) => problem.kind == ErrorKind::Unauthenticated,
            _ => self.is_broken_pipe(),
        }
    }

    /// The exit code of a verb that ends with this error.
    pub(crate) fn exit_code(&self) -> u8 {
        match &self.cause {
            Cause::Problem(problem) => exit_code_of(problem.kind),
            Cause::Usage(_) => 2,
            Cause::Reported(_, code) => *code,
            Cause::NoAnswer(_)
            | Cause::BadAnswer(_)
            | Cause::Damaged(_)
            | Cause::Local(_)
            | Cause::Found(_) => 1,
        }
    }
}

/// 1 failure, 3 not found, 4 denied, 5 conflict, 6 quota.
fn exit_code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Gone => 3,
        ErrorKind::Unauthenticated | ErrorKind::Denied => 4,
        ErrorKind::AlreadyExists
        | ErrorKind::NotEmpty
        | ErrorKind::WrongType
        | ErrorKind::CrossSpace
        | ErrorKind::Locked
        | ErrorKind::Precondition
        | ErrorKind::Conflict => 5,
        ErrorKind::QuotaExceeded | ErrorKind::DiskFull => 6,
        ErrorKind::Invalid
        | ErrorKind::TooLarge
        | ErrorKind::Busy
        | ErrorKind::Unavailable
        | ErrorKind::Corrupt
        | ErrorKind::NotImplemented
        | ErrorKind::BadDigest
        | ErrorKind::RateLimited
        | ErrorKind::Internal => 1,
    }
}

impl From<Problem> for ClientError {
    fn from(problem: Problem) -> Self {
        Self::new(Cause::Problem(problem))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        match &self.cause {
            Cause::Problem(problem) => problem.fmt(f),
            Cause::NoAnswer(text)
            | Cause::BadAnswer(text)
            | Cause::Damaged(text)
            | Cause::Usage(text)
            | Cause::Found(text) => f.write_str(text),
            Cause::Local(error) => error.fmt(f),
            Cause::Reported(count, _) => write!(f, "{count} failed"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.kind.code().replace('_', " ");
        f.write_str(&words)?;
        if let Some(detail) = self.detail.as_deref().filter(|detail| *detail != words) {
            write!(f, ": {detail}")?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_exit_code_scripts_rely_on() {
        for kind in ErrorKind::ALL {
            let body = format!("{{\"code\":\"{}\"}}", kind.code());
            let error = ClientError::from(Problem::parse(StatusCode::CONFLICT, body.as_bytes()));
            let expected = match kind.code() {
                "not_found" | "gone" => 3,
                "denied" | "unauthenticated" => 4,
                "already_exists" | "not_empty" | "wrong_type" | "precondition" | "conflict"
                | "locked" | "cross_space" => 5,
                "quota_exceeded" | "disk_full" => 6,
                _ => 1,
            };
            assert_eq!(error.exit_code(), expected, "{kind}");
        }
        assert_eq!(ClientError::usage("x").exit_code(), 2);
        assert_eq!(ClientError::damaged("x").exit_code(), 1);
    }

    #[test]
    fn a_problem_reads_well_and_names_its_request() {
        let body = br#"{"type":"about:blank","title":"Not found","status":404,
            "code":"not_found","request_id":"0192","detail":"not found"}"#;
        let error = ClientError::from(Problem::parse(StatusCode::NOT_FOUND, body));
        assert_eq!(error.about("home:/x").to_string(), "home:/x: not found (request 0192)");
    }

    #[test]
    fn without_a_usable_body_the_status_decides() {
        let cases: [(u16, &[u8], ErrorKind); 6] = [
            (404, b"", ErrorKind::NotFound),
            (401, b"<html>", ErrorKind::Unauthenticated),
            (503, b"{\"code\":7}", ErrorKind::Unavailable),
            (507, b"{}", ErrorKind::QuotaExceeded),
            (412, b"{\"code\":\"invented_later\"}", ErrorKind::Precondition),
            (500, b"[]", ErrorKind::Internal),
        ];
        for (status, body, kind) in cases {
            let status = StatusCode::from_u16(status).expect("status");
            assert_eq!(Problem::parse(status, body).kind, kind, "{status}");
        }
        let later = Problem::parse(StatusCode::GONE, b"{\"code\":\"invented_later\"}");
        assert_eq!(later.to_string(), "gone: invented_later");
    }
}
