//! Where connections come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A bound socket that `serve` accepts from: [`TcpListener`], and on Unix `tokio::net::UnixListener`.
pub trait Listener: private::Sealed + Send + Sync + Sized + 'static {
    /// What one client is connected by.
    #[doc(hidden)]
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with the client's address where it has one.
    #[doc(hidden)]
    fn accept_one(&self)
    -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;

    /// Lets no new handshake begin, where the system can do that; those that have begun go on.
    #[doc(hidden)]
    fn turn_away(&self) {}

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

    /// A filter on the socket drops SYN packets: a client sends its SYN again a second later, and meets a closed port.
    /// To shut the socket down, or to shorten its backlog, would reset what is queued.
    #[cfg(target_os = "linux")]
    fn turn_away(&self) {
        use socket2::SockFilter;
        // Flags are byte 13 of the TCP header. 0x02 is SYN, 0x10 ACK.
        let program = [
            SockFilter::new(0x30, 0, 0, 13),       // load byte 13
            SockFilter::new(0x54, 0, 0, 0x12),     // and 0x12
            SockFilter::new(0x15, 0, 1, 0x02),     // SYN without ACK?
            SockFilter::new(0x06, 0, 0, 0),        // drop
            SockFilter::new(0x06, 0, 0, u32::MAX), // keep
        ];
        if let Err(error) = socket2::SockRef::from(self).attach_filter(&program) {
            tracing::debug!(%error, "new handshakes cannot be turned away");
        }
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
