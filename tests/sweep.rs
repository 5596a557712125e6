//! S4 on real sockets: a client whose connect has completed is answered, however many connect while the listener closes.
//!
//! Everything here runs without capabilities, as in a pod, whoever runs it: threads drop theirs before they make a socket.
//! On Linux alone: elsewhere new handshakes can't be ignored, and the sweep only has its bound.
#![cfg(all(target_os = "linux", not(loom)))]

use std::fmt;
use std::future::IntoFuture;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use prestop::{Listener, Phase, Reason, ShutdownCoordinator, ShutdownHandle, serve};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 24;

/// New handshakes are ignored for this long, and the sweep ends after that at the latest.
const SETTLE: Duration = Duration::from_millis(200);
const SWEEP: Duration = Duration::from_millis(250);

/// What a loaded machine may add to a bound. Without one, the sweep would last as long as clients come.
const SLACK: Duration = Duration::from_secs(8);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const BODY: usize = 3000;

#[test]
fn a_storm_on_ipv4_loses_nobody_who_is_connected() {
    without_capabilities(|| {
        let (mut storm, mut fastest) = (Tally::default(), Duration::MAX);
        for _ in 0..5 {
            let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
            let address = address(&listener);
            let round = stop_in_a_storm(listener, move |_| tcp(address));
            assert!(round.closed_after < SWEEP + SLACK, "{round:?}");
            fastest = fastest.min(round.closed_after);
            storm.add(round.tally);
        }
        storm.lost_nobody("IPv4");
        assert!(
            fastest < SETTLE,
            "the settle time was not taken from the lame duck: the best of 5 closed {fastest:?} into the drain"
        );
    });
}

#[test]
fn a_storm_on_ipv6_loses_nobody_who_is_connected() {
    without_capabilities(|| {
        let mut storm = Tally::default();
        for _ in 0..3 {
            let Some(listener) = ipv6(bind("[::1]:0")) else {
                return;
            };
            let address = address(&listener);
            let round = stop_in_a_storm(listener, move |_| tcp(address));
            assert!(round.closed_after < SWEEP + SLACK, "{round:?}");
            storm.add(round.tally);
        }
        storm.lost_nobody("IPv6");
    });
}

/// One option is asked for packets of IPv4, the other for those of IPv6, on the same socket.
#[test]
fn a_storm_on_a_dual_stack_listener_loses_nobody_who_is_connected() {
    without_capabilities(|| {
        let mut storm = Tally::default();
        for _ in 0..3 {
            let Some(listener) = ipv6(dual_stack()) else {
                return;
            };
            let port = address(&listener).port();
            let round = stop_in_a_storm(listener, move |client| match client % 2 {
                0 => tcp(SocketAddr::from(([127, 0, 0, 1], port))),
                _ => tcp(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))),
            });
            assert!(round.closed_after < SWEEP + SLACK, "{round:?}");
            storm.add(round.tally);
        }
        storm.lost_nobody("dual stack");
    });
}

/// Without it, the whole sweep and half of a drain would be for clients that go on coming.
#[test]
fn without_a_lame_duck_the_settle_time_is_taken_from_the_drain() {
    without_capabilities(|| {
        let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
        let address = address(&listener);
        let round = stop(listener, Duration::ZERO, move |_| tcp(address));
        round.tally.lost_nobody("no lame duck");
        assert!(round.closed_after >= SETTLE, "{round:?}");
        assert!(round.closed_after < SWEEP + SLACK, "{round:?}");
    });
}

/// The control: what the storm does to a listener that closes like any other.
#[test]
fn closing_at_once_loses_clients_that_are_connected() {
    without_capabilities(|| {
        let mut storm = Tally::default();
        for _ in 0..2 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is 127.0.0.1");
            let address = listener.local_addr().expect("it is bound");
            let clients = Clients::start(move |_| tcp(address));
            let end = Instant::now() + Duration::from_millis(100);
            while Instant::now() < end {
                let (mut io, _) = listener.accept().expect("there is a storm");
                thread::spawn(move || {
                    let _ = io.read(&mut [0; 256]);
                    let _ = io.write_all(
                        format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(BODY)).as_bytes(),
                    );
                });
            }
            // Busy for a moment, as the best service is at times.
            thread::park_timeout(Duration::from_millis(5));
            drop(listener);
            storm.add(clients.join());
        }
        eprintln!("closing at once: {storm:?}");
        assert!(storm.served > 0, "{storm:?}");
        assert!(
            !storm.lost.is_empty(),
            "the storm is too mild to show anything: {storm:?}"
        );
    });
}

/// There is no option for it, so clients that go on connecting end by the bound of the sweep; who was connected when the
/// drain began is served all the same.
#[test]
fn a_unix_socket_is_swept_for_a_bounded_time() {
    without_capabilities(|| {
        let path = std::env::temp_dir().join(format!("prestop-sweep-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = path.clone();
        let round = stop_in_a_storm(
            move || UnixListener::bind(&socket).expect("the path is free"),
            {
                let path = path.clone();
                move |_| UnixStream::connect(&path).map(|io| Box::new(io) as Box<dyn Stream>)
            },
        );
        let _ = std::fs::remove_file(&path);
        eprintln!("Unix socket: {round:?}");
        assert!(round.closed_after < SWEEP + SLACK, "{round:?}");
        assert!(round.tally.served > 0, "{round:?}");
        assert_eq!(round.lost_before_the_drain, 0, "{round:?}");
    });
}

/// Late clients, which may try elsewhere: refused, not reset after they have sent something.
#[test]
fn who_comes_too_late_is_refused() {
    without_capabilities(|| {
        let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
        let address = address(&listener);
        runtime().block_on(async {
            let c = coordinator(Duration::from_millis(300));
            let handle = c.handle();
            let late = tokio::task::spawn_blocking(move || {
                // Until the tail of the lame duck.
                while TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
                    thread::park_timeout(Duration::from_millis(10));
                }
                TcpStream::connect_timeout(&address, Duration::from_secs(60))
            });
            trigger_when_ready(&handle);
            run_cleanly(c, listener).await;
            let refused = late
                .await
                .expect("the client does not panic")
                .expect_err("the service is gone");
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionRefused,
                "{refused}"
            );
        });
    });
}

/// A service that goes on accepting, because a hook is not done, answers: an ignored client would wait for a second.
#[test]
fn a_lame_duck_that_a_hook_prolongs_answers_new_clients() {
    without_capabilities(|| {
        let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
        let address = address(&listener);
        runtime().block_on(async {
            let c = ShutdownCoordinator::builder_without_signals()
                .lame_duck(Duration::from_millis(250))
                .pre_stop("slow", |_| sleep(Duration::from_millis(2000)))
                .build()
                .expect("the budget fits");
            let handle = c.handle();
            let client = tokio::task::spawn_blocking({
                let handle = handle.clone();
                move || {
                    let mut answered = 0;
                    let end = Instant::now() + Duration::from_millis(1000);
                    while Instant::now() < end {
                        assert_eq!(request(tcp(address).expect("it accepts")), Ok(()));
                        answered += 1;
                        thread::park_timeout(Duration::from_millis(5));
                    }
                    assert_eq!(handle.phase(), Phase::LameDuck);
                    answered
                }
            });
            trigger_when_ready(&handle);
            run_cleanly(c, listener).await;
            assert!(client.await.expect("every client was answered") > 10);
        });
    });
}

/// A connection goes on after its listener has closed.
#[test]
fn a_connection_is_heard_after_the_sweep() {
    without_capabilities(|| {
        let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
        let address = address(&listener);
        runtime().block_on(async {
            let c = coordinator(Duration::from_millis(300));
            let handle = c.handle();
            let mut client = TcpStream::connect(address).expect("it listens");
            client
                .set_read_timeout(Some(Duration::from_secs(60)))
                .expect("a timeout");
            trigger_when_ready(&handle);
            let client = tokio::task::spawn_blocking(move || {
                // The first half of a request before the sweep, the other after it.
                let head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n1";
                client.write_all(head).expect("it is connected");
                while TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
                    thread::park_timeout(Duration::from_millis(10));
                }
                thread::park_timeout(SETTLE + SWEEP);
                client.write_all(b"2").expect("it is still connected");
                let mut answer = String::new();
                client.read_to_string(&mut answer).expect("an answer");
                answer
            });
            run_cleanly(c, listener).await;
            let answer = client.await.expect("the client does not panic");
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("12"),
                "{answer}"
            );
        });
    });
}

/// A listener handed on to another process, or inherited from one, is the same socket there: it is left as it was.
#[test]
fn a_listener_that_others_share_is_not_left_deaf() {
    without_capabilities(|| {
        let listener = bind("127.0.0.1:0").expect("there is 127.0.0.1");
        let address = address(&listener);
        let shared = listener.0.try_clone().expect("a descriptor is free");
        runtime().block_on(async {
            let c = coordinator(Duration::from_millis(250));
            let handle = c.handle();
            trigger_when_ready(&handle);
            run_cleanly(c, listener).await;
        });
        let _client = TcpStream::connect_timeout(&address, Duration::from_millis(500))
            .expect("the next process listens on the same socket");
        shared.accept().expect("and gets the client");
    });
}

/// One stop in a storm.
#[derive(Debug)]
struct Round {
    tally: Tally,
    /// How long into the drain the listener closed.
    closed_after: Duration,
    lost_before_the_drain: usize,
}

fn stop_in_a_storm<L: Listener>(
    listener: impl Bind<L>,
    connect: impl Fn(usize) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
) -> Round
where
    L::Io: 'static,
{
    stop(listener, Duration::from_millis(300), connect)
}

fn stop<L: Listener>(
    listener: impl Bind<L>,
    lame_duck: Duration,
    connect: impl Fn(usize) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
) -> Round {
    runtime().block_on(async {
        let c = coordinator(lame_duck);
        let handle = c.handle();
        let server = serve(&handle, listener.into_tokio(), app()).into_future();
        let clients = Clients::start(connect);
        let trigger = handle.clone();
        tokio::spawn(async move {
            assert_no_capabilities();
            sleep(Duration::from_millis(100)).await;
            trigger.trigger(Reason::requested("test"));
        });
        let draining = tokio::spawn({
            let draining = handle.draining();
            async move {
                draining.await;
                Instant::now()
            }
        });
        let mut closed = None;
        let report = c
            .run(async {
                server.await;
                closed = Some(Instant::now());
            })
            .await
            .expect("the runtime lives");
        let draining = draining.await.expect("it does not panic");
        let tally = tokio::task::spawn_blocking(|| clients.join())
            .await
            .expect("no client panics");
        assert_eq!(report.exit_code(), 0, "{report}");
        Round {
            closed_after: closed.expect("it has ended") - draining,
            lost_before_the_drain: tally
                .lost
                .iter()
                .filter(|loss| loss.connected < draining)
                .count(),
            tally,
        }
    })
}

/// Clients that connect, ask once, and connect again, until there is nobody to connect to.
struct Clients(Vec<thread::JoinHandle<Tally>>);

impl Clients {
    fn start(
        connect: impl Fn(usize) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let connect = Arc::new(connect);
        let client = |number: usize| {
            let connect = connect.clone();
            thread::spawn(move || {
                let mut tally = Tally::default();
                loop {
                    let Ok(io) = connect(number) else {
                        tally.turned_away += 1;
                        return tally;
                    };
                    let connected = Instant::now();
                    match request(io) {
                        Ok(()) => tally.served += 1,
                        Err(why) => tally.lost.push(Loss { connected, why }),
                    }
                    tally.slowest = tally.slowest.max(connected.elapsed());
                }
            })
        };
        Self((0..CLIENTS).map(client).collect())
    }

    fn join(self) -> Tally {
        let mut sum = Tally::default();
        for client in self.0 {
            sum.add(client.join().expect("no client panics"));
        }
        sum
    }
}

/// How it went for clients.
#[derive(Default)]
struct Tally {
    /// Connected, and got a whole answer.
    served: usize,
    /// Connected, and did not.
    lost: Vec<Loss>,
    /// Never connected: refused, or ignored for longer than the client cared to wait. They may ask somebody else.
    turned_away: usize,
    slowest: Duration,
}

struct Loss {
    connected: Instant,
    why: String,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.served += other.served;
        self.lost.extend(other.lost);
        self.turned_away += other.turned_away;
        self.slowest = self.slowest.max(other.slowest);
    }

    fn lost_nobody(&self, storm: &str) {
        eprintln!("{storm}: {self:?}");
        assert!(self.served >= CLIENTS, "{storm}: {self:?}");
        assert!(self.lost.is_empty(), "{storm}: {self:?}");
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            served,
            lost,
            turned_away,
            slowest,
        } = self;
        write!(
            f,
            "{served} served, slowest {slowest:?}, {turned_away} turned away, {} lost",
            lost.len()
        )?;
        lost.first()
            .map_or(Ok(()), |loss| write!(f, " ({})", loss.why))
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn request(mut io: Box<dyn Stream>) -> Result<(), String> {
    io.write_all(REQUEST).map_err(|e| format!("write: {e}"))?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer)
        .map_err(|e| format!("read: {e}"))?;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n");
    match body {
        Some(at) if answer.starts_with(b"HTTP/1.1 200") && answer.len() - at - 4 == BODY => Ok(()),
        _ => Err(format!("{} bytes of an answer", answer.len())),
    }
}

fn tcp(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let io = TcpStream::connect_timeout(&address, Duration::from_millis(400))?;
    // A connection that is deaf is one that is lost.
    io.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(Box::new(io))
}

/// A bound socket, for the runtime that it will live on.
trait Bind<L> {
    fn into_tokio(self) -> L;
}

struct Bound(std::net::TcpListener);

impl Bind<TcpListener> for Bound {
    fn into_tokio(self) -> TcpListener {
        self.0.set_nonblocking(true).expect("a socket has the flag");
        TcpListener::from_std(self.0).expect("there is a runtime")
    }
}

impl<L, F: FnOnce() -> L> Bind<L> for F {
    fn into_tokio(self) -> L {
        self()
    }
}

fn bind(address: &str) -> io::Result<Bound> {
    std::net::TcpListener::bind(address).map(Bound)
}

fn dual_stack() -> io::Result<Bound> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    let any: SocketAddr = "[::]:0".parse().expect("an address");
    socket.bind(&SockAddr::from(any))?;
    socket.listen(1024)?;
    Ok(Bound(socket.into()))
}

fn address(listener: &Bound) -> SocketAddr {
    listener.0.local_addr().expect("it is bound")
}

/// Said aloud where there is no IPv6, and no excuse in CI.
fn ipv6(bound: io::Result<Bound>) -> Option<Bound> {
    match bound {
        Ok(bound) => Some(bound),
        Err(error) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("there is no IPv6 here, and CI must have it: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: there is no IPv6 here: {error}");
            None
        }
    }
}

fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "x".repeat(BODY) }))
        .route("/", post(|body: String| async { body }))
}

fn coordinator(lame_duck: Duration) -> ShutdownCoordinator {
    ShutdownCoordinator::builder_without_signals()
        .lame_duck(lame_duck)
        .build()
        .expect("the budget fits")
}

async fn run_cleanly(c: ShutdownCoordinator, listener: Bound) {
    let server = serve(&c.handle(), listener.into_tokio(), app());
    let report = c.run(server).await.expect("the runtime lives");
    assert_eq!(report.exit_code(), 0, "{report}");
}

/// Before it was ready nobody was sent to it, and there is no lame duck.
fn trigger_when_ready(handle: &ShutdownHandle) {
    let handle = handle.clone();
    tokio::spawn(async move {
        handle.wait_for(Phase::Ready).await;
        handle.trigger(Reason::requested("test"));
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started")
}

/// Runs the test on a thread without any capability. They are a thread's own and inherited by those that it starts: by
/// the runtime, and so by whoever touches a socket.
fn without_capabilities(test: impl FnOnce() + Send + 'static) {
    let tested = thread::spawn(|| {
        let none = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            },
        )
        .expect("less is always allowed");
        assert_no_capabilities();
        test();
    })
    .join();
    if let Err(panic) = tested {
        std::panic::resume_unwind(panic);
    }
}

fn assert_no_capabilities() {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("there is /proc");
    for set in ["CapEff", "CapPrm", "CapInh"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set));
        let bits = line.map(|bits| bits.trim_start_matches(':').trim());
        assert_eq!(bits, Some("0000000000000000"), "{set}");
    }
}
