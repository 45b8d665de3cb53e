//! Lists of addresses, rates, and the rails at the edge: what is refused is refused before it has
//! any effect, and says how to go on.
//!
//! Not here: slow clients (`slow`), guessing of passwords, wrong names and numbers (`badinput`).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Response, text},
    http::Conn,
    oracle,
    server::{Options, Server},
};
use serde_json::json;

/// Another address of this machine.
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9));

fn me(client: &Client, headers: &[(&str, &str)]) -> Response {
    client.send("GET", "/v1/me", headers, None)
}

#[test]
fn denied_addresses_are_refused_before_anything_is_known_of_them() {
    let server = Options::default().env("LARDER_NET__DENY", "127.0.0.9").start();
    let client = server.client();
    me(&client, &[]).expect(200);
    for client in [client.another(), Client::new(client.addr(), "nobody", "wrong-password")] {
        client.connect_from(ELSEWHERE);
        me(&client, &[]).expect_problem(403, "denied");
    }
    let denied = client.another();
    denied.connect_from(ELSEWHERE);
    denied.put("f", b"x").expect_problem(403, "denied");
    assert_eq!(client.get("f").status, 404, "nothing is done");
    // Nobody is believed to bring somebody else's request, or to be somebody else.
    for header in ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP"] {
        let denied = client.another();
        denied.connect_from(ELSEWHERE);
        me(&denied, &[(header, "127.0.0.1")]).expect_problem(403, "denied");
        me(&client, &[(header, "127.0.0.9")]).expect(200);
    }
}

#[test]
fn only_allowed_addresses_get_in() {
    let server = Options::default().env("LARDER_NET__ALLOW", "127.0.0.0/29, ::1").start();
    me(&server.client(), &[]).expect(200);
    let outside = server.client();
    outside.connect_from(ELSEWHERE);
    me(&outside, &[]).expect_problem(403, "denied");
}

#[test]
fn a_trusted_proxy_says_whose_request_it_is_and_nobody_else_does() {
    let server = Options::default()
        .env("LARDER_NET__TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")
        .env("LARDER_NET__DENY", "203.0.113.0/24")
        .start();
    let client = server.client();
    let by = |hops: &str| me(&client, &[("X-Forwarded-For", hops)]).status;
    assert_eq!(by("198.51.100.1"), 200);
    assert_eq!(by("203.0.113.9"), 403);
    // What stands to the left of the last one that is no proxy was written by that one.
    assert_eq!(by("203.0.113.9, 198.51.100.1"), 200);
    assert_eq!(by("198.51.100.1, 203.0.113.9"), 403);
    assert_eq!(by("198.51.100.1, 203.0.113.9, 10.1.2.3"), 403);
    assert_eq!(by("garbage"), 200);
    let twice = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.1")];
    assert_eq!(me(&client, &twice).status, 200);
    assert_eq!(me(&client, &[("Forwarded", "for=203.0.113.9")]).status, 200);
    let elsewhere = client.another();
    elsewhere.connect_from(ELSEWHERE);
    assert_eq!(me(&elsewhere, &[("X-Forwarded-For", "203.0.113.9")]).status, 200);
}

/// The pause that a refusal asks for, in seconds.
#[track_caller]
fn pause(answer: Response) -> u64 {
    let answer = answer.expect_problem(429, "rate_limited");
    answer.must_header("retry-after").parse().expect("a number of seconds")
}

#[test]
fn requests_over_a_rate_do_nothing_and_are_told_when_to_come_again() {
    let server = Options::default().env("LARDER_RATE__REQUESTS_PER_USER", "5/m").start();
    let root = server.client();
    let other = root.make_user("ann"); // one request of root's
    for number in 0..3 {
        root.put(&format!("f{number}"), b"x").expect(201);
    }
    root.mkdir("d").expect(201);
    let seconds = pause(root.put("over", b"x"));
    // A fifth of a minute, less what has passed since the first.
    assert!((1..=12).contains(&seconds), "{seconds}");
    me(&other, &[]).expect(200);
    for path in ["/health", "/ready"] {
        root.send("GET", path, &[], None).expect(200);
    }
    std::thread::sleep(Duration::from_secs(seconds));
    assert_eq!(root.list_page("", "").expect(200).json()["entries"].as_array().unwrap().len(), 4);
    pause(me(&root, &[]));
}

#[test]
fn rates_count_addresses_and_keys_for_themselves() {
    let server = Options::default()
        .env("LARDER_RATE__REQUESTS_PER_ADDRESS", "20/h")
        .env("LARDER_RATE__REQUESTS_PER_KEY", "2/h")
        .start();
    let root = server.client();
    let key = |name: &str| {
        let made = root.json("POST", "/v1/users/root/keys", &json!({ "name": name })).expect(201);
        Client::with_key(root.addr(), text(&made.json(), "key"))
    };
    let (one, two) = (key("one"), key("two"));
    for client in [&one, &two] {
        assert_eq!((me(client, &[]).status, me(client, &[]).status), (200, 200));
        assert!(pause(me(client, &[])) >= 1700);
    }
    let mut here = 8;
    while me(&root, &[]).status == 200 {
        here += 1;
    }
    assert_eq!(here, 20, "the address has had its requests");
    assert!(pause(me(&Client::anonymous(root.addr()), &[])) >= 170, "before any password");
    for _ in 0..30 {
        root.send("GET", "/health", &[], None).expect(200);
    }
    let elsewhere = root.another();
    elsewhere.connect_from(ELSEWHERE);
    me(&elsewhere, &[]).expect(200);
}

#[test]
fn bytes_over_a_rate_are_slowed_down_and_arrive_whole() {
    let server = Options::default().env("LARDER_RATE__BYTES_PER_USER", "2MiB/s").start();
    let client = server.client();
    let body: Vec<u8> = (0..(5 << 20) as u32).map(|n| ((n * 31) >> 5) as u8).collect();
    let begun = Instant::now();
    client.put("f", &body).expect(201);
    // 2 MiB at once, and 3 at the rate.
    let sent = begun.elapsed();
    assert!(sent >= Duration::from_millis(1300), "{sent:?}");
    let begun = Instant::now();
    assert!(client.get("f").expect(200).body == body);
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(1300), "{taken:?}");
    let other = client.make_user("ann");
    let begun = Instant::now();
    other.put("g", &body[..1 << 20]).expect(201);
    assert!(begun.elapsed() < sent, "others have a rate of their own");
    oracle::all_is_well(&server, &client);
}

#[test]
fn headers_of_our_own_making_have_no_effect_when_clients_send_them() {
    let server = Server::start();
    let client = server.client();
    let ann = client.make_user("ann");
    let plain = me(&ann, &[]).expect(200).body;
    for name in [
        "X-Larder-User",
        "X-Larder-Admin",
        "X-Larder-Principal",
        "X-Larder-Replication",
        "X-Larder-Internal",
        "Larder-User",
        "Larder-Durability",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Remote-User",
        "Remote-User",
        "X-Auth-Request-User",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Host",
        "X-Forwarded-Prefix",
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
    ] {
        for value in ["root", "true", "DELETE", "/v1/admin/jobs", "evil.example"] {
            let answer = me(&ann, &[(name, value)]).expect(200);
            assert_eq!(answer.body, plain, "{name}: {value}");
            me(&Client::anonymous(client.addr()), &[(name, value)]).expect(401);
        }
    }
}

#[test]
fn no_address_that_we_hand_out_is_made_from_what_a_client_sends() {
    let server = Server::start();
    let client = server.client();
    for (number, name) in ["Host", "X-Forwarded-Host", "Forwarded", "Origin"].iter().enumerate() {
        let (value, evil) = match *name {
            "Forwarded" => ("host=evil.example", "evil"),
            "Origin" => continue,
            _ => ("evil.example", "evil"),
        };
        let head = client.head_of(
            "PUT",
            &client.at("files", &format!("f{number}")),
            &[("Content-Length", "1"), ("X-Marker", "")],
        );
        let own = format!("Host: {}\r\n", client.addr());
        let head = match *name {
            "Host" => head.replace(&own, "Host: evil.example\r\n"),
            _ => head.replace("X-Marker: ", &format!("{name}: {value}")),
        };
        let mut conn = Conn::open(client.addr()).unwrap();
        conn.send(head.as_bytes()).unwrap();
        conn.send(b"x").unwrap();
        let answer = conn.response("PUT").expect(201);
        assert!(answer.must_header("location").starts_with('/'), "{answer}");
        assert!(!answer.to_string().contains(evil), "{answer}");
    }
}

#[test]
fn other_sites_are_allowed_nothing() {
    let server = Server::start();
    let client = server.client();
    client.put("f", b"x").expect(201);
    let origin = [("Origin", "https://evil.example")];
    let preflight = [
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let file = client.at("files", "f");
    for answer in [
        client.send("GET", &file, &origin, None),
        client.send("OPTIONS", &file, &preflight, None),
        client.send("OPTIONS", "/v1/uploads", &preflight, None),
        client.send("OPTIONS", "*", &preflight, None),
        me(&client, &origin),
    ] {
        let cors = |(name, _): &(String, String)| name.starts_with("access-control-");
        assert!(!answer.headers.iter().any(cors), "{answer}");
    }
    client.put_with("f", b"evil", &origin).expect_problem(403, "denied");
    let body = json!({"from": "f", "to": "g"}).to_string();
    let kind = [("Origin", "https://evil.example"), ("Content-Type", "text/plain")];
    let form = client.send("POST", "/v1/spaces/home/move", &kind, Some(body.as_bytes()));
    form.expect_problem(403, "denied");
    assert_eq!(client.get("f").expect(200).body, b"x");
}

#[test]
fn requests_that_two_readers_would_cut_differently_never_become_two() {
    let server = Server::start();
    let client = server.client();
    let target = client.at("files", "f");
    let smuggled = client.head_of("DELETE", &client.at("files", "kept"), &[]);
    client.put("kept", b"x").expect(201);
    let body = format!("0\r\n\r\n{smuggled}");
    let length = body.len().to_string();
    let (cl, te) = (("Content-Length", length.as_str()), ("Transfer-Encoding", "chunked"));
    for headers in [
        vec![cl, te],
        vec![te, cl],
        vec![("Content-Length", "5"), te],
        vec![te, ("Content-Length", "5")],
        vec![("Content-Length", "5"), cl],
        vec![("Content-Length", "5, 5")],
        vec![("Content-Length", "+5")],
        vec![("Content-Length", "-1")],
        vec![("Content-Length", "0x5")],
        vec![("Content-Length", "18446744073709551616")],
        vec![("Content-Length", "99999999999999999999999999")],
        vec![te, ("Transfer-Encoding", "identity")],
        vec![("Transfer-Encoding", "gzip, chunked, gzip")],
        vec![("Transfer-Encoding", "xchunked")],
        vec![("Transfer-Encoding ", "chunked")],
        vec![("Transfer-Encoding", "\x0bchunked")],
    ] {
        let mut conn = Conn::open(client.addr()).unwrap();
        conn.send(client.head_of("PUT", &target, &headers).as_bytes()).unwrap();
        conn.send(body.as_bytes()).ok();
        let answer = conn.response("PUT");
        assert!(matches!(answer.status, 0 | 200 | 201 | 400 | 408 | 413 | 501), "{answer}");
        let second = conn.response("DELETE");
        assert_eq!(second.status, 0, "{headers:?}: one request, one answer: {second}");
        assert_eq!(client.get("kept").expect(200).body, b"x", "{headers:?}");
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_request_names_one_host() {
    let server = Server::start();
    for (hosts, expected) in [
        (&["Host: x"][..], 200),
        (&[][..], 400),
        (&["Host: x", "Host: x"], 400),
        (&["Host: a b"], 400),
        (&["Host: x/y"], 400),
    ] {
        let lines: String = hosts.iter().map(|line| format!("{line}\r\n")).collect();
        let mut conn = Conn::open(server.addr()).unwrap();
        conn.send(format!("GET /health HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap();
        assert_eq!(conn.response("GET").status, expected, "{hosts:?}");
    }
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.send(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(conn.response("GET").status, 200);
}

#[test]
fn sizes_and_numbers_of_headers_are_settings() {
    let server = Options::default()
        .env("LARDER_HTTP__HEADER_BYTES_MAX", "16KiB")
        .env("LARDER_HTTP__HEADERS_MAX", "30")
        .start();
    let client = server.client();
    let ask = |head: String| {
        let mut conn = Conn::open(client.addr()).unwrap();
        // It may be refused before it has been read.
        conn.send(head.as_bytes()).ok();
        conn.response("GET").status
    };
    let large = |bytes| client.head_of("GET", "/v1/me", &[("X", &"v".repeat(bytes))]);
    assert_eq!((ask(large(15 << 10)), ask(large(17 << 10)), ask(large(3 << 20))), (200, 431, 431));
    let many = |count: usize| {
        let headers: Vec<(String, String)> =
            (0..count).map(|n| (format!("X-{n}"), "v".to_owned())).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        client.head_of("GET", "/v1/me", &headers)
    };
    assert_eq!((ask(many(28)), ask(many(29)), ask(many(5000))), (200, 431, 431));
}

#[test]
fn an_address_has_only_so_many_connections() {
    let server = Options::default().env("LARDER_HTTP__MAX_CONNECTIONS_PER_ADDRESS", "10").start();
    let client = server.client();
    let mut held: Vec<Conn> = (0..10).map(|_| Conn::open(client.addr()).unwrap()).collect();
    for conn in &mut held {
        conn.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        conn.response("GET").expect(200);
    }
    let refused = client.another().send("GET", "/health", &[], None);
    let refused = refused.expect_problem(429, "rate_limited");
    assert_eq!(refused.must_header("retry-after"), "1");
    let elsewhere = client.another();
    elsewhere.connect_from(ELSEWHERE);
    me(&elsewhere, &[]).expect(200);
    drop(held);
    let free = || client.another().send("GET", "/health", &[], None).status == 200;
    assert!(larder_e2e::tool::wait_until(Duration::from_secs(20), free));
}
