//! The own accept loop: HTTP/1 and HTTP/2 (h2c) over hyper, drained without losing a request.

mod acceptor;
mod body;
mod connection;
mod handshakes;
mod listener;
#[cfg(feature = "tonic")]
mod peer;
mod serve_connection;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod stock;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower::Service;

use crate::error::BoxError;
use crate::handle::ShutdownHandle;
use crate::request::{Exempt, Head};

use acceptor::Acceptor;
pub use listener::Listener;
use serve_connection::serve_connection;
#[cfg(feature = "axum")]
pub use stock::AxumListener;
#[cfg(feature = "tonic")]
pub use stock::DrainIncoming;
#[cfg(feature = "axum")]
pub(crate) use stock::for_axum;
#[cfg(any(feature = "axum", feature = "tonic"))]
pub use stock::{DrainListener, DrainStream};

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
        let Self {
            handle,
            listener,
            service,
            exempt,
        } = self;
        let mut acceptor = Acceptor::new(&handle, listener);
        Box::pin(async move {
            tracing::info!(listener = %acceptor, "accepting");
            while let Some((connection, transport)) = acceptor.next().await {
                let (handle, service, exempt) = (handle.clone(), service.clone(), exempt.clone());
                tokio::spawn(serve_connection(
                    handle, connection, transport, service, exempt,
                ));
            }
        })
    }
}
