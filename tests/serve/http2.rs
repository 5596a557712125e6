//! HTTP/2 with prior knowledge (h2c) through a stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, Request};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prestop::Phase;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::raw_http2::*;
use crate::support::*;

const LINGER: Duration = Duration::from_millis(500);

fn app(gate: &Arc<Semaphore>) -> Router {
    let gate = gate.clone();
    let slow = move || async move {
        gate.acquire().await.unwrap().forget();
        "slow"
    };
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/big", get(async || vec![b'x'; 300_000]))
}

fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

async fn served() -> (Arc<Semaphore>, Server) {
    lingering(LINGER).await
}

async fn lingering(linger: Duration) -> (Arc<Semaphore>, Server) {
    let gate = gate();
    let c = builder().linger(linger).build().unwrap();
    let server = Server::start(c, app(&gate)).await;
    (gate, server)
}

async fn slow_ones(server: &Server, n: usize) {
    until("the handlers", || {
        let all = server.h.in_flight();
        all.iter().filter(|s| s.what == "GET /slow").count() == n
    })
    .await;
}

#[tokio::test]
async fn streams_finish_after_the_goaway_of_the_drain() {
    let (tx, body) = channel();
    let (gate, take) = (gate(), once(body));
    let app = app(&gate).route("/stream", get(async move || take()));
    let server = Server::start(builder().build().unwrap(), app).await;
    let io = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        Request::get(format!("http://test{path}"))
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    let mut stream = client.send_request(ask("/stream")).await.unwrap();
    let slow = tokio::spawn(client.send_request(ask("/slow")));
    slow_ones(&server, 1).await;
    server.stop_to(Phase::Draining).await;
    for _ in 0..50 {
        tx.send(Ok(vec![b'x'; 50_000].into())).unwrap();
        let mut got = 0;
        while got < 50_000 {
            let frame = within("a frame", stream.frame()).await.unwrap().unwrap();
            got += frame.into_data().unwrap().len();
        }
        assert_eq!(got, 50_000);
    }
    gate.add_permits(1);
    let slow = within("slow", slow).await.unwrap().unwrap();
    assert!(slow.headers().get("connection").is_none());
    assert_eq!(slow.into_body().collect().await.unwrap().to_bytes(), "slow");
    // Longer than the linger: a body has all of the drain.
    tokio::time::sleep(LINGER + Duration::from_millis(200)).await;
    tx.send(Ok("end".into())).unwrap();
    drop(tx);
    let rest = stream.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "end");
    within("the connection", connection).await.unwrap().unwrap();
    let report = server.clean().await;
    assert_eq!(report.requests.finished_while_stopping, 2, "{report}");
}

#[tokio::test]
async fn the_lame_duck_says_goaway_and_streams_finish() {
    let gate = gate();
    let length = Duration::from_secs(12);
    let c = builder().lame_duck(length).build().unwrap();
    let server = Server::start(c, app(&gate)).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/slow").await;
    slow_ones(&server, 1).await;
    server.stop_to(Phase::LameDuck).await;
    let goaway = client.next(GOAWAY).await;
    assert_eq!(server.h.phase(), Phase::LameDuck);
    assert_eq!(
        goaway.last_stream(),
        0x7fff_ffff,
        "the first one refuses nothing"
    );
    let ping = client.next(PING).await;
    // On its way while the GOAWAY was.
    client.get(3, "/hello").await;
    assert_eq!(client.answer(3, false).await, (OK, b"hello".to_vec()));
    client.pong(&ping).await;
    assert_eq!(client.next(GOAWAY).await.last_stream(), 3);
    gate.add_permits(1);
    assert_eq!(client.answer(1, false).await, (OK, b"slow".to_vec()));
    client.drain().await;
    assert_eq!(server.h.phase(), Phase::LameDuck);
    server.h.end_lame_duck();
    server.clean().await;
}

/// When each of many clients was told, in a lame duck of this length, from its beginning on.
async fn told_in_a_lame_duck(length: Duration, clients: usize) -> Vec<Duration> {
    let c = builder().lame_duck(length).build().unwrap();
    let server = Server::start(c, app(&gate())).await;
    let mut idle = Vec::new();
    for _ in 0..clients {
        let mut client = Http2::connect(server.addr).await;
        client.get(1, "/hello").await;
        client.answer(1, false).await;
        idle.push(client);
    }
    server.stop_to(Phase::LameDuck).await;
    let from = Instant::now();
    let told = idle.into_iter().map(async |mut client| {
        client.next(GOAWAY).await;
        from.elapsed()
    });
    let mut told = futures::future::join_all(told).await;
    told.sort();
    server.h.end_lame_duck();
    server.report().await;
    told
}

#[tokio::test]
async fn a_growing_share_is_told_in_the_lame_duck() {
    const CLIENTS: usize = 20;
    // On a machine that stands still meanwhile, a longer one shows it.
    for seconds in [2, 4, 8, 16, 32] {
        let length = Duration::from_secs(seconds);
        let told = told_in_a_lame_duck(length, CLIENTS).await;
        if told[CLIENTS - 1] < length / 2 + length / 7
            && told[CLIENTS / 4] < length / 4
            && told[CLIENTS * 3 / 4] > length / 4
        {
            return;
        }
        say(&format!(
            "AGAIN: told in a lame duck of {seconds} s: {told:?}"
        ));
    }
    panic!("told otherwise than spread over the first half");
}

#[tokio::test]
async fn a_connection_made_in_the_lame_duck_is_told_too() {
    let c = builder()
        .lame_duck(Duration::from_secs(12))
        .build()
        .unwrap();
    let server = Server::start(c, app(&gate())).await;
    server.stop_to(Phase::LameDuck).await;
    let mut client = Http2::connect(server.addr).await;
    client.next(GOAWAY).await;
    assert_eq!(server.h.phase(), Phase::LameDuck, "only at the drain");
    // It is served all the same.
    client.get(1, "/hello").await;
    assert_eq!(client.answer(1, true).await, (OK, b"hello".to_vec()));
    server.h.end_lame_duck();
    server.clean().await;
}

/// Pools open connections ahead of requests.
#[tokio::test]
async fn a_connection_without_a_request_yet_is_told_in_the_lame_duck() {
    let c = builder()
        .lame_duck(Duration::from_secs(12))
        .build()
        .unwrap();
    let server = Server::start(c, app(&gate())).await;
    let mut client = Http2::connect(server.addr).await;
    server.stop_to(Phase::LameDuck).await;
    client.next(GOAWAY).await;
    assert_eq!(server.h.phase(), Phase::LameDuck, "only at the drain");
    server.h.end_lame_duck();
    server.clean().await;
}

#[tokio::test]
async fn a_connection_without_a_request_yet_does_not_hold_the_drain() {
    let (_gate, server) = lingering(LONG).await;
    let mut client = Http2::connect(server.addr).await;
    server.stop_to(Phase::Draining).await;
    let from = Instant::now();
    client.next(GOAWAY).await;
    let ping = client.next(PING).await;
    client.pong(&ping).await;
    client.drain().await;
    assert!(from.elapsed() < LONG, "{:?}", from.elapsed());
    drop(client);
    server.clean().await;
}

#[tokio::test]
async fn a_request_before_the_ping_is_acknowledged_is_answered() {
    let (_gate, server) = lingering(LONG).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/hello").await;
    client.answer(1, false).await;
    server.stop_to(Phase::Draining).await;
    client.next(GOAWAY).await;
    let ping = client.next(PING).await;
    client.get(3, "/hello").await;
    client.pong(&ping).await;
    assert_eq!(client.answer(3, false).await, (OK, b"hello".to_vec()));
    client.drain().await;
    drop(client);
    let report = server.clean().await;
    assert_eq!(report.requests.finished_while_stopping, 1);
}

/// T4: stock servers wait for this client for ever.
#[tokio::test]
async fn an_idle_peer_that_never_acknowledges_is_closed_after_the_linger() {
    let (_gate, server) = served().await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/hello").await;
    client.answer(1, false).await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    client.drain().await;
    let took = from.elapsed();
    assert!(took >= LINGER - Duration::from_millis(20), "{took:?}");
    server.clean().await;
}

/// It was told in the lame duck, said one thing more, and is gone.
#[tokio::test]
async fn a_peer_that_was_told_long_ago_and_is_gone_is_closed_after_the_linger() {
    let c = builder()
        .lame_duck(Duration::from_secs(12))
        .build()
        .unwrap();
    let server = Server::start(c, app(&gate())).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/hello").await;
    client.answer(1, false).await;
    server.stop_to(Phase::LameDuck).await;
    client.next(GOAWAY).await;
    client.get(3, "/hello").await;
    client.answer(3, false).await;
    server.h.end_lame_duck();
    server.h.wait_for(Phase::Draining).await;
    client.drain().await;
    server.clean().await;
}

#[tokio::test]
async fn a_preface_without_settings_is_closed_after_the_linger() {
    let (_gate, server) = served().await;
    let mut client = Http2::preface(server.addr).await;
    server.accepted(client.local()).await;
    server.stop_to(Phase::Draining).await;
    client.drain().await;
    server.clean().await;
}

/// The handler is done, the client's window is closed: what was produced is still the client's.
#[tokio::test]
async fn an_answer_behind_a_closed_window_is_not_cut() {
    let (_gate, server) = served().await;
    let mut client = Http2::with_window(server.addr, 1_000).await;
    client.get(1, "/big").await;
    let first = client.next(DATA).await;
    server.stop_to(Phase::Draining).await;
    // Silent for longer than the linger, without an acknowledgement even.
    tokio::time::sleep(LINGER + Duration::from_millis(400)).await;
    client.open_window(1, 1_000_000).await;
    client.open_window(0, 1_000_000).await;
    let mut got = first.payload.len();
    while got < 300_000 {
        got += client.next(DATA).await.payload.len();
    }
    client.drain().await;
    server.clean().await;
}

/// The answer is in the kernel's hands and the client still sends: closed now, the connection would be reset, and the
/// answer be gone.
#[tokio::test]
async fn an_answer_on_its_way_survives_a_client_that_goes_on_sending() {
    const LENGTH: usize = 60_000;
    // What h2 says in the PING that goes with its GOAWAY.
    const PONG: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    let app = Router::new().route("/mid", get(async || vec![b'x'; LENGTH]));
    let server = Server::start(builder().linger(LONG).build().unwrap(), app).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let io = socket.connect(server.addr).await.unwrap();
    let mut client = Http2::over(io, 65_535).await;
    client.get(1, "/mid").await;
    until("the answer to be sent", || {
        server.h.report().requests.finished == 1
    })
    .await;
    server.stop_to(Phase::Draining).await;
    client.send(PING, 1, 0, &PONG).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for stream in [3, 5] {
        client.get(stream, "/mid").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.answer(1, false).await.1.len(), LENGTH);
    client.drain().await;
    drop(client);
    server.clean().await;
}

/// S3: the answer was produced, the client has not taken it.
#[tokio::test]
async fn an_answer_behind_a_closed_window_is_a_straggler_with_its_route() {
    let (_gate, server) = served().await;
    let mut client = Http2::with_window(server.addr, 1_000).await;
    client.get(1, "/big").await;
    client.next(DATA).await;
    server.stop_to_closed().await;
    let ping = client.next(PING).await;
    client.pong(&ping).await;
    tokio::time::sleep(LINGER + Duration::from_millis(100)).await;
    server.h.force();
    let report = server.report().await;
    assert_eq!(report.stragglers.len(), 1, "{report}");
    assert_eq!(report.stragglers[0].what, "GET /big", "{report}");
    assert_eq!(
        (report.requests.finished, report.requests.cut),
        (0, 1),
        "{report}"
    );
}

/// gRPC answers end with trailers; hyper asks for nothing after them.
#[tokio::test]
async fn an_answer_that_ends_with_trailers_counts_as_finished() {
    let trailers = async || {
        let mut map = HeaderMap::new();
        map.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = [
            BodyFrame::data(bytes::Bytes::from("x")),
            BodyFrame::trailers(map),
        ];
        let frames = frames.map(Ok::<_, std::io::Error>);
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    };
    let app = Router::new().route("/grpc", get(trailers));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/grpc").await;
    assert_eq!(client.answer(1, true).await, (OK, b"x".to_vec()));
    server.stop();
    drop(client);
    assert_eq!(server.clean().await.requests.finished, 1);
}

#[tokio::test]
async fn a_client_that_resets_a_stream_ends_its_handler() {
    let dropped = Dropped::default();
    let flag = dropped.clone();
    let hangs = async move || {
        let _flag = flag.on_drop();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/slow", get(hangs));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/slow").await;
    slow_ones(&server, 1).await;
    server.stop_to(Phase::Draining).await;
    client.send(RST_STREAM, 0, 1, &8u32.to_be_bytes()).await;
    until("the handler's end", || dropped.is()).await;
    let ping = client.next(PING).await;
    client.pong(&ping).await;
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 0);
}

/// Handlers of HTTP/2 are tasks of their own: the cut must end them, and before the clean-up begins.
#[tokio::test]
async fn a_cut_drops_the_handlers() {
    let dropped = Dropped::default();
    let flag = dropped.clone();
    let hangs = async move || {
        let _flag = flag.on_drop();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/slow", get(hangs));
    let seen = dropped.clone();
    let c = builder()
        .on_stopped("look", move |_| async move {
            assert!(seen.is(), "the handler still runs");
        })
        .build()
        .unwrap();
    let server = Server::start(c, app).await;
    let mut client = Http2::connect(server.addr).await;
    client.get(1, "/slow").await;
    slow_ones(&server, 1).await;
    server.stop_to_closed().await;
    server.h.force();
    client.drain().await;
    let report = server.report().await;
    assert!(dropped.is());
    assert_eq!(report.exit_code(), 72, "{report}");
    assert!(
        report.hooks.iter().all(|hook| hook.outcome.is_good()),
        "{report}"
    );
    let straggler = &report.stragglers[0];
    assert_eq!(
        (&*straggler.what, straggler.peer),
        ("GET /slow", Some(client.local()))
    );
    assert_eq!(report.requests.cut, 1);
}
