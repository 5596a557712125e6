//! nginx and a JVM under `prestop run`: the real programs, one at a time. Under load they are in the examples `nginx` and
//! `java`.
#![cfg(all(target_os = "linux", not(loom), feature = "cli", feature = "process"))]
// No runtime and no paused clock here: plain threads that wait for processes.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

// Of `support`, nothing else is needed here.
#[path = "support/ports.rs"]
#[allow(unreachable_pub)]
mod ports;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ports::free_port;
use rustix::process::{Pid, Signal, kill_process};

/// Nothing in these tests takes this long, not even a JVM's start on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// Whether the program is here; its absence is said aloud, and is a failure in CI.
fn is_here(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !here {
        assert!(
            std::env::var_os("CI").is_none(),
            "no {program} in CI (Debian: {package})"
        );
        eprintln!("SKIPPED: there is no {program} here (Debian: {package})");
    }
    here
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < BOUND, "waited {BOUND:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `prestop run`, in a directory of its own.
struct Wrapped {
    dir: PathBuf,
    child: Child,
}

impl Wrapped {
    fn start(dir: PathBuf, options: &[&str], command: &[&str]) -> Self {
        let log = |name: &str| std::fs::File::create(dir.join(name)).expect("writable");
        let child = Command::new(env!("CARGO_BIN_EXE_prestop"))
            .arg("run")
            .args(options)
            .arg("--")
            .args(command)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"))
            .spawn()
            .expect("prestop starts");
        Self { dir, child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own").is_some()
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        until("its end", || self.has_ended());
        let status = self.child.wait().expect("our own");
        assert_eq!(
            status.code(),
            Some(code),
            "{}{}",
            self.text("stdout"),
            self.text("stderr")
        );
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        // In order, so that what it wraps ends, too.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("prestop-real-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
    dir
}

/// An nginx with a fast and a throttled file; `more` goes to its main context.
fn nginx(name: &str, more: &str, options: &[&str]) -> (Wrapped, SocketAddr) {
    let (dir, address) = (scratch(name), free_port());
    config(&dir, address, more, "one");
    let sign = format!("tcp:{address}");
    let options = [&["--plan", "nginx", "--ready", &sign], options].concat();
    let path = dir.to_str().expect("ASCII").to_owned();
    let conf = format!("{path}/nginx.conf");
    let log = format!("{path}/error.log");
    let command = ["nginx", "-p", &path, "-c", &conf, "-e", &log];
    let wrapped = Wrapped::start(dir, &options, &command);
    until("nginx listens", || TcpStream::connect(address).is_ok());
    (wrapped, address)
}

fn config(dir: &Path, address: SocketAddr, more: &str, says: &str) {
    let dir_name = dir.to_str().expect("ASCII");
    let config = format!(
        "daemon off; worker_processes 2; pid nginx.pid; {more}\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;\n\
         uwsgi_temp_path u; scgi_temp_path s;\n\
         server {{ listen {address}; root {dir_name};\n\
         location /says {{ return 200 {says}; }}\n\
         location /big {{ limit_rate 100k; sendfile off; }} }} }}"
    );
    std::fs::write(dir.join("nginx.conf"), config).expect("writable");
    std::fs::write(dir.join("big"), vec![b'x'; 300_000]).expect("writable");
    let bigger = std::fs::File::create(dir.join("bigger")).expect("writable");
    bigger.set_len(100_000_000).expect("a sparse file");
}

/// A request that has been answered as far as its head.
fn get(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .expect("connected");
    let mut first = [0; 9];
    stream.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 ");
    stream
}

/// What is left of the answer; an error is a cut.
fn rest(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

fn body(address: SocketAddr, path: &str) -> String {
    let answer = rest(get(address, path)).expect("a whole answer");
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

#[test]
fn nginx_finishes_a_download_and_leaves_nothing_behind() {
    if !is_here("nginx", "nginx-light") {
        return;
    }
    let (mut wrapped, address) = nginx("quit", "", &[]);
    let master: u32 = wrapped.text("nginx.pid").trim().parse().expect("a pid");
    let download = get(address, "/big");
    wrapped.signal(Signal::TERM);
    let text = rest(download).expect("the whole of it");
    assert!(text.ends_with(&"x".repeat(300_000)), "{} bytes", text.len());
    wrapped.ends_with(0);
    assert!(!wrapped.dir.join("nginx.pid").exists(), "it ended in order");
    assert!(!Path::new(&format!("/proc/{master}")).exists());
    assert!(TcpListener::bind(address).is_ok(), "the port is free");
}

#[test]
fn nginx_cuts_what_can_never_finish_by_its_own_timeout() {
    if !is_here("nginx", "nginx-light") {
        return;
    }
    let (mut wrapped, address) = nginx(
        "timeout",
        "worker_shutdown_timeout 1s;",
        &["--grace-period", "60"],
    );
    let download = get(address, "/bigger");
    wrapped.signal(Signal::TERM);
    let text = rest(download).unwrap_or_default();
    assert!(text.len() < 100_000_000);
    wrapped.ends_with(0);
    assert_eq!(
        wrapped.text("stderr"),
        "",
        "clean, long before the deadline"
    );
}

#[test]
fn nginx_without_a_timeout_gets_sigterm_at_the_end_of_the_drain() {
    if !is_here("nginx", "nginx-light") {
        return;
    }
    let (mut wrapped, address) = nginx("late-term", "", &["--grace-period", "5"]);
    let download = get(address, "/bigger");
    wrapped.signal(Signal::TERM);
    let text = rest(download).unwrap_or_default();
    assert!(text.len() < 100_000_000);
    wrapped.ends_with(0);
    assert!(
        !wrapped.dir.join("nginx.pid").exists(),
        "it ended in order, not by SIGKILL"
    );
}

#[test]
fn nginx_reloads_by_a_signal_to_the_wrapper() {
    if !is_here("nginx", "nginx-light") {
        return;
    }
    let (mut wrapped, address) = nginx("reload", "", &[]);
    assert_eq!(body(address, "/says"), "one");
    config(&wrapped.dir, address, "", "two");
    wrapped.signal(Signal::HUP);
    until("the new configuration", || body(address, "/says") == "two");
    wrapped.signal(Signal::TERM);
    wrapped.ends_with(0);
}

/// The example's service, by the source launcher.
fn java(name: &str, hang: &[&str], options: &[&str]) -> Wrapped {
    let (dir, address) = (scratch(name), free_port());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/java/Service.java");
    let port = address.port().to_string();
    let command = [
        &["java", "-Xmx64m", "-XX:TieredStopAtLevel=1", source, &port],
        hang,
    ]
    .concat();
    let options = [
        &[
            "--plan",
            "java",
            "--ready",
            "log:Service started",
            "--ready-within",
            "100",
        ],
        options,
    ]
    .concat();
    let wrapped = Wrapped::start(dir, &options, &command);
    until("the JVM serves", || TcpStream::connect(address).is_ok());
    // The sign and the port come at the same time; ready it is a moment later.
    until("its word", || {
        wrapped.text("stdout").contains("Service started")
    });
    let slow = get(address, "/fast");
    rest(slow).expect("an answer");
    wrapped
}

#[test]
fn a_jvm_ends_in_order_with_143() {
    if !is_here("java", "default-jdk-headless") {
        return;
    }
    let mut wrapped = java("jvm", &[], &[]);
    wrapped.signal(Signal::TERM);
    wrapped.ends_with(143);
    assert_eq!(wrapped.text("stderr"), "", "clean");
}

#[test]
fn a_jvm_that_hangs_in_a_shutdown_hook_is_dumped_killed_and_reported() {
    if !is_here("java", "default-jdk-headless") {
        return;
    }
    let mut wrapped = java("jvm-hangs", &["hang"], &["--grace-period", "10"]);
    wrapped.signal(Signal::TERM);
    wrapped.ends_with(137);
    let (out, err) = (wrapped.text("stdout"), wrapped.text("stderr"));
    assert!(err.contains("cut: process java (pid "), "{err}");
    assert!(out.contains("Full thread dump"), "{out}");
    let hook = out
        .split("\"stop-the-server\"")
        .nth(1)
        .expect("the hook's thread");
    assert!(hook.contains("at Service.hang("), "it says where: {hook}");
}
