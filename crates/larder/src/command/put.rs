//! `larder put`: uploads files and trees.
//!
//! `put FILE... home:/dir/` goes into the directory, `put FILE home:/name` becomes that file,
//! `put -r DIR home:/dir` makes `home:/dir` have what `DIR` has; with several sources each goes
//! into the remote directory under its own name. Missing directories are made.
//!
//! Promises: what is reported as stored has been confirmed by the server with the digest of what
//! was sent; a failure of one file does not stop the others unless it would stop them all.
//!
//! Not here: finding and reading local files ([`super::walk`]).

use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::ProgressBar;
use larder_base::{ErrorKind, digest::Sha256};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    Context,
    path::{Place, Remote},
    resume::{self, Large, Uploaded},
    walk::{self, Job, Links, Source},
};
use crate::{
    args::PutArgs,
    client::{
        api::{Kind, PutOptions, Stored},
        body::{Moved, Payload},
        error::{Cause, ClientError, Result},
    },
    output::{Failures, summarize},
};

/// Runs `larder put`.
pub(crate) async fn run(context: &Context, args: &PutArgs) -> Result<()> {
    let (target, locals) = match args.paths.split_last() {
        Some((target, locals)) if !locals.is_empty() => (Remote::parse(target)?, locals),
        _ => return Err(ClientError::usage("give LOCAL... and then SPACE:/path")),
    };
    let into = target.is_dir || locals.len() > 1;
    let mut sources = Vec::new();
    let mut put = Put::new(context, args, context.out.progress());
    for local in locals {
        if local == "-" {
            if into {
                return Err(ClientError::usage("standard input needs a file name to go to"));
            }
            let done = put.standard_input(&target).await;
            put.finish_one(done)?;
            continue;
        }
        let Place::Local(local) = Place::parse(local) else {
            return Err(ClientError::usage(format!(
                "{local:?} is remote; `larder cp` copies within the server (./{local} is local)"
            )));
        };
        let metadata =
            std::fs::metadata(&local).map_err(|error| ClientError::local(&local, error))?;
        if metadata.is_dir() && !args.recursive {
            return Err(ClientError::usage("a directory; -r uploads it").about(local.display()));
        }
        // A single directory becomes the target itself, whether or not that ends with `/`.
        let under_its_name = if metadata.is_dir() { locals.len() > 1 } else { into };
        let remote = if under_its_name { target.join(&name_of(&local)?) } else { target.clone() };
        sources.push(Source { local, remote });
    }
    let links = if args.follow { Links::Follow } else { Links::Skip };
    let jobs = walk::start(sources, links)
        .map_err(|error| ClientError::stream(error).about("start reading"))?;
    put.all(jobs, usize::from(args.parallel.parallel)).await?;
    put.finish()
}

/// The name that a local path has, also for `.` and `dir/..`.
fn name_of(local: &Path) -> Result<String> {
    let name = match local.file_name() {
        Some(name) => Some(name.to_owned()),
        None => std::fs::canonicalize(local)
            .map_err(|error| ClientError::local(local, error))?
            .file_name()
            .map(ToOwned::to_owned),
    };
    name.and_then(|name| name.into_string().ok())
        .ok_or_else(|| ClientError::usage("it has no name that can be used").about(local.display()))
}

struct Put<'c> {
    context: &'c Context,
    options: PutOptions,
    /// Files from this size on go up in a session; `None` if none do.
    resumable_from: Option<u64>,
    bar: ProgressBar,
    failures: Failures,
    files: u64,
    bytes: u64,
    started: std::time::Duration,
}

/// What one job has made.
struct Done {
    local: PathBuf,
    remote: Remote,
    /// `None` for a directory.
    length: Option<u64>,
    answer: Value,
}

impl<'c> Put<'c> {
    fn new(context: &'c Context, args: &PutArgs, bar: ProgressBar) -> Self {
        let options = PutOptions { no_overwrite: args.no_overwrite, digest: None };
        let started = context.client.env().monotonic();
        let failures = Failures::default();
        let resumable_from = (!args.no_resume).then_some(args.resumable_from);
        Self { context, options, resumable_from, bar, failures, files: 0, bytes: 0, started }
    }

    /// Uploads whatever `jobs` brings, `parallel` at a time.
    async fn all(
        &mut self,
        mut jobs: tokio::sync::mpsc::Receiver<Job>,
        parallel: usize,
    ) -> Result<()> {
        let mut running = FuturesUnordered::new();
        let mut more = true;
        while more || !running.is_empty() {
            let done = tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => done,
                job = jobs.recv(), if more && running.len() < parallel => match job {
                    None => {
                        more = false;
                        continue;
                    }
                    Some(job) => {
                        if let Some(job) = self.admit(job) {
                            let bar = self.bar.clone();
                            running.push(upload(self.context, self.manner(), bar, job));
                        }
                        continue;
                    }
                },
            };
            if self.note(done)?.is_break() {
                // The others would fail in the same way, each after its own time-out.
                more = false;
                jobs.close();
                while jobs.try_recv().is_ok() {}
            }
        }
        Ok(())
    }

    fn manner(&self) -> (PutOptions, Option<u64>) {
        (self.options, self.resumable_from)
    }

    /// Takes care of what needs no request.
    fn admit(&mut self, job: Job) -> Option<Job> {
        match job {
            Job::Skipped(path, why) => {
                self.context.out.note(format_args!("{}: skipped: {why}", path.display()));
                None
            }
            Job::Failed(error) => {
                self.failures.add(&self.context.out, &error);
                None
            }
            Job::Small { ref bytes, .. } => {
                self.bar.inc_length(bytes.len() as u64);
                Some(job)
            }
            Job::Large { length, .. } => {
                self.bar.inc_length(length);
                Some(job)
            }
            Job::Dir { .. } => Some(job),
        }
    }

    /// Counts and prints what one job has come to. Breaks when going on makes no sense.
    fn note(&mut self, done: Result<Done>) -> Result<std::ops::ControlFlow<()>> {
        match done {
            Ok(done) => {
                if let Some(length) = done.length {
                    self.files += 1;
                    self.bytes += length;
                }
                if self.context.out.is_json() {
                    self.context.out.object(&json!({
                        "local": done.local.to_string_lossy(),
                        "remote": done.remote.to_string(),
                        "result": done.answer,
                    }))?;
                }
                Ok(std::ops::ControlFlow::Continue(()))
            }
            Err(error) => {
                self.failures.add(&self.context.out, &error);
                Ok(if error.is_hopeless() {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                })
            }
        }
    }

    async fn standard_input(&self, remote: &Remote) -> Result<Done> {
        // Nobody knows how much will come.
        self.bar.unset_length();
        let moved = Moved::new(self.bar.clone());
        let (answer, sent) = self
            .context
            .client
            .put((&remote.space, &remote.path), Payload::Stdin, self.options, moved.clone())
            .await
            .map_err(|error| explain(error, remote))?;
        confirm(&answer, sent, moved.count()).map_err(|error| error.about(remote))?;
        let length = Some(moved.count());
        Ok(Done { local: "-".into(), remote: remote.clone(), length, answer })
    }

    fn finish_one(&mut self, done: Result<Done>) -> Result<()> {
        self.note(done).map(|_| ())
    }

    fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        let took = self.context.client.env().monotonic() - self.started;
        summarize(&self.context.out, (self.files, self.bytes), took, self.failures.count());
        self.failures.finish()
    }
}

async fn upload(
    context: &Context,
    (options, resumable_from): (PutOptions, Option<u64>),
    bar: ProgressBar,
    job: Job,
) -> Result<Done> {
    let client = &context.client;
    match job {
        Job::Small { local, remote, bytes, digest } => {
            let length = bytes.len() as u64;
            let options = PutOptions { digest: Some(digest), ..options };
            let (answer, sent) = client
                .put(
                    (&remote.space, &remote.path),
                    Payload::Bytes(bytes),
                    options,
                    Moved::default(),
                )
                .await
                .map_err(|error| explain(error, &remote))?;
            bar.inc(length);
            confirm(&answer, sent, length).map_err(|error| error.about(&remote))?;
            Ok(Done { local, remote, length: Some(length), answer })
        }
        Job::Large { local, remote, length }
            if resumable_from.is_some_and(|least| length >= least) =>
        {
            let no_overwrite = options.no_overwrite;
            let large = Large { local: &local, remote: &remote, length, no_overwrite };
            let done = resume::put(context, bar, &large).await;
            let Uploaded { answer, sent } = done.map_err(|error| explain(error, &remote))?;
            confirm(&answer, sent, length).map_err(|error| error.about(&remote))?;
            Ok(Done { local, remote, length: Some(length), answer })
        }
        Job::Large { local, remote, length } => {
            let payload = Payload::File(local.clone(), length);
            let (answer, sent) = client
                .put((&remote.space, &remote.path), payload, options, Moved::new(bar))
                .await
                .map_err(|error| explain(error, &remote))?;
            confirm(&answer, sent, length).map_err(|error| error.about(&remote))?;
            Ok(Done { local, remote, length: Some(length), answer })
        }
        Job::Dir { local, remote } => {
            let answer = make_dir(context, &remote).await.map_err(|error| error.about(&remote))?;
            Ok(Done { local, remote, length: None, answer })
        }
        // They never become requests: see `Put::admit`.
        Job::Skipped(..) => Err(ClientError::usage("a skipped file cannot be uploaded")),
        Job::Failed(error) => Err(error),
    }
}

/// Makes a directory with its parents; one that is there already is as good.
pub(crate) async fn make_dir(context: &Context, remote: &Remote) -> Result<Value> {
    match context.client.mkdir(&remote.space, &remote.path, true).await {
        Err(error) if error.kind() == Some(ErrorKind::AlreadyExists) => {
            match context.client.stat(&remote.space, &remote.path).await {
                Ok((value, entry)) if entry.kind == Kind::Dir => Ok(value),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Compares what the server says it has with what was sent.
fn confirm(answer: &Value, sent: Option<Sha256>, length: u64) -> Result<()> {
    let stored = Stored::deserialize(answer).map_err(|error| {
        ClientError::bad_answer(format!("the server's answer is not understood: {error}"))
    })?;
    if let Some(size) = stored.size
        && size != length
    {
        return Err(ClientError::damaged(format!(
            "the server stored {size} bytes, but {length} were sent"
        )));
    }
    if let (Some(stored), Some(sent)) = (&stored.sha256, sent) {
        let sent = sent.to_string();
        if !stored.eq_ignore_ascii_case(&sent) {
            return Err(ClientError::damaged(format!(
                "checksum mismatch: the server stored sha256 {stored}, but {sent} was sent"
            )));
        }
    }
    Ok(())
}

/// Adds what the user can do about an error.
fn explain(mut error: ClientError, remote: &Remote) -> ClientError {
    if let Cause::Problem(problem) = &mut error.cause
        && problem.kind == ErrorKind::WrongType
    {
        problem.advise("a path that ends with `/` puts files into a directory");
    }
    error.about(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stored_something_else_is_not_believed() {
        let sent = Sha256::of(b"abc");
        let check = |size: u64, sha256: Value| {
            let answer = json!({ "size": size, "sha256": sha256, "revision": 1 });
            confirm(&answer, Some(sent), 3).map_err(|error| (error.exit_code(), error.to_string()))
        };
        assert_eq!(check(3, sent.to_string().into()), Ok(()));
        assert_eq!(check(3, Value::Null), Ok(()));
        let (code, text) = check(3, Sha256::of(b"abd").to_string().into()).expect_err("mismatch");
        assert!(code == 1 && text.contains("checksum mismatch"), "{text}");
        let (code, text) = check(2, sent.to_string().into()).expect_err("mismatch");
        assert!(code == 1 && text.contains("stored 2 bytes, but 3 were sent"), "{text}");
    }

    #[test]
    fn dots_have_the_name_of_the_directory_they_mean() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let named = dir.path().join("photos");
        std::fs::create_dir_all(named.join("2026")).expect("mkdir");
        for path in [named.join("."), named.join("2026/.."), named.clone()] {
            assert_eq!(name_of(&path).expect("a name"), "photos", "{}", path.display());
        }
    }
}
