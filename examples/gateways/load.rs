//! Clients of the gateway: each sends one request after the other, and none twice.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A request takes no longer, on the busiest of machines.
const LIMIT: Duration = Duration::from_secs(60);

/// One in so many is slow; one in two a POST, which no gateway sends twice once it may have been heard.
const SLOW: u32 = 20;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    /// The first few, in words.
    why: Mutex<Vec<String>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sent: u64,
    pub failed: u64,
    pub why: Vec<String>,
}

pub struct Load {
    counts: Arc<Counts>,
    end: CancellationToken,
    clients: JoinSet<()>,
}

impl Load {
    /// So many clients that keep their connections, and half as many that make a new one for each request; each waits up
    /// to twice `pause` after an answer. `cookie` makes their sessions persistent.
    pub fn start(port: u16, clients: u64, pause: Duration) -> Self {
        let counts = Arc::<Counts>::default();
        let end = CancellationToken::new();
        let mut running = JoinSet::new();
        for number in 0..clients + clients / 2 {
            let client = Client {
                to: (Ipv4Addr::LOCALHOST, port).into(),
                keeps: number < clients,
                pause,
                random: Rng::with_seed(number),
                counts: counts.clone(),
                end: end.clone(),
            };
            running.spawn(client.run());
        }
        Self {
            counts,
            end,
            clients: running,
        }
    }

    pub fn so_far(&self) -> Outcome {
        self.counts.outcome()
    }

    /// Waits for the answers to what was sent.
    pub async fn finish(mut self) -> Outcome {
        self.end.cancel();
        while self.clients.join_next().await.is_some() {}
        self.counts.outcome()
    }
}

impl Counts {
    fn outcome(&self) -> Outcome {
        Outcome {
            sent: self.sent.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst),
            why: self.why.lock().expect("nobody panics").clone(),
        }
    }

    fn failed(&self, why: String) {
        self.failed.fetch_add(1, Ordering::SeqCst);
        let mut reasons = self.why.lock().expect("nobody panics");
        if reasons.len() < 10 {
            reasons.push(why);
        }
    }
}

struct Client {
    to: SocketAddr,
    keeps: bool,
    pause: Duration,
    random: Rng,
    counts: Arc<Counts>,
    end: CancellationToken,
}

impl Client {
    async fn run(mut self) {
        let mut kept = None;
        while !self.end.is_cancelled() {
            let (post, slow) = (self.random.bool(), self.random.u32(0..SLOW) == 0);
            let ms = if slow { self.random.u64(200..1_200) } else { 0 };
            let line = if post { "POST" } else { "GET" };
            let asked =
                format!("{line} /?ms={ms} HTTP/1.1\r\nhost: gateway\r\ncontent-length: 0\r\n\r\n");
            self.counts.sent.fetch_add(1, Ordering::SeqCst);
            let reused = kept.is_some();
            match timeout(LIMIT, exchange(kept.take(), self.to, &asked)).await {
                Ok(Ok((200, stream))) => kept = stream.filter(|_| self.keeps),
                Ok(Ok((status, _))) => self.counts.failed(format!("{line}: {status}")),
                Ok(Err(error)) => self
                    .counts
                    .failed(format!("{line}, on a kept connection: {reused}: {error}")),
                Err(_) => self
                    .counts
                    .failed(format!("{line}: no answer in {LIMIT:?}")),
            }
            let pause = self.pause.mul_f64(self.random.f64() * 2.0);
            // In the pause, so that no request is cut by the end of the load.
            let _ = self.end.run_until_cancelled(sleep(pause)).await;
        }
    }
}

/// One request and its answer; the connection, if it may be kept.
pub async fn exchange(
    kept: Option<TcpStream>,
    to: SocketAddr,
    request: &str,
) -> io::Result<(u16, Option<TcpStream>)> {
    let (status, _, stream) = ask(kept, to, request).await?;
    Ok((status, stream))
}

/// The same, with the answer's head.
pub async fn ask(
    kept: Option<TcpStream>,
    to: SocketAddr,
    request: &str,
) -> io::Result<(u16, String, Option<TcpStream>)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(to).await?,
    };
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    let mut got = Vec::new();
    let head = loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut got).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&got[..head]).to_ascii_lowercase();
    let bad = || io::Error::other(format!("not an answer: {text:?}"));
    let status = text
        .get(9..12)
        .and_then(|s| s.parse().ok())
        .ok_or_else(bad)?;
    let header = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    let length: usize = match header("content-length:") {
        Some(length) => length.parse().map_err(|_| bad())?,
        None => return Ok((status, text, None)),
    };
    while got.len() < head + length {
        if stream.read_buf(&mut got).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let keeps = header("connection:") != Some("close");
    Ok((status, text, keeps.then_some(stream)))
}
