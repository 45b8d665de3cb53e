//! Black-box tests of the real binary: the parts that every test shares.
//!
//! A [`server::Server`] is a real `larder serve` on a port of its own; a [`client::Client`]
//! speaks HTTP to it over plain sockets, so that a test can also send what no proper client
//! would. What a run leaves behind is judged by [`stamp`] (bodies that prove what they are),
//! [`ledger`] (what was acknowledged) and [`oracle`] (what must hold in every state).
//!
//! Relies on: the server being another process. Everything here survives its death.
//! Not here: the tests (`tests/it`), and models of generated operations (`larder-core`).
#![allow(
    clippy::disallowed_methods,
    reason = "this crate watches a process from outside: it waits, races threads, damages files"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod books;
pub mod client;
pub mod http;
pub mod ledger;
pub mod oracle;
pub mod proxy;
pub mod race;
pub mod server;
pub mod stamp;
pub mod tool;
pub mod tus;
