//! The verbs against a server that keeps files in memory, and one that lies.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use clap::Parser as _;
use larder_base::digest::Sha256;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{Context, perform};
use crate::{
    args::Cli,
    client::{
        error::Result,
        scripted::{Reply, Seen, Server, answer},
        target::Environment,
    },
    output::Output,
};

async fn larder(server: &Server, words: &[&str]) -> Result<()> {
    let line = ["larder", "--quiet"].iter().chain(words);
    let cli = Cli::try_parse_from(line).expect("the command line is valid");
    let out = Output::new("test", &cli.global, &Environment::new());
    let context = Context { client: server.client(), out, state_dir: None };
    perform(&context, &cli.verb).await
}

/// Files and directories of one space, as a server would answer about them.
#[derive(Default)]
struct Store(Mutex<BTreeMap<String, Option<Vec<u8>>>>);

impl Store {
    fn entry(path: &str, content: Option<&Vec<u8>>) -> serde_json::Value {
        match content {
            None => json!({ "path": path, "kind": "dir", "size": 0, "etag": "d" }),
            Some(bytes) => {
                let digest = Sha256::of(bytes).to_string();
                let (size, etag) = (bytes.len(), &digest[..8]);
                json!({
                    "path": path, "kind": "file", "size": size, "etag": etag, "sha256": digest
                })
            }
        }
    }

    fn reply(&self, request: &Seen) -> Vec<u8> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let path = percent_decode_str(path).decode_utf8().expect("UTF-8");
        let rest = path.strip_prefix("/v1/spaces/home/").expect("a call of the home space");
        let (collection, path) = rest.split_once('/').expect("a collection and a path");
        let mut store = self.0.lock().expect("lock");
        let ok = |value: serde_json::Value| answer(200, "", value.to_string().as_bytes());
        let missing = || answer(404, "", b"{\"code\":\"not_found\"}");
        match (request.method.as_str(), collection) {
            ("PUT", "files") => {
                let content = Some(request.body.clone());
                let entry = Self::entry(path, content.as_ref());
                store.insert(path.to_owned(), content);
                ok(entry)
            }
            ("PUT", "dirs") => {
                store.insert(path.to_owned(), None);
                ok(Self::entry(path, None))
            }
            ("GET", "files") => match store.get(path) {
                Some(Some(bytes)) => {
                    let etag = &Sha256::of(bytes).to_string()[..8];
                    answer(200, &format!("etag: \"{etag}\"\r\n"), bytes)
                }
                _ => missing(),
            },
            ("GET", "stat") => match store.get(path) {
                Some(content) => ok(Self::entry(path, content.as_ref())),
                None if store.keys().any(|key| key.starts_with(&format!("{path}/"))) => {
                    ok(Self::entry(path, None))
                }
                None => missing(),
            },
            // Two entries a page, so that cursors matter.
            ("GET", "list") => {
                let after = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
                let after = after.map(|text| {
                    percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
                });
                let prefix = format!("{path}/");
                let mut found = store.iter().filter(|(key, _)| {
                    key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after)
                });
                let page: Vec<_> = found.by_ref().take(2).collect();
                let cursor = page.last().map(|(key, _)| (*key).clone());
                let more = found.next().is_some();
                let entries: Vec<_> =
                    page.iter().map(|(key, content)| Self::entry(key, content.as_ref())).collect();
                ok(match cursor.filter(|_| more) {
                    Some(cursor) => json!({ "entries": entries, "cursor": cursor }),
                    None => json!({ "entries": entries }),
                })
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    fn serve() -> (Arc<Self>, Server) {
        let store = Arc::new(Self::default());
        let kept = Arc::clone(&store);
        (store, Server::start(move |_, request| Reply::Answer(kept.reply(request))))
    }

    fn paths(&self) -> Vec<String> {
        self.0.lock().expect("lock").keys().cloned().collect()
    }
}

fn tree(path: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut stack = vec![path.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).expect("list") {
            let local = entry.expect("entry").path();
            let name = local.strip_prefix(path).expect("below").to_str().expect("UTF-8").to_owned();
            if local.is_dir() {
                found.insert(name, None);
                stack.push(local);
            } else {
                found.insert(name, Some(fs::read(local).expect("read")));
            }
        }
    }
    found
}

fn str_of(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_tree_comes_back_as_it_went_up() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    fs::create_dir_all(source.join("a b/\u{e9}mpty")).expect("mkdir");
    fs::create_dir_all(source.join("deep/er")).expect("mkdir");
    fs::write(source.join("zero"), "").expect("write");
    fs::write(source.join("deep/er/100%?#"), "odd name").expect("write");
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 241) as u8).collect();
    fs::write(source.join("a b/large"), large).expect("write");
    for number in 0..100 {
        fs::write(source.join(format!("deep/{number}")), number.to_string()).expect("write");
    }
    let (_, server) = Store::serve();
    larder(&server, &["put", "-r", str_of(&source), "home:/dst", "--parallel", "8"])
        .await
        .expect("put");
    larder(&server, &["get", "-r", "home:/dst/", str_of(&copy), "--parallel", "8"])
        .await
        .expect("get");
    assert!(tree(&source) == tree(&copy), "the trees differ");
}

#[tokio::test]
async fn files_go_where_cp_would_put_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&one, "1").expect("write");
    fs::create_dir(&two).expect("mkdir");
    fs::write(two.join("three"), "3").expect("write");
    let (store, server) = Store::serve();
    for words in [
        &["put", str_of(&one), "home:/name"][..],
        &["put", str_of(&one), "home:/into/"],
        &["put", str_of(&one), "home:"],
        &["put", "-r", str_of(&one), str_of(&two), "home:/both"],
        &["put", "-r", str_of(&two), "home:/tree/"],
    ] {
        larder(&server, words).await.expect("put");
    }
    let expected = ["both/one", "both/two/three", "into/one", "name", "one", "tree/three"];
    assert_eq!(store.paths(), expected);

    let out = dir.path().join("out");
    fs::create_dir(&out).expect("mkdir");
    larder(&server, &["get", "home:/name", str_of(&out)]).await.expect("get into");
    larder(&server, &["get", "home:/name", str_of(&out.join("x"))]).await.expect("get as");
    larder(&server, &["get", "-r", "home:/both", "home:/name", str_of(&out.join("y"))])
        .await
        .expect("get several");
    let found: Vec<_> = tree(&out).into_keys().collect();
    let expected =
        ["name", "x", "y", "y/both", "y/both/one", "y/both/two", "y/both/two/three", "y/name"];
    assert_eq!(found, expected);

    let error = larder(&server, &["put", str_of(&two), "home:/x"]).await.expect_err("no -r");
    assert_eq!(error.exit_code(), 2);
    let error = larder(&server, &["get", "home:/missing", str_of(&out)]).await;
    assert_eq!(error.expect_err("missing").exit_code(), 3);
}

#[tokio::test]
async fn a_server_that_stored_other_bytes_fails_the_upload() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    fs::write(&small, "abc").expect("write");
    fs::write(&large, vec![1; 1 << 20]).expect("write");
    let server = Server::start(|_, request| {
        let sha256 = Sha256::of(b"something else").to_string();
        let body = json!({ "size": request.body.len(), "sha256": sha256 }).to_string();
        Reply::Answer(answer(201, "", body.as_bytes()))
    });
    for file in [&small, &large] {
        let error = larder(&server, &["put", str_of(file), "home:/x"]).await;
        assert_eq!(error.expect_err("mismatch").exit_code(), 1, "{}", file.display());
    }
    let seen = server.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("content-digest")));
}

#[tokio::test]
async fn a_damaged_download_leaves_no_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for size in [10, 1 << 20] {
        // The header promises the digest of other bytes.
        let flipped = Server::start(move |_, _| {
            let mut body = vec![7; size];
            let headers = "repr-digest: sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:\r\n";
            body[size / 2] ^= 1;
            Reply::Answer(answer(200, headers, &body))
        });
        let cut = Server::start(move |_, _| {
            let mut bytes = answer(200, "", &vec![7; size]);
            bytes.truncate(bytes.len() - 1);
            Reply::AnswerAndClose(bytes)
        });
        for server in [flipped, cut] {
            let local = dir.path().join("file");
            let error = larder(&server, &["get", "home:/x", str_of(&local)]).await;
            assert_eq!(error.expect_err("damaged").exit_code(), 1);
            assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
        }
    }
}

#[tokio::test]
async fn one_bad_file_does_not_stop_the_others_but_wrong_credentials_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for number in 0..200 {
        fs::write(dir.path().join(number.to_string()), "x").expect("write");
    }
    let refuse = |status: u16, code: &'static str| {
        Server::start(move |_, request| {
            let body = if request.path.contains("/7?") || code == "unauthenticated" {
                return Reply::Answer(answer(
                    status,
                    "",
                    format!("{{\"code\":\"{code}\"}}").as_bytes(),
                ));
            } else {
                json!({ "size": 1 }).to_string()
            };
            Reply::Answer(answer(201, "", body.as_bytes()))
        })
    };
    let words = ["put", "-r", str_of(dir.path()), "home:/x", "--parallel", "4"];
    let server = refuse(423, "locked");
    assert_eq!(larder(&server, &words).await.expect_err("one failed").exit_code(), 5);
    assert_eq!(server.seen().len(), 200);
    let server = refuse(401, "unauthenticated");
    assert_eq!(larder(&server, &words).await.expect_err("all would").exit_code(), 4);
    assert!(server.seen().len() < 20, "{} requests", server.seen().len());
}

#[tokio::test]
async fn check_fails_when_something_was_found() {
    let report = |body: &'static str| {
        Server::start(move |_, _| Reply::Answer(answer(200, "", body.as_bytes())))
    };
    let clean = report(r#"{"ok":true,"findings":[],"counts":{"files":3}}"#);
    larder(&clean, &["check", "--json"]).await.expect("clean");
    let dirty = report(r#"{"ok":false,"findings":[{"invariant":"Q1","detail":"x"}]}"#);
    let error = larder(&dirty, &["check", "--json"]).await.expect_err("a finding");
    assert_eq!((error.exit_code(), error.to_string().as_str()), (1, "1 finding"));
}
