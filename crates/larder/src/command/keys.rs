//! `larder keys`: API keys, app passwords, S3 key pairs.
//!
//! Promises: a new secret is printed once, on standard output, and nowhere else.
//!
//! Not here: keys that this program uses itself (`client::target`).

use http::Method;
use serde_json::{Map, Value, json};

use super::{Context, list_all, users::show};
use crate::{
    args::{KeyAccess, KeyKind, KeysVerb},
    client::{Call, api::segment, error::Result},
};

/// Runs `larder keys`.
pub(crate) async fn run(context: &Context, verb: &KeysVerb) -> Result<()> {
    let keys = |of: &str| format!("/v1/users/{}/keys", segment(of));
    match verb {
        KeysVerb::Ls { of } => {
            let columns = ["id", "kind", "name", "scope", "expires", "last_used"];
            list_all(context, &keys(of), &columns).await.map_err(|error| error.about(of))
        }
        KeysVerb::Create { name, of, expires, kind, access, spaces } => {
            let now = context.client.env().now();
            let expires = expires.map(|after| now.after(after).to_string());
            let mut scope = Map::new();
            if let Some(access) = access {
                scope.insert("access".to_owned(), access.word().into());
            }
            if !spaces.is_empty() {
                scope.insert("spaces".to_owned(), spaces.as_slice().into());
            }
            let mut body = json!({ "name": name, "expires": expires, "kind": kind.word() });
            if let (false, Some(body)) = (scope.is_empty(), body.as_object_mut()) {
                body.insert("scope".to_owned(), Value::Object(scope));
            }
            show(context, of, &Call::new(Method::POST, keys(of)).json(&body)).await
        }
        KeysVerb::Rotate { id, of, overlap } => {
            let seconds = overlap.map_or(0, |overlap| overlap.as_secs());
            let url = format!("{}/{}/rotate", keys(of), segment(id));
            let call = Call::new(Method::POST, url).json(&json!({ "overlap_seconds": seconds }));
            show(context, id, &call).await
        }
        KeysVerb::Rm { id, of } => {
            let call = Call::new(Method::DELETE, format!("{}/{}", keys(of), segment(id)));
            context.client.done(&call).await.map_err(|error| error.about(id))
        }
    }
}

impl KeyKind {
    fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::App => "app",
            Self::S3 => "s3",
        }
    }
}

impl KeyAccess {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Full => "full",
        }
    }
}
