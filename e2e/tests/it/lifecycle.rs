//! Lifecycle rules and files with an end, on a clock of seconds.

use std::time::Duration;

use larder_base::Timestamp;
use larder_e2e::{
    client::{Client, text},
    oracle,
    server::{Options, Server, cli},
    tool,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const RULES: &str = "/v1/spaces/home/lifecycle";

fn hasty() -> Options {
    Options::default()
        .env("LARDER_LIFECYCLE__INTERVAL", "300ms")
        .env("LARDER_COLLECT__INTERVAL", "300ms")
}

#[track_caller]
fn set(client: &Client, rules: &Value) -> Value {
    client.json("PUT", RULES, &json!({ "rules": rules })).expect(200).json()
}

#[track_caller]
fn gone(client: &Client, path: &str) {
    let gone = || client.stat(path).status == 404;
    assert!(tool::wait_until(PATIENCE, gone), "{path} is still there");
}

#[test]
fn files_expire_by_themselves_into_the_trash() {
    let mut server = hasty().start();
    let client = server.client();
    for dir in ["tmp", "tmp/deep", "tmpx"] {
        client.mkdir(dir).expect(201);
    }
    for path in ["tmp/a", "tmp/deep/b", "tmpx/c", "d"] {
        client.put(path, path.as_bytes()).expect(201);
    }
    let rules = set(
        &client,
        &json!([{"name": "scratch", "prefix": "tmp/",
        "expire": {"after": "1s"}}]),
    );
    let rule = &rules["rules"][0];
    assert_eq!((text(rule, "prefix"), text(rule, "name")), ("tmp", "scratch"), "{rule}");
    assert_eq!(rule["expire"], json!({"after": "1s"}));
    gone(&client, "tmp/a");
    gone(&client, "tmp/deep/b");
    client.stat("tmp/deep").expect(200);
    client.stat("tmpx/c").expect(200);
    client.stat("d").expect(200);
    let trash = client.trash();
    assert_eq!(trash.len(), 2);
    assert!(trash.iter().all(|item| item["deleted_by"] == "lifecycle"), "{trash:?}");
    // The rules outlive a crash, and go on being applied.
    server.kill9();
    server.restart();
    let client = server.client();
    let shown = client.send("GET", RULES, &[], None).expect(200).json();
    assert_eq!(shown, rules);
    client.put("tmp/late", b"x").expect(201);
    gone(&client, "tmp/late");
    client.send("DELETE", RULES, &[], None).expect(204);
    client.put("tmp/kept", b"x").expect(201);
    let ended = || {
        let jobs = client.send("GET", "/v1/admin/jobs?finished=1", &[], None).expect(200).json();
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        jobs.iter().any(|job| job["kind"] == "lifecycle" && job["state"] == "done")
    };
    assert!(tool::wait_until(PATIENCE, ended), "walks are jobs");
    client.stat("tmp/kept").expect(200);
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_file_that_is_written_again_and_again_does_not_expire() {
    let server = hasty().start();
    let client = server.client();
    set(&client, &json!([{"expire": {"after": "2s"}}]));
    let mut revision = 0;
    let busy = || {
        revision += 1;
        client.put("busy", format!("{revision}").as_bytes()).expect_any(&[200, 201]);
        false
    };
    tool::wait_until(Duration::from_secs(5), busy);
    assert!(client.trash().is_empty(), "{:?}", client.trash());
    gone(&client, "busy");
    oracle::all_is_well(&server, &client);
}

#[test]
fn older_revisions_are_removed_and_the_newest_kept() {
    let server = hasty().start();
    let client = server.client();
    for i in 0..20 {
        client.put("f", format!("{i}").as_bytes()).expect_any(&[200, 201]);
    }
    set(&client, &json!([{"noncurrent": {"older_than": "1s", "keep_newest": 2}}]));
    let trimmed = || client.revisions("f").len() == 3;
    assert!(tool::wait_until(PATIENCE, trimmed), "{}", client.revisions("f").len());
    assert_eq!(client.get("f").expect(200).body, b"19");
    oracle::all_is_well(&server, &client);
}

#[test]
fn rules_are_checked_and_belong_to_who_manages_the_space() {
    let server = Server::start();
    let client = server.client();
    let wrong = [
        json!([{}]),
        json!([{"expire": {"after": "soon"}}]),
        json!([{"expire": {"after": "0s"}}]),
        json!([{"expire": {"at": "tomorrow"}}]),
        json!([{"expire": {"after": "1d", "at": "2030-01-01T00:00:00Z"}}]),
        json!([{"expire": {"after": "1d"}, "prefix": "a/../b"}]),
        json!([{"expire": {"after": "1d"}, "colour": "blue"}]),
        json!([{"expire": {"after": "1d"}, "id": "01a1fd85-fe57-7ece-8134-f554e0473cd2"}]),
        Value::Array(vec![json!({"expire": {"after": "1d"}}); 101]),
    ];
    for rules in wrong {
        client.json("PUT", RULES, &json!({ "rules": rules })).expect_problem(400, "invalid");
    }
    let abort = json!({"rules": [{"abort_uploads_after": "1d"}]});
    client.json("PUT", RULES, &abort).expect_problem(501, "not_implemented");
    assert_eq!(client.send("GET", RULES, &[], None).expect(200).json(), json!({"rules": []}));
    let alice = client.make_user("alice");
    let id = text(&client.space(), "id").to_owned();
    alice.send("GET", &format!("/v1/spaces/{id}/lifecycle"), &[], None).expect(404);
    alice.send("GET", RULES, &[], None).expect(200);
    let run = |args: &[&str]| {
        let output = cli(&server).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let added = run(&["lifecycle", "add", "home", "--name", "old", "--expire-after", "30d"]);
    assert!(added.contains("old") && added.contains("30d"), "{added}");
    assert!(run(&["lifecycle", "show"]).contains("old"));
    assert!(!run(&["lifecycle", "rm", "home", "old"]).contains("old"));
}

#[test]
fn a_file_with_an_end_goes_when_it_has_come() {
    let server = hasty().start();
    let client = server.client();
    let now = text(&client.put("clock", b"x").expect(201).json(), "modified").to_owned();
    client.put_with("past", b"x", &[("Larder-Expires", &now)]).expect_problem(400, "invalid");
    client.put_with("bad", b"x", &[("Larder-Expires", "soon")]).expect_problem(400, "invalid");
    let far = "2099-01-01T00:00:00.000Z";
    let put = client.put_with("far", b"x", &[("Larder-Expires", far)]).expect(201);
    assert_eq!(put.json()["expires"], far);
    assert_eq!(client.must_stat("far")["expires"], far);
    client.put("far", b"y").expect(200);
    assert!(client.must_stat("far").get("expires").is_none(), "an overwrite takes it away");
    let time: Timestamp = now.parse().unwrap();
    let soon = time.after(Duration::from_secs(3)).to_string();
    client.put_with("soon", b"x", &[("Larder-Expires", &soon)]).expect(201);
    client.stat("soon").expect(200);
    gone(&client, "soon");
    assert_eq!(client.trash()[0]["deleted_by"], "expiry");
    client.stat("far").expect(200);
    oracle::all_is_well(&server, &client);
}
