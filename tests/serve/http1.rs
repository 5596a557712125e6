//! HTTP/1 through a stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use prestop::Phase;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::*;

/// `/hello` answers at once; `/slow` when the gate opens; `/echo` gives back what it gets.
fn app(gate: &Arc<Semaphore>) -> Router {
    let gate = gate.clone();
    let slow = move || async move {
        gate.acquire().await.unwrap().forget();
        "slow"
    };
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/echo", post(async |body: Bytes| body))
}

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// The requests of this route in flight.
fn in_flight(server: &Server, route: &str) -> usize {
    let all = server.h.in_flight();
    all.iter().filter(|s| s.what == route).count()
}

#[tokio::test]
async fn a_streaming_body_is_whole_through_the_drain() {
    let (tx, body) = channel();
    let take = once(body);
    let app = Router::new().route("/", get(async move || take()));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/").await;
    assert_eq!(client.head().await.status, 200);

    server.stop_to(Phase::Draining).await;
    let chunk = vec![b'x'; 100_000];
    for _ in 0..50 {
        tx.send(Ok(chunk.clone().into())).unwrap();
        let mut got = 0;
        while got < chunk.len() {
            got += client.chunk().await.unwrap().len();
        }
        assert_eq!(got, chunk.len());
    }
    // Longer than the linger: a body has all of the drain.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!server.is_stopped());
    tx.send(Ok("end".into())).unwrap();
    drop(tx);
    assert_eq!(client.chunk().await.unwrap(), b"end");
    assert_eq!(client.chunk().await.unwrap(), b"");
    assert_eq!(client.end().await, End::Fin);
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 1, "{report}");
    assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
}

#[tokio::test]
async fn a_slow_handler_finishes_in_the_drain_and_says_close() {
    let gate = gate();
    let server = Server::start(builder().build().unwrap(), app(&gate)).await;
    let mut client = server.http1().await;
    client.send_get("/slow").await;
    until("the handler", || in_flight(&server, "GET /slow") == 1).await;
    server.stop_to(Phase::Draining).await;
    gate.add_permits(1);
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.says_close()), ("slow", true));
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

#[tokio::test]
async fn a_new_connection_in_the_lame_duck_is_served() {
    let c = builder().lame_duck(LONG).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    server.stop_to(Phase::LameDuck).await;
    assert_eq!(server.http1().await.get("/hello").await.text(), "hello");
    server.h.end_lame_duck();
    server.clean().await;
}

#[tokio::test]
async fn before_the_lame_duck_nobody_is_asked_to_leave() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    assert!(!client.get("/hello").await.says_close());
    assert!(!client.get("/hello").await.says_close());
    server.stop();
    server.clean().await;
}

/// Three looks at a lame duck of this length, each at many clients: how many of them were asked by then. `None` when a
/// look took so long that it says nothing.
async fn asked_in_a_lame_duck(length: Duration, clients: usize) -> Option<Vec<usize>> {
    let c = builder().lame_duck(length).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    let mut staying = Vec::new();
    for _ in 0..clients {
        let mut client = server.http1().await;
        assert!(!client.get("/hello").await.says_close());
        staying.push(client);
    }
    let before = Instant::now();
    server.stop_to(Phase::LameDuck).await;
    let from = Instant::now();
    let mut in_time = from - before < length / 12;
    let mut asked = Vec::new();
    // At a sixth of the first half, at five sixths, and past it.
    for part in [1, 5, 7] {
        tokio::time::sleep_until(from + length * part / 12).await;
        let mut stay = Vec::new();
        for mut client in staying {
            if client.get("/hello").await.says_close() {
                assert_eq!(client.end().await, End::Fin);
            } else {
                stay.push(client);
            }
        }
        staying = stay;
        asked.push(clients - staying.len());
        in_time &= from.elapsed() < length * (part + 1) / 12;
    }
    // Also those that come now.
    let late = server.http1().await.get("/hello").await.says_close();
    assert!(late, "in the second half, or in the drain");
    server.h.end_lame_duck();
    server.clean().await;
    in_time.then_some(asked)
}

#[tokio::test]
async fn a_growing_share_is_asked_to_close_in_the_lame_duck() {
    const CLIENTS: usize = 40;
    // On a machine that stands still meanwhile, a longer one shows it.
    for seconds in [3, 6, 12, 24, 48] {
        let asked = asked_in_a_lame_duck(Duration::from_secs(seconds), CLIENTS).await;
        let Some(asked) = asked else {
            say(&format!("AGAIN: too slow for a lame duck of {seconds} s"));
            continue;
        };
        assert!((1..CLIENTS * 2 / 3).contains(&asked[0]), "{asked:?}");
        assert!((CLIENTS / 2..CLIENTS).contains(&asked[1]), "{asked:?}");
        assert_eq!(asked[2], CLIENTS, "all in the second half: {asked:?}");
        return;
    }
    panic!("too slow to judge");
}

#[tokio::test]
async fn an_idle_connection_closes_after_the_linger_and_not_before() {
    let linger = Duration::from_millis(700);
    let server = Server::start(builder().linger(linger).build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    client.get("/hello").await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    assert_eq!(client.end().await, End::Fin);
    let took = from.elapsed();
    assert!(took >= linger - Duration::from_millis(20), "{took:?}");
    server.clean().await;
}

#[tokio::test]
async fn a_connection_that_sent_nothing_closes_after_the_linger() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    server.accepted(client.local()).await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    assert_eq!(client.end().await, End::Fin);
    let took = from.elapsed();
    assert!(took >= Duration::from_millis(480), "{took:?}");
    server.clean().await;
}

#[tokio::test]
async fn without_connections_the_drain_does_not_linger() {
    let c = builder().linger(LONG).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    server.http1().await.get("/hello").await;
    until("the close", || {
        server.h.in_flight().iter().all(|s| s.peer.is_none())
    })
    .await;
    server.stop();
    let report = server.clean().await;
    assert!(report.total < LONG, "{report}");
}

#[tokio::test]
async fn a_request_within_the_linger_is_answered_and_asked_to_close() {
    let c = builder().linger(LONG).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    let (mut used, mut fresh) = (server.http1().await, server.http1().await);
    used.get("/hello").await;
    server.accepted(fresh.local()).await;
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for client in [&mut used, &mut fresh] {
        let answer = client.get("/hello").await;
        assert_eq!((answer.text(), answer.says_close()), ("hello", true));
        assert_eq!(client.end().await, End::Fin);
    }
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 3);
    assert_eq!(report.requests.finished_while_stopping, 2);
}

/// hyper#3792: stock servers close over a head that has begun.
#[tokio::test]
async fn a_partial_head_is_served_when_it_completes() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let (mut second, mut first) = (server.http1().await, server.http1().await);
    second.get("/hello").await;
    for client in [&mut second, &mut first] {
        client.send("GET /hello HTT").await;
    }
    server.accepted(first.local()).await;
    server.stop_to(Phase::Draining).await;
    // Past the linger.
    tokio::time::sleep(Duration::from_millis(900)).await;
    for client in [&mut second, &mut first] {
        client.send("P/1.1\r\nhost: test\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.text(), answer.says_close()), ("hello", true));
        assert_eq!(client.end().await, End::Fin);
    }
    server.clean().await;
}

/// A linger longer than the time for a head: the head has its own time all the same.
#[tokio::test]
async fn a_head_that_begins_late_in_a_long_linger_has_its_time() {
    let c = builder().linger(LONG).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    let mut client = server.http1().await;
    client.get("/hello").await;
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    client.send("GET /hello HTT").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send("P/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    server.clean().await;
}

#[tokio::test]
async fn a_head_that_never_completes_is_given_five_seconds() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    client.send("GET /hello HTT").await;
    server.accepted(client.local()).await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    client.drain().await;
    let took = from.elapsed();
    assert!(took > Duration::from_millis(4_900), "{took:?}");
    server.clean().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gate = gate();
    let server = Server::start(builder().build().unwrap(), app(&gate)).await;
    let mut client = server.http1().await;
    let one = |path| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client
        .send([one("/slow"), one("/hello"), one("/slow")].concat())
        .await;
    gate.add_permits(2);
    for text in ["slow", "hello", "slow"] {
        assert_eq!(client.answer().await.text(), text);
    }
    server.stop();
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 3);
}

/// RFC 9112, 9.3.2: what was sent behind a request whose answer says close is the client's to send again.
#[tokio::test]
async fn a_pipeline_ends_with_the_answer_that_says_close() {
    let gate = gate();
    let server = Server::start(builder().build().unwrap(), app(&gate)).await;
    let mut client = server.http1().await;
    let one = |path| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client
        .send([one("/slow"), one("/hello"), one("/hello")].concat())
        .await;
    until("the handler", || in_flight(&server, "GET /slow") == 1).await;
    server.stop_to(Phase::Draining).await;
    gate.add_permits(1);
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.says_close()), ("slow", true));
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let gate = gate();
    let server = Server::start(builder().build().unwrap(), app(&gate)).await;
    let mut client = server.http1().await;
    client.send("GET /slow HTTP/1.0\r\n\r\n").await;
    let mut kept = server.http1().await;
    kept.send("GET /slow HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        .await;
    until("the handlers", || in_flight(&server, "GET /slow") == 2).await;
    server.stop_to(Phase::Draining).await;
    gate.add_permits(2);
    for client in [&mut client, &mut kept] {
        assert_eq!(client.answer().await.text(), "slow");
        assert_eq!(client.end().await, End::Fin);
    }
    server.clean().await;
}

#[tokio::test]
async fn answers_without_a_body_count_as_finished() {
    let app = app(&gate()).route("/empty", get(async || axum::http::StatusCode::NO_CONTENT));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client
        .send("HEAD /hello HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head.header("content-length"), Some("5"));
    assert_eq!(client.get("/empty").await.status, 204);
    server.stop_to(Phase::Draining).await;
    client
        .send("HEAD /hello HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    assert!(client.head().await.says_close());
    assert_eq!(client.end().await, End::Fin);
    assert_eq!(server.clean().await.requests.finished, 3);
}

/// hyper stops asking for frames when `Content-Length` is reached: the end is never told to the body.
#[tokio::test]
async fn a_stream_of_known_length_counts_as_finished() {
    let file = async || {
        let parts = ["0123", "456789"].map(Ok::<_, std::io::Error>);
        let body = Body::from_stream(futures::stream::iter(parts));
        ([("content-length", "10")], body)
    };
    let app = Router::new().route("/file", get(file));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    assert_eq!(client.get("/file").await.text(), "0123456789");
    server.stop();
    assert_eq!(server.clean().await.requests.finished, 1);
}

#[tokio::test]
async fn a_body_that_fails_or_is_given_up_is_not_finished() {
    let ((tx, body), (tx2, body2)) = (channel(), channel());
    let (take, take2) = (once(body), once(body2));
    let app = Router::new()
        .route("/fails", get(async move || take()))
        .route("/left", get(async move || take2()));
    let server = Server::start(builder().build().unwrap(), app).await;
    let (mut fails, mut left) = (server.http1().await, server.http1().await);
    fails.send_get("/fails").await;
    fails.head().await;
    left.send_get("/left").await;
    left.head().await;
    server.stop_to(Phase::Draining).await;
    tx.send(Err(std::io::Error::other("no more"))).unwrap();
    fails.drain().await;
    drop(left);
    until("the client's end to be seen", || {
        let _ = tx2.send(Ok("more".into()));
        tx2.is_closed()
    })
    .await;
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 0, "{report}");
    assert!(report.total < BOUND, "{report}");
}

#[tokio::test]
async fn an_expected_continue_is_given_in_the_drain() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    until("the handler", || in_flight(&server, "POST /echo") == 1).await;
    server.stop_to(Phase::Draining).await;
    assert_eq!(client.head().await.status, 100);
    tokio::time::sleep(Duration::from_millis(700)).await;
    client.send("body").await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.says_close()), ("body", true));
    server.clean().await;
}

#[tokio::test]
async fn an_upload_that_is_under_way_is_taken_whole() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let mut client = server.http1().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 400000\r\n\r\n")
        .await;
    until("the handler", || in_flight(&server, "POST /echo") == 1).await;
    server.stop_to(Phase::Draining).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.send(vec![b'y'; 100_000]).await;
    }
    assert_eq!(client.answer().await.body.len(), 400_000);
    server.clean().await;
}

#[tokio::test]
async fn a_client_that_resets_in_a_body_does_not_hold_the_drain() {
    let app = Router::new().route("/endless", get(async || endless()));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/endless").await;
    client.bytes(100_000).await.unwrap();
    server.stop_to(Phase::Draining).await;
    // Unread bytes make the close a reset.
    drop(client);
    let report = server.clean().await;
    assert!(report.total < BOUND, "{report}");
}

#[tokio::test]
async fn a_panicking_handler_does_not_hold_the_drain() {
    let (entered, gate) = (gate(), gate());
    let (inside, opens) = (entered.clone(), gate.clone());
    let panics = async move || {
        inside.add_permits(1);
        let _ = opens.acquire().await.unwrap();
        if opens.available_permits() < 1_000 {
            panic!("on purpose");
        }
    };
    let app = Router::new().route("/", get(panics));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/").await;
    let _ = entered.acquire().await.unwrap();
    server.stop_to(Phase::Draining).await;
    gate.add_permits(1);
    client.drain().await;
    let report = server.clean().await;
    assert!(report.total < BOUND, "{report}");
    assert_eq!(report.requests.finished, 0);
}

/// What decides is whether the connection leaves HTTP, not whether the answer speaks of that: a 426 offers an upgrade
/// (RFC 9110, 15.5.22), and is the last answer of its connection like any other.
#[tokio::test]
async fn an_offer_to_upgrade_says_close_and_an_upgrade_does_not() {
    let answer = |status: u16| {
        async move || {
            axum::response::Response::builder()
                .status(status)
                .header("connection", "upgrade")
                .header("upgrade", "foo")
                .body(Body::empty())
                .unwrap()
        }
    };
    let app = Router::new()
        .route("/offer", get(answer(426)))
        .route("/upgrade", get(answer(101)));
    for layered in [false, true] {
        let c = builder().linger(LONG).build().unwrap();
        let server = if layered {
            let listener = local().await;
            let (h, addr) = (c.handle(), listener.local_addr().unwrap());
            let (listener, app) = (c.listener(listener), app.clone().layer(c.layer()));
            let web = axum::serve(listener, app).with_graceful_shutdown(h.draining());
            Server::running(h, addr, async { c.run(web).await.unwrap() }).await
        } else {
            Server::start(c, app.clone()).await
        };
        let (mut offered, mut upgraded) = (server.http1().await, server.http1().await);
        server.accepted(offered.local()).await;
        server.accepted(upgraded.local()).await;
        server.stop_to(Phase::Draining).await;
        offered.send_get("/offer").await;
        let head = offered.head().await;
        assert_eq!(
            (head.status, head.header("connection")),
            (426, Some("upgrade, close"))
        );
        assert_eq!(offered.end().await, End::Fin);
        upgraded
            .send("GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n")
            .await;
        let head = upgraded.head().await;
        assert_eq!(
            (head.status, head.header("connection")),
            (101, Some("upgrade"))
        );
        // Nobody takes the socket.
        upgraded.end().await;
        server.clean().await;
    }
}

/// By default it is taken for one that is gone: tests/cases.
#[tokio::test]
async fn a_client_that_shuts_its_sending_side_is_answered_where_that_was_asked_for() {
    let (gate, c, listener) = (gate(), builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let web = prestop::serve(&h, listener, app(&gate)).half_close(true);
    let server = Server::running(h, addr, async { c.run(web).await.unwrap() }).await;
    let mut client = server.http1().await;
    client.send_get("/slow").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.io)
        .await
        .unwrap();
    until("the handler", || in_flight(&server, "GET /slow") == 1).await;
    server.stop_to(Phase::Draining).await;
    // The end of its requests has long been read.
    tokio::time::sleep(Duration::from_millis(700)).await;
    gate.add_permits(1);
    assert_eq!(client.answer().await.text(), "slow");
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

/// Its own pauses say when the next request is due: past the linger, but soon.
#[tokio::test]
async fn a_client_that_asks_every_few_seconds_is_waited_for() {
    let server = Server::start(builder().build().unwrap(), app(&gate())).await;
    let (mut slow, mut quick) = (server.http1().await, server.http1().await);
    for client in [&mut slow, &mut quick] {
        assert_eq!(client.get("/hello").await.text(), "hello");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(slow.get("/hello").await.text(), "hello");
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    assert_eq!(quick.end().await, End::Fin);
    assert!(from.elapsed() >= Duration::from_millis(450));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = slow.get("/hello").await;
    assert_eq!((answer.text(), answer.says_close()), ("hello", true));
    assert_eq!(slow.end().await, End::Fin);
    server.clean().await;
}
