//! Where the engine meets the rooms: what users call on the coordinator and what lives behind other doors.

#[cfg(any(feature = "middleware", feature = "probe"))]
use crate::coordinator::ShutdownCoordinator;

#[cfg(feature = "middleware")]
impl ShutdownCoordinator {
    /// The layer for stock servers and for what only a route can say; see [`DrainLayer`](crate::DrainLayer).
    #[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
    #[must_use]
    pub fn layer(&self) -> crate::middleware::DrainLayer {
        crate::middleware::DrainLayer::new(self.handle())
    }
}

#[cfg(feature = "server")]
impl ShutdownCoordinator {
    /// Serves HTTP/1 and HTTP/2 (h2c) on the listener until the stop is over. Short for [`run`](Self::run) with one
    /// [`serve`](crate::serve()).
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run): trouble while stopping is in the report.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run): dropping the future is a force close.
    #[cfg_attr(docsrs, doc(cfg(feature = "server")))]
    pub async fn serve<L, S>(
        self,
        listener: L,
        service: S,
    ) -> Result<crate::ShutdownReport, crate::Error>
    where
        L: crate::Listener,
        S: crate::HttpService,
    {
        let server = crate::server::serve(&self.handle(), listener, service);
        self.run(server).await
    }
}

#[cfg(feature = "probe")]
impl ShutdownCoordinator {
    /// `/livez`, `/readyz` and `/startupz` as a service to mount in a router; see [`Probes`](crate::Probes).
    #[cfg_attr(docsrs, doc(cfg(feature = "probe")))]
    #[must_use]
    pub fn probes(&self) -> crate::probe::Probes {
        crate::probe::Probes::new(self.handle())
    }
}

#[cfg(feature = "probe")]
impl crate::ShutdownCoordinatorBuilder {
    /// Answers `/livez`, `/readyz` and `/startupz` on a listener of its own, from `build` until
    /// [`Stopped`](crate::Phase::Stopped): a probe on the service's own port ends with the drain, and queues behind
    /// requests when the service is busy.
    #[cfg_attr(docsrs, doc(cfg(feature = "probe")))]
    pub fn probe_listener(self, listener: tokio::net::TcpListener) -> Self {
        self.companion(|handle| crate::probe::listen(listener, handle))
    }
}

#[cfg(all(feature = "hook", feature = "probe"))]
impl crate::ShutdownCoordinatorBuilder {
    /// [`probe_listener`](Self::probe_listener), and on it the preStop hook for the kubelet's `httpGet`: `GET /prestop`
    /// with the token in the header `X-Prestop-Token`.
    ///
    /// It begins the stop with [`Reason::PreStopHook`](crate::Reason::PreStopHook) and answers 200 with one line when the
    /// lame duck is over, at half of the grace period at the latest. Without the token, or with another one, it answers
    /// 403 and does nothing; the kubelet takes any answer for a success (R23) and goes on with SIGTERM.
    ///
    /// The kubelet calls the pod's address, not the loopback: the listener must be bound to it (`0.0.0.0`). With
    /// `hostNetwork` the manifest must say `host: 127.0.0.1` (R24).
    #[cfg_attr(docsrs, doc(cfg(all(feature = "hook", feature = "probe"))))]
    pub fn probe_listener_with_hook(
        self,
        listener: tokio::net::TcpListener,
        token: crate::HookToken,
    ) -> Self {
        self.companion(|handle| crate::probe::listen_with_hook(listener, token, handle))
    }
}

#[cfg(all(feature = "hook", unix))]
impl crate::ShutdownCoordinatorBuilder {
    /// Opens the socket over which `exec` hooks call this process, from `build` until
    /// [`Stopped`](crate::Phase::Stopped); see [`HookSocket`](crate::HookSocket) and [`exec_hook`](crate::exec_hook).
    ///
    /// A preStop call begins the stop with [`Reason::PreStopHook`](crate::Reason::PreStopHook), which is the exact start
    /// of the kubelet's clock, and is answered when the lame duck is over, at half of the grace period at the latest.
    /// SIGTERM, which the kubelet sends then, changes nothing (S9).
    #[cfg_attr(docsrs, doc(cfg(all(feature = "hook", unix))))]
    pub fn hook_socket(self, socket: crate::HookSocket) -> Self {
        self.starting(move |handle| crate::hook_socket::HookServer::start(&socket, handle))
    }
}

#[cfg(feature = "axum")]
impl ShutdownCoordinator {
    /// A listener for stock `axum::serve` whose connections the coordinator counts and sweeps, and cuts at the
    /// deadline. Together with [`layer`](Self::layer), which counts requests and asks clients to leave:
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = axum::Router::<()>::new();
    /// use prestop::ShutdownCoordinator;
    /// use tokio::net::TcpListener;
    ///
    /// let c = ShutdownCoordinator::builder().build()?;
    /// let listener = c.listener(TcpListener::bind("0.0.0.0:8080").await?);
    /// let server = axum::serve(listener, app.layer(c.layer())).with_graceful_shutdown(c.handle().draining());
    /// c.run(server).await?.exit()
    /// # }
    /// ```
    ///
    /// `ConnectInfo<SocketAddr>` works with `into_make_service_with_connect_info`.
    #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
    #[must_use]
    pub fn listener(&self, listener: tokio::net::TcpListener) -> crate::AxumListener {
        crate::server::for_axum(&self.handle(), listener)
    }
}

#[cfg(feature = "tonic")]
impl ShutdownCoordinator {
    /// The connections of this listener for tonic's own server, counted, swept, and cut at the deadline. tonic closes
    /// HTTP/2 connections with GOAWAY in two steps when `draining()` resolves; calls on their way are served.
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let orders = tonic_health::server::health_reporter().1;
    /// use prestop::ShutdownCoordinator;
    /// use tokio::net::TcpListener;
    /// use tonic::transport::Server;
    ///
    /// let c = ShutdownCoordinator::builder().build()?;
    /// let incoming = c.incoming(TcpListener::bind("0.0.0.0:50051").await?);
    /// let server = Server::builder().add_service(orders);
    /// let serving = server.serve_with_incoming_shutdown(incoming, c.handle().draining());
    /// c.run(serving).await?.exit()
    /// # }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
    #[must_use]
    pub fn incoming(&self, listener: tokio::net::TcpListener) -> crate::DrainIncoming {
        crate::DrainIncoming::new(&self.handle(), listener)
    }
}
