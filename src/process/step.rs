//! What can be done to a program from outside: a signal, a command, an HTTP call.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;

use http::Method;

use super::child::{Child, ending};
use super::signal::Signal;
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::registry::http::{Call, HttpClient};

/// Runs a command without a shell and waits for its end, for a hook: that it exits with 0 is success. At the deadline it
/// is killed, with all of its process group.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::ShutdownCoordinator;
/// use prestop::process::run_command;
///
/// let c = ShutdownCoordinator::builder()
///     .pre_stop("flush", |cx| run_command(["true", "--now"], cx.deadline()))
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// What became of it instead. It names the program; arguments may hold secrets.
///
/// # Cancel safety
///
/// Dropped, it kills the group.
pub fn run_command<I: IntoIterator<Item: Into<OsString>>>(
    argv: I,
    by: Deadline,
) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
    let argv = Argv::new(argv);
    async move { Ok(argv.run(by).await?) }
}

/// A command with its arguments, run without a shell.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Argv(pub(super) Vec<OsString>);

impl Argv {
    pub(super) fn new<I: IntoIterator<Item: Into<OsString>>>(argv: I) -> Self {
        Self(argv.into_iter().map(Into::into).collect())
    }

    /// Runs it, and waits for its end: that it exited with 0 is success. At the deadline it is killed, with all of its
    /// process group.
    ///
    /// # Errors
    ///
    /// What became of it instead.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it kills the group.
    pub(super) async fn run(&self, by: Deadline) -> Result<(), String> {
        let (program, arguments) = self.0.split_first().ok_or("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let (child, _) =
            Child::spawn(&mut command).map_err(|error| format!("starting {self}: {error}"))?;
        let killed = KillOnDrop(child.clone());
        let status = by.bound(child.exited()).await;
        if status.is_none() {
            drop(killed);
            child.exited().await;
            return Err(format!("{self} had not ended in time, and was killed"));
        }
        match status {
            Some(status) if !status.success() => Err(format!("{self}: {}", ending(status))),
            _ => Ok(()),
        }
    }
}

/// The program alone: arguments may hold secrets.
impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.0.first().map(|program| program.to_string_lossy());
        f.write_str(&program.unwrap_or_default())
    }
}

struct KillOnDrop(Arc<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.signal_group(Signal::KILL);
    }
}

/// A GET or POST without a body.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct HttpCall {
    method: Method,
    url: String,
}

impl HttpCall {
    pub(super) const fn get(url: String) -> Self {
        Self {
            method: Method::GET,
            url,
        }
    }

    pub(super) const fn post(url: String) -> Self {
        Self {
            method: Method::POST,
            url,
        }
    }

    /// Makes the call; any status from 200 to 399 is success, as with the kubelet.
    ///
    /// # Errors
    ///
    /// What came back instead.
    pub(super) async fn make(&self, by: Deadline) -> Result<(), String> {
        let after = self.url.find("://").map_or(0, |at| at + 3);
        let slash = self.url[after..].find(['/', '?']).map(|at| after + at);
        let (server, path) = self.url.split_at(slash.unwrap_or(self.url.len()));
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let client = HttpClient::new([server]).map_err(|error| error.to_string())?;
        let call = Call::new(self.method.clone(), path);
        let answer = client
            .send(&call, by)
            .await
            .map_err(|error| error.to_string())?;
        match answer.status.as_u16() {
            200..=399 => Ok(()),
            status => Err(format!("{self}: status {status}")),
        }
    }
}

/// Without the query: it may hold secrets.
impl fmt::Display for HttpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.url.split('?').next().unwrap_or_default();
        write!(f, "{} {shown}", self.method)
    }
}
