//! Administration: check, collection.
//!
//! Not here: who may do this (core); health and metrics ([`crate::operation`]).

use http::StatusCode;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{CheckBody, CollectBody, PageBody, TaskBody},
};

/// `GET` and `POST /v1/admin/check[?wait=1]`: proves every invariant again, online. It always
/// waits: without waiting there would be nothing to report.
pub(crate) async fn check(call: Call<'_>) -> Answer {
    call.query(&["wait"])?.flag("wait")?;
    let report = call.larder().check(&call.caller).await?;
    Ok(call::json(StatusCode::OK, &CheckBody::from(&report))?)
}

/// `POST /v1/admin/gc[?wait=1]`: collects to the end, as far as readers allow. It always waits:
/// without waiting there would be nothing to report.
pub(crate) async fn collect(call: Call<'_>) -> Answer {
    call.query(&["wait"])?.flag("wait")?;
    let report = call.larder().collect(&call.caller).await?;
    Ok(call::json(StatusCode::OK, &CollectBody::from(report))?)
}

/// `GET /v1/admin/tasks`: the heavy work that runs, waits, or waits for its client.
pub(crate) fn tasks(call: &Call<'_>) -> Answer {
    call.no_query()?;
    let tasks = call.larder().tasks(&call.caller)?;
    Ok(call::json(StatusCode::OK, &PageBody::<TaskBody<'_>>::whole("tasks", &tasks))?)
}
