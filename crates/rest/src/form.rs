//! Uploads by `multipart/form-data` (RFC 7578): one file, streamed.
//!
//! Promises: the file is committed only after the final boundary has come; anything else in the
//! form is refused before that. What `multer` holds back in memory is bounded: it collects part
//! heads without a limit of its own, so [`HeadGate`] sets one.
//!
//! Not here: raw bodies ([`crate::files`]).

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, header};
use larder_base::{
    ErrorKind,
    name::{EntryName, TreePath},
};
use larder_core::{Error, SpaceRef, UploadOptions, Written};
use larder_http::{HeadGate, condition::Preconditions, digest};
use multer::{Field, Multipart};

use crate::{call::Call, files};

/// The boundary, if the request is a form.
pub(crate) fn boundary(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(text) = text.filter(|text| {
        let essence = text.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("multipart/form-data")
    }) else {
        return Ok(None);
    };
    match multer::parse_boundary(text) {
        // RFC 2046 section 5.1.1.
        Ok(boundary) if (1..=70).contains(&boundary.len()) => Ok(Some(boundary)),
        _ => Err(Error::invalid("the form has no proper boundary")),
    }
}

/// Stores the one file of a form, under `path` or else under its own name.
pub(crate) async fn upload(
    call: Call<'_>,
    boundary: String,
    space: &SpaceRef,
    path: Option<TreePath>,
) -> Result<Written, Error> {
    files::refuse_partial(call.headers())?;
    if digest::names(call.headers()) {
        // It would be the digest of the form, not of the file.
        let detail = "a digest of a form is not verified; send it with the part of the file";
        return Err(Error::new(ErrorKind::NotImplemented, detail));
    }
    let conditions = Preconditions::parse(call.headers())?.for_write();
    let expires = files::expires(call.headers())?;
    let gate = HeadGate::default();
    let passing = gate.clone();
    let stream = call.body.into_stream().map(move |piece| {
        let bytes = piece?;
        passing.pass(bytes.len())?;
        Ok::<Bytes, Error>(bytes)
    });
    let mut form = Multipart::new(stream, boundary);
    let field = next_field(&mut form, &gate).await?;
    let mut field = field.ok_or_else(|| Error::invalid("the form has no file"))?;
    let options = UploadOptions {
        length: None,
        content_type: files::content_type(field.headers())?,
        conditions,
        parents: false,
        expires,
        sha256: digest::declared(field.headers())?,
    };
    let name = field.file_name().ok_or_else(|| {
        Error::invalid("the form must have one part, with a file name, and nothing else")
    })?;
    let path = match path {
        Some(path) => path,
        None => TreePath::from_names(vec![EntryName::new(name)?])?,
    };
    let mut upload = call.inner.larder.open_upload(&call.caller, space, &path, options).await?;
    while let Some(bytes) = next_bytes(&mut field).await? {
        upload.write(bytes).await?;
    }
    drop(field);
    if next_field(&mut form, &gate).await?.is_some() {
        return Err(Error::invalid("the form must have one file and nothing else"));
    }
    upload.commit().await
}

async fn next_field(
    form: &mut Multipart<'static>,
    gate: &HeadGate,
) -> Result<Option<Field<'static>>, Error> {
    gate.close();
    let field = form.next_field().await.map_err(translate);
    gate.open();
    field
}

async fn next_bytes(field: &mut Field<'static>) -> Result<Option<Bytes>, Error> {
    field.chunk().await.map_err(translate)
}

/// Gives back the error that the body itself had.
fn translate(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(_) => Error::invalid("the body cannot be read"),
        },
        error => Error::invalid(format!("the form is malformed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &'static str) -> Result<Option<String>, ErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(value));
        boundary(&headers).map_err(|error| error.kind())
    }

    #[test]
    fn forms_are_known_by_their_type_and_need_a_boundary() {
        assert_eq!(parse("multipart/form-data; boundary=abc"), Ok(Some("abc".to_owned())));
        assert_eq!(parse("Multipart/Form-Data; boundary=\"a b\""), Ok(Some("a b".to_owned())));
        assert_eq!(parse("text/plain"), Ok(None));
        assert_eq!(parse("multipart/form-data"), Err(ErrorKind::Invalid));
        assert_eq!(boundary(&HeaderMap::new()).expect("it is none"), None);
    }
}
