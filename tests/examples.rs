//! The examples as their users meet them: real processes, real signals, odd arguments.
#![cfg(all(unix, not(loom)))]

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

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

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
}

/// The status line of a GET, once somebody listens.
fn get(address: SocketAddr, path: &str) -> String {
    use std::io::Write;
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
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
        std::thread::yield_now();
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
