//! Shares, references, and what a public link opens.
//!
//! Promises: a link's token is in no log; what comes with a link can use the routes below the
//! link and no other.
//!
//! Not here: what a share allows (core).

use http::{HeaderName, StatusCode};
use larder_base::{
    id::{NodeId, ShareId},
    name::TreePath,
};
use larder_core::{
    Caller, Error, LinkTerms, NewShare, ShareChange, ShareFilter, ShareWith, SpaceRef, Target,
};
use larder_http::{ResponseBody, auth::Given};

use crate::{
    Inner,
    call::{self, Call},
    error::Answer,
    wire::{
        EntryBody, PageBody,
        share::{
            LinkViewBody, NewShareBody, ReferenceBody, ShareBody, ShareChangeBody, ShareKind,
            TargetBody, time,
        },
    },
};

/// Password of a link; the one of `Authorization: Basic` will do as well.
const LINK_PASSWORD: HeaderName = HeaderName::from_static("larder-link-password");

/// What stands for the link's own space in the paths of handlers; no space has this name.
pub(crate) const LINK_SPACE: &str = SpaceRef::LINK;

/// The caller that a link makes of whoever has it.
pub(crate) async fn open_link(
    inner: &Inner,
    token: &str,
    headers: &http::HeaderMap,
    from: std::net::IpAddr,
) -> Result<Caller, Error> {
    let plain = headers.get(LINK_PASSWORD).map(|value| value.to_str());
    let plain = plain.transpose().map_err(|_| Error::invalid("the link's password is not text"))?;
    let given = Given::parse(headers).ok();
    let password = plain.or_else(|| given.as_ref().and_then(Given::password));
    inner.larder.open_link(token, password, from).await
}

/// `GET /v1/links/{token}`.
pub(crate) async fn view_link(inner: &Inner, token: &str) -> Answer {
    let view = inner.larder.view_link(token).await?;
    Ok(call::json(StatusCode::OK, &LinkViewBody::from(&view))?)
}

fn target(space: Option<&str>, path: Option<&str>, id: Option<&str>) -> Result<Target, Error> {
    match (space, path, id) {
        (None, None, Some(id)) => Ok(Target::Node(call::id::<NodeId>(id, "file or directory")?)),
        (space, Some(path), None) => {
            let space = space.map_or(SpaceRef::Home, SpaceRef::parse);
            Ok(Target::Path(space, TreePath::parse(path)?))
        }
        _ => Err(Error::invalid("name it by `space` and `path`, or by `id`")),
    }
}

/// `GET /v1/shares[?space=&path=&id=&by=me]`.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let known = ["cursor", "limit", "space", "path", "id", "by"];
    let options = call.list_options(&known)?;
    let query = call.query(&known)?;
    let filter = match (query.get("by"), query.get("space"), query.get("path"), query.get("id")) {
        (Some("me"), None, None, None) => ShareFilter::ByMe,
        (None, None, None, None) => ShareFilter::WithMe,
        (None, Some(space), None, None) => ShareFilter::In(SpaceRef::parse(space)),
        (None, space, path, id) => ShareFilter::Of(target(space, path, id)?),
        _ => return Err(Error::invalid("`by` is `me`, and stands alone").into()),
    };
    let page = call.larder().shares(&call.caller, &filter, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<ShareBody<'_>>::new("shares", &page))?)
}

/// `POST /v1/shares`.
pub(crate) async fn create(call: Call<'_>) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewShareBody = Call::json(call.body).await?;
    let target = target(body.space.as_deref(), body.path.as_deref(), body.id.as_deref())?;
    let of_link = body.password.is_some() || body.downloads_max.is_some() || body.name.is_some();
    let with = match (body.kind, body.with) {
        (ShareKind::Link, None) => ShareWith::Link(LinkTerms {
            name: body.name.unwrap_or_default(),
            password: body.password,
            downloads_max: body.downloads_max,
        }),
        (ShareKind::User, Some(with)) if !of_link => ShareWith::User(with),
        (ShareKind::Group, Some(with)) if !of_link => ShareWith::Group(with),
        _ => {
            let detail = "a share with a user or group has `with`; \
                          a link has `name`, `password` and `downloads_max`";
            return Err(Error::invalid(detail).into());
        }
    };
    let expires = body.expires.as_deref().map(time).transpose()?;
    let new = NewShare { target, with, role: body.role.into(), expires };
    let share = larder.create_share(&caller, new).await?;
    let mut response = call::json(StatusCode::OK, &ShareBody::from(&share))?;
    call::created(&mut response, true, format!("/v1/shares/{}", share.id));
    Ok(response)
}

/// `GET /v1/shares/{id}`.
pub(crate) async fn get(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<ShareId>(id, "share")?;
    call.no_query()?;
    let share = call.larder().share(&call.caller, id).await?;
    Ok(call::json(StatusCode::OK, &ShareBody::from(&share))?)
}

/// `PATCH /v1/shares/{id}`.
pub(crate) async fn change(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<ShareId>(id, "share")?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: ShareChangeBody = Call::json(call.body).await?;
    let expires = match body.expires {
        Some(Some(text)) => Some(Some(time(&text)?)),
        Some(None) => Some(None),
        None => None,
    };
    let change = ShareChange {
        role: body.role.map(Into::into),
        expires,
        password: body.password,
        downloads_max: body.downloads_max,
        name: body.name,
    };
    let share = larder.change_share(&caller, id, change).await?;
    Ok(call::json(StatusCode::OK, &ShareBody::from(&share))?)
}

/// `DELETE /v1/shares/{id}`.
pub(crate) async fn delete(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<ShareId>(id, "share")?;
    call.no_query()?;
    call.larder().delete_share(&call.caller, id).await?;
    Ok(call::no_content())
}

/// `PUT /v1/spaces/{space}/references/{path}`.
pub(crate) async fn create_reference(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let location = call.head.uri.path().replacen("/references/", "/stat/", 1);
    let body: ReferenceBody = Call::json(call.body).await?;
    let TargetBody { space: to, path: to_path, id } = body.target;
    let to = target(to.as_deref(), to_path.as_deref(), id.as_deref())?;
    let entry = larder.create_reference(&caller, &space, &path, &to).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::created(&mut response, true, location);
    Ok(response)
}

/// The path of a request as it may be logged: without the token of a link.
pub(crate) fn hidden(path: &str) -> &str {
    if path.starts_with("/v1/links/") { "/v1/links/***" } else { path }
}

/// Keeps the token out of what the holder's browser tells other sites.
pub(crate) fn private(response: &mut http::Response<ResponseBody>) {
    let value = http::HeaderValue::from_static("no-referrer");
    response.headers_mut().insert(http::header::REFERRER_POLICY, value);
}
