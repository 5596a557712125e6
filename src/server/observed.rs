//! [`Observed`]: what HTTP is spoken over, and what can be seen of it from outside of hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;

/// How a client begins that knows that it speaks HTTP/2 (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The stream of a connection that HTTP is spoken over: its [`Transport`](super::Transport), or what a handshake made of
/// that. Tells the connection of the bytes that the client has said, in the clear.
pub(super) struct Observed<IO> {
    io: IO,
    connection: Arc<Connection>,
    /// How many bytes the client began with are the preface of HTTP/2; `None` once it is known.
    preface: Option<usize>,
}

impl<IO> Observed<IO> {
    pub(super) const fn new(io: IO, connection: Arc<Connection>) -> Self {
        Self {
            io,
            connection,
            preface: Some(0),
        }
    }

    #[cfg(feature = "tonic")]
    pub(super) const fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Whether these bytes complete the preface of HTTP/2.
    fn is_preface(&mut self, bytes: &[u8]) -> bool {
        let Some(seen) = self.preface else {
            return false;
        };
        let n = bytes.len().min(PREFACE.len() - seen);
        let goes_on = bytes[..n] == PREFACE[seen..seen + n];
        let whole = goes_on && seen + n == PREFACE.len();
        self.preface = (goes_on && !whole).then_some(seen + n);
        whole
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Observed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            let is_http2 = self.is_preface(read);
            self.connection.heard(read, is_http2);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Observed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
