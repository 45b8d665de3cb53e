//! Attacks by going on: whoever still does what they may no more, or inherits what was another's.
//! What holds which:
//!
//! * Uploads and downloads by whoever has lost the right: `what_runs_ends_with_the_right_to_it`,
//!   `sessions::r12_who_may_no_more_stores_no_more`.
//! * Streams that go on telling: `a_stream_of_changes_ends_with_the_right_to_it`,
//!   `feed::a_stream_ends_when_its_user_is_disabled`.
//! * Old passwords that are still remembered: `what_is_remembered_of_a_password_ends_with_it`.
//! * Taking the name of who was there before: `a_name_that_is_taken_again_inherits_nothing`.
//!
//! Not here: races with the revocation (core's tests).

use std::{
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Response, text},
    http::Conn,
    oracle,
    server::Server,
    tool,
    tus::Upload,
};
use serde_json::{Value, json};

use crate::attacks::{key_of, share};

/// How soon a revocation holds, with what a busy machine adds.
const SOON: Duration = Duration::from_secs(1);

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
fn a_name_that_is_taken_again_inherits_nothing() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("team", &json!({}));
    space.mkdir("d").expect(201);
    space.put("d/f", b"private").expect(201);
    let place = |more: Value| {
        let mut body = json!({"space": "team", "path": "d", "role": "manager"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    let group = || root.json("POST", "/v1/groups", &json!({"name": "staff"})).expect(201);
    let join = || {
        root.send("PUT", "/v1/groups/staff/members/bob", &[], Some(b"")).expect(204);
    };
    group();
    join();
    share(&root, &place(json!({"kind": "user", "with": "ann"})));
    share(&root, &place(json!({"kind": "group", "with": "staff"})));
    let (hers, his) = (ann.in_space("team"), bob.in_space("team"));
    let link = share(&ann, &place(json!({"kind": "link", "role": "editor"})));
    let link = format!("/v1/links/{}/files/f", text(&link["link"], "token"));
    let guest = Client::anonymous(server.addr());
    ann.put("own", b"hers").expect(201);
    let key = key_of(&ann, &json!({}));
    let upload = Upload::new(&ann, "u", 9);
    hers.get("d/f").expect(200);
    his.get("d/f").expect(200);
    guest.send("GET", &link, &[], None).expect(200);
    root.send("DELETE", "/v1/users/ann", &[], None).expect(204);
    root.send("DELETE", "/v1/groups/staff", &[], None).expect(204);
    let ann = root.make_user("ann");
    group();
    join();
    let hers = ann.in_space("team");
    for client in [&hers, &his] {
        client.get("d/f").expect(404);
        client.put("d/g", b"x").expect(404);
        assert!(client.pages("/v1/shares").is_empty());
        assert!(client.pages("/v1/shares?by=me").is_empty());
    }
    key.send("GET", "/v1/me", &[], None).expect(401);
    guest.send("GET", &link, &[], None).expect(404);
    ann.get("own").expect(404);
    upload.through(ann.another()).head().expect_any(&[404, 410]);
    assert!(ann.pages("/v1/uploads").is_empty());
    let keys = ann.send("GET", "/v1/users/me/keys", &[], None).expect(200).json();
    assert_eq!(keys["keys"], json!([]));
    // A space of the same name is another.
    share(&root, &place(json!({"kind": "user", "with": "ann"})));
    hers.get("d/f").expect(200);
    root.send("DELETE", "/v1/spaces/team", &[], None).expect(204);
    let again = || root.make_space("team", "project", &json!({})).status == 201;
    assert!(tool::wait_until(Duration::from_secs(20), again));
    space.mkdir("d").expect(201);
    space.put("d/f", b"private").expect(201);
    hers.get("d/f").expect(404);
    oracle::clean(&root);
}

#[test]
fn what_is_remembered_of_a_password_ends_with_it() {
    let server = Server::start();
    let root = server.client();
    let ann = root.make_user("ann");
    ann.put("f", b"x").expect(201);
    ann.json("PATCH", "/v1/users/me", &json!({"password": "another secret"})).expect(200);
    ann.get("f").expect(401);
    ann.another().get("f").expect(401);
    let ann = Client::new(server.addr(), "ann", "another secret");
    ann.get("f").expect(200);
    let body = json!({"path": "f", "kind": "link", "role": "viewer", "password": "open sesame"});
    let made = share(&ann, &body);
    let target = format!("/v1/links/{}/files/", text(&made["link"], "token"));
    let guest = Client::anonymous(server.addr());
    let with =
        |password: &str| guest.send("GET", &target, &[("Larder-Link-Password", password)], None);
    with("open sesame").expect(200);
    let share = format!("/v1/shares/{}", text(&made, "id"));
    ann.json("PATCH", &share, &json!({"password": "open barley"})).expect(200);
    with("open sesame").expect(401);
    with("open barley").expect(200);
    root.json("PATCH", "/v1/users/ann", &json!({"disabled": true})).expect(200);
    ann.get("f").expect(401);
    with("open barley").expect(404);
    // A space that a key was for, and no more.
    root.json("PATCH", "/v1/users/ann", &json!({"disabled": false})).expect(200);
    ann.get("f").expect(200);
}

#[test]
fn a_stream_of_changes_ends_with_the_right_to_it() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("team", &json!({}));
    let bob = root.make_user("bob");
    let grant = || {
        share(
            &root,
            &json!({"space": "team", "path": "", "kind": "user", "with": "bob",
                             "role": "viewer"}),
        )
    };
    for by_key in [false, true] {
        let given = grant();
        let key = bob.json("POST", "/v1/users/me/keys", &json!({})).expect(201).json();
        let client = match by_key {
            false => bob.another(),
            true => Client::with_key(server.addr(), text(&key, "key")),
        };
        let mut conn = Conn::open(server.addr()).unwrap();
        let accept = [("Accept", "text/event-stream")];
        let target = "/v1/spaces/team/changes?cursor=now";
        conn.send(client.head_of("GET", target, &accept).as_bytes()).unwrap();
        assert_eq!(conn.head().unwrap().status, 200);
        let taken = match by_key {
            false => format!("/v1/shares/{}", text(&given, "id")),
            true => format!("/v1/users/bob/keys/{}", text(&key, "id")),
        };
        root.send("DELETE", &taken, &[], None).expect(204);
        space.put("secret", b"x").expect_any(&[200, 201]);
        let since = Instant::now();
        let mut all = Vec::new();
        while let Ok(Some(chunk)) = conn.chunk() {
            all.extend(chunk);
        }
        let told = String::from_utf8(all).unwrap();
        assert!(!told.contains("secret"), "{told}");
        assert!(told.contains("event: end"), "{told}");
        assert!(since.elapsed() < Duration::from_secs(20), "it ends by itself");
        client.send("GET", target, &[], None).expect_any(&[401, 404]);
        root.send("DELETE", &format!("/v1/shares/{}", text(&given, "id")), &[], None);
    }
    oracle::clean(&root);
}
