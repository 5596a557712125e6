//! [`ReadyWhen`]: how a program says that it serves.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;

use super::output::Pump;
use super::step::{Argv, HttpCall};
use crate::deadline::Deadline;

/// How often a program is asked: a start is seen late by no more than this.
const EVERY: Duration = Duration::from_millis(100);

/// The most that one question takes.
const QUESTION: Duration = Duration::from_secs(1);

/// A sign that a program serves: before it, the service is not ready and no registry gets the instance.
///
/// What is outside of this process is asked every 100 ms, a second for each question at the most.
#[derive(Clone)]
pub struct ReadyWhen(Sign);

#[derive(Clone)]
enum Sign {
    Tcp(String),
    Http(HttpCall),
    LogLine(String),
    File(PathBuf),
    Command(Argv),
}

impl ReadyWhen {
    /// A connection to `host:port` is accepted.
    #[must_use]
    pub fn tcp(address: &(impl ToString + ?Sized)) -> Self {
        Self(Sign::Tcp(address.to_string()))
    }

    /// A GET of this `http://` URL is answered with a status from 200 to 399, as the kubelet's probes have it.
    #[must_use]
    pub fn http(url: impl Into<String>) -> Self {
        Self(Sign::Http(HttpCall::get(url.into())))
    }

    /// A line that contains this text was printed, on standard output or standard error. Only with an
    /// [`Output`](super::Output) that goes by way of us.
    #[must_use]
    pub fn log_line(text: impl Into<String>) -> Self {
        Self(Sign::LogLine(text.into()))
    }

    /// This file was written since the program was started. One that a predecessor left behind does not count.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Sign::File(path.into()))
    }

    /// This command, run without a shell, exits with 0.
    #[must_use]
    pub fn command<I: IntoIterator<Item: Into<OsString>>>(argv: I) -> Self {
        Self(Sign::Command(Argv::new(argv)))
    }

    /// Whether it reads the program's output, which must come by here then.
    #[must_use]
    pub fn needs_output(&self) -> bool {
        self.awaited_line().is_some()
    }

    /// The text to look out for in the output.
    pub(super) fn awaited_line(&self) -> Option<&str> {
        match &self.0 {
            Sign::LogLine(text) => Some(text),
            _ => None,
        }
    }

    /// What must be known before the program is started.
    pub(super) fn before(&self) -> Option<SystemTime> {
        match &self.0 {
            Sign::File(path) => written(path),
            _ => None,
        }
    }

    /// Waits for the sign.
    pub(super) async fn seen(&self, before: Option<SystemTime>, pump: Option<&Pump>) {
        match &self.0 {
            Sign::LogLine(_) => match pump {
                Some(pump) => pump.saw_it().await,
                None => std::future::pending().await,
            },
            Sign::Tcp(address) => {
                ask(|| async { TcpStream::connect(address.as_str()).await.map(drop) }).await;
            }
            Sign::Http(call) => ask(|| call.make(Deadline::after(QUESTION))).await,
            Sign::File(path) => {
                ask(|| async {
                    match written(path) {
                        Some(now) if Some(now) != before => Ok(()),
                        _ => Err("not written yet"),
                    }
                })
                .await;
            }
            Sign::Command(argv) => ask(|| argv.run(Deadline::after(QUESTION))).await,
        }
    }
}

fn written(path: &PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|about| about.modified())
        .ok()
}

/// Asks until the answer is yes.
async fn ask<F, T, E>(question: impl Fn() -> F)
where
    F: Future<Output = Result<T, E>>,
    E: fmt::Display,
{
    let mut said = String::new();
    loop {
        match tokio::time::timeout(QUESTION + EVERY, question()).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                let error = error.to_string();
                if error != said {
                    tracing::debug!(%error, "not ready");
                    said = error;
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl fmt::Display for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Sign::Tcp(address) => write!(f, "tcp {address}"),
            Sign::Http(call) => call.fmt(f),
            Sign::LogLine(text) => write!(f, "log line {text:?}"),
            Sign::File(path) => write!(f, "file {}", path.display()),
            Sign::Command(argv) => write!(f, "command {argv}"),
        }
    }
}

impl fmt::Debug for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
