//! [`Watched`]: a connection of hyper's or hyper-util's that somebody else's loop has accepted.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::error::BoxError;
use crate::handle::{Guard, ShutdownHandle};
use crate::in_flight::Closed;
use crate::roster::{Straggler, Work, WorkKind};

use super::held::Held;

pin_project! {
    /// A connection that holds the drain open until it has ended; from
    /// [`ShutdownHandle::watch`](crate::ShutdownHandle::watch). To be awaited, or spawned.
    #[must_use = "a connection does nothing until it is polled"]
    pub struct Watched<C> {
        #[pin]
        connection: C,
        // Until it was told to finish.
        draining: Option<BoxFuture<'static, ()>>,
        work: Arc<WatchedWork>,
        // Gone with the connection.
        guard: Option<Guard>,
        held: Option<Held>,
    }
}

impl<C> Watched<C> {
    #[track_caller]
    pub(crate) fn new(handle: &ShutdownHandle, connection: C) -> Result<Self, Closed> {
        let work = Arc::new(WatchedWork {
            at: Location::caller(),
            peer: OnceLock::new(),
            since: Instant::now(),
            cut: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let guard = handle.enter(work.clone())?;
        Ok(Self {
            connection,
            // In this order: it is told when no connection is held back any more.
            held: Some(Held::new(handle, |held| &mut held.connections)),
            draining: Some(Box::pin(handle.draining())),
            work,
            guard: Some(guard),
        })
    }

    /// Who is at the other end, for the report. The first one counts.
    pub fn peer(self, peer: SocketAddr) -> Self {
        let _is_known = self.work.peer.set(peer);
        self
    }
}

impl<C> Future for Watched<C>
where
    C: GracefulConnection,
    C::Error: Into<BoxError>,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        this.work.waker.register(cx.waker());
        let ended = if this.work.cut.load(Ordering::Acquire) {
            Err("force closed: the drain is over".into())
        } else {
            if let Some(draining) = this.draining
                && draining.as_mut().poll(cx).is_ready()
            {
                *this.draining = None;
                this.connection.as_mut().graceful_shutdown();
            }
            std::task::ready!(this.connection.poll(cx)).map_err(Into::into)
        };
        *this.guard = None;
        *this.held = None;
        Poll::Ready(ended)
    }
}

impl<C> fmt::Debug for Watched<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("peer", &self.work.peer.get())
            .field("told", &self.draining.is_none())
            .finish_non_exhaustive()
    }
}

/// A watched connection in the roster. What is under it is its owner's: it is cut by not being polled any more.
struct WatchedWork {
    at: &'static Location<'static>,
    peer: OnceLock<SocketAddr>,
    since: Instant,
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Work for WatchedWork {
    fn describe(&self, into: &mut Vec<Straggler>) {
        into.push(Straggler {
            kind: WorkKind::Connection,
            what: format!("watched ({}:{})", self.at.file(), self.at.line()).into(),
            peer: self.peer.get().copied(),
            age: self.since.elapsed(),
            bytes: None,
        });
    }

    fn cut(&self) {
        // Release pairs with the acquire in `poll`, which registers first.
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}
