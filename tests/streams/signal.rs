//! What a handler learns of the stop.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use prestop::{Phase, Reason, StopSignal, StreamPolicy};
use tower::ServiceExt;

use crate::PATHS;
use crate::support::*;

#[tokio::test]
async fn the_extractor_knows_phase_deadline_and_time_left() {
    for path in PATHS {
        let handler = async |stop: StopSignal| {
            let left = stop.time_left().map(|left| left <= Duration::from_secs(30));
            let capped = stop.capped(Duration::from_secs(3600)) <= Duration::from_secs(30);
            format!("{} {left:?} {capped}", stop.phase())
        };
        let c = grace(30)
            .lame_duck(Duration::from_secs(15))
            .build()
            .unwrap();
        let server = path.serve(c, Router::new().route("/", get(handler))).await;
        let mut client = server.http1().await;
        assert_eq!(client.get("/").await.text(), "ready None false", "{path:?}");
        server.stop_to(Phase::LameDuck).await;
        let answer = client.get("/").await;
        assert_eq!(answer.text(), "lame_duck Some(true) true", "{path:?}");
        server.h.end_lame_duck();
        server.clean().await;
    }
}

/// Deadline and time left are the drain's, not the process's.
#[tokio::test(start_paused = true)]
async fn the_time_left_ends_when_requests_are_cut() {
    let c = grace(30).build().unwrap();
    let h = c.handle();
    let stop = StopSignal::new(&h);
    assert_eq!((stop.deadline(), stop.time_left()), (None, None));
    h.trigger(Reason::requested("test"));
    let (cut, over) = (stop.deadline().unwrap(), h.deadline().unwrap());
    assert!(cut < over, "on_stopped hooks come after the cut");
    assert_eq!(stop.time_left(), Some(cut.remaining()));
    assert_eq!(stop.capped(Duration::from_secs(1)), Duration::from_secs(1));
    assert_eq!(stop.capped(Duration::from_secs(60)), cut.remaining());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(stop.capped(Duration::from_secs(60)), Duration::ZERO);
}

#[tokio::test]
async fn without_prestop_the_extractor_says_what_to_do() {
    let app: Router = Router::new().route("/", get(async |_: StopSignal| {}));
    let request = http::Request::get("/").body(axum::body::Body::empty());
    let answer = app.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = axum::body::to_bytes(answer.into_body(), 1_000)
        .await
        .unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.contains("coordinator.layer()"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_token_is_cancelled_when_the_stream_is_told() {
    let c = grace(30).lame_duck(Duration::from_secs(4)).build().unwrap();
    let h = c.handle();
    let (stop, finishes) = (StopSignal::new(&h), StopSignal::new(&h));
    finishes.set_policy(StreamPolicy::Finish);
    let (token, never) = (stop.token(), finishes.token());
    let run = tokio::spawn(c.run(h.draining()));
    h.wait_for(Phase::Ready).await;
    let work = h.guard("work").unwrap();
    h.trigger(Reason::requested("test"));
    h.wait_for(Phase::LameDuck).await;
    assert!(!token.is_cancelled());
    h.wait_for(Phase::Draining).await;
    within("the moment", token.cancelled()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!never.is_cancelled(), "it finishes");
    assert_eq!(h.report().streams.told, 1);
    assert_eq!(h.report().streams.ended, 0);
    drop(stop);
    assert_eq!(h.report().streams.ended, 1, "its last clone is gone");
    drop(work);
    within("the report", run).await.unwrap().unwrap();
}

/// The handler's task for a token ends with the request.
#[tokio::test(start_paused = true)]
async fn a_token_of_a_request_that_is_over_costs_nothing_more() {
    let c = grace(30).build().unwrap();
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let stop = StopSignal::new(&c.handle());
    let token = stop.token();
    tokio::task::yield_now().await;
    drop(stop);
    let metrics = tokio::runtime::Handle::current().metrics();
    until("the task's end", || metrics.num_alive_tasks() <= before).await;
    assert!(!token.is_cancelled());
}

/// Asked again it is the same moment.
#[tokio::test(start_paused = true)]
async fn told_resolves_for_every_waiter_and_counts_once() {
    let c = grace(30).build().unwrap();
    let h = c.handle();
    let stop = StopSignal::new(&h);
    let (one, two) = (stop.told(), stop.told());
    let work = h.guard("work").unwrap();
    let run = tokio::spawn(c.run(h.draining()));
    h.trigger(Reason::requested("test"));
    within("both", async { tokio::join!(one, two) }).await;
    stop.told().await;
    drop((stop, work));
    let report = within("the report", run).await.unwrap().unwrap();
    assert_eq!((report.streams.told, report.streams.ended), (1, 1));
}
