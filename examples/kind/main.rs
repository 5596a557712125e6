//! A service as it goes into a cluster: an axum server, a tonic server and a queue consumer under one coordinator, with
//! probes, a flush at the end, and itself as the command of its preStop and postStart hooks. `run.sh` puts it into a
//! kind cluster and replaces its pods under load; this runs it anywhere:
//!
//!     cargo run --example kind
//!
//! From a second terminal ask it, from a third stop it:
//!
//!     curl 'localhost:8080/slow?ms=8000'
//!     kill -TERM $(pidof kind)
//!
//! What to watch: the consumer takes no message once the stop has begun, and finishes the one it has; `localhost:9090`
//! answers `/readyz` with 503 from then on and `/livez` with 200; curl gets its answer although the listener has long
//! been closed; the flush comes last; the exit code is 0. In a cluster (or with `LAME_DUCK_SECONDS=5`) everything is
//! served for another 5 s before the listener closes.
//!
//! | variable | default | |
//! |---|---|---|
//! | `TERMINATION_GRACE_PERIOD_SECONDS` | 30 | the pod's |
//! | `LAME_DUCK_SECONDS` | 5 in a cluster, else 0 | longer behind an external load balancer |
//! | `WARM_UP_SECONDS` | 1 | how long the start takes |
//! | `PRESTOP_SOCKET` | a directory for run-time files | where the hooks find the process |
//! | `HTTP_ADDRESS`, `GRPC_ADDRESS`, `PROBE_ADDRESS` | `0.0.0.0:8080`, `:50051`, `:9090` | |

mod grpc;
mod load;
#[rustfmt::skip]
mod orders;
mod queue;

use std::fmt::Display;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use prestop::{BoxError, HookSocket, ShutdownCoordinator, serve};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic::transport::Server;

/// What was done, for the flush at the end.
#[derive(Debug, Default)]
struct Done {
    http: AtomicU64,
    grpc: AtomicU64,
    messages: AtomicU64,
}

fn main() -> Result<(), BoxError> {
    prestop::exec_hook(); // `/app prestop` and `/app prestop started` end here
    if std::env::args().nth(1).as_deref() == Some("load") {
        return load::main();
    }
    service()
}

#[tokio::main]
async fn service() -> Result<(), BoxError> {
    // First of all: from `build` on SIGTERM is heard and the probes answer, however slow the rest of the start is.
    let done = Arc::<Done>::default();
    let (flush, warm_up) = (done.clone(), seconds("WARM_UP_SECONDS")?);
    let mut builder = ShutdownCoordinator::builder()
        .hook_socket(HookSocket::from_env())
        .probe_listener(bind("PROBE_ADDRESS", "0.0.0.0:9090").await?)
        .on_started("warm the cache", move |_| {
            sleep(warm_up.unwrap_or(Duration::from_secs(1)))
        })
        .on_stopped("flush", move |_| async move {
            let [http, grpc, messages] = [&flush.http, &flush.grpc, &flush.messages].map(count);
            say(format_args!(
                "flushed: {http} requests, {grpc} orders, {messages} messages"
            ));
        });
    if let Some(lame_duck) = seconds("LAME_DUCK_SECONDS")? {
        builder = builder.lame_duck(lame_duck);
    }
    let c = builder.build()?;
    let h = c.handle();

    // HTTP, on the crate's own loop.
    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .with_state(done.clone());
    let web = serve(&h, bind("HTTP_ADDRESS", "0.0.0.0:8080").await?, app);

    // gRPC, on tonic's own server.
    let incoming = c.incoming(bind("GRPC_ADDRESS", "0.0.0.0:50051").await?);
    let rpc = Server::builder()
        .add_service(grpc::health(h.clone()).await)
        .add_service(grpc::orders(done.clone()))
        .serve_with_incoming_shutdown(incoming, h.draining());

    // The consumer holds the drain open until it has finished its message.
    h.spawn("consumer", queue::consume(h.clone(), done))?;

    let servers = async { tokio::join!(web.into_future(), rpc).1 };
    let report = c.run(servers).await?;
    say(format_args!("{report}"));
    report.exit()
}

async fn hello(State(done): State<Arc<Done>>) -> &'static str {
    done.http.fetch_add(1, Ordering::Relaxed);
    "hello\n"
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

/// At most 20 s: more than the drain has, of a grace period of 30 s, would be cut.
async fn slow(State(done): State<Arc<Done>>, Query(slow): Query<Slow>) -> &'static str {
    sleep(Duration::from_millis(slow.ms.min(20_000))).await;
    done.http.fetch_add(1, Ordering::Relaxed);
    "hello, at last\n"
}

/// The listener, or an error that says which.
async fn bind(variable: &str, default: &str) -> Result<TcpListener, BoxError> {
    let address = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("listening on {address} ({variable}): {error}"))?;
    say(format_args!("{variable}={}", listener.local_addr()?));
    Ok(listener)
}

fn seconds(variable: &str) -> Result<Option<Duration>, BoxError> {
    let Ok(value) = std::env::var(variable) else {
        return Ok(None);
    };
    let seconds = u64::from_str(&value)
        .map_err(|error| format!("{variable}={value:?}: whole seconds are wanted: {error}"))?;
    Ok(Some(Duration::from_secs(seconds)))
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// `println!` would panic when nobody reads any more.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
