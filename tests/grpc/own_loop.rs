//! tonic's services as plain tower services on the own loop: what they keep, and what they lose with tonic's server.

use std::time::Duration;

use bytes::Bytes;
use prestop::Phase;
use tonic::service::Routes;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tower::service_fn;

use crate::echo::{Client, Echo, Stage, channel, next, send_unary, send_unary_with, stock};
use crate::support::raw_http2::{HEADERS, Http2, RST_STREAM};
use crate::support::*;

const HELLO: Bytes = Bytes::from_static(b"hello");

async fn own_loop() -> (Server, Stage) {
    let stage = Stage::new();
    let app = Routes::new(Echo(stage.clone()))
        .prepare()
        .into_axum_router();
    let server = Server::start(builder().build().unwrap(), app).await;
    (server, stage)
}

#[tokio::test]
async fn calls_are_drained_as_on_the_stock_server() {
    let (server, stage) = own_loop().await;
    let mut client = Client::connect(&server).await;
    let mut stream = client.server_streaming(HELLO).await.unwrap();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(2).await;
    server.stop_to(Phase::Draining).await;
    stage.open();
    assert_eq!(call.await.unwrap().unwrap(), HELLO);
    assert_eq!(next(&mut stream).await, Some(HELLO));
    assert_eq!(next(&mut stream).await, None);
    assert_eq!(server.clean().await.requests.finished_while_stopping, 2);
}

#[tokio::test]
async fn a_health_watch_is_exempt() {
    let c = builder().linger(LONG).build().unwrap();
    let health = c.grpc_health(HealthReporter::new());
    let app = Routes::new(health).prepare().into_axum_router();
    let server = Server::start(c, app).await;
    let mut client = HealthClient::new(channel(&server).await);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    within("the first status", watch.message()).await.unwrap();
    server.stop();
    while let Ok(Some(_)) = within("the cut", watch.message()).await {}
    let report = server.clean().await;
    assert!(report.total < LONG, "{report}");
}

/// What the page says that tonic's server does and the own loop does not.
#[tokio::test]
async fn grpc_timeout_is_kept_by_the_stock_server_alone() {
    let timed = [("grpc-timeout", "50m")];
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Http2::connect(server.addr).await;
    send_unary_with(&mut client, 1, &timed).await;
    let status = client.next(HEADERS).await;
    assert!(
        status.ends_stream(),
        "a status and nothing else: {status:?}"
    );
    drop(client);
    stage.open();
    server.stop();
    server.clean().await;

    let (server, stage) = own_loop().await;
    let mut client = Http2::connect(server.addr).await;
    send_unary_with(&mut client, 1, &timed).await;
    let answer = tokio::time::timeout(Duration::from_millis(500), client.next(HEADERS)).await;
    assert!(answer.is_err(), "nobody keeps the time: {answer:?}");
    stage.open();
    let head = client.next(HEADERS).await;
    assert!(!head.ends_stream(), "an answer: {head:?}");
    drop(client);
    server.stop();
    server.report().await;
}

async fn full<B>(
    _: http::Request<B>,
) -> Result<http::Response<tonic::body::Body>, prestop::BoxError> {
    Err(Status::resource_exhausted("full").into())
}

/// An error of a middleware is a status on the stock server; on the own loop it is for the middleware to make one.
#[tokio::test]
async fn errors_become_a_status_on_the_stock_server_alone() {
    let c = builder().build().unwrap();
    let server = tonic::transport::Server::builder()
        .layer(tower::layer::layer_fn(|_: Routes| {
            service_fn(full::<tonic::body::Body>)
        }))
        .add_service(Echo(Stage::new()));
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let serving = server.serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let server = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    let mut client = Client::connect(&server).await;
    let error = client.unary(Request::new(HELLO)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    server.stop();
    server.clean().await;

    let app = service_fn(full::<hyper::body::Incoming>);
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = Http2::connect(server.addr).await;
    send_unary(&mut client, 1).await;
    client.next(RST_STREAM).await;
    server.stop();
    drop(client);
    server.report().await;
}
