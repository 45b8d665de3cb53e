//! What is checked before the S3 library sees a request: it is no security boundary.
//!
//! Promises: what passes is signed in exactly one way, with signature version 4, for this service
//! and this region, or not at all; every header that S3 acts on is covered by the signature;
//! whatever would change the meaning of a request and is not honoured here is refused, never
//! ignored.
//!
//! Not here: whether the signature is right (the library, with the secret that `auth` finds),
//! what the caller may do (core).

mod query;

use std::borrow::Cow;

use http::{HeaderMap, Method, StatusCode, header, request::Parts};

use self::query::{Query, text};
use crate::error::Refusal;

/// Longest time that a presigned URL may be good for: 7 days.
const EXPIRES_MAX: u64 = 604_800;

/// Largest content that is not absurd: 64 TiB, more than S3's largest object.
const CONTENT_BYTES_MAX: u64 = 64 << 40;

/// Headers that a request may have once.
const SINGLE: &[&str] = &[
    "authorization",
    "content-length",
    "content-md5",
    "content-type",
    "host",
    "range",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-copy-source-range",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-security-token",
    "x-amz-trailer",
];

/// How a name in [`REFUSED`] is compared.
enum Name {
    Is(&'static str),
    Begins(&'static str),
    Contains(&'static str),
}

/// Headers that ask for what is not offered, and the values that ask for nothing.
const REFUSED: &[(Name, &[&str])] = &[
    (Name::Begins("x-amz-server-side-encryption"), &[]),
    (Name::Begins("x-amz-copy-source-server-side-encryption"), &[]),
    (Name::Is("x-amz-mfa"), &[]),
    (Name::Is("x-amz-write-offset-bytes"), &[]),
    (Name::Begins("x-amz-if-match-"), &[]),
    (Name::Begins("x-amz-rename-source"), &[]),
    (Name::Contains("snowball"), &["false"]),
    (Name::Begins("x-minio-"), &[]),
    (Name::Begins("x-rustfs-"), &[]),
];

/// `x-amz-checksum-*` that are verified, or that are no checksum. A checksum by another algorithm
/// would not be verified.
const CHECKSUMS: &[&str] =
    &["crc32", "crc32c", "crc64nvme", "sha1", "sha256", "algorithm", "mode", "type"];

/// How the body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Not at all.
    Plain,
    /// In `aws-chunked` pieces, each signed or none, so many bytes of content in all.
    Chunked { signed: bool, content: u64 },
}

/// What a request says about its signature.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The access key id that it is signed with; `None` without a signature.
    pub(crate) access_key: Option<String>,
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// The digest that a plain body must have.
    pub(crate) sha256: Option<String>,
    /// Whether its body is content, not a document.
    pub(crate) content: bool,
    /// Its headers, where some of them are in the URL.
    pub(crate) headers: Option<HeaderMap>,
}

/// Checks a request that must be signed for `region`; `in_host` is whether its host names the
/// bucket.
pub(crate) fn check(head: &Parts, region: &str, in_host: bool) -> Result<Claim, Refusal> {
    let headers = &head.headers;
    single(headers)?;
    let path = text(head.uri.path())?;
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    if query.legacy || authorization(headers).is_some_and(|text| text.starts_with("AWS ")) {
        let message = "signature version 2 is not offered; use AWS4-HMAC-SHA256";
        return Err(Refusal::bad("InvalidRequest", message));
    }
    let signed = match (authorization(headers), query.has_signature()) {
        (Some(_), true) => {
            let message = "only one way to sign a request may be used";
            return Err(Refusal::bad("InvalidArgument", message));
        }
        (Some(value), false) => Signed::from_header(value)?,
        (None, true) => Signed::from_query(&query)?,
        (None, false) if headers.contains_key(header::AUTHORIZATION) => {
            return Err(Refusal::bad("InvalidArgument", "the Authorization header is no text"));
        }
        // Core knows what everybody may do.
        (None, false) => Signed::not_at_all(),
    };
    if !signed.anonymous() {
        signed.check_scope(region)?;
        signed.check_headers(headers)?;
    }
    let merged = if signed.presigned { query.merged(headers)? } else { None };
    let headers = merged.as_ref().unwrap_or(headers);
    refused(headers)?;
    if headers.get("x-amz-security-token").is_some_and(|token| !token.is_empty())
        || query.signing("X-Amz-Security-Token").is_some_and(|token| !token.is_empty())
    {
        return Err(Refusal::bad("InvalidToken", "session tokens are not offered"));
    }
    let (framing, sha256) = payload(headers, &signed)?;
    if !matches!(head.method, Method::GET | Method::HEAD)
        && let Some(unknown) = query.not_offered(signed.presigned)
    {
        return Err(Refusal::missing(format!("parameter {unknown:?} is not offered")));
    }
    let path = path.trim_start_matches('/');
    let key = if in_host { Some(path) } else { path.split_once('/').map(|(_, key)| key) };
    let has_key = key.is_some_and(|key| !key.is_empty());
    let content = head.method == Method::PUT && has_key && !query.document;
    let access_key = (!signed.anonymous()).then(|| signed.access_key.into_owned());
    Ok(Claim { access_key, framing, sha256, content, headers: merged })
}

/// Checks the head of a form; answers the bucket that it is for, unless its host names that. What
/// signs a form is in it.
pub(crate) fn check_form(head: &Parts, in_host: bool) -> Result<Option<String>, Refusal> {
    let headers = &head.headers;
    single(headers)?;
    let path = text(head.uri.path())?;
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    if headers.contains_key(header::AUTHORIZATION) || query.has_signature() || query.legacy {
        let message = "a form is signed by its fields, and by nothing else";
        return Err(Refusal::bad("InvalidArgument", message));
    }
    refused(headers)?;
    if let Some(unknown) = query.not_offered(false) {
        return Err(Refusal::missing(format!("parameter {unknown:?} is not offered")));
    }
    let path = path.trim_start_matches('/');
    let (bucket, key) =
        if in_host { ("", path) } else { path.split_once('/').unwrap_or((path, "")) };
    if !key.is_empty() || query.document || (bucket.is_empty() && !in_host) {
        let message = "a form is sent to a bucket";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    Ok(Some(bucket.to_owned()).filter(|bucket| !bucket.is_empty()))
}

/// Checks the credential of a form: its access key and its date.
pub(crate) fn check_credential(
    credential: &str,
    region: &str,
) -> Result<(String, String), Refusal> {
    let signed = Signed::new(credential, "", true)?;
    signed.check_scope(region)?;
    let date = credential.split('/').nth(1).unwrap_or_default().to_owned();
    Ok((signed.access_key.into_owned(), date))
}

fn single(headers: &HeaderMap) -> Result<(), Refusal> {
    for name in SINGLE {
        if headers.get_all(*name).iter().nth(1).is_some() {
            let message = format!("the header {name} is there more than once");
            return Err(Refusal::bad("InvalidRequest", message));
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING)
        && headers.contains_key(header::CONTENT_LENGTH)
    {
        let message = "a request has Content-Length or Transfer-Encoding, not both";
        return Err(Refusal::bad("InvalidRequest", message));
    }
    match number(headers, "content-length")? {
        Some(length) if length > CONTENT_BYTES_MAX => {
            Err(Refusal::bad("EntityTooLarge", "the content is larger than any object can be"))
        }
        _ => Ok(()),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.as_bytes();
    let number = (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .then(|| value.to_str().ok()?.parse().ok())
        .flatten();
    let message = || format!("the header {name} is no length");
    number.map(Some).ok_or_else(|| Refusal::bad("InvalidArgument", message()))
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

/// Whether the body of a request is a form of a browser.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let form = b"multipart/form-data";
    value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form))
}

fn refused(headers: &HeaderMap) -> Result<(), Refusal> {
    for (name, value) in headers {
        let name = name.as_str();
        let Some(rest) = name.strip_prefix("x-") else { continue };
        let value = value.to_str().unwrap_or("?");
        let asks = REFUSED.iter().any(|(refused, harmless)| {
            let it = match refused {
                Name::Is(is) => name == *is,
                Name::Begins(start) => name.starts_with(start),
                Name::Contains(part) => name.contains(part),
            };
            it && !harmless.iter().any(|harmless| harmless.eq_ignore_ascii_case(value))
        });
        let unverified = rest
            .strip_prefix("amz-checksum-")
            .is_some_and(|algorithm| !CHECKSUMS.contains(&algorithm));
        if asks || unverified {
            return Err(Refusal::missing(format!(
                "the header {name} asks for what is not offered"
            )));
        }
    }
    Ok(())
}

/// A signature, as far as it can be judged without the secret.
struct Signed<'a> {
    access_key: Cow<'a, str>,
    region: Cow<'a, str>,
    service: Cow<'a, str>,
    headers: Vec<String>,
    presigned: bool,
}

impl<'a> Signed<'a> {
    fn from_header(value: &'a str) -> Result<Self, Refusal> {
        let malformed = |message| Refusal::bad("AuthorizationHeaderMalformed", message);
        let Some(fields) = value.strip_prefix("AWS4-HMAC-SHA256 ") else {
            let message = "the Authorization header is of no known type; use AWS4-HMAC-SHA256";
            return Err(Refusal::bad("InvalidArgument", message));
        };
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let Some((name, value)) = field.trim().split_once('=') else {
                return Err(malformed("a field of the Authorization header has no value"));
            };
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(malformed("the Authorization header has an unknown field")),
            };
            if place.replace(value).is_some() {
                return Err(malformed("a field of the Authorization header is there twice"));
            }
        }
        let (Some(credential), Some(headers), Some(_)) = (credential, headers, signature) else {
            let message = "Credential, SignedHeaders and Signature are needed";
            return Err(malformed(message));
        };
        Self::new(credential, headers, false)
    }

    fn from_query(query: &'a Query<'_>) -> Result<Self, Refusal> {
        let wrong = |message: String| Refusal::bad("AuthorizationQueryParametersError", message);
        let need = |name: &str| {
            query.signing(name).ok_or_else(|| wrong(format!("the parameter {name} is missing")))
        };
        if need("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
            return Err(wrong("X-Amz-Algorithm must be AWS4-HMAC-SHA256".to_owned()));
        }
        need("X-Amz-Date")?;
        need("X-Amz-Signature")?;
        let expires = need("X-Amz-Expires")?;
        let digits = expires.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = digits.then(|| expires.parse::<u64>().ok()).flatten();
        if !seconds.is_some_and(|seconds| (1..=EXPIRES_MAX).contains(&seconds)) {
            let message = format!("X-Amz-Expires must be 1 to {EXPIRES_MAX} seconds");
            return Err(Refusal::denied("AuthorizationQueryParametersError", message));
        }
        Self::new(need("X-Amz-Credential")?, need("X-Amz-SignedHeaders")?, true)
    }

    fn new(credential: &'a str, headers: &str, presigned: bool) -> Result<Self, Refusal> {
        let malformed = |message: &'static str| {
            let code = if presigned {
                "AuthorizationQueryParametersError"
            } else {
                "AuthorizationHeaderMalformed"
            };
            Refusal::bad(code, message)
        };
        let fields: Vec<&str> = credential.splitn(6, '/').collect();
        let [access_key, date, region, service, "aws4_request"] = fields.as_slice() else {
            return Err(malformed("the credential is not KEY/DATE/REGION/s3/aws4_request"));
        };
        if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed("the date of the credential is not YYYYMMDD"));
        }
        if access_key.is_empty() || access_key.len() > 128 {
            let message = "there is no such access key";
            return Err(Refusal::denied("InvalidAccessKeyId", message));
        }
        Ok(Self {
            access_key: Cow::Borrowed(access_key),
            region: Cow::Borrowed(region),
            service: Cow::Borrowed(service),
            headers: headers.split(';').map(str::to_ascii_lowercase).collect(),
            presigned,
        })
    }

    /// Of a request without a signature.
    fn not_at_all() -> Self {
        let none = Cow::Borrowed("");
        Self {
            access_key: none.clone(),
            region: none.clone(),
            service: none,
            headers: Vec::new(),
            presigned: false,
        }
    }

    /// Whether there is none. The id of a key is never empty.
    fn anonymous(&self) -> bool {
        self.access_key.is_empty()
    }

    fn wrong_scope(&self, message: String) -> Refusal {
        let code = if self.presigned {
            "AuthorizationQueryParametersError"
        } else {
            "AuthorizationHeaderMalformed"
        };
        Refusal::bad(code, message)
    }

    fn check_scope(&self, region: &str) -> Result<(), Refusal> {
        if self.service != "s3" {
            let message = format!("the service {:?} is wrong; expecting 's3'", self.service);
            return Err(self.wrong_scope(message));
        }
        if self.region != region {
            let given = &self.region;
            let message = format!("the region '{given}' is wrong; expecting '{region}'");
            let more = Some(("Region", region.to_owned()));
            return Err(Refusal { more, ..self.wrong_scope(message) });
        }
        Ok(())
    }

    /// Whether the signature covers what S3 acts on.
    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let covers = |name: &str| self.headers.iter().any(|signed| signed == name);
        let denied = |message: String| Refusal::denied("AccessDenied", message);
        if !covers("host") {
            return Err(denied("the header host must be signed".to_owned()));
        }
        for name in headers.keys().map(header::HeaderName::as_str) {
            // The digest of the body is a line of its own of what is signed, or not signed at all
            // by a presigned URL; then it can only make a body be refused.
            if name.starts_with("x-amz-") && name != "x-amz-content-sha256" && !covers(name) {
                let message = format!(
                    "there were headers present in the request which were not signed: {name}"
                );
                return Err(denied(message));
            }
        }
        Ok(())
    }
}

fn payload(headers: &HeaderMap, signed: &Signed<'_>) -> Result<(Framing, Option<String>), Refusal> {
    const NAME: &str = "x-amz-content-sha256";
    let value = headers.get(NAME).map(|value| value.to_str().unwrap_or("?"));
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match value {
        None if signed.presigned || signed.anonymous() => Ok((Framing::Plain, None)),
        None => Err(Refusal::bad("InvalidRequest", format!("the header {NAME} is missing"))),
        Some("UNSIGNED-PAYLOAD") => Ok((Framing::Plain, None)),
        Some(digest) if digest.len() == 64 && digest.bytes().all(hex) => {
            Ok((Framing::Plain, Some(digest.to_owned())))
        }
        Some(streaming) if streaming.starts_with("STREAMING-") => {
            if signed.presigned {
                return Err(Refusal::missing("a presigned URL takes no chunked body"));
            }
            if signed.anonymous() {
                let message = "a request without a signature takes no chunked body";
                return Err(Refusal::missing(message));
            }
            let signed = match streaming {
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => false,
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
                | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => true,
                _ => return Err(Refusal::missing("this way to sign chunks is not offered")),
            };
            let content = number(headers, "x-amz-decoded-content-length")?.ok_or_else(|| {
                let message = "the header x-amz-decoded-content-length is missing";
                Refusal::new(StatusCode::LENGTH_REQUIRED, "MissingContentLength", message)
            })?;
            if number(headers, "content-length")?.is_some_and(|length| length < content) {
                let message = "the content is declared longer than the body it is in";
                return Err(Refusal::bad("InvalidArgument", message));
            }
            if content > CONTENT_BYTES_MAX {
                let message = "the content is larger than any object can be";
                return Err(Refusal::bad("EntityTooLarge", message));
            }
            Ok((Framing::Chunked { signed, content }, None))
        }
        Some(_) => {
            let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- form or a \
                           SHA-256 in hexadecimal digits";
            Err(Refusal::bad("InvalidArgument", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const SCOPE: &str = "AKIDEXAMPLE/20250101/us-east-1/s3/aws4_request";

    fn authorized(signed: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders={signed}, Signature={}",
            "0".repeat(64)
        )
    }

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target).header("host", "h");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn code(method: &str, target: &str, headers: &[(&str, &str)]) -> Option<(&'static str, u16)> {
        let result = check(&head(method, target, headers), "us-east-1", false);
        result.err().map(|refusal| (refusal.code, refusal.status.as_u16()))
    }

    fn with(more: &[(&str, &str)], signed: &str) -> Option<(&'static str, u16)> {
        with_target("PUT", "/b/k", more, signed)
    }

    fn with_target(
        method: &str,
        target: &str,
        more: &[(&str, &str)],
        signed: &str,
    ) -> Option<(&'static str, u16)> {
        let authorization = authorized(signed);
        let mut headers =
            vec![("authorization", authorization.as_str()), ("x-amz-date", "20250101T000000Z")];
        if !more.iter().any(|(name, _)| *name == "x-amz-content-sha256") {
            headers.push(("x-amz-content-sha256", "UNSIGNED-PAYLOAD"));
        }
        headers.extend_from_slice(more);
        code(method, target, &headers)
    }

    fn presigned(change: &[(&str, &str)]) -> String {
        let mut pairs = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", SCOPE),
            ("X-Amz-Date", "20250101T000000Z"),
            ("X-Amz-Expires", "60"),
            ("X-Amz-SignedHeaders", "host"),
            ("X-Amz-Signature", "00"),
        ];
        for (name, value) in change {
            match pairs.iter_mut().find(|(known, _)| known == name) {
                Some(pair) => pair.1 = value,
                None => pairs.push((name, value)),
            }
        }
        let pairs: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("/b/k?{}", pairs.join("&"))
    }

    #[test]
    fn what_is_signed_in_one_way_passes() {
        assert_eq!(with(&[], "host;x-amz-date"), None);
        assert_eq!(with(&[("x-amz-meta-a", "1")], "host;x-amz-date;x-amz-meta-a"), None);
        assert_eq!(code("GET", &presigned(&[]), &[]), None);
        let claim = check(&head("PUT", &presigned(&[]), &[]), "us-east-1", false).expect("passes");
        assert_eq!(claim.access_key.as_deref(), Some("AKIDEXAMPLE"));
        assert_eq!(claim.framing, Framing::Plain);
        assert!(claim.content);
    }

    #[test]
    fn a_request_without_a_signature_is_of_nobody() {
        let head = |headers: &[(&str, &str)]| head("PUT", "/b/k", headers);
        let claim = check(&head(&[]), "us-east-1", false).expect("passes");
        assert!(claim.access_key.is_none() && claim.content);
        let length = ("x-amz-decoded-content-length", "5");
        let chunked = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        let refused = check(&head(&[chunked, length]), "us-east-1", false).expect_err("chunks");
        assert_eq!(refused.code, "NotImplemented");
    }

    #[test]
    fn other_ways_to_sign_are_refused() {
        let old = Some(("InvalidRequest", 400));
        assert_eq!(code("GET", "/b", &[("authorization", "AWS a:b")]), old);
        assert_eq!(code("GET", "/b?AWSAccessKeyId=a&Signature=b&Expires=1", &[]), old);
        let both = [("authorization", "AWS4-HMAC-SHA256 Credential=x")];
        assert_eq!(code("GET", &presigned(&[]), &both), Some(("InvalidArgument", 400)));
        for value in ["Basic abc", "none", "AWS4-ECDSA-P256-SHA256 Credential=x", ""] {
            let refused = code("GET", "/b", &[("authorization", value)]);
            assert_eq!(refused, Some(("InvalidArgument", 400)), "{value}");
        }
        for scope in ["a/20250101/us-east-1/sts/aws4_request", "a/20250101/eu/s3/aws4_request"] {
            let wrong =
                format!("AWS4-HMAC-SHA256 Credential={scope},SignedHeaders=host,Signature=0");
            let refused = code("GET", "/b", &[("authorization", &wrong)]);
            assert_eq!(refused, Some(("AuthorizationHeaderMalformed", 400)), "{scope}");
        }
        assert_eq!(
            with(&[("x-amz-security-token", "t")], "host;x-amz-date;x-amz-security-token"),
            Some(("InvalidToken", 400))
        );
    }

    #[test]
    fn presigned_urls_are_short_lived_and_whole() {
        let wrong = Some(("AuthorizationQueryParametersError", 400));
        let late = Some(("AuthorizationQueryParametersError", 403));
        for expires in ["0", "604801", "-1", "1e3", "", "99999999999999999999"] {
            let target = presigned(&[("X-Amz-Expires", expires)]);
            assert_eq!(code("GET", &target, &[]), late, "{expires}");
        }
        assert_eq!(code("GET", &presigned(&[("X-Amz-Expires", "604800")]), &[]), None);
        assert_eq!(code("GET", &presigned(&[("X-Amz-Algorithm", "none")]), &[]), wrong);
        let twice = format!("{}&X-Amz-Expires=5", presigned(&[]));
        assert_eq!(code("GET", &twice, &[]), wrong);
        assert_eq!(code("GET", "/b/k?X-Amz-Signature=0", &[]), wrong);
        let unsigned_host = presigned(&[("X-Amz-SignedHeaders", "x-amz-date")]);
        assert_eq!(code("GET", &unsigned_host, &[]), Some(("AccessDenied", 403)));
    }

    #[test]
    fn nothing_that_s3_acts_on_can_be_added() {
        let denied = Some(("AccessDenied", 403));
        assert_eq!(with(&[("x-amz-copy-source", "/a/b")], "host;x-amz-date"), denied);
        assert_eq!(with(&[], "host"), denied);
        assert_eq!(with(&[], "x-amz-date"), denied);
        assert_eq!(code("PUT", &presigned(&[]), &[("x-amz-meta-a", "1")]), denied);
        let digest = "a".repeat(64);
        assert_eq!(code("PUT", &presigned(&[]), &[("x-amz-content-sha256", &digest)]), None);
    }

    #[test]
    fn headers_in_a_presigned_url_are_headers() {
        let target = |more: &[(&str, &str)]| {
            let more = more.iter().map(|(name, value)| format!("&{name}={value}"));
            presigned(&[]) + &more.collect::<String>()
        };
        let put = |more: &[(&str, &str)], headers: &[(&str, &str)]| {
            check(&head("PUT", &target(more), headers), "us-east-1", false)
        };
        let hoisted = [
            ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-checksum-crc32", "AAAAAA%3D%3D"),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("X-Amz-Meta-A", "b%20c"),
            ("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA%3D"),
        ];
        let headers = put(&hoisted, &[]).expect("passes").headers.expect("some");
        let names = ["x-amz-meta-a", "x-amz-checksum-sha1", "x-amz-checksum-crc32"];
        let values = names.map(|name| headers.get(name).and_then(|value| value.to_str().ok()));
        assert_eq!(values, [Some("b c"), Some("AAAAAAAAAAAAAAAAAAAAAAAAAAA="), None]);
        assert!(!headers.contains_key("x-amz-sdk-checksum-algorithm"));
        for (more, code) in [
            (("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), "NotImplemented"),
            (("x-amz-server-side-encryption", "AES256"), "NotImplemented"),
            (("x-amz-checksum-md5", "AAAA"), "NotImplemented"),
            (("x-amz-meta-%C3%A4", "a"), "InvalidArgument"),
        ] {
            let refused = put(&[more], &[]).expect_err("refused");
            assert_eq!(refused.code, code, "{more:?}");
        }
        let twice = put(&[("x-amz-acl", "private"), ("x-amz-acl", "public-read")], &[]);
        assert_eq!(twice.expect_err("two values").code, "InvalidRequest");
        // Without a signature, or with one in a header, they are nothing that S3 knows.
        let anonymous = code("PUT", "/b/k?x-amz-acl=private", &[]);
        assert_eq!(anonymous, Some(("NotImplemented", 501)));
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        let missing = Some(("NotImplemented", 501));
        for (name, value) in [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-server-side-encryption-customer-key", "a"),
            ("x-amz-mfa", "1 2"),
            ("x-amz-meta-snowball-auto-extract", "true"),
            ("x-amz-write-offset-bytes", "1"),
            ("x-amz-checksum-sha512", "x"),
            ("x-amz-if-match-size", "1"),
        ] {
            assert_eq!(
                with(&[(name, value)], &format!("host;x-amz-date;{name}")),
                missing,
                "{name}"
            );
        }
        for (name, value) in [("x-amz-acl", "private"), ("x-amz-checksum-mode", "ENABLED")] {
            assert_eq!(with(&[(name, value)], &format!("host;x-amz-date;{name}")), None, "{name}");
        }
        assert_eq!(with_target("DELETE", "/b?unknown", &[], "host;x-amz-date"), missing);
        assert_eq!(with_target("GET", "/b?unknown", &[], "host;x-amz-date"), None);
        assert_eq!(with_target("DELETE", "/b?tagging", &[], "host;x-amz-date"), None);
    }

    #[test]
    fn forms_go_to_buckets_and_sign_themselves() {
        let form = |target: &str, in_host, headers: &[(&str, &str)]| {
            check_form(&head("POST", target, headers), in_host).map_err(|refusal| refusal.code)
        };
        assert_eq!(form("/b", false, &[]), Ok(Some("b".to_owned())));
        assert_eq!(form("/b/", false, &[]), Ok(Some("b".to_owned())));
        assert_eq!(form("/", true, &[]), Ok(None));
        for (target, in_host) in [("/b/k", false), ("/k", true), ("/", false), ("/b?acl", false)] {
            assert_eq!(form(target, in_host, &[]), Err("MethodNotAllowed"), "{target}");
        }
        assert_eq!(form("/b", false, &[("authorization", "x")]), Err("InvalidArgument"));
        assert_eq!(form("/b?X-Amz-Signature=0", false, &[]), Err("InvalidArgument"));
        assert_eq!(form("/b?unknown", false, &[]), Err("NotImplemented"));
        let headers = [("content-type", "Multipart/Form-Data; boundary=a")];
        assert!(is_form(&head("POST", "/b", &headers).headers));
        let (key, date) = check_credential(SCOPE, "us-east-1").expect("passes");
        assert_eq!((&*key, &*date), ("AKIDEXAMPLE", "20250101"));
        assert!(check_credential(SCOPE, "eu").is_err() && check_credential("a", "eu").is_err());
    }

    #[test]
    fn targets_can_be_shown_in_a_listing() {
        let wrong = Some(("InvalidURI", 400));
        for target in ["/b/%00", "/b/%01a", "/b/%ff", "/b/%ef%bf%be", "/b?prefix=%02"] {
            assert_eq!(with_target("GET", target, &[], "host;x-amz-date"), wrong, "{target}");
        }
        for target in ["/b/%0a", "/b/a%2fb", "/b/../c", "/b/%e2%80%ae"] {
            assert_eq!(with_target("GET", target, &[], "host;x-amz-date"), None, "{target}");
        }
    }

    #[test]
    fn what_is_put_to_a_key_is_content() {
        let content = |target: &str, in_host| {
            let authorization = authorized("host;x-amz-date");
            let headers = [
                ("authorization", authorization.as_str()),
                ("x-amz-date", "20250101T000000Z"),
                ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ];
            check(&head("PUT", target, &headers), "us-east-1", in_host).expect("passes").content
        };
        assert!(content("/b/k", false) && content("/k", true) && content("/b//", false));
        assert!(content("/b/k?partNumber=1&uploadId=a", false));
        assert!(!content("/b", false) && !content("/b/", false) && !content("/", true));
        assert!(!content("/b/k?tagging", false));
    }

    #[test]
    fn headers_of_one_value_have_one() {
        let twice = Some(("InvalidRequest", 400));
        for name in ["x-amz-date", "content-md5", "x-amz-copy-source", "host", "authorization"] {
            let more = [(name, "a"), (name, "b")];
            assert_eq!(with(&more, &format!("host;x-amz-date;{name}")), twice, "{name}");
        }
        let both = [("content-length", "1"), ("transfer-encoding", "chunked")];
        assert_eq!(with(&both, "host;x-amz-date"), twice);
        for (length, expected) in [
            ("99999999999999999999", "InvalidArgument"),
            ("-1", "InvalidArgument"),
            ("9223372036854775807", "EntityTooLarge"),
        ] {
            let refused = with(&[("content-length", length)], "host;x-amz-date");
            assert_eq!(refused, Some((expected, 400)), "{length}");
        }
    }

    #[test]
    fn bodies_say_how_they_are_framed() {
        let name = "x-amz-content-sha256";
        let length = ("x-amz-decoded-content-length", "5");
        let signed = "host;x-amz-date;x-amz-decoded-content-length";
        for form in [
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        ] {
            assert_eq!(with(&[(name, form), length], signed), None, "{form}");
            let without = with(&[(name, form)], signed);
            assert_eq!(without, Some(("MissingContentLength", 411)), "{form}");
            let refused = code("PUT", &presigned(&[]), &[(name, form)]);
            assert_eq!(refused, Some(("NotImplemented", 501)), "{form}");
        }
        let ecdsa = [(name, "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), length];
        assert_eq!(with(&ecdsa, signed), Some(("NotImplemented", 501)));
        assert_eq!(with(&[(name, "none")], "host;x-amz-date"), Some(("InvalidArgument", 400)));
    }
}
