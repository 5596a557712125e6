//! The listener: its queue, its errors, its kinds, and what the report says of all of them.

use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use prestop::{ConnectionInfo, Phase, Reason, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

fn hello() -> Router {
    Router::new().route("/hello", get(async || "hello"))
}

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n";

/// T9: the clients connect and ask while the server's only thread is busy, and the stop begins before it is not.
#[test]
fn clients_in_the_accept_queue_are_served() {
    const CLIENTS: usize = 100;
    let (entered, inside) = std::sync::mpsc::channel();
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let (entered, opened) = (once(entered), once(opened));
    // Blocks the runtime's only thread, on purpose.
    let block = async move || {
        entered().send(()).unwrap();
        opened().recv().unwrap();
    };
    let app = hello().route("/block", get(block));
    let (tx, rx) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (c, listener) = (builder().build().unwrap(), local().await);
            tx.send((c.handle(), listener.local_addr().unwrap()))
                .unwrap();
            c.serve(listener, app).await.unwrap()
        })
    });
    let (h, addr) = rx.recv().unwrap();
    let mut blocker = std::net::TcpStream::connect(addr).unwrap();
    blocker
        .write_all(b"GET /block HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    inside.recv().unwrap();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| std::net::TcpStream::connect(addr).unwrap())
        .collect();
    // Half of them have asked, half are about to.
    for client in &mut clients[..CLIENTS / 2] {
        client.write_all(GET).unwrap();
    }
    assert!(h.trigger(Reason::requested("test")));
    open.send(()).unwrap();
    for (n, client) in clients.iter_mut().enumerate() {
        client.set_read_timeout(Some(BOUND)).unwrap();
        if n >= CLIENTS / 2 {
            client.write_all(GET).unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello"), "client {n}: {answer:?}");
    }
    let report = server.join().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.requests.finished, CLIENTS as u64 + 1);
}

/// S4: while clients keep coming, each one's connect either succeeds and is served, or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_keep_coming_are_served_or_refused() {
    const TASKS: usize = 8;
    let server = Server::start(builder().build().unwrap(), hello()).await;
    let addr = server.addr;
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let coming: Vec<_> = (0..TASKS)
        .map(|_| {
            let (over, served) = (over.clone(), served.clone());
            tokio::spawn(async move {
                let mut lost = 0;
                while !over.load(Ordering::SeqCst) {
                    let Ok(io) = tokio::net::TcpStream::connect(addr).await else {
                        continue;
                    };
                    let mut client = Http1 {
                        io,
                        buf: Vec::new(),
                    };
                    let asked = client.io.write_all(GET).await;
                    if asked.is_ok() && client.try_answer().await.is_ok() {
                        served.fetch_add(1, Ordering::SeqCst);
                    } else {
                        lost += 1;
                    }
                }
                lost
            })
        })
        .collect();
    until("some answers", || served.load(Ordering::SeqCst) > 200).await;
    server.stop();
    server.clean().await;
    over.store(true, Ordering::SeqCst);
    let mut lost = 0;
    for task in coming {
        lost += within("a client", task).await.unwrap();
    }
    assert_eq!(lost, 0, "connected, but not served, of {served:?}");
}

/// The child of the next test: a server that runs out of descriptors.
#[tokio::test]
#[ignore = "run by accept_recovers_when_descriptors_are_back, with few descriptors"]
async fn child_with_few_descriptors() {
    let server = Server::start(builder().build().unwrap(), hello()).await;
    let mut stat = std::fs::File::open("/proc/self/stat").unwrap();
    let mut clients = Vec::new();
    // One end here, one in the server: half of them connect, the rest waits in the queue.
    let full = loop {
        let socket = tokio::net::TcpSocket::new_v4();
        let Ok(socket) = socket else { break true };
        let mut client = Http1 {
            io: within("connect", socket.connect(server.addr))
                .await
                .unwrap(),
            buf: Vec::new(),
        };
        client.send(GET).await;
        clients.push(client);
        if clients.len() > 60 {
            break false;
        }
    };
    assert!(full, "the limit is too high: {}", clients.len());
    let cpu = cpu_time(&mut stat);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spun = cpu_time(&mut stat) - cpu;
    assert!(spun < Duration::from_millis(250), "spins: {spun:?}");
    // Answered clients leave: the queue is taken up again.
    let mut answered = 0;
    for mut client in clients {
        assert_eq!(client.answer().await.text(), "hello");
        answered += 1;
        drop(client);
    }
    assert!(answered > 5);
    assert_eq!(server.http1().await.get("/hello").await.text(), "hello");
    server.stop();
    server.clean().await;
    println!("recovered");
}

/// User and system time of this process, at the kernel's usual hundred ticks a second.
fn cpu_time(stat: &mut std::fs::File) -> Duration {
    let mut line = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut line).unwrap();
    let fields: Vec<_> = line
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn accept_recovers_when_descriptors_are_back() {
    let this = std::env::current_exe().unwrap();
    let child = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40; exec \"$0\" --exact \"$1\" --ignored --nocapture",
        ])
        .arg(this)
        .arg("listener::child_with_few_descriptors")
        .output();
    let output = within("the child", child).await.unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && out.contains("recovered"),
        "{out}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_served() {
    let path = std::env::temp_dir().join(format!("prestop-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let app = Router::new().route(
        "/hello",
        get(async |request: axum::extract::Request| {
            let info = request.extensions().get::<ConnectionInfo>().unwrap();
            format!("{:?}", info.peer())
        }),
    );
    let c = builder().build().unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.serve(listener, app));
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    client.write_all(GET).await.unwrap();
    let mut first = vec![0; 1_000];
    let n = client.read(&mut first).await.unwrap();
    assert!(String::from_utf8_lossy(&first[..n]).ends_with("None"));
    h.trigger(Reason::requested("test"));
    h.wait_for(Phase::Draining).await;
    client.write_all(GET).await.unwrap();
    let mut rest = String::new();
    within("the end", client.read_to_string(&mut rest))
        .await
        .unwrap();
    assert!(rest.contains("connection: close"), "{rest}");
    let report = within("the report", run).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.requests.finished, 2);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn several_servers_stop_under_one_report() {
    let c = builder().build().unwrap();
    let (a, b) = (local().await, local().await);
    let (h, addr_a, addr_b) = (c.handle(), a.local_addr().unwrap(), b.local_addr().unwrap());
    let (tx, body) = channel();
    let take = once(body);
    let web = serve(&h, a, hello());
    let admin = serve(
        &h,
        b,
        Router::new().route("/slow", get(async move || take())),
    );
    let both = async {
        tokio::join!(web.into_future(), admin.into_future());
    };
    let server = Server::running(h, addr_a, async { c.run(both).await.unwrap() }).await;
    assert_eq!(server.http1().await.get("/hello").await.text(), "hello");
    let mut slow = Http1::connect(addr_b).await;
    slow.send_get("/slow").await;
    slow.head().await;
    server.stop_to_closed().await;
    for addr in [addr_a, addr_b] {
        assert!(
            tokio::net::TcpStream::connect(addr).await.is_err(),
            "closed"
        );
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!server.is_stopped());
    drop(tx);
    assert_eq!(slow.chunk().await.unwrap(), b"");
    let report = server.clean().await;
    assert_eq!(report.requests.finished, 2, "{report}");
    assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
}

/// A server that is never awaited must not count as one, once it is gone.
#[tokio::test]
async fn a_server_that_was_dropped_holds_nothing() {
    let c = builder().build().unwrap();
    let h = c.handle();
    drop(serve(&h, local().await, hello()).into_future());
    h.trigger(Reason::requested("test"));
    let report = within("the report", c.run(h.draining())).await.unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn handlers_know_the_peer() {
    let app = Router::new()
        .route(
            "/axum",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
        )
        .route(
            "/info",
            get(async |request: axum::extract::Request| {
                let info = request.extensions().get::<ConnectionInfo>().unwrap();
                info.peer().unwrap().to_string()
            }),
        );
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut client = server.http1().await;
    for path in ["/axum", "/info"] {
        assert_eq!(client.get(path).await.text(), client.local().to_string());
    }
    server.stop();
    server.clean().await;
}

#[tokio::test]
async fn connections_that_come_while_hooks_start_are_served() {
    let (open, opened) = tokio::sync::oneshot::channel::<()>();
    let c = builder()
        .on_started("slow", |_| async move { opened.await.unwrap() })
        .build()
        .unwrap();
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let run = tokio::spawn(async move { c.serve(listener, hello()).await.unwrap() });
    let mut client = Http1::connect(addr).await;
    assert_eq!(client.get("/hello").await.text(), "hello");
    assert_eq!(h.phase(), Phase::Starting);
    open.send(()).unwrap();
    let server = Server::running(h, addr, async { run.await.unwrap() }).await;
    server.stop();
    server.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_close() {
    const CLIENTS: usize = 1_000;
    let server = Server::start(builder().build().unwrap(), hello()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.http1().await;
        client.get("/hello").await;
        clients.push(client);
    }
    server.stop();
    for client in &mut clients {
        assert_eq!(client.end().await, End::Fin);
    }
    let report = server.clean().await;
    println!("{CLIENTS} idle connections: {:?}", report.total);
    assert_eq!(report.requests.finished, CLIENTS as u64);
}

#[tokio::test]
async fn the_counts_add_up() {
    let (tx, body) = channel();
    let take = once(body);
    let app = hello()
        .route("/slow", get(async move || take()))
        .route("/never", get(async || std::future::pending::<()>().await));
    let server = Server::start(builder().build().unwrap(), app).await;
    let mut clients = Vec::new();
    for path in ["/hello", "/slow", "/never", "/never"] {
        let mut client = server.http1().await;
        client.send_get(path).await;
        clients.push(client);
    }
    assert_eq!(clients[0].answer().await.text(), "hello");
    clients[1].head().await;
    until("the handlers", || {
        let all = server.h.in_flight();
        all.iter().filter(|s| s.what == "GET /never").count() == 2
    })
    .await;
    server.stop_to_closed().await;
    drop(tx);
    assert_eq!(clients[1].chunk().await.unwrap(), b"");
    assert_eq!(clients[0].get("/hello").await.text(), "hello");
    until("the answers", || server.h.report().requests.finished == 3).await;
    server.h.force();
    let report = server.report().await;
    let r = report.requests;
    assert_eq!(
        (r.finished, r.finished_while_stopping, r.cut, r.refused),
        (3, 2, 2, 0),
        "{report}"
    );
    assert_eq!(report.exit_code(), 72);
}
