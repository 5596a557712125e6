//! A whole service for any HTTP client you have: quick, slow and streamed answers over HTTP/1.1 and HTTP/2 (h2c), events,
//! a WebSocket and gRPC, with the phases of its stop and the report on standard output.
//!
//!     cargo run --example service -- 127.0.0.1:8080 3 127.0.0.1:50051
//!
//! (The second argument is the lame duck in seconds, the third is for gRPC; both may be left out.) From a second terminal keep it busy, from a third stop it:
//!
//!     wrk -d 10 http://127.0.0.1:8080/fast
//!     curl --no-buffer 'http://127.0.0.1:8080/stream?chunks=50'
//!     curl --no-buffer http://127.0.0.1:8080/events
//!     kill -TERM $(pidof service)
//!
//! What to watch: curl gets its 50 lines although the listener has long been closed (`draining`), and the process ends
//! right after the last one. wrk is served, with `Connection: close`, until the listener closes; where it goes then is
//! the business of a load balancer, which `rolling_update` has and this example has not. The events, which have no end,
//! are ended after a whole one when the drain begins: curl says no error.

// It has no outside: `pub` says that the other example uses it.
#[allow(unreachable_pub)]
#[path = "rolling_update/grpc.rs"]
mod grpc;

use std::convert::Infallible;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get};
use futures::{FutureExt, Stream, StreamExt, stream};
use prestop::{Phase, ShutdownCoordinator, StopSignal, serve};
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

/// Without an end, and nothing in here ends it: prestop does, between two events. Each says which process it comes from.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(0..).then(|number: u64| async move {
        if number > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Event::default().data(format!("{number} from {}", std::process::id())))
    }))
}

async fn echo(stop: StopSignal, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| {
        let mut socket = stop.websocket(socket);
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(_) = message
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
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
        .route("/stream", any(stream))
        .route("/events", get(events))
        .route("/echo", get(echo));
    let listener = TcpListener::bind(address).await?;
    let h = c.handle();
    let mut addresses = listener.local_addr()?.to_string();
    let web = serve(&h, listener, app);
    let ready = h.wait_for(Phase::Ready);
    // A stop before that has no lame duck: nobody was sent here yet.
    let say = move |addresses| {
        tokio::spawn(ready.map(move |()| writeln!(io::stdout(), "listening {addresses}")));
    };
    let report = match args.next() {
        None => {
            say(addresses);
            c.run(web).await?
        }
        Some(grpc) => {
            let listener = TcpListener::bind(grpc).await?;
            addresses += &format!(" {}", listener.local_addr()?);
            say(addresses);
            let grpc = tonic::transport::Server::builder()
                .layer(c.layer())
                .add_service(grpc::Demo)
                .serve_with_incoming_shutdown(c.incoming(listener), h.draining());
            c.run(async { tokio::join!(web.into_future(), grpc).1 })
                .await?
        }
    };
    writeln!(io::stdout(), "{report}")?;
    report.exit()
}
