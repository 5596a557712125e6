//! The service whose replicas are replaced. It knows nothing of how it is stopped.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use axum::routing::get;
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::sleep;

const FAST: &str = "a small answer, at once\n";
const SLOW: &str = "a small answer, after a while\n";
const CHUNK: &[u8] = &[b'.'; 1024];
const CHUNKS: usize = 20;
const CHUNK_EVERY: Duration = Duration::from_millis(100);

/// Lengths of complete answers.
pub const FAST_BYTES: usize = FAST.len();
pub const SLOW_BYTES: usize = SLOW.len();
pub const STREAM_BYTES: usize = CHUNK.len() * CHUNKS;

pub fn app() -> Router {
    Router::new()
        .route("/fast", get(|| async { FAST }))
        .route("/slow", get(slow))
        .route("/stream", get(stream_for_two_seconds))
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
