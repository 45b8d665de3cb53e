//! `larder ls`, `stat`, `mkdir`, `mv`, `cp` and `rm`: one entry at a time.
//!
//! Promises: `mv` and `cp` replace nothing unless told to; `rm` takes a directory only with `-r`
//! and always to the trash.
//!
//! Not here: bytes of files ([`super::put`], [`super::get`]).

use larder_base::ErrorKind;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Context, path::Remote, put::make_dir};
use crate::{
    args::{LsArgs, MkdirArgs, PathsArgs, RelocateArgs, RmArgs},
    client::{
        api::{Entry, Kind, in_space},
        error::{ClientError, Problem, Result},
    },
    output::{Failures, printable},
};

/// Runs `larder ls`.
pub(crate) async fn ls(context: &Context, args: &LsArgs) -> Result<()> {
    if args.paths.is_empty() {
        return super::spaces::list(context).await;
    }
    let mut failures = Failures::default();
    for path in &args.paths {
        let remote = Remote::parse(path)?;
        if args.paths.len() > 1 && !context.out.is_json() {
            context.out.line(format_args!("{remote}:"))?;
        }
        if let Err(error) = list(context, args, &remote).await {
            if error.is_broken_pipe() {
                return Err(error);
            }
            failures.add(&context.out, &error.about(&remote));
        }
    }
    failures.finish()
}

async fn list(context: &Context, args: &LsArgs, remote: &Remote) -> Result<()> {
    let recursive = if args.recursive { "&recursive=true" } else { "" };
    let list = format!("{}?limit=1000{recursive}", in_space(&remote.space, "list", &remote.path));
    let mut cursor: Option<String> = None;
    loop {
        let page = match context.client.page(&list, cursor.as_deref()).await {
            // A file is listed as itself.
            Err(error) if error.kind() == Some(ErrorKind::WrongType) && cursor.is_none() => {
                let (value, _) = context.client.stat(&remote.space, &remote.path).await?;
                return show(context, args, &value);
            }
            page => page?,
        };
        page.entries.iter().try_for_each(|entry| show(context, args, entry))?;
        // Someone may be watching a long listing come in.
        context.out.flush()?;
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn show(context: &Context, args: &LsArgs, value: &Value) -> Result<()> {
    let out = &context.out;
    if out.is_json() {
        return out.object(value);
    }
    let entry = Entry::deserialize(value).map_err(|error| {
        ClientError::bad_answer(format!("the listing is not understood: {error}"))
    })?;
    let path = entry.path.trim_start_matches('/');
    let name = if args.recursive { path } else { path.rsplit('/').next().unwrap_or(path) };
    let mut name = printable(name);
    if entry.kind == Kind::Dir {
        name.push('/');
        name = out.directory(&name);
    }
    if args.long {
        let modified = entry.modified.as_deref().unwrap_or("-");
        out.line(format_args!("{:4} {:>14} {modified:24} {name}", entry.kind.word(), entry.size))
    } else {
        out.line(name)
    }
}

/// Runs `larder stat`.
pub(crate) async fn stat(context: &Context, args: &PathsArgs) -> Result<()> {
    let mut failures = Failures::default();
    for path in &args.paths {
        let remote = Remote::parse(path)?;
        match context.client.stat(&remote.space, &remote.path).await {
            Ok((value, _)) => context.out.record(&value)?,
            Err(error) => failures.add(&context.out, &error.about(&remote)),
        }
    }
    failures.finish()
}

/// Runs `larder mkdir`.
pub(crate) async fn mkdir(context: &Context, args: &MkdirArgs) -> Result<()> {
    let mut failures = Failures::default();
    for path in &args.paths {
        let remote = Remote::parse(path)?;
        let made = if args.parents {
            make_dir(context, &remote).await
        } else {
            context.client.mkdir(&remote.space, &remote.path, false).await
        };
        match made {
            Ok(value) if context.out.is_json() => context.out.object(&value)?,
            Ok(_) => {}
            Err(error) => failures.add(&context.out, &error.about(&remote)),
        }
    }
    failures.finish()
}

/// Runs `larder mv` (`verb` is `move`) and `larder cp` (`copy`).
pub(crate) async fn relocate(context: &Context, verb: &str, args: &RelocateArgs) -> Result<()> {
    let from = Remote::parse(&args.from)?;
    let mut to = Remote::parse(&args.to)?;
    if to.is_dir {
        let Some(name) = from.name() else {
            return Err(ClientError::usage("a whole space cannot be moved or copied"));
        };
        to = to.join(name);
    }
    let value = context
        .client
        .relocate(verb, (&from.space, &from.path), (&to.space, &to.path), args.overwrite)
        .await
        .map_err(|error| error.about(format_args!("{from} to {to}")))?;
    if context.out.is_json() { context.out.object(&value) } else { Ok(()) }
}

/// Runs `larder rm`.
pub(crate) async fn rm(context: &Context, args: &RmArgs) -> Result<()> {
    let mut failures = Failures::default();
    for path in &args.paths {
        let remote = Remote::parse(path)?;
        match remove(context, args, &remote).await {
            Err(error) if args.force && error.kind() == Some(ErrorKind::NotFound) => {}
            Err(error) => failures.add(&context.out, &error.about(&remote)),
            Ok(()) if context.out.is_json() => {
                context.out.object(&serde_json::json!({ "deleted": remote.to_string() }))?;
            }
            Ok(()) => {}
        }
    }
    failures.finish()
}

async fn remove(context: &Context, args: &RmArgs, remote: &Remote) -> Result<()> {
    if remote.path.is_empty() {
        return Err(ClientError::usage("the root of a space; `larder spaces rm` deletes a space"));
    }
    if !args.recursive {
        let (_, entry) = context.client.stat(&remote.space, &remote.path).await?;
        if entry.kind == Kind::Dir {
            // As the server would say it, had it been asked for a file.
            let detail = "it is a directory; -r deletes it with all it contains";
            return Err(Problem::local(ErrorKind::WrongType, detail).into());
        }
    }
    context.client.delete(&remote.space, &remote.path).await
}
