//! [`ShutdownHandle`]: what the rest of the program holds of the coordinator.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;
use crate::in_flight::{Closed, InFlightGuard};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::report::{Outcome, ShutdownReport};
use crate::roster::{Entry, Straggler, Work, WorkKind};
use crate::state::{Haste, State};
use crate::sync::lock;

/// What the rest of the program holds of the coordinator: it triggers the stop, follows it, and counts work in.
///
/// Cheap to clone; every clone is the same. Holding one keeps nothing open.
#[derive(Clone)]
pub struct ShutdownHandle {
    state: Arc<State>,
}

impl ShutdownHandle {
    pub(crate) const fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    pub(crate) const fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Begins the stop; whether this call did. Called again, it changes nothing: the phase only rises and the
    /// deadline only moves earlier (S1).
    ///
    /// The time until SIGKILL is the whole grace period for every reason but a signal, which comes after the
    /// manifest's `sleep` hook ([`pre_stop_elapsed`](crate::ShutdownCoordinatorBuilder::pre_stop_elapsed)), unless
    /// [`Reason::PreStopHook`] came before: a hook that calls is no `sleep`.
    pub fn trigger(&self, reason: Reason) -> bool {
        let (budget, pod) = (self.state.budget(), self.state.pod_times());
        let is_signal = matches!(reason, Reason::Signal(_));
        self.state.trigger(reason, |hook_called| {
            let unseen = (is_signal && !hook_called).then_some(budget.pre_stop_elapsed);
            pod.at_most(budget.grace.length(), unseen)
        })
    }

    /// [`trigger`](Self::trigger) for who knows that SIGKILL comes in `kill_in`: begins the stop with that time, or
    /// tightens the deadline of the one that has begun. Longer than what is left, it changes nothing.
    pub fn trigger_within(&self, reason: Reason, kill_in: Duration) -> bool {
        let most = self.state.budget().grace_with(self.state.pod_times().grace);
        self.state.trigger(reason, |_| kill_in.min(most.length()))
    }

    /// Ends the lame duck now, or leaves it out, also when the stop has yet to begin.
    pub fn end_lame_duck(&self) {
        self.state.hurry(Haste::EndLameDuck);
    }

    /// Ends the drain now: what is in flight is cut, 50 ms after the drain began at the earliest; `pre_stop` hooks are
    /// dropped. What is reserved still happens: registries are left (for at most the leave budget), `on_stopped` hooks
    /// run. Called before the trigger, it makes that stop a hasty one.
    pub fn force(&self) {
        self.state.hurry(Haste::Force);
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Resolves when the phase is reached or passed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn wait_for(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let mut signal = self.state.subscribe();
        async move {
            // An error means that the state is gone: then every phase is over.
            let _ = signal.wait_for(|signal| signal.phase >= phase).await;
        }
    }

    /// Resolves when a stock server may be told to finish: what `axum::serve(..).with_graceful_shutdown(..)` and
    /// tonic's `serve_with_incoming_shutdown` want. That is when the drain begins; for servers on a
    /// `listener` of the coordinator's later: hyper closes idle and untouched
    /// connections in the instant in which it is told, so it is told only when the accept queue was swept, and all
    /// connections have closed by themselves or the [linger](crate::ShutdownCoordinatorBuilder::linger) is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        let began = self.wait_for(Phase::Draining);
        let mut holdback = self.state.holdback.subscribe();
        let signal = self.state.subscribe();
        let linger = self.state.settings.linger;
        async move {
            began.await;
            // An error means that the state is gone: then everything is over.
            let _ = holdback.wait_for(|held| held.listeners == 0).await;
            let since = signal.borrow().draining_since.unwrap_or_else(Instant::now);
            tokio::select! {
                _ = holdback.wait_for(|held| held.connections == 0) => {}
                () = tokio::time::sleep_until(since + linger) => {}
            }
        }
    }

    /// A token that is cancelled when the phase is reached or passed. Consumers of queues stop taking new messages
    /// at [`Phase::PreStop`]. Cancelling it oneself stops nothing but one's own clones.
    #[must_use]
    pub fn token(&self, phase: Phase) -> CancellationToken {
        self.state.token(phase).child_token()
    }

    /// When everything must be over; `None` before the stop has begun.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.state.signal().stop.map(|stop| stop.deadline)
    }

    /// The time until the deadline; `None` before the stop has begun.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(Deadline::remaining)
    }

    /// What began the stop; `None` before.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.state.draft(|draft| draft.reason.clone())
    }

    /// What is in flight now, oldest first: connections, requests, tasks, guards.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Straggler> {
        self.state.roster.stragglers()
    }

    /// The report as far as it is known now. The last one is what `serve` and `run` return.
    pub fn report(&self) -> ShutdownReport {
        self.state.report()
    }

    /// Holds the drain open until the guard is dropped. In the report, a guard that had to be cut stands with its
    /// name and the line that took it.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the drain is over; until then work in flight can start its follow-up (S13).
    #[track_caller]
    pub fn guard(&self, name: impl Into<Cow<'static, str>>) -> Result<Guard, Closed> {
        let named = Arc::new(Named::new(WorkKind::Guard, name.into(), Location::caller()));
        self.enter(named)
    }

    /// Runs the future as a task that holds the drain open until it is done, and is aborted at force close.
    ///
    /// A panic is in the report; the join handle has it, too. Dropping the join handle detaches, it does not abort.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the drain is over; the future is dropped without having been polled.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn spawn<F>(
        &self,
        name: impl Into<Cow<'static, str>>,
        future: F,
    ) -> Result<JoinHandle<F::Output>, Closed>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let named = Arc::new(Named::new(WorkKind::Task, name.into(), Location::caller()));
        // Counted before it is spawned: between the two nothing can close (T1).
        let guard = self.enter(named.clone())?;
        let (state, task) = (self.state.clone(), named.clone());
        let handle = tokio::spawn(async move {
            let result = AssertUnwindSafe(future).catch_unwind().await;
            if let Err(panic) = &result {
                let outcome = Outcome::Panicked(panic_message(&**panic));
                tracing::error!(task = %task.name, %outcome, "task");
                state.draft(|draft| draft.task_failed(&task.name, outcome));
            }
            // On record first: this may be the end of the drain, and then the report is made on another thread.
            drop(guard);
            result.unwrap_or_else(|panic| resume_unwind(panic))
        });
        named.can_abort(handle.abort_handle());
        Ok(handle)
    }

    /// Holds the drain open until the guard is dropped, like [`guard`](Self::guard) without a name: a straggler
    /// counted this way delays the stop but cannot be told from others in the report. For hot paths: about the
    /// price of two uncontended atomic pairs, on a cache line of the thread's own.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the drain is over.
    pub fn count(&self) -> Result<InFlightGuard, Closed> {
        self.state.in_flight.enter()
    }

    pub(crate) fn enter(&self, work: Arc<dyn Work>) -> Result<Guard, Closed> {
        let in_flight = self.count()?;
        Ok(Guard {
            _entry: self.state.roster.enter(work),
            _in_flight: in_flight,
        })
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle")
            .field("phase", &self.phase())
            .field("in_flight", &self.state.in_flight.count())
            .finish_non_exhaustive()
    }
}

/// The message of a panic, where it has one.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned())
}

/// Holds the drain open until it is dropped; see [`ShutdownHandle::guard`].
#[must_use = "dropped at once, it holds nothing open"]
#[derive(Debug)]
pub struct Guard {
    // Out of the roster first: who is woken by the count finds the roster without it.
    _entry: Entry,
    _in_flight: InFlightGuard,
}

/// Work that has a name and a line of code.
struct Named {
    kind: WorkKind,
    name: Cow<'static, str>,
    at: &'static Location<'static>,
    since: Instant,
    abort: Mutex<Abort>,
}

#[derive(Default)]
struct Abort {
    handle: Option<AbortHandle>,
    cut: bool,
}

impl Named {
    fn new(kind: WorkKind, name: Cow<'static, str>, at: &'static Location<'static>) -> Self {
        Self {
            kind,
            name,
            at,
            since: Instant::now(),
            abort: Mutex::default(),
        }
    }

    /// A cut that came between the count and the spawn is made up for.
    fn can_abort(&self, handle: AbortHandle) {
        let mut abort = lock(&self.abort);
        if abort.cut {
            handle.abort();
        }
        abort.handle = Some(handle);
    }
}

impl Work for Named {
    fn describe(&self, into: &mut Vec<Straggler>) {
        into.push(Straggler {
            kind: self.kind,
            what: format!("{:?} ({}:{})", self.name, self.at.file(), self.at.line()).into(),
            peer: None,
            age: self.since.elapsed(),
            bytes: None,
        });
    }

    fn cut(&self) {
        let mut abort = lock(&self.abort);
        abort.cut = true;
        if let Some(handle) = &abort.handle {
            handle.abort();
        }
    }
}
