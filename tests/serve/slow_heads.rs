//! Clients that take their time over a head, before there is any stop.

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use prestop::{Phase, serve};
use tokio::time::Instant;

use crate::support::raw_http2::*;
use crate::support::*;

const LIMIT: Duration = Duration::from_secs(3);

async fn served(limit: impl Into<Option<Duration>>) -> Server {
    let app = Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/echo", post(async |body: String| body));
    let (c, listener) = (builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let web = serve(&h, listener, app).header_read_timeout(limit);
    let run = async move { c.run(web).await.unwrap() };
    Server::running(h, addr, run).await
}

/// Longer than a head may take.
async fn slow() -> &'static str {
    tokio::time::sleep(2 * LIMIT).await;
    "slow"
}

/// The server has closed it, while it goes on.
async fn is_closed(server: Server, mut client: Http1) {
    client.end().await;
    assert_eq!(server.h.phase(), Phase::Ready);
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    let server = served(LIMIT).await;
    let from = Instant::now();
    let client = server.http1().await;
    is_closed(server, client).await;
    assert!(from.elapsed() >= LIMIT);
}

/// hyper-util waits for 24 bytes before it knows what is spoken, and for as long as it takes.
#[tokio::test]
async fn a_client_that_may_yet_speak_http2_is_closed() {
    let server = served(LIMIT).await;
    let mut client = server.http1().await;
    client.send(&PREFACE[..10]).await;
    is_closed(server, client).await;
}

#[tokio::test]
async fn an_http2_client_without_settings_is_closed() {
    let server = served(LIMIT).await;
    let mut client = Http2::preface(server.addr).await;
    client.drain().await;
    assert_eq!(server.h.phase(), Phase::Ready);
    server.stop();
    server.clean().await;
}

/// Each byte in time, the whole not: slowloris.
#[tokio::test]
async fn a_head_that_trickles_is_closed() {
    let server = served(LIMIT).await;
    let mut client = server.http1().await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    // The first head's time is over, and an idle connection owes none.
    tokio::time::sleep(LIMIT + Duration::from_millis(500)).await;
    assert!(!client.is_closed());
    let from = Instant::now();
    within("the close", async {
        let mut bytes = "GET /hello HTTP/1.1\r\nx: "
            .bytes()
            .chain(std::iter::repeat(b'x'));
        while !client.is_closed() && client.try_send([bytes.next().unwrap()]).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(from.elapsed() >= LIMIT);
    assert_eq!(server.h.phase(), Phase::Ready);
    server.stop();
    server.clean().await;
}

/// Neither is a head: a slow handler, a slow body, the line that some clients send behind a body.
#[tokio::test]
async fn what_is_no_head_has_all_its_time() {
    let server = served(LIMIT).await;
    let mut slow = server.http1().await;
    slow.send_get("/slow").await;
    let mut body = server.http1().await;
    body.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\nhalf")
        .await;
    let mut line = server.http1().await;
    line.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    assert_eq!(line.answer().await.text(), "body");
    line.send("\r\n").await;
    let mut http2 = Http2::connect(server.addr).await;
    http2.get(1, "/slow").await;
    tokio::time::sleep(2 * LIMIT).await;
    body.send("half").await;
    assert_eq!(body.answer().await.text(), "halfhalf");
    assert_eq!(slow.answer().await.text(), "slow");
    assert_eq!(line.get("/hello").await.text(), "hello");
    assert_eq!(http2.answer(1, false).await, (OK, b"slow".to_vec()));
    drop((slow, body, line, http2));
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn without_a_limit_a_head_has_all_its_time() {
    let server = served(None).await;
    let mut client = server.http1().await;
    client.send("GET /hel").await;
    tokio::time::sleep(2 * LIMIT).await;
    client.send("lo HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    server.stop();
    server.clean().await;
}
