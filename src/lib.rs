//! Zero failed requests when a Rust service is stopped, on Kubernetes and everywhere else.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[doc(hidden)]
#[path = "docs/mod.rs"]
pub mod _docs;
mod budget;
mod coordinator;
mod deadline;
mod error;
mod facade;
mod handle;
mod hook;
mod in_flight;
#[cfg(feature = "middleware")]
mod middleware;
mod phase;
#[cfg(feature = "probe")]
mod probe;
mod random;
mod reason;
pub mod registry;
mod report;
#[cfg(feature = "middleware")]
mod request;
mod roster;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "signal")]
mod signal;
mod state;
mod sync;
mod tally;
mod timeline;

pub use budget::GracePeriod;
pub use coordinator::{ShutdownCoordinator, ShutdownCoordinatorBuilder};
pub use deadline::Deadline;
pub use error::{BoxError, Error};
pub use handle::{Guard, ShutdownHandle};
pub use hook::{HookContext, HookName, LifecycleHook, TaskOutput};
pub use in_flight::{Closed, InFlightGuard};
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use middleware::{DrainFuture, DrainLayer, DrainService};
pub use phase::Phase;
#[cfg(feature = "probe")]
#[cfg_attr(docsrs, doc(cfg(feature = "probe")))]
pub use probe::Probes;
pub use reason::Reason;
pub use report::{
    HookReport, LeaveOutcome, Outcome, RegistryReport, Requests, ShutdownReport, Stage, TaskReport,
};
#[cfg(feature = "middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
pub use request::{ConnectionInfo, Head};
pub use roster::{Straggler, WorkKind};
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::{HttpService, Listener, Serve, serve};
#[cfg(feature = "signal")]
#[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
pub use signal::Signals;
pub use state::Readiness;
pub use timeline::PhaseTime;
