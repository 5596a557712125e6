//! Clients that other people wrote agree: curl, h2load, wrk, Java's HttpClient, Python's `websockets` and grpc-go against
//! `examples/service.rs`, a process that gets SIGTERM, without one error.
//!
//! Three things are shown.
//!
//! *Through stops*: clients run without a pause while the service behind a layer 4 gateway is replaced twice, as a
//! Deployment does it: a new process, SIGTERM to the old one, and only `LAG` later the gateway's new connections go to
//! the new one. So a client meets `Connection: close` and GOAWAY, connects again, at first to the very process that
//! sent it away, and is cut off if that one closes a moment too early. The gateway knows no HTTP and repeats nothing;
//! that the clients did not either is asked of them where they can tell (curl), and else follows from the requests
//! (POST, in Java) or from the program (wrk and h2load never do). Where a client counts, its count and the one in
//! the services' reports must be the same.
//!
//! *Streams through stops*: server-sent events, a WebSocket and a gRPC stream that have no end are ended by each of two
//! stops in a way that their client takes for a proper end, and by nothing else.
//!
//! *Through the drain*: downloads that begin when the process has already been told to stop and that end long after
//! its listener was closed.
//!
//! Who is lost because the machine stood still, or was never met by a stop, proves nothing: such a run is said aloud and
//! made again, with everything twice as long.
//!
//! The clients are Debian's packages curl, nghttp2-client, wrk and any JDK from 11 on, and what `.ci/clients` makes. One
//! that is not there is skipped aloud, or fails the test where `CI` is set.
#![cfg(all(unix, not(loom)))]
#![allow(clippy::unwrap_used, unreachable_pub)]

// A client must see each FIN and RST as the service sent it. Its own tests run here, too.
#[path = "../examples/rolling_update/splice.rs"]
mod splice;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Each process serves on for that long, and asks its clients to leave.
const LAME_DUCK: Duration = Duration::from_millis(1_500);
/// How long the gateway goes on sending new connections to a process that was told to stop.
const LAG: Duration = Duration::from_millis(500);
/// Between two stops.
const PAUSE: Duration = Duration::from_millis(500);
/// Two stops take five seconds. A client that runs for this long meets both of them.
const SECONDS: u64 = 8;
/// Each test loads the whole machine, and two at once would be a test of it.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Nothing here takes this long.
const BOUND: Duration = Duration::from_secs(180);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(BOUND, future)
        .await
        .unwrap_or_else(|_| panic!("waited {BOUND:?} for: {what}"))
}

/// Why a run says nothing.
struct Again(String);

/// What a run shows that says something. It is told how many times as long as usual everything is to take.
async fn conclusive<T>(run: impl AsyncFn(u64) -> Result<T, Again>) -> T {
    let _alone = ALONE.lock().await;
    for scale in [1, 2, 4, 8] {
        match run(scale).await {
            Ok(shown) => return shown,
            Err(Again(why)) => say(&format!("AGAIN: {why}")),
        }
    }
    panic!("no run says anything");
}

/// Whether all these programs are there.
fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            assert!(
                std::env::var_os("CI").is_none(),
                "{program} is not installed"
            );
            skipped(&format!("{program} is not installed"));
            return false;
        }
    }
    true
}

/// The path of a client that `.ci/clients` makes, if it is there.
fn made(client: &str) -> Option<String> {
    let path = format!("{}/target/clients/{client}", env!("CARGO_MANIFEST_DIR"));
    if Path::new(&path).is_file() {
        return Some(path);
    }
    let missing = format!("{client} is not in target/clients: `.ci/clients` makes it");
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    skipped(&missing);
    None
}

/// Past libtest, which would keep it to itself.
fn say(what: &str) {
    let line = format!("{what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn skipped(what: &str) {
    say(&format!("SKIPPED: {what}"));
}

/// `examples/service.rs`, or another that prints the same lines, as a process.
struct Service {
    child: Child,
    address: SocketAddr,
    grpc: SocketAddr,
    out: Lines<BufReader<ChildStdout>>,
}

/// From a service's report.
#[derive(Clone, Copy, Debug)]
struct Served {
    finished: u64,
    while_stopping: u64,
    /// Streams that were told to end, those of them that did, and those that were cut.
    streams: [u64; 3],
}

/// A port of the service.
#[derive(Clone, Copy, Debug)]
enum Port {
    Http,
    Grpc,
}

impl Service {
    async fn start(lame_duck: Duration) -> Self {
        let lame_duck = lame_duck.as_secs_f64().to_string();
        Self::example("service", &["127.0.0.1:0", &lame_duck, "127.0.0.1:0"]).await
    }

    async fn example(name: &str, args: &[&str]) -> Self {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).expect("it lies in <profile>/deps");
        let mut child = Command::new(profile.join("examples").join(name))
            .args(args)
            // As in a cluster: without a lame duck of their own, they have 5 s.
            .env("KUBERNETES_SERVICE_HOST", "test")
            // Nothing in here is to be ended by a deadline.
            .env("TERMINATION_GRACE_PERIOD_SECONDS", "600")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`cargo test` builds the examples; `cargo test --test clients` alone does not");
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = within("the address", out.next_line()).await.unwrap();
        let line = line.expect("it listens").replace("listening ", "");
        // One that has a single port has it twice here.
        let (address, grpc) = line.split_once(' ').unwrap_or((&line, &line));
        Self {
            child,
            address: address.parse().unwrap(),
            grpc: grpc.parse().unwrap(),
            out,
        }
    }

    const fn at(&self, port: Port) -> SocketAddr {
        match port {
            Port::Http => self.address,
            Port::Grpc => self.grpc,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn says(&mut self, phase: &str) {
        let line = within(phase, self.out.next_line()).await.unwrap();
        assert_eq!(line.as_deref(), Some(phase));
    }

    /// Its report, which must be one without losses.
    async fn ended(mut self) -> Served {
        let mut report = String::new();
        within("its end", self.out.get_mut().read_to_string(&mut report))
            .await
            .unwrap();
        let status = within("its end", self.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{report}");
        let line = report.lines().find(|l| l.contains("requests: "));
        let line = line.expect("the report has it");
        assert!(line.contains(", 0 cut, 0 refused, "), "{report}");
        let requests = numbers(line);
        // There is no such line when no stream was told.
        let streams = report.lines().find(|l| l.contains("streams: "));
        let streams = streams.map_or_else(|| vec![0; 3], numbers);
        Served {
            finished: requests[0],
            while_stopping: requests[1],
            streams: streams.try_into().expect("three numbers"),
        }
    }
}

/// All whole numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The line that contains this.
#[track_caller]
fn line_with<'a>(text: &'a str, part: &str) -> &'a str {
    text.lines()
        .find(|line| line.contains(part))
        .unwrap_or_else(|| panic!("{part:?} is not in\n{text}"))
}

/// A layer 4 load balancer with one backend at a time.
struct Gateway {
    address: SocketAddr,
    backend: Arc<Mutex<SocketAddr>>,
    /// Connections that got through to a backend.
    connected: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Gateway {
    async fn start(backend: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Arc::new(Mutex::new(backend));
        let connected = Arc::new(AtomicUsize::new(0));
        let (to, connections) = (backend.clone(), connected.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let to = *to.lock().unwrap();
                let connections = connections.clone();
                tokio::spawn(async move {
                    match TcpStream::connect(to).await {
                        Ok(server) => {
                            connections.fetch_add(1, Ordering::SeqCst);
                            client.set_nodelay(true).unwrap();
                            server.set_nodelay(true).unwrap();
                            splice::splice(client, server, Duration::ZERO).await;
                        }
                        Err(_) => splice::reset(client),
                    }
                });
            }
        });
        Self {
            address,
            backend,
            connected,
            task,
        }
    }

    async fn connections(&self, at_least: usize) {
        within("the clients' connections", async {
            while self.connected.load(Ordering::SeqCst) < at_least {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client at work.
struct Running {
    name: String,
    output: JoinHandle<Output>,
}

impl Running {
    fn start(program: &str, args: &[&str]) -> Self {
        let output = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
            .wait_with_output();
        Self {
            name: format!("{program} {}", args.join(" ")),
            output: tokio::spawn(async { output.await.unwrap() }),
        }
    }

    /// What it printed; it must have succeeded by its own account.
    async fn ended(self) -> (String, String) {
        let output = within(&self.name, self.output).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{}: {}\n{out}\n{err}",
            self.name,
            output.status
        );
        (out, err)
    }
}

/// A client that is done early may not have met the stop.
async fn all_go_on(clients: &mut Vec<Running>) -> Result<(), Again> {
    let Some(at) = clients.iter().position(|c| c.output.is_finished()) else {
        return Ok(());
    };
    let client = clients.remove(at);
    let name = client.name.clone();
    client.ended().await;
    Err(Again(format!("{name} did not last")))
}

/// Replaces the service behind the gateway as a Deployment does it. What the old one has served.
async fn replaced(
    service: &mut Service,
    gateway: &Gateway,
    port: Port,
    scale: u64,
) -> Result<Served, Again> {
    let lame_duck = LAME_DUCK * u32::try_from(scale).unwrap();
    let old = std::mem::replace(service, Service::start(lame_duck).await);
    let begun = Instant::now();
    old.signal(Signal::TERM);
    sleep(LAG).await;
    *gateway.backend.lock().unwrap() = service.at(port);
    let took = begun.elapsed();
    if took > lame_duck - LAG {
        return Err(Again(format!(
            "new connections came to the old process for {took:.1?}"
        )));
    }
    Ok(old.ended().await)
}

/// A program and its arguments, in which `URL` is the service, and `ADDRESS` its address alone.
type Client = (String, Vec<String>);

fn client(program: &str, args: &[&str]) -> Client {
    let args = args.iter().map(ToString::to_string).collect();
    (program.to_owned(), args)
}

/// Starts the clients, replaces the service twice while they run, and returns what they printed, how many requests the
/// services have answered, and the scale.
async fn through_stops(clients: impl Fn(u64) -> Vec<Client>) -> (Vec<(String, String)>, u64, u64) {
    through_stops_at(Port::Http, clients).await
}

/// The same on either port.
async fn through_stops_at(
    port: Port,
    clients: impl Fn(u64) -> Vec<Client>,
) -> (Vec<(String, String)>, u64, u64) {
    conclusive(async |scale| {
        let mut service = Service::start(LAME_DUCK * u32::try_from(scale).unwrap()).await;
        let gateway = Gateway::start(service.at(port)).await;
        let address = gateway.address.to_string();
        let url = format!("http://{address}");
        let mut running = Vec::new();
        for (program, args) in clients(scale) {
            let args: Vec<String> = args
                .iter()
                .map(|a| a.replace("URL", &url).replace("ADDRESS", &address))
                .collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let before = gateway.connected.load(Ordering::SeqCst);
            running.push(Running::start(&program, &args));
            gateway.connections(before + 1).await;
        }
        let mut finished = 0;
        for _ in 0..2 {
            sleep(PAUSE).await;
            all_go_on(&mut running).await?;
            let served = replaced(&mut service, &gateway, port, scale).await?;
            if served.while_stopping == 0 {
                return Err(Again(format!("nothing to lose: {served:?}")));
            }
            finished += served.finished;
        }
        sleep(PAUSE).await;
        all_go_on(&mut running).await?;
        let mut ended = Vec::new();
        for client in running {
            ended.push(client.ended().await);
        }
        service.signal(Signal::TERM);
        finished += service.ended().await.finished;
        Ok((ended, finished, scale))
    })
    .await
}

/// One line per transfer: exit code, status, HTTP version, bytes, new connections.
const CURL: [&str; 6] = [
    "-sSv",
    "--fail",
    "-o",
    "/dev/null",
    "-w",
    "%{exitcode} %{http_code} %{http_version} %{size_download} %{num_connects}\n",
];

/// Reuses connections of HTTP/2 with prior knowledge. Debian 12's 7.88 cannot: its second request on one ends with
/// "Error in the HTTP2 framing layer", whatever the server (curl#10634).
fn curl_keeps_http2() -> bool {
    let version = std::process::Command::new("curl").arg("--version").output();
    let version = String::from_utf8(version.unwrap().stdout).unwrap();
    let able = numbers(&version)[0] >= 8;
    if !able {
        skipped("curl with HTTP/2 on kept connections: it is older than 8");
    }
    able
}

/// Requests one after the other on a kept connection; sixteen at a time on as many; and sixteen streams at a time on
/// one HTTP/2 connection, which is replaced when GOAWAY comes.
#[tokio::test]
async fn curl_loses_nothing_through_stops_and_repeats_nothing() {
    if !have(&["curl"]) {
        return;
    }
    let keeps_http2 = curl_keeps_http2();
    let (few, many) = (330, 640);
    let (ended, finished, scale) = through_stops(|scale| {
        let curl = |args: &[&str], ms: u64, n: u64| {
            let url = format!("URL/slow?ms={ms}&n=[1-{}]", n * scale);
            client("curl", &[&CURL[..], args, &[&url]].concat())
        };
        let several = |protocol| curl(&[protocol, "-Z", "--parallel-max", "16"], 200, many);
        let mut clients = vec![curl(&[], 20, few), several("--http1.1")];
        if keeps_http2 {
            clients.push(several("--http2-prior-knowledge"));
        }
        clients
    })
    .await;
    let mut answers = 0;
    let kinds = [("1.1", few), ("1.1", many), ("2", many)];
    for ((out, err), (version, n)) in ended.iter().zip(kinds) {
        let n = n * scale;
        let mut connections = 0;
        for line in out.lines() {
            let (what, connects) = line.rsplit_once(' ').unwrap();
            assert_eq!(what, format!("0 200 {version} 30"), "{err}");
            connections += connects.parse::<u64>().unwrap();
        }
        assert_eq!(out.lines().count() as u64, n);
        answers += n;
        // It kept its connections, but not against the service's wish: each is told to leave twice, and can come back for as
        // long as the gateway takes.
        assert!((3..n).contains(&connections), "{connections}");
        // curl says so when it takes a new connection because the kept one died under its request.
        assert!(!err.contains("retrying"), "{err}");
    }
    assert_eq!(finished, answers);
}

/// h2load never leaves a connection that was told GOAWAY, and calls the requests it has not sent by then failed. So
/// with HTTP/2 each of its connections has as many requests as it may have streams, and there are new ones all the time.
/// With HTTP/1.1 it connects again.
#[tokio::test]
async fn h2load_loses_nothing_through_stops() {
    if !have(&["h2load"]) {
        return;
    }
    let (ended, finished, scale) = through_stops(|scale| {
        let (rate, n) = (format!("-r{}", 48 / scale), format!("-n{}", 2640 * scale));
        vec![
            client(
                "h2load",
                &["-n4000", "-c400", &rate, "-m10", "URL/slow?ms=300"],
            ),
            client("h2load", &["--h1", &n, "-c8", "URL/slow?ms=20"]),
        ]
    })
    .await;
    let kinds = [(4000, "h2c"), (2640 * scale, "http/1.1")];
    for ((out, err), (n, protocol)) in ended.iter().zip(kinds) {
        let line = line_with(out, "requests: ");
        assert_eq!(numbers(line), [n, n, n, n, 0, 0, 0], "{out}{err}");
        let codes = format!("status codes: {n} 2xx, 0 3xx, 0 4xx, 0 5xx");
        assert!(out.contains(&codes), "{out}{err}");
        assert!(out.contains(&format!("protocol: {protocol}")), "{out}");
    }
    assert_eq!(finished, 4000 + 2640 * scale);
}

/// wrk connects again when it is asked to, counts every other end of a connection as an error, and repeats nothing.
#[tokio::test]
async fn wrk_loses_nothing_through_stops() {
    if !have(&["wrk"]) {
        return;
    }
    let (ended, finished, _) = through_stops(|scale| {
        let (time, url) = (format!("-d{}s", SECONDS * scale), "URL/slow?ms=20");
        let args = ["-t1", "-c16", &time, "--timeout", "60s", url];
        vec![client("wrk", &args)]
    })
    .await;
    let (out, err) = &ended[0];
    for trouble in ["Socket errors", "Non-2xx"] {
        assert!(!out.contains(trouble), "{out}{err}");
    }
    let counted = numbers(line_with(out, "requests in"))[0];
    // It leaves without waiting for its last answers.
    assert!(
        (counted..=counted + 16).contains(&finished),
        "{finished}: {out}"
    );
}

/// Ten threads with POST requests, which Java's HttpClient does not repeat; half of them ask for an upgrade to h2c,
/// which it cannot do without, and are answered over HTTP/1.1.
#[tokio::test]
async fn java_loses_nothing_through_stops() {
    if !have(&["java"]) {
        return;
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/java/Requests.java");
    let (ended, finished, _) = through_stops(|scale| {
        let seconds = (SECONDS * scale).to_string();
        let option = "-Djdk.httpclient.disableRetryConnect=true";
        vec![client("java", &[option, program, "URL", &seconds])]
    })
    .await;
    let (out, err) = &ended[0];
    let counted = numbers(line_with(out, " answers, "));
    assert_eq!(counted, [finished, 0], "{out}{err}");
}

/// The clients connect in the lame duck, which ends when they have, and read on when nobody can connect any more.
#[tokio::test]
async fn curl_gets_its_downloads_through_the_drain() {
    if !have(&["curl"]) {
        return;
    }
    conclusive(async |scale| {
        let mut service = Service::start(BOUND).await;
        let gateway = Gateway::start(service.address).await;
        let url = format!("http://{}", gateway.address);
        service.signal(Signal::TERM);
        service.says("lame_duck").await;
        let mut running = Vec::new();
        let (slow, chunks) = (8_000 * scale, 80 * scale);
        let paths = [
            (format!("/slow?ms={slow}"), 30),
            (format!("/stream?chunks={chunks}"), chunks * 64),
        ];
        for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
            for (path, bytes) in &paths {
                let url = format!("{url}{path}");
                let args = [&CURL[..], &[protocol, &url]].concat();
                let wanted = format!("0 200 {version} {bytes} 1\n");
                running.push((Running::start("curl", &args), wanted));
            }
        }
        gateway.connections(running.len()).await;
        service.signal(Signal::INT);
        service.says("draining").await;
        while TcpStream::connect(service.address).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        let early = running.iter().find(|(c, _)| c.output.is_finished());
        let early = early.map(|(client, _)| Again(format!("{} is over", client.name)));
        for (client, wanted) in running {
            let (out, err) = client.ended().await;
            assert_eq!(out, wanted, "{err}");
        }
        assert_eq!(service.ended().await.while_stopping, 4);
        early.map_or(Ok(()), Err)
    })
    .await;
}

/// Eight goroutines with unary calls on one channel, retries off.
#[tokio::test]
async fn grpc_go_loses_no_call_through_stops() {
    let Some(program) = made("grpc-client") else {
        return;
    };
    let (ended, finished, _) = through_stops_at(Port::Grpc, |scale| {
        let seconds = (SECONDS * scale).to_string();
        vec![client(&program, &["unary", "ADDRESS", &seconds])]
    })
    .await;
    let (out, err) = &ended[0];
    assert_eq!(numbers(out), [finished, 0], "{out}{err}");
}

/// A client that keeps a stream open, and says when it has one.
struct Streaming {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Lines<BufReader<ChildStdout>>,
    err: ChildStderr,
}

impl Streaming {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            out: BufReader::new(child.stdout.take().unwrap()).lines(),
            err: child.stderr.take().unwrap(),
            child,
        }
    }

    /// Waits until this line comes.
    async fn says(&mut self, wanted: &str) {
        within("a sign of the client", async {
            loop {
                match self.out.next_line().await.unwrap() {
                    Some(line) if line == wanted => return,
                    Some(_) => {}
                    None => panic!("it ended: {}", self.errors().await),
                }
            }
        })
        .await;
    }

    /// Asks, and waits for a message that came after.
    async fn is_alive(&mut self) {
        let stdin = self.stdin.as_mut().expect("it was not closed");
        stdin.write_all(b"?\n").await.unwrap();
        self.says("alive").await;
    }

    async fn errors(&mut self) -> String {
        let mut text = String::new();
        self.err.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Closes its standard input; its last line.
    async fn leaves(mut self) -> (String, String) {
        self.stdin = None;
        let mut last = String::new();
        within("its end", async {
            while let Some(line) = self.out.next_line().await.unwrap() {
                last = line;
            }
        })
        .await;
        let errors = within("its end", self.errors()).await;
        let status = within("its end", self.child.wait()).await.unwrap();
        assert!(status.success(), "{status}: {errors}");
        (last, errors)
    }
}

/// Keeps a stream open while the service is replaced twice; what it says when it leaves, and how many streams the two
/// that were stopped have told to end.
async fn stream_through_stops(port: Port, program: &str, args: &[&str]) -> (String, String, u64) {
    conclusive(async |scale| {
        let mut service = Service::start(LAME_DUCK * u32::try_from(scale).unwrap()).await;
        let gateway = Gateway::start(service.at(port)).await;
        let address = gateway.address.to_string();
        let args: Vec<String> = args
            .iter()
            .map(|a| a.replace("ADDRESS", &address))
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut client = Streaming::start(program, &args);
        let mut told = 0;
        for _ in 0..2 {
            client.is_alive().await;
            told += told_and_ended(replaced(&mut service, &gateway, port, scale).await?);
        }
        client.is_alive().await;
        let (last, errors) = client.leaves().await;
        service.signal(Signal::TERM);
        service.ended().await;
        Ok((last, errors, told))
    })
    .await
}

/// How many streams were told to end; all of them have.
fn told_and_ended(served: Served) -> u64 {
    let [told, ended, cut] = served.streams;
    assert!(told > 0, "nothing was told");
    assert_eq!((ended, cut), (told, 0));
    told
}

/// Messages and echoes in order, each socket closed with 1001 and both Close frames.
#[tokio::test]
async fn python_websockets_are_closed_with_1001_by_stops_and_by_nothing_else() {
    let Some(python) = made("venv/bin/python") else {
        return;
    };
    let program = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/python/websockets_client.py"
    );
    let args = [program, "ws://ADDRESS/echo"];
    let (last, errors, told) = stream_through_stops(Port::Http, &python, &args).await;
    assert_eq!(
        numbers(&last),
        [told + 1, told, 1001, 0],
        "{last}\n{errors}"
    );
}

/// Whole messages, and then UNAVAILABLE from the server itself.
#[tokio::test]
async fn grpc_go_streams_are_ended_with_a_status_by_stops_and_by_nothing_else() {
    let Some(program) = made("grpc-client") else {
        return;
    };
    let args = ["stream", "ADDRESS"];
    let (last, errors, told) = stream_through_stops(Port::Grpc, &program, &args).await;
    assert_eq!(numbers(&last), [told + 1, told, 0], "{last}\n{errors}");
}

fn first_event_of(service: &Service) -> String {
    format!("data: 0 from {}", service.child.id().unwrap())
}

/// curl reads events for as long as there are some. An answer without its last chunk is an error to it (18).
#[tokio::test]
async fn curl_reads_events_to_a_proper_end_through_stops() {
    if !have(&["curl"]) {
        return;
    }
    conclusive(async |scale| {
        let mut service = Service::start(LAME_DUCK * u32::try_from(scale).unwrap()).await;
        let gateway = Gateway::start(service.address).await;
        let url = format!("http://{}/events?n=[1-1000]", gateway.address);
        let line = "%{stderr}%{exitcode} %{http_code} %{http_version}\n";
        let mut curl = Streaming::start("curl", &["-N", "-sS", "--fail", "-w", line, &url]);
        let mut told = 0;
        for _ in 0..2 {
            curl.says(&first_event_of(&service)).await;
            let served = replaced(&mut service, &gateway, Port::Http, scale).await?;
            told += told_and_ended(served);
        }
        curl.says(&first_event_of(&service)).await;
        curl.child.start_kill().unwrap();
        let errors = within("its end", curl.errors()).await;
        let ends: Vec<&str> = errors.lines().collect();
        assert_eq!(ends.len() as u64, told, "{errors}");
        assert!(ends.iter().all(|end| *end == "0 200 1.1"), "{errors}");
        service.signal(Signal::TERM);
        service.ended().await;
        Ok(())
    })
    .await;
}

/// `examples/tls.rs` answers after three seconds, and is told to stop before. curl is content with what ALPN offers.
#[tokio::test]
async fn curl_is_served_over_tls_through_a_stop() {
    if !have(&["curl"]) {
        return;
    }
    conclusive(async |_| {
        let service = Service::example("tls", &["127.0.0.1:0"]).await;
        let gateway = Gateway::start(service.address).await;
        let url = format!("https://{}", gateway.address);
        let mut running = Vec::new();
        for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let args = [&CURL[..], &["-k", protocol, &url]].concat();
            running.push((Running::start("curl", &args), version));
        }
        gateway.connections(running.len()).await;
        service.signal(Signal::TERM);
        for (client, version) in running {
            let (out, err) = client.ended().await;
            assert_eq!(out, format!("0 200 {version} 6 1\n"), "{err}");
        }
        match service.ended().await.while_stopping {
            2 => Ok(()),
            fewer => Err(Again(format!("{fewer} of 2 were answered in the stop"))),
        }
    })
    .await;
}
