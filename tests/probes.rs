//! The probes, over real sockets.
#![cfg(all(feature = "axum", feature = "serde", not(loom)))]
#![allow(unused_must_use, reason = "not every test looks at the report")]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use prestop::{Phase, Readiness, Reason, ShutdownCoordinatorBuilder};
use tokio::sync::Semaphore;

use support::*;

const PROBES: [&str; 3] = ["/startupz", "/readyz", "/livez"];

async fn probed(builder: ShutdownCoordinatorBuilder) -> (ShutdownCoordinatorBuilder, SocketAddr) {
    let listener = local().await;
    let addr = listener.local_addr().unwrap();
    (builder.probe_listener(listener), addr)
}

async fn ask(probes: SocketAddr, path: &str) -> Answer {
    Http1::connect(probes).await.get(path).await
}

async fn table(probes: SocketAddr) -> [u16; 3] {
    let mut row = [0; 3];
    for (status, path) in row.iter_mut().zip(PROBES) {
        *status = ask(probes, path).await.status;
    }
    row
}

const STARTING: [u16; 3] = [503, 503, 200];
const READY: [u16; 3] = [200, 200, 200];
const STOPPING: [u16; 3] = [200, 503, 200];

/// Through every phase: a hook holds each one until the test has asked. The service's own listener is closed, the
/// drain is stuck, and the probes answer until the end.
#[tokio::test]
async fn every_phase_answers_by_the_table() {
    let gates: Vec<_> = (0..3).map(|_| Arc::new(Semaphore::new(0))).collect();
    let (starts, stops, stopped) = (gates[0].clone(), gates[1].clone(), gates[2].clone());
    let pass = async |gate: Arc<Semaphore>| gate.acquire().await.unwrap().forget();
    let builder = builder()
        .on_started("starts", move |_| pass(starts))
        .pre_stop("stops", move |_| pass(stops))
        .on_stopped("stopped", move |_| pass(stopped));
    let (builder, probes) = probed(builder).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    assert_eq!(table(probes).await, STARTING, "before the run");
    let service = local().await;
    let addr = service.local_addr().unwrap();
    let app = Router::new().route("/", get(async || "here"));
    let run = tokio::spawn(c.serve(service, app));
    assert_eq!(table(probes).await, STARTING);
    gates[0].add_permits(1);
    within("ready", h.wait_for(Phase::Ready)).await;
    assert_eq!(table(probes).await, READY);

    let busy = h.guard("busy").unwrap();
    h.trigger(Reason::requested("test"));
    within("the lame duck", h.wait_for(Phase::LameDuck)).await;
    assert_eq!(table(probes).await, STOPPING);
    assert_eq!(ask(addr, "/").await.text(), "here");
    gates[1].add_permits(1);
    within("the drain", h.wait_for(Phase::Draining)).await;
    until("the close", || h.in_flight().len() == 1).await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert_eq!(table(probes).await, STOPPING, "the drain is stuck");
    drop(busy);
    within("the hooks", h.wait_for(Phase::Stopping)).await;
    assert_eq!(table(probes).await, STOPPING);
    gates[2].add_permits(1);
    within("the report", run).await.unwrap().unwrap();
    until("the probes' end", || {
        std::net::TcpStream::connect(probes).is_err()
    })
    .await;
}

#[tokio::test]
async fn keep_serving_stays_ready_until_the_drain() {
    let (builder, probes) = probed(builder().readiness(Readiness::KeepServing)).await;
    let c = builder.lame_duck(LONG).build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    let busy = h.guard("busy").unwrap();
    h.trigger(Reason::requested("test"));
    assert_eq!(table(probes).await, READY);
    within("the lame duck", h.wait_for(Phase::LameDuck)).await;
    assert_eq!(table(probes).await, READY);
    h.end_lame_duck();
    within("the drain", h.wait_for(Phase::Draining)).await;
    assert_eq!(table(probes).await, STOPPING);
    drop(busy);
    within("the report", run).await.unwrap().unwrap();
}

/// What HAProxy takes for a wish to drain, and Envoy for one that is none of its failures; never while the service starts.
#[tokio::test]
async fn a_stop_may_be_a_404_and_is_told_to_envoy() {
    const ENVOY: &str = "x-envoy-immediate-health-check-fail";
    for (readiness, stopping) in [
        (Readiness::NotFoundWhenStopping, 404),
        (Readiness::FailWhenStopping, 503),
    ] {
        let (builder, probes) = probed(builder().readiness(readiness)).await;
        let c = builder.build().unwrap();
        let h = c.handle();
        let starting = ask(probes, "/readyz").await;
        assert_eq!((starting.status, starting.header(ENVOY)), (503, None));
        let run = tokio::spawn(c.run(h.draining()));
        within("ready", h.wait_for(Phase::Ready)).await;
        let ready = ask(probes, "/readyz").await;
        assert_eq!((ready.status, ready.header(ENVOY)), (200, None));
        let busy = h.guard("busy").unwrap();
        h.trigger(Reason::requested("test"));
        let leaves = ask(probes, "/readyz").await;
        assert_eq!(
            (leaves.status, leaves.header(ENVOY)),
            (stopping, Some("true"))
        );
        assert!(leaves.text().starts_with("not ready: "), "{leaves:?}");
        for path in ["/livez", "/startupz"] {
            let other = ask(probes, path).await;
            assert_eq!((other.status, other.header(ENVOY)), (200, None), "{path}");
        }
        drop(busy);
        within("the report", run).await.unwrap().unwrap();
    }
}

/// S2: whoever learns of the stop, by whatever way, finds readiness off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_off_before_anything_of_the_stop_can_be_seen() {
    for _ in 0..50 {
        let (builder, probes) = probed(builder()).await;
        let c = builder
            .pre_stop("sees", move |_| async move {
                assert_eq!(ask(probes, "/readyz").await.status, 503);
            })
            .build()
            .unwrap();
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        within("ready", h.wait_for(Phase::Ready)).await;
        let (token, waits) = (h.token(Phase::PreStop), h.wait_for(Phase::PreStop));
        let by_token = tokio::spawn(async move {
            token.cancelled().await;
            ask(probes, "/readyz").await.status
        });
        let by_wait = tokio::spawn(async move {
            waits.await;
            ask(probes, "/readyz").await.status
        });
        let busy = h.guard("busy").unwrap();
        h.trigger(Reason::requested("test"));
        assert_eq!(
            ask(probes, "/readyz").await.status,
            503,
            "by the trigger's return"
        );
        assert_eq!(by_token.await.unwrap(), 503);
        assert_eq!(by_wait.await.unwrap(), 503);
        drop(busy);
        let report = within("the report", run).await.unwrap().unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test]
async fn answers_say_phase_and_seconds_left() {
    let (builder, probes) = probed(builder().lame_duck(LONG)).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    let json = async |path: &str| {
        let mut client = Http1::connect(probes).await;
        let accept = "text/html, application/json;q=0.9";
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()
    };
    let ready = json("/readyz?verbose").await;
    assert_eq!(ready["ok"], true);
    assert_eq!(ready["phase"], "ready");
    assert!(ready["seconds_left"].is_null());
    assert_eq!(ask(probes, "/livez").await.text(), "live: ready\n");

    h.trigger(Reason::requested("test"));
    within("the lame duck", h.wait_for(Phase::LameDuck)).await;
    let ready = json("/readyz").await;
    assert_eq!(ready["ok"], false);
    assert_eq!(ready["probe"], "readyz");
    assert_eq!(ready["phase"], "lame_duck");
    let left = ready["seconds_left"].as_f64().unwrap();
    assert!((500.0..595.1).contains(&left), "{left}");
    let text = ask(probes, "/readyz").await;
    assert!(
        text.text().starts_with("not ready: lame_duck, 5"),
        "{}",
        text.text()
    );
    assert!(text.text().ends_with(" s left\n"), "{}", text.text());
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    h.end_lame_duck();
    within("the report", run).await.unwrap().unwrap();
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let (builder, probes) = probed(builder()).await;
    let _c = builder.build().unwrap();
    let mut client = Http1::connect(probes).await;
    client.send("HEAD /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("15"))
    );
    client
        .send("POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
    for path in ["/", "/readyz/", "/readyz2", "/healthz"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_slow_prober_blocks_nobody() {
    let (builder, probes) = probed(builder()).await;
    let _c = builder.build().unwrap();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = Http1::connect(probes).await;
        client.send("GET /live").await;
        slow.push(client);
    }
    assert_eq!(ask(probes, "/livez").await.status, 200);
    // And is answered when it gets there.
    slow[0].send("z HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(slow[0].answer().await.status, 200);
}

/// More silent connections than the listener serves at once: the kubelet's is answered within its second.
#[tokio::test]
async fn many_silent_connections_block_nobody() {
    let (builder, probes) = probed(builder()).await;
    let _c = builder.build().unwrap();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Http1::connect(probes).await);
    }
    let answer = ask(probes, "/livez").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_probes_merge_into_a_router() {
    let c = builder().build().unwrap();
    let app = Router::new()
        .route("/", get(async || "here"))
        .merge(c.probes().router());
    let server = Server::start(c, app).await;
    let mut client = server.http1().await;
    assert_eq!(client.get("/").await.text(), "here");
    assert_eq!(client.get("/readyz").await.text(), "ready: ready\n");
    server.stop_to(Phase::Draining).await;
    let answer = client.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("not ready: draining"));
    server.clean().await;
}

/// A coordinator that is dropped without a run takes its probe listener along.
#[tokio::test]
async fn the_listener_ends_with_its_coordinator() {
    let (builder, probes) = probed(builder()).await;
    let c = builder.build().unwrap();
    assert_eq!(ask(probes, "/livez").await.status, 200);
    drop(c);
    until("the end", || std::net::TcpStream::connect(probes).is_err()).await;
}
