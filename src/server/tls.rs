//! The slot for TLS: a handshake between accept and HTTP, by whatever library.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::error::BoxError;
use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::state::Signal;

use super::connection::{Activity, Connection};
use super::serve_connection::HEAD;
use super::transport::Transport;

/// The bound for a handshake that was given none: TLS takes two round trips, so that even a client behind a slow and
/// lossy link has time for a lost packet or two; axum-server allows the same 10 s, Go's client waits for as long.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// What stands between accept and HTTP: [`NoHandshake`], or the closure of
/// [`Serve::handshake`](super::Serve::handshake). Not to be implemented by hand.
pub trait Handshake<IO>: private::Sealed<IO> + Send + Sync + 'static {
    /// What HTTP is spoken over.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    #[doc(hidden)]
    fn begin(&self, io: Transport<IO>) -> Begun<Self::Io>;
}

/// HTTP is spoken over the socket itself.
#[derive(Clone, Copy, Debug)]
pub struct NoHandshake;

#[doc(hidden)]
pub enum Begun<Io> {
    Done(Io),
    UnderWay(BoxFuture<'static, Result<Io, BoxError>>),
}

impl<Io> fmt::Debug for Begun<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done(_) => "Done",
            Self::UnderWay(_) => "UnderWay",
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Handshake<IO> for NoHandshake {
    type Io = Transport<IO>;

    fn begin(&self, io: Transport<IO>) -> Begun<Self::Io> {
        Begun::Done(io)
    }
}

impl<IO, F, Fut, Io, E> Handshake<IO> for F
where
    F: Fn(Transport<IO>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Io, E>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Into<BoxError>,
{
    type Io = Io;

    fn begin(&self, io: Transport<IO>) -> Begun<Io> {
        let handshake = self(io);
        Begun::UnderWay(Box::pin(async { handshake.await.map_err(Into::into) }))
    }
}

mod private {
    use super::{NoHandshake, Transport};

    pub trait Sealed<IO> {}
    impl<IO> Sealed<IO> for NoHandshake {}
    impl<IO, F: Fn(Transport<IO>) -> Fut, Fut> Sealed<IO> for F {}
}

/// The stream that HTTP is spoken over; `None` when the handshake failed, took too long, or was cut.
pub(super) async fn shake_hands<IO, H: Handshake<IO>>(
    handle: &ShutdownHandle,
    connection: &Arc<Connection>,
    handshake: &H,
    limit: Duration,
    transport: Transport<IO>,
) -> Option<H::Io> {
    let mut under_way = match handshake.begin(transport) {
        Begun::Done(io) => return Some(io),
        Begun::UnderWay(under_way) => under_way,
    };
    connection.handshake_began();
    let limit = Instant::now().checked_add(limit).unwrap_or_else(far);
    let linger = handle.state().settings.linger;
    let mut signal = handle.state().subscribe();
    loop {
        let now = *signal.borrow_and_update();
        let ends = ends(&now, connection.handshake_activity(), linger).min(limit);
        if now.cut || ends <= Instant::now() {
            tracing::debug!(peer = ?connection.peer, phase = %now.phase, "a handshake did not end in time");
            return None;
        }
        tokio::select! {
            biased;
            ended = &mut under_way => return match ended {
                Ok(io) => {
                    connection.handshake_ended();
                    Some(io)
                }
                Err(error) => {
                    tracing::debug!(peer = ?connection.peer, error, "handshake failed");
                    None
                }
            },
            _ = signal.changed() => {}
            () = sleep_until(ends) => {}
        }
    }
}

/// The drain gives a handshake what it gives to a head: the linger to begin, five seconds to end.
fn ends(signal: &Signal, activity: Activity, linger: Duration) -> Instant {
    if signal.phase < Phase::Draining {
        return far();
    }
    let drain = signal.draining_since.unwrap_or_else(Instant::now);
    match activity {
        Activity::Idle(since) => since.max(drain) + linger,
        Activity::PartialHead(since) => since.max(drain) + HEAD,
        Activity::Busy => far(),
    }
}

/// Never, for all that a timer needs to know.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(365 * 86_400)
}
