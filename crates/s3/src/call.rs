//! One signed request on its way through an operation, and what all operations do with it.
//!
//! Not here: what any of them does.

use std::sync::Arc;

use http::HeaderMap;
use larder_base::{Env, id::RequestId};
use larder_core::{Bucket, Caller, Error, Larder, VersionId};
use s3s::{S3Error, S3Response, S3Result, StdError, s3_error};

use crate::{
    Inner,
    body::{self, Trail},
    error::{About, from_core, is_xml},
};

/// Longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// What an operation answers.
pub(crate) type Answer<T> = S3Result<S3Response<T>>;

/// One request. It is made with its caller, but the library calls an operation of it only if the
/// request is signed with the caller's secret.
pub(crate) struct Call {
    pub(crate) inner: Arc<Inner>,
    pub(crate) caller: Caller,
    pub(crate) request_id: RequestId,
    pub(crate) trail: Arc<Trail>,
}

impl Call {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        caller: Caller,
        request_id: RequestId,
        trail: &Arc<Trail>,
    ) -> Self {
        Self { inner: Arc::clone(inner), caller, request_id, trail: Arc::clone(trail) }
    }

    pub(crate) fn larder(&self) -> &Larder {
        &self.inner.larder
    }

    pub(crate) fn env(&self) -> &Env {
        &self.inner.env
    }

    /// An error of core as S3 has it.
    pub(crate) fn error(&self, error: &Error, about: About) -> S3Error {
        if error.kind() == larder_base::ErrorKind::Unauthenticated {
            // The user or the key has changed since: what is remembered of it is not so any more.
            self.inner.known.forget();
        }
        from_core(error, about, &self.request_id)
    }

    /// The same as a function.
    pub(crate) fn fails(&self, about: About) -> impl Fn(Error) -> S3Error + '_ {
        move |error| self.error(&error, about)
    }

    /// Why a body could not be read.
    pub(crate) fn body_error(&self, error: &StdError) -> S3Error {
        if let Some(fault) = self.trail.fault() {
            return self.error(&fault, About::Body);
        }
        let (code, message) = body::fault(error);
        let mut refusal = coded(code, message);
        if refusal.status_code().is_none() {
            refusal.set_status_code(http::StatusCode::BAD_REQUEST);
        }
        refusal
    }

    /// The bucket that a request names, if it is the owner's that the request expects.
    pub(crate) async fn bucket(&self, name: &str, owner: Option<&str>) -> S3Result<Bucket> {
        let bucket = self.larder().bucket(&self.caller, name).await;
        let bucket = bucket.map_err(self.fails(About::Bucket))?;
        match owner {
            Some(owner) if owner != bucket.owner.to_string() => {
                Err(s3_error!(AccessDenied, "the bucket has another owner"))
            }
            _ => Ok(bucket),
        }
    }

    /// Whether a key can be one of an object.
    pub(crate) fn check_key(key: &str) -> S3Result<()> {
        if key.is_empty() {
            return Err(s3_error!(InvalidArgument, "the key is empty"));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(s3_error!(KeyTooLongError, "the key is longer than 1024 bytes"));
        }
        if !key.chars().all(is_xml) {
            let message = "the key has characters that no listing could show";
            return Err(s3_error!(InvalidURI, "{message}"));
        }
        Ok(())
    }

    /// The version that a request names.
    pub(crate) fn version(text: Option<&str>) -> S3Result<Option<VersionId>> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let parsed = text.parse().map_err(|_no_id: Error| {
            s3_error!(InvalidArgument, "this is no version id that a listing gave")
        });
        parsed.map(Some)
    }
}

/// An error with a code that may be none of the library's.
pub(crate) fn coded(code: &'static str, message: impl Into<String>) -> S3Error {
    let known = s3s::S3ErrorCode::from_bytes(code.as_bytes());
    let code = known.unwrap_or_else(|| s3s::S3ErrorCode::Custom(code.into()));
    S3Error::with_message(code, message.into())
}

/// The text of a header; `None` if it is not there or no text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}
