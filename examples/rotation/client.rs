//! The clients: what each saw.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) length: Duration,
}

pub(crate) type Windows = watch::Receiver<Option<Window>>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// When it was asked to leave for the first time, from the beginning of the lame duck on.
    pub(crate) asked: Option<Duration>,
    /// It sent a request in the second half of the lame duck.
    pub(crate) late_request: bool,
    /// How often it dialled again.
    pub(crate) dials: usize,
    pub(crate) lost: usize,
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("http://pod/")
        .header(header::HOST, "pod")
        .body(Empty::new())
        .expect("a request")
}

/// None where nobody listens any more.
async fn connect(address: SocketAddr) -> Option<TokioIo<TcpStream>> {
    loop {
        match TcpStream::connect(address).await {
            Ok(io) => return Some(TokioIo::new(io)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return None,
            // The queue may be full for a moment.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Asks every now and then, until it is asked to leave; or, if it knows of no other pod, until the window is over.
pub(crate) async fn http1(
    address: SocketAddr,
    windows: Windows,
    pause: Duration,
    dials_again: bool,
    ready: Arc<AtomicUsize>,
) -> Seen {
    let mut seen = Seen::default();
    let now = || {
        let window = *windows.borrow();
        window.map(|w| (w.from.elapsed(), w.length))
    };
    // The end is that of the stop, which is measured elsewhere; a busy machine may be late for it.
    let is_near_its_end = || now().is_some_and(|(at, length)| at > length.mul_f64(0.8));
    let io = connect(address).await.expect("it listens");
    let (mut sender, connection) = http1::handshake(io).await.expect("ready");
    tokio::spawn(connection);
    let mut is_first = true;
    loop {
        let sent = now();
        let answer = match sender.send_request(request()).await {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("HTTP/1, {:?} of the lame duck: {error:?}", now());
                seen.lost += 1;
                return seen;
            }
        };
        let asked = answer
            .headers()
            .get(header::CONNECTION)
            .is_some_and(|value| value == "close");
        if answer.into_body().collect().await.is_err() {
            seen.lost += 1;
        }
        // The server's lame duck began before this process heard of it: what was sent past the half is past its half.
        seen.late_request |= sent.is_some_and(|(at, length)| at > length / 2);
        if asked {
            let at = now().map_or(Duration::ZERO, |(at, _)| at);
            seen.asked.get_or_insert(at);
        }
        if std::mem::take(&mut is_first) {
            ready.fetch_add(1, Ordering::Relaxed);
        }
        if is_near_its_end() || (asked && !dials_again) {
            return seen;
        }
        if asked {
            seen.dials += 1;
            let Some(io) = connect(address).await else {
                seen.lost += 1;
                return seen;
            };
            let (again, connection) = http1::handshake(io).await.expect("ready");
            tokio::spawn(connection);
            sender = again;
        }
        sleep(pause.mul_f64(fastrand::f64().mul_add(0.75, 0.25))).await;
        if is_near_its_end() {
            return seen;
        }
    }
}

/// Asks once, then waits: its connection ends when it has heard GOAWAY, since nothing is under way.
pub(crate) async fn http2(
    address: SocketAddr,
    mut windows: Windows,
    ready: Arc<AtomicUsize>,
) -> Seen {
    let mut seen = Seen::default();
    let io = connect(address).await.expect("it listens");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("ready");
    let connection = tokio::spawn(connection);
    let answered = match sender.send_request(request()).await {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(error) => {
            eprintln!("HTTP/2, {error:?}");
            false
        }
    };
    seen.lost += usize::from(!answered);
    ready.fetch_add(1, Ordering::Relaxed);
    let ended = connection.await;
    if let Err(error) = ended.expect("it does not panic") {
        eprintln!("HTTP/2: {error:?}");
        seen.lost += 1;
        return seen;
    }
    // The first ones hear it before this process has heard that the lame duck has begun.
    let window = windows
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|w| *w);
    let window = window.expect("it was told to somebody");
    seen.asked = Some(window.from.elapsed()).filter(|at| *at < window.length);
    seen
}
