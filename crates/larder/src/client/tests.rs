//! The client against a server that misbehaves on purpose.

use std::io::Write as _;

use http::Method;
use larder_base::{ErrorKind, digest::Sha256};

use super::{
    Call, Repeat,
    api::PutOptions,
    body::{Moved, Payload},
    error::{Cause, ClientError},
    scripted::{Reply, Server, answer},
};

fn get(path: &str) -> Call {
    Call::new(Method::GET, path.to_owned())
}

async fn text(server: &Server, call: &Call) -> Result<String, ClientError> {
    let client = server.client();
    let mut answer = client.call(call).await?;
    Ok(String::from_utf8(answer.bytes(1 << 20).await?.to_vec()).expect("UTF-8"))
}

#[tokio::test]
async fn a_call_says_who_and_where_and_reuses_its_connection() {
    let server = Server::start(|number, _| {
        Reply::Answer(answer(200, "", format!("answer {number}").as_bytes()))
    });
    let client = server.client();
    for number in 1..=3 {
        let mut answer = client.call(&get("/v1/me?x=1")).await.expect("an answer");
        assert_eq!(answer.bytes(99).await.expect("bytes"), format!("answer {number}").as_bytes());
    }
    let seen = &server.seen()[2];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/v1/me?x=1"));
    assert_eq!(seen.headers["authorization"], "Basic YW5uOnNlY3JldA==");
    assert!(server.url.ends_with(&seen.headers["host"]));
}

#[tokio::test]
async fn an_empty_file_says_that_it_is_empty() {
    let server = Server::start(|_, _| Reply::Answer(answer(201, "", b"{\"size\":0}")));
    let client = server.client();
    let payload = Payload::Bytes(bytes::Bytes::new());
    let put = client.put(("home", "x"), payload, PutOptions::default(), Moved::default());
    put.await.expect("stored");
    assert_eq!(server.seen()[0].headers["content-length"], "0");
}

#[tokio::test]
async fn a_problem_becomes_an_error_with_its_request_id() {
    let body = br#"{"code":"quota_exceeded","detail":"3 bytes too many","request_id":"r-1"}"#;
    let server = Server::start(move |_, _| {
        Reply::Answer(answer(507, "content-type: application/problem+json\r\n", body))
    });
    let error = text(&server, &get("/v1/me")).await.expect_err("a problem");
    assert_eq!(error.exit_code(), 6);
    assert_eq!(error.to_string(), "quota exceeded: 3 bytes too many (request r-1)");
    assert_eq!(server.seen().len(), 1, "a refusal is not repeated");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says_so() {
    let busy = |number, _: &_| match number {
        1 => Reply::Answer(answer(503, "retry-after: 0\r\n", b"{\"code\":\"busy\"}")),
        _ => Reply::Answer(answer(200, "", b"ok")),
    };
    let server = Server::start(busy);
    assert_eq!(text(&server, &get("/v1/me")).await.expect("the second time"), "ok");
    assert_eq!(server.seen().len(), 2);

    let server = Server::start(busy);
    let error = text(&server, &Call::new(Method::POST, "/v1/x".to_owned())).await;
    assert_eq!(error.expect_err("once").kind(), Some(ErrorKind::Busy));
    assert_eq!(server.seen().len(), 1, "a POST is never repeated");

    let server = Server::start(|number, _| match number {
        1 => Reply::Answer(answer(409, "retry-after: 0\r\n", b"{\"code\":\"conflict\"}")),
        _ => Reply::Answer(answer(200, "", b"ok")),
    });
    assert_eq!(text(&server, &get("/v1/me")).await.expect("the second time"), "ok");

    let server = Server::start(|_, _| Reply::Answer(answer(503, "", b"{\"code\":\"busy\"}")));
    text(&server, &get("/v1/me")).await.expect_err("no Retry-After");
    assert_eq!(server.seen().len(), 1);

    let server = Server::start(|_, _| Reply::Answer(answer(503, "retry-after: 0\r\n", b"")));
    text(&server, &get("/v1/me")).await.expect_err("busy for ever");
    assert_eq!(server.seen().len(), 5, "attempts are few");
}

#[tokio::test]
async fn what_may_have_happened_is_repeated_only_if_that_is_harmless() {
    let lost = |number, _: &_| match number {
        1 => Reply::Answer(answer(503, "retry-after: 0\r\nlarder-applied: unknown\r\n", b"")),
        _ => Reply::Answer(answer(200, "", b"ok")),
    };
    let server = Server::start(lost);
    let mut call = Call::new(Method::DELETE, "/v1/x".to_owned());
    call.repeat = Repeat::Refused;
    text(&server, &call).await.expect_err("not repeated");
    assert_eq!(server.seen().len(), 1);
    let server = Server::start(lost);
    text(&server, &get("/v1/x")).await.expect("repeated");
}

#[tokio::test]
async fn without_an_answer_only_idempotent_calls_are_repeated() {
    let hang_up_once = |number, _: &_| match number {
        1 => Reply::HangUp,
        _ => Reply::Answer(answer(200, "", b"ok")),
    };
    let server = Server::start(hang_up_once);
    let mut call = Call::new(Method::PUT, "/v1/x".to_owned());
    call.payload = Payload::Bytes("body".into());
    assert_eq!(text(&server, &call).await.expect("repeated"), "ok");
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].body.as_slice()), (2, &b"body"[..]));

    let server = Server::start(hang_up_once);
    let error = text(&server, &Call::new(Method::POST, "/v1/x".to_owned())).await;
    assert!(matches!(error.expect_err("once").cause, Cause::NoAnswer(_)));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_repetition() {
    let server = Server::start(|_, _| Reply::AnswerAndClose(answer(200, "", b"ok")));
    let client = server.client();
    for _ in 0..20 {
        // POST: it would fail if a closed connection counted as a missing answer.
        let answer = client.call(&Call::new(Method::POST, "/v1/x".to_owned())).await;
        answer.expect("an answer").done().await.expect("done");
        // The end of the connection has to arrive before the next call.
        while client.open_connections() > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.seen().len(), 20);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_damage_and_not_a_short_file() {
    let server = Server::start(|_, _| {
        let mut bytes = answer(200, "", b"0123456789");
        bytes.truncate(bytes.len() - 3);
        Reply::AnswerAndClose(bytes)
    });
    let error = text(&server, &get("/v1/x")).await.expect_err("truncated");
    assert!(matches!(error.cause, Cause::Damaged(_)), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn a_large_file_is_streamed_hashed_and_sent_again_from_its_start() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&content).expect("write");
    let server = Server::start(|number, _| match number {
        1 => Reply::HangUp,
        _ => Reply::Answer(answer(200, "", b"{}")),
    });
    let client = server.client();
    let payload = Payload::File(file.path().to_owned(), content.len() as u64);
    let moved = Moved::default();
    let put = client.put(("home", "a b"), payload, PutOptions::default(), moved.clone());
    let (_, sent) = put.await.expect("stored");
    assert_eq!(sent, Some(Sha256::of(&content)));
    assert_eq!(moved.count(), content.len() as u64, "what is sent again is not counted twice");
    let seen = server.seen();
    assert_eq!(seen[1].path, "/v1/spaces/home/files/a%20b?parents=true");
    assert_eq!(seen[1].headers["content-length"], "3000000");
    assert!(seen[1].body == content, "other bytes arrived");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_fails_and_is_not_stored_short() {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&[7; 1000]).expect("write");
    let server = Server::start(|_, _| Reply::Answer(answer(200, "", b"{}")));
    let payload = Payload::File(file.path().to_owned(), 2000);
    let client = server.client();
    let put = client.put(("home", "x"), payload, PutOptions::default(), Moved::default());
    let error = put.await.expect_err("too short");
    assert!(error.to_string().contains("became shorter"), "{error}");
    assert!(server.seen().iter().all(|seen| seen.body.len() < 2000));
}

#[tokio::test]
async fn a_refusal_before_the_body_has_been_read_is_reported_as_such() {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&vec![7; 20 << 20]).expect("write");
    let server = Server::hasty(|_, _| {
        let head = "connection: close\r\n";
        Reply::AnswerAndClose(answer(413, head, b"{\"code\":\"too_large\"}"))
    });
    let client = server.client();
    let payload = Payload::File(file.path().to_owned(), 20 << 20);
    let put = client.put(("home", "x"), payload, PutOptions::default(), Moved::default());
    assert_eq!(put.await.expect_err("refused").kind(), Some(ErrorKind::TooLarge));
}

#[tokio::test]
async fn nobody_listening_is_no_answer_and_says_where() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = free.local_addr().expect("address");
    drop(free);
    let server = Server::start(|_, _| Reply::HangUp);
    let target =
        super::target::Target::new(&format!("http://{address}"), super::target::Credentials::None)
            .expect("target");
    let env = server.client().env().clone();
    let client = super::Client::new(env, target, 1, std::time::Duration::from_secs(5));
    let error = client.expect("client").call(&get("/v1/me")).await.expect_err("nobody");
    assert!(error.to_string().starts_with(&format!("connect to {address}: ")), "{error}");
    assert_eq!(error.exit_code(), 1);
}
