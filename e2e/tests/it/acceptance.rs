//! What users observe when it works, row by row, where no theme has it already; and where the
//! other rows are shown.
//!
//! Times are not judged here, but by the benchmarks. `A` are the rows of files used at once, `B`
//! of sessions and quota, `C` of the tree, `D` of chunks and limits; tests with `core` before
//! their module are those of `crates/core`:
//!
//! * A6, a delete under 50 slow downloads:
//!   `acceptance::downloads_outlive_the_delete_and_the_room_returns_after_the_last_one`,
//!   `downloads::purge_and_collection_wait_for_readers_and_then_give_the_room_back`,
//!   `downloads::a_download_ends_with_the_revision_it_began_with`;
//! * A13, 404, when shared 200, when revoked 404:
//!   `shares::another_s_file_is_404_then_200_when_shared_then_404_when_revoked`,
//!   `shares::a_running_upload_ends_within_seconds_of_the_revocation`,
//!   `attacks_after::what_runs_ends_with_the_right_to_it`;
//! * A14, 100 open downloads hold nobody up:
//!   `work::a_hundred_open_downloads_hold_nobody_up`,
//!   `downloads::many_slow_readers_do_not_delay_writers`;
//! * B3, exact quota by REST and tus at once:
//!   `acceptance::ten_of_fifty_fit_by_rest_and_tus_at_once`,
//!   `s3clients::ten_of_fifty_fit_by_rest_tus_and_s3_at_once`,
//!   `sessions::the_quota_is_exact_whichever_way_the_bytes_come`,
//!   `quota::exactly_as_many_uploads_succeed_as_fit`;
//! * B7, a socket closed half way:
//!   `quota::an_upload_that_is_cut_off_gives_its_room_back`,
//!   `acceptance::a_piece_cut_off_half_way_holds_no_name`,
//!   `sessions::r14_a_dead_server_owns_no_upload`;
//! * B9, who saturates leaves turns to others, and gives way to what is small (how much that
//!   costs, by the two commands of docs/operations.md, Who goes first):
//!   `work::large_uploads_rest_while_small_changes_are_made_and_only_then`,
//!   `acceptance::who_uploads_without_end_holds_up_nobody_s_small_file`,
//!   `quota::a_stalled_upload_does_not_hold_up_its_user`,
//!   `core::work::turns_go_round_by_user_however_many_streams_one_has`,
//!   `core::work::a_user_who_holds_slots_lets_others_have_the_next`;
//! * B10, the urgent first, and the lowest ends:
//!   `work::an_urgent_request_starts_before_all_that_wait_and_the_lowest_still_ends`,
//!   `work::the_lowest_ends_within_its_bound_while_urgent_ones_keep_coming`;
//! * B11, a full queue says when to come again:
//!   `work::a_flood_is_refused_at_once_with_the_time_to_come_again`;
//! * B12, slow clients lose their place:
//!   `slow::slow_clients_are_cut_off_in_the_end_however_they_are_slow`,
//!   `slow::six_hundred_slow_clients_do_not_stop_others`;
//! * B13, 100,000 users:
//!   `core::identity::a_login_reads_as_much_among_a_hundred_thousand_users_as_among_ten`;
//! * B14, a full disk:
//!   `acceptance::a_disk_that_fills_up_under_an_upload_keeps_no_part_of_it`,
//!   `acceptance::on_a_full_disk_sessions_and_shares_are_read_ended_and_expire`,
//!   `diskfull::a_full_disk_refuses_writes_loses_nothing_and_recovers`;
//! * C3, a reference made twice:
//!   `acceptance::references_made_at_once_are_one_and_deleting_it_leaves_the_target`,
//!   `shares::what_is_shared_gets_a_place_among_one_s_own_files`;
//! * C5, a directory deleted under uploads:
//!   `sessions::a_directory_deleted_under_uploads_has_them_or_they_were_refused`,
//!   `races::uploads_into_a_directory_that_is_deleted_are_in_its_trash_or_refused`;
//! * C9, 20 uploads to one path:
//!   `sessions::twenty_uploads_to_one_path_are_twenty_revisions`,
//!   `revisions::uploads_to_one_new_path_are_all_kept_in_commit_order`;
//! * C10, the same bytes at the same time:
//!   `acceptance::the_same_bytes_at_one_time_are_three_revisions`,
//!   `revisions::rapid_overwrites_keep_every_body_with_its_own_etag`;
//! * D2, sizes around every edge, and the limit:
//!   `acceptance::sizes_around_every_edge_come_back_and_the_limit_is_kept_before_the_body`,
//!   `tus::what_is_too_large_is_refused_before_its_bytes`;
//! * D3, a body of unknown length:
//!   `acceptance::curl_sends_what_has_no_length`,
//!   `acceptance::sizes_around_every_edge_come_back_and_the_limit_is_kept_before_the_body`;
//! * D5, a client that dies half way:
//!   `acceptance::a_dead_client_s_upload_goes_on_where_it_was_or_goes_wholly`,
//!   `tusclients::tus_js_client_uploads_in_all_its_ways`,
//!   `resume::a_large_file_gets_through_cuts_and_kills`,
//!   `sessions::r11_abandoned_uploads_hold_no_more_than_the_quota_and_not_for_ever`;
//! * D6, slower than its time to live:
//!   `sessions::r04_an_upload_that_moves_outlives_its_time`;
//! * D17, 401, 429, 403:
//!   `identity::nobody_gets_in_without_credentials_or_with_well_known_ones`,
//!   `attacks::no_way_to_upload_takes_a_wrong_secret`,
//!   `limits::requests_over_a_rate_do_nothing_and_are_told_when_to_come_again`,
//!   `limits::denied_addresses_are_refused_before_anything_is_known_of_them`,
//!   `limits::only_allowed_addresses_get_in`.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use larder_e2e::{
    client::{Client, number, text},
    http::{Conn, Response},
    oracle,
    race::{race, tally, timed},
    server::{Options, PASSWORD, Server, USER},
    stamp::{Stamp, check_part, identify},
    tool::{self, knob, rounds, skip, wait_until},
    tus::{self, PIECE, RESUMABLE, Upload},
};
use serde_json::{Value, json};

use super::{
    diskfull::{Disk, fill},
    load::{stream_down, stream_up},
};

const MIB: u64 = 1 << 20;

/// A figure of `/metrics`.
#[track_caller]
fn metric(client: &Client, name: &str) -> u64 {
    let page = client.send("GET", "/metrics", &[], None).expect(200).body;
    let page = String::from_utf8(page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
}

/// Row A6.
#[test]
fn downloads_outlive_the_delete_and_the_room_returns_after_the_last_one() {
    let _alone = tool::heavy();
    let server = Options::default().env("LARDER_COLLECT__INTERVAL", "1h").start();
    let client = server.client();
    let (stamp, len) = (Stamp::new(6, 1), knob("LARDER_E2E_DOWNLOAD_MIB", 12) * MIB);
    client.put("small", b"stays").expect(201);
    stream_up(&client, "f", stamp, len);
    let open: Vec<_> = (0..50).map(|_| client.open("f", &[])).collect();
    client.rm("f").expect(204);
    client.get("f").expect_problem(404, "not_found");
    client.head("f").expect(404);
    client.empty_trash().expect(204);
    client.gc();
    let expected = &stamp.body(len as usize);
    thread::scope(|scope| {
        for (head, mut body) in open {
            assert_eq!((head.status, body.left()), (200, len), "{head}");
            scope.spawn(move || {
                let mut at = 0;
                while body.left() > 0 {
                    thread::sleep(Duration::from_millis(2));
                    let piece = body.read(256 << 10).expect("it ends whole");
                    assert!(piece == expected[at..at + piece.len()], "other bytes at {at}");
                    at += piece.len();
                }
            });
        }
    });
    // The server has to notice that the last one is gone; then one collection is enough.
    let left = || metric(&client, "larder_http_connections") <= 2;
    assert!(wait_until(Duration::from_secs(10), left), "connections stay");
    client.gc();
    assert_eq!(oracle::chunk_files(&server), [""; 0], "after one collection");
    // Nor does the server hold any of them open, which `df` would show.
    let fds = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let fds = fs::read_dir(fds).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let held: Vec<_> = fds.filter(|to| to.to_string_lossy().contains("/chunks/")).collect();
    assert!(held.iter().all(|to| to.is_dir()), "{held:?}");
    oracle::all_is_well(&server, &client);
}

/// Row B3.
#[test]
fn ten_of_fifty_fit_by_rest_and_tus_at_once() {
    let _alone = tool::heavy();
    let server = Server::start();
    let root = server.client();
    for round in 0..rounds(2) {
        // One that rides in the commit, one with chunks, and one whose last byte is odd.
        for piece in [20_000, knob("LARDER_E2E_QUOTA_BYTES", 300_001)] {
            let name = format!("exact-{round}-{piece}");
            let client = root.project(&name, &json!({"limits": {"live": 10 * piece}}));
            let answers = race(&client, 50, |number, client| {
                let body = vec![number as u8; piece as usize];
                let path = format!("f{number}");
                let length = piece.to_string();
                match number % 3 {
                    0 => client.put(&path, &body),
                    // All of it with the creation.
                    1 => {
                        let target = format!("/v1/uploads?space={name}&path={path}");
                        let headers = [RESUMABLE, PIECE, ("Upload-Length", &*length)];
                        client.send("POST", &target, &headers, Some(&body))
                    }
                    _ => {
                        let query = format!("space={name}&path={path}");
                        let begun = tus::begin(client, &query, &[("Upload-Length", &*length)]);
                        if begun.status != 201 {
                            return begun;
                        }
                        let (upload, half) = (Upload::of(client, &begun), body.len() / 2);
                        upload.patch(0, &body[..half]).expect(204);
                        upload.patch(half as u64, &body[half..])
                    }
                }
            });
            let stored = answers.iter().filter(|a| [201, 204].contains(&a.status)).count();
            assert_eq!(stored, 10, "{}", tally(&answers));
            for refused in answers.iter().filter(|a| ![201, 204].contains(&a.status)) {
                let found = (refused.status, refused.code());
                assert_eq!(found, (507, "quota_exceeded".to_owned()), "{refused}");
            }
            let usage = client.usage();
            assert_eq!((usage.live, client.list("").len()), (10 * piece, 10), "{usage:?}");
            client.put("over", b"x").expect_problem(507, "quota_exceeded");
            oracle::conserved(&client);
        }
    }
    assert!(root.pages("/v1/uploads").is_empty());
    oracle::all_is_well(&server, &root);
}

/// Row B7, for tus: what has come is kept for its owner, and holds nothing but its room.
#[test]
fn a_piece_cut_off_half_way_holds_no_name() {
    let server = Server::start();
    let root = server.client();
    let space = root.project("cut", &json!({"limits": {"live": 2_000_000}}));
    let ann = root.make_user("ann").in_space("cut");
    let grant = json!({"space": "cut", "path": "", "kind": "user", "with": "ann",
                       "role": "editor"});
    root.json("POST", "/v1/shares", &grant).expect(201);
    for round in 0..rounds(4) {
        let body = Stamp::new(7, round as u32).body(900_000);
        let upload = Upload::new(&space, "f", 900_000);
        let conn = upload.patch_part(0, 900_000, &body[..450_000]);
        space.stat("f").expect(404);
        if round % 2 == 0 {
            conn.reset();
        } else {
            drop(conn);
        }
        // Somebody else has the name within a second.
        let stored = || ann.put("f", b"of another").status == 201;
        assert!(wait_until(Duration::from_secs(1), stored), "round {round}");
        assert_eq!(space.usage().reserved, 900_000, "the session keeps its room");
        // The owner goes on, and makes a revision of it, or gives it up: the room is back.
        if round < 2 {
            upload.send(&body, 300_000);
            assert_eq!(identify(&ann.get("f").expect(200).body), Ok(Stamp::new(7, round as u32)));
            assert_eq!(ann.get_revision("f", 1).expect(200).body, b"of another");
        } else {
            upload.delete().expect(204);
            assert_eq!(space.usage().reserved, 0);
            assert_eq!(ann.get("f").expect(200).body, b"of another");
        }
        ann.rm("f").expect(204);
        oracle::conserved(&space);
    }
    space.empty_trash().expect(204);
    oracle::all_is_well(&server, &root);
}

/// Row B9: how much slower the small ones are is for the benchmarks; here they go on.
#[test]
fn who_uploads_without_end_holds_up_nobody_s_small_file() {
    let _alone = tool::heavy();
    let server = Server::start();
    let root = server.client();
    let (ann, bob) = (root.make_user("ann"), root.make_user("bob"));
    let (count, large) = (100, vec![9; 8 << 20]);
    let small = |way: &str| {
        let mut took: Vec<Duration> = (0..count)
            .map(|seq| {
                let path = format!("{way}{seq}");
                let body = Stamp::new(1, seq).body(1024);
                timed(|| bob.put(&path, &body).expect(201)).1
            })
            .collect();
        took.sort();
        took
    };
    let idle = small("idle");
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let busy = thread::scope(|scope| {
        for stream in 0..16 {
            let (ann, over, done, large) = (ann.another(), &over, &done, &large);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Refused for a moment is fine: it is the greedy one that has to wait.
                    ann.put(&format!("large{stream}"), large).expect_any(&[200, 201, 429, 503]);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until(Duration::from_secs(30), || done.load(Ordering::Relaxed) >= 8);
        let before = done.load(Ordering::Relaxed);
        let busy = small("busy");
        wait_until(Duration::from_secs(30), || done.load(Ordering::Relaxed) > before);
        assert!(done.load(Ordering::Relaxed) > before, "the large ones go on too");
        over.store(true, Ordering::Relaxed);
        busy
    });
    let last = count as usize - 1;
    tool::say(format!(
        "1 KiB: slowest of 100 idle {:?}, beside 16 streams {:?}",
        idle[last], busy[last]
    ));
    assert!(busy[last] < Duration::from_secs(5), "{:?}", busy[last]);
    for seq in 0..count {
        let got = bob.get(&format!("busy{seq}")).expect(200).body;
        assert_eq!(identify(&got), Ok(Stamp::new(1, seq)));
    }
    oracle::clean(&root);
    oracle::conserved(&bob);
}

/// Row C3.
#[test]
fn references_made_at_once_are_one_and_deleting_it_leaves_the_target() {
    let server = Server::start();
    let root = server.client();
    let team = root.project("team", &json!({}));
    team.mkdir("docs").expect(201);
    let stamp = Stamp::new(3, 3);
    team.put("docs/f", &stamp.body(300_000)).expect(201);
    let id = text(&team.must_stat("docs"), "id").to_owned();
    let home = root.in_space("home");
    for round in 0..rounds(5) {
        let target = format!("/v1/spaces/home/references/link{round}");
        let body = json!({"target": {"id": id}});
        let answers = race(&home, 16, |_, client| client.json("PUT", &target, &body));
        larder_e2e::race::one_winner(&answers, &[201], &[409]);
        home.json("PUT", &target, &body).expect_problem(409, "already_exists");
        let listed = home.list("");
        assert_eq!(listed.len(), 1, "one link: {listed:?}");
        assert_eq!(text(&listed[0], "kind"), "ref");
        let gone = race(&home, 8, |_, client| client.rm(&format!("link{round}")));
        larder_e2e::race::one_winner(&gone, &[204], &[404]);
        home.empty_trash().expect(204);
        root.gc();
        // Nothing of the target is gone, nor in any trash.
        assert_eq!(identify(&team.get("docs/f").expect(200).body), Ok(stamp));
        assert!(team.trash().is_empty());
    }
    oracle::conserved(&team);
    oracle::all_is_well(&server, &root);
}

/// Row C10: by a clock that stands still, and a client that says the same time each time.
#[test]
fn the_same_bytes_at_one_time_are_three_revisions() {
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|arch| format!("/usr/lib/{arch}/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| Path::new(path).is_file());
    let mut options = Options::default();
    match &library {
        Some(library) => {
            options = options
                .env("LD_PRELOAD", library)
                .env("FAKETIME", "2026-06-01 12:00:00")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        None => skip("a clock that stands still", "libfaketime is not installed"),
    }
    let server = options.start();
    let client = server.client();
    for (path, len) in [("small", 500), ("large", 700_000)] {
        let stamp = Stamp::new(10, 1);
        let body = stamp.body(len);
        let same =
            [("X-OC-Mtime", "1700000000"), ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")];
        let mut told = Vec::new();
        for turn in 0..6 {
            // Three by each way.
            if turn % 2 == 0 {
                let answer = client.put_with(path, &body, &same).expect_any(&[200, 201]);
                told.push(number(&answer.json(), "revision"));
            } else {
                let metadata = tus::metadata(&[("filename", path), ("mtime", "1700000000")]);
                let length = len.to_string();
                let headers = [("Upload-Length", &*length), ("Upload-Metadata", &*metadata)];
                let done = Upload::with(&client, path, &headers).patch(0, &body).expect(204);
                told.push(done.must_header("larder-revision").parse().unwrap());
            }
        }
        assert_eq!(told, [1, 2, 3, 4, 5, 6], "each is a revision of its own, in order");
        let revisions = client.revisions(path);
        let listed: Vec<u64> = revisions.iter().map(|r| number(r, "revision")).collect();
        assert_eq!(listed, [6, 5, 4, 3, 2, 1]);
        if library.is_some() {
            let times = revisions.iter().map(|revision| text(revision, "created"));
            assert_eq!(times.collect::<BTreeSet<_>>().len(), 1, "the clock stands: {revisions:?}");
        }
        for revision in &told {
            assert_eq!(identify(&client.get_revision(path, *revision).body), Ok(stamp));
        }
        client.rm_revision(path, 3).expect(204);
        client.restore_revision(path, 1).expect(200);
        assert_eq!(identify(&client.get(path).expect(200).body), Ok(stamp));
        assert_eq!(client.revisions(path).len(), 6);
    }
    oracle::all_is_well(&server, &client);
}

/// Sends the head of an upload that asks first; the first answer.
fn ask_first(client: &Client, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("Expect", "100-continue")], headers].concat();
    let mut conn = Conn::open(client.addr()).unwrap();
    conn.send(client.head_of(method, target, &headers).as_bytes()).unwrap();
    conn.any_head().unwrap()
}

/// Rows D2 and D3. At full size: `LARDER_E2E_LIMIT_MIB=10240`.
#[test]
fn sizes_around_every_edge_come_back_and_the_limit_is_kept_before_the_body() {
    let _alone = tool::heavy();
    let limit = knob("LARDER_E2E_LIMIT_MIB", 5) * MIB;
    let setting = limit.to_string();
    let server = Options::default().env("LARDER_LIMITS__FILE_BYTES_MAX", &setting).start();
    let client = server.client();
    let edges = [131_072, 4 * MIB];
    let mut sizes = vec![0, 1, 5, 6, 7];
    sizes.extend(edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]));
    for len in sizes {
        let body = Stamp::new(2, len as u32).body(len as usize);
        let path = |way: &str| format!("{way}-{len}");
        client.put(&path("length"), &body).expect(201);
        let target = client.at("files", &path("chunked"));
        client.send_chunked("PUT", &target, &[], &body, 60_001).expect(201);
        let upload = Upload::new(&client, &path("tus"), len);
        if len > 0 {
            upload.send(&body, (len as usize).div_ceil(3));
        }
        assert_eq!(upload.head().must_header("upload-complete"), "?1");
        let deferred = Upload::with(&client, &path("deferred"), &[("Upload-Defer-Length", "1")]);
        let length = len.to_string();
        deferred.patch_with(0, &body, &[("Upload-Length", &length)]).expect(204);
        for way in ["length", "chunked", "tus", "deferred"] {
            let got = client.get(&path(way)).expect(200);
            assert!(got.body == body, "{len} bytes by {way}: {} came back", got.body.len());
            assert_eq!(got.must_header("content-length"), length);
            assert_eq!(number(&client.must_stat(&path(way)), "size"), len, "{way}");
        }
    }
    // To the byte: the limit fits by each way, one more is refused with nothing asked for.
    let stamp = Stamp::new(2, 2);
    stream_up(&client, "most", stamp, limit);
    stream_down(&client, "most", stamp, limit);
    let (most, over) = (limit.to_string(), (limit + 1).to_string());
    let target = client.at("files", "over");
    let going_on = ask_first(&client, "PUT", &target, &[("Content-Length", &most)]);
    assert_eq!(going_on.status, 100);
    for _ in 0..3 {
        let answer = ask_first(&client, "PUT", &target, &[("Content-Length", &over)]);
        assert_eq!(answer.status, 413, "{answer}");
        let uploads = "/v1/uploads?path=over";
        let headers = [RESUMABLE, PIECE, ("Upload-Length", &*over), ("Content-Length", &*over)];
        assert_eq!(ask_first(&client, "POST", uploads, &headers).status, 413);
    }
    // Also who does not ask is told before the body.
    let mut conn = Conn::open(client.addr()).unwrap();
    let head = client.head_of("PUT", &target, &[("Content-Length", &over)]);
    conn.send(head.as_bytes()).unwrap();
    let answer = conn.any_head().unwrap();
    assert_eq!(answer.status, 413, "{answer}");
    // Without a length it shows only when it is too much.
    if limit < 64 * MIB {
        let body = vec![1; limit as usize + 1];
        client.send_chunked("PUT", &target, &[], &body[1..], 1 << 20).expect(201);
        client.rm("over").expect(204);
        let refused = client.another().send_chunked("PUT", &target, &[], &body, 1 << 20);
        refused.expect_problem(413, "too_large");
    }
    client.stat("over").expect(404);
    oracle::all_is_well(&server, &client);
}

/// Row D3, by the client that the row names.
#[test]
fn curl_sends_what_has_no_length() {
    let Some(curl) = tool::which("curl") else {
        return skip("curl without a length", "curl is not installed");
    };
    let server = Server::start();
    let client = server.client();
    for (turn, len) in [0, 1, 100_000, (4 << 20) + 1].into_iter().enumerate() {
        let stamp = Stamp::new(3, turn as u32);
        let body = stamp.body(len);
        let url = format!("http://{}/v1/spaces/home/files/f{turn}", server.addr());
        let login = format!("{USER}:{PASSWORD}");
        let mut child = Command::new(&curl)
            .args(["-sS", "--fail", "-u", &login, "-T", "-", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&body).unwrap();
        assert!(child.wait().unwrap().success(), "{len} bytes");
        assert!(client.get(&format!("f{turn}")).expect(200).body == body, "{len} bytes");
    }
    oracle::all_is_well(&server, &client);
}

/// Row D5.
#[test]
fn a_dead_client_s_upload_goes_on_where_it_was_or_goes_wholly() {
    let server = Options::default()
        .env("LARDER_UPLOAD__SESSION_TTL", "4s")
        .env("LARDER_UPLOAD__SWEEP_INTERVAL", "200ms")
        .env("LARDER_COLLECT__INTERVAL", "200ms")
        .start();
    let client = server.client();
    let (stamp, len) = (Stamp::new(5, 5), 12 << 20);
    let body = stamp.body(len);
    let dies = |path: &str| {
        let upload = Upload::new(&client, path, len as u64);
        upload.patch(0, &body[..5 << 20]).expect(204);
        let conn = upload.patch_part(5 << 20, 7 << 20, &body[5 << 20..6 << 20]);
        conn.reset();
        upload
    };
    let upload = dies("resumed");
    let offset = upload.offset();
    assert!((5 << 20..=6 << 20).contains(&offset), "what was told is there: {offset}");
    upload.patch(offset, &body[offset as usize..]).expect(204);
    assert_eq!(identify(&client.get("resumed").expect(200).body), Ok(stamp));
    let kept = oracle::chunk_files(&server);
    let left = dies("left");
    assert!(oracle::chunk_files(&server).len() > kept.len(), "its bytes are on the disk");
    assert_eq!(client.usage().reserved, len as u64);
    // Its time, one search for it and one collection, all by themselves.
    let gone = || client.usage().reserved == 0 && oracle::chunk_files(&server) == kept;
    assert!(wait_until(Duration::from_secs(20), gone), "{:?}", client.usage());
    left.head().expect_any(&[404, 410]);
    left.patch(5 << 20, &body[5 << 20..]).expect_any(&[404, 410]);
    assert!(client.pages("/v1/uploads").is_empty());
    client.stat("left").expect(404);
    oracle::all_is_well(&server, &client);
}

/// Takes what room is left on the disk, but for `spare` bytes.
fn take_the_rest(disk: &Disk, spare: u64) -> fs::File {
    let place = disk.file("disk");
    let mut file = fs::File::create(place.join("ballast")).unwrap();
    let block = vec![1; 64 << 10];
    let free = || rustix::fs::statvfs(&place).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    while free() > spare && file.write_all(&block).is_ok() {}
    while free() > spare && file.write_all(&block[..4096]).is_ok() {}
    file
}

/// A server whose data are on a disk of their own, and whose uploads live so long.
fn on_a_small_disk(test: &str, session_ttl: &str) -> Option<(Disk, Server)> {
    let disk = Disk::ext4(500 << 20).map_err(|why| skip(test, why)).ok()?;
    let server = Options::default()
        .data(&disk.file("disk").join("data"))
        .env("LARDER_UPLOAD__SESSION_TTL", session_ttl)
        .env("LARDER_UPLOAD__SWEEP_INTERVAL", "200ms")
        .allow("full")
        .allow("space")
        .start();
    Some((disk, server))
}

/// Asks to share the directory `docs` of the project `team`.
fn share_docs(root: &Client, more: &Value) -> Response {
    let mut body = json!({"space": "team", "path": "docs"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    root.json("POST", "/v1/shares", &body)
}

/// Asks for what a public link shows.
fn by_link(client: &Client, link: &Value, rest: &str) -> Response {
    let target = format!("/v1/links/{}{rest}", text(&link["link"], "token"));
    Client::anonymous(client.addr()).send("GET", &target, &[], None)
}

/// Row B14, the first half.
#[test]
fn a_disk_that_fills_up_under_an_upload_keeps_no_part_of_it() {
    let _alone = tool::heavy();
    let Some((disk, server)) = on_a_small_disk("a disk that fills up", "1h") else { return };
    let root = server.client();
    let client = root.project("filling", &json!({"limits": {"live": 10_u64 << 30}}));
    client.put("old", &Stamp::new(1, 1).body(1 << 20)).expect(201);
    let ballast = take_the_rest(&disk, 120 << 20);
    let before = (client.usage().live, client.usage().retained);
    let body = vec![9; 130 << 20];
    let target = client.at("files", "never");
    // What has no length is found too large only when the disk is full.
    for turn in 0..3 {
        let answer = match turn {
            0 => client.send_chunked("PUT", &target, &[], &body, 1 << 20),
            1 => client.put("old", &body),
            _ => {
                let upload = Upload::with(&client, "never", &[("Upload-Defer-Length", "1")]);
                let answer = upload.patch(0, &body);
                assert!(upload.offset() < body.len() as u64);
                upload.delete().expect(204);
                answer
            }
        };
        answer.expect_problem(507, "disk_full");
        client.stat("never").expect(404);
        let back = || client.usage().reserved == 0;
        assert!(wait_until(Duration::from_secs(5), back), "{:?}", client.usage());
        assert_eq!((client.usage().live, client.usage().retained), before, "the same quota");
        assert_eq!(identify(&client.get("old").expect(200).body), Ok(Stamp::new(1, 1)));
        // And the room is there again, without anybody's help.
        root.gc();
        let again = || client.put("again", &body[..20 << 20]).status == 201;
        assert!(wait_until(Duration::from_secs(10), again), "turn {turn}");
        client.rm("again").expect(204);
        client.empty_trash().expect(204);
        root.gc();
    }
    drop(ballast);
    fs::remove_file(disk.file("disk").join("ballast")).unwrap();
    oracle::conserved(&client);
    oracle::clean(&root);
    drop((server, disk));
}

/// Row B14, the second half, for what is not a file: nothing that gives room or takes rights away
/// needs room.
#[test]
fn on_a_full_disk_sessions_and_shares_are_read_ended_and_expire() {
    let _alone = tool::heavy();
    let Some((disk, server)) = on_a_small_disk("sessions on a full disk", "15s") else { return };
    let root = server.client();
    let team = root.project("team", &json!({"limits": {"live": 1_u64 << 30}}));
    team.mkdir("docs").expect(201);
    let stamp = |seq| Stamp::new(14, seq);
    for seq in 0..4 {
        team.put(&format!("docs/f{seq}"), &stamp(seq).body(400_000)).expect(201);
    }
    let ann = root.make_user("ann").in_space("team");
    let share = |more: Value| share_docs(&root, &more);
    let editor = json!({"kind": "user", "with": "ann", "role": "editor"});
    let grant = share(editor.clone()).expect(201).json();
    let link = share(json!({"kind": "link", "role": "viewer"})).expect(201).json();
    let counted = json!({"kind": "link", "role": "viewer", "downloads_max": 3});
    let counted = share(counted).expect(201).json();
    let body = stamp(9).body(8 << 20);
    let upload = |client: &Client, path: &str| {
        let upload = Upload::new(client, path, body.len() as u64);
        upload.patch(0, &body[..5 << 20]).expect(204);
        upload
    };
    let (left, given_up) = (upload(&ann, "docs/left"), upload(&team, "docs/given-up"));
    drop(take_the_rest(&disk, 0));
    // The log has its segments already: they are filled as well.
    fill(&team, "small-", 60_000);

    // What would add is refused and changes nothing.
    for (what, answer) in [
        ("put", ann.put("docs/new", &[1; 300_000])),
        ("piece", left.patch(5 << 20, &body[5 << 20..])),
        ("session", tus::begin(&ann, "space=team&path=docs/new", &[("Upload-Length", "9")])),
        ("share", share(json!({"kind": "link", "role": "editor"}))),
    ] {
        assert!([503, 507].contains(&answer.status), "{what}: {answer}");
    }
    assert!(left.offset() >= 5 << 20, "no offset is taken back");
    assert_eq!(team.usage().reserved, 2 * body.len() as u64);
    // LIST and DOWNLOAD by every way in.
    for seq in 0..4 {
        for client in [&team, &ann] {
            assert_eq!(client.list("docs").len(), 4);
            let got = client.get(&format!("docs/f{seq}")).expect(200);
            assert_eq!(identify(&got.body), Ok(stamp(seq)));
        }
        let got = by_link(&root, &link, &format!("/files/f{seq}")).expect(200);
        assert_eq!(identify(&got.body), Ok(stamp(seq)));
    }
    by_link(&root, &link, "/list/").expect(200);
    // What must be counted before its first byte waits for room, and is not counted.
    by_link(&root, &counted, "/files/f0").expect_problem(507, "disk_full");
    by_link(&root, &counted, "/list/").expect(200);
    assert_eq!((root.pages("/v1/uploads").len(), ann.pages("/v1/uploads").len()), (1, 1));
    assert_eq!((root.pages("/v1/shares?by=me").len(), ann.pages("/v1/shares").len()), (3, 1));
    // DELETE: files, an upload, a link, a grant; the rights are gone at once.
    ann.rm("docs/f0").expect(204);
    given_up.delete().expect(204);
    given_up.head().expect_any(&[404, 410]);
    for share in [&link, &grant] {
        let target = format!("/v1/shares/{}", text(share, "id"));
        root.send("DELETE", &target, &[], None).expect(204);
    }
    by_link(&root, &link, "/list/").expect(404);
    ann.get("docs/f1").expect(404);
    // The other upload expires, and room returns, with the ballast still there.
    let swept = || team.usage().reserved == 0;
    assert!(wait_until(Duration::from_secs(40), swept), "{:?}", team.usage());
    left.head().expect_any(&[404, 410]);
    team.empty_trash().expect(204);
    let returned = || {
        root.gc();
        oracle::chunk_files(&server).len() == 3
    };
    assert!(wait_until(Duration::from_secs(10), returned), "{:?}", oracle::chunk_files(&server));
    fs::remove_file(disk.file("disk").join("ballast")).unwrap();
    let again = || share(editor.clone()).status == 201;
    assert!(wait_until(Duration::from_secs(10), again), "it goes on without a restart");
    ann.put("docs/new", &[2; 300_000]).expect(201);
    for status in [200, 200, 200, 410] {
        by_link(&root, &counted, "/files/f3").expect(status);
    }
    let got = team.get("docs/f3").expect(200).body;
    check_part(stamp(3), 400_000, 0, &got).unwrap();
    oracle::conserved(&team);
    oracle::clean(&root);
    drop((server, disk));
}

/// The names at the head of this file are those of tests.
#[test]
fn every_row_names_tests_that_exist() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let head = fs::read_to_string(here.join("tests/it/acceptance.rs")).unwrap();
    let head = head.lines().take_while(|line| line.starts_with("//!"));
    let mut named = 0;
    for name in head.filter_map(|line| line.split('`').nth(1)) {
        let Some((module, test)) = name.rsplit_once("::") else { continue };
        let files = match module.strip_prefix("core::") {
            Some("work") => here.join("../crates/core/src/work/tests.rs"),
            Some(module) => here.join(format!("../crates/core/tests/it/{module}.rs")),
            None => here.join(format!("tests/it/{module}.rs")),
        };
        let text = fs::read_to_string(&files).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(text.contains(&format!("fn {test}(")), "{name} is no test");
        named += 1;
    }
    assert!(named > 40, "{named} names");
}
