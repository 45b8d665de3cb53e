//! The change feed of a space: as pages, by long poll, and as server-sent events.
//!
//! Promises: a page is told with the cursor to go on from, an event with its own as its id, so a
//! client that was cut off loses and repeats nothing. Whoever waits is looked at every second:
//! the wait ends when the server goes away, and nothing is told to who may not know it any more.
//! One page at a time is in memory for each follower, and a new one is read when the client has
//! taken the one before.
//!
//! The form of events: WHATWG HTML, section 9.2 (server-sent events).
//!
//! Not here: what changes are (core).

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use larder_base::{Env, Timestamp, id::NodeId, limits::PAGE_ENTRIES_MAX};
use larder_core::{Caller, Change, ChangePage, Error, Larder, SpaceRef};
use larder_http::{ResponseBody, Status};
use serde::Serialize;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{self, Text},
};

/// Longest wait of one request, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;

/// How often who waits is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Longest silence of a stream of events.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Changes in one piece of a stream.
const EVENTS_MAX: usize = 100;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `GET .../changes`.
pub(crate) async fn get(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    let query = call.query(&["cursor", "limit", "wait"])?;
    let limit = query.number("limit")?.unwrap_or(PAGE_ENTRIES_MAX);
    if !(1..=PAGE_ENTRIES_MAX).contains(&limit) {
        let detail = format!("parameter \"limit\" must be 1 to {PAGE_ENTRIES_MAX}");
        return Err(Error::invalid(detail).into());
    }
    let wait = query.number("wait")?.unwrap_or(0);
    if wait > WAIT_SECONDS_MAX {
        let detail = format!("parameter \"wait\" must be 0 to {WAIT_SECONDS_MAX}");
        return Err(Error::invalid(detail).into());
    }
    let cursor = query.get("cursor");
    let (larder, env, status) = (call.larder(), &call.inner.env, &call.inner.status);
    let head = call.head.method == Method::HEAD;
    if wants_events(call.headers()) {
        let last = call.headers().get(LAST_EVENT_ID).map(|id| id.to_str());
        let last = last.transpose().map_err(|_| Error::invalid("Last-Event-ID is no cursor"))?;
        // A browser that comes again says where it was in this header, and the rest as before.
        let cursor = last.filter(|id| !id.is_empty()).or(cursor).map(ToOwned::to_owned);
        let mut follower = Follower {
            larder: larder.clone(),
            env: env.clone(),
            status: status.clone(),
            caller: call.caller,
            space,
            cursor,
            page: None,
            spoken: Duration::ZERO,
            ended: false,
        };
        // What is refused is refused with a status, not within the stream.
        follower.page = Some(follower.read(Duration::ZERO).await?);
        return Ok(events(follower, head));
    }
    let wait = Duration::from_secs(if head { 0 } else { wait });
    let until = env.monotonic().saturating_add(wait);
    let mut cursor = cursor.map(Cow::Borrowed);
    loop {
        let left = until.saturating_sub(env.monotonic());
        let from = cursor.as_deref();
        let wait = left.min(LOOK);
        let page = larder.changes_within(&call.caller, &space, from, limit, wait).await?;
        if !page.changes.is_empty() || left <= LOOK || status.draining() {
            return Ok(call::json(StatusCode::OK, &FeedBody::from(&page))?);
        }
        cursor = Some(Cow::Owned(page.cursor));
    }
}

/// Whether the client asks for server-sent events.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepts.flat_map(|accept| accept.split(',')).any(|range| {
        let kind = range.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

fn events(follower: Follower, head: bool) -> Response<ResponseBody> {
    let body = if head {
        ResponseBody::Empty
    } else {
        ResponseBody::events(stream::unfold(follower, |mut follower| async {
            let piece = follower.next().await?;
            Some((Bytes::from(piece), follower))
        }))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers would hold events back.
    let name = HeaderName::from_static("x-accel-buffering");
    headers.insert(name, HeaderValue::from_static("no"));
    response
}

/// One stream of events.
struct Follower {
    larder: Larder,
    env: Env,
    status: Status,
    caller: Caller,
    space: SpaceRef,
    cursor: Option<String>,
    /// The first page, until it is sent.
    page: Option<ChangePage>,
    /// When something was sent last.
    spoken: Duration,
    ended: bool,
}

impl Follower {
    async fn read(&self, wait: Duration) -> Result<ChangePage, Error> {
        let cursor = self.cursor.as_deref();
        self.larder.changes_within(&self.caller, &self.space, cursor, EVENTS_MAX, wait).await
    }

    /// The next piece of the stream; `None` is its end, and the client comes again.
    async fn next(&mut self) -> Option<String> {
        let begins = self.page.is_some();
        loop {
            if self.ended || self.status.draining() {
                return None;
            }
            let page = match self.page.take() {
                Some(page) => Ok(page),
                None => self.read(LOOK).await,
            };
            let mut piece = String::new();
            if begins {
                piece.push_str("retry: 1000\n");
            }
            match page {
                Err(error) => {
                    // The client asks again and is told the rest with the status of that answer.
                    self.ended = true;
                    let code = error.kind().code();
                    return Some(format!("event: end\ndata: {{\"code\":\"{code}\"}}\n\n"));
                }
                Ok(page) => {
                    let now = self.env.monotonic();
                    let silent = now.saturating_sub(self.spoken) >= HEARTBEAT;
                    let changes = !page.changes.is_empty();
                    for change in &page.changes {
                        push_event(&mut piece, change);
                    }
                    if !changes && (begins || silent) {
                        // Without data it is no event, but the client remembers the id.
                        piece.push_str(&format!(": nothing new\nid: {}\n\n", page.cursor));
                    }
                    self.cursor = Some(page.cursor);
                    if !piece.is_empty() {
                        self.spoken = now;
                        return Some(piece);
                    }
                }
            }
        }
    }
}

/// Appends a change as an event. JSON has no line breaks.
fn push_event(piece: &mut String, change: &Change) {
    let body = serde_json::to_string(&ChangeBody::from(change));
    // Text and numbers always become JSON.
    let body = body.unwrap_or_default();
    piece.push_str(&format!("id: {}\nevent: change\ndata: {body}\n\n", change.cursor));
}

/// `{changes, cursor}`.
#[derive(Serialize)]
struct FeedBody<'a> {
    changes: Vec<ChangeBody<'a>>,
    cursor: &'a str,
}

impl<'a> From<&'a ChangePage> for FeedBody<'a> {
    fn from(page: &'a ChangePage) -> Self {
        let changes = page.changes.iter().map(ChangeBody::from).collect();
        Self { changes, cursor: &page.cursor }
    }
}

/// A change.
#[derive(Serialize)]
struct ChangeBody<'a> {
    cursor: &'a str,
    change: &'static str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    id: Text<NodeId>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    author: &'a str,
    at: Text<Timestamp>,
}

impl<'a> From<&'a Change> for ChangeBody<'a> {
    fn from(change: &'a Change) -> Self {
        Self {
            cursor: &change.cursor,
            change: change.kind.name(),
            path: &change.path,
            from: change.from.as_deref(),
            id: Text(change.node),
            kind: wire::kind(change.entry),
            revision: change.revision,
            author: &change.author,
            at: Text(change.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_for_those_who_ask_for_them() {
        let asks = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_events(&headers)
        };
        assert!(asks("text/event-stream"));
        assert!(asks("application/json;q=0.5, Text/Event-Stream ; q=1"));
        assert!(!asks("*/*"));
        assert!(!asks("application/json"));
        assert!(!wants_events(&HeaderMap::new()));
    }
}
