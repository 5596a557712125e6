//! Accept loops of one's own, over hyper and hyper-util, with their connections in the coordinator's care.
#![cfg(all(feature = "axum", not(loom)))]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prestop::{DrainListener, Phase, ShutdownCoordinator, ShutdownHandle, WorkKind};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use support::raw_http2::*;
use support::*;

fn app(gate: &Arc<Semaphore>, dropped: &Dropped) -> Router {
    let (gate, dropped) = (gate.clone(), dropped.clone());
    let slow = move || async move {
        let _flag = dropped.on_drop();
        gate.acquire().await.unwrap().forget();
        "slow"
    };
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
}

/// The loop of `ShutdownHandle::watch`'s documentation.
async fn whole_loop(h: ShutdownHandle, mut listener: DrainListener, app: Router) {
    let service = TowerToHyperService::new(app);
    while let Some(stream) = listener.next().await {
        let (h, service) = (h.clone(), service.clone());
        tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(stream);
            if let Ok(connection) = h.watch(http.serve_connection_with_upgrades(io, service)) {
                let _ = connection.await;
            }
        });
    }
}

/// `watch` and nothing else: one of hyper's own connections, on a listener of tokio's.
async fn bare_loop(h: ShutdownHandle, listener: TcpListener, app: Router) {
    let service = TowerToHyperService::new(app);
    let http = hyper::server::conn::http1::Builder::new();
    let drain = h.wait_for(Phase::Draining);
    tokio::pin!(drain);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = &mut drain => return,
        };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        if let Ok(connection) = h.watch(connection) {
            tokio::spawn(connection.peer(peer));
        }
    }
}

async fn whole(c: ShutdownCoordinator, gate: &Arc<Semaphore>) -> Server {
    let (h, listener) = (c.handle(), local().await);
    let addr = listener.local_addr().unwrap();
    let app = app(gate, &Dropped::default()).layer(c.layer());
    let accepting = whole_loop(h.clone(), DrainListener::new(&h, listener), app);
    Server::running(h, addr, async { c.run(accepting).await.unwrap() }).await
}

async fn bare(c: ShutdownCoordinator, app: Router) -> Server {
    let (h, listener) = (c.handle(), local().await);
    let addr = listener.local_addr().unwrap();
    let accepting = bare_loop(h.clone(), listener, app);
    Server::running(h, addr, async { c.run(accepting).await.unwrap() }).await
}

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

async fn in_flight(server: &Server, what: &str) {
    until(what, || server.h.in_flight().iter().any(|s| s.what == what)).await;
}

#[tokio::test]
async fn requests_of_both_protocols_finish_and_idle_clients_are_answered_within_the_linger() {
    let gate = gate();
    let c = builder().linger(LONG).build().unwrap();
    let server = whole(c, &gate).await;
    let mut idle = server.http1().await;
    assert_eq!(idle.get("/hello").await.text(), "hello");
    let mut slow = server.http1().await;
    slow.send_get("/slow").await;
    in_flight(&server, "GET /slow").await;
    let mut http2 = Http2::connect(server.addr).await;
    server.stop_to(Phase::Draining).await;
    let answer = idle.get("/hello").await;
    assert_eq!((answer.text(), answer.says_close()), ("hello", true));
    assert_eq!(idle.end().await, End::Fin);
    gate.add_permits(2);
    assert_eq!(slow.answer().await.text(), "slow");
    http2.get(1, "/slow").await;
    assert_eq!(http2.answer(1, false).await, (OK, b"slow".to_vec()));
    drop(http2);
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 4, "{report}");
}

/// S4: what the kernel has connected is served, however late it is accepted.
#[tokio::test]
async fn clients_in_the_accept_queue_are_served() {
    let (c, listener) = (builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Http1::connect(addr).await;
        client.send_get("/hello").await;
        clients.push(client);
    }
    assert!(h.trigger(prestop::Reason::requested("test")));
    let app = app(&gate(), &Dropped::default()).layer(c.layer());
    let accepting = whole_loop(h.clone(), DrainListener::new(&h, listener), app);
    let run = tokio::spawn(async { c.run(accepting).await.unwrap() });
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "hello");
    }
    let report = within("the report", run).await.unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn an_idle_connection_is_told_after_the_linger() {
    let server = bare(
        builder().build().unwrap(),
        app(&gate(), &Dropped::default()),
    )
    .await;
    let mut client = server.http1().await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    server.stop_to(Phase::Draining).await;
    assert_eq!(client.end().await, End::Fin);
    let report = server.clean().await;
    assert!(report.total >= Duration::from_millis(450), "{report}");
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_and_named_by_the_line_that_watches_it() {
    let dropped = Dropped::default();
    let server = bare(builder().build().unwrap(), app(&gate(), &dropped)).await;
    let mut client = server.http1().await;
    client.send_get("/slow").await;
    server.accepted(client.local()).await;
    server.stop_to(Phase::Draining).await;
    server.h.force();
    client.drain().await;
    let local = client.local();
    let report = server.report().await;
    assert_eq!(report.exit_code(), 72, "{report}");
    let [cut] = &report.stragglers[..] else {
        panic!("{report}");
    };
    assert_eq!((cut.kind, cut.peer), (WorkKind::Connection, Some(local)));
    assert!(cut.what.starts_with("watched (tests/watch.rs:"), "{report}");
    until("the handler's end", || dropped.is()).await;
}

#[tokio::test]
async fn past_the_drain_a_connection_is_refused() {
    let c = builder().build().unwrap();
    let h = c.handle();
    assert!(h.trigger(prestop::Reason::requested("test")));
    let report = within("the report", c.run(h.draining())).await.unwrap();
    assert!(report.is_clean(), "{report}");
    let (_, io) = tokio::io::duplex(64);
    let http = hyper::server::conn::http1::Builder::new();
    let service = TowerToHyperService::new(app(&gate(), &Dropped::default()));
    let connection = http.serve_connection(TokioIo::new(io), service);
    assert_eq!(h.watch(connection).err(), Some(prestop::Closed));
}
