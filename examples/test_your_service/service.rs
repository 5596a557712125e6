//! The service under test. It says where it listens, for a test lets it choose.

use std::io::{self, Write};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use prestop::ShutdownCoordinator;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::Problem;

pub(crate) async fn serve() -> Result<(), Problem> {
    let probes = bind("PROBE_ADDRESS", "0.0.0.0:9090").await?;
    let c = ShutdownCoordinator::builder()
        .probe_listener(probes)
        .build()?;
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/slow", get(slow));
    let http = bind("HTTP_ADDRESS", "0.0.0.0:8080").await?;
    c.serve(http, app).await?.exit()
}

/// Longer than the pod is sent anything.
async fn slow() -> &'static str {
    sleep(Duration::from_secs(7)).await;
    "hello, at last\n"
}

async fn bind(variable: &str, default: &str) -> Result<TcpListener, Problem> {
    let address = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(address).await?;
    writeln!(io::stdout(), "{variable}={}", listener.local_addr()?)?;
    Ok(listener)
}
