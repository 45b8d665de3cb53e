//! Downloads: what has begun ends whole, whatever happens to the file meanwhile.

use std::time::Duration;

use larder_e2e::{
    client::{number, text},
    oracle,
    race::{race, timed},
    server::{Options, Server},
    stamp::{Stamp, check_part, identify},
    tool::{self, rounds},
};
use serde_json::json;

const LARGE: usize = 12 << 20;

#[test]
fn a_download_ends_with_the_revision_it_began_with() {
    let server = Server::start();
    let client = server.client();
    client.mkdir("d").expect(201);
    client.put("d/f", &Stamp::new(1, 0).body(LARGE)).expect(201);
    let bodies = race(&client, 13, |number, client| {
        if number == 0 {
            for seq in 1..=10 {
                client.put("d/f", &Stamp::new(1, seq).body(50_000 * seq as usize)).expect(200);
            }
            client.mv("d/f", "d/g", false).expect(201);
            client.mv("d", "e", false).expect(201);
            client.rm("e").expect(204);
            return None;
        }
        let (head, mut body) = client.open("d/f", &[]);
        if head.status == 404 {
            return None;
        }
        assert_eq!(head.status, 200, "{head}");
        let length = body.left();
        let bytes = body.read_slowly(20, Duration::from_millis(20)).expect("it ends whole");
        let stamp = identify(&bytes).expect("bytes of one revision");
        assert_eq!(length, bytes.len() as u64);
        Some((stamp, head.etag().to_owned()))
    });
    let bodies: Vec<_> = bodies.into_iter().flatten().collect();
    for (stamp, etag) in &bodies {
        for (other, other_etag) in &bodies {
            assert_eq!(stamp == other, etag == other_etag, "an etag stands for one content");
        }
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn purge_and_collection_wait_for_readers_and_then_give_the_room_back() {
    let server = Options::default().env("LARDER_COLLECT__INTERVAL", "100ms").start();
    let client = server.client();
    let stamp = Stamp::new(4, 2);
    client.put("f", &stamp.body(LARGE)).expect(201);
    let mut open: Vec<_> = (0..8).map(|_| client.open("f", &[])).collect();
    for (_, body) in &mut open {
        let part = body.read(10_000).unwrap();
        check_part(stamp, LARGE as u64, 0, &part).unwrap();
    }
    client.rm("f").expect(204);
    client.get("f").expect(404);
    client.empty_trash().expect(204);
    for _ in 0..3 {
        client.gc();
    }
    assert_eq!(client.usage().retained, 0, "the room is the user's again");
    for (head, mut body) in open {
        assert_eq!(head.status, 200);
        let rest = body.read_slowly(10, Duration::from_millis(5)).expect("it ends whole");
        check_part(stamp, LARGE as u64, 10_000, &rest).unwrap();
        assert_eq!(rest.len(), LARGE - 10_000);
    }
    // After the last reader one more collection gives the bytes back.
    let collected = || {
        client.gc();
        oracle::chunk_files(&server).is_empty()
    };
    assert!(tool::wait_until(Duration::from_secs(20), collected), "bytes stay without readers");
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_space_that_keeps_no_revisions_still_ends_downloads() {
    let server = Server::start();
    let root = server.client();
    let policy = json!({"policy": {"versions": {"keep": 0}}});
    let client = root.project("none-kept", &policy);
    let stamp = |seq| Stamp::new(1, seq);
    client.put("f", &stamp(0).body(LARGE)).expect(201);
    for seq in 1..=rounds(4) as u32 {
        let (_, mut body) = client.open("f", &[]);
        let first = body.read(1000).unwrap();
        client.put("f", &stamp(seq).body(LARGE)).expect(200);
        root.gc();
        let rest = body.read(LARGE).expect("it ends whole");
        assert_eq!(identify(&[first, rest].concat()), Ok(stamp(seq - 1)));
        assert_eq!(client.revisions("f").len(), 1, "older ones are not kept");
    }
    assert_eq!(client.usage().retained, 0);
    oracle::all_is_well(&server, &root);
}

#[test]
fn heads_and_bodies_agree_during_overwrites() {
    let server = Server::start();
    let client = server.client();
    let size = |seq: u32| 300 + 1000 * seq as usize;
    client.put("f", &Stamp::new(1, 0).body(size(0))).expect(201);
    let overwrites = 4 * rounds(10) as u32;
    let seen = race(&client, 8, |number, client| {
        let mut seen = Vec::new();
        for seq in 1..=overwrites {
            if number == 0 {
                client.put("f", &Stamp::new(1, seq).body(size(seq))).expect(200);
                continue;
            }
            let answer = client.get("f").expect(200);
            let stamp = identify(&answer.body).expect("bytes of one revision");
            assert_eq!(answer.body.len(), size(stamp.seq));
            seen.push((answer.etag().to_owned(), stamp.seq));
            let head = client.head("f").expect(200);
            let length: usize = head.must_header("content-length").parse().unwrap();
            assert_eq!((length - 300) % 1000, 0);
            seen.push((head.etag().to_owned(), ((length - 300) / 1000) as u32));
        }
        seen
    });
    let mut seen = seen.concat();
    seen.sort();
    seen.dedup();
    for pair in seen.windows(2) {
        assert!(pair[0].0 != pair[1].0, "an etag for two contents: {pair:?}");
    }
}

#[test]
fn a_range_of_another_revision_is_not_served() {
    let server = Server::start();
    let client = server.client();
    let (old, new) = (Stamp::new(1, 1), Stamp::new(1, 2));
    client.put("f", &old.body(500_000)).expect(201);
    let etag = client.head("f").must_header("etag").to_owned();
    let first = client.get_with("f", &[("Range", "bytes=0-99999")]).expect(206);
    check_part(old, 500_000, 0, &first.body).unwrap();
    client.put("f", &new.body(400_000)).expect(200);
    // Resume with the old etag: all of the new one, or nothing, never a mix.
    let resume = [("Range", "bytes=100000-"), ("If-Range", etag.as_str())];
    let whole = client.get_with("f", &resume).expect(200);
    assert_eq!(identify(&whole.body), Ok(new));
    client.get_with("f", &[("Range", "bytes=100000-"), ("If-Match", &etag)]).expect(412);
    let now = client.head("f").must_header("etag").to_owned();
    let resume = [("Range", "bytes=100000-"), ("If-Range", now.as_str())];
    let part = client.get_with("f", &resume).expect(206);
    check_part(new, 400_000, 100_000, &part.body).unwrap();
}

#[test]
fn many_slow_readers_do_not_delay_writers() {
    let server = Server::start();
    let client = server.client();
    client.put("f", &Stamp::new(1, 0).body(LARGE)).expect(201);
    let readers: Vec<_> = (0..100).map(|_| client.open("f", &[])).collect();
    let (_, took) = timed(|| {
        client.put("f", b"new").expect(200);
        client.mv("f", "g", false).expect(201);
        client.rm("g").expect(204);
    });
    assert!(took < Duration::from_secs(3), "with 100 open downloads: {took:?}");
    for (head, mut body) in readers.into_iter().step_by(25) {
        assert_eq!(head.must_header("content-length"), LARGE.to_string());
        assert_eq!(identify(&body.read(LARGE).unwrap()), Ok(Stamp::new(1, 0)));
    }
}

#[test]
fn an_upload_can_be_read_at_once_in_every_way() {
    let server = Server::start();
    let client = server.client();
    race(&client, 8, |writer, client| {
        for seq in 0..rounds(15) as u32 {
            let path = format!("f{writer}-{seq}");
            let stamp = Stamp::new(writer as u32, seq);
            let len = if seq % 5 == 0 { 200_000 } else { 500 };
            let made = client.put(&path, &stamp.body(len)).expect(201);
            let reader = client.another();
            assert_eq!(identify(&reader.get(&path).expect(200).body), Ok(stamp));
            let entry = reader.must_stat(&path);
            assert_eq!(number(&entry, "size"), len as u64);
            assert_eq!(reader.head(&path).expect(200).etag(), made.etag());
            let by_id = format!("/v1/files/{}", text(&entry, "id"));
            assert_eq!(identify(&reader.send("GET", &by_id, &[], None).body), Ok(stamp));
            assert!(reader.list("").iter().any(|entry| entry["name"] == *path));
        }
    });
}
