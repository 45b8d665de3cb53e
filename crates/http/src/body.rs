//! Bodies: what a door sends, and what it reads from a client that may be slow, wrong or gone.
//!
//! Promises: an answer has an exact length before its first byte is sent; if its bytes cannot be
//! had to the end the connection is aborted, so that no client takes a part for the whole
//! (hazard D05). A request body that ends early, is longer than a limit, or trickles is an error,
//! never a shorter body (hazard U05). A [`Pace`] slows bytes down in both directions; the time
//! that this takes is not counted against the client.
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
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, SizeHint};
use larder_base::{
    Env, ErrorKind, Memory,
    memory::{ENTRY_WAIT_MAX, Share, Use},
};
use larder_core::Error;

use crate::{
    Received, digest,
    rate::Pace,
    serve::{SHORT_TIMEOUT, is_short},
};

/// How slowly the body of a request may come. Only time in which we wait for it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Longest time without any byte.
    pub idle: Duration,
    /// Time in which at least [`Patience::bytes`] must come: without a minimum, one byte a minute
    /// would hold a connection and its reservation for ever.
    pub window: Duration,
    /// Least bytes in each window.
    pub bytes: u64,
}

impl Patience {
    /// A kibibyte in each `idle`: hardly more than nothing.
    pub fn of(idle: Duration) -> Self {
        Self { idle, window: idle, bytes: 1024 }
    }

    /// At least `rate` bytes a second over each `window`, and never `idle` without any.
    pub fn with_rate(idle: Duration, window: Duration, rate: u64) -> Self {
        let bytes = u128::from(rate) * window.as_millis() / 1000;
        Self { idle, window, bytes: u64::try_from(bytes).unwrap_or(u64::MAX).max(1) }
    }

    /// Least bytes in `time`.
    fn bytes_in(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.bytes) * time.as_nanos() / self.window.as_nanos().max(1);
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

/// Bodies up to this length need no more memory than their connection has anyway.
const FREE_BYTES: u64 = 8 << 10;

/// What the buffers of a connection need while a longer body comes.
const BODY_BYTES: usize = 64 << 10;

/// When to try again if there is none.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// After how long without any byte [`RequestBody::next_or_pause`] tells so, or up to twice that.
pub const PAUSE: Duration = Duration::from_secs(1);

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
    /// Pieces as they come, without a length: events and dumps, never content.
    Events(EventBody),
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

    /// Pieces that come as things happen, until there are no more: a client tells from what it
    /// has got where to go on, so no end of it can be taken for the whole.
    pub fn events<S>(pieces: S) -> Self
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        Self::Events(EventBody { pieces: Some(Box::pin(pieces.map(Ok))) })
    }

    /// Pieces whose length together is not known, but that end in what says that they are whole,
    /// as a dump does. An error aborts the connection.
    pub fn open_ended<S>(pieces: S) -> Self
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        Self::Events(EventBody { pieces: Some(Box::pin(pieces)) })
    }

    /// The same at a `pace`; events have none.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        let length = self.length();
        if length == 0 {
            return self;
        }
        let paced = PacedBody { body: self, pace, piece: Bytes::new(), free_at: None };
        let pieces = stream::unfold(Some(paced), |paced| async {
            let mut paced = paced?;
            match paced.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(paced))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self::stream(length, pieces)
    }

    /// Has an answer that was made in memory counted until it is sent.
    ///
    /// # Errors
    /// `Busy` if there is no room for it: then it should not be made.
    pub async fn count_memory(self, memory: &Memory, env: &Env) -> Result<Self, Error> {
        let Self::Full(bytes) = self else { return Ok(self) };
        if bytes.len() as u64 <= FREE_BYTES {
            return Ok(Self::Full(bytes));
        }
        // A client may hold it still: others come first.
        let leaves = memory.budget() / 8;
        let share = memory
            .take_leaving(Use::Bodies, bytes.len(), leaves, ENTRY_WAIT_MAX, env)
            .await
            .ok_or_else(|| {
                let detail = "too many answers are on their way; try again later";
                Error::new(ErrorKind::Busy, detail).with_retry_after(BUSY_PAUSE)
            })?;
        Ok(Self::Full(Bytes::from_owner(Counted { bytes, _share: share })))
    }

    /// Its length in bytes; 0 where that is not known.
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full(bytes) => bytes.len() as u64,
            Self::Stream(stream) => stream.left,
            Self::Events(_) => 0,
        }
    }
}

/// Bytes and the right to have them.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
            Self::Events(events) => {
                let Some(pieces) = &mut events.pieces else { return Poll::Ready(None) };
                let piece = std::task::ready!(pieces.as_mut().poll_next(cx));
                if let Some(Err(error)) = &piece {
                    // Nobody else can say why: the head has left long ago.
                    tracing::error!(error = ?error, "abort an answer in its middle");
                }
                if !matches!(piece, Some(Ok(_))) {
                    events.pieces = None;
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Events(events) => events.pieces.is_none(),
            Self::Empty | Self::Full(_) | Self::Stream(_) => self.length() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Events(EventBody { pieces: Some(_) }) => SizeHint::default(),
            _ => SizeHint::with_exact(self.length()),
        }
    }
}

/// A body of pieces that come as things happen.
pub struct EventBody {
    pieces: Option<Pieces>,
}

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventBody(open: {})", self.pieces.is_some())
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

/// A body that is sent in steps of its pace.
struct PacedBody {
    body: ResponseBody,
    pace: Pace,
    piece: Bytes,
    /// When more may be sent.
    free_at: Option<Duration>,
}

impl PacedBody {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(time) = self.free_at.take() {
            self.pace.wait(time).await;
        }
        while self.piece.is_empty() {
            let body = &mut self.body;
            let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await else {
                return Ok(None);
            };
            self.piece = frame?.into_data().unwrap_or_default();
        }
        let step = self.piece.split_to(self.piece.len().min(self.pace.step()));
        self.free_at = self.pace.moved(step.len());
        Ok(Some(step))
    }
}

/// The body of a request.
///
/// Nothing is read, and no `100 Continue` sent, before [`RequestBody::next`] is first called;
/// whoever refuses a request before that has not asked for its body.
pub struct RequestBody {
    incoming: Received,
    env: Env,
    patience: Patience,
    pace: Option<Pace>,
    /// When more may be taken, by the pace.
    free_at: Option<Duration>,
    declared: Option<u64>,
    limit: Option<u64>,
    received: u64,
    waiting: Option<Waiting>,
    memory: Held,
    pause: Option<Pause>,
}

/// The right to the memory that the connection needs for a long body.
enum Held {
    /// Nobody counts it.
    Free,
    /// To be taken before the body is asked for.
    Wanted(Memory),
    /// Taken of this, until the body is dropped.
    Taken { _share: Share, of: Memory },
}

/// While nothing comes.
struct Pause {
    timer: Timer,
    /// What had been received when it was started.
    mark: u64,
    /// How long nothing had come by then.
    still: Duration,
}

/// What [`RequestBody::next_or_pause`] has seen.
#[derive(Debug)]
pub enum Arrival {
    /// These bytes have come.
    Bytes(Bytes),
    /// Nothing has come for so long; it goes on, and so does this.
    Pause(Duration),
    /// The body has ended.
    End,
}

/// While hardly anything comes.
struct Waiting {
    /// Runs while we wait: until the earlier of the two ends; and since when it does.
    timer: Option<(Timer, Duration)>,
    /// What is left of the window, and what had been received at its beginning.
    window: Duration,
    window_mark: u64,
    /// The same for a time without any byte.
    idle: Duration,
    idle_mark: u64,
    /// The same for a time after which a slow one must go if memory is short.
    turn: Duration,
    turn_mark: u64,
}

impl RequestBody {
    /// Wraps `incoming`, which must not come more slowly than `patience` allows.
    pub fn new(incoming: Received, env: &Env, patience: Patience) -> Self {
        let declared = incoming.size_hint().exact();
        let env = env.clone();
        Self {
            incoming,
            env,
            patience,
            pace: None,
            free_at: None,
            declared,
            limit: None,
            received: 0,
            waiting: None,
            memory: Held::Free,
            pause: None,
        }
    }

    /// Has the connection's buffers for a long body counted: the body is not asked for before
    /// there is room for them.
    pub fn count_memory(&mut self, memory: &Memory) {
        if self.declared.is_none_or(|declared| declared > FREE_BYTES) {
            self.memory = Held::Wanted(memory.clone());
        }
    }

    /// Takes it at a pace from now on; `None` is any.
    pub fn set_pace(&mut self, pace: Option<Pace>) {
        self.pace = pace;
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
    /// `NotImplemented` if a trailer declares a digest, which comes too late to be verified;
    /// `Busy` at the first call if there is no memory for it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Held::Wanted(memory) = &self.memory {
            let share = memory.take(Use::Bodies, BODY_BYTES, ENTRY_WAIT_MAX, &self.env).await;
            let busy = || {
                let detail = "too many bodies are on their way; try again later";
                Error::new(ErrorKind::Busy, detail).with_retry_after(BUSY_PAUSE)
            };
            self.memory = Held::Taken { _share: share.ok_or_else(busy)?, of: memory.clone() };
        }
        loop {
            if let (Some(pace), Some(time)) = (&self.pace, self.free_at) {
                pace.wait(time).await;
                self.free_at = None;
            }
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
                self.free_at = self.pace.as_ref().and_then(|pace| pace.moved(bytes.len()));
                return Ok(Some(bytes));
            }
        }
    }

    /// As [`next`](Self::next), but tells after each [`PAUSE`] that nothing has come, so that
    /// what is kept for a client that stands still can be given back.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn next_or_pause(&mut self) -> Result<Arrival, Error> {
        loop {
            // The timer goes on over many calls: most of them come long before its end.
            let (mut pause, env, mark) = (self.pause.take(), self.env.clone(), self.received);
            let arrival = {
                let mut next = std::pin::pin!(self.next());
                poll_fn(|cx| match next.as_mut().poll(cx) {
                    Poll::Ready(arrival) => Poll::Ready(Some(arrival)),
                    Poll::Pending => {
                        let pause = pause.get_or_insert_with(|| Pause::new(&env, mark));
                        pause.timer.as_mut().poll(cx).map(|()| None)
                    }
                })
                .await
            };
            if let Some(arrival) = arrival {
                self.pause = pause;
                return arrival.map(|bytes| bytes.map_or(Arrival::End, Arrival::Bytes));
            }
            let before = pause.map_or((mark, Duration::ZERO), |pause| (pause.mark, pause.still));
            let moved = self.received > before.0;
            let still = if moved { Duration::ZERO } else { before.1 + PAUSE };
            self.pause = Some(Pause { still, ..Pause::new(&self.env, self.received) });
            if !moved {
                return Ok(Arrival::Pause(still));
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming.frame()).poll(cx) {
            if let Some(waiting) = &mut self.waiting {
                waiting.pause(self.env.monotonic());
            }
            return Poll::Ready(match frame.transpose() {
                Ok(frame) => Ok(frame),
                Err(_) => Err(cut_off()),
            });
        }
        let (patience, received) = (self.patience, self.received);
        let waiting = self.waiting.get_or_insert_with(|| Waiting::new(patience, received));
        let memory = match &self.memory {
            Held::Taken { of, .. } => Some(of),
            Held::Free | Held::Wanted(_) => None,
        };
        let too_slow = std::task::ready!(waiting.poll(cx, &self.env, patience, received, memory));
        debug_assert!(too_slow == TooSlow);
        self.incoming.give_up();
        Poll::Ready(Err(Error::invalid("the body comes too slowly")))
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

impl Pause {
    fn new(env: &Env, mark: u64) -> Self {
        let env = env.clone();
        Self { timer: Box::pin(async move { env.sleep(PAUSE).await }), mark, still: Duration::ZERO }
    }
}

/// More time has passed than the client has.
#[derive(PartialEq, Eq)]
struct TooSlow;

impl Waiting {
    fn new(patience: Patience, received: u64) -> Self {
        let Patience { window, idle, .. } = patience;
        Self {
            timer: None,
            window,
            window_mark: received,
            idle,
            idle_mark: received,
            turn: SHORT_TIMEOUT,
            turn_mark: received,
        }
    }

    /// Something has come: what we do with it takes our time, not the client's.
    fn pause(&mut self, now: Duration) {
        if let Some((_, since)) = self.timer.take() {
            self.passed(now.saturating_sub(since));
        }
    }

    fn passed(&mut self, time: Duration) {
        self.window = self.window.saturating_sub(time);
        self.idle = self.idle.saturating_sub(time);
        self.turn = self.turn.saturating_sub(time);
    }

    /// Waits on, until the client has had all its time.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        env: &Env,
        patience: Patience,
        received: u64,
        memory: Option<&Memory>,
    ) -> Poll<TooSlow> {
        loop {
            if received > self.idle_mark {
                (self.idle, self.idle_mark) = (patience.idle, received);
            }
            if received - self.window_mark >= patience.bytes {
                (self.window, self.window_mark) = (patience.window, received);
            }
            if self.window.is_zero() || self.idle.is_zero() {
                return Poll::Ready(TooSlow);
            }
            if self.turn.is_zero() {
                let slow = received - self.turn_mark < patience.bytes_in(SHORT_TIMEOUT);
                if slow && memory.is_some_and(is_short) {
                    return Poll::Ready(TooSlow);
                }
                (self.turn, self.turn_mark) = (SHORT_TIMEOUT, received);
            }
            let turn = memory.map_or(Duration::MAX, |_| self.turn);
            let left = self.window.min(self.idle).min(turn);
            let (timer, _) = self.timer.get_or_insert_with(|| {
                let sleeper = env.clone();
                (Box::pin(async move { sleeper.sleep(left).await }), env.monotonic())
            });
            std::task::ready!(timer.as_mut().poll(cx));
            self.timer = None;
            self.passed(left);
        }
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
    async fn events_have_no_length_and_end_where_they_end() {
        let pieces = ["a", "bc"].map(|text| Bytes::from_static(text.as_bytes()));
        let mut body = ResponseBody::events(stream::iter(pieces));
        assert_eq!(body.size_hint().exact(), None);
        assert!(!body.is_end_stream());
        let first = body.frame().await.expect("a piece").expect("no error").into_data();
        assert_eq!(first.ok(), Some(Bytes::from_static(b"a")));
        assert_eq!(collect(body).await, Ok(Bytes::from_static(b"bc")));
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
