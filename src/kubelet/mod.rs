//! Stops a service the way Kubernetes' kubelet does, in a test: a pod read from the real manifest, on paused time with
//! futures for containers ([`Simulated`]), or for real with child processes ([`Program`]).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use prestop::kubelet::{Cause, Node, Pod, Simulated};
//!
//! let pod = Pod::from_yaml(
//!     "{ kind: Deployment, metadata: { name: orders }, spec: { template: { spec: {
//!          terminationGracePeriodSeconds: 10,
//!          containers: [{ name: app, lifecycle: { preStop: { sleep: { seconds: 4 } } } }] } } } }",
//! )?;
//! let node = Node::new(pod).container("app", Simulated::exits_after(Duration::from_secs(7)));
//! node.start().await?;
//! let timeline = node.stop(Cause::delete()).await;
//! println!("{timeline}");
//! assert_eq!(timeline.signalled("app"), Some(Duration::from_secs(4)));
//! // The hook's time comes out of the grace period, and the 7 s do not fit any more.
//! assert_eq!(timeline.killed("app"), Some(Duration::from_secs(10)));
//! # Ok(())
//! # }
//! ```
//!
//! This module judges the rest of the crate from outside: it imports nothing of it, and a service that does not use the
//! crate can be tested with it just as well.
//!
//! The rules are those of Kubernetes 1.36, numbered as in [`_docs::kubernetes`](crate::_docs::kubernetes#the-rules), with
//! their sources. What is modelled and what is not, and a whole test of a service: [`_docs::kubelet`](crate::_docs::kubelet).

mod endpoints;
mod grace;
mod kill;
mod manifest;
mod node;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod program;
mod runtime;
mod simulated;
mod timeline;

pub use endpoints::{Endpoint, Service};
pub use grace::Cause;
pub use manifest::{
    Command, Container, ContainerPort, EnvVar, Handler, Header, HttpGet, Lifecycle, ManifestError,
    Pod, Port, Probe, TcpSocket,
};
pub use node::{Node, StartError};
#[cfg(unix)]
pub use program::Program;
pub use runtime::Runtime;
pub use simulated::{Simulated, StopSignal};
pub use timeline::{Event, Hook, Timeline, What};
