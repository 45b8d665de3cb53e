//! `larder lifecycle`: rules by which files of a space end by themselves.
//!
//! Not here: what rules do (core).

use std::io::Read as _;

use http::Method;
use serde_json::{Map, Value, json};

use super::{Context, path};
use crate::{
    args::{LifecycleVerb, NewRule},
    client::{
        Call, Repeat,
        api::segment,
        error::{ClientError, Result},
    },
};

/// Runs `larder lifecycle`.
pub(crate) async fn run(context: &Context, verb: &LifecycleVerb) -> Result<()> {
    let (space, rules) = match verb {
        LifecycleVerb::Show { space } => (space, get(context, space).await?),
        LifecycleVerb::Set { space, file } => {
            let body = read(file)?;
            let rules = match &body {
                Value::Array(rules) => rules.clone(),
                body => rules_of(body)?,
            };
            (space, put(context, space, rules).await?)
        }
        LifecycleVerb::Add { space, rule } => {
            let mut rules = get(context, space).await?;
            rules.push(body_of(rule));
            (space, put(context, space, rules).await?)
        }
        LifecycleVerb::Rm { space, rules } if rules.is_empty() => {
            let call = Call::new(Method::DELETE, url(space)?);
            return context.client.done(&call).await.map_err(|error| error.about(space));
        }
        LifecycleVerb::Rm { space, rules: gone } => {
            let mut rules = get(context, space).await?;
            for name in gone {
                let before = rules.len();
                rules.retain(|rule| {
                    let is = |key: &str| rule.get(key).and_then(Value::as_str) == Some(name);
                    !is("id") && !is("name")
                });
                if rules.len() == before {
                    return Err(ClientError::usage(format!("there is no rule {name}")));
                }
            }
            (space, put(context, space, rules).await?)
        }
    };
    let columns = ["id", "name", "enabled", "prefix", "expire", "noncurrent"];
    context.out.table(&columns, &rules).map_err(|error| error.about(space))
}

fn url(space: &str) -> Result<String> {
    Ok(format!("/v1/spaces/{}/lifecycle", segment(path::space(space)?)))
}

fn rules_of(body: &Value) -> Result<Vec<Value>> {
    let rules = body.get("rules").and_then(Value::as_array).cloned();
    rules.ok_or_else(|| ClientError::usage("the rules must be a list, or an object with `rules`"))
}

async fn get(context: &Context, space: &str) -> Result<Vec<Value>> {
    let body = context.client.get_json(url(space)?).await.map_err(|error| error.about(space))?;
    rules_of(&body)
}

async fn put(context: &Context, space: &str, rules: Vec<Value>) -> Result<Vec<Value>> {
    let mut call = Call::new(Method::PUT, url(space)?).json(&json!({ "rules": rules }));
    call.repeat = Repeat::Harmless;
    let body = context.client.json(&call).await.map_err(|error| error.about(space))?;
    rules_of(&body)
}

/// JSON from a file or from standard input.
fn read(file: &std::path::Path) -> Result<Value> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| ClientError::stream(error).about(file.display()))?;
    serde_json::from_str(&text)
        .map_err(|error| ClientError::usage(format!("{}: {error}", file.display())))
}

fn body_of(rule: &NewRule) -> Value {
    let mut body = Map::new();
    body.insert("name".to_owned(), rule.name.clone().unwrap_or_default().into());
    body.insert("prefix".to_owned(), rule.prefix.clone().unwrap_or_default().into());
    body.insert("enabled".to_owned(), (!rule.disabled).into());
    if let Some(age) = &rule.expire_after {
        body.insert("expire".to_owned(), json!({ "after": age }));
    }
    if let Some(time) = &rule.expire_at {
        body.insert("expire".to_owned(), json!({ "at": time }));
    }
    if rule.noncurrent_after.is_some() || rule.noncurrent_keep.is_some() {
        let noncurrent = json!({
            "older_than": rule.noncurrent_after.clone().unwrap_or_else(|| "0s".to_owned()),
            "keep_newest": rule.noncurrent_keep.unwrap_or(0),
        });
        body.insert("noncurrent".to_owned(), noncurrent);
    }
    if let Some(age) = &rule.abort_uploads_after {
        body.insert("abort_uploads_after".to_owned(), age.as_str().into());
    }
    body.into()
}
