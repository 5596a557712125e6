//! HAProxy's agent check over real sockets, asked by the tests. The real HAProxy is in `gateways.rs`.
#![cfg(all(not(loom), feature = "axum", feature = "haproxy"))]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prestop::haproxy::AgentCheck;
use prestop::{Phase, Readiness, Reason, ShutdownCoordinatorBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use support::*;

const HOOK: &str = "HAProxy's agent check";

/// A longer time than any test lasts.
const NEVER: Duration = Duration::from_secs(50);

async fn agent(
    builder: ShutdownCoordinatorBuilder,
    interval: Duration,
) -> (ShutdownCoordinatorBuilder, SocketAddr) {
    let listener = local().await;
    let at = listener.local_addr().unwrap();
    let agent = AgentCheck::new(listener).with_agent_inter(interval);
    (builder.haproxy_agent(agent), at)
}

/// As HAProxy asks: what it is told, then a close.
async fn ask_as(at: SocketAddr, text: &str) -> String {
    let mut stream = within("connect", TcpStream::connect(at)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    line(&mut stream).await
}

async fn ask(at: SocketAddr) -> String {
    ask_as(at, "").await
}

async fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        assert_ne!(
            within("a line", stream.read_buf(&mut line)).await.unwrap(),
            0
        );
    }
    String::from_utf8(line).unwrap()
}

/// Through every phase; the agent answers until the end.
#[tokio::test]
async fn every_phase_has_its_answer() {
    let gates: Vec<_> = (0..2).map(|_| Arc::new(Semaphore::new(0))).collect();
    let (starts, stopped) = (gates[0].clone(), gates[1].clone());
    let pass = async |gate: Arc<Semaphore>| gate.acquire().await.unwrap().forget();
    // Readiness is for probes: HAProxy is told to drain all the same.
    let builder = grace(600)
        .readiness(Readiness::KeepServing)
        .on_started("starts", move |_| pass(starts))
        .on_stopped("stopped", move |_| pass(stopped));
    let (builder, at) = agent(builder, NEVER).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    assert_eq!(ask(at).await, "down #starting\n", "before the run");
    let run = tokio::spawn(c.run(h.draining()));
    gates[0].add_permits(1);
    within("ready", h.wait_for(Phase::Ready)).await;
    assert_eq!(ask(at).await, "up ready\n");
    let busy = h.guard("busy").unwrap();
    h.trigger(Reason::requested("test"));
    within("the lame duck", h.wait_for(Phase::LameDuck)).await;
    assert_eq!(h.phase(), Phase::LameDuck, "nobody was told yet");
    assert_eq!(ask(at).await, "drain\n");
    within("the drain", h.wait_for(Phase::Draining)).await;
    assert_eq!(ask(at).await, "drain\n");
    drop(busy);
    within("the hooks", h.wait_for(Phase::Stopping)).await;
    assert_eq!(ask(at).await, "drain\n");
    gates[1].add_permits(1);
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    let ended = || std::net::TcpStream::connect(at).is_err();
    until("the agent's end", ended).await;
}

#[tokio::test]
async fn maint_is_said_in_place_of_drain() {
    let listener = local().await;
    let at = listener.local_addr().unwrap();
    let c = builder()
        .haproxy_agent(AgentCheck::new(listener).with_maint())
        .build()
        .unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    let busy = h.guard("busy").unwrap();
    h.trigger(Reason::requested("test"));
    assert_eq!(ask(at).await, "maint\n", "from the trigger's return on");
    drop(busy);
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// The one who waits for the answer of a stop that nobody asked about would wait for the limit, 101 s.
#[tokio::test]
async fn where_nobody_asked_nobody_is_waited_for() {
    let (builder, at) = agent(builder(), NEVER).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    assert_eq!(ask(at).await, "down #starting\n", "it was never sent here");
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    h.trigger(Reason::requested("test"));
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Two checks behind one address: by their texts, and by asking more often than one would.
#[tokio::test]
async fn every_balancer_is_told_before_the_drain_begins() {
    for texts in [["lb1-web\n", "lb1-api\n"], ["", ""]] {
        let (builder, at) = agent(builder(), NEVER).await;
        let c = builder.build().unwrap();
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        within("ready", h.wait_for(Phase::Ready)).await;
        for text in texts {
            assert_eq!(ask_as(at, text).await, "up ready\n");
        }
        h.trigger(Reason::requested("test"));
        within("the lame duck", h.wait_for(Phase::LameDuck)).await;
        assert_eq!(ask_as(at, texts[0]).await, "drain\n");
        // A stranger is none of them.
        assert_eq!(ask_as(at, "stranger\n").await, "drain\n");
        assert_eq!(h.phase(), Phase::LameDuck, "{texts:?}");
        assert_eq!(ask_as(at, texts[1]).await, "drain\n");
        let report = within("the report", run).await.unwrap().unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

/// It asks again, and is waited for until it has read the answer.
#[tokio::test]
async fn one_that_gave_up_before_it_was_accepted_has_not_been_told() {
    let (builder, at) = agent(builder(), NEVER).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    assert_eq!(ask_as(at, "lb1\n").await, "up ready\n");
    h.trigger(Reason::requested("test"));
    within("the lame duck", h.wait_for(Phase::LameDuck)).await;
    // On the runtime's only thread, without a pause: the agent finds them closed.
    for _ in 0..3 {
        let mut gone = std::net::TcpStream::connect(at).unwrap();
        std::io::Write::write_all(&mut gone, b"lb1\n").unwrap();
    }
    // Behind them in the queue.
    assert_eq!(ask_as(at, "stranger\n").await, "drain\n");
    assert_eq!(ask_as(at, "stranger\n").await, "drain\n");
    assert_eq!(h.phase(), Phase::LameDuck);
    assert_eq!(ask_as(at, "lb1\n").await, "drain\n");
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn one_that_does_not_ask_any_more_is_in_the_report_by_name() {
    let listener = local().await;
    let at = listener.local_addr().unwrap();
    // Thrice the interval may pass before the stop begins, or it is taken for one that had gone before.
    let agent = AgentCheck::new(listener)
        .with_agent_inter(NEVER)
        .with_limit(Duration::from_secs(1));
    let c = builder().haproxy_agent(agent).build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    assert_eq!(ask_as(at, "lb1\n").await, "up ready\n");
    h.trigger(Reason::requested("test"));
    let report = within("the report", run).await.unwrap().unwrap();
    assert_eq!(report.exit_code(), 71, "{report}");
    let hook = report.hooks.iter().find(|hook| hook.name == HOOK).unwrap();
    assert_eq!(
        hook.outcome.to_string(),
        "FAILED: HAProxy may still send requests here: 127.0.0.1 \"lb1\" has not asked its agent check since the stop \
         began"
    );
}

/// S11: connections that are held, before and in the stop, are answered once, block nobody and delay nothing.
#[tokio::test]
async fn who_holds_connections_blocks_nobody_and_delays_no_stop() {
    let (builder, at) = agent(builder(), NEVER).await;
    let c = builder.build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(within("connect", TcpStream::connect(at)).await.unwrap());
    }
    // One that sends without end is read, and answered.
    let mut talker = within("connect", TcpStream::connect(at)).await.unwrap();
    assert_eq!(line(&mut talker).await, "up ready\n");
    let (_reads, mut writes) = talker.into_split();
    let talks =
        tokio::spawn(async move { while writes.write_all(&[b'x'; 4_096]).await.is_ok() {} });
    assert_eq!(ask_as(at, "lb1\n").await, "up ready\n");

    // However the many connections come between: the agent is there to be asked.
    let busy = h.guard("busy").unwrap();
    h.trigger(Reason::requested("test"));
    for _ in 0..100 {
        held.push(within("connect", TcpStream::connect(at)).await.unwrap());
    }
    assert_eq!(ask_as(at, "lb1\n").await, "drain\n");
    drop(busy);
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    within("the talker's end", talks).await.unwrap();
}

#[tokio::test]
async fn an_interval_that_does_not_fit_fails_the_build() {
    let (builder, _) = agent(grace(30), NEVER).await;
    let error = builder.build().unwrap_err();
    assert!(error.is_budget());
    assert!(error.to_string().contains(HOOK), "{error}");
}
