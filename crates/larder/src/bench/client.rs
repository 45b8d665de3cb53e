//! One HTTP/1.1 connection of `larder bench`, by hand over a `TcpStream`.
//!
//! Promises: one request in flight; head and small body leave in one `writev`; large bodies are
//! written from, and compared with, the pattern without a copy; bodies are read to their end, so
//! that the connection can be used again; nothing is believed that the framing does not say.
//! A cancelled exchange leaves the connection unusable: drop it.
//!
//! Not here: which request to send (`target`), what an answer means (`workload`). TLS,
//! pipelining and redirects are not supported: they would measure something else.

use std::io::{self, IoSlice};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::pattern::{Content, STAMP};

/// Receive buffer for small answers; a head must fit in it.
const SMALL_BUFFER: usize = 32 * 1024;
/// Receive buffer for large ones: few system calls, still within the cache.
const LARGE_BUFFER: usize = 256 * 1024;
/// Blocks of a body per `writev`: 1 MiB.
const BATCH: usize = 16;
/// Bytes of an error body that are kept for the report.
const ERROR_BODY: usize = 300;
const MAX_HEADERS: usize = 48;

/// Why an exchange gave no usable answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection.
    Connect(io::Error),
    /// The server closed the connection before the first byte of an answer.
    Closed,
    /// The connection broke within the answer.
    Io(io::Error),
    /// The answer is not HTTP/1.1 as we know it.
    Protocol(&'static str),
    /// The body differs from what was put, at this offset.
    Mismatch(u64),
}

/// What to do with the body of a successful answer.
#[derive(Debug)]
pub(super) enum Sink<'a> {
    /// Count it.
    Discard,
    /// Compare it with this content.
    Verify(Content<'a>),
    /// Append it here.
    Collect(&'a mut Vec<u8>),
}

/// An answer, its body consumed.
#[derive(Debug)]
pub(super) struct Reply {
    /// Status code, never 1xx.
    pub(super) status: u16,
    /// `Content-Length`, where given.
    pub(super) length: Option<u64>,
    /// `Location`, where given.
    pub(super) location: Option<String>,
    /// `ETag`, where given.
    pub(super) etag: Option<String>,
    /// Body bytes received.
    pub(super) body: u64,
    /// The beginning of the body when the status is not a success.
    pub(super) error: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    length: Option<u64>,
    location: Option<String>,
    etag: Option<String>,
    framing: Framing,
    close: bool,
}

/// A connection and its receive buffer.
#[derive(Debug)]
pub(super) struct Conn {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    answered: u64,
    closing: bool,
    quickack: bool,
}

impl Conn {
    /// Connects to `addr` (`host:port`). `large` chooses the receive buffer; `quickack` asks the
    /// kernel not to delay acknowledgements.
    pub(super) async fn open(addr: &str, large: bool, quickack: bool) -> Result<Self, Fault> {
        let stream = TcpStream::connect(addr).await.map_err(Fault::Connect)?;
        stream.set_nodelay(true).map_err(Fault::Connect)?;
        let size = if large { LARGE_BUFFER } else { SMALL_BUFFER };
        Ok(Self {
            stream,
            buffer: vec![0; size].into_boxed_slice(),
            start: 0,
            end: 0,
            answered: 0,
            closing: false,
            quickack,
        })
    }

    /// Whether another request may be sent.
    pub(super) fn usable(&self) -> bool {
        !self.closing
    }

    /// Whether this connection has answered before, so that a [`Fault::Closed`] may only mean
    /// that the server gave up an idle connection.
    pub(super) fn reused(&self) -> bool {
        self.answered > 0
    }

    /// Sends one request and consumes its answer. `is_head` says that the answer has no body.
    pub(super) async fn exchange(
        &mut self,
        head: &[u8],
        body: Option<Content<'_>>,
        sink: &mut Sink<'_>,
        is_head: bool,
    ) -> Result<Reply, Fault> {
        let sent = match body {
            None => self.stream.write_all(head).await,
            Some(content) => self.send(head, content).await,
        };
        // A server may refuse a body and close before all of it was sent; its answer counts.
        if sent.is_err() {
            self.closing = true;
        }
        let head = loop {
            let head = self.read_head(is_head).await?;
            if head.status >= 200 {
                break head;
            }
        };
        self.closing |= head.close;
        let Head { status, length, location, etag, .. } = head;
        let mut reply = Reply { status, length, location, etag, body: 0, error: Vec::new() };
        let good = (200..300).contains(&status);
        let mut discard = Sink::Discard;
        let sink = if good { sink } else { &mut discard };
        let mut intake = Intake { sink, reply: &mut reply, keep_error: !good };
        match head.framing {
            Framing::Empty => {}
            Framing::Length(n) => self.take(n, &mut intake).await?,
            Framing::Chunked => self.take_chunked(&mut intake).await?,
            Framing::UntilClose => {
                self.closing = true;
                self.take_all(&mut intake).await?;
            }
        }
        self.answered += 1;
        Ok(reply)
    }

    async fn send(&mut self, head: &[u8], content: Content<'_>) -> io::Result<()> {
        let blocks = content.size.div_ceil(super::pattern::BLOCK as u64);
        let mut next = 0;
        let mut head = Some(head);
        while head.is_some() || next < blocks {
            let mut stamps = [[0u8; STAMP]; BATCH];
            let mut tails: [&[u8]; BATCH] = [&[]; BATCH];
            let count = (blocks - next).min(BATCH as u64) as usize;
            for i in 0..count {
                let (stamp, tail) = content.block(next + i as u64);
                let len = content.block_len(next + i as u64);
                stamps[i] = stamp;
                tails[i] = &tail[..len.saturating_sub(STAMP)];
            }
            let mut slices = [IoSlice::new(&[]); 2 * BATCH + 1];
            slices[0] = IoSlice::new(head.take().unwrap_or_default());
            for i in 0..count {
                let len = content.block_len(next + i as u64).min(STAMP);
                slices[2 * i + 1] = IoSlice::new(&stamps[i][..len]);
                slices[2 * i + 2] = IoSlice::new(tails[i]);
            }
            let mut rest = &mut slices[..2 * count + 1];
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let n = self.stream.write_vectored(rest).await?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                IoSlice::advance_slices(&mut rest, n);
            }
            next += count as u64;
        }
        Ok(())
    }

    /// Reads more into the buffer; 0 at the end of the stream.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = self.stream.read(&mut self.buffer[self.end..]).await?;
        if self.quickack {
            self.stream.set_quickack(true)?;
        }
        self.end += n;
        Ok(n)
    }

    async fn read_head(&mut self, is_head: bool) -> Result<Head, Fault> {
        loop {
            if self.start < self.end
                && let Some((used, head)) = parse(&self.buffer[self.start..self.end], is_head)?
            {
                self.start += used;
                return Ok(head);
            }
            if self.end - self.start == self.buffer.len() {
                return Err(Fault::Protocol("response head too large"));
            }
            match self.fill().await {
                Ok(0) | Err(_) if self.start == self.end => return Err(Fault::Closed),
                Ok(0) => return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(Fault::Io(error)),
                Ok(_) => {}
            }
        }
    }

    /// Like [`Conn::fill`], but the stream must not end here.
    async fn fill_some(&mut self) -> Result<(), Fault> {
        match self.fill().await.map_err(Fault::Io)? {
            0 => Err(Fault::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    async fn take(&mut self, mut left: u64, intake: &mut Intake<'_, '_>) -> Result<(), Fault> {
        while left > 0 {
            if self.start == self.end {
                self.fill_some().await?;
            }
            let n = ((self.end - self.start) as u64).min(left) as usize;
            intake.accept(&self.buffer[self.start..self.start + n])?;
            self.start += n;
            left -= n as u64;
        }
        Ok(())
    }

    async fn take_all(&mut self, intake: &mut Intake<'_, '_>) -> Result<(), Fault> {
        loop {
            intake.accept(&self.buffer[self.start..self.end])?;
            self.start = self.end;
            if self.fill().await.map_err(Fault::Io)? == 0 {
                return Ok(());
            }
        }
    }

    async fn take_chunked(&mut self, intake: &mut Intake<'_, '_>) -> Result<(), Fault> {
        loop {
            let size = loop {
                match httparse::parse_chunk_size(&self.buffer[self.start..self.end]) {
                    Ok(httparse::Status::Complete((used, size))) => {
                        self.start += used;
                        break size;
                    }
                    Ok(httparse::Status::Partial) => self.fill_some().await?,
                    Err(_) => return Err(Fault::Protocol("bad chunk size")),
                }
            };
            if size == 0 {
                return self.skip_trailers().await;
            }
            self.take(size, intake).await?;
            while self.end - self.start < 2 {
                self.fill_some().await?;
            }
            if self.buffer[self.start..self.start + 2] != *b"\r\n" {
                return Err(Fault::Protocol("chunk without its end"));
            }
            self.start += 2;
        }
    }

    async fn skip_trailers(&mut self) -> Result<(), Fault> {
        loop {
            let line = self.buffer[self.start..self.end].iter().position(|&b| b == b'\n');
            match line {
                Some(n) => {
                    self.start += n + 1;
                    if n <= 1 {
                        return Ok(());
                    }
                }
                None if self.end - self.start == self.buffer.len() => {
                    return Err(Fault::Protocol("trailers too large"));
                }
                None => self.fill_some().await?,
            }
        }
    }
}

/// Where body bytes go.
struct Intake<'a, 's> {
    sink: &'a mut Sink<'s>,
    reply: &'a mut Reply,
    keep_error: bool,
}

impl Intake<'_, '_> {
    fn accept(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.keep_error {
            let room = ERROR_BODY.saturating_sub(self.reply.error.len());
            self.reply.error.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        match self.sink {
            Sink::Discard => {}
            Sink::Collect(out) => out.extend_from_slice(bytes),
            Sink::Verify(content) => {
                if let Some(at) = content.first_difference(self.reply.body, bytes) {
                    return Err(Fault::Mismatch(at));
                }
            }
        }
        self.reply.body += bytes.len() as u64;
        Ok(())
    }
}

fn parse(bytes: &[u8], is_head: bool) -> Result<Option<(usize, Head)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Protocol("not an HTTP response")),
    };
    let status = response.code.unwrap_or_default();
    let mut close = response.version == Some(0);
    let (mut length, mut chunked, mut location, mut etag) = (None, false, None, None);
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let value = std::str::from_utf8(header.value).ok().and_then(|v| v.trim().parse().ok());
            length = Some(value.ok_or(Fault::Protocol("bad Content-Length"))?);
        } else if is("transfer-encoding") {
            chunked = header.value.eq_ignore_ascii_case(b"chunked");
        } else if is("location") {
            location = std::str::from_utf8(header.value).ok().map(str::to_owned);
        } else if is("etag") {
            etag = std::str::from_utf8(header.value).ok().map(str::to_owned);
        } else if is("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let framing = match length {
        _ if is_head || status < 200 || status == 204 || status == 304 => Framing::Empty,
        _ if chunked => Framing::Chunked,
        Some(n) => Framing::Length(n),
        None => Framing::UntilClose,
    };
    Ok(Some((used, Head { status, length, location, etag, framing, close })))
}
