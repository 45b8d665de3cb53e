//! `larder changes`: what happened in a space.
//!
//! Promises: each change is printed once, with `--json` together with the cursor to go on from;
//! `--follow` goes on through restarts of the server until it is interrupted.
//!
//! Not here: what a change is (docs/rest.md).

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Context, path};
use crate::{
    args::ChangesArgs,
    client::{
        Call,
        api::segment,
        error::{Cause, ClientError, Result},
    },
    output::printable,
};

/// How long the server may wait for the next change, in seconds: less than the client's own
/// patience, which may be short.
const WAIT_SECONDS_MAX: u64 = 20;

/// Pause before a server is asked again that gave no answer.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Changes {
    changes: Vec<Value>,
    cursor: String,
}

/// Runs `larder changes`.
pub(crate) async fn run(context: &Context, args: &ChangesArgs) -> Result<()> {
    let base = format!("/v1/spaces/{}/changes", segment(path::space(&args.space)?));
    let wait = WAIT_SECONDS_MAX.min(context.client.timeout().as_secs() / 2);
    let mut cursor = args.cursor.clone();
    let mut waiting = false;
    let mut away = false;
    loop {
        let mut url = format!("{base}?limit=1000");
        if waiting {
            url.push_str(&format!("&wait={wait}"));
        }
        if let Some(cursor) = &cursor {
            url.push_str(&format!("&cursor={}", segment(cursor)));
        }
        let page = match context.client.json(&Call::new(Method::GET, url)).await {
            Ok(page) => page,
            Err(error) if args.follow && may_pass(&error) => {
                if !away {
                    context.out.note(format_args!("{error}; go on when it is back"));
                }
                away = true;
                context.client.env().sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.about(&args.space)),
        };
        away = false;
        let page: Changes = serde_json::from_value(page)
            .map_err(|error| ClientError::bad_answer(format!("a page of changes: {error}")))?;
        for change in &page.changes {
            print(context, change)?;
        }
        waiting = page.changes.is_empty();
        cursor = Some(page.cursor);
        if args.follow {
            context.out.flush()?;
            if waiting && wait == 0 {
                context.client.env().sleep(PAUSE).await;
            }
        } else if waiting {
            if let Some(cursor) = cursor {
                context.out.note(format_args!("go on with --cursor {cursor}"));
            }
            return Ok(());
        }
    }
}

/// Whether the server may be back later.
fn may_pass(error: &ClientError) -> bool {
    match &error.cause {
        Cause::NoAnswer(_) => true,
        Cause::Problem(problem) => matches!(problem.status, 429 | 502..=504),
        _ => false,
    }
}

fn print(context: &Context, change: &Value) -> Result<()> {
    if context.out.is_json() {
        return context.out.object(change);
    }
    let field = |name: &str| printable(change.get(name).and_then(Value::as_str).unwrap_or("-"));
    let (at, what, kind, author) = (field("at"), field("change"), field("kind"), field("author"));
    let path = match change.get("from") {
        Some(_) => format!("{} -> {}", field("from"), field("path")),
        None => field("path"),
    };
    context.out.line(format_args!("{at}  {what:<16}  {kind:<4}  {author}  {path}"))
}
