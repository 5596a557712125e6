//! Where the engine meets the rooms: what users call on the coordinator and what lives behind other doors.

#[cfg(any(
    feature = "middleware",
    feature = "probe",
    feature = "tonic-health",
    all(feature = "process", target_os = "linux")
))]
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

#[cfg(feature = "server")]
impl crate::ShutdownHandle {
    /// Takes a connection of hyper's or hyper-util's into the coordinator's care, for an accept loop of one's own. Like
    /// hyper-util's `GracefulShutdown::watch`; what the coordinator can do more:
    ///
    /// - It is counted from this call on, and holds the drain open until it has ended.
    /// - It is told to finish as stock servers are: when the drain has begun, and all connections have closed by
    ///   themselves or the [linger](crate::ShutdownCoordinatorBuilder::linger) is over, so that requests on their way
    ///   are met by an open connection.
    /// - At force close it resolves, with an error, and is in the report with the line of this call, and its
    ///   [`peer`](crate::Watched::peer), if that was told.
    ///
    /// What only the socket can do needs a [`DrainListener`](crate::DrainListener) under it: accept queue swept,
    /// upgraded sockets counted and cut, bytes in the report. What only the service can do needs the
    /// [layer](crate::DrainLayer): requests counted and named, `Connection: close` in the lame duck. All three:
    ///
    /// ```no_run
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = axum::Router::<()>::new();
    /// use hyper_util::rt::{TokioExecutor, TokioIo};
    /// use hyper_util::server::conn::auto;
    /// use hyper_util::service::TowerToHyperService;
    /// use prestop::{DrainListener, ShutdownCoordinator};
    /// use tokio::net::TcpListener;
    ///
    /// let c = ShutdownCoordinator::builder().build()?;
    /// let h = c.handle();
    /// let service = TowerToHyperService::new(app.layer(c.layer()));
    /// let mut listener = DrainListener::new(&h, TcpListener::bind("0.0.0.0:8080").await?);
    /// c.run(async move {
    ///     // Ends when the drain has begun and the listener was swept.
    ///     while let Some(stream) = listener.next().await {
    ///         let (h, service) = (h.clone(), service.clone());
    ///         tokio::spawn(async move {
    ///             let http = auto::Builder::new(TokioExecutor::new());
    ///             let io = TokioIo::new(stream);
    ///             // An error here: the drain is over already.
    ///             if let Ok(connection) = h.watch(http.serve_connection_with_upgrades(io, service)) {
    ///                 let _ = connection.await;
    ///             }
    ///         });
    ///     }
    /// })
    /// .await?
    /// .exit()
    /// # }
    /// ```
    ///
    /// With another listener call `watch` before the task is spawned, not in it: between the two the drain may end.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Closed) once the drain is over; the connection is dropped.
    #[cfg_attr(docsrs, doc(cfg(feature = "server")))]
    #[track_caller]
    pub fn watch<C>(&self, connection: C) -> Result<crate::Watched<C>, crate::Closed>
    where
        C: hyper_util::server::graceful::GracefulConnection<Error: Into<crate::BoxError>>,
    {
        crate::Watched::new(self, connection)
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

#[cfg(feature = "haproxy")]
impl crate::ShutdownCoordinatorBuilder {
    /// Answers HAProxy's agent checks, from `build` until [`Stopped`](crate::Phase::Stopped): `drain` from the first moment
    /// of the stop on; and waits, as a `pre_stop` hook named `HAProxy's agent check`, until every balancer that has asked
    /// before has fetched that. So the lame duck lasts until the last of them sends nothing more. See
    /// [`AgentCheck`](crate::haproxy::AgentCheck).
    ///
    /// A balancer that does not ask [in time](crate::haproxy::AgentCheck::with_limit) fails the hook, is in the report by
    /// name, and holds nothing up any more.
    #[cfg_attr(docsrs, doc(cfg(feature = "haproxy")))]
    pub fn haproxy_agent(self, agent: crate::haproxy::AgentCheck) -> Self {
        let (answers, told) = agent.into_parts();
        let hook = crate::HookName::new("HAProxy's agent check").within(told.limit());
        self.companion(|handle| answers.run(handle))
            .pre_stop(hook, |cx| told.wait(cx.deadline()))
    }
}

#[cfg(feature = "kubernetes")]
impl crate::ShutdownCoordinatorBuilder {
    /// Asks the API server for the own pod: at the start, whether its manifest says what the program was told; when a
    /// stop begins, what its cause is and how long it may take. See [`OwnPod`](crate::OwnPod).
    ///
    /// - The cause goes into the [report](crate::ShutdownReport::pod) and the log.
    /// - The deadline moves earlier where the pod has less time than planned: `kubectl delete --now`, a probe with a
    ///   grace period of its own, a hook that was not seen. It never moves later.
    /// - A manifest with a shorter grace period than the program was told, or with a preStop `sleep` that it was not
    ///   told ([`pre_stop_elapsed`](Self::pre_stop_elapsed)), counts from the moment on at which it was read, and is
    ///   warned about.
    ///
    /// It all happens beside the plan, which waits for nothing of it; without an answer there is one warning.
    /// `None` asks nobody: [`OwnPod::from_env_or_none`](crate::OwnPod::from_env_or_none).
    #[cfg_attr(docsrs, doc(cfg(feature = "kubernetes")))]
    pub fn kubernetes(self, pod: impl Into<Option<crate::OwnPod>>) -> Self {
        match pod.into() {
            Some(pod) => self.companion(|handle| crate::kubernetes::follow(pod, handle)),
            None => self,
        }
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

#[cfg(all(feature = "process", target_os = "linux"))]
impl ShutdownCoordinator {
    /// Runs a program as the service: started beside the `on_started` hooks added before, ready when it says so,
    /// stopped by its [`StopPlan`](crate::process::StopPlan) in the drain, its end a trigger. Returns when everything
    /// has stopped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use prestop::ShutdownCoordinator;
    /// use prestop::process::Supervisor;
    ///
    /// let c = ShutdownCoordinator::builder().build()?;
    /// let ended = c.supervise(Supervisor::new("sh").args(["-c", "exit 3"])).await?;
    /// assert_eq!(ended.exit_code(), 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// When the program can't be started, or as [`run`](Self::run). How it ends is not an error.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run): dropping the future kills the program and its process group.
    #[cfg_attr(docsrs, doc(cfg(feature = "process")))]
    pub async fn supervise(
        mut self,
        supervisor: crate::process::Supervisor,
    ) -> Result<crate::process::Supervised, crate::process::SuperviseError> {
        use crate::process::Supervised;
        use std::sync::{Arc, OnceLock};

        let (handle, name) = (self.handle(), supervisor.name());
        // The hooks come first: a program that ends at once begins a stop, and then it is too late for them.
        let program = Arc::new(OnceLock::new());
        let (ready, ready_within, plan) = supervisor.parts();
        if handle.reason().is_none() {
            if !ready.is_empty() {
                let program = Arc::clone(&program);
                let mut hook = crate::HookName::new(format!("{name} is ready"));
                if let Some(limit) = ready_within {
                    hook = hook.within(limit);
                }
                let wait = move |_| async move {
                    if let Some(running) = started(&program) {
                        running.ready(&ready).await;
                    }
                };
                or_too_late(self.on_started(hook, wait))?;
            }
            for step in plan.leave {
                let program = Arc::clone(&program);
                let mut hook = crate::HookName::new(format!("{name}: {step}"));
                if let Some(limit) = step.limit() {
                    hook = hook.within(limit);
                }
                let leave = move |cx: crate::HookContext| async move {
                    match started(&program) {
                        Some(running) => running.leave(&step, cx.deadline()).await,
                        None => Ok(()),
                    }
                };
                or_too_late(self.pre_stop(hook, leave))?;
            }
        }
        // SIGTERM may have come first: then there is nothing to start.
        if handle.reason().is_none() {
            let running = supervisor.spawn(&handle)?;
            // Empty until here.
            let _ = program.set(running);
        }
        let report = self.run(handle.draining()).await?;
        let running = started(&program);
        if let Some(running) = &running {
            running.flush().await;
        }
        Ok(Supervised::new(report, running.as_ref()))
    }
}

#[cfg(all(feature = "process", target_os = "linux"))]
fn started(
    program: &std::sync::OnceLock<std::sync::Arc<crate::process::Running>>,
) -> Option<std::sync::Arc<crate::process::Running>> {
    program.get().cloned()
}

/// A hook that comes too late would never have run anyway.
#[cfg(all(feature = "process", target_os = "linux"))]
fn or_too_late(added: Result<(), crate::Error>) -> Result<(), crate::Error> {
    added.or_else(|error| {
        if error.is_too_late() {
            Ok(())
        } else {
            Err(error)
        }
    })
}
