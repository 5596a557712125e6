//! The kubelet of `prestop::kubelet` stops pods by Kubernetes' rules: the vectors of its own unit tests and of its code
//! on paused time, and what was seen on a real cluster, with real processes on real clocks.
#![cfg(all(unix, feature = "kubelet", not(loom)))]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod causes;
mod endpoints;
mod kind;
mod machine;
mod manifests;
mod observed;
mod program;
mod rollout;
mod vectors;

use std::time::Duration;

/// Seconds.
fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
