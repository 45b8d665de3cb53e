//! Groups of users.
//!
//! Not here: who may do this (core), what groups are granted (shares).

use http::StatusCode;
use larder_core::{Error, GroupRef};
use larder_http::path;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{
        PageBody,
        account::{GroupBody, GroupNameBody, MemberBody},
    },
};

fn group(raw: &str) -> Result<GroupRef, Error> {
    Ok(GroupRef::parse(&path::decode(raw)?))
}

/// `GET /v1/groups`.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().groups(&call.caller, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<GroupBody<'_>>::new("groups", &page))?)
}

/// `POST /v1/groups`.
pub(crate) async fn create(call: Call<'_>) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: GroupNameBody = Call::json(call.body).await?;
    let group = larder.create_group(&caller, &body.name).await?;
    let mut response = call::json(StatusCode::OK, &GroupBody::from(&group))?;
    call::created(&mut response, true, format!("/v1/groups/{}", group.id));
    Ok(response)
}

/// `GET /v1/groups/{group}`.
pub(crate) async fn get(call: Call<'_>, raw: &str) -> Answer {
    call.no_query()?;
    let group = call.larder().group(&call.caller, &group(raw)?).await?;
    Ok(call::json(StatusCode::OK, &GroupBody::from(&group))?)
}

/// `PATCH /v1/groups/{group}`.
pub(crate) async fn change(call: Call<'_>, raw: &str) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: GroupNameBody = Call::json(call.body).await?;
    let group = larder.rename_group(&caller, &group(raw)?, &body.name).await?;
    Ok(call::json(StatusCode::OK, &GroupBody::from(&group))?)
}

/// `DELETE /v1/groups/{group}`.
pub(crate) async fn delete(call: Call<'_>, raw: &str) -> Answer {
    call.no_query()?;
    call.larder().delete_group(&call.caller, &group(raw)?).await?;
    Ok(call::no_content())
}

/// `GET /v1/groups/{group}/members`.
pub(crate) async fn members(call: Call<'_>, raw: &str) -> Answer {
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().group_members(&call.caller, &group(raw)?, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<MemberBody<'_>>::new("members", &page))?)
}

/// `PUT /v1/groups/{group}/members/{user}`.
pub(crate) async fn add_member(call: Call<'_>, raw: &str, user: &str) -> Answer {
    call.no_query()?;
    let user = call::user(user)?;
    call.larder().add_member(&call.caller, &group(raw)?, &user).await?;
    Ok(call::no_content())
}

/// `DELETE /v1/groups/{group}/members/{user}`.
pub(crate) async fn remove_member(call: Call<'_>, raw: &str, user: &str) -> Answer {
    call.no_query()?;
    let user = call::user(user)?;
    call.larder().remove_member(&call.caller, &group(raw)?, &user).await?;
    Ok(call::no_content())
}
