//! [`Connection`]: what is known of one accepted connection, and the transport that knows when it is cut.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use http::Version;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::handle::ShutdownHandle;
use crate::in_flight::{Closed, InFlightGuard};
use crate::request::{Countable, Head, Ticket};
use crate::roster::{Entry, Straggler, Work, WorkKind};
use crate::sync::lock;

/// One accepted connection, from before its task is spawned until its transport is closed.
///
/// It is in flight as a whole, idle or not: only its own task knows when it may close without losing a request.
pub(super) struct Connection {
    handle: ShutdownHandle,
    pub(super) peer: Option<SocketAddr>,
    since: Instant,
    /// Its place among all clients, between 0 and 1: when it is asked to leave.
    pub(super) share: f64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Counts beginnings and ends of requests: what the task looks at to see that something changed.
    epoch: AtomicU32,
    cut: AtomicBool,
    /// The last write or flush had to wait: there are bytes that the client has yet to take.
    backlog: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    inner: Mutex<Inner>,
}

struct Inner {
    requests: Slab<Active>,
    /// None before the first request.
    version: Option<Version>,
    /// Bytes received up to here belong to requests that were seen whole, so that more bytes are a new head.
    seen: u64,
    /// Since when there is no request.
    idle_since: Instant,
    /// The route of the request that was upgraded.
    upgraded: Option<String>,
    /// Holds the drain open. None while all that the connection was used for is exempt.
    guard: Option<InFlightGuard>,
}

struct Active {
    route: String,
    since: Instant,
    exempt: bool,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// A request is in flight.
    Busy,
    /// Bytes of a head have arrived, since about then.
    PartialHead(Instant),
    /// Nothing is under way, since then.
    Idle(Instant),
}

impl Connection {
    /// Counted here, before anything is spawned (T1).
    pub(super) fn accepted(
        handle: &ShutdownHandle,
        peer: Option<SocketAddr>,
        share: f64,
    ) -> Result<Arc<Self>, Closed> {
        let guard = handle.state().in_flight.enter()?;
        let now = Instant::now();
        Ok(Arc::new(Self {
            handle: handle.clone(),
            peer,
            since: now,
            share,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            cut: AtomicBool::new(false),
            backlog: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            inner: Mutex::new(Inner {
                requests: Slab::new(),
                version: None,
                seen: 0,
                idle_since: now,
                upgraded: None,
                guard: Some(guard),
            }),
        }))
    }

    pub(super) fn is_http2(&self) -> bool {
        lock(&self.inner).version == Some(Version::HTTP_2)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::Relaxed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn activity(&self) -> Activity {
        let received = self.received();
        let inner = lock(&self.inner);
        if !inner.requests.is_empty() {
            Activity::Busy
        } else if received > inner.seen && inner.version != Some(Version::HTTP_2) {
            Activity::PartialHead(inner.idle_since)
        } else {
            Activity::Idle(inner.idle_since)
        }
    }

    /// A whole head has arrived.
    pub(super) fn request_began(self: &Arc<Self>, head: Head<'_>, exempt: bool) -> RequestTicket {
        self.handle.state().tally.started();
        let received = self.received();
        let mut inner = lock(&self.inner);
        inner.version = Some(head.version);
        inner.seen = received;
        let key = inner.requests.insert(Active {
            route: head.route(),
            since: Instant::now(),
            exempt,
        });
        self.hold_for(&mut inner);
        drop(inner);
        self.epoch.fetch_add(1, Ordering::Release);
        RequestTicket {
            connection: self.clone(),
            key,
            answered: false,
        }
    }

    /// The drain is held open by connections that were not used for exempt work alone. Taken up again it may be too
    /// late: then the drain is over, and the connection is about to be cut.
    fn hold_for(&self, inner: &mut Inner) {
        let exempt = !inner.requests.is_empty() && inner.requests.iter().all(|(_, r)| r.exempt);
        if exempt {
            inner.guard = None;
        } else if inner.guard.is_none() && !inner.requests.is_empty() {
            inner.guard = self.handle.state().in_flight.enter().ok();
        }
    }

    /// The protocol is left: from here on the transport is the user's.
    pub(super) fn upgraded(&self, key: usize) {
        let mut inner = lock(&self.inner);
        inner.upgraded = inner.requests.get(key).map(|r| r.route.clone());
    }

    fn request_ended(&self, key: usize) {
        let received = self.received();
        let mut inner = lock(&self.inner);
        inner.requests.try_remove(key);
        if inner.requests.is_empty() {
            inner.idle_since = Instant::now();
            inner.seen = received;
        }
        self.hold_for(&mut inner);
        drop(inner);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn is_cut(&self) -> io::Result<()> {
        // Acquire pairs with the release in `cut`: registered first, asked second, no wake-up is lost.
        if self.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "force closed: the drain is over",
            ));
        }
        Ok(())
    }
}

impl Countable for Connection {
    fn exempt(&self, key: usize) {
        let mut inner = lock(&self.inner);
        if let Some(request) = inner.requests.get_mut(key) {
            request.exempt = true;
        }
        self.hold_for(&mut inner);
    }
}

impl Work for Connection {
    fn describe(&self, into: &mut Vec<Straggler>) {
        let inner = lock(&self.inner);
        let bytes = Some((
            self.received.load(Ordering::Relaxed),
            self.sent.load(Ordering::Relaxed),
        ));
        let mut add = |kind, what: &str, since: Instant| {
            into.push(Straggler {
                kind,
                what: what.to_owned().into(),
                peer: self.peer,
                age: since.elapsed(),
                bytes,
            });
        };
        for (_, request) in inner.requests.iter().filter(|(_, r)| !r.exempt) {
            add(WorkKind::Request, &request.route, request.since);
        }
        if let Some(route) = &inner.upgraded {
            add(WorkKind::Upgrade, route, self.since);
        } else if inner.requests.is_empty() && inner.guard.is_some() {
            add(WorkKind::Connection, "", self.since);
        }
    }

    /// Read, write and flush fail from now on, and whoever waits for them is woken. The own task drops the protocol
    /// and with it the handlers; this is for sockets that left it by an upgrade.
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }
}

/// Held by the response body of one request.
pub(super) struct RequestTicket {
    pub(super) connection: Arc<Connection>,
    pub(super) key: usize,
    answered: bool,
}

impl Ticket for RequestTicket {
    fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for RequestTicket {
    fn drop(&mut self) {
        if self.answered {
            self.connection.handle.state().tally.finished();
        }
        self.connection.request_ended(self.key);
    }
}

/// The transport of a connection: counts its bytes, and fails once it is cut. Dropped, the connection is over, also
/// when an upgrade had taken it out of its task.
pub(super) struct Transport<IO> {
    io: IO,
    connection: Arc<Connection>,
    /// Out of the roster before the count falls.
    entry: Option<Entry>,
}

impl<IO> Transport<IO> {
    pub(super) fn new(io: IO, connection: Arc<Connection>) -> Self {
        let entry = connection.handle.state().roster.enter(connection.clone());
        Self {
            io,
            connection,
            entry: Some(entry),
        }
    }
}

impl<IO> Transport<IO> {
    #[cfg(feature = "tonic")]
    pub(super) const fn io(&self) -> &IO {
        &self.io
    }

    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }
}

impl<IO> Drop for Transport<IO> {
    fn drop(&mut self) {
        self.entry = None;
        let guard = lock(&self.connection.inner).guard.take();
        drop(guard);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Transport<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.reader.register(cx.waker());
        self.connection.is_cut()?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            let connection = &self.connection;
            if lock(&connection.inner).requests.is_empty() {
                connection.epoch.fetch_add(1, Ordering::Release);
            }
            connection
                .received
                .fetch_add(read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> Transport<IO> {
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut IO>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.connection.writer.register(cx.waker());
        self.connection.is_cut()?;
        let polled = write(Pin::new(&mut self.io), cx);
        self.connection
            .backlog
            .store(polled.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(written)) = &polled {
            self.connection
                .sent
                .fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Transport<IO> {
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
        self.connection.writer.register(cx.waker());
        self.connection.is_cut()?;
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if polled.is_pending() {
            self.connection.backlog.store(true, Ordering::Relaxed);
        }
        polled
    }

    /// Closing is what a cut wants: it never fails for that.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.writer.register(cx.waker());
        if self.connection.is_cut().is_err() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
