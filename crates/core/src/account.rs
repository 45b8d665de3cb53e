//! What identity operations take and answer: users and keys, without their secrets.
//!
//! Not here: hashing, storage and checking of secrets ([`crate::identity`]).

use std::fmt;

use larder_base::{
    Timestamp,
    id::{KeyId, UserId},
};

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

/// An API key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What its owner calls it.
    pub name: String,
    /// When it stops working; `None` is never.
    pub expires: Option<Timestamp>,
}

/// An API key, without its secret.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops working; `None` is never.
    pub expires: Option<Timestamp>,
}
