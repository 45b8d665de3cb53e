//! The calls of the REST interface that the verbs use, and the shapes of their answers.
//!
//! Promises: names and paths reach the server byte for byte, percent-encoded; answers with
//! fields we do not know are understood, so that an older client works with a newer server.
//!
//! Not here: repeating calls ([`super`]); progress and messages (`command`).

use std::borrow::Cow;

use http::{
    HeaderValue, Method,
    header::{HeaderName, IF_NONE_MATCH},
};
use larder_base::digest::Sha256;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Answer, Call, Client, Repeat,
    body::{Moved, Payload},
    error::Result,
};

/// Everything but the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for whole paths.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A reference to another space.
    Ref,
    /// Something that came after this client.
    #[serde(other)]
    Other,
}

impl Kind {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Ref => "ref",
            Self::Other => "other",
        }
    }
}

/// An entry, as far as the verbs need it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    /// From the root of the space.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Bytes.
    #[serde(default)]
    pub(crate) size: u64,
    /// Token of its state.
    #[serde(default)]
    pub(crate) etag: Option<String>,
    /// Digest in hexadecimal, where known.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) modified: Option<String>,
}

/// One page of a listing; its items stay as the server wrote them.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    /// Entries, trash items, users ...: whatever was listed.
    #[serde(
        alias = "items",
        alias = "revisions",
        alias = "spaces",
        alias = "users",
        alias = "keys",
        alias = "groups",
        alias = "jobs",
        alias = "members",
        alias = "uploads",
        alias = "shares",
        default
    )]
    pub(crate) entries: Vec<Value>,
    /// Where the next page starts.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

/// What an upload has made.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Digest in hexadecimal.
    pub(crate) sha256: Option<String>,
}

/// What an upload is to do besides storing bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PutOptions {
    /// Fail where a file exists.
    pub(crate) no_overwrite: bool,
    /// Digest that the server checks before it stores anything.
    pub(crate) digest: Option<Sha256>,
}

/// Encodes one name for a path, or a value for a query.
pub(crate) fn segment(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, SEGMENT).into()
}

fn path_of(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, PATH).into()
}

/// `/v1/spaces/{space}/{collection}/{path}`.
pub(crate) fn in_space(space: &str, collection: &str, path: &str) -> String {
    format!("/v1/spaces/{}/{collection}/{}", segment(space), path_of(path))
}

impl Client {
    /// Performs `call` and reads JSON.
    pub(crate) async fn json(&self, call: &Call) -> Result<Value> {
        self.call(call).await?.json().await
    }

    /// Gets JSON.
    pub(crate) async fn get_json(&self, path: String) -> Result<Value> {
        self.json(&Call::new(Method::GET, path)).await
    }

    /// Performs a call whose answer does not matter.
    pub(crate) async fn done(&self, call: &Call) -> Result<()> {
        self.call(call).await?.done().await
    }

    /// One page of a listing. `path` may have a query already.
    pub(crate) async fn page(&self, path: &str, cursor: Option<&str>) -> Result<Page> {
        let path = match cursor {
            Some(cursor) => {
                let join = if path.contains('?') { '&' } else { '?' };
                format!("{path}{join}cursor={}", segment(cursor))
            }
            None => path.to_owned(),
        };
        match self.call(&Call::new(Method::GET, path)).await?.json::<Value>().await? {
            Value::Array(entries) => Ok(Page { entries, cursor: None }),
            page => serde_json::from_value(page).map_err(not_understood),
        }
    }

    /// The entry at a path, as the server wrote it and as we understand it.
    pub(crate) async fn stat(&self, space: &str, path: &str) -> Result<(Value, Entry)> {
        let value = self.get_json(in_space(space, "stat", path)).await?;
        let entry = Entry::deserialize(&value).map_err(not_understood)?;
        Ok((value, entry))
    }

    /// Makes a directory.
    pub(crate) async fn mkdir(&self, space: &str, path: &str, parents: bool) -> Result<Value> {
        let mut url = in_space(space, "dirs", path);
        if parents {
            url.push_str("?parents=true");
        }
        let mut call = Call::new(Method::PUT, url);
        // A repetition could find its own work and report a conflict with itself.
        call.repeat = if parents { Repeat::Harmless } else { Repeat::Refused };
        self.json(&call).await
    }

    /// Uploads a file, making the directories it is in; the answer's JSON is returned too.
    pub(crate) async fn put(
        &self,
        (space, path): (&str, &str),
        payload: Payload,
        options: PutOptions,
        moved: Moved,
    ) -> Result<(Value, Option<Sha256>)> {
        let mut url = in_space(space, "files", path);
        url.push_str("?parents=true");
        let mut call = Call::new(Method::PUT, url);
        call.payload = payload;
        call.moved = moved;
        if options.no_overwrite {
            call.headers.push((IF_NONE_MATCH, HeaderValue::from_static("*")));
            call.repeat = Repeat::Refused;
        }
        if let Some(digest) = options.digest {
            call.headers.push((CONTENT_DIGEST, content_digest(digest)));
        }
        let answer = self.call(&call).await?;
        let sent = options.digest.or(answer.sent);
        Ok((answer.json().await?, sent))
    }

    /// Opens a file for reading.
    pub(crate) async fn open(
        &self,
        space: &str,
        path: &str,
        revision: Option<&str>,
    ) -> Result<Answer<'_>> {
        let mut url = in_space(space, "files", path);
        if let Some(revision) = revision {
            url.push_str("?revision=");
            url.push_str(&segment(revision));
        }
        self.call(&Call::new(Method::GET, url)).await
    }

    /// Moves an entry to the trash, with all below it.
    pub(crate) async fn delete(&self, space: &str, path: &str) -> Result<()> {
        let mut call = Call::new(Method::DELETE, in_space(space, "files", path));
        // A repetition would report that nothing is there, or delete what came after.
        call.repeat = Repeat::Refused;
        self.done(&call).await
    }

    /// `move` or `copy`.
    pub(crate) async fn relocate(
        &self,
        verb: &str,
        (space, from): (&str, &str),
        (to_space, to): (&str, &str),
        overwrite: bool,
    ) -> Result<Value> {
        let mut body = json!({ "from": from, "to": to, "overwrite": overwrite });
        if to_space != space
            && let Some(body) = body.as_object_mut()
        {
            body.insert("to_space".to_owned(), to_space.into());
        }
        let path = format!("/v1/spaces/{}/{verb}", segment(space));
        self.json(&Call::new(Method::POST, path).json(&body)).await
    }
}

fn not_understood(error: serde_json::Error) -> super::error::ClientError {
    super::error::ClientError::bad_answer(format!("the server's answer is not understood: {error}"))
}

/// `sha-256=:base64:`, RFC 9530.
fn content_digest(digest: Sha256) -> HeaderValue {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(digest.0);
    HeaderValue::try_from(format!("sha-256=:{text}:")).expect("base64 is ASCII")
}

/// The SHA-256 in a `Repr-Digest` header, RFC 9530.
pub(crate) fn sha256_of_header(header: &HeaderValue) -> Option<Sha256> {
    use base64::Engine as _;
    let find = |part: &str| {
        let text = part.trim().strip_prefix("sha-256=:")?.strip_suffix(':')?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        Some(Sha256(bytes.try_into().ok()?))
    };
    header.to_str().ok()?.split(',').find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_byte_for_byte() {
        assert_eq!(
            in_space("home", "files", "a b/\u{e9}?#%2F&+;=/.x~"),
            "/v1/spaces/home/files/a%20b/%C3%A9%3F%23%252F%26%2B%3B%3D/.x~"
        );
        assert_eq!(segment("a/b"), "a%2Fb");
    }

    #[test]
    fn digests_survive_their_header() {
        let digest = Sha256::of(b"abc");
        assert_eq!(sha256_of_header(&content_digest(digest)), Some(digest));
        let both = format!("md5=:AAAA:, {}", content_digest(digest).to_str().expect("ASCII"));
        let header = HeaderValue::try_from(both).expect("ASCII");
        assert_eq!(sha256_of_header(&header), Some(digest));
        assert_eq!(sha256_of_header(&HeaderValue::from_static("sha-256=:AAAA:")), None);
    }

    #[test]
    fn entries_with_unknown_kinds_and_fields_are_understood() {
        let entry: Entry = serde_json::from_value(json!({
            "path": "a", "kind": "wormhole", "mass": 7, "sha256": null
        }))
        .expect("understood");
        assert_eq!(entry.kind, Kind::Other);
    }
}
