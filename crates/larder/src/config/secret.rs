//! Secrets: values that are used and never shown.
//!
//! Promises: neither `Debug` nor any message of this program contains a [`Secret`]; the text
//! leaves it only through [`Secret::reveal`], which is easy to search for.
//!
//! Not here: how secrets are stored (core), where settings come from ([`super::load`]).

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::value::Setting;

/// Longest secret that is read from a file, so that a wrong path cannot fill the memory.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A password, token or key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Callers hand it to whoever must check it, and nowhere else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a file; one line break at the end is not part of it.
    pub(crate) fn from_file(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > SECRET_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
        }
        Ok(Self(without_line_break(&text).to_owned()))
    }
}

/// `text` without one line break at its end.
pub(crate) fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const FORM: &'static str = "secret";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a secret must not be empty".to_owned());
        }
        Ok(Self::new(text))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_secret_from_a_file_loses_one_line_break_and_is_never_shown() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(b" pass word \r\n").expect("write");
        let secret = Secret::from_file(file.path()).expect("read");
        assert_eq!(secret.reveal(), " pass word ");
        assert_eq!(format!("{secret:?}"), "***");
    }
}
