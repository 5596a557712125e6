//! [`Error`]: what keeps a coordinator from being built or run. Trouble while stopping is data in the report.

use std::fmt;

/// Any error a hook, a service or a main future may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What kept a coordinator from being built or run. Trouble while stopping is data in the
/// [`ShutdownReport`](crate::ShutdownReport), never an `Error`.
pub struct Error {
    kind: Kind,
    source: Option<BoxError>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// What was read (a variable or an argument), its value, what would be right.
    GracePeriod {
        from: String,
        value: String,
        advice: &'static str,
    },
    /// The variable with the length of the sleep hook, and its value.
    PreStopSleep {
        variable: &'static str,
        value: String,
    },
    /// The whole arithmetic, ready to print.
    Budget(String),
    /// What is wrong with the runtime, and what to do.
    Runtime(&'static str),
    /// The signal that could not be caught.
    #[cfg_attr(not(feature = "signal"), allow(dead_code))]
    Signal(&'static str),
    /// What was added, and the reason of the stop that had begun.
    TooLate { what: String, reason: String },
    /// Which thread could not be started.
    Thread(&'static str),
    /// What is wrong with the hook socket, and what to do.
    #[cfg_attr(not(all(feature = "hook", unix)), allow(dead_code))]
    HookSocket(String),
    /// Where the token of the httpGet hook came from, and what is wrong with it. Never the token.
    #[cfg_attr(not(all(feature = "hook", feature = "probe")), allow(dead_code))]
    HookToken { from: String, problem: &'static str },
    /// What was looked for to find the own pod, and what to do.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    OwnPod(String),
    /// The message of a panic of our own.
    Engine(String),
}

impl Error {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The grace period was given as something that is not a whole number of seconds of at least one.
    #[must_use]
    pub const fn is_grace_period(&self) -> bool {
        matches!(self.kind, Kind::GracePeriod { .. })
    }

    /// `PRE_STOP_SLEEP_SECONDS` is something that is not a whole number of seconds.
    #[must_use]
    pub const fn is_pre_stop_sleep(&self) -> bool {
        matches!(self.kind, Kind::PreStopSleep { .. })
    }

    /// The parts of the stop do not fit into the grace period; the message is the arithmetic.
    #[must_use]
    pub const fn is_budget(&self) -> bool {
        matches!(self.kind, Kind::Budget(_))
    }

    /// There is no tokio runtime, or not one with the drivers that are needed.
    #[must_use]
    pub const fn is_runtime(&self) -> bool {
        matches!(self.kind, Kind::Runtime(_))
    }

    /// A hook or a registry was added after the stop had begun.
    #[must_use]
    pub const fn is_too_late(&self) -> bool {
        matches!(self.kind, Kind::TooLate { .. })
    }

    /// The hook socket could not be opened: another process has it, or no directory will do.
    #[must_use]
    pub const fn is_hook_socket(&self) -> bool {
        matches!(self.kind, Kind::HookSocket(_))
    }

    /// The token of the httpGet hook is missing, too short, or no header could carry it.
    #[must_use]
    pub const fn is_hook_token(&self) -> bool {
        matches!(self.kind, Kind::HookToken { .. })
    }

    /// The own pod cannot be found: the process runs outside of a cluster, or does not know its pod's name.
    #[must_use]
    pub const fn is_own_pod(&self) -> bool {
        matches!(self.kind, Kind::OwnPod(_))
    }

    /// A signal handler could not be installed.
    #[must_use]
    pub const fn is_signal(&self) -> bool {
        matches!(self.kind, Kind::Signal(_))
    }
}

/// The same text as `Display`: `main` prints a returned error by its `Debug`, and that is read at three in the morning.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::GracePeriod {
                from,
                value,
                advice,
            } => write!(f, "{from}={value:?} is not a grace period: {advice}"),
            Kind::PreStopSleep { variable, value } => write!(
                f,
                "{variable}={value:?} is not the length of a preStop sleep: give the whole seconds of the manifest's \
                 `sleep` hook, without a unit; or unset it where there is none"
            ),
            Kind::Budget(text) | Kind::HookSocket(text) | Kind::OwnPod(text) => f.write_str(text),
            Kind::Runtime(what) => f.write_str(what),
            Kind::HookToken { from, problem } => write!(
                f,
                "{from} {problem}: give at least 16 visible ASCII characters that nobody can guess"
            ),
            Kind::Signal(name) => write!(f, "the handler for {name} could not be installed"),
            Kind::Thread(name) => write!(f, "the {name} thread could not be started"),
            Kind::Engine(panic) => write!(
                f,
                "the plan of the stop panicked, which is a bug in prestop: {panic}"
            ),
            Kind::TooLate { what, reason } => write!(
                f,
                "{what:?} was added after the stop had begun ({reason}): it would never run"
            ),
        }?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
