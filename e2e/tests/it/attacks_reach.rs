//! Attacks on what is private: spellings, copies, references and links that reach what they must
//! not. What holds which:
//!
//! * Spellings that slip past a grant: `a_grant_is_of_the_directory_however_it_is_spelt`,
//!   `races::what_both_spellings_of_a_name_mean_is_one_node`.
//! * Another's data, revisions, trash: `what_was_another_s_stays_another_s`,
//!   `shares::another_s_file_is_404_then_200_when_shared_then_404_when_revoked`.
//! * Copies and references out of what is private: `nothing_private_is_copied_or_referred_to`.
//! * Uploads of others, guessed ids: `ids_of_uploads_are_not_to_be_guessed`,
//!   `tus::uploads_are_their_owners_own`, `sessions::r15_parts_are_whole_once_and_their_owners`.
//! * A link that leaves its directory: `a_link_opens_its_directory_and_nothing_else`,
//!   `shares::a_link_works_without_an_account_within_its_terms_and_shows_nothing_else`.
//! * A viewer who changes things:
//!   `shares::every_cell_of_doors_verbs_and_roles_is_as_the_table_says`.
//! * A key's own reference or copy out of the spaces it is for: `a_key_stays_in_its_spaces`.
//! * Shares that nobody sees, and that are seen by whom they are no business of:
//!   `every_share_is_seen_and_revoked_by_the_owner`,
//!   `no_share_is_shown_beyond_the_scope_of_a_key_or_the_reach_of_its_maker`.
//!
//! Not here: credentials (`attacks`), revocation (`attacks_after`), names and sizes
//! (`attacks_wire`).

use std::collections::BTreeSet;

use larder_e2e::{
    client::{Client, Headers, Response, text},
    oracle,
    server::Server,
    tus::{self, Upload},
};
use serde_json::{Value, json};

use crate::attacks::{key_of, share};

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

/// What leads from a link's directory to others, or would.
const OUT: &[&str] = &[
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
    "-too/f",
    ".trash",
    ".versions",
];

/// What else there might be below a link.
const NOT_OF_LINKS: &[&str] = &[
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
];

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
        let body = json!({"space": "public", "path": "open", "kind": "link", "role": role});
        let made = share(&root, &body);
        let link = format!("/v1/links/{}", text(&made["link"], "token"));
        let guest = Client::anonymous(server.addr());
        let ask = |method: &str, rest: &str, headers: Headers<'_>| {
            let body: Option<&[u8]> = (method != "GET").then_some(b"");
            guest.send(method, &format!("{link}{rest}"), headers, body)
        };
        assert_eq!(ask("GET", "/files/in/f", &[]).expect(200).body, b"open/in");
        for path in OUT.iter().chain([&&*id]) {
            for verb in ["files", "stat", "list"] {
                let answer = ask("GET", &format!("/{verb}/{path}"), &[]);
                let shown = String::from_utf8_lossy(&answer.body).into_owned();
                let told = format!("{role} {verb} {path}: {answer}");
                assert!(!shown.contains("\"closed/"), "{told}");
                let itself = *path == "out" && verb == "stat";
                assert!(itself || (400..500).contains(&answer.status), "{told}");
            }
            for verb in ["files", "dirs"] {
                if path.starts_with("out/") || path.contains("../") || path.contains("%2") {
                    let answer = ask("PUT", &format!("/{verb}/{path}"), &[]);
                    assert!((400..500).contains(&answer.status), "{role} PUT {path}: {answer}");
                    let answer = ask("DELETE", &format!("/files/{path}"), &[]);
                    assert!((400..500).contains(&answer.status), "{role} rm {path}: {answer}");
                }
            }
        }
        // No verb but those of links; no other space, path or id by a parameter or header.
        for rest in NOT_OF_LINKS {
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
    let mut made = [
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

#[test]
fn no_share_is_shown_beyond_the_scope_of_a_key_or_the_reach_of_its_maker() {
    let server = Server::start();
    let root = server.client();
    for name in ["one", "two"] {
        root.project(name, &json!({})).mkdir("d").expect(201);
    }
    let link = json!({"space": "two", "path": "d", "kind": "link", "role": "editor"});
    let link = share(&root, &link);
    let (id, token) = (text(&link, "id").to_owned(), text(&link["link"], "token").to_owned());
    let ann = root.make_user("ann");
    let with_ann = |space: &str, path: &str, role: &str| {
        let body = json!({"space": space, "path": path, "kind": "user", "with": "ann",
                          "role": role});
        share(&root, &body)
    };
    let given = with_ann("two", "d", "manager");
    with_ann("one", "", "viewer");
    let space = text(&given, "space");
    let hers = share(&ann, &json!({"space": space, "path": "d", "kind": "link", "role": "viewer"}));
    let (hers_id, given_id) = (text(&hers, "id").to_owned(), text(&given, "id").to_owned());
    let narrow = |client: &Client, scope: Value| key_of(client, &json!({"scope": scope}));
    for (client, made) in [
        (narrow(&root, json!({"access": "read"})), &id),
        (narrow(&root, json!({"access": "write"})), &id),
        (narrow(&root, json!({"access": "full", "spaces": ["one"]})), &id),
        (narrow(&ann, json!({"access": "full", "spaces": ["one"]})), &id),
        (narrow(&ann, json!({"access": "full", "spaces": ["one"]})), &hers_id),
        (narrow(&ann, json!({"access": "full", "spaces": ["one"]})), &given_id),
        (narrow(&ann, json!({"access": "read"})), &hers_id),
    ] {
        let url = format!("/v1/shares/{made}");
        for method in ["GET", "PATCH", "DELETE"] {
            let answer = client.json(method, &url, &json!({"role": "viewer"}));
            let answer = answer.expect_any(&[403, 404]);
            assert!(!answer.to_string().contains(&token), "{answer}");
        }
        for query in ["", "?by=me", "?space=two", "?space=two&path=d"] {
            let answer = client.send("GET", &format!("/v1/shares{query}"), &[], None);
            if answer.status == 200 {
                let shown = answer.json().to_string();
                assert!(!shown.contains(made.as_str()), "{query}: {shown}");
                assert!(!shown.contains(&token), "{query}: {shown}");
            } else {
                answer.expect_any(&[403, 404]);
            }
        }
    }
    root.send("GET", &format!("/v1/shares/{id}"), &[], None).expect(200);
    // Nor an upload, or a space.
    let upload = Upload::new(&root.in_space("two"), "d/up", 9);
    let elsewhere = narrow(&root, json!({"access": "full", "spaces": ["one"]}));
    assert!(elsewhere.pages("/v1/uploads").is_empty());
    for method in ["GET", "HEAD", "DELETE"] {
        let resumable = [tus::RESUMABLE];
        elsewhere.send(method, &upload.url, &resumable, None).expect_any(&[403, 404]);
    }
    upload.through(elsewhere.another()).patch(0, b"x").expect_any(&[403, 404]);
    let spaces = elsewhere.pages("/v1/spaces");
    assert_eq!(spaces.iter().map(|space| text(space, "name")).collect::<Vec<_>>(), ["one"]);
    // Who may no more share a directory, or see it, does not learn what becomes of it.
    root.send("DELETE", &format!("/v1/shares/{}", text(&given, "id")), &[], None).expect(204);
    root.in_space("two").mv("d", "renamed-in-secret", false).expect(201);
    for target in ["/v1/shares?by=me".to_owned(), format!("/v1/shares/{}", text(&hers, "id"))] {
        let answer = ann.send("GET", &target, &[], None).expect_any(&[200, 404]);
        assert!(!answer.to_string().contains("renamed-in-secret"), "{answer}");
    }
    Client::anonymous(server.addr())
        .send("GET", &format!("/v1/links/{}", text(&hers["link"], "token")), &[], None)
        .expect(404);
    oracle::clean(&root);
}

#[test]
fn a_link_cannot_be_given_later_what_it_cannot_be_made_with() {
    let server = Server::start();
    let root = server.client();
    root.mkdir("d").expect(201);
    root.make_user("ann");
    let made = share(&root, &json!({"path": "d", "kind": "link", "role": "editor"}));
    let id = text(&made, "id").to_owned();
    let url = format!("/v1/shares/{id}");
    for change in [
        json!({"downloads_max": 0}),
        json!({"name": "a\nb"}),
        json!({"name": "n".repeat(129)}),
        json!({"password": ""}),
        json!({"role": "manager"}),
        json!({"with": "ann"}),
        json!({"id": id}),
    ] {
        root.json("PATCH", &url, &change).expect_problem(400, "invalid");
    }
    oracle::clean(&root);
}

#[test]
fn a_key_stays_in_its_spaces() {
    let server = Server::start();
    let root = server.client();
    for name in ["one", "two"] {
        let space = root.project(name, &json!({}));
        space.mkdir("d").expect(201);
        space.put("d/f", name.as_bytes()).expect(201);
    }
    let (one, two) = (root.in_space("one"), root.in_space("two"));
    let node = two.must_stat("d")["id"].clone();
    let refer = json!({"target": {"id": node}});
    one.json("PUT", &one.at("references", "out"), &refer).expect(201);
    assert_eq!(one.get("out/f").expect(200).body, b"two");
    let id = text(&two.must_stat("d/f"), "id").to_owned();
    two.put("gone", b"x").expect(201);
    let gone = text(&two.must_stat("gone"), "id").to_owned();
    two.rm("gone").expect(204);
    let item = two.trash_item(&gone).unwrap();
    for access in ["full", "write", "read"] {
        let scope = json!({"scope": {"access": access, "spaces": ["one"]}});
        let key = key_of(&root, &scope).in_space("one");
        assert_eq!(key.get("d/f").expect(200).body, b"one");
        let told = |what: &str, answer: Response| {
            assert!([403, 404, 409].contains(&answer.status), "{access} {what}: {answer}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("\"two"), "{what}: {answer}");
        };
        told("get", key.get("out/f"));
        told("stat", key.stat("out/f"));
        told("list", key.list_page("out", ""));
        told("put", key.put("out/g", b"x"));
        told("over", key.put("out/f", b"x"));
        told("rm", key.rm("out/f"));
        told("mkdir", key.mkdir("out/new"));
        told("in", key.cp("out/f", "stolen", false));
        told("in", key.cp("out", "stolen", false));
        told("into", key.cp_to("d/f", "two", "planted"));
        told("over", key.mv("d/f", "out/f", true));
        told("from", key.in_space("two").cp_to("d/f", "one", "stolen"));
        told("from", key.in_space("two").cp_to("d", "one", "stolen"));
        told("restore", key.in_space("two").restore(&item, &json!({})));
        told("restore", key.restore(&item, &json!({})));
        told("purge", key.purge(&item));
        let url = format!("/v1/files/{id}");
        for method in ["GET", "HEAD", "DELETE"] {
            told(method, key.send(method, &url, &[], None));
        }
        told("again", key.json("PUT", &key.at("references", "again"), &refer));
        told(
            "share",
            key.json(
                "POST",
                "/v1/shares",
                &json!({"id": id, "kind": "link",
                                                             "role": "viewer"}),
            ),
        );
        let length = [("Upload-Length", "1")];
        told("tus", tus::begin(&key, "space=two&path=planted", &length));
        told("tus", tus::begin(&key, "space=one&path=out%2Fplanted", &length));
        let job = json!({"kind": "lifecycle", "space": "one"});
        told("job", key.json("POST", "/v1/admin/jobs", &job));
    }
    assert_eq!(two.list_all("").len(), 2);
    assert_eq!(two.get("d/f").expect(200).body, b"two");
    assert_eq!(one.list_all("").len(), 3);
    oracle::clean(&root);
}
