//! Jobs: what runs and what has ended, starting, cancelling. Administrators only.
//!
//! Not here: what jobs do and who may ask (core).

use http::StatusCode;
use larder_base::id::JobId;
use larder_core::{Error, JobKind, SpaceRef};
use serde::Deserialize;

use crate::{
    call::{self, Call},
    error::Answer,
    wire::{JobBody, PageBody},
};

/// `GET /v1/admin/jobs`: those that are not finished; with `finished` a page of those that are.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let options = call.list_options(&["finished", "cursor", "limit"])?;
    if call.query(&["finished", "cursor", "limit"])?.flag("finished")? {
        let page = call.larder().finished_jobs(&call.caller, &options).await?;
        return Ok(call::json(StatusCode::OK, &PageBody::<JobBody<'_>>::new("jobs", &page))?);
    }
    if options.cursor.is_some() {
        return Err(Error::invalid("only finished jobs come in pages").into());
    }
    let jobs = call.larder().jobs(&call.caller).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<JobBody<'_>>::whole("jobs", &jobs))?)
}

/// `POST /v1/admin/jobs`: 202, or 200 with the job that does this already.
pub(crate) async fn start(call: Call<'_>) -> Answer {
    call.no_query()?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: NewJobBody = Call::json(call.body).await?;
    let kind = JobKind::parse(&body.kind).ok_or_else(|| {
        Error::invalid("`kind` must be \"scrub\", \"check\", \"collect\" or \"lifecycle\"")
    })?;
    let space = body.space.as_deref().map(SpaceRef::parse);
    let (job, new) = larder.start_job(&caller, kind, space.as_ref()).await?;
    let mut response = call::json(StatusCode::OK, &JobBody::from(&job))?;
    call::created(&mut response, new, format!("/v1/admin/jobs/{}", job.id));
    if new {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(response)
}

/// `GET /v1/admin/jobs/{id}`.
pub(crate) async fn get(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<JobId>(id, "job")?;
    call.no_query()?;
    let job = call.larder().job(&call.caller, id).await?;
    Ok(call::json(StatusCode::OK, &JobBody::from(&job))?)
}

/// `DELETE /v1/admin/jobs/{id}`: it ends at its next step.
pub(crate) async fn cancel(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<JobId>(id, "job")?;
    call.no_query()?;
    call.larder().cancel_job(&call.caller, id).await?;
    Ok(call::no_content())
}

/// Body of `POST /v1/admin/jobs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewJobBody {
    kind: String,
    space: Option<String>,
}
