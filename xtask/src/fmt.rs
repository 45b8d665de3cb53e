//! Formats all code, with the import options that stable rustfmt only takes on the command line.
//!
//! Promises: plain `cargo fmt` leaves the result alone.
//! Not here: the other options (`rustfmt.toml`).

use std::path::Path;

use anyhow::Result;

use crate::{Mode, cargo, run as run_command};

const IMPORTS: &str = "group_imports=StdExternalCrate,imports_granularity=Crate";

/// Formats every crate of the workspace, or says what is not formatted.
pub(crate) fn run(root: &Path, mode: Mode) -> Result<()> {
    let mut command = cargo(root);
    command.args(["fmt", "--all"]);
    if mode == Mode::Check {
        command.arg("--check");
    }
    run_command(command.args(["--", "--config", IMPORTS]))
}
