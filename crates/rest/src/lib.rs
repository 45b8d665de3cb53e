//! REST v1: parse, one call into core, convert.
//!
//! [`Rest`] is a [`Service`] of `larder_http`. A request goes through [`Service::call`] here,
//! [`route`] (the one table of routes), a handler in the module of its subject, and [`wire`] or
//! [`error`] on its way out.
//!
//! Promises: what a request says is either done or refused, never ignored: unknown query
//! parameters, unknown fields of bodies and headers that ask for what we do not do
//! (`Idempotency-Key`, `Content-Encoding`, `Content-Range`) are errors. Each answer has an
//! `X-Request-Id`. Nothing on the way to a file allocates more than its headers need.
//!
//! Not here: rules about files (core), connections and header syntax (`larder_http`).

#![deny(clippy::indexing_slicing, clippy::string_slice)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::string_slice, reason = "a test that panics fails")
)]

mod admin;
mod call;
mod error;
mod files;
mod form;
mod metrics;
mod operation;
mod revisions;
mod route;
mod spaces;
mod trash;
mod tree;
mod users;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, request::Parts};
use hyper::body::Body as _;
use larder_base::{Env, id::RequestId};
use larder_core::{Error, Larder};
use larder_http::{
    Received, RequestBody, ResponseBody, Service, Status, access_log, auth::Given, problem,
};

pub use crate::metrics::MoreMetrics;
use crate::{
    call::Call,
    error::{Answer, Failure},
    files::Want,
    metrics::Metrics,
    route::{NONE, Route, TABLE},
};

/// How the door behaves.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// Largest file, in bytes, that is taken; `None` is no limit. Larger ones get 413 before
    /// their body is read.
    pub file_bytes_max: Option<u64>,
    /// Longest time in which the body of a request does not move.
    pub body_idle_timeout: Duration,
    /// The version that `/health` and `/metrics` show.
    pub version: String,
    /// Token that `/metrics` wants as `Authorization: Bearer`; `None` leaves it open.
    pub metrics_token: Option<String>,
    /// What `/metrics` shows besides.
    pub more_metrics: MoreMetrics,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            file_bytes_max: None,
            body_idle_timeout: Duration::from_secs(30),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metrics_token: None,
            more_metrics: MoreMetrics::default(),
        }
    }
}

/// The REST door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    larder: Larder,
    env: Env,
    status: Status,
    options: RestOptions,
    metrics: Metrics,
}

impl Rest {
    /// A door to `larder`. `status` is that of the server which it is served by: `/ready` turns
    /// to 503 when that drains.
    pub fn new(larder: Larder, env: &Env, status: &Status, options: RestOptions) -> Self {
        let (env, status) = (env.clone(), status.clone());
        Self(Arc::new(Inner { larder, env, status, options, metrics: Metrics::new() }))
    }
}

/// Name and meaning of every metric that this door adds to those of core.
pub fn metric_table() -> &'static [(&'static str, &'static str)] {
    metrics::METRICS
}

impl Service for Rest {
    async fn call(&self, request: Request<Received>, peer: SocketAddr) -> Response<ResponseBody> {
        let inner = &*self.0;
        let started = inner.env.monotonic();
        let request_id = RequestId::new(&inner.env);
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body, &inner.env, inner.options.body_idle_timeout);
        let route = Route::find(head.uri.path());
        let mut user = None;
        let answer = match route {
            Some(route) => inner.answer(route, &head, body, &mut user).await,
            None => Err(Error::not_found("path of the API").into()),
        };
        let mut response = answer.unwrap_or_else(|failure| failure.response(&request_id));
        response.headers_mut().insert(problem::REQUEST_ID, problem::request_id(&request_id));
        let class = route.map_or(NONE, |route| route.class());
        let took = inner.env.monotonic().saturating_sub(started);
        inner.metrics.count(class, response.status(), took);
        if access_log::enabled() {
            access_log::record(&access_log::Line {
                request_id: &request_id,
                door: "rest",
                peer: peer.ip(),
                method: head.method.as_str(),
                path: head.uri.path(),
                op: TABLE.get(class).map_or("", |(name, _)| name),
                user: user.as_deref(),
                status: response.status().as_u16(),
                bytes: response.body().size_hint().exact(),
                took,
            });
        }
        response
    }
}

impl Inner {
    async fn answer(
        &self,
        route: Route<'_>,
        head: &Parts,
        body: RequestBody,
        user: &mut Option<Arc<str>>,
    ) -> Answer {
        if !route.allows(&head.method) {
            return Err(Failure::Method(route.allow()));
        }
        if route.open() {
            return operation::answer(self, route, &head.headers);
        }
        let given = Given::parse(&head.headers)?;
        let caller = self.larder.authenticate(given.credentials()).await?;
        drop(given);
        *user = Some(caller.name.clone());
        let safe = matches!(head.method, Method::GET | Method::HEAD);
        if !safe {
            call::refuse_unsafe(&head.headers)?;
        }
        let call = Call { inner: self, head, body, caller };
        dispatch(route, call).await
    }
}

/// Hands a request, whose method the route allows, to its handler.
async fn dispatch(route: Route<'_>, call: Call<'_>) -> Answer {
    let method = match (route, call.head.method.as_str()) {
        (Route::File(..) | Route::FileId(..), method) => method,
        // What is small is made and then not sent.
        (_, "HEAD") => "GET",
        (_, method) => method,
    };
    match (route, method) {
        (Route::File(space, path), "GET") => files::get(call, space, path, Want::Content).await,
        (Route::File(space, path), "HEAD") => files::get(call, space, path, Want::Head).await,
        (Route::File(space, path), "PUT") => files::put(call, space, path).await,
        (Route::File(space, path), "DELETE") => files::delete(call, space, path).await,
        (Route::Files, "POST") => files::post(call).await,
        (Route::FileId(id), "GET") => files::get_by_id(call, id, Want::Content).await,
        (Route::FileId(id), "HEAD") => files::get_by_id(call, id, Want::Head).await,
        (Route::FileId(id), "DELETE") => files::delete_by_id(call, id).await,
        (Route::Stat(space, path), "GET") => tree::stat(call, space, path).await,
        (Route::Dir(space, path), "PUT") => tree::create_dir(call, space, path).await,
        (Route::List(space, path), "GET") => tree::list(call, space, path).await,
        (Route::Move(space), "POST") => tree::relocate(call, space, tree::Relocate::Move).await,
        (Route::Copy(space), "POST") => tree::relocate(call, space, tree::Relocate::Copy).await,
        (Route::Revisions(space, path), "GET") => revisions::list(call, space, path).await,
        (Route::Revisions(space, path), "POST") => revisions::restore(call, space, path).await,
        (Route::Revisions(space, path), "DELETE") => revisions::delete(call, space, path).await,
        (Route::Trash(space), "GET") => trash::list(call, space).await,
        (Route::Trash(space), "DELETE") => trash::empty(call, space).await,
        (Route::TrashItem(space, item), "DELETE") => trash::purge(call, space, item).await,
        (Route::Restore(space, item), "POST") => trash::restore(call, space, item).await,
        (Route::Spaces, "GET") => spaces::list(call).await,
        (Route::Spaces, "POST") => spaces::create(call).await,
        (Route::Space(space), "GET") => spaces::get(call, space).await,
        (Route::Space(space), "PATCH") => spaces::change(call, space).await,
        (Route::Space(space), "DELETE") => spaces::delete(call, space).await,
        (Route::Me, "GET") => users::me(call).await,
        (Route::Users, "GET") => users::list(call).await,
        (Route::Users, "POST") => users::create(call).await,
        (Route::User(user), "GET") => users::get(call, user).await,
        (Route::User(user), "PATCH") => users::change(call, user).await,
        (Route::User(user), "DELETE") => users::delete(call, user).await,
        (Route::Keys(user), "GET") => users::keys(call, user).await,
        (Route::Keys(user), "POST") => users::create_key(call, user).await,
        (Route::Key(user, key), "DELETE") => users::delete_key(call, user, key).await,
        (Route::Check, "GET" | "POST") => admin::check(call).await,
        (Route::Collect, "POST") => admin::collect(call).await,
        (Route::Jobs, "GET") => admin::jobs(call).await,
        _ => Err(Error::internal("an allowed method has no handler").into()),
    }
}
