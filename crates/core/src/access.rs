//! What may be done: rights, the roles that give them, and what a credential leaves of them.
//!
//! Not here: who has which role where, which is decided in `room`.

use larder_base::{
    ErrorKind,
    id::{GroupId, SpaceId, UserId},
};
use serde::{Deserialize, Serialize};

use crate::{
    caller::{Access, Caller},
    error::{Error, Result},
};

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Read names and contents.
    Read,
    /// Add files and directories under new names.
    Create,
    /// Add, change, move and delete.
    Write,
    /// Grant rights to others.
    Share,
    /// Change the space's name and policy.
    Manage,
    /// Change its limits, or remove it.
    Administer,
}

/// What a grant allows on a node and on everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Adding under new names, and seeing nothing.
    Uploader,
    /// Reading.
    Viewer,
    /// Reading and changing.
    Editor,
    /// Everything that the owner may: sharing, and on the root of a space its name and policy.
    Manager,
}

impl Role {
    /// Whether it gives `right`.
    pub(crate) fn allows(self, right: Right) -> bool {
        match right {
            Right::Create => self != Self::Viewer,
            Right::Read => self >= Self::Viewer,
            Right::Write => self >= Self::Editor,
            Right::Share | Right::Manage => self == Self::Manager,
            Right::Administer => false,
        }
    }
}

/// Whom a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Principal {
    /// A user.
    User(UserId),
    /// Everybody in a group.
    Group(GroupId),
}

impl Access {
    fn allows(self, right: Right) -> bool {
        match right {
            Right::Read => true,
            Right::Create | Right::Write => self >= Self::Write,
            Right::Share | Right::Manage | Right::Administer => self == Self::Full,
        }
    }
}

/// Whether the credential of `caller` allows this in this space.
pub(crate) fn check_scope(caller: &Caller, space: SpaceId, right: Right) -> Result<()> {
    let inside = caller.scope.spaces.as_ref().is_none_or(|spaces| spaces.contains(&space));
    if !inside {
        return Err(Error::not_found("space"));
    }
    if !caller.scope.access.allows(right) {
        return Err(Error::new(ErrorKind::Denied, "this key or link does not allow it"));
    }
    Ok(())
}

/// Whether `caller` administers the instance.
pub(crate) fn require_admin(caller: &Caller) -> Result<()> {
    if caller.admin {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Denied, "only an administrator may do this"))
    }
}

/// Whether the credential allows changes of accounts, keys, groups and shares.
pub(crate) fn require_full(caller: &Caller) -> Result<()> {
    if caller.scope.access == Access::Full {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Denied, "this key or link allows only work on files"))
    }
}
