//! Who asks: passed to every operation of core.
//!
//! Not here: how a caller proves who they are ([`crate::identity`]), what they may do
//! ([`crate::access`]).

use std::sync::Arc;

use bytes::Bytes;
use larder_base::id::{SpaceId, UserId};
use larder_meta::Version;
use serde::{Deserialize, Serialize};

/// An authenticated user, for the length of one request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The user's name, as it is recorded with revisions and trash items.
    pub name: Arc<str>,
    /// Whether the user administers this instance.
    pub admin: bool,
    /// The user's record that says so: it must be the same when a change commits.
    pub(crate) record: Version,
    /// What the credential allows of what the user may do.
    pub(crate) scope: Scope,
    /// The record of the key or link that the caller came with, and its version: it must be the
    /// same when a change commits, so that a revoked one changes nothing any more.
    pub(crate) credential: Option<(Bytes, Version)>,
}

/// What a credential allows of what its user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Kinds of operations.
    pub access: Access,
    /// The only spaces that it opens; `None` is all that the user may enter.
    pub spaces: Option<Arc<[SpaceId]>>,
}

/// Kinds of operations that a credential allows, each with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Reading files.
    Read,
    /// Reading and changing files.
    Write,
    /// Everything: the account, its keys and shares, and administration too.
    Full,
}

impl Scope {
    /// Everything that the user may do.
    pub fn full() -> Self {
        Self { access: Access::Full, spaces: None }
    }
}

/// What a request brings to prove who sends it.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// A user's name and password.
    Password {
        /// The name.
        user: &'a str,
        /// The password.
        password: &'a str,
    },
    /// An API key.
    Key(&'a str),
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets are never shown.
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Key(_) => f.write_str("Key"),
        }
    }
}
