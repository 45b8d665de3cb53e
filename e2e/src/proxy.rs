//! A TCP proxy on loopback that breaks connections on purpose.
//!
//! Promises: a connection that is cut has passed on exactly the bytes that it was allowed to, and
//! ends on both sides at once; what is swallowed never reaches the client. The server behind
//! it can move (a restarted one has another port).
//! Not here: delays and bandwidth, packet loss.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    /// Bytes to the server until the next cut; negative for no cut.
    until_cut: AtomicI64,
    cuts: AtomicU32,
    /// Whether answers are thrown away, with their connection.
    swallow: AtomicBool,
    sent: AtomicU64,
    end: AtomicBool,
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
            until_cut: AtomicI64::new(-1),
            cuts: AtomicU32::new(0),
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

    /// The server has moved.
    pub fn move_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().expect("lock") = upstream;
    }

    /// Cuts the connection that sends it after `bytes` more bytes to the server.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.until_cut.store(bytes as i64, Ordering::Relaxed);
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
    let (mut reader, mut writer) = (client, &server);
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut pass = read;
        let mut cut = false;
        // One budget for all connections: whoever uses it up is cut.
        let before = shared.until_cut.load(Ordering::Relaxed);
        if before >= 0 {
            let left = shared.until_cut.fetch_sub(read as i64, Ordering::Relaxed);
            if left >= 0 && left <= read as i64 {
                shared.until_cut.store(-1, Ordering::Relaxed);
                (pass, cut) = (left as usize, true);
            }
        }
        if writer.write_all(&piece[..pass]).is_err() {
            break;
        }
        shared.sent.fetch_add(pass as u64, Ordering::Relaxed);
        if cut {
            shared.cuts.fetch_add(1, Ordering::Relaxed);
            reset(client);
            reset(&server);
            break;
        }
    }
    server.shutdown(Shutdown::Write).ok();
    answers.join().ok();
    Ok(())
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
