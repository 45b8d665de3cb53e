//! The JSON types of shares, links and references.

use larder_base::{
    Timestamp,
    id::{NodeId, ShareId, SpaceId},
};
use larder_core::{Error, LinkView, RefTarget, Role, ShareInfo, SharedWith};
use serde::{Deserialize, Serialize};

use super::{Text, kind, object, present};

/// What a reference stands for.
#[derive(Serialize)]
pub(crate) struct RefTargetBody {
    space: Text<SpaceId>,
    id: Text<NodeId>,
    /// Null once it is gone or may not be seen any more.
    kind: Option<&'static str>,
}

impl From<&RefTarget> for RefTargetBody {
    fn from(target: &RefTarget) -> Self {
        Self { space: Text(target.space), id: Text(target.node), kind: target.kind.map(kind) }
    }
}

/// `{space, path}` or `{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetBody {
    pub(crate) space: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) id: Option<String>,
}

/// A role by its name.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleBody {
    Uploader,
    Viewer,
    Editor,
    Manager,
}

impl From<RoleBody> for Role {
    fn from(role: RoleBody) -> Self {
        match role {
            RoleBody::Uploader => Self::Uploader,
            RoleBody::Viewer => Self::Viewer,
            RoleBody::Editor => Self::Editor,
            RoleBody::Manager => Self::Manager,
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Uploader => "uploader",
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::Manager => "manager",
    }
}

/// Whom a share is for.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShareKind {
    User,
    Group,
    Link,
}

/// Body of `POST /v1/shares`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewShareBody {
    pub(crate) space: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) kind: ShareKind,
    pub(crate) with: Option<String>,
    pub(crate) role: RoleBody,
    pub(crate) expires: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) downloads_max: Option<u64>,
    pub(crate) name: Option<String>,
}

/// Body of `PATCH /v1/shares/{id}`: what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareChangeBody {
    pub(crate) role: Option<RoleBody>,
    #[serde(default, deserialize_with = "present")]
    pub(crate) expires: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    pub(crate) password: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    pub(crate) downloads_max: Option<Option<u64>>,
    pub(crate) name: Option<String>,
}

/// Body of `PUT .../references/{path}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReferenceBody {
    #[serde(deserialize_with = "object")]
    pub(crate) target: TargetBody,
}

/// A time in a request.
pub(crate) fn time(text: &str) -> Result<Timestamp, Error> {
    text.parse().map_err(|_| Error::invalid("a time is written as RFC 3339, in UTC"))
}

/// A share.
#[derive(Serialize)]
pub(crate) struct ShareBody<'a> {
    id: Text<ShareId>,
    space: Text<SpaceId>,
    node: Text<NodeId>,
    /// Null while it is in the trash.
    node_kind: Option<&'static str>,
    path: Option<&'a str>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<WithBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<LinkBody<'a>>,
    role: &'static str,
    by: &'a str,
    created: Text<Timestamp>,
    expires: Option<Text<Timestamp>>,
}

#[derive(Serialize)]
struct WithBody<'a> {
    id: String,
    name: &'a str,
}

#[derive(Serialize)]
struct LinkBody<'a> {
    name: &'a str,
    token: &'a str,
    url: String,
    has_password: bool,
    downloads: u64,
    downloads_max: Option<u64>,
}

impl<'a> From<&'a ShareInfo> for ShareBody<'a> {
    fn from(share: &'a ShareInfo) -> Self {
        let (kind_of_share, with, link) = match &share.with {
            SharedWith::User(id, name) => {
                ("user", Some(WithBody { id: id.to_string(), name }), None)
            }
            SharedWith::Group(id, name) => {
                ("group", Some(WithBody { id: id.to_string(), name }), None)
            }
            SharedWith::Link(link) => {
                let body = LinkBody {
                    name: &link.name,
                    token: &link.token,
                    url: format!("/v1/links/{}", link.token),
                    has_password: link.has_password,
                    downloads: link.downloads,
                    downloads_max: link.downloads_max,
                };
                ("link", None, Some(body))
            }
        };
        Self {
            id: Text(share.id),
            space: Text(share.space),
            node: Text(share.node),
            node_kind: share.place.as_ref().map(|place| kind(place.0)),
            path: share.place.as_ref().map(|place| place.1.as_str()),
            kind: kind_of_share,
            with,
            link,
            role: role(share.role),
            by: &share.by,
            created: Text(share.created),
            expires: share.expires.map(Text),
        }
    }
}

/// A link as whoever has it sees it.
#[derive(Serialize)]
pub(crate) struct LinkViewBody<'a> {
    name: &'a str,
    kind: &'static str,
    role: &'static str,
    has_password: bool,
    expires: Option<Text<Timestamp>>,
}

impl<'a> From<&'a LinkView> for LinkViewBody<'a> {
    fn from(view: &'a LinkView) -> Self {
        Self {
            name: &view.name,
            kind: kind(view.kind),
            role: role(view.role),
            has_password: view.has_password,
            expires: view.expires.map(Text),
        }
    }
}
