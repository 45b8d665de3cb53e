//! Secrets that must be read again: encrypted under the master key of the instance.
//!
//! Sealed form: a format byte, 24 random bytes of nonce, XChaCha20-Poly1305 (RFC 8439 with the
//! extended nonce of draft-irtf-cfrg-xchacha-03) of the secret. What it is for, its *context*, is
//! authenticated with it: a sealed secret that is moved to another record opens no more.
//!
//! Promises: the master key is in no record, log or answer; the metadata know only its id, a
//! digest. An instance is not opened with another key than the one it was first opened with,
//! unless its operator says that what is sealed may be lost.
//!
//! Not here: where the key is kept (the binary), secrets that are only compared (`login`).

use bytes::Bytes;
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use larder_base::{Env, ErrorKind, Timestamp, digest::Sha256};
use larder_meta::MetaStore;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    error::{Error, Result},
    schema::{self, MasterRecord},
    txn::{self, Txn},
};

/// Format of what [`Sealer::seal`] gives.
const FORMAT: u8 = 1;

/// Bytes of a nonce.
const NONCE: usize = 24;

/// The key under which secrets are sealed: 32 random bytes. It is cleared when it is dropped and
/// has no readable `Debug`.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Draws a new key.
    pub fn new(env: &Env) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        env.fill_random(&mut *bytes);
        Self(bytes)
    }

    /// Reads the text form: 64 hexadecimal digits, and perhaps a line break.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = Sha256::from_hex(text.trim_end_matches(['\r', '\n']))?;
        let key = Self(Zeroizing::new(digest.0));
        digest.0.zeroize();
        Some(key)
    }

    /// The text form, for its file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", Sha256(*self.0)))
    }

    /// What the key is known by: says nothing about it.
    pub fn id(&self) -> MasterKeyId {
        let mut text = Zeroizing::new(Vec::from(b"larder master key id\0"));
        text.extend_from_slice(&*self.0);
        MasterKeyId(Sha256::of(&text))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// What a master key is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterKeyId(pub(crate) Sha256);

/// Seals and opens secrets.
pub(crate) struct Sealer {
    cipher: XChaCha20Poly1305,
    env: Env,
}

impl Sealer {
    pub(crate) fn new(key: &MasterKey, env: &Env) -> Self {
        Self { cipher: XChaCha20Poly1305::new((&*key.0).into()), env: env.clone() }
    }

    /// Seals `secret` for `context`, which is the key of the record that it will be in.
    pub(crate) fn seal(&self, context: &[u8], secret: &[u8]) -> Bytes {
        let mut nonce = [0; NONCE];
        self.env.fill_random(&mut nonce);
        let payload = Payload { msg: secret, aad: context };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.expect("a secret of some bytes is far below the cipher's limit");
        [&[FORMAT][..], &nonce, &sealed].concat().into()
    }

    /// Opens what was sealed for the same context.
    ///
    /// Errors: `Corrupt` if it was not, or has changed since.
    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let corrupt = || {
            let context = Bytes::copy_from_slice(context);
            let detail = format!("sealed secret of {} does not open", context.escape_ascii());
            Error::new(ErrorKind::Corrupt, detail)
        };
        let Some((&FORMAT, rest)) = sealed.split_first() else { return Err(corrupt()) };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or_else(corrupt)?;
        let payload = Payload { msg: sealed, aad: context };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload);
        Ok(Zeroizing::new(opened.map_err(|_| corrupt())?))
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// The key that the instance was first opened with, if it ever was.
pub(crate) async fn recorded(meta: &dyn MetaStore) -> Result<Option<MasterKeyId>> {
    let snapshot = meta.snapshot().await?;
    let found = txn::get::<MasterRecord>(&*snapshot, &schema::master_key()).await?;
    Ok(found.map(|found| MasterKeyId(found.value.id)))
}

/// Refuses a key that is not the recorded one; records it if there is none yet, or if it may
/// `replace` the recorded one.
pub(crate) async fn admit(
    meta: &dyn MetaStore,
    key: &MasterKey,
    replace: bool,
    now: Timestamp,
) -> Result<()> {
    let record = schema::master_key();
    let mut txn = Txn::new(meta.snapshot().await?, now);
    let MasterKeyId(id) = key.id();
    match txn.get::<MasterRecord>(&record).await? {
        Some(found) if found.value.id == id => return Ok(()),
        Some(found) if replace => {
            tracing::warn!("the master key is replaced: what the old one sealed opens no more");
            txn.hold(record.clone(), found.version);
        }
        Some(_) => {
            let detail = "this is not the master key that the instance was opened with: secrets \
                          sealed under that one could not be read";
            return Err(Error::new(ErrorKind::Denied, detail));
        }
        None => txn.hold_absent(record.clone()),
    }
    // Else a full disk could not be emptied after a restart.
    txn.frees();
    txn.put(record, &MasterRecord { id, since: now });
    meta.commit(txn.spec).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "could not record the master key").with_source(error)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_under_its_key_and_in_its_place() {
        let (env, _) = Env::manual(5);
        let (key, other) = (MasterKey::new(&env), MasterKey::new(&env));
        let sealer = Sealer::new(&key, &env);
        let sealed = sealer.seal(b"place", b"secret");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(&**sealer.open(b"place", &sealed).expect("its own"), b"secret");
        assert_ne!(sealer.seal(b"place", b"secret"), sealed, "each has a nonce of its own");
        let corrupt = |result: Result<_>| {
            assert_eq!(result.map(drop).expect_err("refused").kind(), ErrorKind::Corrupt);
        };
        corrupt(sealer.open(b"other place", &sealed));
        corrupt(Sealer::new(&other, &env).open(b"place", &sealed));
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            corrupt(sealer.open(b"place", &changed));
            corrupt(sealer.open(b"place", &sealed[..at]));
        }
    }

    #[test]
    fn a_key_s_text_is_read_back_and_never_shown() {
        let (env, _) = Env::manual(5);
        let key = MasterKey::new(&env);
        let text = key.to_text();
        assert_eq!(text.len(), 65);
        assert_eq!(MasterKey::parse(&text).expect("its own text").id(), key.id());
        assert!(MasterKey::parse(&text[1..]).is_none() && MasterKey::parse("").is_none());
        assert_eq!(format!("{key:?}"), "MasterKey(***)");
        assert!(!text.contains(&key.id().0.to_string()), "the id is not the key");
    }
}
