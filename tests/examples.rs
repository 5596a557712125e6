//! The examples as their users meet them: real processes, real signals, odd arguments.
#![cfg(all(unix, not(loom)))]

// Of `support`, nothing else is needed here.
#[path = "support/ports.rs"]
#[allow(unreachable_pub)]
mod ports;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ports::free_port;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[path = "../examples/kind/orders.rs"]
#[rustfmt::skip]
mod orders;

/// An example's program; `cargo test` builds them all before it runs a test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("it lies in <profile>/deps");
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, `cargo test --test examples` alone does not (`cargo build --examples`)",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(name: &str, args: &[&str]) -> Output {
    example(name)
        .args(args)
        .output()
        .expect("the example starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("the child is there until it is waited for");
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("prestop-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("ASCII").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The status line of a GET, once somebody listens.
fn get(address: SocketAddr, path: &str) -> String {
    use std::io::Write;
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .expect("connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn post_start_writes_the_file_before_it_is_started_and_removes_it_at_the_end() {
    let scratch = Scratch::new("post-start");
    let (file, probes) = (scratch.file("message"), free_port());
    let child = example("post_start")
        .args([&file, &probes.to_string()])
        .spawn()
        .expect("it starts");
    while get(probes, "/startupz") != "HTTP/1.1 200 OK" {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(
        std::fs::read_to_string(&file).expect("written"),
        "Hello from the on_started hook\n"
    );
    signal(&child, Signal::TERM);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    assert!(!Path::new(&file).exists());
}

#[test]
fn post_start_that_cannot_write_fails_its_start_with_70_and_names_the_hook() {
    let ended = output(
        "post_start",
        &["/nonexistent/message", &free_port().to_string()],
    );
    let text = stderr(&ended);
    assert_eq!(ended.status.code(), Some(70), "{text}");
    for part in [
        "START FAILED",
        "write the message",
        "No such file or directory",
    ] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// The files of the service, with what is in them.
fn registered(registry: &str) -> Vec<(PathBuf, String)> {
    let Ok(files) = std::fs::read_dir(Path::new(registry).join("hello")) else {
        return Vec::new();
    };
    let files = files.map(|file| file.expect("an entry").path());
    // One that is being written is empty, one that is being removed may be gone.
    let read = files.filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)));
    read.filter(|(_, address)| !address.is_empty()).collect()
}

#[test]
fn custom_registry_lists_the_instance_until_the_stop_begins() {
    let scratch = Scratch::new("custom-registry");
    let registry = scratch.file("registry");
    for forgotten in [false, true] {
        let child = example("custom_registry")
            .arg(&registry)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .spawn()
            .expect("it starts");
        let (file, address) = loop {
            if let Some(found) = registered(&registry).pop() {
                break found;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        };
        let address = address.parse().expect("an address");
        assert_eq!(get(address, "/"), "HTTP/1.1 200 OK");
        if forgotten {
            // That is what the registry's restart looks like. It was not told yet when the stop comes.
            std::fs::remove_file(file).expect("it was there");
        }
        signal(&child, Signal::TERM);
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
        assert_eq!(registered(&registry), []);
    }
}

/// An example that says where it listens, with what it says after that.
fn listening(
    name: &str,
    args: &[&str],
) -> (Child, SocketAddr, BufReader<std::process::ChildStdout>) {
    let mut child = example(name)
        .args(args)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .spawn()
        .expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a pipe");
    let words: Vec<_> = line.split([' ', ',', '\n']).collect();
    assert_eq!(words[0], "listening", "{line:?}");
    let address = words[1].parse().expect("an address");
    (child, address, out)
}

/// A request whose answer has begun.
fn begin(address: SocketAddr, path: &str) -> TcpStream {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("connected");
    stream
}

#[test]
fn nginx_quit_serves_on_and_finishes_a_download_after_sigquit() {
    let scratch = Scratch::new("nginx-quit");
    let size = 20_000_000;
    std::fs::write(scratch.file("big"), vec![b'x'; size]).expect("writable");
    std::fs::write(scratch.file("small"), "small").expect("writable");
    // Long enough for a slow machine to connect once more.
    let (child, address, mut out) =
        listening("nginx_quit", &[&scratch.file(""), "127.0.0.1:0", "6"]);
    let mut download = begin(address, "/big");
    let mut first = [0; 15];
    download.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");

    signal(&child, Signal::QUIT);
    assert_eq!(get(address, "/small"), "HTTP/1.1 200 OK");
    assert_eq!(get(address, "/../small"), "HTTP/1.1 404 Not Found");
    let mut rest = Vec::new();
    let mut piece = [0; 65_536];
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let read = download.read(&mut piece).expect("no cut");
        assert!(read > 0, "it ends after {} bytes", rest.len());
        rest.extend_from_slice(&piece[..read]);
    }
    assert!(rest.len() > size);
    drop(download);
    let mut said = String::new();
    out.read_to_string(&mut said).expect("a pipe");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{said}{}", stderr(&ended));
    assert!(said.contains("(SIGQUIT): clean"), "{said}");
}

#[test]
fn java_service_leaves_its_registry_and_answers_the_slow_request() {
    let (child, address, mut out) = listening("java_service", &["127.0.0.1:0"]);
    let listed = |address| {
        let mut stream = begin(address, "/instances");
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    while !listed(address).contains("\"id\":\"orders-127.0.0.1-") {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let mut slow = begin(address, "/slow");
    // Its request has been read when another connection was answered after it, which has queued behind it.
    listed(address);
    signal(&child, Signal::TERM);
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.ends_with("an answer that took 4 s\n"), "{answer:?}");
    let mut said = String::new();
    out.read_to_string(&mut said).expect("a pipe");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{said}{}", stderr(&ended));
    assert!(said.contains("memory  removed"), "{said}");
}

#[test]
fn test_your_service_stops_its_service_and_prints_the_timeline() {
    let ended = output("test_your_service", &[]);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{said}{}", stderr(&ended));
    for part in [
        "deleted, 30 s of grace\n",
        "orders  stop signal, 30 s until SIGKILL\n",
        "orders  exited with 0\n",
        "all containers gone\n",
        " quick requests answered\n",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    assert!(!said.contains("\n0 quick requests"), "{said}");
}

/// The docs show what runs here, and it is as short as it is said to be.
#[test]
fn test_your_service_is_the_test_in_the_docs() {
    let file = include_str!("../examples/test_your_service/stop.rs");
    let page = include_str!("../src/docs/kubelet.md");
    for begin in ["fn image()", "pub(crate) async fn a_deleted_pod"] {
        let (_, rest) = file.split_once(begin).expect("it is there");
        let (body, _) = rest.split_once("\n}\n").expect("it ends");
        assert!(page.contains(body), "{begin}: the page has another one");
        assert!(body.lines().count() < 30, "{body}");
    }
}

#[test]
fn rolling_update_ends_with_a_message_when_it_cannot_run() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    for (args, part) in [
        (&["--port", &port][..], &port[..]),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "many"], "many"),
        (&["--replicas", "99"], "--replicas"),
        (&["--stops", "0"], "--stops"),
        (&["--idle", "9", "--rate", "9"], "--idle"),
        (&["--strategy", "hope"], "hope"),
        (&["--registry", "hope"], "hope"),
        (&["--hook", "hope"], "hope"),
        (&["--hook", "http", "--strategy", "kill"], "--strategy"),
        (
            &["--json", "/nonexistent/rows.json"],
            "/nonexistent/rows.json",
        ),
    ] {
        let ended = output("rolling_update", args);
        let text = stderr(&ended);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {text}");
        assert!(
            text.contains(part),
            "{args:?}: {part:?} is missing in: {text}"
        );
        assert!(!text.contains("panicked"), "{args:?}: {text}");
    }
}

/// Nobody would know how the run ended.
#[test]
fn rolling_update_does_not_end_well_when_its_table_cannot_be_written() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let ended = example("rolling_update")
        .stdout(full.expect("Linux has it"))
        .output()
        .expect("the example starts");
    let text = stderr(&ended);
    assert_eq!(ended.status.code(), Some(2), "{text}");
    assert!(text.contains("writing to standard output: "), "{text}");
}

/// What was measured until then is printed, and that it is not all.
#[test]
fn rolling_update_that_is_interrupted_shows_what_it_has() {
    let mut child = example("rolling_update")
        .args(["--strategy", "none", "--strategy", "kill"])
        .args(["--replicas", "1", "--rate", "20", "--seconds", "1"])
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(|line| line.starts_with("kill: "))
        .expect("it gets as far as the second strategy");
    signal(&child, Signal::TERM);
    let rest: Vec<_> = lines.map(|line| line.expect("text")).collect();
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    let has = |what: &str| rest.iter().any(|line| line.starts_with(what));
    assert!(has("none lost 0 of "), "{rest:#?}");
    assert!(has("interrupted; all replicas were ended"), "{rest:#?}");
}

#[test]
fn rolling_update_says_which_registry_is_missing_and_where_to_get_it() {
    let ended = example("rolling_update")
        .args(["--registry", "consul"])
        .env("PATH", "/nonexistent")
        .output()
        .expect("the example starts");
    let text = stderr(&ended);
    assert_eq!(ended.status.code(), Some(2), "{text}");
    assert!(text.contains("there is no consul on PATH: "), "{text}");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains("NOT WHOLE: there is no consul"), "{said}");
}

#[test]
fn rolling_update_leaves_no_child_behind_when_it_is_interrupted() {
    let mut child = example("rolling_update")
        .args(["--strategy", "prestop"])
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(|line| line.contains("all replicas serve"))
        .expect("it gets as far as the load");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))
        .expect("the kernel lists the children of a task");
    let replicas: Vec<Pid> = children
        .split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().expect("a number")).expect("not zero"))
        .collect();
    assert_eq!(replicas.len(), 3, "three replicas serve");
    signal(&child, Signal::INT);
    // Read to the end, so that it never waits for us.
    lines.for_each(drop);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    for pid in replicas {
        assert!(test_kill_process(pid).is_err(), "{pid:?} is still there");
    }
}

#[test]
fn rolling_update_writes_its_rows_and_prestop_loses_nothing() {
    let scratch = Scratch::new("rolling-update");
    let file = scratch.file("rows.json");
    let ended = output(
        "rolling_update",
        &[
            "--strategy",
            "prestop",
            "--replicas",
            "1",
            "--rate",
            "60",
            "--seconds",
            "3",
            "--json",
            &file,
        ],
    );
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{table}{}", stderr(&ended));
    assert!(table.contains("prestop lost 0 of"), "{table}");
    let rows: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(&std::fs::read(file).expect("written"))
            .expect("an array of objects");
    assert_eq!(rows.len(), 9, "a row per kind of client");
    for row in rows {
        let keys: std::collections::BTreeSet<_> = row.keys().map(String::as_str).collect();
        let wanted = [
            "strategy",
            "client",
            "sent",
            "failed",
            "refused",
            "reset",
            "cut",
            "http_5xx",
            "timed_out",
            "p99_ms",
        ];
        assert_eq!(keys, wanted.into());
        assert_eq!(row["failed"], 0);
    }
}

/// The updater as the kubelet: a hook, SIGTERM, and nothing lost.
#[test]
fn rolling_update_runs_the_hooks_and_loses_nothing() {
    let ended = output(
        "rolling_update",
        &[
            "--hook",
            "exec-own",
            "--hook",
            "http",
            "--replicas",
            "1",
            "--rate",
            "60",
            "--seconds",
            "3",
        ],
    );
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{table}{}", stderr(&ended));
    for part in [
        "prestop: the lame duck is over",
        "200 OK",
        "prestop+exec-own lost 0 of",
        "prestop+http lost 0 of",
        "none needed SIGKILL",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

/// The example `kind` as a process: where it listens, and what it says.
struct Kind {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    http: SocketAddr,
    grpc: SocketAddr,
    probes: SocketAddr,
    socket: String,
    _scratch: Scratch,
}

impl Kind {
    /// Ready: its postStart hook has said so.
    fn start(name: &str, lame_duck: &str) -> Self {
        let scratch = Scratch::new(name);
        let socket = scratch.file("run/hook.sock");
        let mut command = example("kind");
        command.env("LAME_DUCK_SECONDS", lame_duck);
        for variable in ["HTTP_ADDRESS", "GRPC_ADDRESS", "PROBE_ADDRESS"] {
            command.env(variable, "127.0.0.1:0");
        }
        let mut child = command
            .env("WARM_UP_SECONDS", "0")
            .env("PRESTOP_SOCKET", &socket)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut address = |variable| -> SocketAddr {
            let line = lines.next().expect("a line").expect("text");
            let (name, address) = line.split_once('=').expect("variable and address");
            assert_eq!(name, variable);
            address.parse().expect("an address")
        };
        let probes = address("PROBE_ADDRESS");
        let (http, grpc) = (address("HTTP_ADDRESS"), address("GRPC_ADDRESS"));
        let kind = Self {
            child,
            lines,
            http,
            grpc,
            probes,
            socket,
            _scratch: scratch,
        };
        let started = kind.hook(&["prestop", "started"]);
        assert_eq!(started.status.code(), Some(0), "{}", stderr(&started));
        assert_eq!(get(kind.probes, "/readyz"), "HTTP/1.1 200 OK");
        kind
    }

    /// The same program as the command of a hook.
    fn hook(&self, args: &[&str]) -> Output {
        example("kind")
            .args(args)
            .env("PRESTOP_SOCKET", &self.socket)
            .output()
            .expect("the hook starts")
    }

    /// SIGTERM, and what it said from the beginning to its end with exit code 0.
    fn stop(mut self) -> Vec<String> {
        signal(&self.child, Signal::TERM);
        let said: Vec<String> = self.lines.map(|line| line.expect("text")).collect();
        let code = self.child.wait().expect("it ends").code();
        assert_eq!(code, Some(0), "{said:#?}");
        said
    }
}

#[test]
fn kind_stops_its_consumer_first_finishes_every_request_and_flushes_last() {
    use std::io::Write;
    let mut kind = Kind::start("kind", "2");
    // With a thread of its own: a client that nobody polls acknowledges no GOAWAY, and is waited for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    // In flight when the stop begins, and for longer than its lame duck: a request over HTTP, one over gRPC, and a watch.
    let mut slow = TcpStream::connect(kind.http).expect("it listens");
    write!(slow, "GET /slow?ms=5000 HTTP/1.1\r\nHost: test\r\n\r\n").expect("connected");
    let url = format!("http://{}", kind.grpc);
    let channel = tonic::transport::Endpoint::from_shared(url).expect("a URL");
    let (mut watch, order) = runtime.block_on(async {
        let channel = channel.connect().await.expect("it listens");
        let request = HealthCheckRequest {
            service: "orders.v1.Orders".into(),
        };
        let mut health = HealthClient::new(channel.clone());
        let watch = health.watch(request).await.expect("known").into_inner();
        let mut orders = orders::orders_client::OrdersClient::new(channel);
        let order = tokio::spawn(async move {
            let order = orders::Order {
                item: "tea".into(),
                work_ms: 5000,
            };
            orders.place(order).await
        });
        (watch, order)
    });
    // The consumer has something to finish.
    kind.lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(|line| line.starts_with("consumer: took"))
        .expect("it takes a message");

    let hook = std::thread::scope(|threads| {
        let hook = threads.spawn(|| kind.hook(&["prestop"]));
        let statuses = runtime.block_on(async {
            let mut statuses = Vec::new();
            while let Some(answer) = watch.message().await.expect("ended, not cut") {
                statuses.push(answer.status());
            }
            statuses
        });
        assert_eq!(
            statuses[statuses.len() - 2..],
            [ServingStatus::Serving, ServingStatus::NotServing]
        );
        hook.join().expect("no panic")
    });
    assert_eq!(hook.status.code(), Some(0), "{}", stderr(&hook));
    let said = kind.stop();

    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("answered whole");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("hello, at last\n"), "{answer}");
    let receipt = runtime.block_on(order).expect("no panic");
    assert_eq!(receipt.expect("finished").into_inner().number, 1);

    let place = |what: &str| {
        let found = said.iter().rposition(|line| line.starts_with(what));
        found.unwrap_or_else(|| panic!("no {what:?} in {said:#?}"))
    };
    let no_more = place("consumer: takes no more");
    assert!(place("consumer: finished") < no_more, "{said:#?}");
    assert!(!said[no_more..].iter().any(|line| line.contains("took")));
    assert!(said[place("flushed")].starts_with("flushed: 1 requests, 1 orders, "));
    assert!(no_more < place("flushed") && place("flushed") < place("stopped in"));
    assert!(said[place("stopped in")].contains("(preStop hook): clean"));
}

#[test]
fn kind_s_load_counts_what_fails() {
    let kind = Kind::start("kind-load", "0");
    let (http, grpc) = (kind.http.to_string(), kind.grpc.to_string());
    let load = output("kind", &["load", &http, &grpc, "1"]);
    let text = String::from_utf8_lossy(&load.stdout).into_owned();
    assert_eq!(load.status.code(), Some(0), "{text}{}", stderr(&load));
    assert!(text.contains("failed requests: 0 of "), "{text}");
    kind.stop();

    // Nobody is there any more.
    let load = output("kind", &["load", &http, &grpc, "1"]);
    let text = String::from_utf8_lossy(&load.stdout).into_owned();
    assert_eq!(load.status.code(), Some(1), "{text}");
    assert!(!text.contains("failed requests: 0 of "), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}

#[test]
fn kind_says_what_is_wrong_with_its_arguments_and_its_environment() {
    let usage = output("kind", &["load", "localhost:8080"]);
    assert_eq!(usage.status.code(), Some(1));
    assert!(stderr(&usage).contains("usage: load"), "{}", stderr(&usage));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for (variable, value) in [("PROBE_ADDRESS", &*address), ("WARM_UP_SECONDS", "soon")] {
        let ended = example("kind")
            .env("PROBE_ADDRESS", "127.0.0.1:0")
            .env(variable, value)
            .output()
            .expect("it starts");
        let text = stderr(&ended);
        assert_eq!(ended.status.code(), Some(1), "{text}");
        assert!(text.contains(variable) && text.contains(value), "{text}");
    }
}

/// Facts alone: on a slow machine the parts of the lame duck are not even.
#[test]
fn rotation_loses_no_request_and_leaves_nobody_unasked() {
    let args = [
        "--connections",
        "200",
        "--lame-duck",
        "15",
        "--pause",
        "1000",
    ];
    let output = output("rotation", &args);
    let said = String::from_utf8_lossy(&output.stdout);
    for line in [
        "requests lost: 0",
        "sent a request in the second half and were not asked: 0",
    ] {
        assert!(said.lines().any(|l| l == line), "{said}{}", stderr(&output));
    }
}
