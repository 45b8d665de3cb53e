//! The shapes and statuses of the REST door that clients rely on, call by call.
//!
//! Not here: what happens under races (`races` and its siblings), and bad input (`badinput`).

use larder_base::digest::Sha256;
use larder_e2e::{
    client::{Client, Response, number, text},
    oracle,
    server::Server,
};
use serde_json::{Value, json};

const ENTRY: [&str; 9] =
    ["path", "name", "id", "kind", "size", "etag", "revision", "content_type", "sha256"];

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "{key} is missing in {value}");
    }
}

/// RFC 3339 in UTC.
#[track_caller]
fn is_time(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let right = text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    assert!(right, "{value} is no time");
}

/// A UUID of version 7.
#[track_caller]
fn is_id(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let right = text.len() == 36 && text.as_bytes()[14] == b'7';
    assert!(right, "{value} is no id");
}

fn hex(body: &[u8]) -> String {
    Sha256::of(body).to_string()
}

fn base64(body: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(Sha256::of(body).0)
}

#[test]
fn uploads_say_what_they_stored() {
    let server = Server::start();
    let client = server.client();
    for (path, len) in [("empty", 0), ("one", 1), ("inline", 5000), ("chunked", 700_000)] {
        let body = vec![b'x'; len];
        let kind = [("Content-Type", "text/plain; charset=utf-8")];
        let made = client.put_with(path, &body, &kind).expect(201);
        assert_eq!(made.must_header("larder-durability"), "1/1");
        let entry = made.json();
        is_id(&entry["id"]);
        assert_eq!(entry["size"], len);
        assert_eq!(entry["sha256"], hex(&body));
        assert_eq!(text(&entry, "path").trim_start_matches('/'), path);
        let stat = client.must_stat(path);
        has_keys(&stat, &ENTRY);
        is_time(&stat["modified"]);
        assert_eq!(stat["kind"], "file");
        assert_eq!(stat["name"], path);
        assert_eq!(stat["content_type"], kind[0].1);
        for same in ["id", "etag", "revision", "size", "sha256"] {
            assert_eq!(stat[same], entry[same], "{same}");
        }
        let read = client.get(path).expect(200);
        assert_eq!(read.body, body);
        assert_eq!(read.must_header("content-type"), kind[0].1);
        assert_eq!(read.must_header("accept-ranges"), "bytes");
        assert_eq!(read.etag(), text(&entry, "etag").trim_matches('"'));
        let head = client.head(path).expect(200);
        for same in ["etag", "content-length", "content-type", "last-modified"] {
            assert_eq!(head.must_header(same), read.must_header(same), "{same}");
        }
        let over = client.put(path, b"other").expect(200).json();
        assert_eq!(over["id"], entry["id"], "the same node");
        assert!(number(&over, "revision") > number(&entry, "revision"));
        assert_ne!(over["etag"], entry["etag"]);
        let old = client.get_revision(path, number(&entry, "revision")).expect(200);
        assert_eq!(old.body, body);
        assert_eq!(old.etag(), text(&entry, "etag").trim_matches('"'));
    }
    client.put("no/parent", b"x").expect(409);
    client.put("one/child", b"x").expect_any(&[409]);
    client.mkdir("dir").expect(201);
    client.put("dir", b"x").expect_problem(409, "wrong_type");
    client.get("dir").expect_problem(409, "wrong_type");
    oracle::all_is_well(&server, &client);
}

#[test]
fn problems_are_problems() {
    let server = Server::start();
    let client = server.client();
    let problem = client.get("missing").expect_problem(404, "not_found");
    has_keys(&problem.json(), &["code", "request_id", "title", "status"]);
    let ids: Vec<String> =
        (0..2).map(|_| text(&client.get("missing").json(), "request_id").to_owned()).collect();
    assert_ne!(ids[0], ids[1], "every request has its own id");
    client.rm("missing").expect_problem(404, "not_found");
    client.stat("missing").expect_problem(404, "not_found");
    client.mv("missing", "x", false).expect_problem(404, "not_found");
    client.cp("missing", "x", false).expect_problem(404, "not_found");
    client.in_space("missing").get("x").expect_problem(404, "not_found");
    client.list_page("missing", "").expect_problem(404, "not_found");
    client.send("GET", "/v1/nothing", &[], None).expect_problem(404, "not_found");
    client.send("GET", "/nothing", &[], None).expect(404);
    let wrong = client.send("PATCH", &client.at("files", "f"), &[], Some(b"")).expect(405);
    assert!(wrong.must_header("allow").contains("PUT"), "{wrong}");
    client.mkdir("a").expect(201);
    let exists = client.mkdir("a").expect_problem(409, "already_exists");
    let id = client.must_stat("a")["id"].as_str().unwrap().to_owned();
    assert!(String::from_utf8_lossy(&exists.body).contains(&id), "{exists}");
    client.mkdir("x/y").expect(409);
}

#[test]
fn conditions_are_kept() {
    let server = Server::start();
    let client = server.client();
    let condition =
        |header: &str, value: &str, body: &[u8]| client.put_with("f", body, &[(header, value)]);
    condition("If-Match", "*", b"0").expect_problem(412, "precondition");
    client.stat("f").expect(404);
    let made = condition("If-None-Match", "*", b"1").expect(201);
    let etag = made.must_header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "strong: {etag}");
    condition("If-None-Match", "*", b"2").expect_problem(412, "precondition");
    condition("If-Match", "\"other\"", b"2").expect(412);
    condition("If-Match", &format!("W/{etag}"), b"2").expect(412);
    condition("If-Match", &format!("\"other\", {etag}"), b"2").expect(200);
    condition("If-Match", &etag, b"3").expect(412);
    condition("If-Match", "*", b"3").expect(200);
    let now = client.head("f").must_header("etag").to_owned();
    condition("If-None-Match", &now, b"4").expect(412);
    client.get_with("f", &[("If-None-Match", &now)]).expect(304);
    client.get_with("f", &[("If-None-Match", &format!("W/{now}"))]).expect(304);
    client.get_with("f", &[("If-None-Match", &etag)]).expect(200);
    client.get_with("f", &[("If-Match", &etag)]).expect(412);
    let modified = client.head("f").must_header("last-modified").to_owned();
    client.get_with("f", &[("If-Modified-Since", &modified)]).expect(304);
    let epoch = "Thu, 01 Jan 1970 00:00:00 GMT";
    client.get_with("f", &[("If-Modified-Since", epoch)]).expect(200);
    client.get_with("f", &[("If-Unmodified-Since", epoch)]).expect(412);
    let target = client.at("files", "f");
    client.send("DELETE", &target, &[("If-Match", &etag)], None).expect(412);
    assert_eq!(client.get("f").body, b"3");
    client.send("DELETE", &target, &[("If-Match", &now)], None).expect(204);
}

#[test]
fn ranges_are_exact() {
    let server = Server::start();
    let client = server.client();
    for (path, len) in [("inline", 1000_usize), ("chunked", 600_000)] {
        let body: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        client.put(path, &body).expect(201);
        let last = len - 1;
        for (range, from, to) in [
            ("bytes=0-0".to_owned(), 0, 0),
            ("bytes=1-9".to_owned(), 1, 9),
            ("bytes=10-".to_owned(), 10, last),
            ("bytes=-5".to_owned(), len - 5, last),
            (format!("bytes=-{}", len * 2), 0, last),
            (format!("bytes={last}-{last}"), last, last),
            (format!("bytes=5-{}", u64::MAX), 5, last),
            (
                format!("bytes={}-{}", len / 2 - 3, len / 2 + 4097),
                len / 2 - 3,
                (len / 2 + 4097).min(last),
            ),
        ] {
            let part = client.get_with(path, &[("Range", &range)]).expect(206);
            assert!(part.body == body[from..=to], "{path} {range}");
            assert_eq!(part.must_header("content-range"), format!("bytes {from}-{to}/{len}"));
        }
        for range in
            [format!("bytes={len}-"), "bytes=-0".to_owned(), format!("bytes={}-", u64::MAX)]
        {
            let refused = client.get_with(path, &[("Range", &range)]).expect(416);
            assert_eq!(refused.must_header("content-range"), format!("bytes */{len}"));
        }
        // What is no range of bytes is no range at all (RFC 9110 14.2).
        for range in ["lines=1-2", "bytes=9-1", "bytes=", "bytes=a-b", "1-2"] {
            let whole = client.get_with(path, &[("Range", range)]);
            assert!([200, 416].contains(&whole.status), "{range}: {whole}");
            assert!(whole.status == 416 || whole.body == body, "{range}");
        }
    }
}

#[test]
fn digests_are_checked_and_given() {
    let server = Server::start();
    let client = server.client();
    for (path, body) in [("inline", vec![1; 3000]), ("chunked", vec![2; 500_000])] {
        let right = format!("sha-256=:{}:", base64(&body));
        let wrong = format!("sha-256=:{}:", base64(b"something else"));
        for name in ["Content-Digest", "Repr-Digest"] {
            client.put_with(path, &body, &[(name, &wrong)]).expect_problem(400, "invalid");
            client.stat(path).expect(404);
        }
        for name in ["Content-Digest", "Repr-Digest"] {
            client.put_with(path, &body, &[(name, &right)]).expect_any(&[200, 201]);
            client.put_with(path, b"other", &[(name, &right)]).expect_problem(400, "invalid");
        }
        assert_eq!(client.get(path).body, body, "refused bodies changed nothing");
        assert_eq!(client.revisions(path).len(), 2);
        assert_eq!(client.head(path).must_header("repr-digest"), right);
        for garbage in ["sha-256=nonsense", "sha-256=:AAAA:"] {
            client.put_with(path, &body, &[("Repr-Digest", garbage)]).expect(400);
        }
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn files_have_addresses_by_id() {
    let server = Server::start();
    let client = server.client();
    for prefix in ["/v1/files", "/files"] {
        let made = client.send("POST", &format!("{prefix}?path=a.txt"), &[], Some(b"alpha"));
        let made = made.expect_any(&[200, 201]);
        let body = made.json();
        has_keys(&body, &["file_id", "space", "path", "revision", "size", "sha256", "etag"]);
        let id = text(&body, "file_id").to_owned();
        assert!(made.must_header("location").ends_with(&id), "{made}");
        assert_eq!(client.must_stat("a.txt")["id"], *id);
        let target = format!("{prefix}/{id}");
        let read = client.send("GET", &target, &[("Range", "bytes=1-2")], None).expect(206);
        assert_eq!(read.body, b"lp");
        client.put("a.txt", b"beta").expect(200);
        let revision = number(&body, "revision");
        let old = client.send("GET", &format!("{target}?revision={revision}"), &[], None);
        assert_eq!(old.expect(200).body, b"alpha");
        client.mv("a.txt", "b.txt", false).expect(201);
        assert_eq!(client.send("GET", &target, &[], None).expect(200).body, b"beta");
        client.send("HEAD", &target, &[], None).expect(200);
        client.send("DELETE", &target, &[], None).expect(204);
        client.send("GET", &target, &[], None).expect(404);
        client.stat("b.txt").expect(404);
    }
    client.send("POST", "/v1/files", &[], Some(b"x")).expect_problem(400, "invalid");
    client.send("GET", "/v1/files/not-an-id", &[], None).expect_any(&[400, 404]);
    let nobody = "/v1/files/01890000-0000-7000-8000-000000000000";
    client.send("GET", nobody, &[], None).expect_problem(404, "not_found");
}

#[test]
fn forms_are_taken_with_their_file_names() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("in").expect(201);
    let form = |name: &str, body: &str| {
        format!(
            "--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: text/plain\r\n\r\n{body}\r\n--edge--\r\n"
        )
    };
    let kind = [("Content-Type", "multipart/form-data; boundary=edge")];
    let made = client.send("POST", "/files", &kind, Some(form("f.txt", "one").as_bytes()));
    assert_eq!(text(&made.expect(201).json(), "path").trim_start_matches('/'), "f.txt");
    assert_eq!(client.get("f.txt").expect(200).body, b"one");
    assert_eq!(client.must_stat("f.txt")["content_type"], "text/plain");
    let again = client.send("POST", "/files", &kind, Some(form("f.txt", "two").as_bytes()));
    assert_eq!(again.expect_any(&[200, 201]).json()["revision"], 2);
    for name in ["../escape", "a/b", "..", "/etc/passwd"] {
        let answer = client.send("POST", "/files", &kind, Some(form(name, "x").as_bytes()));
        // A path in a file name may be refused or reduced to its last name, never followed.
        assert!([201, 400].contains(&answer.status), "{name}: {answer}");
        client.stat("escape").expect_any(&[200, 404]);
    }
    let cut = &form("cut.txt", "never ends")[..120];
    client.send("POST", "/files", &kind, Some(cut.as_bytes())).expect(400);
    client.stat("cut.txt").expect(404);
    oracle::clean(&client);
}

#[test]
fn pages_show_everything_once() {
    let server = Server::start();
    let client = server.client();
    let names: Vec<String> = (0..25).map(|number| format!("n{number:02}")).collect();
    for name in &names {
        client.put(name, b"x").expect(201);
    }
    for limit in [1, 7, 24, 25, 26, 1000] {
        let mut all = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let page = client.list_page("", &query).expect(200).json();
            let entries = page["entries"].as_array().unwrap();
            assert!(entries.len() <= limit);
            all.extend(entries.iter().map(|entry| text(entry, "name").to_owned()));
            match page.get("cursor") {
                Some(cursor) => {
                    query = format!("limit={limit}&cursor={}", cursor.as_str().unwrap())
                }
                None => break,
            }
        }
        assert_eq!(all, names, "limit {limit}");
    }
    // What exists throughout is shown exactly once, though the rest changes between pages.
    let page = client.list_page("", "limit=10").expect(200).json();
    client.rm("n09").expect(204);
    client.rm("n20").expect(204);
    client.put("a-new-first", b"x").expect(201);
    let query = format!("limit=100&cursor={}", text(&page, "cursor"));
    let rest = client.list_page("", &query).expect(200).json();
    let rest: Vec<&str> =
        rest["entries"].as_array().unwrap().iter().map(|entry| text(entry, "name")).collect();
    let wanted: Vec<&String> = names[10..].iter().filter(|name| *name != "n20").collect();
    assert_eq!(rest, wanted);
    client.list_page("", "recursive=true&limit=3").expect(200);
    client.list_page("n01", "").expect_problem(409, "wrong_type");
}

#[test]
fn directories_move_copy_and_report_their_sizes() {
    let server = Server::start();
    let client = server.client();
    client.mkdir_all("a/b/c").expect(201);
    client.mkdir_all("a/b/c").expect(200);
    client.put("a/f", &[1; 10]).expect(201);
    client.put("a/b/g", &[2; 200]).expect(201);
    client.put("a/b/c/h", &[3; 150_000]).expect(201);
    let dir = client.must_stat("a/b");
    has_keys(&dir, &ENTRY);
    assert_eq!((&dir["kind"], &dir["size"]), (&json!("dir"), &json!(150_200)));
    assert_eq!((&dir["sha256"], &dir["content_type"]), (&Value::Null, &Value::Null));
    let copied = client.cp("a", "z", false).expect(201).json();
    assert_ne!(copied["id"], client.must_stat("a")["id"]);
    assert_eq!(client.get("z/b/c/h").expect(200).body, [3; 150_000]);
    client.put("z/b/g", b"changed").expect(200);
    assert_eq!(client.get("a/b/g").body, [2; 200], "a copy is a copy");
    client.cp("a", "z", false).expect_any(&[409, 412]);
    client.cp("a", "z", true).expect(200);
    assert_eq!(client.get("z/b/g").body, [2; 200]);
    client.cp("a", "a/b/inside", false).expect_any(&[201, 400, 403, 409]);
    client.mv("a/b", "b", false).expect(201);
    assert_eq!(client.must_stat("b")["id"], dir["id"], "a move keeps the node");
    client.stat("a/b").expect(404);
    client.mv("b", "missing/b", false).expect(409);
    client.mv("b", "z", false).expect_any(&[409, 412]);
    let other = client.project("other-space", &json!({}));
    client.cp_to("b/g", "other-space", "g").expect(201);
    assert_eq!(other.get("g").expect(200).body, [2; 200]);
    let across = json!({"from": "b/g", "to": "h", "to_space": "other-space"});
    client.json("POST", "/v1/spaces/home/move", &across).expect_any(&[400, 409]);
    oracle::all_is_well(&server, &client);
}

#[test]
fn spaces_have_names_limits_and_usage() {
    let server = Server::start();
    let client = server.client();
    let made = client.make_space("team", "project", &json!({"limits": {"live": 5000}}));
    let made = made.expect(201).json();
    has_keys(&made, &["id", "name", "kind", "limits", "policy", "usage"]);
    is_id(&made["id"]);
    let by_id = client.in_space(text(&made, "id")).space();
    assert_eq!(by_id["name"], "team");
    assert_eq!(by_id["limits"], json!({"live": 5000, "retained": null}));
    assert_eq!(by_id["usage"], json!({"live": 0, "retained": 0, "reserved": 0}));
    client.make_space("team", "project", &json!({})).expect_problem(409, "already_exists");
    for name in ["", "a", "UPPER", "under_score", "-dash", "home", "a..b"] {
        client.make_space(name, "project", &json!({})).expect_problem(400, "invalid");
    }
    client.make_space("odd", "planet", &json!({})).expect_problem(400, "invalid");
    client.make_space("odd", "project", &json!({"colour": 1})).expect_problem(400, "invalid");
    let team = client.in_space("team");
    team.put("f", &[0; 4000]).expect(201);
    team.put("f", &[0; 3000]).expect(200);
    assert_eq!(team.space()["usage"], json!({"live": 3000, "retained": 4000, "reserved": 0}));
    let listed = client.pages("/v1/spaces");
    assert!(listed.iter().any(|space| space["name"] == "team"), "{listed:?}");
    let stranger = client.make_user("stranger");
    let refused = stranger.in_space("team").get("f");
    assert_eq!(refused.status, 404, "what may not be known is not there: {refused}");
    client.send("DELETE", "/v1/spaces/team", &[], None).expect(204);
    team.get("f").expect(404);
    client.gc();
    oracle::clean(&client);
}

#[test]
fn users_and_keys_come_and_go() {
    let server = Server::start();
    let root = server.client();
    let me = |client: &Client| client.send("GET", "/v1/me", &[], None);
    assert_eq!(me(&root).expect(200).json()["name"], "root");
    for wrong in [
        Client::anonymous(server.addr()),
        Client::new(server.addr(), "root", "wrong"),
        Client::new(server.addr(), "nobody", "wrong"),
        Client::with_key(server.addr(), "nonsense"),
        Client::with_authorization(server.addr(), Some("Basic %%%".to_owned())),
    ] {
        let refused = me(&wrong).expect_problem(401, "unauthenticated");
        assert!(refused.must_header("www-authenticate").contains("Basic"), "{refused}");
        wrong.put("f", b"x").expect(401);
    }
    let ann = root.make_user("ann");
    root.json("POST", "/v1/users", &json!({"name": "ann", "password": "long-enough"})).expect(409);
    root.json("POST", "/v1/users", &json!({"name": "bob", "password": "short"})).expect(400);
    ann.json("POST", "/v1/users", &json!({"name": "eve", "password": "long-enough"})).expect(403);
    ann.send("GET", "/v1/admin/check", &[], None).expect_problem(403, "denied");
    ann.put("mine", b"ann's").expect(201);
    root.get("mine").expect(404);
    let made = ann.json("POST", "/v1/users/me/keys", &json!({"name": "laptop"})).expect(201).json();
    let secret = text(&made, "key").to_owned();
    let by_key = Client::with_key(server.addr(), &secret);
    assert_eq!(by_key.get("mine").expect(200).body, b"ann's");
    let keys = ann.send("GET", "/v1/users/me/keys", &[], None).expect(200);
    assert!(!String::from_utf8_lossy(&keys.body).contains(&secret), "shown once only");
    let target = format!("/v1/users/me/keys/{}", text(&made, "id"));
    ann.send("DELETE", &target, &[], None).expect(204);
    by_key.get("mine").expect(401);
    let change = json!({"password": "another-password"});
    root.json("PATCH", "/v1/users/ann", &change).expect(200);
    me(&ann).expect(401);
    let ann = Client::new(server.addr(), "ann", "another-password");
    me(&ann).expect(200);
    root.json("PATCH", "/v1/users/ann", &json!({"disabled": true})).expect(200);
    me(&ann).expect_any(&[401, 403]);
    assert!(!server.log().contains(&secret) && !server.log().contains("another-password"));
}

#[test]
fn administration_reports() {
    let server = Server::start();
    let client = server.client();
    client.put("f", &[0; 200_000]).expect(201);
    client.put("f", &[1; 200_000]).expect(200);
    let report = client.check();
    has_keys(&report, &["findings", "violations", "counts"]);
    let counts = &report["counts"];
    assert_eq!(number(counts, "files"), 1, "{report}");
    assert_eq!(number(counts, "revisions"), 2, "{report}");
    assert_eq!(number(counts, "chunks"), 2, "{report}");
    assert_eq!(number(counts, "bytes"), 400_000, "{report}");
    client.rm("f").expect(204);
    client.empty_trash().expect(204);
    let collected = client.gc();
    has_keys(&collected, &["blobs", "bytes", "orphans", "waiting"]);
    assert_eq!(client.check()["counts"]["bytes"], 0);
    assert_eq!(oracle::chunk_files(&server), [""; 0], "their bytes are given back");
    let jobs = client.send("GET", "/v1/admin/jobs", &[], None).expect(200).json();
    assert!(jobs.as_object().unwrap().values().any(Value::is_array), "{jobs}");
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let server = Server::start();
    let client = server.client();
    let ask = |path: &str, headers: &[(&str, &str)], body: &[u8]| -> Response {
        let length = body.len().to_string();
        let mut all = vec![("Expect", "100-continue"), ("Content-Length", &*length)];
        all.extend(headers);
        let mut conn = larder_e2e::http::Conn::open(client.addr()).unwrap();
        conn.send(client.head_of("PUT", &client.at("files", path), &all).as_bytes()).unwrap();
        let first = conn.any_head().unwrap();
        if first.status != 100 {
            return first;
        }
        conn.send(body).unwrap();
        conn.response("PUT")
    };
    ask("f", &[], &[5; 200_000]).expect(201);
    assert_eq!(client.get("f").body, [5; 200_000]);
    // Refused before a byte of the body was sent.
    ask("f", &[("If-None-Match", "*")], &[6; 200_000]).expect(412);
    ask("no/parent", &[], &[6; 200_000]).expect(409);
    assert_eq!(client.get("f").body, [5; 200_000]);
}

/// Honoured or refused, never ignored.
#[test]
fn a_request_sent_twice_with_one_key_does_not_take_effect_twice() {
    let mut server = Server::start();
    for (path, len) in [("small", 500), ("large", 300_000)] {
        let client = server.client();
        let key = [("Idempotency-Key", &*format!("key-of-{path}"))];
        let first = client.put_with(path, &vec![1; len], &key).expect_any(&[201, 501]);
        if first.status == 501 {
            assert_eq!(first.code(), "not_implemented", "{first}");
            client.stat(path).expect(404);
            continue;
        }
        let again = client.put_with(path, &vec![1; len], &key).expect(201).json();
        assert_eq!(again, first.json(), "the same answer");
        server.kill9();
        server.restart();
        server.client().put_with(path, &vec![1; len], &key).expect(201);
        assert_eq!(server.client().revisions(path).len(), 1, "and no second effect");
    }
    oracle::clean(&server.client());
}
