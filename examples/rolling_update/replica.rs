//! A replica: the service in a process of its own, stopped in one of four ways.

use std::future::IntoFuture;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::cli::{ReplicaArgs, Strategy};
use crate::grpc::Demo;
use crate::registration::{Addresses, Registration};
use crate::replica_prestop::prestop;
use crate::service::app;

/// What manifests usually sleep in a preStop hook, and as long as prestop's lame duck.
const PRE_STOP_SLEEP: Duration = Duration::from_secs(5);

/// Runs until the process is stopped.
pub fn main(args: &ReplicaArgs) -> ExitCode {
    end_with_the_harness();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(args, &format!("starting the runtime: {error}")),
    };
    match runtime.block_on(run(args)) {
        Ok(code) => code,
        Err(error) => failed(args, &error),
    }
}

/// Nobody is left to stop this process when the harness is gone: the harness holds the other end of stdin, and the
/// kernel closes it however the harness ends.
fn end_with_the_harness() {
    thread::spawn(|| {
        let mut sink = [0; 64];
        while matches!(io::stdin().read(&mut sink), Ok(1..)) {}
        std::process::exit(3);
    });
}

fn failed(args: &ReplicaArgs, error: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "replica {}: {error}", args.id);
    ExitCode::from(2)
}

async fn run(args: &ReplicaArgs) -> Result<ExitCode, String> {
    let ports = Ports {
        http: bind().await?,
        grpc: bind().await?,
    };
    match args.strategy {
        Strategy::Kill | Strategy::Exit | Strategy::None => without_handler(args, ports).await,
        Strategy::Axum | Strategy::AxumSleep => axum_graceful(args, ports).await,
        Strategy::Prestop | Strategy::PrestopAxum | Strategy::Hooked(_) => {
            prestop(args, ports).await
        }
    }
}

/// The two listeners of a replica.
pub struct Ports {
    pub http: TcpListener,
    pub grpc: TcpListener,
}

impl Ports {
    pub fn addresses(&self) -> Result<Addresses, String> {
        let about = |error| format!("asking for the port: {error}");
        Ok(Addresses {
            http: self.http.local_addr().map_err(about)?,
            grpc: self.grpc.local_addr().map_err(about)?,
        })
    }
}

async fn bind() -> Result<TcpListener, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| format!("binding a port on 127.0.0.1: {error}"))
}

/// Tells the harness where this replica listens, and where it answers an `httpGet` hook. Whoever reads it may send
/// SIGTERM from then on, so the handler, if there is to be one, must be installed before.
pub fn announce(addresses: Addresses, hook: Option<SocketAddr>) -> Result<(), String> {
    let hook = hook.map_or_else(String::new, |hook| format!(" {hook}"));
    let mut stdout = io::stdout();
    writeln!(
        stdout,
        "listening {} {}{hook}",
        addresses.http, addresses.grpc
    )
    .and_then(|()| stdout.flush())
    .map_err(|error| format!("telling the harness the address: {error}"))
}

/// axum leaves Nagle's algorithm on, which adds 40 ms to many HTTP/2 answers. Off in every replica, so that the latency
/// of the strategies can be compared.
pub fn without_nagle(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        // An error means that the peer is gone.
        let _ = stream.set_nodelay(true);
    })
}

/// No signal handler at all: SIGTERM ends the process as SIGKILL does, without a farewell to anybody.
async fn without_handler(args: &ReplicaArgs, ports: Ports) -> Result<ExitCode, String> {
    let addresses = ports.addresses()?;
    announce(addresses, None)?;
    let _registration = Registration::register(args, addresses).await?;
    let grpc = Server::builder().add_service(Demo);
    let serving = async {
        let grpc = grpc.serve_with_incoming(incoming(ports.grpc));
        let web = axum::serve(without_nagle(ports.http), app());
        tokio::join!(web.into_future(), grpc)
    };
    served(serving.await)
}

/// tonic's own, without Nagle's algorithm like axum's.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn served(
    (web, grpc): (io::Result<()>, Result<(), tonic::transport::Error>),
) -> Result<ExitCode, String> {
    web.map_err(|error| format!("serving HTTP: {error}"))?;
    grpc.map_err(|error| format!("serving gRPC: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// What most services do. To be fair it also leaves the registry, the moment SIGTERM arrives and while it drains:
/// sooner is not possible, and later would only lose more.
async fn axum_graceful(args: &ReplicaArgs, ports: Ports) -> Result<ExitCode, String> {
    let mut sigterm = signal(SignalKind::terminate())
        .map_err(|error| format!("installing the SIGTERM handler: {error}"))?;
    let addresses = ports.addresses()?;
    announce(addresses, None)?;
    let registration = Registration::register(args, addresses).await?;
    let (leave, left) = tokio::sync::oneshot::channel();
    let stop = CancellationToken::new();
    let leaving = async move {
        // An error means that serving failed before any SIGTERM; then the entry has to go all the same.
        let _ = left.await;
        registration.leave().await
    };
    let longer = match args.strategy {
        Strategy::AxumSleep => PRE_STOP_SLEEP,
        _ => Duration::ZERO,
    };
    let told = async {
        sigterm.recv().await;
        let _ = leave.send(());
        sleep(longer).await;
        stop.cancel();
    };
    let web = axum::serve(without_nagle(ports.http), app())
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let grpc = Server::builder()
        .add_service(Demo)
        .serve_with_incoming_shutdown(incoming(ports.grpc), stop.cancelled());
    let ((), web, grpc, left) = tokio::join!(told, web.into_future(), grpc, leaving);
    left?;
    served((web, grpc))
}
