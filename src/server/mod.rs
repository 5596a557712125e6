//! The own accept loop: HTTP/1 and HTTP/2 (h2c) over hyper, drained without losing a request.

mod body;
mod connection;
mod listener;
mod serve_connection;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tower::Service;

use crate::error::BoxError;
use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::request::{Exempt, Head};
use crate::roster::{Straggler, Work};

use connection::{Connection, Transport};
pub use listener::Listener;
use serve_connection::serve_connection;

/// The accept queue counts as empty after this long without a connection: the kernel hands over a finished handshake
/// at once, tokio's reactor within a millisecond or two.
const SWEPT: Duration = Duration::from_millis(20);

/// The sweep is bounded: while clients go on connecting, it would never end.
const SWEEP: Duration = Duration::from_millis(250);

/// A server under a coordinator, from [`serve`]: configure, then await it or give it to
/// [`run`](crate::ShutdownCoordinator::run). It ends when its listener has closed; its connections hold the drain
/// open by themselves.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    handle: ShutdownHandle,
    listener: L,
    service: S,
    exempt: Option<Exempt>,
}

/// A server for HTTP/1 and HTTP/2 with prior knowledge (h2c) on this listener, under the coordinator of this handle.
///
/// The short form for one server is [`ShutdownCoordinator::serve`](crate::ShutdownCoordinator::serve); several run
/// side by side under one coordinator and one report:
///
/// ```no_run
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (web_app, admin_app) = (axum::Router::new(), axum::Router::new());
/// use prestop::{ShutdownCoordinator, serve};
/// use tokio::net::TcpListener;
///
/// let c = ShutdownCoordinator::builder().build()?;
/// let web = serve(&c.handle(), TcpListener::bind("0.0.0.0:8080").await?, web_app);
/// let admin = serve(&c.handle(), TcpListener::bind("0.0.0.0:9000").await?, admin_app)
///     .exempt(|head| head.uri.path() == "/metrics");
/// c.run(async { tokio::join!(web.into_future(), admin.into_future()); }).await?.exit()
/// # }
/// ```
pub fn serve<L, S>(handle: &ShutdownHandle, listener: L, service: S) -> Serve<L, S> {
    Serve {
        handle: handle.clone(),
        listener,
        service,
        exempt: None,
    }
}

impl<L, S> Serve<L, S> {
    /// Requests for which the predicate holds never delay a stop; they are cut when nothing else is in flight (S11).
    pub fn exempt(mut self, is_exempt: impl Fn(Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.exempt = Some(Arc::new(is_exempt));
        self
    }
}

impl<L: Listener, S> fmt::Debug for Serve<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", &self.listener.describe())
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

/// What [`serve`] can serve: any tower service for hyper's requests, an `axum::Router` for instance. Implemented for
/// all of them; not to be implemented by hand.
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

impl<L: Listener, S: HttpService> IntoFuture for Serve<L, S>
where
    S::Future: 'static,
{
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        // Counted now, not when first polled: what was made for a coordinator is waited for by it.
        let open = self.handle.enter(Arc::new(OpenListener));
        Box::pin(async move {
            if let Ok(open) = open {
                self.run(open).await;
            }
        })
    }
}

impl<L: Listener, S: HttpService> Serve<L, S> {
    async fn run(mut self, open: Guard) {
        tracing::info!(listener = self.listener.describe(), "accepting");
        let draining = self.handle.draining();
        tokio::pin!(draining);
        let mut accepted = 0;
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                connection = self.listener.accept_one() => self.accept(connection, &mut accepted).await,
            }
        }
        self.sweep(&mut accepted).await;
        tracing::info!(
            listener = self.listener.describe(),
            accepted,
            "listener closed"
        );
        drop(self.listener);
        drop(open);
    }

    /// Serves what connected before the listener closes: dropped with the queue, it would be reset after its
    /// handshake, often with a request already sent (T9).
    async fn sweep(&mut self, accepted: &mut u64) {
        let end = Instant::now() + SWEEP;
        while Instant::now() < end {
            let quiet = end.min(Instant::now() + SWEPT);
            match timeout_at(quiet, self.listener.accept_one()).await {
                Ok(connection) => self.accept(connection, accepted).await,
                Err(_) => return,
            }
        }
    }

    async fn accept(
        &mut self,
        connection: std::io::Result<(L::Io, Option<std::net::SocketAddr>)>,
        accepted: &mut u64,
    ) {
        match connection {
            Ok((io, peer)) => {
                let share = golden_share(*accepted);
                *accepted += 1;
                let Ok(connection) = Connection::accepted(&self.handle, peer, share) else {
                    // Only after a force close: the drain was cut while the listener was open.
                    return;
                };
                let transport = Transport::new(io, connection.clone());
                let (handle, service, exempt) = (
                    self.handle.clone(),
                    self.service.clone(),
                    self.exempt.clone(),
                );
                tokio::spawn(serve_connection(
                    handle, connection, transport, service, exempt,
                ));
            }
            Err(error) => match listener::back_off(&error) {
                None => tracing::debug!(%error, "a client gave up before it was accepted"),
                Some(wait) => {
                    tracing::error!(listener = self.listener.describe(), %error, ?wait, "accept failed");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.handle.wait_for(Phase::Draining) => {}
                    }
                }
            },
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
