//! The article's postStart example: a file written at start. There it was a shell in the manifest,
//! `postStart: exec: ["/bin/sh", "-c", "echo Hello > /usr/share/message"]`: it needs a shell in the image, runs beside
//! the entry point (possibly before it), has no time limit, and its failure is one word in an event.
//!
//! Here it is an `on_started` hook: it runs before the service is ready, within its limit, and its failure is in the
//! report. The file is removed again after the drain.
//!
//!     cargo run --example post_start -- target/message
//!
//! What to watch: the file, and `curl localhost:9090/startupz`; Ctrl-C removes the file. Give it a path that cannot be
//! written (`/nonexistent/message`) to see a start that fails, with exit code 70. A second argument is the address of
//! the probes.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use prestop::{BoxError, HookContext, LifecycleHook, ShutdownCoordinator, Stage};
use tokio::net::TcpListener;

/// A hook object: `on_stopped` is called only when its `on_started` had succeeded.
struct Message(PathBuf);

#[async_trait]
impl LifecycleHook for Message {
    fn name(&self) -> &str {
        "write the message"
    }

    fn limit(&self, stage: Stage) -> Option<Duration> {
        (stage == Stage::OnStarted).then_some(Duration::from_secs(5))
    }

    async fn on_started(&self, _cx: &HookContext) -> Result<(), BoxError> {
        Ok(tokio::fs::write(&self.0, "Hello from the on_started hook\n").await?)
    }

    async fn on_stopped(&self, _cx: &HookContext) -> Result<(), BoxError> {
        Ok(tokio::fs::remove_file(&self.0).await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args
        .next()
        .map_or_else(|| std::env::temp_dir().join("message"), PathBuf::from);
    let probes = args.next().unwrap_or_else(|| "127.0.0.1:9090".to_owned());

    let c = ShutdownCoordinator::builder()
        .probe_listener(TcpListener::bind(probes).await?)
        .hook(Message(file))
        .build()?;
    let h = c.handle();
    c.run(h.draining()).await?.exit()
}
