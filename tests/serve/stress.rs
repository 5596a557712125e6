//! Many at once, from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use prestop::Phase;
use tokio::net::TcpStream;

use crate::support::raw_http2::{Http2, PING};
use crate::support::*;

/// Requests on HTTP/2 connections without a pause, through the whole stop. Every stream that was opened before the
/// client acknowledged is answered, also while it goes on sending. (hyper's own client cannot tell: when the GOAWAY
/// comes while it sends, it fails the request and sends it all the same.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_lost_around_the_goaway() {
    const ROUNDS: usize = 5;
    const STREAMS: u32 = 5;
    for lame_duck in [0, 200] {
        for _ in 0..ROUNDS {
            let app = Router::new().route("/hello", get(async || "hello"));
            let c = builder()
                .lame_duck(Duration::from_millis(lame_duck))
                .build()
                .unwrap();
            let server = Server::start(c, app).await;
            let answered = Arc::new(AtomicUsize::new(0));
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = Http2::connect(server.addr).await;
                let answered = answered.clone();
                clients.push(tokio::spawn(async move {
                    let (mut next, mut open, mut told) = (1, 0, false);
                    while !told || open > 0 {
                        while !told && open < STREAMS {
                            client.get(next, "/hello").await;
                            next += 2;
                            open += 1;
                        }
                        let frame = client.frame().await;
                        let frame = frame.unwrap_or_else(|e| panic!("{open} streams lost: {e}"));
                        if frame.kind == PING {
                            client.pong(&frame).await;
                            // Too late, and not looked at.
                            client.get(next, "/hello").await;
                            client.open_window(0, 1).await;
                            told = true;
                        }
                        if frame.ends_stream() {
                            open -= 1;
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }));
            }
            until("some answers", || answered.load(Ordering::SeqCst) > 300).await;
            server.stop();
            for client in clients {
                within("a client", client).await.unwrap();
            }
            let report = server.clean().await;
            let answered = answered.load(Ordering::SeqCst) as u64;
            assert_eq!(report.requests.finished, answered, "{report}");
        }
    }
}

/// A rollout as a client with retries on refused connects sees it: no connection that was made is lost, on
/// connections of every age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_by_clients_that_come_and_stay() {
    for _ in 0..5 {
        let app = Router::new().route("/hello", get(async || "hello"));
        let c = builder()
            .lame_duck(Duration::from_millis(200))
            .build()
            .unwrap();
        let server = Server::start(c, app).await;
        let over = Arc::new(AtomicBool::new(false));
        let addr = server.addr;
        let clients: Vec<_> = (0..30)
            .map(|_| {
                let over = over.clone();
                tokio::spawn(async move {
                    let mut answered = 0_u64;
                    while !over.load(Ordering::SeqCst) {
                        let Ok(io) = TcpStream::connect(addr).await else {
                            return answered;
                        };
                        let mut client = Http1 {
                            io,
                            buf: Vec::new(),
                        };
                        loop {
                            let answer = client.get("/hello").await;
                            answered += 1;
                            if answer.says_close() {
                                break;
                            }
                        }
                    }
                    answered
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.stop_to(Phase::Draining).await;
        let report = server.clean().await;
        over.store(true, Ordering::SeqCst);
        let mut answered = 0;
        for client in clients {
            answered += within("a client", client).await.unwrap();
        }
        assert_eq!(report.requests.finished, answered, "{report}");
    }
}

/// Stragglers of both protocols, cut by the dozen: every handler is gone before the clean-up begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handler_is_gone_before_the_hooks_of_the_end() {
    for _ in 0..20 {
        let running = Arc::new(AtomicUsize::new(0));
        struct Running(Arc<AtomicUsize>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let counter = running.clone();
        let hangs = async move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let _running = Running(counter.clone());
            std::future::pending::<()>().await;
        };
        let app = Router::new().route("/never", get(hangs));
        let seen = running.clone();
        let c = builder()
            .on_stopped("look", move |_| async move {
                match seen.load(Ordering::SeqCst) {
                    0 => Ok(()),
                    n => Err(format!("{n} handlers still run")),
                }
            })
            .build()
            .unwrap();
        let server = Server::start(c, app).await;
        let mut clients1 = Vec::new();
        let mut clients2 = Vec::new();
        for _ in 0..10 {
            let mut client = server.http1().await;
            client.send_get("/never").await;
            clients1.push(client);
            let mut client = crate::support::raw_http2::Http2::connect(server.addr).await;
            for stream in [1, 3, 5] {
                client.get(stream, "/never").await;
            }
            clients2.push(client);
        }
        until("the handlers", || running.load(Ordering::SeqCst) == 40).await;
        server.stop_to_closed().await;
        server.h.force();
        let report = server.report().await;
        assert_eq!(report.requests.cut, 40, "{report}");
        assert!(report.hooks.iter().all(|h| h.outcome.is_good()), "{report}");
    }
}
