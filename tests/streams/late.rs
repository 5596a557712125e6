//! Requests that arrive in the drain on a connection that is open: served, or refused by choice.

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use prestop::{LateRequests, Phase, ShutdownCoordinatorBuilder};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::raw_http2::*;
use crate::support::*;
use crate::{PATHS, Path};

fn app() -> Router {
    Router::new()
        .route(
            "/hello",
            get(async || "hello").post(async |body: String| body),
        )
        .route("/never", post(never))
}

async fn never() {
    panic!("it was called");
}

/// Connections stay open for long enough to be late.
fn refusing() -> ShutdownCoordinatorBuilder {
    builder().linger(LONG).late_requests(LateRequests::Refuse)
}

#[tokio::test]
async fn on_http1_a_late_request_is_refused_with_503_and_the_connection_closed() {
    for path in PATHS {
        let server = path.serve(refusing().build().unwrap(), app()).await;
        let (mut used, mut fresh) = (server.http1().await, server.http1().await);
        assert_eq!(used.get("/hello").await.text(), "hello");
        server.accepted(fresh.local()).await;
        server.stop_to(Phase::Draining).await;
        for client in [&mut used, &mut fresh] {
            client
                .send("POST /never HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody")
                .await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 503, "{path:?}");
            assert_eq!(answer.header("retry-after"), Some("1"), "{path:?}");
            assert!(answer.says_close(), "{path:?}");
            assert_eq!(answer.header("content-length"), Some("0"), "{path:?}");
            assert_eq!(client.end().await, End::Fin, "{path:?}");
        }
        let report = server.clean().await;
        assert_eq!(report.requests.refused, 2, "{report}");
        assert_eq!(report.requests.finished, 1, "{report}");
    }
}

#[tokio::test]
async fn by_default_it_is_served() {
    for path in PATHS {
        let c = builder().linger(LONG).build().unwrap();
        let server = path.serve(c, app()).await;
        let mut client = server.http1().await;
        client.get("/hello").await;
        server.stop_to(Phase::Draining).await;
        let answer = client.get("/hello").await;
        assert_eq!((answer.status, answer.text()), (200, "hello"), "{path:?}");
        assert!(answer.says_close());
        assert_eq!(server.clean().await.requests.refused, 0);
    }
}

/// gRPC's own words for it: 200, `grpc-status`, no message.
#[tokio::test]
async fn grpc_is_refused_with_unavailable_and_only_trailers() {
    for path in PATHS {
        let server = path.serve(refusing().build().unwrap(), app()).await;
        let mut client = server.http1().await;
        client.get("/hello").await;
        server.stop_to(Phase::Draining).await;
        client
            .send("POST /never HTTP/1.1\r\nhost: test\r\ncontent-type: application/grpc+proto\r\ncontent-length: 0\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{path:?}");
        assert_eq!(answer.header("grpc-status"), Some("14"), "{path:?}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert!(answer.body.is_empty());
        assert_eq!(server.clean().await.requests.refused, 1);
    }
}

/// The own loop has said GOAWAY: what was on its way is refused, and nothing else ends the connection.
#[tokio::test]
async fn on_http2_a_late_request_is_refused_after_goaway() {
    let server = Path::Own.serve(refusing().build().unwrap(), app()).await;
    let mut client = Http2::connect(server.addr).await;
    server.stop_to(Phase::Draining).await;
    client.next(GOAWAY).await;
    let ping = client.next(PING).await;
    client.get(1, "/hello").await;
    let head = client.next(HEADERS).await;
    // `:status` as a literal, behind its index: none of the static table's, 200 among them.
    assert_eq!(head.payload[0], 0x48, "{:x?}", head.payload);
    assert!(head.ends_stream());
    client.pong(&ping).await;
    client.drain().await;
    drop(client);
    let report = server.clean().await;
    assert_eq!((report.requests.refused, report.requests.finished), (1, 0));
}

/// Stock tonic with the layer; its own clients read the status.
#[tokio::test]
async fn a_tonic_client_reads_unavailable_from_stock_tonic() {
    let c = refusing().build().unwrap();
    let (h, listener) = (c.handle(), local().await);
    let addr = listener.local_addr().unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic::transport::Server::builder()
        .layer(c.layer())
        .add_service(health)
        .serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let server = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{addr}")).unwrap();
    let mut client = HealthClient::new(within("connect", channel.connect()).await.unwrap());
    let ask = || HealthCheckRequest {
        service: String::new(),
    };
    within("a call", client.check(ask())).await.unwrap();
    server.stop_to(Phase::Draining).await;
    let status = within("a late call", client.check(ask()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert_eq!(status.message(), "the server is stopping");
    drop(client);
    let report = server.clean().await;
    assert_eq!((report.requests.refused, report.requests.finished), (1, 1));
}

/// Probes on the service's own port are answered to the end, and work in flight starts its follow-up (S13).
#[tokio::test]
async fn exempt_requests_guards_and_tasks_are_admitted_all_the_same() {
    for path in PATHS {
        let c = refusing().build().unwrap();
        let (h, listener) = (c.handle(), local().await);
        let addr = listener.local_addr().unwrap();
        let server = match path {
            Path::Own => {
                let serving =
                    prestop::serve(&h, listener, app()).exempt(|head| head.uri.path() == "/hello");
                Server::running(h, addr, async {
                    c.run(serving.into_future()).await.unwrap()
                })
                .await
            }
            Path::Stock => {
                let layer = c.layer().exempt(|head| head.uri.path() == "/hello");
                let web = axum::serve(c.listener(listener), app().layer(layer))
                    .with_graceful_shutdown(h.draining());
                Server::running(h, addr, async { c.run(web.into_future()).await.unwrap() }).await
            }
        };
        let mut client = server.http1().await;
        client.get("/hello").await;
        // Exempt connections hold nothing open; this does.
        let work = server.h.guard("work").unwrap();
        server.stop_to(Phase::Draining).await;
        assert_eq!(client.get("/hello").await.status, 200, "{path:?}");
        let more = server.h.guard("follow-up").unwrap();
        let task = server.h.spawn("follow-up", async { 7 }).unwrap();
        assert_eq!(task.await.unwrap(), 7);
        drop((client, work, more));
        assert_eq!(server.clean().await.requests.refused, 0);
    }
}

/// Whatever is answered before the drain has begun is answered for good.
#[tokio::test]
async fn nothing_is_refused_before_the_drain() {
    for path in PATHS {
        for _ in 0..5 {
            let c = refusing().lame_duck(Duration::from_millis(150));
            let server = path.serve(c.build().unwrap(), app()).await;
            let h = server.h.clone();
            let ask = async {
                let (mut served, mut refused) = (0, 0);
                // Until one was refused, or the listener is closed.
                while refused == 0 {
                    let Ok(io) = tokio::net::TcpStream::connect(server.addr).await else {
                        break;
                    };
                    let mut client = Http1::over(io);
                    loop {
                        client.send_get("/hello").await;
                        let Ok(answer) = client.try_answer().await else {
                            break;
                        };
                        // Read after the answer: if it is not the drain now, it was not then.
                        let phase = h.phase();
                        match answer.status {
                            200 => served += 1,
                            503 => {
                                assert!(phase >= Phase::Draining, "refused in {phase}");
                                refused += 1;
                            }
                            status => panic!("{status}"),
                        }
                        if answer.says_close() {
                            break;
                        }
                    }
                }
                (served, refused)
            };
            let ((served, refused), ()) = tokio::join!(within("the requests", ask), async {
                server.stop_to(Phase::Draining).await;
            });
            let report = server.clean().await;
            assert_eq!(report.requests.refused, refused, "{path:?}: {report}");
            assert_eq!(report.requests.finished, served, "{path:?}: {report}");
        }
    }
}
