//! [`ShutdownCoordinatorBuilder`]: options and their defaults.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::budget::{Budget, GracePeriod, LameDuck};
use crate::error::{Error, Kind};
use crate::handle::ShutdownHandle;
use crate::hook::{Hook, HookContext, HookName, LifecycleHook, TaskOutput};
use crate::registry::{Instance, Registry};
use crate::report::Stage;
#[cfg(feature = "signal")]
use crate::signal::Signals;
use crate::state::State;

use super::registration::Membership;
#[cfg(feature = "signal")]
use super::signals::SignalThread;
use super::watchdog::Watchdog;
use super::{ShutdownCoordinator, hook_limit};

/// What lives from `build` until `Stopped`, and ends when it is dropped.
pub(super) type Companion = Box<dyn Any + Send + Sync>;

type StartCompanion = Box<dyn FnOnce(ShutdownHandle) -> Result<Companion, Error> + Send>;

/// Options of a [`ShutdownCoordinator`]. Every default is what a service on Kubernetes wants.
#[must_use = "nothing is installed before `build`"]
pub struct ShutdownCoordinatorBuilder {
    grace: Option<GracePeriod>,
    pre_stop_elapsed: Option<Duration>,
    lame_duck: LameDuck,
    settings: crate::state::Settings,
    hooks: Vec<Hook>,
    memberships: Vec<Membership>,
    companions: Vec<StartCompanion>,
    #[cfg(feature = "signal")]
    signals: Option<Signals>,
}

impl ShutdownCoordinatorBuilder {
    pub(super) fn new() -> Self {
        Self {
            grace: None,
            pre_stop_elapsed: None,
            lame_duck: LameDuck {
                on_kubernetes: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
                ..LameDuck::default()
            },
            settings: crate::state::Settings::default(),
            hooks: Vec::new(),
            memberships: Vec::new(),
            companions: Vec::new(),
            #[cfg(feature = "signal")]
            signals: None,
        }
    }

    /// The pod's `terminationGracePeriodSeconds`. Default: the variable `TERMINATION_GRACE_PERIOD_SECONDS`, else 30 s.
    pub const fn grace_period(mut self, grace: GracePeriod) -> Self {
        self.grace = Some(grace);
        self
    }

    /// The length of the manifest's preStop `sleep` (or of an `exec` hook that does not call this process): it comes
    /// out of the grace period before SIGTERM is sent (R11), and the process cannot see it. Default: the variable
    /// `PRE_STOP_SLEEP_SECONDS` (whole seconds, beside the hook in the manifest), else zero.
    pub const fn pre_stop_elapsed(mut self, slept: Duration) -> Self {
        self.pre_stop_elapsed = Some(slept);
        self
    }

    /// How long to go on serving after readiness is off, at the least; a registry's visibility can make it longer.
    ///
    /// Default: 5 s on Kubernetes (`KUBERNETES_SERVICE_HOST` is set), at most a third of the grace period and
    /// what leaves a drain, since endpoint removal reaches every node only after about a second and ingresses later; zero elsewhere.
    pub const fn lame_duck(mut self, length: Duration) -> Self {
        self.lame_duck.length = Some(length);
        self
    }

    /// Ends the lame duck early when no request has started for this long and every registry's visibility is over.
    /// Default: it always lasts its length.
    pub const fn end_lame_duck_when_quiet(mut self, quiet: Duration) -> Self {
        self.lame_duck.until_quiet = Some(quiet);
        self
    }

    /// How long an idle keep-alive connection stays readable in the drain at the least, because a request may already be
    /// on its way. Default: 500 ms, several times the longest round trip inside a cluster; it ends early when no
    /// connection is left.
    ///
    /// On the own loop, a connection whose longest pause (or, while it made few, that of the other clients) says that its next request comes within ten times the
    /// linger (5 s) and a quarter of the drain stays readable until then, and for half of that pause longer. So clients
    /// that send every few seconds are told to leave with an answer, and do not meet the close
    /// ([measured](crate::_docs::connections#mostly-idle-clients-measured)); others cost no time. Zero: nobody is waited
    /// for. Neither is in a stop that is in a hurry (Ctrl-C, [`end_lame_duck`](crate::ShutdownHandle::end_lame_duck)).
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// When streams are told to end whose policy is [`StreamPolicy::Tell`](crate::StreamPolicy::Tell): server-sent
    /// events and WebSockets by default. Default: [`TellAt::Draining`](crate::TellAt::Draining), which interrupts
    /// each client once. A route says otherwise with [`StreamLayer::at`](crate::StreamLayer::at).
    #[cfg(feature = "middleware")]
    #[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
    pub const fn tell_streams_at(mut self, at: crate::state::TellAt) -> Self {
        self.settings.tell_at = at;
        self
    }

    /// What becomes of requests that arrive in the drain, on connections that are still open. Default:
    /// [`LateRequests::Serve`](crate::LateRequests::Serve). Exempt ones are served either way, guards and tasks are
    /// admitted (S13), and no request is refused before the drain.
    #[cfg(feature = "middleware")]
    #[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
    pub const fn late_requests(mut self, late: crate::state::LateRequests) -> Self {
        self.settings.late_requests = late;
        self
    }

    /// Whether `/readyz` fails when the stop begins. Default: [`Readiness::FailWhenStopping`](crate::Readiness).
    pub const fn readiness(mut self, readiness: crate::state::Readiness) -> Self {
        self.settings.readiness = readiness;
        self
    }

    /// Which signals begin the stop. Default: SIGTERM and SIGINT.
    #[cfg(feature = "signal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
    pub const fn signals(mut self, signals: Signals) -> Self {
        self.signals = Some(signals);
        self
    }

    /// Adds a hook that runs before the service is ready, after those added before it. An error or a panic stops the
    /// service with [`Reason::StartFailed`](crate::Reason::StartFailed). Limit: its own, else 60 s.
    pub fn on_started<F, Fut>(self, name: impl Into<HookName>, hook: F) -> Self
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::OnStarted, hook))
    }

    /// Adds a hook that starts when the stop begins, beside all others, while everything is still served. Limit: its
    /// own, else a third of the grace period and at most 10 s.
    pub fn pre_stop<F, Fut>(self, name: impl Into<HookName>, hook: F) -> Self
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::PreStop, hook))
    }

    /// Adds a hook that runs after the drain, before those added before it, in time that is reserved whatever the
    /// drain used (S7). Limit: an equal part of what is left for all of them, or its own if that is less.
    pub fn on_stopped<F, Fut>(self, name: impl Into<HookName>, hook: F) -> Self
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.add(Hook::closure(name.into(), Stage::OnStopped, hook))
    }

    /// Adds a hook object, for what has a start and an end.
    pub fn hook(self, hook: impl LifecycleHook) -> Self {
        self.add(Hook::object(hook))
    }

    fn add(mut self, hook: Hook) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Adds a registry. It gets the instance when the service is ready, and is left first of all when the stop begins.
    ///
    /// A registry that is down does not keep the service from starting, since it must not stop a rollout: it gets the
    /// instance, in the background, when it is up. See [`required_registry`](Self::required_registry).
    pub fn registry(mut self, registry: impl Registry, instance: Instance) -> Self {
        self.memberships.push(Membership::new(registry, instance));
        self
    }

    /// Adds a registry without which the service is of no use: it gets the instance after the `on_started` hooks, and
    /// the service is ready when it has taken it. It is tried for 60 s, as long as an `on_started` hook has; then the
    /// start has failed ([`Reason::StartFailed`](crate::Reason::StartFailed)). Left as every other is.
    pub fn required_registry(mut self, registry: impl Registry, instance: Instance) -> Self {
        self.memberships
            .push(Membership::new(registry, instance).required());
        self
    }

    /// Adds a task that lives from `build` until `Stopped`.
    #[cfg_attr(not(any(feature = "probe", feature = "haproxy")), allow(dead_code))]
    pub(crate) fn companion<F>(
        self,
        task: impl FnOnce(ShutdownHandle) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.starting(|handle| Ok(AbortOnDropHandle::new(tokio::spawn(task(handle)))))
    }

    /// Adds what `build` starts, and what fails with it; it ends by being dropped, at `Stopped`.
    pub(crate) fn starting<T: Send + Sync + 'static>(
        mut self,
        start: impl FnOnce(ShutdownHandle) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        self.companions.push(Box::new(|handle| {
            start(handle).map(|started| Box::new(started) as Companion)
        }));
        self
    }

    /// Checks that everything fits, installs the signal handlers, starts two threads: one reads the signals, one is the
    /// watchdog. So SIGTERM is heard, and the deadline kept, while the service blocks every thread it has.
    ///
    /// # Errors
    ///
    /// - [`Error::is_grace_period`]: `TERMINATION_GRACE_PERIOD_SECONDS` is not whole seconds from 1.
    /// - [`Error::is_pre_stop_sleep`]: `PRE_STOP_SLEEP_SECONDS` is not whole seconds.
    /// - [`Error::is_budget`]: the drain would get less than 10 % of the grace period; the message is the arithmetic.
    /// - [`Error::is_runtime`]: called outside of a tokio runtime.
    /// - [`Error::is_hook_socket`]: another process has the hook socket, or its directory will not do.
    /// - [`Error::is_signal`]: a handler could not be installed. As PID 1 SIGTERM would be dropped silently (S10).
    pub fn build(self) -> Result<ShutdownCoordinator, Error> {
        let mut budget = Budget {
            grace: match self.grace {
                Some(grace) => grace,
                None => GracePeriod::from_env()?,
            },
            pre_stop_elapsed: match self.pre_stop_elapsed {
                Some(slept) => slept,
                None => crate::budget::sleep_from_env()?,
            },
            lame_duck: self.lame_duck,
            longest_hook: None,
            visibility: None,
        };
        for hook in &self.hooks {
            budget.add_hook(&hook_limit(hook));
        }
        for membership in &self.memberships {
            budget.add_visibility(&membership.name, membership.visibility);
        }
        budget.check()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(Kind::Runtime(
                "there is no tokio runtime: build the coordinator inside one, first thing in #[tokio::main]",
            )));
        }
        // tokio has no other way to ask than to try.
        if std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
            return Err(Error::new(Kind::Runtime(
                "the tokio runtime has no timers: build it with enable_time or enable_all",
            )));
        }
        let state = Arc::new(State::new(budget, self.settings));
        let handle = ShutdownHandle::new(state);
        let watchdog = Watchdog::start(&handle)?;
        #[cfg(feature = "signal")]
        let signals = match self.signals {
            Some(signals) => Some(SignalThread::start(&handle, signals)?),
            None => None,
        };
        let mut companions = Vec::new();
        for companion in self.companions {
            companions.push(companion(handle.clone())?);
        }
        Ok(ShutdownCoordinator {
            handle,
            hooks: self.hooks,
            memberships: self.memberships,
            companions,
            watchdog,
            #[cfg(feature = "signal")]
            signals,
        })
    }
}

impl fmt::Debug for ShutdownCoordinatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownCoordinatorBuilder")
            .field("grace", &self.grace)
            .field("hooks", &self.hooks)
            .field("memberships", &self.memberships)
            .finish_non_exhaustive()
    }
}
