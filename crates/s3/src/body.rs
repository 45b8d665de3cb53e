//! Bodies on their way through the S3 library, in both directions.
//!
//! Promises: nothing of a request's body is asked for before the library has checked its
//! signature and the operation has begun; the reason why a body failed reaches the answer
//! although the library keeps only words of it; content goes from core to the connection
//! without passing through the library.
//!
//! Not here: patience, pace and memory of connections (`larder_http`).

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use larder_base::{
    Env, ErrorKind, Memory,
    digest::{Sha256, Sha256Stream},
    memory::{ENTRY_WAIT_MAX, Share, Use},
};
use larder_core::Error;
use larder_http::{RequestBody, ResponseBody, body::PAUSE, rate::Pace};
use s3s::{
    StdError,
    crypto::{Checksum as _, Md5},
    dto::StreamingBlob,
    stream::{ByteStream, DynByteStream, RemainingLength},
};

use crate::{action::Scene, framing::Frames, guard::Framing};

/// Signed chunks up to this size need no more memory than their connection has anyway.
const CHUNK_FREE_BYTES: usize = 64 << 10;

/// What the door and the operation know of one request besides what the library hands on.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// Name of the operation.
    pub(crate) operation: OnceLock<&'static str>,
    /// Name of the user, once the signature is known to be good.
    pub(crate) user: OnceLock<Arc<str>>,
    /// At which pace bytes may go, known at the same time.
    pub(crate) pace: OnceLock<Option<Pace>>,
    /// What it is about, known at the same time.
    pub(crate) scene: OnceLock<Scene>,
    /// Why the body could not be read.
    fault: Mutex<Option<Error>>,
    /// The content of the answer.
    content: Mutex<Option<ResponseBody>>,
}

impl Trail {
    fn fail(&self, error: Error) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Why the body could not be read; asked for once.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Answers with this body.
    pub(crate) fn answer(&self, content: ResponseBody) {
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
    }

    pub(crate) fn content(&self) -> Option<ResponseBody> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Stands for an error that is in the [`Trail`].
#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body cannot be read")
    }
}

impl std::error::Error for Broken {}

/// How the body of a request is read.
pub(crate) struct Reading {
    pub(crate) framing: Framing,
    /// The digest that a document must have, so that another one is the client's mistake: of it
    /// the library says that it is ours.
    pub(crate) sha256: Option<String>,
    /// The MD5 that a document must have, which the library does not look at.
    pub(crate) md5: Option<Vec<u8>>,
    pub(crate) memory: Memory,
    pub(crate) env: Env,
}

/// A request's body as the library takes it.
pub(crate) fn request(body: RequestBody, reading: Reading, trail: &Arc<Trail>) -> s3s::Body {
    let left = body.declared();
    let digest = reading.sha256.as_deref().and_then(Sha256::from_hex);
    if left == Some(0) && reading.framing == Framing::Plain && reading.md5.is_none() {
        if digest.is_some_and(|digest| digest != Sha256::of(b"")) {
            trail.fail(mismatch());
        }
        return s3s::Body::empty();
    }
    let hash = digest.map(|expected| (Sha256Stream::default(), expected));
    let md5 = reading.md5.map(|expected| (Md5::new(), expected));
    let frames = match reading.framing {
        Framing::Plain => None,
        Framing::Chunked { signed, content } => Some(Frames::new(signed, content)),
    };
    // Frames make the body another length than was declared.
    let left = if frames.is_none() { left } else { None };
    let source = Source {
        body,
        frames,
        memory: reading.memory,
        env: reading.env,
        share: None,
        begun: false,
        ended: false,
        trail: Arc::clone(trail),
    };
    let pieces: Pieces = Box::pin(source.into_stream());
    let pieces = Mutex::new(pieces);
    let wire: DynByteStream = Box::pin(Wire { pieces, left, hash, md5, trail: Arc::clone(trail) });
    s3s::Body::from(wire)
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Where the library's bytes come from.
struct Source {
    body: RequestBody,
    frames: Option<Frames>,
    memory: Memory,
    env: Env,
    /// Room for the chunk that the library keeps.
    share: Option<Share>,
    begun: bool,
    ended: bool,
    trail: Arc<Trail>,
}

impl Source {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::unfold(Some(self), |source| async {
            let mut source = source?;
            match source.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(source))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.begun {
            self.begun = true;
            // Whose pace it is was not known before the signature was.
            self.body.set_pace(self.trail.pace.get().cloned().flatten());
        }
        let Some(frames) = &mut self.frames else { return self.body.next().await };
        loop {
            if let Some(bytes) = frames.pop() {
                return Ok(Some(bytes));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(piece) = self.body.next().await? else {
                frames.finish()?;
                self.ended = true;
                continue;
            };
            frames.push(piece)?;
            let have = self.share.as_ref().map_or(CHUNK_FREE_BYTES, Share::bytes);
            let want = frames.largest();
            if want > have {
                // What is held is given back first: two that wait for each other would both fail.
                self.share = None;
                let taken = self.memory.take(Use::Bodies, want, ENTRY_WAIT_MAX, &self.env).await;
                self.share = Some(taken.ok_or_else(busy)?);
            }
        }
    }
}

fn busy() -> Error {
    let detail = "too many bodies are on their way; try again later";
    Error::new(ErrorKind::Busy, detail).with_retry_after(Duration::from_secs(2))
}

struct Wire {
    /// Only locked by its owner: the library wants what it moves to be `Sync`.
    pieces: Mutex<Pieces>,
    left: Option<u64>,
    hash: Option<(Sha256Stream, Sha256)>,
    md5: Option<(Md5, Vec<u8>)>,
    trail: Arc<Trail>,
}

impl Stream for Wire {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let pieces = this.pieces.get_mut().unwrap_or_else(PoisonError::into_inner);
        let piece = ready!(pieces.as_mut().poll_next(cx));
        Poll::Ready(match piece {
            Some(Ok(bytes)) => {
                if let Some(left) = &mut this.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                if let Some((hash, _)) = &mut this.hash {
                    hash.update(&bytes);
                }
                if this.left == Some(0)
                    && let Some((hash, expected)) = this.hash.take()
                    && hash.finish() != expected
                {
                    this.trail.fail(mismatch());
                }
                if let Some((md5, _)) = &mut this.md5 {
                    md5.update(&bytes);
                }
                // Of what has no length the end is only known when it has come.
                let whole = if this.left == Some(0) { this.check_md5() } else { Ok(()) };
                Some(whole.map(|()| bytes))
            }
            Some(Err(error)) => {
                this.trail.fail(error);
                Some(Err(Box::new(Broken)))
            }
            None => this.check_md5().err().map(Err),
        })
    }
}

impl Wire {
    /// Whether the body, which has ended, has the MD5 that was declared.
    fn check_md5(&mut self) -> Result<(), StdError> {
        let Some((md5, expected)) = self.md5.take() else { return Ok(()) };
        if md5.finalize().as_slice() == expected {
            return Ok(());
        }
        let detail = "the body does not have the MD5 of Content-MD5";
        self.trail.fail(Error::new(ErrorKind::BadDigest, detail));
        Err(Box::new(Broken))
    }
}

/// The words by which [`fault`] knows it again.
const MISMATCH: &str = "the body does not have the SHA-256 of x-amz-content-sha256";

fn mismatch() -> Error {
    Error::new(ErrorKind::BadDigest, MISMATCH)
}

impl ByteStream for Wire {
    fn remaining_length(&self) -> RemainingLength {
        match self.left.and_then(|left| usize::try_from(left).ok()) {
            Some(left) => RemainingLength::new_exact(left),
            None => RemainingLength::unknown(),
        }
    }
}

/// What an error of the library's own, on reading a body, is in the words of this door: code and
/// message.
pub(crate) fn fault(error: &StdError) -> (&'static str, &'static str) {
    let text = error.to_string();
    let has = |word: &str| text.contains(word);
    if has("Sha256Mismatch") {
        ("XAmzContentSHA256Mismatch", MISMATCH)
    } else if has("SignatureMismatch") {
        ("SignatureDoesNotMatch", "the signature of a chunk is wrong")
    } else if has("TooLarge") || has("TooMany") {
        ("InvalidRequest", "the frame of a chunk is too large")
    } else {
        ("IncompleteBody", "the body is not as long as declared")
    }
}

/// Whether it is the digest of the whole body that was wrong.
pub(crate) fn is_mismatch(error: &Error) -> bool {
    error.kind() == ErrorKind::BadDigest && error.detail() == MISMATCH
}

/// Content as an operation reads it.
pub(crate) struct Content {
    blob: StreamingBlob,
    env: Env,
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    still: Duration,
}

/// What [`Content::next`] has seen.
pub(crate) enum Arrival {
    /// These bytes have come.
    Bytes(Bytes),
    /// Nothing has come for so long; it goes on, and so does this.
    Pause(Duration),
    /// The content has ended.
    End,
}

impl Content {
    pub(crate) fn new(blob: StreamingBlob, env: &Env) -> Self {
        Self { blob, env: env.clone(), timer: None, still: Duration::ZERO }
    }

    /// The length that the request declares.
    pub(crate) fn length(&self) -> Option<u64> {
        self.blob.remaining_length().exact().map(|length| length as u64)
    }

    /// The next bytes; tells after each [`PAUSE`] that nothing has come, so that what is kept for
    /// a client that stands still can be given back.
    pub(crate) async fn next(&mut self) -> Result<Arrival, StdError> {
        poll_fn(|cx| {
            if let Poll::Ready(piece) = Pin::new(&mut self.blob).poll_next(cx) {
                self.timer = None;
                self.still = Duration::ZERO;
                return Poll::Ready(match piece {
                    Some(Ok(bytes)) => Ok(Arrival::Bytes(bytes)),
                    Some(Err(error)) => Err(error),
                    None => Ok(Arrival::End),
                });
            }
            let env = &self.env;
            let timer = self.timer.get_or_insert_with(|| {
                let env = env.clone();
                Box::pin(async move { env.sleep(PAUSE).await })
            });
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            self.still += PAUSE;
            Poll::Ready(Ok(Arrival::Pause(self.still)))
        })
        .await
    }
}
