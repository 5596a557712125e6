//! `prestop hook`: the preStop hook.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use prestop::HookSocket;

/// The preStop hook: begins the stop of the process and waits until its lame duck is over, or half of its grace period
///
/// Exit code: 0 done, 2 wrong arguments, 69 no process is there, 74 it went away before it answered, 75 no answer in
/// time, 77 refused (another user's process or directory). Called again, it waits again and changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) socket: Socket,

    /// Longest time it waits, in seconds [default: 5 s for the first word, then what the process says and 5 s more]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// Where the process is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Socket {
    /// The process's hook socket [default: $PRESTOP_SOCKET, else prestop-<uid>/hook.sock in $XDG_RUNTIME_DIR, /run/prestop,
    /// /run or the directory for temporary files]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Socket {
    pub(crate) fn get(&self) -> HookSocket {
        self.socket
            .as_ref()
            .map_or_else(HookSocket::from_env, HookSocket::at)
    }
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let timeout = args.timeout.map(Duration::from_secs);
    crate::exit::with(args.socket.get().call_pre_stop(timeout))
}
