//! What the verbs print: results to standard output, everything else to standard error.
//!
//! Promises: with `--json` standard output has one JSON object a line and nothing else; with
//! `--quiet` standard error has only errors; a reader that goes away ends the verb quietly.
//!
//! Not here: log events (`telemetry`).

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::{
    args::Global,
    client::{
        error::{ClientError, Result},
        target::Environment,
    },
};

/// Errors that are printed of a batch; the rest is counted.
const ERRORS_SHOWN_MAX: usize = 100;

/// Where a verb prints to.
#[derive(Debug)]
pub(crate) struct Output {
    verb: &'static str,
    json: bool,
    quiet: bool,
    color: bool,
    stdout: Mutex<BufWriter<Stdout>>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// The output of `verb`.
    pub(crate) fn new(verb: &'static str, flags: &Global, environment: &Environment) -> Self {
        let no_color = environment.get("NO_COLOR").is_some_and(|text| !text.is_empty());
        Self {
            verb,
            json: flags.json,
            quiet: flags.quiet,
            color: !flags.no_color && !no_color && io::stdout().is_terminal(),
            stdout: Mutex::new(BufWriter::new(io::stdout())),
            bar: Mutex::default(),
        }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes bytes of a file.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout.write_all(bytes).map_err(ClientError::stream)
    }

    /// Writes a line for people.
    pub(crate) fn line(&self, line: impl Display) -> Result<()> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes an object for machines.
    pub(crate) fn object(&self, value: &Value) -> Result<()> {
        self.line(value)
    }

    /// Writes `value` as JSON, or one line for each of its fields.
    pub(crate) fn record(&self, value: &Value) -> Result<()> {
        match value {
            Value::Object(fields) if !self.json => {
                let width = fields.keys().map(|name| name.len()).max().unwrap_or(0);
                for (name, field) in fields {
                    self.line(format_args!("{name:width$}  {}", text_of(field)))?;
                }
                Ok(())
            }
            _ => self.object(value),
        }
    }

    /// Writes items as JSON, or as a table of some of their fields.
    pub(crate) fn table(&self, columns: &[&str], items: &[Value]) -> Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.object(item));
        }
        let row = |item: &Value| -> Vec<String> {
            columns
                .iter()
                .map(|&column| text_of(item.get(column).unwrap_or(&Value::Null)))
                .collect()
        };
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        let width = |index: usize| {
            let cells =
                rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain(columns.get(index).map(|name| name.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let print = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, width) in cells.zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            self.line(line.trim_end())
        };
        if !rows.is_empty() {
            print(&mut columns.iter().copied())?;
        }
        rows.iter().try_for_each(|row| print(&mut row.iter().map(String::as_str)))
    }

    /// `text` in the color of directories.
    pub(crate) fn directory(&self, text: &str) -> String {
        if self.color { format!("\x1b[1;34m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Tells people what happened, unless they want quiet.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.to_stderr(&format!("larder: {}: {text}\n", self.verb));
        }
    }

    /// Prints an error.
    pub(crate) fn error(&self, error: &ClientError) {
        self.to_stderr(&format!("larder: {}: {error}\n", self.verb));
    }

    /// Writes out what is still buffered.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout.flush().map_err(ClientError::stream)
    }

    /// A progress bar in bytes; hidden unless someone watches. It is this output's only one.
    pub(crate) fn progress(&self) -> ProgressBar {
        let watched = !self.quiet && !self.json && io::stderr().is_terminal();
        if !watched {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let template =
            "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta_precise}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        bar
    }

    fn to_stderr(&self, text: &str) {
        // Results that are older than this line come first where both go to one terminal; when
        // nobody can be told, there is nobody to tell.
        self.flush().ok();
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || drop(io::stderr().write_all(text.as_bytes()));
        match bar.as_ref().filter(|bar| !bar.is_finished()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// A JSON value as a cell of a table.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// `text` without characters that could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    } else {
        text.to_owned()
    }
}

/// The errors of a verb that goes on after one.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: usize,
    exit_code: Option<u8>,
}

impl Failures {
    /// Prints an error and remembers it.
    pub(crate) fn add(&mut self, out: &Output, error: &ClientError) {
        self.count += 1;
        let code = error.exit_code();
        // Errors of several kinds are a plain failure.
        self.exit_code = Some(self.exit_code.filter(|&first| first != code).map_or(code, |_| 1));
        match self.count {
            ..=ERRORS_SHOWN_MAX => out.error(error),
            _ if self.count == ERRORS_SHOWN_MAX + 1 => out.note("further errors are only counted"),
            _ => {}
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Fails if anything has.
    pub(crate) fn finish(self) -> Result<()> {
        match self.exit_code {
            None => Ok(()),
            Some(code) => Err(ClientError::reported(self.count, code)),
        }
    }
}

/// Tells people what a transfer has come to.
pub(crate) fn summarize(out: &Output, (files, bytes): (u64, u64), took: Duration, failed: usize) {
    // The error has said it all.
    if files == 0 && failed == 1 {
        return;
    }
    let word = if files == 1 { "file" } else { "files" };
    let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    let (bytes, seconds) = (indicatif::HumanBytes(bytes), took.as_secs_f64());
    out.note(format_args!("{files} {word}, {bytes} in {seconds:.1} s{failed}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_kind_keep_their_exit_code_and_mixed_ones_are_a_failure() {
        let out = Output::new("test", &Global::default(), &Environment::new());
        let code = |codes: &[u8]| {
            let mut failures = Failures::default();
            for &code in codes {
                failures.add(&out, &ClientError::reported(1, code));
            }
            failures.finish().map_err(|error| error.exit_code())
        };
        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&[3, 3]), Err(3));
        assert_eq!(code(&[3, 5]), Err(1));
        assert_eq!(code(&[3, 5, 3]), Err(1));
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\n"), "a?[2Jb?c?");
        assert_eq!(printable("caf\u{e9}"), "caf\u{e9}");
    }
}
