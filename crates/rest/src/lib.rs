//! REST v1: parse, one call into core, convert.
//!
//! [`Rest`] is a [`Service`] of `larder_http`. A request goes through [`Service::call`] here,
//! [`route`] (the one table of routes), a handler in the module of its subject, and [`wire`] or
//! [`error`] on its way out.
//!
//! Promises: what a request says is either done or refused, never ignored: unknown query
//! parameters, unknown fields of bodies and headers that ask for what we do not do
//! (`Content-Encoding`, `Content-Range`) are errors. Each answer has an
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
mod changes;
mod dump;
mod error;
mod files;
mod form;
mod groups;
mod idempotency;
mod jobs;
mod keys;
mod lifecycle;
mod metrics;
mod openapi;
mod operation;
mod revisions;
mod route;
mod shares;
mod spaces;
mod trash;
mod tree;
mod tus;
mod uploads;
mod users;
mod wire;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, request::Parts};
use hyper::body::Body as _;
use larder_base::{Env, id::RequestId};
use larder_core::{Error, Larder};
use larder_http::{
    Limits, Patience, Received, RequestBody, Requests, ResponseBody, Service, Status, access_log,
    auth::Given, host, priority, problem,
};

pub use crate::metrics::MoreMetrics;
use crate::{
    call::Call,
    error::{Answer, Failure},
    files::Want,
    route::{NONE, Route, TABLE},
};

/// How the door behaves.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// Largest file, in bytes, that is taken; `None` is no limit. Larger ones get 413 before
    /// their body is read.
    pub file_bytes_max: Option<u64>,
    /// How slowly the body of a request may come.
    pub body_patience: Patience,
    /// Who may ask, how often and how fast; `None` is everybody and any.
    pub limits: Option<Limits>,
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
            body_patience: Patience::of(Duration::from_secs(30)),
            limits: None,
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
    limits: Limits,
    options: RestOptions,
    requests: Arc<Requests>,
}

impl Rest {
    /// A door to `larder`. `status` is that of the server which it is served by: `/ready` turns
    /// to 503 when that drains.
    pub fn new(larder: Larder, env: &Env, status: &Status, options: RestOptions) -> Self {
        let (env, status) = (env.clone(), status.clone());
        let limits = options.limits.clone().unwrap_or_else(|| Limits::none(&env));
        let requests = status.door("rest", TABLE.iter().map(|(name, _)| *name));
        Self(Arc::new(Inner { larder, env, status, limits, options, requests }))
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
        let mut body = RequestBody::new(body, &inner.env, inner.options.body_patience);
        body.count_memory(inner.larder.memory());
        let route = Route::find(head.uri.path());
        let client = inner.limits.client(peer, &head.headers);
        let mut user = None;
        let answer = match (inner.enter(route, &head, client), route) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), Some(route)) => inner.answer(route, &head, body, client, &mut user).await,
            (Ok(()), None) => Err(Error::not_found("path of the API").into()),
        };
        let mut response = answer.unwrap_or_else(|failure| failure.response(&request_id));
        if route.is_some_and(uploads::is_upload) {
            uploads::mark(&mut response);
        }
        if route.is_some_and(|route| route.is_link()) {
            shares::private(&mut response);
        }
        response.headers_mut().insert(problem::REQUEST_ID, problem::request_id(&request_id));
        let class = route.map_or(NONE, |route| route.class());
        let took = inner.env.monotonic().saturating_sub(started);
        inner.requests.count(class, response.status(), took);
        if access_log::enabled() {
            access_log::record(&access_log::Line {
                request_id: &request_id,
                door: "rest",
                peer: client,
                method: head.method.as_str(),
                path: shares::hidden(head.uri.path()),
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
    /// Whether a request from `client` is looked at, before anything is known of its user.
    fn enter(&self, route: Option<Route<'_>>, head: &Parts, client: IpAddr) -> Result<(), Error> {
        self.limits.enter(client)?;
        host::check(head.version, &head.headers)?;
        // Whoever watches us must not be locked out by others behind the same address.
        if matches!(route, Some(Route::Health | Route::Ready)) {
            return Ok(());
        }
        self.limits.admit(client)
    }

    async fn answer(
        &self,
        route: Route<'_>,
        head: &Parts,
        mut body: RequestBody,
        from: IpAddr,
        user: &mut Option<Arc<str>>,
    ) -> Answer {
        let method = uploads::method(route, head)?;
        if !route.allows(&method) {
            return Err(Failure::Method(route.allow()));
        }
        if method == Method::OPTIONS {
            return Ok(uploads::options(self, route));
        }
        if route.open() {
            return operation::answer(self, route, &head.headers);
        }
        if let Route::Link(token) = route {
            return Box::pin(shares::view_link(self, token)).await;
        }
        let (route, mut caller) = match route.through_link() {
            Some((token, route)) => {
                let open = shares::open_link(self, token, &head.headers, from);
                (route, Box::pin(open).await?)
            }
            None => {
                let given = Given::parse(&head.headers)?;
                (route, self.larder.authenticate(given.credentials(), from).await?)
            }
        };
        if let Some(priority) = priority::wished(&head.headers) {
            caller.wish(priority);
        }
        *user = Some(caller.name.clone());
        let pace = self.limits.admit_user(from, caller.meters())?;
        body.set_pace(pace.clone());
        let safe = matches!(method, Method::GET | Method::HEAD);
        if !safe {
            call::refuse_unsafe(&head.headers)?;
        }
        let call = Call { inner: self, head, body, caller };
        let response = match idempotency::key(&head.headers)? {
            Some(key) if !safe => Box::pin(idempotency::answer(key, route, &method, call)).await?,
            _ => dispatch(route, method.as_str(), call).await?,
        };
        if !safe || !call::is_json(&response) {
            return Ok(match pace {
                Some(pace) => response.map(|body| body.paced(pace)),
                None => response,
            });
        }
        // A long listing waits in memory for a client that does not read.
        let (head, body) = response.into_parts();
        let body = body.count_memory(self.larder.memory(), &self.env).await?;
        Ok(Response::from_parts(head, body))
    }
}

/// Hands a request, whose method the route allows, to its handler.
///
/// A download is what is asked for most, and its future is small; the others are on the heap, so
/// that it need not carry the room that they want.
async fn dispatch(route: Route<'_>, method: &str, call: Call<'_>) -> Answer {
    let method = match (route, method) {
        (Route::File(..) | Route::FileId(..) | Route::Upload(..), method) => method,
        // What is small is made and then not sent.
        (_, "HEAD") => "GET",
        (_, method) => method,
    };
    match (route, method) {
        (Route::File(space, path), "GET") => files::get(call, space, path, Want::Content).await,
        (Route::File(space, path), "HEAD") => files::get(call, space, path, Want::Head).await,
        (Route::FileId(id), "GET") => files::get_by_id(call, id, Want::Content).await,
        (Route::FileId(id), "HEAD") => files::get_by_id(call, id, Want::Head).await,
        (Route::File(..) | Route::Files | Route::FileId(_), method) => {
            Box::pin(write_file(route, method, call)).await
        }
        _ => Box::pin(arrange(route, method, call)).await,
    }
}

/// The same for what changes the content of files, or removes them.
async fn write_file(route: Route<'_>, method: &str, call: Call<'_>) -> Answer {
    match (route, method) {
        (Route::File(space, path), "PUT") => files::put(call, space, path).await,
        (Route::File(space, path), "DELETE") => files::delete(call, space, path).await,
        (Route::Files, "POST") => files::post(call).await,
        (Route::FileId(id), "DELETE") => files::delete_by_id(call, id).await,
        _ => Err(without_handler()),
    }
}

/// The same for trees, spaces and upload sessions.
async fn arrange(route: Route<'_>, method: &str, call: Call<'_>) -> Answer {
    match (route, method) {
        (Route::Stat(space, path), "GET") => tree::stat(call, space, path).await,
        (Route::Dir(space, path), "PUT") => tree::create_dir(call, space, path).await,
        (Route::List(space, path), "GET") => tree::list(call, space, path).await,
        (Route::Move(space), "POST") => tree::relocate(call, space, tree::Relocate::Move).await,
        (Route::Copy(space), "POST") => tree::relocate(call, space, tree::Relocate::Copy).await,
        (Route::Revisions(space, path), "GET") => revisions::list(call, space, path).await,
        (Route::Revisions(space, path), "POST") => revisions::restore(call, space, path).await,
        (Route::Revisions(space, path), "DELETE") => revisions::delete(call, space, path).await,
        (Route::Changes(space), "GET") => changes::get(call, space).await,
        (Route::Trash(space), "GET") => trash::list(call, space).await,
        (Route::Trash(space), "DELETE") => trash::empty(call, space).await,
        (Route::TrashItem(space, item), "DELETE") => trash::purge(call, space, item).await,
        (Route::Restore(space, item), "POST") => trash::restore(call, space, item).await,
        (Route::Spaces, "GET") => spaces::list(call).await,
        (Route::Spaces, "POST") => spaces::create(call).await,
        (Route::Space(space), "GET") => spaces::get(call, space).await,
        (Route::Space(space), "PATCH") => spaces::change(call, space).await,
        (Route::Space(space), "DELETE") => spaces::delete(call, space).await,
        (Route::Reference(space, path), "PUT") => shares::create_reference(call, space, path).await,
        (Route::Uploads, "POST") => uploads::create(call).await,
        (Route::Uploads, "GET") => uploads::list(call).await,
        (Route::Upload(id), "HEAD") => uploads::head(call, id).await,
        (Route::Upload(id), "PATCH") => uploads::patch(call, id).await,
        (Route::Upload(id), "DELETE") => uploads::abort(call, id).await,
        (Route::Upload(id), "GET") => uploads::get(call, id).await,
        (Route::UploadComplete(id), "POST") => uploads::complete(call, id).await,
        (Route::UploadParts(id), "GET") => uploads::parts(call, id).await,
        (Route::UploadPart(id, number), "PUT") => uploads::put_part(call, id, number).await,
        _ => Box::pin(administer(route, method, call)).await,
    }
}

/// The same for people, their shares, and the server itself.
async fn administer(route: Route<'_>, method: &str, call: Call<'_>) -> Answer {
    match (route, method) {
        (Route::Me, "GET") => users::me(call).await,
        (Route::Users, "GET") => users::list(call).await,
        (Route::Users, "POST") => users::create(call).await,
        (Route::User(user), "GET") => users::get(call, user).await,
        (Route::User(user), "PATCH") => users::change(call, user).await,
        (Route::User(user), "DELETE") => users::delete(call, user).await,
        (Route::Keys(user), "GET") => keys::list(call, user).await,
        (Route::Keys(user), "POST") => keys::create(call, user).await,
        (Route::Key(user, key), "DELETE") => keys::delete(call, user, key).await,
        (Route::KeyRotate(user, key), "POST") => keys::rotate(call, user, key).await,
        (Route::Groups, "GET") => groups::list(call).await,
        (Route::Groups, "POST") => groups::create(call).await,
        (Route::Group(group), "GET") => groups::get(call, group).await,
        (Route::Group(group), "PATCH") => groups::change(call, group).await,
        (Route::Group(group), "DELETE") => groups::delete(call, group).await,
        (Route::Members(group), "GET") => groups::members(call, group).await,
        (Route::Member(group, user), "PUT") => groups::add_member(call, group, user).await,
        (Route::Member(group, user), "DELETE") => groups::remove_member(call, group, user).await,
        (Route::Dump, "GET") => dump::dump(call).await,
        (Route::Load, "POST") => dump::load(call).await,
        (Route::Check, "GET" | "POST") => admin::check(call).await,
        (Route::Collect, "POST") => admin::collect(call).await,
        (Route::Jobs, "GET") => jobs::list(call).await,
        (Route::Tasks, "GET") => admin::tasks(&call),
        (Route::Jobs, "POST") => jobs::start(call).await,
        (Route::Job(id), "GET") => jobs::get(call, id).await,
        (Route::Job(id), "DELETE") => jobs::cancel(call, id).await,
        (Route::Lifecycle(space), "GET") => lifecycle::get(call, space).await,
        (Route::Lifecycle(space), "PUT") => lifecycle::put(call, space).await,
        (Route::Lifecycle(space), "DELETE") => lifecycle::delete(call, space).await,
        (Route::Shares, "GET") => shares::list(call).await,
        (Route::Shares, "POST") => shares::create(call).await,
        (Route::Share(id), "GET") => shares::get(call, id).await,
        (Route::Share(id), "PATCH") => shares::change(call, id).await,
        (Route::Share(id), "DELETE") => shares::delete(call, id).await,
        _ => Err(without_handler()),
    }
}

fn without_handler() -> Failure {
    Error::internal("an allowed method has no handler").into()
}
