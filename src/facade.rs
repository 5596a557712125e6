//! Where the engine meets the rooms: what users call on the coordinator and what lives behind other doors.

#[cfg(any(feature = "middleware", feature = "probe", feature = "tonic-health"))]
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

#[cfg(feature = "tonic-health")]
impl ShutdownCoordinator {
    /// The gRPC health service (`grpc.health.v1.Health`) with the statuses of this reporter, all of them `NOT_SERVING`
    /// until the coordinator is ready and from the moment on at which it stops to be, whatever any clone of the reporter
    /// sets; see [`GrpcHealth`](crate::GrpcHealth).
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use prestop::ShutdownCoordinator;
    /// use tonic_health::server::HealthReporter;
    ///
    /// let c = ShutdownCoordinator::builder().build()?;
    /// let reporter = HealthReporter::new();
    /// let health = c.grpc_health(reporter.clone()); // for `Server::builder().add_service(health)`
    /// reporter.set_service_status("shop.Orders", tonic_health::ServingStatus::Serving).await;
    /// # drop(health); Ok(()) }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    #[must_use]
    pub fn grpc_health(
        &self,
        reporter: tonic_health::server::HealthReporter,
    ) -> tonic_health::pb::health_server::HealthServer<crate::GrpcHealth> {
        crate::grpc_health::GrpcHealth::server(self.handle(), reporter)
    }
}
