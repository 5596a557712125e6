//! How long after a program's end its wrapper ends: `prestop run`, and the shell loop that it replaces.
//!
//!     cargo bench --features cli,process --bench exit_latency
//!
//! Each run: a program writes the time (CLOCK_MONOTONIC) as its last act; this process notes the time when the wrapper
//! was waited for. `prestop` is taken 50 times, the loop, which asks once a second, 10 times.
// The program that is waited for has no runtime.
#![allow(clippy::disallowed_methods)]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the article has as a hook, around a program in place of java; `kill -0` asks as `ps -p` does, and is faster.
const LOOP: &str = r#""$0" "$1" & PID=$!; while kill -0 $PID 2>/dev/null; do sleep 1; done"#;

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// The program: lives for a moment, and says when it ends.
fn program() {
    std::thread::sleep(Duration::from_millis(150));
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", now().as_nanos());
}

fn lag(wrapper: &mut Command) -> Duration {
    let mut child = wrapper
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the wrapper starts");
    let status = child.wait().expect("our own child");
    let ended = now();
    assert!(status.success(), "{status}");
    let mut said = String::new();
    let mut out = child.stdout.take().expect("piped");
    out.read_to_string(&mut said).expect("a pipe");
    let nanos = said.trim().parse().expect("the time of its end");
    ended.saturating_sub(Duration::from_nanos(nanos))
}

fn row(name: &str, mut lags: Vec<Duration>) {
    lags.sort_unstable();
    let ms = |at: usize| lags[at].as_secs_f64() * 1000.0;
    let (median, worst) = (ms(lags.len() / 2), ms(lags.len() - 1));
    let _ = writeln!(
        std::io::stdout(),
        "{name:<14} {:>4} runs, median {median:>8.2} ms, worst {worst:>8.2} ms",
        lags.len()
    );
}

#[cfg(target_os = "linux")]
fn main() {
    const PROGRAM: &str = "program";
    if std::env::args().nth(1).as_deref() == Some(PROGRAM) {
        return program();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let prestop = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prestop"));
        command.args(["run", "--"]).arg(&own).arg(PROGRAM);
        command.env_remove("KUBERNETES_SERVICE_HOST");
        lag(&mut command)
    };
    let shell = || lag(Command::new("sh").args(["-c", LOOP]).arg(&own).arg(PROGRAM));
    let direct = || lag(Command::new(&own).arg(PROGRAM));
    row("no wrapper", (0..50).map(|_| direct()).collect());
    row("prestop run", (0..50).map(|_| prestop()).collect());
    row("shell loop", (0..10).map(|_| shell()).collect());
}

#[cfg(not(target_os = "linux"))]
fn main() {}
