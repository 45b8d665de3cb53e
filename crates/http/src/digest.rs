//! Digest headers (RFC 9530, and `Digest` of RFC 3230): SHA-256 in and out.
//!
//! Promises: a digest that a client declares is either verified or refused; none is ignored
//! (hazard U06).
//!
//! Not here: computing one (core does it while the bytes stream by).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use larder_base::{ErrorKind, digest::Sha256};
use larder_core::Error;

/// `Content-Digest`.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// `Repr-Digest`.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

const DIGEST: HeaderName = HeaderName::from_static("digest");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// The SHA-256 that `headers` declare for the content they come with.
///
/// Without a content coding, which no door accepts, content and representation are the same, so
/// both headers must agree.
///
/// # Errors
/// `Invalid` for a malformed value or two different ones; `NotImplemented` if only digests are
/// given that are not verified here.
pub fn declared(headers: &HeaderMap) -> Result<Option<Sha256>, Error> {
    let mut found = None;
    if !names(headers) {
        return Ok(None);
    }
    if headers.contains_key(CONTENT_MD5) {
        return Err(unsupported(&CONTENT_MD5));
    }
    for name in [CONTENT_DIGEST, REPR_DIGEST, DIGEST] {
        if !headers.contains_key(&name) {
            continue;
        }
        let digest = one(headers, &name)?.ok_or_else(|| unsupported(&name))?;
        if found.is_some_and(|before| before != digest) {
            return Err(Error::invalid("the declared digests contradict each other"));
        }
        found = Some(digest);
    }
    Ok(found)
}

/// The SHA-256 in the dictionary that `name` holds; `None` if it only has others.
fn one(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Sha256>, Error> {
    let bad = || Error::invalid(format!("{name} is malformed"));
    let (mut members, mut found) = (0, None);
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| bad())?;
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            members += 1;
            let (key, value) = member.split_once('=').ok_or_else(bad)?;
            if !key.trim().eq_ignore_ascii_case("sha-256") {
                continue;
            }
            let digest = decode(value.trim(), *name == DIGEST).ok_or_else(bad)?;
            if found.is_some_and(|before| before != digest) {
                return Err(bad());
            }
            found = Some(digest);
        }
    }
    if members == 0 { Err(bad()) } else { Ok(found) }
}

/// Whether `headers` (or trailers) declare any digest.
pub fn names(headers: &HeaderMap) -> bool {
    [CONTENT_DIGEST, REPR_DIGEST, DIGEST, CONTENT_MD5].iter().any(|name| headers.contains_key(name))
}

/// The value of `Repr-Digest` or `Content-Digest`.
pub fn header(digest: &Sha256) -> HeaderValue {
    // 9 + 44 + 1 bytes, built in place: every read of a small file makes one.
    let mut text = String::with_capacity(54);
    text.push_str("sha-256=:");
    STANDARD.encode_string(digest.0, &mut text);
    text.push(':');
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

fn decode(value: &str, plain: bool) -> Option<Sha256> {
    let text = if plain { value } else { value.strip_prefix(':')?.strip_suffix(':')? };
    let mut bytes = [0; 33];
    // 33 bytes of room: a longer text than 32 bytes' is an error, not a panic.
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(32) => Some(Sha256(*bytes.first_chunk()?)),
        _ => None,
    }
}

fn unsupported(name: &HeaderName) -> Error {
    let detail = format!("{name}: only sha-256 is verified; send it, or no digest");
    Error::new(ErrorKind::NotImplemented, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";

    fn declared(pairs: &[(&'static str, &str)]) -> Result<Option<Sha256>, ErrorKind> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), value.parse().expect("a value"));
        }
        super::declared(&headers).map_err(|error| error.kind())
    }

    #[test]
    fn sha_256_is_understood_in_all_its_headers() {
        let abc = Some(Sha256::of(b"abc"));
        assert_eq!(header(&Sha256::of(b"abc")), GOOD);
        assert_eq!(declared(&[]), Ok(None));
        assert_eq!(declared(&[("content-digest", GOOD)]), Ok(abc));
        assert_eq!(declared(&[("repr-digest", GOOD)]), Ok(abc));
        assert_eq!(declared(&[("content-digest", GOOD), ("repr-digest", GOOD)]), Ok(abc));
        let plain = GOOD.replace(':', "");
        assert_eq!(declared(&[("digest", &plain.replace("sha", "SHA"))]), Ok(abc));
        let more = format!("sha-512=:AAAA:, {GOOD}");
        assert_eq!(declared(&[("content-digest", &more)]), Ok(abc));
        let more = format!("{GOOD}, unixsum=:AAAA:");
        assert_eq!(declared(&[("content-digest", &more)]), Ok(abc));
    }

    #[test]
    fn no_digest_is_ignored() {
        let other = header(&Sha256::of(b"other"));
        let other = other.to_str().expect("ASCII");
        for value in ["", "sha-256", "sha-256=abc", "sha-256=::", "sha-256=:AAAA:", "sha-256=:=:"] {
            assert_eq!(declared(&[("repr-digest", value)]), Err(ErrorKind::Invalid), "{value}");
        }
        let two = [("content-digest", GOOD), ("repr-digest", other)];
        assert_eq!(declared(&two), Err(ErrorKind::Invalid));
        let twice = [("repr-digest", GOOD), ("repr-digest", other)];
        assert_eq!(declared(&twice), Err(ErrorKind::Invalid));
        assert_eq!(
            declared(&[("content-digest", "sha-512=:AAAA:")]),
            Err(ErrorKind::NotImplemented)
        );
        assert_eq!(declared(&[("content-md5", "AAAA")]), Err(ErrorKind::NotImplemented));
    }
}
