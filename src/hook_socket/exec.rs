//! The hook in the user's own binary.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::{HookError, HookSocket};

/// Turns `exec: command: ["/app", "prestop"]` into the preStop hook of this very program: one line, first in `main`.
///
/// ```no_run
/// use prestop::{HookSocket, ShutdownCoordinator};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     prestop::exec_hook(); // `/app prestop` ends here
///     let c = ShutdownCoordinator::builder()
///         .hook_socket(HookSocket::from_env())
///         .build()?;
///     # let h = c.handle();
///     // ...
///     # c.run(h.draining()).await?.exit()
/// }
/// ```
///
/// | arguments | |
/// |---|---|
/// | `prestop` | [`HookSocket::call_pre_stop`] |
/// | `prestop started` | [`HookSocket::call_started`] |
/// | `--timeout SECONDS` behind either | its bound |
///
/// Where the first argument is not `prestop` it returns at once. Otherwise it ends the process: with the answer on
/// standard output and 0, or with one line on standard error and [`HookError::exit_code`] (2 for a wrong argument).
/// It needs no runtime, and does no harm in one. Short for `HookSocket::from_env().exec_hook()`.
pub fn exec_hook() {
    HookSocket::from_env().exec_hook();
}

impl HookSocket {
    /// [`exec_hook`] for this socket.
    pub fn exec_hook(&self) {
        let mut args = std::env::args_os().skip(1);
        if args.next().is_none_or(|first| first != "prestop") {
            return;
        }
        let code = match Command::parse(args) {
            Ok(command) => say(&command.run(self)),
            Err(wrong) => {
                print(std::io::stderr(), &wrong);
                2
            }
        };
        std::process::exit(code);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Command {
    started: bool,
    timeout: Option<Duration>,
}

impl Command {
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut command = Self {
            started: false,
            timeout: None,
        };
        let mut args = args.peekable();
        if args.next_if(|arg| arg == "started").is_some() {
            command.started = true;
        }
        while let Some(arg) = args.next() {
            let seconds = args.next();
            let seconds = seconds.as_ref().and_then(|s| s.to_str()?.parse().ok());
            match seconds {
                Some(seconds) if arg == "--timeout" => {
                    command.timeout = Some(Duration::from_secs(seconds));
                }
                _ => {
                    return Err(format!(
                        "{} is not understood; it is: prestop [started] [--timeout SECONDS]",
                        arg.to_string_lossy()
                    ));
                }
            }
        }
        Ok(command)
    }

    fn run(&self, socket: &HookSocket) -> Result<String, HookError> {
        if self.started {
            socket.call_started(self.timeout)
        } else {
            socket.call_pre_stop(self.timeout)
        }
    }
}

fn say(answer: &Result<String, HookError>) -> i32 {
    match answer {
        Ok(text) => {
            print(std::io::stdout(), text);
            0
        }
        Err(error) => {
            print(std::io::stderr(), &error.to_string());
            error.exit_code().into()
        }
    }
}

/// A hook whose output nobody reads has still done its work.
fn print(mut to: impl Write, text: &str) {
    let _ = writeln!(to, "prestop: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Command, String> {
        Command::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn the_arguments() {
        let command = |started, seconds: Option<u64>| Command {
            started,
            timeout: seconds.map(Duration::from_secs),
        };
        assert_eq!(parse(&[]), Ok(command(false, None)));
        assert_eq!(parse(&["started"]), Ok(command(true, None)));
        assert_eq!(parse(&["--timeout", "7"]), Ok(command(false, Some(7))));
        assert_eq!(
            parse(&["started", "--timeout", "90"]),
            Ok(command(true, Some(90)))
        );
        for wrong in [
            &["stop"][..],
            &["--timeout"],
            &["--timeout", "7s"],
            &["--timeout", "-1"],
        ] {
            let error = parse(wrong).expect_err("not understood");
            assert!(error.starts_with(wrong[0]), "{error}");
        }
    }
}
