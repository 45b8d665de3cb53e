//! The change feed over HTTP: it wakes who waits, resumes wherever it was cut off, and loses and
//! repeats nothing through dropped connections and kills.
//!
//! Not here: what each operation reports (core's tests).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use larder_e2e::{
    client::{Client, Outcome, text},
    http::{Conn, Response},
    server::{self, Options, PASSWORD, Server, USER},
    tool::{self, Dice},
};
use serde_json::{Value, json};

fn feed(client: &Client, query: &str) -> Response {
    client.send("GET", &format!("/v1/spaces/home/changes?{query}"), &[], None)
}

fn now(client: &Client) -> String {
    text(&feed(client, "cursor=now").expect(200).json(), "cursor").to_owned()
}

fn changes(page: &Value) -> &Vec<Value> {
    page["changes"].as_array().expect("a page has changes")
}

/// Everything after `cursor`.
fn all(client: &Client, cursor: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), cursor.to_owned());
    loop {
        let page = feed(client, &format!("limit=100&cursor={cursor}")).expect(200).json();
        if changes(&page).is_empty() {
            return all;
        }
        all.extend(changes(&page).iter().cloned());
        cursor = text(&page, "cursor").to_owned();
    }
}

/// A stream of server-sent events.
struct Events {
    conn: Conn,
    unread: String,
}

/// What a stream says.
#[derive(Debug)]
enum Said {
    Change(Value),
    /// An id without an event.
    Id(String),
    End,
}

impl Events {
    fn open(client: &Client, headers: &[(&str, &str)], query: &str) -> Result<Self, Response> {
        let mut all = vec![("Accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let target = format!("/v1/spaces/home/changes?{query}");
        let head = client.head_of("GET", &target, &all);
        let mut conn = Conn::open(client.addr()).map_err(Response::lost)?;
        conn.send(head.as_bytes()).map_err(Response::lost)?;
        let head = conn.head().map_err(Response::lost)?;
        if head.status != 200 {
            return Err(head);
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head}");
        Ok(Self { conn, unread: String::new() })
    }

    /// The next thing said; an error if the connection was lost.
    fn next(&mut self) -> std::io::Result<Said> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let block = block.to_owned();
                self.unread = rest.to_owned();
                let field = |name: &str| {
                    let mut lines = block.lines();
                    lines.find_map(|line| Some(line.strip_prefix(name)?.trim_start().to_owned()))
                };
                match (field("data:"), field("id:")) {
                    (Some(data), Some(id)) => {
                        let change: Value = serde_json::from_str(&data).expect("an event is JSON");
                        assert_eq!(text(&change, "cursor"), id);
                        return Ok(Said::Change(change));
                    }
                    (None, Some(id)) => return Ok(Said::Id(id)),
                    _ => continue,
                }
            }
            match self.conn.chunk()? {
                Some(bytes) => self.unread.push_str(&String::from_utf8(bytes).expect("UTF-8")),
                None => return Ok(Said::End),
            }
        }
    }

    #[track_caller]
    fn next_change(&mut self) -> Value {
        loop {
            match self.next().expect("the stream goes on") {
                Said::Change(change) => return change,
                Said::Id(_) => {}
                Said::End => panic!("the stream ended"),
            }
        }
    }
}

#[test]
fn a_long_poll_is_answered_by_the_change_and_not_before() {
    let server = Server::start();
    let client = server.client();
    client.put("before", b"x").expect(201);
    let cursor = now(&client);
    let started = Instant::now();
    let page = feed(&client, &format!("wait=2&cursor={cursor}")).expect(200).json();
    assert!(changes(&page).is_empty(), "{page}");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(20), "{waited:?}");
    let cursor = text(&page, "cursor").to_owned();
    thread::scope(|scope| {
        let waiter = client.another();
        let (query, started) = (format!("wait=60&cursor={cursor}"), Instant::now());
        let waiting = scope.spawn(move || feed(&waiter, &query).expect(200).json());
        thread::sleep(Duration::from_millis(1500));
        client.put("awaited", b"x").expect(201);
        let page = waiting.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(20), "it was woken");
        let [change] = &changes(&page)[..] else { panic!("one change: {page}") };
        assert_eq!((text(change, "change"), text(change, "path")), ("created", "awaited"));
        assert_eq!((text(change, "kind"), text(change, "author")), ("file", USER));
    });
    for query in ["wait=61", "wait=-1", "wait=x", "limit=0", "limit=1001", "cursor=x", "since=1"] {
        feed(&client, query).expect_problem(400, "invalid");
    }
    client.make_user("bob");
    let bob = Client::new(client.addr(), "bob", "bob-password");
    let home = text(&client.space(), "id").to_owned();
    let target = format!("/v1/spaces/{home}/changes");
    bob.send("GET", &target, &[], None).expect_problem(404, "not_found");
    let events = [("Accept", "text/event-stream")];
    bob.send("GET", &target, &events, None).expect_problem(404, "not_found");
    Client::anonymous(client.addr()).send("GET", &target, &events, None).expect(401);
    client.send("POST", &target, &[], Some(b"")).expect(405);
}

#[test]
fn every_operation_is_told_as_what_it_was() {
    let server = Server::start();
    let client = server.client();
    let cursor = now(&client);
    let put = |path: &str, status| client.put(path, path.as_bytes()).expect(status);
    client.mkdir("d").expect(201);
    put("d/a", 201);
    put("d/a", 200);
    client.restore_revision("d/a", 1).expect(200);
    client.rm_revision("d/a", 2).expect(204);
    client.cp("d", "e", false).expect(201);
    client.mv("e", "f", false).expect(201);
    put("b", 201);
    client.mv("d/a", "b", true).expect(200);
    client.rm("f").expect(204);
    let id = text(&client.trash()[0], "item").to_owned();
    client.restore(&id, &json!({"to": "g/h", "recreate_parents": true})).expect(200);
    client.rm("nothing").expect(404);
    client.purge(text(&client.trash()[0], "item")).expect(204);
    let told: Vec<String> = all(&client, &cursor)
        .iter()
        .map(|change| {
            let from = change["from"].as_str().map(|from| format!(" from {from}"));
            let revision = change["revision"].as_u64().map(|number| format!(" r{number}"));
            let (kind, path) = (text(change, "kind"), text(change, "path"));
            let change = text(change, "change");
            format!(
                "{change} {kind} {path}{}{}",
                from.unwrap_or_default(),
                revision.unwrap_or_default()
            )
        })
        .collect();
    let expected = [
        "created dir d",
        "created file d/a r1",
        "updated file d/a r2",
        "updated file d/a r3",
        "revision_deleted file d/a r3",
        "created dir e",
        "moved dir f from e",
        "created file b r1",
        "deleted file b r1",
        "moved file b from d/a r3",
        "deleted dir f",
        "created dir g",
        "restored dir g/h",
    ];
    assert_eq!(told, expected);
}

/// A writer's own book: what it has sent, and whether that was acknowledged.
type Book = Vec<(String, bool)>;

fn write(addr: &Mutex<SocketAddr>, writer: usize, over: &AtomicBool) -> Book {
    let mut book = Book::new();
    let mut client: Option<Client> = None;
    while !over.load(Ordering::SeqCst) {
        let current = *addr.lock().unwrap();
        if client.as_ref().is_none_or(|client| client.addr() != current) {
            client = Some(Client::new(current, USER, PASSWORD));
        }
        let Some(client) = &client else { continue };
        let path = format!("w{writer}-{}", book.len());
        let answer = client.put(&path, b"x");
        match answer.outcome() {
            Outcome::Done => book.push((path, true)),
            Outcome::Refused => panic!("{answer}"),
            Outcome::Unknown => {
                book.push((path, false));
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    book
}

/// Follows the feed by events from `cursor` through everything, until all is over and nothing is
/// left; answers every change it was told.
fn follow(
    addr: &Mutex<SocketAddr>,
    cursor: String,
    over: &AtomicBool,
    dice: &mut Dice,
) -> Vec<Value> {
    let (mut seen, mut id): (Vec<Value>, _) = (Vec::new(), cursor);
    loop {
        let client = Client::new(*addr.lock().unwrap(), USER, PASSWORD);
        let ended = over.load(Ordering::SeqCst);
        let mut events = match Events::open(&client, &[("Last-Event-ID", &id)], "cursor=now") {
            Ok(events) => events,
            Err(answer) => {
                assert_eq!(answer.status, 0, "{answer}");
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        // The connection is dropped after a while, with whatever has not been read of it.
        let patience = 1 + dice.below(300);
        for _ in 0..patience {
            match events.next() {
                Ok(Said::Change(change)) => {
                    id = text(&change, "cursor").to_owned();
                    seen.push(change);
                }
                Ok(Said::Id(now)) => {
                    id = now;
                    if ended {
                        return seen;
                    }
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                Ok(Said::End) | Err(_) => break,
            }
        }
        events.conn.reset();
    }
}

#[test]
fn events_lose_and_repeat_nothing_through_dropped_connections_and_kills() {
    const WRITERS: usize = 4;
    let _alone = tool::heavy();
    let mut dice = Dice::new(Dice::seed());
    let mut server = Server::start();
    let cursor = now(&server.client());
    let addr = Mutex::new(server.addr());
    let (over, written) = (AtomicBool::new(false), AtomicBool::new(false));
    let (books, seen) = thread::scope(|scope| {
        let (addr, over, written) = (&addr, &over, &written);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(addr, writer, over))).collect();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (mut dice, cursor) = (Dice::new(dice.roll()), cursor.clone());
                scope.spawn(move || follow(addr, cursor, written, &mut dice))
            })
            .collect();
        for _ in 0..tool::knob("LARDER_E2E_KILLS", 4) {
            thread::sleep(Duration::from_millis(300 + dice.below(700)));
            server.kill9();
            server.restart();
            *addr.lock().unwrap() = server.addr();
        }
        thread::sleep(Duration::from_millis(500));
        over.store(true, Ordering::SeqCst);
        let books: Vec<Book> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        written.store(true, Ordering::SeqCst);
        let seen: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (books, seen)
    });
    let whole = all(&server.client(), &cursor);
    for seen in &seen {
        assert!(*seen == whole, "{} of {} changes seen", seen.len(), whole.len());
    }
    let cursors: Vec<&str> = whole.iter().map(|change| text(change, "cursor")).collect();
    assert!(cursors.is_sorted_by(|a, b| a < b), "each change once, in order");
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &whole {
        *told.entry(text(change, "path")).or_default() += 1;
    }
    let mut acknowledged = 0;
    for (path, done) in books.iter().flatten() {
        let times = told.remove(path.as_str()).unwrap_or(0);
        acknowledged += usize::from(*done);
        assert!(times == 1 || (times == 0 && !done), "{path}, acknowledged {done}: {times} times");
    }
    assert!(told.is_empty(), "nobody did {told:?}");
    for book in &books {
        let order = |path: &str| whole.iter().position(|change| text(change, "path") == path);
        let order: Vec<usize> = book.iter().filter_map(|(path, _)| order(path)).collect();
        assert!(order.is_sorted(), "a writer's steps are told in their order");
    }
    assert!(acknowledged > 100, "the writers got hardly anything done: {acknowledged}");
    tool::say(format_args!("{acknowledged} acknowledged, {} told", whole.len()));
}

#[test]
fn a_stream_outlives_the_idle_time_and_ends_with_the_server() {
    let mut server = Options::default().env("LARDER_HTTP__IDLE_TIMEOUT", "1s").start();
    let client = server.client();
    let mut events = Events::open(&client, &[], "cursor=now").expect("a stream");
    let Said::Id(cursor) = events.next().unwrap() else { panic!("it begins with an id") };
    thread::sleep(Duration::from_secs(4));
    client.put("late", b"x").expect(201);
    assert_eq!(text(&events.next_change(), "path"), "late");
    thread::scope(|scope| {
        let waiter = client.another();
        let query = format!("wait=60&cursor={}", now(&client));
        let waiting = scope.spawn(move || feed(&waiter, &query));
        thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        server.sigterm();
        assert!(matches!(events.next().expect("a proper end"), Said::End));
        let page = waiting.join().unwrap().expect(200).json();
        assert!(changes(&page).is_empty(), "{page}");
        assert!(server.wait_exit().success());
        assert!(started.elapsed() < Duration::from_secs(10), "nobody held it up");
    });
    server.restart();
    let client = server.client();
    let mut events = Events::open(&client, &[("Last-Event-ID", &cursor)], "").expect("a stream");
    assert_eq!(text(&events.next_change(), "path"), "late");
    let head = [("Accept", "text/event-stream")];
    let answer = client.send("HEAD", "/v1/spaces/home/changes", &head, None).expect(200);
    assert_eq!(answer.must_header("content-type"), "text/event-stream");
}

#[test]
fn a_stream_ends_when_its_user_is_disabled() {
    let server = Server::start();
    let root = server.client();
    let bob = root.make_user("bob");
    bob.put("first", b"x").expect(201);
    let mut events = Events::open(&bob, &[], "").expect("a stream");
    assert_eq!(text(&events.next_change(), "path"), "first");
    let started = Instant::now();
    root.json("PATCH", "/v1/users/bob", &json!({"disabled": true})).expect(200);
    loop {
        match events.next().expect("a proper end") {
            Said::End => break,
            Said::Id(_) => {}
            Said::Change(change) => panic!("told to who may not know: {change}"),
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5), "it is noticed within a second or two");
}

#[test]
fn what_was_trimmed_is_410_and_never_a_hole() {
    let server = Options::default().env("LARDER_FEED__ENTRIES_MAX", "10").start();
    let client = server.client();
    let cursor = now(&client);
    (0..25).for_each(|i| drop(client.put(&format!("f{i}"), b"x").expect(201)));
    let everything = all(&client, &cursor);
    assert_eq!(everything.len(), 25);
    client.gc();
    feed(&client, &format!("cursor={cursor}")).expect_problem(410, "gone");
    let events = [("Accept", "text/event-stream"), ("Last-Event-ID", cursor.as_str())];
    let target = "/v1/spaces/home/changes";
    client.send("GET", target, &events, None).expect_problem(410, "gone");
    let kept = feed(&client, "").expect(200).json();
    assert_eq!(changes(&kept)[..], everything[15..], "without a cursor: what is kept");
    let last_lost = text(&everything[14], "cursor");
    assert_eq!(all(&client, last_lost)[..], everything[15..], "who had read it misses nothing");
    feed(&client, &format!("cursor={}", text(&everything[13], "cursor"))).expect(410);
}

#[test]
fn the_command_prints_each_change_once_and_goes_on_where_it_was() {
    let server = Server::start();
    let client = server.client();
    client.put("one", b"x").expect(201);
    client.mv("one", "two", false).expect(201);
    let run = |args: &[&str]| {
        let output = server::cli(&server).arg("changes").args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = run(&["home:", "--json"]);
    let told: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> = told.iter().map(|change| text(change, "change")).collect();
    assert_eq!(kinds, ["created", "moved"]);
    assert!(run(&["home"]).contains("one -> two"));
    let rest = run(&["home:", "--cursor", text(&told[0], "cursor")]);
    assert_eq!(rest.lines().count(), 1, "{rest}");
    client.put("three", b"x").expect(201);
    let rest = run(&["home:", "--json", "--cursor", text(&told[1], "cursor")]);
    assert!(rest.contains("three") && rest.lines().count() == 1, "{rest}");
}
