//! What one writer has been told, kept outside of the server it talks to (oracle O2).
//!
//! Promises: after a crash, [`Ledger::resolve`] finds out what the one unanswered operation came
//! to, and [`Ledger::verify`] then demands exactly the acknowledged state: every file, revision
//! and trash item, with its bytes. An operation that took effect by half fails there.
//! Relies on: every writer having a directory of its own, so that each history is a sequence.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    client::{Client, Outcome, Response, number, text},
    stamp::{RECORD, Stamp, identify},
    tool::Dice,
};

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
            pending: None,
            acks: 0,
        }
    }

    /// Makes the writer's directory.
    #[track_caller]
    pub fn begin(&self, client: &Client) {
        client.mkdir(&self.dir).expect(201);
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

    /// Bytes of current revisions, and of everything kept beside them.
    pub fn usage(&self) -> (u64, u64) {
        let all = |kept: &Kept| kept.revisions.iter().map(|r| r.len).sum::<u64>();
        let live: u64 = self.files.values().map(|kept| kept.current().len).sum();
        let files: u64 = self.files.values().map(all).sum();
        let trash: u64 = self.trash.values().map(|(_, kept)| all(kept)).sum();
        (live, files - live + trash)
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
        match dice.below(20) {
            8 | 9 if known => Op::Delete(path),
            10 | 11 if known && !self.files.contains_key(&other) => Op::Move(path, other),
            10 | 11 if !known && self.files.contains_key(&other) => Op::Move(other, path),
            12 if known && !self.files.contains_key(&other) => Op::Copy(path, other),
            13 | 14 if !trashed.is_empty() => {
                let id = dice.pick(&trashed).clone();
                if self.files.contains_key(&self.trash[&id].0) {
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

    /// Whether an operation has not been answered.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Finds out whether the unanswered operation took effect; whether it did, if there was one.
    #[track_caller]
    pub fn resolve(&mut self, client: &Client, trash: &[Value]) -> Option<bool> {
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
        };
        if applied {
            self.applied(client, None);
        } else {
            self.pending = None;
        }
        Some(applied)
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
            Op::Purge(id) => drop(self.trash.remove(&id)),
            Op::DeleteRevision(path, revision) => {
                let kept = self.files.get_mut(&path).expect("a known file");
                kept.revisions.retain(|r| r.revision != revision);
            }
            Op::Mkdir(path) => self.dirs.push(path),
        }
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
            Some(next) => cursor = format!("cursor={}", crate::client::encode(next)),
            None => return Err(Response::lost(format!("{id} is not in the trash"))),
        }
    }
}
