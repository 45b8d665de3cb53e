//! `larder get` and `larder cat`: downloads files and trees.
//!
//! `get home:/name FILE` becomes that file or goes into an existing directory, `get -r home:/dir
//! DIR` makes `DIR` have what `home:/dir` has; with several sources each goes into the local
//! directory under its own name.
//!
//! Promises: a file appears under its name only when all of it has arrived and its length and
//! digest agree with the server's; until then it is a `.larder-part-` file beside it, which is
//! removed on failure. No name from a server leads out of the directory that was asked for.
//!
//! Not here: large files by parallel ranges.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::header::{CONTENT_LENGTH, ETAG};
use indicatif::ProgressBar;
use larder_base::{
    Env, ErrorKind,
    digest::{Sha256, Sha256Stream},
};
use serde::Deserialize as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Context,
    path::{Place, Remote},
};
use crate::{
    args::{CatArgs, GetArgs},
    client::{
        Answer,
        api::{Entry, Kind, in_space, sha256_of_header},
        body::PIECES,
        error::{Cause, ClientError, Result},
    },
    output::{Failures, summarize},
};

/// Files up to this size are collected in memory and written at once.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Runs `larder get`.
pub(crate) async fn run(context: &Context, args: &GetArgs) -> Result<()> {
    let (remotes, local) = match args.paths.split_last() {
        Some((last, rest)) if !rest.is_empty() => match Place::parse(last) {
            Place::Local(local) => (rest, local),
            Place::Remote(_) => (args.paths.as_slice(), PathBuf::from(".")),
        },
        _ => (args.paths.as_slice(), PathBuf::from(".")),
    };
    let remotes = remotes.iter().map(|text| Remote::parse(text)).collect::<Result<Vec<_>>>()?;
    if local == Path::new("-") {
        let cat = CatArgs {
            paths: remotes.iter().map(ToString::to_string).collect(),
            revision: args.revision.clone(),
        };
        return self::cat(context, &cat).await;
    }
    let into =
        remotes.len() > 1 || is_dir(&local) || local.as_os_str().as_encoded_bytes().ends_with(b"/");
    let mut get = Get::new(context, args);
    for remote in &remotes {
        let done = get.one(remote, &local, into, remotes.len()).await;
        if let Err(error) = done {
            get.failures.add(&context.out, &error.about(remote));
        }
    }
    get.finish()
}

/// Runs `larder cat`.
pub(crate) async fn cat(context: &Context, args: &CatArgs) -> Result<()> {
    for path in &args.paths {
        let remote = Remote::parse(path)?;
        let revision = args.revision.as_deref();
        print(context, &remote, revision).await.map_err(|error| error.about(&remote))?;
    }
    Ok(())
}

async fn print(context: &Context, remote: &Remote, revision: Option<&str>) -> Result<()> {
    let mut answer = context.client.open(&remote.space, &remote.path, revision).await?;
    let mut digest = Sha256Stream::default();
    let mut length = 0;
    while let Some(piece) = answer.piece().await? {
        digest.update(&piece);
        length += piece.len() as u64;
        context.out.bytes(&piece)?;
    }
    let whole = Whole { length, digest: digest.finish() };
    verify(context, remote, revision, None, &Promise::of(&answer), whole).await
}

fn is_dir(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

struct Get<'c> {
    context: &'c Context,
    args: &'c GetArgs,
    bar: ProgressBar,
    failures: Failures,
    files: u64,
    bytes: u64,
    started: std::time::Duration,
}

/// A file to download.
struct Job {
    remote: Remote,
    local: PathBuf,
    /// From the listing it was found in.
    known: Option<Entry>,
}

impl<'c> Get<'c> {
    fn new(context: &'c Context, args: &'c GetArgs) -> Self {
        Self {
            context,
            args,
            bar: context.out.progress(),
            failures: Failures::default(),
            files: 0,
            bytes: 0,
            started: context.client.env().monotonic(),
        }
    }

    async fn one(&mut self, remote: &Remote, local: &Path, into: bool, count: usize) -> Result<()> {
        let is_tree = self.args.recursive
            && (remote.path.is_empty() || {
                let (_, entry) = self.context.client.stat(&remote.space, &remote.path).await?;
                entry.kind == Kind::Dir
            });
        let name = remote.name().unwrap_or(&remote.space);
        if is_tree {
            let local = if count > 1 { local.join(name) } else { local.to_owned() };
            return self.tree(remote, &local).await;
        }
        if remote.path.is_empty() {
            return Err(ClientError::usage("a whole space; -r downloads it"));
        }
        let local = if into { local.join(name) } else { local.to_owned() };
        let job = Job { remote: remote.clone(), local, known: None };
        let done = download(self.context, self.args, &self.bar, job).await;
        self.note(done)
    }

    /// Downloads everything below `base`, page by page.
    async fn tree(&mut self, base: &Remote, local: &Path) -> Result<()> {
        make_dirs(local)?;
        let parallel = usize::from(self.args.parallel.parallel);
        let list =
            format!("{}?recursive=true&limit=1000", in_space(&base.space, "list", &base.path));
        let (context, args) = (self.context, self.args);
        let bar = self.bar.clone();
        let mut running = FuturesUnordered::new();
        let mut made = HashSet::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = context.client.page(&list, cursor.as_deref()).await?;
            for value in &page.entries {
                let entry = Entry::deserialize(value).map_err(|error| {
                    ClientError::bad_answer(format!("the listing is not understood: {error}"))
                })?;
                let target = match place_for(base, &entry, local) {
                    Ok(target) => target,
                    Err(error) => {
                        self.failures.add(&context.out, &error);
                        continue;
                    }
                };
                let dir = if entry.kind == Kind::Dir { Some(&*target) } else { target.parent() };
                if let Some(dir) = dir
                    && !made.contains(dir)
                {
                    made.insert(dir.to_owned());
                    make_dirs(dir)?;
                }
                if entry.kind != Kind::File {
                    continue;
                }
                bar.inc_length(entry.size);
                let remote = Remote {
                    space: base.space.clone(),
                    path: entry.path.trim_start_matches('/').to_owned(),
                    is_dir: false,
                };
                let job = Job { remote, local: target, known: Some(entry) };
                running.push(download(context, args, &bar, job));
                if running.len() >= parallel
                    && let Some(done) = running.next().await
                {
                    self.note(done)?;
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        while let Some(done) = running.next().await {
            self.note(done)?;
        }
        Ok(())
    }

    fn note(&mut self, done: Result<(Job, u64)>) -> Result<()> {
        match done {
            Ok((job, length)) => {
                self.files += 1;
                self.bytes += length;
                if self.context.out.is_json() {
                    self.context.out.object(&json!({
                        "remote": job.remote.to_string(),
                        "local": job.local.to_string_lossy(),
                        "size": length,
                    }))?;
                }
                Ok(())
            }
            Err(error) if error.is_hopeless() => Err(error),
            Err(error) => {
                self.failures.add(&self.context.out, &error);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        let took = self.context.client.env().monotonic() - self.started;
        summarize(&self.context.out, (self.files, self.bytes), took, self.failures.count());
        self.failures.finish()
    }
}

/// Where an entry below `base` goes in `local`.
fn place_for(base: &Remote, entry: &Entry, local: &Path) -> Result<PathBuf> {
    let path = entry.path.trim_start_matches('/');
    let below = if base.path.is_empty() {
        Some(path)
    } else {
        path.strip_prefix(base.path.as_str()).and_then(|rest| rest.strip_prefix('/'))
    };
    let is_safe = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    match below {
        Some(below) if below.split('/').all(is_safe) => Ok(local.join(below)),
        _ => Err(ClientError::bad_answer("the server lists a name that cannot be a local one")
            .about(crate::output::printable(&entry.path))),
    }
}

fn make_dirs(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| ClientError::local(path, error))
}

/// Downloads one file to its place.
async fn download(
    context: &Context,
    args: &GetArgs,
    bar: &ProgressBar,
    job: Job,
) -> Result<(Job, u64)> {
    let done = download_to(context, args, bar, &job).await;
    let length = done.map_err(|error| explain(error).about(&job.remote))?;
    Ok((job, length))
}

/// Adds what the user can do about an error.
fn explain(mut error: ClientError) -> ClientError {
    if let Cause::Problem(problem) = &mut error.cause
        && problem.kind == ErrorKind::WrongType
    {
        problem.advise("-r downloads directories");
    }
    error
}

async fn download_to(
    context: &Context,
    args: &GetArgs,
    bar: &ProgressBar,
    job: &Job,
) -> Result<u64> {
    let Job { remote, local, known } = job;
    let revision = args.revision.as_deref();
    let mut answer = context.client.open(&remote.space, &remote.path, revision).await?;
    let promise = Promise::of(&answer);
    if known.is_none() {
        // What comes from a listing is in the bar's length already.
        bar.inc_length(promise.length.unwrap_or(0));
    }
    let (part, whole) = if promise.length.is_some_and(|length| length <= SMALL_BYTES_MAX) {
        let bytes = answer.bytes(SMALL_BYTES_MAX as usize).await?;
        bar.inc(bytes.len() as u64);
        write_small(context.client.env(), local, bytes).await?
    } else {
        write_large(context.client.env(), local, &mut answer, bar).await?
    };
    let length = whole.length;
    verify(context, remote, revision, known.as_ref(), &promise, whole).await?;
    part.keep(local, args.no_overwrite).map_err(|error| ClientError::local(local, error))?;
    Ok(length)
}

/// What has arrived.
struct Whole {
    length: u64,
    digest: Sha256,
}

async fn write_small(env: &Env, local: &Path, bytes: Bytes) -> Result<(Part, Whole)> {
    let part = Part::beside(env, local);
    let write = move || -> io::Result<(Part, Whole)> {
        let whole = Whole { length: bytes.len() as u64, digest: Sha256::of(&bytes) };
        part.create()?.write_all(&bytes)?;
        Ok((part, whole))
    };
    finish(tokio::task::spawn_blocking(write).await, local)
}

async fn write_large(
    env: &Env,
    local: &Path,
    answer: &mut Answer<'_>,
    bar: &ProgressBar,
) -> Result<(Part, Whole)> {
    let part = Part::beside(env, local);
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES * 2);
    let write = move || -> io::Result<(Part, Whole)> {
        let mut file = part.create()?;
        let mut digest = Sha256Stream::default();
        let mut length = 0;
        while let Some(piece) = pieces.blocking_recv() {
            digest.update(&piece);
            length += piece.len() as u64;
            file.write_all(&piece)?;
        }
        Ok((part, Whole { length, digest: digest.finish() }))
    };
    let writer = tokio::task::spawn_blocking(write);
    let received = loop {
        match answer.piece().await {
            Ok(Some(piece)) => {
                bar.inc(piece.len() as u64);
                // A writer that has failed says why itself.
                if sender.send(piece).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(sender);
    let written = finish(writer.await, local);
    received.and(written)
}

fn finish<T>(written: Result<io::Result<T>, tokio::task::JoinError>, local: &Path) -> Result<T> {
    written
        .map_err(|error| ClientError::bad_answer(format!("write the file: {error}")))?
        .map_err(|error| ClientError::local(local, error))
}

/// What the server has said about the bytes it sends.
struct Promise {
    length: Option<u64>,
    etag: Option<String>,
    digest: Option<Sha256>,
}

impl Promise {
    fn of(answer: &Answer<'_>) -> Self {
        let headers = answer.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let digest = headers.get("repr-digest").or_else(|| headers.get("content-digest"));
        Self {
            length: text(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            etag: text(ETAG).map(bare_etag),
            digest: digest.and_then(sha256_of_header),
        }
    }
}

fn bare_etag(text: &str) -> String {
    text.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Compares what has arrived with what the server says it has.
async fn verify(
    context: &Context,
    remote: &Remote,
    revision: Option<&str>,
    known: Option<&Entry>,
    promise: &Promise,
    whole: Whole,
) -> Result<()> {
    if let Some(length) = promise.length
        && length != whole.length
    {
        return Err(ClientError::damaged(format!("{} bytes arrived of {length}", whole.length)));
    }
    let of_entry = |entry: &Entry| {
        let same = entry.etag.as_deref().map(bare_etag) == promise.etag && promise.etag.is_some();
        same.then(|| entry.sha256.clone()).flatten()
    };
    let mut expected = promise.digest.map(|digest| digest.to_string());
    expected = expected.or_else(|| known.and_then(of_entry));
    if expected.is_none() && revision.is_none() {
        // The content may have changed since; then there is nothing to compare with.
        let stat = context.client.stat(&remote.space, &remote.path).await;
        expected = stat.ok().and_then(|(_, entry)| of_entry(&entry));
    }
    let Some(expected) = expected else {
        tracing::debug!(%remote, "the server has no digest to compare with");
        return Ok(());
    };
    let digest = whole.digest.to_string();
    if expected.eq_ignore_ascii_case(&digest) {
        return Ok(());
    }
    Err(ClientError::damaged(format!(
        "checksum mismatch: the server has sha256 {expected}, but {digest} arrived"
    )))
}

/// A file that is not complete; it is removed unless it is kept.
struct Part {
    path: PathBuf,
}

impl Part {
    fn beside(env: &Env, local: &Path) -> Self {
        let mut random = [0; 8];
        env.fill_random(&mut random);
        let name = format!(".larder-part-{:016x}", u64::from_le_bytes(random));
        Self { path: local.with_file_name(name) }
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(&self.path)
    }

    /// Gives the file its name.
    #[expect(clippy::disallowed_methods, reason = "a user's own copy, not served data")]
    fn keep(self, local: &Path, no_overwrite: bool) -> io::Result<()> {
        if no_overwrite {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &self.path, CWD, local, RenameFlags::NOREPLACE)?;
        } else {
            std::fs::rename(&self.path, local)?;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when it has been kept.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.to_owned(),
            kind: Kind::File,
            size: 0,
            etag: None,
            sha256: None,
            modified: None,
        }
    }

    #[test]
    fn names_from_a_server_never_lead_out_of_the_directory() {
        let base = Remote::parse("home:/dir").expect("remote");
        let place = |path: &str| place_for(&base, &entry(path), Path::new("/out"));
        assert_eq!(place("dir/a/b").expect("safe"), Path::new("/out/a/b"));
        assert_eq!(place("/dir/a").expect("safe"), Path::new("/out/a"));
        for path in ["dir/../x", "dir//x", "dir/./x", "other/x", "directory/x", "dir/a\0", "dir"] {
            let error = place(path).expect_err(path);
            assert_eq!(error.exit_code(), 1, "{path}");
        }
        let root = Remote::parse("home:").expect("remote");
        let place = place_for(&root, &entry("/a"), Path::new("/out")).expect("safe");
        assert_eq!(place, Path::new("/out/a"));
    }

    #[test]
    fn a_part_that_is_not_kept_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let local = dir.path().join("file");
        let env = Env::system();
        let part = Part::beside(&env, &local);
        part.create().expect("create").write_all(b"new").expect("write");
        drop(part);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);

        std::fs::write(&local, "old").expect("write");
        let part = Part::beside(&env, &local);
        part.create().expect("create").write_all(b"new").expect("write");
        part.keep(&local, true).expect_err("it is there");
        assert_eq!(std::fs::read(&local).expect("read"), b"old");
        let part = Part::beside(&env, &local);
        part.create().expect("create").write_all(b"new").expect("write");
        part.keep(&local, false).expect("replace");
        assert_eq!(std::fs::read(&local).expect("read"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
