//! The order of what the kernel is asked to do: data sync, then metadata sync, then the answer.
//!
//! The server runs under `strace`; between the request and the answer of each kind of write,
//! every file that was written to must have been synced, the log last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use larder_e2e::{
    client::{Client, Response, text},
    server::{Options, Server},
    stamp::Stamp,
    tool::{self, run, skip},
    tus::{self, Upload},
};
use serde_json::json;

/// What of a trace matters here.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    /// Bytes of a file have been handed to the kernel.
    Write(String),
    /// A name has been made or changed in a directory.
    Name(String),
    /// A sync of a file or directory has begun; what was written before it will be durable.
    SyncBegins(u32, String),
    /// A sync of this thread has ended well.
    SyncEnds(u32),
    /// A success has been handed to a socket.
    Answer,
}

/// The path that `strace -y` gives for the first descriptor of a call.
fn path_of(call: &str) -> Option<String> {
    let (_, rest) = call.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    Some(path.to_owned())
}

/// The quoted words of a call.
fn quoted(call: &str) -> Vec<&str> {
    call.split('"').skip(1).step_by(2).collect()
}

fn parent(path: &str) -> String {
    Path::new(path).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned()
}

/// Reads one line of a trace.
fn read(line: &str, data: &str) -> Vec<Event> {
    let Some((thread, call)) = line.split_once(' ') else { return Vec::new() };
    let (Ok(thread), call) = (thread.parse::<u32>(), call.trim_start()) else { return Vec::new() };
    let failed = call.contains(" = -1 ");
    let unfinished = call.contains("<unfinished");
    let ours = |path: &str| path.starts_with(data);
    if let Some(resumed) = call.strip_prefix("<... ") {
        let sync = resumed.starts_with("fsync") || resumed.starts_with("fdatasync");
        return if sync && !failed { vec![Event::SyncEnds(thread)] } else { Vec::new() };
    }
    let name = call.split('(').next().unwrap_or_default();
    match name {
        "fsync" | "fdatasync" => {
            let Some(path) = path_of(call).filter(|path| ours(path)) else { return Vec::new() };
            let mut events = vec![Event::SyncBegins(thread, path)];
            if !unfinished && !failed {
                events.push(Event::SyncEnds(thread));
            }
            events
        }
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "sendmsg" => {
            match path_of(call) {
                Some(path) if ours(&path) && !failed => vec![Event::Write(path)],
                _ if call.contains("\"HTTP/1.1 2") => vec![Event::Answer],
                _ => Vec::new(),
            }
        }
        "rename" | "renameat" | "renameat2" | "link" | "linkat" | "mkdir" | "mkdirat" => {
            let target = quoted(call).last().copied().unwrap_or_default();
            let named = ours(target) && !failed;
            if named { vec![Event::Name(parent(target))] } else { Vec::new() }
        }
        _ => Vec::new(),
    }
}

/// What the trace shows between a request and its answer.
struct Trace {
    file: std::path::PathBuf,
    data: String,
}

impl Trace {
    /// Waits until the server does nothing by itself: at its start it prepares files.
    fn wait_for_rest(&self) {
        let mut before = 0;
        let quiet = || {
            std::thread::sleep(Duration::from_millis(500));
            let now = fs::metadata(&self.file).unwrap().len();
            std::mem::replace(&mut before, now) == now
        };
        assert!(tool::wait_until(Duration::from_secs(30), quiet), "it never rests");
    }

    /// Does `step`, and gives what happened until its answer was sent.
    #[track_caller]
    fn of(&self, step: impl FnOnce() -> Response) -> Vec<Event> {
        let before = fs::metadata(&self.file).unwrap().len() as usize;
        let answer = step();
        assert!((200..300).contains(&answer.status), "{answer}");
        let mut events = Vec::new();
        let complete = tool::wait_until(Duration::from_secs(10), || {
            let text =
                String::from_utf8_lossy(&fs::read(&self.file).unwrap()[before..]).into_owned();
            events = text.lines().flat_map(|line| read(line, &self.data)).collect();
            events.contains(&Event::Answer)
        });
        assert!(complete, "no answer in the trace: {events:?}");
        events
    }
}

/// Asserts that what was written up to the answer was synced, and data before the log; which
/// files and directories were synced, in order.
#[track_caller]
fn durable(what: &str, events: &[Event]) -> Vec<String> {
    // Of each file and directory, whether something in it is not durable yet.
    let mut dirty: BTreeSet<String> = BTreeSet::new();
    let mut running: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let mut synced: Vec<String> = Vec::new();
    let relevant = |path: &str| is_log(path) || is_data(path);
    for event in events {
        match event {
            Event::Write(path) | Event::Name(path) if relevant(path) => {
                if is_log(path) {
                    let data: Vec<&String> = dirty.iter().filter(|p| is_data(p)).collect();
                    assert!(
                        data.is_empty(),
                        "{what}: the log is written before {data:?} is synced"
                    );
                }
                dirty.insert(path.clone());
            }
            Event::Write(_) | Event::Name(_) => {}
            Event::SyncBegins(thread, path) => {
                let covered = dirty.iter().filter(|p| *p == path).cloned().collect();
                running.insert(*thread, covered);
                synced.push(path.clone());
            }
            Event::SyncEnds(thread) => {
                for path in running.remove(thread).unwrap_or_default() {
                    dirty.remove(&path);
                }
            }
            Event::Answer => break,
        }
    }
    assert!(dirty.is_empty(), "{what}: answered before {dirty:?} was synced: {events:?}");
    synced
}

fn is_log(path: &str) -> bool {
    path.contains("/log")
}

fn is_data(path: &str) -> bool {
    path.contains("/chunks")
}

/// Asserts the order up to the answer, and that the log was synced last.
#[track_caller]
fn in_order(what: &str, events: &[Event], chunks: bool) {
    let synced = durable(what, events);
    let log = synced.iter().rposition(|path| is_log(path));
    let data = synced.iter().rposition(|path| is_data(path));
    assert!(log.is_some(), "{what}: answered without a sync of the log: {events:?}");
    assert_eq!(data.is_some(), chunks, "{what}: syncs of data: {synced:?}");
    assert!(data < log, "{what}: data before metadata: {synced:?}");
}

/// Asserts how often the log and the files of chunks were synced up to the answer: that is what
/// an operation costs. A new chunk also takes one sync of each directory that got its name.
#[track_caller]
fn costs(what: &str, events: &[Event], commits: RangeInclusive<usize>, chunks: usize) {
    let synced = durable(what, events);
    let log = synced.iter().filter(|path| is_log(path)).count();
    let (dirs, files): (Vec<&String>, Vec<&String>) =
        synced.iter().filter(|path| is_data(path)).partition(|path| Path::new(path).is_dir());
    assert!(commits.contains(&log), "{what}: {log} commits, not {commits:?}: {synced:?}");
    assert_eq!(files.len(), chunks, "{what}: syncs of chunks: {synced:?}");
    assert!(dirs.len() <= 2 * chunks, "{what}: syncs of directories: {synced:?}");
}

/// A server whose calls are written down.
fn traced(dir: &Path) -> Result<(Server, Trace), String> {
    let strace = tool::which("strace").ok_or("strace is not installed")?;
    run("strace", ["-o", "/dev/null", "true"])?;
    let file = dir.join("trace");
    let calls = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,\
                 rename,renameat,renameat2,link,linkat,mkdir,mkdirat";
    let (strace, trace) = (strace.to_string_lossy(), file.to_string_lossy());
    let words = [&strace, "-D", "-qq", "-f", "-y", "-s", "200", "-e", calls, "-o", &trace];
    let server = Options::default().under(words).start();
    let data = server.data().to_string_lossy().into_owned();
    Ok((server, Trace { file, data }))
}

#[test]
fn every_write_is_durable_before_it_is_answered() {
    let _alone = tool::heavy();
    let dir = tempfile::tempdir().unwrap();
    let (server, trace) = match traced(dir.path()) {
        Ok(traced) => traced,
        Err(why) => return skip("order of syncs", why),
    };
    let client = server.client();
    client.put("warm-up", &[1; 300_000]).expect(201);
    trace.wait_for_rest();
    let small = || Stamp::new(1, 1).body(900);
    let large = || Stamp::new(1, 2).body(700_000);
    type Step<'a> = Box<dyn FnOnce(&Client) -> Response + 'a>;
    let steps: Vec<(&str, bool, Step<'_>)> = vec![
        ("mkdir", false, Box::new(|c| c.mkdir("d"))),
        ("small put", false, Box::new(|c| c.put("d/small", &small()))),
        ("large put", true, Box::new(|c| c.put("d/large", &large()))),
        ("small overwrite", false, Box::new(|c| c.put("d/small", b"other"))),
        ("large overwrite", true, Box::new(|c| c.put("d/large", &large()))),
        (
            "large put of unknown length",
            true,
            Box::new(|c| c.send_chunked("PUT", &c.at("files", "d/chunked"), &[], &large(), 9000)),
        ),
        ("restore of a revision", false, Box::new(|c| c.restore_revision("d/large", 1))),
        ("delete of a revision", false, Box::new(|c| c.rm_revision("d/large", 1))),
        ("copy", false, Box::new(|c| c.cp("d/large", "d/copy", false))),
        ("move", false, Box::new(|c| c.mv("d", "e", false))),
        ("new space", false, Box::new(|c| c.make_space("made", "project", &json!({})))),
    ];
    for (what, chunks, step) in steps {
        in_order(what, &trace.of(|| step(&client)), chunks);
    }
    let id = text(&client.must_stat("e"), "id").to_owned();
    in_order("delete", &trace.of(|| client.rm("e")), false);
    let item = client.trash_item(&id).unwrap();
    in_order("restore", &trace.of(|| client.restore(&item, &json!({}))), false);
    client.rm("e").expect(204);
    let item = client.trash_item(&id).unwrap();
    let purge = trace.of(|| client.purge(&item));
    // The job behind it may sync other things at once; the log must have been synced anyway.
    let answer = purge.iter().position(|event| *event == Event::Answer).unwrap();
    let log = |event: &Event| matches!(event, Event::SyncBegins(_, path) if path.contains("/log"));
    assert!(purge[..answer].iter().any(log), "purge: {purge:?}");
}

#[test]
fn an_upload_session_costs_one_commit_one_sync_per_piece_and_one_commit_to_complete() {
    let _alone = tool::heavy();
    let dir = tempfile::tempdir().unwrap();
    let (server, trace) = match traced(dir.path()) {
        Ok(traced) => traced,
        Err(why) => return skip("costs of sessions", why),
    };
    let client = server.client();
    client.put("warm-up", &[1; 300_000]).expect(201);
    trace.wait_for_rest();
    let body = Stamp::new(1, 3).body(900_000);
    let begin = |path: &str, length: usize| {
        let length = length.to_string();
        tus::begin(&client, &format!("path={path}"), &[("Upload-Length", &length)])
    };
    let created = |what: &str, path: &str, length: usize| {
        let mut made = None;
        let events = trace.of(|| {
            let answer = begin(path, length);
            made = Some(Upload::of(&client, &answer));
            answer
        });
        costs(what, &events, 1..=1, 0);
        made.unwrap()
    };
    let piece = |upload: &Upload, range: std::ops::Range<usize>| {
        trace.of(|| upload.patch(range.start as u64, &body[range]))
    };
    // In large pieces: each is a chunk, whose sync is all that an append costs.
    let large = created("create", "large", body.len());
    costs("append", &piece(&large, 0..300_000), 0..=0, 1);
    costs("another append", &piece(&large, 300_000..600_000), 0..=0, 1);
    costs("the last append", &piece(&large, 600_000..900_000), 1..=1, 1);
    assert!(client.get("large").expect(200).body == body);
    // Small pieces are records: their commit is their sync. The end merges them.
    let mixed = created("create", "mixed", body.len());
    costs("small append", &piece(&mixed, 0..40_000), 1..=1, 0);
    costs("small append", &piece(&mixed, 40_000..80_000), 1..=1, 0);
    costs("large append", &piece(&mixed, 80_000..800_000), 0..=0, 1);
    costs("the last append", &piece(&mixed, 800_000..900_000), 1..=2, 2);
    assert!(client.get("mixed").expect(200).body == body);
    // A small file: its completion is one commit beside that of its last bytes.
    let small = created("create", "small", 3000);
    costs("small append", &piece(&small, 0..1000), 1..=1, 0);
    costs("the last append", &piece(&small, 1000..3000), 1..=2, 0);
    costs("create an empty file", &trace.of(|| begin("empty", 0)), 1..=2, 0);
    let gone = created("create", "gone", body.len());
    costs("append", &piece(&gone, 0..300_000), 0..=0, 1);
    costs("abort", &trace.of(|| gone.delete()), 1..=1, 0);
}

#[test]
fn a_grant_a_link_a_reference_and_a_revocation_are_durable_before_they_are_answered() {
    let _alone = tool::heavy();
    let dir = tempfile::tempdir().unwrap();
    let (server, trace) = match traced(dir.path()) {
        Ok(traced) => traced,
        Err(why) => return skip("order of syncs of shares", why),
    };
    let client = server.client();
    client.make_user("ann");
    client.mkdir("d").expect(201);
    trace.wait_for_rest();
    let share = |more: serde_json::Value| {
        let mut made = String::new();
        let events = trace.of(|| {
            let mut body = more;
            body["space"] = json!("home");
            body["path"] = json!("d");
            let answer = client.json("POST", "/v1/shares", &body);
            text(&answer.json(), "id").clone_into(&mut made);
            answer
        });
        (made, events)
    };
    let (grant, events) = share(json!({"kind": "user", "with": "ann", "role": "viewer"}));
    costs("grant", &events, 1..=1, 0);
    let (link, events) = share(json!({"kind": "link", "role": "viewer"}));
    costs("link", &events, 1..=1, 0);
    let target = json!({"target": {"space": "home", "path": "d"}});
    let refer = || client.json("PUT", &client.at("references", "r"), &target);
    costs("reference", &trace.of(refer), 1..=1, 0);
    for (what, id) in [("revocation of a grant", grant), ("revocation of a link", link)] {
        let url = format!("/v1/shares/{id}");
        costs(what, &trace.of(|| client.send("DELETE", &url, &[], None)), 1..=1, 0);
    }
}
