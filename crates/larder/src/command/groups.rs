//! `larder groups`: users who are granted something together.
//!
//! Not here: what they are granted (`larder share`).

use http::Method;
use serde_json::json;

use super::{Context, list_all, users::show};
use crate::{
    args::GroupsVerb,
    client::{Call, api::segment, error::Result},
};

/// Runs `larder groups`.
pub(crate) async fn run(context: &Context, verb: &GroupsVerb) -> Result<()> {
    let url = |group: &str| format!("/v1/groups/{}", segment(group));
    let (group, call) = match verb {
        GroupsVerb::Ls => {
            return list_all(context, "/v1/groups", &["name", "id", "created"]).await;
        }
        GroupsVerb::Create { group } => {
            let body = json!({ "name": group });
            (group, Call::new(Method::POST, "/v1/groups".to_owned()).json(&body))
        }
        GroupsVerb::Show { group } => (group, Call::new(Method::GET, url(group))),
        GroupsVerb::Rename { group, name } => {
            (group, Call::new(Method::PATCH, url(group)).json(&json!({ "name": name })))
        }
        GroupsVerb::Rm { group } => {
            let call = Call::new(Method::DELETE, url(group));
            return context.client.done(&call).await.map_err(|error| error.about(group));
        }
        GroupsVerb::Members { group } => {
            let members = format!("{}/members", url(group));
            let listed = list_all(context, &members, &["name", "id", "since"]).await;
            return listed.map_err(|error| error.about(group));
        }
        GroupsVerb::Add { group, users } => {
            return each(context, Method::PUT, &url(group), users).await;
        }
        GroupsVerb::Remove { group, users } => {
            return each(context, Method::DELETE, &url(group), users).await;
        }
    };
    show(context, group, &call).await
}

/// Changes the membership of one user after the other, and stops at the first that fails.
async fn each(context: &Context, method: Method, group: &str, users: &[String]) -> Result<()> {
    for user in users {
        let url = format!("{group}/members/{}", segment(user));
        let call = Call::new(method.clone(), url);
        context.client.done(&call).await.map_err(|error| error.about(user))?;
    }
    Ok(())
}
