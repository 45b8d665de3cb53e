//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that is sent again is
//! told what it came to, and done no second time.
//!
//! Promises: which request it is, is said by its method, path, query, the headers that change
//! what it does, and its body; another request under a key that has been used is 422, the same one
//! while it runs 409. An answer that repeats one says so with `Larder-Repeated: true`. Routes
//! whose requests can be repeated by themselves, or are many commits, refuse the header instead of
//! ignoring it.
//!
//! Not here: what is remembered and for how long (core).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use larder_base::{
    ErrorKind,
    digest::{Sha256, Sha256Stream},
};
use larder_core::Error;

use crate::{
    call::{self, Call},
    dispatch,
    error::{Answer, Failure},
    route::Route,
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is one that was given before.
const REPEATED: HeaderName = HeaderName::from_static("larder-repeated");

/// `Larder-Expires`: when an uploaded file goes to the trash by itself.
pub(crate) const EXPIRES: HeaderName = HeaderName::from_static("larder-expires");

/// Headers that change what a request does.
const TELLING: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    EXPIRES,
];

/// The key that a request names.
///
/// # Errors
/// `Invalid` for several, or for one that is not ASCII.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut keys = headers.get_all(KEY).iter();
    match (keys.next().map(HeaderValue::to_str), keys.next()) {
        (None, _) => Ok(None),
        (Some(Ok(key)), None) => Ok(Some(key)),
        _ => Err(Error::invalid("one Idempotency-Key of visible ASCII characters is needed")),
    }
}

/// Answers a request that names `key`: does it, or tells what it came to.
pub(crate) async fn answer(key: &str, route: Route<'_>, method: &Method, call: Call<'_>) -> Answer {
    let goes_on = matches!(
        route,
        Route::Uploads
            | Route::Upload(..)
            | Route::UploadComplete(..)
            | Route::UploadPart(..)
            | Route::Load
    );
    if goes_on {
        let detail = "this cannot have an Idempotency-Key: ask how far it is, and go on there";
        return Err(Error::new(ErrorKind::NotImplemented, detail).into());
    }
    if matches!(route, Route::Check | Route::Collect) {
        // To do it twice is to do it once.
        return dispatch(route, method.as_str(), call).await;
    }
    let head = digest(method, call.head);
    let operation = call.larder().operation(&call.caller, key, head).await?;
    if operation.differs() {
        return Err(reused());
    }
    let mut answer = if *method == Method::DELETE && operation.done_before_in_silence() {
        Ok(call::no_content())
    } else {
        operation.run(Box::pin(dispatch(route, method.as_str(), call))).await
    };
    if operation.differs() {
        return Err(reused());
    }
    if let (Ok(response), true) = (&mut answer, operation.is_repetition()) {
        response.headers_mut().insert(REPEATED, HeaderValue::from_static("true"));
    }
    answer
}

fn reused() -> Failure {
    let error = Error::invalid("another request has been done under this Idempotency-Key");
    Failure::dressed(error, Some(StatusCode::UNPROCESSABLE_ENTITY), [])
}

/// What makes it this request, but for its body.
fn digest(method: &Method, head: &Parts) -> Sha256 {
    let mut digest = Sha256Stream::default();
    let mut add = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    add(method.as_str().as_bytes());
    add(head.uri.path().as_bytes());
    add(head.uri.query().unwrap_or("").as_bytes());
    for name in &TELLING {
        for value in head.headers.get_all(name) {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
    }
    if let Some(value) = head.headers.get(header::CONTENT_TYPE) {
        let value = value.as_bytes();
        // The boundary of a form may be another each time it is sent.
        let form = value.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
        add(if form { b"multipart" } else { value });
    }
    digest.finish()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(method: &Method, target: &str, headers: &[(&str, &str)]) -> Sha256 {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        digest(method, &request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn what_changes_a_request_changes_its_digest() {
        let same = || of(&Method::PUT, "/v1/x?a=1", &[("content-type", "text/plain")]);
        assert_eq!(same(), same());
        let noise = [("content-type", "text/plain"), ("user-agent", "x"), ("date", "y")];
        assert_eq!(of(&Method::PUT, "/v1/x?a=1", &noise), same());
        for other in [
            of(&Method::POST, "/v1/x?a=1", &[("content-type", "text/plain")]),
            of(&Method::PUT, "/v1/y?a=1", &[("content-type", "text/plain")]),
            of(&Method::PUT, "/v1/x?a=2", &[("content-type", "text/plain")]),
            of(&Method::PUT, "/v1/x?a=1", &[("content-type", "text/html")]),
            of(&Method::PUT, "/v1/x?a=1", &[("content-type", "text/plain"), ("if-match", "*")]),
        ] {
            assert_ne!(other, same());
        }
    }

    #[test]
    fn a_form_may_have_another_boundary() {
        let form = |boundary: &str| {
            let value = format!("multipart/form-data; boundary={boundary}");
            of(&Method::POST, "/v1/files", &[("content-type", &value)])
        };
        assert_eq!(form("a"), form("b"));
    }

    #[test]
    fn two_keys_are_no_key() {
        let mut headers = HeaderMap::new();
        assert_eq!(key(&headers).expect("none"), None);
        headers.append(KEY, HeaderValue::from_static("a"));
        assert_eq!(key(&headers).expect("one"), Some("a"));
        headers.append(KEY, HeaderValue::from_static("b"));
        assert!(key(&headers).is_err());
    }
}
