//! Heavy work and memory: who is urgent goes first, nobody starves, queues are bounded, and what
//! clients hold or leave behind takes nothing from others.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, number, text},
    http::Conn,
    oracle,
    race::{race, tally},
    server::{Options, Server},
    stamp::{Stamp, check_part},
    tool,
    tus::{self, Upload},
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A figure of `/metrics`.
#[track_caller]
fn metric(client: &Client, name: &str) -> u64 {
    let page = client.send("GET", "/metrics", &[], None).expect(200).body;
    let page = String::from_utf8(page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
}

/// Copies the directory `dir` with this `Priority`.
fn copy(client: &Client, to: &str, priority: &str) -> larder_e2e::http::Response {
    let target = format!("/v1/spaces/{}/copy", client.space_name());
    let body = json!({"from": "dir", "to": to}).to_string();
    let headers = [("Content-Type", "application/json"), ("Priority", priority)];
    client.send("POST", &target, &headers, Some(body.as_bytes()))
}

/// A server with one slot for expensive requests and a queue of this length; a directory whose
/// copy takes a while.
fn narrow(queue_max: u64) -> (Server, Client) {
    let options = Options::default()
        .env("LARDER_WORK__SLOTS", "1")
        .env("LARDER_WORK__QUEUE_MAX", &queue_max.to_string());
    let server = options.start();
    let client = server.client();
    client.mkdir("dir").expect(201);
    race(&client, 8, |worker, client| {
        for file in 0..100 {
            client.put(&format!("dir/{worker}-{file}"), b"content").expect(201);
        }
    });
    (server, client)
}

/// What an administrator sees.
#[track_caller]
fn tasks(client: &Client) -> Vec<Value> {
    let page = client.send("GET", "/v1/admin/tasks", &[], None).expect(200).json();
    page["tasks"].as_array().unwrap().clone()
}

/// Waits until so many tasks wait for their turn.
#[track_caller]
fn until_waiting(client: &Client, count: usize) {
    let reached = tool::wait_until(Duration::from_secs(30), || {
        tasks(client).iter().filter(|task| text(task, "state") == "waiting").count() >= count
    });
    assert!(reached, "{count} tasks never waited at once");
}

#[test]
fn an_urgent_request_starts_before_all_that_wait_and_the_lowest_still_ends() {
    let (server, client) = narrow(100);
    thread::scope(|scope| {
        let low: Vec<_> = (0..10)
            .map(|number| {
                let client = client.another();
                scope.spawn(move || {
                    copy(&client, &format!("low{number}"), "u=7").expect(201);
                    Instant::now()
                })
            })
            .collect();
        until_waiting(&client, 9);
        let seen = tasks(&client);
        assert!(seen.len() == 10 && seen.iter().all(|task| text(task, "class") == "copy"));
        assert!(seen.iter().all(|task| number(task, "priority") == 7), "{seen:?}");
        assert!(seen.iter().all(|task| text(task, "user") == "root"), "{seen:?}");
        copy(&client, "high", "u=0").expect(201);
        let high = Instant::now();
        let ended: Vec<Instant> = low.into_iter().map(|low| low.join().unwrap()).collect();
        // The one that ran, and perhaps one that had its turn while the urgent one came.
        let before = ended.iter().filter(|end| **end < high).count();
        assert!(before <= 2, "{before} of 10 low ones ended before the urgent one");
    });
    assert_eq!(metric(&client, "larder_work_tasks"), 0);
    drop(server);
}

#[test]
fn the_lowest_ends_within_its_bound_while_urgent_ones_keep_coming() {
    let (_server, client) = narrow(100);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let (client, stop) = (client.another(), &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    copy(&client, &format!("high{worker}-{round}"), "u=0").expect(201);
                    round += 1;
                }
            });
        }
        until_waiting(&client, 2);
        let user = client.make_user("low");
        user.mkdir("dir").expect(201);
        let begun = Instant::now();
        let answer = copy(&user, "copy", "u=7");
        let took = begun.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        answer.expect(201);
        // 3.5 s of ageing, and the turn that runs then; a debug build is slow.
        assert!(took < Duration::from_secs(15), "it took {took:?}");
    });
}

#[test]
fn a_flood_is_refused_at_once_with_the_time_to_come_again() {
    let (server, client) = narrow(5);
    let before = server.memory().0;
    // Each goes on until it is refused: together they want more than there is, however slowly
    // they come on a busy machine.
    let answers = race(&client, 60, |number, client| {
        let mut last = None;
        for round in 0..4 {
            let begun = Instant::now();
            let answer = copy(client, &format!("flood{number}-{round}"), "u=5");
            let refused = answer.status == 503;
            last = Some((answer, begun.elapsed()));
            if refused {
                break;
            }
        }
        last.expect("at least one")
    });
    let (refused, done): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(answer, _)| answer.status == 503);
    assert!(refused.len() > 10, "{} of 60 were refused", refused.len());
    for (answer, _) in &refused {
        assert_eq!(answer.code(), "busy");
        assert!(answer.must_header("retry-after").parse::<u64>().unwrap() >= 1, "{answer}");
        assert_eq!(answer.must_header("larder-applied"), "no");
    }
    let slowest = refused.iter().map(|(_, took)| *took).max().unwrap();
    assert!(slowest < Duration::from_secs(5), "a refusal took {slowest:?}");
    let done: Vec<_> = done.into_iter().map(|(answer, _)| answer).collect();
    assert!(done.iter().all(|answer| answer.status == 201), "{}", tally(&done));
    let after = server.memory().0;
    assert!(after < before + 48 * MIB, "{before} bytes of memory before, {after} after");
    assert_eq!(metric(&client, "larder_work_refused_total"), refused.len() as u64);
    oracle::all_is_well(&server, &client);
}

/// Only an administrator gets a higher priority than the usual one, and only one sees all tasks.
#[test]
fn nobody_but_an_administrator_hurries_or_sees_the_tasks_of_others() {
    let (_server, client) = narrow(100);
    let user = client.make_user("plain");
    user.mkdir("dir").expect(201);
    race(&user, 8, |worker, user| {
        for file in 0..50 {
            user.put(&format!("dir/{worker}-{file}"), b"content").expect(201);
        }
    });
    thread::scope(|scope| {
        let first = client.another();
        let blocking = scope.spawn(move || copy(&first, "first", "u=3").expect(201));
        let running = || tasks(&client).iter().any(|task| text(task, "state") == "running");
        assert!(tool::wait_until(Duration::from_secs(30), running), "the first never ran");
        let hurried = user.another();
        let hurried = scope.spawn(move || copy(&hurried, "hurried", "u=0").expect(201));
        let priority = || {
            let task = tasks(&client).into_iter().find(|task| text(task, "user") == "plain")?;
            Some(number(&task, "priority"))
        };
        let mut seen = None;
        tool::wait_until(Duration::from_secs(30), || {
            seen = priority().or(seen);
            seen.is_some() || hurried.is_finished()
        });
        assert_eq!(seen, Some(3), "it wished for 0, and waits behind the first");
        blocking.join().unwrap();
        hurried.join().unwrap();
    });
    user.send("GET", "/v1/admin/tasks", &[], None).expect_problem(403, "denied");
}

/// Hazard X02: clients that go away in the middle of whatever leave nothing behind.
#[test]
fn a_thousand_disconnects_leave_nothing_behind() {
    let server = Server::start();
    let client = server.client();
    let stamp = Stamp::new(1, 1);
    client.put("large", &stamp.body(3 << 20)).expect(201);
    client.put("small", &stamp.body(100_000)).expect(201);
    let vanish = |number: usize, client: &Client| match number % 4 {
        0 => {
            let target = client.at("files", &format!("never{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "8000000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            conn.send(&vec![7; 300_000]).unwrap();
            conn.reset();
        }
        1 => {
            let target = client.at("files", &format!("never{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "100000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            conn.send(&vec![7; 50_000]).unwrap();
            drop(conn);
        }
        kind => {
            let mut conn = Conn::open(client.addr()).unwrap();
            let file = if kind == 2 { "large" } else { "small" };
            let head = client.head_of("GET", &client.at("files", file), &[]);
            conn.send(head.as_bytes()).unwrap();
            if number % 8 < 4 {
                conn.head().unwrap();
            }
            conn.reset();
        }
    };
    let round = |client: &Client| {
        race(client, 25, |worker, client| {
            for turn in 0..20 {
                vanish(worker * 20 + turn, client);
            }
        });
    };
    let settled = |client: &Client| {
        let names = ["tasks", "running", "waiting"].map(|name| format!("larder_work_{name}"));
        let memory = ["bodies", "writes", "reads"];
        let memory = memory.map(|name| format!("larder_memory_{name}_bytes"));
        tool::wait_until(Duration::from_secs(30), || {
            names.iter().chain(&memory).all(|name| metric(client, name) == 0)
        })
    };
    round(&client);
    assert!(settled(&client), "something is left after 500 disconnects");
    let before = server.memory().0;
    round(&client);
    assert!(settled(&client), "something is left after 1,000 disconnects");
    let after = server.memory().0;
    assert!(after < before + 24 * MIB, "{before} bytes of memory before, {after} after");
    assert_eq!(client.usage().reserved, 0);
    let body = client.get("large").expect(200).body;
    check_part(stamp, 3 << 20, 0, &body).unwrap();
    oracle::all_is_well(&server, &client);
}

/// No download locks a file.
#[test]
fn a_hundred_open_downloads_hold_nobody_up() {
    let server = Server::start();
    let client = server.client();
    let (stamp, len) = (Stamp::new(3, 1), 20 << 20);
    client.put("file", &stamp.body(len)).expect(201);
    let open: Vec<_> = (0..100).map(|_| client.open("file", &[])).collect();
    assert!(open.iter().all(|(head, _)| head.status == 200));
    let begun = Instant::now();
    client.put("file", b"another").expect(200);
    client.mv("file", "moved", false).expect_any(&[200, 201]);
    client.rm("moved").expect(204);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "PUT, MOVE and DELETE took {took:?}");
    client.get("file").expect(404);
    for (_, mut body) in open.into_iter().step_by(10) {
        let mut at = 0;
        while body.left() > 0 {
            let piece = body.read(1 << 16).unwrap();
            check_part(stamp, len as u64, at, &piece).unwrap();
            at += piece.len() as u64;
        }
    }
    oracle::clean(&client);
}

/// Small changes go first, whoever makes them; the uploads of large bodies are none themselves,
/// in whatever way they come.
#[test]
fn large_uploads_rest_while_small_changes_are_made_and_only_then() {
    let server = Server::start();
    let client = server.client();
    let body = Stamp::new(6, 1).body(8 << 20);
    let large = |round: &str| {
        race(&client, 4, |worker, client| {
            for number in 0..2 {
                client.put(&format!("{round}{worker}-{number}"), &body).expect(201);
                let path = format!("{round}tus{worker}-{number}");
                Upload::new(client, &path, body.len() as u64).patch(0, &body).expect(204);
                let query = format!("path={round}parts{worker}-{number}&numbered=1");
                let upload = Upload::of(client, &tus::begin(client, &query, &[]).expect(201));
                for part in 1..=2 {
                    let part = format!("{}/parts/{part}", upload.url);
                    upload.client.send("PUT", &part, &[], Some(&body)).expect(200);
                }
                upload.complete(&json!({"parts": [1, 2]})).expect(201);
            }
        });
        metric(&client, "larder_work_rests_total")
    };
    let before = large("warm");
    assert_eq!(large("alone"), before, "nobody makes a small change");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let beside = thread::scope(|scope| {
        let (another, stop) = (client.another(), &stop);
        scope.spawn(move || {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                another.put(&format!("small{}", number % 10), b"small").expect_any(&[200, 201]);
            }
        });
        let beside = large("beside");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        beside
    });
    assert!(beside > before + 10, "{before} rests before, {beside} beside small changes");
    oracle::clean(&client);
}

/// Requests that hash and read files leave the processors to those that need neither: the kernel
/// is told so.
#[test]
fn threads_that_work_on_files_let_requests_go_first() {
    let server = Server::start();
    let client = server.client();
    client.put("file", &Stamp::new(5, 1).body(3 << 20)).expect(201);
    client.get("file").expect(200);
    let tasks = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let mut niceness = BTreeMap::<String, Vec<i32>>::new();
    for task in fs::read_dir(tasks).unwrap() {
        let Ok(stat) = fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (_, named) = stat.split_once('(').unwrap();
        let (name, fields) = named.rsplit_once(") ").unwrap();
        // The state is field 3 of proc(5), the niceness field 19.
        let nice = fields.split(' ').nth(19 - 3).unwrap().parse().unwrap();
        niceness.entry(name.trim_end_matches(char::is_numeric).to_owned()).or_default().push(nice);
    }
    let [workers, files] = ["larder-http-", "larder-files"].map(|name| &niceness[name]);
    let most = workers.iter().max().unwrap();
    assert!(files.iter().all(|files| files > most || *files == 19), "{niceness:?}");
}

/// Uploads, downloads and connections that stand still stay within the one budget, and leave
/// enough of it to others.
#[test]
fn clients_that_stand_still_stay_within_the_memory_budget() {
    let _alone = tool::heavy();
    let server = Server::start();
    let client = server.client();
    client.put("large", &Stamp::new(1, 1).body(20 << 20)).expect(201);
    let idle: Vec<_> = (0..300)
        .map(|_| {
            let idle = client.another();
            idle.get("missing").expect(404);
            idle
        })
        .collect();
    let readers: Vec<_> = (0..200).map(|_| client.open("large", &[])).collect();
    let uploads: Vec<Conn> = (0..200)
        .map(|number| {
            let target = client.at("files", &format!("half{number}"));
            let head = client.head_of("PUT", &target, &[("Content-Length", "80000000")]);
            let mut conn = Conn::open(client.addr()).unwrap();
            conn.send(head.as_bytes()).unwrap();
            // All but one byte of the largest buffer.
            conn.send(&vec![1; (1 << 20) - 1]).unwrap();
            conn
        })
        .collect();
    let budget = metric(&client, "larder_memory_budget_bytes");
    let within = || {
        let used = metric(&client, "larder_memory_used_bytes");
        assert!(used <= budget, "{used} bytes of memory used of a budget of {budget}");
    };
    within();
    // After a while each upload that stands still has only a block left.
    let shrunk = tool::wait_until(Duration::from_secs(20), || {
        metric(&client, "larder_memory_writes_bytes") <= 200 * 80 * 1024
    });
    assert!(shrunk, "{} bytes for writes", metric(&client, "larder_memory_writes_bytes"));
    let begun = Instant::now();
    for number in 0..20 {
        let (path, stamp) = (format!("other{number}"), Stamp::new(2, number));
        let body = stamp.body(2_000_000);
        client.put(&path, &body).expect(201);
        assert_eq!(client.get(&path).expect(200).body, body);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "others took {took:?}");
    within();
    let memory = server.memory().1;
    assert!(memory < 256 * MIB, "{memory} bytes of memory, and a budget of {budget}");
    drop((idle, readers, uploads));
    oracle::conserved(&client);
    oracle::clean(&client);
}
