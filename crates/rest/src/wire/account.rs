//! The JSON of users, groups and credentials.
//!
//! Promises: a secret is shown once, in the answer to its making or rotation; no body that may
//! hold one has a `Debug`.
//!
//! Not here: who may do what (core).

use larder_base::Timestamp;
use larder_core::{
    Access, CredentialKind, Error, GroupInfo, KeyInfo, MadeKey, MemberInfo, NewUser, Scope,
    UserChange, UserInfo,
};
use serde::{Deserialize, Serialize};

use super::{Text, object};

/// A user.
#[derive(Serialize)]
pub(crate) struct UserBody<'a> {
    id: Text<larder_base::id::UserId>,
    name: &'a str,
    admin: bool,
    disabled: bool,
    created: Text<Timestamp>,
}

impl<'a> From<&'a UserInfo> for UserBody<'a> {
    fn from(user: &'a UserInfo) -> Self {
        Self {
            id: Text(user.id),
            name: &user.name,
            admin: user.admin,
            disabled: user.disabled,
            created: Text(user.created),
        }
    }
}

/// Body of `POST /v1/users`. It has no `Debug`: it holds a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUserBody {
    name: String,
    password: String,
    #[serde(default)]
    admin: bool,
}

impl From<NewUserBody> for NewUser {
    fn from(body: NewUserBody) -> Self {
        Self { name: body.name, password: body.password, admin: body.admin }
    }
}

/// Body of `PATCH /v1/users/{user}`. It has no `Debug`: it holds a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserChangeBody {
    password: Option<String>,
    disabled: Option<bool>,
    admin: Option<bool>,
}

impl From<UserChangeBody> for UserChange {
    fn from(body: UserChangeBody) -> Self {
        Self { password: body.password, disabled: body.disabled, admin: body.admin }
    }
}

/// Kinds of credentials by name.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KindBody {
    #[default]
    Api,
    App,
    S3,
}

impl From<CredentialKind> for KindBody {
    fn from(kind: CredentialKind) -> Self {
        match kind {
            CredentialKind::Api => Self::Api,
            CredentialKind::App => Self::App,
            CredentialKind::S3 => Self::S3,
        }
    }
}

impl From<KindBody> for CredentialKind {
    fn from(kind: KindBody) -> Self {
        match kind {
            KindBody::Api => Self::Api,
            KindBody::App => Self::App,
            KindBody::S3 => Self::S3,
        }
    }
}

/// What a credential may do, by name.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AccessBody {
    Read,
    Write,
    Full,
}

impl From<Access> for AccessBody {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
            Access::Full => Self::Full,
        }
    }
}

impl From<AccessBody> for Access {
    fn from(access: AccessBody) -> Self {
        match access {
            AccessBody::Read => Self::Read,
            AccessBody::Write => Self::Write,
            AccessBody::Full => Self::Full,
        }
    }
}

#[derive(Serialize)]
struct ScopeBody {
    access: AccessBody,
    /// Null is all.
    spaces: Option<Vec<Text<larder_base::id::SpaceId>>>,
}

impl From<&Scope> for ScopeBody {
    fn from(scope: &Scope) -> Self {
        let spaces = scope.spaces.as_ref();
        Self {
            access: scope.access.into(),
            spaces: spaces.map(|spaces| spaces.iter().copied().map(Text).collect()),
        }
    }
}

/// A credential, with its secret when that is new.
#[derive(Serialize)]
pub(crate) struct KeyBody<'a> {
    id: Text<larder_base::id::KeyId>,
    kind: KindBody,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    scope: ScopeBody,
    created: Text<Timestamp>,
    expires: Option<Text<Timestamp>>,
    rotated: Option<Text<Timestamp>>,
    previous_until: Option<Text<Timestamp>>,
    last_used: Option<Text<Timestamp>>,
}

impl<'a> From<&'a KeyInfo> for KeyBody<'a> {
    fn from(key: &'a KeyInfo) -> Self {
        Self {
            id: Text(key.id),
            kind: key.kind.into(),
            name: &key.name,
            access_key_id: key.access_key_id.as_deref(),
            key: None,
            scope: ScopeBody::from(&key.scope),
            created: Text(key.created),
            expires: key.expires.map(Text),
            rotated: key.rotated.map(Text),
            previous_until: key.previous_until.map(Text),
            last_used: key.last_used.map(Text),
        }
    }
}

impl<'a> From<&'a MadeKey> for KeyBody<'a> {
    fn from(made: &'a MadeKey) -> Self {
        Self { key: Some(&made.secret), ..Self::from(&made.key) }
    }
}

/// Body of `POST /v1/users/{user}/keys`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewKeyBody {
    pub(crate) kind: KindBody,
    pub(crate) name: String,
    expires: Option<String>,
    #[serde(deserialize_with = "object")]
    pub(crate) scope: NewScopeBody,
}

/// What a new credential shall do; null is everything that its kind can.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewScopeBody {
    pub(crate) access: Option<AccessBody>,
    /// Ids or names.
    pub(crate) spaces: Option<Vec<String>>,
}

impl NewKeyBody {
    /// When it shall end.
    pub(crate) fn expires(&self) -> Result<Option<Timestamp>, Error> {
        let time = |text: &String| {
            text.parse::<Timestamp>().map_err(|_| {
                Error::invalid("`expires` must be a time such as 2030-01-31T00:00:00Z")
            })
        };
        self.expires.as_ref().map(time).transpose()
    }
}

/// Body of `POST /v1/users/{user}/keys/{key}/rotate`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RotateBody {
    pub(crate) overlap_seconds: u64,
}

/// A group.
#[derive(Serialize)]
pub(crate) struct GroupBody<'a> {
    id: Text<larder_base::id::GroupId>,
    name: &'a str,
    created: Text<Timestamp>,
}

impl<'a> From<&'a GroupInfo> for GroupBody<'a> {
    fn from(group: &'a GroupInfo) -> Self {
        Self { id: Text(group.id), name: &group.name, created: Text(group.created) }
    }
}

/// A member of a group.
#[derive(Serialize)]
pub(crate) struct MemberBody<'a> {
    id: Text<larder_base::id::UserId>,
    name: &'a str,
    since: Text<Timestamp>,
}

impl<'a> From<&'a MemberInfo> for MemberBody<'a> {
    fn from(member: &'a MemberInfo) -> Self {
        Self { id: Text(member.user), name: &member.name, since: Text(member.since) }
    }
}

/// Body of `POST /v1/groups` and `PATCH /v1/groups/{group}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupNameBody {
    pub(crate) name: String,
}
