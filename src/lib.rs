//! Zero failed requests when a Rust service is stopped, on Kubernetes and everywhere else.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod coordinator;
mod deadline;
mod error;
mod handle;
mod hook;
mod in_flight;
mod phase;
mod reason;
pub mod registry;
mod report;
mod roster;
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
pub use in_flight::Closed;
pub use phase::Phase;
pub use reason::Reason;
pub use report::{
    HookReport, LeaveOutcome, Outcome, RegistryReport, Requests, ShutdownReport, Stage, TaskReport,
};
pub use roster::{Straggler, WorkKind};
#[cfg(feature = "signal")]
#[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
pub use signal::Signals;
pub use state::Readiness;
pub use timeline::PhaseTime;
