//! Users.
//!
//! Promises: a password is in no answer.
//!
//! Not here: who may do this (core).

use http::StatusCode;
use larder_core::{Error, HomePolicy};

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{
        PageBody,
        account::{NewUserBody, UserBody, UserChangeBody},
    },
};

/// `GET /v1/me`.
pub(crate) async fn me(call: Call<'_>) -> Answer {
    call.no_query()?;
    let user = call.larder().me(&call.caller).await?;
    Ok(call::json(StatusCode::OK, &UserBody::from(&user))?)
}

/// `GET /v1/users`.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().users(&call.caller, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<UserBody<'_>>::new("users", &page))?)
}

/// `POST /v1/users`.
pub(crate) async fn create(call: Call<'_>) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewUserBody = Call::json(call.body).await?;
    let user = larder.create_user(&caller, body.into()).await?;
    let mut response = call::json(StatusCode::OK, &UserBody::from(&user))?;
    call::created(&mut response, true, format!("/v1/users/{}", user.id));
    Ok(response)
}

/// `GET /v1/users/{user}`.
pub(crate) async fn get(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let user = call.larder().user(&call.caller, &user).await?;
    Ok(call::json(StatusCode::OK, &UserBody::from(&user))?)
}

/// `PATCH /v1/users/{user}`.
pub(crate) async fn change(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: UserChangeBody = Call::json(call.body).await?;
    let user = larder.change_user(&caller, &user, body.into()).await?;
    Ok(call::json(StatusCode::OK, &UserBody::from(&user))?)
}

/// `DELETE /v1/users/{user}[?home=]`.
pub(crate) async fn delete(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    let home = match call.query(&["home"])?.get("home") {
        None | Some("remove") => HomePolicy::Remove,
        Some("keep") => HomePolicy::Keep,
        Some(_) => return Err(Error::invalid("parameter \"home\" is remove or keep").into()),
    };
    call.larder().delete_user(&call.caller, &user, home).await?;
    Ok(call::no_content())
}
