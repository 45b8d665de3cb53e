//! Revisions of a file: list, restore, delete.
//!
//! Not here: reading one (`GET .../files/{path}?revision=`, [`crate::files`]).

use http::StatusCode;
use larder_core::Error;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{EntryBody, PageBody, RestoreRevisionBody, RevisionBody},
};

/// `GET .../revisions/{path}`: newest first.
pub(crate) async fn list(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().revisions(&call.caller, &space, &path, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<RevisionBody<'_>>::new("revisions", &page))?)
}

/// `POST .../revisions/{path}`: the content of an older revision becomes the newest.
pub(crate) async fn restore(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: RestoreRevisionBody = Call::json(call.body).await?;
    let entry = larder.restore_revision(&caller, &space, &path, body.revision).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::validators(response.headers_mut(), &entry);
    Ok(response)
}

/// `DELETE .../revisions/{path}?revision=`.
pub(crate) async fn delete(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    let revision = call.query(&["revision"])?.number("revision")?;
    let revision =
        revision.ok_or_else(|| Error::invalid("the parameter \"revision\" is needed"))?;
    call.larder().delete_revision(&call.caller, &space, &path, revision).await?;
    Ok(call::no_content())
}
