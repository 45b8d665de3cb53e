//! Credentials that programs use instead of a password: API keys, app passwords, S3 key pairs.
//!
//! Promises: I-KEY-1 nobody makes a credential that may do more, or lasts longer, than the one
//! they came with; I-KEY-2 a deleted or expired one stops working at once, in what runs too,
//! because every change compares its record; I-KEY-3 a secret is told once, at its making or
//! rotation; kept are a digest, or for S3, which must compute with it, a sealed form.
//!
//! Not here: checking what a request brings (`login`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use larder_base::{
    Env, ErrorKind, Timestamp,
    digest::Sha256,
    id::{KeyId, SpaceId, UserId},
};
use larder_meta::Snapshot;
use zeroize::Zeroizing;

use crate::{
    Larder,
    access::require_full,
    account::{KeyInfo, MadeKey, NewKey, S3Secrets, UserRef},
    caller::{Access, Caller, CredentialKind, Scope},
    error::{Error, Result},
    schema::{self, Credential, Secrets, StoredSecret},
    txn::{self, Stored, Txn, transact},
};

/// What API keys begin with, so that they are recognised where they should not be.
pub(crate) const API_PREFIX: &str = "lk_";

/// What app passwords begin with.
pub(crate) const APP_PREFIX: &str = "la_";

/// What access key ids of S3 begin with; 18 characters of base 32 follow.
const S3_PREFIX: &str = "LK";

/// Most credentials of one user.
const KEYS_MAX: usize = 100;

/// Most spaces in one scope.
const SPACES_MAX: usize = 64;

/// Longest time in which a secret is accepted that has been replaced.
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How coarsely the last use is kept: one small commit for each credential in this time.
const USE_EVERY: Duration = Duration::from_secs(3600);

/// Most credentials whose last noting is remembered.
const USES_MAX: usize = 10_000;

/// Most notes that are written at once; what comes then is noted another time.
const NOTES_MAX: usize = 8;

/// When the use of each credential was last noted by this process.
#[derive(Debug)]
pub(crate) struct Uses {
    noted: Mutex<BTreeMap<KeyId, Duration>>,
    writing: Arc<tokio::sync::Semaphore>,
}

impl Default for Uses {
    fn default() -> Self {
        let writing = Arc::new(tokio::sync::Semaphore::new(NOTES_MAX));
        Self { noted: Mutex::default(), writing }
    }
}

/// The text and the digest of a new secret of an API key or app password.
pub(crate) fn draw_token(env: &Env, prefix: &str, id: KeyId) -> (Zeroizing<String>, StoredSecret) {
    let mut secret = Zeroizing::new([0; 32]);
    env.fill_random(&mut *secret);
    let id = URL_SAFE_NO_PAD.encode(id.as_bytes());
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
    let text = Zeroizing::new([prefix, &id, &encoded].concat());
    (text, StoredSecret::Digest(Sha256::of(&*secret)))
}

/// The id and the secret in the text of a key.
pub(crate) fn parse(prefix: &str, text: &str) -> Option<(KeyId, Zeroizing<[u8; 32]>)> {
    let rest = text.strip_prefix(prefix)?;
    let (id, secret) = rest.split_at_checked(22)?;
    let id = URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok()?;
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).ok()?);
    let secret = Zeroizing::new(secret.as_slice().try_into().ok()?);
    Some((KeyId::from_bytes(id), secret))
}

/// A new access key id: 90 random bits, of capital letters and digits.
fn draw_access_key_id(env: &Env) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut random = [0; 18];
    env.fill_random(&mut random);
    let letters = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    S3_PREFIX.chars().chain(letters).collect()
}

/// The credential with this id.
pub(crate) async fn find(snapshot: &dyn Snapshot, id: KeyId) -> Result<Option<Stored<Credential>>> {
    let key = schema::api_key_key(id);
    match snapshot.get(&key).await? {
        None => Ok(None),
        Some(record) => {
            let value = schema::decode_credential(&key, &record.value)?;
            Ok(Some(Stored { value, version: record.version }))
        }
    }
}

/// The secrets of a credential.
pub(crate) async fn secrets(
    snapshot: &dyn Snapshot,
    id: KeyId,
    credential: &Credential,
) -> Result<Option<Secrets>> {
    let stored = txn::get::<Secrets>(snapshot, &schema::secrets_key(id)).await?;
    Ok(stored.map(|stored| stored.value).or_else(|| {
        let current = StoredSecret::Digest(credential.digest?);
        Some(Secrets { current, previous: None, rotated: None })
    }))
}

/// The ids of the credentials of a user.
pub(crate) async fn ids_of(
    snapshot: &dyn Snapshot,
    user: UserId,
    limit: usize,
) -> Result<Vec<KeyId>> {
    let prefix = schema::user_api_keys_prefix(user);
    let page = txn::page(snapshot, &prefix, None, limit).await?;
    page.iter().map(|(key, _)| Ok(KeyId::from_bytes(schema::trailing_id(key)?))).collect()
}

/// Removes a credential with everything that belongs to it.
pub(crate) fn remove(txn: &mut Txn, id: KeyId, credential: &Credential) {
    txn.delete(schema::api_key_key(id));
    txn.delete(schema::user_api_key_key(credential.user, id));
    txn.delete(schema::secrets_key(id));
    txn.delete(schema::used_key(id));
    if let Some(access_key_id) = &credential.access_key_id {
        txn.delete(schema::access_key_key(access_key_id));
    }
}

/// What a new credential of `kind` may do: what was asked for, if that is no more than the
/// caller's own credential may (I-KEY-1).
fn scope_within(caller: &Caller, new: &NewKey) -> Result<(Access, Option<Vec<SpaceId>>)> {
    let most = match new.kind {
        CredentialKind::Api | CredentialKind::S3 => Access::Full,
        CredentialKind::App => Access::Write,
    };
    let access = new.access.unwrap_or(most);
    if access > most {
        return Err(Error::invalid("an app password is for work on files: `read` or `write`"));
    }
    if new.spaces.as_ref().is_some_and(|spaces| spaces.is_empty() || spaces.len() > SPACES_MAX) {
        return Err(Error::invalid(format!("a scope names 1 to {SPACES_MAX} spaces, or none")));
    }
    let Scope { access: own, spaces: own_spaces } = &caller.scope;
    let inside = match (own_spaces, &new.spaces) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(wanted)) => wanted.iter().all(|space| own.contains(space)),
    };
    if access > *own || !inside {
        let detail = "a key cannot make one that may do more than itself";
        return Err(Error::new(ErrorKind::Denied, detail));
    }
    Ok((access, new.spaces.clone()))
}

impl Larder {
    /// Makes a credential; its secret is told this once. For the caller, or for anyone by an
    /// administrator. It may do no more, and lasts no longer, than what the caller came with.
    ///
    /// Errors: `Denied`; `Conflict` if the user has too many.
    pub async fn create_key(
        &self,
        caller: &Caller,
        user: &UserRef,
        new: NewKey,
    ) -> Result<MadeKey> {
        require_full(caller)?;
        if new.name.len() > 128 || new.name.chars().any(char::is_control) {
            return Err(Error::invalid("a key's name has at most 128 bytes, none of control"));
        }
        let (access, spaces) = scope_within(caller, &new)?;
        let id = KeyId::new(&self.inner.env);
        let (secret, stored) = self.draw_secret(new.kind, id);
        let s3 = new.kind == CredentialKind::S3;
        let access_key_id = s3.then(|| draw_access_key_id(&self.inner.env));
        let (key, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            let (owner, user) = self.find_user(&*txn.snapshot, caller, user).await?;
            txn.hold(schema::user_key(owner), user.version);
            check_lifetime(&txn, caller, new.expires).await?;
            hold_additions(&mut txn, owner).await?;
            if ids_of(&*txn.snapshot, owner, KEYS_MAX).await?.len() >= KEYS_MAX {
                let detail = format!("a user has at most {KEYS_MAX} keys: delete one first");
                return Err(Error::new(ErrorKind::Conflict, detail));
            }
            let credential = Credential {
                user: owner,
                kind: new.kind,
                name: new.name.clone(),
                access,
                spaces: spaces.clone(),
                created: txn.now,
                expires: new.expires,
                access_key_id: access_key_id.clone(),
                digest: None,
            };
            let secrets = Secrets { current: stored.clone(), previous: None, rotated: None };
            if let Some(access_key_id) = &credential.access_key_id {
                let key = schema::access_key_key(access_key_id);
                txn.hold_absent(key.clone());
                txn.put(key, &id);
            }
            txn.spec.put.push((schema::api_key_key(id), schema::encode_credential(&credential)));
            txn.put(schema::user_api_key_key(owner, id), &());
            txn.put(schema::secrets_key(id), &secrets);
            info(id, &credential, Some(&secrets), None)
        });
        Ok(MadeKey { key, secret })
    }

    /// A new secret: as it is told, and as it is stored.
    fn draw_secret(&self, kind: CredentialKind, id: KeyId) -> (Zeroizing<String>, StoredSecret) {
        let env = &self.inner.env;
        match kind {
            CredentialKind::Api => draw_token(env, API_PREFIX, id),
            CredentialKind::App => draw_token(env, APP_PREFIX, id),
            CredentialKind::S3 => {
                let mut random = Zeroizing::new([0; 30]);
                env.fill_random(&mut *random);
                // 40 characters, as tools expect them.
                let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
                let sealed = self.inner.sealer.seal(&schema::secrets_key(id), text.as_bytes());
                (text, StoredSecret::Sealed(sealed.to_vec()))
            }
        }
    }

    /// The credentials of a user, without their secrets.
    pub async fn keys(&self, caller: &Caller, user: &UserRef) -> Result<Vec<KeyInfo>> {
        require_full(caller)?;
        let snapshot = self.inner.meta.snapshot().await?;
        let (owner, _) = self.find_user(&*snapshot, caller, user).await?;
        let mut keys = Vec::new();
        for id in ids_of(&*snapshot, owner, KEYS_MAX).await? {
            if let Some(found) = find(&*snapshot, id).await? {
                let secrets = secrets(&*snapshot, id, &found.value).await?;
                let used = txn::get::<Timestamp>(&*snapshot, &schema::used_key(id)).await?;
                let used = used.map(|used| used.value);
                keys.push(info(id, &found.value, secrets.as_ref(), used));
            }
        }
        Ok(keys)
    }

    /// Replaces the secret of a credential; the new one is told this once. The old one is
    /// accepted for `overlap` more. Without an overlap what runs with the old one fails.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        user: &UserRef,
        id: KeyId,
        overlap: Duration,
    ) -> Result<MadeKey> {
        require_full(caller)?;
        if overlap > OVERLAP_MAX {
            return Err(Error::invalid("an old secret is accepted for at most 30 days more"));
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let (owner, _) = self.find_user(&*snapshot, caller, user).await?;
        let found = find(&*snapshot, id).await?.filter(|found| found.value.user == owner);
        let kind = found.ok_or_else(|| Error::not_found("key"))?.value.kind;
        drop(snapshot);
        let (secret, stored) = self.draw_secret(kind, id);
        let (key, _) = transact!(self, None, |txn| {
            caller.hold(&mut txn);
            let (owner, _) = self.find_user(&*txn.snapshot, caller, user).await?;
            let found = find(&*txn.snapshot, id).await?;
            let found = found.filter(|found| found.value.user == owner);
            let Stored { value: credential, version } =
                found.ok_or_else(|| Error::not_found("key"))?;
            let own =
                caller.credential.as_ref().is_some_and(|(key, _)| *key == schema::api_key_key(id));
            // Who knows the new secret may do what the key may.
            if !own {
                let new = NewKey {
                    kind,
                    access: Some(credential.access),
                    spaces: credential.spaces.clone(),
                    ..NewKey::default()
                };
                scope_within(caller, &new)?;
                check_lifetime(&txn, caller, credential.expires).await?;
            }
            txn.hold(schema::api_key_key(id), version);
            let key = schema::secrets_key(id);
            match txn.get::<Secrets>(&key).await? {
                Some(before) => txn.hold(key.clone(), before.version),
                None => txn.hold_absent(key.clone()),
            }
            let before = secrets(&*txn.snapshot, id, &credential).await?;
            let until = txn.now.after(overlap);
            let previous = before.map(|before| (before.current, until));
            let secrets = Secrets {
                current: stored.clone(),
                previous: previous.filter(|_| !overlap.is_zero()),
                rotated: Some(txn.now),
            };
            if overlap.is_zero() {
                // As another version: what came with the old secret commits no more.
                let record = schema::encode_credential(&credential);
                txn.spec.put.push((schema::api_key_key(id), record));
            }
            txn.put(key, &secrets);
            info(id, &credential, Some(&secrets), None)
        });
        Ok(MadeKey { key, secret })
    }

    /// Removes a credential: it stops working at once.
    pub async fn delete_key(&self, caller: &Caller, user: &UserRef, id: KeyId) -> Result<()> {
        require_full(caller)?;
        transact!(self, None, |txn| {
            // A full disk must keep nobody's key alive.
            txn.frees();
            caller.hold(&mut txn);
            let (owner, _) = self.find_user(&*txn.snapshot, caller, user).await?;
            let found = find(&*txn.snapshot, id).await?;
            let found = found.filter(|found| found.value.user == owner);
            let found = found.ok_or_else(|| Error::not_found("key"))?;
            txn.hold(schema::api_key_key(id), found.version);
            remove(&mut txn, id, &found.value);
        });
        Ok(())
    }

    /// Whose signature one with this access key id is, and the secrets to check it with.
    ///
    /// Errors: `Unauthenticated` if there is no such key pair, or it or its user may not be used.
    pub async fn s3_secret(&self, access_key_id: &str) -> Result<S3Secrets> {
        let refused = || Error::new(ErrorKind::Unauthenticated, "no such access key");
        let well_formed = access_key_id.len() == 20 && access_key_id.is_ascii();
        if !well_formed {
            return Err(refused());
        }
        let snapshot = self.inner.meta.snapshot().await?;
        let id = txn::get::<KeyId>(&*snapshot, &schema::access_key_key(access_key_id)).await?;
        let id = id.ok_or_else(refused)?.value;
        let credential = find(&*snapshot, id).await?.ok_or_else(refused)?;
        let stored = secrets(&*snapshot, id, &credential.value).await?.ok_or_else(refused)?;
        let caller = self.caller_with(&*snapshot, id, &credential).await?;
        let mut secrets = Vec::new();
        for secret in stored.valid(self.inner.env.now()) {
            let StoredSecret::Sealed(sealed) = secret else { return Err(refused()) };
            let text = self.inner.sealer.open(&schema::secrets_key(id), sealed)?;
            let text = std::str::from_utf8(&text).map_err(|_| refused())?;
            secrets.push(Zeroizing::new(text.to_owned()));
        }
        Ok(S3Secrets { caller, secrets })
    }

    /// Notes, now and then and without waiting for it, that a credential was used.
    pub(crate) fn note_use(&self, id: KeyId) {
        let now = self.inner.env.monotonic();
        let uses = &self.inner.uses;
        let mut noted = uses.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&id).is_some_and(|last| now.saturating_sub(*last) < USE_EVERY) {
            return;
        }
        let Ok(permit) = Arc::clone(&uses.writing).try_acquire_owned() else { return };
        if noted.len() >= USES_MAX {
            noted.retain(|_, last| now.saturating_sub(*last) < USE_EVERY);
            if noted.len() >= USES_MAX {
                noted.clear();
            }
        }
        noted.insert(id, now);
        drop(noted);
        let larder = self.clone();
        let note = async move {
            let _permit = permit;
            if let Err(error) = larder.write_use(id).await {
                tracing::debug!(%error, key = %id, "last use of a key not noted");
            }
        };
        // Whoever waits for a login does not wait for this.
        drop(self.inner.env.spawn("note the use of a key", note));
    }

    async fn write_use(&self, id: KeyId) -> Result<()> {
        let key = schema::used_key(id);
        transact!(self, None, |txn| {
            // One that is being removed is not brought back.
            let Some(found) = find(&*txn.snapshot, id).await? else { return Ok(()) };
            if let Some(used) = txn.get::<Timestamp>(&key).await?
                && txn.now.since(used.value) < USE_EVERY
            {
                return Ok(());
            }
            txn.hold(schema::api_key_key(id), found.version);
            let now = txn.now;
            txn.put(key.clone(), &now);
        });
        Ok(())
    }
}

/// Demands that what is to be made ends no later than what the caller came with (I-KEY-1).
async fn check_lifetime(txn: &Txn, caller: &Caller, expires: Option<Timestamp>) -> Result<()> {
    let Some(own) = lifetime(txn, caller).await? else { return Ok(()) };
    match expires {
        Some(expires) if expires <= own => Ok(()),
        _ => {
            let detail = "a key cannot make one that lasts longer than itself";
            Err(Error::new(ErrorKind::Denied, detail))
        }
    }
}

/// When what the caller came with expires.
pub(crate) async fn lifetime(txn: &Txn, caller: &Caller) -> Result<Option<Timestamp>> {
    let Some((key, _)) = &caller.credential else { return Ok(None) };
    match txn.snapshot.get(key).await? {
        Some(record) => Ok(schema::decode_credential(key, &record.value)?.expires),
        // It has just been removed: the commit will find that out.
        None => Ok(Some(txn.now)),
    }
}

/// Lets additions to what a user has follow each other, so that their number stays bounded.
pub(crate) async fn hold_additions(txn: &mut Txn, user: UserId) -> Result<()> {
    let key = schema::additions_key(user);
    match txn.get::<()>(&key).await? {
        Some(before) => txn.hold(key.clone(), before.version),
        None => txn.hold_absent(key.clone()),
    }
    txn.put(key, &());
    Ok(())
}

fn info(
    id: KeyId,
    credential: &Credential,
    secrets: Option<&Secrets>,
    last_used: Option<Timestamp>,
) -> KeyInfo {
    let spaces = credential.spaces.clone().map(Arc::from);
    let previous = secrets.and_then(|secrets| secrets.previous.as_ref());
    KeyInfo {
        id,
        kind: credential.kind,
        name: credential.name.clone(),
        scope: Scope { access: credential.access, spaces },
        created: credential.created,
        expires: credential.expires,
        rotated: secrets.and_then(|secrets| secrets.rotated),
        previous_until: previous.map(|(_, until)| *until),
        last_used,
        access_key_id: credential.access_key_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_text_is_read_back_and_nothing_else_is() {
        let (env, _) = Env::manual(3);
        let id = KeyId::new(&env);
        let (text, stored) = draw_token(&env, API_PREFIX, id);
        let (read, secret) = parse(API_PREFIX, &text).expect("own text");
        let StoredSecret::Digest(digest) = stored else { panic!("a digest is stored") };
        assert_eq!((read, Sha256::of(&*secret)), (id, digest));
        for bad in ["", "lk_", &text[1..], &text[..text.len() - 1], "lk_\u{e9}"] {
            assert!(parse(API_PREFIX, bad).is_none(), "{bad:?}");
        }
        assert!(parse(APP_PREFIX, &text).is_none(), "one kind is not taken for another");
    }

    #[test]
    fn access_key_ids_have_the_form_that_tools_expect() {
        let (env, _) = Env::manual(3);
        let id = draw_access_key_id(&env);
        assert!(id.len() == 20 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_ne!(id, draw_access_key_id(&env));
    }
}
