//! [`ShutdownCoordinator`]: the engine.

mod builder;
mod hooks;
mod registration;
mod sequence;
#[cfg(feature = "signal")]
mod signals;
mod watchdog;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Kind};
use crate::handle::{Guard, ShutdownHandle, panic_message};
use crate::hook::{Hook, HookName, LifecycleHook, TaskOutput};
use crate::last_gasp::LastGasps;
use crate::reason::Reason;
use crate::registry::{Instance, Registry};
use crate::report::{Outcome, ShutdownReport, Stage};
use crate::roster::{Straggler, Work, WorkKind};
use crate::state::State;

use builder::Companion;
pub use builder::ShutdownCoordinatorBuilder;
use hooks::{Hooks, until};
use registration::Membership;
use sequence::Sequence;
use watchdog::Watchdog;

/// Drives one service from its start to its end: hooks, registries, phases, one deadline, one report.
///
/// Built first thing in `main`, so that its signal handlers are there before anything slow; [`handle`](Self::handle)
/// goes to the parts that follow the stop or take part in it; [`run`](Self::run) (or `serve`, with the feature
/// `server`) runs the service and returns when it has stopped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::{Reason, ShutdownCoordinator};
///
/// let c = ShutdownCoordinator::builder()
///     .on_started("warm cache", |_| async {})
///     .on_stopped("flush", |_| async {})
///     .build()?;
/// let h = c.handle();
/// # h.trigger(Reason::requested("the example is over"));
/// let report = c.run(h.draining()).await?;
/// assert_eq!(report.exit_code(), 0);
/// # Ok(()) }
/// ```
///
/// Dropped without having been run, it stops nothing; the process keeps its signal handlers, which from then on do
/// nothing (tokio does not restore the default).
pub struct ShutdownCoordinator {
    handle: ShutdownHandle,
    hooks: Vec<Hook>,
    memberships: Vec<Membership>,
    /// What lives until `Stopped`: the probe listener, the hook socket.
    companions: Vec<Companion>,
    watchdog: Watchdog,
    #[cfg(feature = "signal")]
    signals: Option<signals::SignalThread>,
}

impl ShutdownCoordinator {
    /// A builder with the defaults; signals begin the stop.
    #[cfg(feature = "signal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
    pub fn builder() -> ShutdownCoordinatorBuilder {
        ShutdownCoordinatorBuilder::new().signals(crate::signal::Signals::new())
    }

    /// A builder for a coordinator that no signal reaches: for tests, and for hosts that own their signals.
    pub fn builder_without_signals() -> ShutdownCoordinatorBuilder {
        ShutdownCoordinatorBuilder::new()
    }

    /// What the rest of the program holds.
    #[must_use]
    pub fn handle(&self) -> ShutdownHandle {
        self.handle.clone()
    }

    /// Adds an `on_started` hook after the coordinator was built; see
    /// [the builder's](ShutdownCoordinatorBuilder::on_started).
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12).
    pub fn on_started<F, Fut>(&mut self, name: impl Into<HookName>, hook: F) -> Result<(), Error>
    where
        F: FnOnce(crate::hook::HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::OnStarted, hook))
    }

    /// Adds a `pre_stop` hook after the coordinator was built; see
    /// [the builder's](ShutdownCoordinatorBuilder::pre_stop).
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12); [`Error::is_budget`] when its limit does not fit.
    pub fn pre_stop<F, Fut>(&mut self, name: impl Into<HookName>, hook: F) -> Result<(), Error>
    where
        F: FnOnce(crate::hook::HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::PreStop, hook))
    }

    /// Adds an `on_stopped` hook after the coordinator was built, so that what was opened later is closed earlier;
    /// see [the builder's](ShutdownCoordinatorBuilder::on_stopped).
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12).
    pub fn on_stopped<F, Fut>(&mut self, name: impl Into<HookName>, hook: F) -> Result<(), Error>
    where
        F: FnOnce(crate::hook::HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::OnStopped, hook))
    }

    /// Adds a hook object after the coordinator was built.
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12); [`Error::is_budget`] when its limit does not fit.
    pub fn hook(&mut self, hook: impl LifecycleHook) -> Result<(), Error> {
        self.add(Hook::object(hook))
    }

    /// Adds a registry after the coordinator was built, when the address is known at last.
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12); [`Error::is_budget`] when its visibility does not fit.
    pub fn registry(&mut self, registry: impl Registry, instance: Instance) -> Result<(), Error> {
        self.join(Membership::new(registry, instance))
    }

    /// Adds a registry without which the service is not ready, after the coordinator was built; see
    /// [the builder's](ShutdownCoordinatorBuilder::required_registry).
    ///
    /// # Errors
    ///
    /// [`Error::is_too_late`] once a stop has begun (T12); [`Error::is_budget`] when its visibility does not fit.
    pub fn required_registry(
        &mut self,
        registry: impl Registry,
        instance: Instance,
    ) -> Result<(), Error> {
        self.join(Membership::new(registry, instance).required())
    }

    fn join(&mut self, membership: Membership) -> Result<(), Error> {
        self.not_too_late(&membership.name)?;
        let mut budget = self.handle.state().budget();
        budget.add_visibility(&membership.name, membership.visibility);
        budget.check()?;
        self.handle.state().set_budget(budget);
        self.memberships.push(membership);
        Ok(())
    }

    fn add(&mut self, hook: Hook) -> Result<(), Error> {
        self.not_too_late(hook.name())?;
        let mut budget = self.handle.state().budget();
        budget.add_hook(&hook_limit(&hook));
        budget.check()?;
        self.handle.state().set_budget(budget);
        self.hooks.push(hook);
        Ok(())
    }

    fn not_too_late(&self, name: &str) -> Result<(), Error> {
        match self.handle.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::new(Kind::TooLate {
                what: name.to_owned(),
                reason: reason.to_string(),
            })),
        }
    }

    /// Runs the service: hooks, registries, phases, around the main future. Returns when everything has stopped.
    ///
    /// The main future is the service itself: one or several servers, or [`draining`](ShutdownHandle::draining) where
    /// all work is tasks and guards. It should end when the drain begins. It holds the drain open until it has; at
    /// force close it is dropped. When it ends before any trigger, its end is the trigger.
    ///
    /// # Errors
    ///
    /// [`Error::is_runtime`] when the runtime was shut down meanwhile. Trouble while stopping is in the report.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a force close: what is in flight is cut, no hook runs, heartbeats end. Registries get a
    /// [last gasp](crate::registry::LastGasp), which is waited for (300 ms at the most) only while the thread panics.
    pub async fn run<F>(self, main: F) -> Result<ShutdownReport, Error>
    where
        F: IntoFuture,
        F::Output: TaskOutput,
    {
        let Self {
            handle,
            hooks,
            memberships,
            companions: _companions,
            watchdog,
            #[cfg(feature = "signal")]
                signals: _signals,
        } = self;
        let main = main.into_future();
        let _end = EndOnDrop(handle.state().clone());
        // Disarmed before the end is told: a run that is dropped ends at once, and its process goes on.
        let _watchdog = watchdog;
        let guard = handle.enter(Arc::new(MainWork(Instant::now())));
        let sequence = Sequence::new(handle.clone(), Hooks::new(hooks), memberships);
        // A task of its own: a main future that blocks its thread must not block the plan.
        let mut engine = AbortOnDropHandle::new(tokio::spawn(sequence.run()));

        let main = run_main(&handle, main, guard.ok());
        tokio::pin!(main);
        let mut main_is_over = false;
        loop {
            tokio::select! {
                biased;
                () = &mut main, if !main_is_over => main_is_over = true,
                ended = &mut engine => {
                    return match ended {
                        Ok(()) => Ok(handle.report()),
                        Err(e) => Err(engine_ended(e)),
                    };
                }
            }
        }
    }
}

impl fmt::Debug for ShutdownCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownCoordinator")
            .field("handle", &self.handle)
            .field("hooks", &self.hooks)
            .field("memberships", &self.memberships)
            .finish_non_exhaustive()
    }
}

/// The limit that a hook's `pre_stop` was given, with its name; `None` where it has no such stage.
fn hook_limit(hook: &Hook) -> Option<(String, Option<std::time::Duration>)> {
    hook.runs_in(Stage::PreStop)
        .then(|| (hook.name().to_owned(), hook.limit(Stage::PreStop)))
}

/// The plan's task is aborted by nobody but its runtime; a panic in it is a bug of ours.
fn engine_ended(error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => Error::new(Kind::Engine(panic_message(&*panic))),
        Err(cancelled) => Error::new(Kind::Runtime(
            "the runtime was shut down while the service ran",
        ))
        .with_source(cancelled),
    }
}

/// The main future, until it ends or is cut; its end is the trigger where there was none.
async fn run_main<F>(handle: &ShutdownHandle, main: F, guard: Option<Guard>)
where
    F: Future,
    F::Output: TaskOutput,
{
    let state = handle.state();
    // Boxed, so that it can be dropped where a panic of its drop is caught.
    let mut main = Box::pin(async { main.await.into_result().map_err(|error| error.to_string()) });
    let outcome = tokio::select! {
        biased;
        ended = AssertUnwindSafe(&mut main).catch_unwind() => match ended {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(panic) => Outcome::Panicked(panic_message(&*panic)),
        },
        () = until(state, |signal| signal.cut.then(Instant::now)) => Outcome::TimedOut,
    };
    let outcome = match std::panic::catch_unwind(AssertUnwindSafe(|| drop(main))) {
        Ok(()) => outcome,
        Err(panic) => Outcome::Panicked(panic_message(&*panic)),
    };
    let how = match &outcome {
        Outcome::Done => "the main future returned".to_owned(),
        bad => format!("the main future ended: {bad}"),
    };
    state.draft(|draft| draft.main = outcome);
    handle.trigger(Reason::TaskEnded(how));
    drop(guard);
}

/// The main future in the roster: it is cut by being dropped, in `run_main`.
struct MainWork(Instant);

impl Work for MainWork {
    fn describe(&self, into: &mut Vec<Straggler>) {
        into.push(Straggler {
            kind: WorkKind::Main,
            what: "future given to run".into(),
            peer: None,
            age: self.0.elapsed(),
            bytes: None,
        });
    }

    fn cut(&self) {}
}

/// Whatever way `run` ends, nothing of the service goes on behind its back.
struct EndOnDrop(Arc<State>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.in_flight.close();
        self.0
            .end(Reason::TaskEnded("the run was dropped".to_owned()));
        // Nothing is left of them where the run came to its end.
        if std::thread::panicking() {
            // The process may be about to end.
            self.0.last_gasps.breathe(LastGasps::BOUND);
        } else {
            drop(self.0.last_gasps.start(LastGasps::BOUND));
        }
    }
}
