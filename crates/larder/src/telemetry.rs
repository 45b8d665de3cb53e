//! Where events go: lines on standard error, text for people and JSON for machines.
//!
//! ERROR means that a person must look, WARN that work went on despite a surprise, INFO that
//! some state changed (never once per request); DEBUG and TRACE are for those who look for
//! something. Events have fields, not sentences with values in them.
//!
//! Not here: metrics (each crate's own), answers of the client verbs (`output`).

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::value::LogFormat;

/// Starts logging for the rest of the process. `filter` is in the syntax of `RUST_LOG`.
///
/// Fails when the filter cannot be read or logging has been started before.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    install(filter, json, terminal, io::stderr)
}

fn install<W>(filter: &str, json: bool, color: bool, writer: W) -> anyhow::Result<()>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The library behind the S3 door calls each refused request an error, and shows signatures to
    // those who look for something.
    let quiet = format!("{filter},s3s=off");
    let filter =
        EnvFilter::try_new(&quiet).with_context(|| format!("read log filter {filter:?}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(color).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
