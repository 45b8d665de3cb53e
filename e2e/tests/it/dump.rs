//! `larder dump` and `larder load` as operators use them: under load, into other servers, and
//! through `kill -9`.
//!
//! Not here: every cut and every changed byte (tests of core).

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, number, text},
    oracle,
    server::{PASSWORD, Server, USER, cli},
    stamp::{self, Stamp},
    tool::{self, knob, say},
};

#[track_caller]
fn run(server: &Server, args: &[&str]) -> Output {
    cli(server).args(args).output().unwrap()
}

#[track_caller]
fn ok(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {:?}: {stderr}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn exits(server: &Server, code: i32, args: &[&str]) -> String {
    let output = run(server, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

fn named(server: &Server, name: &str) -> (PathBuf, String) {
    let path = server.scratch().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

/// Sizes of inline contents, of one chunk, and of what is larger than a buffer.
const SIZES: [usize; 4] = [64, 9_000, 200_000, 3_000_000];

/// What one writer has been told to be stored: path, revision, seq.
type Told = Vec<(String, u64, Stamp)>;

/// Writes, overwrites, deletes and destroys until told to stop.
fn write(client: &Client, writer: u32, stop: &AtomicBool, told: &Mutex<Told>) {
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let stamp = Stamp::new(writer, seq);
        let path = format!("w{writer}/file-{}", seq % 8);
        let body = stamp.body(SIZES[seq as usize % SIZES.len()]);
        let entry = client.put(&path, &body).expect_any(&[200, 201]).json();
        told.lock().unwrap().push((path, number(&entry, "revision"), stamp));
        if seq % 5 == 0 {
            let gone = format!("gone-{writer}");
            client.put(&gone, &body).expect_any(&[200, 201]);
            client.rm(&gone).expect(204);
            if let Some(item) = client.trash().first() {
                // Another writer may have been faster.
                client.purge(text(item, "item"));
            }
        }
    }
}

#[test]
fn a_dump_under_load_has_all_that_was_acknowledged_and_loads_into_an_empty_server() {
    let _alone = tool::heavy();
    let source = Server::start();
    let client = source.client();
    for writer in 0..4 {
        client.mkdir_all(&format!("w{writer}")).expect(201);
    }
    let anna = client.make_user("anna");
    anna.put("hers", b"of anna").expect(201);
    let stop = AtomicBool::new(false);
    let told: Vec<Mutex<Told>> = (0..4).map(|_| Mutex::default()).collect();
    let (file, file_text) = named(&source, "dump");
    let acknowledged = thread::scope(|scope| {
        for (writer, told) in told.iter().enumerate() {
            let (client, stop) = (source.client(), &stop);
            scope.spawn(move || write(&client, writer as u32, stop, told));
        }
        let busy = || told.iter().all(|told| told.lock().unwrap().len() >= 12);
        assert!(tool::wait_until(Duration::from_secs(60), busy), "the writers write");
        let acknowledged: Vec<Told> =
            told.iter().map(|told| told.lock().unwrap().clone()).collect();
        ok(&source, &["dump", &file_text]);
        client.gc();
        stop.store(true, Ordering::Relaxed);
        acknowledged
    });
    ok(&source, &["dump", "--verify", &file_text]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody else can read it");

    let target = Server::start();
    let report: serde_json::Value =
        serde_json::from_str(&ok(&target, &["--json", "load", &file_text])).unwrap();
    assert_eq!((number(&report, "spaces"), number(&report, "users")), (2, 2), "{report}");
    let loaded = target.client();
    for (path, revision, stamp) in acknowledged.iter().flatten() {
        let got = loaded.get_revision(path, *revision).expect(200);
        assert_eq!(stamp::identify(&got.body), Ok(*stamp), "{path} revision {revision}");
    }
    let anna = anna.by_way_of(target.addr());
    assert_eq!(anna.get("hers").expect(200).body, b"of anna");
    oracle::all_is_well(&target, &loaded);
    oracle::all_is_well(&source, &client);
    // It is a server like any other: it takes writes, and starts again.
    loaded.put("w0/after", b"after").expect(201);
    let mut target = target;
    target.kill9();
    target.restart();
    let loaded = target.client();
    assert_eq!(loaded.get("w0/after").expect(200).body, b"after");
    oracle::all_is_well(&target, &loaded);
}

#[test]
fn one_space_goes_to_another_server_that_has_spaces_of_its_own() {
    let _alone = tool::heavy();
    let (source, target) = (Server::start(), Server::start());
    let project = source.client().project("plans", &serde_json::json!({}));
    for (no, size) in SIZES.into_iter().enumerate() {
        for seq in 1..4 {
            let body = Stamp::new(no as u32, seq).body(size);
            project.put(&format!("file-{no}"), &body).expect_any(&[200, 201]);
        }
    }
    project.put("deleted", b"deleted").expect(201);
    project.rm("deleted").expect(204);
    source.client().put("secret", b"not in the dump").expect(201);
    target.client().put("own", b"own").expect(201);

    let (file, file_text) = named(&source, "dump");
    ok(&source, &["dump", "--space", "plans", &file_text]);
    ok(&target, &["load", &file_text]);
    let there = target.client().in_space("plans");
    for (no, size) in SIZES.into_iter().enumerate() {
        for seq in 1..4u32 {
            let got = there.get_revision(&format!("file-{no}"), u64::from(seq)).expect(200);
            assert!(got.body == Stamp::new(no as u32, seq).body(size), "file {no}, {seq}");
        }
        let here = project.must_stat(&format!("file-{no}"));
        assert_eq!(there.must_stat(&format!("file-{no}")), here, "ids and etags too");
    }
    let item = there.trash().first().map(|item| text(item, "item").to_owned()).unwrap();
    there.restore(&item, &serde_json::json!({})).expect_any(&[200, 201]);
    assert_eq!(there.get("deleted").expect(200).body, b"deleted");
    assert_eq!(target.client().get("own").expect(200).body, b"own");
    oracle::all_is_well(&target, &target.client());

    // What is there is not overwritten; what is cut off or changed is refused.
    exits(&target, 5, &["load", &file_text]);
    let third = Server::start();
    let all = fs::read(&file).unwrap();
    let (broken, broken_text) = named(&source, "broken");
    fs::write(&broken, &all[..all.len() - 1]).unwrap();
    exits(&third, 1, &["load", &broken_text]);
    exits(&third, 1, &["dump", "--verify", &broken_text]);
    let mut changed = all.clone();
    changed[all.len() / 2] ^= 1;
    fs::write(&broken, &changed).unwrap();
    exits(&third, 1, &["load", &broken_text]);
    exits(&third, 1, &["dump", "--verify", &broken_text]);
    fs::write(&broken, b"something else").unwrap();
    exits(&third, 1, &["load", &broken_text]);
    third.client().in_space("plans").get("file-0").expect(404);
    let spaces = third.client().send("GET", "/v1/spaces", &[], None).expect(200).json();
    assert_eq!(spaces["spaces"].as_array().map(Vec::len), Some(0), "{spaces}");
    oracle::clean(&third.client());
    // Through a pipe, too.
    let mut dump = cli(&source)
        .args(["dump", "--space", "plans", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let load = cli(&third).args(["load", "-"]).stdin(dump.stdout.take().unwrap()).output().unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    assert_eq!(third.client().in_space("plans").get("file-1").expect(200).body.len(), SIZES[1]);
    oracle::all_is_well(&third, &third.client());
}

#[test]
fn a_server_that_is_killed_in_mid_load_starts_empty_and_the_next_load_succeeds() {
    let _alone = tool::heavy();
    let source = Server::start();
    let client = source.client();
    for file in 0..40u32 {
        let size = SIZES[file as usize % SIZES.len()];
        client.put(&format!("file-{file}"), &Stamp::new(file, 1).body(size)).expect(201);
    }
    let (whole, whole_text) = named(&source, "whole");
    let (one, one_text) = named(&source, "one");
    ok(&source, &["dump", &whole_text]);
    ok(&source, &["dump", "--space", "home", &one_text]);
    let space = text(&client.space(), "id").to_owned();
    for (path, argument) in [(&whole, &whole_text), (&one, &one_text)] {
        let mut target = Server::start();
        let all = fs::read(path).unwrap();
        for cut in [all.len() / 20, all.len() / 3, all.len() - 1] {
            let mut socket = upload_part(&target, &all, cut);
            target.kill9();
            drop(socket.flush());
            target.restart();
            let fresh = target.client();
            let ready = || fresh.send("GET", "/ready", &[], None).status == 200;
            assert!(tool::wait_until(Duration::from_secs(30), ready), "it becomes ready");
            let gone = fresh.send("GET", &format!("/v1/spaces/{space}"), &[], None);
            gone.expect(404);
            nothing_is_left(&target, &fresh);
        }
        ok(&target, &["load", argument]);
        let loaded = target.client().in_space(&space);
        for file in 0..40u32 {
            let got = loaded.get(&format!("file-{file}")).expect(200);
            assert_eq!(stamp::identify(&got.body), Ok(Stamp::new(file, 1)));
        }
        oracle::all_is_well(&target, &target.client());
        target.kill9();
        target.restart();
        oracle::all_is_well(&target, &target.client());
    }
}

#[track_caller]
fn nothing_is_left(server: &Server, client: &Client) {
    client.gc();
    let counts = oracle::clean(client)["counts"].clone();
    assert_eq!((number(&counts, "spaces"), number(&counts, "blobs")), (0, 0), "{counts}");
    assert!(oracle::chunk_files(server).is_empty(), "chunks are left");
}

/// Sends the first bytes of a load and waits until the server has taken them.
fn upload_part(server: &Server, all: &[u8], cut: usize) -> std::net::TcpStream {
    let client = server.client();
    let length = all.len().to_string();
    let headers = [("Content-Length", length.as_str())];
    let head = client.head_of("POST", "/v1/admin/load", &headers);
    let mut socket = std::net::TcpStream::connect(server.addr()).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&all[..cut]).unwrap();
    // What it has not taken yet it never will: that is one more way to be cut off.
    thread::sleep(Duration::from_millis(200));
    socket
}

#[test]
fn an_interrupted_dump_leaves_no_file_and_a_load_no_trace() {
    let _alone = tool::heavy();
    let mut source = Server::start();
    let client = source.client();
    for file in 0..30u32 {
        client.put(&format!("file-{file}"), &Stamp::new(file, 1).body(3_000_000)).expect(201);
    }
    let folder = source.scratch().join("dumps");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("dump");
    // A reader that takes a little, then the server goes.
    let mut dump = cli(&source)
        .args(["dump", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = dump.stdout.take().unwrap();
    let mut some = vec![0; 100_000];
    std::io::Read::read_exact(&mut pipe, &mut some).unwrap();
    source.kill9();
    drop(pipe);
    assert!(!dump.wait().unwrap().success(), "a part is never taken for the whole");
    let failed = Command::new(larder_e2e::server::binary())
        .args(["dump", file.to_str().unwrap(), "--url", "http://127.0.0.1:9"])
        .args(["--user", USER, "--password", PASSWORD])
        .output()
        .unwrap();
    assert!(!failed.status.success());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "no part of a file is left");
    source.restart();
    oracle::all_is_well(&source, &source.client());
    ok(&source, &["dump", file.to_str().unwrap()]);
    let target = Server::start();
    let all = fs::read(&file).unwrap();
    let socket = upload_part(&target, &all, all.len() / 2);
    let shut = target.client().send("GET", "/v1/me", &[], None);
    shut.expect(503);
    drop(socket);
    let opens = || target.client().send("GET", "/v1/me", &[], None).status == 200;
    assert!(tool::wait_until(Duration::from_secs(30), opens), "it is let go");
    nothing_is_left(&target, &target.client());
    ok(&target, &["load", file.to_str().unwrap()]);
    oracle::all_is_well(&target, &target.client());
}

/// How fast it is: `LARDER_E2E_DUMP_MIB=1024` for a real figure.
#[test]
fn large_instances_are_dumped_and_loaded_in_little_memory() {
    let _alone = tool::heavy();
    let (source, target) = (Server::start(), Server::start());
    let mib = knob("LARDER_E2E_DUMP_MIB", 96);
    let client = source.client();
    // Half of it in large files, half in small ones.
    for file in 0..(mib / 32) as u32 {
        client.put(&format!("large-{file}"), &Stamp::new(file, 1).body(16 << 20)).expect(201);
    }
    client.mkdir_all("small").expect(201);
    thread::scope(|scope| {
        for writer in 0..4u32 {
            let client = source.client();
            scope.spawn(move || {
                for file in 0..(mib * 4) as u32 {
                    let body = Stamp::new(writer, file).body(32 << 10);
                    client.put(&format!("small/{writer}-{file}"), &body).expect(201);
                }
            });
        }
    });
    let (file, file_text) = named(&source, "dump");
    let timed = |work: &dyn Fn()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    let dumped = timed(&|| drop(ok(&source, &["dump", &file_text])));
    let verified = timed(&|| drop(ok(&source, &["dump", "--verify", &file_text])));
    let loaded = timed(&|| drop(ok(&target, &["load", &file_text])));
    let size = fs::metadata(&file).unwrap().len() >> 20;
    let rate = |took: Duration| size as f64 / took.as_secs_f64();
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (dump_memory, load_memory) = (source.memory().1 >> 20, target.memory().1 >> 20);
    say(format_args!(
        "dump of {size} MiB ({kind}): dump {:.0} MiB/s, verify {:.0} MiB/s, load {:.0} MiB/s; \
         peak memory {dump_memory} and {load_memory} MiB",
        rate(dumped),
        rate(verified),
        rate(loaded),
    ));
    assert!(dump_memory < 256 && load_memory < 256, "{dump_memory} and {load_memory} MiB");
    let there = target.client();
    let last = there.get(&format!("small/3-{}", mib * 4 - 1)).expect(200);
    assert_eq!(stamp::identify(&last.body), Ok(Stamp::new(3, (mib * 4 - 1) as u32)));
    oracle::clean(&there);
}
