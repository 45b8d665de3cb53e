//! Bodies that end too early, in every place and every way: nothing of them is ever seen.

use std::time::Duration;

use larder_e2e::{
    client::{Client, Response},
    http::Conn,
    oracle,
    server::Server,
    stamp::Stamp,
    tool::{self, Dice, rounds},
};

/// How a connection ends in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// The client closes its sending side, and reads what the server says to that.
    Fin,
    /// The client is gone.
    Reset,
}

/// Sends `sent` bytes of a request to `path` and cuts.
fn cut(client: &Client, request: &[u8], how: Cut) -> Option<Response> {
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(request).unwrap();
    match how {
        Cut::Reset => {
            conn.reset();
            None
        }
        Cut::Fin => {
            conn.finish_sending();
            Some(conn.response("PUT"))
        }
    }
}

#[track_caller]
fn unchanged(client: &Client, path: &str, before: &Response) {
    let now = client.get(path).expect(200);
    assert_eq!(now.etag(), before.etag());
    assert!(now.body == before.body, "the content has changed");
}

/// With a length, and in chunks; over an old content, and where nothing was.
#[track_caller]
fn cut_everywhere(len: usize, offsets: &[usize]) {
    let server = Server::start();
    let client = server.client();
    client.put("old", &Stamp::new(1, 0).body(len + 77)).expect(201);
    let before = client.get("old").expect(200);
    let body = Stamp::new(2, 0).body(len);
    let length = len.to_string();
    for (number, &offset) in offsets.iter().enumerate() {
        let how = [Cut::Fin, Cut::Reset][number % 2];
        for path in ["old", "new"] {
            let target = client.at("files", path);
            let head = client.head_of("PUT", &target, &[("Content-Length", &length)]);
            let answer = cut(&client, &[head.as_bytes(), &body[..offset]].concat(), how);
            assert!(answer.is_none_or(|answer| matches!(answer.status, 0 | 400)), "a refusal");
            let head = client.head_of("PUT", &target, &[("Transfer-Encoding", "chunked")]);
            let size = format!("{offset:x}\r\n");
            // All of the data that were meant, and no end of them.
            let framed = [head.as_bytes(), size.as_bytes(), &body[..offset], b"\r\n"].concat();
            let framed = if offset == 0 { head.as_bytes() } else { &framed };
            let answer = cut(&client, framed, how);
            assert!(answer.is_none_or(|answer| matches!(answer.status, 0 | 400)), "a refusal");
        }
        unchanged(&client, "old", &before);
        client.stat("new").expect(404);
    }
    assert_eq!(client.revisions("old").len(), 1);
    let freed = || client.usage().reserved == 0;
    assert!(tool::wait_until(Duration::from_secs(5), freed), "{:?}", client.usage());
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_small_body_cut_at_any_byte_has_no_effect() {
    let offsets: Vec<usize> = (0..200).collect();
    cut_everywhere(200, &offsets);
}

#[test]
fn a_large_body_cut_anywhere_has_no_effect() {
    let len = 3_000_000;
    let mut offsets = vec![0, 1, 131_071, 131_072, 131_073, 1 << 20, (1 << 20) + 1, len - 1];
    let mut dice = Dice::new(Dice::seed());
    offsets.extend((0..rounds(12)).map(|_| dice.below(len as u64) as usize));
    cut_everywhere(len, &offsets);
}

#[test]
fn a_cut_in_the_framing_of_chunks_has_no_effect() {
    let server = Server::start();
    let client = server.client();
    client.put("f", &Stamp::new(1, 0).body(500)).expect(201);
    let before = client.get("f").expect(200);
    let head = client.head_of("PUT", &client.at("files", "f"), &[("Transfer-Encoding", "chunked")]);
    let body = b"a;ext=1\r\n0123456789\r\n5\r\nabcde\r\n0\r\nTrailer: x\r\n\r\n";
    for end in 0..body.len() {
        let how = [Cut::Fin, Cut::Reset][end % 2];
        let answer = cut(&client, &[head.as_bytes(), &body[..end]].concat(), how);
        assert!(answer.is_none_or(|answer| matches!(answer.status, 0 | 400)), "cut at {end}");
        unchanged(&client, "f", &before);
    }
    for bad in [
        "5\r\nabcdef\r\n0\r\n\r\n",
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\n\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nabc\r\n",
        "10000000000000000\r\nabc\r\n",
    ] {
        let answer = cut(&client, &[head.as_bytes(), bad.as_bytes()].concat(), Cut::Fin);
        assert!(answer.is_some_and(|answer| matches!(answer.status, 0 | 400)), "{bad:?}");
        unchanged(&client, "f", &before);
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_head_cut_at_any_byte_has_no_effect() {
    let server = Server::start();
    let client = server.client();
    let head = client.head_of("PUT", &client.at("files", "f"), &[("Content-Length", "0")]);
    for end in 1..head.len() {
        cut(&client, &head.as_bytes()[..end], [Cut::Fin, Cut::Reset][end % 2]);
    }
    client.stat("f").expect(404);
    oracle::clean(&client);
}

#[test]
fn bytes_after_the_declared_length_are_not_stored() {
    let server = Server::start();
    let client = server.client();
    let target = client.at("files", "f");
    let head = client.head_of("PUT", &target, &[("Content-Length", "5")]);
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(format!("{head}helloGARBAGE that is no request\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(conn.response("PUT").status, 201);
    // The rest is read as a next request, and is none.
    let next = conn.response("GET");
    assert!(matches!(next.status, 0 | 400), "{next}");
    assert_eq!(client.get("f").body, b"hello");
    // A proper next request is one.
    let second = client.head_of("GET", &target, &[]);
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(format!("{head}world{second}").as_bytes()).unwrap();
    assert_eq!(conn.response("PUT").status, 200);
    assert_eq!(conn.response("GET").body, b"world");
}

#[test]
fn two_lengths_are_one_too_many() {
    let server = Server::start();
    let client = server.client();
    let target = client.at("files", "f");
    let smuggled = "GET /v1/me HTTP/1.1\r\n\r\n";
    for headers in [
        &[("Content-Length", "5"), ("Content-Length", "6")][..],
        &[("Content-Length", "5, 6")],
        &[("Content-Length", "-5")],
        &[("Content-Length", "+5")],
        &[("Content-Length", "0x5")],
        &[("Content-Length", "99999999999999999999999")],
        &[("Transfer-Encoding", "chunked, identity")],
        &[("Transfer-Encoding", "xchunked")],
    ] {
        let head = client.head_of("PUT", &target, headers);
        let request = format!("{head}0\r\n\r\n{smuggled}");
        let answer = cut(&client, request.as_bytes(), Cut::Fin).unwrap();
        assert!(matches!(answer.status, 0 | 400 | 413 | 501), "{headers:?}: {answer}");
        client.stat("f").expect(404);
    }
    // Chunks win over a length (RFC 9112 6.3), and nothing more is read from that connection.
    let both = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")];
    let head = client.head_of("PUT", &target, &both);
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(format!("{head}0\r\n\r\n{smuggled}").as_bytes()).unwrap();
    conn.response("PUT").expect_any(&[0, 201, 400]);
    conn.response("GET").expect(0);
    oracle::clean(&client);
}
