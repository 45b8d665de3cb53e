//! Attacks by what is sent: names, paths, contents and headers that break whoever reads them
//! without care. What holds which:
//!
//! * Bodies that are not what their digest says: `a_lying_digest_stores_nothing_by_any_door`,
//!   `contract::digests_are_checked_and_given`, `tus::a_piece_with_another_checksum_never_counts`.
//! * Torn bodies: `cuts::a_large_body_cut_anywhere_has_no_effect`,
//!   `cuts::a_cut_in_the_framing_of_chunks_has_no_effect`.
//! * Dots in the address: `no_address_climbs_out_by_any_route`,
//!   `badinput::dots_in_a_url_lead_nowhere`.
//! * Dots in names within headers and bodies: `no_name_in_a_header_or_body_climbs_out`,
//!   `tus::a_name_cannot_lead_out_of_the_space`.
//! * Names that a server might use itself: `no_name_is_the_server_s_own`.
//! * Odd names, and what shows them: `odd_names_break_nothing_that_shows_them`,
//!   `badinput::names_that_are_no_names_are_refused`,
//!   `badinput::odd_but_legal_names_come_back_as_they_were`.
//! * Names too long, paths and JSON too deep: `nothing_long_or_deep_ends_the_process`,
//!   `no_depth_of_json_ends_the_process`,
//!   `badinput::paths_have_a_depth_and_a_length`,
//!   `badinput::json_that_is_wrong_deep_or_huge_is_refused`.
//! * Content as a page of ours, line breaks in headers: `content_is_never_a_page_of_ours`,
//!   `a_line_break_in_what_is_stored_is_none_in_an_answer`,
//!   `badinput::content_from_users_is_no_page_of_ours`.
//! * A host or an address of the sender's choice in what is told:
//!   `limits::no_address_that_we_hand_out_is_made_from_what_a_client_sends`,
//!   `limits::a_request_names_one_host`.
//!
//! Not here: who may do what (`attacks`, `attacks_reach`), how much of it (`attacks_floods`).

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use larder_e2e::{
    client::{Client, Response, encode, text},
    http::Conn,
    oracle,
    server::Server,
    tus::{self, PIECE, RESUMABLE, Upload},
};
use serde_json::json;

/// Sends a request line exactly as given, with credentials.
fn raw(client: &Client, method: &str, target: &[u8], body: &[u8]) -> Response {
    let length = body.len().to_string();
    let head = client.head_of(method, "TARGET", &[("Content-Length", &length)]);
    let (before, after) = head.split_once("TARGET").unwrap();
    let mut conn = Conn::open(client.addr()).unwrap();
    // A server may refuse before it has read everything.
    conn.send(&[before.as_bytes(), target, after.as_bytes(), body].concat()).ok();
    conn.response(method)
}

fn link(root: &Client, path: &str, role: &str) -> String {
    let body = json!({"path": path, "kind": "link", "role": role});
    let made = root.json("POST", "/v1/shares", &body).expect(201).json();
    format!("/v1/links/{}", text(&made["link"], "token"))
}

#[test]
fn a_lying_digest_stores_nothing_by_any_door() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    let link = link(&client, "d", "editor");
    let guest = Client::anonymous(server.addr());
    let numbered = Upload::of(&client, &tus::begin(&client, "path=n&numbered=1", &[]).expect(201));
    let part = format!("{}/parts/1", numbered.url);
    let other = STANDARD.encode([7; 32]);
    let form = |digest: (&str, &str)| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"form\"\r\n\
                 {}: {}\r\n\r\nx\r\n--b--\r\n",
            digest.0, digest.1
        )
    };
    for (name, value) in [
        ("Content-Digest", format!("sha-256=:{other}:")),
        ("Repr-Digest", format!("sha-256=:{other}:")),
        ("Digest", format!("SHA-256={other}")),
        ("Content-Digest", "sha-256=:!!:".to_owned()),
        ("Content-Digest", "sha-256=".to_owned()),
        ("Repr-Digest", format!("sha-256=:{}:", STANDARD.encode([7; 5]))),
        ("Content-Digest", format!("sha-512=:{other}:")),
        ("Content-MD5", STANDARD.encode([7; 16])),
        ("X-Amz-Checksum-Sha256", other.clone()),
    ] {
        let digest = (name, value.as_str());
        let told = |door: &str, answer: Response| {
            // What is not understood may be passed over only where no promise is made of it.
            let passed = name.starts_with("X-Amz");
            let refused = [400, 460, 501].contains(&answer.status);
            assert!(refused || passed, "{door}, {name}: {value}: {answer}");
            assert!(answer.status != 500, "{door}, {name}: {value}: {answer}");
            passed
        };
        told("PUT", client.put_with("put", b"x", &[digest]));
        let target = client.at("files", "chunked");
        told("chunked", client.send_chunked("PUT", &target, &[digest], b"xyz", 1));
        told("POST", client.send("POST", "/v1/files?path=post", &[digest], Some(b"x")));
        told("link", guest.send("PUT", &format!("{link}/files/link"), &[digest], Some(b"x")));
        let kind = [("Content-Type", "multipart/form-data; boundary=b")];
        let body = form(digest);
        if !told("form", client.send("POST", "/v1/files", &kind, Some(body.as_bytes()))) {
            told("part", client.send("PUT", &part, &[digest], Some(b"x")));
            let length = [("Upload-Length", "1"), digest, PIECE, RESUMABLE];
            let made = client.send("POST", "/v1/uploads?path=tus", &length, Some(b"x"));
            assert!([400, 460, 501].contains(&made.status), "tus {name}: {value}: {made}");
            client.stat("put").expect(404);
        }
        for path in ["put", "chunked", "post", "form", "d/link", "tus"] {
            client.rm(path).expect_any(&[204, 404]);
        }
    }
    for upload in client.pages("/v1/uploads") {
        let url = format!("/v1/uploads/{}", text(&upload, "id"));
        client.send("DELETE", &url, &[RESUMABLE], None).expect(204);
    }
    assert_eq!(client.usage().reserved, 0);
    oracle::clean(&client);
}

#[test]
fn no_address_climbs_out_by_any_route() {
    let mut server = Server::start();
    let root = server.client();
    root.put("secret", b"root's own").expect(201);
    let mallory = root.make_user("mallory");
    mallory.mkdir("d").expect(201);
    mallory.put("d/f", b"mine").expect(201);
    let home = text(&root.space(), "id").to_owned();
    let link = link(&mallory, "d", "editor");
    let dots = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "..%2f",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "%252e%252e",
        "..%252f",
        "..%00/",
        "..;",
        "%c0%ae%c0%ae",
        "%uff0e%uff0e",
        "....//",
        ".%0d./",
        "..%2f..",
    ];
    let verbs = ["files", "stat", "list", "revisions", "dirs", "references"];
    for dot in dots {
        let mut targets = vec![
            format!("/v1/spaces/home/{dot}/{home}/files/secret"),
            format!("/v1/spaces/{dot}/users"),
            format!("/v1/{dot}/v1/admin/check"),
            format!("/{dot}/etc/passwd"),
            format!("/v1/files/{dot}/secret"),
            format!("/v1/uploads/{dot}/{dot}/users"),
            format!("/v1/users/{dot}/root/keys"),
            format!("/v1/groups/{dot}"),
            format!("/v1/shares/{dot}"),
            format!("/v1/links/{dot}/spaces"),
            format!("/v1/spaces/home/trash/{dot}/restore"),
            format!("/v1/spaces/home%2f{dot}%2f{home}/files/secret"),
            format!("http://127.0.0.1/v1/spaces/{home}/files/{dot}/secret"),
            format!("http://evil.example/{dot}/v1/admin/check"),
        ];
        for verb in verbs {
            targets.push(format!("/v1/spaces/home/{verb}/{dot}/{home}/secret"));
            targets.push(format!("/v1/spaces/home/{verb}/d/{dot}/{dot}/secret"));
            targets.push(format!("{link}/{verb}/{dot}/secret"));
        }
        for target in targets {
            for method in ["GET", "PUT", "DELETE", "POST"] {
                let answer = raw(&mallory, method, target.as_bytes(), b"");
                let told = format!("{method} {target}: {answer}");
                assert!(!String::from_utf8_lossy(&answer.body).contains("root's own"), "{told}");
                // A name that only looks like dots is a name.
                let name =
                    method == "PUT" && (dot == "..;" || dot == "%252e%252e" || dot == "..%252f");
                let refused = (400..500).contains(&answer.status) || answer.status == 0;
                assert!(refused || name, "{told}");
            }
        }
    }
    assert!(server.is_alive());
    assert_eq!(root.get("secret").expect(200).body, b"root's own");
    assert_eq!(root.list_all("").len(), 1);
    oracle::clean(&root);
}

/// Paths that lead out of where they stand, or nowhere.
const CLIMBING: [&str; 12] = [
    "../x",
    "..",
    ".",
    "d/../../x",
    "/../x",
    "d/./x",
    "d//x",
    "a\u{0}b",
    "a\nb",
    "a\rb",
    "\u{7f}",
    "d/..",
];

#[test]
fn no_name_in_a_header_or_body_climbs_out() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    client.put("d/f", b"x").expect(201);
    client.put("gone", b"x").expect(201);
    let gone = text(&client.must_stat("gone"), "id").to_owned();
    client.rm("gone").expect(204);
    let item = client.trash_item(&gone).unwrap();
    let bob = client.make_user("bob");
    bob.put("his", b"his").expect(201);
    let his = text(&bob.space(), "id").to_owned();
    let done = Upload::of(&client, &tus::begin(&client, "path=n&numbered=1", &[]).expect(201));
    client.send("PUT", &format!("{}/parts/1", done.url), &[], Some(b"x")).expect(200);
    for path in CLIMBING {
        let told = |what: &str, answer: Response| {
            assert!([400, 403, 404, 409].contains(&answer.status), "{what} {path:?}: {answer}");
        };
        told("move to", client.mv("d/f", path, true));
        told("move from", client.mv(path, "y", true));
        told("copy to", client.cp("d/f", path, true));
        told("copy across", bob.cp_to("his", &format!("{his}/../home"), path));
        told("restore", client.restore(&item, &json!({"to": path})));
        told("complete", done.complete(&json!({"path": path, "parts": [1]})));
        let refer = json!({"target": {"space": "home", "path": path}});
        if path != "." {
            told("refer", client.json("PUT", &client.at("references", "r"), &refer));
        }
        let made = json!({"path": path, "kind": "link", "role": "viewer"});
        told("share", client.json("POST", "/v1/shares", &made));
        let rules = json!({"rules": [{"name": "r", "prefix": path, "expire": {"after": "30d"}}]});
        told("rule", client.json("PUT", "/v1/spaces/home/lifecycle", &rules));
        let query = format!("/v1/files?path={}", encode(path));
        told("post", client.send("POST", &query, &[], Some(b"x")));
        for key in ["filename", "path", "relativePath"] {
            let said = tus::metadata(
                &[(key, path), ("filename", path)][..if key == "filename" { 1 } else { 2 }],
            );
            let headers = [("Upload-Length", "1"), ("Upload-Metadata", &*said)];
            told("tus", tus::begin(&client, "", &headers));
        }
    }
    // Names of files in forms are reduced to a name, or refused; never followed.
    let kind = [("Content-Type", "multipart/form-data; boundary=b")];
    for name in ["../x", "..\\x", "/etc/x", "C:\\x", "d/x", "x\u{0}", "..", "%2e%2e%2fx"] {
        for said in [
            format!("filename=\"{name}\""),
            format!("filename*=UTF-8''{}", encode(name)),
            format!("filename=\"ok\"; filename*=UTF-8''{}", encode(name)),
        ] {
            let form = format!(
                "--b\r\nContent-Disposition: form-data; name=\"f\"; {said}\r\n\r\n\
                                x\r\n--b--\r\n"
            );
            let answer = client.send("POST", "/v1/files", &kind, Some(form.as_bytes()));
            assert!([200, 201, 400].contains(&answer.status), "{said}: {answer}");
            if answer.status != 400 {
                let path = text(&answer.json(), "path").to_owned();
                assert!(!path.contains('/') && path != "..", "{said}: {path}");
                client.rm(&path).expect(204);
            }
        }
    }
    // Headers of other protocols do not move anything.
    for header in ["Destination", "X-Amz-Copy-Source", "X-Copy-From", "Overwrite"] {
        let value = format!("/v1/spaces/{his}/files/his");
        client.put_with("h", b"h", &[(header, &value)]).expect_any(&[200, 201]);
        assert_eq!(client.get("h").body, b"h");
    }
    let paths: Vec<String> =
        client.list_all("").iter().map(|entry| text(entry, "path").to_owned()).collect();
    assert_eq!(paths, ["d", "d/f", "h"]);
    assert_eq!(bob.list_all("").len(), 1);
    oracle::clean(&client);
}

#[test]
fn no_name_is_the_server_s_own() {
    let mut server = Server::start();
    let client = server.client();
    let bob = client.make_user("bob");
    let names = [
        ".trash",
        ".versions",
        ".larder",
        ".meta",
        ".system",
        ".uploads",
        ".tmp",
        ".git",
        "@link",
        "home",
        "root",
        "trash",
        "meta",
        "chunks",
        "keys",
        "master.key",
        "LOCK",
        "lost+found",
        ".DS_Store",
        ".larder-upload",
        "system",
        "..data",
        "-",
        "me",
        "@home",
        "files",
    ];
    for name in names {
        client.mkdir(name).expect(201);
        let inside = format!("{name}/master.key");
        client.put(&inside, name.as_bytes()).expect(201);
        assert_eq!(client.get(&inside).expect(200).body, name.as_bytes(), "{name}");
        client.put(&inside, b"over").expect(200);
        assert_eq!(client.revisions(&inside).len(), 2, "{name}");
        assert_eq!(client.list(name).len(), 1, "{name}: nothing else is there");
        bob.stat(&inside).expect(404);
    }
    assert_eq!(client.list("").len(), names.len(), "nothing is hidden or in addition");
    for name in names {
        client.rm(name).expect(204);
    }
    assert_eq!(client.trash().len(), names.len());
    client.empty_trash().expect(204);
    // A space of the name that stands for a link's is none.
    for space in ["@link", "home", "@home", "", ".", "..", "a/b", "a\u{0}"] {
        client.make_space(space, "project", &json!({})).expect_problem(400, "invalid");
    }
    for name in ["me", "home", "..", "@link"] {
        let body = json!({"name": name, "password": "long enough"});
        let answer = client.json("POST", "/v1/users", &body);
        assert!([201, 400].contains(&answer.status), "{answer}");
        if answer.status == 201 {
            // It is not taken for what the name means elsewhere.
            let they = Client::new(client.addr(), name, "long enough");
            let seen = they.send("GET", "/v1/users/me", &[], None).expect(200).json();
            assert_eq!(seen["name"], name);
            they.put("f", b"theirs").expect(201);
            client.stat("f").expect(404);
        }
    }
    assert_eq!(client.get("x").status, 404);
    assert!(server.is_alive());
    oracle::clean(&client);
}

/// Names that are odd, and are names on some system or in some file.
const ODD: &[&str] = &[
    "\u{202e}gpj.exe",
    "\u{2066}x\u{2069}",
    "a\u{200b}b",
    "\u{feff}",
    "\u{2028}",
    "\u{2029}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "\"},{\"name\":\"x",
    "\\u0000",
    "\\",
    "<script>",
    "data: x",
    "NUL",
    "CON",
    "aux.txt",
    "COM1",
    "a:b",
    "a?b",
    "*",
    "<|>",
    " ",
    "a ",
    "a.",
    "~",
    "%",
    "%00",
    "%2e%2e",
    "$(id)",
    "`id`",
    "'; DROP TABLE x--",
    "{{7*7}}",
    "=cmd|'x'!A0",
    "\u{1d173}",
    "\u{e0001}",
    "\u{85}x",
];

#[test]
fn odd_names_break_nothing_that_shows_them() {
    let mut server = Server::start();
    let client = server.client();
    // Either it is a name, and the same everywhere, or it is refused.
    let mut kept = Vec::new();
    client.mkdir("d").expect(201);
    for name in ODD {
        let answer = client.put(&format!("d/{name}"), name.as_bytes());
        match answer.status {
            201 => kept.push(*name),
            400 => {
                client.stat(&format!("d/{name}")).expect(400);
            }
            _ => panic!("{name:?}: {answer}"),
        }
    }
    assert!(kept.len() > 25, "{kept:?}");
    no_names(&client);
    shown(&client, &kept);
    assert!(server.is_alive());
    oracle::clean(&client);
}

/// What is no name is refused however it is written.
fn no_names(client: &Client) {
    for name in ["\u{0}", "a\nb", "a\rb", "\u{1b}[31m", "\t", "\u{8}", "\u{9b}", "."] {
        client.put(&format!("d/{name}"), b"x").expect(400);
    }
    for escape in ["%ed%a0%80", "%ed%b0%80", "%ff", "%fe%ff", "%c0%80", "%f5%80%80%80"] {
        let target = format!("/v1/spaces/home/files/d/{escape}");
        client.send("PUT", &target, &[], Some(b"x")).expect(400);
    }
    for body in [r#"{"from":"d","to":"\ud800"}"#, r#"{"from":"d","to":"\udc00x"}"#] {
        let kind = [("Content-Type", "application/json")];
        client.send("POST", "/v1/spaces/home/move", &kind, Some(body.as_bytes())).expect(400);
    }
}

/// Names that were taken are the same in everything that shows them.
fn shown(client: &Client, kept: &[&str]) {
    let mut names: Vec<String> =
        client.list("d").iter().map(|entry| text(entry, "name").to_owned()).collect();
    names.sort();
    let mut wanted = kept.to_vec();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for name in kept {
        let path = format!("d/{name}");
        let read = client.get(&path).expect(200);
        assert_eq!(read.body, name.as_bytes(), "{name:?}");
        let disposition = read.header("content-disposition").unwrap_or_default();
        assert!(disposition.is_ascii(), "{name:?}: {disposition}");
        let link = link(client, &path, "viewer");
        let view = client.send("GET", &link, &[], None).expect(200).json();
        assert_eq!(view["kind"], "file", "{name:?}");
        client.rm(&path).expect(204);
        let upload = Upload::new(client, &path, 1);
        assert_eq!(upload.info()["path"].as_str().unwrap().trim_start_matches('/'), path);
        upload.delete().expect(204);
    }
    assert_eq!(client.trash().len(), kept.len());
    told(client, kept);
}

/// So they are in the feed, and in its events, each of which is one line.
fn told(client: &Client, kept: &[&str]) {
    let (mut told, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = client.send("GET", &format!("/v1/spaces/home/changes?{cursor}"), &[], None);
        let page = page.expect(200).json();
        let changes = page["changes"].as_array().unwrap().clone();
        if changes.is_empty() {
            break;
        }
        told.extend(changes.iter().map(|change| text(change, "path").to_owned()));
        cursor = format!("cursor={}", text(&page, "cursor"));
    }
    for name in kept {
        assert!(told.contains(&format!("d/{name}")), "{name:?}");
    }
    let mut conn = Conn::open(client.addr()).unwrap();
    let accept = [("Accept", "text/event-stream")];
    let head = client.head_of("GET", "/v1/spaces/home/changes", &accept);
    conn.send(head.as_bytes()).unwrap();
    assert_eq!(conn.head().unwrap().status, 200);
    let mut events = Vec::new();
    let count = |events: &[u8]| {
        String::from_utf8_lossy(events).lines().filter(|line| line.starts_with("data: {")).count()
    };
    while count(&events) < kept.len() * 2 + 1 {
        events.extend(conn.chunk().unwrap().expect("the stream goes on"));
    }
    for line in String::from_utf8(events).unwrap().split('\n') {
        let known = ["data: ", "id: ", "event: ", ":", "retry: "];
        assert!(line.is_empty() || known.iter().any(|start| line.starts_with(start)), "{line:?}");
    }
}

#[test]
fn nothing_long_or_deep_ends_the_process() {
    let mut server = Server::start();
    let pid = server.pid();
    let client = server.client();
    client.mkdir("d").expect(201);
    client.put("gone", b"x").expect(201);
    let gone = text(&client.must_stat("gone"), "id").to_owned();
    client.rm("gone").expect(204);
    let item = client.trash_item(&gone).unwrap();
    let link = link(&client, "d", "editor");
    let numbered = Upload::of(&client, &tus::begin(&client, "path=n&numbered=1", &[]).expect(201));
    let paths = [
        "n".repeat(1025),
        "a/".repeat(499) + "a",
        "a/".repeat(99_999) + "a",
        "../".repeat(10_000),
        "/".repeat(10_000) + "a",
        "\u{301}".repeat(2000),
    ];
    for path in &paths {
        let told = |what: &str, answer: Response| {
            let fine = [0, 400, 404, 405, 409, 413, 414, 431].contains(&answer.status);
            assert!(fine, "{what} of {} bytes: {answer}", path.len());
        };
        for verb in ["files", "stat", "list", "revisions", "dirs", "references"] {
            for method in ["GET", "PUT", "DELETE"] {
                let target = format!("/v1/spaces/home/{verb}/{path}?parents=1");
                let answer = client.send(method, &target, &[], Some(b"{}"));
                told(verb, answer);
                let target = format!("{link}/{verb}/{path}");
                told(verb, client.send(method, &target, &[], Some(b"")));
            }
        }
        told("move", client.mv("d", path, false));
        told("copy", client.cp(path, "x", false));
        told("restore", client.restore(&item, &json!({"to": path, "recreate_parents": true})));
        told("complete", numbered.complete(&json!({"path": path, "parts": []})));
        let refer = json!({"target": {"space": "home", "path": path}});
        told("refer", client.json("PUT", &client.at("references", "r"), &refer));
        let share = json!({"path": path, "kind": "link", "role": "viewer"});
        told("share", client.json("POST", "/v1/shares", &share));
        let rules = json!({"rules": [{"name": "r", "prefix": path, "expire": {"after": "30d"}}]});
        told("rule", client.json("PUT", "/v1/spaces/home/lifecycle", &rules));
        let user = json!({"name": path, "password": "long enough"});
        told("user", client.json("POST", "/v1/users", &user));
        told("space", client.make_space(path, "project", &json!({})));
        told("group", client.json("POST", "/v1/groups", &json!({"name": path})));
        let said = tus::metadata(&[("relativePath", path), ("filename", "f")]);
        told("tus", tus::begin(&client, "", &[("Upload-Length", "1"), ("Upload-Metadata", &said)]));
    }
    assert_eq!(client.list_all("").len(), 1);
    assert!(server.is_alive() && server.pid() == pid, "the same process goes on");
    oracle::clean(&client);
}

#[test]
fn no_depth_of_json_ends_the_process() {
    let mut server = Server::start();
    let pid = server.pid();
    let client = server.client();
    let nested = ["[", "{\"a\":", "{\"rules\":[{\"expire\":", "{\"target\":{\"id\":[", "[[{\"a\":"];
    let calls = [
        ("POST", "/v1/spaces"),
        ("PATCH", "/v1/spaces/home"),
        ("POST", "/v1/spaces/home/move"),
        ("PUT", "/v1/spaces/home/lifecycle"),
        ("PUT", "/v1/spaces/home/references/r"),
        ("POST", "/v1/users"),
        ("PATCH", "/v1/users/me"),
        ("POST", "/v1/users/me/keys"),
        ("POST", "/v1/groups"),
        ("POST", "/v1/shares"),
        ("POST", "/v1/admin/jobs"),
        ("POST", "/v1/admin/load"),
        ("POST", "/v1/spaces/home/revisions/f"),
    ];
    for nest in nested {
        for bytes in [60_000, 1 << 20] {
            let body = nest.repeat(bytes / nest.len());
            for (method, target) in calls {
                let kind = [("Content-Type", "application/json")];
                let answer = client.send(method, target, &kind, Some(body.as_bytes()));
                let fine = [0, 400, 404, 413].contains(&answer.status);
                assert!(fine, "{method} {target} {nest}: {answer}");
            }
        }
    }
    assert!(client.list_all("").is_empty());
    assert!(server.is_alive() && server.pid() == pid, "the same process goes on");
    assert!(server.memory().0 < 256 << 20, "{:?}", server.memory());
    oracle::clean(&client);
}

#[test]
fn content_is_never_a_page_of_ours() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    let page = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>";
    let link = link(&client, "d", "viewer");
    let guest = Client::anonymous(server.addr());
    for kind in [
        "text/html",
        "image/svg+xml",
        "application/xhtml+xml",
        "application/pdf",
        "text/xml",
        "text/javascript",
        "application/x-shockwave-flash",
        "TEXT/HTML; x=y",
    ] {
        client.put_with("d/x", page, &[("Content-Type", kind)]).expect_any(&[200, 201]);
        let id = text(&client.must_stat("d/x"), "id").to_owned();
        let (byte, two) = (("Range", "bytes=0-3"), ("Range", "bytes=0-1,5-7"));
        for (client, target) in [
            (&client, client.at("files", "d/x")),
            (&client, format!("/v1/files/{id}")),
            (&client, format!("/files/{id}?revision=1")),
            (&guest, format!("{link}/files/x")),
        ] {
            for headers in
                [&[][..], &[byte], &[two], &[("If-None-Match", "*")], &[("Range", "bytes=999-")]]
            {
                for method in ["GET", "HEAD"] {
                    let answer = client.send(method, &target, headers, None);
                    let told = format!("{method} {target} {headers:?}: {answer}");
                    let sniffed = answer.header("x-content-type-options") != Some("nosniff");
                    let kind = answer.header("content-type").unwrap_or_default();
                    // A refusal is ours, and has nothing that was uploaded.
                    let ours = kind == "application/problem+json" || answer.status == 304;
                    assert!(ours || !sniffed, "{told}");
                    let policy = answer.header("content-security-policy").unwrap_or_default();
                    assert!(answer.status >= 300 || policy.contains("sandbox"), "{told}");
                    assert!(!policy.contains("allow-"), "{told}");
                }
            }
        }
    }
    // Refusals repeat nothing that a browser would read as a page.
    for target in [
        "/v1/<script>",
        "/v1/spaces/%3Cscript%3E/list/",
        "/<script>alert(1)</script>",
        "/v1/spaces/home/list/?%3Cscript%3E=1",
        "/v1/files/%3Cscript%3E",
    ] {
        let answer = raw(&client, "GET", target.as_bytes(), b"");
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(!kind.contains("html"), "{target}: {answer}");
    }
    oracle::clean(&client);
}

#[test]
fn a_line_break_in_what_is_stored_is_none_in_an_answer() {
    let server = Server::start();
    let client = server.client();
    for kind in ["text/plain\r\nX-Evil: 1", "text/plain\nX-Evil: 1", "text/plain\u{0}", "a\u{7f}/b"]
    {
        let mut conn = Conn::open(client.addr()).unwrap();
        let headers = [("Content-Type", kind), ("Content-Length", "1")];
        let head = client.head_of("PUT", &client.at("files", "crlf"), &headers);
        conn.send(head.as_bytes()).unwrap();
        conn.send(b"x").ok();
        conn.response("PUT");
        let read = client.get("crlf");
        assert!(read.header("x-evil").is_none(), "{kind:?}: {read}");
        for (key, value) in [("filetype", kind), ("filename", "crlf")] {
            let said = tus::metadata(&[(key, value)]);
            let length = [("Upload-Length", "1"), ("Upload-Metadata", &*said)];
            let made = tus::begin(&client, "path=crlf", &length);
            if made.status == 201 {
                let upload = Upload::of(&client, &made);
                assert!(upload.head().header("x-evil").is_none(), "{kind:?}");
                upload.patch(0, b"x").expect_any(&[204]);
            }
            let read = client.get("crlf");
            assert!(read.header("x-evil").is_none(), "{kind:?}: {read}");
        }
    }
    for name in ["a%0d%0aX-Evil:%201", "a%0aX-Evil:%201", "%e5%98%8a%e5%98%8dX-Evil:%201"] {
        for target in [
            format!("/v1/spaces/home/files/{name}"),
            format!("/v1/spaces/home/dirs/{name}"),
            format!("/v1/links/{name}"),
            format!("/v1/files?path={name}"),
        ] {
            let method = if target.contains('?') { "POST" } else { "PUT" };
            let answer = client.send(method, &target, &[], Some(b""));
            assert!(answer.header("x-evil").is_none(), "{target}: {answer}");
        }
    }
    oracle::clean(&client);
}
