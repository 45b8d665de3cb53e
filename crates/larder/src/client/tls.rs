//! TLS to a server: which authorities vouch for it.
//!
//! Promises: a server is believed only with a certificate for the host of its URL from an
//! authority of this machine or, where a file of authorities is named, of that file alone. There
//! is no way to go without.
//!
//! Not here: certificates of our own (the server has one, its clients have passwords).

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::error::{ClientError, Result};

/// What it takes to speak TLS with one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS with `host`, vouched for by the authorities of `ca_file` or else of this machine.
    pub(crate) fn new(host: &str, ca_file: Option<&Path>) -> Result<Self> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| ClientError::usage(format!("{host:?} is no name for a certificate")))?;
        let roots = match ca_file {
            Some(path) => roots_of(path)?,
            None => roots_of_machine()?,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| ClientError::usage(format!("set TLS up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Agrees on TLS.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore> {
    let local = |error: io::Error| ClientError::local(path, error);
    let text = std::fs::read(path).map_err(local)?;
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&text) {
        let cert = cert.map_err(|error| local(io::Error::other(error.to_string())))?;
        roots.add(cert).map_err(|error| local(io::Error::other(error)))?;
    }
    if roots.is_empty() {
        return Err(local(io::Error::other("there is no certificate in it")));
    }
    Ok(roots)
}

fn roots_of_machine() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Machines have odd ones among them; the others do.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let detail = "this machine has no certificate authorities; name a file with --ca-file";
        return Err(ClientError::usage(detail));
    }
    Ok(roots)
}
