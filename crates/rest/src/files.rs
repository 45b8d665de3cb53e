//! File contents: upload, download, to trash.
//!
//! Promises: an upload is committed only when its whole declared body has come, and nothing of it
//! is asked for before everything that can refuse it has been checked. ETag, length, digest and
//! bytes of a download belong to one revision (hazards D03, D04). Contents are served so that no
//! browser runs them.
//!
//! Not here: forms ([`crate::form`]); what an upload or a download is (core).

use std::ops::Range;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use larder_base::{
    ErrorKind, Timestamp,
    id::{NodeId, RequestId},
    name::TreePath,
};
use larder_core::{
    Body, Caller, Download, Entry, Error, Larder, SpaceRef, Target, UploadOptions, Written,
};
use larder_http::{
    Arrival, RequestBody, ResponseBody,
    condition::{Preconditions, Verdict},
    date, digest,
    range::{self, Wanted},
};

use crate::{
    call::{self, Call},
    error::{Answer, Failure},
    form,
    idempotency::EXPIRES,
    wire::{EntryBody, UploadedBody},
};

/// Longest MIME type that is kept, in bytes (RFC 6838 allows 127 for each half).
const CONTENT_TYPE_BYTES_MAX: usize = 255;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// GET.
    Content,
    /// HEAD.
    Head,
}

/// `GET` and `HEAD .../files/{path}`.
pub(crate) async fn get(call: Call<'_>, space: &str, path: &str, want: Want) -> Answer {
    let (space, path) = call::place(space, path)?;
    read(call, Target::Path(space, path), want).await
}

/// `GET` and `HEAD /v1/files/{id}`.
pub(crate) async fn get_by_id(call: Call<'_>, id: &str, want: Want) -> Answer {
    let id = call::id::<NodeId>(id, "file")?;
    read(call, Target::Node(id), want).await
}

async fn read(call: Call<'_>, target: Target, want: Want) -> Answer {
    let revision = call.query(&["revision"])?.number("revision")?;
    let conditions = Preconditions::parse(call.headers())?;
    let download = call.larder().download(&call.caller, &target, revision).await?;
    let entry = download.entry();
    let (size, modified) = (entry.size, entry.modified);
    let etag = entry.etag.to_string();
    match conditions.evaluate(&etag, modified) {
        Verdict::Proceed => {}
        Verdict::Failed => {
            return Err(Error::new(ErrorKind::Precondition, "the file is another one").into());
        }
        Verdict::NotModified => {
            let mut response = Response::new(ResponseBody::Empty);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            let headers = response.headers_mut();
            call::validators(headers, entry);
            headers.insert(header::LAST_MODIFIED, date::header(modified));
            return Ok(response);
        }
    }
    let mut headers = content_headers(entry);
    if want == Want::Head {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        return Ok(answer(StatusCode::OK, headers, ResponseBody::Empty));
    }
    call.larder().count_download(&call.caller).await?;
    let applies = conditions.range_applies(&etag, modified);
    match if applies { wanted(call.headers(), size) } else { Wanted::Whole } {
        Wanted::Unsatisfiable => Err(Failure::Range(size)),
        Wanted::Whole => {
            let body = ResponseBody::read(download.read(0..size).await?, size).await?;
            Ok(answer(StatusCode::OK, headers, body))
        }
        Wanted::One(range) => {
            headers.insert(header::CONTENT_RANGE, call::value(range::content_range(&range, size)));
            let length = range.end - range.start;
            let body = ResponseBody::read(download.read(range).await?, length).await?;
            Ok(answer(StatusCode::PARTIAL_CONTENT, headers, body))
        }
        Wanted::Many(ranges) => {
            let boundary = RequestId::new(&call.inner.env).to_string();
            let content_type = headers.get(header::CONTENT_TYPE).cloned().unwrap_or(OCTETS);
            let parts = Parts::open(download, &ranges, size, &content_type, &boundary).await?;
            let body = parts.body();
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            headers.insert(header::CONTENT_TYPE, call::value(content_type));
            Ok(answer(StatusCode::PARTIAL_CONTENT, headers, body))
        }
    }
}

fn wanted(headers: &HeaderMap, size: u64) -> Wanted {
    let mut values = headers.get_all(header::RANGE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => range::parse(value, size),
        _ => Wanted::Whole,
    }
}

fn answer(status: StatusCode, headers: HeaderMap, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn content_headers(entry: &Entry) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    call::validators(&mut headers, entry);
    let content_type = entry.content_type.as_deref().and_then(|text| text.parse().ok());
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(OCTETS));
    headers.insert(header::LAST_MODIFIED, date::header(entry.modified));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A file of a user's must not run as a page of ours, nor be shown when it has been replaced.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers
}

/// The body of a `multipart/byteranges` answer (RFC 9110 section 14.6).
struct Parts {
    left: std::vec::IntoIter<(Bytes, Body)>,
    body: Option<Body>,
    end: Option<Bytes>,
    length: u64,
}

impl Parts {
    /// Opens all pieces at once, so that the download's snapshot is not kept while they are sent.
    async fn open(
        download: Download,
        ranges: &[Range<u64>],
        size: u64,
        content_type: &HeaderValue,
        boundary: &str,
    ) -> Result<Self, Error> {
        let content_type = content_type.to_str().unwrap_or("application/octet-stream");
        let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        let mut length = end.len() as u64;
        let mut left = Vec::with_capacity(ranges.len());
        for range in ranges {
            let head = Bytes::from(format!(
                "\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n",
                range::content_range(range, size)
            ));
            length += head.len() as u64 + (range.end - range.start);
            left.push((head, download.read(range.clone()).await?));
        }
        Ok(Self { left: left.into_iter(), body: None, end: Some(end), length })
    }

    fn body(self) -> ResponseBody {
        ResponseBody::stream(self.length, self.stream())
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        stream::unfold(Some(self), |parts| async {
            let mut parts = parts?;
            match parts.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(parts))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(body) = &mut self.body {
            if let Some(bytes) = body.next().await? {
                return Ok(Some(bytes));
            }
            self.body = None;
        }
        match self.left.next() {
            Some((head, body)) => {
                self.body = Some(body);
                Ok(Some(head))
            }
            None => Ok(self.end.take()),
        }
    }
}

/// `PUT .../files/{path}`.
pub(crate) async fn put(mut call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    let parents = call.query(&["parents"])?.flag("parents")?;
    let options = upload_options(&call, parents)?;
    limit(&mut call)?;
    let Call { inner, head, body, caller } = call;
    let written = store(&inner.larder, &caller, (&space, &path), options, body).await?;
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&written.entry))?;
    finish(&mut response, &written, head.uri.path().to_owned());
    Ok(response)
}

/// `POST /v1/files`.
pub(crate) async fn post(mut call: Call<'_>) -> Answer {
    let query = call.query(&["space", "path"])?;
    let space = query.get("space").map_or(SpaceRef::Home, SpaceRef::parse);
    let path = query.get("path").map(TreePath::parse).transpose()?;
    let written = if let Some(boundary) = form::boundary(call.headers())? {
        limit(&mut call)?;
        form::upload(call, boundary, &space, path).await?
    } else {
        let path =
            path.ok_or_else(|| Error::invalid("a raw upload needs the parameter \"path\""))?;
        let options = upload_options(&call, false)?;
        limit(&mut call)?;
        let Call { inner, body, caller, .. } = call;
        store(&inner.larder, &caller, (&space, &path), options, body).await?
    };
    let mut response = call::json(StatusCode::OK, &UploadedBody::from(&written))?;
    let location = format!("/v1/files/{}", written.entry.id);
    finish(&mut response, &written, location);
    Ok(response)
}

/// Refuses a body that is declared too large, and later one that becomes so.
fn limit(call: &mut Call<'_>) -> Result<(), Error> {
    match call.inner.options.file_bytes_max {
        Some(limit) => call.body.limit(limit),
        None => Ok(()),
    }
}

/// What the headers say about an upload.
fn upload_options(call: &Call<'_>, parents: bool) -> Result<UploadOptions, Error> {
    let headers = call.headers();
    refuse_partial(headers)?;
    Ok(UploadOptions {
        length: call.body.declared(),
        content_type: content_type(headers)?,
        conditions: Preconditions::parse(headers)?.for_write(),
        parents,
        sha256: digest::declared(headers)?,
        expires: expires(headers)?,
    })
}

/// Refuses headers that would make the body something else than the file.
pub(crate) fn refuse_partial(headers: &HeaderMap) -> Result<(), Error> {
    // RFC 9110 section 14.5: a server that does not know partial PUT must refuse it.
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Error::invalid("a part of a file cannot be put; send the whole file"));
    }
    let coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().any(coded) {
        let detail = "content codings are not kept; send the file as it is";
        return Err(Error::new(ErrorKind::NotImplemented, detail));
    }
    Ok(())
}

/// When the uploaded file goes to the trash by itself.
pub(crate) fn expires(headers: &HeaderMap) -> Result<Option<Timestamp>, Error> {
    let Some(value) = headers.get(EXPIRES) else { return Ok(None) };
    let time = value.to_str().ok().and_then(|text| text.parse().ok());
    time.map(Some)
        .ok_or_else(|| Error::invalid("Larder-Expires must be a time such as 2030-01-31T00:00:00Z"))
}

/// The MIME type of what `headers` describe.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if text.len() <= CONTENT_TYPE_BYTES_MAX => Ok(Some(text.to_owned())),
        _ => Err(Error::invalid(format!(
            "Content-Type must be ASCII of at most {CONTENT_TYPE_BYTES_MAX} bytes"
        ))),
    }
}

async fn store(
    larder: &Larder,
    caller: &Caller,
    (space, path): (&SpaceRef, &TreePath),
    options: UploadOptions,
    mut body: RequestBody,
) -> Result<Written, Error> {
    let mut upload = larder.open_upload(caller, space, path, options).await?;
    loop {
        match body.next_or_pause().await? {
            Arrival::Bytes(bytes) => upload.write(bytes).await?,
            Arrival::Pause(still) => upload.pause(still).await?,
            Arrival::End => break,
        }
    }
    upload.commit().await
}

fn finish(response: &mut Response<ResponseBody>, written: &Written, location: String) {
    let headers = response.headers_mut();
    call::validators(headers, &written.entry);
    let (durable, wanted) = written.durability;
    headers.insert(call::DURABILITY, call::value(format!("{durable}/{wanted}")));
    call::created(response, written.created, location);
}

/// `DELETE .../files/{path}`.
pub(crate) async fn delete(call: Call<'_>, space: &str, path: &str) -> Answer {
    let (space, path) = call::place(space, path)?;
    to_trash(call, Target::Path(space, path)).await
}

/// `DELETE /v1/files/{id}`.
pub(crate) async fn delete_by_id(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<NodeId>(id, "file")?;
    if let Some(revision) = call.query(&["revision"])?.number("revision")? {
        call.larder().delete_revision_by_id(&call.caller, id, revision).await?;
        return Ok(call::no_content());
    }
    to_trash(call, Target::Node(id)).await
}

async fn to_trash(call: Call<'_>, target: Target) -> Answer {
    if matches!(target, Target::Path(..)) {
        call.no_query()?;
    }
    let conditions = Preconditions::parse(call.headers())?.for_write();
    call.larder().delete(&call.caller, &target, &conditions).await?;
    Ok(call::no_content())
}
