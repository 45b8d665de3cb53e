//! Dumps of everything or of one space, out and in, as streams.
//!
//! Promises: a dump that cannot go on to its end aborts the connection, and has no end of its
//! own, so that no client takes a part for the whole; a load that is cut off has no effect.
//! Neither is limited by the largest size of a file.
//!
//! Not here: what is in a dump (core, docs/formats/dump.md).

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use larder_base::ErrorKind;
use larder_core::{Error, SpaceRef, dump::LoadReport};
use larder_http::ResponseBody;
use serde::Serialize;

use crate::{
    call::{self, Call},
    error::Answer,
};

/// `GET /v1/admin/dump[?space=]`.
pub(crate) async fn dump(call: Call<'_>) -> Answer {
    let query = call.query(&["space"])?;
    let space = query.get("space").map(SpaceRef::parse);
    let dump = call.larder().dump(&call.caller, space.as_ref()).await?;
    let pieces = stream::unfold(Some(dump), |dump| async {
        let mut dump = dump?;
        match dump.next().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), Some(dump))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Response::new(ResponseBody::open_ended(pieces));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `POST /v1/admin/load`: the body is a dump.
pub(crate) async fn load(call: Call<'_>) -> Answer {
    call.no_query()?;
    refuse_coded(call.headers())?;
    let Call { inner, mut body, caller, .. } = call;
    let mut load = inner.larder.load(&caller)?;
    while let Some(bytes) = body.next().await? {
        load.write(bytes).await?;
    }
    let report = load.finish().await?;
    Ok(call::json(StatusCode::OK, &LoadBody::from(&report))?)
}

/// Refuses a body that is not the dump as it was made.
fn refuse_coded(headers: &HeaderMap) -> Result<(), Error> {
    let coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().any(coded) {
        let detail = "content codings are not undone; send the dump as it is";
        return Err(Error::new(ErrorKind::NotImplemented, detail));
    }
    Ok(())
}

/// What was loaded.
#[derive(Serialize)]
struct LoadBody {
    instance: String,
    created: String,
    space: Option<String>,
    spaces: u64,
    users: u64,
    nodes: u64,
    revisions: u64,
    blobs: u64,
    bytes: u64,
    grants_dropped: u64,
    owner_replaced: bool,
    secrets_readable: bool,
}

impl From<&LoadReport> for LoadBody {
    fn from(report: &LoadReport) -> Self {
        let (header, counts) = (&report.header, &report.counts);
        Self {
            instance: header.instance.to_string(),
            created: header.created.to_string(),
            space: header.space.as_ref().map(|space| space.id.to_string()),
            spaces: counts.spaces,
            users: counts.users,
            nodes: counts.nodes,
            revisions: counts.revisions,
            blobs: counts.blobs,
            bytes: counts.bytes,
            grants_dropped: report.grants_dropped,
            owner_replaced: report.owner_replaced,
            secrets_readable: report.secrets_readable,
        }
    }
}
