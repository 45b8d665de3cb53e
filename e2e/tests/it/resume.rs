//! The command line's uploads of large files: gone on with after broken connections, after an end
//! of the server, and after an end of the command itself.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use larder_base::digest::Sha256;
use larder_e2e::{
    client::Client,
    oracle,
    proxy::{Proxy, Step},
    server::{Options, Server, cli},
    stamp::Stamp,
    tool::{self, Dice, knob},
};

use crate::tusclients::trouble;

/// The command, as a user of this server and in its folder, by way of a proxy.
fn larder(server: &Server, proxy: &Proxy, args: &[&str]) -> Command {
    let mut command = cli(server);
    command
        .args(args)
        .current_dir(server.scratch())
        .env("LARDER_URL", format!("http://{}", proxy.addr()))
        .env("XDG_STATE_HOME", server.scratch().join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn file(server: &Server, name: &str, mib: u64) -> Sha256 {
    let body = Stamp::new(21, 1).body((mib << 20) as usize + 17);
    fs::write(server.scratch().join(name), &body).unwrap();
    Sha256::of(&body)
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    stderr
}

#[track_caller]
fn arrived(server: &Server, client: &Client, path: &str, digest: Sha256) {
    assert_eq!(client.revisions(path).len(), 1, "{path}");
    assert_eq!(Sha256::of(&client.get(path).expect(200).body), digest, "{path}: bytes differ");
    let states = server.scratch().join("state/larder/uploads");
    let left = fs::read_dir(states).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no state is left behind");
    assert!(client.pages("/v1/uploads").is_empty(), "no upload is left behind");
}

/// Waits until the proxy has passed so much on, while the command runs.
#[track_caller]
fn wait_for(proxy: &Proxy, child: &mut Child, bytes: u64) {
    let started = Instant::now();
    while proxy.sent() < bytes {
        assert!(child.try_wait().unwrap().is_none(), "the command ended too soon");
        assert!(started.elapsed() < Duration::from_secs(120), "nothing moves");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_large_file_gets_through_cuts_and_kills() {
    let _alone = tool::heavy();
    let mib = knob("LARDER_E2E_TUS_MIB", 24);
    let mut server = Server::start();
    let proxy = Proxy::start(server.addr());
    let digest = file(&server, "large", mib);
    proxy.plan(trouble(&mut Dice::new(Dice::seed()), mib << 20));
    let put = ["put", "--resumable-from", "1MiB", "large", "home:/in/large"];
    let mut child = larder(&server, &proxy, &put).spawn().unwrap();
    let mut kills = 0;
    while child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(2));
        if proxy.holds() {
            server.kill9();
            kills += 1;
            server.restart();
            proxy.move_to(server.addr());
        }
    }
    let stderr = succeeded(&child.wait_with_output().unwrap());
    assert_eq!((proxy.cuts(), kills), (10, 3));
    assert!(stderr.contains("trying again"), "it says what happens: {stderr}");
    let client = server.client();
    arrived(&server, &client, "in/large", digest);
    oracle::all_is_well(&server, &client);
}

#[test]
fn the_same_command_goes_on_where_the_last_one_was_ended() {
    let _alone = tool::heavy();
    let mib = knob("LARDER_E2E_TUS_MIB", 24).max(64);
    let server = Server::start();
    let proxy = Proxy::start(server.addr());
    let digest = file(&server, "large", mib);
    let put = ["put", "--resumable-from", "1MiB", "large", "home:/large"];
    let mut before = 0;
    for end in 1..=3_u64 {
        let mut child = larder(&server, &proxy, &put).spawn().unwrap();
        wait_for(&proxy, &mut child, before + (mib << 20) / 5);
        if end == 2 {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        } else {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        assert!(status.signal() == Some(9) || status.code() == Some(130), "{status:?}");
        before = proxy.sent();
    }
    let output = larder(&server, &proxy, &put).output().unwrap();
    let stderr = succeeded(&output);
    assert!(stderr.contains("going on at"), "{stderr}");
    let client = server.client();
    arrived(&server, &client, "large", digest);
    // Three ends cost at most what was on its way each time.
    let sent = proxy.sent();
    assert!(sent < (mib << 20) * 17 / 10, "{sent} bytes were sent for {mib} MiB");
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_file_that_changed_meanwhile_is_sent_anew() {
    let _alone = tool::heavy();
    let server = Server::start();
    let proxy = Proxy::start(server.addr());
    file(&server, "large", 64);
    let put = ["put", "--resumable-from", "1MiB", "large", "home:/large"];
    let mut child = larder(&server, &proxy, &put).spawn().unwrap();
    wait_for(&proxy, &mut child, 8 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let body = Stamp::new(22, 2).body(20 << 20);
    fs::write(server.scratch().join("large"), &body).unwrap();
    let output = larder(&server, &proxy, &put).output().unwrap();
    assert!(!succeeded(&output).contains("going on at"));
    arrived(&server, &server.client(), "large", Sha256::of(&body));
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn a_directory_is_resumed_file_by_file_and_small_files_are_not_sessions() {
    let _alone = tool::heavy();
    let server = Server::start();
    let proxy = Proxy::start(server.addr());
    let dir = server.scratch().join("dir");
    fs::create_dir_all(dir.join("deep")).unwrap();
    for number in 0..4_u32 {
        fs::write(dir.join(format!("large{number}")), Stamp::new(23, number).body(6 << 20))
            .unwrap();
        fs::write(dir.join(format!("deep/small{number}")), Stamp::new(24, number).body(500))
            .unwrap();
    }
    proxy.plan([Step::Cut(5 << 20)]);
    let put = ["put", "-r", "--resumable-from", "1MiB", "dir", "home:/dir"];
    succeeded(&larder(&server, &proxy, &put).output().unwrap());
    assert_eq!(proxy.cuts(), 1);
    let client = server.client();
    for number in 0..4_u32 {
        let large = client.get(&format!("dir/large{number}")).expect(200).body;
        assert!(large == Stamp::new(23, number).body(6 << 20));
        client.get(&format!("dir/deep/small{number}")).expect(200);
        assert_eq!(client.revisions(&format!("dir/large{number}")).len(), 1);
    }
    assert!(client.pages("/v1/uploads").is_empty());
    oracle::all_is_well(&server, &client);
}

#[test]
fn what_cannot_be_stored_ends_soon_and_says_why() {
    let server = Server::start();
    let proxy = Proxy::start(server.addr());
    let client = server.client();
    file(&server, "large", 3);
    let from = ["put", "--resumable-from", "1MiB"];
    let fails = |args: &[&str], code: i32, words: &str| {
        let started = Instant::now();
        let output = larder(&server, &proxy, &[&from[..], args].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert!(started.elapsed() < Duration::from_secs(15), "{args:?}: {:?}", started.elapsed());
    };
    client.put("taken", b"x").expect(201);
    fails(&["--no-overwrite", "large", "home:/taken"], 5, "there is such an entry already");
    client.mkdir("dir").expect(201);
    fails(&["large", "home:/dir"], 5, "directory");
    let small = client.project("small", &serde_json::json!({"limits": {"live": 1 << 20}}));
    fails(&["large", "small:/f"], 6, "limited");
    fails(&["large", "nowhere:/f"], 3, "no such");
    assert!(client.pages("/v1/uploads").is_empty());
    assert_eq!(small.usage().reserved, 0);
    // In one request, as before, when that is wanted.
    let output = larder(&server, &proxy, &["put", "--no-resume", "large", "home:/one"]).output();
    succeeded(&output.unwrap());
    client.get("one").expect(200);
    // A server that is away is not waited for long while there is nothing to be lost.
    let mut away = larder(&server, &proxy, &[&from[..], &["large", "home:/x"]].concat());
    let mut server = server;
    server.stop();
    let started = Instant::now();
    let output = away.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn uploads_are_listed_and_given_up() {
    let _alone = tool::heavy();
    let server = Options::default().start();
    let proxy = Proxy::start(server.addr());
    let client = server.client();
    file(&server, "large", 64);
    let put = ["put", "--resumable-from", "1MiB", "large", "home:/large"];
    let mut child = larder(&server, &proxy, &put).spawn().unwrap();
    wait_for(&proxy, &mut child, 8 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let output = larder(&server, &proxy, &["uploads", "list", "--json"]).output().unwrap();
    succeeded(&output);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["state"], "open", "{listed}");
    let id = listed["id"].as_str().unwrap();
    let output = larder(&server, &proxy, &["uploads", "list"]).output().unwrap();
    succeeded(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains(id));
    succeeded(&larder(&server, &proxy, &["uploads", "abort", id]).output().unwrap());
    assert!(client.pages("/v1/uploads").is_empty());
    assert_eq!(client.usage().reserved, 0);
    let output = larder(&server, &proxy, &["uploads", "abort", id]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "it is gone");
    // The next put finds that out and begins again.
    succeeded(&larder(&server, &proxy, &put).output().unwrap());
    client.get("large").expect(200);
    oracle::all_is_well(&server, &client);
}
