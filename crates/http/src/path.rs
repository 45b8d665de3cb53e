//! Percent-decoding of targets, strict.
//!
//! Promises: each segment is decoded once and by itself; an escape that is none, text that is not
//! UTF-8, and an encoded `/` are refused, so that what the router split is what the name says
//! (attack: `%2e%2e%2f`, double encoding). `.`, `..`, NUL and control characters are refused
//! where names are made (`larder_base::name`).
//!
//! Not here: queries ([`crate::query`]).

use std::borrow::Cow;

use larder_base::name::TreePath;
use larder_core::Error;

/// Decodes one segment, or several with the `/` between them left alone.
///
/// # Errors
/// `Invalid` for a bad escape, for `%2F` and for bytes that are not UTF-8.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, Error> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let bytes = unescape(raw)?;
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    if slashes(&bytes) != slashes(raw.as_bytes()) {
        return Err(Error::invalid("a name must not contain an encoded `/`"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => Err(Error::invalid("the path is not UTF-8")),
    }
}

/// The path in a space that the rest of a target names.
///
/// # Errors
/// `Invalid`, as [`decode`] and [`TreePath::parse`] say.
pub fn tree_path(raw: &str) -> Result<TreePath, Error> {
    Ok(TreePath::parse(&decode(raw)?)?)
}

/// Replaces escapes by the bytes they stand for.
pub(crate) fn unescape(raw: &str) -> Result<Vec<u8>, Error> {
    let bad = || Error::invalid("a `%` must be followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    Ok(bytes)
}

/// Encodes `text` as segments of a target; `/` stays.
pub fn encode(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_once() {
        assert_eq!(decode("a/b%20c").expect("it decodes"), "a/b c");
        assert_eq!(decode("%2525").expect("it decodes"), "%25");
        assert_eq!(decode("caf%C3%A9").expect("it decodes"), "caf\u{e9}");
        assert_eq!(decode("a+b").expect("it decodes"), "a+b");
    }

    #[test]
    fn hostile_targets_name_nothing() {
        for raw in [
            "a%2Fb",
            "a%2fb",
            "%",
            "%4",
            "%zz",
            "%+1",
            "a%",
            "%ff",
            "%C3",
            "%ED%A0%80",
            "..",
            "a/..",
            "%2e%2e",
            "%2e%2e/etc",
            ".",
            "a%00b",
            "a%0Ab",
            "a//b",
            "a/%2e/b",
            "%2e%2e%2fetc",
        ] {
            let error = tree_path(raw).expect_err(raw);
            assert_eq!(error.kind(), larder_base::ErrorKind::Invalid, "{raw}");
        }
        assert!(tree_path(&vec!["d"; 10_000].join("/")).is_err());
        assert!(tree_path(&"n".repeat(256)).is_err());
        assert!(tree_path(&"n".repeat(255)).is_ok());
    }

    #[test]
    fn encoding_is_undone_by_decoding() {
        let text = "a b/\u{e9}%?#&+=;\"<>";
        assert_eq!(decode(&encode(text)).expect("it decodes"), text);
        assert_eq!(encode("a/b c"), "a/b%20c");
    }
}
