//! Many at once, from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prestop::Phase;
use tokio::net::TcpStream;

use crate::support::*;

/// Requests on HTTP/2 connections without a pause, through the whole stop. Whatever was sent before the client knew
/// of the GOAWAY is answered; after it hyper refuses to send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_lost_around_the_goaway() {
    const ROUNDS: usize = 5;
    for lame_duck in [0, 300] {
        for round in 0..ROUNDS {
            let seen = Arc::new(AtomicUsize::new(0));
            let sees = seen.clone();
            let hello = async move || {
                sees.fetch_add(1, Ordering::SeqCst);
                "hello"
            };
            let app = Router::new().route("/hello", get(hello));
            let c = builder()
                .lame_duck(Duration::from_millis(lame_duck))
                .build()
                .unwrap();
            let server = Server::start(c, app).await;
            let answered = Arc::new(AtomicUsize::new(0));
            let repeat = Arc::new(AtomicUsize::new(0));
            let mut clients = Vec::new();
            for _ in 0..20 {
                let io = TcpStream::connect(server.addr).await.unwrap();
                let (client, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
                        .await
                        .unwrap();
                tokio::spawn(connection);
                let answered = answered.clone();
                let repeat = repeat.clone();
                clients.push(tokio::spawn(async move {
                    loop {
                        let mut client = client.clone();
                        // Not ready: told to go away.
                        if client.ready().await.is_err() {
                            return;
                        }
                        let request =
                            Request::get("http://test/hello").body(Empty::<bytes::Bytes>::new());
                        match client.try_send_request(request.unwrap()).await {
                            Ok(answer) => {
                                let body = answer.into_body().collect().await.unwrap().to_bytes();
                                assert_eq!(body, "hello");
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            // Never sent, and hyper gives the request back; or hyper sent it after its
                            // acknowledgement of the GOAWAY, whose last stream says that it was not looked at.
                            Err(mut error) => {
                                let given_back = error.take_message().is_some();
                                let error = format!("{:?}", error.into_error());
                                let to_repeat = error.contains("NO_ERROR, Remote");
                                assert!(given_back || to_repeat, "lost: {error}");
                                if !given_back {
                                    repeat.fetch_add(1, Ordering::SeqCst);
                                }
                            }
                        }
                    }
                }));
            }
            until("some answers", || {
                answered.load(Ordering::SeqCst) > 100 * (round + 1)
            })
            .await;
            server.stop();
            for client in clients {
                within("a client", client).await.unwrap();
            }
            let report = server.clean().await;
            println!(
                "lame duck {lame_duck} ms: seen {seen:?}, answered {answered:?}, to repeat {repeat:?}, finished {}",
                report.requests.finished
            );
            assert_eq!(
                report.requests.finished,
                answered.load(Ordering::SeqCst) as u64,
                "{report}"
            );
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
            let mut client = crate::raw_http2::Http2::connect(server.addr).await;
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
