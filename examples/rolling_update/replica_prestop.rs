//! The replica that stops with `prestop`: what a service has to do for it, and nothing else.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use prestop::ShutdownCoordinator;
use tokio::net::TcpListener;

use crate::cli::{ReplicaArgs, Strategy};
use crate::registration::membership;
use crate::replica::announce;
use crate::service::app;

pub async fn prestop(
    args: &ReplicaArgs,
    listener: TcpListener,
    address: SocketAddr,
) -> Result<ExitCode, String> {
    let (registry, instance) = membership(args, address)?;
    // The grace period is in TERMINATION_GRACE_PERIOD_SECONDS.
    let mut builder = ShutdownCoordinator::builder().registry(registry, instance);
    if let Some(ms) = args.linger_ms {
        builder = builder.linger(Duration::from_millis(ms));
    }
    let c = builder
        .build()
        .map_err(|error| format!("building the coordinator: {error}"))?;
    announce(address)?;
    let report = match args.strategy {
        Strategy::PrestopAxum => {
            let app = app().layer(c.layer());
            let server = axum::serve(c.listener(listener), app)
                .with_graceful_shutdown(c.handle().draining());
            c.run(server).await
        }
        _ => c.serve(listener, app()).await,
    };
    report.map_err(|error| format!("serving: {error}"))?.exit()
}
