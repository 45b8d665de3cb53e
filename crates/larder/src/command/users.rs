//! `larder users`: who may do something here.
//!
//! Promises: a password that is asked for is not shown while it is typed.
//!
//! Not here: passwords of the caller (`client::target`).

use std::path::Path;

use http::Method;
use serde_json::json;

use super::{Context, list_all, prompt};
use crate::{
    args::{NewPassword, UsersVerb},
    client::{
        Call,
        api::segment,
        error::{ClientError, Result},
    },
    config::secret::Secret,
};

/// Runs `larder users`.
pub(crate) async fn users(context: &Context, verb: &UsersVerb) -> Result<()> {
    let user = |name: &str| format!("/v1/users/{}", segment(name));
    let patch = |name: &str, body| Call::new(Method::PATCH, user(name)).json(&body);
    let (name, call) = match verb {
        UsersVerb::Ls => {
            return list_all(context, "/v1/users", &["name", "id", "admin", "disabled", "created"])
                .await;
        }
        UsersVerb::Create { name, password, admin } => {
            let password = new_password(name, password)?;
            let mut body = json!({ "name": name, "password": password.reveal() });
            if let (true, Some(body)) = (*admin, body.as_object_mut()) {
                body.insert("admin".to_owned(), true.into());
            }
            (name, Call::new(Method::POST, "/v1/users".to_owned()).json(&body))
        }
        UsersVerb::Passwd { name, password } => {
            let password = new_password(name, password)?;
            (name, patch(name, json!({ "password": password.reveal() })))
        }
        UsersVerb::Disable { name } => (name, patch(name, json!({ "disabled": true }))),
        UsersVerb::Enable { name } => (name, patch(name, json!({ "disabled": false }))),
        UsersVerb::Rm { name, keep_home } => {
            let query = if *keep_home { "?home=keep" } else { "" };
            let call = Call::new(Method::DELETE, user(name) + query);
            return context.client.done(&call).await.map_err(|error| error.about(name));
        }
    };
    show(context, name, &call).await
}

/// Performs a call about `subject` and prints its answer.
pub(super) async fn show(context: &Context, subject: &str, call: &Call) -> Result<()> {
    let answer = context.client.call(call).await.map_err(|error| error.about(subject))?;
    // A change may be confirmed without a body.
    if answer.status() == http::StatusCode::NO_CONTENT {
        return answer.done().await;
    }
    context.out.record(&answer.json().await?)
}

fn new_password(user: &str, given: &NewPassword) -> Result<Secret> {
    match (&given.new_password, &given.new_password_file) {
        (Some(text), _) => Ok(Secret::new(text)),
        (None, Some(path)) if path == Path::new("-") => prompt::from_stdin(),
        (None, Some(path)) => {
            Secret::from_file(path).map_err(|error| ClientError::local(path, error))
        }
        (None, None) => prompt::ask(&format!("New password of {user}: "))?.ok_or_else(|| {
            ClientError::usage("no terminal to ask on; use --new-password-file FILE (or `-`)")
        }),
    }
}
