//! Real signals, sent to real processes. A binary of its own, because signals (and the process's end) belong to the
//! whole process: each test starts this binary again as a child, in which `child` is the program.
//!
//! A child says on standard output what state it has reached, and the test waits for that line before it goes on;
//! what a child's own stop waits for is a few seconds at the most. A bound of [`LONG`] is no measurement: what it tells
//! apart from takes a minute and more.
#![cfg(all(unix, not(loom), feature = "signal"))]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use prestop::{GracePeriod, Phase, ShutdownCoordinator, ShutdownCoordinatorBuilder, Signals};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// Which program the child is.
const SCENE: &str = "PRESTOP_TEST_SCENE";

/// Longer than a busy machine takes for a child that does not wait, shorter than anything that a child waits for.
const LONG: Duration = Duration::from_secs(40);
/// The lame duck of the scenes in which it must be ended early, and how long a thread is blocked.
const LONGER: Duration = Duration::from_secs(80);

/// A program under test, and what it says.
struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
    begun: Instant,
}

struct Ended {
    code: Option<i32>,
    stderr: String,
    after: Duration,
}

impl Program {
    fn start(scene: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args([
                "--exact",
                "child",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(SCENE, scene)
            .env("RUST_BACKTRACE", "0")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            out,
            begun: Instant::now(),
        }
    }

    /// Reads until the child says this, then starts the clock anew.
    #[track_caller]
    fn says(&mut self, what: &str) {
        let mut heard = String::new();
        let mut line = String::new();
        while self.out.read_line(&mut line).expect("a pipe") > 0 {
            if line.trim_end().ends_with(&format!("| {what}")) {
                self.begun = Instant::now();
                return;
            }
            heard.push_str(&std::mem::take(&mut line));
        }
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut err).expect("a pipe");
        panic!("the child ended without saying {what:?}, but\n{heard}{err}");
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child runs");
    }

    fn ended(mut self) -> Ended {
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("a pipe");
        pipe.read_to_string(&mut stderr).expect("a pipe");
        let status = self.child.wait().expect("our own child");
        Ended {
            code: status.code(),
            stderr,
            after: self.begun.elapsed(),
        }
    }

    #[track_caller]
    fn ends_with(self, code: u8) -> Ended {
        let ended = self.ended();
        assert_eq!(ended.code, Some(i32::from(code)), "{}", ended.stderr);
        ended
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that passed has waited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says it to the test. libtest may have begun the line with the test's name.
fn say(what: impl std::fmt::Display) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "| {what}").expect("the test listens");
    out.flush().expect("the test listens");
}

fn builder(grace: u64) -> ShutdownCoordinatorBuilder {
    ShutdownCoordinator::builder()
        .grace_period(GracePeriod::from_secs(grace).expect("a grace period"))
        .lame_duck(Duration::ZERO)
}

async fn secs(length: f64) {
    tokio::time::sleep(Duration::from_secs_f64(length)).await;
}

#[allow(clippy::disallowed_methods)] // blocking its thread is what the scene is about
fn block() {
    std::thread::sleep(LONGER);
}

/// Says each phase as it is reached.
fn follow(c: &ShutdownCoordinator) {
    let h = c.handle();
    tokio::spawn(async move {
        for phase in Phase::ALL {
            h.wait_for(phase).await;
            say(phase);
        }
    });
}

/// Each phase takes long enough to be hit by a signal: half a second that is waited through in full.
async fn slow_phases() {
    let c = builder(60)
        .lame_duck(Duration::from_millis(300))
        .on_started("slow", |_| async {
            say("on_started");
            secs(0.3).await;
        })
        .pre_stop("slow", |_| secs(0.4))
        .on_stopped("slow", |_| async {
            say("on_stopped");
            secs(0.3).await;
            say("flushed");
        })
        .build()
        .expect("builds");
    follow(&c);
    let h = c.handle();
    let worker = h.clone();
    h.spawn("work", async move {
        worker.draining().await;
        secs(0.3).await;
        say("worked");
    })
    .expect("open");
    c.run(h.draining()).await.expect("a report").exit()
}

/// Never ends by itself before its deadline.
async fn stuck(grace: u64, on_stopped: bool) {
    let lame_duck = if grace > 100 { LONGER } else { Duration::ZERO };
    let c = builder(grace)
        .lame_duck(lame_duck)
        .on_stopped("hangs", move |_| async move {
            if on_stopped {
                say("hanging");
                std::future::pending::<()>().await;
            }
        })
        .on_stopped("flush", |_| async { say("flushed") })
        .build()
        .expect("builds");
    follow(&c);
    let h = c.handle();
    h.spawn("stuck", std::future::pending::<()>())
        .expect("open");
    c.run(h.draining()).await.expect("a report").exit()
}

/// The program of the children.
#[test]
#[ignore = "the program that the other tests start"]
fn child() {
    let Ok(scene) = std::env::var(SCENE) else {
        return;
    };
    let (threads, scene) = scene.split_once(' ').expect("threads, then the scene");
    let mut runtime = match threads {
        "one" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads == "two" {
        runtime.worker_threads(2);
    }
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match scene {
            "slow phases" => slow_phases().await,
            "stuck" => stuck(600, false).await,
            "stuck shortly" => stuck(4, false).await,
            "stuck to the end" => stuck(600, true).await,
            "late run" => {
                let c = builder(60).build().expect("builds");
                say("built");
                // The test has sent its signal when it closes our standard input, and not before.
                tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
                    .await
                    .expect("no panic")
                    .expect("a pipe");
                let h = c.handle();
                c.run(h.draining()).await.expect("a report").exit()
            }
            "blocking pre_stop" | "blocking on_stopped" => {
                // The plan of one thread is over when it is blocked; that of two goes on, and is to have its time.
                let c = builder(if threads == "one" { 4 } else { 10 });
                let c = if scene == "blocking pre_stop" {
                    c.pre_stop("the blocker", |_| async { block() })
                } else {
                    c.on_stopped("the blocker", |_| async { block() })
                };
                let c = c
                    .on_stopped("flush", |_| async { say("flushed") })
                    .build()
                    .expect("builds");
                follow(&c);
                let h = c.handle();
                c.run(h.draining()).await.expect("a report").exit()
            }
            "blocking main" => {
                let c = builder(4)
                    .on_stopped("flush", |_| async { say("flushed") })
                    .build()
                    .expect("builds");
                follow(&c);
                let h = c.handle();
                let main = async move {
                    h.draining().await;
                    block();
                };
                c.run(main).await.expect("a report").exit()
            }
            "blocking before" => {
                // A task that a timer woke, so that its worker was the one that looks after timers and signals.
                let c = builder(4).build().expect("builds");
                let h = c.handle();
                h.spawn("the blocker", async {
                    secs(0.05).await;
                    say("blocked");
                    block();
                })
                .expect("open");
                c.run(h.draining()).await.expect("a report").exit()
            }
            "blocking quietly" => {
                // Nobody else is awake: no task that follows, no hook before.
                let c = builder(4)
                    .on_stopped("the blocker", |_| async { block() })
                    .build()
                    .expect("builds");
                let h = c.handle();
                let main = h.draining();
                say("ready");
                c.run(main).await.expect("a report").exit()
            }
            "quit" => {
                let c = builder(60)
                    .signals(Signals::new().and_quit())
                    .build()
                    .expect("builds");
                follow(&c);
                let h = c.handle();
                c.run(h.draining()).await.expect("a report").exit()
            }
            "no run" => {
                let c = builder(4).build().expect("builds");
                say("built");
                c.handle().wait_for(Phase::PreStop).await;
                say("triggered");
                std::future::pending::<()>().await;
            }
            other => panic!("no scene {other:?}"),
        }
    });
}

#[test]
fn sigterm_in_any_phase_never_escalates() {
    for state in ["ready", "pre_stop", "lame_duck", "draining", "stopping"] {
        let mut program = Program::start("two slow phases");
        program.says("ready");
        program.send(Signal::TERM);
        if state != "ready" {
            program.says(state);
        }
        program.send(Signal::TERM);
        // Work and hooks had all of their time.
        program.says("flushed");
        let ended = program.ends_with(0);
        assert!(ended.stderr.is_empty(), "{state}: {}", ended.stderr);
    }
}

/// The start is cut and undone. Nothing was lost: a rollout that is taken back is a clean stop.
#[test]
fn sigterm_while_starting_cuts_the_start() {
    let mut program = Program::start("two slow phases");
    program.says("on_started");
    program.send(Signal::TERM);
    program.says("flushed");
    let ended = program.ends_with(0);
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
}

#[test]
fn fifty_sigterms_are_one() {
    let mut program = Program::start("two slow phases");
    program.says("ready");
    for _ in 0..50 {
        program.send(Signal::TERM);
    }
    program.says("lame_duck");
    for _ in 0..50 {
        program.send(Signal::TERM);
    }
    for later in ["draining", "worked", "flushed"] {
        program.says(later);
    }
    program.ends_with(0);
}

#[test]
fn sigint_as_the_trigger_means_no_lame_duck() {
    let mut program = Program::start("two stuck");
    program.says("ready");
    program.send(Signal::INT);
    program.says("pre_stop");
    program.says("draining");
    assert!(program.begun.elapsed() < LONG, "a lame duck");
    // The second one forces, and what is reserved is kept.
    program.send(Signal::INT);
    program.says("flushed");
    let ended = program.ends_with(72);
    assert!(ended.after < LONG, "{:?}", ended.after);
    assert!(ended.stderr.contains("\"stuck\""), "{}", ended.stderr);
    assert!(ended.stderr.contains("SIGINT"), "{}", ended.stderr);
}

#[test]
fn the_first_sigint_after_sigterm_ends_the_lame_duck_and_the_next_one_forces() {
    let mut program = Program::start("two stuck");
    program.says("ready");
    program.send(Signal::TERM);
    program.says("lame_duck");
    let begun = Instant::now();
    program.send(Signal::INT);
    program.says("draining");
    assert!(begun.elapsed() < LONG, "ended early");
    program.send(Signal::INT);
    program.says("flushed");
    let ended = program.ends_with(72);
    assert!(ended.stderr.contains("SIGTERM"), "{}", ended.stderr);
}

#[test]
fn a_third_sigint_exits_at_once() {
    let mut program = Program::start("two stuck to the end");
    program.says("ready");
    // Each has its effect before the next is sent: signals that come together may be merged into one.
    program.send(Signal::INT);
    program.says("draining");
    program.send(Signal::INT);
    program.says("hanging");
    program.send(Signal::INT);
    let ended = program.ends_with(130);
    assert!(ended.after < LONG, "{:?}", ended.after);
    for part in ["third time", "\"stuck\"", "hangs  STILL RUNNING"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn sigterm_between_build_and_run_is_kept() {
    for threads in ["one", "two"] {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args([
                "--exact",
                "child",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(SCENE, format!("{threads} late run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let mut program = Program {
            child,
            out,
            begun: Instant::now(),
        };
        program.says("built");
        program.send(Signal::TERM);
        drop(program.child.stdin.take());
        program.ends_with(0);
    }
}

/// Before the 4 s are over, in which SIGKILL would come; and not before the plan's 3. A machine that stands still for a
/// second in the middle of it proves nothing: one of five is enough.
fn ended_by_the_watchdog(scene: &str) -> Ended {
    let mut after = Vec::new();
    for _ in 0..5 {
        let mut program = Program::start(scene);
        program.says("ready");
        program.send(Signal::TERM);
        let ended = program.ends_with(72);
        assert!(
            ended.after > Duration::from_millis(2_990),
            "{scene}: {:?}",
            ended.after
        );
        after.push(ended.after);
        if ended.after < Duration::from_secs(4) {
            return ended;
        }
    }
    panic!("{scene}: ended after {after:?} of 4 s");
}

/// S5: the last guard. On one thread a hook that blocks stops the plan, its timers, the signals.
#[test]
fn on_one_thread_a_hook_that_blocks_is_ended_by_the_watchdog_and_named() {
    for scene in ["blocking pre_stop", "blocking on_stopped"] {
        let ended = ended_by_the_watchdog(&format!("one {scene}"));
        assert!(ended.stderr.contains("watchdog"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("the blocker  STILL RUNNING"),
            "{}",
            ended.stderr
        );
    }
}

/// With a thread to spare the plan goes on, and the hook is only one that timed out.
#[test]
fn on_several_threads_a_hook_that_blocks_only_times_out() {
    for scene in ["blocking pre_stop", "blocking on_stopped"] {
        let mut program = Program::start(&format!("two {scene}"));
        program.says("ready");
        program.send(Signal::TERM);
        program.says("flushed");
        let ended = program.ends_with(71);
        assert!(ended.after < LONG, "{:?}", ended.after);
        let line = ended.stderr.lines().find(|l| l.contains("the blocker"));
        assert!(
            line.is_some_and(|l| l.ends_with("TIMED OUT")),
            "{}",
            ended.stderr
        );
    }
}

/// The same when the hook is the only thing that happens: tokio lets a worker that blocks keep the task it woke last
/// to itself, and wakes no other worker for a single task, which may leave nobody to look after the timers.
#[test]
fn on_several_threads_a_hook_that_blocks_does_not_take_the_timers_with_it() {
    let mut programs: Vec<_> = (0..10)
        .map(|_| Program::start("two blocking quietly"))
        .collect();
    for program in &mut programs {
        program.says("ready");
        program.send(Signal::TERM);
    }
    for program in programs {
        program.ends_with(71);
    }
}

/// `run` cannot return while its own thread is blocked; the plan goes on, then the watchdog ends it.
#[test]
fn a_main_future_that_blocks_is_ended_by_the_watchdog() {
    for threads in ["one", "two"] {
        let mut program = Program::start(&format!("{threads} blocking main"));
        program.says("ready");
        program.send(Signal::TERM);
        if threads == "two" {
            program.says("flushed");
        }
        let ended = program.ends_with(72);
        assert!(ended.after < LONG, "{:?}", ended.after);
        assert!(ended.stderr.contains("watchdog"), "{}", ended.stderr);
    }
}

/// Images made from nginx inherit `STOPSIGNAL SIGQUIT`.
#[test]
fn sigquit_is_a_trigger_when_it_was_asked_for() {
    let mut program = Program::start("one quit");
    program.says("ready");
    program.send(Signal::QUIT);
    program.says("stopped");
    program.ends_with(0);
}

/// S10: a signal is heard although every thread of the service, or the one that reads signals for tokio, is blocked.
#[test]
fn sigterm_is_heard_while_a_worker_is_blocked() {
    for threads in ["one", "two"] {
        let mut program = Program::start(&format!("{threads} blocking before"));
        program.says("blocked");
        program.send(Signal::TERM);
        let ended = program.ends_with(72);
        assert!(ended.after < LONG, "{threads}: {:?}", ended.after);
        assert!(
            ended.stderr.contains("SIGTERM"),
            "{threads}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains("the blocker"),
            "{threads}: {}",
            ended.stderr
        );
    }
}

#[test]
fn stuck_work_is_cut_in_time_and_named() {
    let mut program = Program::start("one stuck shortly");
    program.says("ready");
    program.send(Signal::TERM);
    let ended = program.ends_with(72);
    assert!(ended.stderr.contains("signals.rs:"), "{}", ended.stderr);
}

/// The watchdog is there for a runtime that does not get on. One that stood still with its whole process, past its
/// deadline, does, when it is woken: its plan goes on to its end, and its report is its own.
#[test]
fn a_process_that_stood_still_is_not_taken_for_one_that_is_blocked() {
    for threads in ["one", "two"] {
        let mut program = Program::start(&format!("{threads} stuck shortly"));
        program.says("ready");
        program.send(Signal::TERM);
        program.says("pre_stop");
        program.send(Signal::STOP);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            std::thread::park_timeout(Duration::from_secs(1));
        }
        program.send(Signal::CONT);
        program.says("stopped");
        let ended = program.ends_with(72);
        assert!(!ended.stderr.contains("watchdog"), "{}", ended.stderr);
    }
}

/// A program that is told to stop before it has come to `run`, and never comes there.
#[test]
fn a_stop_that_nobody_runs_is_ended_by_the_watchdog() {
    let mut program = Program::start("one no run");
    program.says("built");
    program.send(Signal::TERM);
    program.says("triggered");
    let ended = program.ends_with(72);
    assert!(ended.after < LONG, "{:?}", ended.after);
}

/// S10.
#[test]
fn building_outside_of_a_runtime_is_an_error() {
    for builder in [
        ShutdownCoordinator::builder(),
        ShutdownCoordinator::builder_without_signals(),
    ] {
        let error = builder
            .lame_duck(Duration::ZERO)
            .grace_period(GracePeriod::DEFAULT)
            .build()
            .expect_err("no runtime");
        assert!(error.is_runtime(), "{error}");
    }
}
