//! A whole service for any HTTP client you have: quick, slow and streamed answers over HTTP/1.1 and HTTP/2 (h2c), with
//! the phases of its stop and the report on standard output.
//!
//!     cargo run --example service -- 127.0.0.1:8080 3
//!
//! (The second argument is the lame duck in seconds.) From a second terminal keep it busy, from a third stop it:
//!
//!     wrk -d 10 http://127.0.0.1:8080/fast
//!     curl --no-buffer 'http://127.0.0.1:8080/stream?chunks=50'
//!     kill -TERM $(pidof service)
//!
//! What to watch: curl gets its 50 lines although the listener has long been closed (`draining`), and the process ends
//! right after the last one. wrk is served, with `Connection: close`, until the listener closes; where it goes then is
//! the business of a load balancer, which `rolling_update` has and this example has not.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::routing::any;
use futures::{FutureExt, StreamExt, stream};
use prestop::{Phase, ShutdownCoordinator};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// 64 bytes, so that a client can count: `chunks` of them every 100 ms.
const CHUNK: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq\n";

#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    chunks: usize,
}

async fn fast(_: Bytes) -> &'static str {
    "a small answer, at once\n"
}

async fn slow(Query(options): Query<Options>, _: Bytes) -> &'static str {
    sleep(Duration::from_millis(options.ms)).await;
    "a small answer, after a while\n"
}

async fn stream(Query(options): Query<Options>, _: Bytes) -> Body {
    Body::from_stream(stream::iter(0..options.chunks).then(|_| async {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(CHUNK)
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let mut builder = ShutdownCoordinator::builder();
    if let Some(seconds) = args.next() {
        builder = builder.lame_duck(Duration::try_from_secs_f64(seconds.parse()?)?);
    }
    let c = builder.build()?; // SIGTERM is caught from here on
    for phase in [Phase::LameDuck, Phase::Draining] {
        let reached = c.handle().wait_for(phase);
        tokio::spawn(reached.map(move |()| writeln!(io::stdout(), "{phase}")));
    }
    let app = Router::new()
        .route("/fast", any(fast))
        .route("/slow", any(slow))
        .route("/stream", any(stream));
    let listener = TcpListener::bind(address).await?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    let report = c.serve(listener, app).await?;
    writeln!(io::stdout(), "{report}")?;
    report.exit()
}
