//! Hashing and checking of passwords: Argon2id (RFC 9106) with the library's default cost.
//!
//! Each hash takes 19 MiB and some milliseconds, so at most [`HASHINGS_MAX`] run at once and at
//! most [`WAITING_MAX`] wait: a flood of logins is answered `Busy`, not with all the memory.
//!
//! Not here: remembering what was verified (`login`).

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use larder_base::ErrorKind;

use crate::{
    Larder,
    error::{Error, Result},
};

/// Hashes computed at once.
pub(crate) const HASHINGS_MAX: usize = 2;

/// Hashes that may wait for their turn.
const WAITING_MAX: usize = 64;

/// Shortest and longest password, in bytes.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=256;

/// Bounds how many hashes are computed and wanted.
#[derive(Debug)]
pub(crate) struct Hashings {
    running: tokio::sync::Semaphore,
    wanted: tokio::sync::Semaphore,
}

impl Default for Hashings {
    fn default() -> Self {
        Self {
            running: tokio::sync::Semaphore::new(HASHINGS_MAX),
            wanted: tokio::sync::Semaphore::new(HASHINGS_MAX + WAITING_MAX),
        }
    }
}

impl Larder {
    /// Runs a hashing on the blocking pool, within the bounds.
    async fn hashing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let busy = || Error::new(ErrorKind::Busy, "too many logins at once: try again later");
        let _wanted = self.inner.hashings.wanted.try_acquire().map_err(|_| busy())?;
        let _running = self.inner.hashings.running.acquire().await.map_err(|_| busy())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("hashing stopped").with_source(error))
    }

    /// The PHC form of a password that is long enough.
    pub(crate) async fn hash_password(&self, password: &str) -> Result<String> {
        if !PASSWORD_BYTES.contains(&password.len()) {
            return Err(Error::invalid("a password has 8 to 256 bytes"));
        }
        let password = password.to_owned();
        let mut salt = [0; 16];
        self.inner.env.fill_random(&mut salt);
        let hash = self
            .hashing(move || {
                let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
                hashed.map(|hash| hash.to_string())
            })
            .await?;
        hash.map_err(|error| Error::internal(format!("hash password: {error}")))
    }

    /// Whether `password` is the one that `phc` was made of.
    pub(crate) async fn verify_password(&self, phc: String, password: &str) -> Result<bool> {
        if password.len() > *PASSWORD_BYTES.end() {
            return Ok(false);
        }
        let password = password.to_owned();
        self.hashing(move || {
            PasswordHash::new(&phc).is_ok_and(|hash| {
                Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
            })
        })
        .await
    }
}
