//! Races for the content of one file: every acknowledged body stays reachable, in commit order.

use std::collections::{BTreeMap, BTreeSet};

use larder_e2e::{
    client::{Client, number, text},
    oracle,
    race::{one_winner, race, tally},
    server::Server,
    stamp::{Stamp, identify},
    tool::rounds,
};

/// Sizes from nothing to several chunks, on both sides of what rides in the commit.
const SIZES: [usize; 8] = [64, 1000, 65_536, 131_072, 131_073, 400_000, 4096, 1_500_000];

/// Every revision of `path`, newest first, by its number: who wrote it.
#[track_caller]
fn writers(client: &Client, path: &str) -> BTreeMap<u64, Stamp> {
    let listed = client.revisions(path);
    let numbers: Vec<u64> = listed.iter().map(|r| number(r, "revision")).collect();
    assert!(numbers.is_sorted_by(|a, b| a > b), "newest first: {numbers:?}");
    let etags: BTreeSet<&str> = listed.iter().map(|r| text(r, "etag")).collect();
    assert_eq!(etags.len(), listed.len(), "an etag is never given twice");
    let stamp_of = |revision: &u64| {
        let answer = client.get_revision(path, *revision).expect(200);
        let listed = listed.iter().find(|r| r["revision"] == *revision).unwrap();
        assert_eq!(answer.body.len() as u64, number(listed, "size"));
        assert_eq!(answer.etag(), text(listed, "etag").trim_matches('"'));
        identify(&answer.body).unwrap_or_else(|why| panic!("revision {revision}: {why}"))
    };
    numbers.iter().map(|revision| (*revision, stamp_of(revision))).collect()
}

#[test]
fn uploads_to_one_new_path_are_all_kept_in_commit_order() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(5) {
        let path = format!("f{round}");
        let answers = race(&client, 32, |number, client| {
            let body = Stamp::new(number as u32, round as u32).body(SIZES[number % SIZES.len()]);
            client.put(&path, &body)
        });
        assert!(answers.iter().all(|a| [200, 201].contains(&a.status)), "{}", tally(&answers));
        let created: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(created.len(), 1, "one of them made the file: {}", tally(&answers));
        let id_of = |answer: &larder_e2e::client::Response| {
            let body = answer.json();
            body["id"].as_str().or(body["file_id"].as_str()).unwrap().to_owned()
        };
        let ids: BTreeSet<String> = answers.iter().map(id_of).collect();
        assert_eq!(ids.len(), 1, "one node: {ids:?}");
        let kept = writers(&client, &path);
        let told: BTreeMap<u64, Stamp> = answers
            .iter()
            .enumerate()
            .map(|(at, a)| (number(&a.json(), "revision"), Stamp::new(at as u32, round as u32)))
            .collect();
        assert_eq!(kept, told, "each acknowledged body under the number it was told");
        let current = identify(&client.get(&path).expect(200).body).unwrap();
        assert_eq!(Some(&current), told.last_key_value().map(|(_, stamp)| stamp));
        client.rm(&path).expect(204);
        client.empty_trash().expect(204);
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn of_conditional_creations_one_wins() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(10) {
        let path = format!("f{round}");
        let answers = race(&client, 32, |number, client| {
            let body = Stamp::new(number as u32, 0).body(SIZES[number % 4]);
            client.put_with(&path, &body, &[("If-None-Match", "*")])
        });
        let winner = one_winner(&answers, &[201], &[412]);
        let body = client.get(&path).expect(200).body;
        assert_eq!(identify(&body), Ok(Stamp::new(winner as u32, 0)));
        assert_eq!(client.revisions(&path).len(), 1, "losers left nothing");
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn of_overwrites_with_one_etag_one_wins() {
    let server = Server::start();
    let client = server.client();
    client.put("f", &Stamp::new(99, 0).body(100)).expect(201);
    for round in 0..rounds(10) {
        let etag = client.head("f").expect(200).must_header("etag").to_owned();
        let answers = race(&client, 32, |number, client| {
            let body = Stamp::new(number as u32, round as u32).body(SIZES[number % SIZES.len()]);
            client.put_with("f", &body, &[("If-Match", &etag)])
        });
        let winner = one_winner(&answers, &[200], &[412]);
        let body = client.get("f").expect(200).body;
        assert_eq!(identify(&body), Ok(Stamp::new(winner as u32, round as u32)));
    }
    assert_eq!(client.revisions("f").len() as u64, rounds(10) + 1, "winners only");
    oracle::all_is_well(&server, &client);
}

#[test]
fn of_conditional_deletes_one_wins_and_an_older_etag_never_does() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(5) {
        let path = format!("f{round}");
        client.put(&path, b"one").expect(201);
        let old = client.head(&path).must_header("etag").to_owned();
        client.put(&path, b"two").expect(200);
        let new = client.head(&path).must_header("etag").to_owned();
        let target = client.at("files", &path);
        let answers = race(&client, 16, |number, client| {
            let etag = if number % 2 == 0 { &old } else { &new };
            client.send("DELETE", &target, &[("If-Match", etag)], None)
        });
        let winner = one_winner(&answers, &[204], &[404, 412]);
        assert_eq!(winner % 2, 1, "only the current etag may delete");
    }
    oracle::clean(&client);
}

/// Each revision says in its size, type and bytes which one it is: no answer may mix two.
#[test]
fn restores_uploads_and_reads_of_one_file_never_mix_revisions() {
    let server = Server::start();
    let client = server.client();
    let size_of = |seq: u32| 1000 + 7 * seq as usize;
    let put = |client: &Client, stamp: Stamp| {
        let kind = format!("text/x-{}-{}", stamp.writer, stamp.seq);
        let seq = stamp.writer * 100 + stamp.seq;
        client.put_with("f", &stamp.body(size_of(seq)), &[("Content-Type", &kind)])
    };
    for seq in 0..4 {
        put(&client, Stamp::new(0, seq)).expect_any(&[200, 201]);
    }
    let turns = 2 * rounds(8);
    let done = race(&client, 24, |worker, client| {
        let mut made = 0;
        for turn in 0..turns {
            match worker {
                0..8 => {
                    client
                        .restore_revision("f", 1 + (worker as u64 + turn) % 4)
                        .expect_any(&[200, 201]);
                    made += 1;
                }
                8..16 => {
                    put(client, Stamp::new(worker as u32, turn as u32)).expect(200);
                    made += 1;
                }
                _ => {
                    let answer = client.get("f").expect(200);
                    let stamp = identify(&answer.body).expect("whole bytes of one revision");
                    let kind = format!("text/x-{}-{}", stamp.writer, stamp.seq);
                    assert_eq!(answer.must_header("content-type"), kind);
                    assert_eq!(answer.body.len(), size_of(stamp.writer * 100 + stamp.seq));
                }
            }
        }
        made
    });
    let made: u64 = done.iter().sum();
    let listed = client.revisions("f");
    assert_eq!(listed.len() as u64, 4 + made, "uploads and restores each added one, none is lost");
    let stamps = writers(&client, "f");
    for entry in &listed {
        let revision = number(entry, "revision");
        if let Some(of) = text(entry, "origin").strip_prefix("restore:") {
            let of = of.parse::<u64>().unwrap();
            assert_eq!(stamps[&revision], stamps[&of], "the bytes it restores");
            let old = listed.iter().find(|entry| entry["revision"] == of).unwrap();
            for same in ["size", "sha256"] {
                assert_eq!(entry[same], old[same]);
            }
        }
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn deleting_an_old_revision_leaves_the_others_and_the_current_one_stays() {
    let server = Server::start();
    let client = server.client();
    for seq in 0..5 {
        client.put("f", &Stamp::new(1, seq).body(200_000)).expect_any(&[200, 201]);
    }
    let numbers: Vec<u64> = writers(&client, "f").into_keys().collect();
    client.rm_revision("f", numbers[4]).expect(409);
    let answers = race(&client, 16, |_, client| client.rm_revision("f", numbers[1]));
    one_winner(&answers, &[204], &[404]);
    client.gc();
    let left: Vec<Stamp> = writers(&client, "f").into_values().collect();
    assert_eq!(left, [0, 2, 3, 4].map(|seq| Stamp::new(1, seq)));
    assert_eq!(client.usage().retained, 600_000);
    client.restore_revision("f", numbers[1]).expect(404);
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_restored_revision_that_is_too_large_changes_nothing() {
    let server = Server::start();
    let root = server.client();
    let client = root.project("edge", &serde_json::json!({"limits": {"live": 1000}}));
    client.put("f", &[1; 900]).expect(201);
    client.put("f", &[2; 100]).expect(200);
    client.put("g", &[3; 500]).expect(201);
    let before = (client.usage(), client.revisions("f"), client.list(""));
    client.restore_revision("f", 1).expect_problem(507, "quota_exceeded");
    assert_eq!((client.usage(), client.revisions("f"), client.list("")), before);
    client.rm("g").expect(204);
    client.restore_revision("f", 1).expect_any(&[200, 201]);
    assert_eq!(client.get("f").body, [1; 900]);
    assert_eq!(client.usage().live, 900);
    oracle::clean(&root);
}

#[test]
fn rapid_overwrites_keep_every_body_with_its_own_etag() {
    let server = Server::start();
    let client = server.client();
    let mut told = BTreeMap::new();
    // Also the same bytes again and again: each is a revision of its own.
    for seq in 0..60 {
        let stamp = Stamp::new(1, seq / 3);
        let answer = client.put("f", &stamp.body(2000)).expect_any(&[200, 201]);
        let entry = answer.json();
        assert_eq!(text(&entry, "etag").trim_matches('"'), answer.etag());
        told.insert(number(&entry, "revision"), stamp);
    }
    assert_eq!(told.len(), 60);
    assert_eq!(writers(&client, "f"), told);
}
