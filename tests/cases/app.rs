//! The service that all paths serve, and what its handlers wait for.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use prestop::ShutdownHandle;
use tokio::sync::Semaphore;

use crate::support::until;

/// More than the socket buffers of both ends hold, where the client's is small.
pub const BIG: usize = 6_000_000;

/// More than a window of HTTP/2.
pub const PAGE: usize = 300_000;

/// Between the handlers and the client's script.
pub struct Stage {
    entered: AtomicUsize,
    gate: Semaphore,
    /// Work that went on without a socket is done.
    pub worked: AtomicBool,
    pub handle: OnceLock<ShutdownHandle>,
    unblock: mpsc::Sender<()>,
    unblocked: Mutex<mpsc::Receiver<()>>,
}

impl Default for Stage {
    fn default() -> Self {
        let (unblock, unblocked) = mpsc::channel();
        Self {
            entered: AtomicUsize::default(),
            gate: Semaphore::new(0),
            worked: AtomicBool::default(),
            handle: OnceLock::new(),
            unblock,
            unblocked: Mutex::new(unblocked),
        }
    }
}

impl Stage {
    fn enter(&self) {
        self.entered.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until so many handlers run.
    pub async fn entered(&self, handlers: usize) {
        until("the handlers", || {
            self.entered.load(Ordering::SeqCst) >= handlers
        })
        .await;
    }

    /// Lets every handler go on that waits.
    pub fn open(&self) {
        self.gate.add_permits(1_000);
    }

    async fn opened(&self) {
        self.gate.acquire().await.unwrap().forget();
    }

    /// Frees the server's only thread.
    pub fn unblock(&self) {
        self.unblock.send(()).unwrap();
    }
}

type Staged = State<Arc<Stage>>;

pub fn app(stage: Arc<Stage>) -> Router {
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/echo", post(echo))
        .route("/big", get(big))
        .route("/page", get(async || vec![b'x'; PAGE]))
        .route("/endless", get(async || endless()))
        .route("/events", get(events))
        .route("/block", get(block))
        .route("/ws", get(ws))
        .route("/export", get(export))
        .fallback(connect)
        .with_state(stage)
}

/// Knows nothing of a stop.
async fn events() -> impl IntoResponse {
    let one = futures::stream::iter([Ok::<_, io::Error>("data: 1\n\n")]);
    let events = one.chain(futures::stream::pending());
    let kind = [("content-type", "text/event-stream")];
    (kind, Body::from_stream(events))
}

async fn slow(State(stage): Staged) -> &'static str {
    stage.enter();
    stage.opened().await;
    "slow"
}

async fn never(State(stage): Staged) {
    stage.enter();
    std::future::pending::<()>().await;
}

async fn echo(State(stage): Staged, body: Body) -> Response {
    stage.enter();
    let body = axum::body::to_bytes(body, usize::MAX).await;
    body.map_or_else(
        |_| StatusCode::BAD_REQUEST.into_response(),
        IntoResponse::into_response,
    )
}

async fn big(State(stage): Staged) -> Bytes {
    static BODY: [u8; BIG] = [b'x'; BIG];
    stage.enter();
    Bytes::from_static(&BODY)
}

/// As fast as a busy machine can well do.
fn endless() -> Body {
    let chunk = Bytes::from_static(&[b'x'; 1_000]);
    let every = tokio::time::interval(Duration::from_millis(5));
    let chunks = futures::stream::unfold((chunk, every), async |(chunk, mut every)| {
        every.tick().await;
        Some((Ok::<_, io::Error>(chunk.clone()), (chunk, every)))
    });
    Body::from_stream(chunks)
}

async fn block(State(stage): Staged) {
    stage.enter();
    stage.unblocked.lock().unwrap().recv().unwrap();
}

async fn ws(State(stage): Staged, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        stage.enter();
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

/// Drops its socket and works on; in `?guarded` under a guard.
async fn export(State(stage): Staged, upgrade: WebSocketUpgrade, uri: http::Uri) -> Response {
    let handle = stage.handle.get().filter(|_| uri.query().is_some());
    let guard = handle.map(|h| h.guard("export").unwrap());
    upgrade.on_upgrade(async move |socket: WebSocket| {
        let _guard = guard;
        drop(socket);
        stage.enter();
        stage.opened().await;
        stage.worked.store(true, Ordering::SeqCst);
    })
}

/// A tunnel to an echo.
async fn connect(State(stage): Staged, mut request: Request) -> Response {
    if request.method() != Method::CONNECT {
        return StatusCode::NOT_FOUND.into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let tunnel = TokioIo::new(upgrade.await.unwrap());
        stage.enter();
        let (mut reader, mut writer) = tokio::io::split(tunnel);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    StatusCode::OK.into_response()
}
