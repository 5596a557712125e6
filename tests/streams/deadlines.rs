//! A request's own deadline, and the stop's: the earlier one counts, and is handed on.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use prestop::{DeadlineLayer, Phase, Reason, ShutdownHandle, ShutdownReport};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::*;

type Answer = Response<Full<bytes::Bytes>>;

/// A stop that waits for a guard, on paused time.
struct Stopping {
    h: ShutdownHandle,
    run: JoinHandle<ShutdownReport>,
    work: prestop::Guard,
}

impl Stopping {
    async fn begin() -> Self {
        let c = grace(30).build().unwrap();
        let h = c.handle();
        let work = h.guard("work").unwrap();
        let main = h.draining();
        let run = tokio::spawn(async { c.run(main).await.unwrap() });
        h.wait_for(Phase::Ready).await;
        Self { h, run, work }
    }

    async fn end(self) {
        drop(self.work);
        let _report = self.run.await.unwrap();
    }
}

/// What the handler sees as `grpc-timeout` is its answer's header `seen`, after it has slept.
async fn call(h: &ShutdownHandle, request: Request<()>, sleeps: Duration) -> Answer {
    let service = tower::service_fn(move |request: Request<()>| async move {
        tokio::time::sleep(sleeps).await;
        let mut answer = Answer::default();
        if let Some(seen) = request.headers().get("grpc-timeout") {
            answer.headers_mut().insert("seen", seen.clone());
        }
        Ok::<_, Infallible>(answer)
    });
    let service = DeadlineLayer::new(h).layer(service);
    service.oneshot(request).await.unwrap()
}

fn http() -> Request<()> {
    Request::new(())
}

fn grpc(timeout: Option<&str>) -> Request<()> {
    let request = Request::post("/a.B/C")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc");
    let request = match timeout {
        Some(timeout) => request.header("grpc-timeout", timeout),
        None => request,
    };
    request.body(()).unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

const FOR_EVER: Duration = Duration::from_secs(86_400);
const MARGIN: Duration = Duration::from_millis(250);

#[tokio::test(start_paused = true)]
async fn a_request_that_would_be_cut_is_answered_before() {
    let stop = Stopping::begin().await;
    let stuck = tokio::spawn({
        let h = stop.h.clone();
        async move { call(&h, http(), FOR_EVER).await }
    });
    tokio::task::yield_now().await;
    stop.h.trigger(Reason::requested("test"));
    let cut = prestop::StopSignal::new(&stop.h).deadline().unwrap();
    let answer = stuck.await.unwrap();
    assert_eq!(cut.remaining(), MARGIN);
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&answer, "retry-after"), Some("1"));
    assert_eq!(header(&answer, "connection"), Some("close"));
    stop.end().await;
}

#[tokio::test(start_paused = true)]
async fn grpc_is_answered_unavailable_and_a_tightened_deadline_counts() {
    let stop = Stopping::begin().await;
    stop.h.trigger(Reason::requested("test"));
    let stuck = tokio::spawn({
        let h = stop.h.clone();
        async move { call(&h, grpc(None), FOR_EVER).await }
    });
    tokio::task::yield_now().await;
    stop.h
        .trigger_within(Reason::requested("sooner"), Duration::from_secs(10));
    let cut = prestop::StopSignal::new(&stop.h).deadline().unwrap();
    assert!(cut.remaining() < Duration::from_secs(10));
    let answer = stuck.await.unwrap();
    assert_eq!(cut.remaining(), MARGIN);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "grpc-status"), Some("14"));
    assert_eq!(header(&answer, "connection"), None);
    stop.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_forced_stop_answers_at_once() {
    let stop = Stopping::begin().await;
    stop.h.trigger(Reason::requested("test"));
    let from = Instant::now();
    stop.h.force();
    let answer = call(&stop.h, http(), FOR_EVER).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(from.elapsed(), Duration::ZERO);
    stop.end().await;
}

/// With a stop and without.
#[tokio::test(start_paused = true)]
async fn the_client_s_own_deadline_is_kept() {
    for stops in [false, true] {
        let stop = Stopping::begin().await;
        if stops {
            stop.h.trigger(Reason::requested("test"));
        }
        let from = Instant::now();
        let answer = call(&stop.h, grpc(Some("1500m")), FOR_EVER).await;
        assert_eq!(from.elapsed(), Duration::from_millis(1_500));
        assert_eq!(header(&answer, "grpc-status"), Some("4"), "{stops}");
        stop.h.trigger(Reason::requested("test"));
        stop.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_handed_on_in_the_stop_and_only_there() {
    let stop = Stopping::begin().await;
    let seen = async |timeout| {
        let answer = call(&stop.h, grpc(timeout), Duration::ZERO).await;
        header(&answer, "seen").map(str::to_owned)
    };
    assert_eq!(seen(None).await, None);
    assert_eq!(seen(Some("90S")).await.as_deref(), Some("90S"));
    assert_eq!(seen(Some("soon")).await.as_deref(), Some("soon"));
    stop.h.trigger(Reason::requested("test"));
    let left = || {
        let cut = prestop::StopSignal::new(&stop.h).time_left().unwrap();
        Some(format!("{}m", (cut - MARGIN).as_millis()))
    };
    assert_eq!(seen(None).await, left());
    assert_eq!(seen(Some("90S")).await, left());
    assert_eq!(seen(Some("soon")).await, left(), "what nobody can read");
    assert_eq!(
        seen(Some("2S")).await.as_deref(),
        Some("2S"),
        "it is earlier"
    );
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(seen(None).await, left());
    let plain = call(&stop.h, http(), Duration::ZERO).await;
    assert_eq!(header(&plain, "seen"), None, "only gRPC has a word for it");
    stop.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_passes_as_it_is() {
    let stop = Stopping::begin().await;
    stop.h.trigger(Reason::requested("test"));
    let cut = prestop::StopSignal::new(&stop.h).time_left().unwrap();
    let answer = call(&stop.h, http(), cut - MARGIN - Duration::from_millis(1)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    stop.end().await;
}

/// On a real server: the client has its answer, the report has no straggler.
#[tokio::test]
async fn on_every_server_it_is_answered_and_not_cut() {
    for path in crate::PATHS {
        // Answered long before the cut, so that no machine is too slow for it.
        let c = grace(12).build().unwrap();
        let margin = Duration::from_secs(8);
        let stuck = axum::routing::get(async || std::future::pending::<()>().await);
        let app = axum::Router::new()
            .route("/stuck", stuck)
            .layer(DeadlineLayer::new(&c.handle()).margin(margin));
        let server = path.serve(c, app).await;
        let mut client = server.http1().await;
        client.send_get("/stuck").await;
        until("the handler", || {
            server.h.in_flight().iter().any(|s| s.what == "GET /stuck")
        })
        .await;
        server.stop();
        let answer = client.answer().await;
        assert_eq!(answer.status, 503, "{path:?}");
        assert_eq!(client.end().await, End::Fin);
        let report = server.clean().await;
        assert_eq!(report.requests.finished, 1, "{report}");
    }
}
