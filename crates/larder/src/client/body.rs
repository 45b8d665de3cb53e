//! What a request carries: nothing, bytes in memory, a file, or a stream.
//!
//! Promises: a stream is read by a thread of its own, at most [`PIECES`] pieces ahead, and is
//! hashed on the way; a file that becomes shorter while it is read fails the request instead of
//! sending less.
//!
//! Not here: deciding whether a body may be sent again ([`super`]).

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use indicatif::ProgressBar;
use larder_base::digest::{Sha256, Sha256Stream};
use tokio::{sync::mpsc, task::JoinHandle};

/// Bytes of a piece of a stream: they stay in a core's cache between hashing and sending.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Pieces between a reading thread and the connection.
pub(crate) const PIECES: usize = 4;

/// Counts bytes that have moved, for deadlines and progress bars.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved {
    count: Arc<AtomicU64>,
    bar: Option<ProgressBar>,
}

impl Moved {
    /// Counts into `bar` too.
    pub(crate) fn new(bar: ProgressBar) -> Self {
        Self { count: Arc::default(), bar: Some(bar) }
    }

    /// Adds `bytes`.
    pub(crate) fn add(&self, bytes: usize) {
        self.count.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes as u64);
        }
    }

    /// Bytes so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes back what has been counted, because it will be sent again.
    fn restart(&self) {
        let sent = self.count.swap(0, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.dec(sent);
        }
    }
}

/// What to send.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// Bytes that are in memory.
    Bytes(Bytes),
    /// A local file of this length.
    File(PathBuf, u64),
    /// So many bytes of a local file, from an offset on.
    Part {
        /// The file.
        path: PathBuf,
        /// Where the bytes begin.
        offset: u64,
        /// How many there are.
        length: u64,
    },
    /// Standard input, until it ends.
    Stdin,
}

/// A payload on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    /// The body of the request.
    pub(crate) body: Body,
    /// The digest of what a stream sends, once it has been read to its end.
    pub(crate) digest: Option<JoinHandle<io::Result<Sha256>>>,
}

impl Payload {
    /// Whether the same bytes can be sent a second time.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Stdin)
    }

    /// Opens the payload for one attempt. Fails when the file cannot be opened.
    pub(crate) fn open(&self, moved: &Moved) -> io::Result<Sending> {
        moved.restart();
        Ok(match self {
            Self::None => Sending { body: Body::Bytes(None), digest: None },
            Self::Bytes(bytes) => {
                let bytes = Some(bytes.clone()).filter(|bytes| !bytes.is_empty());
                Sending { body: Body::Bytes(bytes), digest: None }
            }
            Self::File(path, length) => {
                let file = File::open(path)?;
                stream(file.take(*length), Some(*length), moved.clone())
            }
            Self::Part { path, offset, length } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                stream(file.take(*length), Some(*length), moved.clone())
            }
            Self::Stdin => stream(io::stdin(), None, moved.clone()),
        })
    }
}

fn stream<R: Read + Send + 'static>(source: R, length: Option<u64>, moved: Moved) -> Sending {
    let (sender, receiver) = mpsc::channel(PIECES);
    let digest = tokio::task::spawn_blocking(move || pump(source, length, &sender));
    Sending { body: Body::Stream { pieces: receiver, left: length, moved }, digest: Some(digest) }
}

/// Reads `source` to its end, hashing, as fast as the pieces are taken.
fn pump<R: Read>(
    mut source: R,
    length: Option<u64>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<Sha256> {
    let mut digest = Sha256Stream::default();
    let mut sent = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = source.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let failure = match read {
            Ok(0) if length.is_none_or(|length| sent == length) => return Ok(digest.finish()),
            Ok(0) => io::Error::other("the file became shorter while it was read"),
            Ok(read) => {
                sent += read as u64;
                digest.update(&piece);
                match sender.blocking_send(Ok(Bytes::from(piece))) {
                    Ok(()) => continue,
                    // The request has ended: its own error says why.
                    Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                }
            }
            Err(error) => error,
        };
        let copy = io::Error::new(failure.kind(), failure.to_string());
        // When the receiver has gone, the error of the request itself is the one that counts.
        drop(sender.blocking_send(Err(copy)));
        return Err(failure);
    }
}

/// Body of a request.
#[derive(Debug)]
pub(crate) enum Body {
    /// Bytes in memory, sent together with the head.
    Bytes(Option<Bytes>),
    /// Pieces from a thread.
    Stream {
        /// The pieces.
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        /// Bytes that are still to come, where the length is known.
        left: Option<u64>,
        /// Who counts.
        moved: Moved,
    },
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { pieces, left, moved } => {
                let Some(piece) = ready!(pieces.poll_recv(context)) else {
                    return Poll::Ready(None);
                };
                if let Ok(piece) = &piece {
                    moved.add(piece.len());
                    if let Some(left) = left {
                        *left = left.saturating_sub(piece.len() as u64);
                    }
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_none(),
            Self::Stream { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(None) => SizeHint::with_exact(0),
            Self::Bytes(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Self::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}

/// The next piece of an answer's body; `None` at its end. Trailers are skipped.
pub(crate) async fn next_piece(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}
