//! One request on its way through an operation, and what all operations do with it.
//!
//! Promises: an operation is done as whom core lets into the bucket for it, and before that as who
//! has signed the request, or as nobody.
//!
//! Not here: what any of them does.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use http::HeaderMap;
use larder_base::{
    Env, ErrorKind,
    id::{RequestId, UserId},
};
use larder_core::{Ask, Bucket, Caller, Error, Larder, VersionId};
use s3s::{S3Error, S3Response, S3Result, StdError, dto::Owner, s3_error};

use crate::{
    Inner,
    body::{self, Trail},
    error::{About, from_core, is_xml},
};

/// Longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// What an operation answers.
pub(crate) type Answer<T> = S3Result<S3Response<T>>;

/// Who acts: who has signed, or nobody, until a bucket has let the request in as somebody.
pub(crate) struct Acting {
    signer: Caller,
    entered: OnceLock<Caller>,
}

impl Deref for Acting {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        self.entered.get().unwrap_or(&self.signer)
    }
}

/// What a bucket is entered for.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) version: Option<VersionId>,
    /// The actions that it takes; the last one is done.
    pub(crate) actions: &'a [&'static str],
    /// The owner that the request expects.
    pub(crate) owner: Option<&'a str>,
}

/// One request. It is made with its caller, but the library calls an operation of it only if the
/// request is signed with the caller's secret.
pub(crate) struct Call {
    pub(crate) inner: Arc<Inner>,
    pub(crate) caller: Acting,
    signed: Option<Caller>,
    pub(crate) request_id: RequestId,
    pub(crate) trail: Arc<Trail>,
}

impl Call {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        signed: Option<Caller>,
        request_id: RequestId,
        trail: &Arc<Trail>,
    ) -> Self {
        let signer = signed.clone().unwrap_or_else(Caller::nobody);
        let caller = Acting { signer, entered: OnceLock::new() };
        let trail = Arc::clone(trail);
        Self { inner: Arc::clone(inner), caller, signed, request_id, trail }
    }

    pub(crate) fn larder(&self) -> &Larder {
        &self.inner.larder
    }

    pub(crate) fn env(&self) -> &Env {
        &self.inner.env
    }

    /// An error of core as S3 has it.
    pub(crate) fn error(&self, error: &Error, about: About) -> S3Error {
        if error.kind() == ErrorKind::Unauthenticated {
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

    /// The bucket that a request names, if it is the owner's that the request expects, and if
    /// somebody lets the request do there what it is for.
    pub(crate) async fn bucket(&self, name: &str, owner: Option<&str>) -> S3Result<Bucket> {
        let Some(scene) = self.trail.scene.get().filter(|scene| scene.bucket == name) else {
            let detail = "an operation without an action, or on another bucket";
            return Err(self.error(&Error::internal(detail), About::Bucket));
        };
        let way = Way {
            bucket: name,
            key: scene.key.as_deref(),
            version: scene.version,
            actions: scene.actions,
            owner,
        };
        let (bucket, caller) = self.enter(way).await?;
        // A request enters its own bucket once; what else it enters it names.
        self.caller.entered.set(caller).ok();
        Ok(bucket)
    }

    /// A bucket, and as whom the request does something there.
    pub(crate) async fn enter(&self, way: Way<'_>) -> S3Result<(Bucket, Caller)> {
        let mut entered = None;
        for action in way.actions {
            let ask = self.ask(way, action, way.key);
            let caller = self.signed.as_ref();
            entered = match self.larder().enter_bucket(caller, way.bucket, &ask).await {
                Ok(entered) => Some(entered),
                Err(error) if error.kind() == ErrorKind::Denied => {
                    return Err(self.hidden(way, action, &error).await);
                }
                Err(error) => return Err(self.error(&error, About::Bucket)),
            };
        }
        let nothing =
            || self.error(&Error::internal("an operation without an action"), About::Bucket);
        let (bucket, caller) = entered.ok_or_else(nothing)?;
        match way.owner {
            Some(owner) if owner != bucket.owner.to_string() => {
                Err(s3_error!(AccessDenied, "the bucket has another owner"))
            }
            _ => Ok((bucket, caller)),
        }
    }

    fn ask<'a>(&self, way: Way<'a>, action: &'a str, key: Option<&'a str>) -> Ask<'a> {
        let context = self.trail.scene.get().map(|scene| scene.context.clone());
        let context = context.unwrap_or_default();
        Ask { action, bucket: way.bucket, key, version: way.version, context }
    }

    /// Why an object is not shown: whoever may list the bucket may know that there is none.
    async fn hidden(&self, way: Way<'_>, action: &str, denied: &Error) -> S3Error {
        let denied = self.error(denied, About::Bucket);
        let Some(key) = way.key.filter(|_| action.starts_with("s3:GetObject")) else {
            return denied;
        };
        let mut ask = self.ask(way, "s3:ListBucket", None);
        ask.context.push(("s3:prefix".to_owned(), key.to_owned()));
        let entered = self.larder().enter_bucket(self.signed.as_ref(), way.bucket, &ask).await;
        let Ok((bucket, caller)) = entered else { return denied };
        match self.larder().object(&caller, &bucket, key, way.version).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.error(&error, About::Object),
            _ => denied,
        }
    }

    /// A user as S3 shows the owner of something.
    pub(crate) async fn owner(&self, user: UserId) -> S3Result<Owner> {
        let name = self.larder().user_name(user).await.map_err(self.fails(About::Bucket))?;
        Ok(Owner { id: Some(user.to_string()), display_name: name })
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
