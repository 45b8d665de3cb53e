//! Spaces: list, make, look, change, delete.
//!
//! Not here: what is in them ([`crate::tree`], [`crate::trash`]).

use http::StatusCode;
use larder_core::{
    Copies, NewSpace, Placement, SpaceChange, SpaceKind, SpaceLimits, SpacePolicy, Split,
};

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
    let kind = SpaceKind::from(body.kind);
    let limits = body.limits.map(|limits| limits.apply(SpaceLimits::default()));
    let new = NewSpace {
        name: body.name,
        kind,
        limits: limits.unwrap_or_default(),
        policy: body.policy.map(|policy| policy.apply(&default_policy(kind))),
    };
    let space = larder.create_space(&caller, new).await?;
    let mut response = call::json(StatusCode::OK, &SpaceBody::from(&space))?;
    call::created(&mut response, true, format!("/v1/spaces/{}", space.id));
    Ok(response)
}

/// What a policy is completed with of which a request says only a part.
fn default_policy(kind: SpaceKind) -> SpacePolicy {
    SpacePolicy {
        placement: Placement { split: Split::Whole, copies: Copies::Count(1), ack: 1 },
        versions_keep: (kind == SpaceKind::Bucket).then_some(0),
        versions_days: None,
        trash_days: None,
    }
}

/// `GET /v1/spaces/{space}`.
pub(crate) async fn get(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let space = call.larder().space(&call.caller, &space).await?;
    Ok(call::json(StatusCode::OK, &SpaceBody::from(&space))?)
}

/// `PATCH /v1/spaces/{space}`: what is absent stays (RFC 7396).
pub(crate) async fn change(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: SpaceChangeBody = Call::json(call.body).await?;
    let partial =
        body.policy.is_some() || body.limits.as_ref().is_some_and(|limits| !limits.whole());
    let before = if partial { Some(larder.space(&caller, &space).await?) } else { None };
    let limits = before.as_ref().map_or(SpaceLimits::default(), |before| before.limits);
    let change = SpaceChange {
        name: body.name,
        limits: body.limits.map(|change| change.apply(limits)),
        policy: body
            .policy
            .zip(before.as_ref())
            .map(|(change, before)| change.apply(&before.policy)),
    };
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
