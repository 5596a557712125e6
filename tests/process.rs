//! Programs under the coordinator: real processes, their ends, and what they leave behind.
//!
//! What concerns a whole process (PID 1, orphans, exit codes) is in `tests/prestop_run.rs`, by the binary.
#![cfg(all(target_os = "linux", not(loom)))]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prestop::process::{
    Output, Process, ReadyWhen, Signal, StopPlan, StopStep, Supervised, Supervisor,
};
use prestop::{Outcome, Phase, Reason, ShutdownCoordinator, ShutdownHandle, WorkKind};
use support::{grace, until, within};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("prestop-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A shell with this script; `$1` is the directory.
fn sh(script: &str, scratch: &Scratch) -> Supervisor {
    Supervisor::new("sh")
        .args(["-c", script, "sh"])
        .arg(&scratch.0)
}

/// A program under a coordinator, in a task.
struct Program {
    h: ShutdownHandle,
    run: JoinHandle<Supervised>,
}

impl Program {
    fn start(c: ShutdownCoordinator, supervisor: Supervisor) -> Self {
        let h = c.handle();
        let run = tokio::spawn(async move { c.supervise(supervisor).await.expect("it starts") });
        Self { h, run }
    }

    /// Started, and has written this file.
    async fn up(c: ShutdownCoordinator, supervisor: Supervisor, wrote: &Path) -> Self {
        let program = Self::start(c, supervisor);
        until("the program is up", || text(wrote).ends_with('\n')).await;
        program
    }

    fn stop(&self) {
        assert!(self.h.trigger(Reason::requested("test")), "stopped twice");
    }

    async fn ended(self) -> Supervised {
        within("the end", self.run).await.expect("no panic")
    }

    async fn stopped(self) -> Supervised {
        self.stop();
        self.ended().await
    }
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn pid_in(file: &Path) -> u32 {
    text(file).trim().parse().expect("a pid")
}

fn is_gone(pid: u32) -> bool {
    Process::open(pid).is_err_and(|error| error.is_not_found())
}

fn c() -> ShutdownCoordinator {
    grace(600).build().expect("it fits")
}

/// As short as a grace period gets with a whole plan: the drain has 0.8 s.
fn hasty() -> ShutdownCoordinator {
    grace(5).build().expect("it fits")
}

#[tokio::test]
async fn an_end_by_itself_is_a_trigger_and_its_code_is_kept() {
    let scratch = Scratch::new("codes");
    for (script, code, clean) in [
        ("exit 0", 0, true),
        ("exit 1", 1, false),
        ("kill -TERM $$", 143, false),
        ("kill -KILL $$", 137, false),
    ] {
        let ended = Program::start(c(), sh(script, &scratch)).ended().await;
        assert_eq!(ended.exit_code(), code, "{script}: {}", ended.report);
        assert_eq!(ended.report.is_clean(), clean, "{script}: {}", ended.report);
        assert!(
            matches!(&ended.report.reason, Reason::TaskEnded(how) if how.starts_with("sh (pid "))
        );
    }
}

#[tokio::test]
async fn the_steps_come_in_the_drain_after_the_leave_steps_and_the_lame_duck() {
    let scratch = Scratch::new("order");
    let log = scratch.file("log");
    let script =
        "trap 'echo term >> $1/log; exit 7' TERM; echo up >> $1/log; while :; do sleep 0.1; done";
    let leave = StopStep::command([
        "sh",
        "-c",
        "echo left >> \"$0\"",
        log.to_str().expect("ASCII"),
    ]);
    let plan = StopPlan::terminate().leave(leave);
    let c = grace(600)
        .lame_duck(Duration::from_millis(300))
        .build()
        .expect("it fits");
    let program = Program::up(c, sh(script, &scratch).stop_plan(plan), &log).await;
    program.stop();
    within("lame duck", program.h.wait_for(Phase::LameDuck)).await;
    until("left", || text(&log).contains("left")).await;
    assert!(!text(&log).contains("term") || program.h.phase() >= Phase::Draining);
    let ended = program.ended().await;
    assert_eq!(text(&log), "up\nleft\nterm\n");
    assert_eq!(ended.exit_code(), 7, "its own code, although it was asked");
    assert!(
        ended.report.tasks[0].outcome == Outcome::Failed("exit code 7 in draining".into()),
        "{}",
        ended.report
    );
}

#[tokio::test]
async fn sigterm_as_asked_is_clean_and_143() {
    let scratch = Scratch::new("term");
    let program = Program::up(
        c(),
        sh("echo up > $1/up; exec sleep 1000", &scratch),
        &scratch.file("up"),
    )
    .await;
    let ended = program.stopped().await;
    assert!(ended.report.is_clean(), "{}", ended.report);
    assert_eq!(ended.exit_code(), 143);
}

#[tokio::test]
async fn what_ignores_every_step_is_killed_with_its_group_and_named() {
    let scratch = Scratch::new("ignores");
    let script = "trap '' TERM; sleep 1000 & echo $! > $1/grandchild; echo $$ > $1/up; wait; wait; sleep 1000";
    let program = Program::up(hasty(), sh(script, &scratch), &scratch.file("up")).await;
    let (pid, grandchild) = (
        pid_in(&scratch.file("up")),
        pid_in(&scratch.file("grandchild")),
    );
    let ended = program.stopped().await;
    let report = &ended.report;
    assert_eq!(
        (ended.exit_code(), report.exit_code()),
        (137, 72),
        "{report}"
    );
    let [straggler] = &report.stragglers[..] else {
        panic!("{report}")
    };
    assert_eq!(straggler.kind, WorkKind::Process);
    assert_eq!(straggler.what, format!("sh (pid {pid})"));
    until("the grandchild is gone", || is_gone(grandchild)).await;
}

#[tokio::test]
async fn a_step_that_does_nothing_is_followed_by_the_next_one() {
    let scratch = Scratch::new("next");
    let script = "trap '' QUIT; trap 'exit 0' TERM; echo up > $1/up; while :; do sleep 0.05; done";
    let plan = StopPlan::new()
        .then(StopStep::command(["false"]))
        .then(StopStep::http_get("http://127.0.0.1:1/never"))
        .then(StopStep::signal(Signal::QUIT).within(Duration::from_millis(200)))
        .then(StopStep::signal(Signal::TERM));
    let program = Program::up(
        c(),
        sh(script, &scratch).stop_plan(plan),
        &scratch.file("up"),
    )
    .await;
    let ended = program.stopped().await;
    let failed: Vec<_> = ended
        .report
        .tasks
        .iter()
        .map(|t| t.outcome.to_string())
        .collect();
    assert_eq!(failed.len(), 2, "{}", ended.report);
    assert_eq!(failed[0], "FAILED: false: exit code 1");
    assert!(failed[1].contains("127.0.0.1:1"), "{failed:?}");
    assert_eq!(
        ended.exit_code(),
        71,
        "the program's 0 hides no failed step"
    );
}

#[tokio::test]
async fn one_that_stopped_itself_still_hears_sigterm() {
    let scratch = Scratch::new("sigstop");
    let script = "trap 'echo term > $1/term; exit 0' TERM; echo $$ > $1/up; kill -STOP $$; while :; do sleep 0.05; done";
    let program = Program::up(c(), sh(script, &scratch), &scratch.file("up")).await;
    let pid = pid_in(&scratch.file("up"));
    until("it is stopped", || {
        text(Path::new(&format!("/proc/{pid}/stat"))).contains(") T ")
    })
    .await;
    let ended = program.stopped().await;
    assert!(ended.report.is_clean(), "{}", ended.report);
    assert_eq!(text(&scratch.file("term")), "term\n");
}

#[tokio::test]
async fn a_death_in_the_lame_duck_ends_it_and_is_on_record() {
    let scratch = Scratch::new("lame-duck");
    let script = "echo up > $1/up; while [ ! -e $1/die ]; do sleep 0.05; done; exit 4";
    let c = grace(600)
        .lame_duck(Duration::from_secs(300))
        .build()
        .expect("it fits");
    let program = Program::up(c, sh(script, &scratch), &scratch.file("up")).await;
    program.stop();
    within("lame duck", program.h.wait_for(Phase::LameDuck)).await;
    std::fs::write(scratch.file("die"), "").expect("writable");
    let ended = program.ended().await; // in less than the 300 s of lame duck
    assert_eq!(ended.exit_code(), 4);
    let outcome = &ended.report.tasks[0].outcome;
    assert_eq!(
        *outcome,
        Outcome::Failed("exit code 4, by itself in lame_duck".into())
    );
}

#[tokio::test]
async fn an_end_in_good_order_before_it_was_asked_is_on_record_while_it_should_serve() {
    let scratch = Scratch::new("early");
    let script = "echo up > $1/up; while [ ! -e $1/die ]; do sleep 0.05; done";
    let c = grace(600)
        .lame_duck(Duration::from_secs(300))
        .build()
        .expect("it fits");
    let program = Program::up(c, sh(script, &scratch), &scratch.file("up")).await;
    program.stop();
    within("lame duck", program.h.wait_for(Phase::LameDuck)).await;
    std::fs::write(scratch.file("die"), "").expect("writable");
    let ended = program.ended().await;
    assert_eq!(ended.exit_code(), 71, "{}", ended.report);
}

#[tokio::test]
async fn a_grandchild_that_holds_the_port_and_ignores_sigterm_is_killed() {
    let scratch = Scratch::new("port");
    let script = r#"
        $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1:0") or die "no port: $!";
        $port = $s->sockport;
        if (!fork) { $SIG{TERM} = "IGNORE"; while (1) { sleep 1000 } }
        open($f, ">", $ARGV[0]); print $f "$port\n"; close $f;
        sleep 1000;
    "#;
    let file = scratch.file("port");
    let perl = Supervisor::new("perl")
        .args(["-MIO::Socket::INET", "-e", script])
        .arg(&file);
    let program = Program::up(hasty(), perl, &file).await;
    let port: u16 = text(&file).trim().parse().expect("a port");
    assert!(
        std::net::TcpListener::bind(("127.0.0.1", port)).is_err(),
        "it is taken"
    );
    let ended = program.stopped().await;
    assert_eq!(ended.exit_code(), 143, "the program itself ended as asked");
    let [left] = &ended.report.stragglers[..] else {
        panic!("{}", ended.report)
    };
    assert!(left.what.ends_with("left behind by perl"), "{left}");
    // The kernel closes a killed process's sockets before it is a zombie.
    until("the port is free", || {
        std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
    })
    .await;
}

#[tokio::test]
async fn one_that_puts_itself_into_the_background_is_ended_in_the_drain() {
    let scratch = Scratch::new("background");
    let script = "sleep 1000 & echo $! > $1/up";
    let c = grace(600)
        .lame_duck(Duration::from_millis(200))
        .build()
        .expect("it fits");
    let program = Program::up(c, sh(script, &scratch), &scratch.file("up")).await;
    let pid = pid_in(&scratch.file("up"));
    let ended = program.ended().await;
    assert!(ended.report.is_clean(), "{}", ended.report);
    assert!(is_gone(pid));
    let lame_duck = ended
        .report
        .phases
        .iter()
        .find(|p| p.phase == Phase::LameDuck);
    let used = lame_duck.expect("the phase").used;
    assert!(
        used >= Duration::from_millis(200),
        "it may still have served: {}",
        ended.report
    );
}

#[tokio::test]
async fn dropping_the_run_kills_the_group() {
    let scratch = Scratch::new("dropped");
    let script = "trap '' TERM; sleep 1000 & echo $! > $1/grandchild; echo $$ > $1/up; wait";
    let program = Program::up(c(), sh(script, &scratch), &scratch.file("up")).await;
    program.run.abort();
    let (pid, grandchild) = (
        pid_in(&scratch.file("up")),
        pid_in(&scratch.file("grandchild")),
    );
    until("both are gone", || is_gone(pid) && is_gone(grandchild)).await;
}

#[tokio::test]
async fn a_stop_before_the_start_starts_nothing() {
    let scratch = Scratch::new("never");
    let c = c();
    c.handle().trigger(Reason::requested("first"));
    let ended = Program::start(c, sh("touch $1/started", &scratch))
        .ended()
        .await;
    assert!(
        ended.status.is_none() && ended.report.is_clean(),
        "{}",
        ended.report
    );
    assert!(!scratch.file("started").exists());
}

#[tokio::test]
async fn what_cannot_be_started_says_so_as_a_shell_would() {
    let scratch = Scratch::new("start");
    let plain = scratch.file("plain");
    std::fs::write(&plain, "no program").expect("writable");
    for (program, code) in [(Path::new("/nonexistent/nginx"), 127), (&plain, 126)] {
        let error = c()
            .supervise(Supervisor::new(program))
            .await
            .expect_err("no program");
        assert_eq!(error.exit_code(), code, "{error}");
        let name = program
            .file_name()
            .expect("a name")
            .to_str()
            .expect("ASCII");
        assert!(
            error.to_string().starts_with(&format!("starting {name}: ")),
            "{error}"
        );
    }
    let unheard = Supervisor::new("true").ready_when(ReadyWhen::log_line("up"));
    let error = c()
        .supervise(unheard)
        .await
        .expect_err("nobody reads its output");
    assert!(error.to_string().contains("Output::Forward"), "{error}");
}

#[tokio::test]
async fn every_sign_of_readiness_is_waited_for() {
    let scratch = Scratch::new("ready");
    // Bound, so that nobody else gets the port, and not listening yet.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind(([127, 0, 0, 1], 0).into())
        .expect("a free port");
    let address = socket.local_addr().expect("bound");
    let pidfile = scratch.file("pidfile");
    std::fs::write(&pidfile, "of a predecessor\n").expect("writable");
    // Some file systems count in ticks of 4 ms: the two writes must differ.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let signs = [
        ReadyWhen::tcp(&address),
        ReadyWhen::http(format!("http://{address}/ready?token=secret")),
        ReadyWhen::log_line("Server started in"),
        ReadyWhen::file(&pidfile),
        ReadyWhen::command(["test", "-e", scratch.file("go").to_str().expect("ASCII")]),
    ];
    let names: Vec<_> = signs.iter().map(ToString::to_string).collect();
    assert!(!names[1].contains("secret"), "{names:?}");
    let script = "while [ ! -e $1/print ]; do sleep 0.05; done; printf 'Server star'; sleep 0.1; echo 'ted in 3 ms'; exec sleep 1000";
    let mut supervisor = sh(script, &scratch).output(Output::Tracing);
    for sign in signs {
        supervisor = supervisor.ready_when(sign);
    }
    let program = Program::start(c(), supervisor);
    let ready = program.h.wait_for(Phase::Ready);
    tokio::pin!(ready);
    let not_yet = async |ready: &mut std::pin::Pin<&mut _>| {
        tokio::time::timeout(Duration::from_millis(300), ready)
            .await
            .is_err()
    };
    assert!(not_yet(&mut ready).await, "nobody listens");
    let app = axum::Router::new().route("/ready", axum::routing::get(|| async { "yes" }));
    let listener = socket.listen(16).expect("it is ours");
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    assert!(not_yet(&mut ready).await, "nothing printed");
    std::fs::write(scratch.file("print"), "").expect("writable");
    assert!(not_yet(&mut ready).await, "an old file");
    std::fs::write(&pidfile, "new\n").expect("writable");
    assert!(not_yet(&mut ready).await, "the command fails");
    std::fs::write(scratch.file("go"), "").expect("writable");
    within("ready", ready).await;
    let ended = program.stopped().await;
    assert!(ended.report.is_clean(), "{}", ended.report);
    server.abort();
}

#[tokio::test]
async fn one_that_is_never_ready_is_stopped_with_70() {
    let scratch = Scratch::new("never-ready");
    let supervisor = sh("exec sleep 1000", &scratch)
        .ready_when(ReadyWhen::file(scratch.file("never")))
        .ready_within(Duration::from_millis(200));
    let ended = Program::start(c(), supervisor).ended().await;
    assert!(
        matches!(ended.report.reason, Reason::StartFailed(_)),
        "{}",
        ended.report
    );
    assert_eq!(ended.exit_code(), 70);
}

#[tokio::test]
async fn a_child_of_tokio_keeps_its_exit_code_beside_a_supervisor() {
    let scratch = Scratch::new("tokio");
    let program = Program::up(
        c(),
        sh("echo up > $1/up; exec sleep 1000", &scratch),
        &scratch.file("up"),
    )
    .await;
    let mut others = Vec::new();
    for code in 0..20 {
        let mut command = tokio::process::Command::new("sh");
        others.push(
            command
                .args(["-c", &format!("exit {code}")])
                .spawn()
                .expect("sh"),
        );
    }
    for (code, mut other) in others.into_iter().enumerate() {
        let status = other.wait().await.expect("its own child");
        assert_eq!(
            status.code().and_then(|code| usize::try_from(code).ok()),
            Some(code)
        );
    }
    assert!(program.stopped().await.report.is_clean());
}

#[tokio::test]
async fn a_process_of_somebody_else_is_found_signalled_and_waited_for() {
    let scratch = Scratch::new("other");
    // A name of its own, so that no other test's processes match.
    let program = scratch.file("prestop-other");
    std::fs::copy("/bin/sleep", &program).expect("a copy of sleep");
    let name = program
        .file_name()
        .expect("a name")
        .to_str()
        .expect("ASCII");
    assert!(Process::find(name).expect("/proc").is_empty());
    let mut child = Command::new(&program).arg("1000").spawn().expect("sleep");
    let found = Process::find(name).expect("/proc");
    let [process] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (process.pid(), process.name()),
        (child.id(), "prestop-other")
    );
    assert!(process.age().expect("/proc") < Duration::from_secs(600));
    assert_eq!(
        Process::find(program.to_str().expect("ASCII"))
            .expect("/proc")
            .len(),
        1
    );
    assert!(!process.is_gone());

    let begun = Instant::now();
    let soon = prestop::Deadline::after(Duration::from_millis(50));
    assert!(!process.gone(soon).await && begun.elapsed() >= Duration::from_millis(50));

    process.signal(Signal::TERM).expect("our own");
    let late = prestop::Deadline::after(Duration::from_secs(20));
    assert!(process.gone(late).await, "a zombie is gone");
    assert!(
        Process::find(name).expect("/proc").is_empty(),
        "and not found"
    );
    child.wait().expect("our own");
    assert!(
        process
            .signal(Signal::TERM)
            .is_err_and(|e| e.is_not_found())
    );
    assert!(Process::open(child.id()).is_err_and(|e| e.is_not_found()));
}

#[tokio::test]
async fn a_pidfile_older_than_its_process_is_stale() {
    let scratch = Scratch::new("pidfile");
    let file = scratch.file("pid");
    assert!(Process::from_pidfile(&file).is_err_and(|e| e.is_unreadable()));
    std::fs::write(&file, "not a pid\n").expect("writable");
    assert!(Process::from_pidfile(&file).is_err_and(|e| e.is_unreadable()));

    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    std::fs::write(&file, format!("{}\n", child.id())).expect("writable");
    assert_eq!(
        Process::from_pidfile(&file).expect("fresh").pid(),
        child.id()
    );
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    let handle = std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("writable");
    handle.set_modified(an_hour_ago).expect("our own");
    let error = Process::from_pidfile(&file).expect_err("stale");
    assert!(error.is_stale(), "{error}");
    assert!(
        error.to_string().contains("given to another process"),
        "{error}"
    );

    child.kill().expect("our own");
    child.wait().expect("our own");
    assert!(Process::from_pidfile(&file).is_err_and(|e| e.is_not_found()));
}
