//! Upload sessions under everything that goes wrong: the hazards R01 to R15 of `docs/hazards.md`,
//! each by its number, and many uploads at once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use larder_e2e::{
    client::{Client, Response},
    oracle,
    proxy::Proxy,
    race::{race, tally},
    server::{Options, Server},
    stamp::{self, Stamp},
    tool::{self, Dice, knob, rounds},
    tus::{self, Upload, offset_of},
};
use serde_json::json;

/// A server whose sessions end after `ttl` without a byte, and are looked for often.
fn with_ttl(ttl: &str) -> Options {
    Options::default()
        .env("LARDER_UPLOAD__SESSION_TTL", ttl)
        .env("LARDER_UPLOAD__SWEEP_INTERVAL", "100ms")
}

/// A partial upload that has all of `body`.
#[track_caller]
fn part_of(client: &Client, body: &[u8]) -> Upload {
    let length = body.len().to_string();
    let headers = [("Upload-Concat", "partial"), ("Upload-Length", &*length)];
    let part = Upload::of(client, &tus::begin(client, "", &headers).expect(201));
    part.patch(0, body).expect(204);
    part
}

fn concat(client: &Client, path: &str, urls: &[&str]) -> Response {
    let said = format!("final;{}", urls.join(" "));
    tus::begin(client, &format!("path={path}"), &[("Upload-Concat", &said)])
}

#[test]
fn r01_a_second_piece_at_one_offset_cuts_the_first_off() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(1, 1).body(2 << 20);
    let upload = Upload::new(&client, "f", body.len() as u64);
    // The first stands still half way, as over a connection that nobody knows to be dead.
    let mut stuck = upload.patch_part(0, body.len() as u64, &body[..700_000]);
    thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    let second = upload.another();
    let answer = second.patch(0, &body);
    assert!(started.elapsed() < Duration::from_secs(20), "it waited {:?}", started.elapsed());
    // Its offset is only right if nothing of the first had come.
    let offset = match answer.status {
        204 => offset_of(&answer),
        409 => offset_of(&answer),
        _ => panic!("{answer}"),
    };
    assert!(offset > 0, "what came of the first counts");
    assert_eq!(second.offset(), offset);
    stuck.send(&body[700_000..800_000]).ok();
    let late = stuck.response("PATCH");
    assert_ne!(late.status, 204, "the first is over: {late}");
    let answer = second.send(&body, 500_000);
    assert_eq!(answer.must_header("larder-revision"), "1");
    assert_eq!(stamp::identify(&client.get("f").expect(200).body), Ok(Stamp::new(1, 1)));
    oracle::all_is_well(&server, &client);
}

#[test]
fn r01_whoever_was_cut_off_cuts_nobody_off() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(3) as u32 {
        let (stamp, path) = (Stamp::new(1, round), format!("f{round}"));
        let body = stamp.body(1 << 20);
        let upload = Upload::new(&client, &path, body.len() as u64);
        let at = 100_000 * round as usize;
        if at > 0 {
            upload.patch(0, &body[..at]).expect(204);
        }
        let rest = (body.len() - at) as u64;
        // Nothing has come of the first: the second is at the right offset, and takes its time.
        let mut first = upload.patch_part(at as u64, rest, b"");
        let mut second = upload.another().patch_part(at as u64, rest, &body[at..500_000]);
        first.socket().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(first.response("PATCH").status, 409);
        second.send(&body[500_000..]).ok();
        second.response("PATCH").expect(204);
        assert_eq!(stamp::identify(&client.get(&path).expect(200).body), Ok(stamp));
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn r02_an_offset_that_was_told_is_taken_and_no_late_byte_moves_it() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(5) as u32 {
        let body = Stamp::new(2, round).body(1 << 20);
        let path = format!("f{round}");
        let upload = Upload::new(&client, &path, body.len() as u64);
        let mut zombie = upload.patch_part(0, body.len() as u64, &body[..200_000]);
        thread::sleep(Duration::from_millis(10 * u64::from(round)));
        let offset = upload.offset();
        // It goes on writing after the offset was handed out.
        zombie.send(&[0xee; 100_000]).ok();
        assert_eq!(upload.offset(), offset);
        zombie.send(&[0xee; 100_000]).ok();
        let answer = upload.another().patch(offset, &body[offset as usize..]).expect(204);
        assert_eq!(offset_of(&answer), body.len() as u64);
        assert_eq!(stamp::identify(&client.get(&path).expect(200).body), Ok(Stamp::new(2, round)));
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn r03_no_kill_takes_back_an_offset() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    let mut dice = Dice::new(Dice::seed());
    let size = 12 << 20;
    for round in 0..knob("LARDER_E2E_KILLS", 15).div_ceil(5) as u32 {
        let body = Stamp::new(3, round).body(size);
        let path = format!("f{round}");
        let upload = Upload::new(&server.client(), &path, size as u64);
        let (url, told) = (upload.url.clone(), AtomicU64::new(0));
        while told.load(Ordering::Relaxed) < size as u64 {
            let client = server.client();
            let after = Duration::from_millis(20 + dice.below(250));
            thread::scope(|scope| {
                let (url, told, body) = (&url, &told, &body);
                scope.spawn(move || {
                    let upload = Upload::at(&client, url);
                    let pieces = [7, 40_000, 131_072, 1 << 20, 3 << 20];
                    for turn in 0.. {
                        let head = upload.head();
                        if head.status != 200 {
                            return;
                        }
                        let at = offset_of(&head);
                        assert!(at >= told.load(Ordering::Relaxed), "{at} after {told:?}");
                        told.fetch_max(at, Ordering::Relaxed);
                        let end = (at as usize + pieces[turn % pieces.len()]).min(size);
                        let answer = upload.patch(at, &body[at as usize..end]);
                        if answer.status != 204 {
                            return;
                        }
                        assert_eq!(offset_of(&answer), end as u64);
                        told.fetch_max(end as u64, Ordering::Relaxed);
                        if end == size {
                            return;
                        }
                    }
                });
                thread::sleep(after);
                server.kill9();
            });
            server.restart();
            let client = server.client();
            let now = Upload::at(&client, &url).offset();
            let before = told.fetch_max(now, Ordering::Relaxed);
            assert!(now >= before, "{now} is less than {before}, which was told");
        }
        let client = server.client();
        assert_eq!(stamp::identify(&client.get(&path).expect(200).body), Ok(Stamp::new(3, round)));
        assert_eq!(client.revisions(&path).len(), 1);
    }
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn r04_a_last_byte_at_the_moment_of_expiry_completes_or_leaves_nothing() {
    let _alone = tool::heavy();
    let server = with_ttl("2s").start();
    let client = server.client();
    let count = knob("LARDER_E2E_SESSIONS", 200) as usize;
    let (mut dice, body) = (Dice::new(Dice::seed()), Stamp::new(4, 1).body(20_000));
    let uploads: Vec<(Upload, u64)> = (0..count)
        .map(|number| {
            let upload = Upload::new(&client, &format!("f{number}"), body.len() as u64);
            let head = upload.patch(0, &body[..19_999]).expect(204);
            assert!(head.header("upload-expires").is_some());
            (upload, 700 + dice.below(800))
        })
        .collect();
    // Each is completed around the end of its life, as the listing tells it, and around the sweep
    // that comes next.
    let ends: std::collections::BTreeMap<String, u64> = client
        .pages("/v1/uploads")
        .iter()
        .map(|upload| {
            let id = upload["id"].as_str().unwrap().to_owned();
            (id, millis(upload["expires"].as_str().unwrap()))
        })
        .collect();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let threads: Vec<_> = uploads
            .chunks(count.div_ceil(16))
            .map(|some| {
                let (ends, body) = (&ends, &body);
                let mut some: Vec<(Upload, u64)> =
                    some.iter().map(|(upload, at)| (upload.another(), *at)).collect();
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    for (upload, jitter) in some.drain(..) {
                        let id = upload.url.rsplit('/').next().unwrap();
                        let due = ends.get(id).copied().unwrap_or(0) + jitter;
                        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                        let wait = (due.saturating_sub(50)).saturating_sub(now.as_millis() as u64);
                        thread::sleep(Duration::from_millis(wait));
                        statuses.push(upload.patch(19_999, &body[19_999..]).status);
                    }
                    statuses
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let swept = || client.pages("/v1/uploads").is_empty() && client.usage().reserved == 0;
    assert!(tool::wait_until(Duration::from_secs(10), swept), "{:?}", client.usage());
    client.gc();
    for (number, status) in statuses.iter().enumerate() {
        let got = client.get(&format!("f{number}"));
        match status {
            204 => assert!(got.expect(200).body == body, "f{number}"),
            404 | 410 => assert_eq!(got.status, 404, "f{number}"),
            _ => panic!("f{number}: {status}"),
        }
    }
    let won = statuses.iter().filter(|status| **status == 204).count();
    tool::say(format_args!("r04: {won} of {count} were completed in time"));
    oracle::all_is_well(&server, &client);
}

/// The milliseconds since 1970 of an RFC 3339 time in UTC.
#[track_caller]
fn millis(text: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days from civil, Howard Hinnant.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    let fraction = text[19..].trim_start_matches('.').trim_end_matches('Z');
    let fraction = format!("{fraction:0<3}");
    (seconds * 1000 + fraction[..3].parse::<i64>().unwrap()) as u64
}

#[test]
fn r04_an_upload_that_moves_outlives_its_time() {
    let server = with_ttl("1500ms").start();
    let client = server.client();
    let body = Stamp::new(4, 2).body(400_000);
    // Slower than its life in one request, and in several.
    let one = Upload::new(&client, "one", body.len() as u64);
    let many = Upload::new(&client, "many", body.len() as u64);
    let still = Upload::new(&client, "still", 100);
    still.patch(0, &[1; 50]).expect(204);
    let mut conn = one.patch_part(0, body.len() as u64, &body[..1]);
    let mut at = 1;
    for step in 0..10 {
        thread::sleep(Duration::from_millis(400));
        let end = (at + 40_000).min(body.len());
        conn.send(&body[at..end]).unwrap();
        at = end;
        let from = step * 40_000;
        many.patch(from as u64, &body[from..from + 40_000]).expect(204);
    }
    conn.send(&body[at..]).ok();
    let answer = conn.response("PATCH").expect(204);
    assert_eq!(answer.must_header("upload-complete"), "?1");
    still.head().expect_any(&[404, 410]);
    let client = server.client();
    assert!(client.get("one").expect(200).body == body);
    assert!(client.get("many").expect(200).body == body);
    let freed = || client.usage().reserved == 0;
    assert!(tool::wait_until(Duration::from_secs(5), freed));
    oracle::all_is_well(&server, &client);
}

#[test]
fn r05_a_lost_last_answer_is_asked_for_again() {
    let server = Server::start();
    let direct = server.client();
    let proxy = Proxy::start(server.addr());
    let client = direct.by_way_of(proxy.addr());
    let body = Stamp::new(5, 1).body(300_000);
    let upload = Upload::new(&client, "f", body.len() as u64);
    proxy.swallow_answers(true);
    let lost = upload.patch(0, &body);
    assert!(lost.lost.is_some(), "{lost}");
    proxy.swallow_answers(false);
    let done = || direct.stat("f").status == 200;
    assert!(tool::wait_until(Duration::from_secs(5), done), "the server went on");
    let head = upload.head().expect(200);
    assert_eq!(offset_of(&head), body.len() as u64);
    assert_eq!(head.must_header("upload-complete"), "?1");
    let id = head.must_header("larder-file-id").to_owned();
    assert_eq!(id, direct.must_stat("f")["id"]);
    // The same again: refused with what it became, never done twice.
    let again = upload.patch(0, &body).expect(409);
    assert_eq!(offset_of(&again), body.len() as u64);
    assert_eq!(again.must_header("larder-file-id"), id);
    let end = upload.patch(body.len() as u64, b"").expect(204);
    assert_eq!(end.must_header("larder-file-id"), id);
    let complete = upload.complete(&json!({})).expect_any(&[200, 201]).json();
    assert_eq!(complete["id"], id.as_str());
    assert_eq!(direct.revisions("f").len(), 1);
    oracle::all_is_well(&server, &direct);
}

#[test]
fn r06_ending_a_complete_upload_leaves_the_file() {
    let server = Server::start();
    let client = server.client();
    let upload = Upload::new(&client, "f", 200_000);
    upload.patch(0, &[7; 200_000]).expect(204);
    upload.delete().expect_any(&[204, 410]);
    upload.delete().expect_any(&[204, 404, 410]);
    client.gc();
    assert_eq!(client.get("f").expect(200).body, [7; 200_000]);
    oracle::all_is_well(&server, &client);
}

#[test]
fn r07_two_completions_are_one() {
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(8) as u32 {
        let (body, path) = (Stamp::new(7, round).body(150_000), format!("f{round}"));
        let upload = Upload::new(&client, &path, body.len() as u64);
        upload.patch(0, &body[..100_000]).expect(204);
        let url = upload.url.as_str();
        let answers = race(&client, 4, |number, client| {
            let upload = Upload::at(client, url);
            match number {
                0..2 => upload.patch(100_000, &body[100_000..]),
                2 => upload.complete(&json!({})),
                _ => upload.head(),
            }
        });
        let ids: Vec<&str> =
            answers.iter().filter_map(|answer| answer.header("larder-file-id")).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
        let head = upload.head().expect(200);
        if head.header("upload-complete").is_none() {
            // Both pieces were cut off by the others: whoever goes on is the one.
            upload.send(&body, 100_000);
        }
        assert_eq!(stamp::identify(&client.get(&path).expect(200).body), Ok(Stamp::new(7, round)));
        assert_eq!(client.revisions(&path).len(), 1, "{}", tally(&answers));
        // And of parts.
        let (a, b) = (part_of(&client, &body[..70_000]), part_of(&client, &body[70_000..]));
        let path = format!("g{round}");
        let urls = [a.url.as_str(), &b.url];
        let answers = race(&client, 4, |_, client| concat(client, &path, &urls));
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(made, 1, "{}", tally(&answers));
        assert_eq!(client.revisions(&path).len(), 1);
        assert_eq!(stamp::identify(&client.get(&path).expect(200).body), Ok(Stamp::new(7, round)));
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn r08_an_offset_is_the_same_to_every_process_that_is_asked() {
    let mut server = Server::start();
    let body = Stamp::new(8, 1).body(900_000);
    let upload = Upload::new(&server.client(), "f", body.len() as u64);
    // Another process for every piece: nothing is known but what is stored.
    for (turn, start) in (0..body.len()).step_by(150_000).enumerate() {
        if turn % 2 == 0 {
            server.kill9();
        } else {
            server.stop();
        }
        server.restart();
        let upload = upload.through(server.client());
        assert_eq!(upload.offset(), start as u64);
        upload.patch(start as u64, &body[start..start + 150_000]).expect(204);
    }
    let client = server.client();
    assert_eq!(stamp::identify(&client.get("f").expect(200).body), Ok(Stamp::new(8, 1)));
    oracle::all_is_well(&server, &client);
}

#[test]
fn r11_abandoned_uploads_hold_no_more_than_the_quota_and_not_for_ever() {
    let _alone = tool::heavy();
    let server = with_ttl("3s").env("LARDER_UPLOAD__SESSIONS_PER_USER_MAX", "300").start();
    let root = server.client();
    let client = root.project("ten-gib", &json!({"limits": {"live": 10_u64 << 30}}));
    let query = "space=ten-gib&path=";
    let answers = race(&client, 16, |number, client| {
        let begin = |at: usize| {
            let path = format!("{query}f{number}-{at}");
            tus::begin(client, &path, &[("Upload-Length", "1073741824")])
        };
        (0..20).map(begin).collect::<Vec<_>>()
    });
    let answers: Vec<Response> = answers.into_iter().flatten().collect();
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 10, "{}", tally(&answers));
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status, answer.code().as_str()), (507, "quota_exceeded"), "{answer}");
    }
    assert_eq!(client.usage().reserved, 10 << 30);
    client.put("one more", b"x").expect_problem(507, "quota_exceeded");
    // Those of one user are counted too, wherever they go.
    let many = knob("LARDER_E2E_SESSIONS", 200) as usize + 200;
    let answers: Vec<Response> = (0..many)
        .map(|number| tus::begin(&root, &format!("path=g{number}"), &[("Upload-Length", "9")]))
        .collect();
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 290, "{}", tally(&answers));
    let refused = answers.iter().find(|answer| answer.status != 201).expect("some are refused");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"), "{refused}");
    let url = client.pages("/v1/uploads")[0]["id"].as_str().unwrap().to_owned();
    let upload = Upload { client: client.another(), url: format!("/v1/uploads/{url}") };
    upload.patch(0, b"abc").expect(204);
    let freed = || client.usage().reserved == 0 && root.pages("/v1/uploads").is_empty();
    assert!(tool::wait_until(Duration::from_secs(20), freed), "{:?}", client.usage());
    upload.head().expect_any(&[404, 410]);
    client.put("now", b"x").expect(201);
    tus::begin(&root, "path=again", &[("Upload-Length", "9")]).expect(201);
    let swept = || root.pages("/v1/uploads").is_empty();
    assert!(tool::wait_until(Duration::from_secs(10), swept));
    oracle::all_is_well(&server, &root);
}

#[test]
fn r12_who_may_no_more_stores_no_more() {
    let server = with_ttl("3s").start();
    let root = server.client();
    let ann = root.make_user("ann");
    let body = Stamp::new(12, 1).body(400_000);
    let upload = Upload::new(&ann, "f", body.len() as u64);
    upload.patch(0, &body[..100_000]).expect(204);
    let key = ann.json("POST", "/v1/users/me/keys", &json!({"name": "k"})).expect(201).json();
    let by_key = Client::with_key(server.addr(), key["key"].as_str().unwrap());
    // One that runs while the right is taken ends soon, without the rest of its body.
    let mut conn =
        upload.through(by_key.another()).patch_part(100_000, 300_000, &body[100_000..150_000]);
    let url = format!("/v1/users/me/keys/{}", key["id"].as_str().unwrap());
    ann.send("DELETE", &url, &[], None).expect(204);
    upload.through(by_key).patch(150_000, b"x").expect(401);
    let mut sent = 150_000;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && sent + 1000 < body.len() {
        if conn.send(&body[sent..sent + 1000]).is_err() {
            break;
        }
        sent += 1000;
        thread::sleep(Duration::from_millis(50));
    }
    let answer = conn.response("PATCH");
    assert_ne!(answer.status, 204, "{answer}");
    root.json("PATCH", "/v1/users/ann", &json!({"disabled": true})).expect(200);
    let offset = upload.patch(100_000, &body[100_000..]);
    offset.expect(401);
    ann.stat("f").expect(401);
    root.json("PATCH", "/v1/users/ann", &json!({"disabled": false})).expect(200);
    assert_eq!(ann.stat("f").status, 404, "nothing became a file meanwhile");
    let freed = || ann.usage().reserved == 0 && ann.pages("/v1/uploads").is_empty();
    assert!(tool::wait_until(Duration::from_secs(15), freed), "{:?}", ann.usage());
    oracle::collected(&server, &root);
}

#[test]
fn r13_an_upload_goes_where_its_directory_goes() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(13, 1).body(300_000);
    for dir in ["moved", "trashed", "purged", "restored"] {
        client.mkdir(dir).expect(201);
    }
    let into = |dir: &str| {
        let upload = Upload::new(&client, &format!("{dir}/f"), body.len() as u64);
        upload.patch(0, &body[..200_000]).expect(204);
        upload
    };
    let (moved, trashed, purged, restored) =
        (into("moved"), into("trashed"), into("purged"), into("restored"));
    client.mkdir("far").expect(201);
    client.mv("moved", "far/away", false).expect(201);
    moved.patch(200_000, &body[200_000..]).expect(204);
    assert!(client.get("far/away/f").expect(200).body == body);
    client.stat("moved").expect(404);

    let id = |path: &str| client.must_stat(path)["id"].as_str().unwrap().to_owned();
    let ids = [id("trashed"), id("purged"), id("restored")];
    for dir in ["trashed", "purged", "restored"] {
        client.rm(dir).expect(204);
    }
    // A new directory of the old name is another one.
    client.mkdir("trashed").expect(201);
    let refused = trashed.patch(200_000, &body[200_000..]).expect(409);
    assert_eq!(offset_of(&refused), 300_000, "its bytes are kept");
    client.stat("trashed/f").expect(404);
    client.purge(&client.trash_item(&ids[1]).unwrap()).expect(204);
    purged.patch(200_000, &body[200_000..]).expect_any(&[404, 409]);
    restored.patch(200_000, &body[200_000..]).expect(409);
    // What was refused can be completed again, or elsewhere.
    client.restore(&client.trash_item(&ids[2]).unwrap(), &json!({})).expect(200);
    restored.complete(&json!({})).expect(201);
    assert!(client.get("restored/f").expect(200).body == body);
    trashed.complete(&json!({"path": "trashed/g"})).expect(201);
    assert!(client.get("trashed/g").expect(200).body == body);
    purged.delete().expect_any(&[204, 410]);
    // And a space that goes takes its uploads with it.
    let project = client.project("gone-soon", &json!({}));
    let late = Upload::new(&project, "f", 300_000);
    late.patch(0, &body[..200_000]).expect(204);
    client.send("DELETE", "/v1/spaces/gone-soon", &[], None).expect(204);
    late.patch(200_000, &body[200_000..]).expect_any(&[404, 409, 410]);
    client.gc();
    oracle::all_is_well(&server, &client);
}

#[test]
fn r14_a_dead_server_owns_no_upload() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    for round in 0..3_u32 {
        let (body, path) = (Stamp::new(14, round).body(6 << 20), format!("f{round}"));
        let upload = Upload::new(&server.client(), &path, body.len() as u64);
        upload.patch(0, &body[..1 << 20]).expect(204);
        // It dies in the middle of a piece, and the next one goes on at once.
        let mut conn = upload.patch_part(1 << 20, 5 << 20, &body[1 << 20..3 << 20]);
        server.kill9();
        assert!(conn.response("PATCH").lost.is_some());
        server.restart();
        let upload = upload.through(server.client());
        let started = Instant::now();
        let offset = upload.offset();
        assert!(offset >= 1 << 20, "{offset}");
        upload.patch(offset, &body[offset as usize..]).expect(204);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let got = server.client().get(&path).expect(200).body;
        assert_eq!(stamp::identify(&got), Ok(Stamp::new(14, round)));
    }
    oracle::all_is_well(&server, &server.client());
}

#[test]
fn r15_parts_are_whole_once_and_their_owners() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(15, 1).body(400_000);
    let (a, b) = (part_of(&client, &body[..250_000]), part_of(&client, &body[250_000..]));
    let headers = [("Upload-Concat", "partial"), ("Upload-Length", "10")];
    let unfinished = Upload::of(&client, &tus::begin(&client, "", &headers).expect(201));
    unfinished.patch(0, b"12345").expect(204);
    concat(&client, "f", &[&a.url, &unfinished.url]).expect(409);
    let ann = client.make_user("ann");
    concat(&ann, "f", &[&a.url]).expect(404);
    let ordinary = Upload::new(&client, "o", 3);
    concat(&client, "f", &[&a.url, &ordinary.url]).expect_any(&[400, 409]);
    client.stat("f").expect(404);
    // Deleted while it is put together: all or nothing.
    for round in 0..rounds(6) {
        let (x, y) = (part_of(&client, &body[..250_000]), part_of(&client, &body[250_000..]));
        let path = format!("race{round}");
        let urls = [x.url.as_str(), &y.url];
        let answers = race(&client, 2, |number, client| match number {
            0 => concat(client, &path, &urls),
            _ => Upload::at(client, urls[1]).delete(),
        });
        match answers[0].status {
            201 => assert!(client.get(&path).expect(200).body == body, "round {round}"),
            404 | 409 | 410 => assert_eq!(client.stat(&path).status, 404, "round {round}"),
            _ => panic!("{}", answers[0]),
        }
        x.delete();
        y.delete();
    }
    concat(&client, "f", &[&a.url, &b.url]).expect(201);
    assert!(client.get("f").expect(200).body == body);
    concat(&client, "g", &[&a.url, &b.url]).expect_any(&[404, 409, 410]);
    concat(&client, "g", &[&b.url]).expect_any(&[404, 409, 410]);
    a.delete().expect_any(&[204, 404, 410]);
    client.gc();
    assert!(client.get("f").expect(200).body == body, "the parts' bytes are the file's");
    unfinished.delete().expect(204);
    ordinary.delete().expect(204);
    // Many, and small.
    let parts: Vec<Upload> = body.chunks(10_000).map(|piece| part_of(&client, piece)).collect();
    concat(&client, "many", &parts.iter().map(|part| &*part.url).collect::<Vec<_>>()).expect(201);
    assert!(client.get("many").expect(200).body == body);
    oracle::all_is_well(&server, &client);
}

#[test]
fn twenty_uploads_to_one_path_are_twenty_revisions() {
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(3) as u32 {
        let path = format!("f{round}");
        let answers = race(&client, 20, |number, client| {
            let body = Stamp::new(round, number as u32).body(3000 + 60_000 * (number % 5));
            if number % 2 == 0 {
                return client.put(&path, &body);
            }
            let upload = Upload::new(client, &path, body.len() as u64);
            let half = body.len() / 2;
            upload.patch(0, &body[..half]).expect(204);
            upload.patch(half as u64, &body[half..])
        });
        for answer in &answers {
            assert!([200, 201, 204].contains(&answer.status), "{answer}");
        }
        let revisions = client.revisions(&path);
        assert_eq!(revisions.len(), 20, "{revisions:?}");
        let mut seen = std::collections::BTreeSet::new();
        for (place, revision) in revisions.iter().enumerate() {
            let number = revision["revision"].as_u64().unwrap();
            assert_eq!(number, 20 - place as u64, "numbered in the order of commits");
            let body = client.get_revision(&path, number).expect(200).body;
            seen.insert(stamp::identify(&body).unwrap());
        }
        assert_eq!(seen.len(), 20, "every body is kept");
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn a_directory_deleted_under_uploads_has_them_or_they_were_refused() {
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    for round in 0..rounds(3) as u32 {
        let dir = format!("d{round}");
        client.mkdir(&dir).expect(201);
        let id = client.must_stat(&dir)["id"].as_str().unwrap().to_owned();
        let body = |number: usize| Stamp::new(round, number as u32).body(90_000);
        let answers = race(&client, 51, |number, client| {
            if number == 50 {
                thread::sleep(Duration::from_millis(15));
                return client.rm(&dir);
            }
            let path = format!("{dir}/f{number}");
            if number % 2 == 0 {
                return client.put(&path, &body(number));
            }
            let length = [("Upload-Length", "90000")];
            let begun = tus::begin(client, &format!("path={}", path.replace('/', "%2F")), &length);
            if begun.status != 201 {
                return begun;
            }
            Upload::of(client, &begun).patch(0, &body(number))
        });
        assert_eq!(answers[50].status, 204, "{}", answers[50]);
        let item = client.trash_item(&id).expect("it is in the trash");
        client.restore(&item, &json!({})).expect(200);
        for (number, answer) in answers[..50].iter().enumerate() {
            let there = client.get(&format!("{dir}/f{number}"));
            match answer.status {
                201 | 204 => assert!(there.expect(200).body == body(number), "f{number}"),
                404 | 409 => assert_eq!(there.status, 404, "f{number}"),
                _ => panic!("f{number}: {answer}"),
            }
        }
    }
    for upload in client.pages("/v1/uploads") {
        let url = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
        Upload { client: client.another(), url }.delete().expect(204);
    }
    oracle::all_is_well(&server, &client);
}

#[test]
fn the_quota_is_exact_whichever_way_the_bytes_come() {
    let _alone = tool::heavy();
    let server = Server::start();
    let root = server.client();
    let piece = 100_000;
    for round in 0..rounds(3) {
        let name = format!("quota-{round}");
        let client = root.project(&name, &json!({"limits": {"live": 10 * piece}}));
        let answers = race(&client, 40, |number, client| {
            let body = vec![number as u8; piece as usize];
            let path = format!("f{number}");
            if number % 2 == 0 {
                return client.put(&path, &body);
            }
            let length = match number % 4 {
                1 => ("Upload-Length", "100000"),
                _ => ("Upload-Defer-Length", "1"),
            };
            let begun = tus::begin(client, &format!("space={name}&path={path}"), &[length]);
            if begun.status != 201 {
                return begun;
            }
            let upload = Upload::of(client, &begun);
            let half = body.len() / 2;
            let first = upload.patch(0, &body[..half]);
            let later: &[(&str, &str)] =
                if number % 4 == 1 { &[] } else { &[("Upload-Length", "100000")] };
            let answer = match first.status {
                204 => upload.patch_with(half as u64, &body[half..], later),
                _ => first,
            };
            if answer.status != 204 {
                upload.delete().expect(204);
            }
            answer
        });
        let stored = answers.iter().filter(|a| [201, 204].contains(&a.status)).count() as u64;
        for refused in answers.iter().filter(|a| ![201, 204].contains(&a.status)) {
            assert_eq!((refused.status, refused.code().as_str()), (507, "quota_exceeded"));
        }
        let usage = client.usage();
        assert!(stored <= 10 && usage.live == stored * piece, "{stored} {usage:?}");
        // Who did not fit then fits now, to the byte.
        let left = 10 - stored;
        for number in 0..left {
            let upload = Upload::new(&client, &format!("g{number}"), piece);
            upload.patch(0, &vec![1; piece as usize]).expect(204);
        }
        client.put("over", b"x").expect(507);
        oracle::conserved(&client);
    }
    oracle::all_is_well(&server, &root);
}
