//! Races for what is in the trash: restored once, or purged, never half.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Outcome, text},
    oracle,
    race::{one_winner, race, tally},
    server::{Options, Server},
    stamp::{Stamp, identify},
    tool::{self, knob, rounds},
};
use serde_json::json;

/// Puts a file with two revisions and deletes it; its id and its trash item.
fn trashed(client: &Client, path: &str, writer: u32, len: usize) -> (String, String) {
    client.put(path, &Stamp::new(writer, 1).body(len)).expect(201);
    client.put(path, &Stamp::new(writer, 2).body(len + 1)).expect(200);
    let id = text(&client.must_stat(path), "id").to_owned();
    client.rm(path).expect(204);
    let item = client.trash_item(&id).expect("it is in the trash");
    (id, item)
}

#[test]
fn of_many_restores_of_one_item_one_brings_it_back() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(12) {
        let path = format!("f{round}");
        let (id, item) = trashed(&client, &path, round as u32, 200_000);
        let two_places = round % 2 == 1;
        let answers = race(&client, 16, |number, client| {
            let elsewhere = two_places && number % 2 == 1;
            let to = json!({"to": format!("elsewhere{round}")});
            client.restore(&item, &if elsewhere { to } else { json!({}) })
        });
        one_winner(&answers, &[200, 201], &[404, 409]);
        let entries = client.list("");
        let there: Vec<_> = entries.iter().filter(|entry| entry["id"] == *id).collect();
        assert_eq!(there.len(), 1, "the node is there once");
        let place = text(there[0], "path");
        assert_eq!(client.revisions(place).len(), 2, "with its revisions");
        let body = client.get(place).expect(200).body;
        assert_eq!(identify(&body), Ok(Stamp::new(round as u32, 2)));
        assert!(client.trash_item(&id).is_none(), "and no longer in the trash");
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn of_a_purge_and_a_restore_one_wins_wholly() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(20) {
        let path = format!("f{round}");
        let (id, item) = trashed(&client, &path, round as u32, 150_000);
        let everything = round % 4 == 3;
        let answers = race(&client, 2, |number, client| match number {
            0 if everything => client.empty_trash(),
            0 => client.purge(&item),
            _ => client.restore(&item, &json!({})),
        });
        client.gc();
        let restored = [200, 201].contains(&answers[1].status);
        if restored {
            let purged: &[u16] = if everything { &[204] } else { &[404, 409] };
            assert!(purged.contains(&answers[0].status), "{}", tally(&answers));
            for (revision, seq) in [(1, 1), (2, 2)] {
                let body = client.get_revision(&path, revision).expect(200).body;
                assert_eq!(identify(&body), Ok(Stamp::new(round as u32, seq)));
            }
        } else {
            assert_eq!(answers[0].status, 204, "{}", answers[0]);
            assert!([404, 409].contains(&answers[1].status), "{}", answers[1]);
            client.stat(&path).expect(404);
        }
        assert!(client.trash_item(&id).is_none(), "either way it is not in the trash");
        assert_eq!(client.usage().retained, if restored { 150_000 } else { 0 });
        client.rm(&path).expect_any(&[204, 404]);
        client.empty_trash().expect(204);
    }
    client.gc();
    assert_eq!(client.usage().retained, 0);
    oracle::all_is_well(&server, &client);
    assert_eq!(oracle::chunk_files(&server), [""; 0], "no bytes are left");
}

#[test]
fn a_restore_into_a_full_space_changes_nothing() {
    let server = Server::start();
    let root = server.client();
    let client = root.project("full", &json!({"limits": {"live": 1000}}));
    let (_, item) = trashed(&client, "old", 1, 600);
    client.put("new", &[7; 600]).expect(201);
    let before = (client.usage(), client.list(""), client.trash());
    client.restore(&item, &json!({})).expect_problem(507, "quota_exceeded");
    assert_eq!((client.usage(), client.list(""), client.trash()), before, "nothing has changed");
    client.rm("new").expect(204);
    client.restore(&item, &json!({})).expect_any(&[200, 201]);
    oracle::clean(&root);
    oracle::conserved(&client);
}

#[test]
fn files_of_one_name_from_many_folders_all_come_back() {
    let server = Server::start();
    let client = server.client();
    let folders = 100;
    race(&client, 10, |number, client| {
        for folder in (number..folders).step_by(10) {
            client.mkdir(&format!("d{folder}")).expect(201);
            let body = Stamp::new(folder as u32, 0).body(500);
            client.put(&format!("d{folder}/same.txt"), &body).expect(201);
            client.rm(&format!("d{folder}/same.txt")).expect(204);
        }
    });
    let items = client.trash();
    assert_eq!(items.len(), folders);
    let distinct: BTreeSet<&str> = items.iter().map(|item| text(item, "item")).collect();
    assert_eq!(distinct.len(), folders);
    for item in &items {
        client.restore(text(item, "item"), &json!({})).expect_any(&[200, 201]);
    }
    for folder in 0..folders {
        let body = client.get(&format!("d{folder}/same.txt")).expect(200).body;
        assert_eq!(identify(&body), Ok(Stamp::new(folder as u32, 0)));
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_restore_says_why_it_cannot_and_what_would_help() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("p").expect(201);
    let (_, item) = trashed(&client, "p/f", 1, 500);
    // The parent is somewhere else now: the item follows it.
    client.mv("p", "q", false).expect(201);
    client.restore(&item, &json!({})).expect_any(&[200, 201]);
    assert_eq!(client.must_stat("q/f")["size"], 501);
    // The parent is gone: a refusal with a reason, and two ways out.
    client.rm("q/f").expect(204);
    let item = text(&client.trash()[0], "item").to_owned();
    client.rm("q").expect(204);
    let refused = client.restore(&item, &json!({}));
    assert_eq!(refused.status, 409, "{refused}");
    client.restore(&item, &json!({"to": "back"})).expect_any(&[200, 201]);
    assert_eq!(client.must_stat("back")["size"], 501);
    client.mkdir("r").expect(201);
    let (id, item) = trashed(&client, "r/f", 2, 500);
    client.rm("r").expect(204);
    client.restore(&item, &json!({"recreate_parents": true})).expect_any(&[200, 201]);
    assert_eq!(client.must_stat("r/f")["id"], *id);
    // The name is taken: refused, or beside it.
    client.rm("r/f").expect(204);
    client.put("r/f", b"newcomer").expect(201);
    let item = client.trash_item(&id).unwrap();
    client.restore(&item, &json!({})).expect_any(&[409, 412]);
    client.restore(&item, &json!({"rename": true})).expect_any(&[200, 201]);
    assert_eq!(client.must_stat("r/f (2)")["id"], *id);
    assert_eq!(client.get("r/f").expect(200).body, b"newcomer");
    oracle::clean(&client);
}

#[test]
fn trash_that_is_too_old_goes_by_itself() {
    let options = Options::default()
        .env("LARDER_TRASH__RETENTION", "1s")
        .env("LARDER_COLLECT__INTERVAL", "200ms");
    let server = options.start();
    let client = server.client();
    trashed(&client, "f", 1, 300_000);
    let gone = tool::wait_until(Duration::from_secs(20), || client.trash().is_empty());
    assert!(gone, "{:?}", client.trash());
    client.gc();
    assert_eq!(client.usage().retained, 0);
    oracle::all_is_well(&server, &client);
}

/// How long a server lives that purges.
const KILL_AFTER: Duration = Duration::from_millis(200);

#[test]
fn a_purge_of_a_large_tree_ends_through_any_number_of_kills() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    let client = server.client();
    let files = knob("LARDER_E2E_TREE", 2000) as usize;
    race(&client, 8, |number, client| {
        for file in (number..files).step_by(8) {
            let dir = format!("git/{:02x}/{}", file % 64, file % 7);
            let target = format!("{}?parents=true", client.at("files", &format!("{dir}/{file}")));
            let len = if file % 50 == 0 { 140_000 } else { 100 };
            let body = Stamp::new(0, file as u32).body(len);
            client.send("PUT", &target, &[], Some(&body)).expect(201);
        }
    });
    let id = text(&client.must_stat("git"), "id").to_owned();
    client.rm("git").expect(204);
    let item = client.trash_item(&id).unwrap();
    client.purge(&item).expect(204);
    let mut kills = 0;
    loop {
        server.kill9();
        kills += 1;
        server.restart();
        let client = server.client();
        assert!(client.trash().is_empty(), "an acknowledged purge does not come back");
        let ready = Instant::now();
        let purged = || client.usage().retained == 0 || ready.elapsed() > KILL_AFTER;
        tool::wait_until(2 * KILL_AFTER, purged);
        if client.usage().retained == 0 {
            break;
        }
        assert!(kills < 300, "the purge does not get on: {:?}", client.usage());
    }
    let client = server.client();
    oracle::all_is_well(&server, &client);
    let counts = oracle::clean(&client)["counts"].clone();
    assert_eq!((&counts["files"], &counts["blobs"]), (&json!(0), &json!(0)), "{counts}");
    assert_eq!(oracle::chunk_files(&server), [""; 0]);
}

#[test]
fn restore_brings_a_directory_back_as_it_was() {
    let server = Server::start();
    let client = server.client();
    client.mkdir_all("d/e/f").expect(201);
    for (seq, path) in ["d/1", "d/e/2", "d/e/f/3"].iter().enumerate() {
        client.put(path, &Stamp::new(1, seq as u32).body(1000 + seq)).expect(201);
    }
    let before = client.list_all("d");
    let id = text(&client.must_stat("d"), "id").to_owned();
    client.rm("d").expect(204);
    assert_eq!(client.usage().live, 0);
    let file = text(&before.iter().find(|e| e["kind"] == "file").unwrap().clone(), "id").to_owned();
    let by_id = client.send("GET", &format!("/v1/files/{file}"), &[], None);
    assert_eq!(by_id.outcome(), Outcome::Refused, "what is in the trash is not served: {by_id}");
    let item = client.trash_item(&id).unwrap();
    client.restore(&item, &json!({})).expect_any(&[200, 201]);
    assert_eq!(client.list_all("d"), before, "the same nodes, etags, sizes and times");
    assert_eq!(client.usage().live, 3003);
    oracle::clean(&client);
}
