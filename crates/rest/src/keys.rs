//! Credentials of users: API keys, app passwords, S3 key pairs.
//!
//! Promises: a secret is in one answer, that to its making or rotation, which nothing on the way
//! may keep.
//!
//! Not here: who may do this (core).

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use larder_base::id::{KeyId, SpaceId};
use larder_core::{Caller, Error, Larder, MadeKey, NewKey, SpaceRef, UserRef};
use larder_http::ResponseBody;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{
        PageBody,
        account::{KeyBody, NewKeyBody, RotateBody},
    },
};

/// Most spaces that a request may name.
const SPACES_MAX: usize = 64;

/// `GET /v1/users/{user}/keys`.
pub(crate) async fn list(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let keys = call.larder().keys(&call.caller, &user).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<KeyBody<'_>>::whole("keys", &keys))?)
}

/// `POST /v1/users/{user}/keys`.
pub(crate) async fn create(call: Call<'_>, user: &str) -> Answer {
    let user = call::user(user)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewKeyBody = Call::json_or_default(call.body).await?;
    let spaces = match &body.scope.spaces {
        Some(names) => Some(spaces(larder, &caller, &user, names).await?),
        None => None,
    };
    let new = NewKey {
        kind: body.kind.into(),
        expires: body.expires()?,
        access: body.scope.access.map(Into::into),
        spaces,
        name: body.name,
    };
    let made = larder.create_key(&caller, &user, new).await?;
    told_once(StatusCode::CREATED, &made)
}

/// The ids of spaces that are named by id, or by a name that the caller may know.
async fn spaces(
    larder: &Larder,
    caller: &Caller,
    user: &UserRef,
    names: &[String],
) -> Result<Vec<SpaceId>, Error> {
    if names.len() > SPACES_MAX {
        return Err(Error::invalid(format!("a scope names at most {SPACES_MAX} spaces")));
    }
    let own = match user {
        UserRef::Me => true,
        UserRef::Id(id) => *id == caller.user,
        UserRef::Name(name) => **name == *caller.name,
    };
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        ids.push(match SpaceRef::parse(name) {
            SpaceRef::Id(id) => id,
            SpaceRef::Home if !own => {
                return Err(Error::invalid("name the home of another user by its id"));
            }
            space => larder.space(caller, &space).await?.id,
        });
    }
    Ok(ids)
}

/// `POST /v1/users/{user}/keys/{key}/rotate`.
pub(crate) async fn rotate(call: Call<'_>, user: &str, key: &str) -> Answer {
    let user = call::user(user)?;
    let key = call::id::<KeyId>(key, "key")?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: RotateBody = Call::json_or_default(call.body).await?;
    let overlap = Duration::from_secs(body.overlap_seconds);
    let made = larder.rotate_key(&caller, &user, key, overlap).await?;
    told_once(StatusCode::OK, &made)
}

/// `DELETE /v1/users/{user}/keys/{key}`.
pub(crate) async fn delete(call: Call<'_>, user: &str, key: &str) -> Answer {
    let user = call::user(user)?;
    let key = call::id::<KeyId>(key, "key")?;
    call.no_query()?;
    call.larder().delete_key(&call.caller, &user, key).await?;
    Ok(call::no_content())
}

fn told_once(status: StatusCode, made: &MadeKey) -> Answer {
    let mut response: Response<ResponseBody> = call::json(status, &KeyBody::from(made))?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
