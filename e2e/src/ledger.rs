//! What one writer has been told, kept outside of the server it talks to (oracle O2).
//!
//! Promises: after a crash, [`Ledger::resolve`] finds out what the one unanswered operation came
//! to, and [`Ledger::verify`] then demands exactly the acknowledged state: every file, revision
//! and trash item, with its bytes. An operation that took effect by half fails there.
//! Relies on: every writer having a directory of its own, so that each history is a sequence.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    books::{self, Books, Open, Share, TREE_BYTES, upload},
    client::{Client, Outcome, Response, Usage, encode, number, text},
    stamp::{RECORD, Stamp, identify},
    tool::{self, Dice},
    tus::{self, offset_of},
};

/// How long an upload session may stay after its time.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(20);

/// One acknowledged revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// Whose bytes it has.
    pub stamp: Stamp,
    /// How many.
    pub len: u64,
}

/// One acknowledged file: its node and its revisions, oldest first.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Id of its node.
    pub id: String,
    /// Its revisions.
    pub revisions: Vec<Revision>,
}

impl Kept {
    fn current(&self) -> Revision {
        *self.revisions.last().expect("a file has a revision")
    }
}

/// One operation; paths are whole.
#[derive(Clone, Debug)]
pub enum Op {
    /// Upload or overwrite.
    Put(String, Stamp, usize),
    /// To the trash.
    Delete(String),
    /// Within the directory.
    Move(String, String),
    /// Within the directory.
    Copy(String, String),
    /// Out of the trash, to where it was; by node.
    Restore(String),
    /// For ever; by node.
    Purge(String),
    /// An older revision becomes the newest.
    RestoreRevision(String, u64),
    /// An older revision goes.
    DeleteRevision(String, u64),
    /// Make a directory, which stays empty.
    Mkdir(String),
    /// Make an upload session for so many bytes.
    Begin(String, Stamp, usize),
    /// Send so many bytes more to a session; the last ones make it a file.
    Append(String, usize),
    /// Give a session up.
    Abort(String),
    /// Wait until a session is given up; the server must have a short `upload.session_ttl`.
    Expire(String),
    /// Let the friend read a file.
    Grant(String),
    /// Make a public link to a file.
    Link(String),
    /// End a grant or a link, by its id.
    Revoke(String),
    /// Make a reference to the first tree.
    Refer(String),
    /// Remove a reference.
    Unrefer(String),
    /// Copy the first tree: a job, if it does not come to its end.
    CopyTree(String),
    /// A tree to the trash; purging it is a job.
    DropTree(String),
    /// Start a job of this kind.
    Work(&'static str),
}

/// How closely [`Ledger::verify`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The current bytes of every file, and the list of everything else.
    Current,
    /// The bytes of every revision too.
    Everything,
}

/// The history of one writer.
#[derive(Debug)]
pub struct Ledger {
    writer: u32,
    dir: String,
    seq: u32,
    files: BTreeMap<String, Kept>,
    dirs: Vec<String>,
    trash: BTreeMap<String, (String, Kept)>,
    books: Books,
    pending: Option<Op>,
    /// Acknowledged operations.
    pub acks: u64,
}

impl Ledger {
    /// The ledger of `writer`; [`Ledger::begin`] makes its directory.
    pub fn new(writer: u32) -> Self {
        Self {
            writer,
            dir: format!("w{writer}"),
            seq: 0,
            files: BTreeMap::new(),
            dirs: Vec::new(),
            trash: BTreeMap::new(),
            books: Books::default(),
            pending: None,
            acks: 0,
        }
    }

    /// Makes the writer's directory and its first tree. The friend must be there
    /// ([`books::befriend`]).
    #[track_caller]
    pub fn begin(&mut self, client: &Client) {
        client.mkdir(&self.dir).expect(201);
        let tree = self.first_tree();
        books::plant(client, self.writer, &tree);
        let id = text(&client.must_stat(&tree), "id").to_owned();
        self.books.trees.insert(tree, id);
    }

    fn first_tree(&self) -> String {
        format!("{}/t0", self.dir)
    }

    /// What it has beside its files.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// The writer's directory.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// A fresh stamp.
    pub fn stamp(&mut self) -> Stamp {
        self.seq += 1;
        Stamp::new(self.writer, self.seq)
    }

    /// Bytes of current revisions, of everything kept beside them, and of what is reserved.
    pub fn usage(&self) -> Usage {
        let all = |kept: &Kept| kept.revisions.iter().map(|r| r.len).sum::<u64>();
        let live: u64 = self.files.values().map(|kept| kept.current().len).sum();
        let files: u64 = self.files.values().map(all).sum();
        let trash: u64 = self.trash.values().map(|(_, kept)| all(kept)).sum();
        Usage {
            live: live + TREE_BYTES * self.books.trees.len() as u64,
            retained: files - live + trash,
            reserved: self.books.reserved(),
        }
    }

    /// A next operation that must succeed.
    pub fn choose(&mut self, dice: &mut Dice) -> Op {
        let path = format!("{}/f{}", self.dir, dice.below(8));
        let other = format!("{}/f{}", self.dir, 8 + dice.below(8));
        let known = self.files.contains_key(&path);
        let trashed: Vec<String> = self.trash.keys().cloned().collect();
        let older = self.files.get(&path).and_then(|kept| {
            let older = &kept.revisions[..kept.revisions.len() - 1];
            (!older.is_empty()).then(|| dice.pick(older).revision)
        });
        match dice.below(34) {
            20.. => self.choose_beside(path, dice),
            8 | 9 if known => Op::Delete(path),
            10 | 11 if known && !self.files.contains_key(&other) => Op::Move(path, other),
            10 | 11 if !known && self.files.contains_key(&other) => Op::Move(other, path),
            12 if known && !self.files.contains_key(&other) => Op::Copy(path, other),
            13 | 14 if !trashed.is_empty() => {
                let id = dice.pick(&trashed).clone();
                let place = &self.trash[&id].0;
                if self.files.contains_key(place) || self.is_tree(place) {
                    Op::Purge(id)
                } else {
                    Op::Restore(id)
                }
            }
            15 if !trashed.is_empty() => Op::Purge(dice.pick(&trashed).clone()),
            16 if older.is_some() => Op::RestoreRevision(path, older.expect("there is one")),
            17 if older.is_some() => Op::DeleteRevision(path, older.expect("there is one")),
            18 => Op::Mkdir(format!("{}/d{}", self.dir, self.dirs.len())),
            _ => {
                let len = match dice.below(10) {
                    0..6 => RECORD as u64 + dice.below(8 << 10),
                    6..8 => (100 << 10) + dice.below(60 << 10),
                    _ => (256 << 10) + dice.below(1 << 20),
                };
                Op::Put(path, self.stamp(), len as usize)
            }
        }
    }

    fn is_tree(&self, path: &str) -> bool {
        path.starts_with(&format!("{}/t", self.dir))
    }

    /// A next operation on something else than files.
    fn choose_beside(&mut self, path: String, dice: &mut Dice) -> Op {
        let ids = |ids: Vec<&String>| ids.into_iter().cloned().collect::<Vec<String>>();
        let sessions = ids(self.books.sessions.keys().collect());
        let shares = ids(self.books.shares.keys().collect());
        let node = self.files.get(&path).map(|kept| kept.id.clone());
        let number = dice.below(4);
        let (tree, place) = (format!("{}/t{number}", self.dir), format!("{}/r{number}", self.dir));
        match dice.below(16) {
            0..=2 if sessions.len() < 3 => {
                let len = match dice.below(3) {
                    0 => RECORD as u64 + dice.below(8 << 10),
                    1 => (60 << 10) + dice.below(120 << 10),
                    _ => (200 << 10) + dice.below(1 << 20),
                };
                Op::Begin(path, self.stamp(), len as usize)
            }
            0..=7 if !sessions.is_empty() => {
                let id = dice.pick(&sessions).clone();
                let open = &self.books.sessions[&id];
                let left = open.len as u64 - open.offset;
                // Two or three pieces, some small and some not; or the rest.
                let piece = 1 + (open.len as u64) / (2 + dice.below(2)) + dice.below(1000);
                Op::Append(id, piece.min(left) as usize)
            }
            8 if !sessions.is_empty() => Op::Abort(dice.pick(&sessions).clone()),
            9 | 10 if node.as_ref().is_some_and(|node| self.books.grant_of(node).is_none()) => {
                Op::Grant(path)
            }
            11 if node.is_some() && shares.len() < 6 => Op::Link(path),
            12 if !shares.is_empty() => Op::Revoke(dice.pick(&shares).clone()),
            13 if self.books.refs.contains(&place) => Op::Unrefer(place),
            13 => Op::Refer(place),
            14 if number > 0 && self.books.trees.contains_key(&tree) => Op::DropTree(tree),
            14 if number > 0 => Op::CopyTree(tree),
            15 if dice.below(40) == 0 => Op::Work("lifecycle"),
            _ => Op::Put(path, self.stamp(), RECORD + dice.below(8 << 10) as usize),
        }
    }

    /// Does `op` and writes down what came of it. The answer, for tests that look closer.
    #[track_caller]
    pub fn perform(&mut self, client: &Client, op: Op) -> Response {
        assert!(self.pending.is_none(), "{:?} is not resolved yet", self.pending);
        self.pending = Some(op.clone());
        let answer = match &op {
            Op::Put(path, stamp, len) => client.put(path, &stamp.body(*len)),
            Op::Delete(path) => client.rm(path),
            Op::Move(from, to) => client.mv(from, to, false),
            Op::Copy(from, to) => client.cp(from, to, false),
            Op::Restore(id) | Op::Purge(id) => match trash_item(client, id) {
                Ok(item) if matches!(op, Op::Restore(_)) => client.restore(&item, &json!({})),
                Ok(item) => client.purge(&item),
                Err(answer) => answer,
            },
            Op::RestoreRevision(path, revision) => client.restore_revision(path, *revision),
            Op::DeleteRevision(path, revision) => client.rm_revision(path, *revision),
            Op::Mkdir(path) => client.mkdir(path),
            beside => self.perform_beside(client, beside),
        };
        match answer.outcome() {
            Outcome::Done => {
                self.acks += 1;
                self.applied(client, Some(&answer));
            }
            Outcome::Refused => self.pending = None,
            Outcome::Unknown => {}
        }
        answer
    }

    fn perform_beside(&self, client: &Client, op: &Op) -> Response {
        let share = |path: &str, more: Value| {
            let mut body = more;
            body["space"] = client.space_name().into();
            body["path"] = path.into();
            client.json("POST", "/v1/shares", &body)
        };
        match op {
            Op::Begin(path, _, len) => {
                let query = format!("space={}&path={}", client.space_name(), encode(path));
                tus::begin(client, &query, &[("Upload-Length", &len.to_string())])
            }
            Op::Append(id, len) => {
                let open = &self.books.sessions[id];
                let body = open.stamp.body(open.len);
                let from = open.offset as usize;
                upload(client, id).patch(open.offset, &body[from..from + len])
            }
            Op::Abort(id) => upload(client, id).delete(),
            Op::Expire(id) => {
                let mut answer = Response::default();
                let over = tool::wait_until(EXPIRY_PATIENCE, || {
                    answer = client.send("GET", "/v1/uploads", &[], None);
                    answer.outcome() != Outcome::Done
                        || !String::from_utf8_lossy(&answer.body).contains(id.as_str())
                });
                assert!(over, "{id} does not expire: {answer}");
                answer
            }
            Op::Grant(path) => {
                share(path, json!({"kind": "user", "with": books::FRIEND, "role": "viewer"}))
            }
            Op::Link(path) => share(path, json!({"kind": "link", "role": "viewer"})),
            Op::Revoke(id) => client.send("DELETE", &format!("/v1/shares/{id}"), &[], None),
            Op::Refer(path) => {
                let target = json!({"target": {"id": self.books.trees[&self.first_tree()]}});
                client.json("PUT", &client.at("references", path), &target)
            }
            Op::Unrefer(path) | Op::DropTree(path) => client.rm(path),
            Op::CopyTree(path) => client.cp(&self.first_tree(), path, false),
            Op::Work(kind) => client.json("POST", "/v1/admin/jobs", &json!({"kind": kind})),
            other => unreachable!("{other:?} is of files"),
        }
    }

    /// Ends every open session, by turns as a file and by giving it up.
    #[track_caller]
    pub fn end_sessions(&mut self, client: &Client) {
        let open: Vec<(String, usize)> = self
            .books
            .sessions
            .iter()
            .map(|(id, open)| (id.clone(), open.len - open.offset as usize))
            .collect();
        for (turn, (id, left)) in open.into_iter().enumerate() {
            let op = if turn % 2 == 0 { Op::Append(id, left) } else { Op::Abort(id) };
            let answer = self.perform(client, op);
            assert_eq!(answer.outcome(), Outcome::Done, "{answer}");
        }
    }

    /// Whether an operation has not been answered.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Finds out whether the unanswered operation took effect; whether it did, if there was one.
    #[track_caller]
    pub fn resolve(&mut self, client: &Client, trash: &[Value]) -> Option<bool> {
        self.books.settle_jobs(client);
        let there = |path: &str| client.stat(path).expect_any(&[200, 404]).status == 200;
        let newest = |path: &str| client.revisions(path).first().map(|r| number(r, "revision"));
        let last = |path: &String| self.files.get(path).map(|kept| kept.current().revision);
        let applied = match self.pending.as_ref()? {
            Op::Put(path, ..) if self.files.contains_key(path) => newest(path) != last(path),
            Op::RestoreRevision(path, _) => newest(path) != last(path),
            Op::Put(path, ..) | Op::Copy(_, path) | Op::Mkdir(path) => there(path),
            Op::Delete(path) | Op::Move(path, _) => !there(path),
            Op::Restore(id) => there(&self.trash[id].0),
            Op::Purge(id) => !trash.iter().any(|item| item["id"] == **id),
            Op::DeleteRevision(path, revision) => {
                !client.revisions(path).iter().any(|r| r["revision"] == *revision)
            }
            op => self.has_happened(client, &op.clone()),
        };
        if applied {
            self.applied(client, None);
        } else {
            self.pending = None;
        }
        Some(applied)
    }

    /// Whether an unanswered operation on something else than files took effect.
    #[track_caller]
    fn has_happened(&self, client: &Client, op: &Op) -> bool {
        let listed = |path: &str| {
            let own = client.list(&self.dir);
            own.iter().any(|entry| text(entry, "path").trim_start_matches('/') == path)
        };
        match op {
            Op::Begin(path, ..) => self.unknown_session(client, path).is_some(),
            Op::Append(id, len) => {
                let open = &self.books.sessions[id];
                let at = offset_of(&upload(client, id).head().expect(200));
                let sent = open.offset..=open.offset + *len as u64;
                assert!(sent.contains(&at), "offset {at} of {open:?}, to which {len} were sent");
                // What has arrived of a piece counts.
                at > open.offset
            }
            Op::Abort(id) | Op::Expire(id) => {
                upload(client, id).head().expect_any(&[200, 404, 410]).status != 200
            }
            Op::Grant(path) | Op::Link(path) => {
                self.unknown_share(client, path, matches!(op, Op::Link(_))).is_some()
            }
            Op::Revoke(id) => {
                let target = format!("/v1/shares/{id}");
                client.send("GET", &target, &[], None).expect_any(&[200, 404]).status == 404
            }
            Op::Refer(path) | Op::CopyTree(path) => listed(path),
            Op::Unrefer(path) | Op::DropTree(path) => !listed(path),
            // Nobody was told which one it is.
            Op::Work(_) => false,
            other => unreachable!("{other:?} is of files"),
        }
    }

    /// The session to `path` that was begun and not told of.
    #[track_caller]
    fn unknown_session(&self, client: &Client, path: &str) -> Option<String> {
        let found = client.pages("/v1/uploads");
        let mut ids = found
            .iter()
            .filter(|upload| text(upload, "path").trim_start_matches('/') == path)
            .map(|upload| text(upload, "id"))
            .filter(|id| !self.books.sessions.contains_key(*id));
        let id = ids.next().map(ToOwned::to_owned);
        assert_eq!(ids.next(), None, "one was begun");
        id
    }

    /// The share of `path` that was made and not told of.
    #[track_caller]
    fn unknown_share(&self, client: &Client, path: &str, link: bool) -> Option<Value> {
        let kind = if link { "link" } else { "user" };
        let mut found = books::shares_of(client, path);
        found.retain(|share| {
            share["kind"] == kind && !self.books.shares.contains_key(text(share, "id"))
        });
        assert!(found.len() <= 1, "one was made: {found:?}");
        found.pop()
    }

    /// Writes down that the pending operation took effect; what its answer would have said is
    /// asked for if there was none.
    #[track_caller]
    fn applied(&mut self, client: &Client, answer: Option<&Response>) {
        let op = self.pending.take().expect("an operation is pending");
        let entry = |path: &str| match answer.filter(|answer| !answer.body.is_empty()) {
            Some(answer) => answer.json(),
            None => client.must_stat(path),
        };
        match op {
            Op::Put(path, stamp, len) => {
                let entry = entry(&path);
                assert_eq!(number(&entry, "size"), len as u64, "{entry}");
                let revision =
                    Revision { revision: number(&entry, "revision"), stamp, len: len as u64 };
                self.add(path, &entry, revision);
            }
            Op::Copy(from, to) => {
                let source = self.files[&from].current();
                let entry = entry(&to);
                let revision = Revision { revision: number(&entry, "revision"), ..source };
                self.add(to, &entry, revision);
            }
            Op::RestoreRevision(path, revision) => {
                let old = *self.files[&path].find(revision);
                let entry = entry(&path);
                let revision = Revision { revision: number(&entry, "revision"), ..old };
                self.add(path, &entry, revision);
            }
            Op::Delete(path) => {
                let kept = self.files.remove(&path).expect("a known file");
                self.trash.insert(kept.id.clone(), (path, kept));
            }
            Op::Move(from, to) => {
                let kept = self.files.remove(&from).expect("a known file");
                assert_eq!(text(&entry(&to), "id"), kept.id, "a move keeps the node");
                self.files.insert(to, kept);
            }
            Op::Restore(id) => {
                let (path, kept) = self.trash.remove(&id).expect("a known item");
                self.files.insert(path, kept);
            }
            Op::Purge(id) => {
                self.trash.remove(&id);
                self.books.forget_node(&id);
            }
            Op::DeleteRevision(path, revision) => {
                let kept = self.files.get_mut(&path).expect("a known file");
                kept.revisions.retain(|r| r.revision != revision);
            }
            Op::Mkdir(path) => self.dirs.push(path),
            beside => self.applied_beside(client, beside, answer),
        }
    }

    #[track_caller]
    fn applied_beside(&mut self, client: &Client, op: Op, answer: Option<&Response>) {
        match op {
            Op::Begin(path, stamp, len) => {
                let id = match answer {
                    Some(answer) => {
                        let url = answer.must_header("location");
                        url.rsplit('/').next().expect("a text has a last part").to_owned()
                    }
                    None => self.unknown_session(client, &path).expect("it was found"),
                };
                let replaced = self.files.get(&path).map_or(0, |kept| kept.current().len);
                let reserved = (len as u64).saturating_sub(replaced);
                self.books.sessions.insert(id, Open { path, stamp, len, offset: 0, reserved });
            }
            Op::Append(id, len) => self.appended(client, &id, len, answer),
            Op::Abort(id) | Op::Expire(id) => {
                self.books.sessions.remove(&id).expect("a known session");
                self.books.given_up.push(id);
            }
            Op::Grant(ref path) | Op::Link(ref path) => {
                let share = match answer {
                    Some(answer) => answer.json(),
                    None => self
                        .unknown_share(client, path, matches!(op, Op::Link(_)))
                        .expect("it was found"),
                };
                let token = share["link"]["token"].as_str().map(ToOwned::to_owned);
                let node = self.files[path].id.clone();
                assert_eq!(text(&share, "node"), node, "{share}");
                self.books.shares.insert(text(&share, "id").to_owned(), Share { node, token });
            }
            Op::Revoke(id) => self.books.revoked(&id),
            Op::Refer(path) => drop(self.books.refs.insert(path)),
            Op::Unrefer(path) => drop(self.books.refs.remove(&path)),
            Op::CopyTree(path) => {
                let entry = answer.map_or_else(|| client.must_stat(&path), Response::json);
                self.books.trees.insert(path, text(&entry, "id").to_owned());
            }
            Op::DropTree(path) => {
                let id = self.books.trees.remove(&path).expect("a known tree");
                // In the trash it is only bytes.
                let revision = Revision { revision: 1, stamp: Stamp::new(0, 0), len: TREE_BYTES };
                self.trash.insert(id.clone(), (path, Kept { id, revisions: vec![revision] }));
            }
            Op::Work(_) => {
                let id = answer.map(|answer| text(&answer.json(), "id").to_owned());
                self.books.jobs.extend(id);
            }
            other => unreachable!("{other:?} is of files"),
        }
    }

    /// Bytes of a session were acknowledged, or found; the last ones make it a file.
    #[track_caller]
    fn appended(&mut self, client: &Client, id: &str, len: usize, answer: Option<&Response>) {
        let head = answer.is_none().then(|| upload(client, id).head().expect(200));
        let told = answer.or(head.as_ref()).expect("one of both");
        let at = offset_of(told);
        let open = self.books.sessions.get_mut(id).expect("a known session");
        if answer.is_some() {
            assert_eq!(at, open.offset + len as u64, "{told}");
        }
        open.offset = at;
        let complete = told.header("upload-complete") == Some("?1");
        assert_eq!(complete, at == open.len as u64, "full is complete: {told}");
        if !complete {
            return;
        }
        let open = self.books.sessions.remove(id).expect("a known session");
        let entry = client.stat(&open.path);
        if answer.is_some() && entry.outcome() == Outcome::Unknown {
            // Killed before what it became could be asked for: the answer to the piece said it.
            let said = json!({"id": told.must_header("larder-file-id"), "size": at,
                "revision": told.must_header("larder-revision").parse::<u64>().ok()});
            return self.add_upload(open, &said);
        }
        self.add_upload(open, &entry.expect(200).json());
    }

    #[track_caller]
    fn add_upload(&mut self, open: Open, entry: &Value) {
        assert_eq!(number(entry, "size"), open.len as u64, "{entry}");
        let Open { path, stamp, len, .. } = open;
        let revision = Revision { revision: number(entry, "revision"), stamp, len: len as u64 };
        self.add(path, entry, revision);
    }

    #[track_caller]
    fn add(&mut self, path: String, entry: &Value, revision: Revision) {
        let id = text(entry, if entry.get("id").is_some() { "id" } else { "file_id" }).to_owned();
        let kept =
            self.files.entry(path).or_insert_with(|| Kept { id: id.clone(), revisions: vec![] });
        assert_eq!(kept.id, id, "an overwrite keeps the node");
        let last = kept.revisions.last().map_or(0, |r| r.revision);
        assert!(revision.revision > last, "{revision:?} comes after {last}");
        kept.revisions.push(revision);
    }

    /// Demands exactly the acknowledged state; `trash` is the whole list of the space.
    #[track_caller]
    pub fn verify(&self, client: &Client, trash: &[Value], depth: Depth) {
        assert!(self.pending.is_none(), "{:?} is not resolved", self.pending);
        let listed = client.list_all(&self.dir);
        let path_of = |entry: &Value| text(entry, "path").trim_start_matches('/').to_owned();
        let mut found: Vec<String> = listed.iter().map(path_of).collect();
        let mut wanted: Vec<String> = self.files.keys().chain(&self.dirs).cloned().collect();
        wanted.extend(self.books.verify_trees(client, self.writer));
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "what is in the directory of writer {}", self.writer);
        for (path, kept) in &self.files {
            let entry = listed.iter().find(|entry| path_of(entry) == *path).expect("it is listed");
            assert_eq!(text(entry, "id"), kept.id, "{path}");
            assert_eq!(number(entry, "size"), kept.current().len, "{path}");
            self.verify_file(client, path, kept, depth);
        }
        let prefix = format!("{}/", self.dir);
        let mut items: Vec<&str> = trash
            .iter()
            .filter(|item| text(item, "path").trim_start_matches('/').starts_with(&prefix))
            .map(|item| text(item, "id"))
            .collect();
        items.sort_unstable();
        let wanted: Vec<&str> = self.trash.keys().map(String::as_str).collect();
        assert_eq!(items, wanted, "what writer {} has in the trash", self.writer);
        self.books.verify_sessions(client, &self.dir);
        let files = self.files.values().map(|kept| (kept.id.as_str(), kept.current().stamp));
        self.books.verify_shares(client, &files.collect());
    }

    #[track_caller]
    fn verify_file(&self, client: &Client, path: &str, kept: &Kept, depth: Depth) {
        let current = kept.current();
        let answer = client.get(path).expect(200);
        assert_eq!(identify(&answer.body), Ok(current.stamp), "bytes of {path}");
        let listed = client.revisions(path);
        let found: Vec<(u64, u64)> =
            listed.iter().map(|r| (number(r, "revision"), number(r, "size"))).collect();
        let wanted: Vec<(u64, u64)> =
            kept.revisions.iter().rev().map(|r| (r.revision, r.len)).collect();
        assert_eq!(found, wanted, "revisions of {path}");
        if depth == Depth::Everything {
            for old in &kept.revisions {
                let answer = client.get_revision(path, old.revision).expect(200);
                assert_eq!(identify(&answer.body), Ok(old.stamp), "revision of {path}: {old:?}");
            }
        }
    }
}

impl Kept {
    #[track_caller]
    fn find(&self, revision: u64) -> &Revision {
        let found = self.revisions.iter().find(|r| r.revision == revision);
        found.unwrap_or_else(|| panic!("no revision {revision} in {self:?}"))
    }
}

/// The trash item of a node, or the answer that shows why it cannot be known.
fn trash_item(client: &Client, id: &str) -> Result<String, Response> {
    let mut cursor = String::new();
    loop {
        let target = format!("/v1/spaces/home/trash?{cursor}");
        let answer = client.send("GET", &target, &[], None);
        if answer.outcome() != Outcome::Done {
            return Err(answer);
        }
        let page = answer.json();
        let lists = page.as_object().into_iter().flatten().filter_map(|(_, v)| v.as_array());
        if let Some(item) = lists.flatten().find(|item| item["id"] == id) {
            return Ok(text(item, "item").to_owned());
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("cursor={}", encode(next)),
            None => return Err(Response::lost(format!("{id} is not in the trash"))),
        }
    }
}
