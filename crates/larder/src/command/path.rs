//! Paths on the command line: `SPACE:/path` is remote, everything else is local.
//!
//! A path is remote if it has a `:` before any `/` and what stands before it can be the name or
//! id of a space; `./a:b` is therefore local. The `/` after the colon may be left out.
//!
//! Not here: whether a path is valid (the server says so), encoding (`client::api`).

use std::{fmt, path::PathBuf};

use crate::client::error::{ClientError, Result};

/// Longest name of a space, as for buckets.
const SPACE_BYTES_MAX: usize = 63;

/// A path on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Name or id of the space.
    pub(crate) space: String,
    /// From its root, without `/` at either end.
    pub(crate) path: String,
    /// Whether it can only be a directory: it ends with `/`, or it is the root.
    pub(crate) is_dir: bool,
}

/// A path on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the server.
    Remote(Remote),
    /// On this machine.
    Local(PathBuf),
}

impl Place {
    /// Tells remote from local paths.
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((space, path)) if is_space(space) => {
                let path = path.strip_prefix('/').unwrap_or(path);
                let trimmed = path.trim_end_matches('/');
                Self::Remote(Remote {
                    space: space.to_owned(),
                    path: trimmed.to_owned(),
                    is_dir: trimmed.len() != path.len() || path.is_empty(),
                })
            }
            _ => Self::Local(text.into()),
        }
    }
}

fn is_space(text: &str) -> bool {
    let valid = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    text.len() <= SPACE_BYTES_MAX
        && text.bytes().all(valid)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Remote {
    /// A path that must be remote.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match Place::parse(text) {
            Place::Remote(remote) => Ok(remote),
            Place::Local(_) => Err(ClientError::usage(format!(
                "{text:?} is no remote path; write SPACE:/path, such as home:/{}",
                text.trim_start_matches(['.', '/'])
            ))),
        }
    }

    /// The entry called `name` in this directory. `name` may be a path.
    pub(crate) fn join(&self, name: &str) -> Self {
        let path = match (self.path.as_str(), name) {
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}/{name}"),
        };
        Self { space: self.space.clone(), path, is_dir: false }
    }

    /// The last name; `None` for the root.
    pub(crate) fn name(&self) -> Option<&str> {
        self.path.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/{}", self.space, crate::output::printable(&self.path))
    }
}

/// A space on the command line: `photos`, or `photos:` as in paths.
pub(crate) fn space(text: &str) -> Result<&str> {
    let space = text.strip_suffix('/').unwrap_or(text);
    let space = space.strip_suffix(':').unwrap_or(space);
    if is_space(space) {
        Ok(space)
    } else {
        Err(ClientError::usage(format!("{text:?} is not the name of a space")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_paths_have_a_space_before_the_first_slash() {
        let remote = |text, space: &str, path: &str, is_dir| {
            let expected = Remote { space: space.to_owned(), path: path.to_owned(), is_dir };
            assert_eq!(Place::parse(text), Place::Remote(expected), "{text:?}");
        };
        remote("home:/photos", "home", "photos", false);
        remote("home:/photos/", "home", "photos", true);
        remote("home:photos/a:b", "home", "photos/a:b", false);
        remote("home:", "home", "", true);
        remote("home:/", "home", "", true);
        remote("my-bucket.1:/a/b c", "my-bucket.1", "a/b c", false);
        let id = "0192f0c1-2b3c-7def-8abc-0123456789ab";
        remote(&format!("{id}:/x"), id, "x", false);
    }

    #[test]
    fn everything_else_is_local() {
        for text in ["photos", "./a:b", "/a:b", "dir/a:b", ":x", "-", ".", "a b:c", "-x:y", ""] {
            assert_eq!(Place::parse(text), Place::Local(text.into()), "{text:?}");
        }
        let long = format!("{}:/x", "a".repeat(64));
        assert_eq!(Place::parse(&long), Place::Local(long.as_str().into()));
        let error = Remote::parse("photos/x").expect_err("local");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("home:/photos/x"), "{error}");
    }

    #[test]
    fn joining_starts_at_the_root_without_a_slash() {
        let root = Remote::parse("home:/").expect("remote");
        assert_eq!(root.join("a/b").to_string(), "home:/a/b");
        assert_eq!(root.join("a").join("b").name(), Some("b"));
        assert_eq!(root.name(), None);
    }
}
