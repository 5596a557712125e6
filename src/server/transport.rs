//! [`Transport`]: the socket of a connection, which counts its bytes and knows when it is cut.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::phase::Phase;

use super::connection::Connection;

/// An accepted socket: what a [`handshake`](super::Serve::handshake) is given. In flight until it is dropped, also when
/// an upgrade has taken it out of its server; from the force close on, reading, writing and flushing it fail.
///
/// It stands under TLS, so that a handshake that never ends is cut like everything else.
pub struct Transport<IO> {
    io: IO,
    connection: Arc<Connection>,
    /// When it closes whatever the client does, once it is shut down.
    closes: Option<Pin<Box<Sleep>>>,
}

impl<IO> Transport<IO> {
    pub(super) fn new(io: IO, connection: Arc<Connection>) -> Self {
        connection.enter_roster();
        Self {
            io,
            connection,
            closes: None,
        }
    }

    /// The socket itself.
    pub const fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The client's address; `None` on a Unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }
}

impl<IO> fmt::Debug for Transport<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl<IO> Drop for Transport<IO> {
    fn drop(&mut self) {
        self.connection.transport_closed();
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Transport<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.may_read(cx)?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.connection.received(buf.filled().len() - before);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> Transport<IO> {
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut IO>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.connection.may_write(cx)?;
        let polled = write(Pin::new(&mut self.io), cx);
        self.connection.sent(&polled);
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.may_write(cx)?;
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if polled.is_pending() {
            self.connection.has_to_wait();
        }
        polled
    }

    /// Closing is what a cut wants: it never fails for that.
    ///
    /// A client of HTTP/2 that is told to go may still be sending. To close over bytes that were not read resets the
    /// connection, and takes answers with it that are on their way: so it is heard out until it closes, too, for
    /// the linger at most. Under TLS what it says is not understood any more, and need not be.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.may_write(cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        let state = self.connection.state();
        if !self.connection.is_http2() || state.phase() < Phase::LameDuck {
            return Poll::Ready(Ok(()));
        }
        let linger = state.settings.linger;
        let this = &mut *self;
        let closes = this.closes.get_or_insert_with(|| Box::pin(sleep(linger)));
        if closes.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 1024];
        loop {
            let mut unread = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut unread)) {
                Ok(()) if !unread.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
