//! Server-sent events: ended after a whole event, with a comment and the proper end of the body.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::StreamExt;
use prestop::{Phase, ShutdownReport, StopSignal, StreamLayer, StreamPolicy, Streams, TellAt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::support::raw_http2::*;
use crate::support::*;
use crate::{PATHS, Path};

type Frames = UnboundedSender<&'static str>;

/// An app whose `/events` streams what the test sends. Its handler knows nothing of a stop. New senders are put into the
/// list, one for each request.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Vec<Frames>>>);

impl Source {
    fn body(&self) -> Body {
        let (tx, mut rx) = unbounded_channel();
        self.0.lock().unwrap().push(tx);
        let frames = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
        Body::from_stream(frames.map(Ok::<_, Infallible>))
    }

    fn answer(&self, kind: &'static str) -> Response {
        ([("content-type", kind)], self.body()).into_response()
    }

    fn app(&self) -> Router {
        let (this, also) = (self.clone(), self.clone());
        Router::new().route(
            "/events",
            get(async move || this.answer("text/event-stream"))
                .post(async move || also.answer("text/event-stream")),
        )
    }

    async fn send(&self, frame: &'static str) {
        until("a handler", || !self.0.lock().unwrap().is_empty()).await;
        let sent = self.0.lock().unwrap().last().unwrap().send(frame);
        sent.expect("the body is there");
    }

    fn is_gone(&self) -> bool {
        self.0.lock().unwrap().last().unwrap().is_closed()
    }

    fn end(&self) {
        self.0.lock().unwrap().pop();
    }
}

/// A client in the middle of `/events`, with this much of it received.
async fn listening(server: &Server, source: &Source, method: &str, first: &'static str) -> Http1 {
    let mut client = server.http1().await;
    client
        .send(format!(
            "{method} /events HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
    assert_eq!(client.head().await.status, 200);
    source.send(first).await;
    assert_eq!(client.chunk().await.unwrap(), first.as_bytes());
    client
}

async fn chunk(client: &mut Http1) -> String {
    String::from_utf8(client.chunk().await.unwrap()).unwrap()
}

fn streams(report: &ShutdownReport) -> (u64, u64, u64) {
    let Streams {
        told, ended, cut, ..
    } = report.streams;
    (told, ended, cut)
}

#[tokio::test]
async fn an_unchanged_handler_s_events_end_between_two_of_them() {
    for path in PATHS {
        let source = Source::default();
        let server = path.serve(builder().build().unwrap(), source.app()).await;
        let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
        server.stop();
        assert_eq!(chunk(&mut client).await, ": stopping\n\n", "{path:?}");
        assert_eq!(chunk(&mut client).await, "", "{path:?}: the proper end");
        assert_eq!(client.end().await, End::Fin);
        assert!(source.is_gone());
        let report = server.clean().await;
        assert_eq!(streams(&report), (1, 1, 0), "{report}");
        assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
        assert!(
            report
                .to_string()
                .contains("streams: 1 told to end, 1 of them ended, 0 cut"),
            "{report}"
        );
    }
}

/// Nothing is put into the middle of an event, and nothing of the next one comes.
#[tokio::test]
async fn an_event_in_several_frames_is_completed_first() {
    for path in PATHS {
        let source = Source::default();
        let server = path.serve(builder().build().unwrap(), source.app()).await;
        let mut client = listening(&server, &source, "GET", "id: 7\ndata: a").await;
        server.stop_to(Phase::Draining).await;
        until("the moment", || server.h.report().streams.told == 1).await;
        source.send("b").await;
        assert_eq!(chunk(&mut client).await, "b", "{path:?}");
        source.send("\n").await;
        assert_eq!(chunk(&mut client).await, "\n", "{path:?}");
        source.send("\ndata: next\n\n").await;
        assert_eq!(chunk(&mut client).await, "\n", "{path:?}");
        assert_eq!(chunk(&mut client).await, ": stopping\n\n", "{path:?}");
        assert_eq!(chunk(&mut client).await, "", "{path:?}");
        assert_eq!(client.end().await, End::Fin);
        let report = server.clean().await;
        assert_eq!(streams(&report), (1, 1, 0), "{report}");
    }
}

/// A handler that always has one more event ready.
#[tokio::test]
async fn endless_events_end_too() {
    for path in PATHS {
        let events = async || {
            let always = futures::stream::repeat_with(|| Ok::<_, Infallible>("data: x\n\n"));
            let body = Body::from_stream(always);
            ([("content-type", "text/event-stream; charset=utf-8")], body).into_response()
        };
        let app = Router::new().route("/events", get(events));
        let server = path.serve(builder().build().unwrap(), app).await;
        let mut client = server.http1().await;
        client.send_get("/events").await;
        client.head().await;
        server.stop();
        let mut last = String::new();
        loop {
            match chunk(&mut client).await {
                end if end.is_empty() => break,
                chunk => last = chunk,
            }
        }
        assert!(last.ends_with(": stopping\n\n"), "{last}");
        assert_eq!(streams(&server.clean().await), (1, 1, 0));
    }
}

/// A half event whose end never comes is cut by the deadline, and the report says so.
#[tokio::test]
async fn half_an_event_is_never_ended() {
    for path in PATHS {
        let source = Source::default();
        let server = path.serve(builder().build().unwrap(), source.app()).await;
        let mut client = listening(&server, &source, "GET", "data: half").await;
        server.stop_to(Phase::Draining).await;
        until("the moment", || server.h.report().streams.told == 1).await;
        server.h.force();
        client.drain().await;
        assert!(client.buf.is_empty(), "{path:?}: {:?}", client.buf);
        let report = server.report().await;
        assert_eq!(streams(&report), (1, 0, 1), "{report}");
        assert_eq!(
            (report.exit_code(), report.requests.cut),
            (72, 1),
            "{report}"
        );
    }
}

/// To a POST they are a finite answer in pieces: nobody would ask for the rest.
#[tokio::test]
async fn events_in_answer_to_a_post_finish() {
    for path in PATHS {
        let source = Source::default();
        let server = path.serve(builder().build().unwrap(), source.app()).await;
        let mut client = listening(&server, &source, "POST", "data: 1\n\n").await;
        goes_on(&server, &source, &mut client).await;
        assert_eq!(streams(&server.clean().await), (0, 0, 0));
    }
}

/// Past the moment at which it would have been told, until its own end.
async fn goes_on(server: &Server, source: &Source, client: &mut Http1) {
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    source.send("data: 2\n\n").await;
    assert_eq!(chunk(client).await, "data: 2\n\n");
    source.end();
    assert_eq!(chunk(client).await, "");
    assert_eq!(client.end().await, End::Fin);
}

#[tokio::test]
async fn finish_can_be_said_by_route_by_request_and_by_answer() {
    for path in PATHS {
        for said_by in ["route", "request", "answer"] {
            let source = Source::default();
            let of = source.clone();
            let handler = async move |stop: StopSignal| match said_by {
                "request" => {
                    stop.set_policy(StreamPolicy::Finish);
                    of.answer("text/event-stream")
                }
                "answer" => {
                    let answer = of.answer("text/event-stream");
                    (Extension(StreamPolicy::Finish), answer).into_response()
                }
                _ => of.answer("text/event-stream"),
            };
            let route = match said_by {
                "route" => get(handler).layer(StreamLayer::new(StreamPolicy::Finish)),
                _ => get(handler),
            };
            let app = Router::new().route("/events", route);
            let server = path.serve(builder().build().unwrap(), app).await;
            let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
            goes_on(&server, &source, &mut client).await;
            assert_eq!(streams(&server.clean().await), (0, 0, 0), "{said_by}");
        }
    }
}

/// And `tell` for what is not told by itself: events in answer to a POST.
#[tokio::test]
async fn tell_can_be_said_by_route() {
    for path in PATHS {
        let source = Source::default();
        let app = source.app().layer(StreamLayer::new(StreamPolicy::Tell));
        let server = path.serve(builder().build().unwrap(), app).await;
        let mut client = listening(&server, &source, "POST", "data: 1\n\n").await;
        server.stop();
        assert_eq!(chunk(&mut client).await, ": stopping\n\n");
        assert_eq!(chunk(&mut client).await, "");
        assert_eq!(streams(&server.clean().await), (1, 1, 0));
    }
}

/// The client sees that it is incomplete; the exit code stays clean, since it was asked for.
#[tokio::test]
async fn cut_breaks_off_without_a_word_and_without_a_straggler() {
    for path in PATHS {
        let source = Source::default();
        let app = source.app().layer(StreamLayer::new(StreamPolicy::Cut));
        let server = path.serve(builder().build().unwrap(), app).await;
        let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
        server.stop();
        client.end().await;
        assert!(source.is_gone(), "{path:?}");
        let report = server.clean().await;
        assert_eq!(streams(&report), (0, 0, 1), "{report}");
        assert_eq!(report.requests.finished, 0, "{report}");
        assert_eq!(report.requests.abandoned, 0, "{report}");
    }
}

/// What is compressed has no events that can be seen from outside; what is of a known length ends by itself.
#[tokio::test]
async fn compressed_events_and_other_streams_finish() {
    for kind in ["gzip", "ndjson"] {
        for path in PATHS {
            let source = Source::default();
            let of = source.clone();
            let handler = async move || match kind {
                "gzip" => (
                    [("content-encoding", "gzip")],
                    of.answer("text/event-stream"),
                )
                    .into_response(),
                _ => of.answer("application/x-ndjson"),
            };
            let app = Router::new().route("/events", get(handler));
            let server = path.serve(builder().build().unwrap(), app).await;
            let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
            goes_on(&server, &source, &mut client).await;
            assert_eq!(streams(&server.clean().await), (0, 0, 0), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_handler_that_asks_says_its_own_farewell_and_nothing_is_added() {
    for path in PATHS {
        let handler = async |stop: StopSignal| {
            let events = futures::stream::iter(["1"]).chain(futures::stream::pending());
            let events = events.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
            let last = || Ok(Event::default().event("moved").data("elsewhere"));
            Sse::new(stop.until_told(events).with_last(last))
        };
        let helped = async |stop: StopSignal| {
            let events = futures::stream::pending::<Result<Event, Infallible>>();
            Sse::new(stop.sse(events))
        };
        let app = Router::new()
            .route("/own", get(handler))
            .route("/helped", post(helped));
        let server = path.serve(builder().build().unwrap(), app).await;
        let (mut own, mut helped) = (server.http1().await, server.http1().await);
        own.send_get("/own").await;
        own.head().await;
        assert_eq!(chunk(&mut own).await, "data: 1\n\n");
        helped
            .send("POST /helped HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n")
            .await;
        helped.head().await;
        server.stop();
        assert_eq!(
            chunk(&mut own).await,
            "event: moved\ndata: elsewhere\n\n",
            "{path:?}"
        );
        assert_eq!(chunk(&mut own).await, "", "{path:?}");
        assert_eq!(chunk(&mut helped).await, ": stopping\n\n", "{path:?}");
        assert_eq!(chunk(&mut helped).await, "", "{path:?}");
        let report = server.clean().await;
        assert_eq!(streams(&report), (2, 2, 0), "{report}");
    }
}

#[tokio::test]
async fn over_http2_they_end_with_the_stream() {
    for path in PATHS {
        let source = Source::default();
        let server = path.serve(builder().build().unwrap(), source.app()).await;
        let mut client = Http2::connect(server.addr).await;
        client.get(1, "/events").await;
        source.send("data: 1\n\n").await;
        assert_eq!(client.next(DATA).await.payload, b"data: 1\n\n");
        server.stop();
        let answer = client.rest_of(1).await;
        assert_eq!(answer, b": stopping\n\n", "{path:?}");
        drop(client);
        assert_eq!(streams(&server.clean().await), (1, 1, 0));
    }
}

/// Never before its phase, in neither case.
#[tokio::test]
async fn they_are_told_in_the_phase_that_was_chosen() {
    for path in PATHS {
        for (by_builder, by_route, told_in) in [
            (TellAt::Draining, None, Phase::Draining),
            (TellAt::LameDuck, None, Phase::LameDuck),
            (TellAt::LameDuck, Some(TellAt::Draining), Phase::Draining),
            (TellAt::Draining, Some(TellAt::LameDuck), Phase::LameDuck),
        ] {
            let source = Source::default();
            let mut app = source.app();
            if let Some(at) = by_route {
                app = app.layer(StreamLayer::new(StreamPolicy::Tell).at(at));
            }
            // Whoever is not told in the lame duck would be waited for in vain.
            let lame_duck = match told_in {
                Phase::LameDuck => std::time::Duration::from_secs(15),
                _ => std::time::Duration::from_millis(300),
            };
            let c = builder().lame_duck(lame_duck).tell_streams_at(by_builder);
            let server = path.serve(c.build().unwrap(), app).await;
            let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
            server.stop();
            assert_eq!(chunk(&mut client).await, ": stopping\n\n");
            assert_eq!(
                server.h.phase(),
                told_in,
                "{path:?} {by_builder:?} {by_route:?}"
            );
            assert_eq!(chunk(&mut client).await, "");
            server.h.end_lame_duck();
            drop(client);
            server.clean().await;
        }
    }
}

/// A client that was sent back here is told twice at the most.
#[tokio::test]
async fn a_stream_that_begins_in_the_lame_duck_is_told_in_the_drain() {
    let source = Source::default();
    let c = builder()
        .lame_duck(std::time::Duration::from_secs(15))
        .tell_streams_at(TellAt::LameDuck);
    let server = Path::Own.serve(c.build().unwrap(), source.app()).await;
    let mut early = listening(&server, &source, "GET", "data: 1\n\n").await;
    server.stop_to(Phase::LameDuck).await;
    let mut late = listening(&server, &source, "GET", "data: 2\n\n").await;
    assert_eq!(chunk(&mut early).await, ": stopping\n\n");
    assert_eq!(server.h.report().streams.told, 1);
    server.h.end_lame_duck();
    assert_eq!(chunk(&mut late).await, ": stopping\n\n");
    assert!(server.h.phase() >= Phase::Draining);
    let report = server.clean().await;
    assert_eq!(streams(&report), (2, 2, 0), "{report}");
}

/// When each of many streams was told, in a lame duck of this length. `None` when the lame duck was over before.
async fn told_in_a_lame_duck(
    length: std::time::Duration,
    clients: usize,
) -> Option<Vec<std::time::Duration>> {
    let source = Source::default();
    let c = builder()
        .lame_duck(length)
        .tell_streams_at(TellAt::LameDuck);
    let server = Path::Own.serve(c.build().unwrap(), source.app()).await;
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(listening(&server, &source, "GET", "data: 1\n\n").await);
    }
    server.stop_to(Phase::LameDuck).await;
    let from = tokio::time::Instant::now();
    let told = streams.iter_mut().map(async |client| {
        assert_eq!(chunk(client).await, ": stopping\n\n");
        from.elapsed()
    });
    let mut told = futures::future::join_all(told).await;
    told.sort();
    let in_time = server.h.phase() == Phase::LameDuck;
    server.h.end_lame_duck();
    server.clean().await;
    in_time.then_some(told)
}

/// Each at its own moment in the first half of the lame duck.
#[tokio::test]
async fn many_streams_are_told_one_after_the_other() {
    const CLIENTS: usize = 40;
    // On a machine that stands still meanwhile, a longer one shows it.
    for seconds in [6, 12, 24, 48] {
        let length = std::time::Duration::from_secs(seconds);
        let told = told_in_a_lame_duck(length, CLIENTS).await;
        // Of an even ramp over the half of it; a slow machine moves them all the same way.
        if told
            .as_ref()
            .is_some_and(|told| told[CLIENTS - 1] - told[CLIENTS / 4] > length / 16)
        {
            return;
        }
        say(&format!(
            "AGAIN: told in a lame duck of {seconds} s: {told:?}"
        ));
    }
    panic!("told all at once, or not in the lame duck");
}

/// Exempt streams end in the same way; they held nothing open.
#[tokio::test]
async fn exempt_events_end_cleanly_too() {
    let source = Source::default();
    let c = builder().build().unwrap();
    let (h, listener) = (c.handle(), local().await);
    let addr = listener.local_addr().unwrap();
    let serving = prestop::serve(&h, listener, source.app()).exempt(|_| true);
    let (work, held) = tokio::sync::oneshot::channel::<()>();
    h.spawn("work", async { drop(held.await) }).unwrap();
    let server = Server::running(h, addr, async {
        c.run(serving.into_future()).await.unwrap()
    })
    .await;
    let mut client = listening(&server, &source, "GET", "data: 1\n\n").await;
    server.stop();
    assert_eq!(chunk(&mut client).await, ": stopping\n\n");
    assert_eq!(chunk(&mut client).await, "");
    drop(work);
    assert_eq!(streams(&server.clean().await), (1, 1, 0));
}

/// Frames of a body as they fall, without a socket between.
mod frames {
    use std::time::Duration;

    use axum::body::Body;
    use futures::StreamExt;
    use http_body_util::BodyExt;
    use prestop::{Phase, Reason};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use tower::{Layer, ServiceExt};

    use crate::support::builder;

    const EVENTS: &[&str] = &[
        "data: a\n\n",
        "id: 7\r\ndata: b\r\n\r\n",
        ": ping\n",
        ": ping\n\n",
        "event: x\ndata: c\ndata:\n\n\n",
        "retry: 10\n\n",
    ];

    /// What a client has received when the first `before` frames came before the stop, and all others are ready in it.
    fn received(frames: Vec<String>, before: usize) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let c = builder().linger(Duration::ZERO).build().unwrap();
            let (h, layer) = (c.handle(), c.layer());
            let work = h.guard("work").unwrap();
            let run = tokio::spawn(c.run(h.draining()));
            h.wait_for(Phase::Ready).await;
            let body = futures::stream::iter(frames).map(Ok::<_, std::convert::Infallible>);
            let body = Body::from_stream(body.chain(futures::stream::pending()));
            let answer = once_with(http::Response::builder(), body);
            let request = http::Request::get("/").body(()).unwrap();
            let answer = layer.layer(answer).oneshot(request).await.unwrap();
            let mut body = answer.into_body();
            let mut got = Vec::new();
            for _ in 0..before {
                let frame = body.frame().await.unwrap().unwrap();
                got.extend(frame.into_data().unwrap());
            }
            h.trigger(Reason::requested("test"));
            h.wait_for(Phase::Draining).await;
            while let Some(frame) = body.frame().await {
                got.extend(frame.unwrap().into_data().unwrap());
            }
            drop((body, work));
            let _report = run.await.unwrap().unwrap();
            String::from_utf8(got).unwrap()
        })
    }

    fn once_with(
        head: http::response::Builder,
        body: Body,
    ) -> impl tower::Service<
        http::Request<()>,
        Response = http::Response<Body>,
        Error = std::convert::Infallible,
    > {
        let answer = head.header("content-type", "text/event-stream").body(body);
        let mut answer = Some(answer.unwrap());
        tower::service_fn(move |_| {
            let answer = answer.take().expect("asked once");
            async { Ok(answer) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        /// Whole events and nothing else, then the comment: at the first place where that is so, however the frames fall.
        #[test]
        fn a_told_body_ends_at_the_first_end_of_an_event(
            events in proptest::collection::vec(select(EVENTS), 1..8),
            cuts in proptest::collection::vec(any::<Index>(), 0..8),
            before in any::<Index>(),
        ) {
            let text = events.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let frames: Vec<String> = cuts.windows(2).map(|w| text[w[0]..w[1]].to_owned()).collect();
            let before = before.index(frames.len() + 1);
            let sent: usize = frames[..before].iter().map(String::len).sum();
            let got = received(frames, before);
            let told = got.strip_suffix(": stopping\n\n");
            prop_assert!(told.is_some(), "{got:?} of {text:?}");
            let told = told.unwrap();
            prop_assert!(text.starts_with(told));
            // Every place where events and comments are whole; an LF may be cut from its CR, and a blank line from another.
            let mut ends = vec![0];
            for (at, _) in text.char_indices().chain([(text.len(), ' ')]) {
                let unix = text[..at].replace("\r\n", "\n").replace('\r', "\n");
                let last = unix.rsplit_once("\n\n").map_or(&*unix, |(_, rest)| rest);
                let whole = last.is_empty() || unix.ends_with('\n') && last.lines().all(|l| l.is_empty() || l.starts_with(':'));
                if whole {
                    ends.push(at);
                }
            }
            prop_assert!(ends.contains(&told.len()), "{told:?} of {text:?}");
            let first = ends.iter().copied().find(|end| *end >= sent).unwrap();
            let lf = usize::from(text[first..].starts_with('\n'));
            prop_assert!(told.len() == first || told.len() == first + lf, "{told:?} of {text:?}, {sent} sent");
        }
    }
}
