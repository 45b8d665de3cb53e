//! Error answers: RFC 9457 `application/problem+json` made from a core error.
//!
//! Promises: every answer to a failed request has `type, title, status, detail, code,
//! request_id`, and `existing` where core names what stands in the way; with a 5xx,
//! `Larder-Applied: no|unknown` says whether the request may still have taken effect; with what
//! may pass, `Retry-After` says when to come again.
//!
//! Not here: which status a kind of error has (each door's `error.rs`).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use larder_base::{ErrorKind, Outcome, id::RequestId};
use larder_core::Error;
use serde::Serialize;

use crate::body::ResponseBody;

/// Says with a 5xx whether the request may still have taken effect.
pub const APPLIED: HeaderName = HeaderName::from_static("larder-applied");

/// `X-Request-Id`: on every answer. One that a client sends is not looked at.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    existing: Option<&'a str>,
}

/// The answer to a request that failed with `error`.
pub fn response(
    error: &Error,
    status: StatusCode,
    title: &str,
    request_id: &RequestId,
) -> Response<ResponseBody> {
    let body = Body {
        r#type: format!("urn:larder:problem:{}", error.kind().code()),
        title,
        status: status.as_u16(),
        detail: error.detail(),
        code: error.kind().code(),
        request_id: request_id.to_string(),
        existing: error.existing(),
    };
    // A struct of texts and numbers always has a JSON form.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(ResponseBody::Full(Bytes::from(json)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Details quote what was sent: no browser shall take it for a page.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status.is_server_error() {
        headers.insert(APPLIED, applied(error.outcome()));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn applied(outcome: Outcome) -> HeaderValue {
    HeaderValue::from_static(match outcome {
        Outcome::NotApplied => "no",
        Outcome::Unknown => "unknown",
    })
}

/// After how many seconds it may go better: what the error says, rounded up so that it is not too
/// early, or else what is usual for the kinds that time alone may help.
fn retry_after(error: &Error) -> Option<u64> {
    if let Some(pause) = error.retry_after() {
        let part = u64::from(pause.subsec_nanos() > 0);
        return Some(pause.as_secs().saturating_add(part).max(1));
    }
    match error.kind() {
        ErrorKind::Busy | ErrorKind::RateLimited => Some(1),
        ErrorKind::Unavailable => Some(5),
        _ => None,
    }
}

/// The request id as a header value.
pub fn request_id(id: &RequestId) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(id.to_string()))
        .unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: Response<ResponseBody>) -> serde_json::Value {
        let ResponseBody::Full(bytes) = response.into_body() else { panic!("a problem is small") };
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn a_problem_names_what_stands_in_the_way() {
        let id = RequestId::from_bytes([7; 16]);
        let error = Error::new(ErrorKind::AlreadyExists, "taken").with_existing("x-1");
        let response = response(&error, StatusCode::CONFLICT, "Already exists", &id);
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(response.headers().get(APPLIED).is_none());
        assert!(response.headers().get("retry-after").is_none());
        let expected = serde_json::json!({
            "type": "urn:larder:problem:already_exists",
            "title": "Already exists",
            "status": 409,
            "detail": "taken",
            "code": "already_exists",
            "request_id": id.to_string(),
            "existing": "x-1",
        });
        assert_eq!(body(response), expected);
    }

    #[test]
    fn server_errors_say_whether_they_may_have_been_applied() {
        let id = RequestId::from_bytes([7; 16]);
        let busy = Error::new(ErrorKind::Busy, "busy");
        let answer = response(&busy, StatusCode::SERVICE_UNAVAILABLE, "Busy", &id);
        assert_eq!(answer.headers()[APPLIED], "no");
        assert_eq!(answer.headers()["retry-after"], "1");
        let lost = Error::new(ErrorKind::Unavailable, "lost").of_unknown_outcome();
        let answer = response(&lost, StatusCode::SERVICE_UNAVAILABLE, "Unavailable", &id);
        assert_eq!(answer.headers()[APPLIED], "unknown");
        assert!(body(answer).get("existing").is_none());
    }

    #[test]
    fn a_known_pause_is_told_in_whole_seconds_and_never_too_short() {
        let id = RequestId::from_bytes([7; 16]);
        for (millis, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
            let pause = std::time::Duration::from_millis(millis);
            for kind in [ErrorKind::RateLimited, ErrorKind::Busy] {
                let error = Error::new(kind, "later").with_retry_after(pause);
                let answer = response(&error, StatusCode::TOO_MANY_REQUESTS, "x", &id);
                assert_eq!(answer.headers()["retry-after"], told, "{millis} ms");
            }
        }
    }
}
