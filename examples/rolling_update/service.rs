//! The service whose replicas are replaced. It knows nothing of how it is stopped; only the WebSocket and the gRPC stream
//! ask when to end, where somebody can say it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Extension, Router};
use futures::{Stream, StreamExt, stream};
use prestop::StopSignal;
use serde::Deserialize;
use tokio::time::sleep;

const FAST: &str = "a small answer, at once\n";
const SLOW: &str = "a small answer, after a while\n";
const CHUNK: &[u8] = &[b'.'; 1024];
const CHUNKS: usize = 20;
const CHUNK_EVERY: Duration = Duration::from_millis(100);
const EVENT_EVERY: Duration = Duration::from_millis(100);

/// Lengths of complete answers.
pub const FAST_BYTES: usize = FAST.len();
pub const SLOW_BYTES: usize = SLOW.len();
pub const STREAM_BYTES: usize = CHUNK.len() * CHUNKS;

pub fn app() -> Router {
    Router::new()
        .route("/fast", get(|| async { FAST }))
        .route("/slow", get(slow))
        .route("/stream", get(stream_for_two_seconds))
        .route("/events", get(events))
        .route("/echo", get(echo))
        .route("/readyz", get(|| async { "ready\n" }))
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(Query(slow): Query<Slow>) -> &'static str {
    sleep(Duration::from_millis(slow.ms)).await;
    SLOW
}

#[derive(Deserialize)]
struct Streamed {
    #[serde(default)]
    length: bool,
}

async fn stream_for_two_seconds(Query(streamed): Query<Streamed>) -> Response {
    let chunks = stream::iter(0..CHUNKS).then(|_| async {
        sleep(CHUNK_EVERY).await;
        Ok::<_, Infallible>(Bytes::from_static(CHUNK))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    if streamed.length {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, STREAM_BYTES.into());
    }
    response
}

/// Events without an end. prestop ends them between two, by what they are.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(0_u64..).then(|number| async move {
        if number > 0 {
            sleep(EVENT_EVERY).await;
        }
        Ok(Event::default().data(number.to_string()))
    }))
}

async fn echo(stop: Option<Extension<StopSignal>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| match stop {
        Some(Extension(stop)) => {
            let mut socket = stop.websocket(socket);
            while let Some(Ok(message)) = socket.recv().await {
                if is_said(&message) && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
        // Without prestop nobody says when to end.
        None => {
            while let Some(Ok(message)) = socket.recv().await {
                if is_said(&message) && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    })
}

/// Close and Ping are answered by the socket itself.
const fn is_said(message: &Message) -> bool {
    matches!(message, Message::Text(_) | Message::Binary(_))
}
