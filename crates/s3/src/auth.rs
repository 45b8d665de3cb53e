//! Who signs: secrets of access keys, and the first user's name and password as a key pair.
//!
//! Promises: the library is given one secret, of the key that the request names, and an operation
//! exists only behind a signature made with it; a secret is wiped when the request is done and is
//! never logged. After a rotation both secrets are good.
//!
//! Not here: how a signature is computed (the library), what must be signed (`guard`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Extensions, HeaderMap, Method, StatusCode, Uri, request::Parts};
use larder_base::{Env, ErrorKind, id::RequestId};
use larder_core::{Caller, Credentials, Error, Larder};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    route::S3Route,
    service::S3ServiceBuilder,
};
use zeroize::Zeroizing;

use crate::{
    Inner,
    action::{Origin, Scene},
    body::Trail,
    error::{About, from_core},
};

/// How long it is believed that the first user's password is still the same.
const BELIEVED: Duration = Duration::from_secs(5);

/// The same for one that was refused: each look costs as much as a login.
const DISBELIEVED: Duration = Duration::from_secs(60);

/// A name and a password of a user that are an access key and its secret, too.
#[derive(Clone)]
pub struct StaticPair {
    /// The user's name.
    pub name: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for StaticPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticPair({})", self.name)
    }
}

/// The state of a [`StaticPair`].
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Option<(Duration, Option<Caller>)>>);

/// Whose a key is, and what it may sign with.
pub(crate) struct Signer {
    pub(crate) caller: Caller,
    pub(crate) secrets: Vec<Zeroizing<String>>,
}

/// Finds the secrets of an access key.
pub(crate) async fn find(inner: &Inner, access_key: &str) -> Result<Signer, Error> {
    if let Some(pair) = &inner.options.pair
        && pair.name == access_key
        && let Some(caller) = known(&inner.larder, &inner.env, pair, &inner.known).await?
    {
        return Ok(Signer { caller, secrets: vec![pair.password.clone()] });
    }
    let found = inner.larder.s3_secret(access_key).await?;
    Ok(Signer { caller: found.caller, secrets: found.secrets })
}

/// The user of a pair, if its password is still the user's.
async fn known(
    larder: &Larder,
    env: &Env,
    pair: &StaticPair,
    known: &Known,
) -> Result<Option<Caller>, Error> {
    let now = env.monotonic();
    {
        let state = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, caller)) = &*state
            && now < *until
        {
            return Ok(caller.clone());
        }
    }
    let credentials = Credentials::Password { user: &pair.name, password: &pair.password };
    let found = match larder.authenticate(credentials, IpAddr::V4(Ipv4Addr::LOCALHOST)).await {
        Ok(caller) => Some(caller),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => None,
        Err(error) => return Err(error),
    };
    let time = if found.is_some() { BELIEVED } else { DISBELIEVED };
    let mut state = known.0.lock().unwrap_or_else(PoisonError::into_inner);
    *state = Some((now + time, found.clone()));
    Ok(found)
}

impl Known {
    /// What is known is not so any more.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Knows no key: for requests without a signature.
pub(crate) struct NoKey;

#[async_trait::async_trait]
impl S3Auth for NoKey {
    async fn get_secret_key(&self, _access_key: &str) -> S3Result<SecretKey> {
        Err(s3s::s3_error!(AccessDenied, "the request is signed in no known way"))
    }
}

/// The secret of one key, for one request.
pub(crate) struct OneKey {
    access_key: String,
    secret: SecretKey,
}

impl OneKey {
    pub(crate) fn new(access_key: &str, secret: &str) -> Self {
        Self { access_key: access_key.to_owned(), secret: SecretKey::from(secret) }
    }
}

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            return Ok(self.secret.clone());
        }
        Err(s3s::s3_error!(InvalidAccessKeyId, "the request names two keys"))
    }
}

/// Lets a request in whose signature is good, or which has none: from here on it counts for its
/// user.
pub(crate) struct Entry {
    pub(crate) inner: Arc<Inner>,
    /// Who has signed it, if anybody.
    pub(crate) caller: Option<Caller>,
    pub(crate) origin: Origin,
    pub(crate) request_id: RequestId,
    pub(crate) trail: Arc<Trail>,
}

#[async_trait::async_trait]
impl S3Access for Entry {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() != self.caller.is_none() {
            return Err(s3s::s3_error!(AccessDenied, "the request is signed in no known way"));
        }
        let caller = self.caller.as_ref();
        let scene = Scene::of(context, caller, self.origin);
        if caller.is_none() && scene.is_none() {
            let message = "this is not done for requests without a signature";
            return Err(s3s::s3_error!(AccessDenied, "{message}"));
        }
        // All are set once, because this is called once.
        if let Some(scene) = scene {
            self.trail.scene.set(scene).ok();
        }
        if let Some(caller) = caller {
            self.trail.user.set(Arc::clone(&caller.name)).ok();
        }
        let meters = caller.map_or((None, None), Caller::meters);
        let pace = self.inner.limits.admit_user(self.origin.address, meters);
        let pace = pace.map_err(|error| from_core(&error, About::Write, &self.request_id))?;
        self.trail.pace.set(pace).ok();
        Ok(())
    }
}

/// The secret that a request is signed with, or the last one if it is none of them.
pub(crate) async fn choose<'a>(
    inner: &Inner,
    access_key: &str,
    secrets: &'a [Zeroizing<String>],
    head: &Parts,
) -> Option<&'a Zeroizing<String>> {
    let (last, others) = secrets.split_last()?;
    for secret in others {
        if signed_with(inner, access_key, secret, head).await {
            return Some(secret);
        }
    }
    Some(last)
}

/// Whether the head of a request is signed with `secret`: the library is asked with the head
/// alone, and goes no further than the signature.
async fn signed_with(inner: &Inner, access_key: &str, secret: &str, head: &Parts) -> bool {
    let mut builder = S3ServiceBuilder::new(Nothing);
    builder.set_auth(OneKey::new(access_key, secret));
    builder.set_route(Stop);
    if let Some(domain) = &inner.domain {
        builder.set_host(domain.clone());
    }
    let mut request = http::Request::new(Body::empty());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    let answer = builder.build().call(request).await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::NO_CONTENT)
}

struct Nothing;

impl S3 for Nothing {}

/// Ends a request as soon as its signature is known to be good.
struct Stop;

#[async_trait::async_trait]
impl S3Route for Stop {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        true
    }

    async fn call(&self, _: S3Request<Body>) -> S3Result<S3Response<Body>> {
        Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
    }
}
