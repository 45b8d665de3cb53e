//! HTTPS: the real client and server, and certificates that change under them.
//!
//! Not here: TLS against hostile peers (`larder_http`).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use larder_e2e::{
    http::PATIENCE,
    server::{Options, Server, binary, cli, must_end},
    tool::wait_until,
};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};
use tempfile::TempDir;

struct Files {
    dir: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new() -> Self {
        let dir = TempDir::with_prefix("larder-tls-").unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        Self { dir, cert, key }
    }

    /// Makes a pair, puts it where the server looks, and a copy where clients do.
    fn renew(&self, name: &str) -> (PathBuf, CertifiedKey<KeyPair>) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let pair = generate_simple_self_signed(names).unwrap();
        fs::write(&self.cert, pair.cert.pem()).unwrap();
        fs::write(&self.key, pair.signing_key.serialize_pem()).unwrap();
        let trusted = self.dir.path().join(name);
        fs::write(&trusted, pair.cert.pem()).unwrap();
        (trusted, pair)
    }

    fn options(&self) -> Options {
        Options::default()
            .env("LARDER_TLS__CERT_FILE", self.cert.to_str().unwrap())
            .env("LARDER_TLS__KEY_FILE", self.key.to_str().unwrap())
            .env("LARDER_TLS__RELOAD_INTERVAL", "1h")
    }
}

/// A client of the server that believes only `trusted`.
fn secure_cli(server: &Server, trusted: &Path) -> Command {
    let mut command = cli(server);
    command.env("LARDER_URL", format!("https://{}", server.addr()));
    command.arg("--ca-file").arg(trusted);
    command
}

fn ls(server: &Server, trusted: &Path) -> Output {
    must_end(secure_cli(server, trusted).args(["ls", "home:/"]))
}

fn connect(
    server: &Server,
    pair: &CertifiedKey<KeyPair>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(client, stream)
}

fn healthy(stream: &mut StreamOwned<ClientConnection, TcpStream>) {
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    let mut rest = [0; 4096];
    // The answer is small, and comes whole.
    assert!(stream.read(&mut rest).unwrap() > 0);
}

#[test]
fn files_go_over_https_and_a_certificate_changes_without_a_restart() {
    let files = Files::new();
    let (old, old_pair) = files.renew("old.pem");
    let mut server = files.options().allow("the new certificate cannot be used").start();
    let body: Vec<u8> = (0..20_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (from, to) = (server.scratch().join("from"), server.scratch().join("to"));
    fs::write(&from, &body).unwrap();
    let put = secure_cli(&server, &old).arg("put").arg(&from).arg("home:/f").output().unwrap();
    assert!(put.status.success(), "{put:?}");
    let get = secure_cli(&server, &old).args(["get", "home:/f"]).arg(&to).output().unwrap();
    assert!(get.status.success(), "{get:?}");
    assert!(fs::read(&to).unwrap() == body, "the same bytes come back");

    let mut open = connect(&server, &old_pair);
    healthy(&mut open);
    let (new, _) = files.renew("new.pem");
    server.sighup();
    assert!(wait_until(PATIENCE, || ls(&server, &new).status.success()), "it is not used");
    let refused = ls(&server, &old);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("certificate"), "{words}");
    healthy(&mut open);

    fs::write(&files.key, "garbage").unwrap();
    server.sighup();
    let told = || server.log().contains("the new certificate cannot be used");
    assert!(wait_until(PATIENCE, told), "it says so");
    assert!(ls(&server, &new).status.success(), "the old pair stays");
    healthy(&mut open);
    assert!(server.is_alive());
    server.stop();
}

#[test]
fn a_certificate_that_is_replaced_is_found_without_a_signal() {
    let files = Files::new();
    files.renew("old.pem");
    let server = files.options().env("LARDER_TLS__RELOAD_INTERVAL", "50ms").start();
    let (new, _) = files.renew("new.pem");
    assert!(wait_until(PATIENCE, || ls(&server, &new).status.success()), "it is not used");
}

#[test]
fn an_alias_keeps_whom_to_believe() {
    let files = Files::new();
    let (trusted, _) = files.renew("trusted.pem");
    let server = files.options().start();
    let url = format!("https://localhost:{}", server.addr().port());
    let mut login = secure_cli(&server, &trusted);
    login.args(["login", &url]);
    assert!(must_end(&mut login).status.success());
    let mut ls = cli(&server);
    ls.env_remove("LARDER_URL").args(["ls", "home:/"]);
    let listed = must_end(&mut ls);
    assert!(listed.status.success(), "{listed:?}");
}

#[test]
fn plain_http_gets_nothing_from_a_port_that_speaks_tls() {
    let files = Files::new();
    let (_, pair) = files.renew("trusted.pem");
    let server = files.options().start();
    let answer = server.client().send("GET", "/health", &[], None);
    assert_eq!(answer.status, 0, "{answer}");
    healthy(&mut connect(&server, &pair));
}

#[test]
fn a_server_does_not_start_without_a_whole_pair() {
    let files = Files::new();
    files.renew("trusted.pem");
    let data = files.dir.path().join("data");
    let start = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(binary());
        command
            .args(["serve", "--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--data"])
            .arg(&data);
        must_end(command.envs(variables.iter().copied()))
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let half = start(&[("LARDER_TLS__CERT_FILE", &files.cert)]);
    assert!(!half.status.success() && said(&half).contains("tls.key_file"), "{half:?}");
    let missing = files.dir.path().join("missing.pem");
    for (cert, key, word) in [
        (&files.cert, &missing, "missing.pem"),
        (&missing, &files.key, "missing.pem"),
        (&files.cert, &files.cert, "cert.pem"),
        (&files.key, &files.key, "key.pem"),
    ] {
        let both = [("LARDER_TLS__CERT_FILE", &**cert), ("LARDER_TLS__KEY_FILE", &**key)];
        let refused = start(&both);
        assert!(!refused.status.success() && said(&refused).contains(word), "{refused:?}");
        assert!(!said(&refused).contains("PRIVATE"), "no key is shown: {refused:?}");
    }
    assert!(!data.try_exists().unwrap(), "nothing is made before that is clear");
}
