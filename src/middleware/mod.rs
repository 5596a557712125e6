//! [`DrainLayer`]: the request edge for stock servers, and for what only a route can say.

mod deadline_layer;
mod stream_layer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::error::BoxError;
use crate::handle::{Guard, ShutdownHandle};
use crate::peers::Peer;
use crate::phase::Phase;
use crate::request::{
    ConnectionInfo, Ending, Exempt, Head, Ticket, TrackedBody, has_no_body, is_exempt, is_refused,
    leaves_http, say_close,
};
use crate::roster::{Straggler, Work, WorkKind};
use crate::rotation::is_asked;
use crate::stream::{StopSignal, StreamBody, is_grpc, refusal};
use crate::sync::lock;

pub use deadline_layer::{DeadlineFuture, DeadlineLayer, DeadlineService};
pub use stream_layer::{StreamLayer, StreamService};

/// Counts requests in flight, from their head to the end of their response body, and asks HTTP/1 clients to leave
/// from the lame duck on (`Connection: close`).
///
/// For stock servers (`axum::serve`, tonic), which count nothing. Under [`serve`](crate::ShutdownCoordinator::serve)
/// requests are counted already: the layer recognises them, counts nothing twice, and is of use there for
/// [`exempt`](Self::exempt) on the routes it wraps.
///
/// A request that arrives after the drain is answered `503` with `Retry-After` and `Connection: close`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), prestop::Error> {
/// use prestop::ShutdownCoordinator;
/// use tower::ServiceBuilder;
///
/// let c = ShutdownCoordinator::builder().build()?;
/// let layer = c.layer().exempt(|head| head.uri.path() == "/metrics");
/// let service = ServiceBuilder::new().layer(layer).service(tower::service_fn(
///     |_: http::Request<String>| async { Ok::<_, std::io::Error>(http::Response::new(String::new())) },
/// ));
/// # let _ = service; Ok(()) }
/// ```
#[derive(Clone)]
pub struct DrainLayer {
    handle: ShutdownHandle,
    exempt: Option<Exempt>,
}

impl DrainLayer {
    pub(crate) const fn new(handle: ShutdownHandle) -> Self {
        Self {
            handle,
            exempt: None,
        }
    }

    /// Requests for which the predicate holds never delay a stop; they are cut when nothing else is in flight.
    #[must_use]
    pub fn exempt(mut self, is_exempt: impl Fn(Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.exempt = Some(Arc::new(is_exempt));
        self
    }
}

impl fmt::Debug for DrainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = DrainService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DrainService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of a [`DrainLayer`].
#[derive(Clone, Debug)]
pub struct DrainService<S> {
    inner: S,
    layer: DrainLayer,
}

impl<S, A, B> Service<Request<A>> for DrainService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body<Data: From<Bytes>, Error: Into<BoxError>>,
{
    type Response = Response<TrackedBody<B, LayerTicket>>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let head = Head::of(&request);
        let exempt = is_exempt(self.layer.exempt.as_ref(), head);
        let (version, method) = (request.version(), request.method().clone());
        let handle = &self.layer.handle;
        let extensions = request.extensions();
        let ticket = match (extensions.get::<ConnectionInfo>(), extensions.get::<Held>()) {
            (Some(by_serve), _) => {
                if exempt {
                    by_serve.exempt();
                }
                Some(LayerTicket::counted_elsewhere())
            }
            (None, Some(by_outer_layer)) => {
                if exempt {
                    by_outer_layer.exempt();
                }
                Some(LayerTicket::counted_elsewhere())
            }
            (None, None) if exempt => Some(LayerTicket::exempt(By::find(handle, &request, true))),
            (None, None) if is_refused(handle.state()) => None,
            (None, None) => {
                LayerTicket::count(handle, head.route(), By::find(handle, &request, false))
            }
        };
        if let Some(Counted { held, .. }) = ticket.as_ref().and_then(|t| t.counted.as_ref()) {
            let held = held.clone();
            request.extensions_mut().insert(held);
        }
        let Some(ticket) = ticket else {
            handle.state().tally.refused();
            let grpc = is_grpc(request.headers());
            return DrainFuture {
                state: FutureState::Refused { version, grpc },
                handle: handle.clone(),
            };
        };
        // Whoever was asked first has it: its body hears of the stop, and no other.
        let stop = if request.extensions().get::<StopSignal>().is_some() {
            None
        } else {
            let stop = StopSignal::new(handle);
            request.extensions_mut().insert(stop.clone());
            Some(stop)
        };
        DrainFuture {
            handle: handle.clone(),
            state: FutureState::Called {
                future: self.inner.call(request),
                ticket: Some(ticket),
                stop,
                method,
                version,
            },
        }
    }
}

pin_project! {
    /// The future of a [`DrainService`].
    pub struct DrainFuture<F> {
        handle: ShutdownHandle,
        #[pin]
        state: FutureState<F>,
    }
}

pin_project! {
    #[project = FutureStateProj]
    enum FutureState<F> {
        Called {
            #[pin]
            future: F,
            ticket: Option<LayerTicket>,
            stop: Option<StopSignal>,
            method: Method,
            version: Version,
        },
        Refused { version: Version, grpc: bool },
    }
}

impl<F> fmt::Debug for DrainFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainFuture").finish_non_exhaustive()
    }
}

impl<F, B, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<TrackedBody<B, LayerTicket>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(Ok(match this.state.project() {
            FutureStateProj::Called {
                future,
                ticket,
                stop,
                method,
                version,
            } => {
                let mut response = ready!(future.poll(cx))?;
                let ticket = ticket
                    .take()
                    .expect("a future is not polled after it was ready");
                let leaves = leaves_http(*version, method, response.status());
                if !leaves && ticket.asks_to_leave(this.handle) {
                    say_close(*version, response.headers_mut());
                }
                let empty = has_no_body(method, response.status());
                let ending = Ending::of(&response, empty);
                let response = StreamBody::of(stop.as_ref(), method, response);
                response.map(|body| TrackedBody::new(body, ending, ticket))
            }
            FutureStateProj::Refused { version, grpc } => {
                let ticket = LayerTicket::counted_elsewhere();
                let body = TrackedBody::new(StreamBody::empty(), Ending::none(), ticket);
                let mut response = refusal(*grpc, body);
                say_close(*version, response.headers_mut());
                response
            }
        }))
    }
}

/// The connection that a request came by, for servers that say so (tonic on `coordinator.incoming`): it must know which
/// of its requests are exempt.
struct By {
    connection: Arc<dyn Peer>,
    exempt: bool,
}

impl By {
    #[cfg(feature = "tonic")]
    fn find<B>(handle: &ShutdownHandle, request: &Request<B>, exempt: bool) -> Option<Self> {
        let info: &tonic::transport::server::TcpConnectInfo = request.extensions().get()?;
        let pair = info.local_addr().zip(info.remote_addr())?;
        let connection = handle.state().peers.find(&pair)?;
        connection.clone().request_began(exempt);
        Some(Self { connection, exempt })
    }

    #[cfg(not(feature = "tonic"))]
    const fn find<B>(_: &ShutdownHandle, _: &Request<B>, _: bool) -> Option<Self> {
        None
    }

    fn exempt(&mut self) {
        if !std::mem::replace(&mut self.exempt, true) {
            self.connection.clone().request_became_exempt();
        }
    }
}

impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("By")
            .field("exempt", &self.exempt)
            .finish_non_exhaustive()
    }
}

impl Drop for By {
    fn drop(&mut self) {
        self.connection.clone().request_ended(self.exempt);
    }
}

/// Keeps one request in flight that came through a [`DrainLayer`].
#[derive(Debug)]
pub struct LayerTicket {
    counted: Option<Counted>,
    /// Of an exempt request; dropped with it.
    _exempt: Option<By>,
    answered: bool,
}

#[derive(Debug)]
struct Counted {
    held: Held,
    handle: ShutdownHandle,
}

/// What holds the drain open for a request, and its mark for layers further in: they count nothing twice, and may
/// know that it is exempt. A copy that outlives the request holds nothing.
#[derive(Clone, Debug)]
struct Held(Arc<Mutex<Holds>>);

#[derive(Debug, Default)]
struct Holds {
    guard: Option<Guard>,
    by: Option<By>,
}

impl Held {
    fn release(&self) {
        let holds = std::mem::take(&mut *lock(&self.0));
        drop(holds);
    }

    fn exempt(&self) {
        let mut holds = lock(&self.0);
        let guard = holds.guard.take();
        holds.by.iter_mut().for_each(By::exempt);
        drop(holds);
        drop(guard);
    }
}

impl LayerTicket {
    const fn counted_elsewhere() -> Self {
        Self::exempt(None)
    }

    const fn exempt(by: Option<By>) -> Self {
        Self {
            counted: None,
            _exempt: by,
            answered: false,
        }
    }

    /// `None` once the drain is over.
    fn count(handle: &ShutdownHandle, route: String, by: Option<By>) -> Option<Self> {
        let work = RequestWork {
            route,
            since: Instant::now(),
        };
        let guard = handle.enter(Arc::new(work)).ok()?;
        handle.state().tally.started();
        Some(Self {
            counted: Some(Counted {
                held: Held(Arc::new(Mutex::new(Holds {
                    guard: Some(guard),
                    by,
                }))),
                handle: handle.clone(),
            }),
            _exempt: None,
            answered: false,
        })
    }

    /// Only for a request that nobody below counts: `serve` asks its own clients, each at its moment.
    fn asks_to_leave(&self, handle: &ShutdownHandle) -> bool {
        if self.counted.is_none() || handle.phase() < Phase::LameDuck {
            return false;
        }
        // Without a connection there is no place among all clients: a random one, anew for each answer, asks a
        // growing share of them just the same. Nor is there a beginning: all were there before.
        let signal = handle.state().signal();
        let began = signal.lame_duck.map_or_else(Instant::now, |(from, _)| from);
        is_asked(&signal, began, crate::random::share())
    }
}

impl Ticket for LayerTicket {
    fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for LayerTicket {
    fn drop(&mut self) {
        if let Some(counted) = &self.counted {
            if self.answered {
                counted.handle.state().tally.finished();
            }
            counted.held.release();
        }
    }
}

/// A request in the roster. It is cut with its connection, which a stock server owns.
struct RequestWork {
    route: String,
    since: Instant,
}

impl Work for RequestWork {
    fn describe(&self, into: &mut Vec<Straggler>) {
        into.push(Straggler {
            kind: WorkKind::Request,
            what: self.route.clone().into(),
            peer: None,
            age: self.since.elapsed(),
            bytes: None,
        });
    }

    fn cut(&self) {}
}
