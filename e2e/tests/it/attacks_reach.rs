//! Attacks on what is private: spellings, copies, references, links and revocations that reach what
//! they must not. The table of all attacks is in `attacks`.
//!
//! Not here: credentials (`attacks`), names and sizes (`attacks_wire`), roles (`shares`).

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Headers, Response, text},
    http::Conn,
    oracle,
    server::Server,
    tool,
    tus::{self, Upload},
};
use serde_json::{Value, json};

/// How soon a revocation holds, with what a busy machine adds.
const SOON: Duration = Duration::from_secs(1);

#[track_caller]
fn key_of(client: &Client, body: &Value) -> Client {
    let made = client.json("POST", "/v1/users/me/keys", body).expect(201).json();
    Client::with_key(client.addr(), text(&made, "key"))
}

#[track_caller]
fn share(client: &Client, body: &Value) -> Value {
    client.json("POST", "/v1/shares", body).expect(201).json()
}

#[test]
fn a_grant_is_of_the_directory_however_it_is_spelt() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("team", &json!({}));
    let (composed, apart) = ("caf\u{e9}", "cafe\u{301}");
    for dir in [composed, "Docs", "docs"] {
        space.mkdir(dir).expect(201);
        space.put(&format!("{dir}/f"), dir.as_bytes()).expect(201);
    }
    space.mkdir(apart).expect_problem(409, "already_exists");
    let bob = root.make_user("bob").in_space("team");
    let grant = |path: &str| {
        share(
            &root,
            &json!({"space": "team", "path": path, "kind": "user", "with": "bob",
                             "role": "viewer"}),
        )
    };
    let made = grant(apart);
    grant("Docs");
    for name in [composed, apart] {
        assert_eq!(bob.get(&format!("{name}/f")).expect(200).body, composed.as_bytes());
        bob.put(&format!("{name}/f"), b"x").expect_problem(403, "denied");
        bob.put(&format!("{name}/g"), b"x").expect_problem(403, "denied");
        root.json(
            "POST",
            "/v1/shares",
            &json!({"space": "team", "path": name, "kind": "user",
                                                 "with": "bob", "role": "editor"}),
        )
        .expect_problem(409, "already_exists");
    }
    bob.get("Docs/f").expect(200);
    for name in ["docs", "DOCS", "Docs ", "Docs.", "Do\u{441}s", "\u{ff24}ocs", "caf\u{e9}\u{200d}"]
    {
        bob.get(&format!("{name}/f")).expect(404);
        bob.stat(name).expect(404);
    }
    root.send("DELETE", &format!("/v1/shares/{}", text(&made, "id")), &[], None).expect(204);
    for name in [composed, apart] {
        bob.get(&format!("{name}/f")).expect(404);
    }
    // Names of spaces and users, too, are one in both spellings or refused.
    root.make_space("r\u{e9}sum\u{e9}", "project", &json!({})).expect_any(&[201, 400]);
    let twin = root.make_space("re\u{301}sume\u{301}", "project", &json!({}));
    twin.expect_any(&[400, 409]);
    for name in ["Bob", "b\u{f6}b", "bob ", "\u{62}\u{200d}ob", "root\u{0}"] {
        let body = json!({"name": name, "password": "long enough"});
        root.json("POST", "/v1/users", &body).expect_problem(400, "invalid");
    }
}

#[test]
fn what_was_another_s_stays_another_s() {
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    ann.mkdir("shared").expect(201);
    for body in [b"before", b"during"] {
        ann.put("shared/f", body).expect_any(&[200, 201]);
    }
    let id = text(&ann.must_stat("shared/f"), "id").to_owned();
    let home = text(&ann.space(), "id").to_owned();
    let made = share(
        &ann,
        &json!({"path": "shared", "kind": "user", "with": "bob",
                                   "role": "editor"}),
    );
    let url = format!("/v1/files/{id}");
    bob.send("GET", &format!("{url}?revision=1"), &[], None).expect(200);
    // In the trash it is nobody's but the owner's, by whichever name.
    ann.rm("shared/f").expect(204);
    let item = ann.trash_item(&id).unwrap();
    let there = bob.in_space(&home);
    for target in [url.clone(), format!("{url}?revision=1")] {
        bob.send("GET", &target, &[], None).expect(404);
    }
    there.restore(&item, &json!({})).expect_any(&[403, 404]);
    there.restore(&item, &json!({"to": "shared/again"})).expect_any(&[403, 404]);
    bob.restore(&item, &json!({})).expect(404);
    bob.purge(&item).expect(404);
    there.purge(&item).expect_any(&[403, 404]);
    ann.restore(&item, &json!({})).expect(200);
    // Moved out of what is shared it is out of reach; what is inside stays.
    ann.mv("shared/f", "private", false).expect(201);
    for target in [url.clone(), format!("{url}?revision=1"), format!("{url}?revision=2")] {
        bob.send("GET", &target, &[], None).expect(404);
        bob.send("HEAD", &target, &[], None).expect(404);
        bob.send("DELETE", &target, &[], None).expect(404);
    }
    ann.mv("private", "shared/f", false).expect(201);
    bob.send("GET", &url, &[], None).expect(200);
    let gone = format!("/v1/shares/{}", text(&made, "id"));
    ann.send("DELETE", &gone, &[], None).expect(204);
    for revision in 1..=2 {
        bob.send("GET", &format!("{url}?revision={revision}"), &[], None).expect(404);
        there.restore_revision("shared/f", revision).expect(404);
        there.rm_revision("shared/f", revision).expect(404);
    }
    bob.json("PATCH", &gone, &json!({"role": "manager"})).expect(404);
    for route in ["", "/trash", "/changes", "/lifecycle", "/list/"] {
        bob.send("GET", &format!("/v1/spaces/{home}{route}"), &[], None).expect(404);
    }
    bob.send("GET", &format!("/v1/spaces/home-ann{}", "/list/"), &[], None).expect(404);
    for user in ["ann", "root"] {
        bob.send("GET", &format!("/v1/users/{user}"), &[], None).expect_any(&[403, 404]);
        bob.send("GET", &format!("/v1/users/{user}/keys"), &[], None).expect_any(&[403, 404]);
    }
    assert_eq!(ann.get("shared/f").expect(200).body, b"during");
    oracle::clean(&root);
}

#[test]
fn nothing_private_is_copied_or_referred_to() {
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    ann.mkdir("d").expect(201);
    ann.put("d/f", b"private").expect(201);
    bob.put("mine", b"x").expect(201);
    let (home, id) = (text(&ann.space(), "id").to_owned(), ann.must_stat("d/f")["id"].clone());
    let dir = ann.must_stat("d")["id"].clone();
    for space in [&home, "home-ann"] {
        let there = bob.in_space(space);
        for (from, to) in [("d/f", "stolen"), ("d", "stolen"), ("", "stolen")] {
            there.cp_to(from, "home", to).expect_any(&[400, 404]);
            there.cp(from, to, false).expect_any(&[400, 404]);
            there.mv(from, to, true).expect_any(&[400, 404]);
        }
        // Nor is anything put there.
        bob.cp_to("mine", space, "planted").expect(404);
        bob.cp_to("mine", space, "d/f").expect(404);
        let into = json!({"from": "mine", "to": "d/f", "to_space": space, "overwrite": true});
        bob.json("POST", "/v1/spaces/home/move", &into).expect_any(&[404, 409]);
        let upload = Upload::new(&bob, "u", 0);
        drop(upload);
        tus::begin(&bob, &format!("space={space}&path=u"), &[("Upload-Length", "1")]).expect(404);
        let held = tus::begin(&bob, "path=held&numbered=1", &[]).expect(201);
        let held = Upload::of(&bob, &held);
        held.complete(&json!({"space": space, "path": "planted", "parts": []}))
            .expect_any(&[400, 404, 409]);
        held.delete().expect_any(&[204, 412]);
        let form = format!("/v1/files?space={space}&path=planted");
        bob.send("POST", &form, &[], Some(b"x")).expect(404);
        let refer = json!({"target": {"space": space, "path": "d"}});
        bob.json("PUT", &bob.at("references", "ref"), &refer).expect(404);
        let grant = json!({"space": space, "path": "d", "kind": "user", "with": "bob",
                           "role": "manager"});
        bob.json("POST", "/v1/shares", &grant).expect(404);
    }
    for node in [&id, &dir] {
        let refer = json!({"target": {"id": node}});
        bob.json("PUT", &bob.at("references", "ref"), &refer).expect(404);
        for kind in ["user", "link"] {
            let mut grant = json!({"id": node, "kind": kind, "role": "viewer"});
            if kind == "user" {
                grant["with"] = "bob".into();
            }
            bob.json("POST", "/v1/shares", &grant).expect(404);
        }
    }
    // A viewer copies out what they may read, and shares none of it.
    share(&ann, &json!({"path": "d", "kind": "user", "with": "bob", "role": "viewer"}));
    bob.json("PUT", &bob.at("references", "ref"), &json!({"target": {"id": dir}})).expect(201);
    assert_eq!(bob.get("ref/f").expect(200).body, b"private");
    bob.put("ref/f", b"x").expect_problem(403, "denied");
    bob.rm("ref/f").expect_problem(403, "denied");
    bob.mv("ref/f", "ref/g", false).expect_problem(403, "denied");
    bob.cp("mine", "ref/g", false).expect_any(&[403, 409]);
    let onward = json!({"path": "ref", "kind": "link", "role": "viewer"});
    let made = bob.json("POST", "/v1/shares", &onward);
    if made.status == 201 {
        // Of the reference itself: it opens nothing of its target.
        let link = format!("/v1/links/{}", text(&made.json()["link"], "token"));
        let guest = Client::anonymous(server.addr());
        guest.send("GET", &format!("{link}/files/f"), &[], None).expect_any(&[403, 404]);
        guest.send("GET", &format!("{link}/list/"), &[], None).expect_any(&[403, 404, 409]);
    } else {
        made.expect_any(&[400, 403, 404, 409]);
    }
    assert_eq!(ann.list_all("").len(), 2);
    assert_eq!(ann.get("d/f").expect(200).body, b"private");
    oracle::clean(&root);
}

#[test]
fn ids_of_uploads_are_not_to_be_guessed() {
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    let mut ids = BTreeSet::new();
    for number in 0..64 {
        let upload = Upload::new(&ann, &format!("f{number}"), 9);
        ids.insert(upload.url.rsplit('/').next().unwrap().to_owned());
        if number % 8 == 7 {
            upload.delete().expect(204);
        }
    }
    assert_eq!(ids.len(), 64);
    // At least 128 bits that are all drawn: no place of the text is the same in all.
    let places = ids.first().unwrap().len();
    let varied = |place: usize| {
        ids.iter().map(|id| id.as_bytes()[place]).collect::<BTreeSet<u8>>().len() > 4
    };
    let drawn = (0..places).filter(|place| varied(*place)).count();
    assert!(drawn * 4 >= 124, "{drawn} of {places} places are drawn: {:?}", ids.first());
    // One's own upload does not open another's, whatever is done with both.
    let (hers, his) = (Upload::new(&ann, "hers", 3), Upload::new(&bob, "his", 3));
    let stolen = hers.through(bob.another());
    for body in [json!({}), json!({"path": "mine"}), json!({"space": "home", "path": "mine"})] {
        stolen.complete(&body).expect(404);
    }
    for (method, rest) in [("GET", "/parts"), ("PUT", "/parts/1")] {
        let target = format!("{}{rest}", hers.url);
        bob.send(method, &target, &[], Some(b"")).expect(404);
    }
    for part in [&hers.url, &his.url] {
        let concat = format!("final;{part}");
        tus::begin(&bob, "path=both", &[("Upload-Concat", &concat)]).expect_any(&[400, 404, 409]);
    }
    let elsewhere = format!("final;http://evil.example{}", hers.url);
    tus::begin(&bob, "path=both", &[("Upload-Concat", &elsewhere)]).expect_any(&[400, 404, 409]);
    // Nor does an administrator's key of another scope.
    let narrow = key_of(&ann, &json!({"scope": {"access": "read"}}));
    hers.through(narrow).patch(0, b"abc").expect(403);
    hers.patch(0, b"abc").expect(204);
    his.patch(0, b"xyz").expect(204);
    assert_eq!(ann.get("hers").expect(200).body, b"abc");
    assert_eq!(bob.get("his").expect(200).body, b"xyz");
    oracle::clean(&root);
}

#[test]
fn a_link_opens_its_directory_and_nothing_else() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("public", &json!({}));
    for dir in ["open", "open/in", "closed", "open-too"] {
        space.mkdir(dir).expect(201);
        space.put(&format!("{dir}/f"), b"one").expect(201);
        space.put(&format!("{dir}/f"), dir.as_bytes()).expect(200);
    }
    // What leads out of it, for whoever made it.
    let closed = space.must_stat("closed")["id"].clone();
    let refer = json!({"target": {"id": closed}});
    space.json("PUT", &space.at("references", "open/out"), &refer).expect(201);
    let id = text(&space.must_stat("closed/f"), "id").to_owned();
    for role in ["viewer", "editor"] {
        let made = share(
            &root,
            &json!({"space": "public", "path": "open", "kind": "link",
                                        "role": role}),
        );
        let link = format!("/v1/links/{}", text(&made["link"], "token"));
        let guest = Client::anonymous(server.addr());
        let ask = |method: &str, rest: &str, headers: Headers<'_>| {
            let body: Option<&[u8]> = (method != "GET").then_some(b"");
            guest.send(method, &format!("{link}{rest}"), headers, body)
        };
        assert_eq!(ask("GET", "/files/in/f", &[]).expect(200).body, b"open/in");
        for path in [
            "out/f",
            "out",
            "../closed/f",
            "..%2fclosed%2ff",
            "%2e%2e/closed/f",
            "closed/f",
            "/closed/f",
            "in/../../closed/f",
            "..%5cclosed%5cf",
            "%252e%252e/closed/f",
            &id,
            "-too/f",
            ".trash",
            ".versions",
        ] {
            for verb in ["files", "stat", "list"] {
                let answer = ask("GET", &format!("/{verb}/{path}"), &[]);
                let shown = String::from_utf8_lossy(&answer.body).into_owned();
                let told = format!("{role} {verb} {path}: {answer}");
                assert!(!shown.contains("\"closed/"), "{told}");
                let itself = path == "out" && verb == "stat";
                assert!(itself || (400..500).contains(&answer.status), "{told}");
            }
            for verb in ["files", "dirs"] {
                if path.starts_with("out/") || path.contains("../") || path.contains("2e") {
                    let answer = ask("PUT", &format!("/{verb}/{path}"), &[]);
                    assert!((400..500).contains(&answer.status), "{role} PUT {path}: {answer}");
                    let answer = ask("DELETE", &format!("/files/{path}"), &[]);
                    assert!((400..500).contains(&answer.status), "{role} rm {path}: {answer}");
                }
            }
        }
        // No verb but those of links; no other space, path or id by a parameter or header.
        for rest in [
            "/trash",
            "/changes",
            "/revisions/f",
            "/references/x",
            "/move",
            "/copy",
            "/shares",
            "/uploads",
            "/lifecycle",
            "/trash/x/restore",
            "/search",
            "/thumbnail",
            "/admin/check",
        ] {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                ask(method, rest, &[]).expect_any(&[404, 405]);
            }
        }
        for query in ["space=public", "id=x", "path=closed/f", "to_space=home"] {
            ask("GET", &format!("/files/f?{query}"), &[]).expect(400);
        }
        for header in ["Larder-Space", "X-Larder-Path", "X-Original-URL", "Destination"] {
            let answer = ask("GET", "/files/f", &[(header, "/v1/spaces/public/files/closed/f")]);
            assert_eq!(answer.expect(200).body, b"open");
        }
        // The link is not its maker: neither by rights nor by what the maker has asked for.
        root.json("PATCH", "/v1/spaces/public", &json!({"name": "public"})).expect(200);
        ask("DELETE", "/files/", &[]).expect_any(&[400, 403, 404]);
        let key = [("Idempotency-Key", "maker's")];
        space.put_with("closed/once", b"x", &key).expect_any(&[200, 201]);
        let again = ask("PUT", "/files/once", &key);
        assert!(!again.to_string().contains("closed"), "{again}");
        assert_eq!(again.status, if role == "viewer" { 403 } else { 201 }, "{again}");
        // What leaves the directory leaves the link.
        space.mv("open/in", "closed/in", false).expect(201);
        ask("GET", "/files/in/f", &[]).expect(404);
        space.mv("closed/in", "open/in", false).expect(201);
        ask("GET", "/files/in/f", &[]).expect(200);
    }
    assert_eq!(space.get("closed/f").expect(200).body, b"closed");
    oracle::clean(&root);
}

/// What may be taken away from somebody who is at work.
#[derive(Clone, Copy, Debug)]
enum Taken {
    Grant,
    GroupGrant,
    Membership,
    Role,
    Link,
    LinkPassword,
    Key,
    User,
    LinkMaker,
}

/// Whoever is at work, the path of a directory to them, and what takes their right away.
fn at_work(root: &Client, taken: Taken, name: &str) -> (Client, String, Box<dyn Fn()>) {
    let space = root.project(name, &json!({}));
    space.mkdir("d").expect(201);
    space.put("d/f", b"x").expect(201);
    let user = root.make_user(name).in_space(name);
    let place = json!({"space": name, "path": "d", "role": "editor"});
    let with = |more: Value| {
        let mut body = place.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let admin = root.another();
    let dir = format!("/v1/spaces/{name}/files/d");
    let end = move |method: &'static str, target: String, body: Value| -> Box<dyn Fn()> {
        Box::new(move || {
            admin.json(method, &target, &body).expect_any(&[200, 204]);
        })
    };
    match taken {
        Taken::Grant | Taken::Role | Taken::Key | Taken::User => {
            let made = share(root, &with(json!({"kind": "user", "with": name})));
            let grant = format!("/v1/shares/{}", text(&made, "id"));
            match taken {
                Taken::Grant => (user, dir, end("DELETE", grant, json!({}))),
                Taken::Role => (user, dir, end("PATCH", grant, json!({"role": "viewer"}))),
                Taken::User => {
                    let target = format!("/v1/users/{name}");
                    (user, dir, end("PATCH", target, json!({"disabled": true})))
                }
                _ => {
                    let by_key = key_of(&user, &json!({"name": "k"}));
                    let keys = user.send("GET", "/v1/users/me/keys", &[], None).expect(200).json();
                    let target = format!("/v1/users/{name}/keys/{}", text(&keys["keys"][0], "id"));
                    (by_key, dir, end("DELETE", target, json!({})))
                }
            }
        }
        Taken::GroupGrant | Taken::Membership => {
            root.json("POST", "/v1/groups", &json!({"name": name})).expect(201);
            let member = format!("/v1/groups/{name}/members/{name}");
            root.send("PUT", &member, &[], Some(b"")).expect(204);
            let made = share(root, &with(json!({"kind": "group", "with": name})));
            let grant = format!("/v1/shares/{}", text(&made, "id"));
            let target = if matches!(taken, Taken::Membership) { member } else { grant };
            (user, dir, end("DELETE", target, json!({})))
        }
        Taken::Link | Taken::LinkPassword | Taken::LinkMaker => {
            let manager = with(json!({"kind": "user", "with": name, "role": "manager"}));
            share(root, &manager);
            let made = share(&user, &with(json!({"kind": "link"})));
            let link = format!("/v1/shares/{}", text(&made, "id"));
            let dir = format!("/v1/links/{}/files", text(&made["link"], "token"));
            let guest = Client::anonymous(root.addr());
            match taken {
                Taken::Link => (guest, dir, end("DELETE", link, json!({}))),
                Taken::LinkPassword => {
                    (guest, dir, end("PATCH", link, json!({"password": "open sesame"})))
                }
                _ => {
                    let target = format!("/v1/users/{name}");
                    (guest, dir, end("PATCH", target, json!({"disabled": true})))
                }
            }
        }
    }
}

#[test]
fn what_runs_ends_with_the_right_to_it() {
    let server = Server::start();
    let root = server.client();
    for (number, taken) in [
        Taken::Grant,
        Taken::GroupGrant,
        Taken::Membership,
        Taken::Role,
        Taken::Link,
        Taken::LinkPassword,
        Taken::Key,
        Taken::User,
        Taken::LinkMaker,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("work-{number}");
        let (client, dir, take) = at_work(&root, taken, &name);
        let put = format!("{dir}/new");
        client.send("PUT", &format!("{dir}/before"), &[], Some(b"x")).expect(201);
        // One upload is about to end, one goes on, when the right is taken.
        let begin = |length: &str| {
            let mut conn = Conn::open(client.addr()).unwrap();
            let headers = [("Content-Length", length), ("Expect", "100-continue")];
            conn.send(client.head_of("PUT", &put, &headers).as_bytes()).unwrap();
            assert_eq!(conn.any_head().unwrap().status, 100, "{taken:?}");
            conn.send(&[b'x'; 2000]).unwrap();
            conn
        };
        let (mut ending, mut running) = (begin("2001"), begin("500000000"));
        take();
        let since = Instant::now();
        ending.send(b"x").ok();
        let told = ending.response("PUT");
        let fine = |answer: &Response| {
            (400..500).contains(&answer.status) && answer.status != 408 || answer.status == 0
        };
        assert!(fine(&told), "{taken:?}: {told}");
        let refused = client.another().send("PUT", &format!("{dir}/after"), &[], Some(b"x"));
        assert!([401, 403, 404].contains(&refused.status), "{taken:?}: {refused}");
        let read = client.another().send("GET", &format!("{dir}/f"), &[], None);
        let reads = matches!(taken, Taken::Role);
        assert_eq!(read.status == 200, reads, "{taken:?}: {read}");
        assert!(since.elapsed() < SOON + Duration::from_secs(4), "{taken:?}");
        // The one that goes on is cut off, whatever it still sends.
        let end = Instant::now() + Duration::from_secs(15);
        while running.send(&[b'x'; 1000]).is_ok() && running.is_idle() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        let told = running.response("PUT");
        assert!(fine(&told), "{taken:?}: {told}");
        assert!(Instant::now() < end, "{taken:?}: an upload runs on");
        let space = root.in_space(&name);
        let paths: Vec<String> =
            space.list("d").iter().map(|entry| text(entry, "name").to_owned()).collect();
        assert_eq!(paths, ["before", "f"], "{taken:?}");
        let freed = || space.usage().reserved == 0;
        assert!(tool::wait_until(Duration::from_secs(10), freed), "{taken:?}");
    }
    oracle::all_is_well(&server, &root);
}

#[test]
fn every_share_is_seen_and_revoked_by_the_owner() {
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    let eve = root.make_user("eve");
    root.json("POST", "/v1/groups", &json!({"name": "staff"})).expect(201);
    ann.mkdir("d").expect(201);
    ann.mkdir("d/e").expect(201);
    ann.put("d/e/f", b"private").expect(201);
    let home = text(&ann.space(), "id").to_owned();
    share(&ann, &json!({"path": "d", "kind": "user", "with": "bob", "role": "manager"}));
    // Whom the manager lets in: on what is below, by path, by id, through a reference, by link.
    let id = ann.must_stat("d/e/f")["id"].clone();
    let dir = ann.must_stat("d")["id"].clone();
    bob.json("PUT", &bob.at("references", "ref"), &json!({"target": {"id": dir}})).expect(201);
    let mut made = vec![
        json!({"space": home, "path": "d/e", "kind": "user", "with": "eve", "role": "editor"}),
        json!({"id": id, "kind": "user", "with": "eve", "role": "viewer"}),
        json!({"space": home, "path": "d/e", "kind": "group", "with": "staff", "role": "viewer"}),
        json!({"id": id, "kind": "link", "role": "viewer"}),
        json!({"space": home, "path": "d", "kind": "link", "role": "uploader"}),
        json!({"space": home, "path": "d", "kind": "user", "with": "eve", "role": "viewer",
               "expires": "2099-01-01T00:00:00Z"}),
    ]
    .iter()
    .map(|body| text(&share(&bob, body), "id").to_owned())
    .collect::<BTreeSet<String>>();
    let onward = json!({"path": "ref/e", "kind": "link", "role": "viewer"});
    let through = bob.json("POST", "/v1/shares", &onward).expect_any(&[201, 400, 403, 404, 409]);
    if through.status == 201 {
        made.insert(text(&through.json(), "id").to_owned());
    }
    let ids = |client: &Client, target: &str| -> BTreeSet<String> {
        client.pages(target).iter().map(|share| text(share, "id").to_owned()).collect()
    };
    let all = format!("/v1/shares?space={home}");
    assert!(ids(&ann, &all).is_superset(&made), "the owner sees every one");
    assert!(ids(&root, &all).is_superset(&made), "so does an administrator");
    assert_eq!(ids(&bob, "/v1/shares?by=me"), made);
    // They are still seen after a move, a rename and a way through the trash.
    ann.mv("d/e", "other", false).expect(201);
    assert!(ids(&ann, &all).is_superset(&made), "{:?}", ids(&ann, &all));
    let node = text(&ann.must_stat("other"), "id").to_owned();
    ann.rm("other").expect(204);
    eve.send("GET", &format!("/v1/files/{}", id.as_str().unwrap()), &[], None).expect(404);
    ann.restore(&ann.trash_item(&node).unwrap(), &json!({})).expect(200);
    assert!(ids(&ann, &all).is_superset(&made));
    // Who gave what they no more have gives nothing; what is left the owner takes back.
    for share in ids(&ann, &all) {
        ann.send("DELETE", &format!("/v1/shares/{share}"), &[], None).expect_any(&[204, 404]);
    }
    assert!(ids(&ann, &all).is_empty());
    for client in [&bob, &eve] {
        client.send("GET", &format!("/v1/files/{}", id.as_str().unwrap()), &[], None).expect(404);
        client.send("GET", &format!("/v1/spaces/{home}/list/"), &[], None).expect(404);
        assert!(ids(client, "/v1/shares").is_empty());
    }
    bob.stat("ref/e").expect(404);
    oracle::clean(&root);
}
