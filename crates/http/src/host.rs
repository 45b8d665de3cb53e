//! The `Host` of a request (RFC 9112 section 3.2).
//!
//! Promises: a request that names no host, several, or something that is none is refused, so that
//! a cache or proxy before us and we cannot take it for requests to different hosts. No address
//! that we hand out is made from it.
//!
//! Not here: which host we are: any is ours.

use http::{HeaderMap, Version, header, uri::Authority};
use larder_core::Error;

/// Checks the `Host` of a request.
///
/// # Errors
/// `Invalid`.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), Error> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Error::invalid("the request has no Host")),
        (Some(_), Some(_)) => Err(Error::invalid("the request has more than one Host")),
        (Some(host), None) => match host.to_str() {
            Ok(host) if is_host(host) => Ok(()),
            _ => Err(Error::invalid("the Host of the request is malformed")),
        },
    }
}

/// A name or an address, with or without a port; it may be empty.
fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':');
    // What nearly all send needs no parser.
    text.bytes().all(plain) || (!text.contains(['@', ',']) && text.parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(values: &[&str], version: Version) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("host", value.parse().expect("a value"));
        }
        check(version, &headers).is_ok()
    }

    #[test]
    fn there_is_one_host_and_it_is_one() {
        for host in ["example.org", "example.org:8080", "[::1]:80", "127.0.0.1", "a_b", ""] {
            assert!(check_all(&[host], Version::HTTP_11), "{host}");
        }
        for host in ["a b", "a/b", "user@host", "a,b", "http://x", "a?b", "\u{e9}"] {
            assert!(!check_all(&[host], Version::HTTP_11), "{host}");
        }
        assert!(!check_all(&["a", "a"], Version::HTTP_11));
        assert!(!check_all(&[], Version::HTTP_11));
        assert!(check_all(&[], Version::HTTP_10));
    }
}
