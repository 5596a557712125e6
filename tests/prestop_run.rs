//! The binary's `run` and `stop`, as an image's ENTRYPOINT and as a hook: real processes, their exit codes, PID 1 in a
//! PID namespace.
#![cfg(all(
    target_os = "linux",
    not(loom),
    feature = "cli",
    feature = "process",
    feature = "memory",
    feature = "probe"
))]
// No runtime and no paused clock here: plain threads that wait for processes.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

// Of `support`, nothing else is needed here.
#[path = "support/ports.rs"]
#[allow(unreachable_pub)]
mod ports;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing in these tests takes this long.
const BOUND: Duration = Duration::from_secs(60);

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("prestop-run-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn dir(&self) -> &str {
        self.0.to_str().expect("ASCII")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn prestop() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prestop"));
    clean(&mut command);
    command
}

/// Nothing of the machine's own environment decides.
fn clean(command: &mut Command) {
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("TERMINATION_GRACE_PERIOD_SECONDS")
        .stdin(Stdio::null());
}

/// `prestop run` with these options and this script; `$1` is the directory.
fn run(options: &[&str], script: &str, scratch: &Scratch) -> Command {
    let mut command = prestop();
    command.arg("run").args(options);
    command.args(["--", "sh", "-c", script, "sh", scratch.dir()]);
    command
}

/// The same as PID 1 of a PID namespace; `None`, said aloud, where none can be made.
fn run_as_pid_1(options: &[&str], script: &str, scratch: &Scratch) -> Option<Command> {
    let mut namespace = vec!["--pid", "--fork", "--mount-proc", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        namespace.extend(["--user", "--map-root-user"]);
    }
    let possible = Command::new("unshare")
        .args(&namespace)
        .arg("true")
        .output();
    if !possible
        .as_ref()
        .is_ok_and(|output| output.status.success())
    {
        let why = possible.map_or_else(|e| e.to_string(), |output| stderr(&output));
        assert!(
            std::env::var_os("CI").is_none(),
            "no PID namespace in CI: {why}"
        );
        eprintln!("SKIPPED: no PID namespace can be made here: {why}");
        return None;
    }
    let mut command = Command::new("unshare");
    clean(&mut command);
    command.args(namespace).arg(env!("CARGO_BIN_EXE_prestop"));
    command.arg("run").args(options);
    command.args(["--", "sh", "-c", script, "sh", scratch.dir()]);
    Some(command)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < BOUND, "waited {BOUND:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child that no failed test leaves behind.
struct Started(Option<Child>);

impl Started {
    fn new(command: &mut Command) -> Self {
        Self(Some(command.spawn().expect("it starts")))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("not waited for yet")
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).expect("it runs");
    }

    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child().try_wait().expect("our own") {
                return status.code();
            }
            assert!(begun.elapsed() < BOUND, "it has not ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn exit_codes_are_handed_on() {
    let scratch = Scratch::new("codes");
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 143", 143),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let output = run(&[], script, &scratch).output().expect("prestop");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{script}: {}",
            stderr(&output)
        );
        assert_eq!(code == 0, stderr(&output).is_empty(), "{}", stderr(&output));
    }
}

#[test]
fn as_pid_1_exit_codes_are_handed_on() {
    let scratch = Scratch::new("pid1-codes");
    for (script, code) in [
        ("[ $PPID = 1 ] && exit 0; exit 9", 0),
        ("exit 1", 1),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let Some(mut command) = run_as_pid_1(&[], script, &scratch) else {
            return;
        };
        let output = command.output().expect("unshare");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{script}: {}",
            stderr(&output)
        );
    }
}

/// The process that `unshare` has started, by its pid out here.
fn inner(unshare: &Child) -> Option<Pid> {
    let pid = unshare.id();
    let children = text(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
    Pid::from_raw(children.split_ascii_whitespace().next()?.parse().ok()?)
}

#[test]
fn as_pid_1_signals_are_heard_and_passed_on() {
    let scratch = Scratch::new("pid1-signals");
    let script = "trap 'echo hup > $1/hup' HUP; trap 'echo usr1 > $1/usr1' USR1; echo up > $1/up; \
                  while :; do sleep 0.05; done";
    let Some(mut command) = run_as_pid_1(&[], script, &scratch) else {
        return;
    };
    let mut started = Started::new(&mut command);
    until("the program is up", || text(&scratch.file("up")) == "up\n");
    let inner = inner(started.child()).expect("PID 1, as seen from here");
    for (signal, file) in [(Signal::HUP, "hup"), (Signal::USR1, "usr1")] {
        kill_process(inner, signal).expect("it runs");
        until("the signal was passed on", || {
            text(&scratch.file(file)) == format!("{file}\n")
        });
    }
    kill_process(inner, Signal::TERM).expect("it runs");
    assert_eq!(started.code(), Some(143));
}

#[test]
fn as_pid_1_a_thousand_orphans_are_reaped_and_the_programs_own_code_is_kept() {
    let scratch = Scratch::new("pid1-orphans");
    let script = r"
        i=0
        while [ $i -lt 1000 ]; do (true &); i=$((i + 1)); done
        zombies() { cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z 1 '; }
        [ $(zombies) -gt 0 ] && echo seen > $1/seen
        while [ $(zombies) -gt 0 ]; do sleep 0.1; done
        ls -d /proc/[0-9]* | wc -l > $1/processes
        exit 3
    ";
    let Some(mut command) = run_as_pid_1(&[], script, &scratch) else {
        return;
    };
    let mut started = Started::new(&mut command);
    assert_eq!(started.code(), Some(3));
    assert_eq!(
        text(&scratch.file("seen")),
        "seen\n",
        "there was nothing to reap"
    );
    let processes: u32 = text(&scratch.file("processes"))
        .trim()
        .parse()
        .expect("a number");
    // prestop, the shell, and who counts.
    assert!(processes < 10, "{processes} processes are left");
}

#[test]
fn a_double_fork_into_a_session_of_its_own_is_ended_too() {
    let scratch = Scratch::new("setsid");
    let script = "(setsid sh -c 'echo $$ > $0/daemon; exec sleep 1000' $1 &); echo up > $1/up; exec sleep 1000";
    let mut started = Started::new(&mut run(&[], script, &scratch));
    let daemon = scratch.file("daemon");
    until("the daemon is up", || text(&daemon).ends_with('\n'));
    let daemon: u32 = text(&daemon).trim().parse().expect("a pid");
    until("the program is up", || text(&scratch.file("up")) == "up\n");
    started.signal(Signal::TERM);
    assert_eq!(started.code(), Some(143));
    // What ends after its parent has, the system's own init reaps.
    until("the daemon is gone", || {
        let stat = text(Path::new(&format!("/proc/{daemon}/stat")));
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn a_hundred_megabytes_without_a_reader_do_not_block_the_program() {
    let scratch = Scratch::new("output");
    let script =
        "head -c 100000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo done > $1/done; exit 3";
    let mut command = run(&["--output", "forward"], script, &scratch);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut started = Started::new(&mut command);
    // The pipes are held and not read.
    assert_eq!(started.code(), Some(3));
    assert_eq!(text(&scratch.file("done")), "done\n");
}

#[test]
fn what_is_forwarded_to_a_reader_arrives_whole() {
    let scratch = Scratch::new("forward");
    let script = "head -c 5000000 /dev/zero; printf last; echo oops >&2";
    let output = run(&["--output", "forward"], script, &scratch)
        .output()
        .expect("prestop");
    assert_eq!(output.stdout.len(), 5_000_004);
    assert!(output.stdout.ends_with(b"last"));
    assert_eq!(stderr(&output), "oops\n");
}

#[test]
fn what_cannot_be_started_ends_as_in_a_shell() {
    for (command, code) in [("/nonexistent/program", 127), ("/etc/passwd", 126)] {
        let output = prestop()
            .args(["run", "--", command])
            .output()
            .expect("prestop");
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(
            stderr(&output).starts_with("prestop: starting "),
            "{}",
            stderr(&output)
        );
    }
    for wrong in [
        &["run"][..],
        &["run", "--then", "signal:NONE", "--", "true"],
        &["run", "--then", "TERM", "--", "true"],
        &["run", "--ready", "nonsense", "--", "true"],
        &[
            "run",
            "--registry",
            "memory=http://127.0.0.1:1",
            "--",
            "true",
        ],
    ] {
        let output = prestop().args(wrong).output().expect("prestop");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
    }
    let unknown = [
        "--registry",
        "zebra=x",
        "--service",
        "a",
        "--address",
        "127.0.0.1:1",
    ];
    let output = prestop()
        .arg("run")
        .args(unknown)
        .args(["--", "true"])
        .output();
    let output = output.expect("prestop");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("zebra"), "{}", stderr(&output));
}

#[test]
fn steps_signs_and_hooks_are_taken_from_flags_and_variables() {
    let scratch = Scratch::new("flags");
    let dir = scratch.dir();
    let script = "trap '' QUIT; trap 'echo usr2 >> $1/log; exit 0' USR2; while [ ! -e $1/go ]; do sleep 0.02; done; \
                  echo Started; while :; do sleep 0.02; done";
    let started_hook = format!("touch {dir}/started");
    let leave = format!("exec:touch {dir}/left");
    let options = [
        "--ready",
        "log:Started",
        "--on-started",
        &started_hook,
        "--then",
        "0.1s:signal:QUIT",
        "--then",
        "signal:USR2",
        "--leave",
        &leave,
        "--lame-duck",
        "0.1s",
    ];
    let mut command = run(&options, script, &scratch);
    command
        .env("PRESTOP_PRE_STOP", format!("touch {dir}/pre-stop"))
        .env(
            "PRESTOP_ON_STOPPED",
            format!("touch {dir}/a\ntouch {dir}/b"),
        )
        .stdout(Stdio::piped());
    let mut started = Started::new(&mut command);
    let out = started.child().stdout.take().expect("piped");
    until("the on_started hook", || scratch.file("started").exists());
    std::fs::write(scratch.file("go"), "").expect("writable");
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line, "Started\n", "its output is passed on");
    started.signal(Signal::TERM);
    assert_eq!(started.code(), Some(0));
    for file in ["left", "pre-stop", "a", "b"] {
        assert!(scratch.file(file).exists(), "{file}");
    }
    assert_eq!(text(&scratch.file("log")), "usr2\n");
}

#[test]
fn it_says_what_happens_when_it_is_asked_to() {
    let scratch = Scratch::new("verbose");
    let output = run(&["-v"], "exit 0", &scratch).output().expect("prestop");
    let said = stderr(&output);
    for part in [
        "prestop: started child=sh pid=",
        "prestop: ready\n",
        "ended: exit code 0",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    let output = run(&[], "sleep 1000 & exit 0", &scratch)
        .output()
        .expect("prestop");
    let said = stderr(&output);
    assert!(said.contains("left processes behind"), "{said}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn one_that_is_never_ready_ends_with_70_and_says_why() {
    let scratch = Scratch::new("never");
    let options = ["--ready", "file:/nonexistent/file", "--ready-within", "0.2"];
    let output = run(&options, "exec sleep 1000", &scratch)
        .output()
        .expect("prestop");
    assert_eq!(output.status.code(), Some(70));
    assert!(
        stderr(&output).contains("START FAILED"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("sh is ready"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn one_that_ignores_everything_is_killed_at_the_deadline_and_named() {
    let scratch = Scratch::new("killed");
    let script = "trap '' TERM; echo up > $1/up; while :; do sleep 0.05; done";
    let mut command = run(&["--grace-period", "3"], script, &scratch);
    command.stderr(Stdio::piped());
    let mut started = Started::new(&mut command);
    until("the program is up", || text(&scratch.file("up")) == "up\n");
    started.signal(Signal::TERM);
    assert_eq!(started.code(), Some(137));
    let mut said = String::new();
    let mut err = started.child().stderr.take().expect("piped");
    err.read_to_string(&mut said).expect("a pipe");
    assert!(said.contains("cut: process sh (pid "), "{said}");
    assert!(said.contains("was killed"), "{said}");
}

#[test]
fn it_is_in_the_registry_while_it_is_ready_and_answers_probes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = prestop::registry::memory::MemoryRegistry::new();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a free port");
    let url = format!("memory=http://{}", listener.local_addr().expect("bound"));
    runtime.spawn(store.clone().serve(listener));
    let probes = ports::free_port().to_string();

    let scratch = Scratch::new("registry");
    let script = "trap 'touch $1/term; exit 0' TERM; while [ ! -e $1/term ]; do sleep 0.02; done";
    let options = [
        "--registry",
        &url,
        "--service",
        "orders",
        "--address",
        "127.0.0.1:8080",
        "--metadata",
        "version=1",
        "--probes",
        &probes,
        // Ended by the test.
        "--grace-period",
        "600",
        "--lame-duck",
        "300",
    ];
    let mut started = Started::new(&mut run(&options, script, &scratch));
    until("it is registered", || store.instances("orders").len() == 1);
    assert_eq!(store.instances("orders")[0].metadata["version"], "1");
    assert!(get(&probes, "/readyz").starts_with("HTTP/1.1 200"));
    started.signal(Signal::TERM);
    until("it has left", || store.instances("orders").is_empty());
    assert!(
        !scratch.file("term").exists(),
        "it serves on in the lame duck"
    );
    assert!(get(&probes, "/readyz").starts_with("HTTP/1.1 503"));
    started.signal(Signal::INT);
    assert_eq!(started.code(), Some(0));
    assert!(scratch.file("term").exists());
}

fn get(address: &str, path: &str) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).expect("the probes listen");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .expect("connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

// prestop stop

fn stop(arguments: &[&str]) -> Output {
    prestop()
        .arg("stop")
        .args(arguments)
        .output()
        .expect("prestop")
}

#[track_caller]
fn answers(arguments: &[&str], code: i32, words: &str) {
    let output = stop(arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains(words),
        "{arguments:?}: {}",
        stderr(&output)
    );
}

/// A copy of sleep under a name that no other process has.
fn sleeper(scratch: &Scratch, name: &str) -> PathBuf {
    let program = scratch.file(&format!("{name}-{}", std::process::id()));
    std::fs::copy("/bin/sleep", &program).expect("a copy of sleep");
    program
}

/// Started, and waited for on a thread, as its parent would.
fn start(program: &Path) -> (u32, std::thread::JoinHandle<std::process::ExitStatus>) {
    // Nothing of ours: a test that fails leaves it behind, and who reads our output would wait for it.
    let mut child = Command::new(program)
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sleep");
    let pid = child.id();
    (
        pid,
        std::thread::spawn(move || child.wait().expect("our own")),
    )
}

#[test]
fn stop_finds_by_pid_pidfile_and_name_and_waits_until_it_is_gone() {
    use std::os::unix::process::ExitStatusExt;
    let scratch = Scratch::new("stop");
    let program = sleeper(&scratch, "stopme");
    let name = program
        .file_name()
        .expect("a name")
        .to_str()
        .expect("ASCII");
    let pidfile = scratch.file("pid");
    for (by, signal, number) in [
        ("--pid", "TERM", 15),
        // Not SIGQUIT: a shell starts what runs in the background with that ignored.
        ("--pidfile", "SIGUSR1", 10),
        ("--name", "9", 9),
    ] {
        let (pid, ended) = start(&program);
        std::fs::write(&pidfile, format!("{pid}\n")).expect("writable");
        let pid = pid.to_string();
        let what = match by {
            "--pid" => &pid,
            "--pidfile" => pidfile.to_str().expect("ASCII"),
            _ => name,
        };
        answers(&[by, what, "--signal", signal, "--within", "30s"], 0, "");
        assert_eq!(ended.join().expect("no panic").signal(), Some(number));
    }
}

#[test]
fn stop_says_what_keeps_it_from_it() {
    let scratch = Scratch::new("stop-answers");
    answers(
        &["--name", "prestop-no-such-program"],
        69,
        "there is no process",
    );
    answers(&["--pid", "4194304"], 69, "there is no process 4194304");
    answers(&["--pidfile", "/nonexistent/pid"], 66, "/nonexistent/pid");
    let pidfile = scratch.file("pid");
    let file = pidfile.to_str().expect("ASCII");
    std::fs::write(&pidfile, "none\n").expect("writable");
    answers(&["--pidfile", file], 66, "does not hold a pid");

    // Given to another process since.
    let program = sleeper(&scratch, "reused");
    let (pid, ended) = start(&program);
    std::fs::write(&pidfile, pid.to_string()).expect("writable");
    let written = std::fs::File::options()
        .write(true)
        .open(&pidfile)
        .expect("writable");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    written.set_modified(long_ago).expect("our own");
    answers(&["--pidfile", file], 66, "given to another process");

    // Several.
    let (_, other) = start(&program);
    let name = program
        .file_name()
        .expect("a name")
        .to_str()
        .expect("ASCII");
    answers(&["--name", name], 65, "none was signalled");
    answers(&["--name", name, "--all"], 0, "");
    ended.join().expect("no panic");
    other.join().expect("no panic");

    // Wrong arguments.
    for wrong in [
        &[][..],
        &["--pid", "4194304", "--name", "x"],
        &["--pid", "4194304", "--signal", "NO"],
        &["--pid", "4194304", "--all"],
    ] {
        assert_eq!(stop(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn stop_leaves_a_process_that_ignores_the_signal_unless_it_is_asked_to_kill() {
    let scratch = Scratch::new("stop-ignores");
    let up = scratch.file("up");
    let script = "trap '' TERM; echo up > $0; while :; do sleep 0.05; done";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&up);
    let mut started = Started::new(&mut command);
    until("it is up", || text(&up) == "up\n");
    let pid = started.child().id().to_string();
    answers(&["--pid", &pid, "--within", "0.1"], 75, "is still there");
    assert!(started.child().try_wait().expect("our own").is_none());
    answers(
        &["--pid", &pid, "--within", "0.1", "--kill"],
        72,
        "was killed",
    );
    assert_eq!(started.code(), None, "by a signal");
}

#[test]
fn stop_says_that_it_may_not() {
    if !rustix::process::geteuid().is_root() {
        // Somebody else's for everybody but root.
        answers(&["--pid", "1"], 77, "not permitted");
        return;
    }
    // Root may do anything: so as nobody, to a process of root's that is ours to lose.
    let scratch = Scratch::new("stop-may-not");
    let program = scratch.file("prestop");
    std::fs::copy(env!("CARGO_BIN_EXE_prestop"), &program).expect("a copy that nobody can reach");
    let mut started = Started::new(Command::new("sleep").arg("1000"));
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["stop", "--pid", &started.child().id().to_string()])
        .output()
        .expect("setpriv");
    assert_eq!(output.status.code(), Some(77), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("not permitted"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn nginx_counts_as_one_process() {
    // A program with a child of the same name, as a master with its workers.
    let scratch = Scratch::new("stop-family");
    let program = scratch.file(&format!("family-{}", std::process::id()));
    std::fs::copy("/bin/sh", &program).expect("a copy of sh");
    let name = program
        .file_name()
        .expect("a name")
        .to_str()
        .expect("ASCII")
        .to_owned();
    let script = "trap 'kill $child; exit 0' TERM; $0 -c 'echo up > $0; while :; do sleep 0.05; done' $1 & child=$!; wait";
    let up = scratch.file("up");
    let mut command = Command::new(&program);
    command.args(["-c", script]).arg(&program).arg(&up);
    let mut started = Started::new(&mut command);
    until("both are up", || text(&up) == "up\n");
    let waiting = std::thread::spawn(move || started.code());
    answers(&["--name", &name], 0, "");
    assert_eq!(waiting.join().expect("no panic"), Some(0));
}
