//! Quota: exact to the byte, whatever arrives at once and however it ends.

use std::sync::atomic::{AtomicBool, Ordering};

use larder_e2e::{
    client::{Client, Outcome},
    http::Conn,
    oracle,
    race::{one_winner, race, tally},
    server::Server,
    tool::{self, rounds},
};
use serde_json::json;

/// A project whose live bytes have a limit.
#[track_caller]
fn limited(root: &Client, name: &str, live: u64) -> Client {
    root.project(name, &json!({"limits": {"live": live}}))
}

/// Fifty uploads of a tenth of the limit at once: ten fit, and usage never passes the limit.
#[track_caller]
fn fill_at_once(root: &Client, name: &str, piece: usize, one_path: bool) {
    let limit = 10 * piece as u64;
    let client = limited(root, name, limit);
    let done = AtomicBool::new(false);
    let answers = race(&client, 51, |number, client| {
        if number == 50 {
            while !done.load(Ordering::Relaxed) {
                let usage = client.usage();
                assert!(usage.live <= limit, "{usage:?}");
            }
            return None;
        }
        let path = if one_path { "same".to_owned() } else { format!("f{number}") };
        let answer = client.put(&path, &vec![number as u8; piece]);
        if number == 0 {
            done.store(true, Ordering::Relaxed);
        }
        Some(answer)
    });
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    let stored = answers.iter().filter(|a| [200, 201].contains(&a.status)).count();
    if one_path {
        // Only the difference counts, but each needs room while it is in flight.
        assert!(stored >= 10, "{}", tally(&answers));
    } else {
        assert_eq!(stored, 10, "{}", tally(&answers));
        assert_eq!(client.usage().live, limit);
    }
    for refused in answers.iter().filter(|a| ![200, 201].contains(&a.status)) {
        assert_eq!((refused.status, refused.code().as_str()), (507, "quota_exceeded"), "{refused}");
    }
    oracle::conserved(&client);
}

#[test]
fn exactly_as_many_uploads_succeed_as_fit() {
    let _alone = tool::heavy();
    let server = Server::start();
    let root = server.client();
    for round in 0..rounds(4) {
        fill_at_once(&root, &format!("small-{round}"), 10_000, false);
        fill_at_once(&root, &format!("same-{round}"), 10_000, true);
        fill_at_once(&root, &format!("chunked-{round}"), 200_000, false);
    }
    fill_at_once(&root, "large", 4 << 20, false);
    oracle::clean(&root);
    oracle::collected(&server, &root);
}

#[test]
fn overwrites_copies_and_restores_at_once_stay_below_the_limit() {
    let server = Server::start();
    let root = server.client();
    for round in 0..rounds(5) {
        let client = limited(&root, &format!("mixed-{round}"), 10_000);
        client.put("small", &[1; 100]).expect(201);
        client.put("grown", &[2; 2000]).expect(201);
        client.put("grown", &[3; 10]).expect(200);
        client.put("gone", &[4; 1900]).expect(201);
        let id = client.must_stat("gone")["id"].as_str().unwrap().to_owned();
        client.rm("gone").expect(204);
        let item = client.trash_item(&id).unwrap();
        let answers = race(&client, 40, |number, client| match number % 4 {
            0 => client.put("small", &vec![0; 1500 + number]),
            1 => client.cp("grown", &format!("copy{number}"), false),
            2 if number == 2 => client.restore(&item, &json!({})),
            2 => client.put(&format!("new{number}"), &vec![0; 1700 + number]),
            _ => client.restore_revision("grown", 1),
        });
        let usage = client.usage();
        assert!(usage.live <= 10_000, "{usage:?}");
        for answer in &answers {
            let refused = answer.status == 507 && answer.code() == "quota_exceeded";
            assert!(refused || answer.outcome() == Outcome::Done, "{answer}");
        }
        oracle::conserved(&client);
    }
    oracle::clean(&root);
}

#[test]
fn deletes_at_once_release_the_bytes_once() {
    let server = Server::start();
    let root = server.client();
    let client = limited(&root, "once", 100_000);
    for round in 0..rounds(5) {
        client.put("keep", &[0; 500]).expect_any(&[200, 201]);
        client.put("f", &[0; 700]).expect(201);
        let answers = race(&client, 32, |_, client| client.rm("f"));
        one_winner(&answers, &[204], &[404]);
        assert_eq!(client.usage().live, 500, "round {round}");
    }
    client.rm("keep").expect(204);
    client.empty_trash().expect(204);
    root.gc();
    let usage = client.usage();
    assert_eq!((usage.live, usage.retained, usage.reserved), (0, 0, 0));
    oracle::clean(&root);
}

#[test]
fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let server = Server::start();
    let root = server.client();
    let client = limited(&root, "unknown", 1_000_000);
    let target = client.at("files", "f");
    client.send_chunked("PUT", &target, &[], &vec![1; 900_000], 30_000).expect(201);
    let target = client.at("files", "g");
    let over = client.send_chunked("PUT", &target, &[], &vec![1; 5_000_000], 30_000);
    assert_eq!((over.status, over.code().as_str()), (507, "quota_exceeded"), "{over}");
    client.stat("g").expect(404);
    client.send_chunked("PUT", &target, &[], &vec![1; 100_000], 999).expect(201);
    assert_eq!(client.usage().live, 1_000_000);
    client.send_chunked("PUT", &client.at("files", "h"), &[], b"x", 1).expect(507);
    oracle::conserved(&client);
    oracle::clean(&root);
    oracle::collected(&server, &root);
}

#[test]
fn arithmetic_at_the_edges_is_exact() {
    let server = Server::start();
    let root = server.client();
    let client = limited(&root, "edges", 7);
    for (len, status) in [(5, 201), (3, 200), (7, 200), (8, 507), (0, 200), (7, 200)] {
        client.put("f", &vec![1; len]).expect(status);
    }
    assert_eq!(client.usage().live, 7);
    client.put("empty", b"").expect(201);
    client.put("one", b"1").expect(507);
    // Lowering the limit below use is legal; then only what does not grow passes.
    client.limit(Some(3));
    client.put("f", &[2; 7]).expect(200);
    client.put("f", &[2; 8]).expect(507);
    client.put("f", &[2; 6]).expect(200);
    client.mv("f", "g", false).expect(201);
    client.cp("g", "h", false).expect(507);
    client.limit(None);
    client.put("h", &[0; 100]).expect(201);
    for limit in [0, i64::MAX as u64, i64::MAX as u64 - 1] {
        client.limit(Some(limit));
        assert_eq!(client.space()["limits"]["live"], limit);
    }
    client.put("i", &[0; 100]).expect(201);
    assert_eq!(client.usage().live, 206);
    oracle::conserved(&client);
    oracle::clean(&root);
}

#[test]
fn a_deleted_folder_makes_room_at_once() {
    let server = Server::start();
    let root = server.client();
    let client = limited(&root, "room", 30_000);
    for round in 0..rounds(10) {
        let dir = format!("d{round}/e");
        client.mkdir_all(&dir).expect(201);
        for file in 0..3 {
            client.put(&format!("{dir}/f{file}"), &[0; 10_000]).expect(201);
        }
        client.put("more", b"1").expect(507);
        client.rm(&format!("d{round}")).expect(204);
    }
    client.put("more", &[1; 30_000]).expect(201);
    oracle::clean(&root);
}

#[test]
fn an_upload_that_is_cut_off_gives_its_room_back() {
    let server = Server::start();
    let root = server.client();
    let client = limited(&root, "back", 1_000_000);
    for round in 0..rounds(6) {
        let head = client.head_of("PUT", &client.at("files", "f"), &[("Content-Length", "900000")]);
        let mut conn = Conn::open(client.addr()).unwrap();
        conn.send(head.as_bytes()).unwrap();
        conn.send(&vec![0; 450_000]).unwrap();
        let half_way = || client.usage().reserved > 0;
        assert!(tool::wait_until(std::time::Duration::from_secs(10), half_way), "it is reserved");
        client.put("other", &[0; 200_000]).expect(507);
        client.stat("f").expect(404);
        if round % 2 == 0 {
            conn.reset()
        } else {
            conn.finish_sending()
        }
        // A second client has the room and the name within a second.
        let stored = || client.put("f", &[1; 900_000]).status == 201;
        assert!(tool::wait_until(std::time::Duration::from_secs(1), stored), "round {round}");
        client.rm("f").expect(204);
    }
    oracle::conserved(&client);
    oracle::clean(&root);
}

#[test]
fn a_stalled_upload_does_not_hold_up_its_user() {
    let server = Server::start();
    let client = server.client();
    let stalled: Vec<Conn> = (0..20)
        .map(|number| {
            let target = client.at("files", &format!("stalled{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "5000000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            conn.send(&vec![0; 100_000]).unwrap();
            conn
        })
        .collect();
    let started = std::time::Instant::now();
    client.mkdir("d").expect(201);
    client.put("d/f", &[1; 300_000]).expect(201);
    client.mv("d", "e", false).expect(201);
    client.rm("e").expect(204);
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    drop(stalled);
    oracle::all_is_well(&server, &client);
}
