//! Input that is wrong, hostile or absurd: a clear refusal, no effect, and the same process goes
//! on.
//!
//! Not here: bodies that end too early (`cuts`).

use larder_e2e::{
    client::{Client, Response, encode},
    http::Conn,
    oracle,
    server::Server,
};
use serde_json::json;

/// Sends a request line and headers exactly as given, with credentials.
fn raw(client: &Client, method: &str, target: &[u8], body: &[u8]) -> Response {
    let length = body.len().to_string();
    let head = client.head_of(method, "TARGET", &[("Content-Length", &length)]);
    let (before, after) = head.split_once("TARGET").unwrap();
    let mut conn = Conn::open(client.addr()).unwrap();
    // A server may refuse before it has read everything.
    conn.send(&[before.as_bytes(), target, after.as_bytes(), body].concat()).ok();
    conn.response(method)
}

/// A refusal of the request itself; what a server may also do is hang up.
#[track_caller]
fn refused(what: &str, answer: &Response) {
    assert!(
        matches!(answer.status, 400 | 403 | 404 | 405 | 409 | 413 | 414 | 431),
        "{what}: {answer}"
    );
}

/// The process and the data are as they were.
#[track_caller]
fn unharmed(server: &mut Server, files: usize) {
    assert!(server.is_alive(), "the same process goes on");
    let client = server.client();
    assert_eq!(client.list_all("").len(), files);
    oracle::clean(&client);
    oracle::conserved(&client);
}

#[test]
fn names_that_are_no_names_are_refused() {
    let mut server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    let long = "n".repeat(256);
    let long_utf8 = "\u{e9}".repeat(128);
    let grows_in_nfc = "\u{1d160}".repeat(60);
    let names: Vec<String> = vec![
        "%00".into(),
        "a%00b".into(),
        "%2f".into(),
        "a%2Fb".into(),
        "..%2f..%2fetc".into(),
        "%2e%2e".into(),
        "%2e".into(),
        "%2E%2e%2fx".into(),
        "a%0Ab".into(),
        "%7f".into(),
        "%1b%5b2J".into(),
        "%c2%85".into(),
        "%ff".into(),
        "%c3%28".into(),
        "%ed%a0%80".into(),
        "%f8%88%80%80%80".into(),
        "a%".into(),
        "a%zz".into(),
        "%c0%ae%c0%ae".into(),
        "x//y".into(),
        "%20%00".into(),
        encode(&long),
        encode(&long_utf8),
        encode(&grows_in_nfc),
    ];
    for name in &names {
        for route in ["files", "dirs", "stat", "list", "revisions"] {
            let target = format!("/v1/spaces/home/{route}/d/{name}");
            let method = if matches!(route, "files" | "dirs") { "PUT" } else { "GET" };
            let answer = raw(&client, method, target.as_bytes(), b"");
            assert!(matches!(answer.status, 400 | 404), "{method} {target}: {answer}");
            if method == "PUT" {
                assert_eq!(answer.status, 400, "{method} {target}: {answer}");
            }
        }
    }
    // Unencoded bytes that no URL has.
    for bytes in [&b"/v1/spaces/home/files/\xff"[..], b"/v1/spaces/home/files/a b", b"/v1/\x01"] {
        let answer = raw(&client, "PUT", bytes, b"");
        assert!(matches!(answer.status, 0 | 400), "{bytes:?}: {answer}");
    }
    for name in ["a\u{0}b", "..", ".", "", "a//b", "a\nb", &long, "../x", "d/../../x"] {
        for body in [json!({"from": "d", "to": name}), json!({"from": name, "to": "e"})] {
            for call in ["move", "copy"] {
                let answer = client.json("POST", &format!("/v1/spaces/home/{call}"), &body);
                refused(&body.to_string(), &answer);
            }
        }
    }
    unharmed(&mut server, 1);
}

#[test]
fn dots_in_a_url_lead_nowhere() {
    let mut server = Server::start();
    let client = server.client();
    client.put("secret", b"root's own").expect(201);
    let other = client.make_user("mallory");
    for target in [
        "/v1/spaces/home/files/../../../etc/passwd",
        "/v1/spaces/home/files/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/spaces/home/files/%2e%2e/%2e%2e/secret",
        "/v1/spaces/home/files/..%5c..%5csecret",
        "/v1/spaces/home/files/%252e%252e%252fsecret",
        "/v1/spaces/../admin/check",
        "/v1/spaces/home/files/./secret",
        "/v1/spaces/home/files//secret",
        "//v1/spaces/home/files/secret",
        "/v1/spaces/home%2f..%2froot/files/secret",
        "http://localhost/v1/spaces/home/files/secret",
        "*",
        "",
    ] {
        let answer = raw(&other, "GET", target.as_bytes(), b"");
        assert!(!String::from_utf8_lossy(&answer.body).contains("root's own"), "{target}");
        assert!(matches!(answer.status, 0 | 400 | 403 | 404 | 405), "{target}: {answer}");
    }
    unharmed(&mut server, 1);
}

#[test]
fn paths_have_a_depth_and_a_length() {
    let mut server = Server::start();
    let client = server.client();
    for parts in [257, 1000, 10_000] {
        let path = vec!["a"; parts].join("/");
        for (method, route) in [("PUT", "files"), ("PUT", "dirs"), ("GET", "stat"), ("GET", "list")]
        {
            let target = format!("{}?parents=true", client.at(route, &path));
            let answer = client.send(method, &target, &[], Some(b""));
            assert!(matches!(answer.status, 400 | 414), "{parts} parts: {answer}");
        }
        let body = json!({"from": path, "to": "x"});
        refused("move", &client.json("POST", "/v1/spaces/home/move", &body));
    }
    let deepest = vec!["a"; 256].join("/");
    // Not all at once: one commit makes only so many.
    for end in (25..=250).step_by(25).chain([256]) {
        client.mkdir_all(&vec!["a"; end].join("/")).expect(201);
    }
    client.put(&format!("{deepest}/f"), b"x").expect(400);
    // A tree that is moved below another must not grow past the limit unseen.
    client.mkdir("top").expect(201);
    let answer = client.mv("a", "top/a", false);
    assert!(matches!(answer.status, 201 | 400 | 409), "{answer}");
    let listed = client.list_all("");
    assert_eq!(listed.len(), 257, "everything can still be listed");
    client.rm(if answer.status == 201 { "top" } else { "a" }).expect(204);
    let name = "n".repeat(255);
    let long = vec![name.as_str(); 16].join("/");
    assert_eq!(long.len(), 4095);
    let target = format!("{}?parents=true", client.at("files", &long));
    client.send("PUT", &target, &[], Some(b"deep")).expect_any(&[201, 414]);
    let longer = format!("{}?parents=true", client.at("files", &format!("{long}/x")));
    let answer = client.send("PUT", &longer, &[], Some(b"deep"));
    assert!(matches!(answer.status, 400 | 414), "{answer}");
    assert!(server.is_alive());
    oracle::clean(&client);
}

#[test]
fn odd_but_legal_names_come_back_as_they_were() {
    let mut server = Server::start();
    let client = server.client();
    let names = [
        " ",
        "  two  ",
        "a b",
        "%41",
        "100%",
        "q?x=1",
        "h#ash",
        "semi;colon",
        "amp&er",
        "plus+",
        "eq=",
        "...",
        ". .",
        ".hidden",
        "-rf",
        "~",
        "\\back",
        "c:\\win",
        "NUL",
        "con.txt",
        "'quote'",
        "\"double\"",
        "<tag>",
        "*",
        "|",
        "\u{1f980}",
        "\u{202e}rtl",
        "\u{feff}bom",
        "e\u{301}",
        "\u{ac00}",
        "\u{200d}",
    ];
    for name in names {
        client.put(name, name.as_bytes()).expect(201);
        assert_eq!(client.get(name).expect(200).body, name.as_bytes(), "{name:?}");
    }
    client.put(&"n".repeat(255), b"x").expect(201);
    let listed = client.list("");
    assert_eq!(listed.len(), names.len() + 1);
    for entry in &listed {
        let name = entry["name"].as_str().unwrap();
        client.get(name).expect(200);
        client.mv(name, &format!("{}-", &name[..name.len().min(200)]), false).expect_any(&[201]);
    }
    unharmed(&mut server, names.len() + 1);
}

#[test]
fn numbers_cursors_and_queries_out_of_bounds_are_refused() {
    let mut server = Server::start();
    let client = server.client();
    client.put("f", b"x").expect(201);
    for query in [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "limit=1e3",
        "cursor=x",
        "cursor=%00",
        "cursor=..%2f",
        "recursive=maybe",
        "colour=red",
        "limit=1&limit=2",
    ] {
        let answer = client.list_page("", query);
        if query == "limit=0" {
            assert!(matches!(answer.status, 200 | 400), "{query}: {answer}");
        } else {
            answer.expect_problem(400, "invalid");
        }
    }
    let long = format!("cursor={}", "A".repeat(5000));
    client.list_page("", &long).expect_any(&[400, 414]);
    let revision = |value: &str| {
        client.send("GET", &format!("{}?revision={value}", client.at("files", "f")), &[], None)
    };
    for value in ["-1", "x", "18446744073709551616", "1.0", ""] {
        revision(value).expect_problem(400, "invalid");
    }
    for value in ["0", "2", "18446744073709551615"] {
        revision(value).expect_any(&[400, 404]);
    }
    for body in ["{\"revision\":-1}", "{\"revision\":\"1\"}", "{\"revision\":1e99}", "{}"] {
        let target = client.at("revisions", "f");
        client.send("POST", &target, &[], Some(body.as_bytes())).expect_any(&[400, 415]);
    }
    client.send("PUT", &format!("{}?if=x", client.at("files", "f")), &[], Some(b"y")).expect(400);
    client.purge("not-an-id").expect_any(&[400, 404]);
    client.restore("01890000-0000-7000-8000-000000000000", &json!({})).expect(404);
    assert_eq!(client.get("f").body, b"x");
    unharmed(&mut server, 1);
}

#[test]
fn json_that_is_wrong_deep_or_huge_is_refused() {
    let mut server = Server::start();
    let client = server.client();
    client.put("f", b"x").expect(201);
    let kind = [("Content-Type", "application/json")];
    let deep = format!("{{\"from\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let objects = "{\"from\":".repeat(50_000);
    let huge = format!("{{\"from\":\"{}\",\"to\":\"y\"}}", "x".repeat(8 << 20));
    let bodies: Vec<&[u8]> = vec![
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"f\"",
        b"{\"from\":\"f\"}",
        b"{\"from\":1,\"to\":2}",
        b"{\"from\":\"f\",\"to\":\"g\",\"colour\":1}",
        b"{\"from\":\"f\",\"to\":\"g\"} x",
        b"{\"from\":\"f\",\"from\":\"f\",\"to\":\"g\"}",
        b"\xff\xfe",
        b"{\"from\":\"\\ud800\",\"to\":\"g\"}",
        b"{\"from\":\"f\",\"to\":\"g\",\"overwrite\":\"yes\"}",
        deep.as_bytes(),
        objects.as_bytes(),
        huge.as_bytes(),
    ];
    for body in bodies {
        for call in ["move", "copy"] {
            let answer = client.send("POST", &format!("/v1/spaces/home/{call}"), &kind, Some(body));
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert!(matches!(answer.status, 400 | 413), "{shown}: {answer}");
        }
    }
    unharmed(&mut server, 1);
}

#[test]
fn heads_that_are_too_large_or_broken_end_their_connection_only() {
    let mut server = Server::start();
    let client = server.client();
    client.put("f", b"x").expect(201);
    let many: String = (0..10_000).map(|n| format!("X-H{n}: v\r\n")).collect();
    let requests: Vec<Vec<u8>> = vec![
        format!("GET /v1/me HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes(),
        format!("GET /v1/me HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "v".repeat(3 << 20))
            .into_bytes(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(3 << 20)).into_bytes(),
        format!("GET /v1/me HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", "N".repeat(1 << 20)).into_bytes(),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /v1/me HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n".to_vec(),
        b"GET /v1/me HTTP/1.1\r\nBad Name: y\r\n\r\n".to_vec(),
        b"GET /v1/me HTTP/1.1\r\nX: a\0b\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    for request in requests {
        let mut conn = Conn::open(client.addr()).unwrap();
        conn.send(&request).ok();
        conn.finish_sending();
        let answer = conn.response("GET");
        let fine = matches!(answer.status, 0 | 400 | 401 | 404 | 405 | 414 | 431 | 505);
        assert!(fine, "{:?}: {answer}", &request[..20.min(request.len())]);
        assert_eq!(client.get("f").expect(200).body, b"x");
    }
    let (rss, _) = server.memory();
    assert!(rss < 256 << 20, "{rss} bytes in memory");
    unharmed(&mut server, 1);
}

#[test]
fn many_ranges_and_odd_headers_are_bounded() {
    let mut server = Server::start();
    let client = server.client();
    let body: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    client.put("f", &body).expect(201);
    let many: Vec<String> = (0..2000).map(|_| "0-299999".to_owned()).collect();
    let range = format!("bytes={}", many.join(","));
    let answer = client.get_with("f", &[("Range", &range)]);
    assert!(matches!(answer.status, 200 | 400 | 416 | 431), "{}", answer.status);
    assert!(answer.body.len() <= body.len() + 1000, "no multiplication of the content");
    for (name, value) in [
        ("If-Match", "garbage"),
        ("If-Match", "\"unclosed"),
        ("If-Modified-Since", "yesterday"),
        ("Range", "bytes=99999999999999999999999-"),
        ("If-Range", "garbage"),
        ("Accept-Encoding", "gzip;q=banana"),
        ("Authorization", "Basic"),
    ] {
        let answer = client.get_with("f", &[(name, value)]);
        let fine = matches!(answer.status, 200 | 206 | 304 | 400 | 401 | 412 | 416);
        assert!(fine, "{name}: {value}: {answer}");
    }
    for kind in ["", "text/html\u{0}", "x", "\u{e9}/x", &"k/".repeat(3000)] {
        let answer = client.put_with("g", b"x", &[("Content-Type", kind)]);
        assert!(matches!(answer.status, 0 | 200 | 201 | 400 | 431), "{kind:?}: {answer}");
    }
    client.rm("g").expect_any(&[204, 404]);
    unharmed(&mut server, 1);
}

#[test]
fn content_from_users_is_no_page_of_ours() {
    let server = Server::start();
    let client = server.client();
    let page = b"<script>alert(1)</script>";
    client.put_with("x.html", page, &[("Content-Type", "text/html")]).expect(201);
    let answer = client.get("x.html").expect(200);
    assert_eq!(answer.must_header("x-content-type-options"), "nosniff");
    let sandbox = answer.header("content-security-policy").is_some_and(|v| v.contains("sandbox"));
    let attached =
        answer.header("content-disposition").is_some_and(|v| v.starts_with("attachment"));
    assert!(sandbox || attached, "{answer}");
}

#[test]
fn idle_and_slow_connections_do_not_stop_others() {
    let mut server = Server::start();
    let client = server.client();
    let mut slow: Vec<Conn> = (0..200).map(|_| Conn::open(client.addr()).unwrap()).collect();
    for conn in &mut slow {
        conn.send(b"PUT /v1/spaces/home/files/slow HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    }
    for number in 0..20 {
        client.put(&format!("f{number}"), b"quick").expect(201);
    }
    assert!(server.memory().0 < 256 << 20);
    drop(slow);
    unharmed(&mut server, 20);
}
