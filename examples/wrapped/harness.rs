//! Stops of a real program under load, once per recipe: what is lost, and how long each stop takes.
//!
//! Two replicas behind a layer 4 gateway whose view of the registry is a second old; one after the other is replaced,
//! the new one first. What the kubelet and the endpoint controller do is done here, by the recipe.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper::{Method, StatusCode};
use prestop::Deadline;
use prestop::registry::memory::MemoryRegistry;
use prestop::registry::{Instance, Registration, Registry};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::call;
use crate::cli::Strategy;
use crate::client::{Clients, Target};
use crate::gateway::{Gateway, Route};
use crate::load::Load;
use crate::mix::Kind;
use crate::progress::{Progress, counts, say};
use crate::table::{ending, table};
use crate::tally::Row;

pub const SERVICE: &str = "demo";
/// terminationGracePeriodSeconds, at its Kubernetes default.
const GRACE: Duration = Duration::from_secs(30);
/// A JVM on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The load goes on that long after the last stop: until the gateway's view has settled.
const AFTER: Duration = Duration::from_secs(2);

/// A way of stopping, and what it is called.
pub struct Recipe {
    pub name: Strategy,
    pub summary: &'static str,
    /// Whether the program runs under the crate, which then does all but send SIGTERM.
    pub prestop: bool,
    /// What is done to stop it, one after the other.
    pub acts: Vec<Act>,
    /// Whether nothing may be lost.
    pub must_not_lose: bool,
}

/// What the kubelet does to a container, or an operator.
pub enum Act {
    Signal(Signal),
    /// A preStop hook: a command, waited for. `{pid}` and `{dir}` stand for the program's.
    Hook(Vec<String>),
    /// Time passes.
    Wait(Duration),
}

/// The program: how a replica of it is started.
pub struct Program {
    pub name: &'static str,
    /// Prepares the directory and gives the plain command, or the one that wraps it.
    pub command: fn(&Start) -> Result<StdCommand, String>,
    pub recipes: Vec<Recipe>,
}

/// What a replica is told.
pub struct Start {
    pub dir: PathBuf,
    pub port: u16,
    /// Behind nginx.
    pub upstream: SocketAddr,
    /// Of the registry; the wrapper registers.
    pub registry: SocketAddr,
    /// How long the gateway may still send requests after the registry was left.
    pub visibility: Duration,
    pub prestop: bool,
}

#[derive(Parser)]
struct Cli {
    /// Stops per recipe
    #[arg(long, default_value_t = 10)]
    stops: u32,
    /// Requests per second
    #[arg(long, default_value_t = 120)]
    rate: u32,
    /// Only these recipes
    #[arg(long)]
    only: Vec<String>,
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// A replica; killed when it is dropped.
struct Replica {
    name: String,
    child: Child,
    dir: PathBuf,
    /// Where the harness registers it: a plain program knows no registry.
    entry: Option<Box<dyn Registration>>,
}

pub struct Stop {
    pub took: Duration,
    pub status: ExitStatus,
    pub killed: bool,
}

pub struct Outcome {
    pub recipe: Strategy,
    must_not_lose: bool,
    pub rows: Vec<Row>,
    pub stops: Vec<Stop>,
}

/// The example's `main`.
pub fn main(program: &Program) -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(|error| format!("starting the runtime: {error}"))
        .and_then(|runtime| runtime.block_on(run(program, &cli)));
    match ended {
        Ok(outcomes) => {
            say(&table(&outcomes));
            let lost = |o: &Outcome| o.must_not_lose && o.rows.iter().any(|row| row.failed > 0);
            ExitCode::from(u8::from(outcomes.iter().any(lost)))
        }
        Err(error) => {
            say(&format!("error: {error}\n"));
            ExitCode::from(2)
        }
    }
}

async fn run(program: &Program, cli: &Cli) -> Result<Vec<Outcome>, String> {
    say(&format!(
        "{} under {} requests/s, {} stops per recipe, without retries; the gateway learns of changes 1 s late.\n",
        program.name, cli.rate, cli.stops
    ));
    let upstream = bind().await?;
    let upstream_address = address(&upstream)?;
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(upstream, crate::service::app()).await });
    let mut outcomes = Vec::new();
    let named =
        |recipe: &&Recipe| cli.only.is_empty() || cli.only.iter().any(|o| o == recipe.name.name());
    for recipe in program.recipes.iter().filter(named) {
        say(&format!("\n{}: {}\n", recipe.name.name(), recipe.summary));
        outcomes.push(measure(program, recipe, cli, upstream_address).await?);
    }
    Ok(outcomes)
}

async fn bind() -> Result<TcpListener, String> {
    let bound = TcpListener::bind("127.0.0.1:0").await;
    bound.map_err(|error| format!("binding a port on 127.0.0.1: {error}"))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, String> {
    let address = listener.local_addr();
    address.map_err(|error| format!("asking for a port: {error}"))
}

async fn measure(
    program: &Program,
    recipe: &Recipe,
    cli: &Cli,
    upstream: SocketAddr,
) -> Result<Outcome, String> {
    let progress = Progress::new();
    let gateway = Gateway::bind(0, Duration::ZERO)
        .await
        .map_err(|error| format!("binding the gateway: {error}"))?;
    // Nobody beats for a plain program.
    let registry = MemoryRegistry::new().with_ttl(Duration::from_secs(3_600));
    let listener = bind().await?;
    let registry_address = address(&listener)?;
    let mut serving = JoinSet::new();
    serving.spawn(registry.clone().serve(listener));
    let read = registry.clone();
    let route = gateway.route(Arc::new(move || {
        let listed = read.instances(SERVICE);
        listed.iter().map(|instance| instance.address).collect()
    }));

    let fresh = || {
        let start = Start {
            dir: PathBuf::new(),
            port: 0,
            upstream,
            registry: registry_address,
            visibility: gateway.visibility(),
            prestop: recipe.prestop,
        };
        begin(program, &registry, &route, start)
    };
    let mut replicas = vec![fresh().await?, fresh().await?];
    progress.event("both replicas serve, the load starts");
    let target = Target {
        gateway: gateway.address(),
        refused: route.refused(),
    };
    let clients = Clients::new(target, cli.rate);
    let load = Load::start(clients, cli.rate, cli.seed, CancellationToken::new());
    load.tally().set_updating(true);
    sleep(Duration::from_secs(2)).await;
    let mut stops = Vec::new();
    for _ in 0..cli.stops {
        replicas.push(fresh().await?);
        let old = replicas.remove(0);
        let name = old.name.clone();
        let stop = end(old, recipe).await?;
        progress.event(&format!(
            "{name} stopped in {:.2} s with {}; {}",
            stop.took.as_secs_f64(),
            ending(&stop),
            counts(&load)
        ));
        stops.push(stop);
    }
    sleep(AFTER).await;
    let tally = load.finish().await?;
    for replica in &mut replicas {
        // The wrapper first, so that it ends what it wraps.
        if let Some(pid) = pid(&replica.child) {
            send(pid, Signal::TERM)?;
        }
    }
    for mut replica in replicas {
        // One that lingers is killed by being dropped.
        let _ = timeout(GRACE, replica.child.wait()).await;
        let _ = std::fs::remove_dir_all(&replica.dir);
    }
    Ok(Outcome {
        recipe: recipe.name,
        must_not_lose: recipe.must_not_lose,
        rows: tally.rows(recipe.name, &Kind::MIX),
        stops,
    })
}

/// Starts a replica, and waits until the gateway knows it.
async fn begin(
    program: &Program,
    registry: &MemoryRegistry,
    route: &Route,
    mut start: Start,
) -> Result<Replica, String> {
    let about = |error: std::io::Error| format!("starting {}: {error}", program.name);
    // A port that was free a moment ago; nobody else takes ephemeral ports to listen on in between.
    let free = StdListener::bind("127.0.0.1:0").map_err(about)?;
    let address = free.local_addr().map_err(about)?;
    drop(free);
    start.port = address.port();
    start.dir = std::env::temp_dir().join(format!("prestop-{}-{}", program.name, address.port()));
    std::fs::create_dir_all(&start.dir).map_err(about)?;
    let mut command = Command::from((program.command)(&start)?);
    let child = command
        .stdin(Stdio::null())
        .env(
            "TERMINATION_GRACE_PERIOD_SECONDS",
            GRACE.as_secs().to_string(),
        )
        .env_remove("KUBERNETES_SERVICE_HOST")
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(about)?;
    let mut replica = Replica {
        name: format!("{} on port {}", program.name, start.port),
        child,
        dir: start.dir,
        entry: None,
    };
    let serves = async {
        while call(Method::GET, address, "/fast", String::new()).await != Ok(StatusCode::OK) {
            if let Ok(Some(status)) = replica.child.try_wait() {
                return Err(format!("{} ended at once: {status}", replica.name));
            }
            sleep(Duration::from_millis(20)).await;
        }
        if !start.prestop {
            let instance = Instance::new(SERVICE, address);
            let soon = Deadline::after(Duration::from_secs(5));
            let entry = registry.register(&instance, soon).await;
            replica.entry = Some(entry.map_err(|error| error.to_string())?);
        }
        while !registry
            .instances(SERVICE)
            .iter()
            .any(|i| i.address == address)
        {
            sleep(Duration::from_millis(20)).await;
        }
        while !route.sees(address) {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    timeout(START_LIMIT, serves)
        .await
        .map_err(|_| format!("{} did not serve within {START_LIMIT:?}", replica.name))??;
    Ok(replica)
}

/// Stops a replica by the recipe: the endpoint controller and the kubelet begin at the same moment.
async fn end(mut replica: Replica, recipe: &Recipe) -> Result<Stop, String> {
    let begun = Instant::now();
    if let Some(mut entry) = replica.entry.take() {
        let left = entry
            .deregister(Deadline::after(Duration::from_secs(5)))
            .await;
        left.map_err(|error| error.to_string())?;
    }
    let Some(pid) = pid(&replica.child) else {
        return Err(format!("{} had ended by itself", replica.name));
    };
    // Waited for from the beginning: a hook that asks after the process must not find what is left of it.
    let mut child = replica.child;
    let mut waiting = tokio::spawn(async move { child.wait().await });
    for act in &recipe.acts {
        match act {
            // One that has ended is not signalled any more.
            Act::Signal(_) if waiting.is_finished() => {}
            Act::Signal(signal) => send(pid, *signal)?,
            Act::Wait(time) => sleep(*time).await,
            Act::Hook(argv) => hook(argv, pid, &replica.dir).await?,
        }
    }
    let rest = GRACE.saturating_sub(begun.elapsed());
    let waited = timeout(rest, &mut waiting).await;
    let killed = waited.is_err();
    let waited = match waited {
        Ok(waited) => waited,
        Err(_) => {
            // Ends the group, as the kubelet ends the container.
            let killed = rustix::process::kill_process_group(pid, Signal::KILL);
            killed.map_err(|error| format!("killing {}: {error}", replica.name))?;
            waiting.await
        }
    };
    let status = waited
        .map_err(std::io::Error::other)
        .and_then(|status| status)
        .map_err(|error| format!("waiting for {}: {error}", replica.name))?;
    let took = begun.elapsed();
    let _ = std::fs::remove_dir_all(&replica.dir);
    Ok(Stop {
        took,
        status,
        killed,
    })
}

async fn hook(argv: &[String], pid: Pid, dir: &Path) -> Result<(), String> {
    let fill = |word: &String| {
        let dir = dir.to_str().unwrap_or_default();
        OsString::from(
            word.replace("{pid}", &pid.as_raw_nonzero().to_string())
                .replace("{dir}", dir),
        )
    };
    let mut words = argv.iter().map(fill);
    let program = words.next().ok_or("an empty hook")?;
    let mut command = Command::new(&program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    // A hook that fails is an event in Kubernetes, and changes nothing (R12).
    let ended = timeout(GRACE, command.kill_on_drop(true).status()).await;
    match ended {
        Ok(Err(error)) => Err(format!("running {}: {error}", program.to_string_lossy())),
        _ => Ok(()),
    }
}

fn pid(child: &Child) -> Option<Pid> {
    // None once it was waited for.
    child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
}

fn send(pid: Pid, signal: Signal) -> Result<(), String> {
    kill_process(pid, signal).map_err(|error| format!("signalling {pid:?}: {error}"))
}
