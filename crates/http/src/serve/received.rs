//! The body of a request as it comes, and what becomes of a body that nobody reads.
//!
//! Promises: when an answer is ready before the request's body has been read to its end, either
//! the little that is left is read and thrown away and the connection goes on, or the answer says
//! `Connection: close` (RFC 9112 section 9.6): a connection that a client may use again, as far
//! as it was told, stays open.
//!
//! Not here: reading with limits and time-outs ([`crate::body::RequestBody`]), what still comes
//! after the last answer ([`super::connection`]).

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use larder_base::Env;

/// Most bytes that are read and thrown away to keep a connection: what costs less than a new one.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// Longest time that an answer waits for them; they are under way already.
const DRAIN_MAX: Duration = Duration::from_millis(100);

/// The body of a request, as it comes.
#[derive(Debug)]
pub struct Received {
    incoming: Option<Incoming>,
    progress: Progress,
    /// `None` for a request without a body.
    remains: Option<Arc<Remains>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Whole,
    Broken,
}

impl Received {
    /// `incoming`, which leaves in `remains` what nobody reads of it.
    pub(super) fn new(incoming: Incoming, remains: &Arc<Remains>) -> Self {
        let (progress, remains) = if incoming.is_end_stream() {
            (Progress::Whole, None)
        } else {
            remains.put(Left::Unknown);
            (Progress::More, Some(remains.clone()))
        };
        Self { incoming: Some(incoming), progress, remains }
    }
}

impl Received {
    /// Says that nobody waits for the rest any more, because it comes too slowly.
    pub(crate) fn give_up(&mut self) {
        self.progress = Progress::Broken;
        if let Some(remains) = &self.remains {
            remains.too_slow.store(true, Relaxed);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.progress != Progress::More {
            return Poll::Ready(None);
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        self.progress = match &frame {
            Some(Ok(_)) if !incoming.is_end_stream() => Progress::More,
            Some(Ok(_)) | None => Progress::Whole,
            Some(Err(_)) => Progress::Broken,
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.progress != Progress::More
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(remains) = &self.remains else { return };
        remains.put(match (self.progress, self.incoming.take()) {
            (Progress::Whole, _) => Left::Nothing,
            (Progress::More, Some(incoming)) => Left::Unread(incoming),
            (Progress::More | Progress::Broken, _) => Left::Unknown,
        });
    }
}

/// What a connection's last request has left of its body.
#[derive(Debug, Default)]
pub(super) struct Remains {
    left: Mutex<Left>,
    too_slow: AtomicBool,
}

#[derive(Debug, Default)]
enum Left {
    #[default]
    Nothing,
    /// This, which nobody will read any more.
    Unread(Incoming),
    /// The rest cannot be read, or somebody still reads it.
    Unknown,
}

impl Remains {
    fn put(&self, left: Left) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    /// Whether the body was given up because it came too slowly; says so once.
    pub(super) fn was_too_slow(&self) -> bool {
        self.too_slow.load(Relaxed) && self.too_slow.swap(false, Relaxed)
    }

    /// Reads what is left if that is little and `drain` allows it; whether the connection can
    /// take another request.
    pub(super) async fn clear(&self, env: &Env, drain: bool) -> bool {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        match left {
            Left::Nothing => true,
            Left::Unknown => false,
            Left::Unread(_) if !drain => false,
            Left::Unread(incoming) if incoming.size_hint().lower() > DRAIN_BYTES_MAX => false,
            Left::Unread(incoming) => tokio::select! {
                biased;
                whole = discard(incoming) => whole,
                () = env.sleep(DRAIN_MAX) => false,
            },
        }
    }
}

/// Reads to the end, unless that is too far; whether it was reached.
async fn discard(mut incoming: Incoming) -> bool {
    let mut discarded: u64 = 0;
    while !incoming.is_end_stream() {
        match poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                discarded = discarded.saturating_add(bytes as u64);
                if discarded > DRAIN_BYTES_MAX {
                    return false;
                }
            }
        }
    }
    true
}
