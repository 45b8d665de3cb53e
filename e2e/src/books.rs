//! What one writer has been told of its upload sessions, shares, references, copied directories
//! and jobs: the parts of a [`crate::ledger::Ledger`] beside its files.
//!
//! Promises: every look demands exactly what was acknowledged: an open session is there with its
//! offset and its reservation and no other is; a grant or link that was acknowledged works, and
//! one whose revocation was acknowledged does not.
//! Not here: the files, and what an operation does to these books (`ledger`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use crate::{
    client::{Client, encode, number, text},
    stamp::{Stamp, identify},
    tool,
    tus::{Upload, offset_of},
};

/// Whom everything is shared with.
pub const FRIEND: &str = "friend";

/// Files of a directory that is copied as one: more than one transaction takes.
pub const TREE_FILES: usize = 40;

/// Bytes of each.
const TREE_FILE_BYTES: usize = 300;

/// Bytes of such a directory.
pub const TREE_BYTES: u64 = (TREE_FILES * TREE_FILE_BYTES) as u64;

/// Stamps of the files of trees begin here.
const TREE_SEQ: u32 = 1 << 24;

/// How long a job may go on after it was told of.
const JOB_PATIENCE: Duration = Duration::from_secs(60);

/// Makes the user that everything is shared with.
#[track_caller]
pub fn befriend(client: &Client) {
    client.make_user(FRIEND);
}

/// An upload session that is open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Where its file goes.
    pub path: String,
    /// What is sent.
    pub stamp: Stamp,
    /// How much of it.
    pub len: usize,
    /// How much was acknowledged.
    pub offset: u64,
    /// What it holds of the quota.
    pub reserved: u64,
}

/// A grant or a link.
#[derive(Clone, Debug)]
pub struct Share {
    /// The node that is shared.
    pub node: String,
    /// The token of a link.
    pub token: Option<String>,
}

/// What a writer has beside files.
#[derive(Debug, Default)]
pub struct Books {
    /// Open sessions, by id.
    pub sessions: BTreeMap<String, Open>,
    /// Sessions that were given up.
    pub given_up: Vec<String>,
    /// By id.
    pub shares: BTreeMap<String, Share>,
    /// Tokens that must not work any more.
    pub dead_links: Vec<String>,
    /// References, by path.
    pub refs: BTreeSet<String>,
    /// Directories of [`TREE_FILES`] files, by path, with their ids.
    pub trees: BTreeMap<String, String>,
    /// Jobs that were started.
    pub jobs: Vec<String>,
}

/// The upload session `id`, as this client sees it.
pub fn upload(client: &Client, id: &str) -> Upload {
    Upload::at(client, &format!("/v1/uploads/{id}"))
}

/// Fills the new directory `path` with the files of a tree.
#[track_caller]
pub fn plant(client: &Client, writer: u32, path: &str) {
    client.mkdir(path).expect(201);
    for number in 0..TREE_FILES {
        let body = tree_stamp(writer, number).body(TREE_FILE_BYTES);
        client.put(&format!("{path}/x{number}"), &body).expect(201);
    }
}

fn tree_stamp(writer: u32, number: usize) -> Stamp {
    Stamp::new(writer, TREE_SEQ + number as u32)
}

/// The shares of what stands at `path`, whoever made them.
#[track_caller]
pub fn shares_of(client: &Client, path: &str) -> Vec<Value> {
    let space = encode(client.space_name());
    client.pages(&format!("/v1/shares?space={space}&path={}", encode(path)))
}

fn friend(client: &Client) -> Client {
    Client::new(client.addr(), FRIEND, &format!("{FRIEND}-password"))
}

impl Books {
    /// Bytes that open sessions hold.
    pub fn reserved(&self) -> u64 {
        self.sessions.values().map(|open| open.reserved).sum()
    }

    /// Whether `node` is shared with the friend.
    pub fn grant_of(&self, node: &str) -> Option<&String> {
        let mut grants = self.shares.iter().filter(|(_, share)| share.token.is_none());
        grants.find(|(_, share)| share.node == node).map(|(id, _)| id)
    }

    /// The shares of `node` are gone with it.
    pub fn forget_node(&mut self, node: &str) {
        let gone = self.shares.extract_if(.., |_, share| share.node == node);
        self.dead_links.extend(gone.filter_map(|(_, share)| share.token));
    }

    /// A share was revoked.
    pub fn revoked(&mut self, id: &str) {
        let share = self.shares.remove(id).expect("a known share");
        self.dead_links.extend(share.token);
    }

    /// Jobs that were acknowledged come to their end, whatever has happened.
    #[track_caller]
    pub fn settle_jobs(&mut self, client: &Client) {
        for id in self.jobs.drain(..) {
            let mut last = Value::Null;
            let ended = tool::wait_until(JOB_PATIENCE, || {
                let target = format!("/v1/admin/jobs/{id}");
                last = client.send("GET", &target, &[], None).expect(200).json();
                !last["finished"].is_null()
            });
            assert!(ended && last["state"] == "done", "a job that was started: {last}");
        }
    }

    /// The open sessions are those that were acknowledged, each at its offset; those that were
    /// given up are gone. `dir` is the writer's.
    #[track_caller]
    pub fn verify_sessions(&self, client: &Client, dir: &str) {
        let prefix = format!("{dir}/");
        let mut found: Vec<(String, u64, u64)> = client
            .pages("/v1/uploads")
            .iter()
            .filter(|upload| text(upload, "path").trim_start_matches('/').starts_with(&prefix))
            .inspect(|upload| assert_eq!(upload["state"], "open", "{upload}"))
            .map(|upload| {
                let id = text(upload, "id").to_owned();
                (id, number(upload, "offset"), number(upload, "length"))
            })
            .collect();
        found.sort();
        let wanted: Vec<(String, u64, u64)> = self
            .sessions
            .iter()
            .map(|(id, open)| (id.clone(), open.offset, open.len as u64))
            .collect();
        assert_eq!(found, wanted, "open sessions of {dir}");
        for (id, open) in &self.sessions {
            assert_eq!(offset_of(&upload(client, id).head().expect(200)), open.offset, "{open:?}");
        }
        for id in &self.given_up {
            upload(client, id).head().expect_any(&[404, 410]);
        }
    }

    /// Shares of these files, by node with the current stamp, work; nothing else of the writer's
    /// is shared.
    #[track_caller]
    pub fn verify_shares(&self, client: &Client, files: &BTreeMap<&str, Stamp>) {
        let (friend, guest) = (friend(client), Client::anonymous(client.addr()));
        for (node, stamp) in files {
            let answer = friend.send("GET", &format!("/v1/files/{node}"), &[], None);
            if self.grant_of(node).is_none() {
                assert_eq!(answer.status, 404, "{node} is not shared: {answer}");
                continue;
            }
            assert_eq!(identify(&answer.expect(200).body), Ok(*stamp), "by a grant");
        }
        for (id, share) in &self.shares {
            let target = format!("/v1/shares/{id}");
            let told = client.send("GET", &target, &[], None).expect(200).json();
            assert_eq!(text(&told, "node"), share.node, "{told}");
            let Some(token) = &share.token else { continue };
            let answer = guest.send("GET", &format!("/v1/links/{token}/files/"), &[], None);
            match files.get(&*share.node) {
                Some(stamp) => {
                    assert_eq!(identify(&answer.expect(200).body), Ok(*stamp), "by a link");
                }
                None => drop(answer.expect(404)),
            }
        }
        for token in self.dead_links.iter().rev().take(8) {
            guest.send("GET", &format!("/v1/links/{token}/files/"), &[], None).expect(404);
        }
    }

    /// The trees are whole, and references lead to the first of them. Answers all paths that
    /// they are listed with.
    #[track_caller]
    pub fn verify_trees(&self, client: &Client, writer: u32) -> Vec<String> {
        let mut paths: Vec<String> = self.refs.iter().cloned().collect();
        for tree in self.trees.keys() {
            paths.push(tree.clone());
            paths.extend((0..TREE_FILES).map(|number| format!("{tree}/x{number}")));
        }
        for place in self.trees.keys().chain(&self.refs) {
            for number in [0, TREE_FILES / 2, TREE_FILES - 1] {
                let body = client.get(&format!("{place}/x{number}")).expect(200).body;
                assert_eq!(identify(&body), Ok(tree_stamp(writer, number)), "{place}");
            }
        }
        paths
    }
}
