//! The access log: one line for each request, under its own target, off unless enabled.
//!
//! Promises: no header, query or credential is logged; texts that a client chose are quoted and
//! escaped, so that nobody can forge a line; when the target is off it costs one load.
//!
//! Not here: where lines go and in which form (the binary's subscriber).

use std::{net::IpAddr, time::Duration};

use larder_base::id::RequestId;

/// The target of the log lines: enable with `larder::access=info`.
pub const TARGET: &str = "larder::access";

/// What one line says.
#[derive(Debug)]
pub struct Line<'a> {
    /// The request.
    pub request_id: &'a RequestId,
    /// Which door: `rest`, `s3`, `dav`.
    pub door: &'static str,
    /// Where it came from: the address of the connection, or what a trusted proxy said.
    pub peer: IpAddr,
    /// Its method.
    pub method: &'a str,
    /// Its path, still encoded, without query.
    pub path: &'a str,
    /// The route it took.
    pub op: &'static str,
    /// Name of the authenticated user.
    pub user: Option<&'a str>,
    /// Status of the answer.
    pub status: u16,
    /// Length of the answer's body, if it was known when the head was ready.
    pub bytes: Option<u64>,
    /// Until the head of the answer was ready.
    pub took: Duration,
}

/// Whether anybody listens.
pub fn enabled() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// Writes one line.
pub fn record(line: &Line<'_>) {
    tracing::info!(
        target: TARGET,
        request_id = %line.request_id,
        door = line.door,
        peer = %line.peer,
        method = ?line.method,
        path = ?line.path,
        op = line.op,
        user = line.user,
        status = line.status,
        bytes = line.bytes,
        micros = u64::try_from(line.took.as_micros()).unwrap_or(u64::MAX),
    );
}
