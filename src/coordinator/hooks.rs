//! Running hooks: each as a task of its own, within its limit, its outcome on record whatever it does (S8).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::deadline::Deadline;
use crate::handle::{ShutdownHandle, panic_message};
use crate::hook::{Hook, HookContext};
use crate::report::{Outcome, Stage};
use crate::state::{Haste, Signal, State};

/// Resolves when the moment that `when` reads from the signal has come; follows it as it moves.
pub(super) async fn until(state: &State, when: impl Fn(&Signal) -> Option<Instant>) {
    let mut signal = state.subscribe();
    loop {
        let at = when(&signal.borrow_and_update());
        let changed = match at {
            Some(at) => tokio::select! {
                biased;
                () = sleep_until(at) => return,
                changed = signal.changed() => changed,
            },
            None => signal.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What can end a hook before its own limit does.
pub(super) type CutOff = fn(&Signal) -> Option<Instant>;

/// Runs one stage of one hook for at most `limit`, and no longer than `cut_off` says.
pub(super) async fn run_hook(
    handle: &ShutdownHandle,
    hook: &Hook,
    stage: Stage,
    limit: Duration,
    cut_off: CutOff,
) -> Outcome {
    let state = handle.state();
    let own = Deadline::after(limit).instant();
    let by = move |signal: &Signal| cut_off(signal).map_or(own, |cut| cut.min(own));
    let deadline = Deadline::at(by(&state.signal()));
    let key = state.draft(|draft| draft.hook_began(hook.name(), stage));
    tracing::debug!(hook = hook.name(), %stage, "hook begins");

    // A task of its own: a panic is caught, and a hook that blocks its worker does not block the plan.
    let run = hook.clone();
    let cx = HookContext::new(stage, deadline, handle.clone());
    let mut task = AbortOnDropHandle::new(tokio::spawn(async move {
        // Shown here: that is code of the user's, too.
        run.run(cx).await.map_err(|error| error.to_string())
    }));
    let outcome = tokio::select! {
        biased;
        ended = &mut task => match ended {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => Outcome::Panicked(panic_message(&*panic)),
                Err(_) => Outcome::Failed("its task was aborted: the runtime is shutting down".into()),
            },
        },
        () = until(state, |signal| Some(by(signal))) => {
            if stage == Stage::OnStarted && state.phase().is_stopping() {
                Outcome::Cancelled
            } else {
                Outcome::TimedOut
            }
        }
    };
    match &outcome {
        Outcome::Done | Outcome::Cancelled => {
            tracing::debug!(hook = hook.name(), %stage, %outcome, "hook");
        }
        bad => {
            tracing::error!(hook = hook.name(), %stage, outcome = %bad, "hook");
        }
    }
    state.draft(|draft| draft.hook_ended(key, outcome.clone()));
    outcome
}

/// Puts a hook on record that was not run, and why.
pub(super) fn skip_hook(state: &State, hook: &Hook, stage: Stage, why: &str) {
    state.draft(|draft| {
        let key = draft.hook_began(hook.name(), stage);
        draft.hook_ended(key, Outcome::Skipped(why.to_owned()));
    });
}

/// The hooks, and which of them have started.
#[derive(Clone, Debug)]
pub(super) struct Hooks {
    pub(super) all: Vec<Hook>,
    pub(super) started: Vec<bool>,
}

impl Hooks {
    pub(super) fn new(all: Vec<Hook>) -> Self {
        Self {
            started: vec![false; all.len()],
            all,
        }
    }

    /// Those with something to do in this stage, and whether their `on_started` allows it. Closures stand alone; an
    /// object's later stages undo what its `on_started` did, so they wait for its success.
    pub(super) fn of(&self, stage: Stage) -> impl DoubleEndedIterator<Item = (&Hook, bool)> {
        self.all
            .iter()
            .zip(&self.started)
            .filter(move |(hook, _)| hook.runs_in(stage))
            .map(|(hook, started)| (hook, *started || !hook.is_object()))
    }
}

/// All `pre_stop` hooks at once.
pub(super) fn pre_stop(handle: &ShutdownHandle, hooks: &Hooks) -> AbortOnDropHandle<()> {
    let state = Arc::clone(handle.state());
    let shares = state
        .signal()
        .stop
        .map_or_else(|| state.budget().whole(), |stop| stop.shares);
    let mut running = Vec::new();
    for (hook, started) in hooks.of(Stage::PreStop) {
        if !started {
            skip_hook(&state, hook, Stage::PreStop, "it had not started");
            continue;
        }
        let (handle, hook) = (handle.clone(), hook.clone());
        let limit = shares.pre_stop_limit(hook.limit(Stage::PreStop));
        running.push(async move {
            run_hook(
                &handle,
                &hook,
                Stage::PreStop,
                limit,
                |signal| match signal.haste {
                    Haste::Force => Some(Instant::now()),
                    Haste::None | Haste::EndLameDuck => {
                        signal.stop.map(|stop| stop.lame_duck_by.instant())
                    }
                },
            )
            .await;
        });
    }
    AbortOnDropHandle::new(tokio::spawn(async move {
        futures::future::join_all(running).await;
    }))
}
