//! Many large transfers at once: memory stays bounded, nobody starves.

use std::time::Duration;

use larder_e2e::{
    client::Client,
    http::Conn,
    oracle,
    race::race,
    server::Server,
    stamp::{Stamp, check_part},
    tool::{self, knob},
};

const MEMORY_MAX: u64 = 256 << 20;
const PIECE: u64 = 64 << 10;

/// Uploads a stamped body of `len` bytes without holding it in memory.
#[track_caller]
pub(crate) fn stream_up(client: &Client, path: &str, stamp: Stamp, len: u64) {
    let length = len.to_string();
    let head = client.head_of("PUT", &client.at("files", path), &[("Content-Length", &length)]);
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(head.as_bytes()).unwrap();
    let mut piece = Vec::with_capacity(PIECE as usize);
    for start in (0..len).step_by(PIECE as usize) {
        piece.clear();
        for offset in (start..len.min(start + PIECE)).step_by(64) {
            piece.extend_from_slice(&stamp.record(offset, len));
        }
        piece.truncate((len - start).min(PIECE) as usize);
        conn.send(&piece).unwrap();
    }
    assert_eq!(conn.response("PUT").expect_any(&[200, 201]).json()["size"], len);
}

/// Downloads it again, piece by piece.
#[track_caller]
pub(crate) fn stream_down(client: &Client, path: &str, stamp: Stamp, len: u64) {
    let (head, mut body) = client.open(path, &[]);
    assert_eq!((head.status, body.left()), (200, len), "{head}");
    let mut offset = 0;
    while body.left() > 0 {
        let piece = body.read(PIECE as usize).unwrap();
        check_part(stamp, len, offset, &piece).unwrap();
        offset += piece.len() as u64;
    }
}

#[test]
fn a_hundred_large_transfers_at_once_fit_into_little_memory() {
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    client.mkdir("warm-up").expect(201);
    let len = (knob("LARDER_E2E_UPLOAD_MIB", 3) << 20) + 77;
    race(&client, 100, |number, client| {
        stream_up(client, &format!("f{number}"), Stamp::new(number as u32, 0), len);
    });
    assert!(server.memory().1 < MEMORY_MAX, "uploads: {} bytes of memory", server.memory().1);
    race(&client, 50, |number, client| {
        stream_down(client, &format!("f{number}"), Stamp::new(number as u32, 0), len);
    });
    assert!(server.memory().1 < MEMORY_MAX, "downloads: {} bytes of memory", server.memory().1);
    oracle::all_is_well(&server, &client);
}

/// Readers that stand still keep neither memory nor others' turns.
#[test]
fn clients_that_stand_still_do_not_stop_others() {
    let server = Server::start();
    let client = server.client();
    let len = 20 << 20;
    stream_up(&client, "large", Stamp::new(1, 1), len);
    let still: Vec<_> = (0..100).map(|_| client.open("large", &[])).collect();
    let half: Vec<Conn> = (0..50)
        .map(|number| {
            let target = client.at("files", &format!("half{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "8000000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            conn.send(&vec![0; 300_000]).unwrap();
            conn
        })
        .collect();
    let started = std::time::Instant::now();
    for number in 0..10 {
        let stamp = Stamp::new(2, number);
        stream_up(&client, &format!("other{number}"), stamp, 500_000);
        stream_down(&client, &format!("other{number}"), stamp, 500_000);
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(server.memory().0 < MEMORY_MAX, "{} bytes of memory", server.memory().0);
    drop((still, half));
    oracle::conserved(&client);
    oracle::clean(&client);
}
