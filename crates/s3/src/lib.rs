//! The S3 protocol: a door to the file store for whoever speaks S3.
//!
//! [`S3Door`] is a [`Service`] of `larder_http`. A request goes through [`Service::call`] here,
//! `guard` (what must hold before anything is believed), `auth` (whose key it is), the S3 library
//! (signature, XML, which operation), and one function in `bucket` or `object` that calls core.
//!
//! Promises: an operation runs only for a request that its caller's secret has signed, or in the
//! name of nobody, and core judges what the caller may do; what a request asks for is done or
//! refused, never ignored; content is verified against every digest that came with it before it
//! is committed; no byte of a body is read before the signature is known to be good. The library's
//! types stay in this crate.
//!
//! Not here: rules about objects (core), connections and header syntax (`larder_http`).

#![deny(clippy::indexing_slicing, clippy::string_slice)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::string_slice, reason = "a test that panics fails")
)]

mod acl;
mod action;
mod auth;
mod body;
mod bucket;
mod call;
mod checksum;
mod cors;
mod error;
mod framing;
mod guard;
mod host;
mod lifecycle;
mod lock;
mod object;
mod operations;
mod policy;
mod policy_form;
mod post;
mod public;
mod tagging;
mod unset;
mod versioning;
mod wire;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
};
use hyper::body::Body as _;
use larder_base::{
    Env, ErrorKind,
    id::RequestId,
    memory::{ENTRY_WAIT_MAX, Use},
};
use larder_core::{Caller, Error, Larder};
use larder_http::{
    Limits, Patience, Received, RequestBody, Requests, ResponseBody, Service, Status, access_log,
    host as http_host, priority, problem,
};
use s3s::{
    config::{S3Config, S3ConfigProvider, StaticConfigProvider},
    service::S3ServiceBuilder,
};

pub use crate::auth::StaticPair;
use crate::{
    action::Origin,
    body::{Reading, Trail},
    call::Call,
    error::{About, Refusal},
    host::Domain,
    operations::NAMES,
};

/// Largest XML document of a request: room for the names and checksums of 10,000 parts.
const XML_BYTES_MAX: usize = 4 << 20;

/// Documents up to this length need no more memory than their connection has anyway.
const XML_FREE_BYTES: usize = 64 << 10;

/// S3's name for the request's id.
const AMZ_REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// How the door behaves.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The region that signatures must be made for.
    pub region: String,
    /// The domain below which buckets are hosts (`bucket.domain`); they are in paths always.
    pub domain: Option<String>,
    /// Largest object, in bytes, that is taken; `None` is no limit.
    pub file_bytes_max: Option<u64>,
    /// How slowly the body of a request may come.
    pub body_patience: Patience,
    /// Who may ask, how often and how fast; `None` is everybody and any.
    pub limits: Option<Limits>,
    /// Whether it is served by TLS.
    pub tls: bool,
    /// A user's name and password that are a key pair, too.
    pub pair: Option<StaticPair>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            domain: None,
            file_bytes_max: None,
            body_patience: Patience::of(Duration::from_secs(30)),
            limits: None,
            tls: false,
            pair: None,
        }
    }
}

/// The S3 door. Cheap to clone.
#[derive(Clone)]
pub struct S3Door(Arc<Inner>);

impl fmt::Debug for S3Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Door({})", self.0.options.region)
    }
}

struct Inner {
    larder: Larder,
    env: Env,
    limits: Limits,
    options: S3Options,
    domain: Option<Domain>,
    config: Arc<dyn S3ConfigProvider>,
    known: auth::Known,
    requests: Arc<Requests>,
}

impl S3Door {
    /// A door to `larder`, whose requests are counted in `status`.
    pub fn new(larder: Larder, env: &Env, status: &Status, options: S3Options) -> Self {
        let limits = options.limits.clone().unwrap_or_else(|| Limits::none(env));
        let domain = options.domain.as_deref().map(Domain::new);
        let mut config = S3Config::default();
        config.xml_max_body_size = XML_BYTES_MAX;
        let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
        let env = env.clone();
        let known = auth::Known::default();
        let requests = status.door("s3", NAMES.iter().copied());
        Self(Arc::new(Inner { larder, env, limits, options, domain, config, known, requests }))
    }
}

impl Service for S3Door {
    async fn call(&self, request: Request<Received>, peer: SocketAddr) -> Response<ResponseBody> {
        let inner = &self.0;
        let started = inner.env.monotonic();
        let request_id = RequestId::new(&inner.env);
        let (head, body) = request.into_parts();
        let mut body = RequestBody::new(body, &inner.env, inner.options.body_patience);
        body.count_memory(inner.larder.memory());
        let origin = Origin {
            address: inner.limits.client(peer, &head.headers),
            secure: inner.options.tls || inner.limits.by_https(peer, &head.headers),
        };
        let trail = Arc::new(Trail::default());
        let answer = inner.answer(&head, body, origin, request_id, &trail).await;
        let response = answer.unwrap_or_else(|refusal| refusal.response(&request_id));
        let mut response = finish(response, &head);
        if head.method != Method::OPTIONS {
            cors::show(inner, &head, &mut response).await;
        }
        let id = problem::request_id(&request_id);
        response.headers_mut().insert(AMZ_REQUEST_ID, id.clone());
        response.headers_mut().insert(problem::REQUEST_ID, id);
        let operation = trail.operation.get().copied().unwrap_or_default();
        let took = inner.env.monotonic().saturating_sub(started);
        let route = NAMES.iter().position(|name| *name == operation).unwrap_or(NAMES.len() - 1);
        inner.requests.count(route, response.status(), took);
        if access_log::enabled() {
            access_log::record(&access_log::Line {
                request_id: &request_id,
                door: "s3",
                peer: origin.address,
                method: head.method.as_str(),
                path: head.uri.path(),
                op: operation,
                user: trail.user.get().map(|name| &**name),
                status: response.status().as_u16(),
                bytes: response.body().size_hint().exact(),
                took,
            });
        }
        response
    }
}

impl Inner {
    /// Whether a request from `client` is looked at, before anything is known of its user.
    fn enter(&self, head: &Parts, client: IpAddr) -> Result<(), Error> {
        self.limits.enter(client)?;
        http_host::check(head.version, &head.headers)?;
        self.limits.admit(client)
    }

    async fn answer(
        self: &Arc<Self>,
        head: &Parts,
        mut body: RequestBody,
        origin: Origin,
        request_id: RequestId,
        trail: &Arc<Trail>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let from_core = |error: Error| Refusal::from_core(&error, &request_id);
        self.enter(head, origin.address).map_err(from_core)?;
        let in_host = self.in_host(head);
        if head.method == Method::OPTIONS {
            return cors::preflight(self, head, in_host.as_deref(), &request_id).await;
        }
        if head.method == Method::POST && guard::is_form(&head.headers) {
            let from = post::From { origin, in_host, request_id };
            return Box::pin(post::answer(self, head, body, from, trail)).await;
        }
        let mut claim = guard::check(head, &self.options.region, in_host.is_some())?;
        let merged = claim.headers.take().map(|headers| {
            let mut merged = head.clone();
            merged.headers = headers;
            merged
        });
        let head = merged.as_ref().unwrap_or(head);
        if !claim.content {
            // The library takes a document that is too long for a mistake of ours.
            body.limit(XML_BYTES_MAX as u64).map_err(|_too_large| {
                let message = "the document is longer than any operation needs";
                Refusal::bad("MaxMessageLengthExceeded", message)
            })?;
        }
        let signer = self.signer(head, claim.access_key.as_deref()).await.map_err(|error| {
            if error.kind() == ErrorKind::Unauthenticated {
                return Refusal::denied("InvalidAccessKeyId", "there is no such access key");
            }
            from_core(error)
        })?;
        let (caller, key) = signer.unzip();
        let md5 = match claim.content {
            true => None,
            false => checksum::md5_declared(&head.headers)
                .map_err(|_no_md5| Refusal::bad("InvalidDigest", checksum::NO_MD5))?,
        };
        // A document is kept until it has been read.
        let document = if claim.content { 0 } else { declared(&body).min(XML_BYTES_MAX) };
        let _room = if document > XML_FREE_BYTES {
            let memory = self.larder.memory();
            let share = memory.take(Use::Bodies, document, ENTRY_WAIT_MAX, &self.env).await;
            let detail = "too many bodies are on their way; try again later";
            let busy = || from_core(Error::new(ErrorKind::Busy, detail));
            Some(share.ok_or_else(busy)?)
        } else {
            None
        };
        let reading = Reading {
            framing: claim.framing,
            // The library compares that of content, if it is signed.
            sha256: claim.sha256.filter(|_| !claim.content || key.is_none()),
            md5,
            memory: self.larder.memory().clone(),
            env: self.env.clone(),
        };
        let request = library_request(head, body::request(body, reading, trail));
        let call = Call::new(self, caller.clone(), request_id, trail);
        let mut builder = S3ServiceBuilder::new(call);
        match key {
            Some(key) => builder.set_auth(key),
            // Without any, the library would not ask who is let in.
            None => builder.set_auth(auth::NoKey),
        }
        builder.set_access(auth::Entry {
            inner: Arc::clone(self),
            caller,
            origin,
            request_id,
            trail: Arc::clone(trail),
        });
        builder.set_config(Arc::clone(&self.config));
        if let Some(domain) = &self.domain {
            builder.set_host(domain.clone());
        }
        let answer = Box::pin(builder.build().call(request)).await.map_err(|error| {
            let detail = format!("the S3 library gave no answer: {error:?}");
            from_core(Error::internal(detail))
        })?;
        self.convert(answer, request_id, trail).await
    }

    /// The bucket that the host of a request names.
    fn in_host(&self, head: &Parts) -> Option<String> {
        let host = head.headers.get(header::HOST)?.to_str().ok()?;
        self.domain.as_ref()?.bucket(host)
    }

    /// Who has signed a request, and with what; `None` without a signature.
    async fn signer(
        &self,
        head: &Parts,
        access_key: Option<&str>,
    ) -> Result<Option<(Caller, auth::OneKey)>, Error> {
        let Some(access_key) = access_key else { return Ok(None) };
        let auth::Signer { mut caller, secrets } = auth::find(self, access_key).await?;
        if let Some(priority) = priority::wished(&head.headers) {
            caller.wish(priority);
        }
        let secret = auth::choose(self, access_key, &secrets, head).await;
        let secret = secret.ok_or_else(|| Error::internal("a key without secrets"))?;
        Ok(Some((caller, auth::OneKey::new(access_key, secret))))
    }

    /// The library's answer as the server sends it.
    async fn convert(
        &self,
        answer: s3s::HttpResponse,
        request_id: RequestId,
        trail: &Trail,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let (mut parts, mut body) = answer.into_parts();
        let mut bytes = body.take_bytes().unwrap_or_default();
        if parts.status == StatusCode::INTERNAL_SERVER_ERROR
            && let Some(fault) = trail.fault()
        {
            // The library says that it is our mistake if a document could not be read.
            if body::is_mismatch(&fault) {
                let message = fault.detail().to_owned();
                return Err(Refusal::bad("XAmzContentSHA256Mismatch", message));
            }
            let error = error::from_core(&fault, About::Body, &request_id);
            let answer = error.to_http_response().map_err(|error| {
                let detail = format!("write an error: {error}");
                Refusal::from_core(&Error::internal(detail), &request_id)
            })?;
            (parts, body) = answer.into_parts();
            bytes = body.take_bytes().unwrap_or_default();
        }
        if parts.status == StatusCode::INTERNAL_SERVER_ERROR
            && !parts.headers.contains_key(problem::APPLIED)
        {
            // Ours are logged where they are met.
            tracing::error!(%request_id, answer = ?bytes, "the S3 library failed");
        }
        if !parts.status.is_success() && !bytes.is_empty() {
            bytes = error::complete(&bytes, &request_id);
        }
        if trail.operation.get() == Some(&"GetObjectAttributes") && parts.status.is_success() {
            bytes = unquoted(&bytes);
        }
        let pace = trail.pace.get().cloned().flatten();
        let body = match trail.content() {
            Some(content) => match pace {
                Some(pace) => content.paced(pace),
                None => content,
            },
            None => ResponseBody::from(bytes)
                .count_memory(self.larder.memory(), &self.env)
                .await
                .map_err(|error| Refusal::from_core(&error, &request_id))?,
        };
        Ok(Response::from_parts(parts, body))
    }
}

/// A document whose etag is without quotes: in this one alone S3 writes none, and the library does.
fn unquoted(document: &[u8]) -> Bytes {
    let mut text = String::from_utf8_lossy(document).into_owned();
    for quote in ["\"", "&quot;"] {
        text = text.replace(&format!("<ETag>{quote}"), "<ETag>");
        text = text.replace(&format!("{quote}</ETag>"), "</ETag>");
    }
    Bytes::from(text)
}

fn declared(body: &RequestBody) -> usize {
    usize::try_from(body.declared().unwrap_or(0)).unwrap_or(usize::MAX)
}

fn library_request(head: &Parts, body: s3s::Body) -> s3s::HttpRequest {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    request
}

/// What HTTP demands of every answer.
fn finish(mut response: Response<ResponseBody>, head: &Parts) -> Response<ResponseBody> {
    let bare = response.status() == StatusCode::NOT_MODIFIED
        || response.status() == StatusCode::NO_CONTENT;
    if bare {
        *response.body_mut() = ResponseBody::Empty;
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        if !head.method.is_safe() || headers.get(header::CONTENT_TYPE) == Some(&XML) {
            headers.remove(header::CONTENT_TYPE);
        }
    }
    if head.method == Method::HEAD {
        if !response.status().is_success() {
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        *response.body_mut() = ResponseBody::Empty;
    }
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

const XML: HeaderValue = HeaderValue::from_static("application/xml");

/// Bytes of nothing, for an answer without content.
fn nothing() -> ResponseBody {
    ResponseBody::from(Bytes::new())
}
