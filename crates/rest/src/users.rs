//! Users and their API keys.
//!
//! Promises: a password is in no answer; a key is in one, the answer to its making.
//!
//! Not here: who may do this (core).

use http::{HeaderValue, StatusCode, header};
use larder_base::id::KeyId;
use larder_core::NewKey;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{KeyBody, NewKeyBody, NewUserBody, PageBody, UserBody, UserChangeBody},
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

/// `DELETE /v1/users/{user}`.
pub(crate) async fn delete(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    call.larder().delete_user(&call.caller, &user).await?;
    Ok(call::no_content())
}

/// `GET /v1/users/{user}/keys`.
pub(crate) async fn keys(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let keys = call.larder().keys(&call.caller, &user).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<KeyBody<'_>>::whole("keys", &keys))?)
}

/// `POST /v1/users/{user}/keys`.
pub(crate) async fn create_key(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewKeyBody = Call::json_or_default(call.body).await?;
    let new = NewKey::try_from(body)?;
    let (key, secret) = larder.create_key(&caller, &user, new).await?;
    let body = KeyBody::from(&key).with_secret(&secret);
    let mut response = call::json(StatusCode::CREATED, &body)?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /v1/users/{user}/keys/{key}`.
pub(crate) async fn delete_key(call: Call<'_>, user: &str, key: &str) -> Answer {
    let user = call::user(user)?;
    let key = call::id::<KeyId>(key, "key")?;
    call.no_query()?;
    call.larder().delete_key(&call.caller, &user, key).await?;
    Ok(call::no_content())
}
