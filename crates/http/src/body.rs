//! Bodies: what a door sends, and what it reads from a client that may be slow, wrong or gone.
//!
//! Promises: an answer has an exact length before its first byte is sent; if its bytes cannot be
//! had to the end the connection is aborted, so that no client takes a part for the whole
//! (hazard D05). A request body that ends early, is longer than a limit, or trickles is an error,
//! never a shorter body (hazard U05).
//!
//! Not here: digests (core verifies them at the commit), form parts (the door's).

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, SizeHint};
use larder_base::{Env, ErrorKind};
use larder_core::Error;

use crate::{Received, digest};

/// Bytes that a body must move within its idle time to count as moving: without a minimum, one
/// byte a minute would hold a connection and its reservation for ever.
const PROGRESS_BYTES_MIN: u64 = 1024;

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// The body of an answer.
pub enum ResponseBody {
    /// None.
    Empty,
    /// One piece, sent together with the head.
    Full(Bytes),
    /// Many pieces.
    Stream(StreamBody),
}

impl ResponseBody {
    /// The next `length` bytes of `body`, which must have exactly so many.
    ///
    /// The first piece is read here, so that content which cannot be had at all becomes an error
    /// answer, and a small file one piece without a box.
    ///
    /// # Errors
    /// Those of core; `Corrupt` if the content is shorter.
    pub async fn read(mut body: larder_core::Body, length: u64) -> Result<Self, Error> {
        if length == 0 {
            return Ok(Self::Empty);
        }
        let first = body.next().await?.unwrap_or_default();
        if u64::try_from(first.len()) == Ok(length) {
            return Ok(Self::Full(first));
        }
        if first.is_empty() {
            return Err(short());
        }
        let rest = stream::unfold(Some(body), |body| async {
            let mut body = body?;
            match body.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Self::Stream(StreamBody { first: Some(first), rest: Box::pin(rest), left: length }))
    }

    /// The pieces of `pieces`, which must be `length` bytes together.
    pub fn stream<S>(length: u64, pieces: S) -> Self
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        Self::Stream(StreamBody { first: None, rest: Box::pin(pieces), left: length })
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full(bytes) => bytes.len() as u64,
            Self::Stream(stream) => stream.left,
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseBody({} bytes)", self.length())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

fn short() -> Error {
    Error::new(ErrorKind::Corrupt, "the content is shorter than its record says")
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.poll_piece(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}

/// A body of many pieces whose length together is known.
pub struct StreamBody {
    first: Option<Bytes>,
    rest: Pieces,
    left: u64,
}

impl StreamBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => std::task::ready!(self.rest.as_mut().poll_next(cx)),
        };
        let piece = piece.unwrap_or_else(|| Err(short())).and_then(|bytes| {
            match self.left.checked_sub(bytes.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Ok(bytes)
                }
                None => Err(Error::internal("the content is longer than its record says")),
            }
        });
        if let Err(error) = &piece {
            // Nobody else can say why: the head has left long ago.
            tracing::error!(error = ?error, left = self.left, "abort an answer in its middle");
        }
        Poll::Ready(Some(piece))
    }
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamBody({} bytes left)", self.left)
    }
}

/// The body of a request.
///
/// Nothing is read, and no `100 Continue` sent, before [`RequestBody::next`] is first called;
/// whoever refuses a request before that has not asked for its body.
pub struct RequestBody {
    incoming: Received,
    env: Env,
    idle: Duration,
    declared: Option<u64>,
    limit: Option<u64>,
    received: u64,
    /// Runs while we wait; `received` when it was started.
    timer: Option<(Timer, u64)>,
}

impl RequestBody {
    /// Wraps `incoming`, which must move within each `idle`.
    pub fn new(incoming: Received, env: &Env, idle: Duration) -> Self {
        let declared = incoming.size_hint().exact();
        let env = env.clone();
        Self { incoming, env, idle, declared, limit: None, received: 0, timer: None }
    }

    /// The length that the request declares; `None` with a chunked body.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Refuses more than `limit` bytes.
    ///
    /// # Errors
    /// `TooLarge` at once if more are declared; else from [`RequestBody::next`] when more come.
    pub fn limit(&mut self, limit: u64) -> Result<(), Error> {
        self.limit = Some(limit);
        if self.declared.is_some_and(|declared| declared > limit) {
            return Err(too_large(limit));
        }
        Ok(())
    }

    /// The next bytes; `None` after the last, when the whole declared body has come.
    ///
    /// Cancel-safe: a dropped call has taken nothing.
    ///
    /// # Errors
    /// `Invalid` if the body is cut off or trickles; `TooLarge` beyond the limit;
    /// `NotImplemented` if a trailer declares a digest, which comes too late to be verified.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await? else {
                if self.declared.is_some_and(|declared| declared != self.received) {
                    return Err(cut_off());
                }
                return Ok(None);
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(frame) => {
                    if frame.trailers_ref().is_some_and(digest::names) {
                        let detail = "digests in trailers are not verified; send them as headers";
                        return Err(Error::new(ErrorKind::NotImplemented, detail));
                    }
                    continue;
                }
            };
            self.received = self.received.saturating_add(bytes.len() as u64);
            if let Some(limit) = self.limit.filter(|limit| self.received > *limit) {
                return Err(too_large(limit));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming.frame()).poll(cx) {
            // The time that we take between two calls is not the client's: the timer only goes
            // on while hardly anything comes.
            if self.timer.as_ref().is_some_and(|(_, mark)| self.moved_since(*mark)) {
                self.timer = None;
            }
            return Poll::Ready(match frame.transpose() {
                Ok(frame) => Ok(frame),
                Err(_) => Err(cut_off()),
            });
        }
        loop {
            let (timer, mark) = self.timer.get_or_insert_with(|| {
                let (env, idle) = (self.env.clone(), self.idle);
                let timer: Timer = Box::pin(async move { env.sleep(idle).await });
                (timer, self.received)
            });
            std::task::ready!(timer.as_mut().poll(cx));
            let mark = *mark;
            if !self.moved_since(mark) {
                return Poll::Ready(Err(Error::invalid("the body comes too slowly")));
            }
            self.timer = None;
        }
    }

    fn moved_since(&self, mark: u64) -> bool {
        self.received.saturating_sub(mark) >= PROGRESS_BYTES_MIN
    }

    /// The whole body, of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`RequestBody::limit`] and [`RequestBody::next`].
    pub async fn collect(mut self, limit: u64) -> Result<Bytes, Error> {
        self.limit(limit)?;
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// The bytes as a stream that ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        stream::unfold(Some(self), |body| async {
            let mut body = body?;
            match body.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestBody({} of {:?} bytes)", self.received, self.declared)
    }
}

fn cut_off() -> Error {
    Error::invalid("the body ended before its declared end")
}

fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the body is larger than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(body: ResponseBody) -> Result<Bytes, ErrorKind> {
        body.collect().await.map(|all| all.to_bytes()).map_err(|error| error.kind())
    }

    fn pieces(texts: &'static [&'static str]) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::iter(texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))))
    }

    #[tokio::test]
    async fn a_stream_has_exactly_the_length_it_declared_or_fails() {
        let body = ResponseBody::stream(5, pieces(&["abc", "de"]));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(collect(body).await, Ok(Bytes::from_static(b"abcde")));
        let short = ResponseBody::stream(6, pieces(&["abc", "de"]));
        assert_eq!(collect(short).await, Err(ErrorKind::Corrupt));
        let long = ResponseBody::stream(4, pieces(&["abc", "de"]));
        assert_eq!(collect(long).await, Err(ErrorKind::Internal));
    }

    #[tokio::test]
    async fn small_bodies_are_one_frame() {
        let body = ResponseBody::from(Bytes::from_static(b"abc"));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(collect(body).await, Ok(Bytes::from_static(b"abc")));
        assert!(ResponseBody::from(Bytes::new()).is_end_stream());
    }
}
