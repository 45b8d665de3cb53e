//! Clients that are slow or too many, against the limits that are for them.
//!
//! Not here: lists and rates of addresses and users (the end-to-end suite).

use std::{io::Read as _, time::Duration};

use larder_base::Env;
use larder_http::{Limits, LimitsOptions, Patience};

use crate::serve::{Setup, answer, rest, send, start, start_with};

/// Waits until `done`; tests that wait for ever are ended by their runner.
fn until(setup: &Setup, done: impl Fn() -> bool) {
    setup.runtime.block_on(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn an_address_with_too_many_connections_gets_a_429_and_later_its_turn() {
    let limits = LimitsOptions { connections_per_address: Some(2), ..LimitsOptions::default() };
    let limits = Limits::new(limits, &Env::system());
    let setup = start(|options| options.limits = Some(limits.clone()));
    let mut held = [setup.connect(), setup.connect()];
    for stream in &mut held {
        send(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(answer(stream).0, 200);
    }
    let mut third = setup.connect();
    send(&mut third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let (status, head, body) = answer(&mut third);
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["code"], "rate_limited");
    assert_eq!(rest(&mut third), b"");
    assert!(limits.refused().any(|count| count == ("connections_per_address", 1)));
    assert_eq!(setup.status.open(), 2);
    drop(held);
    until(&setup, || setup.status.open() == 0);
    let mut again = setup.connect();
    send(&mut again, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer(&mut again).0, 200);
    setup.shutdown();
}

#[test]
fn a_client_that_takes_less_than_the_least_rate_is_cut_off() {
    let setup = start(|options| {
        options.stall_timeout = Duration::from_millis(300);
        options.min_rate = Some(4 << 20);
    });
    let mut slow = setup.connect();
    send(&mut slow, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut quick = setup.connect();
    send(&mut quick, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    // The slow one takes something again and again, but far too little.
    let (mut some, mut much) = ([0; 64], vec![0; 1 << 20]);
    while !setup.status.cut().any(|cut| cut == ("answer", 1)) {
        drop(slow.read(&mut some));
        quick.read_exact(&mut much).expect("whoever is quick enough goes on");
    }
    assert!(setup.status.open() >= 1);
    quick.read_exact(&mut much).expect("whoever is quick enough goes on");
    drop(quick);
    setup.shutdown();
}

#[test]
fn a_body_slower_than_the_least_rate_is_given_up() {
    let second = Duration::from_secs(1);
    let patience = Patience::with_rate(60 * second, second, 50_000);
    let setup = start_with(patience, |_| {});
    let mut slow = setup.connect();
    send(&mut slow, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    slow.set_nonblocking(true).expect("nonblocking");
    // 10 KB/s, in pieces of 100 bytes.
    let mut first = [0; 1];
    setup.runtime.block_on(async {
        while slow.peek(&mut first).is_err() {
            drop(std::io::Write::write(&mut slow, &[0; 100]));
            Env::system().sleep(second / 100).await;
        }
    });
    slow.set_nonblocking(false).expect("blocking");
    let (_, head, body) = answer(&mut slow);
    assert_eq!(body, "the body comes too slowly");
    assert!(head.contains("connection: close"), "{head}");
    assert!(setup.status.cut().any(|cut| cut == ("body", 1)));

    let patience = Patience::with_rate(second / 5, 60 * second, 1);
    let still = start_with(patience, |_| {});
    let mut stream = still.connect();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1");
    assert_eq!(answer(&mut stream).2, "the body comes too slowly");
    still.shutdown();
    setup.shutdown();
}

#[test]
fn two_lengths_for_one_body_never_become_two_requests() {
    let setup = start(|_| {});
    let smuggled = "GET /refuse HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = |bytes: usize| format!("Content-Length: {bytes}");
    let chunked = "Transfer-Encoding: chunked".to_owned();
    let body = format!("0\r\n\r\n{smuggled}");
    for (first, second) in [
        (length(body.len()), chunked.clone()),
        (chunked.clone(), length(body.len())),
        (length(5), chunked.clone()),
        (chunked.clone(), length(5)),
        (chunked.clone(), "Transfer-Encoding: identity".to_owned()),
        (length(5), length(6)),
        ("Transfer-Encoding: xchunked".to_owned(), length(5)),
        ("Transfer-Encoding : chunked".to_owned(), length(5)),
    ] {
        let mut stream = setup.connect();
        send(
            &mut stream,
            &format!("POST /echo HTTP/1.1\r\nHost: x\r\n{first}\r\n{second}\r\n\r\n"),
        );
        send(&mut stream, &body);
        let got = String::from_utf8(rest(&mut stream)).expect("text");
        assert_eq!(got.matches("HTTP/1.1").count(), 1, "{first}, {second}: {got}");
        assert!(!got.contains("refused"), "{first}, {second}: {got}");
    }
    setup.shutdown();
}

#[test]
fn a_request_has_as_many_headers_as_it_may() {
    let setup = start(|options| options.headers_max = 20);
    for (count, expected) in [(19, 200), (20, 431)] {
        let many: String = (0..count).map(|n| format!("A{n}: b\r\n")).collect();
        let mut stream = setup.connect();
        send(&mut stream, &format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"));
        assert_eq!(answer(&mut stream).0, expected, "{count} and Host");
    }
    setup.shutdown();
}
