//! The actor of one registration: the only owner of it, so that heartbeats and the deregistration are in order (S6).

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::deadline::Deadline;
use crate::handle::panic_message;
use crate::phase::Phase;
use crate::random::share;
use crate::registry::{Beat, Gone, Instance, Registration, Registry, RegistryError};
use crate::report::LeaveOutcome;
use crate::state::State;
use crate::sync::lock;

use super::hooks::until;

/// Registering and a heartbeat may take this long: long enough for a registry that is electing a leader, short
/// enough that a stop that waits for the call in flight keeps most of its leave budget.
const CALL: Duration = Duration::from_secs(2);

/// Between attempts at registering: doubled from the first to the last, so that a dead registry is not hammered.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Between heartbeats at the least, whatever an adapter asks for.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// How an instance left, and until when it may still be found.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) outcome: LeaveOutcome,
    pub(super) error: Option<String>,
    /// When the leaving ended.
    pub(super) at: Instant,
    pub(super) took: Duration,
    /// Until when the registry itself may list the instance, where it was not left.
    pub(super) listed_until: Option<Instant>,
}

/// One registry and what it is told.
#[derive(Clone)]
pub(crate) struct Membership {
    registry: Arc<dyn Registry>,
    pub(super) instance: Instance,
    // Asked once: what calls code of the user's may panic, and must not do it in the engine (S8).
    pub(super) name: Arc<str>,
    pub(super) visibility: Duration,
    /// The service is not ready before it is registered.
    pub(super) required: bool,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("registry", &self.name)
            .field("instance", &self.instance)
            .finish()
    }
}

impl Membership {
    pub(super) fn new(registry: impl Registry, instance: Instance) -> Self {
        Self {
            name: registry.name().into(),
            visibility: registry.visibility(),
            registry: Arc::new(registry),
            instance,
            required: false,
        }
    }

    pub(super) fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Registers, keeps alive, and leaves when the stop begins. Every membership has a number of its own.
    pub(super) fn start(&self, number: usize, state: &Arc<State>) -> Member {
        let registered = CancellationToken::new();
        let known = Arc::new(Mutex::new(Known {
            outcome: LeaveOutcome::Skipped,
            error: None,
            listed_until: None,
        }));
        let actor = Actor {
            state: state.clone(),
            stopping: state.token(Phase::PreStop).clone(),
            registry: self.registry.clone(),
            name: self.name.clone(),
            instance: self.instance.clone(),
            number,
            registered: registered.clone(),
            known: known.clone(),
        };
        Member {
            membership: self.clone(),
            registered,
            known,
            actor: AbortOnDropHandle::new(tokio::spawn(actor.run())),
        }
    }
}

/// What is known of a registration, also while its actor is stuck in a call.
#[derive(Clone)]
struct Known {
    /// How it will have left if nothing more is heard.
    outcome: LeaveOutcome,
    error: Option<String>,
    /// As the registry said last.
    listed_until: Option<Instant>,
}

impl Known {
    fn left(self, begun: Instant) -> Left {
        let at = Instant::now();
        let unsure = matches!(self.outcome, LeaveOutcome::Unknown | LeaveOutcome::Failed);
        let never = self.outcome == LeaveOutcome::Skipped;
        Left {
            outcome: self.outcome,
            error: self.error.filter(|_| unsure || never),
            at,
            took: at.saturating_duration_since(begun),
            listed_until: self.listed_until.filter(|_| unsure),
        }
    }
}

/// A registration and its actor.
pub(super) struct Member {
    pub(super) membership: Membership,
    registered: CancellationToken,
    known: Arc<Mutex<Known>>,
    actor: AbortOnDropHandle<Known>,
}

impl Member {
    /// Resolves when the registry has taken the instance for the first time.
    pub(super) fn registered(&self) -> impl Future<Output = ()> + '_ {
        self.registered.cancelled()
    }

    /// The last error, while it is not registered.
    pub(super) fn error(&self) -> Option<String> {
        lock(&self.known).error.clone()
    }

    /// Waits until the actor has left, no longer than the leave budget: then what is known counts.
    pub(super) async fn left(self, state: &State, begun: Instant) -> (Membership, Left) {
        let known = tokio::select! {
            biased;
            ended = self.actor => ended.unwrap_or_else(|error| Known {
                outcome: LeaveOutcome::Failed,
                error: Some(error.to_string()),
                ..lock(&self.known).clone()
            }),
            () = until(state, |signal| signal.stop.map(|stop| stop.leave_by.instant())) => {
                lock(&self.known).clone()
            }
        };
        (self.membership, known.left(begun))
    }
}

struct Actor {
    state: Arc<State>,
    stopping: CancellationToken,
    registry: Arc<dyn Registry>,
    name: Arc<str>,
    instance: Instance,
    /// Of the membership.
    number: usize,
    /// Cancelled, in the word of the token, when the registry has the instance.
    registered: CancellationToken,
    known: Arc<Mutex<Known>>,
}

impl Actor {
    async fn run(mut self) -> Known {
        let Some(mut registration) = self.register().await else {
            return lock(&self.known).clone();
        };
        let mut pause = BACK_OFF.0;
        loop {
            let registered = Instant::now();
            if self.keep_alive(&mut *registration).await {
                return self.leave(registration).await;
            }
            // Forgotten by the server that was asked, or in a part: another one may list the instance yet. So it is kept,
            // and left if the stop comes before there is a new one; what is gone already is quickly said.
            lock(&self.known).outcome = LeaveOutcome::AlreadyGone;
            // Do not chase a registry that always forgets.
            if registered.elapsed() > BACK_OFF.1 {
                pause = BACK_OFF.0;
            }
            self.pause(jittered(pause)).await;
            pause = (pause * 2).min(BACK_OFF.1);
            match self.register().await {
                Some(again) => registration = again,
                None => {
                    let open = lock(&self.known).clone();
                    let left = self.leave(registration).await;
                    // The old one does not speak for a new one that may have gone through.
                    let gone = [LeaveOutcome::Removed, LeaveOutcome::AlreadyGone];
                    if open.outcome == LeaveOutcome::Unknown && gone.contains(&left.outcome) {
                        return self.note(open.outcome, open.error);
                    }
                    return left;
                }
            }
        }
    }

    /// Tries until it is registered or the stop begins. A call in flight is waited for even then: whether it went
    /// through decides whether there is something to leave.
    async fn register(&mut self) -> Option<Box<dyn Registration>> {
        let mut pause = BACK_OFF.0;
        while !self.stopping.is_cancelled() {
            let by = Deadline::after(CALL);
            match self
                .joined(by, async {
                    self.registry.register(&self.instance, by).await
                })
                .await
            {
                Some(Ok(registration)) => {
                    lock(&self.known).listed_until = quietly(|| registration.listed_for())
                        .map(|length| Deadline::after(length).instant());
                    let gasp = quietly(|| registration.last_gasp());
                    self.state.last_gasps.put(self.number, gasp);
                    self.registered.cancel();
                    tracing::info!(
                        registry = %self.name,
                        instance = self.instance.id(),
                        "registered"
                    );
                    return Some(registration);
                }
                Some(Err(error)) => {
                    tracing::warn!(registry = %self.name, %error, retry_in = ?pause, "not registered");
                    if error.is_unknown() {
                        self.may_be_registered();
                    } else {
                        // What an earlier attempt left open stays open.
                        lock(&self.known).error = Some(error.to_string());
                    }
                }
                None => {
                    self.may_be_registered();
                    tracing::warn!(registry = %self.name, retry_in = ?pause, "no answer to the registration within {CALL:?}");
                }
            }
            self.pause(jittered(pause)).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
        None
    }

    /// An attempt without an answer may have gone through, and stays that until an answer says better.
    fn may_be_registered(&self) {
        self.note(
            LeaveOutcome::Unknown,
            Some("a registration was not answered: it may have gone through".into()),
        );
    }

    /// Heartbeats until the stop begins (true) or the registration is lost (false). Between two beats the stop
    /// interrupts; a beat in flight is joined, since one that arrives after the deregistration would undo it.
    async fn keep_alive(&mut self, registration: &mut dyn Registration) -> bool {
        let mut wait = Duration::ZERO;
        while self.pause(wait).await {
            let by = Deadline::after(CALL);
            match self
                .joined(by, async { registration.heartbeat(by).await })
                .await
            {
                Some(Ok(Beat::Alive { next, listed_for })) => {
                    lock(&self.known).listed_until = Some(Deadline::after(listed_for).instant());
                    wait = next.max(LEAST_WAIT);
                }
                Some(Ok(Beat::Lost)) => {
                    tracing::warn!(
                        registry = %self.name,
                        instance = self.instance.id(),
                        "the registry forgot the instance"
                    );
                    lock(&self.known).listed_until = None;
                    if self.stopping.is_cancelled() {
                        return true;
                    }
                    return false;
                }
                missed => {
                    let error = missed
                        .and_then(Result::err)
                        .map_or_else(|| "no answer".to_owned(), |e| e.to_string());
                    wait = jittered(BACK_OFF.0.max(wait / 4));
                    tracing::warn!(registry = %self.name, error, retry_in = ?wait, "heartbeat");
                }
            }
        }
        true
    }

    /// The output of a call in flight. When the stop begins meanwhile, it is waited for no longer than one attempt
    /// at leaving may take.
    async fn joined<T>(
        &self,
        by: Deadline,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Option<Result<T, RegistryError>> {
        let cut_short = async {
            self.stopping.cancelled().await;
            let attempt = self
                .state
                .signal()
                .stop
                .map_or(CALL, |stop| stop.shares.leave_attempt());
            tokio::time::sleep(attempt).await;
        };
        tokio::select! {
            biased;
            answer = by.bound(caught(call)) => answer,
            () = cut_short => None,
        }
    }

    /// Waits, unless the stop begins; whether it has not.
    async fn pause(&self, length: Duration) -> bool {
        let waited = self
            .stopping
            .run_until_cancelled(tokio::time::sleep(length))
            .await;
        // Both may have come at once, and then the stop is meant.
        waited.is_some() && !self.stopping.is_cancelled()
    }

    /// Deregisters, with retries inside the leave budget, and reads the removal back where that can be asked.
    async fn leave(&mut self, mut registration: Box<dyn Registration>) -> Known {
        let stop = self.state.signal().stop;
        let mut pause = Duration::from_millis(20);
        // An attempt without an answer may still be heard, whatever becomes of the next one.
        let mut unsure = false;
        self.note(
            LeaveOutcome::Unknown,
            Some("no answer in the time there was".into()),
        );
        while let Some(stop) = stop {
            let attempt = stop.shares.leave_attempt();
            let in_time = || stop.leave_by.min(Deadline::after(attempt));
            let by = in_time();
            let answer = by
                .bound(caught(async { registration.deregister(by).await }))
                .await
                .unwrap_or_else(|| {
                    let message = format!("no answer within {attempt:?}");
                    Err(RegistryError::unknown(message))
                });
            let mut error = match answer {
                Ok(gone) => match listed(&mut *registration, by).await {
                    Ok(Some(true)) => {
                        unsure = false;
                        "deregistered, but still listed".to_owned()
                    }
                    // A registry that cannot be asked, or does not answer now, has said that it removed the entry.
                    Ok(_) | Err(_) => return self.note(gone.into(), None),
                },
                Err(error) if error.is_unknown() => {
                    self.note(LeaveOutcome::Unknown, Some(error.to_string()));
                    let by = in_time();
                    match listed(&mut *registration, by).await {
                        Ok(Some(false)) => return self.note(LeaveOutcome::Removed, None),
                        Ok(Some(true)) => unsure = false,
                        Ok(None) | Err(_) => unsure = true,
                    }
                    error.to_string()
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(registry = %self.name, error, "not left yet");
            let outcome = if unsure {
                error += "; it may have been heard";
                LeaveOutcome::Unknown
            } else {
                LeaveOutcome::Failed
            };
            let known = self.note(outcome, Some(error));
            let pausing = tokio::time::sleep(jittered(pause));
            if stop.leave_by.bound(pausing).await.is_none() {
                return known;
            }
            pause *= 2;
        }
        lock(&self.known).clone()
    }

    fn note(&self, outcome: LeaveOutcome, error: Option<String>) -> Known {
        if matches!(outcome, LeaveOutcome::Removed | LeaveOutcome::AlreadyGone) {
            self.state.last_gasps.put(self.number, None);
        }
        let mut known = lock(&self.known);
        (known.outcome, known.error) = (outcome, error);
        known.clone()
    }
}

impl From<Gone> for LeaveOutcome {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Removed => Self::Removed,
            Gone::AlreadyGone => Self::AlreadyGone,
        }
    }
}

/// What an adapter says without being waited for. A panic is no answer (S8).
fn quietly<T>(ask: impl FnOnce() -> Option<T>) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(ask))
        .ok()
        .flatten()
}

async fn listed(
    registration: &mut dyn Registration,
    by: Deadline,
) -> Result<Option<bool>, RegistryError> {
    by.bound(caught(async { registration.is_listed(by).await }))
        .await
        .unwrap_or_else(|| Err(RegistryError::new("no answer")))
}

/// A panic of the adapter's is an error like any other: the registration is kept alive, and left (S8).
async fn caught<T>(
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    AssertUnwindSafe(call)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(RegistryError::new(format!("panicked: {message}")))
        })
}

/// Between half and the whole of it, so that a fleet does not come back in step.
fn jittered(length: Duration) -> Duration {
    length.mul_f64(0.5 + share() / 2.0)
}
