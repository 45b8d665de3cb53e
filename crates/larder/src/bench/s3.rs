//! How `larder bench` words requests to S3, and what it reads of the answers.
//!
//! Promises: every request is signed and in path style (`/BUCKET/KEY`), so that any endpoint at
//! any address understands it; XML is scanned for the few elements that are needed.
//!
//! Not here: signatures (`sigv4`), the order of a multipart upload (`multipart`), TLS.

use std::{borrow::Cow, fmt::Write as _};

use anyhow::{Context, ensure};

use super::{
    sigv4::{EMPTY, Keys, Request, Signer, UNSIGNED, hash_of_text},
    target::{PAGE, Page, Payload, escape, push_number},
};

/// Region of requests where nothing else is said, and the one that buckets need not name.
pub(crate) const REGION: &str = "us-east-1";

/// Whether signatures cover bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum PayloadMode {
    /// `UNSIGNED-PAYLOAD`.
    #[default]
    Unsigned,
    /// The SHA-256 of each body is signed.
    Signed,
}

/// How to speak to S3 targets, where their URL does not say it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct S3Settings {
    /// Key for targets whose URL has none.
    pub(crate) keys: Option<Keys>,
    /// Region; [`REGION`] where not given.
    pub(crate) region: Option<String>,
    /// Whether bodies are signed.
    pub(crate) payload: PayloadMode,
}

/// A bucket on some endpoint, and a prefix in it.
#[derive(Debug)]
pub(super) struct Bucket {
    /// `/BUCKET`, escaped.
    bucket: String,
    /// `/BUCKET/PREFIX/`, escaped.
    files: String,
    /// `PREFIX/` as keys have it, or nothing.
    prefix: String,
    region: String,
    host: String,
    payload: PayloadMode,
    signer: Signer,
}

/// What a request begins with.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    method: &'a str,
    /// Escaped, as all of it.
    base: &'a str,
    /// Appended to the base.
    path: &'a [&'a str],
    query: &'a str,
}

impl Bucket {
    /// The bucket that `path` (decoded, no slash at either end) begins with, at `host`.
    ///
    /// # Errors
    /// No bucket, or no key to sign with.
    pub(super) fn new(
        host: &str,
        path: &str,
        keys: Option<Keys>,
        settings: &S3Settings,
    ) -> anyhow::Result<Self> {
        let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
        ensure!(!name.is_empty(), "an S3 target names a bucket: s3+http://host:port/BUCKET");
        let keys = keys.or_else(|| settings.keys.clone()).context(
            "an S3 target needs a key: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             s3+http://ID:SECRET@host:port/BUCKET",
        )?;
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let bucket = format!("/{}", escape(name));
        let parts: Vec<String> = prefix.split('/').map(escape).collect();
        let region = settings.region.as_deref().unwrap_or(REGION);
        Ok(Self {
            files: format!("{bucket}/{}", parts.join("/")),
            bucket,
            prefix,
            region: region.to_owned(),
            host: host.to_owned(),
            payload: settings.payload,
            signer: Signer::new(keys, region, host),
        })
    }

    /// Whether bodies need their hash.
    pub(super) fn signs_bodies(&self) -> bool {
        self.payload == PayloadMode::Signed
    }

    /// Writes the head of a request for the object at `path` (already escaped).
    pub(super) fn write_object(
        &self,
        method: &str,
        path: &[&str],
        body: Option<Payload<'_>>,
        out: &mut Vec<u8>,
    ) {
        self.write(self.line(method, path, ""), body, out);
    }

    /// Writes the request that makes the bucket, with its body.
    pub(super) fn write_create_bucket(&self, out: &mut Vec<u8>) {
        // Every other region must be named, and this one must not.
        let body = if self.region == REGION {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
                self.region
            )
        };
        let line = Line { method: "PUT", base: &self.bucket, path: &[], query: "" };
        self.write_with_text(line, &body, out);
    }

    /// Writes the head of a request for one page of the objects below `dir` after `cursor`.
    pub(super) fn write_list(&self, dir: &str, cursor: Option<&str>, out: &mut Vec<u8>) {
        let mut query = String::with_capacity(160);
        if let Some(cursor) = cursor {
            query.push_str("continuation-token=");
            query.push_str(&escape(cursor));
            query.push('&');
        }
        let prefix = escape(&format!("{}{dir}/", self.prefix));
        // Writing to a String cannot fail.
        write!(query, "list-type=2&max-keys={PAGE}&prefix={prefix}").unwrap_or_default();
        let line = Line { method: "GET", base: &self.bucket, path: &[], query: &query };
        self.write(line, None, out);
    }

    /// Writes the head of the request that begins a multipart upload.
    pub(super) fn write_begin(&self, path: &str, out: &mut Vec<u8>) {
        self.write_with_text(self.line("POST", &[path], "uploads="), "", out);
    }

    /// Writes the head of the request that sends part `number`, counted from 1.
    pub(super) fn write_part(
        &self,
        path: &str,
        upload: &str,
        number: u64,
        body: Payload<'_>,
        out: &mut Vec<u8>,
    ) {
        let query = format!("partNumber={number}&uploadId={}", escape(upload));
        self.write(self.line("PUT", &[path], &query), Some(body), out);
    }

    /// Writes the request that makes an object of the parts with these tags, with its body.
    pub(super) fn write_complete(
        &self,
        path: &str,
        upload: &str,
        etags: &[String],
        out: &mut Vec<u8>,
    ) {
        let mut body = "<CompleteMultipartUpload \
                        xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
            .to_owned();
        for (n, etag) in etags.iter().enumerate() {
            let etag = etag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            let number = n + 1;
            // Writing to a String cannot fail.
            write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
                .unwrap_or_default();
        }
        body.push_str("</CompleteMultipartUpload>");
        let query = format!("uploadId={}", escape(upload));
        self.write_with_text(self.line("POST", &[path], &query), &body, out);
    }

    /// Writes the head of the request that gives a multipart upload up.
    pub(super) fn write_abort(&self, path: &str, upload: &str, out: &mut Vec<u8>) {
        let query = format!("uploadId={}", escape(upload));
        self.write(self.line("DELETE", &[path], &query), None, out);
    }

    fn line<'a>(&'a self, method: &'a str, path: &'a [&'a str], query: &'a str) -> Line<'a> {
        Line { method, base: &self.files, path, query }
    }

    fn write_with_text(&self, line: Line<'_>, body: &str, out: &mut Vec<u8>) {
        let hash = hash_of_text(body);
        let payload = Payload { length: body.len() as u64, sha256: Some(&hash) };
        self.write(line, Some(payload), out);
        out.extend_from_slice(body.as_bytes());
    }

    fn write(&self, line: Line<'_>, body: Option<Payload<'_>>, out: &mut Vec<u8>) {
        let Line { method, base, path, query } = line;
        out.clear();
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        let start = out.len();
        out.extend_from_slice(base.as_bytes());
        for part in path {
            out.extend_from_slice(part.as_bytes());
        }
        let path = start..out.len();
        if !query.is_empty() {
            out.push(b'?');
        }
        let start = out.len();
        out.extend_from_slice(query.as_bytes());
        let query = start..out.len();
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b"\r\n");
        if let Some(body) = body {
            out.extend_from_slice(b"Content-Type: application/octet-stream\r\nContent-Length: ");
            push_number(body.length, out);
            out.extend_from_slice(b"\r\n");
        }
        let payload = match body {
            None => EMPTY,
            Some(body) => body.sha256.unwrap_or(UNSIGNED),
        };
        let request = Request { method, path: &path, query: &query, payload, headers: &[] };
        self.signer.sign(&request, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads the answer to [`Bucket::write_list`].
///
/// # Errors
/// The body is not a listing, or is said to go on but not where.
pub(super) fn parse_page(body: &[u8]) -> anyhow::Result<Page<'_>> {
    let text = std::str::from_utf8(body).context("a listing that is not UTF-8")?;
    ensure!(text.contains("<ListBucketResult"), "not a listing of a bucket");
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = element(rest, "Key") {
        names.push(unescape(key.rsplit('/').next().unwrap_or(key)));
        rest = after;
    }
    let cursor = match text_of(text, "IsTruncated").as_deref() {
        Some("true") => {
            Some(text_of(text, "NextContinuationToken").context("a listing cut off for good")?)
        }
        _ => None,
    };
    Ok(Page { names, cursor })
}

/// The id in the answer to [`Bucket::write_begin`].
pub(super) fn parse_upload_id(body: &[u8]) -> Option<String> {
    text_of(std::str::from_utf8(body).ok()?, "UploadId").filter(|id| !id.is_empty())
}

/// Whether this answer of status 200 to [`Bucket::write_complete`] is a success: the server may
/// have begun to answer before it knew.
pub(super) fn is_completed(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| text.contains("<CompleteMultipartUploadResult"))
}

fn text_of(text: &str, name: &str) -> Option<String> {
    element(text, name).map(|(inner, _)| unescape(inner.trim()).into_owned())
}

/// What the first element `name` holds, and what follows it. It has neither attributes nor
/// elements of the same name.
fn element<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = text;
    loop {
        rest = &rest[rest.find('<')? + 1..];
        if let Some(inner) = rest.strip_prefix(name).and_then(|rest| rest.strip_prefix('>')) {
            let end = inner.find('<')?;
            return Some((&inner[..end], &inner[end..]));
        }
    }
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let named = rest.find(';').and_then(|end| Some((character(&rest[1..end])?, end)));
        match named {
            Some((character, end)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            // Not XML; left as it is, so that a comparison shows it.
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(path: &str, payload: PayloadMode, region: Option<&str>) -> Bucket {
        let keys = Keys { id: "id".into(), secret: "secret".into(), session_token: None };
        let region = region.map(str::to_owned);
        let settings = S3Settings { keys: Some(keys), region, payload };
        Bucket::new("h:9000", path, None, &settings).unwrap()
    }

    fn text(out: &[u8]) -> String {
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn requests_are_in_path_style_below_the_prefix() {
        let mut out = Vec::new();
        let plain = bucket("b", PayloadMode::Unsigned, None);
        plain.write_object("GET", &["a/", "b"], None, &mut out);
        assert!(text(&out).starts_with("GET /b/a/b HTTP/1.1\r\nHost: h:9000\r\nx-amz-"));
        assert!(text(&out).contains(&format!("x-amz-content-sha256: {EMPTY}\r\n")));
        let deep = bucket("b/my files/x", PayloadMode::Unsigned, None);
        let body = Payload { length: 5, sha256: None };
        deep.write_object("PUT", &["a"], Some(body), &mut out);
        let put = text(&out);
        assert!(put.starts_with("PUT /b/my%20files/x/a HTTP/1.1\r\n"), "{put}");
        assert!(put.contains("Content-Length: 5\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"));
        assert!(put.ends_with("\r\n\r\n"));
        deep.write_list("r/d0", Some("a+b="), &mut out);
        assert!(text(&out).starts_with(
            "GET /b?continuation-token=a%2Bb%3D&list-type=2&max-keys=1000\
             &prefix=my%20files%2Fx%2Fr%2Fd0%2F HTTP/1.1\r\n"
        ));
    }

    #[test]
    fn a_multipart_upload_is_worded_as_s3_has_it() {
        let bucket = bucket("b", PayloadMode::Signed, None);
        let mut out = Vec::new();
        bucket.write_begin("f", &mut out);
        assert!(text(&out).starts_with("POST /b/f?uploads= HTTP/1.1\r\n"));
        let body = Payload { length: 5, sha256: Some("abc") };
        bucket.write_part("f", "i/d", 7, body, &mut out);
        assert!(text(&out).starts_with("PUT /b/f?partNumber=7&uploadId=i%2Fd HTTP/1.1\r\n"));
        assert!(text(&out).contains("\r\nx-amz-content-sha256: abc\r\n"));
        bucket.write_complete("f", "id", &["\"e1\"".into(), "e2".into()], &mut out);
        let complete = text(&out);
        assert!(complete.starts_with("POST /b/f?uploadId=id HTTP/1.1\r\n"));
        let (head, body) = complete.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(body.contains(
            "<Part><PartNumber>1</PartNumber><ETag>&quot;e1&quot;</ETag></Part>\
             <Part><PartNumber>2</PartNumber><ETag>e2</ETag></Part></Complete"
        ));
        bucket.write_abort("f", "id", &mut out);
        assert!(text(&out).starts_with("DELETE /b/f?uploadId=id HTTP/1.1\r\n"));
        let answer = b"<InitiateMultipartUploadResult><UploadId>a&amp;b</UploadId></Init";
        assert_eq!(parse_upload_id(answer).as_deref(), Some("a&b"));
        assert_eq!(parse_upload_id(b"<UploadId></UploadId>"), None);
        assert!(is_completed(b"<?xml?>\n<CompleteMultipartUploadResult xmlns=\"x\">"));
        assert!(!is_completed(b"  <Error><Code>InternalError</Code></Error>"));
    }

    #[test]
    fn only_foreign_regions_are_named_when_a_bucket_is_made() {
        let mut out = Vec::new();
        bucket("b", PayloadMode::Unsigned, None).write_create_bucket(&mut out);
        assert!(text(&out).starts_with("PUT /b HTTP/1.1\r\n"));
        assert!(text(&out).contains("Content-Length: 0\r\n") && text(&out).ends_with("\r\n\r\n"));
        bucket("b", PayloadMode::Unsigned, Some("eu-west-1")).write_create_bucket(&mut out);
        assert!(text(&out).contains("<LocationConstraint>eu-west-1</LocationConstraint>"));
        assert!(text(&out).contains("/eu-west-1/s3/aws4_request"));
    }

    #[test]
    fn pages_are_read_and_errors_are_not_taken_for_pages() {
        let body = "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\"><Name>b</Name>\
            <Prefix>p/</Prefix><KeyCount>2</KeyCount><IsTruncated>true</IsTruncated>\n\
            <NextContinuationToken>a&amp;=b</NextContinuationToken>\
            <Contents><Key>p/f1</Key><Size>1</Size></Contents>\n\
            <Contents><Key>p&amp;/f&#50;&lt;</Key><ETag>&quot;x&quot;</ETag></Contents>\
            </ListBucketResult>";
        let page = parse_page(body.as_bytes()).unwrap();
        assert_eq!(page.names, ["f1", "f2<"]);
        assert_eq!(page.cursor.as_deref(), Some("a&=b"));
        let last = body.replace("true", "false");
        assert_eq!(parse_page(last.as_bytes()).unwrap().cursor, None);
        let lost = body.replace("NextContinuationToken", "Other");
        assert!(parse_page(lost.as_bytes()).is_err());
        assert!(parse_page(b"<Error><Code>NoSuchBucket</Code></Error>").is_err());
        let none = parse_page(b"<ListBucketResult></ListBucketResult>").unwrap();
        assert_eq!((none.names.len(), none.cursor), (0, None));
        assert_eq!(unescape("a&b &#xe9;&bad;"), "a&b \u{e9}&bad;");
    }
}
