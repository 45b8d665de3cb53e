//! The servers that `larder bench` speaks to, and how each words an operation.
//!
//! Promises: everything that differs between kinds of server is decided here: the head of each
//! request, the page of a listing, how a whole tree is made and removed. What S3 says is in `s3`.
//!
//! Not here: connections (`client`), which operations run (`workload`).

use std::{borrow::Cow, sync::Arc};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::{
    s3::{self, Bucket, PayloadMode, S3Settings},
    sigv4::Keys,
};

/// Entries asked for per page of a listing.
pub(super) const PAGE: u64 = 1000;

/// Left as they are in URLs (RFC 3986 unreserved).
const ESCAPE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A dialect of HTTP file service.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Larder's REST: `larder+http://user:password@host:port/SPACE`.
    Larder {
        /// The space, percent-encoded.
        space: String,
    },
    /// Plain PUT, GET, HEAD and DELETE of paths, as nginx DAV and the SeaweedFS filer do:
    /// `http://host:port/prefix`.
    Plain,
    /// S3: `s3+http://ID:SECRET@host:port/BUCKET/PREFIX`.
    S3(Arc<Bucket>),
}

/// What is used where a target's URL does not say it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fallback<'a> {
    /// `Authorization` for Larder.
    pub(super) authorization: Option<&'a str>,
    /// How to speak to S3.
    pub(super) s3: Option<&'a S3Settings>,
}

/// A body, as far as the head of its request speaks of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload<'a> {
    /// Length in bytes.
    pub(super) length: u64,
    /// Its SHA-256 in lower-case hex, for targets that sign it.
    pub(super) sha256: Option<&'a str>,
}

/// A request method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Upload.
    Put,
    /// Download.
    Get,
    /// Metadata.
    Head,
    /// Removal.
    Delete,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Delete => "DELETE",
        }
    }
}

/// One server under test.
#[derive(Clone)]
pub(super) struct Target {
    /// Short name for the report.
    pub(super) label: String,
    /// `host:port`.
    pub(super) addr: String,
    /// The URL without its password.
    pub(super) shown: String,
    /// Its dialect.
    pub(super) kind: Kind,
    /// URL path that file paths are appended to, with its final slash.
    files: String,
    /// ` HTTP/1.1`, `Host` and credentials.
    tail: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The rest holds the password.
        f.debug_struct("Target").field("label", &self.label).field("url", &self.shown).finish()
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page<'a> {
    /// Last parts of the paths, in the order given.
    pub(super) names: Vec<Cow<'a, str>>,
    /// Where the next page begins; `None` after the last.
    pub(super) cursor: Option<String>,
}

/// Things in the trash that belong to a run.
#[derive(Debug, Default)]
pub(super) struct TrashPage {
    /// Ids of the items below the root that was asked for.
    pub(super) items: Vec<String>,
    /// Where the next page begins.
    pub(super) cursor: Option<String>,
}

#[derive(Deserialize)]
struct LarderEntry<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LarderPage<'a> {
    #[serde(borrow)]
    entries: Vec<LarderEntry<'a>>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct LarderTrashItem {
    item: String,
    path: String,
}

#[derive(Deserialize)]
struct LarderTrash {
    #[serde(alias = "entries", alias = "trash")]
    items: Vec<LarderTrashItem>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct FilerEntry<'a> {
    #[serde(rename = "FullPath", borrow)]
    full_path: Cow<'a, str>,
}

#[derive(Deserialize)]
struct FilerPage<'a> {
    #[serde(rename = "Entries", borrow)]
    entries: Option<Vec<FilerEntry<'a>>>,
    #[serde(rename = "LastFileName", default)]
    last: String,
    #[serde(rename = "ShouldDisplayLoadMore", default)]
    more: bool,
}

#[derive(Deserialize)]
struct IndexEntry<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// `text` with everything escaped that RFC 3986 does not call unreserved.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPE).to_string()
}

impl Target {
    /// Reads a target URL. One without a user uses the credentials of `fallback`.
    ///
    /// # Errors
    /// An unknown scheme, a missing host, a `larder+http` URL without exactly one space, an
    /// `s3+http` URL without a bucket or a key.
    pub(super) fn parse(url: &str, fallback: Fallback<'_>) -> anyhow::Result<Self> {
        let (scheme, rest) =
            url.split_once("://").context("a target is SCHEME://HOST:PORT/PATH")?;
        let larder = match scheme {
            "larder+http" => true,
            "http" | "s3+http" => false,
            "https" | "larder+https" | "s3+https" => {
                bail!("{scheme}: TLS is not measured; use http")
            }
            other => bail!("unknown target scheme {other:?}: use larder+http, s3+http or http"),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        ensure!(!host.is_empty(), "{scheme} target without a host");
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let addr = if has_port {
            host.to_owned()
        } else {
            format!("{host}:{}", if larder { 8080 } else { 80 })
        };
        let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
        let path = path.trim_matches('/');
        if scheme == "s3+http" {
            let shown = format!("{scheme}://{host}/{path}");
            let settings = fallback.s3.cloned().unwrap_or_default();
            let keys = match user.map(|user| user.split_once(':')) {
                None => None,
                Some(Some((id, secret))) if !id.is_empty() && !secret.is_empty() => {
                    Some(Keys { id: decode(id), secret: decode(secret), session_token: None })
                }
                Some(_) => bail!("a key in an S3 target is ID:SECRET@"),
            };
            let signed = settings.payload == PayloadMode::Signed;
            let label = format!("{}:{}", if signed { "s3-signed" } else { "s3" }, port_of(&addr));
            let bucket = Bucket::new(host, &decode(path), keys, &settings)?;
            let kind = Kind::S3(Arc::new(bucket));
            let (files, tail) = (String::new(), String::new());
            return Ok(Self { label, addr, shown, kind, files, tail });
        }
        let authorization = match user {
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let pair = format!("{}:{}", decode(name), decode(password));
                let token = base64::engine::general_purpose::STANDARD.encode(pair);
                Some(format!("Basic {token}"))
            }
            None => fallback.authorization.filter(|_| larder).map(str::to_owned),
        };
        let (kind, files) = if larder {
            ensure!(
                !path.is_empty() && !path.contains('/'),
                "a larder target names one space: larder+http://user:password@host:port/SPACE"
            );
            let space = escape(&decode(path));
            let files = format!("/v1/spaces/{space}/files/");
            (Kind::Larder { space }, files)
        } else if path.is_empty() {
            (Kind::Plain, "/".to_owned())
        } else {
            (Kind::Plain, format!("/{path}/"))
        };
        let mut tail = format!(" HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(authorization) = authorization {
            tail.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        let label = format!("{}:{}", if larder { "larder" } else { "http" }, port_of(&addr));
        let shown = format!("{scheme}://{host}/{path}");
        Ok(Self { label, addr, shown, kind, files, tail })
    }

    /// The bucket, of an S3 target.
    pub(super) fn bucket(&self) -> Option<&Bucket> {
        match &self.kind {
            Kind::S3(bucket) => Some(bucket),
            Kind::Larder { .. } | Kind::Plain => None,
        }
    }

    /// Whether requests sign the bodies that they carry.
    pub(super) fn signs_bodies(&self) -> bool {
        self.bucket().is_some_and(Bucket::signs_bodies)
    }

    /// Replaces `out` by the head of a request for the file at `path` (already escaped), with
    /// what it says of its body where there is one.
    pub(super) fn write_head(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Payload<'_>>,
        out: &mut Vec<u8>,
    ) {
        if let Kind::S3(bucket) = &self.kind {
            return bucket.write_object(method.name(), path, body, out);
        }
        out.clear();
        out.extend_from_slice(method.name().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.files.as_bytes());
        for part in path {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(self.tail.as_bytes());
        if let Some(Payload { length, .. }) = body {
            out.extend_from_slice(b"Content-Type: application/octet-stream\r\nContent-Length: ");
            push_number(length, out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether the server has upload sessions.
    pub(super) fn has_sessions(&self) -> bool {
        matches!(self.kind, Kind::Larder { .. })
    }

    /// Writes the head of the request that begins an upload of `length` bytes to the file at
    /// `path` (already escaped).
    pub(super) fn write_begin(&self, path: &str, length: u64, out: &mut Vec<u8>) {
        if let Kind::Larder { space } = &self.kind {
            let url = format!("/v1/uploads?space={space}&path={path}");
            let extra =
                format!("Tus-Resumable: 1.0.0\r\nUpload-Length: {length}\r\nContent-Length: 0\r\n");
            self.write_raw("POST", &url, &extra, out);
        }
    }

    /// Writes the head of the request that sends all `length` bytes of the upload at `location`.
    pub(super) fn write_bytes(&self, location: &str, length: u64, out: &mut Vec<u8>) {
        let extra = format!(
            "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Length: {length}\r\n\
             Content-Type: application/offset+octet-stream\r\n"
        );
        self.write_raw("PATCH", location, &extra, out);
    }

    fn write_raw(&self, method: &str, url: &str, extra: &str, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(format!("{method} {url}{}{extra}\r\n", self.tail).as_bytes());
    }

    /// Writes the head of a request for one page of the directory `dir` (escaped, no slash at
    /// either end) after `cursor`.
    pub(super) fn write_list(&self, dir: &str, cursor: Option<&str>, out: &mut Vec<u8>) {
        if let Kind::S3(bucket) = &self.kind {
            return bucket.write_list(dir, cursor, out);
        }
        let cursor = cursor.map(escape);
        let url = match (&self.kind, cursor) {
            (Kind::Larder { space }, None) => {
                format!("/v1/spaces/{space}/list/{dir}?limit={PAGE}")
            }
            (Kind::Larder { space }, Some(cursor)) => {
                format!("/v1/spaces/{space}/list/{dir}?cursor={cursor}&limit={PAGE}")
            }
            (_, None) => format!("{}{dir}/?limit={PAGE}", self.files),
            (_, Some(cursor)) => {
                format!("{}{dir}/?limit={PAGE}&lastFileName={cursor}", self.files)
            }
        };
        self.write_raw("GET", &url, "Accept: application/json\r\n", out);
    }

    /// Reads the answer to [`Target::write_list`].
    ///
    /// # Errors
    /// The body is not a listing that this kind of server gives.
    pub(super) fn parse_page<'a>(&self, body: &'a [u8]) -> anyhow::Result<Page<'a>> {
        if let Kind::S3(_) = self.kind {
            return s3::parse_page(body);
        }
        if let Kind::Larder { .. } = self.kind {
            let page: LarderPage<'a> = serde_json::from_slice(body)?;
            let names = page.entries.into_iter().map(|entry| entry.name).collect();
            return Ok(Page { names, cursor: page.cursor });
        }
        // nginx `autoindex_format json` gives an array of everything, the filer an object.
        if body.trim_ascii_start().first() == Some(&b'[') {
            let entries: Vec<IndexEntry<'a>> = serde_json::from_slice(body)?;
            let names = entries.into_iter().map(|entry| entry.name).collect();
            return Ok(Page { names, cursor: None });
        }
        let page: FilerPage<'a> = serde_json::from_slice(body)
            .context("neither a SeaweedFS filer listing nor an nginx JSON index")?;
        let names = page.entries.unwrap_or_default().into_iter().map(|entry| last_part(entry));
        let cursor = page.more.then_some(page.last);
        Ok(Page { names: names.collect(), cursor })
    }

    /// Writes the head of the request that makes the directory `dir` with its parents; `false`
    /// where the server makes directories as files are put.
    pub(super) fn write_mkdir(&self, dir: &str, out: &mut Vec<u8>) -> bool {
        let Kind::Larder { space } = &self.kind else { return false };
        let url = format!("/v1/spaces/{space}/dirs/{dir}?parents=true");
        self.write_raw("PUT", &url, "Content-Length: 0\r\n", out);
        true
    }

    /// Writes the head of the request that removes the directory `dir` and all below it; `false`
    /// where files are removed one by one only.
    pub(super) fn write_remove_tree(&self, dir: &str, out: &mut Vec<u8>) -> bool {
        let url = match self.kind {
            Kind::Larder { .. } => format!("{}{dir}", self.files),
            Kind::Plain => format!("{}{dir}/?recursive=true", self.files),
            Kind::S3(_) => return false,
        };
        self.write_raw("DELETE", &url, "", out);
        true
    }

    /// Writes the head of the request for one page of the trash; `false` where there is none.
    pub(super) fn write_trash(&self, cursor: Option<&str>, out: &mut Vec<u8>) -> bool {
        let Kind::Larder { space } = &self.kind else { return false };
        let cursor = cursor.map(|c| format!("&cursor={}", escape(c))).unwrap_or_default();
        let url = format!("/v1/spaces/{space}/trash?limit={PAGE}{cursor}");
        self.write_raw("GET", &url, "", out);
        true
    }

    /// Reads the answer to [`Target::write_trash`], keeping what lay at or below `root`.
    ///
    /// # Errors
    /// The body is not a page of trash.
    pub(super) fn parse_trash(&self, body: &[u8], root: &str) -> anyhow::Result<TrashPage> {
        let page: LarderTrash = serde_json::from_slice(body).context("not a page of trash")?;
        let below = |path: &str| {
            let rest = path.trim_start_matches('/').strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let items = page.items.into_iter().filter(|i| below(&i.path)).map(|i| i.item).collect();
        Ok(TrashPage { items, cursor: page.cursor })
    }

    /// Writes the head of the request that purges one item of the trash.
    pub(super) fn write_purge(&self, item: &str, out: &mut Vec<u8>) {
        if let Kind::Larder { space } = &self.kind {
            let url = format!("/v1/spaces/{space}/trash/{}", escape(item));
            self.write_raw("DELETE", &url, "", out);
        }
    }
}

fn last_part(entry: FilerEntry<'_>) -> Cow<'_, str> {
    match entry.full_path {
        Cow::Borrowed(path) => Cow::Borrowed(path.rsplit('/').next().unwrap_or(path)),
        Cow::Owned(path) => Cow::Owned(path.rsplit('/').next().unwrap_or(&path).to_owned()),
    }
}

fn port_of(addr: &str) -> &str {
    addr.rsplit(':').next().unwrap_or(addr)
}

/// Appends `n` in decimal.
pub(super) fn push_number(n: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Fallback<'_> = Fallback { authorization: None, s3: None };

    fn head(target: &Target, method: Method, path: &str, length: Option<u64>) -> String {
        let mut out = Vec::new();
        let body = length.map(|length| Payload { length, sha256: None });
        target.write_head(method, &[path], body, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_larder_target_words_the_rest_contract() {
        let target =
            Target::parse("larder+http://root:p%40ss@127.0.0.1:8080/home", NOTHING).unwrap();
        assert_eq!(
            head(&target, Method::Put, "a/b", Some(4096)),
            "PUT /v1/spaces/home/files/a/b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
             Authorization: Basic cm9vdDpwQHNz\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: 4096\r\n\r\n"
        );
        let mut out = Vec::new();
        target.write_list("a/d", Some("x y"), &mut out);
        assert!(out.starts_with(b"GET /v1/spaces/home/list/a/d?cursor=x%20y&limit=1000 HTTP/1.1"));
        assert!(!target.shown.contains("ss@"), "the report must not show the password");
        let bearer = Fallback { authorization: Some("Bearer key"), s3: None };
        let keyed = Target::parse("larder+http://h:1/home", bearer).unwrap();
        assert!(head(&keyed, Method::Get, "a", None).contains("\r\nAuthorization: Bearer key\r\n"));
        let plain = Target::parse("http://h:1/", bearer).unwrap();
        assert!(!head(&plain, Method::Get, "a", None).contains("Bearer"), "not for strangers");
    }

    #[test]
    fn an_upload_session_is_worded_as_tus_says() {
        let target = Target::parse("larder+http://h:1/home", NOTHING).unwrap();
        let mut out = Vec::new();
        target.write_begin("a/b", 5, &mut out);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "POST /v1/uploads?space=home&path=a/b HTTP/1.1\r\nHost: h:1\r\n\
             Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nContent-Length: 0\r\n\r\n"
        );
        target.write_bytes("/v1/uploads/x", 5, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PATCH /v1/uploads/x HTTP/1.1\r\nHost: h:1\r\nTus-Resumable: 1.0.0\r\n\
             Upload-Offset: 0\r\nContent-Length: 5\r\n\
             Content-Type: application/offset+octet-stream\r\n\r\n"
        );
        assert!(!Target::parse("http://h:1/", NOTHING).unwrap().has_sessions());
    }

    #[test]
    fn an_s3_target_takes_its_key_from_the_url_or_else_from_the_settings() {
        let own = "s3+http://AKIA:se%2Fcret@127.0.0.1:9000/b/pre%20fix/";
        let target = Target::parse(own, NOTHING).unwrap();
        assert_eq!((target.addr.as_str(), target.label.as_str()), ("127.0.0.1:9000", "s3:9000"));
        assert_eq!(target.shown, "s3+http://127.0.0.1:9000/b/pre%20fix");
        let get = head(&target, Method::Get, "a", None);
        assert!(
            get.starts_with("GET /b/pre%20fix/a HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n"),
            "{get}"
        );
        assert!(get.contains("Credential=AKIA/"), "{get}");
        assert!(!format!("{target:?}").contains("cret"));
        let bare = "s3+http://h:1/b";
        let error = Target::parse(bare, NOTHING).unwrap_err();
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        let keys = Keys { id: "other".into(), secret: "s".into(), session_token: None };
        let payload = PayloadMode::Signed;
        let settings = S3Settings { keys: Some(keys), region: None, payload };
        let given = Fallback { authorization: None, s3: Some(&settings) };
        let target = Target::parse(bare, given).unwrap();
        assert!(target.signs_bodies() && target.label == "s3-signed:1");
        assert!(head(&target, Method::Get, "a", None).contains("Credential=other/"));
        let target = Target::parse(own, given).unwrap();
        assert!(head(&target, Method::Get, "a", None).contains("Credential=AKIA/"));
        let plain = Target::parse("http://h:1/", given).unwrap();
        assert!(!head(&plain, Method::Get, "a", None).contains("other"), "not for strangers");
    }

    #[test]
    fn a_plain_target_appends_to_its_prefix() {
        let target = Target::parse("http://127.0.0.1:8888/pre/fix/", NOTHING).unwrap();
        assert!(head(&target, Method::Get, "a", None).starts_with("GET /pre/fix/a HTTP/1.1\r\n"));
        let bare = Target::parse("http://127.0.0.1", NOTHING).unwrap();
        assert_eq!(bare.addr, "127.0.0.1:80");
        assert!(head(&bare, Method::Head, "a", None).starts_with("HEAD /a HTTP/1.1\r\n"));
    }

    #[test]
    fn bad_targets_are_refused() {
        for url in [
            "host",
            "ftp://h/",
            "https://h/",
            "http:///x",
            "larder+http://h:1/",
            "larder+http://h:1/a/b",
            "s3+https://id:secret@h/b",
            "s3+http://id:secret@h:1/",
            "s3+http://id@h:1/b",
            "s3+http://:@h:1/b",
        ] {
            assert!(Target::parse(url, NOTHING).is_err(), "{url}");
        }
    }

    #[test]
    fn pages_of_the_json_dialects_are_read() {
        let plain = Target::parse("http://h:1/", NOTHING).unwrap();
        let filer = br#"{"Path":"/d","Entries":[{"FullPath":"/d/f1","Mtime":"x"},
            {"FullPath":"/d/f2"}],"Limit":2,"LastFileName":"f2","ShouldDisplayLoadMore":true}"#;
        let page = plain.parse_page(filer).unwrap();
        assert_eq!(page.names, ["f1", "f2"]);
        assert_eq!(page.cursor.as_deref(), Some("f2"));
        let last = plain.parse_page(br#"{"Entries":null,"ShouldDisplayLoadMore":false}"#).unwrap();
        assert_eq!((last.names.len(), last.cursor), (0, None));
        let index = plain.parse_page(br#"[{ "name":"f1", "type":"file", "size":1 }]"#).unwrap();
        assert_eq!(index.names, ["f1"]);
        let larder = Target::parse("larder+http://h:1/home", NOTHING).unwrap();
        let page = larder
            .parse_page(br#"{"entries":[{"path":"/d/f1","name":"f1","size":1}],"cursor":"c"}"#)
            .unwrap();
        assert_eq!(page.names, ["f1"]);
        assert_eq!(page.cursor.as_deref(), Some("c"));
        assert!(larder.parse_page(b"[]").is_err());
    }

    #[test]
    fn only_our_own_trash_is_purged() {
        let larder = Target::parse("larder+http://h:1/home", NOTHING).unwrap();
        let body = br#"{"items":[{"item":"1","path":"/bench-x"},{"item":"2","path":"bench-x/a"},
            {"item":"3","path":"/bench-xy"},{"item":"4","path":"/photos/bench-x"}]}"#;
        assert_eq!(larder.parse_trash(body, "bench-x").unwrap().items, ["1", "2"]);
    }
}
