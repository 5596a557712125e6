//! `prestop stop`: signals a process and waits until it is gone.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use prestop::Deadline;
use prestop::process::{Process, ProcessError, Signal};

/// How long a process that was killed is waited for: it is gone as soon as the kernel has taken it apart.
const KILLED: Duration = Duration::from_secs(2);

/// Signals a process and waits until it is gone: an exec preStop hook for images without a shell
///
/// Replaces `PID=$(pidof java) && kill -SIGTERM $PID && while ps -p $PID; do sleep 1; done`: it is told the end by the
/// kernel instead of asking once a second, has a bound, and never signals a process that was given the pid since. A
/// process with children of the same name (nginx's workers) counts as one; the children are its own business.
///
/// Exit code: 0 it is gone; 2 wrong arguments; 65 several processes have that name, none was signalled (see --all); 66 the
/// pidfile cannot be read, or its pid was given to another process since; 69 there is no such process; 71 the system
/// refused for another reason; 72 it was killed (only with --kill); 75 it is still there; 77 it belongs to another user.
///
/// As a hook of the container whose PID 1 it stops, it dies with that container: Kubernetes then notes
/// FailedPreStopHook although all went well.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("target").required(true)))]
pub(crate) struct Args {
    /// The process with this pid
    #[arg(long, value_name = "PID", group = "target")]
    pid: Option<u32>,

    /// The process whose pid is in this file
    #[arg(long, value_name = "FILE", group = "target")]
    pidfile: Option<PathBuf>,

    /// The process of this name, as pidof finds it
    #[arg(long, value_name = "NAME", group = "target")]
    name: Option<String>,

    /// All processes of that name
    #[arg(long, conflicts_with_all = ["pid", "pidfile"])]
    all: bool,

    /// The signal, by name or number
    #[arg(long, default_value = "TERM")]
    signal: Signal,

    /// How long it is waited for, in seconds; leave the container some of its grace period
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = crate::seconds)]
    within: Duration,

    /// Sends SIGKILL if it is still there then; without this, that is left to the kubelet
    #[arg(long)]
    kill: bool,
}

/// How it went, with its exit code.
enum Answer {
    Gone,
    Several(Vec<Process>),
    NoneOfThatName(String),
    Killed(Vec<String>),
    StillThere(Vec<String>),
    Error(ProcessError),
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(stop(args)),
        Err(error) => {
            return say(71, &format!("starting the runtime: {error}"));
        }
    };
    let within = args.within.as_secs_f64();
    match answer {
        Answer::Gone => ExitCode::SUCCESS,
        Answer::Several(found) => {
            let names: Vec<_> = found.iter().map(ToString::to_string).collect();
            let list = names.join(", ");
            say(
                65,
                &format!("several match, none was signalled: {list} (--all takes all of them)"),
            )
        }
        Answer::NoneOfThatName(name) => say(69, &format!("there is no process {name:?}")),
        Answer::Killed(who) => say(
            72,
            &format!(
                "{} did not end within {within} s of {}, and was killed",
                who.join(", "),
                args.signal
            ),
        ),
        Answer::StillThere(who) => say(
            75,
            &format!(
                "{} is still there {within} s after {}",
                who.join(", "),
                args.signal
            ),
        ),
        Answer::Error(error) => {
            let code = if error.is_not_found() {
                69
            } else if error.is_permission() {
                77
            } else if error.is_stale() || error.is_unreadable() {
                66
            } else {
                71
            };
            say(code, &error.to_string())
        }
    }
}

fn say(code: u8, what: &str) -> ExitCode {
    // Nobody may be reading; the code says it, too.
    let _ = writeln!(std::io::stderr(), "prestop: {what}");
    ExitCode::from(code)
}

async fn stop(args: &Args) -> Answer {
    let found = match find(args) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    for process in &found {
        match process.signal(args.signal) {
            Ok(()) => {}
            // Between being found and being signalled it has ended: that is what was wanted.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Answer::Error(error),
        }
    }
    let left = wait(found, Deadline::after(args.within)).await;
    if left.is_empty() {
        return Answer::Gone;
    }
    let who: Vec<_> = left.iter().map(ToString::to_string).collect();
    if !args.kill {
        return Answer::StillThere(who);
    }
    for process in &left {
        match process.signal(Signal::KILL) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Answer::Error(error),
        }
    }
    if wait(left, Deadline::after(KILLED)).await.is_empty() {
        Answer::Killed(who)
    } else {
        Answer::StillThere(who)
    }
}

fn find(args: &Args) -> Result<Vec<Process>, Answer> {
    if let Some(pid) = args.pid {
        return Ok(vec![Process::open(pid).map_err(Answer::Error)?]);
    }
    if let Some(file) = &args.pidfile {
        return Ok(vec![Process::from_pidfile(file).map_err(Answer::Error)?]);
    }
    let name = args.name.as_deref().unwrap_or_default();
    let found = Process::find(name).map_err(Answer::Error)?;
    match found.len() {
        0 => Err(Answer::NoneOfThatName(name.to_owned())),
        1 => Ok(found),
        _ if args.all => Ok(found),
        _ => Err(Answer::Several(found)),
    }
}

/// Those that are still there at the deadline.
async fn wait(processes: Vec<Process>, by: Deadline) -> Vec<Process> {
    let mut left = Vec::new();
    for process in processes {
        if !process.gone(by).await {
            left.push(process);
        }
    }
    left
}
