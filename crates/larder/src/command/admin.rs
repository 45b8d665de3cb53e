//! `larder check`, `larder gc` and `larder tasks`: looks after everything that is stored and what
//! is being done, online.
//!
//! Not here: how invariants are proved and bytes are freed, who is next (core).

use http::Method;
use serde_json::Value;

use super::Context;
use crate::{
    client::{
        Call,
        error::{ClientError, Result},
    },
    output::printable,
};

/// Runs `larder check`. It fails if anything was found.
pub(crate) async fn check(context: &Context) -> Result<()> {
    let mut call = Call::new(Method::GET, "/v1/admin/check?wait=1".to_owned());
    call.unhurried = true;
    let report = context.client.json(&call).await?;
    let listed = report.get("findings").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    // The list may be cut, the count is not.
    let findings = report.get("violations").and_then(Value::as_u64).unwrap_or(0).max(listed);
    let ok = report.get("ok").and_then(Value::as_bool).unwrap_or(findings == 0);
    if context.out.is_json() {
        context.out.object(&report)?;
    } else {
        for finding in report.get("findings").and_then(Value::as_array).into_iter().flatten() {
            context.out.line(match finding {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })?;
        }
        counts(context, &report)?;
        if ok && findings == 0 {
            context.out.line("ok")?;
        }
    }
    match findings {
        0 if ok => Ok(()),
        0 => Err(ClientError::found("the server says that something is wrong, but not what")),
        1 => Err(ClientError::found("1 finding")),
        count => Err(ClientError::found(format!("{count} findings"))),
    }
}

/// Runs `larder gc`.
pub(crate) async fn gc(context: &Context) -> Result<()> {
    let mut call = Call::new(Method::POST, "/v1/admin/gc?wait=1".to_owned());
    call.unhurried = true;
    let report = context.client.json(&call).await?;
    if context.out.is_json() { context.out.object(&report) } else { counts(context, &report) }
}

/// Runs `larder tasks`: one line for each, with what it is, for whom, and since when.
pub(crate) async fn tasks(context: &Context) -> Result<()> {
    let page = context.client.json(&Call::new(Method::GET, "/v1/admin/tasks".to_owned())).await?;
    for task in page.get("tasks").and_then(Value::as_array).into_iter().flatten() {
        if context.out.is_json() {
            context.out.object(task)?;
            continue;
        }
        let text = |name: &str| match task.get(name) {
            Some(Value::String(text)) => printable(text),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let (state, class, user) = (text("state"), text("class"), text("user"));
        let (priority, since, begun) = (text("priority"), text("since"), text("begun"));
        context.out.line(format_args!(
            "{state:<8} {class:<9} u={priority}  {user}  since {since}, begun {begun}"
        ))?;
    }
    Ok(())
}

/// One line for each number of a report, also of those within `counts`.
fn counts(context: &Context, report: &Value) -> Result<()> {
    for (name, value) in report.as_object().into_iter().flatten() {
        match value {
            Value::Number(number) => context.out.line(format_args!("{name}: {number}"))?,
            Value::Object(inner) => {
                for (name, number) in inner.iter().filter(|(_, value)| value.is_number()) {
                    context.out.line(format_args!("{name}: {number}"))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
