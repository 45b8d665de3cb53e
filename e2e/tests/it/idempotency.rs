//! `Idempotency-Key`: sent again, a request is told what it came to and done no second time, also
//! when the server died in between.

use std::time::Duration;

use larder_e2e::{
    client::{Client, Headers, Response, number, text},
    oracle,
    race::race,
    server::{Options, Server},
    stamp::Stamp,
    tool,
};
use serde_json::{Value, json};

fn keyed<'a>(key: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("Idempotency-Key", key)], more].concat()
}

fn json_with(client: &Client, key: &str, method: &str, target: &str, body: &Value) -> Response {
    let headers = keyed(key, &[("Content-Type", "application/json")]);
    client.send(method, target, &headers, Some(body.to_string().as_bytes()))
}

/// Sends a request twice: both answers are the same, but for what tells one request from another.
#[track_caller]
fn twice(send: impl Fn() -> Response) -> Response {
    let (first, again) = (send(), send());
    assert!((200..300).contains(&first.status), "{first}");
    assert_eq!(first.status, again.status, "{first} and {again}");
    assert_eq!(first.body, again.body);
    for name in ["etag", "location", "repr-digest", "larder-durability"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
    assert_eq!(first.header("larder-repeated"), None);
    assert_eq!(again.header("larder-repeated"), Some("true"));
    first
}

#[test]
fn a_repeated_request_has_the_same_answer_and_no_second_effect() {
    let server = Server::start();
    let client = server.client();
    let small = Stamp::new(1, 1).body(900);
    let large = Stamp::new(1, 2).body(700_000);
    for (path, body) in [("small", &small), ("large", &large)] {
        let put = || client.put_with(path, body, &keyed(path, &[]));
        let first = twice(put).json();
        assert_eq!(number(&first, "revision"), 1);
        let repeated = put();
        assert_eq!(repeated.header("larder-repeated"), Some("true"));
        assert_eq!(repeated.status, 201, "as it was then");
        assert_eq!(client.revisions(path).len(), 1);
    }
    let chunked = || {
        let target = client.at("files", "chunked");
        client.send_chunked("PUT", &target, &keyed("chunked", &[]), &large, 60_000)
    };
    twice(chunked);
    let form = |boundary: &str| {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"form\"\r\n\r\n\
             content\r\n--{boundary}--\r\n"
        );
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let headers = keyed("form", &[("Content-Type", &content_type)]);
        client.send("POST", "/v1/files", &headers, Some(body.as_bytes()))
    };
    let (first, again) = (form("aaa"), form("bbb"));
    assert_eq!((first.status, again.status), (201, 201), "{first} {again}");
    assert_eq!(first.body, again.body);
    let dir = twice(|| {
        let target = client.at("dirs", "d");
        client.send("PUT", &target, &keyed("dir", &[]), Some(b""))
    });
    assert_eq!(dir.json()["etag"], client.must_stat("d")["etag"]);
    let (home, to) = ("/v1/spaces/home", json!({"from": "small", "to": "d/moved"}));
    twice(|| json_with(&client, "mv", "POST", &format!("{home}/move"), &to));
    let copy = json!({"from": "d", "to": "copy"});
    twice(|| json_with(&client, "cp", "POST", &format!("{home}/copy"), &copy));
    twice(|| client.send("DELETE", &client.at("files", "large"), &keyed("rm", &[]), None));
    let item = client.trash()[0]["item"].as_str().unwrap().to_owned();
    let restore = format!("{home}/trash/{item}/restore");
    twice(|| json_with(&client, "back", "POST", &restore, &json!({})));
    client.put("large", &small).expect(200);
    let revert = client.at("revisions", "large");
    twice(|| json_with(&client, "revert", "POST", &revert, &json!({"revision": 1})));
    assert_eq!(client.revisions("large").len(), 3, "one was added");
    let gone = format!("{revert}?revision=2");
    twice(|| client.send("DELETE", &gone, &keyed("unrevise", &[]), None));
    let space = json!({"name": "team", "kind": "project"});
    let made = json_with(&client, "space", "POST", "/v1/spaces", &space).expect(201).json();
    let again = json_with(&client, "space", "POST", "/v1/spaces", &space).expect(201).json();
    assert_eq!(made["id"], again["id"]);
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_key_stands_for_one_request() {
    let server = Server::start();
    let client = server.client();
    client.put_with("a", b"1", &keyed("k", &[])).expect(201);
    let others = [
        client.put_with("b", b"1", &keyed("k", &[])),
        client.put_with("a", b"2", &keyed("k", &[])),
        client.put_with("a", b"1", &keyed("k", &[("If-None-Match", "*")])),
        client.put_with("a", b"1", &keyed("k", &[("Content-Type", "text/html")])),
        client.send("DELETE", &client.at("files", "a"), &keyed("k", &[]), None),
        json_with(&client, "k", "POST", "/v1/spaces/home/move", &json!({"from":"a","to":"b"})),
    ];
    for other in others {
        other.expect_problem(422, "invalid");
    }
    assert_eq!(client.revisions("a").len(), 1, "none of them did anything");
    client.stat("b").expect(404);
    // Of JSON bodies too.
    let to = |to: &str| json!({"from": "a", "to": to});
    json_with(&client, "m", "POST", "/v1/spaces/home/copy", &to("c")).expect(201);
    json_with(&client, "m", "POST", "/v1/spaces/home/copy", &to("d"))
        .expect_problem(422, "invalid");
    client.stat("d").expect(404);
    // Each user has keys of their own, and a refusal uses none up.
    let alice = client.make_user("alice");
    alice.put_with("other", b"2", &keyed("k", &[])).expect(201);
    client.put_with("x/y", b"1", &keyed("r", &[])).expect_problem(409, "conflict");
    client.mkdir("x").expect(201);
    client.put_with("x/y", b"1", &keyed("r", &[])).expect(201);
    for key in ["", "a b", "\u{e9}"] {
        assert!([400].contains(&client.put_with("z", b"1", &keyed(key, &[])).status), "{key:?}");
    }
    let two: Headers<'_> = &[("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    client.put_with("z", b"1", two).expect(400);
    client.send("POST", "/v1/uploads", &keyed("u", &[]), Some(b"")).expect(501);
    client.stat("z").expect(404);
    // Reading has no effect, so a key changes nothing about it.
    client.get_with("a", &keyed("k", &[])).expect(200);
}

#[test]
fn of_many_at_once_one_is_done() {
    let server = Server::start();
    let client = server.client();
    for round in 0..tool::rounds(10) {
        let (path, key) = (format!("f{round}"), format!("k{round}"));
        let len = if round % 2 == 0 { 500 } else { 300_000 };
        let body = Stamp::new(round as u32, 1).body(len);
        let answers =
            race(&client, 8, |_, client| client.put_with(&path, &body, &keyed(&key, &[])));
        for answer in &answers {
            assert!([201, 409].contains(&answer.status), "{answer}");
        }
        assert!(answers.iter().any(|answer| answer.status == 201));
        assert_eq!(client.revisions(&path).len(), 1, "round {round}");
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_server_that_dies_before_it_answers_knows_it_afterwards() {
    if !cfg!(debug_assertions) {
        return tool::skip("idempotency", "named steps are in debug builds only");
    }
    let mut server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    client.put("d/f", b"1").expect(201);
    server.stop();
    let mut died = 0;
    // How many commits a start has; what jobs commit meanwhile varies.
    let mut starting = 1;
    for number in 0..60u64 {
        let count = starting + number % 4;
        let step = format!("commit.after:{count}");
        *server.options() = server.options().clone().env("LARDER_FAIL", &step);
        if server.try_start().is_err() {
            // It died of its start.
            starting = count + 1;
            continue;
        }
        let client = server.client();
        let (path, key) = (format!("d/new{number}"), format!("k{number}"));
        let len = if number % 2 == 0 { 400 } else { 250_000 };
        let body = Stamp::new(number as u32, 1).body(len);
        let send = |client: &Client| client.put_with(&path, &body, &keyed(&key, &[]));
        let first = send(&client);
        if first.status == 0 {
            died += 1;
            let gone = tool::wait_until(Duration::from_secs(10), || !server.is_alive());
            assert!(gone, "no answer from a living server");
            server.wait_exit();
        } else {
            server.kill9();
        }
        let options = server.options();
        options.env.retain(|(name, _)| name != "LARDER_FAIL");
        server.restart();
        let client = server.client();
        let there = client.stat(&path).status == 200;
        let again = send(&client).expect(201);
        assert_eq!(again.header("larder-repeated").is_some(), there, "{count}");
        let revisions = client.revisions(&path);
        assert_eq!(revisions.len(), 1, "{path} after {first}: {revisions:?}");
        assert_eq!(text(&again.json(), "etag"), text(&client.must_stat(&path), "etag"));
        if died >= 6 {
            break;
        }
        server.stop();
    }
    assert!(died >= 3, "it died {died} times");
    if !server.is_alive() {
        server.restart();
    }
    let client = server.client();
    oracle::all_is_well(&server, &client);
}

#[test]
fn keys_are_forgotten_after_their_time() {
    let server = Options::default()
        .env("LARDER_IDEMPOTENCY__RETENTION", "1s")
        .env("LARDER_COLLECT__INTERVAL", "200ms")
        .env("LARDER_IDEMPOTENCY__KEYS_MAX", "3")
        .start();
    let client = server.client();
    let put = |key: &str| client.put_with("a", b"1", &keyed(key, &[]));
    for key in ["a", "b", "c"] {
        put(key).expect_any(&[200, 201]);
    }
    let full = put("d");
    assert!([200, 429].contains(&full.status), "{full}");
    let again = || put("e").status == 200;
    assert!(tool::wait_until(Duration::from_secs(20), again), "keys are forgotten");
}
