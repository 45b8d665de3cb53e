//! `larder dump`: takes a dump of a server, or of one space, into a file; verifies one.
//!
//! Promises: the file has its name only when all of it has arrived, has been verified and is
//! durable; until then it is a `.larder-part-` file beside it, which is removed on failure. What
//! goes to standard output is verified too: only an exit code of 0 means that it was whole.
//!
//! Not here: the form of dumps (core, docs/formats/dump.md).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use larder_base::Env;
use larder_core::dump::{Counts, Header, Verifier};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Context;
use crate::{
    args::DumpArgs,
    client::{
        Answer, Call,
        api::segment,
        body::PIECES,
        error::{ClientError, Result},
    },
    output::Output,
};

/// Bytes of a file that are verified at once.
const PIECE_BYTES: usize = 1 << 20;

/// Runs `larder dump` but for `--verify`.
pub(crate) async fn run(context: &Context, args: &DumpArgs) -> Result<()> {
    let mut path = "/v1/admin/dump".to_owned();
    if let Some(space) = &args.space {
        path.push_str("?space=");
        path.push_str(&segment(space));
    }
    let mut call = Call::new(Method::GET, path);
    // All records are read before the first byte comes.
    call.unhurried = true;
    let started = context.client.env().monotonic();
    let answer = context.client.call(&call).await?;
    let (header, counts, length) = if args.file == Path::new("-") {
        to_stdout(context, answer).await.map_err(not_taken)?
    } else {
        to_file(context, answer, &args.file).await?
    };
    let took = context.client.env().monotonic() - started;
    summarize(&context.out, &counts, length, took);
    // Standard output has the dump.
    if context.out.is_json() && args.file != Path::new("-") {
        context.out.object(&described(&header, &counts))?;
    }
    Ok(())
}

/// Runs `larder dump --verify`.
pub(crate) fn verify(out: &Output, args: &DumpArgs) -> Result<()> {
    let failed = |error: io::Error| ClientError::local(&args.file, error);
    let (mut source, length): (Box<dyn io::Read>, u64) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(&args.file).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        (Box::new(file), length)
    };
    let bar = out.progress();
    bar.set_length(length);
    let mut verifier = Verifier::default();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = source.read(&mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        verifier.write(bytes).map_err(|error| damaged(&args.file, &error))?;
        bar.inc(read as u64);
    }
    bar.finish_and_clear();
    let (header, counts) = verifier.finish().map_err(|error| damaged(&args.file, &error))?;
    out.record(&described(&header, &counts))
}

fn damaged(path: &Path, error: &larder_core::Error) -> ClientError {
    ClientError::damaged(error.detail().to_owned()).about(path.display())
}

async fn to_stdout(context: &Context, mut answer: Answer<'_>) -> Result<(Header, Counts, u64)> {
    let mut verifier = Verifier::default();
    let mut length = 0;
    while let Some(piece) = answer.piece().await? {
        context.out.bytes(&piece)?;
        length += piece.len() as u64;
        verifier.write(&piece).map_err(|error| damaged(Path::new("-"), &error))?;
    }
    let (header, counts) = verifier.finish().map_err(|error| damaged(Path::new("-"), &error))?;
    context.out.flush()?;
    Ok((header, counts, length))
}

/// Whoever reads our output must not take a part of a dump for the whole, nor must a script that
/// looks at our exit code.
fn not_taken(error: ClientError) -> ClientError {
    if error.is_broken_pipe() {
        return ClientError::damaged("whoever reads it went away before its end");
    }
    error
}

async fn to_file(
    context: &Context,
    mut answer: Answer<'_>,
    path: &Path,
) -> Result<(Header, Counts, u64)> {
    let part = Part::beside(context.client.env(), path)?;
    let (sender, pieces) = mpsc::channel::<Bytes>(PIECES * 2);
    let writer = tokio::task::spawn_blocking(move || part.write(pieces));
    let bar = context.out.progress();
    let mut length = 0;
    let received = loop {
        match answer.piece().await {
            Ok(Some(piece)) => {
                // How much there will be is not known.
                bar.inc_length(piece.len() as u64);
                bar.inc(piece.len() as u64);
                length += piece.len() as u64;
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
    bar.finish_and_clear();
    let written = writer
        .await
        .map_err(|error| ClientError::bad_answer(format!("write the file: {error}")))?;
    received?;
    let (part, header, counts) = match written {
        Ok(written) => written,
        Err(Failed::Local(error)) => return Err(ClientError::local(path, error)),
        Err(Failed::Damaged(error)) => return Err(damaged(path, &error)),
    };
    part.keep(path).map_err(|error| ClientError::local(path, error))?;
    Ok((header, counts, length))
}

/// Why a file could not be written.
enum Failed {
    Local(io::Error),
    Damaged(larder_core::Error),
}

/// A file that has no name of its own yet.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn beside(env: &Env, local: &Path) -> Result<Self> {
        let mut random = [0; 8];
        env.fill_random(&mut random);
        let name = format!(".larder-part-{:016x}", u64::from_le_bytes(random));
        let path = local.with_file_name(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        // It has the hashes of passwords, and what everybody's files contain.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| ClientError::local(local, error))?;
        Ok(Self { path, file })
    }

    fn write(
        mut self,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> std::result::Result<(Self, Header, Counts), Failed> {
        let mut verifier = Verifier::default();
        while let Some(piece) = pieces.blocking_recv() {
            verifier.write(&piece).map_err(Failed::Damaged)?;
            self.file.write_all(&piece).map_err(Failed::Local)?;
        }
        let (header, counts) = verifier.finish().map_err(Failed::Damaged)?;
        self.file.sync_all().map_err(Failed::Local)?;
        Ok((self, header, counts))
    }

    /// Gives the file its name, durably.
    #[expect(clippy::disallowed_methods, reason = "a user's own copy, not served data")]
    fn keep(self, local: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, local)?;
        let folder = match local.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when it has been kept.
        drop(std::fs::remove_file(&self.path));
    }
}

/// What a dump has, for people and machines.
fn described(header: &Header, counts: &Counts) -> Value {
    json!({
        "instance": header.instance.to_string(),
        "created": header.created.to_string(),
        "space": header.space.as_ref().map(|space| space.name.clone()),
        "spaces": counts.spaces,
        "users": counts.users,
        "nodes": counts.nodes,
        "revisions": counts.revisions,
        "blobs": counts.blobs,
        "bytes": counts.bytes,
    })
}

fn summarize(out: &Output, counts: &Counts, length: u64, took: Duration) {
    let (length, seconds) = (indicatif::HumanBytes(length), took.as_secs_f64());
    let Counts { nodes, revisions, .. } = counts;
    out.note(format_args!("{nodes} nodes, {revisions} revisions, {length} in {seconds:.1} s"));
}
