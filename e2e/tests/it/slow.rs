//! Hundreds of clients that are slow in every way there is: others hardly notice, and in the end
//! the slow ones have to go.
//!
//! Not here: clients that are quick and many (`load`).

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use larder_e2e::{
    client::Client,
    http::Conn,
    oracle,
    server::{Options, Server},
    tool::{self, wait_until},
};

/// Slow clients of each kind.
const SLOW: usize = 200;

/// Of the file that slow readers ask for: more than the kernel takes for them.
const LARGE: usize = 16 << 20;

/// Longest time that a request of somebody else may take meanwhile.
const PROMPT: Duration = Duration::from_secs(5);

/// Clients that send their heads, their bodies, or read their answers, drop by drop.
struct Slow {
    heads: Vec<Conn>,
    bodies: Vec<Conn>,
    readers: Vec<Conn>,
}

impl Slow {
    fn begin(client: &Client) -> Self {
        let open = || Conn::open(client.addr()).unwrap();
        let all = |begin: &dyn Fn(&mut Conn, usize)| -> Vec<Conn> {
            let one = |number| {
                let mut conn = open();
                begin(&mut conn, number);
                conn.socket().set_nonblocking(true).unwrap();
                conn
            };
            (0..SLOW).map(one).collect()
        };
        let heads =
            all(&|conn, _| conn.send(b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap());
        let bodies = all(&|conn, number| {
            let length = [("Content-Length", "50000000")];
            let target = client.at("files", &format!("slow{number}"));
            let head = client.head_of("PUT", &target, &length);
            conn.send(head.as_bytes()).unwrap();
            conn.send(&[b'x'; 100_000][..]).ok();
        });
        let readers = all(&|conn, _| {
            let head = client.head_of("GET", &client.at("files", "large"), &[]);
            conn.send(head.as_bytes()).unwrap();
        });
        Self { heads, bodies, readers }
    }

    /// Each moves by one byte, if it is still there.
    fn move_on(&mut self) {
        for conn in self.heads.iter_mut().chain(&mut self.bodies) {
            // Whoever was cut off is what we are here for.
            conn.socket().write_all(b"x").ok();
        }
        for conn in &mut self.readers {
            conn.socket().read_exact(&mut [0; 1]).ok();
        }
    }
}

fn count(client: &Client, metric: &str) -> u64 {
    let page = client.send("GET", "/metrics", &[], None).expect(200);
    let page = String::from_utf8(page.body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(metric)).expect(metric);
    line.trim().parse().expect("a number")
}

fn served_promptly(server: &mut Server, slow: &mut Slow) -> Duration {
    let client = server.client();
    let body = vec![7; 200_000];
    let mut worst = Duration::ZERO;
    for number in 0..30 {
        slow.move_on();
        let path = format!("quick{number}");
        for step in 0..4 {
            // A new connection each: those have to get through as well.
            let client = client.another();
            let begun = Instant::now();
            match step {
                0 => drop(client.put(&path, &body).expect(201)),
                1 => assert_eq!(client.get(&path).expect(200).body, body),
                2 => drop(client.list("")),
                _ => drop(client.send("GET", "/ready", &[], None).expect(200)),
            }
            worst = worst.max(begun.elapsed());
        }
    }
    worst
}

#[test]
fn six_hundred_slow_clients_do_not_stop_others() {
    let _alone = tool::heavy();
    let mut server = Server::start();
    let client = server.client();
    client.put("large", &vec![1; LARGE]).expect(201);
    let mut slow = Slow::begin(&client);
    let connected = count(&client, "larder_http_connections ");
    tool::say(format!("{connected} connections"));
    let worst = served_promptly(&mut server, &mut slow);
    let (rss, most) = server.memory();
    tool::say(format!("slowest request of others {worst:?}, memory {} MiB", most >> 20));
    assert!(worst < PROMPT, "{worst:?}");
    assert!(rss < 256 << 20, "{rss} bytes in memory");
    drop(slow);
    let left = || count(&client, "larder_http_connections ") < 10;
    assert!(wait_until(PROMPT * 4, left), "their places are free again");
    oracle::all_is_well(&server, &client);
}

#[test]
fn slow_clients_are_cut_off_in_the_end_however_they_are_slow() {
    let _alone = tool::heavy();
    let mut server = Options::default()
        .env("LARDER_HTTP__HEADER_TIMEOUT", "2s")
        .env("LARDER_HTTP__STALL_TIMEOUT", "2s")
        .env("LARDER_HTTP__MIN_RATE", "20KiB/s")
        .start();
    let client = server.client();
    client.put("large", &vec![1; LARGE]).expect(201);
    let mut slow = Slow::begin(&client);
    let gone = || {
        slow.move_on();
        count(&client, "larder_http_connections ") < 10
    };
    assert!(wait_until(PROMPT * 12, gone), "the slow ones have to go");
    for with in ["head", "answer"] {
        let cut = count(&client, &format!("larder_http_cut_total{{with=\"{with}\"}}"));
        assert!(cut >= SLOW as u64 * 9 / 10, "{cut} were cut off for their {with}");
    }
    assert!(count(&client, "larder_http_cut_total{with=\"body\"}") > 0);
    // What they had sent is gone, and what it had reserved.
    assert_eq!(client.list_all("").len(), 1);
    assert!(server.is_alive());
    oracle::all_is_well(&server, &client);
}
