//! Servers under a coordinator, and clients that see every byte.
// Each test binary uses its part; what may panic in a test may in its helpers.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

pub mod raw_http2;
pub mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prestop::{
    GracePeriod, HttpService, Phase, Reason, ShutdownCoordinator, ShutdownCoordinatorBuilder,
    ShutdownHandle, ShutdownReport,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A line past libtest, which would keep it to itself.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::Write::write_all(&mut io::stderr(), line.as_bytes()).unwrap();
}

/// Nothing in these tests takes this long, on the busiest of machines.
pub const BOUND: Duration = Duration::from_secs(60);

/// What nobody waits for in full: what comes within [`BOUND`] did not wait for it.
pub const LONG: Duration = Duration::from_secs(100);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(BOUND, future)
        .await
        .unwrap_or_else(|_| panic!("waited {BOUND:?} for: {what}"))
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// So much grace that what comes within [`BOUND`] did not wait for the deadline; no lame duck, no signals.
pub fn builder() -> ShutdownCoordinatorBuilder {
    grace(600)
}

pub fn grace(seconds: u64) -> ShutdownCoordinatorBuilder {
    ShutdownCoordinator::builder_without_signals()
        .grace_period(GracePeriod::from_secs(seconds).unwrap())
        .lame_duck(Duration::ZERO)
}

pub async fn local() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub struct Server {
    pub h: ShutdownHandle,
    pub addr: SocketAddr,
    run: JoinHandle<ShutdownReport>,
}

impl Server {
    /// The app on the own loop.
    pub async fn start(c: ShutdownCoordinator, app: impl HttpService) -> Self {
        let listener = local().await;
        let addr = listener.local_addr().unwrap();
        let h = c.handle();
        Self::running(
            h,
            addr,
            async move { c.serve(listener, app).await.unwrap() },
        )
        .await
    }

    /// Whatever returns the report.
    pub async fn running(
        h: ShutdownHandle,
        addr: SocketAddr,
        run: impl Future<Output = ShutdownReport> + Send + 'static,
    ) -> Self {
        let run = tokio::spawn(run);
        within("ready", h.wait_for(Phase::Ready)).await;
        Self { h, addr, run }
    }

    pub fn stop(&self) {
        assert!(self.h.trigger(Reason::requested("test")), "stopped twice");
    }

    /// Begins the stop and waits for this phase.
    pub async fn stop_to(&self, phase: Phase) {
        self.stop();
        within("the phase", self.h.wait_for(phase)).await;
    }

    /// Begins the stop and waits until the listener is closed.
    pub async fn stop_to_closed(&self) {
        self.stop_to(Phase::Draining).await;
        until("the sweep", || {
            let all = self.h.in_flight();
            all.iter().all(|s| s.kind != prestop::WorkKind::Main)
        })
        .await;
    }

    /// Begins the stop and waits until a stock server is told of it: its listener is closed, the linger over.
    pub async fn stop_to_told(&self) {
        self.stop_to(Phase::Draining).await;
        within("draining()", self.h.draining()).await;
    }

    pub fn is_stopped(&self) -> bool {
        self.run.is_finished()
    }

    pub async fn report(self) -> ShutdownReport {
        let report = within("the report", self.run).await.unwrap();
        let sum: Duration = report.phases.iter().map(|p| p.used).sum();
        assert_eq!(sum, report.total, "S12: {report}");
        report
    }

    /// The report of a stop that lost nothing.
    pub async fn clean(self) -> ShutdownReport {
        let report = self.report().await;
        assert!(
            report.is_clean() && report.stragglers.is_empty(),
            "{report}"
        );
        report
    }

    pub async fn http1(&self) -> Http1 {
        Http1::connect(self.addr).await
    }

    /// Waits until the server has accepted this client.
    pub async fn accepted(&self, client: SocketAddr) {
        until("the accept", || {
            self.h.in_flight().iter().any(|s| s.peer == Some(client))
        })
        .await;
    }
}

/// How a peer's side of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn says_close(&self) -> bool {
        self.header("connection") == Some("close")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// An HTTP/1 client that does nothing by itself.
pub struct Http1<IO = TcpStream> {
    pub io: IO,
    pub buf: Vec<u8>,
}

impl Http1 {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(within("connect", TcpStream::connect(addr)).await.unwrap())
    }

    pub fn over(io: TcpStream) -> Self {
        io.set_nodelay(true).unwrap();
        Self::on(io)
    }

    pub fn local(&self) -> SocketAddr {
        self.io.local_addr().unwrap()
    }

    /// Whether the server has closed by now.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.io.try_read(&mut byte) {
            Ok(0) => true,
            Ok(_) => panic!("bytes came"),
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Http1<IO> {
    pub const fn on(io: IO) -> Self {
        Self {
            io,
            buf: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("write", self.io.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// Whether the connection took it.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("write", self.io.write_all(bytes.as_ref()))
            .await
            .is_ok()
    }

    pub async fn send_get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await;
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send_get(path).await;
        self.answer().await
    }

    async fn more(&mut self) -> io::Result<usize> {
        within("a read", self.io.read_buf(&mut self.buf)).await
    }

    /// The next head.
    pub async fn head(&mut self) -> Answer {
        self.try_head().await.expect("a head")
    }

    pub async fn try_head(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8(self.buf.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()))
            .collect();
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// Exactly this many bytes.
    pub async fn bytes(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() < n {
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buf.drain(..n).collect())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line = self.buf.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8(line).unwrap());
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next chunk of a chunked body, empty at its end.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
        let data = self.bytes(size).await?;
        self.line().await?;
        Ok(data)
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer")
    }

    /// The next answer, whole.
    pub async fn try_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.try_head().await?;
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.bytes(length).await?;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                answer.body.extend(chunk);
            }
        }
        Ok(answer)
    }

    /// Reads to the end; nothing more may come but the end.
    pub async fn end(&mut self) -> End {
        let end = self.drain().await;
        assert!(
            self.buf.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&self.buf)
        );
        end
    }

    /// Reads to the end.
    pub async fn drain(&mut self) -> End {
        loop {
            match self.more().await {
                Ok(0) => return End::Fin,
                Ok(_) => {}
                Err(_) => return End::Reset,
            }
        }
    }
}

/// True once it was dropped: says that a handler's future is gone.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<AtomicBool>);

impl Dropped {
    pub fn on_drop(&self) -> DropFlag {
        DropFlag(self.0.clone())
    }

    pub fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

pub struct DropFlag(Arc<AtomicBool>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A body whose frames the test sends; its end is the end of the sender.
pub fn channel() -> (
    tokio::sync::mpsc::UnboundedSender<io::Result<bytes::Bytes>>,
    axum::body::Body,
) {
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
    (tx, axum::body::Body::from_stream(stream))
}

/// A body that never ends.
pub fn endless() -> axum::body::Body {
    let chunk = bytes::Bytes::from(vec![b'x'; 10_000]);
    let chunks = futures::stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone()));
    axum::body::Body::from_stream(chunks)
}

/// A place for one value that a handler takes once.
pub fn once<T: Send + 'static>(value: T) -> impl Fn() -> T + Clone + Send + Sync {
    let cell = Arc::new(std::sync::Mutex::new(Some(value)));
    move || cell.lock().unwrap().take().expect("taken once")
}
