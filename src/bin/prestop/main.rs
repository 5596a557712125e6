//! `prestop`: the small helper for images whose program does not bring the hook itself.
//!
//! Exit codes of every subcommand that calls a process: 0 done, 2 wrong arguments, 69 no process is there, 70 the start
//! failed, 74 the process went away, 75 no answer in time, 77 refused.

#[cfg(unix)]
mod exit;
#[cfg(unix)]
mod hook;
#[cfg(unix)]
mod started;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Calls a service that uses the crate prestop, from its pod's lifecycle hooks.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(unix)]
    Hook(hook::Args),
    #[cfg(unix)]
    Started(started::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        #[cfg(unix)]
        Command::Hook(args) => hook::run(&args),
        #[cfg(unix)]
        Command::Started(args) => started::run(&args),
    }
}
