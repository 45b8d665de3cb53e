//! A real `larder serve`: started, killed, started again, watched.
//!
//! Promises: the process is on ports of its own on loopback and ends with its [`Server`]; what it
//! logs is kept beside its data, and a line at level ERROR or a panic that the test did not
//! announce fails the test.
//! Relies on: the line `larder ready http=ADDRESS s3=ADDRESS` (or `https=`) on standard output.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{client::Client, tool};

/// The administrator of every server here.
pub const USER: &str = "root";
/// The administrator's password.
pub const PASSWORD: &str = "not-a-secret-at-all";

const START_PATIENCE: Duration = Duration::from_secs(60);
const EXIT_PATIENCE: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where its data are; `None` is a folder of the test's own that goes with the server.
    pub data: Option<PathBuf>,
    /// Variables of its environment, on top of the usual ones.
    pub env: Vec<(String, String)>,
    /// A command to run it under, such as `strace -D ...`.
    pub under: Vec<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// Parts of ERROR lines that are to be expected.
    pub allowed: Vec<String>,
}

impl Options {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(found, _)| found != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Expects ERROR lines that contain `part`.
    #[must_use]
    pub fn allow(mut self, part: &str) -> Self {
        self.allowed.push(part.to_owned());
        self
    }

    /// Keeps its data in `dir`.
    #[must_use]
    pub fn data(mut self, dir: &Path) -> Self {
        self.data = Some(dir.to_owned());
        self
    }

    /// Runs it under a command; the process itself must stay ours.
    #[must_use]
    pub fn under<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.under = words.into_iter().map(Into::into).collect();
        self
    }

    /// Starts it; the test fails if it does not become ready.
    #[track_caller]
    pub fn start(self) -> Server {
        let dir = TempDir::with_prefix("larder-e2e-").expect("make a folder");
        let data = self.data.clone().unwrap_or_else(|| dir.path().join("data"));
        let log = dir.path().join("log");
        let mut server = Server { options: self, dir, data, log, process: None };
        if let Err(why) = server.try_start() {
            panic!("{why}");
        }
        server
    }
}

/// A server, running or between two runs.
#[derive(Debug)]
pub struct Server {
    options: Options,
    dir: TempDir,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    addr: SocketAddr,
    s3: SocketAddr,
    ready: Duration,
}

impl Server {
    /// A server on an empty folder.
    #[track_caller]
    pub fn start() -> Self {
        Options::default().start()
    }

    /// How it is started the next time.
    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Where its data are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder for the test's own files, which goes with the server.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.running().child)
    }

    /// Where it listens.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        self.running().addr
    }

    /// Where it listens for S3 clients; their key pair is [`USER`] and [`PASSWORD`].
    #[track_caller]
    pub fn s3(&self) -> SocketAddr {
        self.running().s3
    }

    /// How long the last start took until it was ready.
    #[track_caller]
    pub fn ready_after(&self) -> Duration {
        self.running().ready
    }

    #[track_caller]
    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server is running")
    }

    /// A client of the administrator.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::new(self.addr(), USER, PASSWORD)
    }

    /// Starts it again; the test fails if it does not become ready.
    #[track_caller]
    pub fn restart(&mut self) {
        if let Err(why) = self.try_start() {
            panic!("{why}");
        }
    }

    /// Starts it; `Err` has its status and what it said if it ended instead of becoming ready.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "it is running already");
        let log = self.open_log();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let started = Instant::now();
        let mut child = command.spawn().map_err(|error| format!("start {command:?}: {error}"))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let ready = watch(stdout, self.open_log());
        match ready.recv_timeout(START_PATIENCE) {
            Ok((addr, s3)) => {
                self.process = Some(Process { child, addr, s3, ready: started.elapsed() });
                Ok(())
            }
            Err(why) => {
                // It may have ended by itself; if not, it must.
                child.kill().ok();
                let status = child.wait();
                Err(format!("not ready ({why}), {status:?}; it said:\n{}", self.log_tail()))
            }
        }
    }

    fn command(&self) -> Command {
        let mut words = self.options.under.clone();
        words.push(binary().to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["serve", "--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data"])
            .arg(&self.data)
            .args(&self.options.args)
            .env("LARDER_ROOT_USER", USER)
            .env("LARDER_ROOT_PASSWORD", PASSWORD)
            .env("RUST_BACKTRACE", "1")
            .envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).expect("open the log")
    }

    /// All it has said so far, in every run.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let routine = |line: &&str| {
            line.contains("larder::access") || line.contains("answer a request with an error")
        };
        let lines: Vec<&str> = log.lines().filter(|line| !routine(line)).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Whether the process is still the one that was started last.
    pub fn is_alive(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// Ends it as a crash would, now.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the server is running");
        process.child.kill().expect("kill the server");
        process.child.wait().expect("wait for the server");
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server is running");
        let mut status = None;
        let ended = tool::wait_until(EXIT_PATIENCE, || {
            status = process.child.try_wait().expect("look at the server");
            status.is_some()
        });
        if !ended {
            process.child.kill().ok();
            process.child.wait().ok();
            panic!("the server did not end; it said:\n{}", self.log_tail());
        }
        status.expect("it has ended")
    }

    /// Asks it to end.
    #[track_caller]
    pub fn sigterm(&self) {
        kill_process(self.pid(), Signal::TERM).expect("signal the server");
    }

    /// Asks it to look for a new certificate.
    #[track_caller]
    pub fn sighup(&self) {
        kill_process(self.pid(), Signal::HUP).expect("signal the server");
    }

    /// Asks it to end, and asserts that it does with status 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.sigterm();
        let status = self.wait_exit();
        assert!(status.success(), "{status}; it said:\n{}", self.log_tail());
    }

    /// Memory it has in use now and had at most, in bytes.
    #[track_caller]
    pub fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("read the status of the server");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        };
        (kib("VmRSS:").unwrap_or(0) << 10, kib("VmHWM:").unwrap_or(0) << 10)
    }

    /// Lines at level ERROR, and panics, that the test has not announced.
    pub fn unexpected(&self) -> Vec<String> {
        let log = self.log();
        let bad = |line: &str| {
            let plain = line.replace("\u{1b}[31m", " ").replace("\u{1b}[0m", " ");
            let error = plain.contains(" ERROR ") || plain.contains("\"level\":\"ERROR\"");
            error || plain.contains("panicked at")
        };
        let allowed = |line: &str| self.options.allowed.iter().any(|part| line.contains(part));
        log.lines().filter(|line| bad(line) && !allowed(line)).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // If it has ended already, that is what was wanted.
            process.child.kill().ok();
            process.child.wait().ok();
        }
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the runner shows it with the failed test")]
            {
                eprintln!("the server said:\n{}", self.log_tail());
            }
        } else {
            let unexpected = self.unexpected();
            assert!(unexpected.is_empty(), "the server logged:\n{}", unexpected.join("\n"));
        }
    }
}

/// The program under test: `LARDER_BIN`, or what cargo has built beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("LARDER_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("this test is a file");
    let dir = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
    let path = dir.join("larder");
    assert!(path.is_file(), "{} is missing: cargo build -p larder", path.display());
    path
}

/// Runs a command that must end by itself soon, such as a server that must not start.
#[track_caller]
pub fn must_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start the program");
    let ended = || matches!(child.try_wait(), Ok(Some(_)));
    if !tool::wait_until(EXIT_PATIENCE / 3, ended) {
        child.kill().ok();
        panic!("it goes on: {:?}", child.wait_with_output());
    }
    child.wait_with_output().expect("read what it said")
}

/// The program under test as a client of `server`, ready for its verb.
#[track_caller]
pub fn cli(server: &Server) -> Command {
    let mut command = Command::new(binary());
    command
        .env("LARDER_URL", format!("http://{}", server.addr()))
        .env("LARDER_USER", USER)
        .env("LARDER_PASSWORD", PASSWORD)
        .env("HOME", server.scratch())
        .stdin(Stdio::null());
    command
}

/// Keeps what the server says, and passes on the address once it is ready.
fn watch(
    stdout: std::process::ChildStdout,
    mut log: File,
) -> mpsc::Receiver<(SocketAddr, SocketAddr)> {
    let (send, receive) = mpsc::sync_channel(1);
    let reader = thread::Builder::new().name("server-output".to_owned());
    let read = move || {
        let mut send = Some(send);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let ready = line.strip_prefix("larder ready ").and_then(|rest| {
                let address = |names: &[&str]| {
                    let mut words = rest.split_whitespace();
                    words.find_map(|word| {
                        names.iter().find_map(|name| word.strip_prefix(name))?.parse().ok()
                    })
                };
                address(&["https=", "http="]).zip(address(&["s3="]))
            });
            if let (Some(addresses), Some(send)) = (ready, send.take_if(|_| ready.is_some())) {
                // Nobody waits any more if the test has given up.
                send.send(addresses).ok();
            }
            // The log is for people: a full disk must not end the test here.
            writeln!(log, "{line}").ok();
        }
    };
    reader.spawn(read).expect("start a thread");
    receive
}
