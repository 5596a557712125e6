//! Zero failed requests when a Rust service is stopped, on Kubernetes and everywhere else.
//!
//! ```text
//! kubelet    preStop hook, SIGTERM                                                                  SIGKILL
//!            |<-------------------------- terminationGracePeriodSeconds ------------------------------->|
//!
//! prestop    | PreStop       | LameDuck            | Draining                     | Stopping |    reserve
//! readiness  | 503 from the first moment on; liveness stays 200 until the end
//! registry   | left, verified|
//! listener   | accepting, everything is served     | queue swept, closed
//! clients    |               | asked to leave, a   | requests in flight finish; idle connections
//!            |               | growing share       | linger; what cannot finish is cut, by name
//! hooks      | pre_stop, all at once               |                              | on_stopped, in reserved time
//! ```
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use prestop::ShutdownCoordinator;
//! use tokio::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let c = ShutdownCoordinator::builder()
//!         .probe_listener(TcpListener::bind("0.0.0.0:9090").await?) // /livez /readyz /startupz
//!         .on_stopped("flush telemetry", |_| async { /* the last thing that runs */ })
//!         .build()?; // SIGTERM is caught from here on
//!     let app = Router::new().route("/", get(hello));
//!     c.serve(TcpListener::bind("0.0.0.0:8080").await?, app).await?.exit()
//! }
//!
//! async fn hello() -> &'static str {
//!     tokio::time::sleep(std::time::Duration::from_secs(3)).await;
//!     "hello\n"
//! }
//! ```
//!
//! # Ways in
//!
//! - One server: [`ShutdownCoordinator::serve`].
//! - Stock servers: `c.listener` for `axum::serve` (feature `axum`), `c.incoming` for tonic (feature `tonic`), and
//!   [`DrainLayer`].
//! - Several servers, stock servers, work without HTTP: [`ShutdownCoordinator::run`] with [`serve`](serve()),
//!   [`DrainLayer`], [`ShutdownHandle::draining`], [`ShutdownHandle::spawn`], [`ShutdownHandle::guard`].
//! - In a cluster, and elsewhere: [`_docs::kubernetes`]. What is wrong with a manifest: [`_docs::check`].
//! - What happens when, and why: [`_docs::design`]. What becomes of each kind of client: [`_docs::connections`].
//! - gRPC: [`_docs::grpc`].
//! - A test that stops your service as Kubernetes does: [`_docs::kubelet`] (feature `kubelet`).
//! - TLS on the own loop: [`Serve::handshake`], [`_docs::tls`].
//! - Behind HAProxy, Envoy or nginx: [`_docs::gateways`].
//! - A program that is not written in Rust, nginx or a JVM: [`_docs::process`] (feature `process`).
//! - Server-sent events, WebSockets, gRPC streams, late requests, deadlines: [`_docs::streams`].
//! - A registry of one's own: [`registry::Registry`].
//! - Consul, etcd, ZooKeeper, Nacos, Eureka, a registry of one's own: [`_docs::registries`], [`registry::Registry`].
//!
//! What each way promises:
//!
//! | | own loop (`serve`) | `axum::serve` on `c.listener` | tonic on `c.incoming` | any server, layer alone |
//! |---|---|---|---|---|
//! | connections counted, accept queue swept, all cut at the deadline, upgrades too | yes | yes | yes | no |
//! | requests counted until their body ends, with their route in the report | yes | yes (layer) | yes (layer) | yes |
//! | `Connection: close` on HTTP/1 in the lame duck | each client at its moment | a growing share of answers (layer) | - | a growing share of answers |
//! | GOAWAY on HTTP/2 | a growing share in the lame duck | when `draining()` resolves | the same | the same |
//! | streams told to end | yes | yes (layer) | yes (layer) | yes |
//! | idle connections linger | yes | yes: `draining()` is held back | the same | no |
//! | gRPC: `grpc-timeout`, interceptors | tower services only | - | yes | - |
//!
//! # Cargo features
//!
//! Default: `signal`, `server` (with `middleware`), `probe`. Opt-in:
//!
//! - servers: `axum` (`ConnectInfo` on the own loop, the probes as a `Router`, `c.listener`), `websocket`
//!   (`StopSignal::websocket`), `tonic` (`c.incoming`), `tonic-health` (`c.grpc_health`);
//! - registries: `memory` (the embedded one), `consul`, `etcd`, `zookeeper`, `nacos`, `eureka`, see [`registry`]; `tls` for
//!   `https` ones;
//! - registries: `memory` (the embedded one), `consul`, `etcd`, `zookeeper`, see [`registry`]; `tls` for `https` ones;
//! - `haproxy`: answers HAProxy's agent checks, and stays until the last balancer knows;
//! - Kubernetes' hooks into the process: `hook`; the binary `prestop`: `cli`;
//! - `process`: any program under the coordinator (Linux);
//! - `check`: finds in manifests what would lose requests ([`_docs::check`]);
//! - `kubernetes`: the own pod tells why it is stopped, and how long it has ([`_docs::kubernetes`]);
//! - `kubelet`: stops a service as Kubernetes does, for tests;
//! - `serde`: the report as JSON.
//!
//! A feature adds API and never changes behaviour.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Without the default features some of what the prose links to is not there.
#![cfg_attr(
    not(all(feature = "server", feature = "signal")),
    allow(rustdoc::broken_intra_doc_links)
)]

#[path = "docs/mod.rs"]
pub mod _docs;
mod budget;
#[cfg(feature = "check")]
#[cfg_attr(docsrs, doc(cfg(feature = "check")))]
pub mod check;
mod coordinator;
mod deadline;
mod error;
mod exit;
mod facade;
#[cfg(feature = "tonic-health")]
mod grpc_health;
mod handle;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod handler;
#[cfg(feature = "haproxy")]
#[cfg_attr(docsrs, doc(cfg(feature = "haproxy")))]
pub mod haproxy;
mod hook;
#[cfg(all(feature = "hook", any(unix, feature = "probe")))]
mod hook_call;
#[cfg(all(feature = "hook", unix))]
mod hook_socket;
mod in_flight;
#[cfg(feature = "kubelet")]
#[cfg_attr(docsrs, doc(cfg(feature = "kubelet")))]
pub mod kubelet;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod last_gasp;
#[cfg(feature = "middleware")]
mod middleware;
mod own_pod;
mod peers;
mod phase;
#[cfg(feature = "probe")]
mod probe;
#[cfg(all(feature = "process", target_os = "linux"))]
#[cfg_attr(docsrs, doc(cfg(feature = "process")))]
pub mod process;
mod random;
mod reason;
pub mod registry;
mod report;
#[cfg(feature = "middleware")]
mod request;
mod roster;
#[cfg(feature = "middleware")]
mod rotation;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "signal")]
mod signal;
mod state;
#[cfg(feature = "middleware")]
mod stream;
mod sync;
mod tally;
mod timeline;

pub use budget::GracePeriod;
pub use coordinator::{ShutdownCoordinator, ShutdownCoordinatorBuilder};
pub use deadline::Deadline;
pub use error::{BoxError, Error};
#[cfg(feature = "tonic-health")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
pub use grpc_health::GrpcHealth;
pub use handle::{Guard, ShutdownHandle};
#[cfg(feature = "websocket")]
#[cfg_attr(docsrs, doc(cfg(feature = "websocket")))]
pub use handler::DrainWebSocket;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use handler::NoStopSignal;
pub use hook::{HookContext, HookName, LifecycleHook, TaskOutput};
#[cfg(all(feature = "hook", unix))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "hook", unix))))]
pub use hook_socket::{HookError, HookSocket, exec_hook};
pub use in_flight::{Closed, InFlightGuard};
#[cfg(feature = "kubernetes")]
#[cfg_attr(docsrs, doc(cfg(feature = "kubernetes")))]
pub use kubernetes::OwnPod;
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use middleware::{
    DeadlineFuture, DeadlineLayer, DeadlineService, DrainFuture, DrainLayer, DrainService,
    StreamLayer, StreamService,
};
pub use own_pod::{Cause, PodReport};
pub use phase::Phase;
#[cfg(all(feature = "hook", feature = "probe"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "hook", feature = "probe"))))]
pub use probe::HookToken;
#[cfg(feature = "probe")]
#[cfg_attr(docsrs, doc(cfg(feature = "probe")))]
pub use probe::Probes;
pub use reason::Reason;
pub use report::{
    HookReport, LeaveOutcome, Outcome, RegistryReport, Requests, ShutdownReport, Stage, Streams,
    TaskReport,
};
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use request::{ConnectionInfo, Head};
pub use roster::{Straggler, WorkKind};
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use server::AxumListener;
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
pub use server::DrainIncoming;
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::{
    DrainListener, DrainStream, Handshake, HttpService, Listener, NoHandshake, Serve, Transport,
    Watched, serve,
};
#[cfg(feature = "signal")]
#[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
pub use signal::Signals;
pub use state::Readiness;
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use state::{LateRequests, TellAt};
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use stream::{StopSignal, StreamPolicy, UntilTold};
pub use timeline::PhaseTime;

/// The README's programs are compiled with the doc tests.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
