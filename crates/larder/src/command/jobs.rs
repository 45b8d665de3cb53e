//! `larder jobs`: what the server does in the background, and long work that it is asked for.
//!
//! Promises: `--wait` ends when the job has ended: with 0 if it is done, with 1 if it failed or
//! was cancelled. Not here: what jobs do (core).

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Context, list_all};
use crate::{
    args::JobsVerb,
    client::{
        Call,
        api::segment,
        error::{ClientError, Result},
    },
};

/// Columns of a list of jobs.
const COLUMNS: [&str; 7] = ["id", "kind", "state", "progress", "started_by", "created", "subject"];

/// First pause between two looks at a job that is waited for; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Runs `larder jobs`.
pub(crate) async fn run(context: &Context, verb: &JobsVerb) -> Result<()> {
    match verb {
        JobsVerb::List { all } => {
            if *all {
                list_all(context, "/v1/admin/jobs?finished=1", &COLUMNS).await?;
            }
            list_all(context, "/v1/admin/jobs", &COLUMNS).await
        }
        JobsVerb::Show { id, wait } => {
            let job = if *wait { ended(context, id).await? } else { get(context, id).await? };
            report(context, &job, *wait)
        }
        JobsVerb::Cancel { id, wait } => {
            let call = Call::new(Method::DELETE, url(id));
            context.client.done(&call).await.map_err(|error| error.about(id))?;
            if *wait {
                context.out.record(&ended(context, id).await?)?;
            }
            Ok(())
        }
        JobsVerb::Run { kind, space, wait } => {
            let mut body = json!({ "kind": kind });
            if let (Some(space), Some(body)) = (space, body.as_object_mut()) {
                body.insert("space".to_owned(), super::path::space(space)?.into());
            }
            let call = Call::new(Method::POST, "/v1/admin/jobs".to_owned()).json(&body);
            let mut job = context.client.json(&call).await.map_err(|error| error.about(kind))?;
            if *wait {
                let id = job.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
                job = ended(context, &id).await?;
            }
            report(context, &job, *wait)
        }
    }
}

fn url(id: &str) -> String {
    format!("/v1/admin/jobs/{}", segment(id))
}

async fn get(context: &Context, id: &str) -> Result<Value> {
    context.client.get_json(url(id)).await.map_err(|error| error.about(id))
}

/// Waits for the end of a job; the job as it ended.
async fn ended(context: &Context, id: &str) -> Result<Value> {
    let mut pause = PAUSE;
    loop {
        let job = get(context, id).await?;
        if job.get("finished").is_some_and(|time| !time.is_null()) {
            return Ok(job);
        }
        // Short jobs that met damage stay until they are tried again.
        if job.get("state").and_then(Value::as_str) == Some("failed") {
            return Ok(job);
        }
        context.client.env().sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

fn report(context: &Context, job: &Value, wait: bool) -> Result<()> {
    context.out.record(job)?;
    let state = job.get("state").and_then(Value::as_str).unwrap_or_default();
    if wait && state != "done" {
        let detail = job.get("detail").and_then(Value::as_str).unwrap_or_default();
        return Err(ClientError::found(format!("the job is {state}: {detail}")));
    }
    Ok(())
}
