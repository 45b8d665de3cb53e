//! Which status each kind of error has over REST: one exhaustive match.
//!
//! Not here: the form of an error answer (`larder_http::problem`).

#![deny(clippy::wildcard_enum_match_arm)]

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use larder_base::{ErrorKind, id::RequestId};
use larder_core::Error;
use larder_http::{ResponseBody, auth, problem};

/// Why a request is not answered as it wished.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Core, or the door in its words, refused.
    Error(Error),
    /// The route exists, but not with this method; these it has.
    Method(&'static str),
    /// No byte of the file, which has this size, was asked for.
    Range(u64),
    /// An error with more than its kind says.
    Dressed(Box<Dressed>),
}

/// An error with a status or with headers that its kind alone does not have.
#[derive(Debug)]
pub(crate) struct Dressed {
    /// The error.
    pub(crate) error: Error,
    /// Another status than that of its kind.
    pub(crate) status: Option<StatusCode>,
    /// Further headers.
    pub(crate) headers: HeaderMap,
}

/// What every handler returns.
pub(crate) type Answer = Result<Response<ResponseBody>, Failure>;

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// The status and the title of a kind.
pub(crate) fn status(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "Already exists"),
        ErrorKind::NotEmpty => (StatusCode::CONFLICT, "Not empty"),
        ErrorKind::WrongType => (StatusCode::CONFLICT, "Wrong type"),
        ErrorKind::CrossSpace => (StatusCode::CONFLICT, "Another space"),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "Invalid request"),
        ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "Not authenticated"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "Denied"),
        ErrorKind::Locked => (StatusCode::LOCKED, "Locked"),
        ErrorKind::Precondition => (StatusCode::PRECONDITION_FAILED, "Precondition failed"),
        // What stands there forbids it. (Lost races are retried by core, and then `Busy`.)
        ErrorKind::Conflict => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Gone => (StatusCode::GONE, "Gone"),
        ErrorKind::BadDigest => (StatusCode::BAD_REQUEST, "Bad digest"),
        ErrorKind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
        ErrorKind::QuotaExceeded => (StatusCode::INSUFFICIENT_STORAGE, "Quota exceeded"),
        ErrorKind::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "Disk full"),
        ErrorKind::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Busy"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "Corrupt"),
        ErrorKind::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "Not implemented"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

impl Failure {
    /// An error with a status or with headers that its kind alone does not have.
    pub(crate) fn dressed(
        error: Error,
        status: Option<StatusCode>,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        let headers = headers.into_iter().collect();
        Self::Dressed(Box::new(Dressed { error, status, headers }))
    }

    /// The kind of the error, where it is one of core.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Error(error) => Some(error.kind()),
            Self::Dressed(dressed) => Some(dressed.error.kind()),
            Self::Method(_) | Self::Range(_) => None,
        }
    }

    /// The answer.
    pub(crate) fn response(self, request_id: &RequestId) -> Response<ResponseBody> {
        match self {
            Self::Error(error) => {
                log(&error, request_id);
                let (code, title) = status(error.kind());
                let mut response = problem::response(&error, code, title, request_id);
                if code == StatusCode::UNAUTHORIZED {
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, auth::CHALLENGE);
                }
                response
            }
            Self::Dressed(dressed) => {
                let Dressed { error, status, headers } = *dressed;
                let mut response = Self::Error(error).response(request_id);
                if let Some(status) = status {
                    *response.status_mut() = status;
                }
                response.headers_mut().extend(headers);
                response
            }
            Self::Method(allow) => {
                let error = Error::invalid(format!("this path has the methods {allow}"));
                let code = StatusCode::METHOD_NOT_ALLOWED;
                let mut response =
                    problem::response(&error, code, "Method not allowed", request_id);
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
                response
            }
            Self::Range(size) => {
                let error = Error::invalid(format!("the file has {size} bytes"));
                let code = StatusCode::RANGE_NOT_SATISFIABLE;
                let mut response =
                    problem::response(&error, code, "Range not satisfiable", request_id);
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                response
            }
        }
    }
}

/// Logs what a person must look at; the client's own mistakes are the client's.
fn log(error: &Error, request_id: &RequestId) {
    if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::error!(%request_id, ?error, "answer a request with an error of ours");
    } else if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DiskFull) {
        tracing::warn!(%request_id, ?error, "answer a request with an error of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::from_bytes([1; 16])
    }

    #[test]
    fn every_kind_has_the_status_that_clients_act_on() {
        let table = [
            ("not_found", 404),
            ("already_exists", 409),
            ("not_empty", 409),
            ("wrong_type", 409),
            ("cross_space", 409),
            ("invalid", 400),
            ("too_large", 413),
            ("unauthenticated", 401),
            ("denied", 403),
            ("locked", 423),
            ("precondition", 412),
            ("conflict", 409),
            ("gone", 410),
            ("bad_digest", 400),
            ("rate_limited", 429),
            ("quota_exceeded", 507),
            ("disk_full", 507),
            ("busy", 503),
            ("unavailable", 503),
            ("corrupt", 500),
            ("not_implemented", 501),
            ("internal", 500),
        ];
        assert_eq!(table.len(), ErrorKind::ALL.len());
        for (code, expected) in table {
            let kind = ErrorKind::from_code(code).expect(code);
            let response = Failure::Error(Error::new(kind, "x")).response(&id());
            assert_eq!(response.status(), expected, "{code}");
            let applied = response.headers().get("larder-applied");
            assert_eq!(applied.is_some(), expected >= 500, "{code}");
            let retry = response.headers().get("retry-after");
            assert_eq!(retry.is_some(), matches!(expected, 429 | 503), "{code}");
        }
    }

    #[test]
    fn refusals_say_what_would_be_accepted() {
        let response = Failure::Method("GET, HEAD").response(&id());
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        let response = Failure::Range(10).response(&id());
        assert_eq!(response.status(), 416);
        assert_eq!(response.headers()["content-range"], "bytes */10");
        let error = Error::new(ErrorKind::Unauthenticated, "x");
        let response = Failure::Error(error).response(&id());
        assert!(response.headers()["www-authenticate"].as_bytes().starts_with(b"Basic realm="));
    }
}
