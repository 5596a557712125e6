//! S11: exempt requests never delay a stop.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use prestop::{Phase, ShutdownReport, WorkKind, serve};

use crate::support::raw_http2::{Http2, OK};
use crate::support::*;

fn app() -> Router {
    let watch = get(async || endless_wait());
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/watch", watch)
        .route("/metrics", get(async || "up 1\n"))
}

/// A body that stays open without a byte more.
fn endless_wait() -> axum::body::Body {
    let first = futures::stream::iter([Ok::<_, std::io::Error>("first")]);
    axum::body::Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
}

fn is_exempt(head: prestop::Head<'_>) -> bool {
    matches!(head.uri.path(), "/watch" | "/metrics")
}

/// Exempt by `serve(..).exempt`.
async fn by_serve(linger: Duration) -> Server {
    let (c, listener) = (builder().linger(linger).build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let web = serve(&h, listener, app()).exempt(is_exempt);
    Server::running(h, addr, async { c.run(web).await.unwrap() }).await
}

/// Exempt by the layer, under `serve`.
async fn by_layer(linger: Duration) -> Server {
    let c = builder().linger(linger).build().unwrap();
    let app = app().layer(c.layer().exempt(is_exempt));
    Server::start(c, app).await
}

fn quick(report: &ShutdownReport) {
    assert!(report.total < LONG, "{report}");
}

#[tokio::test]
async fn an_exempt_stream_is_cut_when_nothing_else_is_in_flight() {
    for server in [by_serve(LONG).await, by_layer(LONG).await] {
        let mut client = server.http1().await;
        client.send_get("/watch").await;
        assert_eq!(client.head().await.status, 200);
        assert_eq!(client.chunk().await.unwrap(), b"first");
        server.stop();
        client.drain().await;
        quick(&server.clean().await);
    }
}

#[tokio::test]
async fn an_exempt_stream_on_http2_is_cut_when_nothing_else_is_in_flight() {
    for server in [by_serve(LONG).await, by_layer(LONG).await] {
        let mut client = Http2::connect(server.addr).await;
        client.get(1, "/watch").await;
        client.next(crate::support::raw_http2::DATA).await;
        server.stop();
        client.drain().await;
        quick(&server.clean().await);
    }
}

#[tokio::test]
async fn exempt_work_goes_on_while_other_work_does() {
    let server = by_serve(LONG).await;
    let mut client = server.http1().await;
    client.send_get("/watch").await;
    client.head().await;
    client.chunk().await.unwrap();
    let busy = server.h.guard("busy").unwrap();
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!client.is_closed());
    drop(busy);
    client.drain().await;
    server.clean().await;
}

/// A scraper's keep-alive connection has no linger to wait for.
#[tokio::test]
async fn an_idle_connection_of_exempt_work_alone_is_not_waited_for() {
    for server in [by_serve(LONG).await, by_layer(LONG).await] {
        let mut client = server.http1().await;
        assert_eq!(client.get("/metrics").await.text(), "up 1\n");
        assert_eq!(client.get("/metrics").await.text(), "up 1\n");
        server.stop();
        client.drain().await;
        quick(&server.clean().await);
    }
}

/// It was used for a normal request: the next one may be on its way, whatever came last.
#[tokio::test]
async fn a_connection_of_mixed_use_keeps_its_linger() {
    for server in [by_serve(LONG).await, by_layer(LONG).await] {
        let mut client = server.http1().await;
        assert_eq!(client.get("/hello").await.text(), "hello");
        assert_eq!(client.get("/metrics").await.text(), "up 1\n");
        server.stop_to(Phase::Draining).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(client.get("/hello").await.text(), "hello");
        server.clean().await;
    }
}

#[tokio::test]
async fn a_normal_request_after_an_exempt_one_is_counted() {
    let (tx, body) = channel();
    let take = once(body);
    let (c, listener) = (builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let app = app().route("/slow", get(async move || take()));
    let web = serve(&h, listener, app).exempt(is_exempt);
    let server = Server::running(h, addr, async { c.run(web).await.unwrap() }).await;
    let mut client = server.http1().await;
    client.get("/metrics").await;
    client.send_get("/slow").await;
    client.head().await;
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    tx.send(Ok("whole".into())).unwrap();
    drop(tx);
    assert_eq!(client.chunk().await.unwrap(), b"whole");
    assert_eq!(client.chunk().await.unwrap(), b"");
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 1);
}

/// On one HTTP/2 connection a watch and requests run side by side.
#[tokio::test]
async fn a_watch_beside_requests_ends_when_they_have() {
    let server = by_serve(LONG).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/watch").await;
    client.next(crate::support::raw_http2::DATA).await;
    client.get(3, "/hello").await;
    assert_eq!(client.answer(3, false).await, (OK, b"hello".to_vec()));
    server.stop();
    client.drain().await;
    quick(&server.clean().await);
}

#[tokio::test]
async fn exempt_work_is_never_a_straggler() {
    let server = by_serve(LONG).await;
    let mut client = server.http1().await;
    client.send_get("/watch").await;
    client.head().await;
    let busy = server.h.guard("busy").unwrap();
    server.stop_to_closed().await;
    server.h.force();
    client.drain().await;
    until("the cut", || server.h.guard("late").is_err()).await;
    drop(busy);
    let report = server.report().await;
    let kinds: Vec<_> = report.stragglers.iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [WorkKind::Guard], "{report}");
    assert_eq!(report.requests.cut, 0);
}

#[tokio::test]
async fn an_exempt_upgrade_neither_delays_nor_is_a_straggler() {
    let up = async |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _open = upgrade.await.unwrap();
            std::future::pending::<()>().await;
        });
        axum::response::Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "foo")
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let (c, listener) = (builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let web = serve(&h, listener, Router::new().route("/watch", get(up))).exempt(is_exempt);
    let server = Server::running(h, addr, async { c.run(web).await.unwrap() }).await;
    let mut client = server.http1().await;
    client
        .send("GET /watch HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status, 101);
    let busy = server.h.guard("busy").unwrap();
    server.stop_to_closed().await;
    server.h.force();
    until("the cut", || server.h.guard("late").is_err()).await;
    drop(busy);
    let report = server.report().await;
    let kinds: Vec<_> = report.stragglers.iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [WorkKind::Guard], "{report}");
}

/// Exempt requests are no traffic: they are in no count, and do not keep a service from being quiet.
#[tokio::test]
async fn exempt_requests_do_not_keep_the_lame_duck_open() {
    let builder = builder()
        .lame_duck(LONG)
        .end_lame_duck_when_quiet(Duration::from_millis(300));
    let (c, listener) = (builder.build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let app = Router::new().route("/watch", axum::routing::get(|| async { "ok" }));
    let web = serve(&h, listener, app).exempt(is_exempt);
    let server = Server::running(h, addr, async { c.run(web).await.unwrap() }).await;
    server.stop();
    let scraper = tokio::spawn(async move {
        loop {
            // Ends when the listener has closed.
            let Ok(mut client) = tokio::net::TcpStream::connect(addr).await else {
                return;
            };
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let get = b"GET /watch HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            if client.write_all(get).await.is_ok() {
                let _ = client.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    let report = server.report().await;
    scraper.abort();
    assert!(report.total < LONG, "{report}");
    assert_eq!(report.requests.finished, 0, "{report}");
    assert_eq!(report.requests.abandoned, 0, "{report}");
}
