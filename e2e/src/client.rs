//! What the REST door offers, one method per call, nothing hidden: every method gives back the
//! answer as it came, and a lost one as status 0.
//!
//! Promises: no request is ever sent twice, so the answer says what this one request came to.
//! A [`Client`] has one connection and belongs to one thread; [`Client::another`] makes more.

use std::{
    cell::RefCell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::http::{Conn, Stream};
pub use crate::http::{Outcome, Response, encode, encode_path};

/// Headers to add to a request.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// What a space holds, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of current revisions in the tree.
    pub live: u64,
    /// Bytes of older revisions and of the trash.
    pub retained: u64,
    /// Bytes promised to uploads in flight.
    pub reserved: u64,
}

/// One user's connection to one server, looking at one space.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    authorization: Option<String>,
    space: String,
    conn: RefCell<Option<Conn>>,
}

impl Client {
    /// A client for the home of the user with these credentials.
    pub fn new(addr: SocketAddr, user: &str, password: &str) -> Self {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        Self::with_authorization(addr, Some(format!("Basic {basic}")))
    }

    /// A client that shows an API key.
    pub fn with_key(addr: SocketAddr, key: &str) -> Self {
        Self::with_authorization(addr, Some(format!("Bearer {key}")))
    }

    /// A client that says nothing of who it is.
    pub fn anonymous(addr: SocketAddr) -> Self {
        Self::with_authorization(addr, None)
    }

    /// A client with any `Authorization` header.
    pub fn with_authorization(addr: SocketAddr, authorization: Option<String>) -> Self {
        Self { addr, authorization, space: "home".to_owned(), conn: RefCell::default() }
    }

    /// The same client with a connection of its own.
    pub fn another(&self) -> Self {
        let authorization = self.authorization.clone();
        Self { space: self.space.clone(), ..Self::with_authorization(self.addr, authorization) }
    }

    /// The same user, looking at `space`.
    pub fn in_space(&self, space: &str) -> Self {
        Self { space: space.to_owned(), ..self.another() }
    }

    /// The same user and space by way of another address, such as a proxy's.
    pub fn by_way_of(&self, addr: SocketAddr) -> Self {
        Self { addr, ..self.another() }
    }

    /// The space it looks at, as it names it.
    pub fn space_name(&self) -> &str {
        &self.space
    }

    /// The address of the server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Opens the connection now, so that the next request does not wait for it.
    pub fn connect(&self) {
        // If it fails the next request says so.
        *self.conn.borrow_mut() = Conn::open(self.addr).ok();
    }

    /// Opens the connection of the next request from another address of this machine.
    #[track_caller]
    pub fn connect_from(&self, source: IpAddr) {
        let conn = Conn::open_from(source, self.addr).expect("connect from another address");
        *self.conn.borrow_mut() = Some(conn);
    }

    /// The path of `route` (such as `files`) of this space for `path`.
    pub fn at(&self, route: &str, path: &str) -> String {
        format!("/v1/spaces/{}/{route}/{}", encode(&self.space), encode_path(path))
    }

    /// The head of a request, up to and with the empty line.
    pub fn head_of(&self, method: &str, target: &str, headers: Headers<'_>) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.addr);
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    /// Sends a request and reads its answer. `body: None` sends no `Content-Length`.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: Headers<'_>,
        body: Option<&[u8]>,
    ) -> Response {
        let length = body.map(|body| body.len().to_string());
        let mut all = headers.to_vec();
        if let Some(length) = &length {
            all.push(("Content-Length", length));
        }
        let head = self.head_of(method, target, &all);
        self.exchange(method, head.as_bytes(), body.unwrap_or_default())
    }

    /// Sends a body as chunks of `piece` bytes.
    pub fn send_chunked(
        &self,
        method: &str,
        target: &str,
        headers: Headers<'_>,
        body: &[u8],
        piece: usize,
    ) -> Response {
        let mut all = headers.to_vec();
        all.push(("Transfer-Encoding", "chunked"));
        let head = self.head_of(method, target, &all);
        let mut framed = Vec::with_capacity(body.len() + 64);
        for piece in body.chunks(piece) {
            framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            framed.extend_from_slice(piece);
            framed.extend_from_slice(b"\r\n");
        }
        framed.extend_from_slice(b"0\r\n\r\n");
        self.exchange(method, head.as_bytes(), &framed)
    }

    fn exchange(&self, method: &str, head: &[u8], body: &[u8]) -> Response {
        let open = self.conn.borrow_mut().take().filter(Conn::is_idle);
        let mut conn = match open.map_or_else(|| Conn::open(self.addr), Ok) {
            Ok(conn) => conn,
            Err(error) => return Response::lost(format!("connect: {error}")),
        };
        let sent = if body.len() < 16 << 10 {
            conn.send(&[head, body].concat())
        } else {
            conn.send(head).and_then(|()| conn.send(body))
        };
        // A server may refuse before it has read everything: its answer counts, not our error.
        let response = conn.response(method);
        let keep = sent.is_ok() && response.lost.is_none();
        if keep && response.header("connection").is_none_or(|value| value != "close") {
            *self.conn.borrow_mut() = Some(conn);
        }
        match sent {
            Err(error) if response.lost.is_some() => Response::lost(format!("send: {error}")),
            _ => response,
        }
    }

    /// Sends JSON.
    pub fn json(&self, method: &str, target: &str, body: &Value) -> Response {
        let headers = [("Content-Type", "application/json")];
        self.send(method, target, &headers, Some(body.to_string().as_bytes()))
    }

    // Files.

    /// Uploads or overwrites.
    pub fn put(&self, path: &str, body: &[u8]) -> Response {
        self.put_with(path, body, &[])
    }

    /// Uploads or overwrites, with headers.
    pub fn put_with(&self, path: &str, body: &[u8], headers: Headers<'_>) -> Response {
        self.send("PUT", &self.at("files", path), headers, Some(body))
    }

    /// Reads a whole file.
    pub fn get(&self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    /// Reads with headers, such as `Range`.
    pub fn get_with(&self, path: &str, headers: Headers<'_>) -> Response {
        self.send("GET", &self.at("files", path), headers, None)
    }

    /// Reads one revision.
    pub fn get_revision(&self, path: &str, revision: u64) -> Response {
        let target = format!("{}?revision={revision}", self.at("files", path));
        self.send("GET", &target, &[], None)
    }

    /// Opens a download on a connection of its own, to be read at the caller's pace.
    pub fn open(&self, path: &str, headers: Headers<'_>) -> (Response, Stream) {
        let mut conn = Conn::open(self.addr).expect("connect");
        let head = self.head_of("GET", &self.at("files", path), headers);
        conn.send(head.as_bytes()).expect("send a request");
        let head = conn.head().expect("read the head of an answer");
        let body = conn.body(&head, "GET");
        (head, body)
    }

    /// Asks for the head of a file.
    pub fn head(&self, path: &str) -> Response {
        self.send("HEAD", &self.at("files", path), &[], None)
    }

    /// Moves a file or a directory to the trash.
    pub fn rm(&self, path: &str) -> Response {
        self.send("DELETE", &self.at("files", path), &[], None)
    }

    /// The entry at `path`.
    pub fn stat(&self, path: &str) -> Response {
        self.send("GET", &self.at("stat", path), &[], None)
    }

    /// The entry at `path`, which must be there.
    #[track_caller]
    pub fn must_stat(&self, path: &str) -> Value {
        self.stat(path).expect(200).json()
    }

    // The tree.

    /// Makes a directory.
    pub fn mkdir(&self, path: &str) -> Response {
        self.send("PUT", &self.at("dirs", path), &[], Some(b""))
    }

    /// Makes a directory and those above it.
    pub fn mkdir_all(&self, path: &str) -> Response {
        self.send("PUT", &format!("{}?parents=true", self.at("dirs", path)), &[], Some(b""))
    }

    /// One page of a listing; `query` such as `limit=10&recursive=true`.
    pub fn list_page(&self, path: &str, query: &str) -> Response {
        self.send("GET", &format!("{}?{query}", self.at("list", path)), &[], None)
    }

    /// All entries of a directory.
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        self.pages(&self.at("list", path))
    }

    /// All entries below a directory.
    #[track_caller]
    pub fn list_all(&self, path: &str) -> Vec<Value> {
        self.pages(&format!("{}?recursive=true", self.at("list", path)))
    }

    /// Every page of the listing at `target`, put together. A page has one list, and a cursor
    /// unless it is the last.
    #[track_caller]
    pub fn pages(&self, target: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut page = target.to_owned();
            if let Some(cursor) = &cursor {
                let joint = if target.contains('?') { '&' } else { '?' };
                write!(page, "{joint}cursor={}", encode(cursor)).expect("a text can grow");
            }
            let body = self.send("GET", &page, &[], None).expect(200).json();
            let lists: Vec<&Vec<Value>> =
                body.as_object().into_iter().flatten().filter_map(|(_, v)| v.as_array()).collect();
            assert_eq!(lists.len(), 1, "a page has one list: {body}");
            all.extend(lists[0].iter().cloned());
            match body.get("cursor").and_then(Value::as_str) {
                Some(next) => cursor = Some(next.to_owned()),
                None => return all,
            }
        }
    }

    /// Moves; what stands at `to` is replaced only if `overwrite` says so.
    pub fn mv(&self, from: &str, to: &str, overwrite: bool) -> Response {
        let body = json!({"from": from, "to": to, "overwrite": overwrite});
        self.json("POST", &format!("/v1/spaces/{}/move", encode(&self.space)), &body)
    }

    /// Copies within the space.
    pub fn cp(&self, from: &str, to: &str, overwrite: bool) -> Response {
        let body = json!({"from": from, "to": to, "overwrite": overwrite});
        self.json("POST", &format!("/v1/spaces/{}/copy", encode(&self.space)), &body)
    }

    /// Copies into another space.
    pub fn cp_to(&self, from: &str, to_space: &str, to: &str) -> Response {
        let body = json!({"from": from, "to": to, "to_space": to_space, "overwrite": false});
        self.json("POST", &format!("/v1/spaces/{}/copy", encode(&self.space)), &body)
    }

    // Revisions.

    /// All revisions of a file, newest first.
    #[track_caller]
    pub fn revisions(&self, path: &str) -> Vec<Value> {
        self.pages(&self.at("revisions", path))
    }

    /// Makes an older revision the newest.
    pub fn restore_revision(&self, path: &str, revision: u64) -> Response {
        self.json("POST", &self.at("revisions", path), &json!({"revision": revision}))
    }

    /// Deletes an older revision.
    pub fn rm_revision(&self, path: &str, revision: u64) -> Response {
        let target = format!("{}?revision={revision}", self.at("revisions", path));
        self.send("DELETE", &target, &[], None)
    }

    // Trash.

    /// All items of the trash.
    #[track_caller]
    pub fn trash(&self) -> Vec<Value> {
        self.pages(&self.trash_at(""))
    }

    /// The id of the trash item that holds the node `id`, if there is one.
    #[track_caller]
    pub fn trash_item(&self, id: &str) -> Option<String> {
        let items = self.trash();
        let item = items.iter().find(|item| item["id"] == id)?;
        Some(item["item"].as_str().expect("an item has an id").to_owned())
    }

    /// Restores an item; `options` are `to`, `rename`, `recreate_parents`.
    pub fn restore(&self, item: &str, options: &Value) -> Response {
        self.json("POST", &self.trash_at(&format!("/{item}/restore")), options)
    }

    /// Purges an item.
    pub fn purge(&self, item: &str) -> Response {
        self.send("DELETE", &self.trash_at(&format!("/{item}")), &[], None)
    }

    /// Purges everything in the trash.
    pub fn empty_trash(&self) -> Response {
        self.send("DELETE", &self.trash_at(""), &[], None)
    }

    fn trash_at(&self, rest: &str) -> String {
        format!("/v1/spaces/{}/trash{rest}", encode(&self.space))
    }

    // Spaces and users.

    /// The space as it describes itself.
    #[track_caller]
    pub fn space(&self) -> Value {
        self.send("GET", &format!("/v1/spaces/{}", encode(&self.space)), &[], None)
            .expect(200)
            .json()
    }

    /// What the space says it holds.
    #[track_caller]
    pub fn usage(&self) -> Usage {
        let space = self.space();
        let number = |name: &str| {
            let value = &space["usage"][name];
            value.as_u64().unwrap_or_else(|| panic!("usage.{name} is {value} in {space}"))
        };
        Usage { live: number("live"), retained: number("retained"), reserved: number("reserved") }
    }

    /// Makes a space; `more` is put beside its name and kind.
    pub fn make_space(&self, name: &str, kind: &str, more: &Value) -> Response {
        let mut body = json!({"name": name, "kind": kind});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.json("POST", "/v1/spaces", &body)
    }

    /// Makes a project and looks at it.
    #[track_caller]
    pub fn project(&self, name: &str, more: &Value) -> Self {
        self.make_space(name, "project", more).expect(201);
        self.in_space(name)
    }

    /// Sets the live limit of the space; `None` takes it away.
    #[track_caller]
    pub fn limit(&self, live: Option<u64>) {
        let body = json!({"limits": {"live": live, "retained": null}});
        self.json("PATCH", &format!("/v1/spaces/{}", encode(&self.space)), &body).expect(200);
    }

    /// Makes a user with the password that [`Client::user`] uses.
    #[track_caller]
    pub fn make_user(&self, name: &str) -> Self {
        let password = format!("{name}-password");
        let body = json!({"name": name, "password": password});
        self.json("POST", "/v1/users", &body).expect(201);
        Self::new(self.addr, name, &password)
    }

    // Administration.

    /// What `check` found; it must have run.
    #[track_caller]
    pub fn check(&self) -> Value {
        self.send("GET", "/v1/admin/check", &[], None).expect(200).json()
    }

    /// Collects to the end, as far as readers allow.
    #[track_caller]
    pub fn gc(&self) -> Value {
        self.send("POST", "/v1/admin/gc?wait=1", &[], Some(b"")).expect(200).json()
    }
}

/// The text at `key` of an entry, which must be there.
#[track_caller]
pub fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {entry}"))
}

/// The number at `key` of an entry, which must be there.
#[track_caller]
pub fn number(entry: &Value, key: &str) -> u64 {
    entry[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {entry}"))
}
