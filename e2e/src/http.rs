//! HTTP/1.1 over a plain socket: what a client sends, byte by byte, and what comes back.
//!
//! Promises: an answer that does not end as it said it would is `Lost`, never a shorter answer
//! (hazard D05). Nothing is sent twice.
//! Not here: routes and shapes ([`crate::client`]).

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

/// How long any single read or write may wait before the test gives up on the server.
pub const PATIENCE: Duration = Duration::from_secs(60);

const HEAD_BYTES_MAX: u64 = 1 << 20;

/// What stays as it is in one segment of a path: RFC 3986 unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one segment of a path, or one value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Percent-encodes every name of a path and leaves the slashes.
pub fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Refused, with no effect now or later.
    Refused,
    /// Nobody knows: no answer, or one that promises nothing (docs/semantics.md A6).
    Unknown,
}

/// An answer; status 0 if there was none.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status, or 0 if no whole answer came.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; what there is of it if the answer was lost half way.
    pub body: Vec<u8>,
    /// Why there is no whole answer.
    pub lost: Option<String>,
}

impl Response {
    /// An answer that did not come, or not to its end.
    pub fn lost(why: impl fmt::Display) -> Self {
        Self { lost: Some(why.to_string()), ..Self::default() }
    }

    /// What the operation came to.
    pub fn outcome(&self) -> Outcome {
        let not_applied = || self.header("larder-applied") == Some("no");
        match self.status {
            200..=299 => Outcome::Done,
            300..=499 | 501 | 507 => Outcome::Refused,
            503 if not_applied() => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }

    /// The header `name` (lower case), if there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(found, _)| found == name);
        let (_, value) = all.next()?;
        all.next().is_none().then_some(value)
    }

    /// The header `name`, which must be there.
    #[track_caller]
    pub fn must_header(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no header {name} in {self}"))
    }

    /// The etag, without its quotes.
    #[track_caller]
    pub fn etag(&self) -> &str {
        self.must_header("etag").trim_matches('"')
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("body is no JSON ({error}): {self}"))
    }

    /// The `code` of a problem body; empty if there is none.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Asserts that the status is one of these.
    #[track_caller]
    pub fn expect_any(self, statuses: &[u16]) -> Self {
        assert!(statuses.contains(&self.status), "expected {statuses:?}: {self}");
        self
    }

    /// Asserts the status and the `code` of the problem body, and that it is one (RFC 9457).
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self}");
        self
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.lost {
            return write!(f, "no answer: {why} (after {} bytes of body)", self.body.len());
        }
        let shown = &self.body[..self.body.len().min(600)];
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(shown))
    }
}

/// One connection, for tests that send exactly what they want.
#[derive(Debug)]
pub struct Conn {
    reader: BufReader<TcpStream>,
}

impl Conn {
    /// Connects.
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&addr, PATIENCE)?)
    }

    /// Connects from another address of this machine, such as 127.0.0.2.
    pub fn open_from(source: IpAddr, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&addr.into(), PATIENCE)?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::with_capacity(64 << 10, stream) })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Whether the other side has neither closed nor said anything: fit to be used again.
    pub fn is_idle(&self) -> bool {
        let stream = self.reader.get_ref();
        if !self.reader.buffer().is_empty() || stream.set_nonblocking(true).is_err() {
            return false;
        }
        let idle = matches!(stream.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_ok() && idle
    }

    /// Ends the sending side, as a client does that has said all (FIN).
    pub fn finish_sending(&self) {
        // If the other side is gone already, that is the end as well.
        self.socket().shutdown(std::net::Shutdown::Write).ok();
    }

    /// Ends the connection at once (RST), as a client does that dies.
    pub fn reset(self) {
        let lingered = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
        lingered.expect("a socket can be told to reset");
    }

    /// Reads one answer to a request with `method`.
    pub fn response(&mut self, method: &str) -> Response {
        let mut response = match self.head() {
            Ok(head) => head,
            Err(error) => return Response::lost(format!("reading the head: {error}")),
        };
        let mut body = Vec::new();
        let read = Length::of(&response, method).read(&mut self.reader, &mut body);
        response.body = body;
        match read {
            Ok(()) => response,
            Err(error) => Response {
                status: 0,
                lost: Some(format!("reading the body of a {}: {error}", response.status)),
                ..response
            },
        }
    }

    /// Reads the head of the final answer; interim ones are passed over.
    pub fn head(&mut self) -> io::Result<Response> {
        loop {
            let head = self.any_head()?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// Reads the head of the next answer, an interim one too.
    pub fn any_head(&mut self) -> io::Result<Response> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let (version, status) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if !version.starts_with("HTTP/1.") {
            return Err(io::Error::other(format!("not a status line: {line:?}")));
        }
        let status = status.parse().map_err(io::Error::other)?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, ..Response::default() });
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| io::Error::other(format!("header {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        Read::by_ref(&mut self.reader).take(HEAD_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(io::Error::other)
    }

    /// The next piece of a chunked body, as it was sent; `None` after the last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size = size.split(';').next().unwrap_or_default().trim_end();
        let size = u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "chunk size"))?;
        let mut bytes = Vec::new();
        copy(&mut self.reader, &mut bytes, size)?;
        self.line()?;
        Ok((size > 0).then_some(bytes))
    }

    /// The body of an answer whose head has been read, to be read at the test's own pace.
    pub fn body(self, head: &Response, method: &str) -> Stream {
        let left = match Length::of(head, method) {
            Length::None => 0,
            Length::Exactly(left) => left,
            other => panic!("a slow body has a length, not {other:?}"),
        };
        Stream { reader: self.reader, left }
    }
}

/// A body that is read piece by piece; its length was said in the head.
#[derive(Debug)]
pub struct Stream {
    reader: BufReader<TcpStream>,
    left: u64,
}

impl Stream {
    /// Bytes not yet read.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads up to `count` bytes more, fewer only at the end.
    pub fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count.min(self.left as usize)];
        self.reader.read_exact(&mut bytes)?;
        self.left -= bytes.len() as u64;
        Ok(bytes)
    }

    /// Reads to the end in `pieces` pieces with a pause before each.
    pub fn read_slowly(&mut self, pieces: u64, pause: Duration) -> io::Result<Vec<u8>> {
        let piece = self.left.div_ceil(pieces.max(1)).max(1) as usize;
        let mut all = Vec::new();
        while self.left > 0 {
            thread::sleep(pause);
            all.extend_from_slice(&self.read(piece)?);
        }
        Ok(all)
    }
}

/// How an answer says where its body ends.
#[derive(Debug)]
enum Length {
    None,
    Exactly(u64),
    Chunked,
    ToTheEnd,
}

impl Length {
    fn of(head: &Response, method: &str) -> Self {
        if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
            return Self::None;
        }
        if head.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            return Self::Chunked;
        }
        let length = head.header("content-length").and_then(|text| text.parse().ok());
        length.map_or(Self::ToTheEnd, Self::Exactly)
    }

    fn read(self, from: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Exactly(length) => copy(from, body, length),
            Self::ToTheEnd => from.read_to_end(body).map(|_| ()),
            Self::Chunked => loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                let size = line.trim_end().split(';').next().unwrap_or_default();
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "chunk size"))?;
                copy(from, body, size)?;
                line.clear();
                from.read_line(&mut line)?;
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }
}

fn copy(from: &mut BufReader<TcpStream>, body: &mut Vec<u8>, length: u64) -> io::Result<()> {
    let read = Read::by_ref(from).take(length).read_to_end(body)?;
    if (read as u64) < length {
        let what = format!("{read} of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    Ok(())
}
