//! A TCP proxy on loopback that breaks connections on purpose.
//!
//! What it does to them is a plan of steps, each after so many more bytes to the server: cut the
//! connection that sends them, or hold everything still until the server has moved.
//!
//! Promises: a connection that is cut has passed on exactly the bytes that it was allowed to, and
//! ends on both sides at once; what is swallowed never reaches the client. The server behind
//! it can move (a restarted one has another port).
//! Not here: delays and bandwidth, packet loss.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

/// What happens after so many more bytes to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The connection that brings them ends.
    Cut(u64),
    /// Nothing moves any more until [`Proxy::move_to`].
    Hold(u64),
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    plan: Mutex<VecDeque<Step>>,
    cuts: AtomicU32,
    held: AtomicBool,
    /// Whether answers are thrown away, with their connection.
    swallow: AtomicBool,
    sent: AtomicU64,
    end: AtomicBool,
}

impl Shared {
    /// How many of `read` bytes may go on, and what comes then.
    fn pass(&self, read: u64) -> (u64, Option<Step>) {
        let mut plan = self.plan.lock().expect("lock");
        let Some(step) = plan.front_mut() else { return (read, None) };
        let (Step::Cut(left) | Step::Hold(left)) = step;
        if *left > read {
            *left -= read;
            return (read, None);
        }
        let pass = *left;
        (pass, plan.pop_front())
    }

    /// Waits while everything is held.
    fn wait(&self) {
        while self.held.load(Ordering::Acquire) && !self.end.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy to `upstream` that passes everything on.
    #[track_caller]
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            plan: Mutex::default(),
            cuts: AtomicU32::new(0),
            held: AtomicBool::new(false),
            swallow: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            end: AtomicBool::new(false),
        });
        let all = Arc::clone(&shared);
        let accept = move || {
            for client in listener.incoming().map_while(Result::ok) {
                if all.end.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&all);
                // A connection that cannot be made is one more that breaks.
                thread::spawn(move || drop(carry(&client, &shared)));
            }
        };
        thread::spawn(accept);
        Self { addr, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server has moved; what was held goes on, if its connections still are.
    pub fn move_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().expect("lock") = upstream;
        self.shared.held.store(false, Ordering::Release);
    }

    /// Does this next, step by step.
    pub fn plan(&self, steps: impl IntoIterator<Item = Step>) {
        *self.shared.plan.lock().expect("lock") = steps.into_iter().collect();
    }

    /// Whether it holds everything still.
    pub fn holds(&self) -> bool {
        self.shared.held.load(Ordering::Acquire)
    }

    /// How many connections have been cut.
    pub fn cuts(&self) -> u32 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Bytes passed on to the server so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// From now on answers are lost, each with its connection, or no longer.
    pub fn swallow_answers(&self, swallow: bool) {
        self.shared.swallow.store(swallow, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; if nobody listens it has ended.
        drop(TcpStream::connect(self.addr));
    }
}

fn carry(client: &TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    shared.wait();
    let upstream = *shared.upstream.lock().expect("lock");
    let server = match TcpStream::connect_timeout(&upstream, Duration::from_secs(5)) {
        Ok(server) => server,
        Err(error) => {
            reset(client);
            return Err(error);
        }
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from, to) = (server.try_clone()?, client.try_clone()?);
    let back = Arc::clone(shared);
    let answers = thread::spawn(move || answers(&from, &to, &back));
    let mut piece = vec![0; 64 << 10];
    let mut reader = client;
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if !forward(client, &server, &piece[..read], shared) {
            break;
        }
    }
    server.shutdown(Shutdown::Write).ok();
    answers.join().ok();
    Ok(())
}

/// Passes `bytes` on as the plan has it; whether the connection goes on.
fn forward(client: &TcpStream, mut server: &TcpStream, bytes: &[u8], shared: &Shared) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        shared.wait();
        let (pass, step) = shared.pass(rest.len() as u64);
        let (now, later) = rest.split_at(pass as usize);
        if server.write_all(now).is_err() {
            // The server has gone: so does the client's connection. What was to happen to it
            // happens to the next one.
            if let Some(step) = step {
                shared.plan.lock().expect("lock").push_front(step);
            }
            reset(client);
            return false;
        }
        shared.sent.fetch_add(pass, Ordering::Relaxed);
        rest = later;
        match step {
            None => {}
            Some(Step::Hold(_)) => shared.held.store(true, Ordering::Release),
            Some(Step::Cut(_)) => {
                shared.cuts.fetch_add(1, Ordering::Relaxed);
                reset(client);
                reset(server);
                return false;
            }
        }
    }
    true
}

fn answers(mut server: &TcpStream, mut client: &TcpStream, shared: &Shared) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = match server.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if shared.swallow.load(Ordering::Relaxed) {
            reset(client);
            reset(server);
            return;
        }
        if client.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
}

/// Ends a connection at once, as a machine does that dies.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
    stream.shutdown(Shutdown::Both).ok();
}
