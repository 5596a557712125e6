//! TLS in the slot between accept and HTTP, through a stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures::future::join_all;
use prestop::{Phase, ShutdownCoordinator, WorkKind, serve};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::support::raw_http2::*;
use crate::support::tls::*;
use crate::support::*;

fn app(gate: &Arc<Semaphore>) -> Router {
    let gate = gate.clone();
    let slow = move || async move {
        gate.acquire().await.unwrap().forget();
        "slow"
    };
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
        .route(
            "/peer",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
        )
}

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

async fn served(gate: &Arc<Semaphore>, handshake_timeout: Duration) -> (Server, Client) {
    start(builder().build().unwrap(), gate, handshake_timeout).await
}

/// One whose linger is longer than a busy machine takes for a client's turn.
async fn patient() -> (Server, Client) {
    let c = builder().linger(LONG).build();
    start(c.unwrap(), &gate(), TEN).await
}

async fn start(
    c: ShutdownCoordinator,
    gate: &Arc<Semaphore>,
    handshake_timeout: Duration,
) -> (Server, Client) {
    let (tls, listener) = (Tls::new(), local().await);
    let (addr, client) = (listener.local_addr().unwrap(), tls.client());
    let (h, acceptor) = (c.handle(), tls.acceptor);
    let web = serve(&h, listener, app(gate))
        .handshake(move |io| acceptor.accept(io))
        .handshake_timeout(handshake_timeout);
    let run = async move { c.run(web).await.unwrap() };
    (Server::running(h, addr, run).await, client)
}

/// The default.
const TEN: Duration = Duration::from_secs(10);

async fn http1(server: &Server, client: &Client) -> Http1<TlsStream<TcpStream>> {
    Http1::on(client.connect(server.addr, HTTP1).await)
}

async fn http2(server: &Server, client: &Client) -> Http2<TlsStream<TcpStream>> {
    Http2::over(client.connect(server.addr, HTTP2).await, WINDOW).await
}

async fn in_flight(server: &Server, what: &str, n: usize) {
    until(what, || {
        let all = server.h.in_flight();
        all.iter().filter(|s| s.what == what).count() == n
    })
    .await;
}

/// [`End::Fin`] is a `close_notify`: without one, rustls says that the end came unexpectedly.
#[tokio::test]
async fn http1_clients_are_answered_and_told_goodbye() {
    let gate = gate();
    let (server, client) = served(&gate, TEN).await;
    let mut slow = http1(&server, &client).await;
    slow.send_get("/slow").await;
    let mut idle = http1(&server, &client).await;
    let mut half = http1(&server, &client).await;
    for kept_alive in [&mut idle, &mut half] {
        assert_eq!(kept_alive.get("/hello").await.text(), "hello");
    }
    half.send("GET /hello HTT").await;
    in_flight(&server, "GET /slow", 1).await;
    // What was sent has come.
    tokio::time::sleep(Duration::from_millis(100)).await;

    server.stop_to(Phase::Draining).await;
    assert_eq!(idle.end().await, End::Fin);
    // Past the linger: seen from outside of TLS, it would have been an idle connection, or a head for ever.
    half.send("P/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(half.answer().await.text(), "hello");
    assert_eq!(half.end().await, End::Fin);
    gate.add_permits(1);
    let answer = slow.answer().await;
    assert_eq!((answer.text(), answer.says_close()), ("slow", true));
    assert_eq!(slow.end().await, End::Fin);
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 4, "{report}");
}

#[tokio::test]
async fn an_idle_client_that_asks_within_the_linger_is_answered() {
    let (server, client) = patient().await;
    let mut client = http1(&server, &client).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    server.stop_to(Phase::Draining).await;
    let answer = client.get("/hello").await;
    assert_eq!((answer.text(), answer.says_close()), ("hello", true));
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

#[tokio::test]
async fn http2_streams_are_answered_and_told_goodbye() {
    const STREAMS: usize = 20;
    let gate = gate();
    let (server, client) = served(&gate, TEN).await;
    let mut client = http2(&server, &client).await;
    for n in 0..STREAMS {
        client.get(u32::try_from(2 * n + 1).unwrap(), "/slow").await;
    }
    in_flight(&server, "GET /slow", STREAMS).await;
    server.stop_to(Phase::Draining).await;
    client.next(GOAWAY).await;
    gate.add_permits(STREAMS);
    let bodies = client.bodies(STREAMS).await;
    assert_eq!(bodies.len(), STREAMS);
    assert!(bodies.values().all(|body| body == b"slow"));
    let end = loop {
        match client.frame().await {
            Ok(frame) if frame.is_ping() => client.pong(&frame).await,
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    // The frame's own end; rustls's has a text that names the missing `close_notify`.
    assert!(!end.to_string().contains("close_notify"), "{end}");
    drop(client);
    let report = server.clean().await;
    assert_eq!(report.requests.finished, STREAMS as u64, "{report}");
}

/// An idle HTTP/2 client is known as one: it is told GOAWAY, and closed when it is silent.
#[tokio::test]
async fn an_http2_client_that_is_gone_is_closed_after_the_linger() {
    let (server, client) = served(&gate(), TEN).await;
    let mut client = http2(&server, &client).await;
    client.get(1, "/hello").await;
    assert_eq!(client.answer(1, false).await, (OK, b"hello".to_vec()));
    server.stop_to(Phase::Draining).await;
    client.next(GOAWAY).await;
    client.drain().await;
    server.clean().await;
}

/// Clients of both protocols that ask again and again, until they are told to leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_clients_of_both_protocols_lose_nothing() {
    let c = builder().lame_duck(Duration::from_millis(300)).build();
    let (server, client) = start(c.unwrap(), &gate(), TEN).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut h1 = http1(&server, &client).await;
        clients.push(tokio::spawn(async move {
            let mut answers = 0;
            loop {
                let answer = h1.get("/hello").await;
                assert_eq!(answer.text(), "hello");
                answers += 1;
                if answer.says_close() {
                    assert_eq!(h1.end().await, End::Fin);
                    return answers;
                }
            }
        }));
        let h2 = http2(&server, &client).await;
        clients.push(tokio::spawn(asks_until_told(h2)));
    }
    server.stop();
    let answers = within("the clients", join_all(clients)).await;
    let answers: u64 = answers.into_iter().map(Result::unwrap).sum();
    let report = server.clean().await;
    assert_eq!(report.requests.finished, answers, "{report}");
}

/// One stream after the other. The first GOAWAY names no last stream; the one that does comes after our answer to the
/// PING, and what was sent by then is answered.
async fn asks_until_told(mut client: Http2<TlsStream<TcpStream>>) -> u64 {
    let (mut stream, mut answered, mut last) = (1, 0, u32::MAX);
    client.get(stream, "/hello").await;
    loop {
        let frame = match client.frame().await {
            Ok(frame) => frame,
            Err(end) => {
                assert!(last < u32::MAX >> 1, "told no last stream: {end}");
                assert!(stream > last, "stream {stream} got no answer");
                return answered;
            }
        };
        if frame.is_ping() {
            client.pong(&frame).await;
        } else if frame.kind == GOAWAY {
            last = frame.last_stream();
        } else if frame.ends_stream() {
            answered += 1;
            stream += 2;
            if last == u32::MAX {
                client.get(stream, "/hello").await;
            }
        }
    }
}

#[tokio::test]
async fn the_peer_is_known() {
    let (server, client) = served(&gate(), TEN).await;
    let io = TcpStream::connect(server.addr).await.unwrap();
    let local = io.local_addr().unwrap();
    let mut client = Http1::on(client.over(io, HTTP1).await.unwrap());
    assert_eq!(client.get("/peer").await.text(), local.to_string());
    client.send_get("/slow").await;
    in_flight(&server, "GET /slow", 1).await;
    server.stop_to_closed().await;
    server.h.force();
    let report = server.report().await;
    assert_eq!(report.stragglers[0].peer, Some(local), "{report}");
}

/// A client whose handshake stops in the middle: what it would do next, and how to let it.
async fn halts(
    server: &Server,
    client: &Client,
) -> (
    tokio::task::JoinHandle<std::io::Result<TlsStream<Halting>>>,
    tokio::sync::oneshot::Sender<()>,
    SocketAddr,
) {
    let io = TcpStream::connect(server.addr).await.unwrap();
    let local = io.local_addr().unwrap();
    let (io, go_on) = Halting::new(io, 20);
    let client = client.clone();
    let handshake = tokio::spawn(async move { client.over(io, HTTP1).await });
    until("half a ClientHello", || {
        let all = server.h.in_flight();
        let found = all.iter().find(|s| s.peer == Some(local));
        found.is_some_and(|s| s.what == "in handshake" && s.bytes == Some((20, 0)))
    })
    .await;
    (handshake, go_on, local)
}

#[tokio::test]
async fn a_handshake_that_stalls_delays_nobody_and_is_named_when_it_is_cut() {
    let (server, client) = served(&gate(), TEN).await;
    let (handshake, _go_on, local) = halts(&server, &client).await;
    let mut other = http1(&server, &client).await;
    assert_eq!(other.get("/hello").await.text(), "hello");
    drop(other);
    server.stop_to_closed().await;
    server.h.force();
    handshake.await.unwrap().expect_err("it was cut");
    let report = server.report().await;
    let [cut] = &report.stragglers[..] else {
        panic!("{report}");
    };
    assert_eq!(
        (cut.kind, &*cut.what),
        (WorkKind::Connection, "in handshake")
    );
    assert_eq!((cut.peer, cut.bytes), (Some(local), Some((20, 0))));
    assert_eq!(report.exit_code(), 72);
}

#[tokio::test]
async fn a_handshake_has_its_time_and_no_more() {
    let (server, client) = served(&gate(), Duration::from_millis(200)).await;
    let mut silent = server.http1().await;
    assert_eq!(silent.end().await, End::Fin);
    let io = TcpStream::connect(server.addr).await.unwrap();
    let (io, _go_on) = Halting::new(io, 20);
    client.over(io, HTTP1).await.expect_err("it took too long");
    assert_eq!(server.h.phase(), Phase::Ready);
    until("the end", || server.h.in_flight().len() == 1).await;
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn a_handshake_that_fails_closes_its_connection_alone() {
    let (server, client) = served(&gate(), TEN).await;
    let mut plain = server.http1().await;
    plain.send_get("/hello").await;
    plain.drain().await;
    assert!(!plain.buf.starts_with(b"HTTP"));
    let mut client = http1(&server, &client).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn in_the_drain_a_silent_handshake_has_the_linger_and_one_that_began_five_seconds() {
    let (server, client) = served(&gate(), Duration::MAX).await;
    let (handshake, _go_on, _) = halts(&server, &client).await;
    let mut silent = server.http1().await;
    server.accepted(silent.local()).await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    assert_eq!(silent.end().await, End::Fin);
    assert!(from.elapsed() >= Duration::from_millis(450));
    let in_time = from.elapsed() < Duration::from_millis(4_900);
    assert!(!in_time || !handshake.is_finished(), "not yet");
    within("its end", handshake)
        .await
        .unwrap()
        .expect_err("late");
    assert!(from.elapsed() >= Duration::from_millis(4_900));
    server.clean().await;
}

#[tokio::test]
async fn a_handshake_that_ends_in_the_drain_is_served() {
    let (server, client) = patient().await;
    let (handshake, go_on, _) = halts(&server, &client).await;
    server.stop_to_closed().await;
    go_on.send(()).unwrap();
    let stream = within("the handshake", handshake).await.unwrap().unwrap();
    let mut client = Http1::on(stream);
    let answer = client.get("/hello").await;
    assert_eq!((answer.text(), answer.says_close()), ("hello", true));
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}
