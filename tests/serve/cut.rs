//! What does not finish is cut at the deadline, and is in the report.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use prestop::{Phase, ShutdownReport, WorkKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::*;

fn forced(report: &ShutdownReport) {
    assert_eq!(report.exit_code(), 72, "{report}");
}

#[tokio::test]
async fn a_handler_that_never_returns_is_cut_at_the_deadline_and_named() {
    let dropped = Dropped::default();
    let flag = dropped.clone();
    let hangs = async move || {
        let _flag = flag.on_drop();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/never", get(hangs));
    let server = Server::start(grace(5).build().unwrap(), app).await;
    let mut client = server.http1().await;
    let head = "GET /never?secret=1 HTTP/1.1\r\nhost: test\r\n\r\n";
    client.send(head).await;
    until("the handler", || {
        server
            .h
            .in_flight()
            .iter()
            .any(|s| s.kind == WorkKind::Request)
    })
    .await;
    let from = Instant::now();
    server.stop_to(Phase::Draining).await;
    client.drain().await;
    let took = from.elapsed();
    // 5 s, less 1 for the exit, 0.5 for hooks, 0.25 for the cut.
    assert!(took > Duration::from_millis(3_200), "{took:?}");
    let local = client.local();
    let report = server.report().await;
    assert!(dropped.is());
    forced(&report);
    let [straggler] = &report.stragglers[..] else {
        panic!("{report}");
    };
    assert_eq!(straggler.kind, WorkKind::Request);
    assert_eq!(straggler.what, "GET /never", "no query");
    assert_eq!(straggler.peer, Some(local));
    assert!(straggler.age > Duration::from_millis(3_200), "{straggler}");
    assert_eq!(straggler.bytes, Some((head.len() as u64, 0)));
    assert_eq!((report.requests.cut, report.requests.finished), (1, 0));
}

/// The handler sees its request's body fail, and answers that: too late.
#[tokio::test]
async fn a_request_that_was_cut_is_not_finished() {
    let app = Router::new().route(
        "/echo",
        post(async |body: Result<Bytes, BytesRejection>| {
            body.map_or(StatusCode::BAD_REQUEST, |_| StatusCode::OK)
        }),
    );
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\nhalf")
        .await;
    until("the handler", || {
        let all = server.h.in_flight();
        all.iter().any(|s| s.kind == WorkKind::Request)
    })
    .await;
    server.stop_to_closed().await;
    server.h.force();
    let report = server.report().await;
    forced(&report);
    let r = report.requests;
    assert_eq!((r.cut, r.finished), (1, 0), "{report}");
}

/// S3: the handler is done, the answer is larger than every buffer, the client reads nothing.
#[tokio::test]
async fn an_answer_that_is_never_read_is_cut_and_named() {
    let app = Router::new().route("/big", get(async || vec![b'x'; 30_000_000]));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/big").await;
    client.bytes(1).await.unwrap();
    server.stop_to_closed().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!server.is_stopped(), "cut before the deadline");
    server.h.force();
    let report = server.report().await;
    forced(&report);
    assert_eq!(report.stragglers[0].what, "GET /big", "{report}");
    assert_eq!(
        (report.requests.cut, report.requests.finished),
        (1, 0),
        "{report}"
    );
}

#[tokio::test]
async fn an_answer_that_is_read_late_is_whole() {
    let app = Router::new().route("/big", get(async || vec![b'x'; 30_000_000]));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/big").await;
    client.bytes(1).await.unwrap();
    client.buf.insert(0, b'H');
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(client.answer().await.body.len(), 30_000_000);
    // Its head went out before the drain and said nothing: idle, it has the linger.
    assert_eq!(client.end().await, End::Fin);
    server.clean().await;
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_deadline() {
    let app = Router::new().route("/endless", get(async || endless()));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send_get("/endless").await;
    client.head().await;
    let from = Instant::now();
    server.stop();
    server
        .h
        .trigger_within(prestop::Reason::PreStopHook, Duration::from_secs(3));
    while client.chunk().await.is_ok() {}
    let took = from.elapsed();
    // 3 s, less 1 for the exit, 0.5 for hooks, 0.25 for the cut.
    assert!(took > Duration::from_millis(1_200), "{took:?}");
    let report = server.report().await;
    forced(&report);
    let (_, sent) = report.stragglers[0].bytes.unwrap();
    assert!(sent > 100_000, "{report}");
}

/// What an upgraded socket met: bytes, or how reading and writing ended.
type Events = mpsc::UnboundedReceiver<String>;

/// Upgrades `/up` to an echo whose reader and writer are tasks of their own; the writer fills the socket.
fn upgrading(flood: bool) -> (Router, Events) {
    let (tx, rx) = mpsc::unbounded_channel();
    let up = async move |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        let (read_end, write_end) = (tx.clone(), tx.clone());
        tokio::spawn(async move {
            let io = TokioIo::new(upgrade.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(io);
            read_end.send("open".into()).unwrap();
            tokio::spawn(async move {
                let mut buf = [0; 16];
                let end = loop {
                    match reader.read(&mut buf).await {
                        Ok(0) => break "reader: end".to_owned(),
                        Ok(n) => drop(read_end.send(String::from_utf8_lossy(&buf[..n]).into())),
                        Err(e) => break format!("reader: {:?}", e.kind()),
                    }
                };
                read_end.send(end).unwrap();
            });
            if flood {
                tokio::spawn(async move {
                    let chunk = vec![b'x'; 100_000];
                    let error = loop {
                        if let Err(error) = writer.write_all(&chunk).await {
                            break error;
                        }
                    };
                    write_end
                        .send(format!("writer: {:?}", error.kind()))
                        .unwrap();
                });
            }
        });
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "foo")
            .body(Body::empty())
            .unwrap()
    };
    (Router::new().route("/up", get(up)), rx)
}

async fn upgrade(server: &Server, events: &mut Events) -> Http1 {
    let mut client = server.http1().await;
    client
        .send("GET /up HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(
        (head.status, head.header("connection")),
        (101, Some("upgrade"))
    );
    assert_eq!(event(events).await, "open");
    client
}

async fn event(events: &mut Events) -> String {
    within("an event", events.recv()).await.unwrap()
}

#[tokio::test]
async fn an_upgraded_socket_is_counted_until_it_is_closed() {
    let (app, mut events) = upgrading(false);
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = upgrade(&server, &mut events).await;
    let all = server.h.in_flight();
    let found = all.iter().find(|s| s.kind == WorkKind::Upgrade).unwrap();
    assert_eq!(
        (&*found.what, found.peer),
        ("GET /up", Some(client.local()))
    );
    server.stop_to(Phase::Draining).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    client.send("ping").await;
    assert_eq!(event(&mut events).await, "ping");
    assert!(!server.is_stopped());
    drop(client);
    assert_eq!(event(&mut events).await, "reader: end");
    server.clean().await;
}

#[tokio::test]
async fn an_upgraded_socket_is_cut_with_reader_and_writer_woken() {
    let (app, mut events) = upgrading(true);
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = upgrade(&server, &mut events).await;
    client.send("ping").await;
    assert_eq!(event(&mut events).await, "ping");
    server.stop_to_closed().await;
    // The writer waits for the client, which reads nothing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.h.force();
    let mut ends = [event(&mut events).await, event(&mut events).await];
    ends.sort();
    assert_eq!(
        ends,
        ["reader: ConnectionAborted", "writer: ConnectionAborted"]
    );
    client.drain().await;
    let report = server.report().await;
    forced(&report);
    let [straggler] = &report.stragglers[..] else {
        panic!("{report}");
    };
    assert_eq!(
        (straggler.kind, &*straggler.what),
        (WorkKind::Upgrade, "GET /up")
    );
    assert_eq!(report.requests.cut, 1);
    assert!(report.total < BOUND, "{report}");
}

#[tokio::test]
async fn an_upgrade_is_as_old_as_its_request() {
    let (app, mut events) = upgrading(false);
    let app = app.route("/hello", get(async || "hello"));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.get("/hello").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    client
        .send("GET /up HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(event(&mut events).await, "open");
    server.stop_to_closed().await;
    server.h.force();
    let report = server.report().await;
    assert!(report.stragglers[0].age <= asked.elapsed(), "{report}");
}

/// A 101 whose socket nobody takes closes, and holds nothing.
#[tokio::test]
async fn an_upgrade_that_nobody_takes_does_not_hold_the_drain() {
    let up = async || {
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "foo")
            .body(Body::empty())
            .unwrap()
    };
    let server = Server::start(
        builder().build().unwrap(),
        Router::new().route("/up", get(up)),
    )
    .await;
    let mut client = server.http1().await;
    client
        .send("GET /up HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n")
        .await;
    client.head().await;
    client.drain().await;
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn a_partial_head_at_the_deadline_is_a_straggler() {
    let app = Router::new();
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    client.send("GET /he").await;
    server.accepted(client.local()).await;
    server.stop_to_closed().await;
    until("the linger's end", || {
        server.h.report().total > Duration::from_millis(700)
    })
    .await;
    server.h.force();
    client.drain().await;
    let report = server.report().await;
    forced(&report);
    assert_eq!(report.stragglers[0].kind, WorkKind::Connection);
    assert_eq!(report.stragglers[0].peer, Some(client.local()));
}

/// Dropping the server's future is a force close.
#[tokio::test]
async fn dropping_the_run_cuts_the_connections() {
    let dropped = Dropped::default();
    let flag = dropped.clone();
    let hangs = async move || {
        let _flag = flag.on_drop();
        std::future::pending::<()>().await;
    };
    let app = Router::new().route("/never", get(hangs));
    let (c, listener) = (builder().build().unwrap(), local().await);
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let run = tokio::spawn(c.serve(listener, app));
    let mut client = Http1::connect(addr).await;
    client.send_get("/never").await;
    until("the handler", || {
        h.in_flight().iter().any(|s| s.kind == WorkKind::Request)
    })
    .await;
    run.abort();
    client.drain().await;
    until("the handler's end", || dropped.is()).await;
    until("the end", || h.in_flight().is_empty()).await;
}
