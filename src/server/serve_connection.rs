//! The task of one connection: protocol, requests, and the moment at which it may close.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tower::util::Oneshot;

use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::request::{
    ConnectionInfo, Ending, Exempt, Head, has_no_body, is_exempt, is_refused, leaves_http,
    say_close,
};
use crate::rotation::{asked_at, is_asked, is_late};
use crate::state::Signal;
use crate::stream::{StopSignal, StreamBody, is_grpc, refusal};

use super::HttpService;
use super::body::ServedBody;
use super::connection::{Activity, Connection};
use super::linger::closes_at;
use super::observed::Observed;
use super::ticket::RequestTicket;

/// How long a head may take to arrive in the drain once its first byte has: longer than any honest client needs,
/// shorter than a drain.
pub(super) const HEAD: Duration = Duration::from_secs(5);

/// How long a head may take otherwise: hyper's own figure.
pub(super) const HEADER_READ: Duration = Duration::from_secs(30);

/// What all connections of one server have in common.
pub(super) struct Options {
    pub(super) exempt: Option<Exempt>,
    pub(super) header_read_timeout: Option<Duration>,
    pub(super) half_close: bool,
}

impl Options {
    /// When the connection is closed, if its client has not sent the head that it owes by then.
    fn head_due(&self, connection: &Connection) -> Option<Instant> {
        let since = connection.owes_head_since()?;
        since.checked_add(self.header_read_timeout?)
    }
}

pub(super) async fn serve_connection<IO, S>(
    handle: ShutdownHandle,
    connection: Arc<Connection>,
    io: IO,
    service: S,
    options: Arc<Options>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService,
{
    let service = Counting {
        service,
        handle: handle.clone(),
        connection: connection.clone(),
        options: options.clone(),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // WebSockets over HTTP/2 (RFC 8441).
    builder.http2().enable_connect_protocol();
    builder.http1().half_close(options.half_close);
    let io = TokioIo::new(Observed::new(io, connection.clone()));
    let protocol = builder.serve_connection_with_upgrades(io, service);
    tokio::pin!(protocol);

    let mut signal = handle.state().subscribe();
    let mut epoch = connection.epoch();
    let mut told = false;
    loop {
        let now = *signal.borrow_and_update();
        if now.cut {
            // Dropping the protocol drops the handlers. An upgraded transport is not in here any more.
            return;
        }
        let head_due = options.head_due(&connection);
        if head_due.is_some_and(|due| due <= Instant::now()) {
            tracing::debug!(peer = ?connection.peer, "closed: no whole request head in time");
            return;
        }
        let at = match next_step(&now, &connection, told, handle.state().settings.linger) {
            Next::Tell => {
                told = true;
                protocol.as_mut().graceful_shutdown();
                continue;
            }
            Next::Close => return,
            Next::At(at) => Some(head_due.map_or(at, |due| due.min(at))),
            Next::Wait => head_due,
        };
        // A request that begins or ends moves the moment to close, and a new connection turns out to be HTTP/2;
        // before the lame duck nobody asks. A head that has begun must end.
        let watch_requests = now.phase >= Phase::LameDuck;
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = protocol.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            let before = std::mem::replace(&mut epoch, connection.epoch());
            let moved = || watch_requests || options.head_due(&connection) != head_due;
            if before != epoch && moved() {
                return Poll::Ready(None);
            }
            Poll::Pending
        });
        tokio::select! {
            biased;
            ended = ended => if let Some(ended) = ended {
                if let Err(error) = ended {
                    tracing::debug!(peer = ?connection.peer, error, "connection ended");
                }
                return;
            },
            _ = signal.changed() => {}
            () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {}
        }
    }
}

/// What the task of a connection does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, until the phase or a request changes.
    Wait,
    /// Look again then.
    At(Instant),
    /// Tell the protocol to finish: GOAWAY, or close after the answer, or close now if idle.
    Tell,
    /// Drop the transport.
    Close,
}

/// When a connection may be told to finish, or be closed, without losing a request that is on its way.
fn next_step(signal: &Signal, connection: &Connection, told: bool, linger: Duration) -> Next {
    let now = Instant::now();
    let when = |at: Instant, then: Next| if at <= now { then } else { Next::At(at) };
    match (signal.phase, signal.lame_duck, signal.draining_since) {
        (Phase::Starting | Phase::Ready | Phase::PreStop, ..) => Next::Wait,
        // HTTP/1 clients are told by a header on their next answer; only HTTP/2 has a word for it by itself.
        (Phase::LameDuck, Some((from, length)), _) if connection.is_http2() && !told => {
            let began = connection.since;
            if is_late(from, length, began) && !connection.has_requested() {
                // Pools that dial ahead of requests would dial without end.
                Next::Wait
            } else {
                when(asked_at(from, length, began, connection.share), Next::Tell)
            }
        }
        (Phase::LameDuck, ..) => Next::Wait,
        (Phase::Draining | Phase::Stopping | Phase::Stopped, _, since) => {
            let drain = since.unwrap_or(now);
            if connection.is_http2() {
                http2_step(connection, told, drain, linger, when)
            } else {
                http1_step(signal, connection, told, drain, linger, when)
            }
        }
    }
}

/// GOAWAY in two steps keeps a round trip open for requests on their way, so it is said at once. hyper then ends the
/// connection by itself when the client has acknowledged and its streams are done. A client that is gone never
/// acknowledges (T4): without streams, with nothing left to send, it is closed once nothing came for the linger.
fn http2_step(
    connection: &Connection,
    told: bool,
    drain: Instant,
    linger: Duration,
    when: impl Fn(Instant, Next) -> Next,
) -> Next {
    match connection.activity() {
        _ if !told => Next::Tell,
        Activity::Busy => Next::Wait,
        Activity::Idle(_) | Activity::PartialHead(_) if connection.has_backlog() => Next::Wait,
        Activity::Idle(since) | Activity::PartialHead(since) => {
            when(since.max(drain) + linger, Next::Close)
        }
    }
}

/// HTTP/1 has no word that a client must acknowledge: an idle connection stays readable for the linger, since a
/// request may already be on its way, and that one's answer says `Connection: close`. Where the next request is due
/// soon, it is waited for.
fn http1_step(
    signal: &Signal,
    connection: &Connection,
    told: bool,
    drain: Instant,
    linger: Duration,
    when: impl Fn(Instant, Next) -> Next,
) -> Next {
    match connection.activity() {
        // Told while it was idle: it is closing, and whatever it still has to send goes first.
        _ if told => Next::Wait,
        Activity::Busy => Next::Wait,
        Activity::Idle(since) => {
            let pause = connection.longest_pause();
            when(closes_at(signal, drain, since, pause, linger), Next::Tell)
        }
        // hyper would close over the head (hyper#3792): it gets its time, then the connection is dropped.
        Activity::PartialHead(since) => when(since.max(drain) + HEAD, Next::Close),
    }
}

/// Whether this answer asks its client to leave. Before the lame duck, for the price of a load.
fn is_asked_to_leave(handle: &ShutdownHandle, connection: &Connection) -> bool {
    handle.phase() >= Phase::LameDuck
        && is_asked(&handle.state().signal(), connection.since, connection.share)
}

/// Counts the requests of one connection.
struct Counting<S> {
    service: S,
    handle: ShutdownHandle,
    connection: Arc<Connection>,
    options: Arc<Options>,
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for Counting<S> {
    type Response = Response<ServedBody<S::ResponseBody>>;
    type Error = S::Error;
    type Future = Answer<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let head = Head::of(&request);
        let exempt = is_exempt(self.options.exempt.as_ref(), head);
        let (version, method) = (request.version(), request.method().clone());
        if !exempt && is_refused(self.handle.state()) {
            let grpc = is_grpc(head.headers);
            self.connection.request_refused(head);
            return Answer::Refused { version, grpc };
        }
        let ticket = self.connection.request_began(head, exempt);
        let stop = StopSignal::new(&self.handle);
        request.extensions_mut().insert(stop.clone());
        let info = ConnectionInfo::new(self.connection.peer, self.connection.clone(), ticket.key);
        #[cfg(feature = "axum")]
        if let Some(peer) = self.connection.peer {
            request
                .extensions_mut()
                .insert(axum::extract::ConnectInfo(peer));
        }
        request.extensions_mut().insert(info);
        Answer::Called {
            future: Oneshot::new(self.service.clone(), request),
            ticket: Some(ticket),
            stop,
            handle: self.handle.clone(),
            version,
            method,
        }
    }
}

pin_project! {
    /// The answer to one request.
    #[project = AnswerProj]
    enum Answer<F> {
        Called {
            #[pin]
            future: F,
            ticket: Option<RequestTicket>,
            stop: StopSignal,
            handle: ShutdownHandle,
            version: Version,
            method: http::Method,
        },
        Refused { version: Version, grpc: bool },
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ServedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, ticket, stop, handle, version, method) = match self.project() {
            AnswerProj::Called {
                future,
                ticket,
                stop,
                handle,
                version,
                method,
            } => (future, ticket, stop, handle, version, method),
            AnswerProj::Refused { version, grpc } => {
                let mut response = refusal(*grpc, ServedBody::refusal());
                say_close(*version, response.headers_mut());
                return Poll::Ready(Ok(response));
            }
        };
        let mut response = ready!(future.poll(cx))?;
        let ticket = ticket
            .take()
            .expect("a future is not polled after it was ready");
        let status = response.status();
        if leaves_http(*version, method, status) {
            ticket.connection.upgraded(ticket.key);
            if *version <= Version::HTTP_11 && stop.cuts(&response) {
                ticket.connection.cut_when(stop.cut_at_its_moment());
            }
        } else if is_asked_to_leave(handle, &ticket.connection) {
            say_close(*version, response.headers_mut());
        }
        let empty = has_no_body(method, status);
        let ending = Ending::of(&response, empty);
        let response = StreamBody::of(Some(&*stop), method, response);
        Poll::Ready(Ok(
            response.map(|body| ServedBody::new(body, ending, ticket))
        ))
    }
}
