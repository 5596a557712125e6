//! [`StopPlan`]: how a program is asked to end.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::Instant;

use super::child::Child;
use super::signal::Signal;
use super::step::{Argv, HttpCall};
use crate::deadline::Deadline;
use crate::handle::ShutdownHandle;

/// How a program is asked to end: first what takes it out of circulation, then one request after the other, until it
/// is gone. What is not gone at the end of the drain is killed, with its whole process group; no plan needs to say so.
///
/// ```
/// use prestop::process::{Signal, StopPlan, StopStep};
/// use std::time::Duration;
///
/// // A Dubbo provider: consumers are told to go elsewhere first, SIGTERM comes when they have.
/// let plan = StopPlan::java().leave(StopStep::http_get("http://127.0.0.1:22222/offline"));
///
/// // A program that ends on a word over HTTP, and else on SIGTERM.
/// let plan = StopPlan::new()
///     .then(StopStep::http_post("http://127.0.0.1:9000/shutdown").within(Duration::from_secs(10)))
///     .then(StopStep::signal(Signal::TERM));
/// ```
///
/// When each part happens:
///
/// | phase | |
/// |---|---|
/// | `PreStop` | readiness is off; registries are left; [`leave`](Self::leave) steps run beside that |
/// | `LameDuck` | the program serves on, whatever still comes |
/// | `Draining` | the [`then`](Self::then) steps, in order; after each it is waited until the program is gone, or until the step's time is up |
/// | end of the drain | SIGKILL to the process group, and the program is in the report as a straggler |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopPlan {
    pub(crate) leave: Vec<StopStep>,
    steps: Vec<StopStep>,
}

/// One step of a [`StopPlan`].
#[derive(Clone, PartialEq, Eq)]
pub struct StopStep {
    action: Action,
    within: Option<Duration>,
    group: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Action {
    Signal(Signal),
    Command(Argv),
    Http(HttpCall),
}

/// What a step without a limit of its own keeps for itself when one before it has used all its time.
const LATE: Duration = Duration::from_secs(2);

impl StopPlan {
    /// No step: the program is killed at the end of the drain unless it ends by itself, because a
    /// [`leave`](Self::leave) step told it to.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            leave: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// SIGTERM: what most programs know.
    #[must_use]
    pub fn terminate() -> Self {
        Self::new().then(StopStep::signal(Signal::TERM))
    }

    /// nginx: SIGQUIT, on which it closes its listeners and finishes the requests in flight; SIGTERM in the last 2 s
    /// (at most a tenth of the time), on which it closes what is left and removes its pidfile.
    ///
    /// nginx itself waits for ever unless `worker_shutdown_timeout` is set. What it does not do is go on accepting
    /// until the load balancer has noticed: that is the lame duck before this plan.
    #[must_use]
    pub fn nginx() -> Self {
        Self::new()
            .then(StopStep::signal(Signal::QUIT))
            .then(StopStep::signal(Signal::TERM))
    }

    /// A JVM: SIGTERM, on which its shutdown hooks run; SIGQUIT in the last 2 s (at most a tenth of the time), on which
    /// it prints what every thread waits for: so the log says which hook hung before the JVM is killed.
    ///
    /// A JVM that ends on SIGTERM exits with 143.
    #[must_use]
    pub fn java() -> Self {
        Self::new()
            .then(StopStep::signal(Signal::TERM))
            .then(StopStep::signal(Signal::QUIT))
    }

    /// Adds a step that takes the program out of circulation without ending it, when the stop begins: beside leaving
    /// the registries and all `pre_stop` hooks, for at most the step's limit (else a third of the grace period, 10 s at
    /// the most). One that fails stops nothing; it is in the report.
    #[must_use]
    pub fn leave(mut self, step: StopStep) -> Self {
        self.leave.push(step);
        self
    }

    /// Adds a step that asks the program to end, after those before it.
    #[must_use]
    pub fn then(mut self, step: StopStep) -> Self {
        self.steps.push(step);
        self
    }

    /// Carries the steps out, until the program has ended. What they could not do is told to `trouble`. Never asks by
    /// when: whoever kills at the deadline ends this, too.
    pub(super) async fn carry_out(
        &self,
        child: &Child,
        handle: &ShutdownHandle,
        mut trouble: impl FnMut(String),
    ) -> ExitStatus {
        for (index, step) in self.steps.iter().enumerate() {
            let begun = Instant::now();
            tracing::info!(pid = child.pid(), %step, "stop step");
            let acted = tokio::select! {
                biased;
                status = child.exited() => return status,
                acted = step.act(child, drain_by(handle)) => acted,
            };
            if let Err(why) = acted {
                tracing::error!(pid = child.pid(), %step, why, "stop step failed");
                trouble(why);
                // It will not end of this one.
                continue;
            }
            if index + 1 == self.steps.len() {
                break;
            }
            tokio::select! {
                biased;
                status = child.exited() => return status,
                () = self.turn_of_next(index, begun, handle) => {}
            }
        }
        child.exited().await
    }

    /// Resolves when the step after this one begins. The deadline may move meanwhile: looked at anew each time.
    async fn turn_of_next(&self, index: usize, begun: Instant, handle: &ShutdownHandle) {
        let mut clock = handle.state().subscribe();
        loop {
            let by = self.ends(index, begun, drain_by(handle).instant());
            tokio::select! {
                () = tokio::time::sleep_until(by) => return,
                changed = clock.changed() => if changed.is_err() { return },
            }
        }
    }

    /// When the step has had its time: its own limit, at most what the later ones leave.
    fn ends(&self, index: usize, begun: Instant, end: Instant) -> Instant {
        let all = end.saturating_duration_since(begun);
        let later: Duration = self.steps[index + 1..]
            .iter()
            .map(|step| step.within.unwrap_or_else(|| LATE.min(all / 10)))
            .sum();
        let most = all.saturating_sub(later);
        begun + self.steps[index].within.map_or(most, |own| own.min(most))
    }

    /// Whether the program ended as this plan asked it to.
    pub(super) fn expects(&self, status: ExitStatus) -> bool {
        status.success()
            || self.steps.iter().any(|step| match step.action {
                Action::Signal(signal) => {
                    let number = signal.number();
                    // A JVM reports the signal as an exit code.
                    status.signal() == Some(number) || status.code() == Some(128 + number)
                }
                Action::Command(_) | Action::Http(_) => false,
            })
    }
}

/// SIGTERM, the plan of most programs.
impl Default for StopPlan {
    fn default() -> Self {
        Self::terminate()
    }
}

/// When the program is killed.
fn drain_by(handle: &ShutdownHandle) -> Deadline {
    let stop = handle.state().signal().stop;
    stop.map_or_else(|| Deadline::after(Duration::ZERO), |stop| stop.drain_by)
}

impl StopStep {
    const fn new(action: Action) -> Self {
        Self {
            action,
            within: None,
            group: false,
        }
    }

    /// A signal to the program itself, and SIGCONT after it: a process that was stopped acts on neither SIGTERM nor
    /// SIGQUIT.
    #[must_use]
    pub const fn signal(signal: Signal) -> Self {
        Self::new(Action::Signal(signal))
    }

    /// The same signal to every process of the program's group: for shells, which do not pass signals on.
    #[must_use]
    pub fn signal_group(signal: Signal) -> Self {
        Self {
            group: true,
            ..Self::signal(signal)
        }
    }

    /// A command, run without a shell: `nginx -s quit`. It is a request like a signal: that it has ended does not mean
    /// that the program has.
    #[must_use]
    pub fn command<I: IntoIterator<Item: Into<OsString>>>(argv: I) -> Self {
        Self::new(Action::Command(Argv::new(argv)))
    }

    /// A GET of this `http://` URL; answers from 200 to 399 are success.
    #[must_use]
    pub fn http_get(url: impl Into<String>) -> Self {
        Self::new(Action::Http(HttpCall::get(url.into())))
    }

    /// A POST without a body to this `http://` URL; answers from 200 to 399 are success.
    #[must_use]
    pub fn http_post(url: impl Into<String>) -> Self {
        Self::new(Action::Http(HttpCall::post(url.into())))
    }

    /// How long the program is waited for before the next step; for a `leave` step, how long it may take itself.
    /// Default: all the time there is; a later step without a limit keeps 2 s for itself, at most a tenth.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.within = Some(limit);
        self
    }

    pub(crate) const fn limit(&self) -> Option<Duration> {
        self.within
    }

    pub(super) async fn act(&self, child: &Child, by: Deadline) -> Result<(), String> {
        match &self.action {
            Action::Signal(signal) => {
                if self.group {
                    child.signal_group(*signal);
                    child.signal_group(Signal::CONT);
                } else {
                    child.signal(*signal);
                    child.signal(Signal::CONT);
                }
                Ok(())
            }
            Action::Command(argv) => argv.run(by).await,
            Action::Http(call) => call.make(by).await,
        }
    }
}

impl fmt::Display for StopStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Signal(signal) if self.group => write!(f, "{signal} to the group"),
            Action::Signal(signal) => signal.fmt(f),
            Action::Command(argv) => write!(f, "command {argv}"),
            Action::Http(call) => call.fmt(f),
        }
    }
}

impl fmt::Debug for StopStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopStep({self}")?;
        match self.within {
            Some(within) => write!(f, " within {within:?})"),
            None => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each step's time is over, in seconds, with a drain of so many.
    fn ends(plan: &StopPlan, drain: u64) -> Vec<f64> {
        let mut begun = Instant::now();
        let (first, end) = (begun, begun + Duration::from_secs(drain));
        let mut all = Vec::new();
        for index in 0..plan.steps.len() {
            begun = plan.ends(index, begun, end);
            all.push((begun - first).as_secs_f64());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_step_keeps_a_tenth_and_two_seconds_at_most() {
        assert_eq!(ends(&StopPlan::nginx(), 10), [9.0, 10.0]);
        assert_eq!(ends(&StopPlan::nginx(), 60), [58.0, 60.0]);
        assert_eq!(ends(&StopPlan::terminate(), 10), [10.0]);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_hold_and_never_pass_the_end() {
        let quit = |seconds| StopStep::signal(Signal::QUIT).within(Duration::from_secs(seconds));
        let plan = StopPlan::new().then(quit(3)).then(quit(4)).then(quit(2));
        assert_eq!(ends(&plan, 20), [3.0, 7.0, 9.0]);
        assert_eq!(ends(&plan, 8), [2.0, 6.0, 8.0]);
        assert_eq!(ends(&plan, 1), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_plan_knows_its_own_signals() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let (java, nginx) = (StopPlan::java(), StopPlan::nginx());
        assert!(java.expects(exited(0)) && java.expects(exited(143)));
        assert!(java.expects(ExitStatus::from_raw(15)));
        assert!(!java.expects(exited(1)) && !java.expects(ExitStatus::from_raw(9)));
        assert!(nginx.expects(ExitStatus::from_raw(3)));
    }
}
