//! [`Connection`]: what is known of one accepted connection.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use http::Version;
use slab::Slab;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::handle::ShutdownHandle;
use crate::in_flight::{Closed, InFlightGuard};
use crate::phase::Phase;
use crate::request::{Countable, Head};
use crate::roster::{Entry, Straggler, Work, WorkKind};
use crate::state::State;
use crate::sync::lock;

use super::linger::{Pauses, longest_of_all, note_for_all};
use super::observed::PREFACE;
use super::ticket::RequestTicket;

/// The preface of HTTP/2 and the header of the first frame, which is SETTINGS (RFC 9113, 3.4 and 4.1).
const GREETING: u64 = PREFACE.len() as u64 + 9;

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
    /// On the socket, whatever is spoken over it.
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
    /// It has yet to finish a handshake.
    in_handshake: bool,
    /// Since when HTTP can be spoken.
    open_since: Instant,
    /// None before the first request, or the preface of HTTP/2.
    version: Option<Version>,
    /// Bytes of HTTP that have come.
    heard: u64,
    /// Up to here they belong to requests that were seen whole, so that more bytes are a new head.
    seen: u64,
    /// Since when there is no request; later, when bytes came since: of a head its first ones, of HTTP/2 the last.
    idle_since: Instant,
    /// Between an answer and the next request.
    pauses: Pauses,
    /// The request that was upgraded.
    upgraded: Option<Active>,
    /// A request began here.
    requested: bool,
    /// A request ended here that was not exempt: the next one may be on its way.
    used: bool,
    /// The transport is gone. Handlers of HTTP/2 are tasks of their own and may take notice later.
    closed: bool,
    /// Who waits for that, on an upgraded socket.
    on_close: Option<DropGuard>,
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
                in_handshake: false,
                open_since: now,
                version: None,
                heard: 0,
                seen: 0,
                idle_since: now,
                pauses: Pauses::default(),
                upgraded: None,
                requested: false,
                used: false,
                closed: false,
                on_close: None,
                entry: None,
                guard: Some(guard),
            }),
        }))
    }

    pub(super) fn state(&self) -> &State {
        self.handle.state()
    }

    /// Whoever is in the roster can be named and cut.
    pub(super) fn enter_roster(self: &Arc<Self>) {
        let entry = self.state().roster.enter(self.clone());
        lock(&self.inner).entry = Some(entry);
    }

    /// A handshake comes before HTTP.
    pub(super) fn handshake_began(&self) {
        lock(&self.inner).in_handshake = true;
    }

    /// Idle from now on, as if it had been accepted just now.
    pub(super) fn handshake_ended(&self) {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        inner.in_handshake = false;
        inner.open_since = now;
        inner.idle_since = now;
    }

    /// What a handshake is doing.
    pub(super) fn handshake_activity(&self) -> Activity {
        match self.received.load(Ordering::Relaxed) {
            0 => Activity::Idle(self.since),
            _ => Activity::PartialHead(self.since),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        lock(&self.inner).version == Some(Version::HTTP_2)
    }

    /// Whether a request of it has begun, ever.
    pub(super) fn has_requested(&self) -> bool {
        lock(&self.inner).requested
    }

    /// It is, or has yet to say enough to be something else.
    pub(super) fn may_be_http2(&self) -> bool {
        let inner = lock(&self.inner);
        inner.version == Some(Version::HTTP_2) || inner.heard < PREFACE.len() as u64
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::Relaxed)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn activity(&self) -> Activity {
        lock(&self.inner).activity()
    }

    /// The longest pause that its client made lately between two requests, for all that is known.
    pub(super) fn longest_pause(&self) -> Duration {
        let others = longest_of_all(self.state());
        let inner = lock(&self.inner);
        match inner.version {
            // It has never asked, and may have been opened for none.
            None => Duration::ZERO,
            Some(_) => inner.pauses.longest(others),
        }
    }

    /// Since when the client has been owing a whole head: the first one since it could speak, a later one since its
    /// first byte. HTTP/2 begins with preface and SETTINGS, and owes nothing after them.
    pub(super) fn owes_head_since(&self) -> Option<Instant> {
        let inner = lock(&self.inner);
        match (inner.version, inner.activity()) {
            (None, _) => Some(inner.open_since),
            (Some(Version::HTTP_2), _) => (inner.heard < GREETING).then_some(inner.open_since),
            (Some(_), Activity::PartialHead(since)) => Some(since),
            (Some(_), Activity::Busy | Activity::Idle(_)) => None,
        }
    }

    /// A whole head has arrived.
    pub(super) fn request_began(self: &Arc<Self>, head: Head<'_>, exempt: bool) -> RequestTicket {
        // Exempt requests are in no count, and keep no service from being quiet.
        if !exempt {
            self.handle.state().tally.started();
        }
        let mut inner = lock(&self.inner);
        inner.version = Some(head.version);
        inner.requested = true;
        inner.seen = inner.heard;
        let key = inner.requests.insert(Active {
            route: head.route(),
            since: Instant::now(),
            exempt,
        });
        self.hold_for(&mut inner);
        drop(inner);
        self.epoch.fetch_add(1, Ordering::Release);
        RequestTicket::new(self.clone(), key)
    }

    /// A whole head has arrived, and its answer is a refusal. Its bytes were seen: what comes next is a new head.
    pub(super) fn request_refused(&self, head: Head<'_>) {
        self.handle.state().tally.refused();
        let mut inner = lock(&self.inner);
        inner.version = Some(head.version);
        if inner.requests.is_empty() {
            inner.seen = inner.heard;
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

    /// The client has said so much.
    pub(super) fn heard(&self, bytes: &[u8], is_http2: bool) {
        let mut inner = lock(&self.inner);
        let begins = inner.heard == inner.seen;
        inner.heard += bytes.len() as u64;
        if is_http2 {
            inner.version = Some(Version::HTTP_2);
        }
        if !inner.requests.is_empty() {
            return;
        }
        // Some clients end a body with a line of its own, which is no head (RFC 9112, 2.2).
        if begins && bytes.iter().all(|byte| b"\r\n".contains(byte)) {
            inner.seen = inner.heard;
        } else if begins || inner.version == Some(Version::HTTP_2) {
            let now = Instant::now();
            if inner
                .version
                .is_some_and(|version| version <= Version::HTTP_11)
            {
                let pause = now - inner.idle_since;
                inner.pauses.note(pause);
                note_for_all(self.state(), pause);
            }
            inner.idle_since = now;
        }
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// The protocol is left: from here on the transport is the user's.
    pub(super) fn upgraded(&self, key: usize) {
        let mut inner = lock(&self.inner);
        inner.upgraded = inner.requests.get(key).cloned();
    }

    /// Breaks the upgraded socket off when this resolves, unless it is closed before.
    pub(super) fn cut_when(self: &Arc<Self>, reached: impl Future<Output = ()> + Send + 'static) {
        let closed = CancellationToken::new();
        lock(&self.inner).on_close = Some(closed.clone().drop_guard());
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            if closed.run_until_cancelled(reached).await.is_some()
                && let Some(this) = this.upgrade()
            {
                this.cut();
            }
        });
    }

    pub(super) fn request_ended(&self, key: usize, answered: bool) {
        let mut inner = lock(&self.inner);
        let counts = inner.requests.try_remove(key).is_some_and(|r| !r.exempt);
        if counts && answered {
            self.handle.state().tally.finished();
        }
        inner.used |= counts;
        let is_idle = inner.requests.is_empty();
        if is_idle {
            inner.idle_since = Instant::now();
            inner.seen = inner.heard;
        }
        self.hold_for(&mut inner);
        let over = over(&mut inner);
        drop(inner);
        drop(over);
        self.epoch.fetch_add(1, Ordering::Release);
        // On HTTP/2 the last stream may have ended in a task of its own, and the connection's must see it.
        if is_idle && self.handle.state().phase() >= Phase::LameDuck {
            self.wake_reader();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        // Acquire pairs with the release in `cut`: registered first, asked second, no wake-up is lost.
        self.cut.load(Ordering::Acquire)
    }

    fn not_cut(&self) -> io::Result<()> {
        match self.is_cut() {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "force closed by the stop",
            )),
        }
    }

    /// An error once it is cut, and whoever waits is woken then.
    pub(super) fn may_read(&self, cx: &Context<'_>) -> io::Result<()> {
        self.reader.register(cx.waker());
        self.not_cut()
    }

    /// An error once it is cut, and whoever waits is woken then.
    pub(super) fn may_write(&self, cx: &Context<'_>) -> io::Result<()> {
        self.writer.register(cx.waker());
        self.not_cut()
    }

    /// Whoever waits for the client looks again.
    pub(super) fn wake_reader(&self) {
        self.reader.wake();
    }

    /// So many bytes came on the socket.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What a write to the socket came to.
    pub(super) fn sent(&self, written: &Poll<io::Result<usize>>) {
        self.backlog.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(written)) = written {
            self.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
    }

    /// A flush waits for the client.
    pub(super) fn has_to_wait(&self) {
        self.backlog.store(true, Ordering::Relaxed);
    }

    /// The socket is gone; with the last handler the connection is over.
    pub(super) fn transport_closed(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        let gone = (over(&mut inner), inner.on_close.take());
        drop(inner);
        drop(gone);
    }
}

impl Inner {
    fn activity(&self) -> Activity {
        let is_http2 = self.version == Some(Version::HTTP_2);
        // Tunnels of HTTP/2 cannot be seen: hyper knows when the last one has ended.
        if !self.requests.is_empty() || (is_http2 && self.upgraded.is_some()) {
            Activity::Busy
        } else if self.heard > self.seen && !is_http2 {
            Activity::PartialHead(self.idle_since)
        } else {
            Activity::Idle(self.idle_since)
        }
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
            let what = if inner.in_handshake {
                "in handshake"
            } else {
                ""
            };
            add(WorkKind::Connection, what, self.since);
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
