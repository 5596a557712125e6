//! [`Supervisor`]: a program to be run under the coordinator.

use std::ffi::OsStr;
use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::child::Child;
use super::error::SuperviseError;
use super::orphans;
use super::output::{Output, Pump, Speaker};
use super::plan::StopPlan;
use super::ready::ReadyWhen;
use super::running::{Follow, Running};
use super::signal::Signal;
use crate::handle::ShutdownHandle;

/// A program that is run under a coordinator as if it were the service itself:
/// [`ShutdownCoordinator::supervise`](crate::ShutdownCoordinator::supervise).
///
/// It is started in a process group of its own, waited for by pidfd, ended by its [`StopPlan`] in the drain, and killed
/// with its group at the end of it. It is never started again: that is the kubelet's business, which knows back-off.
///
/// ```no_run
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::ShutdownCoordinator;
/// use prestop::process::{ReadyWhen, StopPlan, Supervisor};
///
/// let c = ShutdownCoordinator::builder().build()?; // SIGTERM is caught from here on
/// let nginx = Supervisor::new("nginx")
///     .args(["-g", "daemon off;"])
///     .ready_when(ReadyWhen::tcp("127.0.0.1:80"))
///     .stop_plan(StopPlan::nginx());
/// c.supervise(nginx).await?.exit() // with nginx's exit code
/// # }
/// ```
///
/// What it needs of the program: that it stays in the foreground. One that puts itself into the background has ended,
/// as far as anybody can see.
#[must_use = "nothing is started before `supervise`"]
pub struct Supervisor {
    command: Command,
    plan: StopPlan,
    ready: Vec<ReadyWhen>,
    ready_within: Option<Duration>,
    output: Output,
    stdin: bool,
    adopt: bool,
    forward: Vec<Signal>,
}

impl Supervisor {
    /// The program, found by `PATH` as a shell would.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self::from(Command::new(program))
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment, which else is ours.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// How it is asked to end. Default: [`StopPlan::terminate`].
    pub fn stop_plan(mut self, plan: StopPlan) -> Self {
        self.plan = plan;
        self
    }

    /// Adds a sign that it serves; the service is ready when all were seen. Default: as soon as it is started.
    pub fn ready_when(mut self, sign: ReadyWhen) -> Self {
        self.ready.push(sign);
        self
    }

    /// How long it may take until then. A program that takes longer is stopped, with
    /// [`Reason::StartFailed`](crate::Reason::StartFailed). Default: 60 s, as every `on_started` hook.
    pub const fn ready_within(mut self, limit: Duration) -> Self {
        self.ready_within = Some(limit);
        self
    }

    /// Where its output goes. Default: [`Output::Inherit`].
    pub const fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Whether it reads our standard input. Default: it does, unless that is a terminal: in a process group of its own
    /// it would be stopped by the first read.
    pub const fn stdin(mut self, ours: bool) -> Self {
        self.stdin = ours;
        self
    }

    /// Becomes the parent of every process below this one whose own parent ends (`PR_SET_CHILD_SUBREAPER`), and reaps
    /// it, so that what the program leaves behind can be found and ended, whatever process group it has moved to. As
    /// PID 1 that is so without being asked for.
    ///
    /// Default: no. It concerns the whole process and is never taken back: children that other code of this process
    /// starts in a process group of their own must be waited for within five seconds of their end.
    pub const fn adopt_orphans(mut self, adopt: bool) -> Self {
        self.adopt = adopt;
        self
    }

    /// Which signals to this process are passed on to the program. Default: `HUP`, `USR1`, `USR2`, which mean
    /// "configuration", "log files", "new binary" to many.
    ///
    /// `HUP` and `USR2` are not passed on once the stop has begun: a reload then would undo it.
    ///
    /// Never those that begin the stop: the program gets its signal when its turn has come. Not `WINCH`, on which
    /// nginx's workers end: a terminal sends it when its window is resized.
    pub fn forward(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.forward = signals.into_iter().collect();
        self
    }

    pub(crate) fn parts(&self) -> (Vec<ReadyWhen>, Option<Duration>, StopPlan) {
        (self.ready.clone(), self.ready_within, self.plan.clone())
    }

    /// The file name of the program, or what it was called by. Arguments may hold secrets.
    pub(crate) fn name(&self) -> String {
        let program = self.command.get_program();
        let name = Path::new(program).file_name().unwrap_or(program);
        name.to_string_lossy().into_owned()
    }

    /// Starts the program; its end is a trigger of the stop.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub(crate) fn spawn(mut self, handle: &ShutdownHandle) -> Result<Arc<Running>, SuperviseError> {
        let name = self.name();
        let failed = |what: &str, error: std::io::Error| SuperviseError::io(what, &name, error);
        let awaited = self.ready.iter().find_map(ReadyWhen::awaited_line);
        let awaited = awaited.map(str::to_owned);
        if awaited.is_some() && !matches!(self.output, Output::Forward | Output::Tracing) {
            return Err(SuperviseError::no_output(&name));
        }
        if self.adopt {
            orphans::adopt().map_err(|e| failed("asking the kernel for the orphans of", e))?;
        }
        // Before the program is started, so that no orphan of it is missed.
        let died = orphans::come_to_us()
            .then(|| signal(SignalKind::child()))
            .transpose()
            .map_err(|e| failed("following SIGCHLD for", e))?;
        let mut forward = Vec::new();
        for each in &self.forward {
            let arrivals = signal(SignalKind::from_raw(each.number()))
                .map_err(|e| failed(&format!("following {each} for"), e))?;
            forward.push((*each, arrivals));
        }
        let before = self.ready.iter().map(ReadyWhen::before).collect();

        if !self.stdin || std::io::stdin().is_terminal() {
            self.command.stdin(Stdio::null());
        }
        let pipe = || match self.output {
            Output::Inherit => Stdio::inherit(),
            Output::Forward | Output::Tracing => Stdio::piped(),
            Output::Discard => Stdio::null(),
        };
        self.command.stdout(pipe()).stderr(pipe());
        let (child, mut spawned) =
            Child::spawn(&mut self.command).map_err(|e| SuperviseError::start(&name, e))?;
        let speaker = Speaker {
            name: name.clone(),
            pid: child.pid(),
        };
        let pump = matches!(self.output, Output::Forward | Output::Tracing).then(|| {
            let (stdout, stderr) = (spawned.stdout.take(), spawned.stderr.take());
            Pump::start(self.output, stdout, stderr, &speaker, awaited.as_deref())
        });
        let pump = pump.transpose().map_err(|error| {
            child.signal_group(Signal::KILL);
            failed("starting the threads for the output of", error)
        })?;
        tracing::info!(child = name, pid = child.pid(), "started");
        let running = Arc::new(Running::new(name, child, pump, before));
        Follow {
            running: running.clone(),
            handle: handle.clone(),
            plan: self.plan,
            died,
            forward,
        }
        .start();
        Ok(running)
    }
}

/// Any command of the standard library's. Its standard streams and its process group are set by us.
impl From<Command> for Supervisor {
    fn from(command: Command) -> Self {
        Self {
            command,
            plan: StopPlan::default(),
            ready: Vec::new(),
            ready_within: None,
            output: Output::default(),
            stdin: true,
            adopt: false,
            forward: vec![Signal::HUP, Signal::USR1, Signal::USR2],
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("program", &self.name())
            .field("plan", &self.plan)
            .field("ready", &self.ready)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}
