//! A rolling update under load, once per way of stopping a replica: what is lost, and by whom.
//!
//! Run: `cargo run --release --example rolling_update` (two minutes), `-- --help` for the rest. Nothing else is needed:
//! gateway, registry and clients are in this process, the replicas are child processes, all on 127.0.0.1. You will see
//! each replacement as it happens and at the end a table, in which the row of `prestop` has no failures.
//!
//! ```text
//! load.rs ── mix.rs ── client.rs ── pool.rs ── wire.rs        the clients: nothing is retried
//!    │                └─ streams.rs                          those that stay: events, WebSockets, gRPC
//!    │ TCP
//! gateway.rs ── splice.rs      layer 4; its view of the registry (registry/) is one second old
//!    │ TCP
//! replica.rs ── service.rs, grpc.rs     child processes, each a pod (pod.rs), replaced one by one (fleet.rs, update.rs)
//! ```

// A binary has no outside: `pub` says that another module uses it.
#![allow(unreachable_pub)]

mod cli;
mod client;
mod fleet;
mod gateway;
mod grpc;
mod load;
mod mix;
mod pod;
mod pool;
mod progress;
mod registration;
mod registry;
mod replica;
mod replica_prestop;
mod service;
mod splice;
mod streams;
mod table;
mod tally;
mod update;
mod wire;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Hook, Options, Role, Strategy};
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::progress::{say, unsaid};
use crate::registry::RegistryKind;
use crate::tally::Row;
use crate::update::{Gateways, Outcome, Plan, rolling_update};

fn main() -> ExitCode {
    // One line, and this program is its own preStop hook.
    prestop::exec_hook();
    let cli = Cli::parse();
    if let Some(Role::Replica(args)) = cli.role {
        return replica::main(&args);
    }
    allow_many_sockets();
    // One thread, for the reason in load.rs.
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))
        .and_then(|runtime| runtime.block_on(run(&cli.options)));
    match ended.and_then(|ended| unsaid().map(|()| ended)) {
        Ok(Ended::Whole { lost: true }) => ExitCode::FAILURE,
        Ok(Ended::Whole { lost: false }) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

enum Ended {
    /// Whether `prestop` has lost a request.
    Whole {
        lost: bool,
    },
    Interrupted,
}

/// Runs the strategies and prints what came of them; ends early on SIGINT and SIGTERM. No child outlives it.
async fn run(options: &Options) -> Result<Ended, String> {
    let about = |error| format!("installing the signal handlers: {error}");
    let mut sigint = signal(SignalKind::interrupt()).map_err(about)?;
    let mut sigterm = signal(SignalKind::terminate()).map_err(about)?;
    let delay = Duration::from_millis(options.delay);
    let bind = async |port| {
        Gateway::bind(port, delay).await.map_err(|error| {
            format!("binding the gateway to 127.0.0.1:{port}: {error} (--port 0 takes a free port)")
        })
    };
    let gateways = Gateways {
        http: bind(options.port).await?,
        grpc: bind(0).await?,
    };
    let json = options.json.clone().map(JsonFile::open).transpose()?;

    let mut fleet = Fleet::default();
    let mut outcomes = Vec::new();
    let ended = tokio::select! {
        ran = run_all(options, &gateways, &mut fleet, &mut outcomes) => ran.map(|()| Ended::Whole {
            lost: false,
        }),
        _ = sigint.recv() => Ok(Ended::Interrupted),
        _ = sigterm.recv() => Ok(Ended::Interrupted),
    };
    fleet.kill_all().await;
    // Whatever ended it: what was measured until then is not lost.
    if !outcomes.is_empty() {
        say(&table::summary(&outcomes));
    }
    match ended {
        Ok(Ended::Whole { .. }) => {
            if let Some(json) = json {
                json.write(&outcomes)?;
            }
            let lost = lost_by_prestop(&outcomes);
            Ok(Ended::Whole { lost })
        }
        Ok(Ended::Interrupted) => {
            say("\ninterrupted; all replicas were ended\n");
            Ok(Ended::Interrupted)
        }
        Err(error) => {
            // Here as well as at the end: who reads a log of standard output alone must see that it is not whole.
            say(&format!("\nNOT WHOLE: {error}\n"));
            Err(error)
        }
    }
}

async fn run_all(
    options: &Options,
    gateways: &Gateways,
    fleet: &mut Fleet,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), String> {
    let plan = Plan {
        registry: options.registry,
        replicas: options.replicas,
        rate: options.rate,
        idle: options.idle,
        stops: options.stops.unwrap_or(options.replicas),
        linger_ms: options.linger,
        load: Duration::from_secs(options.seconds),
        seed: options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000)),
    };
    say(&header(options, &plan, &gateways.http));
    // Not after two minutes.
    unsaid()?;
    if options
        .strategies()
        .contains(&Strategy::Hooked(Hook::ExecHelper))
    {
        // Not after a minute.
        pod::helper()?;
    }
    for strategy in options.strategies() {
        say(&format!("\n{strategy}: {}\n", strategy.summary()));
        outcomes.push(rolling_update(strategy, &plan, gateways, fleet).await?);
    }
    Ok(())
}

fn header(options: &Options, plan: &Plan, gateway: &Gateway) -> String {
    let delay = match options.delay {
        0 => String::new(),
        ms => format!(", {ms} ms of delay each way"),
    };
    let replicas = match plan.replicas {
        1 => "1 replica".to_owned(),
        some => format!("{some} replicas"),
    };
    let load = match plan.idle {
        None => format!("{} requests/s", plan.rate),
        Some(clients) => format!("{clients} mostly idle clients"),
    };
    let registry = options.registry;
    let registry = if registry == RegistryKind::Memory {
        "in the embedded registry".to_owned()
    } else {
        format!("in {}", registry.name())
    };
    format!(
        "A rolling update of a service with {} {registry} under {load}, without retries{delay}.\n\
         Gateway on {}, the other ports are ephemeral too; it learns of changes 1 s late.\n\
         Seed {} (--seed {} sends the same requests again).\n{}",
        replicas,
        gateway.address(),
        plan.seed,
        plan.seed,
        options.registry.note()
    )
}

/// `none` must lose nothing either: if it does, the harness is at fault and the other rows mean nothing.
fn lost_by_prestop(outcomes: &[Outcome]) -> bool {
    outcomes
        .iter()
        .filter(|outcome| {
            matches!(
                outcome.strategy,
                Strategy::Prestop | Strategy::PrestopAxum | Strategy::Hooked(_) | Strategy::None
            )
        })
        .any(|outcome| {
            let with_hook = matches!(outcome.strategy, Strategy::Hooked(_));
            outcome.rows.iter().any(|row| row.failed > 0)
                || with_hook
                    && outcome
                        .stops
                        .iter()
                        .any(|stop| stop.forced() || stop.hook_failed())
        })
}

/// Where the rows go. Opened before the run, so that minutes are not spent on rows that can't be written.
struct JsonFile {
    path: PathBuf,
    file: File,
}

impl JsonFile {
    fn open(path: PathBuf) -> Result<Self, String> {
        // Not truncated yet: a run that is interrupted leaves the rows of the last one.
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(format!("opening {} for the rows: {error}", path.display())),
        }
    }

    fn write(mut self, outcomes: &[Outcome]) -> Result<(), String> {
        let rows: Vec<&Row> = outcomes.iter().flat_map(|outcome| &outcome.rows).collect();
        let written = serde_json::to_vec_pretty(&rows)
            .map_err(io::Error::from)
            .and_then(|mut json| {
                json.push(b'\n');
                // A pipe or a terminal has nothing to make room in.
                if self.file.metadata()?.is_file() {
                    self.file.set_len(0)?;
                    self.file.rewind()?;
                }
                self.file.write_all(&json)
            });
        written.map_err(|error| format!("writing the rows to {}: {error}", self.path.display()))
    }
}

/// A request in flight needs three sockets here, and 1024 file descriptors, a common soft limit, are soon used up.
fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    // Without it the run may still do; if it does not, the failures show it.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
