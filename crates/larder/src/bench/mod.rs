//! `larder bench`: a load generator for file servers over HTTP that users can trust.
//!
//! Promises: measures one server, or two in alternation with their ratio, on put, get, head,
//! delete, list, mixed load and uploads in parts; verifies what it reads; counts every failure
//! and then exits with 1; prints what the server and the machine spent and could have done;
//! removes what it put. Ctrl-C ends the measurement, reports and cleans up; a second one ends at
//! once.
//!
//! Not here: TLS, other machines as load generators.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command prints, and a load generator measures real time on threads of its own"
)]

mod args;
mod cleanup;
mod client;
mod disk_probe;
mod multipart;
mod pattern;
mod proc_stat;
mod report;
mod runner;
mod s3;
mod session;
mod sigv4;
mod stats;
mod target;
#[cfg(test)]
mod tests;
mod workload;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, bail};
pub(crate) use args::{BenchArgs, SharedFlags};
use disk_probe::Probe;
use report::{Circumstances, Report};
pub(crate) use s3::S3Settings;
use session::Session;
pub(crate) use sigv4::Keys;
use target::Target;
use tokio::sync::oneshot;

/// Runs the measurement and prints its report.
///
/// # Errors
/// Arguments that make no sense, a target that cannot be prepared; after the report, any failed
/// operation and an interruption.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let args = args.resolve()?;
    let json = args.shared.json;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, mut receiver) = oneshot::channel();
    let flag = Arc::clone(&stop);
    // A thread of its own, not one of the runtime's: leaving this function must not wait for it.
    std::thread::Builder::new().name("bench".to_owned()).spawn(move || {
        // Nobody listens any more only after a second Ctrl-C.
        drop(sender.send(run_blocking(args, &flag)));
    })?;
    let mut interrupts = 0;
    let report = loop {
        tokio::select! {
            done = &mut receiver => break done.context("the benchmark panicked")??,
            signal = tokio::signal::ctrl_c() => {
                signal.context("cannot listen for Ctrl-C")?;
                interrupts += 1;
                if interrupts > 1 {
                    bail!("interrupted twice: what was put is left behind");
                }
                cleanup::request_stop(&stop);
                eprintln!("stopping; once more to leave without cleaning up");
            }
        }
    };
    if json {
        println!("{}", report.json()?);
    } else {
        print!("{}", report.table());
    }
    match (report.errors(), interrupts) {
        (0, 0) => Ok(()),
        (0, _) => bail!("interrupted"),
        (n, _) => bail!("{n} operations failed"),
    }
}

fn run_blocking(args: BenchArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<Report> {
    let targets = targets(&args)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = stats::mix(now.as_nanos() as u64 ^ u64::from(std::process::id()));
    let machine = proc_stat::machine();
    let disk_before = probe(&args)?;
    let mut session = Session::new(args, targets, seed, Arc::clone(stop));
    let measured = session.measure();
    let peaks = cleanup::peaks(&session);
    if session.args.keep {
        for side in &session.sides {
            session.say(&format!("kept: {} on {}", side.root, side.target.label));
        }
    } else {
        for target in 0..session.sides.len() {
            cleanup::remove(&session, target);
        }
    }
    if let Err(error) = measured {
        if session.records.is_empty() {
            return Err(error);
        }
        return Err(error.context("the run ended early"));
    }
    let disk_after = if session.stopped() { None } else { probe(&session.args)? };
    let around = Circumstances {
        machine,
        disk_before,
        disk_after,
        interrupted: session.stopped(),
        targets: session
            .sides
            .iter()
            .map(|side| {
                let label = side.target.label.clone();
                let peak = peaks.get(&label).copied();
                (label, side.target.shown.clone(), peak)
            })
            .collect(),
    };
    Ok(Report::new(&session.records, around))
}

fn targets(args: &BenchArgs) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for n in 0..args.targets.len() {
        targets.push(args.target(n)?);
    }
    for (target, label) in targets.iter_mut().zip(&args.labels) {
        target.label.clone_from(label);
    }
    if let [a, b] = targets.as_mut_slice()
        && a.label == b.label
    {
        a.label.push_str("/1");
        b.label.push_str("/2");
    }
    Ok(targets)
}

fn probe(args: &BenchArgs) -> anyhow::Result<Option<Probe>> {
    if args.no_probe {
        return Ok(None);
    }
    let dir = args.probe_dir.clone().unwrap_or_else(std::env::temp_dir);
    let probe = disk_probe::probe(&dir);
    probe.map(Some).map_err(|error| anyhow!("cannot probe the disk at {}: {error}", dir.display()))
}
