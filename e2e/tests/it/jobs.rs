//! Jobs from outside: seen, waited for, cancelled, gone on with after a crash, remembered.

use std::{thread, time::Duration};

use larder_e2e::{
    client::{Client, Response, text},
    oracle,
    server::{Options, Server, cli},
    stamp::Stamp,
    tool,
};
use serde_json::{Value, json};

const JOBS: &str = "/v1/admin/jobs";

#[track_caller]
fn jobs(client: &Client, query: &str) -> Vec<Value> {
    let body = client.send("GET", &format!("{JOBS}{query}"), &[], None).expect(200).json();
    body["jobs"].as_array().unwrap().clone()
}

fn job(client: &Client, id: &str) -> Response {
    client.send("GET", &format!("{JOBS}/{id}"), &[], None)
}

#[track_caller]
fn ended(client: &Client, id: &str) -> Value {
    let mut last = Value::Null;
    let done = tool::wait_until(Duration::from_secs(60), || {
        last = job(client, id).expect(200).json();
        !last["finished"].is_null()
    });
    assert!(done, "it does not end: {last}");
    last
}

fn cancel(client: &Client, id: &str) -> Response {
    client.send("DELETE", &format!("{JOBS}/{id}"), &[], None)
}

#[test]
fn work_on_request_is_seen_and_remembered() {
    let server = Server::start();
    let client = server.client();
    client.put("a", &Stamp::new(1, 1).body(400_000)).expect(201);
    for kind in ["check", "scrub", "collect", "lifecycle"] {
        let started = client.json("POST", JOBS, &json!({"kind": kind})).expect(202);
        let id = text(&started.json(), "id").to_owned();
        assert_eq!(started.must_header("location"), format!("{JOBS}/{id}"));
        let job = ended(&client, &id);
        assert_eq!(job["kind"], kind);
        assert_eq!(job["state"], "done", "{job}");
        assert_eq!(job["started_by"], "root");
        assert_eq!(job["cancellable"], false);
        assert!(job["detail"].is_string(), "{job}");
        cancel(&client, &id).expect_problem(404, "not_found");
    }
    let finished = jobs(&client, "?finished=1");
    let kinds: Vec<&str> = finished.iter().map(|job| text(job, "kind")).collect();
    assert_eq!(kinds, ["check", "scrub", "collect", "lifecycle"]);
    assert_eq!(jobs(&client, "?finished=1&limit=1").len(), 1);
    assert!(jobs(&client, "").is_empty());
    client.json("POST", JOBS, &json!({"kind": "dance"})).expect_problem(400, "invalid");
    client.json("POST", JOBS, &json!({"kind": "check", "space": "home"})).expect(400);
    client.json("POST", JOBS, &json!({"kind": "lifecycle", "space": "none"})).expect(404);
    job(&client, "no-id").expect(404);
    let alice = client.make_user("alice");
    alice.send("GET", JOBS, &[], None).expect_problem(403, "denied");
    alice.json("POST", JOBS, &json!({"kind": "check"})).expect_problem(403, "denied");
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_copy_that_is_cancelled_is_told_so_and_leaves_nothing() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("big").expect(201);
    for i in 0..tool::rounds(40) {
        client.mkdir(&format!("big/d{i}")).expect(201);
        for j in 0..40 {
            client.put(&format!("big/d{i}/f{j}"), b"x").expect(201);
        }
    }
    let before = client.usage();
    let (mut seen, mut cancelled) = (0, 0);
    for round in 0..20 {
        let to = format!("copy{round}");
        let answer = thread::scope(|scope| {
            let copying = client.another();
            let copy = scope.spawn(|| {
                let copying = copying;
                copying.cp("big", &to, false)
            });
            while !copy.is_finished() {
                let running = jobs(&client, "");
                let Some(job) = running.iter().find(|job| job["kind"] == "copy") else { continue };
                seen += 1;
                // It may have come to its end first.
                cancel(&client, text(job, "id")).expect_any(&[204, 404, 409]);
                break;
            }
            copy.join().unwrap()
        });
        if answer.status == 409 {
            cancelled += 1;
            client.stat(&to).expect(404);
        } else {
            answer.expect(201);
            client.rm(&to).expect(204);
        }
        if cancelled >= 2 {
            break;
        }
    }
    assert!(cancelled > 0, "{seen} were seen, none was cancelled in time");
    client.empty_trash().expect(204);
    let clean = tool::wait_until(Duration::from_secs(30), || jobs(&client, "").is_empty());
    assert!(clean, "{:?}", jobs(&client, ""));
    assert_eq!(client.usage(), before);
    let ended = jobs(&client, "?finished=1");
    assert!(ended.iter().any(|job| job["kind"] == "copy" && job["state"] == "cancelled"));
    oracle::all_is_well(&server, &client);
}

#[test]
fn what_is_purged_must_be_finished_and_is_over_crashes() {
    let mut server = Server::start();
    let client = server.client();
    client.mkdir("big").expect(201);
    for i in 0..tool::rounds(60) {
        client.mkdir(&format!("big/d{i}")).expect(201);
        for j in 0..20 {
            client.put(&format!("big/d{i}/f{j}"), b"x").expect(201);
        }
    }
    client.rm("big").expect(204);
    let item = text(&client.trash()[0], "item").to_owned();
    client.purge(&item).expect(204);
    let mut met = 0;
    for _ in 0..4 {
        for job in jobs(&server.client(), "") {
            let answer = cancel(&server.client(), text(&job, "id"));
            if answer.status != 404 {
                let problem = answer.expect_problem(409, "conflict").json();
                assert!(text(&problem, "detail").contains("purged"), "{problem}");
                met += 1;
            }
        }
        server.kill9();
        server.restart();
    }
    let client = server.client();
    let done = tool::wait_until(Duration::from_secs(30), || jobs(&client, "").is_empty());
    assert!(done, "{:?}", jobs(&client, ""));
    assert_eq!(client.usage().retained, 0);
    let ended = jobs(&client, "?finished=1");
    let purge = ended.iter().find(|job| job["kind"] == "purge").expect("it is remembered");
    assert_eq!(purge["state"], "done");
    tool::say(format_args!("{met} attempts at cancelling a purge"));
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_job_that_was_running_when_the_server_died_comes_to_its_end() {
    let mut server = Options::default().start();
    let client = server.client();
    for i in 0..20 {
        client.mkdir(&format!("d{i}")).expect(201);
        for j in 0..50 {
            client.put(&format!("d{i}/f{j}"), b"x").expect(201);
        }
    }
    for kind in ["check", "scrub", "lifecycle"] {
        let client = server.client();
        let started = client.json("POST", JOBS, &json!({"kind": kind})).expect(202).json();
        server.kill9();
        server.restart();
        let job = ended(&server.client(), text(&started, "id"));
        assert_eq!((text(&job, "kind"), text(&job, "state")), (kind, "done"), "{job}");
    }
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn the_command_line_runs_shows_and_cancels_jobs() {
    let server = Server::start();
    server.client().put("a", b"x").expect(201);
    let run = |args: &[&str]| cli(&server).args(args).output().unwrap();
    let ok = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let check: Value =
        serde_json::from_str(&ok(&["jobs", "run", "check", "--wait", "--json"])).unwrap();
    assert_eq!(check["state"], "done");
    let id = text(&check, "id");
    assert!(ok(&["jobs", "show", id]).contains("0 violations"));
    assert!(ok(&["jobs", "list", "--all"]).contains(id));
    assert_eq!(ok(&["jobs", "list"]).trim(), "");
    assert_eq!(run(&["jobs", "cancel", id]).status.code(), Some(3), "it has ended");
    assert_eq!(run(&["jobs", "run", "dance"]).status.code(), Some(2));
    oracle::clean(&server.client());
}
