//! Resumable uploads: tus 1.0.0, what of a session is shown as JSON, and numbered parts.
//!
//! A session is made with its target and its conditions, takes bytes at its offset in as many
//! requests as its connections allow, and becomes a revision with its last byte.
//!
//! Promises: an `Upload-Offset` in an answer is durable and never becomes smaller; what has
//! arrived of a body that breaks off counts, unless it came with a checksum; a body that cannot
//! be stored is refused before it is read; an upload whose bytes are all here and that could not
//! become a file is never shown as one that did (clients take offset = length for success).
//! Every answer has `Tus-Resumable` and `Cache-Control: no-store`.
//!
//! Not here: the syntax of the headers ([`crate::tus`]); what a session is (core).

use std::pin::pin;

use futures_util::future::{Either, select};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use larder_base::{ErrorKind, id::UploadId, name::TreePath};
use larder_core::{
    Append, AppendRefused, Caller, Checksum, Error, Larder, NewAppend, NewSession, PartInfo,
    SessionInfo, SessionState, SpaceRef, Written,
};
use larder_http::{Arrival, RequestBody, ResponseBody, condition::Preconditions, date, digest};
use serde::{Deserialize, Serialize};

use crate::{
    Inner,
    call::{self, Call},
    error::{Answer, Failure},
    files,
    route::Route,
    tus::{self, Concat, Length},
    wire::{EntryBody, PageBody},
};

const FILE_ID: HeaderName = HeaderName::from_static("larder-file-id");
const REVISION: HeaderName = HeaderName::from_static("larder-revision");

/// What tus says of a body with another checksum.
const CHECKSUM_MISMATCH: u16 = 460;

/// Digests that are verified, as tus names them.
const CHECKSUMS: HeaderValue = HeaderValue::from_static("sha1,sha256,md5,crc32c");

const TUS_VERSION: HeaderValue = HeaderValue::from_static(tus::VERSION);
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Whether the answers of a route are those of tus.
pub(crate) fn is_upload(route: Route<'_>) -> bool {
    matches!(route, Route::Uploads | Route::Upload(_))
}

/// The method that is meant: tus lets clients that can only POST say another in a header.
///
/// # Errors
/// `Invalid` if the header names no method.
pub(crate) fn method(route: Route<'_>, head: &Parts) -> Result<Method, Error> {
    if is_upload(route)
        && let Some(name) = tus::one(&head.headers, &tus::METHOD_OVERRIDE)?
    {
        let bad = || Error::invalid("X-HTTP-Method-Override names no method");
        return Method::from_bytes(name.as_bytes()).map_err(|_| bad());
    }
    Ok(head.method.clone())
}

/// Adds what every answer of these routes has.
pub(crate) fn mark(response: &mut Response<ResponseBody>) {
    let headers = response.headers_mut();
    headers.insert(tus::TUS_RESUMABLE, TUS_VERSION);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
}

/// `OPTIONS /v1/uploads`: what can be done here; asked without credentials.
pub(crate) fn options(inner: &Inner, route: Route<'_>) -> Response<ResponseBody> {
    let mut response = call::no_content();
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    headers.insert(tus::TUS_VERSION, TUS_VERSION);
    headers.insert(tus::TUS_EXTENSION, HeaderValue::from_static(tus::EXTENSIONS));
    headers.insert(tus::TUS_CHECKSUM, CHECKSUMS);
    if let Some(limit) = inner.options.file_bytes_max {
        headers.insert(tus::TUS_MAX_SIZE, HeaderValue::from(limit));
    }
    response
}

/// Refuses a request that does not speak our version.
fn same_version(headers: &HeaderMap) -> Result<(), Failure> {
    if matches!(tus::one(headers, &tus::TUS_RESUMABLE), Ok(Some(tus::VERSION))) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Precondition, "Tus-Resumable: 1.0.0 is needed here");
    Err(Failure::dressed(error, None, [(tus::TUS_VERSION, TUS_VERSION)]))
}

/// An error with the offset that holds, and 460 where a checksum did not match.
fn refused(error: Error, offset: Option<u64>) -> Failure {
    let status = match error.kind() {
        ErrorKind::BadDigest => StatusCode::from_u16(CHECKSUM_MISMATCH).ok(),
        _ => None,
    };
    let offset = offset.map(|offset| (tus::UPLOAD_OFFSET, HeaderValue::from(offset)));
    Failure::dressed(error, status, offset)
}

/// Refuses headers that would change what the body of a piece is.
fn refuse_extras(headers: &HeaderMap) -> Result<(), Error> {
    files::refuse_partial(headers)?;
    if digest::names(headers) {
        let detail = "the digest of a piece is declared by Upload-Checksum";
        return Err(Error::new(ErrorKind::NotImplemented, detail));
    }
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE];
    if conditions.iter().any(|name| headers.contains_key(name)) {
        return Err(Error::invalid("conditions are given when the upload is made"));
    }
    Ok(())
}

fn is_piece(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    given.is_some_and(|given| given.eq_ignore_ascii_case(tus::PIECE_TYPE.as_bytes()))
}

fn not_a_piece() -> Failure {
    let error = Error::invalid(format!("the body must be of type {}", tus::PIECE_TYPE));
    Failure::dressed(error, Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), None)
}

/// The checksum that the body must have.
fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Error> {
    let Some((algorithm, bytes)) = tus::checksum(headers)? else { return Ok(None) };
    let bad = |_| Error::invalid(format!("the digest is not one of {algorithm}"));
    let sum = match algorithm {
        "sha1" => Checksum::Sha1(bytes.try_into().map_err(bad)?),
        "sha256" => Checksum::Sha256(bytes.try_into().map_err(bad)?),
        "md5" => Checksum::Md5(bytes.try_into().map_err(bad)?),
        "crc32c" => Checksum::Crc32c(u32::from_be_bytes(bytes.try_into().map_err(bad)?)),
        _ => return Err(Error::invalid("Upload-Checksum has an algorithm that is not known")),
    };
    Ok(Some(sum))
}

fn location(id: UploadId) -> HeaderValue {
    call::value(format!("/v1/uploads/{id}"))
}

/// What every answer about an upload says: how far it is, until when, and what it became.
fn describe(headers: &mut HeaderMap, info: &SessionInfo) {
    headers.insert(tus::UPLOAD_OFFSET, HeaderValue::from(info.offset));
    if let Some(expires) = info.expires {
        headers.insert(tus::UPLOAD_EXPIRES, date::header(expires));
    }
    if let SessionState::Completed(written) = &info.state {
        headers.insert(tus::UPLOAD_COMPLETE, HeaderValue::from_static("?1"));
        became(headers, written);
    }
}

/// What the upload became.
fn became(headers: &mut HeaderMap, written: &Written) {
    let entry = &written.entry;
    call::validators(headers, entry);
    headers.insert(FILE_ID, call::value(entry.id.to_string()));
    headers.insert(REVISION, HeaderValue::from(entry.revision));
    let (durable, wanted) = written.durability;
    headers.insert(call::DURABILITY, call::value(format!("{durable}/{wanted}")));
}

/// An upload that took what it was given; or why it is no file though it has everything.
fn taken(info: &SessionInfo, status: StatusCode) -> Answer {
    if let (SessionState::Open, Some((kind, detail))) = (&info.state, &info.refused) {
        return Err(refused(Error::new(*kind, detail.clone()), Some(info.offset)));
    }
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = status;
    describe(response.headers_mut(), info);
    Ok(response)
}

/// `POST /v1/uploads`.
pub(crate) async fn create(mut call: Call<'_>) -> Answer {
    let query = call.query(&["space", "path", "parents", "numbered"])?;
    let numbered = query.flag("numbered")?;
    let headers = call.headers();
    if !numbered {
        same_version(headers)?;
    }
    files::refuse_partial(headers)?;
    let metadata = tus::metadata(headers)?;
    let concat = tus::concat(headers)?;
    let length = tus::length(headers)?;
    let partial = concat == Some(Concat::Partial);
    let space = query.get("space").map_or(SpaceRef::Home, SpaceRef::parse);
    let path = match (partial, query.get("path").or(metadata.path.as_deref())) {
        (true, _) => None,
        (false, Some(path)) => Some(TreePath::parse(path)?),
        (false, None) => {
            let detail = "say where: the parameter \"path\", or filename in Upload-Metadata";
            return Err(Error::invalid(detail).into());
        }
    };
    let in_folder = metadata.in_folder && query.get("path").is_none();
    let mut new = NewSession::new(space, path, None);
    new.content_type = metadata.content_type;
    new.conditions = Preconditions::parse(headers)?.for_write();
    new.parents = query.flag("parents")? || in_folder;
    new.metadata = tus::one(headers, &tus::UPLOAD_METADATA)?.map(ToOwned::to_owned);
    new.sha256 = whole_digest(headers)?;
    new.numbered = numbered;
    let max = call.inner.options.file_bytes_max;
    let sum = checksum(headers)?;
    let body_declared = call.body.declared();
    let has_body = body_declared != Some(0);
    let larder = call.larder();
    if let Some(Concat::Final(parts)) = concat {
        if length.is_some() || has_body || numbered {
            return Err(Error::invalid("a final upload has neither a length nor a body").into());
        }
        within(larder, &call.caller, &parts, max).await?;
        let info = larder.create_final_session(&call.caller, new, &parts).await?;
        return created(&info);
    }
    new.length = match length {
        Some(Length::Known(length)) => Some(at_most(length, max)?),
        Some(Length::Deferred) => None,
        None if numbered => None,
        None => return Err(Error::invalid("Upload-Length or Upload-Defer-Length: 1").into()),
    };
    if has_body && (numbered || !is_piece(headers)) {
        return Err(not_a_piece());
    }
    if let (Some(length), Some(declared)) = (new.length, body_declared)
        && declared > length
    {
        return Err(Error::invalid("the body is longer than the upload").into());
    }
    if let Some(max) = max {
        call.body.limit(max)?;
    }
    let info = larder.create_session(&call.caller, new).await?;
    if !has_body || !matches!(info.state, SessionState::Open) {
        return created(&info);
    }
    let id = info.id;
    let piece = NewAppend { length: body_declared, checksum: sum };
    let appended = append(larder, &call.caller, (id, 0), piece, &mut call.body).await;
    // The upload is there whatever became of its first bytes: the client must learn where.
    match appended.and_then(|info| created(&info)) {
        Err(Failure::Dressed(mut dressed)) => {
            dressed.headers.insert(header::LOCATION, location(id));
            Err(Failure::Dressed(dressed))
        }
        other => other,
    }
}

fn created(info: &SessionInfo) -> Answer {
    let mut response = taken(info, StatusCode::CREATED)?;
    response.headers_mut().insert(header::LOCATION, location(info.id));
    Ok(response)
}

/// The digest that the whole file must have.
fn whole_digest(headers: &HeaderMap) -> Result<Option<larder_base::digest::Sha256>, Error> {
    let others = ["content-digest", "digest", "content-md5"];
    if others.iter().any(|name| headers.contains_key(*name)) {
        let detail = "the digest of the file is declared by Repr-Digest, that of a piece by \
                      Upload-Checksum";
        return Err(Error::new(ErrorKind::NotImplemented, detail));
    }
    digest::declared(headers)
}

/// Refuses a file over the limit.
fn at_most(length: u64, max: Option<u64>) -> Result<u64, Error> {
    let max = max.unwrap_or(i64::MAX as u64);
    if length <= max {
        return Ok(length);
    }
    Err(Error::new(ErrorKind::TooLarge, format!("a file has at most {max} bytes")))
}

/// Refuses parts that are more than a file may have together.
async fn within(
    larder: &Larder,
    caller: &Caller,
    parts: &[UploadId],
    max: Option<u64>,
) -> Result<(), Error> {
    if max.is_none() {
        return Ok(());
    }
    let mut sum = 0_u64;
    for part in parts {
        sum = sum.saturating_add(larder.session(caller, *part).await?.offset);
        at_most(sum, max)?;
    }
    Ok(())
}

/// Sends the body of a request to the offset of a session.
async fn append(
    larder: &Larder,
    caller: &Caller,
    (id, offset): (UploadId, u64),
    piece: NewAppend,
    body: &mut RequestBody,
) -> Result<SessionInfo, Failure> {
    match larder.append(caller, id, offset, piece).await {
        Ok(append) => pour(append, body).await,
        Err(AppendRefused { error, offset }) => Err(refused(error, offset)),
    }
}

async fn pour(mut append: Append, body: &mut RequestBody) -> Result<SessionInfo, Failure> {
    let mut cut_off = pin!(append.cut_off());
    let why = loop {
        let piece = match select(pin!(body.next_or_pause()), cut_off.as_mut()).await {
            Either::Left((piece, _)) => piece,
            Either::Right(_) => {
                break Error::new(ErrorKind::Conflict, "a newer request goes on with this upload");
            }
        };
        let taken = match piece {
            Ok(Arrival::Bytes(bytes)) => append.write(bytes).await,
            Ok(Arrival::Pause(still)) => append.pause(still).await,
            Ok(Arrival::End) => {
                return append.finish().await.map_err(|error| refused(error, None));
            }
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            break error;
        }
    };
    // What has come of it counts, and the offset says so (where anybody is left to be told).
    let settled = append.settle().await;
    Err(refused(why, settled.ok().map(|info| info.offset)))
}

/// `PATCH /v1/uploads/{id}`.
pub(crate) async fn patch(mut call: Call<'_>, id: &str) -> Answer {
    let headers = call.headers();
    same_version(headers)?;
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    if !is_piece(headers) {
        return Err(not_a_piece());
    }
    refuse_extras(headers)?;
    let offset = tus::offset(headers)?;
    let piece = NewAppend { length: call.body.declared(), checksum: checksum(headers)? };
    let max = call.inner.options.file_bytes_max;
    let larder = call.larder();
    match tus::length(headers)? {
        Some(Length::Known(length)) => {
            let length = at_most(length, max)?;
            larder.set_session_length(&call.caller, id, length).await?;
        }
        Some(Length::Deferred) => {
            return Err(Error::invalid("Upload-Defer-Length is said when an upload is made").into());
        }
        None => {}
    }
    if let Some(max) = max {
        call.body.limit(max.saturating_sub(offset))?;
    }
    let declared = piece.length;
    let refusal = match append(larder, &call.caller, (id, offset), piece, &mut call.body).await {
        Ok(info) => return taken(&info, StatusCode::NO_CONTENT),
        Err(refusal) => refusal,
    };
    let kind = refusal.kind();
    if !matches!(kind, Some(ErrorKind::Conflict | ErrorKind::Gone | ErrorKind::Invalid)) {
        return Err(refusal);
    }
    // Perhaps it is done: whoever lost the answer and says it again is told what it became. If not,
    // somebody newer may be at it, and goes on.
    let completed = larder.completed_session(&call.caller, id).await;
    let Ok(Some(info)) = completed else { return Err(refusal) };
    let SessionState::Completed(written) = &info.state else { return Err(refusal) };
    if !info.final_of.is_empty() {
        return Err(Error::new(ErrorKind::Denied, "a final upload takes no bytes").into());
    }
    if offset == info.offset && declared == Some(0) {
        return taken(&info, StatusCode::NO_CONTENT);
    }
    let error = Error::new(ErrorKind::Conflict, "the upload is complete");
    let mut headers = HeaderMap::new();
    describe(&mut headers, &info);
    became(&mut headers, written);
    Err(Failure::Dressed(Box::new(crate::error::Dressed { error, status: None, headers })))
}

/// `HEAD /v1/uploads/{id}`.
pub(crate) async fn head(call: Call<'_>, id: &str) -> Answer {
    same_version(call.headers())?;
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    let info = call.larder().session(&call.caller, id).await?;
    let mut response = taken(&info, StatusCode::OK)?;
    let headers = response.headers_mut();
    match info.length {
        Some(length) => headers.insert(tus::UPLOAD_LENGTH, HeaderValue::from(length)),
        None => headers.insert(tus::UPLOAD_DEFER, HeaderValue::from_static("1")),
    };
    if let Some(metadata) = &info.metadata {
        headers.insert(tus::UPLOAD_METADATA, call::value(metadata.clone()));
    }
    if info.partial {
        headers.insert(tus::UPLOAD_CONCAT, HeaderValue::from_static("partial"));
    } else if !info.final_of.is_empty() {
        let urls: Vec<_> = info.final_of.iter().map(|id| format!("/v1/uploads/{id}")).collect();
        headers.insert(tus::UPLOAD_CONCAT, call::value(format!("final;{}", urls.join(" "))));
    }
    Ok(response)
}

/// `DELETE /v1/uploads/{id}`.
pub(crate) async fn abort(call: Call<'_>, id: &str) -> Answer {
    same_version(call.headers())?;
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    call.larder().abort_session(&call.caller, id).await?;
    Ok(call::no_content())
}

/// `GET /v1/uploads/{id}`.
pub(crate) async fn get(call: Call<'_>, id: &str) -> Answer {
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    let info = call.larder().session(&call.caller, id).await?;
    Ok(call::json(StatusCode::OK, &UploadBody::from(&info))?)
}

/// `GET /v1/uploads`.
pub(crate) async fn list(call: Call<'_>) -> Answer {
    let options = call.list_options(&["limit", "cursor"])?;
    let page = call.larder().sessions(&call.caller, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<UploadBody<'_>>::new("uploads", &page))?)
}

/// What completes an upload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CompleteBody {
    space: Option<String>,
    path: Option<String>,
    parts: Option<Vec<u32>>,
}

/// `POST /v1/uploads/{id}/complete`.
pub(crate) async fn complete(call: Call<'_>, id: &str) -> Answer {
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    let (larder, caller) = (call.larder(), call.caller);
    let body: CompleteBody = Call::json_or_default(call.body).await?;
    let target = match (&body.space, &body.path) {
        (None, None) => None,
        (Some(_), None) => return Err(Error::invalid("another space needs a path too").into()),
        (space, Some(path)) => {
            let space = space.as_deref().map_or(SpaceRef::Home, SpaceRef::parse);
            Some((space, TreePath::parse(path)?))
        }
    };
    let written = match &body.parts {
        None => larder.complete_session(&caller, id, target).await?,
        Some(parts) => larder.complete_session_parts(&caller, id, parts, target).await?,
    };
    let mut response = call::json(StatusCode::OK, &EntryBody::from(&written.entry))?;
    became(response.headers_mut(), &written);
    let location = format!("/v1/files/{}", written.entry.id);
    call::created(&mut response, written.created, location);
    Ok(response)
}

/// `GET /v1/uploads/{id}/parts`.
pub(crate) async fn parts(call: Call<'_>, id: &str) -> Answer {
    let id = call::id::<UploadId>(id, "upload")?;
    let options = call.list_options(&["limit", "cursor"])?;
    let page = call.larder().session_parts(&call.caller, id, &options).await?;
    Ok(call::json(StatusCode::OK, &PageBody::<PartBody>::new("parts", &page))?)
}

/// `PUT /v1/uploads/{id}/parts/{n}`.
pub(crate) async fn put_part(mut call: Call<'_>, id: &str, number: &str) -> Answer {
    call.no_query()?;
    let id = call::id::<UploadId>(id, "upload")?;
    let number = number.parse::<u32>().ok().filter(|_| !number.starts_with('+'));
    let number = number.ok_or_else(|| Error::invalid("a part has a number"))?;
    let headers = call.headers();
    files::refuse_partial(headers)?;
    let checksum = match (checksum(headers)?, digest::declared(headers)?) {
        (Some(sum), _) => Some(sum),
        (None, sum) => sum.map(|sum| Checksum::Sha256(sum.0)),
    };
    if let Some(max) = call.inner.options.file_bytes_max {
        call.body.limit(max)?;
    }
    let new = NewAppend { length: call.body.declared(), checksum };
    let mut part = call.larder().append_part(&call.caller, id, number, new).await?;
    loop {
        match call.body.next_or_pause().await? {
            Arrival::Bytes(bytes) => part.write(bytes).await?,
            Arrival::Pause(still) => part.pause(still).await?,
            Arrival::End => break,
        }
    }
    let info = part.finish().await?;
    Ok(call::json(StatusCode::OK, &PartBody::from(&info))?)
}

/// A session, as JSON.
#[derive(Serialize)]
struct UploadBody<'a> {
    id: String,
    space: String,
    path: Option<&'a str>,
    state: &'static str,
    offset: u64,
    length: Option<u64>,
    expires: Option<String>,
    created: String,
    partial: bool,
    numbered: bool,
    parts: Vec<String>,
    metadata: Option<&'a str>,
    /// Why all bytes are here and there is no file.
    refused: Option<RefusedBody<'a>>,
    /// What it became.
    result: Option<EntryBody<'a>>,
}

#[derive(Serialize)]
struct RefusedBody<'a> {
    code: &'static str,
    detail: &'a str,
}

impl<'a> From<&'a SessionInfo> for UploadBody<'a> {
    fn from(info: &'a SessionInfo) -> Self {
        let state = match &info.state {
            SessionState::Open => "open",
            SessionState::Completed(_) => "completed",
            SessionState::Aborted => "aborted",
            SessionState::Expired => "expired",
            SessionState::Consumed(_) => "consumed",
        };
        let result = match &info.state {
            SessionState::Completed(written) => Some(EntryBody::from(&written.entry)),
            _ => None,
        };
        let refused = info.refused.as_ref();
        Self {
            id: info.id.to_string(),
            space: info.space.to_string(),
            path: info.path.as_deref(),
            state,
            offset: info.offset,
            length: info.length,
            expires: info.expires.map(|time| time.to_string()),
            created: info.created.to_string(),
            partial: info.partial,
            numbered: info.numbered,
            parts: info.final_of.iter().map(ToString::to_string).collect(),
            metadata: info.metadata.as_deref(),
            refused: refused.map(|(kind, detail)| RefusedBody { code: kind.code(), detail }),
            result,
        }
    }
}

/// A numbered part, as JSON.
#[derive(Serialize)]
struct PartBody {
    number: u32,
    size: u64,
    sha256: String,
    created: String,
}

impl From<&PartInfo> for PartBody {
    fn from(part: &PartInfo) -> Self {
        Self {
            number: part.number,
            size: part.size,
            sha256: part.sha256.to_string(),
            created: part.created.to_string(),
        }
    }
}
