//! Names and paths: the one place where they are validated and normalised.
//!
//! Promises: an [`EntryName`] is 1 to 255 bytes of UTF-8 in NFC without NUL, `/`, control
//! characters, and is not `.` or `..` (docs/semantics.md T5, hazard N21); a [`TreePath`] has at
//! most 256 of them and at most 4,096 bytes where a request named it. Whoever holds one need not
//! check again. In a bucket the name of an entry is a whole key ([`EntryName::key`]): 1 to 1,024
//! bytes, kept byte for byte, slashes included.
//!
//! Not here: which space has names of which kind (core).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::{NAME_BYTES_MAX, OBJECT_KEY_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// Why a text is not a name or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("a name must not be `.` or `..`")]
    Dots,
    /// The name has a `/`, a NUL or another control character.
    #[error("a name must not contain `/` or control characters")]
    Character,
    /// The name is too long.
    #[error("a name must not be longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// The path is too long.
    #[error("a path must not be longer than {PATH_BYTES_MAX} bytes")]
    PathTooLong,
    /// The key is too long.
    #[error("a key must not be longer than {OBJECT_KEY_BYTES_MAX} bytes")]
    KeyTooLong,
    /// The key has a character that no XML document can hold.
    #[error("a key must not contain control characters other than tab, line feed and return")]
    KeyCharacter,
    /// The path has too many names.
    #[error("a path must not have more than {PATH_DEPTH_MAX} names")]
    TooDeep,
}

/// The name of an entry in a tree, in NFC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryName(Box<str>);

impl EntryName {
    /// Normalises and checks `text`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        // NFC can grow a text at most threefold; refuse giants before normalising them.
        if text.len() > 3 * NAME_BYTES_MAX {
            return Err(NameError::NameTooLong);
        }
        let name: Box<str> =
            if is_nfc(text) { text.into() } else { text.nfc().collect::<String>().into() };
        match &*name {
            "" => Err(NameError::Empty),
            "." | ".." => Err(NameError::Dots),
            n if n.len() > NAME_BYTES_MAX => Err(NameError::NameTooLong),
            n if n.chars().any(|c| c == '/' || c.is_control()) => Err(NameError::Character),
            _ => Ok(Self(name)),
        }
    }

    /// Checks the key of an entry of a bucket, which is kept as it is.
    pub fn key(text: &str) -> Result<Self, NameError> {
        let listable = |c: char| match c {
            '\t' | '\n' | '\r' => true,
            '\u{fffe}' | '\u{ffff}' => false,
            c => c >= ' ',
        };
        match text {
            "" => Err(NameError::Empty),
            key if key.len() > OBJECT_KEY_BYTES_MAX => Err(NameError::KeyTooLong),
            key if !key.chars().all(listable) => Err(NameError::KeyCharacter),
            key => Ok(Self(key.into())),
        }
    }

    /// A name as a record has it: whichever kind of space it is of, it was checked when it came,
    /// and trees take characters that keys do not.
    pub fn stored(text: &str) -> Result<Self, NameError> {
        match text {
            "" => Err(NameError::Empty),
            name if name.len() > OBJECT_KEY_BYTES_MAX => Err(NameError::KeyTooLong),
            name => Ok(Self(name.into())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EntryName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::stored(&text)
    }
}

impl From<EntryName> for String {
    fn from(name: EntryName) -> Self {
        name.0.into()
    }
}

/// Names from the root of a space down to an entry; the root itself has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Vec<EntryName>);

impl TreePath {
    /// The root of a space.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Parses names separated by `/`. One leading and one trailing `/` are allowed; an empty
    /// name anywhere else is not.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > 3 * PATH_BYTES_MAX {
            return Err(NameError::PathTooLong);
        }
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.split('/').nth(PATH_DEPTH_MAX).is_some() {
            return Err(NameError::TooDeep);
        }
        let names = text.split('/').map(EntryName::new).collect::<Result<Vec<_>, _>>()?;
        Self::from_names(names)
    }

    /// The path of these names.
    pub fn from_names(names: Vec<EntryName>) -> Result<Self, NameError> {
        if names.len() > PATH_DEPTH_MAX {
            return Err(NameError::TooDeep);
        }
        let bytes: usize = names.iter().map(|name| name.as_str().len() + 1).sum();
        if bytes > PATH_BYTES_MAX + 1 {
            return Err(NameError::PathTooLong);
        }
        Ok(Self(names))
    }

    /// The path of an entry that exists, whatever its depth: a directory may have been moved to
    /// where a request could not have named all of what is in it.
    pub fn of_entry(names: Vec<EntryName>) -> Self {
        Self(names)
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, from the root down.
    pub fn names(&self) -> &[EntryName] {
        &self.0
    }

    /// The last name and the names before it; `None` for the root.
    pub fn split_last(&self) -> Option<(&EntryName, &[EntryName])> {
        self.0.split_last()
    }

    /// The path of `name` below this one.
    pub fn join(&self, name: EntryName) -> Result<Self, NameError> {
        let mut names = self.0.clone();
        names.push(name);
        Self::from_names(names)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

impl FromStr for TreePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_to_one_spelling() {
        let composed = EntryName::new("caf\u{e9}").expect("valid");
        assert_eq!(EntryName::new("cafe\u{301}").expect("valid"), composed);
        assert_eq!(composed.as_str(), "caf\u{e9}");
    }

    #[test]
    fn bad_names_are_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("a/b", NameError::Character),
            ("a\0b", NameError::Character),
            ("a\u{7}b", NameError::Character),
            ("a\u{85}b", NameError::Character),
        ] {
            assert_eq!(EntryName::new(text), Err(error), "{text:?}");
        }
        assert!(EntryName::new(&"x".repeat(255)).is_ok());
        assert_eq!(EntryName::new(&"x".repeat(256)), Err(NameError::NameTooLong));
        assert_eq!(EntryName::new(&"x".repeat(1 << 20)), Err(NameError::NameTooLong));
    }

    #[test]
    fn what_was_taken_is_read_back() {
        for text in ["a", "\u{fffe}", "a\u{ffff}b", "\u{10ffff}"] {
            let name = EntryName::new(text).expect("valid");
            assert_eq!(EntryName::stored(text), Ok(name.clone()), "{text:?}");
            assert_eq!(EntryName::try_from(String::from(name.clone())), Ok(name));
        }
        for text in ["a/b", "\t", "\n", "..", "/"] {
            let key = EntryName::key(text).expect("valid");
            assert_eq!(EntryName::stored(text), Ok(key), "{text:?}");
        }
    }

    #[test]
    fn paths_are_bounded_and_cannot_climb() {
        let path = TreePath::parse("/a/b/c/").expect("valid");
        assert_eq!(path.to_string(), "a/b/c");
        assert!(TreePath::parse("").expect("valid").is_root());
        assert!(TreePath::parse("/").expect("valid").is_root());
        assert_eq!(TreePath::parse("a//b"), Err(NameError::Empty));
        assert_eq!(TreePath::parse("a/../b"), Err(NameError::Dots));
        assert_eq!(TreePath::parse(&"a/".repeat(10_000)), Err(NameError::PathTooLong));
        assert_eq!(TreePath::parse(&"a/".repeat(300)), Err(NameError::TooDeep));
        assert!(TreePath::parse(&"a/".repeat(256)).is_ok());
        let long = vec!["x".repeat(255); 17].join("/");
        assert_eq!(TreePath::parse(&long), Err(NameError::PathTooLong));
    }
}
