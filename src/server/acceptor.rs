//! [`Acceptor`]: a listener from its first connection to its closing, for the own loop and for stock servers.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::roster::{Straggler, Work};

use super::connection::{Connection, Transport};
use super::listener::{Listener, back_off};

/// The accept queue counts as empty after this long without a connection: the kernel hands over a finished handshake
/// at once, tokio's reactor within a millisecond or two.
const SWEPT: Duration = Duration::from_millis(20);

/// The sweep is bounded: where new handshakes cannot be turned away, it would never end while clients go on connecting.
const SWEEP: Duration = Duration::from_millis(250);

/// A listener under a coordinator: holds the drain open until its accept queue was swept and it is closed (S4).
pub(super) struct Acceptor<L> {
    handle: ShutdownHandle,
    /// None once it is closed.
    open: Option<Open<L>>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// When the sweep ends at the latest, once it has begun.
    sweep_by: Option<Instant>,
    accepted: u64,
}

struct Open<L> {
    listener: L,
    _guard: Guard,
}

impl<L: Listener> Acceptor<L> {
    /// Counted at once: what was made for a coordinator is waited for by it.
    pub(super) fn new(handle: &ShutdownHandle, listener: L) -> Self {
        let guard = handle.enter(Arc::new(OpenListener));
        Self {
            open: guard.ok().map(|guard| Open {
                listener,
                _guard: guard,
            }),
            draining: Box::pin(handle.wait_for(Phase::Draining)),
            handle: handle.clone(),
            sweep_by: None,
            accepted: 0,
        }
    }

    /// The next connection, counted before it is handed out (T1); `None` once the listener was swept and closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub(super) async fn next(&mut self) -> Option<(Arc<Connection>, Transport<L::Io>)> {
        loop {
            let listener = &self.open.as_ref()?.listener;
            let accepted = match self.sweep_by {
                None => tokio::select! {
                    biased;
                    () = &mut self.draining => {
                        listener.turn_away();
                        self.sweep_by = Some(Instant::now() + SWEEP);
                        continue;
                    }
                    accepted = listener.accept_one() => accepted,
                },
                Some(end) if end <= Instant::now() => return self.close(),
                // What connected before the listener closes is served: dropped with the queue, it would be reset
                // after its handshake, often with a request already sent (T9).
                Some(end) => {
                    let quiet = end.min(Instant::now() + SWEPT);
                    match timeout_at(quiet, listener.accept_one()).await {
                        Ok(accepted) => accepted,
                        Err(_) => return self.close(),
                    }
                }
            };
            if let Some(connection) = self.admit(accepted).await {
                return Some(connection);
            }
        }
    }

    async fn admit(
        &mut self,
        accepted: io::Result<(L::Io, Option<SocketAddr>)>,
    ) -> Option<(Arc<Connection>, Transport<L::Io>)> {
        match accepted {
            Ok((io, peer)) => {
                let share = golden_share(self.accepted);
                self.accepted += 1;
                // Refused only after a force close: the drain was cut while the listener was open.
                let connection = Connection::accepted(&self.handle, peer, share).ok()?;
                let transport = Transport::new(io, connection.clone());
                Some((connection, transport))
            }
            Err(error) => {
                match back_off(&error) {
                    None => tracing::debug!(%error, "a client gave up before it was accepted"),
                    Some(wait) => {
                        tracing::error!(listener = %self, %error, ?wait, "accept failed");
                        // In the sweep: often enough for a connection that ends to make room.
                        let sweeps = self.sweep_by.is_some();
                        tokio::time::sleep(if sweeps { SWEPT / 4 } else { wait }).await;
                    }
                }
                None
            }
        }
    }

    fn close<T>(&mut self) -> Option<T> {
        tracing::info!(listener = %self, accepted = self.accepted, "listener closed");
        self.open = None;
        None
    }
}

impl<L: Listener> fmt::Display for Acceptor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open {
            Some(open) => f.write_str(&open.listener.describe()),
            None => f.write_str("closed"),
        }
    }
}

/// The n-th of a sequence that fills the range from 0 to 1 evenly however far it goes: multiples of the golden ratio.
#[allow(clippy::cast_precision_loss)] // past 2^53 connections the shares get coarser
fn golden_share(n: u64) -> f64 {
    (n as f64 * 0.618_033_988_749_894_9).fract()
}

/// Holds the drain open until the listener is swept and closed.
struct OpenListener;

impl Work for OpenListener {
    fn describe(&self, _into: &mut Vec<Straggler>) {}

    fn cut(&self) {}
}
