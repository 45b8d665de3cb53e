//! The one decision about who may do what.
//!
//! Promises: every public operation of [`Larder`](crate::Larder) asks [`authorize`] before
//! anything else; who may not even know that a space exists is told `NotFound` (attic rule).
//! Doors hold no policy.
//!
//! Not here: shares and grants, which extend the table below.

use larder_base::ErrorKind;

use crate::{
    caller::Caller,
    error::{Error, Result},
    schema,
};

/// What a caller wants to do with a space and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Read names and contents.
    Read,
    /// Add, change, move and delete.
    Write,
    /// Change the space's name and policy.
    Manage,
    /// Change its limits, or remove it.
    Administer,
}

/// Whether `caller` may do this with `space`: its owner may all but administer it, an
/// administrator may everything, anyone else learns nothing of it.
pub(crate) fn authorize(caller: &Caller, space: &schema::Space, right: Right) -> Result<()> {
    let allowed = match right {
        Right::Read | Right::Write | Right::Manage => caller.admin || space.owner == caller.user,
        Right::Administer => caller.admin,
    };
    if allowed {
        return Ok(());
    }
    if space.owner == caller.user {
        Err(Error::new(ErrorKind::Denied, "only an administrator may do this"))
    } else {
        Err(Error::not_found("space"))
    }
}

/// Whether `caller` administers the instance.
pub(crate) fn require_admin(caller: &Caller) -> Result<()> {
    if caller.admin {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Denied, "only an administrator may do this"))
    }
}
