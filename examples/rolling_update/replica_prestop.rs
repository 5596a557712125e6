//! The replica that stops with `prestop`: what a service has to do for it, and nothing else.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use prestop::{HookSocket, HookToken, ShutdownCoordinator};
use tokio::net::TcpListener;

use crate::cli::{Hook, ReplicaArgs, Strategy};
use crate::kubelet::{SLEEP, TOKEN};
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
    let mut hook_address = None;
    builder = match args.hook {
        Hook::ExecOwn | Hook::ExecHelper => builder.hook_socket(HookSocket::from_env()),
        Hook::Http => {
            let probes = TcpListener::bind("127.0.0.1:0")
                .await
                .map_err(|error| format!("binding a port for the probes: {error}"))?;
            hook_address = probes.local_addr().ok();
            let token = HookToken::new(TOKEN).map_err(|error| error.to_string())?;
            builder.probe_listener_with_hook(probes, token)
        }
        Hook::Sleep => builder.pre_stop_elapsed(SLEEP),
        Hook::None => builder,
    };
    let c = builder
        .build()
        .map_err(|error| format!("building the coordinator: {error}"))?;
    announce(address, hook_address)?;
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
