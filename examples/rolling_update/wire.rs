//! The load generator's connections, and how it knows that one may not be used any more.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub type NoBody = Empty<Bytes>;
/// Of a gRPC call; an empty one is no body.
pub type Payload = Full<Bytes>;

/// An HTTP/1.1 connection that carries no request at the moment.
pub struct Http1 {
    pub sender: http1::SendRequest<NoBody>,
    pub local: SocketAddr,
    socket: Weak<TcpStream>,
}

impl Http1 {
    /// # Errors
    ///
    /// When the connection can't be made, with the local address if there was one by then.
    pub async fn dial(gateway: SocketAddr) -> Result<Self, Option<SocketAddr>> {
        let (wire, local) = Wire::dial(gateway).await.map_err(|_| None)?;
        let socket = Arc::downgrade(&wire.0);
        let (sender, connection) = http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|_| Some(local))?;
        // Its errors reach the request it carries; without one there is nobody to tell.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self {
            sender,
            local,
            socket,
        })
    }

    /// Whether a careful client would send another request on it: hyper thinks it open, and the kernel has neither a
    /// FIN nor a RST for it. hyper alone learns of a FIN only when its task is scheduled; a request sent in between
    /// would be lost by the client's own fault.
    pub fn is_open(&self) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        let Some(socket) = self.socket.upgrade() else {
            return false;
        };
        // The socket does not block. Nothing to read is the one good answer: 0 is a FIN, and bytes that nobody asked
        // for are a server's farewell.
        let peeked = SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit(); 1]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// An HTTP/2 connection, shared by the requests on it.
#[derive(Clone)]
pub struct Http2 {
    pub sender: http2::SendRequest<Payload>,
    pub local: SocketAddr,
}

impl Http2 {
    /// # Errors
    ///
    /// As [`Http1::dial`].
    pub async fn dial(gateway: SocketAddr) -> Result<Self, Option<SocketAddr>> {
        let (wire, local) = Wire::dial(gateway).await.map_err(|_| None)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(wire))
            .await
            .map_err(|_| Some(local))?;
        tokio::spawn(async move { connection.await.ok() });
        Ok(Self { sender, local })
    }
}

/// A TCP stream that can be looked at while hyper owns it.
struct Wire(Arc<TcpStream>);

impl Wire {
    async fn dial(to: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((Self(Arc::new(stream)), local))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
