//! `kill -9` at random points under mixed writers: nothing acknowledged is lost, nothing half
//! done is seen, nothing is left over.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use larder_e2e::{
    books,
    client::{Client, Outcome, Usage},
    http::Conn,
    ledger::{Depth, Ledger},
    oracle,
    race::race,
    server::Server,
    stamp::{Stamp, identify},
    tool::{self, Dice, knob},
};
use serde_json::json;

const WRITERS: usize = 16;
const READY: Duration = Duration::from_secs(2);

/// Every writer goes on with random operations until the server stops answering.
fn write_until_killed(client: &Client, ledger: &mut Ledger, dice: &mut Dice, killed: &AtomicBool) {
    loop {
        let op = ledger.choose(dice);
        let answer = ledger.perform(client, op.clone());
        match answer.outcome() {
            Outcome::Done => {}
            Outcome::Refused => {
                assert_eq!(answer.code(), "busy", "{op:?} must succeed: {answer}");
            }
            Outcome::Unknown => {
                // An answer of 5xx promises nothing; no answer is right only after a kill.
                assert!(answer.status == 0, "{op:?}: {answer}");
                let died =
                    tool::wait_until(Duration::from_secs(5), || killed.load(Ordering::SeqCst));
                assert!(died, "no answer from a living server: {op:?}: {answer}");
                return;
            }
        }
        if killed.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Everybody's books against the server.
#[track_caller]
pub(crate) fn settle(client: &Client, ledgers: &mut [Ledger], depth: Depth) {
    let trash = client.trash();
    for ledger in ledgers.iter_mut() {
        ledger.resolve(client, &trash);
    }
    for ledger in ledgers.iter() {
        ledger.verify(client, &trash, depth);
    }
    let wanted = acknowledged(ledgers);
    // A purge, and the end of a copy that was not acknowledged, go on in the background.
    let told = || client.usage() == wanted;
    let settled = tool::wait_until(Duration::from_secs(20), told);
    assert!(settled, "{:?} where {wanted:?} was acknowledged", client.usage());
}

/// What the space holds by all books.
fn acknowledged(ledgers: &[Ledger]) -> Usage {
    let none = Usage { live: 0, retained: 0, reserved: 0 };
    ledgers.iter().map(Ledger::usage).fold(none, |sum, one| Usage {
        live: sum.live + one.live,
        retained: sum.retained + one.retained,
        reserved: sum.reserved + one.reserved,
    })
}

#[test]
fn killed_at_random_points_it_loses_nothing_and_leaves_nothing() {
    let _alone = tool::heavy();
    let kills = knob("LARDER_E2E_KILLS", 15);
    let mut dice = Dice::new(Dice::seed());
    let mut server = Server::start();
    let mut ledgers: Vec<Ledger> = (0..WRITERS as u32).map(Ledger::new).collect();
    books::befriend(&server.client());
    ledgers.iter_mut().for_each(|ledger| ledger.begin(&server.client()));
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let client = server.client();
        let killed = AtomicBool::new(false);
        let pause = Duration::from_millis(20 + dice.below(600));
        thread::scope(|scope| {
            for ledger in &mut ledgers {
                let (client, killed) = (client.another(), &killed);
                let mut dice = Dice::new(dice.roll());
                scope.spawn(move || write_until_killed(&client, ledger, &mut dice, killed));
            }
            thread::sleep(pause);
            server.kill9();
            killed.store(true, Ordering::SeqCst);
        });
        server.restart();
        slowest = slowest.max(server.ready_after());
        assert!(server.ready_after() < READY, "ready only after {:?}", server.ready_after());
        let client = server.client();
        let last = kill + 1 == kills;
        settle(&client, &mut ledgers, if last { Depth::Everything } else { Depth::Current });
        oracle::clean(&client);
        if kill % 5 == 4 || last {
            // What the open sessions have is counted to no file; and their bytes must be right.
            ledgers.iter_mut().for_each(|ledger| ledger.end_sessions(&client));
            settle(&client, &mut ledgers, Depth::Current);
            oracle::all_is_well(&server, &client);
        }
    }
    let acks: u64 = ledgers.iter().map(|ledger| ledger.acks).sum();
    assert!(acks > kills * 20, "the writers got hardly anything done: {acks}");
    tool::say(format_args!("{kills} kills, {acks} acknowledged, ready after at most {slowest:?}"));
}

#[test]
fn killed_with_uploads_in_flight_it_frees_their_room() {
    let mut server = Server::start();
    let client = server.client().project("limited", &json!({"limits": {"live": 1 << 30}}));
    client.put("kept", &Stamp::new(1, 1).body(5000)).expect(201);
    let conns: Vec<Conn> = (0..50)
        .map(|number| {
            let target = client.at("files", &format!("f{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "400000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            conn.send(&vec![0; 300_000]).unwrap();
            conn
        })
        .collect();
    let reserved = || client.usage().reserved == 50 * 400_000;
    assert!(tool::wait_until(Duration::from_secs(20), reserved), "{:?}", client.usage());
    server.kill9();
    drop(conns);
    server.restart();
    let client = server.client().in_space("limited");
    let usage = client.usage();
    assert_eq!((usage.live, usage.retained, usage.reserved), (5000, 0, 0));
    assert_eq!(client.list("").len(), 1);
    oracle::all_is_well(&server, &client);
    assert_eq!(oracle::chunk_files(&server), [""; 0], "nothing of them is left");
}

#[test]
fn a_first_visit_survives_a_kill_at_any_time() {
    let mut server = Server::start();
    let mut dice = Dice::new(Dice::seed());
    for round in 0..knob("LARDER_E2E_KILLS", 5) {
        let user = server.client().make_user(&format!("u{round}"));
        let (client, pause) = (user.another(), Duration::from_micros(dice.below(30_000)));
        thread::scope(|scope| {
            // The answer does not matter: it may come or be cut off.
            scope.spawn(move || drop(client.put("first", b"visit")));
            thread::sleep(pause);
            server.kill9();
        });
        server.restart();
        let password = format!("u{round}-password");
        let user = Client::new(server.addr(), &format!("u{round}"), &password);
        user.put("second", b"visit").expect(201);
        assert!(user.list("").len() <= 2);
        oracle::clean(&server.client());
    }
}

#[test]
fn a_mkdir_race_survives_a_kill() {
    let mut server = Server::start();
    for round in 0..knob("LARDER_E2E_KILLS", 5) {
        let client = server.client();
        let path = format!("d{round}");
        let answers = thread::scope(|scope| {
            let path = &path;
            let racers = scope.spawn(move || race(&client, 32, |_, client| client.mkdir(path)));
            thread::sleep(Duration::from_millis(2 * (round % 20)));
            server.kill9();
            racers.join().unwrap()
        });
        server.restart();
        let client = server.client();
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        assert!(made <= 1, "{made} of them made it");
        if answers.iter().any(|answer| matches!(answer.status, 201 | 409)) {
            client.must_stat(&path);
        }
        oracle::clean(&client);
        oracle::tree(&client);
    }
}

#[test]
fn asked_to_stop_under_load_it_keeps_what_it_acknowledged() {
    let mut server = Server::start();
    for round in 0..2_u32 {
        let client = server.client();
        let stopping = AtomicBool::new(false);
        let acked: Vec<Vec<u32>> = thread::scope(|scope| {
            let stopping = &stopping;
            let racers = scope.spawn(move || {
                race(&client, 8, |writer, client| {
                    let mut acked = Vec::new();
                    for seq in 0..100_000 {
                        let body = Stamp::new(writer as u32, seq).body(if seq % 10 == 0 {
                            300_000
                        } else {
                            900
                        });
                        let answer = client.put(&format!("r{round}-w{writer}-{seq}"), &body);
                        match answer.outcome() {
                            Outcome::Done => acked.push(seq),
                            _ if stopping.load(Ordering::SeqCst) => break,
                            _ => panic!("before it was asked to stop: {answer}"),
                        }
                    }
                    acked
                })
            });
            thread::sleep(Duration::from_millis(500));
            stopping.store(true, Ordering::SeqCst);
            server.stop();
            racers.join().unwrap()
        });
        server.restart();
        let client = server.client();
        for (writer, acked) in acked.iter().enumerate() {
            assert!(!acked.is_empty(), "writer {writer} got nothing done");
            for seq in acked {
                let answer = client.get(&format!("r{round}-w{writer}-{seq}")).expect(200);
                assert_eq!(identify(&answer.body), Ok(Stamp::new(writer as u32, *seq)));
            }
        }
        oracle::all_is_well(&server, &client);
    }
}
