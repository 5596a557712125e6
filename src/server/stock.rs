//! The coordinator's listener for stock servers: `axum::serve`, tonic, loops of one's own.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::handle::ShutdownHandle;
use crate::phase::Phase;

use super::acceptor::Acceptor;
use super::connection::Connection;
use super::frames::Http2Seen;
use super::held::Held;
use super::observed::Observed;
#[cfg(feature = "tonic")]
use super::peer::StockPeer;
use super::transport::Transport;

/// A TCP listener whose connections the coordinator counts, sweeps and can cut; for a server that accepts by itself.
///
/// For `axum::serve` it comes from `coordinator.listener`, for tonic from `coordinator.incoming`, for a loop of one's
/// own from [`new`](Self::new); what its connections' server is told by is
/// [`ShutdownHandle::draining`](crate::ShutdownHandle::draining), or
/// [`ShutdownHandle::watch`](crate::ShutdownHandle::watch).
pub struct DrainListener {
    handle: ShutdownHandle,
    acceptor: Acceptor<TcpListener>,
    #[cfg(feature = "axum")]
    address: io::Result<SocketAddr>,
    /// Until it was swept, no server is told to drain.
    held: Option<Held>,
}

impl DrainListener {
    /// From now on the coordinator of this handle waits for it to be swept and closed, which happens in
    /// [`next`](Self::next).
    pub fn new(handle: &ShutdownHandle, listener: TcpListener) -> Self {
        Self {
            handle: handle.clone(),
            #[cfg(feature = "axum")]
            address: listener.local_addr(),
            acceptor: Acceptor::for_stock(handle, listener),
            held: Some(Held::new(handle, |held| &mut held.listeners)),
        }
    }

    /// The next connection, counted before it is handed out; `None` once the listener was swept and closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub async fn next(&mut self) -> Option<DrainStream> {
        let next = self.acceptor.next().await;
        if next.is_none() {
            self.held = None;
        }
        let (connection, transport) = next?;
        let held = Held::new(&self.handle, |held| &mut held.connections);
        Some(DrainStream::new(connection, transport, held))
    }
}

impl fmt::Debug for DrainListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainListener")
            .field("listener", &self.acceptor.to_string())
            .finish_non_exhaustive()
    }
}

/// A connection of a [`DrainListener`]: in flight until it is dropped; it fails once it is cut.
///
/// In the drain, hyper waits for ever for an HTTP/2 client that is gone. So this end of the connection gives such a one
/// up, as if it had closed: it was told to go, all its streams were answered, and it has said nothing for the
/// [linger](crate::ShutdownCoordinatorBuilder::linger) since.
pub struct DrainStream {
    io: Observed<Transport<TcpStream>>,
    connection: Arc<Connection>,
    /// None once it turned out that no HTTP/2 is spoken.
    http2: Option<Box<Http2Seen>>,
    /// When the client is given up, if it says nothing.
    gives_up: Option<Pin<Box<Sleep>>>,
    given_up: bool,
    /// Where requests know by which connection they came.
    #[cfg(feature = "tonic")]
    _peer: Option<StockPeer>,
    _held: Held,
}

impl DrainStream {
    fn new(connection: Arc<Connection>, transport: Transport<TcpStream>, held: Held) -> Self {
        Self {
            io: Observed::new(transport, connection.clone()),
            connection,
            http2: Some(Box::new(Http2Seen::new())),
            gives_up: None,
            given_up: false,
            #[cfg(feature = "tonic")]
            _peer: None,
            _held: held,
        }
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }

    fn saw_read(&mut self, bytes: &[u8]) {
        if let Some(http2) = &mut self.http2
            && !bytes.is_empty()
        {
            http2.read(bytes);
            if !self.connection.may_be_http2() {
                self.http2 = None;
            }
        }
    }

    fn saw_written<B: Deref<Target = [u8]>>(&mut self, mut bytes: usize, bufs: &[B]) {
        let Some(http2) = &mut self.http2 else { return };
        for buf in bufs {
            let n = bytes.min(buf.len());
            http2.wrote(&buf[..n]);
            bytes -= n;
        }
        // This may have been the last that was owed, and nobody reads before something comes.
        if self.quiet_since().is_some() {
            self.connection.wake_reader();
        }
    }

    /// Since when a client in the drain has let us wait for nothing.
    fn quiet_since(&self) -> Option<Instant> {
        let http2 = self.http2.as_ref()?;
        if self.connection.state().phase() < Phase::Draining || !self.connection.is_http2() {
            return None;
        }
        let drain = self.connection.state().signal().draining_since?;
        let quiet = http2.quiet_since(drain)?;
        (!self.connection.has_backlog()).then(|| quiet.max(drain))
    }

    /// Whether the client, which has said nothing, is given up now.
    fn gives_up(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(quiet) = self.quiet_since() else {
            return false;
        };
        let at = quiet + self.connection.state().settings.linger;
        let timer = self
            .gives_up
            .get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        self.given_up = timer.as_mut().poll(cx).is_ready();
        if self.given_up {
            tracing::debug!(peer = ?self.peer(), "closed: an HTTP/2 client is gone");
        }
        self.given_up
    }
}

impl fmt::Debug for DrainStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainStream")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for DrainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given_up {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.saw_read(&buf.filled()[before..]);
        if polled.is_pending() && self.gives_up(cx) {
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

impl AsyncWrite for DrainStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.saw_written(written, &[buf]);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = polled {
            self.saw_written(written, bufs);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It was heard out.
        if self.given_up {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for DrainListener {
    type Io = DrainStream;
    type Addr = SocketAddr;

    /// Pends for ever once the listener was swept and closed: axum knows no end of a listener, its signal ends it.
    async fn accept(&mut self) -> (DrainStream, SocketAddr) {
        loop {
            match self.next().await {
                Some(stream) => {
                    if let Some(peer) = stream.peer() {
                        return (stream, peer);
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// What `coordinator.listener` returns: a listener for `axum::serve` under which `ConnectInfo<SocketAddr>` goes on
/// working. axum implements that for its own listener types alone, and [`TapIo`](axum::serve::TapIo) is one.
#[cfg(feature = "axum")]
pub type AxumListener = axum::serve::TapIo<DrainListener, fn(&mut DrainStream)>;

#[cfg(feature = "axum")]
pub(crate) fn for_axum(handle: &ShutdownHandle, listener: TcpListener) -> AxumListener {
    use axum::serve::ListenerExt;
    DrainListener::new(handle, listener).tap_io(|_| {})
}

/// What `coordinator.incoming` returns: the stream of connections that tonic's `serve_with_incoming_shutdown` wants.
/// It ends when the listener was swept and closed.
#[cfg(feature = "tonic")]
pub struct DrainIncoming(futures::stream::BoxStream<'static, io::Result<DrainStream>>);

#[cfg(feature = "tonic")]
impl DrainIncoming {
    /// From now on the coordinator of this handle waits for it to be swept and closed, which happens in
    /// `poll_next`.
    pub fn new(handle: &ShutdownHandle, listener: TcpListener) -> Self {
        let listener = DrainListener::new(handle, listener);
        let connections = futures::stream::unfold(listener, |mut listener| async move {
            let mut stream = listener.next().await?;
            let local = stream.io.get_ref().get_ref().local_addr().ok();
            let pair = local.zip(stream.peer());
            let connection = stream.connection.clone();
            stream._peer = pair.map(|pair| StockPeer::enter(&listener.handle, pair, connection));
            Some((Ok(stream), listener))
        });
        Self(Box::pin(connections))
    }
}

#[cfg(feature = "tonic")]
impl futures::Stream for DrainIncoming {
    type Item = io::Result<DrainStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

#[cfg(feature = "tonic")]
impl fmt::Debug for DrainIncoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainIncoming").finish_non_exhaustive()
    }
}

/// `Request::remote_addr` goes on working.
#[cfg(feature = "tonic")]
impl tonic::transport::server::Connected for DrainStream {
    type ConnectInfo = tonic::transport::server::TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        Self::ConnectInfo {
            local_addr: self.io.get_ref().get_ref().local_addr().ok(),
            remote_addr: self.peer(),
        }
    }
}
