//! From credentials to a caller.
//!
//! Promises: a wrong secret and an unknown name get the same answer after the same work; a change
//! of a user's record (password, disabled, admin) takes effect with the next request, because
//! what is remembered is bound to the record's version.
//!
//! Not here: reading credentials out of a request (the doors).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use larder_base::{
    Env, ErrorKind,
    digest::{Sha256, Sha256Stream},
    id::{KeyId, UserId},
};
use larder_meta::Version;
use subtle::ConstantTimeEq;

use crate::{
    Larder,
    caller::{Caller, Credentials, Scope},
    error::{Error, Result},
    identity::REMEMBER,
    schema::{self, ApiKey, User},
    txn::{self, Stored},
};

/// What API keys begin with, so that they are recognised where they should not be.
const KEY_PREFIX: &str = "lk_";

/// Most verified passwords that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// A hash of no password, so that an unknown name costs what a wrong password costs.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Verified passwords, by the name they came with.
#[derive(Default)]
pub(crate) struct Verified(BTreeMap<Box<str>, Remembered>);

/// Names whose password is being checked right now: of many requests that bring the same name,
/// one computes the hash and the others wait for what it finds.
#[derive(Debug, Default)]
pub(crate) struct Checking(Mutex<BTreeMap<Box<str>, Weak<tokio::sync::Mutex<()>>>>);

impl Checking {
    fn of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut checking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = checking.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        checking.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        checking.insert(name.into(), Arc::downgrade(&turn));
        turn
    }
}

#[derive(Clone)]
struct Remembered {
    user: UserId,
    name: Arc<str>,
    version: Version,
    /// Of a random salt of this process and the password.
    digest: Sha256,
    until: Duration,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verified({})", self.0.len())
    }
}

/// Makes the text of a new key, and the digest of its secret.
pub(crate) fn new_key(env: &Env, id: KeyId) -> (String, Sha256) {
    let mut secret = [0; 32];
    env.fill_random(&mut secret);
    let id = URL_SAFE_NO_PAD.encode(id.as_bytes());
    let text = format!("{KEY_PREFIX}{id}{}", URL_SAFE_NO_PAD.encode(secret));
    (text, Sha256::of(&secret))
}

/// A password nobody can guess, of letters and digits that are not taken for each other.
pub(crate) fn new_password(env: &Env) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; 24];
    env.fill_random(&mut random);
    random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// The id and the secret in the text of a key.
fn parse_key(text: &str) -> Option<(KeyId, [u8; 32])> {
    let rest = text.strip_prefix(KEY_PREFIX)?;
    let (id, secret) = (rest.get(..22)?, rest.get(22..)?);
    let id = URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok()?;
    let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
    Some((KeyId::from_bytes(id), secret))
}

fn refused() -> Error {
    Error::new(ErrorKind::Unauthenticated, "wrong user, password or key")
}

impl Larder {
    /// Finds out who sends a request.
    ///
    /// Errors: `Unauthenticated`; `Busy` if too many passwords are being checked.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller> {
        let result = match credentials {
            Credentials::Password { user, password } => {
                self.authenticate_password(user, password).await
            }
            Credentials::Key(text) => self.authenticate_key(text).await,
        };
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unauthenticated) {
            self.inner.metrics.logins_failed.add(1);
        }
        result
    }

    async fn authenticate_password(&self, name: &str, password: &str) -> Result<Caller> {
        let digest = self.salted(password);
        if let Some(known) = self.recall(name, &digest).await? {
            return known;
        }
        let turn = self.inner.checking.of(name);
        let _turn = turn.lock().await;
        // Whoever had the turn before may have found it out.
        if let Some(known) = self.recall(name, &digest).await? {
            return known;
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let found = match txn::get::<UserId>(&*snapshot, &schema::user_name_key(name)).await? {
            Some(id) => {
                let stored = txn::get::<User>(&*snapshot, &schema::user_key(id.value)).await?;
                stored.map(|stored| (id.value, stored))
            }
            None => None,
        };
        drop(snapshot);
        let phc = match &found {
            Some((_, stored)) => stored.value.password.clone(),
            None => NOBODY.to_owned(),
        };
        let verified = self.verify_password(phc, password).await?;
        let Some((id, stored)) = found.filter(|_| verified) else { return Err(refused()) };
        let shown: Arc<str> = stored.value.name.as_str().into();
        self.remember(name, id, &shown, &stored, digest);
        caller(id, shown, &stored)
    }

    /// What is remembered of this name and password, if the user has not changed since.
    async fn recall(&self, name: &str, digest: &Sha256) -> Result<Option<Result<Caller>>> {
        let Some(known) = self.inner.verified().0.get(name).cloned() else { return Ok(None) };
        let now = self.inner.env.monotonic();
        if known.until <= now || !bool::from(known.digest.0.ct_eq(&digest.0)) {
            return Ok(None);
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let stored = txn::get::<User>(&*snapshot, &schema::user_key(known.user)).await?;
        let stored = stored.filter(|stored| stored.version == known.version);
        Ok(stored.map(|stored| caller(known.user, known.name, &stored)))
    }

    fn remember(
        &self,
        name: &str,
        user: UserId,
        shown: &Arc<str>,
        stored: &Stored<User>,
        digest: Sha256,
    ) {
        let now = self.inner.env.monotonic();
        let mut verified = self.inner.verified();
        if verified.0.len() >= REMEMBERED_MAX {
            verified.0.retain(|_, known| known.until > now);
            if verified.0.len() >= REMEMBERED_MAX {
                verified.0.clear();
            }
        }
        let known = Remembered {
            user,
            name: Arc::clone(shown),
            version: stored.version,
            digest,
            until: now + REMEMBER,
        };
        verified.0.insert(name.into(), known);
    }

    fn salted(&self, password: &str) -> Sha256 {
        let mut digest = Sha256Stream::default();
        digest.update(&self.inner.login_salt);
        digest.update(password.as_bytes());
        digest.finish()
    }

    async fn authenticate_key(&self, text: &str) -> Result<Caller> {
        let (id, secret) = parse_key(text).ok_or_else(refused)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let key = txn::get::<ApiKey>(&*snapshot, &schema::api_key_key(id)).await?;
        let key = key.ok_or_else(refused)?.value;
        let matches = bool::from(key.digest.0.ct_eq(&Sha256::of(&secret).0));
        let expired = key.expires.is_some_and(|expires| expires <= self.inner.env.now());
        if !matches || expired {
            return Err(refused());
        }
        let user = txn::get::<User>(&*snapshot, &schema::user_key(key.user)).await?;
        let user = user.ok_or_else(refused)?;
        let name = user.value.name.as_str().into();
        caller(key.user, name, &user)
    }
}

fn caller(id: UserId, name: Arc<str>, user: &Stored<User>) -> Result<Caller> {
    if user.value.disabled {
        return Err(refused());
    }
    Ok(Caller {
        user: id,
        name,
        admin: user.value.admin,
        record: user.version,
        scope: Scope::full(),
        credential: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_text_is_read_back_and_nothing_else_is() {
        let (env, _) = Env::manual(3);
        let id = KeyId::new(&env);
        let (text, digest) = new_key(&env, id);
        let (read, secret) = parse_key(&text).expect("own text");
        assert_eq!((read, Sha256::of(&secret)), (id, digest));
        for bad in ["", "lk_", &text[1..], &text[..text.len() - 1], "lk_\u{e9}"] {
            assert!(parse_key(bad).is_none(), "{bad:?}");
        }
    }
}
