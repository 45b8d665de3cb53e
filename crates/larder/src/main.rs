//! Larder keeps files: the server and its command line, in one program.
//!
//! Promises: exit code 2 for mistakes on the command line; see `command` for the others.
//!
//! Not here: rules about files (core), protocols (the doors).

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make files, and servers on threads")
)]

mod args;
mod bench;
mod client;
mod command;
mod config;
mod master_key;
mod metrics;
mod output;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

/// A tenth less CPU per small upload than the C library's allocator, and half the memory
/// (`docs/adr/2026-11-21-mimalloc.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // When nobody can be told, the exit code still says it.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    command::run(&cli, &environment())
}

/// The environment of this process, once. Variables that are not UTF-8 are none of ours.
fn environment() -> client::target::Environment {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}
