//! Hooks: what the user wants to happen when the service has started, is about to stop, has stopped.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::reason::Reason;
use crate::report::Stage;
use crate::sync::lock;

/// A part of the service that has something to do at its start and its end, as an object. The closures of
/// [`on_started`](crate::ShutdownCoordinatorBuilder::on_started),
/// [`pre_stop`](crate::ShutdownCoordinatorBuilder::pre_stop) and
/// [`on_stopped`](crate::ShutdownCoordinatorBuilder::on_stopped) are the short form.
///
/// Each method runs as a task of its own within its limit. One that fails, panics or hangs skips no other (S8), and
/// is in the report. `pre_stop` and `on_stopped` are called only when `on_started` had succeeded.
#[async_trait]
pub trait LifecycleHook: Send + Sync + 'static {
    /// The name in reports and log lines.
    fn name(&self) -> &str;

    /// The most a stage may take; `None` for the default: 60 s for `on_started`, a third of the grace period and at
    /// most 10 s for `pre_stop`, an equal part of what is left for `on_stopped`. Asked once, when the hook is added.
    fn limit(&self, stage: Stage) -> Option<Duration> {
        let _ = stage;
        None
    }

    /// Before the service is ready. An error stops the service with [`Reason::StartFailed`].
    ///
    /// # Errors
    ///
    /// In the hook's own words; they are in the report.
    async fn on_started(&self, cx: &HookContext) -> Result<(), BoxError> {
        let _ = cx;
        Ok(())
    }

    /// When the stop begins, beside all other `pre_stop` hooks, while everything is still served.
    ///
    /// # Errors
    ///
    /// In the hook's own words; they are in the report.
    async fn pre_stop(&self, cx: &HookContext) -> Result<(), BoxError> {
        let _ = cx;
        Ok(())
    }

    /// After the drain, the newest hook first.
    ///
    /// # Errors
    ///
    /// In the hook's own words; they are in the report.
    async fn on_stopped(&self, cx: &HookContext) -> Result<(), BoxError> {
        let _ = cx;
        Ok(())
    }
}

/// What a hook is told.
#[derive(Clone, Debug)]
pub struct HookContext {
    stage: Stage,
    deadline: Deadline,
    handle: ShutdownHandle,
}

impl HookContext {
    pub(crate) const fn new(stage: Stage, deadline: Deadline, handle: ShutdownHandle) -> Self {
        Self {
            stage,
            deadline,
            handle,
        }
    }

    /// Which of its stages runs.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// When the hook is dropped if it is not done, as of its beginning. A deadline that is tightened while it runs drops
    /// it earlier.
    #[must_use]
    pub const fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The time until [`deadline`](Self::deadline).
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.remaining()
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.handle.phase()
    }

    /// What began the stop; `None` in `on_started`.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.handle.reason()
    }

    /// The coordinator's handle.
    #[must_use]
    pub const fn handle(&self) -> &ShutdownHandle {
        &self.handle
    }
}

/// The name of a closure hook, and its limit if it has one of its own. A plain string is a name without limit.
///
/// ```
/// # fn main() -> Result<(), prestop::Error> {
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use prestop::{HookName, ShutdownCoordinator};
/// use std::time::Duration;
///
/// ShutdownCoordinator::builder()
///     .pre_stop(HookName::new("pause consumers").within(Duration::from_secs(2)), |_| async {})
///     .on_stopped("flush", |_| async { Ok::<(), std::io::Error>(()) })
///     .build()?;
/// # Ok(()) }) }
/// ```
#[derive(Clone, Debug)]
pub struct HookName {
    name: Cow<'static, str>,
    limit: Option<Duration>,
}

impl HookName {
    /// A name.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            limit: None,
        }
    }

    /// The same name with a limit for the hook. The deadline of its stage holds all the same.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for HookName {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

/// What a hook or a main future may return: nothing, or a result with any error.
pub trait TaskOutput {
    /// As the one result that the coordinator knows.
    ///
    /// # Errors
    ///
    /// The same error, boxed.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<T, E: Into<BoxError>> TaskOutput for Result<T, E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map(drop).map_err(Into::into)
    }
}

type Closure = Box<dyn FnOnce(HookContext) -> BoxFuture<'static, Result<(), BoxError>> + Send>;

/// A hook as the engine sees it.
#[derive(Clone)]
pub(crate) enum Hook {
    Object {
        object: Arc<dyn LifecycleHook>,
        /// Asked once, when the hook is added: both are code of the user's, which may block or panic.
        name: String,
        limits: [Option<Duration>; 3],
    },
    /// Runs in one stage, once.
    Closure {
        name: HookName,
        stage: Stage,
        run: Arc<Mutex<Option<Closure>>>,
    },
}

impl Hook {
    pub(crate) fn object(object: impl LifecycleHook) -> Self {
        let stages = [Stage::OnStarted, Stage::PreStop, Stage::OnStopped];
        Self::Object {
            name: object.name().to_owned(),
            limits: stages.map(|stage| object.limit(stage)),
            object: Arc::new(object),
        }
    }

    pub(crate) fn closure<F, Fut>(name: HookName, stage: Stage, hook: F) -> Self
    where
        F: FnOnce(HookContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        let run: Closure = Box::new(move |cx| {
            // Called inside the task, so that a panic while the future is made is an outcome like any other.
            Box::pin(async move { hook(cx).await.into_result() })
        });
        Self::Closure {
            name,
            stage,
            run: Arc::new(Mutex::new(Some(run))),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Object { name, .. } => name,
            Self::Closure { name, .. } => &name.name,
        }
    }

    pub(crate) fn limit(&self, stage: Stage) -> Option<Duration> {
        match self {
            Self::Object { limits, .. } => limits[stage as usize],
            Self::Closure { name, .. } => name.limit,
        }
    }

    /// Whether it has something to do then.
    pub(crate) fn runs_in(&self, stage: Stage) -> bool {
        match self {
            Self::Object { .. } => true,
            Self::Closure { stage: own, .. } => *own == stage,
        }
    }

    /// Whether its later stages depend on its `on_started`.
    pub(crate) const fn is_object(&self) -> bool {
        matches!(self, Self::Object { .. })
    }

    pub(crate) fn run(&self, cx: HookContext) -> BoxFuture<'static, Result<(), BoxError>> {
        match self {
            Self::Object { object, .. } => {
                let object = object.clone();
                Box::pin(async move {
                    match cx.stage {
                        Stage::OnStarted => object.on_started(&cx).await,
                        Stage::PreStop => object.pre_stop(&cx).await,
                        Stage::OnStopped => object.on_stopped(&cx).await,
                    }
                })
            }
            Self::Closure { run, .. } => {
                let run = lock(run).take();
                Box::pin(async move {
                    match run {
                        Some(run) => run(cx).await,
                        None => Ok(()),
                    }
                })
            }
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.name()).finish()
    }
}
