//! The replica that stops with `prestop`: what a service has to do for it, and nothing else.

use std::future::IntoFuture;
use std::process::ExitCode;
use std::time::Duration;

use prestop::registry::Instance;
use prestop::registry::memory::MemoryRegistryClient;
use prestop::{ShutdownCoordinator, serve};
use tonic::transport::Server;

use crate::cli::{ReplicaArgs, Strategy};
use crate::grpc::Demo;
use crate::registration::{GRPC_SERVICE, SERVICE};
use crate::replica::{Ports, announce};
use crate::service::app;

pub async fn prestop(args: &ReplicaArgs, ports: Ports) -> Result<ExitCode, String> {
    let addresses = ports.addresses()?;
    // The grace period is in TERMINATION_GRACE_PERIOD_SECONDS.
    let mut builder = ShutdownCoordinator::builder();
    for (service, address) in [(GRPC_SERVICE, addresses.grpc), (SERVICE, addresses.http)] {
        let registry = MemoryRegistryClient::new(&format!("http://{}", args.registry))
            .map_err(|error| format!("using the registry: {error}"))?
            .with_ttl(Duration::from_millis(args.ttl_ms))
            // How old the gateway's view may be.
            .with_visibility(Duration::from_millis(args.visibility_ms));
        builder = builder.registry(registry, Instance::new(service, address).with_id(&args.id));
    }
    if let Some(ms) = args.linger_ms {
        builder = builder.linger(Duration::from_millis(ms));
    }
    let c = builder
        .build()
        .map_err(|error| format!("building the coordinator: {error}"))?;
    let h = c.handle();
    announce(addresses.http)?;
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
