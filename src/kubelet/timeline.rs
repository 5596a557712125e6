//! [`Timeline`]: what the kubelet did and what the containers made of it, to be printed and asserted on.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::grace::Cause;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the kubelet began: for a stop, the clock that SIGKILL goes by.
    pub at: Duration,
    /// The container; empty for what concerns the whole pod.
    pub container: String,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The runtime started the container.
    Started,
    /// A hook was called.
    HookCalled {
        /// Which hook.
        hook: Hook,
        /// What it does.
        handler: String,
    },
    /// A hook came back in time.
    HookEnded {
        /// Which hook.
        hook: Hook,
        /// What an `exec` hook wrote on standard output, the status with which an `httpGet` hook was answered (which is a
        /// success whatever it is, R23). Empty for `sleep`.
        said: String,
    },
    /// A hook failed: event `FailedPreStopHook` or `FailedPostStartHook`. A preStop hook's failure changes nothing else
    /// (R12).
    HookFailed {
        /// Which hook.
        hook: Hook,
        /// Why.
        why: String,
    },
    /// The grace period was over before the preStop hook. The kubelet goes on; the hook is not cancelled and dies with
    /// its container (R13). Event `FailedPreStopHook`.
    HookAbandoned,
    /// The stop signal was sent to PID 1.
    Signalled {
        /// How long the runtime waits before SIGKILL, whole seconds (R16).
        timeout: Duration,
    },
    /// The container's PID 1 ended.
    Exited {
        /// Its exit code, 128 + n after signal n.
        code: i32,
    },
    /// SIGKILL was sent.
    Killed,
    /// All containers are gone: only now the network goes (R19).
    SandboxStopped,
}

/// A hook of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::HookCalled { hook, handler } => write!(f, "{hook} hook: {handler}"),
            Self::HookEnded { hook, said } if said.is_empty() => write!(f, "{hook} hook ended"),
            Self::HookEnded { hook, said } => write!(f, "{hook} hook ended: {}", one_line(said)),
            Self::HookFailed { hook, why } => write!(f, "{hook} hook FAILED: {}", one_line(why)),
            Self::HookAbandoned => {
                f.write_str("preStop hook FAILED: not done within the grace period")
            }
            Self::Signalled { timeout } => {
                write!(f, "stop signal, {} s until SIGKILL", timeout.as_secs())
            }
            Self::Exited { code } => write!(f, "exited with {code}"),
            Self::Killed => f.write_str("SIGKILL"),
            Self::SandboxStopped => f.write_str("all containers gone"),
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" | ")
}

/// What happened in a start or a stop, in order. `{}` prints it as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Why the pod, or a container of it, was stopped; nothing for a start.
    pub cause: Option<Cause>,
    /// What each container got, before its hook.
    pub grace_period: Duration,
    /// In the order in which it happened.
    pub events: Vec<Event>,
}

impl Timeline {
    fn when(&self, container: &str, is: impl Fn(&What) -> bool) -> Option<Duration> {
        let mut events = self.events.iter();
        events
            .find(|e| e.container == container && is(&e.what))
            .map(|e| e.at)
    }

    /// When the stop signal went to this container.
    #[must_use]
    pub fn signalled(&self, container: &str) -> Option<Duration> {
        self.when(container, |what| matches!(what, What::Signalled { .. }))
    }

    /// How long the runtime was told to wait after it before SIGKILL, if it was sent.
    #[must_use]
    pub fn timeout(&self, container: &str) -> Option<Duration> {
        self.events.iter().find_map(|e| match e.what {
            What::Signalled { timeout } if e.container == container => Some(timeout),
            _ => None,
        })
    }

    /// When SIGKILL went to this container, if it was needed.
    #[must_use]
    pub fn killed(&self, container: &str) -> Option<Duration> {
        self.when(container, |what| *what == What::Killed)
    }

    /// When SIGKILL was sent or would have been sent: the container's own end of time.
    #[must_use]
    pub fn kill_due(&self, container: &str) -> Option<Duration> {
        Some(self.signalled(container)? + self.timeout(container)?)
    }

    /// When this container ended.
    #[must_use]
    pub fn exited(&self, container: &str) -> Option<Duration> {
        self.when(container, |what| matches!(what, What::Exited { .. }))
    }

    /// Its exit code, 128 + n after signal n.
    #[must_use]
    pub fn exit_code(&self, container: &str) -> Option<i32> {
        self.events.iter().find_map(|e| match e.what {
            What::Exited { code } if e.container == container => Some(code),
            _ => None,
        })
    }

    /// Whether any container needed SIGKILL.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.events.iter().any(|e| e.what == What::Killed)
    }

    /// Whether a hook failed, or was not done in time: what shows as a warning event of the pod.
    #[must_use]
    pub fn hook_failed(&self) -> bool {
        let mut events = self.events.iter();
        events.any(|e| matches!(e.what, What::HookFailed { .. } | What::HookAbandoned))
    }

    /// Until the last event.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.events.last().map_or(Duration::ZERO, |e| e.at)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grace = self.grace_period.as_secs();
        match &self.cause {
            Some(cause) => writeln!(f, "{cause}, {grace} s of grace")?,
            None => writeln!(f, "started")?,
        }
        let names = self.events.iter().map(|e| e.container.len());
        let width = names.max().unwrap_or(0);
        for Event {
            at,
            container,
            what,
        } in &self.events
        {
            writeln!(f, "{:>9.3} s  {container:width$}  {what}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// A timeline being written.
#[derive(Debug)]
pub(super) struct Record {
    since: Instant,
    events: std::sync::Mutex<Vec<Event>>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            events: std::sync::Mutex::default(),
        }
    }

    pub(super) fn note(&self, container: &str, what: What) {
        let at = self.since.elapsed();
        let container = container.to_owned();
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        events.push(Event {
            at,
            container,
            what,
        });
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn finish(self, cause: Option<Cause>, grace_period: Duration) -> Timeline {
        let mut events = self.events.into_inner().unwrap_or_else(|e| e.into_inner());
        // Noted by several tasks; equal times stay in their order.
        events.sort_by_key(|e| e.at);
        Timeline {
            cause,
            grace_period,
            events,
        }
    }
}
