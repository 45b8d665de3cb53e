//! A server on loopback that answers as a test tells it to, wire bytes included.
//!
//! It is HTTP/1.1 as far as our own client speaks it, so that a test can also break it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_base::Env;

use super::{
    Client,
    target::{Credentials, Target},
};
use crate::config::secret::Secret;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query, still encoded.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answer and keep the connection.
    Answer(Vec<u8>),
    /// Answer, then close the connection.
    AnswerAndClose(Vec<u8>),
    /// Close the connection without a word.
    HangUp,
}

/// An answer with a length.
pub(crate) fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers every request with what `script` says, which gets the number of the request too.
    pub(crate) fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(true, script)
    }

    /// The same, but answers before a body has been read.
    pub(crate) fn hasty(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(false, script)
    }

    fn start_with(
        patient: bool,
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, all) = (Arc::clone(&script), Arc::clone(&all));
                std::thread::spawn(move || drop(talk(&stream, patient, &*script, &all)));
            }
        });
        Self { url, seen }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let credentials = Credentials::Basic("ann".to_owned(), Secret::new("secret"));
        let target = Target::new(&self.url, credentials).expect("target");
        Client::new(Env::system(), target, 8, Duration::from_secs(20)).expect("client")
    }
}

fn talk(
    stream: &TcpStream,
    patient: bool,
    script: &dyn Fn(usize, &Seen) -> Reply,
    all: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let Some(mut request) = read_head(&mut reader)? else { return Ok(()) };
        if patient {
            request.body = read_body(&mut reader, &request)?;
        }
        let number = {
            let mut all = all.lock().expect("lock");
            all.push(request.clone());
            all.len()
        };
        let mut out = stream;
        match script(number, &request) {
            Reply::Answer(bytes) => out.write_all(&bytes)?,
            Reply::AnswerAndClose(bytes) => {
                out.write_all(&bytes)?;
                if !patient {
                    // As a careful server does: closing with unread bytes would reset the
                    // connection and could destroy the answer on its way.
                    std::io::copy(&mut reader, &mut std::io::sink())?;
                }
                return Ok(());
            }
            Reply::HangUp => return Ok(()),
        }
    }
}

fn read_head(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().expect("method"), words.next().expect("path"));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Seen { method, path, headers, body: Vec::new() }))
}

fn read_body(reader: &mut BufReader<&TcpStream>, request: &Seen) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim_end(), 16).expect("chunk length");
            reader.take(length).read_to_end(&mut body)?;
            reader.read_line(&mut line)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
    let length = request.headers.get("content-length").map_or(0, |text| text.parse().expect("n"));
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}
