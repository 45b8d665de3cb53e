//! What load balancers and monitors ask: `/health`, `/ready`, `/metrics`. No credentials needed.
//!
//! Promises: `/health` is 200 while the process lives; `/ready` is 503, with the reasons, when it
//! should get no requests: something it needs is missing, or it is going away.
//!
//! Not here: what makes core ready (core).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use larder_base::ErrorKind;
use larder_core::{Credentials, Error};
use larder_http::{ResponseBody, auth::Given};
use subtle::ConstantTimeEq as _;

use crate::{
    Inner, call,
    error::Answer,
    metrics::page,
    route::Route,
    wire::{HealthBody, ReadyBody},
};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Answers one of the open routes.
pub(crate) fn answer(inner: &Inner, route: Route<'_>, headers: &HeaderMap) -> Answer {
    match route {
        Route::Health => {
            let body = HealthBody { status: "ok", version: &inner.options.version };
            Ok(call::json(StatusCode::OK, &body)?)
        }
        Route::Ready => ready(inner),
        Route::Metrics => metrics(inner, headers),
        Route::OpenApi => crate::openapi::get(inner),
        _ => Err(Error::internal("a route without credentials has no handler").into()),
    }
}

fn ready(inner: &Inner) -> Answer {
    let mut reasons = inner.larder.not_ready();
    if inner.status.draining() {
        reasons.push("the server is going away".to_owned());
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(call::json(status, &ReadyBody { ready, reasons: &reasons })?)
}

fn metrics(inner: &Inner, headers: &HeaderMap) -> Answer {
    if let Some(token) = &inner.options.metrics_token {
        let given = Given::parse(headers)?;
        let right = match given.credentials() {
            Credentials::Key(key) => bool::from(key.as_bytes().ct_eq(token.as_bytes())),
            Credentials::Password { .. } => false,
        };
        if !right {
            return Err(Error::new(ErrorKind::Unauthenticated, "the token is wrong").into());
        }
    }
    let core = inner.larder.metrics() + &inner.options.more_metrics.render();
    let page = page(&core, &inner.status, &inner.limits, &inner.options.version);
    let mut response = Response::new(ResponseBody::from(Bytes::from(page)));
    response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
    Ok(response)
}
