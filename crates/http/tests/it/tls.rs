//! TLS: what clients get to see, and what becomes of certificates that change.
//!
//! Not here: HTTP itself (`serve`).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use larder_base::Env;
use larder_http::{ServeOptions, Tls, TlsOptions, serve::Reload};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};

use crate::serve::{Setup, answer, rest, send, start};

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A pair of its own.
fn pair() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
}

struct Folder {
    dir: tempfile::TempDir,
    options: TlsOptions,
}

impl Folder {
    fn with(pair: &CertifiedKey<rcgen::KeyPair>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let folder = Self { dir, options: TlsOptions { cert_file, key_file } };
        folder.put(pair);
        folder
    }

    fn put(&self, pair: &CertifiedKey<rcgen::KeyPair>) {
        fs::write(&self.options.cert_file, pair.cert.pem()).expect("write a certificate");
        fs::write(&self.options.key_file, pair.signing_key.serialize_pem()).expect("write a key");
    }

    fn load(&self) -> Tls {
        Tls::load(self.options.clone()).expect("a good pair")
    }
}

fn serve(tls: &Tls, change: impl FnOnce(&mut ServeOptions)) -> Setup {
    start(|options| {
        options.tls = Some(tls.clone());
        change(options);
    })
}

/// A connection that trusts only `pair`.
fn connect(
    address: SocketAddr,
    pair: &CertifiedKey<rcgen::KeyPair>,
    version: &'static SupportedProtocolVersion,
) -> Secure {
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    StreamOwned::new(client, stream)
}

fn hello(stream: &mut Secure) -> String {
    send(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(stream).2
}

/// Whether a new connection that trusts only `pair` gets an answer.
fn is_trusted(address: SocketAddr, pair: &CertifiedKey<rcgen::KeyPair>) -> bool {
    let mut stream = connect(address, pair, &TLS13);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
}

#[test]
fn both_versions_serve_many_requests_and_large_bodies() {
    let pair = pair();
    let folder = Folder::with(&pair);
    let setup = serve(&folder.load(), |_| {});
    for version in [&TLS12, &TLS13] {
        let mut stream = connect(setup.address, &pair, version);
        for _ in 0..3 {
            assert_eq!(hello(&mut stream), "hello");
        }
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let body = "x".repeat(1 << 20);
        let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}", body.len());
        send(&mut stream, &format!("{head}\r\n\r\n{body}"));
        assert_eq!(answer(&mut stream).2, body);
    }
    setup.shutdown();
}

#[test]
fn an_answer_before_the_end_of_a_large_body_still_arrives_over_tls() {
    let pair = pair();
    let folder = Folder::with(&pair);
    let setup = serve(&folder.load(), |_| {});
    let mut stream = connect(setup.address, &pair, &TLS13);
    let length = 8 << 20;
    let head = format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    send(&mut stream, &head);
    stream.write_all(&vec![0; length]).expect("the body is taken, if only to be dropped");
    let (_, head, body) = answer(&mut stream);
    assert!(body == "refused" && head.contains("connection: close"), "{head}");
    let mut end = Vec::new();
    stream.read_to_end(&mut end).expect("a proper end of TLS");
    setup.shutdown();
}

#[test]
fn plain_http_and_handshakes_that_trickle_get_nowhere() {
    let pair = pair();
    let folder = Folder::with(&pair);
    let tls = folder.load();
    let setup = serve(&tls, |options| options.header_timeout = Duration::from_millis(200));
    let mut plain = setup.connect();
    send(&mut plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let got = rest(&mut plain);
    assert!(!got.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&got));
    let mut silent = setup.connect();
    assert_eq!(rest(&mut silent), b"");
    let mut begun = setup.connect();
    begun.write_all(b"\x16\x03\x01\x02\x00\x01").expect("send");
    assert_eq!(rest(&mut begun), b"");
    assert_eq!(tls.failed_handshakes(), 3);
    assert!(setup.status.cut().any(|cut| cut == ("handshake", 2)));
    let mut stream = connect(setup.address, &pair, &TLS13);
    assert_eq!(hello(&mut stream), "hello");
    setup.shutdown();
}

#[test]
fn a_new_pair_is_used_for_new_connections_and_open_ones_go_on() {
    let (old, new) = (pair(), pair());
    let folder = Folder::with(&old);
    let tls = folder.load();
    let setup = serve(&tls, |_| {});
    let mut open = connect(setup.address, &old, &TLS13);
    assert_eq!(hello(&mut open), "hello");
    assert_eq!(tls.reload(), Reload::Unchanged);

    fs::write(&folder.options.cert_file, new.cert.pem()).expect("write half of the new pair");
    assert_eq!(tls.reload(), Reload::Refused);
    assert!(is_trusted(setup.address, &old) && !is_trusted(setup.address, &new));
    folder.put(&new);
    assert_eq!(tls.reload(), Reload::Changed);
    assert!(is_trusted(setup.address, &new) && !is_trusted(setup.address, &old));
    assert_eq!(hello(&mut open), "hello");
    assert_eq!((tls.reloads(), tls.failed_reloads()), (1, 1));
    setup.shutdown();
}

#[test]
fn a_bad_pair_never_takes_the_place_of_a_good_one() {
    let good = pair();
    let folder = Folder::with(&good);
    let tls = folder.load();
    let setup = serve(&tls, |_| {});
    let TlsOptions { cert_file, key_file } = &folder.options;
    for (number, content) in
        ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n"].iter().enumerate()
    {
        fs::write(cert_file, content).expect("write");
        assert_eq!(tls.reload(), Reload::Refused, "{content}");
        assert_eq!(tls.reload(), Reload::Refused, "{content}");
        assert_eq!(tls.failed_reloads(), number as u64 + 1, "each is told of once");
    }
    fs::remove_file(cert_file).expect("remove");
    assert_eq!(tls.reload(), Reload::Refused);
    folder.put(&good);
    assert_eq!(tls.reload(), Reload::Unchanged);
    fs::write(key_file, "").expect("write");
    assert_eq!(tls.reload(), Reload::Refused);
    assert!(is_trusted(setup.address, &good));
    // A start with such files says which one it is.
    let error = Tls::load(folder.options.clone()).expect_err("no key").to_string();
    assert!(error.contains("key.pem"), "{error}");
    folder.put(&good);
    fs::write(key_file, pair().signing_key.serialize_pem()).expect("write another's key");
    assert!(Tls::load(folder.options.clone()).is_err());
    drop(folder.dir);
    setup.shutdown();
}

#[test]
fn changed_files_are_found_without_being_told() {
    let (old, new) = (pair(), pair());
    let folder = Folder::with(&old);
    let tls = folder.load();
    let setup = serve(&tls, |_| {});
    let watch = tls.clone().watch(Duration::from_millis(10), Env::system());
    let watch = setup.runtime.spawn(watch);
    folder.put(&new);
    setup.runtime.block_on(async {
        while tls.reloads() == 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(is_trusted(setup.address, &new));
    watch.abort();
    setup.shutdown();
}

#[test]
fn a_drain_ends_connections_of_tls_too() {
    let pair = pair();
    let folder = Folder::with(&pair);
    let mut setup = serve(&folder.load(), |_| {});
    let mut idle = connect(setup.address, &pair, &TLS13);
    assert_eq!(hello(&mut idle), "hello");
    let silent = setup.connect();
    let mut busy = connect(setup.address, &pair, &TLS13);
    send(&mut busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    busy.flush().expect("send");
    setup.entered.blocking_recv().expect("it entered");
    let (status, release) = (setup.status.clone(), setup.release.clone());
    let ended = setup.runtime.spawn(setup.server.shutdown());
    assert_eq!(rest(&mut idle), b"");
    release.notify_one();
    let (code, head, body) = answer(&mut busy);
    assert_eq!((code, body.as_str()), (200, "slow"));
    assert!(head.contains("connection: close"), "{head}");
    setup.runtime.block_on(ended).expect("it ends");
    assert_eq!(status.open(), 0);
    drop(silent);
}
