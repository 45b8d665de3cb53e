//! One authenticated request on its way through a handler, and the few things that all handlers
//! do with it.
//!
//! Not here: what any of them does.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header, request::Parts};
use larder_base::{ErrorKind, limits::PAGE_ENTRIES_MAX, name::TreePath};
use larder_core::{Caller, Entry, Error, Larder, ListOptions, SpaceRef, UserRef};
use larder_http::{RequestBody, ResponseBody, digest, path, query::Query};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Inner, wire::Object};

/// Largest JSON body of a request, in bytes: room for the two longest paths, all escaped.
const JSON_BYTES_MAX: u64 = 64 << 10;

/// How many replicas were durable when a write was answered, of how many are wanted.
pub(crate) const DURABILITY: HeaderName = HeaderName::from_static("larder-durability");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One authenticated request.
pub(crate) struct Call<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) head: &'a Parts,
    pub(crate) body: RequestBody,
    pub(crate) caller: Caller,
}

impl<'a> Call<'a> {
    pub(crate) fn larder(&self) -> &'a Larder {
        &self.inner.larder
    }

    pub(crate) fn headers(&self) -> &'a HeaderMap {
        &self.head.headers
    }

    /// The query, which may only have the parameters `known`.
    pub(crate) fn query(&self, known: &[&'static str]) -> Result<Query<'a>, Error> {
        Query::parse(self.head.uri.query(), known)
    }

    /// Parameters of a listing.
    pub(crate) fn list_options(&self, known: &[&'static str]) -> Result<ListOptions, Error> {
        let query = self.query(known)?;
        let limit = query.number("limit")?.unwrap_or(PAGE_ENTRIES_MAX);
        if !(1..=PAGE_ENTRIES_MAX).contains(&limit) {
            let detail = format!("parameter \"limit\" must be 1 to {PAGE_ENTRIES_MAX}");
            return Err(Error::invalid(detail));
        }
        let cursor = query.get("cursor").map(ToOwned::to_owned);
        Ok(ListOptions { cursor, limit, recursive: query.flag("recursive")? })
    }

    /// Refuses a query and leaves.
    pub(crate) fn no_query(&self) -> Result<(), Error> {
        self.query(&[]).map(drop)
    }

    /// Parses the body, which must be JSON.
    pub(crate) async fn json<T: DeserializeOwned>(body: RequestBody) -> Result<T, Error> {
        let bytes = body.collect(JSON_BYTES_MAX).await?;
        larder_core::idempotency::note_body(&bytes)?;
        parse(&bytes)
    }

    /// Parses the body, which may be empty.
    pub(crate) async fn json_or_default<T>(body: RequestBody) -> Result<T, Error>
    where
        T: DeserializeOwned + Default,
    {
        let bytes = body.collect(JSON_BYTES_MAX).await?;
        larder_core::idempotency::note_body(&bytes)?;
        if bytes.is_empty() { Ok(T::default()) } else { parse(&bytes) }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // serde_json bounds the depth itself (128), so nesting cannot exhaust the stack.
    serde_json::from_slice::<Object<T>>(bytes).map(|object| object.0).map_err(|error| {
        Error::invalid(format!("the body is not the JSON that is expected: {error}"))
    })
}

/// Checks that every request which changes something must pass.
///
/// # Errors
/// `Denied` for a request that a browser sends on behalf of another site, because a browser adds
/// the password it remembers to those too.
pub(crate) fn refuse_unsafe(headers: &HeaderMap) -> Result<(), Error> {
    let foreign = match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => !matches!(site, b"same-origin" | b"none"),
        None => headers.get(header::ORIGIN).is_some_and(|origin| !is_own(origin, headers)),
    };
    if foreign {
        return Err(Error::new(ErrorKind::Denied, "requests of other sites are refused"));
    }
    Ok(())
}

/// Whether `Origin` names the host that the request was sent to.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
    let origin = origin.as_ref().and_then(Uri::authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (origin, host) {
        (Some(origin), Some(host)) => origin.as_str().eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The space that an encoded segment names.
pub(crate) fn space(raw: &str) -> Result<SpaceRef, Error> {
    Ok(SpaceRef::parse(&path::decode(raw)?))
}

/// The space and the path that an encoded target names.
pub(crate) fn place(space_raw: &str, path_raw: &str) -> Result<(SpaceRef, TreePath), Error> {
    Ok((space(space_raw)?, path::tree_path(path_raw)?))
}

/// The user that an encoded segment names.
pub(crate) fn user(raw: &str) -> Result<UserRef, Error> {
    Ok(UserRef::parse(&path::decode(raw)?))
}

/// An id in a path; what is no id names nothing.
pub(crate) fn id<T: std::str::FromStr>(raw: &str, what: &str) -> Result<T, Error> {
    let text: Cow<'_, str> = path::decode(raw)?;
    text.parse().map_err(|_| Error::not_found(what))
}

/// A JSON answer.
pub(crate) fn json(
    status: StatusCode,
    body: &impl Serialize,
) -> Result<Response<ResponseBody>, Error> {
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, body)
        .map_err(|error| Error::internal(format!("write an answer as JSON: {error}")))?;
    let mut response = Response::new(ResponseBody::from(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

/// Whether an answer was made by [`json`].
pub(crate) fn is_json(response: &Response<ResponseBody>) -> bool {
    response.headers().get(header::CONTENT_TYPE) == Some(&JSON)
}

/// The answer to what leaves nothing to say.
pub(crate) fn no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A header value of a text that we made.
pub(crate) fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// `ETag`, and `Repr-Digest` where the digest is known.
pub(crate) fn validators(headers: &mut HeaderMap, entry: &Entry) {
    headers.insert(header::ETAG, value(format!("\"{}\"", entry.etag)));
    if let Some(sha256) = &entry.sha256 {
        headers.insert(digest::REPR_DIGEST, digest::header(sha256));
    }
}

/// 201 with `Location`, or 200.
pub(crate) fn created(response: &mut Response<ResponseBody>, created: bool, location: String) {
    if created {
        *response.status_mut() = StatusCode::CREATED;
        response.headers_mut().insert(header::LOCATION, value(location));
    }
}

/// Where the entry at a path of the space that a request named is shown.
pub(crate) fn stat_location(space: &str, entry: &Entry) -> String {
    format!("/v1/spaces/{space}/stat/{}", path::encode(&entry.path.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&'static str, &'static str)]) -> Option<ErrorKind> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        refuse_unsafe(&headers).err().map(|error| error.kind())
    }

    #[test]
    fn other_sites_cannot_use_the_password_that_a_browser_remembers() {
        let denied = Some(ErrorKind::Denied);
        assert_eq!(refused(&[("sec-fetch-site", "cross-site")]), denied);
        assert_eq!(refused(&[("sec-fetch-site", "same-site")]), denied);
        assert_eq!(refused(&[("sec-fetch-site", "same-origin")]), None);
        assert_eq!(refused(&[("sec-fetch-site", "none")]), None);
        let host = ("host", "files.example:8080");
        assert_eq!(refused(&[host, ("origin", "https://files.example:8080")]), None);
        assert_eq!(refused(&[host, ("origin", "https://evil.example")]), denied);
        assert_eq!(refused(&[host, ("origin", "null")]), denied);
        assert_eq!(refused(&[("origin", "https://evil.example")]), denied);
    }
}
