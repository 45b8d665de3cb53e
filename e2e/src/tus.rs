//! Resumable uploads by hand: tus 1.0.0 over the plain client, one method per call.
//!
//! Promises: nothing is repeated and nothing is guessed; an offset is what the server has said.
//! Not here: real clients of the protocol, which have scripts of their own (`e2e/tools`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    client::{Client, Headers, Response, encode},
    http::Conn,
};

/// What every request of the protocol says.
pub const RESUMABLE: (&str, &str) = ("Tus-Resumable", "1.0.0");

/// The type of a piece.
pub const PIECE: (&str, &str) = ("Content-Type", "application/offset+octet-stream");

/// The value of `Upload-Metadata` for these pairs.
pub fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Asks for an upload; `query` such as `path=a%2Fb`.
pub fn begin(client: &Client, query: &str, headers: Headers<'_>) -> Response {
    let headers = [&[RESUMABLE], headers].concat();
    client.send("POST", &format!("/v1/uploads?{query}"), &headers, Some(b""))
}

/// An upload of one client, on a connection of its own.
#[derive(Debug)]
pub struct Upload {
    /// The client that made it.
    pub client: Client,
    /// Its path on the server.
    pub url: String,
}

impl Upload {
    /// Makes an upload of `length` bytes to `path` of the client's space.
    #[track_caller]
    pub fn new(client: &Client, path: &str, length: u64) -> Self {
        Self::with(client, path, &[("Upload-Length", &length.to_string())])
    }

    /// Makes an upload with these headers to `path` of the client's space.
    #[track_caller]
    pub fn with(client: &Client, path: &str, headers: Headers<'_>) -> Self {
        let query = format!("space={}&path={}", encode(client.space_name()), encode(path));
        Self::of(client, &begin(client, &query, headers).expect(201))
    }

    /// The upload that an answer names.
    #[track_caller]
    pub fn of(client: &Client, answer: &Response) -> Self {
        Self { client: client.another(), url: answer.must_header("location").to_owned() }
    }

    /// The upload at `url`, as this client sees it.
    pub fn at(client: &Client, url: &str) -> Self {
        Self { client: client.another(), url: url.to_owned() }
    }

    /// The same upload on another connection.
    pub fn another(&self) -> Self {
        self.through(self.client.another())
    }

    /// The same upload by way of another client.
    pub fn through(&self, client: Client) -> Self {
        Self { client, url: self.url.clone() }
    }

    /// Sends a piece.
    pub fn patch(&self, offset: u64, bytes: &[u8]) -> Response {
        self.patch_with(offset, bytes, &[])
    }

    /// Sends a piece with further headers.
    pub fn patch_with(&self, offset: u64, bytes: &[u8], headers: Headers<'_>) -> Response {
        let offset = offset.to_string();
        let headers = [&[RESUMABLE, PIECE, ("Upload-Offset", &offset)], headers].concat();
        self.client.send("PATCH", &self.url, &headers, Some(bytes))
    }

    /// Begins a piece of `length` bytes on a connection of its own, and sends only `bytes` of it,
    /// once the server has begun to read.
    pub fn patch_part(&self, offset: u64, length: u64, bytes: &[u8]) -> Conn {
        let (offset, length) = (offset.to_string(), length.to_string());
        let headers = [
            RESUMABLE,
            PIECE,
            ("Upload-Offset", &offset),
            ("Content-Length", &length),
            ("Expect", "100-continue"),
        ];
        let mut conn = Conn::open(self.client.addr()).expect("connect");
        let head = self.client.head_of("PATCH", &self.url, &headers);
        conn.send(head.as_bytes()).expect("send the head of a piece");
        assert_eq!(conn.any_head().expect("an interim answer").status, 100);
        conn.send(bytes).expect("send a part of a piece");
        conn
    }

    /// Asks how far it is.
    pub fn head(&self) -> Response {
        self.client.send("HEAD", &self.url, &[RESUMABLE], None)
    }

    /// How far it is; it must be open, or complete.
    #[track_caller]
    pub fn offset(&self) -> u64 {
        offset_of(&self.head().expect(200))
    }

    /// Sends all of `body` that is missing, in pieces of `piece` bytes; the last answer.
    #[track_caller]
    pub fn send(&self, body: &[u8], piece: usize) -> Response {
        let mut offset = self.offset() as usize;
        loop {
            let end = (offset + piece).min(body.len());
            let answer = self.patch(offset as u64, &body[offset..end]).expect(204);
            assert_eq!(offset_of(&answer), end as u64, "{answer}");
            if end == body.len() {
                return answer;
            }
            offset = end;
        }
    }

    /// Gives it up.
    pub fn delete(&self) -> Response {
        self.client.send("DELETE", &self.url, &[RESUMABLE], None)
    }

    /// What the server says about it, as JSON.
    #[track_caller]
    pub fn info(&self) -> Value {
        self.client.send("GET", &self.url, &[], None).expect(200).json()
    }

    /// Completes it, or tries to.
    pub fn complete(&self, body: &Value) -> Response {
        self.client.json("POST", &format!("{}/complete", self.url), body)
    }
}

/// The offset that an answer says.
#[track_caller]
pub fn offset_of(answer: &Response) -> u64 {
    let text = answer.must_header("upload-offset");
    text.parse().unwrap_or_else(|_| panic!("Upload-Offset is no number in {answer}"))
}
