//! One case on one path: a server on a thread of its own, which ends like a process, and a client that sees every byte.

use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prestop::{
    Phase, Reason, ShutdownCoordinator, ShutdownCoordinatorBuilder, ShutdownReport, WorkKind,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::app::{Stage, app};
use crate::case::{Case, Ends, Got, Path, Promise};
use crate::support::raw_http2::Http2;
use crate::support::tls::Tls;
use crate::support::{Http1, grace, within};

/// Where the deadline is to cut: 4 s, less 1 for the exit, 0.5 for hooks, 0.25 for the cut, leave 2.25 for the drain.
const SHORT_GRACE: u64 = 4;
const SHORT_DRAIN: Duration = Duration::from_millis(2_250);
/// Everywhere else it must not come: less 5, 10 and 2 s for the others.
const GRACE: u64 = 100;
const DRAIN: Duration = Duration::from_secs(83);
const LINGER: Duration = Duration::from_millis(500);
/// Where a client is to be met within the linger, or nobody to wait for it.
const LONG_LINGER: Duration = Duration::from_secs(30);
/// When a client goes on that is late: past the linger.
pub const LATE: Duration = Duration::from_millis(1_200);
/// So long is stock axum alone watched that does not end: longer than ours may take.
const WATCHED: Duration = Duration::from_millis(2_500);
/// And when it should: longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// A clock's grain, and the moment between two looks at it.
const GRAIN: Duration = Duration::from_millis(50);

/// What a client's script has to do with.
#[derive(Clone)]
pub struct World {
    pub path: Path,
    pub addr: SocketAddr,
    pub stage: Arc<Stage>,
    /// The server's, where it speaks TLS.
    pub tls: Option<Arc<Tls>>,
    told: Arc<Told>,
}

/// What the script tells the harness.
#[derive(Default)]
struct Told {
    signal: Notify,
    answers: AtomicUsize,
    cut: OnceLock<(SocketAddr, u64)>,
}

impl World {
    pub fn new(path: Path, addr: SocketAddr) -> Self {
        Self {
            path,
            addr,
            stage: Arc::default(),
            tls: None,
            told: Arc::default(),
        }
    }

    pub async fn http1(&self) -> Http1 {
        Http1::connect(self.addr).await
    }

    /// A client that had its first answer.
    pub async fn kept_alive(&self) -> Http1 {
        let mut client = self.http1().await;
        client.send_get("/hello").await;
        assert!(self.answered(&mut client, b"hello").await);
        client
    }

    pub async fn http2(&self) -> Http2 {
        Http2::connect(self.addr).await
    }

    /// Begins the stop.
    pub fn trigger(&self) {
        match self.stage.handle.get() {
            Some(h) => assert!(h.trigger(Reason::requested("the case"))),
            None => self.told.signal.notify_one(),
        }
    }

    /// Waits for the phase; stock axum alone has none.
    pub async fn reached(&self, phase: Phase) {
        match self.stage.handle.get() {
            Some(h) => within("the phase", h.wait_for(phase)).await,
            // Nobody says when it has taken notice.
            None => tokio::time::sleep(Duration::from_millis(250)).await,
        }
        settle().await;
    }

    /// What was sent has come; then the stop begins, and reaches its drain.
    pub async fn stop(&self) {
        settle().await;
        self.trigger();
        self.reached(Phase::Draining).await;
    }

    /// Whether this answer comes, whole, and is what it should be.
    pub async fn answered<IO>(&self, client: &mut Http1<IO>, body: &[u8]) -> bool
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = client.try_answer().await;
        let whole = answer.is_ok_and(|a| a.status == 200 && a.body == body);
        self.whole(usize::from(whole));
        whole
    }

    /// Likewise, and our paths ask the client to close.
    pub async fn answered_last<IO>(&self, client: &mut Http1<IO>, body: &[u8]) -> bool
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = client.try_answer().await;
        let whole = answer.is_ok_and(|a| {
            let asked_to_leave = self.path == Path::Alone || a.says_close();
            a.status == 200 && a.body == body && asked_to_leave
        });
        self.whole(usize::from(whole));
        whole
    }

    /// So many more answers came whole.
    pub fn whole(&self, answers: usize) {
        self.told.answers.fetch_add(answers, Ordering::SeqCst);
    }

    /// This client will be cut, having sent so many bytes.
    pub fn will_be_cut(&self, client: SocketAddr, sent: usize) {
        self.told.cut.set((client, sent as u64)).unwrap();
    }
}

/// Time for the server to take notice.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

pub async fn late() {
    tokio::time::sleep(LATE).await;
}

/// `Whole` or what else it was.
pub fn whole_or(otherwise: Got, whole: bool) -> Got {
    if whole { Got::Whole } else { otherwise }
}

/// How a server ended: the drain's length, where it had an end, and the report, where there is one.
struct Ended {
    drained: Option<Duration>,
    report: Option<ShutdownReport>,
}

/// What was seen.
pub struct Seen {
    got: Got,
    ended: Ended,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.got)?;
        match self.ended.drained {
            Some(took) => write!(f, ", drained in {took:.1?}"),
            None => write!(f, ", never ended"),
        }
    }
}

/// The case, and what was seen otherwise than promised.
pub async fn run(case: &Case, path: Path) -> Result<Seen, String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut world = World::new(path, listener.local_addr().unwrap());
    world.tls = case.tls.then(|| Arc::new(Tls::new()));
    let ended = start(case, &world, listener).await;
    let script = case.script.expect("run by the harness");
    let got = match tokio::spawn(script(world.clone())).await {
        Ok(got) => got,
        Err(panic) => return Err(format!("{panic}")),
    };
    let ended = within("the end", ended).await.expect("the server's thread");
    let seen = Seen { got, ended };
    check(case.promise(path), &seen, &world).map_err(|why| match &seen.ended.report {
        Some(report) => format!("{why}; seen: {seen}\n{report}"),
        None => format!("{why}; seen: {seen}"),
    })?;
    Ok(seen)
}

async fn start(case: &Case, world: &World, listener: TcpListener) -> oneshot::Receiver<Ended> {
    let (ready, is_ready) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (world, promise) = (world.clone(), case.promise(world.path).ends);
    let patient = case.patient || promise == Ends::AtOnce;
    let lame_duck = case.lame_duck;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ended = runtime.block_on(async {
            match world.path {
                Path::Alone => {
                    let watched = match promise {
                        Ends::Never => WATCHED,
                        _ => PATIENCE,
                    };
                    alone(world, listener, watched, ready).await
                }
                Path::Own | Path::Stock | Path::Tonic => {
                    let c = match promise {
                        Ends::Deadline => grace(SHORT_GRACE),
                        _ => grace(GRACE),
                    };
                    let c = c.linger(if patient { LONG_LINGER } else { LINGER });
                    // The script ends it.
                    let c = match lame_duck {
                        true => c.lame_duck(LONG_LINGER),
                        false => c,
                    };
                    ours(c, world, listener, ready).await
                }
            }
        });
        // The process exits.
        runtime.shutdown_background();
        let _ = end.send(ended);
    });
    within("the server", is_ready).await.unwrap();
    ended
}

async fn alone(
    world: World,
    listener: TcpListener,
    watched: Duration,
    ready: oneshot::Sender<()>,
) -> Ended {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (stopping, stopped) = oneshot::channel();
    let told = world.told.clone();
    let signal = async move {
        told.signal.notified().await;
        let _ = stopping.send(Instant::now());
    };
    let server = axum::serve(listener, app(world.stage)).with_graceful_shutdown(signal);
    let mut serving = tokio::spawn(server.into_future());
    let _ = ready.send(());
    let since = stopped.await.unwrap();
    let ended = tokio::time::timeout(watched, &mut serving).await;
    Ended {
        drained: ended.is_ok().then(|| since.elapsed()),
        report: None,
    }
}

async fn ours(
    c: ShutdownCoordinatorBuilder,
    world: World,
    listener: TcpListener,
    ready: oneshot::Sender<()>,
) -> Ended {
    let c = c.build().unwrap();
    let h = c.handle();
    world.stage.handle.set(h.clone()).unwrap();
    tokio::spawn(async move {
        h.wait_for(Phase::Ready).await;
        let _ = ready.send(());
    });
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let report = serve(c, world, listener).await;
    // A machine that stands still before the drain takes it from the drain.
    let phases = [Phase::PreStop, Phase::Draining];
    let phases = report.phases.iter().filter(|p| phases.contains(&p.phase));
    Ended {
        drained: Some(phases.map(|p| p.used).sum()),
        report: Some(report),
    }
}

/// The app on this path.
pub fn serve(
    c: ShutdownCoordinator,
    world: World,
    listener: tokio::net::TcpListener,
) -> impl Future<Output = ShutdownReport> + Send {
    let (h, app) = (c.handle(), app(world.stage));
    async move {
        let layered = app.clone().layer(c.layer());
        let report = match world.path {
            Path::Own => match &world.tls {
                None => c.serve(listener, app).await,
                Some(tls) => {
                    let tls = tls.acceptor.clone();
                    let server = prestop::serve(&h, listener, app);
                    c.run(server.handshake(move |io| tls.accept(io))).await
                }
            },
            Path::Stock => {
                let server =
                    axum::serve(c.listener(listener), layered).with_graceful_shutdown(h.draining());
                c.run(server).await
            }
            Path::Tonic => {
                let routes = tonic::service::Routes::from(layered);
                let server = tonic::transport::Server::builder()
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(c.incoming(listener), h.draining());
                c.run(server).await
            }
            Path::Alone => unreachable!("has no coordinator"),
        };
        report.unwrap()
    }
}

fn check(promise: &Promise, seen: &Seen, world: &World) -> Result<(), String> {
    if promise.ends != Ends::Never && seen.got != promise.got {
        return Err(format!("the client should get {:?}", promise.got));
    }
    let alone = world.path == Path::Alone;
    let in_time = match (promise.ends, seen.ended.drained) {
        (Ends::Never, took) => took.is_none(),
        (_, None) => false,
        (Ends::AtOnce, Some(took)) => alone || took < LONG_LINGER - GRAIN,
        (Ends::Linger | Ends::TwoLingers, Some(took)) => {
            (LINGER - GRAIN..DRAIN - GRAIN).contains(&took)
        }
        (Ends::Client, Some(took)) => alone || took < DRAIN - GRAIN,
        (Ends::Deadline, Some(took)) => took >= SHORT_DRAIN - GRAIN,
    };
    if !in_time {
        return Err(format!("the drain should end: {:?}", promise.ends));
    }
    match &seen.ended.report {
        Some(report) => check_report(promise, report, world),
        None => Ok(()),
    }
}

fn check_report(promise: &Promise, report: &ShutdownReport, world: &World) -> Result<(), String> {
    // By the deadline: what is left after it is the exit's.
    if report.total > report.grace {
        return Err("the stop ends before SIGKILL".into());
    }
    let cut: Vec<_> = report
        .stragglers
        .iter()
        .filter(|s| s.kind != WorkKind::Main)
        .collect();
    let mut named: Vec<_> = cut.iter().map(|s| (s.kind.to_string(), &*s.what)).collect();
    let mut promised: Vec<_> = promise
        .report
        .iter()
        .map(|(kind, what)| (kind.to_string(), *what))
        .collect();
    named.sort();
    promised.sort();
    if named != promised {
        return Err(format!("the report should name {promised:?}"));
    }
    let code = if promise.report.is_empty() { 0 } else { 72 };
    if report.exit_code() != code {
        return Err(format!("the exit code should be {code}"));
    }
    let answers = world.told.answers.load(Ordering::SeqCst) as u64;
    let finished = report.requests.finished;
    // A layer sees that an answer was handed to the stock server, not that it was sent.
    let more = world.path != Path::Own && promise.got == Got::Cut;
    if finished < answers || (finished > answers && !more) {
        return Err(format!("the client saw {answers} whole answers"));
    }
    for straggler in cut {
        if straggler.age < SHORT_DRAIN - GRAIN {
            return Err(format!("older: {straggler}"));
        }
        // A layer knows no socket: the connection stands beside it.
        if world.path != Path::Own && straggler.kind == WorkKind::Request {
            continue;
        }
        let (peer, sent) = world.told.cut.get().ok_or("the script names no client")?;
        let received = straggler.bytes.map(|(received, _)| received);
        if straggler.peer != Some(*peer) || received != Some(*sent) {
            return Err(format!("{sent} bytes in from {peer}: {straggler}"));
        }
    }
    Ok(())
}
