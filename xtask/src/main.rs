//! The toolbox of this repository: `cargo xtask <ci|tidy|fmt|docs>`.
//!
//! Promises: needs nothing but Rust (and git, where there is a checkout); exits non-zero when
//! something is not as it should be.
//! Not here: anything that ships.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for people at a terminal: it prints, measures time and writes files"
)]

mod ci;
mod docs;
mod edges;
mod fmt;
mod invariants;
mod layers;
mod licences;
mod paths;
mod source;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <command>

  ci             everything that must hold before a merge; ends with `cargo test`
  tidy           the house rules of CONTRIBUTING.md
  fmt [--check]  formats all code, imports grouped
  docs [--check] regenerates what is generated in docs/";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = root();
    let done = match args.as_slice() {
        ["ci"] => ci::run(&root),
        ["tidy"] => tidy::run(&root),
        ["fmt"] => fmt::run(&root, Mode::Write),
        ["fmt", "--check"] => fmt::run(&root, Mode::Check),
        ["docs"] => docs::run(&root, Mode::Write),
        ["docs", "--check"] => docs::run(&root, Mode::Check),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a command changes files or only says which ones it would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Write,
    Check,
}

/// The top of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in a folder of the workspace").to_path_buf()
}

/// A `cargo` of the same toolchain that runs this program, at the top of the repository.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs `command` to its end, output shown; an error if it does not succeed.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed; its errors go to the terminal.
fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    if !out.status.success() {
        bail!("{} failed ({})", shown(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("read output of {}", shown(command)))
}

/// The command line as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut line = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
