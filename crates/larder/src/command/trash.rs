//! `larder trash` and `larder revisions`: what is kept of deleted files and earlier contents.
//!
//! Not here: how long it is kept (settings of the server and policies of spaces).

use http::Method;
use serde_json::{Value, json};

use super::{
    Context, list_all,
    path::{self, Place, Remote},
};
use crate::{
    args::{RevisionsVerb, TrashVerb},
    client::{
        Call,
        api::{in_space, segment},
        error::{ClientError, Result},
    },
    output::Failures,
};

/// Runs `larder trash`.
pub(crate) async fn trash(context: &Context, verb: &TrashVerb) -> Result<()> {
    match verb {
        TrashVerb::Ls { space } => {
            let list = collection(space)?;
            let columns = ["item", "kind", "size", "deleted", "deleted_by", "path"];
            list_all(context, &list, &columns).await
        }
        TrashVerb::Restore { space, item, to, rename, parents } => {
            // A path may be given as everywhere else, if it names the same space.
            let to = to.as_deref().map(|to| match Place::parse(to) {
                Place::Local(_) => Ok(to.trim_start_matches('/').to_owned()),
                Place::Remote(remote) if remote.space == path::space(space)? => Ok(remote.path),
                Place::Remote(remote) => Err(ClientError::usage(format!(
                    "an item is restored within its space, not to {remote}"
                ))),
            });
            let to = to.transpose()?;
            let mut body = json!({ "rename": rename, "recreate_parents": parents });
            if let (Some(to), Some(body)) = (to, body.as_object_mut()) {
                body.insert("to".to_owned(), to.into());
            }
            let url = format!("{}/{}/restore", collection(space)?, segment(item));
            let call = Call::new(Method::POST, url).json(&body);
            let value = context.client.json(&call).await.map_err(|error| error.about(item))?;
            context.out.record(&value)
        }
        TrashVerb::Purge { space, items } => {
            let mut failures = Failures::default();
            for item in items {
                let url = format!("{}/{}", collection(space)?, segment(item));
                if let Err(error) = context.client.done(&Call::new(Method::DELETE, url)).await {
                    failures.add(&context.out, &error.about(item));
                }
            }
            failures.finish()
        }
        TrashVerb::Empty { space } => {
            context.client.done(&Call::new(Method::DELETE, collection(space)?)).await
        }
    }
}

fn collection(space: &str) -> Result<String> {
    Ok(format!("/v1/spaces/{}/trash", segment(path::space(space)?)))
}

/// Runs `larder revisions`.
pub(crate) async fn revisions(context: &Context, verb: &RevisionsVerb) -> Result<()> {
    let (path, call) = match verb {
        RevisionsVerb::Ls { path } => {
            let remote = Remote::parse(path)?;
            let columns = ["revision", "size", "created", "author", "origin", "sha256"];
            return list_all(
                context,
                &in_space(&remote.space, "revisions", &remote.path),
                &columns,
            )
            .await
            .map_err(|error| error.about(remote));
        }
        RevisionsVerb::Restore { path, revision } => {
            let remote = Remote::parse(path)?;
            let url = in_space(&remote.space, "revisions", &remote.path);
            let body = json!({ "revision": number_or_text(revision) });
            (remote, Call::new(Method::POST, url).json(&body))
        }
        RevisionsVerb::Rm { path, revision } => {
            let remote = Remote::parse(path)?;
            let url = in_space(&remote.space, "revisions", &remote.path);
            let call = Call::new(Method::DELETE, format!("{url}?revision={}", segment(revision)));
            return context.client.done(&call).await.map_err(|error| error.about(remote));
        }
    };
    let value = context.client.json(&call).await.map_err(|error| error.about(path))?;
    context.out.record(&value)
}

fn number_or_text(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| text.into(), Value::from)
}
