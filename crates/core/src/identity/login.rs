//! From credentials to a caller.
//!
//! Promises: a wrong secret and an unknown name get the same answer after the same work; a change
//! of a user's record (password, disabled, admin) or of a key takes effect with the next request,
//! because nothing is remembered but that a password fits a version of a record; a password that
//! fits is accepted however many others were tried ([`guard`](super::guard)), as long as it is
//! remembered or comes from an address of its own.
//!
//! Not here: reading credentials out of a request (the doors), how keys come and go (`key`).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use larder_base::{
    Env, ErrorKind,
    digest::{Sha256, Sha256Stream},
    id::{KeyId, UserId},
};
use larder_meta::{Snapshot, Version};
use subtle::ConstantTimeEq;

use crate::{
    Larder,
    caller::{Access, Caller, CredentialKind, Credentials, Grounds, Scope},
    error::{Error, Result},
    identity::{REMEMBER, key},
    schema::{self, Credential, StoredSecret, User},
    txn::{self, Stored},
    work::Priority,
};

/// Most verified passwords that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// A hash of no password, so that an unknown name costs what a wrong password costs.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Verified passwords, by whose they are.
#[derive(Default)]
pub(crate) struct Verified(BTreeMap<Box<str>, Remembered>);

/// Passwords that are being checked right now: of many requests that bring the same one, one
/// computes the hash and the others wait for what it finds.
#[derive(Debug, Default)]
pub(crate) struct Checking(Mutex<BTreeMap<[u8; 32], Weak<tokio::sync::Mutex<()>>>>);

impl Checking {
    fn of(&self, digest: &Sha256) -> Arc<tokio::sync::Mutex<()>> {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = checking.get(&digest.0).and_then(Weak::upgrade) {
            return turn;
        }
        checking.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        checking.insert(digest.0, Arc::downgrade(&turn));
        turn
    }
}

#[derive(Clone, Copy)]
struct Remembered {
    /// The record that has the hash.
    version: Version,
    /// Of a random salt of this process, whose password it is, and the password.
    digest: Sha256,
    until: Duration,
    /// Whose password it is, if that is a user: saves looking the name up.
    user: Option<UserId>,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified({})", self.0.len())
    }
}

/// A password nobody can guess, of letters and digits that are not taken for each other.
pub(crate) fn new_password(env: &Env) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; 24];
    env.fill_random(&mut random);
    random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

fn refused() -> Error {
    Error::new(ErrorKind::Unauthenticated, "wrong user, password or key")
}

impl Larder {
    /// Finds out who sends a request, which came from the address `from`.
    ///
    /// Errors: `Unauthenticated`; `RateLimited` if too many wrong passwords came from there, and
    /// then no password is looked at; `Busy` if too many are being checked.
    pub async fn authenticate(&self, credentials: Credentials<'_>, from: IpAddr) -> Result<Caller> {
        self.inner.require_loaded()?;
        let result = match credentials {
            Credentials::Password { user, password } => {
                self.authenticate_password(user, password, from).await
            }
            Credentials::Key(text) => self.authenticate_key(text).await,
        };
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unauthenticated) {
            self.inner.metrics.logins_failed.add(1);
        }
        result
    }

    async fn authenticate_password(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Caller> {
        if let Some((id, secret)) = key::parse(key::APP_PREFIX, password) {
            let caller = self.authenticate_credential(CredentialKind::App, id, &secret).await?;
            return if *caller.name == *name { Ok(caller) } else { Err(refused()) };
        }
        let subject = ["user ", name].concat();
        let known = self.inner.verified().0.get(subject.as_str()).and_then(|known| known.user);
        let found = self.find_login(name, known).await?;
        let hash = found.as_ref().map(|(_, user)| (user.value.password.as_str(), user.version));
        let verified = self.check_password(&subject, hash, password, from).await?;
        match found {
            Some((id, user)) if verified => {
                if known.is_none()
                    && let Some(known) = self.inner.verified().0.get_mut(subject.as_str())
                {
                    known.user = Some(id);
                }
                caller(id, &user, Scope::full())
            }
            _ => Err(refused()),
        }
    }

    /// The user who is called `name`; `known` is who was called so lately.
    async fn find_login(
        &self,
        name: &str,
        known: Option<UserId>,
    ) -> Result<Option<(UserId, Stored<User>)>> {
        let snapshot = self.inner.meta.snapshot().await?;
        if let Some(id) = known
            && let Some(user) = txn::get::<User>(&*snapshot, &schema::user_key(id)).await?
            && user.value.name == name
        {
            return Ok(Some((id, user)));
        }
        let key = schema::user_name_key(name);
        let Some(id) = txn::get::<UserId>(&*snapshot, &key).await? else { return Ok(None) };
        let user = txn::get::<User>(&*snapshot, &schema::user_key(id.value)).await?;
        Ok(user.map(|user| (id.value, user)))
    }

    /// Whether `password` is the one that `hash` was made of, with everything around it that a
    /// guess from the address `from` must meet. `subject` says whose password it is, and is
    /// different for everything that has one; `hash` comes with the version of its record, and
    /// is `None` for what does not exist, which takes the same time.
    ///
    /// Errors: `RateLimited`; `Busy`.
    pub(crate) async fn check_password(
        &self,
        subject: &str,
        hash: Option<(&str, Version)>,
        password: &str,
        from: IpAddr,
    ) -> Result<bool> {
        let digest = self.salted(subject, password);
        let known = hash.map(|(_, version)| version);
        if self.remembers(subject, known, &digest) {
            return Ok(true);
        }
        let turn = self.inner.checking.of(&digest);
        let _turn = turn.lock().await;
        // Whoever had the turn before may have found it out.
        if self.remembers(subject, known, &digest) {
            return Ok(true);
        }
        let (env, salt) = (&self.inner.env, &self.inner.login_salt);
        let attempt = self.inner.guard.begin(env, salt, subject, from).inspect_err(|_| {
            self.inner.metrics.logins_delayed.add(1);
        })?;
        let phc = hash.map_or(NOBODY, |(phc, _)| phc).to_owned();
        match (self.verify_password(phc, password).await, known) {
            (Ok(true), Some(version)) => {
                attempt.succeeded();
                self.remember(subject, version, digest);
                Ok(true)
            }
            (Ok(_), _) => {
                drop(attempt);
                Ok(false)
            }
            (Err(error), _) => {
                attempt.withdraw();
                Err(error)
            }
        }
    }

    /// Whether this password was found to fit this version of the record.
    fn remembers(&self, subject: &str, version: Option<Version>, digest: &Sha256) -> bool {
        let Some(known) = self.inner.verified().0.get(subject).copied() else { return false };
        let now = self.inner.env.monotonic();
        known.until > now
            && Some(known.version) == version
            && bool::from(known.digest.0.ct_eq(&digest.0))
    }

    fn remember(&self, subject: &str, version: Version, digest: Sha256) {
        let now = self.inner.env.monotonic();
        let mut verified = self.inner.verified();
        if verified.0.len() >= REMEMBERED_MAX {
            verified.0.retain(|_, known| known.until > now);
            if verified.0.len() >= REMEMBERED_MAX {
                verified.0.clear();
            }
        }
        verified.0.insert(
            subject.into(),
            Remembered { version, digest, until: now + REMEMBER, user: None },
        );
    }

    pub(crate) fn salted(&self, subject: &str, password: &str) -> Sha256 {
        let mut digest = Sha256Stream::default();
        digest.update(&self.inner.login_salt);
        digest.update(&(subject.len() as u64).to_be_bytes());
        digest.update(subject.as_bytes());
        digest.update(password.as_bytes());
        digest.finish()
    }

    async fn authenticate_key(&self, text: &str) -> Result<Caller> {
        let (id, secret) = key::parse(key::API_PREFIX, text).ok_or_else(refused)?;
        self.authenticate_credential(CredentialKind::Api, id, &secret).await
    }

    /// The caller with this key or app password.
    async fn authenticate_credential(
        &self,
        kind: CredentialKind,
        id: KeyId,
        secret: &[u8; 32],
    ) -> Result<Caller> {
        let snapshot = self.inner.meta.snapshot().await?;
        let now = self.inner.env.now();
        let credential = key::find(&*snapshot, id).await?.ok_or_else(refused)?;
        let digest = Sha256::of(secret);
        let secrets = key::secrets(&*snapshot, id, &credential.value).await?;
        let fits = secrets.iter().flat_map(|secrets| secrets.valid(now)).any(|stored| {
            matches!(stored, StoredSecret::Digest(stored) if bool::from(stored.0.ct_eq(&digest.0)))
        });
        if !fits || credential.value.kind != kind {
            return Err(refused());
        }
        self.caller_with(&*snapshot, id, &credential).await
    }

    /// The caller who came with this credential, whose secret has been found to fit.
    pub(crate) async fn caller_with(
        &self,
        snapshot: &dyn Snapshot,
        id: KeyId,
        credential: &Stored<Credential>,
    ) -> Result<Caller> {
        let Credential { user, access, spaces, expires, .. } = &credential.value;
        if expires.is_some_and(|expires| expires <= self.inner.env.now()) {
            return Err(refused());
        }
        let stored = txn::get::<User>(snapshot, &schema::user_key(*user)).await?;
        let scope = Scope { access: *access, spaces: spaces.clone().map(Arc::from) };
        let mut caller = caller(*user, &stored.ok_or_else(refused)?, scope)?;
        caller.credential = Some((schema::api_key_key(id), credential.version));
        self.note_use(id);
        Ok(caller)
    }
}

fn caller(id: UserId, user: &Stored<User>, scope: Scope) -> Result<Caller> {
    if user.value.disabled {
        return Err(refused());
    }
    Ok(Caller {
        user: id,
        name: user.value.name.as_str().into(),
        // Only what can do everything can administer.
        admin: user.value.admin && scope.access == Access::Full && scope.spaces.is_none(),
        record: user.version,
        scope,
        credential: None,
        grounds: Grounds::default(),
        link: None,
        priority: Priority::DEFAULT,
    })
}
