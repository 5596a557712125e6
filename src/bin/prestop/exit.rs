//! How a subcommand that calls a process ends.

use std::io::Write;
use std::process::ExitCode;

use prestop::HookError;

/// Prints the answer, or what went wrong to standard error, and gives its exit code.
pub(crate) fn with(answer: Result<String, HookError>) -> ExitCode {
    match answer {
        Ok(text) => {
            // A hook whose output nobody reads has still done its work.
            let _ = writeln!(std::io::stdout(), "prestop: {text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "prestop: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
