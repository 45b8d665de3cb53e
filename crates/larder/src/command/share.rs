//! `larder share`: grants to users and groups, public links, references to what is shared.
//!
//! Promises: the URL of a new link is printed on standard output; a link's password is asked for
//! or read from a file, never taken from the command line.
//!
//! Not here: who may share what (the server).

use http::Method;
use serde_json::{Value, json};

use super::{Context, list_all, path::Remote, prompt, users::show};
use crate::{
    args::{ShareCreateArgs, ShareRole, ShareVerb, ShareWithArgs},
    client::{
        Call,
        api::{in_space, segment},
        error::{ClientError, Result},
    },
    config::secret::Secret,
};

/// Runs `larder share`.
pub(crate) async fn run(context: &Context, verb: &ShareVerb) -> Result<()> {
    let share = |id: &str| format!("/v1/shares/{}", segment(id));
    match verb {
        ShareVerb::Ls { path, by_me } => {
            let columns = ["id", "kind", "role", "path", "with.name", "by", "expires"];
            let url = match path {
                Some(text) => {
                    let remote = Remote::parse(text)?;
                    let space = segment(&remote.space);
                    if remote.path.is_empty() {
                        format!("/v1/shares?space={space}")
                    } else {
                        format!("/v1/shares?space={space}&path={}", segment(&remote.path))
                    }
                }
                None if *by_me => "/v1/shares?by=me".to_owned(),
                None => "/v1/shares".to_owned(),
            };
            list_all(context, &url, &columns).await
        }
        ShareVerb::Create(share) => create(context, share).await,
        ShareVerb::Show { id } => show(context, id, &Call::new(Method::GET, share(id))).await,
        ShareVerb::Set { id, role, expires, name, downloads } => {
            let now = context.client.env().now();
            let mut body = serde_json::Map::new();
            let mut put = |name: &str, value: Option<Value>| {
                body.extend(value.map(|value| (name.to_owned(), value)));
            };
            put("role", role.map(|role| role.word().into()));
            put("expires", expires.map(|after| now.after(after).to_string().into()));
            put("name", name.clone().map(Into::into));
            put("downloads_max", downloads.map(Into::into));
            let call = Call::new(Method::PATCH, share(id)).json(&Value::Object(body));
            show(context, id, &call).await
        }
        ShareVerb::Rm { id } => {
            let call = Call::new(Method::DELETE, share(id));
            context.client.done(&call).await.map_err(|error| error.about(id))
        }
        ShareVerb::Mount { target, path } => {
            let remote = Remote::parse(path)?;
            let target = match Remote::parse(target) {
                Ok(target) => json!({ "space": target.space, "path": target.path }),
                Err(_) => json!({ "id": target }),
            };
            let url = in_space(&remote.space, "references", &remote.path);
            let call = Call::new(Method::PUT, url).json(&json!({ "target": target }));
            show(context, path, &call).await
        }
    }
}

/// Makes a share.
async fn create(context: &Context, share: &ShareCreateArgs) -> Result<()> {
    let ShareCreateArgs {
        path,
        with,
        role,
        expires,
        name,
        downloads,
        ask_password,
        link_password_file,
    } = share;
    let remote = Remote::parse(path)?;
    let now = context.client.env().now();
    let mut body = json!({
        "space": remote.space,
        "path": remote.path,
        "role": role.word(),
        "expires": expires.map(|after| now.after(after).to_string()),
    });
    let ShareWithArgs { with_user, with_group, link } = with;
    let more = match (with_user, with_group, link) {
        (Some(user), None, false) => json!({ "kind": "user", "with": user }),
        (None, Some(group), false) => json!({ "kind": "group", "with": group }),
        _ => {
            let secret = match link_password_file {
                Some(file) if file.as_os_str() == "-" => Some(prompt::from_stdin()?),
                Some(file) => {
                    Some(Secret::from_file(file).map_err(|error| ClientError::local(file, error))?)
                }
                None if *ask_password => prompt::ask("Password of the link: ")?,
                None => None,
            };
            json!({
                "kind": "link",
                "name": name,
                "downloads_max": downloads,
                "password": secret.as_ref().map(Secret::reveal),
            })
        }
    };
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    show(context, path, &Call::new(Method::POST, "/v1/shares".to_owned()).json(&body)).await
}

impl ShareRole {
    fn word(self) -> &'static str {
        match self {
            Self::Uploader => "uploader",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Manager => "manager",
        }
    }
}
