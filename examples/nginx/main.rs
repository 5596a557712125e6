//! nginx under load, stopped ten times by each recipe: the article's, the usual ones, and `StopPlan::nginx()`.
//!
//! Run: `cargo run --release --example nginx` (six minutes; `-- --help` for less). It needs `nginx` (Debian:
//! `nginx-light`). Gateway, registry, clients and the upstream behind nginx are in this process; every nginx is a real
//! one, with a master and two workers, on 127.0.0.1.
//!
//! What the article does: `nginx -s quit` as the preStop hook. What goes wrong: it only sends SIGQUIT and returns, so that
//! the kubelet's SIGTERM follows at once and overrides it (fast shutdown: requests in flight are cut); and SIGQUIT closes
//! the listeners at once, while clients are still sent there. What to watch: the row `prestop` has no failure, and the
//! time until exit is that of the slowest request.

// A binary has no outside: `pub` says that another module uses it. The modules of `rolling_update` are used in part.
#![allow(unreachable_pub, dead_code)]

#[path = "../wrapped/call.rs"]
mod call;
#[path = "../wrapped/cli.rs"]
mod cli;
#[path = "../rolling_update/client.rs"]
mod client;
mod config;
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

use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::Signal;

use crate::cli::Strategy;
use crate::harness::{Act, Program, Recipe, Start};

fn main() -> ExitCode {
    // The wrapper is this program again.
    if std::env::args().nth(1).as_deref() == Some("replica") {
        return replica::main();
    }
    let term = || Act::Signal(Signal::TERM);
    let quit = [
        "nginx",
        "-p",
        "{dir}",
        "-c",
        "{dir}/nginx.conf",
        "-s",
        "quit",
    ];
    let plain = |name, summary, acts| Recipe {
        name: Strategy(name),
        summary,
        prestop: false,
        acts,
        must_not_lose: false,
    };
    let prestop = |name, summary, acts| Recipe {
        prestop: true,
        must_not_lose: true,
        ..plain(name, summary, acts)
    };
    harness::main(&Program {
        name: "nginx",
        command,
        recipes: vec![
            plain("term", "SIGTERM alone: fast shutdown", vec![term()]),
            plain(
                "article",
                "preStop hook `nginx -s quit`, which returns at once, then SIGTERM",
                vec![Act::Hook(quit.map(str::to_owned).to_vec()), term()],
            ),
            plain(
                "quit",
                "STOPSIGNAL SIGQUIT, as in the official image",
                vec![Act::Signal(Signal::QUIT)],
            ),
            prestop(
                "prestop",
                "StopPlan::nginx(): leave, lame duck, SIGQUIT, wait",
                vec![term()],
            ),
            prestop(
                "prestop-reload",
                "the same, with a reload (SIGHUP) in the lame duck, which is held back, and one in the drain",
                vec![
                    term(),
                    Act::Wait(replica::LAME_DUCK - Duration::from_millis(300)),
                    Act::Signal(Signal::HUP),
                    Act::Wait(Duration::from_millis(600)),
                    Act::Signal(Signal::HUP),
                ],
            ),
        ],
    })
}

fn command(start: &Start) -> Result<Command, String> {
    config::write(&start.dir, start.port, start.upstream)
        .map_err(|error| format!("writing nginx's files to {}: {error}", start.dir.display()))?;
    if !start.prestop {
        return Ok(config::nginx(&start.dir));
    }
    replica::command(start)
}
