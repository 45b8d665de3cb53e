//! The trash of a space: list, restore, purge, empty.
//!
//! Not here: how things get there (`DELETE .../files/{path}`, [`crate::files`]).

use http::StatusCode;
use larder_base::id::TrashId;
use larder_core::RestoreOptions;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{EntryBody, PageBody, RestoreBody, TrashBody},
};

/// `GET .../trash`.
pub(crate) async fn list(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    let options = call.list_options(&["cursor", "limit"])?;
    let page = call.larder().trash(&call.caller, &space, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<TrashBody<'_>>::new("items", &page))?)
}

/// `DELETE .../trash`: purges everything.
pub(crate) async fn empty(call: Call<'_>, space: &str) -> Answer {
    let space = call::space(space)?;
    call.no_query()?;
    call.larder().empty_trash(&call.caller, &space).await?;
    Ok(call::no_content())
}

/// `DELETE .../trash/{item}`.
pub(crate) async fn purge(call: Call<'_>, space: &str, item: &str) -> Answer {
    let space = call::space(space)?;
    let item = call::id::<TrashId>(item, "trash item")?;
    call.no_query()?;
    call.larder().purge(&call.caller, &space, item).await?;
    Ok(call::no_content())
}

/// `POST .../trash/{item}/restore`.
pub(crate) async fn restore(call: Call<'_>, space: &str, item: &str) -> Answer {
    let space = call::space(space)?;
    let item = call::id::<TrashId>(item, "trash item")?;
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: RestoreBody = Call::json_or_default(call.body).await?;
    let options = RestoreOptions::try_from(body)?;
    let entry = larder.restore(&caller, &space, item, &options).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&entry))?;
    call::validators(response.headers_mut(), &entry);
    Ok(response)
}
