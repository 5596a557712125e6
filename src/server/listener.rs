//! Where connections come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::handshakes;

/// A bound socket that `serve` accepts from: [`TcpListener`], and on Unix `tokio::net::UnixListener`.
///
/// How each is closed without losing a client that is connected, and where that has limits:
/// [`_docs::design`](crate::_docs::design#closing-the-listener).
pub trait Listener: private::Sealed + Send + Sync + Sized + 'static {
    /// What one client is connected by.
    #[doc(hidden)]
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with the client's address where it has one.
    #[doc(hidden)]
    fn accept_one(&self)
    -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;

    /// Ignores new handshakes from now on, while those that were answered are completed and queued. An error where
    /// that cannot be asked for.
    #[doc(hidden)]
    fn ignore_handshakes(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Answers new handshakes again.
    #[doc(hidden)]
    fn answer_handshakes(&self) -> io::Result<()> {
        Ok(())
    }

    /// What was accepted while handshakes were ignored has inherited that, and is deaf until this.
    #[doc(hidden)]
    fn listen_to(_io: &Self::Io) -> io::Result<()> {
        Ok(())
    }

    /// Where it is bound, for messages.
    #[doc(hidden)]
    fn describe(&self) -> String;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept_one(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (io, peer) = self.accept().await?;
        // Answers are written whole: waiting for more to send would only delay them. A socket whose client is gone
        // refuses the option; its first read tells the same.
        let _ = io.set_nodelay(true);
        Ok((io, Some(peer)))
    }

    fn ignore_handshakes(&self) -> io::Result<()> {
        handshakes::set_ignored(self, self.local_addr()?.is_ipv6(), true)
    }

    fn answer_handshakes(&self) -> io::Result<()> {
        handshakes::set_ignored(self, self.local_addr()?.is_ipv6(), false)
    }

    fn listen_to(io: &TcpStream) -> io::Result<()> {
        handshakes::set_ignored(io, io.local_addr()?.is_ipv6(), false)
    }

    fn describe(&self) -> String {
        self.local_addr()
            .map_or_else(|e| e.to_string(), |a| a.to_string())
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept_one(&self) -> io::Result<(Self::Io, Option<SocketAddr>)> {
        self.accept().await.map(|(io, _)| (io, None))
    }

    fn describe(&self) -> String {
        self.local_addr()
            .map_or_else(|e| e.to_string(), |a| format!("{a:?}"))
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for tokio::net::TcpListener {}
    #[cfg(unix)]
    impl Sealed for tokio::net::UnixListener {}
}

/// What to do about an accept that failed: `None` to go on at once (one client's trouble), else the wait. Without
/// file descriptors (EMFILE, ENFILE) the connection stays queued and the socket stays readable, so going on at once
/// would spin.
pub(super) fn back_off(error: &io::Error) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => None,
        _ => Some(Duration::from_millis(100)),
    }
}
