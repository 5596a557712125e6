//! The own accept loop: HTTP/1 and HTTP/2 (h2c) over hyper, drained without losing a request.

mod acceptor;
mod body;
mod connection;
mod frames;
mod handshakes;
mod held;
mod linger;
mod listener;
mod observed;
#[cfg(feature = "tonic")]
mod peer;
mod serve_connection;
mod stock;
mod ticket;
mod tls;
mod transport;
mod watch;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use crate::error::BoxError;
use crate::handle::ShutdownHandle;
use crate::request::Head;

use acceptor::Acceptor;
pub use listener::Listener;
use serve_connection::{HEADER_READ, Options, serve_connection};
#[cfg(feature = "axum")]
pub use stock::AxumListener;
#[cfg(feature = "tonic")]
pub use stock::DrainIncoming;
#[cfg(feature = "axum")]
pub(crate) use stock::for_axum;
pub use stock::{DrainListener, DrainStream};
use tls::{HANDSHAKE, shake_hands};
pub use tls::{Handshake, NoHandshake};
pub use transport::Transport;
pub use watch::Watched;

/// A server under a coordinator, from [`serve`]: configure, then await it or give it to
/// [`run`](crate::ShutdownCoordinator::run). It ends when its listener has closed; its connections hold the drain
/// open by themselves.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S, H = NoHandshake> {
    handle: ShutdownHandle,
    listener: L,
    service: S,
    handshake: H,
    handshake_timeout: Duration,
    options: Options,
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
        handshake: NoHandshake,
        handshake_timeout: HANDSHAKE,
        options: Options {
            exempt: None,
            header_read_timeout: Some(HEADER_READ),
            half_close: false,
        },
    }
}

impl<L: Listener, S> Serve<L, S> {
    /// Puts a handshake between accept and HTTP: TLS by any library, or whatever else a connection begins with. HTTP is
    /// spoken over what it returns.
    ///
    /// ```no_run
    /// # use prestop::{ShutdownCoordinator, serve};
    /// # async fn run(c: ShutdownCoordinator, listener: tokio::net::TcpListener, app: axum::Router,
    /// #     tls: tokio_rustls::TlsAcceptor) -> Result<(), Box<dyn std::error::Error>> {
    /// let server = serve(&c.handle(), listener, app).handshake(move |io| tls.accept(io));
    /// c.run(server).await?.exit()
    /// # }
    /// ```
    ///
    /// It runs in the connection's own task, so a slow one delays nobody else, for at most
    /// [`handshake_timeout`](Serve::handshake_timeout). The connection is in flight meanwhile, and is cut with its
    /// handshake at the deadline. What ALPN agreed on needs not be told: HTTP/2 is known by how a client begins. A
    /// handshake that fails closes its connection, and is a `tracing` event at debug level.
    ///
    /// More in [`_docs::tls`](crate::_docs::tls).
    pub fn handshake<F, Fut, Io, E>(self, handshake: F) -> Serve<L, S, F>
    where
        F: Fn(Transport<L::Io>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Io, E>> + Send + 'static,
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Into<BoxError>,
    {
        Serve {
            handle: self.handle,
            listener: self.listener,
            service: self.service,
            handshake,
            handshake_timeout: self.handshake_timeout,
            options: self.options,
        }
    }
}

impl<L, S, H> Serve<L, S, H> {
    /// Requests for which the predicate holds never delay a stop; they are cut when nothing else is in flight (S11).
    pub fn exempt(mut self, is_exempt: impl Fn(Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.options.exempt = Some(Arc::new(is_exempt));
        self
    }

    /// How long a [`handshake`](Serve::handshake) may take. Default: 10 s, enough for a client behind a lossy link, and
    /// what other servers allow. In the drain, it must begin within the linger and end within five seconds.
    pub const fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    /// How long a client may take to send a whole request head: its first one from when it could begin, a later one from
    /// its first byte; on HTTP/2 preface and SETTINGS. Then its connection is closed over what it was sending. `None`:
    /// for ever. Default: 30 s, hyper's own figure. In the drain a head has five seconds.
    ///
    /// hyper's own timeout is not used. It begins only when hyper-util knows which protocol is spoken, which a client can
    /// put off for ever; and it goes on between two requests, so that it would close an idle connection in the instant
    /// in which the next one may be on its way.
    pub fn header_read_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.header_read_timeout = limit.into();
        self
    }

    /// Whether an HTTP/1 client that shuts its sending side, and nothing else, gets its answer. Default: no, as with
    /// hyper, axum and Go. One that has closed its socket looks the same until something is sent to it: with this, the
    /// handlers of clients that are gone run to their end, and hold the drain open for it.
    pub const fn half_close(mut self, is_answered: bool) -> Self {
        self.options.half_close = is_answered;
        self
    }
}

impl<L: Listener, S, H> fmt::Debug for Serve<L, S, H> {
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

impl<L: Listener, S: HttpService, H: Handshake<L::Io>> IntoFuture for Serve<L, S, H>
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
            handshake,
            handshake_timeout,
            options,
        } = self;
        let mut acceptor = Acceptor::new(&handle, listener);
        let (handshake, options) = (Arc::new(handshake), Arc::new(options));
        Box::pin(async move {
            tracing::info!(listener = %acceptor, "accepting");
            while let Some((connection, transport)) = acceptor.next().await {
                let (handle, service) = (handle.clone(), service.clone());
                let (handshake, options) = (handshake.clone(), options.clone());
                tokio::spawn(async move {
                    let io = shake_hands(
                        &handle,
                        &connection,
                        &*handshake,
                        handshake_timeout,
                        transport,
                    );
                    if let Some(io) = io.await {
                        serve_connection(handle, connection, io, service, options).await;
                    }
                });
            }
        })
    }
}
