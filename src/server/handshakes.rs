//! A listener that answers no new handshake while what is queued on it is accepted (S4).
//!
//! The kernel has no call for that. A BPF filter on the socket needs a capability that pods don't have; asking for a
//! TTL that packets do not arrive with needs none: a SYN is ignored, the client sends it again after a second, and then
//! the closed port refuses it. Seen on Linux 6.18, with two network stacks 50 ms apart:
//!
//! - What is queued is not touched: the option of a connection is that of its listener when its handshake ended.
//! - A handshake that is half done (SYN answered, ACK on its way) goes on and is queued, since the kernel asks for the
//!   TTL only after it has looked for it. The connection has inherited the option by then and is deaf until the option
//!   is reset, which is done as soon as it is accepted. The client sends again what it sent before that, after 200 ms
//!   and more: late, not lost.
//! - The listener closed before that ACK is there, the client is connected and gets a reset. So handshakes are ignored
//!   for a round trip before.

use std::io;

/// Higher than what hosts send with (Linux and the BSDs 64, Windows 128). Those that do send with 255, on the same
/// link, are heard as before; then the sweep ends by its bound.
#[cfg(target_os = "linux")]
const UNREACHABLE: libc::c_int = 255;

/// Makes the kernel ignore what arrives on the socket, or listen to it again. For a listener that ends new
/// handshakes; for what it accepted meanwhile, all data. An error leaves it listening.
#[cfg(target_os = "linux")]
pub(super) fn set_ignored(
    socket: &(impl std::os::fd::AsFd + ?Sized),
    is_ipv6: bool,
    ignored: bool,
) -> io::Result<()> {
    let socket = socket.as_fd();
    let least = if ignored { UNREACHABLE } else { 0 };
    set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, least)?;
    // IPv4 clients of an IPv6 socket are judged by the one, its own by the other.
    if is_ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, least).inspect_err(
            |_| {
                // Half of it is worse than none. It was set a moment ago, so it can be set back.
                let _ = set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, 0);
            },
        )?;
    }
    Ok(())
}

/// Other systems have no such option, or give it another meaning.
#[cfg(not(target_os = "linux"))]
pub(super) fn set_ignored<S: ?Sized>(_: &S, _is_ipv6: bool, _ignored: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `setsockopt` with a number. libc, because neither std nor rustix 1.1, socket2 0.6 or nix 0.31 has these two
/// options, and none of them has a safe call for an option that it does not know.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(super) fn set_option(
    socket: std::os::fd::BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: the descriptor is open while it is borrowed. The kernel reads `size_of::<c_int>()` bytes from a `c_int`
    // that outlives the call, keeps no pointer to it and writes nothing. Both options change how packets are judged,
    // not what anybody's memory or descriptor means.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_is_ignored_until_it_is_answered_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let queued = connect(&listener).unwrap();
        set_ignored(&listener, false, true).unwrap();
        assert_eq!(connect(&listener).unwrap_err().kind(), ErrorKind::TimedOut);
        let peer = listener.accept().expect("it was queued before").1;
        assert_eq!(peer, queued.local_addr().unwrap());
        set_ignored(&listener, false, false).unwrap();
        connect(&listener).unwrap();
    }

    #[test]
    fn half_of_it_is_taken_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = set_ignored(&listener, true, true).expect_err("an IPv4 socket");
        assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
        connect(&listener).expect("it is as it was");
    }

    fn connect(listener: &TcpListener) -> io::Result<TcpStream> {
        let address: SocketAddr = listener.local_addr()?;
        TcpStream::connect_timeout(&address, Duration::from_millis(100))
    }
}
