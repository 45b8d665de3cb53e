//! The HTTP server: listeners, worker threads, limits and the way out.
//!
//! One task accepts and hands each connection to the worker with the fewest; a worker is a thread
//! with a current-thread runtime, so that a request never leaves the core it came in on. The
//! service is called without a box, a span or a hop.
//!
//! Promises: connections, their buffers and their patience are bounded ([`ServeOptions`]); a
//! panic of a handler ends one request, not the process; [`Server::shutdown`] finishes what has
//! begun, within a deadline.
//! Handlers run on current-thread runtimes: they must not block, and tasks that are to outlive a
//! drain belong on another runtime.
//!
//! Not here: HTTP/2; what a request means ([`Service`] is implemented by the doors).

mod connection;
mod pulse;
mod received;
mod status;
mod tls;

use std::{
    io,
    net::{SocketAddr, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use http::{Request, Response};
use larder_base::{
    Env, Memory,
    memory::{Share, Use},
};
use rustix::process::{getpriority_process, setpriority_process};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub(crate) use self::pulse::{SHORT_TIMEOUT, is_short};
use self::{connection::Host, pulse::Ward, status::Place};
pub use self::{
    received::Received,
    status::{Cut, Status},
    tls::{Reload, Tls, TlsOptions},
};
use crate::{
    body::ResponseBody,
    limits::{Limits, Seat},
};

/// What answers requests: a door.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request from `peer`.
    ///
    /// The future is dropped if the client goes away; a panic becomes a 500. Requests of one
    /// connection are called one after another.
    fn call(
        &self,
        request: Request<Received>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Threads that serve connections; 0 is one for each core.
    pub workers: usize,
    /// Most connections at once; more get a 503 and are closed.
    pub connections_max: usize,
    /// Longest time from the first to the last byte of a request's head.
    pub header_timeout: Duration,
    /// Longest time without a byte between two requests.
    pub idle_timeout: Duration,
    /// Time over which a client must take its answer at [`ServeOptions::min_rate`].
    pub stall_timeout: Duration,
    /// Least bytes a second that a client must take of an answer; `None` is a kibibyte in each
    /// stall time.
    pub min_rate: Option<u64>,
    /// Longest time for requests in flight to end at a shutdown.
    pub drain_timeout: Duration,
    /// Largest head of a request, in bytes (at least 8 KiB); larger ones get 431.
    pub header_bytes_max: usize,
    /// Most headers of a request; more get 431.
    pub headers_max: usize,
    /// What the listeners prove themselves with; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// How many connections an address may have.
    pub limits: Option<Limits>,
    /// The budget that each connection takes its share of.
    pub memory: Memory,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            workers: 0,
            connections_max: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(30),
            min_rate: None,
            drain_timeout: Duration::from_secs(30),
            header_bytes_max: 64 << 10,
            headers_max: 100,
            tls: None,
            limits: None,
            memory: Memory::default(),
        }
    }
}

impl ServeOptions {
    /// How often the watch looks at every connection: often enough that a time-out is met within
    /// a quarter of itself, and each second at the least.
    fn sweep_interval(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.stall_timeout);
        (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// Bytes that a client must take within `time` to count as taking its answer.
    fn stall_bytes(&self, time: Duration) -> u64 {
        let Some(rate) = self.min_rate else { return 1024 };
        let bytes = u128::from(rate) * time.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

/// Connections that wait for one worker; more than a backlog of the kernel has.
const HANDOVER_MAX: usize = 1024;

/// Connections that the kernel keeps until we accept them.
const BACKLOG: i32 = 4096;

/// Threads of one worker for file I/O and hashing: enough to keep a disk's queue full, and each
/// has a stack and a heap of its own.
const BLOCKING_THREADS: usize = 16;

/// By how much those threads are nicer than the workers: a request that needs none of them does
/// not wait for the time slices of uploads that are being hashed.
const BLOCKING_NICENESS: i32 = 10;

/// What a connection takes of the memory budget while it lives: its task, and the protocol's
/// buffers as far as small requests need them.
const CONNECTION_BYTES: usize = 8 << 10;

/// Bytes of an answer that the kernel takes before it can send them. Without a bound it takes
/// megabytes for a client that reads slowly, which are memory, and which look like progress.
/// More did not make downloads faster.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// Connections that are being turned away at once; more are just closed.
const REFUSALS_MAX: usize = 64;

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 128\r\nRetry-After: 1\r\n\
    Larder-Applied: no\r\nConnection: close\r\n\r\n\
    {\"type\":\"urn:larder:problem:busy\",\"title\":\"Busy\",\"status\":503,\"code\":\"busy\",\
    \"detail\":\"too many connections are open; try again\"}";

const REFUSAL_OF_ADDRESS: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 165\r\nRetry-After: 1\r\n\
    Connection: close\r\n\r\n\
    {\"type\":\"urn:larder:problem:rate_limited\",\"title\":\"Too many requests\",\"status\":429,\
    \"code\":\"rate_limited\",\"detail\":\"this address has too many connections; try again\"}";

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    workers: Vec<Worker>,
    acceptors: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    status: Status,
    env: Env,
    drain_timeout: Duration,
}

#[derive(Debug)]
struct Worker {
    ward: Arc<Ward>,
    ended: oneshot::Receiver<()>,
    thread: thread::JoinHandle<()>,
}

/// What the accepting task knows of a worker.
#[derive(Clone, Debug)]
struct Desk {
    load: Arc<AtomicUsize>,
    handover: mpsc::Sender<Visitor>,
}

/// A connection on its way to its worker.
#[derive(Debug)]
struct Visitor {
    stream: StdStream,
    peer: SocketAddr,
    load: Load,
    place: Place,
    seat: Option<Seat>,
    memory: Share,
}

/// Counts a connection at its worker while it lives.
#[derive(Debug)]
struct Load(Arc<AtomicUsize>);

impl Load {
    fn on(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Relaxed);
        Self(load.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Server {
    /// Binds all addresses and starts to serve. Must be called within a tokio runtime, which
    /// then accepts; requests run on threads of their own.
    ///
    /// # Errors
    /// An address that cannot be bound, a thread that cannot be started; then nothing runs.
    pub fn start<S: Service>(
        options: &ServeOptions,
        service: S,
        env: &Env,
        status: &Status,
    ) -> io::Result<Self> {
        let listeners =
            options.addresses.iter().map(|addr| listen(*addr)).collect::<io::Result<Vec<_>>>()?;
        let addresses =
            listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let count = if options.workers == 0 { cores() } else { options.workers };
        let mut workers = Vec::with_capacity(count);
        let mut desks = Vec::with_capacity(count);
        for number in 0..count {
            let (worker, desk) = start_worker(number, options, service.clone(), env, status)?;
            workers.push(worker);
            desks.push(desk);
        }
        let (stop, stopped) = watch::channel(false);
        let mut acceptors = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let door = Accept {
                desks: desks.clone(),
                next: 0,
                connections_max: options.connections_max,
                limits: options.limits.clone(),
                memory: options.memory.clone(),
                secret: options.tls.is_some(),
                env: env.clone(),
                status: status.clone(),
                refusals: Arc::default(),
            };
            let run = door.run(listener, stopped.clone());
            acceptors.push(env.spawn("accept http connections", run));
        }
        let (status, env) = (status.clone(), env.clone());
        let drain_timeout = options.drain_timeout;
        Ok(Self { addresses, workers, acceptors, stop, status, env, drain_timeout })
    }

    /// The bound addresses, in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends the server: says so in [`Status`], stops to accept, closes idle connections, lets
    /// requests in flight end within the drain time-out, cuts off the rest.
    pub async fn shutdown(self) {
        self.status.set_draining();
        self.stop.send_replace(true);
        for acceptor in self.acceptors {
            if acceptor.await.is_err() {
                tracing::error!("an accepting task panicked");
            }
        }
        self.workers.iter().for_each(|worker| worker.ward.drain());
        tokio::select! {
            () = self.status.closed() => {}
            () = self.env.sleep(self.drain_timeout) => {
                tracing::warn!(open = self.status.open(), "cut off requests that do not end");
                self.workers.iter().for_each(|worker| worker.ward.cut());
            }
        }
        for worker in self.workers {
            // A handler that blocks its thread cannot be cut off: leave it behind.
            tokio::select! {
                _ = worker.ended => if worker.thread.join().is_err() {
                    tracing::error!("an http worker panicked");
                },
                () = self.env.sleep(Duration::from_secs(1)) => {
                    tracing::error!("an http worker hangs; leave it behind");
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the kernel to forget the connections of before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let in_context =
        |error: io::Error| io::Error::new(error.kind(), format!("listen on {address}: {error}"));
    socket.bind(&address.into()).map_err(in_context)?;
    socket.listen(BACKLOG).map_err(in_context)?;
    TcpListener::from_std(socket.into())
}

fn start_worker<S: Service>(
    number: usize,
    options: &ServeOptions,
    service: S,
    env: &Env,
    status: &Status,
) -> io::Result<(Worker, Desk)> {
    let (handover, visitors) = mpsc::channel(HANDOVER_MAX);
    let (ended, has_ended) = oneshot::channel();
    let ward = Arc::<Ward>::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("larder-files")
        // Called on those threads alone: the worker is a thread of ours.
        .on_thread_start(step_back)
        .enable_all()
        .build()?;
    let bench = Bench {
        ward: ward.clone(),
        options: options.clone(),
        env: env.clone(),
        status: status.clone(),
    };
    let thread = thread::Builder::new().name(format!("larder-http-{number}")).spawn(move || {
        runtime.block_on(bench.work(visitors, service));
        drop(runtime);

        drop(ended);
    })?;
    let worker = Worker { ward, ended: has_ended, thread };
    Ok((worker, Desk { load: Arc::default(), handover }))
}

/// Lets the workers go before this thread where there are more threads than processors.
fn step_back() {
    let nicer = |now: i32| setpriority_process(None, now.saturating_add(BLOCKING_NICENESS));
    if let Err(error) = getpriority_process(None).and_then(nicer) {
        tracing::debug!(%error, "a thread for files is as urgent as requests");
    }
}

/// What a worker works with.
struct Bench {
    ward: Arc<Ward>,
    options: ServeOptions,
    env: Env,
    status: Status,
}

impl Bench {
    async fn work<S: Service>(self, mut visitors: mpsc::Receiver<Visitor>, service: S) {
        let host = Arc::new(Host {
            builder: connection::builder(&self.options),
            service,
            tls: self.options.tls.clone(),
            env: self.env.clone(),
            status: self.status.clone(),
        });
        let (ward, env, options) = (self.ward.clone(), self.env.clone(), self.options.clone());
        let status = self.status.clone();
        let sweeps = self.env.spawn("watch http connections", async move {
            loop {
                env.sleep(options.sweep_interval()).await;
                ward.sweep(env.monotonic(), &options, &status);
            }
        });
        let open = Arc::new(AtomicUsize::new(0));
        let closed = Arc::new(tokio::sync::Notify::new());
        while let Some(visitor) = visitors.recv().await {
            let Visitor { stream, peer, load, place, seat, memory } = visitor;
            // Without it a small answer may wait 40 ms for the client's delayed ack.
            let stream = stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream));
            let Ok(stream) = stream else { continue };
            // A kernel that cannot only takes more memory for slow clients.
            SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX).ok();
            let stay = self.ward.admit(self.env.monotonic());
            let host = host.clone();
            let here = Load::on(&open);
            let closed = closed.clone();
            self.env.spawn("serve an http connection", async move {
                connection::serve(&host, stream, peer, stay).await;
                drop((here, load, seat, memory, place));
                closed.notify_one();
            });
        }
        while open.load(Relaxed) > 0 {
            closed.notified().await;
        }
        sweeps.abort();
    }
}

/// The accepting task of one listener.
struct Accept {
    desks: Vec<Desk>,
    next: usize,
    connections_max: usize,
    limits: Option<Limits>,
    memory: Memory,
    /// Whether TLS is spoken, so that no plain words can be said.
    secret: bool,
    env: Env,
    status: Status,
    refusals: Arc<AtomicUsize>,
}

impl Accept {
    async fn run(mut self, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopped.changed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    // Out of file descriptors, or a client that left already: neither may spin.
                    tracing::warn!(%error, "accept a connection");
                    self.env.sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Before the place that it would take from others.
        let seat = self.limits.as_ref().map(|limits| limits.sit(peer));
        if seat.as_ref().is_some_and(Option::is_none) {
            return self.refuse(stream, REFUSAL_OF_ADDRESS);
        }
        let seat = seat.flatten();
        let Some(place) = self.status.take(self.connections_max) else {
            return self.refuse(stream, REFUSAL);
        };
        // What clients hold that are slow must not keep others out, so this does not wait its
        // turn: slow clients make room for it.
        let most = self.memory.budget() / 4 * 3;
        if self.memory.used_for(Use::Connections) + CONNECTION_BYTES > most {
            return self.refuse(stream, REFUSAL);
        }
        let memory = self.memory.charge(Use::Connections, CONNECTION_BYTES);
        let Some(desk) = self.choose() else { return };
        let load = Load::on(&desk.load);
        let Ok(stream) = stream.into_std() else { return };
        let visitor = Visitor { stream, peer, load, place, seat, memory };
        if desk.handover.try_send(visitor).is_err() {
            tracing::warn!(%peer, "drop a connection: its worker is overrun");
        }
    }

    /// The desk with the fewest connections; of several, in turn.
    fn choose(&mut self) -> Option<Desk> {
        self.next = self.next.wrapping_add(1);
        let count = self.desks.len().max(1);
        let in_turn = (0..count).filter_map(|i| self.desks.get((self.next + i) % count));
        in_turn.min_by_key(|desk| desk.load.load(Relaxed)).cloned()
    }

    fn refuse(&self, mut stream: TcpStream, words: &'static [u8]) {
        if self.secret || self.refusals.load(Relaxed) >= REFUSALS_MAX {
            return;
        }
        let load = Load::on(&self.refusals);
        let env = self.env.clone();
        self.env.spawn("turn a connection away", async move {
            let _load = load;
            let answer = async {
                stream.write_all(words).await?;
                stream.shutdown().await?;
                // Reading on keeps the kernel from resetting what the client has not read yet.
                let mut scratch = [0; 1024];
                while stream.read(&mut scratch).await? > 0 {}
                io::Result::Ok(())
            };
            tokio::select! {
                // If the client is gone it needs no answer.
                result = answer => drop(result),
                () = env.sleep(Duration::from_secs(1)) => {}
            }
        });
    }
}
