//! HTTP plumbing that the doors share; it knows no operation of the store.
//!
//! [`serve`] takes connections and runs a [`serve::Service`] on them; [`body`] has request and
//! response bodies; the rest are pure functions from headers and targets to parsed values:
//! [`auth`], [`condition`], [`digest`], [`host`], [`path`], [`query`], [`range`]; [`problem`],
//! [`access_log`] and [`requests`] say what happened. [`limits`] has who may come in, how often
//! and how fast; [`gate`] bounds heads of parts of forms.
//!
//! Promises: nothing here allocates in proportion to a header, a target or a body that a client
//! sends beyond stated bounds, recurses, or logs a secret.
//!
//! Not here: routes and status codes (each door has its own), rules about files (core).

#![deny(clippy::indexing_slicing, clippy::string_slice)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::string_slice, reason = "a test that panics fails")
)]

pub mod access_log;
pub mod auth;
pub mod body;
pub mod condition;
pub mod date;
pub mod digest;
pub mod gate;
pub mod host;
pub mod limits;
pub mod network;
pub mod path;
pub mod priority;
pub mod problem;
pub mod query;
pub mod range;
pub mod rate;
pub mod requests;
pub mod serve;

pub use body::{Arrival, Patience, RequestBody, ResponseBody};
pub use gate::HeadGate;
pub use limits::{Limits, LimitsOptions};
pub use requests::Requests;
pub use serve::{Received, ServeOptions, Server, Service, Status, Tls, TlsOptions};
