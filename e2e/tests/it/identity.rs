//! Who gets in over REST and the command line: credentials of every kind, guessing, secrets.
//!
//! Not here: roles (shares), what each call answers to nonsense (`badinput`).

use std::{fs, net::IpAddr, process::Output, thread, time::Duration};

use larder_e2e::{
    client::{Client, Response, text},
    server::{Options, PASSWORD, Server, USER, cli},
    tool::wait_until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn elsewhere() -> IpAddr {
    IpAddr::from([127, 0, 0, 2])
}

fn me(client: &Client) -> Response {
    client.send("GET", "/v1/me", &[], None)
}

#[track_caller]
fn make_key(client: &Client, body: &Value) -> Value {
    client.json("POST", "/v1/users/me/keys", body).expect(201).json()
}

/// A request with these credentials from another address than the others.
fn from_elsewhere(client: &Client) -> Response {
    client.connect_from(elsewhere());
    me(client)
}

#[test]
fn nobody_gets_in_without_credentials_or_with_well_known_ones() {
    let server = Server::start();
    let routes = [
        "/v1/me",
        "/v1/users",
        "/v1/groups",
        "/v1/users/me/keys",
        "/v1/spaces",
        "/v1/spaces/home/list/",
        "/v1/spaces/home/files/x",
        "/v1/admin/jobs",
        "/v1/admin/check",
    ];
    for route in routes {
        let answer = Client::anonymous(server.addr()).send("GET", route, &[], None);
        let answer = answer.expect_problem(401, "unauthenticated");
        assert!(answer.must_header("www-authenticate").starts_with("Basic "), "{route}");
    }
    for (user, password) in [
        ("root", "root"),
        ("root", ""),
        ("", ""),
        ("admin", "admin"),
        ("minioadmin", "minioadmin"),
        ("rustfsadmin", "rustfsadmin"),
        ("larder", "larder"),
        ("root", "password"),
    ] {
        let answer = me(&Client::new(server.addr(), user, password));
        answer.expect_any(&[401, 429]);
    }
    // Headers that a proxy or another node might send make nobody anybody.
    let headers = [
        ("X-Forwarded-User", "root"),
        ("X-Remote-User", "root"),
        ("Remote-User", "root"),
        ("X-Larder-User", "root"),
        ("X-Larder-Admin", "true"),
        ("X-Larder-Internal", "1"),
    ];
    let anonymous = Client::anonymous(server.addr());
    anonymous.send("GET", "/v1/me", &headers, None).expect(401);
    for token in ["lk_", "la_", "null", "undefined", "root", "eyJhbGciOiJub25lIn0.e30."] {
        me(&Client::with_key(server.addr(), token)).expect_problem(401, "unauthenticated");
    }
}

#[test]
fn a_first_start_without_a_password_draws_one_that_is_told_once() {
    let mut server = Options::default().env("LARDER_ROOT_PASSWORD", "none").start();
    let log = server.log();
    let line = log.lines().find_map(|line| line.strip_prefix("larder first start: user=root "));
    let password = line.and_then(|line| line.strip_prefix("password=")).unwrap().to_owned();
    assert!(password.len() >= 24);
    me(&Client::new(server.addr(), USER, &password)).expect(200);
    server.stop();
    server.restart();
    assert_eq!(server.log().matches(&password).count(), 1, "told once");
    me(&Client::new(server.addr(), USER, &password)).expect(200);
}

#[test]
fn an_unknown_user_and_a_wrong_password_have_the_same_answer() {
    let server = Server::start();
    server.client().make_user("alice");
    let stripped = |answer: Response| {
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        let header = |name: &str| answer.header(name).map(str::to_owned);
        (answer.status, body, header("www-authenticate"), header("retry-after"))
    };
    for _ in 0..10 {
        let wrong = stripped(me(&Client::new(server.addr(), "alice", "wrong")));
        let unknown = stripped(me(&Client::new(server.addr(), "nobody", "wrong")));
        // What is left of the same pause may be rounded to another second.
        assert_eq!((wrong.0, &wrong.1, &wrong.2), (unknown.0, &unknown.1, &unknown.2));
        assert_eq!(wrong.3.is_some(), unknown.3.is_some());
    }
}

#[test]
fn a_thousand_guesses_are_slowed_and_lock_nobody_else_out() {
    let server = Server::start();
    let root = server.client();
    let (alice, bob) = (root.make_user("alice"), root.make_user("bob"));
    let made = make_key(&alice, &json!({"kind": "app", "name": "dav"}));
    // Remembered from here on.
    me(&bob).expect(200);
    let secret = "correct horse";
    root.json("PATCH", "/v1/users/alice", &json!({"password": secret})).expect(200);

    let addr = server.addr();
    let guessers: Vec<_> = (0..10)
        .map(|guesser| {
            thread::spawn(move || {
                let guess = |i| {
                    let client = Client::new(addr, "alice", &format!("guess {guesser} {i}"));
                    me(&client).status
                };
                (0..100).map(guess).collect::<Vec<u16>>()
            })
        })
        .collect();
    let statuses: Vec<u16> =
        guessers.into_iter().flat_map(|guesser| guesser.join().unwrap()).collect();
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!(count(401) + count(429), 1000, "{statuses:?}");
    assert!(count(401) <= 20, "{} guesses were looked at", count(401));

    let again = me(&Client::new(addr, "alice", "guess")).expect_problem(429, "rate_limited");
    let wait: u64 = again.must_header("retry-after").parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    // The others, and alice from elsewhere, with an app password, and then from here too.
    me(&bob.another()).expect(200);
    me(&root.another()).expect(200);
    let app = text(&made, "key");
    me(&Client::new(addr, "alice", app)).expect(200);
    from_elsewhere(&Client::new(addr, "alice", secret)).expect(200);
    me(&Client::new(addr, "alice", secret)).expect(200);
    // What was delayed is counted.
    let metrics = root.send("GET", "/metrics", &[], None).expect(200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    let delayed = metrics
        .lines()
        .find_map(|line| line.strip_prefix("larder_core_logins_delayed_total "))
        .unwrap();
    assert!(delayed.parse::<u64>().unwrap() >= 980, "{delayed}");
}

#[test]
fn keys_do_what_their_scope_says_and_nothing_else() {
    let server = Server::start();
    let root = server.client();
    let one = root.project("one", &json!({}));
    root.project("two", &json!({}));
    one.put("file", b"body").expect(201);
    let read = make_key(&root, &json!({"scope": {"access": "read", "spaces": ["one"]}}));
    assert_eq!(text(&read["scope"], "access"), "read");
    assert_eq!(read["scope"]["spaces"].as_array().unwrap().len(), 1);
    let reader = Client::with_key(server.addr(), text(&read, "key")).in_space("one");
    reader.get("file").expect(200);
    reader.put("file", b"other").expect_problem(403, "denied");
    reader.rm("file").expect_problem(403, "denied");
    reader.in_space("two").list_page("", "").expect(404);
    for (method, target) in [
        ("GET", "/v1/users"),
        ("GET", "/v1/users/me/keys"),
        ("POST", "/v1/users/me/keys"),
        ("GET", "/v1/groups"),
        ("GET", "/v1/admin/jobs"),
        ("POST", "/v1/admin/gc"),
    ] {
        reader.send(method, target, &[], Some(b"")).expect_problem(403, "denied");
    }
    assert_eq!(text(&me(&reader).expect(200).json(), "name"), USER);

    let app = make_key(&root, &json!({"kind": "app", "name": "dav"}));
    assert_eq!(text(&app["scope"], "access"), "write");
    let by_app = Client::new(server.addr(), USER, text(&app, "key"));
    by_app.put("by-app", b"body").expect(201);
    by_app.send("GET", "/v1/users", &[], None).expect_problem(403, "denied");
    me(&Client::with_key(server.addr(), text(&app, "key"))).expect(401);

    let s3 = make_key(&root, &json!({"kind": "s3"}));
    assert_eq!((text(&s3, "access_key_id").len(), text(&s3, "key").len()), (20, 40));
    for refused in [
        json!({"kind": "app", "scope": {"access": "full"}}),
        json!({"kind": "x"}),
        json!({"scope": {"access": "admin"}}),
        json!({"scope": {"spaces": []}}),
        json!({"expires": "tomorrow"}),
        json!({"admin": true}),
    ] {
        let answer = root.json("POST", "/v1/users/me/keys", &refused);
        answer.expect_problem(400, "invalid");
    }
    let answer = root.json("POST", "/v1/users/me/keys", &json!({"scope": {"spaces": ["none"]}}));
    answer.expect_problem(404, "not_found");

    // Rotated with an overlap, then without.
    let target = format!("/v1/users/me/keys/{}/rotate", text(&read, "id"));
    let second = root.json("POST", &target, &json!({"overlap_seconds": 600})).expect(200);
    assert_eq!(second.must_header("cache-control"), "no-store");
    let second = Client::with_key(server.addr(), text(&second.json(), "key")).in_space("one");
    reader.get("file").expect(200);
    second.get("file").expect(200);
    let third = root.send("POST", &target, &[], None).expect(200).json();
    reader.get("file").expect(401);
    second.get("file").expect(401);
    Client::with_key(server.addr(), text(&third, "key")).in_space("one").get("file").expect(200);
    let listed = root.send("GET", "/v1/users/me/keys", &[], None).expect(200).json();
    let listed = listed["keys"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 3);
    for key in listed {
        assert!(key.get("key").is_none(), "no secret is listed: {key}");
    }
    let used = || {
        let listed = root.send("GET", "/v1/users/me/keys", &[], None).expect(200).json();
        let listed = listed["keys"].as_array().unwrap().clone();
        listed.iter().any(|key| key["id"] == read["id"] && key["last_used"].is_string())
    };
    assert!(wait_until(PATIENCE, used), "the last use is shown");
}

#[test]
fn groups_and_deleted_users_by_rest() {
    let server = Server::start();
    let root = server.client();
    let (alice, bob) = (root.make_user("alice"), root.make_user("bob"));
    let made = root.json("POST", "/v1/groups", &json!({"name": "staff"})).expect(201);
    let location = made.must_header("location").to_owned();
    root.json("POST", "/v1/groups", &json!({"name": "staff"}))
        .expect_problem(409, "already_exists");
    let member = "/v1/groups/staff/members/alice";
    root.send("PUT", member, &[], Some(b"")).expect(204);
    root.send("PUT", member, &[], Some(b"")).expect(204);
    alice.send("GET", &location, &[], None).expect(200);
    bob.send("GET", &location, &[], None).expect_problem(404, "not_found");
    alice.send("PUT", member, &[], Some(b"")).expect_problem(403, "denied");
    alice.send("DELETE", &location, &[], None).expect_problem(403, "denied");
    let members = alice.send("GET", "/v1/groups/staff/members", &[], None).expect(200).json();
    assert_eq!(text(&members["members"][0], "name"), "alice");
    root.json("PATCH", "/v1/groups/staff", &json!({"name": "crew"})).expect(200);
    root.send("GET", "/v1/groups/staff", &[], None).expect(404);

    alice.put("kept", b"body").expect(201);
    let home = text(&alice.space(), "id").to_owned();
    root.send("DELETE", "/v1/users/alice?home=maybe", &[], None).expect_problem(400, "invalid");
    root.send("DELETE", "/v1/users/alice?home=keep", &[], None).expect(204);
    me(&alice).expect(401);
    let kept = root.in_space(&home);
    assert_eq!(kept.get("kept").expect(200).body, b"body");
    assert_eq!(text(&kept.space(), "kind"), "project");
    let members = || {
        let page = root.send("GET", "/v1/groups/crew/members", &[], None).expect(200).json();
        page["members"].as_array().unwrap().len()
    };
    assert_eq!(members(), 0, "at once");
    bob.put("gone", b"body").expect(201);
    let home = text(&bob.space(), "id").to_owned();
    root.send("DELETE", "/v1/users/bob", &[], None).expect(204);
    root.in_space(&home).get("gone").expect(404);
    root.send("DELETE", "/v1/groups/crew", &[], None).expect(204);
    root.send("DELETE", "/v1/users/root", &[], None).expect_problem(409, "conflict");
}

#[track_caller]
fn ok(server: &Server, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = cli(server).args(args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn users_groups_and_keys_by_the_command_line() {
    let server = Server::start();
    let made = |args: &[&str]| -> Value {
        serde_json::from_str(&ok(&server, &[&["--json"], args].concat())).unwrap()
    };
    for name in ["alice", "bob"] {
        ok(&server, &["users", "create", name, "--new-password", "long-enough"]);
    }
    ok(&server, &["groups", "create", "staff"]);
    ok(&server, &["groups", "add", "staff", "alice", "bob"]);
    ok(&server, &["groups", "remove", "staff", "bob"]);
    let members = ok(&server, &["groups", "members", "staff"]);
    assert!(members.contains("alice") && !members.contains("bob"), "{members}");
    ok(&server, &["groups", "rename", "staff", "crew"]);
    assert!(ok(&server, &["groups", "ls"]).contains("crew"));

    let key = made(&["keys", "create", "backup", "--access", "read", "--space", "home"]);
    let secret = text(&key, "key").to_owned();
    let with_key = |args: &[&str]| {
        let mut command = cli(&server);
        command.env_remove("LARDER_USER").env_remove("LARDER_PASSWORD");
        command.env("LARDER_TOKEN", &secret).args(args).output().unwrap().status.code()
    };
    assert_eq!(with_key(&["ls", "home:/"]), Some(0));
    assert_eq!(with_key(&["mkdir", "home:/x"]), Some(4));
    assert_eq!(with_key(&["users", "ls"]), Some(4));
    let rotated = made(&["keys", "rotate", text(&key, "id"), "--overlap", "1h"]);
    assert_ne!(text(&rotated, "key"), secret);
    assert_eq!(with_key(&["ls", "home:/"]), Some(0));
    let s3 = made(&["keys", "create", "tool", "--kind", "s3", "--of", "alice", "--expires", "30d"]);
    assert_eq!(text(&s3, "access_key_id").len(), 20);
    let listed = ok(&server, &["keys", "ls"]);
    assert!(listed.contains("backup") && !listed.contains(&secret), "{listed}");
    ok(&server, &["keys", "rm", text(&key, "id")]);
    assert_eq!(with_key(&["ls", "home:/"]), Some(4));
    ok(&server, &["users", "rm", "bob", "--keep-home"]);
    ok(&server, &["groups", "rm", "crew"]);
}

#[test]
fn no_secret_is_ever_in_the_log_or_readable_in_the_data() {
    let mut server = Options::default().env("RUST_LOG", "trace").start();
    let root = server.client();
    let mut secrets = vec![PASSWORD.to_owned()];
    let alice = "a secret of alice";
    root.json("POST", "/v1/users", &json!({"name": "alice", "password": alice})).expect(201);
    secrets.push(alice.to_owned());
    for kind in ["api", "app", "s3"] {
        let made = make_key(&root, &json!({"kind": kind}));
        secrets.push(text(&made, "key").to_owned());
        let target = format!("/v1/users/me/keys/{}/rotate", text(&made, "id"));
        let rotated = root.json("POST", &target, &json!({"overlap_seconds": 60})).expect(200);
        secrets.push(text(&rotated.json(), "key").to_owned());
    }
    for secret in secrets.clone() {
        me(&Client::with_key(server.addr(), &secret));
        me(&Client::new(server.addr(), USER, &secret));
        me(&Client::new(server.addr(), &secret, "a wrong password"));
    }
    secrets.push("a wrong password".to_owned());
    root.json("POST", "/v1/users", &json!({"name": "x", "password": alice, "oops": 1})).expect(400);
    root.json("PATCH", "/v1/users/alice", &json!({"password": "short!!"})).expect(400);
    secrets.push("short!!".to_owned());
    let key = fs::read_to_string(server.data().join("keys/master.key")).unwrap();
    secrets.push(key.trim().to_owned());
    server.stop();
    server.restart();
    server.stop();
    let log = server.log();
    assert!(log.len() > 10_000, "it says much");
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "a secret is in the log: {secret}");
    }
    // The user's own password would be a needle in no haystack of hashes.
    secrets.pop();
    for (path, ..) in larder_e2e::tool::files_below(&server.data().join("meta")) {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is in {}", path.display());
        }
    }
}

#[test]
fn a_server_does_not_start_without_its_master_key() {
    let mut server = Server::start();
    let root = server.client();
    make_key(&root, &json!({"kind": "s3"}));
    server.stop();
    let key = server.data().join("keys/master.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let why = server.try_start().unwrap_err();
    assert!(why.contains("master key") && why.contains("missing"), "{why}");
    assert!(!key.exists(), "no other key is made");
    fs::write(&key, "ab".repeat(32)).unwrap();
    let why = server.try_start().unwrap_err();
    assert!(why.contains("another master key"), "{why}");
    // At another place, as a platform mounts secrets.
    let elsewhere = server.scratch().join("secret");
    fs::write(&elsewhere, &kept).unwrap();
    server
        .options()
        .env
        .push(("LARDER_MASTER_KEY_FILE".to_owned(), elsewhere.to_string_lossy().into_owned()));
    server.restart();
    server.stop();
    // Lost for good.
    server.options().env.retain(|(name, _)| name != "LARDER_MASTER_KEY_FILE");
    fs::remove_file(&key).unwrap();
    server.options().env.push(("LARDER_MASTER_KEY__REPLACE".to_owned(), "true".to_owned()));
    server.restart();
    server.stop();
    server.options().env.clear();
    server.restart();
    me(&server.client()).expect(200);
}
