//! Asks a person for a secret.
//!
//! Promises: what is typed is not shown, and the terminal is as before afterwards.
//!
//! Not here: secrets from flags, variables and files (`client::target`).

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{
    client::error::{ClientError, Result},
    config::secret::{Secret, without_line_break},
};

/// Longest secret that is read.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The first line of standard input.
pub(crate) fn from_stdin() -> Result<Secret> {
    first_line(io::stdin()).map_err(|error| ClientError::stream(error).about("standard input"))
}

/// Asks on the terminal of this process; `None` without one.
pub(crate) fn ask(question: &str) -> Result<Option<Secret>> {
    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        return Ok(None);
    };
    let mut asked = || -> io::Result<Secret> {
        terminal.write_all(question.as_bytes())?;
        let quiet = Quiet::new(&terminal)?;
        let secret = first_line(&terminal);
        drop(quiet);
        terminal.write_all(b"\n")?;
        secret
    };
    asked().map(Some).map_err(|error| ClientError::stream(error).about("terminal"))
}

fn first_line(source: impl io::Read) -> io::Result<Secret> {
    let mut line = String::new();
    BufReader::new(source.take(SECRET_BYTES_MAX)).read_line(&mut line)?;
    match without_line_break(&line) {
        "" => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no password was given")),
        text => Ok(Secret::new(text)),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn new(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nothing to be done about a terminal that has gone.
        tcsetattr(self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}
