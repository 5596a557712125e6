//! S11 on stock tonic: streams that wait for news of the server itself never delay its stop.

use std::time::Duration;

use bytes::Bytes;
use prestop::{Phase, ShutdownCoordinator};
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;

use crate::echo::{Client, Echo, Stage, channel, next};
use crate::support::*;

const HELLO: Bytes = Bytes::from_static(b"hello");
/// No stop in here lasts as long, unless something waits for the deadline or a long linger.
const QUICK: Duration = BOUND;

/// Echo and health on tonic's own server. Nobody said that watches are exempt.
async fn start(c: ShutdownCoordinator) -> (Server, Stage) {
    let stage = Stage::new();
    let server = tonic::transport::Server::builder()
        .layer(c.layer())
        .add_service(c.grpc_health(HealthReporter::new()))
        .add_service(Echo(stage.clone()));
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let serving = server.serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let server = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    (server, stage)
}

async fn watch(channel: Channel) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest::default();
    let stream = HealthClient::new(channel).watch(request).await.unwrap();
    let mut stream = stream.into_inner();
    within("the first status", stream.message()).await.unwrap();
    stream
}

/// Waits until the stream is cut.
async fn cut(mut watch: Streaming<HealthCheckResponse>) {
    while let Ok(Some(_)) = within("the cut", watch.message()).await {}
}

#[tokio::test]
async fn a_watch_alone_is_cut_at_once() {
    let (server, _stage) = start(builder().linger(LONG).build().unwrap()).await;
    let watch = watch(channel(&server).await).await;
    server.stop();
    cut(watch).await;
    let report = server.clean().await;
    assert!(report.total < QUICK, "{report}");
    assert_eq!(
        report.requests.finished, 0,
        "exempt requests are in no count"
    );
}

#[tokio::test]
async fn a_watch_beside_calls_on_one_connection_ends_a_linger_after_they_have() {
    let (server, stage) = start(builder().build().unwrap()).await;
    let channel = channel(&server).await;
    let mut client = Client::over(channel.clone());
    let watch = watch(channel).await;
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(1).await;
    server.stop_to_told().await;
    // The watch goes on for as long as the call does.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!server.is_stopped());
    stage.open();
    assert_eq!(call.await.unwrap().unwrap(), HELLO);
    cut(watch).await;
    let report = server.clean().await;
    assert!(report.total < QUICK, "{report}");
    assert_eq!(report.requests.finished_while_stopping, 1);
}

#[tokio::test]
async fn a_watch_goes_on_while_another_connection_has_a_call() {
    let (server, stage) = start(builder().build().unwrap()).await;
    let mut watch = watch(channel(&server).await).await;
    let mut client = Client::connect(&server).await;
    let mut stream = client.server_streaming(HELLO).await.unwrap();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    server.stop_to_told().await;
    let told = within("NOT_SERVING", watch.message()).await.unwrap();
    assert_eq!(told.unwrap().status, 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let more = tokio::time::timeout(Duration::from_millis(10), watch.message()).await;
    assert!(more.is_err(), "cut too early: {more:?}");
    stage.open();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    assert_eq!(next(&mut stream).await, None);
    cut(watch).await;
    let report = server.clean().await;
    assert!(report.total < QUICK, "{report}");
}

/// Work that the connections know nothing of is waited for, and so are the streams.
#[tokio::test]
async fn a_watch_goes_on_while_a_guard_is_held() {
    let (server, _stage) = start(builder().build().unwrap()).await;
    let watch = watch(channel(&server).await).await;
    let busy = server.h.guard("busy").unwrap();
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!server.is_stopped());
    drop(busy);
    cut(watch).await;
    server.clean().await;
}

/// A call that comes by a connection on which only a watch was: it counts, and is answered.
#[tokio::test]
async fn a_call_beside_a_watch_in_the_drain_is_answered() {
    let (server, stage) = start(builder().build().unwrap()).await;
    let channel = channel(&server).await;
    let watch = watch(channel.clone()).await;
    let busy = server.h.guard("busy").unwrap();
    server.stop_to(Phase::Draining).await;
    let mut client = Client::over(channel);
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(1).await;
    drop(busy);
    stage.open();
    assert_eq!(call.await.unwrap().unwrap(), HELLO);
    cut(watch).await;
    assert_eq!(server.clean().await.requests.finished, 1);
}

/// Any gRPC client that asks for reflection, and stays.
#[tokio::test]
async fn reflection_is_known_by_its_path() {
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        let c = builder().linger(LONG).build().unwrap();
        let app = axum::Router::new().route(path, axum::routing::any(async || endless_wait()));
        let server = Server::start(c, app).await;
        let mut client = server.http1().await;
        client.send_get(path).await;
        client.head().await;
        server.stop();
        client.drain().await;
        let report = server.clean().await;
        assert!(report.total < QUICK, "{report}");
    }
}

fn endless_wait() -> axum::body::Body {
    axum::body::Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>())
}
