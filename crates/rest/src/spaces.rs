//! Spaces: list, make, look, change, delete.
//!
//! Not here: what is in them ([`crate::tree`], [`crate::trash`]).

use http::StatusCode;
use larder_core::{LimitsChange, NewSpace, SpaceChange, SpaceLimits};

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{NewSpaceBody, PageBody, SpaceBody, SpaceChangeBody},
};

/// `GET /v1/spaces`.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().spaces(&call.caller, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<SpaceBody<'_>>::new("spaces", &page))?)
}

/// `POST /v1/spaces`.
pub(crate) async fn create(call: Call<'_>) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewSpaceBody = Call::json(call.body).await?;
    let limits = LimitsChange::from(body.limits.unwrap_or_default()).apply(SpaceLimits::default());
    let (kind, policy) = (body.kind.into(), body.policy.unwrap_or_default().into());
    let new = NewSpace { name: body.name, kind, limits, policy };
    let space = larder.create_space(&caller, new).await?;
    let mut response = call::json(StatusCode::OK, &SpaceBody::from(&space))?;
    call::created(&mut response, true, format!("/v1/spaces/{}", space.id));
    Ok(response)
}

/// `GET /v1/spaces/{space}`.
pub(crate) async fn get(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let space = call.larder().space(&call.caller, &space).await?;
    Ok(call::json(StatusCode::OK, &SpaceBody::from(&space))?)
}

/// `PATCH /v1/spaces/{space}`: what is absent stays (RFC 7396), as it is at the
/// commit.
pub(crate) async fn change(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: SpaceChangeBody = Call::json(call.body).await?;
    let change =
        SpaceChange { name: body.name, limits: body.limits.into(), policy: body.policy.into() };
    let space = larder.change_space(&caller, &space, change).await?;
    Ok(call::json(StatusCode::OK, &SpaceBody::from(&space))?)
}

/// `DELETE /v1/spaces/{space}`.
pub(crate) async fn delete(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    call.larder().delete_space(&call.caller, &space).await?;
    Ok(call::no_content())
}
