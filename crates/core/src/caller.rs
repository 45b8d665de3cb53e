//! Who asks: passed to every operation of core.
//!
//! Not here: how a caller proves who they are ([`crate::identity`]), what they may do
//! ([`crate::access`]).

use std::sync::Arc;

use larder_base::id::UserId;
use larder_meta::Version;

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
