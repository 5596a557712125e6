//! `DrainLayer` where nothing else counts: stock `axum::serve`, and any tower service.
#![cfg(all(feature = "axum", not(loom)))]
#![allow(unused_must_use, reason = "not every test looks at the report")]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use prestop::{Phase, Reason, ShutdownCoordinator, WorkKind};
use tower::{Service, ServiceBuilder, ServiceExt};

use support::*;

/// The stock server with the layer around the whole app.
async fn stock(c: ShutdownCoordinator, app: Router) -> Server {
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let web = axum::serve(listener, app.layer(c.layer())).with_graceful_shutdown(h.draining());
    Server::running(h, addr, async { c.run(web.into_future()).await.unwrap() }).await
}

fn hello() -> Router {
    Router::new().route("/hello", get(async || "hello"))
}

fn requests(server: &Server) -> usize {
    let all = server.h.in_flight();
    all.iter().filter(|s| s.kind == WorkKind::Request).count()
}

#[tokio::test]
async fn on_the_stock_server_a_request_lasts_until_its_body_ends() {
    let (tx, body) = channel();
    let take = once(body);
    let app = hello().route("/slow", get(async move || take()));
    let server = stock(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/slow").await;
    client.head().await;
    assert_eq!(requests(&server), 1);
    assert_eq!(server.h.in_flight().last().unwrap().what, "GET /slow");
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!server.is_stopped());
    tx.send(Ok("whole".into())).unwrap();
    drop(tx);
    assert_eq!(client.chunk().await.unwrap(), b"whole");
    assert_eq!(client.chunk().await.unwrap(), b"");
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 1, "{report}");
    assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
}

#[tokio::test]
async fn a_request_ends_when_its_body_is_dropped_or_fails() {
    let ((tx, body), (_tx2, body2)) = (channel(), channel());
    let (take, take2) = (once(body), once(body2));
    let app = Router::new()
        .route("/fails", get(async move || take()))
        .route("/left", get(async move || take2()));
    let server = stock(builder().build().unwrap(), app).await;
    let (mut fails, mut left) = (server.http1().await, server.http1().await);
    fails.send_get("/fails").await;
    fails.head().await;
    left.send_get("/left").await;
    left.head().await;
    assert_eq!(requests(&server), 2);
    tx.send(Err(std::io::Error::other("no more"))).unwrap();
    until("the failed one's end", || requests(&server) == 1).await;
    drop(left);
    until("the dropped one's end", || requests(&server) == 0).await;
    server.stop();
    assert_eq!(server.clean().await.requests.finished, 0);
}

#[tokio::test]
async fn lengths_and_ends_of_bodies_stay_known() {
    let app = hello().route("/empty", get(async || ()));
    let server = stock(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    let answer = client.get("/hello").await;
    assert_eq!(answer.header("content-length"), Some("5"));
    let answer = client.get("/empty").await;
    assert_eq!(answer.header("content-length"), Some("0"));
    client
        .send("HEAD /hello HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    assert_eq!(client.head().await.header("content-length"), Some("5"));
    server.stop();
    assert_eq!(server.clean().await.requests.finished, 3);
}

#[tokio::test]
async fn http1_clients_are_asked_to_close_from_the_lame_duck_on() {
    let length = Duration::from_secs(2);
    let c = builder().lame_duck(length).build().unwrap();
    let server = stock(c, hello()).await;
    let mut client = server.http1().await;
    assert!(!client.get("/hello").await.says_close());
    server.stop_to(Phase::LameDuck).await;
    tokio::time::sleep(length / 2 + Duration::from_millis(10)).await;
    assert!(client.get("/hello").await.says_close());
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

#[tokio::test]
async fn http2_answers_never_say_close() {
    let c = builder().lame_duck(Duration::from_secs(1)).build().unwrap();
    let h = c.handle();
    let answers = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello")));
    let mut service = ServiceBuilder::new()
        .layer(c.layer())
        .service(tower::service_fn(answers));
    let run = tokio::spawn(c.run(h.wait_for(Phase::Draining)));
    h.wait_for(Phase::Ready).await;
    h.trigger(Reason::requested("test"));
    h.wait_for(Phase::LameDuck).await;
    tokio::time::sleep(Duration::from_millis(510)).await;
    for (version, close) in [
        (Version::HTTP_10, true),
        (Version::HTTP_11, true),
        (Version::HTTP_2, false),
        (Version::HTTP_3, false),
    ] {
        let request = Request::builder().version(version).body(Body::empty());
        let answer = service.ready().await.unwrap().call(request.unwrap());
        let answer = answer.await.unwrap();
        let says = answer.headers().get("connection").is_some();
        assert_eq!(says, close, "{version:?}");
    }
    within("the report", run).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_the_drain_requests_are_refused() {
    let c = builder().build().unwrap();
    let (h, layer) = (c.handle(), c.layer());
    h.trigger(Reason::requested("test"));
    c.run(h.draining()).await.unwrap();
    let never = async |_: Request<String>| -> Result<Response<Full<bytes::Bytes>>, Infallible> {
        unreachable!("called after the drain")
    };
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(tower::service_fn(never));
    let answer = service.oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["connection"], "close");
    assert!(answer.body().is_end_stream());
    assert_eq!(h.report().requests.refused, 1);
}

#[tokio::test]
async fn exempt_requests_are_not_waited_for() {
    let (_tx, body) = channel();
    let take = once(body);
    let c = builder().build().unwrap();
    let layer = c.layer().exempt(|head| head.uri.path() == "/watch");
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    let app = hello()
        .route("/watch", get(async move || take()))
        .layer(layer);
    let request = Request::get("/watch").body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    h.trigger(Reason::requested("test"));
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    drop(answer);
}

/// Under `serve` the connection counts; the layer adds nothing, wherever and however often it stands.
#[tokio::test]
async fn under_serve_nothing_is_counted_twice() {
    let (tx, body) = channel();
    let take = once(body);
    let c = builder().build().unwrap();
    let app = Router::new()
        .route("/slow", get(async move || take()).layer(c.layer()))
        .layer(c.layer());
    let server = Server::start(c, app).await;
    let mut client = server.http1().await;
    client.send_get("/slow").await;
    client.head().await;
    assert_eq!(requests(&server), 1);
    drop(tx);
    client.chunk().await.unwrap();
    server.stop();
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 1, "{report}");
}

/// Around the app and around a route: the stock server's request is one all the same.
#[tokio::test]
async fn two_layers_count_once() {
    let c = builder().build().unwrap();
    let app = Router::new().route("/hello", get(async || "hello").layer(c.layer()));
    let server = stock(c, app).await;
    assert_eq!(server.http1().await.get("/hello").await.text(), "hello");
    server.stop();
    assert_eq!(server.clean().await.requests.finished, 1);
}

/// The inner layer knows better: a route may exempt what the outer layer counts.
#[tokio::test]
async fn an_inner_layer_can_exempt_what_an_outer_one_counts() {
    let (_tx, body) = channel();
    let take = once(body);
    let c = builder().build().unwrap();
    let watch = get(async move || take()).layer(c.layer().exempt(|_| true));
    let app = Router::new().route("/watch", watch).layer(c.layer());
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    let request = Request::get("/watch").body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    h.trigger(Reason::requested("test"));
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    drop(answer);
}

#[tokio::test]
async fn an_error_of_the_service_passes_and_ends_the_request() {
    let c = builder().build().unwrap();
    let fails = async |_: Request<()>| Err::<Response<Full<bytes::Bytes>>, _>("broken");
    let service = ServiceBuilder::new()
        .layer(c.layer())
        .service(tower::service_fn(fails));
    let answer = service.oneshot(Request::new(())).await;
    assert_eq!(answer.err(), Some("broken"));
    assert!(c.handle().in_flight().is_empty());
}

#[tokio::test]
async fn a_dropped_call_ends_the_request() {
    let c = builder().build().unwrap();
    let never = async |_: Request<()>| {
        std::future::pending::<Result<Response<Full<bytes::Bytes>>, Infallible>>().await
    };
    let mut service = ServiceBuilder::new()
        .layer(c.layer())
        .service(tower::service_fn(never));
    let call = service.ready().await.unwrap().call(Request::new(()));
    assert_eq!(c.handle().in_flight().len(), 1);
    drop(call);
    assert!(c.handle().in_flight().is_empty());
}

#[tokio::test]
async fn frames_pass_unchanged() {
    let c = builder().build().unwrap();
    let answers = async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("hello"))))
    };
    let service = ServiceBuilder::new()
        .layer(c.layer())
        .service(tower::service_fn(answers));
    let answer = service.oneshot(Request::new(())).await.unwrap();
    let body = answer.into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    assert_eq!(c.handle().in_flight().len(), 1);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    assert!(c.handle().in_flight().is_empty());
    assert_eq!(c.handle().report().requests.finished, 1);
}
