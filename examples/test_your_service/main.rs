//! A user's whole test of a stop: `stop.rs`, thirty lines. It reads the Deployment that goes to the cluster, starts the
//! program that goes into the image, deletes the pod as the kubelet does, and sees that no request is lost.
//!
//!     cargo run --example test_your_service
//!
//! What to watch: the timeline. The signal comes at once, for the manifest has no preStop hook; new connections are
//! answered until the cluster sends them elsewhere, a second later; the slow request is answered after that; the end is long
//! before SIGKILL. `service.rs` is the service, and could be any: nothing in the test knows how it is made.

#![allow(clippy::print_stdout)]

mod service;
mod stop;

type Problem = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Problem> {
    match std::env::args().nth(1).as_deref() {
        Some("service") => service::serve().await,
        _ => stop::a_deleted_pod_loses_no_request().await,
    }
}
