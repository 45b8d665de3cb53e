//! Keep-alive connections to one server, a bounded number of them.
//!
//! Promises: at most as many connections as [`Pool::new`] was told; a connection is used again
//! only after its answer has been read to the end; a request that a stale connection never took
//! goes out on another one, which is no repetition.
//!
//! Not here: repeating requests and reading problems ([`super`]).

use std::{
    io,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, select};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use larder_base::Env;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    task::AbortHandle,
};

use super::{
    body::{Body, Moved},
    error::{ClientError, Result},
    tls::Tls,
};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to one server.
#[derive(Debug)]
pub(crate) struct Pool {
    env: Env,
    address: String,
    tls: Option<Tls>,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

/// A connection and the task that moves its bytes, which ends with it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    task: AbortHandle,
}

impl Drop for Connection {
    /// Stops a body that is still being sent; an idle connection would end anyway.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection whose answer is being read. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Busy<'p> {
    pool: &'p Pool,
    connection: Connection,
    _permit: SemaphorePermit<'p>,
}

impl Busy<'_> {
    /// Gives the connection back for the next request: its answer has been read to the end.
    pub(crate) fn release(self) {
        if !self.connection.sender.is_closed() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection);
        }
    }
}

impl Pool {
    /// At most `connections` to `address`, over TLS if there is some; waits of more than `timeout`
    /// without any byte moving are given up.
    pub(crate) fn new(
        env: Env,
        (address, tls): (String, Option<Tls>),
        connections: usize,
        timeout: Duration,
    ) -> Self {
        let permits = Semaphore::new(connections.max(1));
        Self { env, address, tls, timeout, idle: Mutex::default(), permits }
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// Fails only when there is no answer; the request may then have had its effect.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        moved: &Moved,
    ) -> Result<(Response<Incoming>, Busy<'_>)> {
        let permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| ClientError::no_answer("the connections have been closed"))?;
        loop {
            let (mut connection, fresh) = match self.take_idle().await {
                Some(connection) => (connection, false),
                None => (self.connect().await?, true),
            };
            match self.patient(moved, connection.sender.try_send_request(request)).await? {
                Ok(response) => {
                    return Ok((response, Busy { pool: self, connection, _permit: permit }));
                }
                Err(mut failed) => match failed.take_message() {
                    // The server closed it while it was idle, and has not seen the request.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(ClientError::no_answer(explain(failed.error()))),
                },
            }
        }
    }

    /// Waits for `future` as long as bytes move.
    pub(crate) async fn patient<T>(
        &self,
        moved: &Moved,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        let mut future = pin!(future);
        loop {
            let before = moved.count();
            match select(future.as_mut(), pin!(self.env.sleep(self.timeout))).await {
                Either::Left((output, _)) => return Ok(output),
                Either::Right(_) if moved.count() != before => {}
                Either::Right(_) => {
                    return Err(ClientError::no_answer(format!(
                        "{} stood still for {} s",
                        self.address,
                        self.timeout.as_secs()
                    )));
                }
            }
        }
    }

    /// Idle connections that have not been closed.
    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter().filter(|connection| !connection.sender.is_closed()).count()
    }

    /// A connection that was alive when last looked at.
    async fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let failed = |error: io::Error| {
            ClientError::no_answer(format!("connect to {}: {error}", self.address))
        };
        let in_time = pin!(self.env.sleep(CONNECT_TIMEOUT));
        let connecting = pin!(TcpStream::connect(&self.address));
        let (stream, in_time) = match select(connecting, in_time).await {
            Either::Left((stream, in_time)) => (stream.map_err(failed)?, in_time),
            Either::Right(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        // Heads and small bodies must not wait for an acknowledgement of the packet before.
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return self.speak(stream).await };
        // On the heap: it is large, and most connections have none.
        let agreeing = Box::pin(tls.connect(stream));
        match select(agreeing, in_time).await {
            Either::Left((Ok(stream), _)) => self.speak(stream).await,
            // To try again is of no use: it is the server's certificate, or it speaks no TLS.
            Either::Left((Err(error), _)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(ClientError::bad_answer(format!("{} over TLS: {error}", self.address)))
            }
            Either::Left((Err(error), _)) => Err(failed(error)),
            Either::Right(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Begins HTTP on `stream`.
    async fn speak<S>(&self, stream: S) -> Result<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| {
                ClientError::no_answer(format!("connect to {}: {error}", self.address))
            })?;
        let task = self.env.spawn("client connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Connection { sender, task: task.abort_handle() })
    }
}

/// An error of hyper with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
