//! What must hold in every state, whatever has happened: asked from outside.
//!
//! Promises: every function either returns or fails the test with what is wrong. Nothing here
//! changes the server, except that [`collected`] collects.
//! Not here: what one run has been told ([`crate::ledger`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use crate::{
    client::{Client, number, text},
    server::Server,
    tool,
};

/// What a data folder may take beyond the bytes it refers to, once collected: the segments of
/// the log (in use and recycled), the tables with what they have not yet compacted, and a few
/// blocks of rounding per chunk. The documents state the same figure.
pub const SLACK_BYTES: u64 = 256 << 20;

/// What a chunk file may take beyond its content: its head, checksums and rounding to blocks.
pub const CHUNK_SLACK_BYTES: u64 = 64 << 10;

/// `check` finds nothing; its report.
#[track_caller]
pub fn clean(client: &Client) -> Value {
    let report = client.check();
    assert_eq!(number(&report, "violations"), 0, "check found: {report}");
    report
}

/// The tree of the space, walked directory by directory, has every node once, and a recursive
/// listing shows the same; all entries by path (O7).
#[track_caller]
pub fn tree(client: &Client) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut open = vec![String::new()];
    while let Some(dir) = open.pop() {
        for entry in client.list(&dir) {
            let path = text(&entry, "path").trim_start_matches('/').to_owned();
            let name = text(&entry, "name");
            let wanted = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            assert_eq!(path, wanted, "name and place agree: {entry}");
            assert!(ids.insert(text(&entry, "id").to_owned()), "a node twice: {entry}");
            if entry["kind"] == "dir" {
                open.push(path.clone());
            }
            assert!(found.insert(path, entry).is_none(), "a path twice in {dir}");
        }
    }
    let recursive: BTreeSet<String> = client
        .list_all("")
        .iter()
        .map(|entry| text(entry, "path").trim_start_matches('/').to_owned())
        .collect();
    let walked: BTreeSet<String> = found.keys().cloned().collect();
    assert_eq!(recursive, walked, "both ways to list show the same");
    found
}

/// The space's `live` is the sum over its tree, directories know the sums below them, and
/// nothing is reserved (O3); the tree.
#[track_caller]
pub fn conserved(client: &Client) -> BTreeMap<String, Value> {
    let entries = tree(client);
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut live = 0;
    for (path, entry) in &entries {
        if entry["kind"] == "file" {
            let size = number(entry, "size");
            live += size;
            for (at, _) in path.match_indices('/') {
                *sums.entry(&path[..at]).or_default() += size;
            }
        }
    }
    for (path, entry) in entries.iter().filter(|(_, entry)| entry["kind"] == "dir") {
        let sum = sums.get(path.as_str()).copied().unwrap_or(0);
        assert_eq!(number(entry, "size"), sum, "size of the directory {path}");
    }
    let usage = client.usage();
    assert_eq!(usage.live, live, "usage equals the recount: {usage:?}");
    // An upload that was cut off is noticed when the server next looks at its socket.
    let freed = || client.usage().reserved == 0;
    assert!(tool::wait_until(Duration::from_secs(5), freed), "reserved: {:?}", client.usage());
    entries
}

/// After a collection the disk holds what is referred to and no more than the stated slack (O4);
/// bytes on disk.
#[track_caller]
pub fn collected(server: &Server, client: &Client) -> u64 {
    client.gc();
    let counts = clean(client)["counts"].clone();
    let referenced = number(&counts, "bytes") + number(&counts, "chunks") * CHUNK_SLACK_BYTES;
    let on_disk: u64 = tool::files_below(server.data()).iter().map(|(.., bytes)| bytes).sum();
    assert!(
        on_disk <= referenced + SLACK_BYTES,
        "{on_disk} bytes on disk for {referenced} referenced and {SLACK_BYTES} of slack: {:?}",
        largest(server),
    );
    let chunks = chunk_files(server);
    let wanted = number(&counts, "chunks") as usize;
    assert_eq!(chunks.len(), wanted, "chunk files on disk and chunks referred to: {chunks:?}");
    on_disk
}

/// The files of chunks that lie in the data folder.
pub fn chunk_files(server: &Server) -> Vec<String> {
    let mut files: Vec<String> = tool::files_below(server.data())
        .into_iter()
        .map(|(path, ..)| path.to_string_lossy().into_owned())
        .filter(|path| path.contains("/chunks/"))
        .collect();
    files.sort();
    files
}

fn largest(server: &Server) -> Vec<(String, u64)> {
    let mut files: Vec<(String, u64)> = tool::files_below(server.data())
        .into_iter()
        .map(|(path, _, bytes)| (path.to_string_lossy().into_owned(), bytes))
        .collect();
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    files.truncate(12);
    files
}

/// Everything that must hold when nobody writes: `check`, the tree, the sums, the disk.
#[track_caller]
pub fn all_is_well(server: &Server, client: &Client) {
    clean(client);
    conserved(client);
    collected(server, client);
}
