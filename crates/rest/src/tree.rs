//! Directories and places: mkdir, stat, list, move, copy.
//!
//! Not here: contents ([`crate::files`]).

use http::StatusCode;
use larder_base::{ErrorKind, name::TreePath};
use larder_core::{Error, SpaceRef, Target};

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{EntryBody, PageBody, RelocateBody},
};

/// Move or copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocate {
    /// The entry itself goes.
    Move,
    /// A copy is made.
    Copy,
}

/// `GET .../stat/{path}`.
pub(crate) async fn stat(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    call.no_query()?;
    let entry = call.larder().stat(&call.caller, &Target::Path(space, path)).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::validators(response.headers_mut(), &entry);
    Ok(response)
}

/// `PUT .../dirs/{path}`.
pub(crate) async fn create_dir(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (named, (space, path)) = (space, call::place(space, path)?);
    let parents = call.query(&["parents"])?.flag("parents")?;
    if call.body.declared() != Some(0) {
        // A body here is a file that was meant for another route.
        return Err(Error::invalid("a directory has no content").into());
    }
    let (entry, created) = call.larder().create_dir(&call.caller, &space, &path, parents).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::validators(response.headers_mut(), &entry);
    call::created(&mut response, created, call::stat_location(named, &entry));
    Ok(response)
}

/// `GET .../list/{path}`.
pub(crate) async fn list(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    let options = call.list_options(&["cursor", "limit", "recursive"])?;
    let page = call.larder().list(&call.caller, &space, &path, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<EntryBody<'_>>::new("entries", &page))?)
}

/// `POST .../move` and `.../copy`.
pub(crate) async fn relocate(call: Call<'_>, space: &str, how: Relocate) -> Answer {
    let (named, space) = (space, call::space(space)?);
    call.no_query()?;
    let larder = call.larder();
    let caller = call.caller;
    let body: RelocateBody = Call::json(call.body).await?;
    let (from, to) = (TreePath::parse(&body.from)?, TreePath::parse(&body.to)?);
    let to_space = body.to_space.as_deref().map(SpaceRef::parse);
    let to_space = to_space.as_ref().unwrap_or(&space);
    let (entry, created) = match how {
        Relocate::Copy => {
            larder.copy_entry(&caller, (&space, &from), (to_space, &to), body.overwrite).await?
        }
        Relocate::Move => {
            if *to_space != space {
                // The same space may have been named in two ways.
                let here = larder.space(&caller, &space).await?.id;
                if larder.space(&caller, to_space).await?.id != here {
                    let detail = "an entry cannot move into another space: copy, then delete";
                    return Err(Error::new(ErrorKind::CrossSpace, detail).into());
                }
            }
            larder.move_entry(&caller, &space, &from, &to, body.overwrite).await?
        }
    };
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::validators(response.headers_mut(), &entry);
    call::created(
        &mut response,
        created,
        call::stat_location(body.to_space.as_deref().unwrap_or(named), &entry),
    );
    Ok(response)
}
