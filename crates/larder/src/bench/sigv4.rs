//! AWS Signature Version 4 in headers, for S3 targets of `larder bench`.
//!
//! Promises: what is signed is what `out` already holds as the request line; the key derived
//! from the secret is made once a day and the date is written once a second, so that a request
//! costs one short hash and one HMAC. Checked against the examples of the S3 documentation.
//!
//! Relies on: a canonical path and query (escaped once, parameters sorted, `name=value`), which
//! the caller sends as they are.
//!
//! Not here: what requests say (`s3`), presigned URLs, chunked payload signing.

use std::{
    fmt::Write as _,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::pattern::Content;

/// Stands for the hash of a body that is not signed.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Hash of no body.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SECONDS_PER_DAY: u64 = 86_400;
/// Bytes of `20130524T000000Z`, of which the first eight are the day.
const DATE_LEN: usize = 16;
const DAY_LEN: usize = 8;

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Its public name.
    pub(crate) id: String,
    /// What proves it.
    pub(crate) secret: String,
    /// Comes with temporary keys.
    pub(crate) session_token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What was derived for the present second and its day.
#[derive(Clone)]
struct Moment {
    second: u64,
    /// `20130524T000000Z`.
    date: String,
    /// Keyed for that day, region and service.
    key: Hmac<Sha256>,
}

/// Signs requests of one key to one region.
pub(super) struct Signer {
    keys: Keys,
    region: String,
    host: String,
    moment: Mutex<Option<Moment>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The rest is or holds the secret.
        f.debug_struct("Signer").field("region", &self.region).field("host", &self.host).finish()
    }
}

/// The parts of a request that its signature covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Escaped path and query are here in `out`, as they are sent.
    pub(super) path: &'a Range<usize>,
    pub(super) query: &'a Range<usize>,
    /// Hash of the body in lower-case hex, or [`UNSIGNED`].
    pub(super) payload: &'a str,
    /// Further headers to sign, named in lower case. They are not written.
    pub(super) headers: &'a [(&'a str, &'a str)],
}

impl Signer {
    /// A signer for requests whose `Host` is `host`.
    pub(super) fn new(keys: Keys, region: &str, host: &str) -> Self {
        let (region, host) = (region.to_owned(), host.to_owned());
        Self { keys, region, host, moment: Mutex::new(None) }
    }

    /// Appends the headers that sign `request` now.
    pub(super) fn sign(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sign_at(now.as_secs(), request, out);
    }

    fn sign_at(&self, second: u64, request: &Request<'_>, out: &mut Vec<u8>) {
        let Moment { date, mut key, .. } = self.moment(second);
        let mut headers = Vec::with_capacity(8);
        headers.push(("host", self.host.as_str()));
        headers.push(("x-amz-content-sha256", request.payload));
        headers.push(("x-amz-date", &date));
        if let Some(token) = &self.keys.session_token {
            headers.push(("x-amz-security-token", token));
        }
        headers.extend_from_slice(request.headers);
        headers.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(request.method);
        hash.update("\n");
        hash.update(out.get(request.path.clone()).unwrap_or_default());
        hash.update("\n");
        hash.update(out.get(request.query.clone()).unwrap_or_default());
        hash.update("\n");
        let mut names = String::with_capacity(80);
        for (name, value) in headers {
            for piece in [name, ":", value, "\n"] {
                hash.update(piece);
            }
            if !names.is_empty() {
                names.push(';');
            }
            names.push_str(name);
        }
        for piece in ["\n", &names, "\n", request.payload] {
            hash.update(piece);
        }
        let day = date.get(..DAY_LEN).unwrap_or_default();
        let scope = [day, "/", &self.region, "/s3/aws4_request"];
        for piece in [ALGORITHM, "\n", &date, "\n"].into_iter().chain(scope) {
            key.update(piece.as_bytes());
        }
        key.update(b"\n");
        key.update(hex(&hash.finalize()).as_bytes());
        let signature = hex(&key.finalize().into_bytes());
        let mut push = |pieces: &[&str]| {
            pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
        };
        push(&["x-amz-content-sha256: ", request.payload, "\r\nx-amz-date: ", &date]);
        if let Some(token) = &self.keys.session_token {
            push(&["\r\nx-amz-security-token: ", token]);
        }
        push(&["\r\nAuthorization: ", ALGORITHM, " Credential=", &self.keys.id, "/"]);
        push(&scope);
        push(&[",SignedHeaders=", &names, ",Signature=", &signature, "\r\n"]);
    }

    /// The date and the signing key of `second`, from the previous call where they still hold.
    fn moment(&self, second: u64) -> Moment {
        let mut kept = self.moment.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(moment) = kept.as_ref().filter(|moment| moment.second == second) {
            return moment.clone();
        }
        let date = date_of(second);
        let same_day =
            |moment: &&Moment| moment.second / SECONDS_PER_DAY == second / SECONDS_PER_DAY;
        let key = match kept.as_ref().filter(same_day) {
            Some(moment) => moment.key.clone(),
            None => self.derive(date.get(..DAY_LEN).unwrap_or_default()),
        };
        let moment = Moment { second, date, key };
        *kept = Some(moment.clone());
        moment
    }

    fn derive(&self, day: &str) -> Hmac<Sha256> {
        let mut key = keyed(format!("AWS4{}", self.keys.secret).as_bytes());
        for piece in [day, &self.region, "s3", "aws4_request"] {
            key.update(piece.as_bytes());
            key = keyed(&key.finalize().into_bytes());
        }
        key
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

/// `20130524T000000Z`.
fn date_of(second: u64) -> String {
    let second = i64::try_from(second).unwrap_or_default();
    let time = jiff::Timestamp::from_second(second).unwrap_or_default();
    let mut date = String::with_capacity(DATE_LEN);
    // Writing to a String cannot fail.
    write!(date, "{}", time.strftime("%Y%m%dT%H%M%SZ")).unwrap_or_default();
    date
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Hash of a text, as a signature names it.
pub(super) fn hash_of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Hash of a body, as a signature names it.
pub(super) fn hash_of_content(content: Content<'_>) -> String {
    let mut hash = Sha256::new();
    content.pieces(|piece| hash.update(piece));
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20130524T000000Z.
    const THEN: u64 = 1_369_353_600;

    fn keys(session_token: Option<&str>) -> Keys {
        Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: session_token.map(str::to_owned),
        }
    }

    fn signed(
        signer: &Signer,
        line: (&str, &str, &str),
        payload: &str,
        headers: &[(&str, &str)],
    ) -> String {
        let (method, path, query) = line;
        let mut out = format!("{path}{query}").into_bytes();
        let (path, query) = (0..path.len(), path.len()..out.len());
        let request = Request { method, path: &path, query: &query, payload, headers };
        signer.sign_at(THEN, &request, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn signer() -> Signer {
        Signer::new(keys(None), "us-east-1", "examplebucket.s3.amazonaws.com")
    }

    #[test]
    fn the_examples_of_the_s3_documentation_come_out() {
        let signer = signer();
        let put = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        assert_eq!(hash_of_text("Welcome to Amazon S3."), put);
        assert_eq!(hash_of_text(""), EMPTY);
        let date = ("date", "Fri, 24 May 2013 00:00:00 GMT");
        let class = ("x-amz-storage-class", "REDUCED_REDUNDANCY");
        for (line, payload, headers, want) in [
            (
                ("GET", "/test.txt", ""),
                EMPTY,
                vec![("range", "bytes=0-9")],
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                ("PUT", "/test%24file.text", ""),
                put,
                vec![date, class],
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                ("GET", "/", "lifecycle="),
                EMPTY,
                Vec::new(),
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                ("GET", "/", "max-keys=2&prefix=J"),
                EMPTY,
                Vec::new(),
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let text = signed(&signer, line, payload, &headers);
            assert!(text.ends_with(&format!(",Signature={want}\r\n")), "{line:?}: {text}");
        }
    }

    #[test]
    fn headers_name_the_key_the_scope_and_what_is_signed() {
        let text = signed(&signer(), ("GET", "/", ""), UNSIGNED, &[]);
        let (head, _) = text.rsplit_once(",Signature=").unwrap();
        assert_eq!(
            head,
            "/x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-date: 20130524T000000Z\r\n\
             Authorization: AWS4-HMAC-SHA256 \
             Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;x-amz-content-sha256;x-amz-date"
        );
        let temporary = Signer::new(keys(Some("token")), "us-east-1", "h");
        let text = signed(&temporary, ("GET", "/", ""), EMPTY, &[]);
        assert!(text.contains("\r\nx-amz-security-token: token\r\n"), "{text}");
        assert!(text.contains(";x-amz-date;x-amz-security-token,"), "{text}");
        assert!(!format!("{temporary:?}{:?}", keys(Some("token"))).contains("wJalr"));
    }

    #[test]
    fn another_second_keeps_the_key_and_another_day_does_not() {
        let signer = signer();
        let tag = |second| {
            let Moment { date, key, .. } = signer.moment(second);
            (date, hex(&key.finalize().into_bytes()))
        };
        let (first, next, later) = (tag(THEN), tag(THEN + 1), tag(THEN + SECONDS_PER_DAY));
        assert_eq!((first.0.as_str(), next.0.as_str()), ("20130524T000000Z", "20130524T000001Z"));
        assert_eq!(first.1, next.1);
        assert_eq!(later.0, "20130525T000000Z");
        assert_ne!(first.1, later.1);
        assert_eq!(tag(THEN), first, "back again");
    }
}
