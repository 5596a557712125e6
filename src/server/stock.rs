//! The coordinator's listener for stock servers: `axum::serve` and tonic.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::handle::ShutdownHandle;
use crate::state::{Holdback, State};

use super::acceptor::Acceptor;
use super::connection::Transport;
#[cfg(feature = "tonic")]
use super::peer::StockPeer;

/// One count in the state's holdback, for as long as it lives.
#[derive(Debug)]
struct Held {
    state: Arc<State>,
    count: fn(&mut Holdback) -> &mut usize,
}

impl Held {
    fn new(handle: &ShutdownHandle, count: fn(&mut Holdback) -> &mut usize) -> Self {
        let state = handle.state().clone();
        state.holdback.send_modify(|held| *count(held) += 1);
        Self { state, count }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state
            .holdback
            .send_modify(|held| *(self.count)(held) -= 1);
    }
}

/// A TCP listener whose connections the coordinator counts, sweeps and can cut; for a server that accepts by itself.
/// From [`ShutdownCoordinator::listener`](crate::ShutdownCoordinator::listener).
pub struct DrainListener {
    handle: ShutdownHandle,
    acceptor: Acceptor<TcpListener>,
    #[cfg(feature = "axum")]
    address: io::Result<SocketAddr>,
    /// Until it was swept, no server is told to drain.
    held: Option<Held>,
}

impl DrainListener {
    pub(crate) fn new(handle: &ShutdownHandle, listener: TcpListener) -> Self {
        Self {
            handle: handle.clone(),
            #[cfg(feature = "axum")]
            address: listener.local_addr(),
            acceptor: Acceptor::for_stock(handle, listener),
            held: Some(Held::new(handle, |held| &mut held.listeners)),
        }
    }

    /// The next connection; `None` once the listener was swept and closed.
    async fn next(&mut self) -> Option<DrainStream> {
        let next = self.acceptor.next().await;
        if next.is_none() {
            self.held = None;
        }
        let (_, transport) = next?;
        Some(DrainStream {
            transport,
            #[cfg(feature = "tonic")]
            _peer: None,
            _held: Held::new(&self.handle, |held| &mut held.connections),
        })
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
pub struct DrainStream {
    transport: Transport<TcpStream>,
    /// Where requests know by which connection they came.
    #[cfg(feature = "tonic")]
    _peer: Option<StockPeer>,
    _held: Held,
}

impl DrainStream {
    fn peer(&self) -> Option<SocketAddr> {
        self.transport.peer()
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
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for DrainStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
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
    pub(crate) fn new(handle: &ShutdownHandle, listener: TcpListener) -> Self {
        let listener = DrainListener::new(handle, listener);
        let connections = futures::stream::unfold(listener, |mut listener| async move {
            let mut stream = listener.next().await?;
            let pair = stream.transport.io().local_addr().ok().zip(stream.peer());
            let connection = stream.transport.connection().clone();
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
            local_addr: self.transport.io().local_addr().ok(),
            remote_addr: self.peer(),
        }
    }
}
