//! TLS: one certificate and its key, read from files and read again when they change.
//!
//! Promises: TLS 1.2 and 1.3, HTTP/1.1 only; a pair that cannot be used never takes the place of
//! one that can: it is logged once, and looked at again; connections that are open go on with
//! what they began with. The private key is never logged.
//!
//! Not here: the deadline of a handshake ([`super::pulse`]), certificates of clients, ACME.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use larder_base::{Env, digest::Sha256};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

/// Largest file that is taken for a certificate or a key.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate and those between it and its root, in PEM.
    pub cert_file: PathBuf,
    /// Its private key, in PEM (PKCS #8, PKCS #1 or SEC 1).
    pub key_file: PathBuf,
}

/// What a look at the files came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are what they were.
    Unchanged,
    /// New connections get the new certificate.
    Changed,
    /// They cannot be used; the certificate of before stays.
    Refused,
}

/// What a server proves itself with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: TlsOptions,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
    failed_handshakes: AtomicU64,
}

/// Digests of the files: the pair that is used, and the one that was last refused.
#[derive(Debug)]
struct Seen {
    used: Sha256,
    refused: Option<Sha256>,
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// A file that cannot be read, is not PEM, or a key that is not the certificate's; named.
    pub fn load(options: TlsOptions) -> io::Result<Self> {
        let files = read(&options)?;
        let config = RwLock::new(Arc::new(configure(&options, &files)?));
        let seen = Mutex::new(Seen { used: files.digest(), refused: None });
        let none = || AtomicU64::new(0);
        Ok(Self(Arc::new(Inner {
            options,
            config,
            seen,
            reloads: none(),
            failed_reloads: none(),
            failed_handshakes: none(),
        })))
    }

    /// Reads both files again and uses them if they are good and new. Blocks for the reading.
    ///
    /// A pair of which one half has been replaced is refused like any that does not fit, and used
    /// when the other half has followed.
    pub fn reload(&self) -> Reload {
        let Inner { options, config, seen, reloads, failed_reloads, .. } = &*self.0;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let refuse = |error: &io::Error| {
            failed_reloads.fetch_add(1, Relaxed);
            tracing::error!(%error, "the new certificate cannot be used; the old one stays");
            Reload::Refused
        };
        // A file that cannot be read has no content to tell it from the same one later.
        let files = match read(options) {
            Ok(files) => files,
            Err(_) if seen.refused == Some(unreadable()) => return Reload::Refused,
            Err(error) => {
                seen.refused = Some(unreadable());
                return refuse(&error);
            }
        };
        let digest = files.digest();
        if digest == seen.used {
            seen.refused = None;
            return Reload::Unchanged;
        }
        if seen.refused == Some(digest) {
            return Reload::Refused;
        }
        match configure(options, &files) {
            Ok(new) => {
                *config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                *seen = Seen { used: digest, refused: None };
                reloads.fetch_add(1, Relaxed);
                tracing::info!(file = %options.cert_file.display(), "use a new certificate");
                Reload::Changed
            }
            Err(error) => {
                seen.refused = Some(digest);
                refuse(&error)
            }
        }
    }

    /// Looks at the files every `interval`, for ever.
    pub async fn watch(self, interval: Duration, env: Env) {
        loop {
            env.sleep(interval).await;
            let tls = self.clone();
            if tokio::task::spawn_blocking(move || tls.reload()).await.is_err() {
                tracing::error!("looking for a new certificate panicked");
            }
        }
    }

    /// How often a new pair has been taken into use.
    pub fn reloads(&self) -> u64 {
        self.0.reloads.load(Relaxed)
    }

    /// How often a new pair has been refused.
    pub fn failed_reloads(&self) -> u64 {
        self.0.failed_reloads.load(Relaxed)
    }

    /// Handshakes that failed: plain HTTP, old versions, clients that do not know our authority.
    pub fn failed_handshakes(&self) -> u64 {
        self.0.failed_handshakes.load(Relaxed)
    }

    pub(super) fn count_failed_handshake(&self) {
        self.0.failed_handshakes.fetch_add(1, Relaxed);
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Contents of both files.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn digest(&self) -> Sha256 {
        let both = [self.cert.as_slice(), self.key.as_slice()].map(Sha256::of);
        Sha256::of(&both.map(|digest| digest.to_string().into_bytes()).concat())
    }
}

/// What stands for files that cannot be read.
fn unreadable() -> Sha256 {
    Sha256::of(b"")
}

fn about(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn read(options: &TlsOptions) -> io::Result<Files> {
    let file = |path: &Path| {
        let size = fs::metadata(path).map_err(|error| about(path, error))?.len();
        if size > PEM_BYTES_MAX {
            return Err(about(path, "the file is too large"));
        }
        fs::read(path).map_err(|error| about(path, error))
    };
    Ok(Files { cert: file(&options.cert_file)?, key: file(&options.key_file)? })
}

fn configure(options: &TlsOptions, files: &Files) -> io::Result<ServerConfig> {
    let TlsOptions { cert_file, key_file } = options;
    let certs = CertificateDer::pem_slice_iter(&files.cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| about(cert_file, error))?;
    if certs.is_empty() {
        return Err(about(cert_file, "there is no certificate in it"));
    }
    // The parser's words are not repeated: they might have a part of the key.
    let key = PrivateKeyDer::from_pem_slice(&files.key)
        .map_err(|_| about(key_file, "there is no private key in it"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
        .map_err(|error| about(cert_file, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
