//! [`StopSignal`]: what a handler can know of the stop, and the mark of its stream.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::deadline::Deadline;
use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::state::TellAt;

use super::StreamPolicy;
use super::moment::Place;
use super::until_told::UntilTold;

/// What a handler can know of the stop: phase, time left, and the moment at which its own stream is to end.
///
/// A request extension under [`serve`](crate::ShutdownCoordinator::serve) and under a [`DrainLayer`](crate::DrainLayer);
/// with the feature `axum` an extractor, in a tonic service `request.extensions().get::<StopSignal>()`. Clones are one
/// and the same. Work that is no request makes one with [`StopSignal::new`].
///
/// ```
/// use futures::StreamExt;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), prestop::Error> {
/// # let c = prestop::ShutdownCoordinator::builder_without_signals().build()?;
/// let stop = prestop::StopSignal::new(&c.handle());
/// let lines = futures::stream::pending::<String>();
/// // A stream that ends when it is told, with a last item.
/// let body = stop.until_told(lines).with_last(|| "bye".to_owned());
/// # c.handle().trigger(prestop::Reason::requested("the example"));
/// # c.run(async move { assert_eq!(body.collect::<Vec<_>>().await, ["bye"]) }).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct StopSignal(Arc<Inner>);

struct Inner {
    handle: ShutdownHandle,
    began: Instant,
    /// Zero: by what the answer is.
    policy: AtomicU8,
    /// Zero: as the coordinator says.
    at: AtomicU8,
    /// The handler has asked to be told: nobody else ends its stream.
    by_handler: AtomicBool,
    stage: AtomicU8,
    share: OnceLock<f64>,
    token: OnceLock<(CancellationToken, DropGuard)>,
}

const NOT_TOLD: u8 = 0;
const TOLD: u8 = 1;
const OVER: u8 = 2;

impl StopSignal {
    /// One for work that is no request: it is told like a stream that begins now.
    #[must_use]
    pub fn new(handle: &ShutdownHandle) -> Self {
        Self(Arc::new(Inner {
            handle: handle.clone(),
            began: Instant::now(),
            policy: AtomicU8::new(0),
            at: AtomicU8::new(0),
            by_handler: AtomicBool::new(false),
            stage: AtomicU8::new(NOT_TOLD),
            share: OnceLock::new(),
            token: OnceLock::new(),
        }))
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.handle.phase()
    }

    /// When what is in flight is cut, and with it this request; `None` before the stop. It only moves earlier.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.0
            .handle
            .state()
            .signal()
            .stop
            .map(|stop| stop.drain_by)
    }

    /// The time until [`deadline`](Self::deadline); `None` before the stop.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(Deadline::remaining)
    }

    /// This length, or the time left if that is less: for the timeout of a call that this request makes.
    #[must_use]
    pub fn capped(&self, length: Duration) -> Duration {
        self.time_left().map_or(length, |left| left.min(length))
    }

    /// Resolves when this stream is to end: never before the lame duck, and each at a moment of its own
    /// ([`TellAt`]). With [`StreamPolicy::Finish`] never.
    ///
    /// Who calls this ends the stream by itself: from the first call on nothing is put into its body or cut off from it.
    /// From then on the stream is counted as told in the report, and as ended when the last clone of this signal is gone
    /// or its body has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn told(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.by_handler.store(true, Ordering::Release);
        let (this, reached) = (self.clone(), self.reached());
        async move {
            reached.await;
            this.tell();
        }
    }

    /// Cancelled when [`told`](Self::told) would resolve; the stream ends by itself from the first call on, as there.
    ///
    /// # Panics
    ///
    /// The first call outside of a tokio runtime: a task waits for the moment, until then or until the last clone of
    /// this signal is gone.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.by_handler.store(true, Ordering::Release);
        let (token, _) = self.0.token.get_or_init(|| {
            let (token, gone) = (CancellationToken::new(), CancellationToken::new());
            let (reached, cancel) = (self.reached(), token.clone());
            let (weak, unwanted) = (Arc::downgrade(&self.0), gone.clone());
            tokio::spawn(async move {
                if unwanted.run_until_cancelled(reached).await.is_some() {
                    if let Some(inner) = weak.upgrade() {
                        Self(inner).tell();
                    }
                    cancel.cancel();
                }
            });
            (token, gone.drop_guard())
        });
        token.clone()
    }

    /// The stream until it is told to end. An item that is ready in the same moment still comes.
    pub fn until_told<S: Stream>(&self, stream: S) -> UntilTold<S> {
        UntilTold::new(self, stream)
    }

    /// Sets the policy of this stream. After [`told`](Self::told) was called, [`Finish`](StreamPolicy::Finish) still
    /// keeps it from resolving where it has not.
    pub fn set_policy(&self, policy: StreamPolicy) {
        let number = match policy {
            StreamPolicy::Finish => 1,
            StreamPolicy::Tell => 2,
            StreamPolicy::Cut => 3,
        };
        self.0.policy.store(number, Ordering::Release);
    }

    /// The policy that was set, if one was.
    #[must_use]
    pub fn policy(&self) -> Option<StreamPolicy> {
        match self.0.policy.load(Ordering::Acquire) {
            1 => Some(StreamPolicy::Finish),
            2 => Some(StreamPolicy::Tell),
            3 => Some(StreamPolicy::Cut),
            _ => None,
        }
    }

    /// Sets when this stream is told, instead of what the coordinator says. To be set before anything waits for it.
    pub fn set_tell_at(&self, at: TellAt) {
        let number = match at {
            TellAt::LameDuck => 1,
            TellAt::Draining => 2,
        };
        self.0.at.store(number, Ordering::Release);
    }

    /// When this stream is told: at which of the two.
    #[must_use]
    pub fn tell_at(&self) -> TellAt {
        match self.0.at.load(Ordering::Acquire) {
            1 => TellAt::LameDuck,
            2 => TellAt::Draining,
            _ => self.0.handle.state().settings.tell_at,
        }
    }

    /// Resolves at the moment; nothing is counted, no mark is made.
    pub(super) fn reached(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = self.0.handle.state();
        let place = Place {
            at: self.tell_at(),
            began: self.0.began,
            share: *self.0.share.get_or_init(|| state.stream_places.next()),
        };
        let reached = place.reached(state.clone());
        let weak = Arc::downgrade(&self.0);
        async move {
            reached.await;
            let finishes = weak
                .upgrade()
                .is_some_and(|inner| Self(inner).policy() == Some(StreamPolicy::Finish));
            if finishes {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether this answer's stream is to be broken off.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn cuts<B>(&self, response: &http::Response<B>) -> bool {
        let policy = response.extensions().get().copied().or(self.policy());
        policy == Some(StreamPolicy::Cut) && !self.is_told_by_handler()
    }

    /// Resolves when it is to be broken off by the caller, and counts it.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn cut_at_its_moment(&self) -> impl Future<Output = ()> + Send + 'static {
        let (this, reached) = (self.clone(), self.reached());
        async move {
            reached.await;
            this.cut();
        }
    }

    pub(super) fn is_told_by_handler(&self) -> bool {
        self.0.by_handler.load(Ordering::Acquire)
    }

    /// The stream was told: counted once.
    pub(crate) fn tell(&self) {
        if self.0.step(NOT_TOLD, TOLD) {
            self.0.handle.state().streams.told();
        }
    }

    /// The stream is over, if it was told.
    pub(crate) fn over(&self) {
        self.0.over();
    }

    /// The stream was broken off by its policy.
    pub(super) fn cut(&self) {
        if self.0.step(NOT_TOLD, OVER) {
            self.0.handle.state().streams.cut_by_policy();
        }
    }
}

impl Inner {
    fn step(&self, from: u8, to: u8) -> bool {
        let step = self
            .stage
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        step.is_ok()
    }

    fn over(&self) {
        if self.step(TOLD, OVER) {
            let state = self.handle.state();
            if state.signal().cut {
                state.streams.cut();
            } else {
                state.streams.ended();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.over();
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSignal")
            .field("phase", &self.phase())
            .field("time_left", &self.time_left())
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}
