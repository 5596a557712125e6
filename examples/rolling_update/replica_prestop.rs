//! The replica that stops with `prestop`: what a service has to do for it, and nothing else.

use std::future::IntoFuture;
use std::process::ExitCode;
use std::time::Duration;

use prestop::{HookSocket, HookToken, ShutdownCoordinator, serve};
use tokio::net::TcpListener;
use tonic::transport::Server;

use crate::cli::{Hook, ReplicaArgs, Strategy};
use crate::grpc::Demo;
use crate::pod::{SLEEP, TOKEN};
use crate::registration::memberships;
use crate::replica::{Ports, announce};
use crate::service::app;

pub async fn prestop(args: &ReplicaArgs, ports: Ports) -> Result<ExitCode, String> {
    let addresses = ports.addresses()?;
    // The grace period is in TERMINATION_GRACE_PERIOD_SECONDS.
    let mut builder = ShutdownCoordinator::builder();
    for (registry, instance) in memberships(args, addresses)? {
        builder = builder.registry(registry, instance);
    }
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
    let h = c.handle();
    announce(addresses, hook_address)?;
    let grpc = Server::builder()
        .layer(c.layer())
        .add_service(Demo)
        .serve_with_incoming_shutdown(c.incoming(ports.grpc), h.draining());
    let report = match args.strategy {
        Strategy::PrestopAxum => {
            let app = app().layer(c.layer());
            let web = axum::serve(c.listener(ports.http), app).with_graceful_shutdown(h.draining());
            c.run(async { tokio::join!(web.into_future(), grpc).1 })
                .await
        }
        _ => {
            let web = serve(&h, ports.http, app());
            c.run(async { tokio::join!(web.into_future(), grpc).1 })
                .await
        }
    };
    report.map_err(|error| format!("serving: {error}"))?.exit()
}
