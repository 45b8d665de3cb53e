//! Attacks by amount: what costs its sender little and a careless server much. What holds which:
//!
//! * Slow clients: `slow::slow_clients_are_cut_off_in_the_end_however_they_are_slow`,
//!   `slow::six_hundred_slow_clients_do_not_stop_others`.
//! * Large heads, overflowing lengths, two lengths:
//!   `badinput::heads_that_are_too_large_or_broken_end_their_connection_only`,
//!   `limits::sizes_and_numbers_of_headers_are_settings`,
//!   `limits::requests_that_two_readers_would_cut_differently_never_become_two`,
//!   `cuts::two_lengths_are_one_too_many`.
//! * Many ranges: `badinput::many_ranges_and_odd_headers_are_bounded`.
//! * Lengths of 2^63: `tus::what_is_too_large_is_refused_before_its_bytes`.
//! * Ten thousand parts: `ten_thousand_parts_cost_little`.
//! * Bodies that grow while they are read: `no_body_costs_more_than_it_brings`,
//!   `no_framing_costs_more_than_it_brings`.
//! * A quota passed by doing all at once: `no_mixture_of_writes_passes_the_quota`,
//!   `quota::overwrites_copies_and_restores_at_once_stay_below_the_limit`,
//!   `sessions::the_quota_is_exact_whichever_way_the_bytes_come`.
//!
//! Not here: what is sent, however little (`attacks_wire`).

use std::{fs, time::Duration};

use larder_e2e::{
    client::{Client, text},
    http::Conn,
    oracle,
    race::race,
    server::Server,
    tool::{self, rounds},
    tus::{self, Upload},
};
use serde_json::json;

/// Open files of the server.
fn descriptors(server: &Server) -> usize {
    let dir = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn ten_thousand_parts_cost_little() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    let client = server.client();
    let upload = Upload::of(&client, &tus::begin(&client, "path=f&numbered=1", &[]).expect(201));
    let part = |number: &str| {
        upload.client.send("PUT", &format!("{}/parts/{number}", upload.url), &[], Some(b"part"))
    };
    for number in [
        "0",
        "10001",
        "-1",
        "+1",
        "1.0",
        "01x",
        "4294967297",
        "18446744073709551617",
        "%31%00",
        "1e3",
    ] {
        part(number).expect_any(&[400, 404]);
    }
    let count = rounds(300).min(10_000);
    let before = (server.memory().0, descriptors(&server));
    for number in 1..=count {
        part(&number.to_string()).expect(200);
    }
    for parts in [
        json!([0]),
        json!([1, 1]),
        json!([-1]),
        json!([1.5]),
        json!(["1"]),
        json!({}),
        json!([10_001]),
        json!([count + 1]),
        json!([4_294_967_297_u64]),
        json!((0..100_000).map(|_| 1).collect::<Vec<u32>>()),
    ] {
        let answer = upload.complete(&json!({"parts": parts}));
        assert!([400, 404, 409, 413].contains(&answer.status), "{answer}");
    }
    client.stat("f").expect(404);
    let all: Vec<u64> = (1..=count).collect();
    upload.complete(&json!({"parts": all})).expect(201);
    assert!(client.get("f").expect(200).body == b"part".repeat(count as usize));
    // Pieces of tus that say more than they are, or nothing for ever.
    let many = format!("final;{}", vec![&*upload.url; 1001].join(" "));
    tus::begin(&client, "path=g", &[("Upload-Concat", &many)]).expect_any(&[400, 431]);
    for length in ["-1", "+1", "1.0", "0x10", " ", "1,1", "9223372036854775808"] {
        let answer = tus::begin(&client, "path=g", &[("Upload-Length", length)]);
        assert!([400, 413].contains(&answer.status), "{length}: {answer}");
    }
    // A length that is allowed, and that nobody has room for, takes none.
    let huge = tus::begin(&client, "path=g", &[("Upload-Length", "4611686018427387904")]);
    if huge.status == 201 {
        let huge = Upload::of(&client, &huge);
        for offset in [1, u64::MAX, i64::MAX as u64, 4_611_686_018_427_387_903] {
            huge.patch(offset, b"x").expect_any(&[400, 409]);
        }
        huge.delete().expect(204);
    } else {
        huge.expect_any(&[413, 507]);
    }
    for _ in 0..200 {
        let empty = Upload::with(&client, "g", &[("Upload-Defer-Length", "1")]);
        empty.patch(0, b"").expect_any(&[204, 400]);
        empty.delete().expect(204);
    }
    client.stat("g").expect(404);
    let after = (server.memory().0, descriptors(&server));
    assert!(after.0 < before.0 + (192 << 20), "{before:?} {after:?}");
    assert!(after.1 < before.1 + 100, "{before:?} {after:?}");
    assert!(server.is_alive());
    oracle::all_is_well(&server, &client);
}

#[test]
fn no_mixture_of_writes_passes_the_quota() {
    let _alone = tool::heavy();
    let server = Server::start();
    let root = server.client();
    let piece = 50_000_usize;
    let limit = 10 * piece as u64;
    for round in 0..rounds(2) {
        let name = format!("mixed-{round}");
        let client = root.project(&name, &json!({"limits": {"live": limit}}));
        client.mkdir("d").expect(201);
        client.put("d/f", &vec![1; piece]).expect(201);
        client.put("d/f", &vec![2; 2 * piece]).expect(200);
        client.put("gone", &vec![3; 3 * piece]).expect(201);
        let gone = text(&client.must_stat("gone"), "id").to_owned();
        client.rm("gone").expect(204);
        let item = client.trash_item(&gone).unwrap();
        let made = root.json(
            "POST",
            "/v1/shares",
            &json!({"space": name, "path": "d", "kind": "link", "role": "editor"}),
        );
        let link = format!("/v1/links/{}", text(&made.expect(201).json()["link"], "token"));
        race(&client, 48, |number, client| {
            let path = format!("f{number}");
            let body = vec![number as u8; piece];
            match number % 8 {
                0 => client.put(&path, &body),
                1 => client.cp("d/f", &path, false),
                2 => client.cp("d", &path, false),
                3 => client.restore_revision("d/f", 1),
                4 => client.restore(&item, &json!({"rename": true})),
                5 => {
                    let target = client.at("files", &path);
                    client.send_chunked("PUT", &target, &[], &body, 7000)
                }
                6 => {
                    let target = format!("{link}/files/{path}");
                    Client::anonymous(client.addr()).send("PUT", &target, &[], Some(&body))
                }
                _ => {
                    let query = format!("space={name}&path={path}");
                    let begun = tus::begin(client, &query, &[("Upload-Defer-Length", "1")]);
                    if begun.status != 201 {
                        return begun;
                    }
                    let upload = Upload::of(client, &begun);
                    let length = [("Upload-Length", "50000")];
                    let sent = upload.patch_with(0, &body, &length);
                    if sent.status != 204 {
                        upload.delete().expect(204);
                    }
                    sent
                }
            }
        })
        .into_iter()
        .for_each(|answer| {
            // 409: the same trash item, or a name, was had by another.
            let fine = [200, 201, 204, 404, 409, 507].contains(&answer.status);
            assert!(fine, "{answer}");
        });
        let usage = client.usage();
        assert!(usage.live <= limit, "{usage:?}");
        assert_eq!(usage.reserved, 0, "{usage:?}");
        oracle::conserved(&client);
    }
    let settled = || root.pages("/v1/uploads").is_empty();
    assert!(tool::wait_until(Duration::from_secs(10), settled));
    oracle::all_is_well(&server, &root);
}

#[test]
fn no_body_costs_more_than_it_brings() {
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    let before = (server.memory().0, descriptors(&server));
    let part = |head: &str, body: &str| format!("--b\r\n{head}\r\n\r\n{body}\r\n");
    let file = "Content-Disposition: form-data; name=\"f\"; filename=\"x\"";
    let end = "--b--\r\n";
    let forms = [
        part(&format!("{file}\r\nX: {}", "h".repeat(8 << 20)), "x") + end,
        part(&format!("{file}{}", "\r\nX: y".repeat(200_000)), "x") + end,
        part(&format!("{file}; a={}", "p".repeat(1 << 20)), "x") + end,
        part("Content-Disposition: form-data; name=\"a\"", "x").repeat(50_000) + end,
        part(file, "x").repeat(1000) + end,
        part(file, "x"),
        "--b".repeat(1 << 20),
        "\r\n".repeat(1 << 20),
        String::new(),
    ];
    for form in forms {
        let kind = [("Content-Type", "multipart/form-data; boundary=b")];
        let answer = client.send("POST", "/v1/files", &kind, Some(form.as_bytes()));
        assert!([0, 400, 413].contains(&answer.status), "{} bytes: {answer}", form.len());
    }
    for kind in [
        "multipart/form-data".to_owned(),
        "multipart/form-data; boundary=".to_owned(),
        format!("multipart/form-data; boundary={}", "b".repeat(50_000)),
    ] {
        let body = part(file, "x") + end;
        let kind = [("Content-Type", &*kind)];
        let answer = client.send("POST", "/v1/files", &kind, Some(body.as_bytes()));
        assert!([400, 431].contains(&answer.status), "{answer}");
    }
    // What would unpack to more is not unpacked.
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"] {
        let headers = [("Content-Encoding", coding), ("Content-Type", "application/json")];
        let answer = client.send("POST", "/v1/spaces/home/move", &headers, Some(b"\x1f\x8b\x08"));
        assert!([400, 415, 501].contains(&answer.status), "{coding}: {answer}");
        let answer = client.put_with("z", b"\x1f\x8b\x08", &headers[..1]);
        assert!([400, 415, 501].contains(&answer.status), "{coding}: {answer}");
    }
    assert!(server.memory().0 < before.0 + (128 << 20), "{before:?} {:?}", server.memory());
    assert!(client.list_all("").is_empty());
    oracle::all_is_well(&server, &client);
}

#[test]
fn no_framing_costs_more_than_it_brings() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    let client = server.client();
    let before = (server.memory().0, descriptors(&server));
    let chunked = [("Transfer-Encoding", "chunked")];
    let put = client.head_of("PUT", &client.at("files", "chunked"), &chunked);
    for (start, piece) in [
        ("1;", "x".repeat(64 << 10)),
        ("", "1;a=b\r\nx\r\n".repeat(6000)),
        ("0\r\n", "X-Trailer: v\r\n".repeat(4000)),
        ("0\r\nX-Trailer: ", "v".repeat(64 << 10)),
        ("0000000000000000", "0".repeat(64 << 10)),
        ("FFFFFFFFFFFFFFFF\r\n", "x".repeat(64 << 10)),
        ("10000000000000000\r\n", "x".repeat(64 << 10)),
        ("-1\r\n", "x".repeat(64 << 10)),
    ] {
        let mut conn = Conn::open(client.addr()).unwrap();
        conn.send(put.as_bytes()).unwrap();
        conn.send(start.as_bytes()).ok();
        let mut sent = 0;
        while sent < 16 << 20 && conn.send(piece.as_bytes()).is_ok() && conn.is_idle() {
            sent += piece.len();
        }
        let rss = server.memory().0;
        assert!(rss < before.0 + (128 << 20), "{start:?}: {before:?} {rss}");
        conn.finish_sending();
        let answer = conn.response("PUT");
        assert!([0, 400, 413, 431].contains(&answer.status), "{start:?}: {answer}");
    }
    client.stat("chunked").expect(404);
    // Parameters, cookies and accepted types without number.
    let query = format!("/v1/spaces/home/list/?{}", "limit=1&".repeat(6000));
    client.send("GET", &query, &[], None).expect_any(&[400, 414, 431]);
    for name in ["Cookie", "Accept", "Accept-Encoding", "If-None-Match", "If-Match", "Range"] {
        let value = "\"a\",".repeat(12_000);
        let answer = client.send("GET", &client.at("files", "none"), &[(name, &value)], None);
        assert!([400, 404, 412, 431].contains(&answer.status), "{name}: {answer}");
    }
    assert!(server.is_alive());
    client.send("GET", "/health", &[], None).expect(200);
    let settled = || descriptors(&server) < before.1 + 50;
    assert!(tool::wait_until(Duration::from_secs(10), settled), "{before:?}");
    assert!(client.list_all("").is_empty());
    oracle::all_is_well(&server, &client);
}
