//! `larder users` and `larder keys`: who may do something here.
//!
//! Promises: a password that is asked for is not shown while it is typed; a new key is printed
//! once, on standard output, and nowhere else.
//!
//! Not here: passwords of the caller (`client::target`).

use std::path::Path;

use http::Method;
use serde_json::json;

use super::{Context, list_all, prompt};
use crate::{
    args::{KeysVerb, NewPassword, UsersVerb},
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
        UsersVerb::Rm { name } => {
            let call = Call::new(Method::DELETE, user(name));
            return context.client.done(&call).await.map_err(|error| error.about(name));
        }
    };
    show(context, name, &call).await
}

async fn show(context: &Context, subject: &str, call: &Call) -> Result<()> {
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

/// Runs `larder keys`.
pub(crate) async fn keys(context: &Context, verb: &KeysVerb) -> Result<()> {
    let keys = |of: &str| format!("/v1/users/{}/keys", segment(of));
    match verb {
        KeysVerb::Ls { of } => {
            let columns = ["id", "name", "created", "expires"];
            list_all(context, &keys(of), &columns).await.map_err(|error| error.about(of))
        }
        KeysVerb::Create { name, of, expires } => {
            let now = context.client.env().now();
            let expires = expires.map(|after| now.after(after).to_string());
            let body = json!({ "name": name, "expires": expires });
            show(context, of, &Call::new(Method::POST, keys(of)).json(&body)).await
        }
        KeysVerb::Rm { id, of } => {
            let call = Call::new(Method::DELETE, format!("{}/{}", keys(of), segment(id)));
            context.client.done(&call).await.map_err(|error| error.about(id))
        }
    }
}
