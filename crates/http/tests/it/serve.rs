//! The server against raw sockets: what clients that are slow, greedy, wrong or many get to see.
//!
//! Not here: what requests mean (the doors' tests, and the end-to-end suite).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use larder_base::Env;
use larder_core::Error;
use larder_http::{
    Patience, Received, RequestBody, ResponseBody, ServeOptions, Server, Service, Status,
};

const IDLE: Duration = Duration::from_millis(400);

/// A service with one behaviour for each path.
#[derive(Clone)]
struct Probe {
    env: Env,
    patience: Patience,
    entered: tokio::sync::mpsc::Sender<()>,
    pub(crate) release: std::sync::Arc<tokio::sync::Notify>,
}

impl Service for Probe {
    async fn call(&self, request: Request<Received>, _: SocketAddr) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body, &self.env, self.patience);
        let text = match head.uri.path() {
            "/echo" => match body.collect(1 << 20).await {
                Ok(bytes) => bytes,
                Err(error) => error.detail().to_owned().into(),
            },
            "/refuse" => Bytes::from_static(b"refused"),
            "/panic" => panic!("on purpose"),
            "/slow" => {
                self.entered.send(()).await.expect("the test listens");
                self.release.notified().await;
                Bytes::from_static(b"slow")
            }
            "/broken" => {
                let first = stream::iter([Ok(Bytes::from(vec![b'x'; 1000]))]);
                let pieces = first.chain(stream::once(async {
                    tokio::task::yield_now().await;
                    Err(Error::internal("broken"))
                }));
                return Response::new(ResponseBody::stream(5000, pieces));
            }
            "/endless" => {
                let piece = Bytes::from(vec![b'x'; 1 << 20]);
                let pieces = stream::repeat_with(move || Ok(piece.clone()));
                return Response::new(ResponseBody::stream(1 << 40, pieces));
            }
            _ => Bytes::from_static(b"hello"),
        };
        Response::new(text.into())
    }
}

pub(crate) struct Setup {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) status: Status,
    pub(crate) entered: tokio::sync::mpsc::Receiver<()>,
    pub(crate) release: std::sync::Arc<tokio::sync::Notify>,
}

pub(crate) fn start(change: impl FnOnce(&mut ServeOptions)) -> Setup {
    start_with(Patience::of(IDLE), change)
}

/// Starts a server that has `patience` with bodies.
pub(crate) fn start_with(patience: Patience, change: impl FnOnce(&mut ServeOptions)) -> Setup {
    let mut options = ServeOptions {
        addresses: vec!["127.0.0.1:0".parse().expect("an address")],
        workers: 2,
        ..ServeOptions::default()
    };
    change(&mut options);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (env, status) = (Env::system(), Status::default());
    let (enter, entered) = tokio::sync::mpsc::channel(100);
    let release = std::sync::Arc::<tokio::sync::Notify>::default();
    let (release_too, env_too) = (release.clone(), env.clone());
    let probe = Probe { env: env_too, patience, entered: enter, release: release_too };
    let _inside = runtime.enter();
    let server = Server::start(&options, probe, &env, &status).expect("it starts");
    let address = server.addresses()[0];
    assert_ne!(address.port(), 0);
    drop(_inside);
    Setup { runtime, server, address, status, entered, release }
}

impl Setup {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    pub(crate) fn shutdown(self) {
        self.runtime.block_on(self.server.shutdown());
    }
}

pub(crate) fn send(stream: &mut impl Write, text: &str) {
    stream.write_all(text.as_bytes()).expect("send");
}

/// Reads one answer with a `Content-Length`.
pub(crate) fn answer(stream: &mut impl Read) -> (u16, String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("read a head"), 1, "no head: {head:?}");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head is text").to_lowercase();
    let status = head[9..12].parse().expect("a status");
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split('\r').next().expect("a line").parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("read a body");
    (status, head, String::from_utf8(body).expect("a body is text"))
}

pub(crate) fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is as good an end as a close.
    drop(stream.read_to_end(&mut all));
    all
}

#[test]
fn a_connection_serves_many_requests_also_pipelined() {
    let setup = start(|_| {});
    let mut stream = setup.connect();
    for _ in 0..3 {
        send(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(answer(&mut stream).2, "hello");
    }
    send(&mut stream, &"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50));
    for _ in 0..50 {
        assert_eq!(answer(&mut stream).0, 200);
    }
    assert_eq!((setup.status.open(), setup.status.accepted()), (1, 1));
    setup.shutdown();
}

#[test]
fn a_panic_is_a_500_for_its_request_alone() {
    let setup = start(|options| options.workers = 1);
    let mut other = setup.connect();
    send(&mut other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(&mut other);
    let mut stream = setup.connect();
    send(&mut stream, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n");
    let (status, head, body) = answer(&mut stream);
    assert_eq!(status, 500);
    assert!(head.contains("application/problem+json") && head.contains("x-request-id: "));
    assert!(head.contains("larder-applied: unknown") && body.contains("\"internal\""));
    for stream in [&mut stream, &mut other] {
        send(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(answer(stream).0, 200);
    }
    assert_eq!(setup.status.panicked(), 1);
    setup.shutdown();
}

#[test]
fn heads_that_trickle_and_idle_connections_are_cut_off() {
    let setup = start(|options| {
        options.header_timeout = Duration::from_millis(200);
        options.idle_timeout = IDLE;
    });
    let mut slow = setup.connect();
    send(&mut slow, "GET / HT");
    assert_eq!(rest(&mut slow), b"");
    let mut idle = setup.connect();
    send(&mut idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(&mut idle);
    assert_eq!(rest(&mut idle), b"");
    let mut silent = setup.connect();
    assert_eq!(rest(&mut silent), b"");
    setup.runtime.block_on(async {
        while setup.status.open() > 0 {
            tokio::task::yield_now().await
        }
    });
    setup.shutdown();
}

#[test]
fn a_handler_may_take_longer_than_any_time_out() {
    let mut setup = start(|options| {
        options.header_timeout = Duration::from_millis(20);
        options.idle_timeout = Duration::from_millis(20);
        options.stall_timeout = Duration::from_millis(20);
    });
    let mut stream = setup.connect();
    send(&mut stream, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    setup.entered.blocking_recv().expect("it entered");
    // Fifty sweeps, ten times each time-out.
    setup.runtime.block_on(Env::system().sleep(Duration::from_millis(250)));
    setup.release.notify_one();
    assert_eq!(answer(&mut stream).2, "slow");
    setup.shutdown();
}

#[test]
fn a_client_that_does_not_take_its_answer_loses_its_place() {
    let setup = start(|options| options.stall_timeout = Duration::from_millis(200));
    let mut stream = setup.connect();
    send(&mut stream, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    setup.runtime.block_on(async {
        while setup.status.accepted() == 0 || setup.status.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
    setup.shutdown();
}

#[test]
fn oversized_heads_are_refused_and_cost_nothing_more() {
    let setup = start(|options| options.header_bytes_max = 16 << 10);
    let mut stream = setup.connect();
    let large = "y".repeat(15 << 10);
    send(&mut stream, &format!("GET / HTTP/1.1\r\nHost: x\r\nA: {large}\r\n\r\n"));
    assert_eq!(answer(&mut stream).0, 200);
    let huge = "y".repeat(3 << 20);
    // The server may close before it has taken all of it.
    drop(stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nA: {huge}\r\n\r\n").as_bytes()));
    let text = String::from_utf8(rest(&mut stream)).expect("text");
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    let mut stream = setup.connect();
    let many = "a: b\r\n".repeat(1000);
    send(&mut stream, &format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"));
    assert!(rest(&mut stream).starts_with(b"HTTP/1.1 431"));
    setup.shutdown();
}

#[test]
fn malformed_requests_are_400_and_the_end_of_their_connection() {
    let setup = start(|_| {});
    for text in [
        "nonsense\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
    ] {
        let mut stream = setup.connect();
        send(&mut stream, text);
        let got = rest(&mut stream);
        assert!(got.starts_with(b"HTTP/1.1 400"), "{text}: {}", String::from_utf8_lossy(&got));
    }
    setup.shutdown();
}

#[test]
fn too_many_connections_get_a_503() {
    let setup = start(|options| options.connections_max = 2);
    let mut held = [setup.connect(), setup.connect()];
    for stream in &mut held {
        send(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        answer(stream);
    }
    let mut third = setup.connect();
    send(&mut third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let (status, head, body) = answer(&mut third);
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 1") && head.contains("connection: close"));
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["code"], "busy");
    assert_eq!(rest(&mut third), b"");
    assert_eq!((setup.status.open(), setup.status.refused()), (2, 1));
    drop(held);
    setup.runtime.block_on(async {
        while setup.status.open() > 0 {
            tokio::task::yield_now().await
        }
    });
    let mut again = setup.connect();
    send(&mut again, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer(&mut again).0, 200);
    setup.shutdown();
}

#[test]
fn a_drain_finishes_what_has_begun_and_closes_the_rest() {
    let mut setup = start(|_| {});
    let mut idle = setup.connect();
    send(&mut idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(&mut idle);
    let mut busy = setup.connect();
    send(&mut busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    setup.entered.blocking_recv().expect("it entered");
    let (address, status, release) = (setup.address, setup.status.clone(), setup.release.clone());
    let server = setup.server;
    let ended = setup.runtime.spawn(server.shutdown());
    assert_eq!(rest(&mut idle), b"");
    assert!(status.draining());
    assert!(!ended.is_finished());
    assert!(TcpStream::connect(address).is_err(), "nothing new is accepted");
    release.notify_one();
    let (code, head, body) = answer(&mut busy);
    assert_eq!((code, body.as_str()), (200, "slow"));
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(rest(&mut busy), b"");
    setup.runtime.block_on(ended).expect("it ends");
    assert_eq!(status.open(), 0);
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let mut setup = start(|options| options.drain_timeout = Duration::from_millis(50));
    let mut busy = setup.connect();
    send(&mut busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    setup.entered.blocking_recv().expect("it entered");
    let status = setup.status.clone();
    setup.shutdown();
    assert_eq!(status.open(), 0);
    assert_eq!(rest(&mut busy), b"");
}

#[test]
fn a_body_that_breaks_off_is_no_complete_answer() {
    let setup = start(|_| {});
    let mut stream = setup.connect();
    send(&mut stream, "GET /broken HTTP/1.1\r\nHost: x\r\n\r\n");
    let got = rest(&mut stream);
    let text = String::from_utf8_lossy(&got);
    assert!(text.contains("content-length: 5000"), "{text}");
    assert!(got.len() < 5000, "{} bytes", got.len());
    setup.shutdown();
}

#[test]
fn continue_is_sent_only_when_the_body_is_wanted() {
    let setup = start(|_| {});
    let head = "HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut stream = setup.connect();
    send(&mut stream, &format!("POST /echo {head}"));
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut stream, "12345");
    assert_eq!(answer(&mut stream).2, "12345");
    let mut stream = setup.connect();
    send(&mut stream, &format!("POST /refuse {head}"));
    let (status, head, body) = answer(&mut stream);
    assert_eq!((status, body.as_str()), (200, "refused"));
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(rest(&mut stream), b"");
    setup.shutdown();
}

#[test]
fn an_answer_before_the_end_of_a_large_body_still_arrives() {
    let setup = start(|_| {});
    for _ in 0..20 {
        let mut stream = setup.connect();
        let length = 8 << 20;
        send(
            &mut stream,
            &format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"),
        );
        // The whole body goes out before the client looks for an answer, as many clients do it.
        stream.write_all(&vec![0; length]).expect("the body is taken, if only to be dropped");
        let (_, head, body) = answer(&mut stream);
        assert_eq!(body, "refused");
        assert!(head.contains("connection: close"), "{head}");
    }
    setup.shutdown();
}

#[test]
fn a_connection_is_closed_only_after_an_answer_that_says_so() {
    let setup = start(|_| {});
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let chunked = |chunks| format!("{}0\r\n\r\n", chunk.repeat(chunks));
    let length = |bytes: usize| (format!("Content-Length: {bytes}"), "x".repeat(bytes));
    let chunks = |chunks: usize| ("Transfer-Encoding: chunked".to_owned(), chunked(chunks));
    let cases = [(length(1000), true), (length(60_000), true), (length(500_000), false)];
    let cases = cases.into_iter().chain([(chunks(1), true), (chunks(500), false)]);
    for ((header, body), kept) in cases {
        for path in ["/refuse", "/panic"] {
            let mut stream = setup.connect();
            send(&mut stream, &format!("POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"));
            send(&mut stream, &body);
            let (_, head, _) = answer(&mut stream);
            assert_eq!(!head.contains("connection: close"), kept, "{path} {header}: {head}");
            if kept {
                send(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                assert_eq!(answer(&mut stream).2, "hello", "{path} {header}");
            } else {
                assert_eq!(rest(&mut stream), b"", "{path} {header}");
            }
        }
    }
    // A rest that does not come is not waited for.
    let mut stream = setup.connect();
    send(&mut stream, "POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n");
    let (_, head, body) = answer(&mut stream);
    assert!(body == "refused" && head.contains("connection: close"), "{head}");
    setup.shutdown();
}

#[test]
fn bodies_that_are_cut_or_trickle_are_errors() {
    let setup = start(|_| {});
    let mut stream = setup.connect();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1234");
    assert_eq!(answer(&mut stream).2, "the body comes too slowly");
    let mut stream = setup.connect();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1234");
    stream.shutdown(std::net::Shutdown::Write).expect("half a close");
    assert_eq!(answer(&mut stream).2, "the body ended before its declared end");
    assert_eq!(rest(&mut stream), b"");
    let mut stream = setup.connect();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n1");
    assert_eq!(answer(&mut stream).2, "the body is larger than 1048576 bytes");
    let mut stream = setup.connect();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    send(&mut stream, "3\r\nabc\r\n0\r\nContent-Digest: sha-256=:AAAA:\r\n\r\n");
    assert!(answer(&mut stream).2.contains("trailers"));
    setup.shutdown();
}

#[test]
fn two_servers_cannot_share_an_address_in_silence() {
    let setup = start(|_| {});
    let taken = ServeOptions { addresses: vec![setup.address], ..ServeOptions::default() };
    let probe = Probe {
        env: Env::system(),
        patience: Patience::of(IDLE),
        entered: tokio::sync::mpsc::channel(1).0,
        release: std::sync::Arc::default(),
    };
    let _inside = setup.runtime.enter();
    let error = Server::start(&taken, probe, &Env::system(), &Status::default());
    let error = error.expect_err("the address is taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&setup.address.to_string()));
}
