//! `prestop run`: a program under the coordinator, as an image's ENTRYPOINT.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use prestop::process::{Output, ReadyWhen, StopPlan, StopStep, Supervised, Supervisor};
use prestop::{BoxError, GracePeriod, HookName, HookSocket, ShutdownCoordinator, Signals};

use crate::log::Lines;
use crate::registries::RegistryArgs;

/// Runs a program and stops it without loss: leaves registries, lets it serve on, asks it to end, kills it at the
/// deadline
///
/// Made to be an ENTRYPOINT: as PID 1 it reaps orphans and passes HUP, USR1 and USR2 on. TERM, QUIT and INT begin the
/// stop. It never starts the program again: Kubernetes does. Every option can be given as a variable, too; several
/// values of one are separated by line breaks.
///
/// Exit code: the program's own, 128 + n if signal n ended it (143 after TERM, 137 after KILL). If the program exits with
/// 0: 0, or 71 when something else failed (a registry could not be left). 70 the program was never ready; 2 wrong
/// arguments; 127 there is no such program, 126 it cannot be run, 125 any other trouble before its start.
///
/// STEP is signal:QUIT, group:TERM (to its process group), exec:CMD ARG (no shell), get:URL or post:URL, with a limit in
/// front if it has one: 10s:signal:QUIT. After each the program is waited for before the next; what is left at the end
/// of the drain is killed.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// terminationGracePeriodSeconds [default: $TERMINATION_GRACE_PERIOD_SECONDS, else 30]
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u64>,

    /// How long the program goes on serving once the stop has begun [default: 5 on Kubernetes, else 0]
    #[arg(long, value_name = "SECONDS", env = "PRESTOP_LAME_DUCK", value_parser = crate::seconds)]
    lame_duck: Option<Duration>,

    /// How the program is asked to end, before any --then [default: term; none where there is a --then]
    #[arg(long, value_enum, env = "PRESTOP_PLAN")]
    plan: Option<Plan>,

    /// A step that asks the program to end, after those of the plan
    #[arg(long, value_name = "STEP", env = "PRESTOP_THEN", value_delimiter = '\n', value_parser = step)]
    then: Vec<StopStep>,

    /// A step that takes the program out of circulation when the stop begins (get:http://127.0.0.1:22222/offline)
    #[arg(long, value_name = "STEP", env = "PRESTOP_LEAVE", value_delimiter = '\n', value_parser = step)]
    leave: Vec<StopStep>,

    /// When the program is ready: tcp:HOST:PORT, http://URL, log:TEXT, file:PATH, exec:CMD ARG
    #[arg(long, value_name = "SIGN", env = "PRESTOP_READY", value_delimiter = '\n', value_parser = sign)]
    ready: Vec<ReadyWhen>,

    /// How long it may take until then
    #[arg(long, value_name = "SECONDS", env = "PRESTOP_READY_WITHIN", default_value = "60", value_parser = crate::seconds)]
    ready_within: Duration,

    /// Where its output goes: inherit (it writes to ours), forward (by way of us, never blocks it), discard. A log: sign
    /// needs forward, which is then the default
    #[arg(long, value_enum, env = "PRESTOP_OUTPUT")]
    output: Option<To>,

    /// Answers /livez, /readyz and /startupz at this address (0.0.0.0:9090)
    #[cfg(feature = "probe")]
    #[arg(long, value_name = "ADDRESS", env = "PRESTOP_PROBES")]
    probes: Option<String>,

    /// Opens the socket for `prestop hook` and `prestop started`
    #[arg(long, env = "PRESTOP_HOOK")]
    hook: bool,

    /// Where that socket is [default: as with `prestop hook`]
    #[arg(long, value_name = "PATH", requires = "hook")]
    socket: Option<PathBuf>,

    /// A command that is run before the program counts as ready (no shell); it fails: the stop begins
    #[arg(
        long,
        value_name = "CMD ARG",
        env = "PRESTOP_ON_STARTED",
        value_delimiter = '\n'
    )]
    on_started: Vec<String>,

    /// A command that is run when the stop begins
    #[arg(
        long,
        value_name = "CMD ARG",
        env = "PRESTOP_PRE_STOP",
        value_delimiter = '\n'
    )]
    pre_stop: Vec<String>,

    /// A command that is run when the program has ended
    #[arg(
        long,
        value_name = "CMD ARG",
        env = "PRESTOP_ON_STOPPED",
        value_delimiter = '\n'
    )]
    on_stopped: Vec<String>,

    /// Says on standard error what happens; without it, only what goes wrong
    #[arg(long, short, env = "PRESTOP_VERBOSE")]
    verbose: bool,

    #[command(flatten)]
    registries: RegistryArgs,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Plan {
    /// SIGTERM
    Term,
    /// SIGQUIT, SIGTERM at the very end
    Nginx,
    /// SIGTERM, a thread dump at the very end
    Java,
    /// Nothing but what --then says
    None,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum To {
    Inherit,
    Forward,
    Discard,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let most = if args.verbose {
        tracing::Level::INFO
    } else {
        tracing::Level::WARN
    };
    let flush = match Lines::new(most) {
        Ok((lines, flush)) => {
            // It fails where there is one already, which there is not.
            let _ = tracing::subscriber::set_global_default(lines);
            Some(flush)
        }
        // Without a word, then.
        Err(_) => None,
    };
    // One thread: there is one program to wait for.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(supervise(args)),
        Err(error) => Err((125, format!("starting the runtime: {error}"))),
    };
    if let Some(flush) = flush {
        flush.wait();
    }
    match ended {
        Ok(ended) => ended.exit(),
        Err((code, why)) => {
            // Nobody may be reading; the code says it, too.
            let _ = writeln!(std::io::stderr(), "prestop: {why}");
            ExitCode::from(code)
        }
    }
}

type Failure = (u8, String);

async fn supervise(args: Args) -> Result<Supervised, Failure> {
    let trouble = |error: &dyn std::fmt::Display| (125, error.to_string());
    // QUIT, too: images made from nginx's inherit STOPSIGNAL SIGQUIT.
    let mut builder = ShutdownCoordinator::builder().signals(Signals::new().and_quit());
    if let Some(seconds) = args.grace_period {
        let grace = GracePeriod::from_secs(seconds).map_err(|e| (2, e.to_string()))?;
        builder = builder.grace_period(grace);
    }
    if let Some(length) = args.lame_duck {
        builder = builder.lame_duck(length);
    }
    #[cfg(feature = "probe")]
    if let Some(address) = &args.probes {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener =
            listener.map_err(|e| (125, format!("listening for probes at {address}: {e}")))?;
        builder = builder.probe_listener(listener);
    }
    if args.hook {
        let socket = args
            .socket
            .map_or_else(HookSocket::from_env, HookSocket::at);
        builder = builder.hook_socket(socket);
    }
    for command in args.on_started {
        builder = builder.on_started(name(&command), move |cx| exec(command, cx.deadline()));
    }
    for command in args.pre_stop {
        builder = builder.pre_stop(name(&command), move |cx| exec(command, cx.deadline()));
    }
    for command in args.on_stopped {
        builder = builder.on_stopped(name(&command), move |cx| exec(command, cx.deadline()));
    }
    builder = args.registries.add_to(builder).map_err(|e| trouble(&e))?;
    let coordinator = builder.build().map_err(|e| trouble(&e))?;

    let mut plan = match args.plan {
        None if !args.then.is_empty() => StopPlan::new(),
        None | Some(Plan::Term) => StopPlan::terminate(),
        Some(Plan::Nginx) => StopPlan::nginx(),
        Some(Plan::Java) => StopPlan::java(),
        Some(Plan::None) => StopPlan::new(),
    };
    plan = args.then.into_iter().fold(plan, StopPlan::then);
    plan = args.leave.into_iter().fold(plan, StopPlan::leave);
    let needs_lines = args.ready.iter().any(ReadyWhen::needs_output);
    let output = match args.output {
        Some(To::Inherit) => Output::Inherit,
        Some(To::Forward) => Output::Forward,
        Some(To::Discard) => Output::Discard,
        None if needs_lines => Output::Forward,
        None => Output::Inherit,
    };
    let mut command = args.command.into_iter();
    let mut supervisor = Supervisor::new(command.next().unwrap_or_default())
        .args(command)
        .stop_plan(plan)
        .ready_within(args.ready_within)
        .output(output)
        .adopt_orphans(true);
    for sign in args.ready {
        supervisor = supervisor.ready_when(sign);
    }
    let ended = coordinator.supervise(supervisor).await;
    ended.map_err(|error| (error.exit_code(), error.to_string()))
}

fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split_ascii_whitespace()
}

/// The program alone: arguments may hold secrets.
fn name(command: &str) -> HookName {
    HookName::new(words(command).next().unwrap_or_default().to_owned())
}

async fn exec(command: String, by: prestop::Deadline) -> Result<(), BoxError> {
    prestop::process::run_command(words(&command), by).await
}

/// A STEP of the help.
fn step(text: &str) -> Result<StopStep, String> {
    let (limit, rest) = match text.split_once("s:") {
        Some((number, rest)) if number.parse::<f64>().is_ok() => {
            (Some(crate::seconds(number)?), rest)
        }
        _ => (None, text),
    };
    let (kind, what) = rest.split_once(':').ok_or(STEP)?;
    let signal = || what.parse().map_err(|error| format!("{error}"));
    let step = match kind {
        "signal" => StopStep::signal(signal()?),
        "group" => StopStep::signal_group(signal()?),
        "exec" => StopStep::command(words(what)),
        "get" => StopStep::http_get(what),
        "post" => StopStep::http_post(what),
        _ => return Err(STEP.into()),
    };
    Ok(limit.map_or_else(|| step.clone(), |limit| step.clone().within(limit)))
}

const STEP: &str = "a step is signal:QUIT, group:TERM, exec:CMD ARG, get:URL or post:URL, with 10s: in front if it has a limit";

/// A SIGN of the help.
fn sign(text: &str) -> Result<ReadyWhen, String> {
    if text.starts_with("http://") {
        return Ok(ReadyWhen::http(text));
    }
    match text.split_once(':') {
        Some(("tcp", address)) => Ok(ReadyWhen::tcp(address)),
        Some(("log", line)) => Ok(ReadyWhen::log_line(line)),
        Some(("file", path)) => Ok(ReadyWhen::file(path)),
        Some(("exec", command)) => Ok(ReadyWhen::command(words(command))),
        _ => Err("a sign is tcp:HOST:PORT, http://URL, log:TEXT, file:PATH or exec:CMD ARG".into()),
    }
}
