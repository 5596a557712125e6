//! A Java service under load, stopped ten times by each recipe: the article's, the usual one, and `StopPlan::java()`.
//!
//! Run: `cargo run --release --example java` (five minutes; `-- --help` for less). It needs a JDK, 11 or later (Debian:
//! `default-jdk-headless`). The service, `Service.java`, is on the JDK's own HTTP server; gateway, registry and clients are
//! in this process.
//!
//! What the article does: `kill -SIGTERM $PID && while ps -p $PID; do sleep 1; done` as the preStop hook. What goes wrong:
//! the JVM stops while clients are still sent to it; the loop needs a shell, has no bound, and sees the end up to a second
//! late. What to watch: the row `prestop` has no failure.

// A binary has no outside: `pub` says that another module uses it. The modules of `rolling_update` are used in part.
#![allow(unreachable_pub, dead_code)]

#[path = "../wrapped/call.rs"]
mod call;
#[path = "../wrapped/cli.rs"]
mod cli;
#[path = "../rolling_update/client.rs"]
mod client;
#[path = "../rolling_update/gateway.rs"]
mod gateway;
#[path = "../wrapped/harness.rs"]
mod harness;
#[path = "../rolling_update/load.rs"]
mod load;
#[path = "../wrapped/mix.rs"]
mod mix;
#[path = "../rolling_update/pool.rs"]
mod pool;
#[path = "../rolling_update/progress.rs"]
mod progress;
mod replica;
#[path = "../rolling_update/service.rs"]
mod service;
#[path = "../rolling_update/splice.rs"]
mod splice;
#[path = "../wrapped/table.rs"]
mod table;
#[path = "../rolling_update/tally.rs"]
mod tally;
#[path = "../rolling_update/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::Signal;

use crate::cli::Strategy;
use crate::harness::{Act, Program, Recipe, Start};

/// The article's hook, with the pid that `pidof java` would find.
const LOOP: &str = "kill -TERM {pid} && while kill -0 {pid} 2>/dev/null; do sleep 1; done";

fn main() -> ExitCode {
    // The wrapper is this program again.
    if std::env::args().nth(1).as_deref() == Some("replica") {
        return replica::main();
    }
    let term = || Act::Signal(Signal::TERM);
    let plain = |name, summary, acts| Recipe {
        name: Strategy(name),
        summary,
        prestop: false,
        acts,
        must_not_lose: false,
    };
    let code = harness::main(&Program {
        name: "java",
        command,
        recipes: vec![
            plain(
                "term",
                "SIGTERM, on which a shutdown hook drains",
                vec![term()],
            ),
            plain(
                "article",
                "preStop hook: kill -SIGTERM, then a look once a second",
                vec![
                    Act::Hook(["sh", "-c", LOOP].map(str::to_owned).to_vec()),
                    term(),
                ],
            ),
            Recipe {
                prestop: true,
                must_not_lose: true,
                ..plain(
                    "prestop",
                    "StopPlan::java(): leave, lame duck, SIGTERM, wait",
                    vec![term()],
                )
            },
        ],
    });
    let _ = std::fs::remove_dir_all(classes_dir());
    code
}

fn classes_dir() -> PathBuf {
    std::env::temp_dir().join(format!("prestop-java-classes-{}", std::process::id()))
}

/// `Service.java`, compiled once: a JVM that compiles first starts a second later.
fn classes() -> Result<PathBuf, String> {
    let dir = classes_dir();
    if !dir.join("Service.class").exists() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/java/Service.java");
        let compiled = Command::new("javac")
            .arg("-d")
            .arg(&dir)
            .arg(source)
            .status();
        match compiled {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("javac {source}: {status}")),
            Err(error) => {
                return Err(format!(
                    "running javac: {error} (Debian: default-jdk-headless)"
                ));
            }
        }
    }
    Ok(dir)
}

/// The service in the foreground, in a JVM that starts fast and stays small.
pub fn java(classes: &Path, port: u16) -> Command {
    let mut command = Command::new("java");
    command.args([
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xmx64m",
        "-cp",
    ]);
    command.arg(classes).args(["Service", &port.to_string()]);
    command.stdout(std::process::Stdio::null());
    command
}

fn command(start: &Start) -> Result<Command, String> {
    let classes = classes()?;
    if start.prestop {
        replica::command(start, &classes)
    } else {
        Ok(java(&classes, start.port))
    }
}
