//! One connection: hyper's HTTP/1.1 on a watched stream.
//!
//! Promises: a panic of a handler is a 500 for its request alone; the answer to a request whose
//! body we did not read says that the connection ends and reaches the client (we close our side
//! first and throw away what still comes, for a while), because closing with unread bytes makes
//! the kernel reset the connection and the client lose the answer.
//!
//! Not here: time-outs ([`super::pulse`]), accepting ([`super`]).

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, StatusCode, header};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use larder_base::{Env, id::RequestId};
use larder_core::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Cut, ServeOptions, Service, Status, Tls,
    pulse::{Admission, Order, Phase, Pulse},
    received::{Received, Remains},
};
use crate::{body::ResponseBody, problem};

/// Bytes that hyper buffers of one connection in each direction. A hundred uploads hold two or
/// three of these each beside their share of the pool; larger ones were no faster.
const BUFFER_BYTES: usize = 64 << 10;

/// Headers of a request that hyper takes when it is not told otherwise.
const HEADERS_USUAL: usize = 100;

/// Most bytes thrown away after the last answer.
const LINGER_BYTES_MAX: u64 = 64 << 20;

/// The settings of every connection of a server.
pub(super) fn builder(options: &ServeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(BUFFER_BYTES.max(options.header_bytes_max))
        .max_header_size(options.header_bytes_max)
        // Ours are cheaper (see `pulse`), and this one needs a timer.
        .header_read_timeout(None::<Duration>)
        .writev(true);
    if options.headers_max != HEADERS_USUAL {
        // With its own number hyper parses on the stack, with another one on the heap.
        builder.max_headers(options.headers_max);
    }
    builder
}

/// What all connections of a worker share.
#[derive(Debug)]
pub(super) struct Host<S> {
    pub(super) builder: http1::Builder,
    pub(super) service: S,
    pub(super) tls: Option<Tls>,
    pub(super) env: Env,
    pub(super) status: Status,
}

/// Serves one connection to its end.
pub(super) async fn serve<S: Service>(
    host: &Host<S>,
    stream: TcpStream,
    peer: SocketAddr,
    stay: Admission,
) {
    let pulse = &stay.pulse;
    let Host { builder, service, tls, env, status } = host;
    let watched = Watched { stream, pulse: pulse.clone(), discarded: None };
    let wire = match tls {
        None => Wire::Plain(watched),
        Some(tls) => match handshake(tls, watched, pulse, peer).await {
            Some(wire) => wire,
            None => return,
        },
    };
    let remains = &Arc::<Remains>::default();
    // On the heap: a connection is idle most of the time, and what a request needs is large.
    let service = service_fn(|request: Request<Incoming>| {
        Box::pin(async move {
            pulse.enter(Phase::Busy);
            // To read such a body would ask for it.
            let expects = request.headers().contains_key(header::EXPECT);
            let drain = !expects;
            // There is nothing to ask for, so no 100 is sent; botocore takes such an answer for
            // that of its next request on this connection as well.
            let unasked = expects && request.body().is_end_stream();
            let request = request.map(|body| Received::new(body, remains));
            let begun = AssertUnwindSafe(service.call(request, peer)).catch_unwind();
            let answer = begun.await;
            let mut response = answer.unwrap_or_else(|_| panicked(env, status));
            if remains.was_too_slow() {
                status.count_cut(Cut::Body);
            }
            // At a drain the order to close may come later than this answer.
            if !remains.clear(env, drain).await || unasked || status.draining() {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let guard = BusyGuard(pulse.clone());
            Ok::<_, Infallible>(response.map(|body| WatchedBody { body, _guard: guard }))
        })
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "end a connection");
                }
                return;
            }
            () = pulse.ordered.notified() => match pulse.order() {
                Order::Go => {}
                Order::Drain => connection.as_mut().graceful_shutdown(),
                Order::Cut => return,
            },
        }
    }
}

/// Agrees on TLS; `None` if that fails, takes too long, or the server is going away.
async fn handshake(tls: &Tls, watched: Watched, pulse: &Pulse, peer: SocketAddr) -> Option<Wire> {
    pulse.enter(Phase::Handshake);
    // On the heap: it is much larger than what follows, and gone when that begins.
    let mut accepted = Box::pin(TlsAcceptor::from(tls.config()).accept(watched));
    loop {
        tokio::select! {
            biased;
            result = accepted.as_mut() => match result {
                Ok(stream) => {
                    pulse.enter(Phase::Idle);
                    return Some(Wire::Tls(Box::new(stream)));
                }
                Err(error) => {
                    tls.count_failed_handshake();
                    tracing::debug!(%peer, %error, "a handshake failed");
                    return None;
                }
            },
            () = pulse.ordered.notified() => if pulse.order() != Order::Go {
                tls.count_failed_handshake();
                return None;
            },
        }
    }
}

fn panicked(env: &Env, status: &Status) -> Response<ResponseBody> {
    status.count_panic();
    let id = RequestId::new(env);
    tracing::error!(request_id = %id, "a request handler panicked");
    // The handler may have got past its commit.
    let error = Error::internal("the request failed in an unexpected way").of_unknown_outcome();
    let title = "Internal error";
    let mut response = problem::response(&error, StatusCode::INTERNAL_SERVER_ERROR, title, &id);
    response.headers_mut().insert(problem::REQUEST_ID, problem::request_id(&id));
    response
}

/// Ends the busy phase when the answer's body has been handed over, or given up.
struct BusyGuard(Arc<Pulse>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

struct WatchedBody {
    body: ResponseBody,
    _guard: BusyGuard,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection is spoken on. The watch is below TLS: it sees what the network moves.
enum Wire {
    Plain(Watched),
    Tls(Box<TlsStream<Watched>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}

/// A stream that notes what it does, and lingers at its end.
struct Watched {
    stream: TcpStream,
    pulse: Arc<Pulse>,
    /// Bytes thrown away since our side was closed.
    discarded: Option<u64>,
}

impl Watched {
    fn sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.pulse.sent(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.pulse.block(),
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.pulse.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.discarded.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.discarded = Some(0);
            self.pulse.enter(Phase::Linger);
        }
        let mut scratch = [0; 8 << 10];
        loop {
            if self.pulse.order() != Order::Go {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            let bytes = buf.filled().len() as u64;
            let discarded = self.discarded.unwrap_or(0).saturating_add(bytes);
            self.discarded = Some(discarded);
            if bytes == 0 || discarded > LINGER_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.sent(result)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.pulse.order() == Order::Cut {
            // A client that takes nothing must not keep its answer in the kernel's memory either.
            // The socket goes away in any case, so it does not matter if this fails.
            drop(socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
        }
    }
}
