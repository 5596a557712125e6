//! [`Connection`]: what is known of one accepted connection, and the transport that knows when it is cut.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use http::Version;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::handle::ShutdownHandle;
use crate::in_flight::{Closed, InFlightGuard};
use crate::phase::Phase;
use crate::request::{Countable, Head};
use crate::roster::{Entry, Straggler, Work, WorkKind};
use crate::sync::lock;

/// One accepted connection, from before its task is spawned until its transport is closed.
///
/// It is in flight as a whole, idle or not: only its own task knows when it may close without losing a request.
pub(super) struct Connection {
    handle: ShutdownHandle,
    pub(super) peer: Option<SocketAddr>,
    /// When it was accepted.
    pub(super) since: Instant,
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
    /// None before the first request, or the preface of HTTP/2.
    version: Option<Version>,
    /// Bytes received up to here belong to requests that were seen whole, so that more bytes are a new head.
    seen: u64,
    /// Since when there is no request; later, when bytes came since: of a head its first ones, of HTTP/2 the last.
    idle_since: Instant,
    /// The request that was upgraded.
    upgraded: Option<Active>,
    /// A request began here.
    requested: bool,
    /// A request ended here that was not exempt: the next one may be on its way.
    used: bool,
    /// The transport is gone. Handlers of HTTP/2 are tasks of their own and may take notice later.
    closed: bool,
    /// Its place in the roster.
    entry: Option<Entry>,
    /// Holds the drain open. None while all that the connection was used for is exempt, or all that it does now.
    guard: Option<InFlightGuard>,
}

#[derive(Clone)]
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
                requested: false,
                used: false,
                closed: false,
                entry: None,
                guard: Some(guard),
            }),
        }))
    }

    pub(super) fn is_http2(&self) -> bool {
        lock(&self.inner).version == Some(Version::HTTP_2)
    }

    /// Whether a request of it has begun, ever.
    pub(super) fn has_requested(&self) -> bool {
        lock(&self.inner).requested
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
        let is_http2 = inner.version == Some(Version::HTTP_2);
        // Tunnels of HTTP/2 cannot be seen: hyper knows when the last one has ended.
        if !inner.requests.is_empty() || (is_http2 && inner.upgraded.is_some()) {
            Activity::Busy
        } else if received > inner.seen && !is_http2 {
            Activity::PartialHead(inner.idle_since)
        } else {
            Activity::Idle(inner.idle_since)
        }
    }

    /// A whole head has arrived.
    pub(super) fn request_began(self: &Arc<Self>, head: Head<'_>, exempt: bool) -> RequestTicket {
        // Exempt requests are in no count, and keep no service from being quiet.
        if !exempt {
            self.handle.state().tally.started();
        }
        let received = self.received();
        let mut inner = lock(&self.inner);
        inner.version = Some(head.version);
        inner.requested = true;
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
            ended: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// A whole head has arrived, and its answer is a refusal. Its bytes were seen: what comes next is a new head.
    pub(super) fn request_refused(&self, head: Head<'_>) {
        self.handle.state().tally.refused();
        let received = self.received();
        let mut inner = lock(&self.inner);
        inner.version = Some(head.version);
        if inner.requests.is_empty() {
            inner.seen = received;
            inner.idle_since = Instant::now();
        }
        drop(inner);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// The drain is held open by connections that were not used for exempt work alone, but not by exempt work. Taken
    /// up again it may be too late: then the drain is over, and the connection is about to be cut.
    fn hold_for(&self, inner: &mut Inner) {
        let mut work = inner.requests.iter().map(|(_, r)| r).chain(&inner.upgraded);
        let (busy, exempt) = (work.clone().next().is_some(), work.all(|r| r.exempt));
        if busy && exempt {
            inner.guard = None;
        } else if inner.guard.is_none() && (busy || inner.used) && !inner.closed {
            inner.guard = self.handle.state().in_flight.enter().ok();
        }
    }

    /// It does not hold the drain open any more, for who knows better than it what it does.
    #[cfg(feature = "tonic")]
    pub(super) fn release(&self) {
        let guard = lock(&self.inner).guard.take();
        drop(guard);
    }

    /// It does again. When the drain is over it is about to be cut.
    #[cfg(feature = "tonic")]
    pub(super) fn hold(&self) {
        let mut inner = lock(&self.inner);
        if inner.guard.is_none() && !inner.closed {
            inner.guard = self.handle.state().in_flight.enter().ok();
        }
    }

    /// Bytes have come.
    fn heard(&self, bytes: u64, is_http2: bool) {
        let before = self.received.fetch_add(bytes, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        if is_http2 {
            inner.version = Some(Version::HTTP_2);
        }
        if inner.requests.is_empty() {
            if before == inner.seen || inner.version == Some(Version::HTTP_2) {
                inner.idle_since = Instant::now();
            }
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// The protocol is left: from here on the transport is the user's.
    pub(super) fn upgraded(&self, key: usize) {
        let mut inner = lock(&self.inner);
        inner.upgraded = inner.requests.get(key).cloned();
    }

    fn request_ended(&self, key: usize, answered: bool) {
        let received = self.received();
        let mut inner = lock(&self.inner);
        let counts = inner.requests.try_remove(key).is_some_and(|r| !r.exempt);
        if counts && answered {
            self.handle.state().tally.finished();
        }
        inner.used |= counts;
        let is_idle = inner.requests.is_empty();
        if is_idle {
            inner.idle_since = Instant::now();
            inner.seen = received;
        }
        self.hold_for(&mut inner);
        let over = over(&mut inner);
        drop(inner);
        drop(over);
        self.epoch.fetch_add(1, Ordering::Release);
        // On HTTP/2 the last stream may have ended in a task of its own, and the connection's must see it.
        if is_idle && self.handle.state().phase() >= Phase::LameDuck {
            self.reader.wake();
        }
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

/// What goes when both the transport and the last handler are gone; out of the roster before the count falls.
fn over(inner: &mut Inner) -> Option<(Option<Entry>, Option<InFlightGuard>)> {
    let over = inner.closed && inner.requests.is_empty();
    over.then(|| (inner.entry.take(), inner.guard.take()))
}

impl Countable for Connection {
    fn exempt(&self, key: usize) {
        let mut inner = lock(&self.inner);
        if let Some(request) = inner.requests.get_mut(key)
            && !std::mem::replace(&mut request.exempt, true)
        {
            self.handle.state().tally.not_started();
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
        if let Some(upgraded) = &inner.upgraded {
            if !upgraded.exempt {
                add(WorkKind::Upgrade, &upgraded.route, upgraded.since);
            }
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

/// Held by the response body of one request, and by its frames until they are sent.
pub(super) struct RequestTicket {
    pub(super) connection: Arc<Connection>,
    pub(super) key: usize,
    ended: AtomicBool,
    lost: AtomicBool,
}

impl RequestTicket {
    /// The last frame of the answer was handed over.
    pub(super) fn ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A part of the answer was dropped before it was sent.
    pub(super) fn lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Drop for RequestTicket {
    fn drop(&mut self) {
        // Cut, the request is a straggler, whatever its handler still made of that.
        let cut = self.connection.cut.load(Ordering::Acquire);
        let answered = *self.ended.get_mut() && !*self.lost.get_mut() && !cut;
        self.connection.request_ended(self.key, answered);
    }
}

/// The transport of a connection: counts its bytes, and fails once it is cut. Dropped, the connection is over, also
/// when an upgrade had taken it out of its task.
pub(super) struct Transport<IO> {
    io: IO,
    connection: Arc<Connection>,
    /// How many bytes the client began with are the preface of HTTP/2; `None` once it is known.
    preface: Option<usize>,
    /// When it closes whatever the client does, once it is shut down.
    closes: Option<Pin<Box<Sleep>>>,
}

/// How a client begins that knows that it speaks HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<IO> Transport<IO> {
    pub(super) fn new(io: IO, connection: Arc<Connection>) -> Self {
        let entry = connection.handle.state().roster.enter(connection.clone());
        lock(&connection.inner).entry = Some(entry);
        Self {
            io,
            connection,
            preface: Some(0),
            closes: None,
        }
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

impl<IO> Transport<IO> {
    #[cfg(feature = "tonic")]
    pub(super) const fn io(&self) -> &IO {
        &self.io
    }

    #[cfg(feature = "tonic")]
    pub(super) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }
}

impl<IO> Drop for Transport<IO> {
    fn drop(&mut self) {
        let mut inner = lock(&self.connection.inner);
        inner.closed = true;
        let over = over(&mut inner);
        drop(inner);
        drop(over);
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
            let is_http2 = self.is_preface(&buf.filled()[before..]);
            self.connection.heard(read as u64, is_http2);
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
        self.connection.writer.register(cx.waker());
        self.connection.is_cut()?;
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if polled.is_pending() {
            self.connection.backlog.store(true, Ordering::Relaxed);
        }
        polled
    }

    /// Closing is what a cut wants: it never fails for that.
    ///
    /// A client of HTTP/2 that is told to go may still be sending. To close over bytes that were not read resets the
    /// connection, and takes answers with it that are on their way: so it is heard out until it closes, too, for
    /// the linger at most.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.writer.register(cx.waker());
        if self.connection.is_cut().is_err() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        if !self.connection.is_http2() || self.connection.handle.phase() < Phase::LameDuck {
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let linger = this.connection.handle.state().settings.linger;
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
