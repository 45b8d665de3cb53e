//! The steps of `.ci/run`, timed, in order; the first that fails ends the run.
//!
//! Promises: cheap steps come first; the last one is `cargo test`, so that its summary ends the
//! output. The table of times is printed before it.
//! Relies on: `build` making the same artifacts as `test` needs (all targets, dev profile, one
//! feature set), so that each dependency is compiled twice in all: once to check, once to run.
//! Not here: installing tools (`.ci/run`).

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{Mode, cargo, docs, fmt, output, run as run_command, tidy};

/// Runs every step.
pub(crate) fn run(root: &Path) -> Result<()> {
    let started = Instant::now();
    for part in ["fmt", "clippy"] {
        output(cargo(root).args([part, "--version"])).with_context(|| {
            format!("cargo {part} is missing: rustup component add rustfmt clippy")
        })?;
    }
    let mut times = Vec::new();
    let mut step = |name: &'static str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        println!("==> {name}");
        let before = Instant::now();
        work().with_context(|| format!("step {name}"))?;
        let took = before.elapsed();
        println!("    {name}: {}", seconds(took));
        times.push((name, took));
        Ok(())
    };
    step("fmt", &|| fmt::run(root, Mode::Check))?;
    step("tidy", &|| tidy::run(root))?;
    step("clippy", &|| {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--"];
        run_command(cargo(root).args(clippy).args(["-D", "warnings"]))
    })?;
    step("build", &|| run_command(cargo(root).args(BUILD)))?;
    step("docs", &|| docs::run(root, Mode::Check))?;

    println!("==> times so far");
    for (name, took) in &times {
        println!("    {name:<8}{:>10}", seconds(*took));
    }
    println!("    {:<8}{:>10}", "all", seconds(started.elapsed()));
    println!("==> test");
    run_command(cargo(root).args(["test", "--locked", "--workspace", "--no-fail-fast"]))
}

/// What `cargo` is told to build everything that tests and documents need.
pub(crate) const BUILD: [&str; 4] = ["build", "--locked", "--workspace", "--all-targets"];

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
