//! Uploads of large files that survive a broken connection, a restart of the server, and an end
//! of this program.
//!
//! The file goes up in an upload session. When the connection breaks, the server is asked how far
//! it is, and sending goes on from there. Which session belongs to which file stands in a small
//! state file (`larder/uploads` in `XDG_STATE_HOME` or `~/.local/state`) until the upload is done,
//! so that the same command given again goes on too.
//!
//! Promises: a session is only continued for the file it was begun for: the same path, size and
//! time of change, to the same place of the same server. Two programs never share a session (the
//! state file is locked). Tries without any progress are bounded, with growing pauses. A file
//! that changes while it is sent is an error, never a mixture.
//!
//! Not here: what is sent over the wire (`client::uploads`).

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::ProgressBar;
use larder_base::{
    ErrorKind,
    digest::{Sha256, Sha256Stream},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Context, path::Remote};
use crate::client::{
    body::{Moved, Payload},
    error::{Cause, ClientError, Result},
    target::Environment,
};

/// Tries that bring nothing forward before an upload is given up: a server may be restarting.
const ATTEMPTS_MAX: u32 = 11;
/// The same before anything was begun: then there is nothing to be lost.
const ATTEMPTS_TO_BEGIN: u32 = 4;
/// First pause between two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Where the state of uploads is kept, if the environment says so.
pub(crate) fn state_dir(environment: &Environment) -> Option<PathBuf> {
    let variable =
        |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| home.join(".local/state"));
    Some(variable("XDG_STATE_HOME").or_else(home)?.join("larder").join("uploads"))
}

/// What identifies the content of a local file, short of reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    size: u64,
    modified: i64,
    modified_nanos: i64,
}

impl Version {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| ClientError::local(path, error))?;
        Ok(Self {
            size: metadata.len(),
            modified: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
        })
    }
}

/// A session that was begun, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    upload: String,
    server: String,
    local: PathBuf,
    remote: String,
    version: Version,
}

/// The state file of one upload, locked.
#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    file: File,
}

impl StateFile {
    /// Opens the file for this upload; `None` if there is no place for it, or if another program
    /// is at it: then the upload is simply not continued later.
    fn open(dir: &Path, begun: &Begun) -> Option<Self> {
        let name = [&begun.server, &*begun.local.to_string_lossy(), &begun.remote].join("\0");
        let path = dir.join(format!("{}.json", &Sha256::of(name.as_bytes()).to_string()[..32]));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).ok()?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(0o600).open(&path).ok()?;
        file.try_lock().ok()?;
        Some(Self { path, file })
    }

    /// What it says; nothing if it is new or was not written to its end.
    fn read(&mut self) -> Option<Begun> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        std::io::Read::by_ref(&mut self.file).take(1 << 20).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&mut self, begun: &Begun) -> std::io::Result<()> {
        let text = serde_json::to_string(begun)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }

    fn remove(self) {
        // What stays behind is found to be of no use by the next upload.
        fs::remove_file(&self.path).ok();
    }
}

/// What is uploaded.
#[derive(Debug)]
pub(super) struct Large<'a> {
    /// From where.
    pub(super) local: &'a Path,
    /// To where.
    pub(super) remote: &'a Remote,
    /// Bytes.
    pub(super) length: u64,
    /// Fail where a file exists.
    pub(super) no_overwrite: bool,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Uploaded {
    /// The entry, as the server wrote it.
    pub(super) answer: Value,
    /// Digest of what was sent, if the server has one to compare it with.
    pub(super) sent: Option<Sha256>,
}

/// Uploads a large file by a session.
pub(super) async fn put(
    context: &Context,
    bar: ProgressBar,
    large: &Large<'_>,
) -> Result<Uploaded> {
    let local = fs::canonicalize(large.local);
    let begun = Begun {
        upload: String::new(),
        server: context.client.url().to_owned(),
        local: local.map_err(|error| ClientError::local(large.local, error))?,
        remote: large.remote.to_string(),
        version: Version::of(large.local)?,
    };
    if begun.version.size != large.length {
        return Err(changed());
    }
    let state = context.state_dir.as_deref().and_then(|dir| StateFile::open(dir, &begun));
    let mut run = Run { context, large, begun, state, bar, shown: 0, failures: 0 };
    let done = run.upload().await;
    match &done {
        Ok(_) => run.forget(),
        // It can never become what the user wants.
        Err(error) if error.kind() == Some(ErrorKind::Precondition) || is_changed(error) => {
            run.abort().await;
        }
        Err(_) => {}
    }
    done
}

/// One upload under way.
struct Run<'a> {
    context: &'a Context,
    large: &'a Large<'a>,
    begun: Begun,
    state: Option<StateFile>,
    bar: ProgressBar,
    /// Bytes of this file that the bar shows.
    shown: u64,
    /// Tries since something last moved.
    failures: u32,
}

impl Run<'_> {
    async fn upload(&mut self) -> Result<Uploaded> {
        let mut digest = None;
        let mut offset = self.find().await?;
        let mut restarts = 0;
        while let Some(at) = offset {
            self.show(at);
            if Version::of(self.large.local)? != self.begun.version {
                return Err(changed());
            }
            offset = match self.step(at, &mut digest).await {
                Err(error) if is_gone(&error) && restarts == 0 => {
                    restarts += 1;
                    let remote = self.large.remote;
                    let what = "the upload has expired, starting again";
                    self.context.out.note(format_args!("{remote}: {what}"));
                    self.begin().await?;
                    Some(0)
                }
                next => next?,
            };
        }
        self.show(self.large.length);
        let answer = loop {
            match self.context.client.upload_result(&self.begun.upload).await {
                Ok(answer) => break answer,
                Err(error) => self.pause(error).await?,
            }
        };
        let known = answer.get("sha256").is_some_and(Value::is_string);
        let sent = match digest {
            Some(digest) => Some(digest),
            None if known => Some(self.digest().await?),
            None => None,
        };
        Ok(Uploaded { answer, sent })
    }

    /// Sends from `at` on, and finds out how far the upload is if that fails; where to go on,
    /// `None` if it is done.
    async fn step(&mut self, at: u64, digest: &mut Option<Sha256>) -> Result<Option<u64>> {
        match self.send(at).await {
            Ok(sent) => {
                *digest = sent.filter(|_| at == 0);
                Ok(None)
            }
            // Either we were wrong about the offset, or the file cannot be where it is to go.
            Err(error) if error.kind() == Some(ErrorKind::Conflict) => {
                let next = self.progress(at).await?;
                self.failures += 1;
                if next == Some(at) || self.failures > ATTEMPTS_MAX {
                    return Err(self.advise(error));
                }
                Ok(next)
            }
            Err(error) => {
                self.pause(error).await?;
                self.progress(at).await
            }
        }
    }

    /// Finds the session of an earlier run, or begins one; where to go on, `None` if it is done.
    async fn find(&mut self) -> Result<Option<u64>> {
        if let Some(found) = self.state.as_mut().and_then(StateFile::read) {
            self.begun.upload.clone_from(&found.upload);
            if found == self.begun {
                match self.progress(0).await {
                    Ok(Some(offset)) => {
                        self.context.out.note(format_args!(
                            "{}: going on at {offset} of {} bytes",
                            self.large.remote, self.large.length
                        ));
                        return Ok(Some(offset));
                    }
                    Ok(None) => return Ok(None),
                    // It has expired, or it was another user's.
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            } else {
                // The file is another one now: what was sent of the old one is of no use.
                self.context.client.abort_upload(&found.upload).await.ok();
            }
        }
        self.begin().await?;
        Ok(Some(0))
    }

    async fn begin(&mut self) -> Result<()> {
        let Large { remote, length, no_overwrite, .. } = *self.large;
        self.begun.upload = loop {
            let place = (remote.space.as_str(), remote.path.as_str());
            match self.context.client.begin_upload(place, length, no_overwrite).await {
                Ok(upload) => break upload,
                Err(error) => self.pause(error).await?,
            }
        };
        if let Some(state) = &mut self.state
            && let Err(error) = state.write(&self.begun)
        {
            tracing::debug!(%error, "keep the state of an upload");
            self.forget();
        }
        Ok(())
    }

    /// Sends all from `offset` on; the digest of what was sent.
    async fn send(&mut self, offset: u64) -> Result<Option<Sha256>> {
        let length = self.large.length - offset;
        let payload = Payload::Part { path: self.begun.local.clone(), offset, length };
        let moved = Moved::new(self.bar.clone());
        let upload = &self.begun.upload;
        let sent = self.context.client.append(upload, offset, payload, moved.clone()).await;
        self.shown += moved.count();
        let (progress, digest) = sent?;
        if !progress.complete {
            let detail = "the server has all bytes and no file";
            return Err(ClientError::bad_answer(detail));
        }
        Ok(digest)
    }

    /// Asks how far the upload is, patiently; `None` if it is done. `before` was known.
    async fn progress(&mut self, before: u64) -> Result<Option<u64>> {
        loop {
            match self.context.client.upload_progress(&self.begun.upload).await {
                Ok(progress) if progress.complete => return Ok(None),
                Ok(progress)
                    if progress.length.is_some_and(|length| length != self.large.length) =>
                {
                    return Err(ClientError::bad_answer("the upload has another length"));
                }
                Ok(progress) => {
                    if progress.offset > before {
                        self.failures = 0;
                    }
                    return Ok(Some(progress.offset));
                }
                Err(error) => self.pause(error).await?,
            }
        }
    }

    /// Waits before the next try, or gives up with `error`.
    async fn pause(&mut self, error: ClientError) -> Result<()> {
        self.failures += 1;
        let begun = !self.begun.upload.is_empty();
        let most = if begun { ATTEMPTS_MAX } else { ATTEMPTS_TO_BEGIN };
        if !is_passing(&error) || self.failures > most {
            return Err(self.advise(error));
        }
        if self.failures == 1 {
            self.context.out.note(format_args!("{}: {error}; trying again", self.large.remote));
        }
        let env = self.context.client.env();
        let pause = PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
        let jitter = env.random_below(pause.as_millis() as u64 / 2 + 1);
        env.sleep(pause + Duration::from_millis(jitter)).await;
        Ok(())
    }

    /// Says what the user can do when something of the file is on the server.
    fn advise(&self, mut error: ClientError) -> ClientError {
        let advice = "what was sent is kept for a while: the same command goes on from there";
        if self.state.is_some() && self.shown > 0 {
            match &mut error.cause {
                Cause::Problem(problem)
                    if !matches!(problem.kind, ErrorKind::Precondition | ErrorKind::Gone) =>
                {
                    problem.advise(advice);
                }
                Cause::NoAnswer(text) => {
                    text.push_str("; ");
                    text.push_str(advice);
                }
                _ => {}
            }
        }
        error
    }

    fn show(&mut self, offset: u64) {
        if offset >= self.shown {
            self.bar.inc(offset - self.shown);
        } else {
            self.bar.dec(self.shown - offset);
        }
        self.shown = offset;
    }

    /// The digest of the file, read once more: not all of it was sent in one go.
    async fn digest(&self) -> Result<Sha256> {
        let path = self.begun.local.clone();
        let read = move || -> std::io::Result<Sha256> {
            let mut file = File::open(&path)?;
            let mut piece = vec![0; 1 << 20];
            let mut digest = Sha256Stream::default();
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(digest.finish()),
                    read => digest.update(piece.get(..read).unwrap_or_default()),
                }
            }
        };
        let digest = tokio::task::spawn_blocking(read).await.map_err(|error| {
            ClientError::bad_answer(format!("read what was sent once more: {error}"))
        })?;
        digest.map_err(|error| ClientError::local(self.large.local, error))
    }

    async fn abort(&mut self) {
        if !self.begun.upload.is_empty() {
            // If it cannot be aborted it expires.
            self.context.client.abort_upload(&self.begun.upload).await.ok();
        }
        self.forget();
    }

    fn forget(&mut self) {
        if let Some(state) = self.state.take() {
            state.remove();
        }
    }
}

const CHANGED: &str = "the file changed while it was uploaded";

fn changed() -> ClientError {
    ClientError::damaged(CHANGED)
}

fn is_changed(error: &ClientError) -> bool {
    matches!(&error.cause, Cause::Damaged(text) if text == CHANGED)
}

fn is_gone(error: &ClientError) -> bool {
    matches!(error.kind(), Some(ErrorKind::Gone | ErrorKind::NotFound))
}

/// Whether time can mend it.
fn is_passing(error: &ClientError) -> bool {
    match &error.cause {
        Cause::NoAnswer(_) => true,
        Cause::Problem(problem) => {
            use ErrorKind::{Busy, Locked, RateLimited, Unavailable};
            matches!(problem.kind, Busy | Locked | RateLimited | Unavailable)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::{
        args::Cli,
        client::scripted::{Reply, Seen, Server, answer},
        output::Output,
    };

    /// A server with one upload session, which stores what it is sent up to `takes` bytes of each
    /// piece and then closes the connection if it did not take all.
    #[derive(Default)]
    struct Session {
        begun: u32,
        content: Vec<u8>,
        length: usize,
        takes: Option<usize>,
        gone: bool,
        aborted: Vec<String>,
    }

    impl Session {
        fn reply(&mut self, request: &Seen) -> Reply {
            let number = |name: &str| request.headers[name].parse::<usize>().expect("a number");
            let id = format!("s{}", self.begun);
            let mine = request.path.ends_with(&format!("/{id}"));
            match request.method.as_str() {
                "POST" => {
                    self.begun += 1;
                    *self = Self {
                        begun: self.begun,
                        length: number("upload-length"),
                        takes: self.takes,
                        aborted: std::mem::take(&mut self.aborted),
                        ..Self::default()
                    };
                    let location = format!("location: /v1/uploads/s{}\r\n", self.begun);
                    return Reply::Answer(answer(201, &location, b""));
                }
                "DELETE" => {
                    self.aborted.push(request.path.rsplit('/').next().unwrap_or("").to_owned());
                    return Reply::Answer(answer(204, "", b""));
                }
                _ if self.gone || !mine => {
                    return Reply::Answer(answer(410, "", b"{\"code\":\"gone\"}"));
                }
                "PATCH" => {
                    if number("upload-offset") != self.content.len() {
                        return Reply::Answer(answer(409, "", b"{\"code\":\"conflict\"}"));
                    }
                    let taken = self.takes.unwrap_or(usize::MAX).min(request.body.len());
                    self.content.extend_from_slice(&request.body[..taken]);
                    if taken < request.body.len() {
                        return Reply::HangUp;
                    }
                    let offset = self.content.len();
                    let headers = format!("upload-offset: {offset}\r\nupload-complete: ?1\r\n");
                    return Reply::Answer(answer(204, &headers, b""));
                }
                _ => {}
            }
            let done = self.content.len() == self.length;
            let digest = Sha256::of(&self.content).to_string();
            let body = json!({
                "offset": self.content.len(), "length": self.length,
                "state": if done { "completed" } else { "open" },
                "result": done.then(|| json!({ "size": self.length, "sha256": digest })),
            });
            Reply::Answer(answer(200, "", body.to_string().as_bytes()))
        }
    }

    struct Bench {
        session: Arc<Mutex<Session>>,
        server: Server,
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(takes: Option<usize>) -> Self {
            let session = Arc::new(Mutex::new(Session { takes, ..Session::default() }));
            let shared = Arc::clone(&session);
            let server =
                Server::start(move |_, request| shared.lock().expect("lock").reply(request));
            Self { session, server, dir: tempfile::tempdir().expect("temporary directory") }
        }

        fn context(&self) -> Context {
            let cli = Cli::try_parse_from(["larder", "--quiet", "gc"]).expect("valid");
            let out = Output::new("test", &cli.global, &Environment::new());
            let state_dir = Some(self.dir.path().join("state"));
            Context { client: self.server.client(), out, state_dir }
        }

        fn write(&self, content: &[u8]) -> PathBuf {
            let path = self.dir.path().join("large");
            fs::write(&path, content).expect("write");
            path
        }

        async fn put(&self, local: &Path) -> Result<Uploaded> {
            let length = fs::metadata(local).expect("metadata").len();
            let remote = Remote::parse("home:/large").expect("remote");
            let large = Large { local, remote: &remote, length, no_overwrite: false };
            put(&self.context(), ProgressBar::hidden(), &large).await
        }

        fn states(&self) -> usize {
            fs::read_dir(self.dir.path().join("state")).map_or(0, Iterator::count)
        }
    }

    #[tokio::test]
    async fn a_broken_connection_is_gone_on_from_where_the_server_is() {
        let bench = Bench::new(Some(300_000));
        let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect();
        let done = bench.put(&bench.write(&content)).await.expect("uploaded");
        assert_eq!(done.sent, Some(Sha256::of(&content)), "read again to be compared");
        let session = bench.session.lock().expect("lock");
        assert!(session.content == content, "what arrived is what was sent");
        assert_eq!((session.begun, bench.states()), (1, 0));
    }

    #[tokio::test]
    async fn the_same_command_goes_on_and_another_file_does_not() {
        let bench = Bench::new(None);
        let local = bench.write(&[7; 500_000]);
        bench.put(&local).await.expect("uploaded");
        // A run that ended in the middle has left its state and 200,000 bytes on the server.
        let remote = Remote::parse("home:/large").expect("remote");
        let begun = Begun {
            upload: "s1".to_owned(),
            server: bench.server.url.clone(),
            local: fs::canonicalize(&local).expect("a path"),
            remote: remote.to_string(),
            version: Version::of(&local).expect("a file"),
        };
        let keep = |begun: &Begun| {
            let dir = bench.dir.path().join("state");
            StateFile::open(&dir, begun).expect("a state file").write(begun).expect("write");
        };
        keep(&begun);
        bench.session.lock().expect("lock").content.truncate(200_000);
        let requests = bench.server.seen().len();
        bench.put(&local).await.expect("gone on");
        let sent: usize = bench.server.seen()[requests..].iter().map(|seen| seen.body.len()).sum();
        assert_eq!((sent, bench.session.lock().expect("lock").begun), (300_000, 1));
        // Now the file is another one.
        keep(&begun);
        bench.session.lock().expect("lock").content.truncate(200_000);
        bench.put(&bench.write(&[8; 400_000])).await.expect("uploaded anew");
        let session = bench.session.lock().expect("lock");
        assert!(session.content == [8; 400_000]);
        assert_eq!((session.begun, &*session.aborted), (2, &["s1".to_owned()][..]));
        assert_eq!(bench.states(), 0);
    }

    #[tokio::test]
    async fn an_expired_session_is_begun_anew_once() {
        let bench = Bench::new(None);
        let local = bench.write(&[7; 1000]);
        let begun = Begun {
            upload: "s0".to_owned(),
            server: bench.server.url.clone(),
            local: fs::canonicalize(&local).expect("a path"),
            remote: "home:/large".to_owned(),
            version: Version::of(&local).expect("a file"),
        };
        let dir = bench.dir.path().join("state");
        StateFile::open(&dir, &begun).expect("a state file").write(&begun).expect("write");
        bench.session.lock().expect("lock").gone = true;
        bench.put(&local).await.expect("uploaded anew");
        assert_eq!(bench.session.lock().expect("lock").begun, 1);
    }

    #[test]
    fn two_programs_do_not_share_a_session() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let begun = Begun {
            upload: "x".to_owned(),
            server: "http://h".to_owned(),
            local: "/a".into(),
            remote: "home:/a".to_owned(),
            version: Version { size: 1, modified: 2, modified_nanos: 3 },
        };
        let mut first = StateFile::open(dir.path(), &begun).expect("the first");
        assert!(StateFile::open(dir.path(), &begun).is_none());
        first.write(&begun).expect("write");
        drop(first);
        let found = StateFile::open(dir.path(), &begun).expect("free again").read();
        assert_eq!(found, Some(begun));
    }
}
