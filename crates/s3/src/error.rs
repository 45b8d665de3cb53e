//! Errors of S3: one exhaustive match from the kinds of core, and the refusals of this door.
//!
//! Promises: each answer to a failed request is S3's `Error` document with code, message and
//! request id, whoever refused it; what may pass says when to come again; with a 5xx
//! `Larder-Applied: no|unknown` says whether the request may still have taken effect.
//!
//! Not here: which requests are refused (`guard`, the operations).

use std::{borrow::Cow, fmt::Write as _};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use larder_base::{ErrorKind, Outcome, id::RequestId};
use larder_core::{Error, NOTHING_MATCHES};
use larder_http::{ResponseBody, problem};
use s3s::{S3Error, S3ErrorCode};

const XML: HeaderValue = HeaderValue::from_static("application/xml");

/// What an operation of core was about, where S3 has more than one code for the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A bucket.
    Bucket,
    /// An object that is read.
    Object,
    /// An object that is written.
    Write,
    /// A multipart upload.
    Upload,
    /// The body of the request.
    Body,
}

const AMZ_VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

/// The code and the status of a kind of error.
fn code(kind: ErrorKind, about: About) -> (S3ErrorCode, Option<StatusCode>) {
    use S3ErrorCode as Code;
    let custom = |code: &'static str, status| (Code::Custom(code.into()), Some(status));
    let code = match (kind, about) {
        (ErrorKind::NotFound, About::Bucket) => Code::NoSuchBucket,
        (ErrorKind::NotFound | ErrorKind::Gone, About::Upload) => Code::NoSuchUpload,
        (ErrorKind::NotFound, _) => Code::NoSuchKey,
        (ErrorKind::Gone, About::Bucket) => Code::NoSuchBucket,
        (ErrorKind::Gone, _) => Code::NoSuchKey,
        (ErrorKind::AlreadyExists, _) => Code::BucketAlreadyExists,
        (ErrorKind::NotEmpty, _) => Code::BucketNotEmpty,
        // A key of a tree that is a directory there is no object.
        (ErrorKind::WrongType, About::Object) => Code::NoSuchKey,
        (ErrorKind::WrongType, About::Bucket) => Code::NoSuchBucket,
        (ErrorKind::WrongType, _) => return custom("KeyIsDirectory", StatusCode::CONFLICT),
        (ErrorKind::CrossSpace, _) => Code::InvalidRequest,
        (ErrorKind::Invalid, About::Bucket) => Code::InvalidBucketName,
        (ErrorKind::Invalid, About::Body) => Code::IncompleteBody,
        (ErrorKind::Invalid, _) => Code::InvalidArgument,
        (ErrorKind::TooLarge, _) => Code::EntityTooLarge,
        (ErrorKind::Unauthenticated | ErrorKind::Denied, _) => Code::AccessDenied,
        (ErrorKind::Precondition, _) => Code::PreconditionFailed,
        (ErrorKind::Locked | ErrorKind::Conflict, _) => {
            return (Code::OperationAborted, Some(StatusCode::CONFLICT));
        }
        (ErrorKind::BadDigest, _) => Code::BadDigest,
        (ErrorKind::RateLimited | ErrorKind::Busy, _) => {
            return (Code::SlowDown, Some(StatusCode::SERVICE_UNAVAILABLE));
        }
        (ErrorKind::QuotaExceeded, _) => return custom("QuotaExceeded", StatusCode::FORBIDDEN),
        (ErrorKind::DiskFull, _) => {
            return custom("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE);
        }
        (ErrorKind::Unavailable, _) => Code::ServiceUnavailable,
        (ErrorKind::NotImplemented, _) => Code::NotImplemented,
        (ErrorKind::Corrupt | ErrorKind::Internal, _) => Code::InternalError,
    };
    (code, None)
}

/// An error of core as S3 has it.
pub(crate) fn from_core(error: &Error, about: About, request_id: &RequestId) -> S3Error {
    log(error, request_id);
    let (mut code, status) = code(error.kind(), about);
    if about == About::Upload && error.kind() == ErrorKind::Invalid {
        // What is wrong with the parts that a completion names has a code of its own.
        for (text, part) in [
            ("InvalidPartOrder", S3ErrorCode::InvalidPartOrder),
            ("InvalidPart", S3ErrorCode::InvalidPart),
            ("EntityTooSmall", S3ErrorCode::EntityTooSmall),
        ] {
            if error.detail().starts_with(text) {
                code = part;
                break;
            }
        }
    }
    if error.kind() == ErrorKind::Precondition && error.detail() == NOTHING_MATCHES {
        code = S3ErrorCode::NoSuchKey;
    }
    let mut headers = HeaderMap::new();
    if about == About::Object
        && let Some(marker) = error.existing()
    {
        // The object, or the version asked for, is a delete marker.
        if error.kind() == ErrorKind::WrongType {
            code = S3ErrorCode::MethodNotAllowed;
        }
        headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
        headers.extend(HeaderValue::try_from(marker).map(|id| (AMZ_VERSION_ID, id)));
    } else if about == About::Object && error.detail() == "no such version" {
        code = S3ErrorCode::NoSuchVersion;
    }
    let internal = matches!(code, S3ErrorCode::InternalError);
    let text = if internal { "we made a mistake; try again".to_owned() } else { shown(error) };
    let mut refusal = S3Error::with_message(code, text);
    if let Some(status) = status {
        refusal.set_status_code(status);
    }
    if let Some(pause) = pause(error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(pause));
    }
    if refusal.status_code().is_none_or(|status| status.is_server_error()) {
        headers.insert(problem::APPLIED, applied(error));
    }
    if !headers.is_empty() {
        set_headers(&mut refusal, headers);
    }
    refusal
}

fn shown(error: &Error) -> String {
    error.detail().to_owned()
}

fn applied(error: &Error) -> HeaderValue {
    HeaderValue::from_static(match error.outcome() {
        Outcome::NotApplied => "no",
        Outcome::Unknown => "unknown",
    })
}

/// Whole seconds until it may be tried again; `None` where that would not help.
fn pause(error: &Error) -> Option<u64> {
    let may_pass =
        matches!(error.kind(), ErrorKind::Busy | ErrorKind::RateLimited | ErrorKind::Unavailable);
    let pause = error.retry_after().map(|pause| pause.as_millis().div_ceil(1000));
    let pause = pause.or_else(|| may_pass.then_some(1))?;
    Some(u64::try_from(pause).unwrap_or(u64::MAX).max(1))
}

/// Adds headers to an error; those that the library would set are replaced by them.
pub(crate) fn set_headers(error: &mut S3Error, mut headers: HeaderMap) {
    headers.insert(header::CONTENT_TYPE, XML);
    error.set_headers(headers);
}

/// Logs what a person must look at; the client's own mistakes are the client's.
fn log(error: &Error, request_id: &RequestId) {
    if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::error!(%request_id, ?error, "answer a request with an error of ours");
    } else if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DiskFull) {
        tracing::warn!(%request_id, ?error, "answer a request with an error of ours");
    }
}

/// A request that is refused before the library sees it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) message: Cow<'static, str>,
    /// One element more than all errors have.
    pub(crate) more: Option<(&'static str, String)>,
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { code, status, message: message.into(), more: None, retry_after: None }
    }

    /// 400.
    pub(crate) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 403.
    pub(crate) fn denied(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 501.
    pub(crate) fn missing(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    /// What a limit or core says before there is an operation.
    pub(crate) fn from_core(error: &Error, request_id: &RequestId) -> Self {
        log(error, request_id);
        let (code, status) = code(error.kind(), About::Write);
        let (code, status) = match (&code, error.kind()) {
            (_, ErrorKind::Invalid) => ("InvalidRequest", StatusCode::BAD_REQUEST),
            (S3ErrorCode::SlowDown, _) => ("SlowDown", StatusCode::SERVICE_UNAVAILABLE),
            (S3ErrorCode::AccessDenied, _) => ("AccessDenied", StatusCode::FORBIDDEN),
            (S3ErrorCode::ServiceUnavailable, _) => {
                ("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => ("InternalError", status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
        };
        let message = if code == "InternalError" { String::new() } else { shown(error) };
        Self { retry_after: pause(error), ..Self::new(status, code, message) }
    }

    /// The answer.
    pub(crate) fn response(&self, request_id: &RequestId) -> Response<ResponseBody> {
        let mut xml = String::with_capacity(256);
        xml.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>");
        xml.push_str(self.code);
        xml.push_str("</Code><Message>");
        xml.push_str(&escaped(&self.message));
        xml.push_str("</Message>");
        if let Some((name, value)) = &self.more {
            // Writing to a text cannot fail.
            write!(xml, "<{name}>{}</{name}>", escaped(value)).ok();
        }
        write!(xml, "<RequestId>{request_id}</RequestId></Error>").ok();
        let mut response = Response::new(ResponseBody::from(Bytes::from(xml)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, XML);
        if let Some(pause) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(pause));
        }
        response
    }
}

/// Completes an error document of the library: it has neither the request's id nor always a
/// message.
pub(crate) fn complete(document: &Bytes, request_id: &RequestId) -> Bytes {
    let Ok(text) = std::str::from_utf8(document) else { return document.clone() };
    let Some(head) = text.strip_suffix("</Error>") else { return document.clone() };
    let mut whole = String::with_capacity(text.len() + 96);
    whole.push_str(head);
    if !head.contains("<Message>") {
        let code = head.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let message = code.and_then(|(code, _)| message_of(code)).unwrap_or("see the code");
        write!(whole, "<Message>{message}</Message>").ok();
    }
    if !head.contains("<RequestId>") {
        write!(whole, "<RequestId>{request_id}</RequestId>").ok();
    }
    whole.push_str("</Error>");
    Bytes::from(whole)
}

/// What the library leaves without words.
fn message_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "SignatureDoesNotMatch" => {
            "the signature is not the one that this key makes of the request; check the secret"
        }
        "InvalidURI" => "the target cannot be decoded",
        "InvalidBucketName" => "this is no valid name of a bucket",
        "KeyTooLongError" => "the key is longer than 1024 bytes",
        "MalformedXML" => "the body is not the XML that is expected",
        "MissingContentLength" => "the request needs a Content-Length",
        "NotImplemented" => "this operation is not offered",
        "IncompleteBody" => "the body is not as long as declared",
        "MaxMessageLengthExceeded" => "the body is too long",
        "MissingRequestBodyError" => "the request needs a body",
        "AccessDenied" => "access denied",
        "InternalError" => "we made a mistake; try again",
        _ => return None,
    })
}

/// Text for an XML document; characters that it cannot hold become `?`.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            char if is_xml(char) => out.push(char),
            _ => out.push('?'),
        }
    }
    out
}

/// Whether XML 1.0 can hold a character.
pub(crate) fn is_xml(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r') || (char >= ' ' && !matches!(char, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::from_bytes([1; 16])
    }

    #[test]
    fn every_kind_has_the_code_and_status_that_clients_act_on() {
        let table = [
            ("not_found", "NoSuchKey", 404),
            ("already_exists", "BucketAlreadyExists", 409),
            ("not_empty", "BucketNotEmpty", 409),
            ("wrong_type", "KeyIsDirectory", 409),
            ("cross_space", "InvalidRequest", 400),
            ("invalid", "InvalidArgument", 400),
            ("too_large", "EntityTooLarge", 400),
            ("unauthenticated", "AccessDenied", 403),
            ("denied", "AccessDenied", 403),
            ("locked", "OperationAborted", 409),
            ("precondition", "PreconditionFailed", 412),
            ("conflict", "OperationAborted", 409),
            ("gone", "NoSuchKey", 404),
            ("bad_digest", "BadDigest", 400),
            ("rate_limited", "SlowDown", 503),
            ("quota_exceeded", "QuotaExceeded", 403),
            ("disk_full", "InsufficientStorage", 507),
            ("busy", "SlowDown", 503),
            ("unavailable", "ServiceUnavailable", 503),
            ("corrupt", "InternalError", 500),
            ("not_implemented", "NotImplemented", 501),
            ("internal", "InternalError", 500),
        ];
        assert_eq!(table.len(), ErrorKind::ALL.len());
        for (kind, code, status) in table {
            let kind = ErrorKind::from_code(kind).expect(kind);
            let error = from_core(&Error::new(kind, "x"), About::Write, &id());
            assert_eq!(error.code().as_str(), code);
            assert_eq!(error.status_code().map(|status| status.as_u16()), Some(status), "{code}");
            let headers = error.headers().cloned().unwrap_or_default();
            assert_eq!(headers.contains_key("retry-after"), status == 503, "{code}");
            assert_eq!(headers.contains_key("larder-applied"), status >= 500, "{code}");
        }
    }

    #[test]
    fn an_etag_demanded_of_nothing_is_no_such_key() {
        let nothing = Error::new(ErrorKind::Precondition, NOTHING_MATCHES);
        let error = from_core(&nothing, About::Write, &id());
        assert_eq!(*error.code(), S3ErrorCode::NoSuchKey);
        let another = Error::new(ErrorKind::Precondition, "another etag");
        let error = from_core(&another, About::Write, &id());
        assert_eq!(*error.code(), S3ErrorCode::PreconditionFailed);
    }

    #[test]
    fn the_same_kind_has_another_code_elsewhere() {
        let code = |kind, about| from_core(&Error::new(kind, "x"), about, &id()).code().clone();
        assert_eq!(code(ErrorKind::NotFound, About::Bucket), S3ErrorCode::NoSuchBucket);
        assert_eq!(code(ErrorKind::NotFound, About::Upload), S3ErrorCode::NoSuchUpload);
        assert_eq!(code(ErrorKind::WrongType, About::Object), S3ErrorCode::NoSuchKey);
        assert_eq!(code(ErrorKind::Invalid, About::Body), S3ErrorCode::IncompleteBody);
        for (detail, expected) in [
            ("InvalidPart: 3", S3ErrorCode::InvalidPart),
            ("InvalidPartOrder: 3", S3ErrorCode::InvalidPartOrder),
            ("EntityTooSmall: 3", S3ErrorCode::EntityTooSmall),
            ("else", S3ErrorCode::InvalidArgument),
        ] {
            let error = from_core(&Error::invalid(detail), About::Upload, &id());
            assert_eq!(*error.code(), expected);
        }
    }

    #[test]
    fn documents_are_well_formed_whatever_they_quote() {
        let refusal = Refusal::bad("InvalidArgument", "a <b> & \u{1} \"c\"");
        let ResponseBody::Full(bytes) = refusal.response(&id()).into_body() else {
            panic!("a document")
        };
        let text = std::str::from_utf8(&bytes).expect("UTF-8");
        assert!(text.contains("<Message>a &lt;b&gt; &amp; ? &quot;c&quot;</Message>"), "{text}");
        let bare = Bytes::from_static(b"<Error><Code>MalformedXML</Code></Error>");
        let whole = complete(&bare, &id());
        let text = std::str::from_utf8(&whole).expect("UTF-8");
        assert!(text.contains("<Message>") && text.contains("<RequestId>"), "{text}");
        assert_eq!(complete(&whole, &id()), whole);
        let other = Bytes::from_static(b"<Other/>");
        assert_eq!(complete(&other, &id()), other);
    }
}
