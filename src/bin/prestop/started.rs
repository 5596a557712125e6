//! `prestop started`: the postStart hook.

use std::process::ExitCode;
use std::time::Duration;

use crate::hook::Socket;

/// The postStart hook: waits until the process is ready, and fails when its start failed
///
/// The kubelet kills the container when it fails. Exit code: 0 ready, 2 wrong arguments, 69 no process came, 70 its
/// start failed, 74 it went away before it was ready, 75 it was not ready in time, 77 refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,

    /// Longest time it waits for the process to be ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let timeout = Some(Duration::from_secs(args.timeout));
    crate::exit::with(args.socket.get().call_started(timeout))
}
