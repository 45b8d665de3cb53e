//! The REST client behind the verbs.
//!
//! Promises: every answer is either what was asked for or a [`ClientError`] with the server's
//! own words; a request is sent again only if that cannot do harm: it is idempotent, its body
//! can be read again, and the server either gave no answer or said 503 (or 409 or 429) with
//! `Retry-After`. Repetitions are few and jittered.
//!
//! Not here: what each call means ([`api`]), connections ([`connection`], [`tls`]), HTTP/2.

pub(crate) mod api;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod target;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
pub(crate) mod uploads;

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
};
use hyper::body::{Body as _, Incoming};
use larder_base::{Env, digest::Sha256};
use serde::de::DeserializeOwned;

use self::{
    body::{Moved, Payload, Sending},
    connection::{Busy, Pool, explain},
    error::{ClientError, Problem, Result},
    target::Target,
};

/// How often a request is sent at most.
const ATTEMPTS_MAX: u32 = 5;
/// First pause before a request is sent again; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause that a server may ask for and get.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Largest JSON answer: a page of 1,000 entries with the longest paths is smaller.
const JSON_BYTES_MAX: usize = 32 << 20;
/// Largest problem that is read.
const PROBLEM_BYTES_MAX: usize = 64 << 10;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
/// With a 5xx: whether the request may still have taken effect.
const APPLIED: HeaderName = HeaderName::from_static("larder-applied");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is the same as doing it once.
    Harmless,
    /// Not even when the server asked for it.
    Never,
    /// Only when the server has said that it did nothing.
    Refused,
}

/// Whether a request has had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The server says so.
    Surely,
    /// Nobody knows.
    Perhaps,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    /// Method.
    pub(crate) method: Method,
    /// Path and query, encoded, from `/v1` on.
    pub(crate) path: String,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What it carries.
    pub(crate) payload: Payload,
    /// Whether it may be sent again.
    pub(crate) repeat: Repeat,
    /// Whether to wait for the answer as long as it takes.
    pub(crate) unhurried: bool,
    /// Who counts what is sent.
    pub(crate) moved: Moved,
}

impl Call {
    /// A call without a body; it may be repeated unless it is a POST.
    pub(crate) fn new(method: Method, path: String) -> Self {
        let repeat = if method == Method::POST { Repeat::Never } else { Repeat::Harmless };
        let moved = Moved::default();
        Self {
            method,
            path,
            headers: Vec::new(),
            payload: Payload::None,
            repeat,
            unhurried: false,
            moved,
        }
    }

    fn may_repeat(&self, refused: Refused) -> bool {
        self.payload.is_repeatable()
            && match self.repeat {
                Repeat::Harmless => true,
                Repeat::Refused => refused == Refused::Surely,
                Repeat::Never => false,
            }
    }

    /// Carries `value` as JSON.
    pub(crate) fn json(mut self, value: &serde_json::Value) -> Self {
        self.payload = Payload::Bytes(Bytes::from(value.to_string()));
        self.headers.push((CONTENT_TYPE, JSON));
        self
    }
}

/// A client of one server. It opens connections as they are needed.
#[derive(Debug)]
pub(crate) struct Client {
    env: Env,
    target: Target,
    authorization: Option<HeaderValue>,
    pool: Pool,
    slow: Pool,
    timeout: Duration,
}

/// The good answer to a call.
#[derive(Debug)]
pub(crate) struct Answer<'c> {
    head: http::response::Parts,
    body: Incoming,
    busy: Option<Busy<'c>>,
    /// Whether the request was sent to its end, so that another one can follow it.
    reusable: bool,
    pool: &'c Pool,
    /// Pieces come one by one, each with its own deadline.
    still: Moved,
    /// Digest of what a stream has sent.
    pub(crate) sent: Option<Sha256>,
}

impl Client {
    /// A client that runs at most `connections` calls at once and gives up those in which
    /// nothing moves for `timeout`.
    pub(crate) fn new(
        env: Env,
        target: Target,
        connections: usize,
        timeout: Duration,
    ) -> Result<Self> {
        let authorization = target.credentials.header()?;
        let tls = target.tls()?;
        let address = || (target.address.clone(), tls.clone());
        let pool = |timeout| Pool::new(env.clone(), address(), connections, timeout);
        let (pool, slow) = (pool(timeout), pool(Duration::from_secs(7 * 24 * 3600)));
        Ok(Self { env, target, authorization, pool, slow, timeout })
    }

    /// The server, as the user wrote it.
    pub(crate) fn url(&self) -> &str {
        &self.target.url
    }

    /// How long a call may take in which nothing moves.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Its clock and entropy.
    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Idle connections that have not been closed.
    #[cfg(test)]
    fn open_connections(&self) -> usize {
        self.pool.open_connections()
    }

    /// Performs `call`, again if need be. Dropping the future may leave its effect unknown.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer<'_>> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let wait = match self.attempt(call).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let after = answer.retry_after();
                    let problem = ClientError::from(answer.problem().await);
                    match after {
                        Some((after, refused))
                            if attempt < ATTEMPTS_MAX && call.may_repeat(refused) =>
                        {
                            after.max(pause)
                        }
                        _ => return Err(problem),
                    }
                }
                Err(error)
                    if attempt < ATTEMPTS_MAX
                        && matches!(error.cause, error::Cause::NoAnswer(_))
                        && call.may_repeat(Refused::Perhaps) =>
                {
                    tracing::debug!(%error, attempt, "no answer");
                    pause
                }
                Err(error) => return Err(error),
            };
            let jitter = self.env.random_below(wait.as_millis() as u64 / 2 + 1);
            self.env.sleep(wait.min(PAUSE_MAX) + Duration::from_millis(jitter)).await;
            pause *= 2;
        }
        // The range above does not end.
        Err(ClientError::no_answer("no attempt was made"))
    }

    async fn attempt(&self, call: &Call) -> Result<Answer<'_>> {
        let opened = call.payload.open(&call.moved);
        let Sending { body, digest } = opened.map_err(|error| match &call.payload {
            Payload::File(path, _) | Payload::Part { path, .. } => ClientError::local(path, error),
            _ => ClientError::bad_answer(format!("open what is to be sent: {error}")),
        })?;
        let request_is_empty = body.is_end_stream();
        let mut request = Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = format!("{}{}", self.target.prefix, call.path)
            .parse()
            .map_err(|_| ClientError::usage(format!("{:?} is not a path", call.path)))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.target.host.clone());
        headers.insert(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // RFC 9110 section 8.6: these methods say so when there is nothing.
        if request_is_empty && matches!(call.method, Method::PUT | Method::POST | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        for (name, value) in &call.headers {
            headers.append(name, value.clone());
        }
        let pool = if call.unhurried { &self.slow } else { &self.pool };
        let sent = pool.send(request, &call.moved).await;
        let (response, busy) = match (sent, digest) {
            (Ok(answered), None) => return Ok(Answer::new(answered, pool, None)),
            (Ok(answered), Some(digest)) if answered.0.status().is_success() => {
                let digest = digest.await.map_err(|error| {
                    ClientError::bad_answer(format!("read what is to be sent: {error}"))
                })?;
                match digest {
                    Ok(digest) => return Ok(Answer::new(answered, pool, Some(digest))),
                    Err(_) => {
                        return Err(ClientError::bad_answer(
                            "the server confirmed the upload before it had all of it",
                        ));
                    }
                }
            }
            (Ok(answered), Some(_)) => answered,
            (Err(error), None) => return Err(error),
            // A local failure broke the request off: that is the one to report.
            (Err(error), Some(digest)) => match (digest.await, &call.payload) {
                (Ok(Err(local)), Payload::File(path, _) | Payload::Part { path, .. })
                    if local.kind() != std::io::ErrorKind::BrokenPipe =>
                {
                    return Err(ClientError::local(path, local));
                }
                _ => return Err(error),
            },
        };
        // The server has refused without reading all: what is left of the body is not sent.
        Ok(Answer { reusable: false, ..Answer::new((response, busy), pool, None) })
    }
}

impl<'c> Answer<'c> {
    fn new(
        (response, busy): (Response<Incoming>, Busy<'c>),
        pool: &'c Pool,
        sent: Option<Sha256>,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body, busy: Some(busy), reusable: true, pool, still: Moved::default(), sent }
    }

    /// Status.
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The pause the server asks for when it is busy, and whether it has surely done nothing.
    fn retry_after(&self) -> Option<(Duration, Refused)> {
        // 409 has it when others were faster too often, which time alone mends.
        let busy = matches!(self.status().as_u16(), 409 | 429 | 503);
        let seconds = self.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        let applied = self.headers().get(APPLIED).is_some_and(|applied| applied != "no");
        let refused = if applied { Refused::Perhaps } else { Refused::Surely };
        busy.then(|| (Duration::from_secs(seconds), refused))
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// A body that ends early is [`error::Cause::Damaged`]. Dropping the future loses nothing.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        match self.pool.patient(&self.still, body::next_piece(&mut self.body)).await? {
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) => {
                self.busy = None;
                Err(ClientError::damaged(format!("the answer broke off: {}", explain(&error))))
            }
            None => {
                if let Some(busy) = self.busy.take()
                    && self.reusable
                {
                    busy.release();
                }
                Ok(None)
            }
        }
    }

    /// The whole body. More than `bytes_max` is [`error::Cause::BadAnswer`].
    pub(crate) async fn bytes(&mut self, bytes_max: usize) -> Result<Bytes> {
        let Some(first) = self.piece().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.piece().await? else { return Ok(first) };
        let mut all = first.to_vec();
        let mut next = Some(second);
        while let Some(piece) = next {
            if all.len() + piece.len() > bytes_max {
                return Err(ClientError::bad_answer(format!(
                    "it is larger than {bytes_max} bytes"
                )));
            }
            all.extend_from_slice(&piece);
            next = self.piece().await?;
        }
        Ok(all.into())
    }

    /// The body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(mut self) -> Result<T> {
        let bytes = self.bytes(JSON_BYTES_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            ClientError::bad_answer(format!("the server's answer is not understood: {error}"))
        })
    }

    /// Reads what is left of the body, so that the connection can be used again.
    pub(crate) async fn done(mut self) -> Result<()> {
        self.bytes(PROBLEM_BYTES_MAX).await.map(drop)
    }

    async fn problem(mut self) -> Problem {
        let status = self.status();
        let body = self.bytes(PROBLEM_BYTES_MAX).await.unwrap_or_default();
        Problem::parse(status, &body)
    }
}
