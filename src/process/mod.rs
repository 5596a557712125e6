//! Any program under the coordinator: [`Supervisor`], [`StopPlan`], [`ReadyWhen`]; and processes that are somebody
//! else's: [`Process`]. The whole story: [`_docs::process`](crate::_docs::process).

mod child;
mod error;
mod orphans;
mod other;
mod output;
mod plan;
mod ready;
mod running;
mod signal;
mod step;
mod supervised;
mod supervisor;
mod table;

pub use error::SuperviseError;
pub use other::{Process, ProcessError};
pub use output::Output;
pub use plan::{StopPlan, StopStep};
pub use ready::ReadyWhen;
pub(crate) use running::Running;

pub use signal::{Signal, UnknownSignal};
pub use step::run_command;
pub use supervised::Supervised;
pub use supervisor::Supervisor;
