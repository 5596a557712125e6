//! `prestop`: the small helper for images whose program does not bring the hook itself, and the check of manifests.
//!
//! `hook` and `started` call a process that uses the crate; `run` and `stop` (feature `process`, Linux) are for programs
//! that do not; `check` is for CI. Exit codes of the first two: 0 done, 2 wrong arguments, 69 no process is there, 70 the start
//! failed, 74 the process went away, 75 no answer in time, 77 refused.

mod check;
#[cfg(unix)]
mod exit;
#[cfg(unix)]
mod hook;
#[cfg(all(feature = "process", target_os = "linux"))]
mod log;
#[cfg(all(feature = "process", target_os = "linux"))]
mod registries;
#[cfg(all(feature = "process", target_os = "linux"))]
mod run;
#[cfg(unix)]
mod started;
#[cfg(all(feature = "process", target_os = "linux"))]
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Calls a service that uses the crate prestop, from its pod's lifecycle hooks; checks manifests.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    #[cfg(unix)]
    Hook(hook::Args),
    #[cfg(unix)]
    Started(started::Args),
    #[cfg(all(feature = "process", target_os = "linux"))]
    Run(Box<run::Args>),
    #[cfg(all(feature = "process", target_os = "linux"))]
    Stop(stop::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        #[cfg(unix)]
        Command::Hook(args) => hook::run(&args),
        #[cfg(unix)]
        Command::Started(args) => started::run(&args),
        #[cfg(all(feature = "process", target_os = "linux"))]
        Command::Run(args) => run::run(*args),
        #[cfg(all(feature = "process", target_os = "linux"))]
        Command::Stop(args) => stop::run(&args),
    }
}

/// A length in seconds, with or without the unit: `25`, `25s`, `0.5`.
#[cfg(all(feature = "process", target_os = "linux"))]
fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds = number
        .parse()
        .map_err(|_| "it must be a number of seconds".to_owned())?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
