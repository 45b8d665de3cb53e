//! What identity operations take and answer: users, groups and credentials.
//!
//! Promises: no `Debug` shows a secret.
//!
//! Not here: hashing, storage and checking of secrets ([`crate::identity`]).

use std::fmt;

use larder_base::{
    Timestamp,
    id::{GroupId, KeyId, SpaceId, UserId},
};
use zeroize::Zeroizing;

use crate::caller::{Access, Caller, CredentialKind, Scope};

/// How a request names a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// The caller.
    Me,
    /// By id.
    Id(UserId),
    /// By name.
    Name(String),
}

impl UserRef {
    /// `me` is the caller, an id is an id, everything else is a name.
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            _ if text == "me" => Self::Me,
            Ok(id) => Self::Id(id),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// A user.
#[derive(Clone, Debug)]
pub struct UserInfo {
    /// Id, for ever.
    pub id: UserId,
    /// Name, unique in the instance.
    pub name: String,
    /// Whether the user administers the instance.
    pub admin: bool,
    /// Whether the user is refused at every door.
    pub disabled: bool,
    /// When the user was made.
    pub created: Timestamp,
}

/// A user to be made.
#[derive(Clone)]
pub struct NewUser {
    /// Name: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    pub name: String,
    /// Password: 8 to 256 bytes.
    pub password: String,
    /// Whether the user administers the instance.
    pub admin: bool,
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewUser({}, admin: {})", self.name, self.admin)
    }
}

/// A change of a user; what is `None` stays.
#[derive(Clone, Default)]
pub struct UserChange {
    /// Another password.
    pub password: Option<String>,
    /// Refuse or admit the user. Admins only.
    pub disabled: Option<bool>,
    /// Give or take administration. Admins only.
    pub admin: Option<bool>,
}

impl fmt::Debug for UserChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserChange")
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("disabled", &self.disabled)
            .field("admin", &self.admin)
            .finish()
    }
}

/// What happens to a user's home when the user is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HomePolicy {
    /// It goes, with everything in it.
    #[default]
    Remove,
    /// It becomes a project space that belongs to the administrator who deletes the user.
    Keep,
}

/// A credential to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Who takes it, and in which form.
    pub kind: CredentialKind,
    /// What its owner calls it.
    pub name: String,
    /// When it stops working; `None` is never.
    pub expires: Option<Timestamp>,
    /// What it may do; `None` is everything that its kind can.
    pub access: Option<Access>,
    /// The only spaces that it opens; `None` is all.
    pub spaces: Option<Vec<SpaceId>>,
}

impl Default for NewKey {
    fn default() -> Self {
        let kind = CredentialKind::Api;
        Self { kind, name: String::new(), expires: None, access: None, spaces: None }
    }
}

/// A credential, without its secret.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// Who takes it, and in which form.
    pub kind: CredentialKind,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops working; `None` is never.
    pub expires: Option<Timestamp>,
    /// When its secret was last replaced.
    pub rotated: Option<Timestamp>,
    /// Until when the secret before is accepted too.
    pub previous_until: Option<Timestamp>,
    /// When it was last used, to within an hour; `None` if it never was.
    pub last_used: Option<Timestamp>,
    /// The public half of an S3 key pair.
    pub access_key_id: Option<String>,
}

/// A credential that was just made or rotated, with its secret: told this once. The secret is
/// cleared when this is dropped, and is in no `Debug`.
pub struct MadeKey {
    /// The credential.
    pub key: KeyInfo,
    /// The whole text of an API key or app password; the secret half of an S3 key pair.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for MadeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MadeKey({:?})", self.key)
    }
}

/// What the S3 door needs to check a signature. In no `Debug`.
pub struct S3Secrets {
    /// Whose signature it would be.
    pub caller: Caller,
    /// The secrets it may be made with: the current one, and after a rotation the one before.
    pub secrets: Vec<Zeroizing<String>>,
}

impl fmt::Debug for S3Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Secrets({})", self.caller.name)
    }
}

/// How a request names a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRef {
    /// By id.
    Id(GroupId),
    /// By name.
    Name(String),
}

impl GroupRef {
    /// An id is an id, everything else is a name.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

/// A group.
#[derive(Clone, Debug)]
pub struct GroupInfo {
    /// Id, for ever.
    pub id: GroupId,
    /// Name, unique in the instance.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// Since when.
    pub since: Timestamp,
}
