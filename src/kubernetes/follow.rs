//! When the pod is asked for, and what becomes of the answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::OwnPod;
use super::api::{Answered, Trouble};
use super::pod::{Pod, Unseen};
use super::verdict::{Begun, LEAST, Verdict};
use crate::budget::GracePeriod;
use crate::deadline::Deadline;
use crate::handle::ShutdownHandle;
use crate::own_pod::{PodReport, PodTimes};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::state::{Haste, State, Stop};

/// How long the start may take until a server that does not answer is warned about: the network of a pod, its mesh
/// above all, may come up after its containers.
const AT_THE_START: Duration = Duration::from_secs(60);

/// One question of the start.
const QUESTION: Duration = Duration::from_secs(10);

/// Between two questions of a stop: what refuses now may be another server in a moment.
const AGAIN: Duration = Duration::from_millis(100);

/// Beside the service from `build` on, beside the plan when the stop has begun. Nothing waits for it.
pub(crate) async fn follow(pod: OwnPod, handle: ShutdownHandle) {
    let state = handle.state();
    state.draft(|draft| draft.pod = Some(PodReport::new(pod.shown())));
    let began = state.token(Phase::PreStop).clone();
    let mut warned = false;
    let known = began
        .run_until_cancelled(start(&pod, state, &mut warned))
        .await
        .flatten();
    began.cancelled().await;
    if state.phase() < Phase::Stopped {
        stop(&pod, state, known, warned).await;
    }
}

/// Compares the manifest with what the program was told. The uid of the pod, where it is known then.
async fn start(pod: &OwnPod, state: &State, warned: &mut bool) -> Option<String> {
    let by = Deadline::after(AT_THE_START);
    let mut pause = Duration::from_secs(1);
    let trouble = loop {
        let trouble = match pod.ask(by.min(Deadline::after(QUESTION))).await {
            Ok(Answered { pod: Ok(found), .. }) => match pod.is_it(&found, None) {
                Ok(()) => {
                    compare(pod, &found, state);
                    return Some(found.metadata.uid);
                }
                Err(other) => other,
            },
            Ok(Answered { pod: Err(said), .. }) => pod.no_such(&said),
            Err(trouble) => trouble,
        };
        if !trouble.passing || by.remaining() <= pause {
            break trouble;
        }
        tracing::debug!(
            pod = pod.shown(),
            trouble = trouble.what,
            "own pod: asked again soon"
        );
        sleep(pause).await;
        pause *= 2;
    };
    warn(
        state,
        format!(
            "the own pod cannot be asked for, so a stop goes by the program's own numbers: {}",
            trouble.what
        ),
    );
    *warned = true;
    None
}

/// What the manifest says and the program was not told, or was told otherwise.
fn compare(pod: &OwnPod, found: &Pod, state: &State) {
    let budget = state.budget();
    let mut times = PodTimes {
        grace: found.grace(),
        slept: Duration::ZERO,
    };
    if let Some(theirs) = found.grace().filter(|theirs| *theirs != budget.grace) {
        let ours = budget.grace;
        let what = if theirs < ours {
            "a stop by that would end with SIGKILL, so it is planned with the manifest's"
        } else {
            "a stop cuts requests that had more time"
        };
        warn(
            state,
            format!(
                "the manifest's terminationGracePeriodSeconds are {theirs}, the program was told {ours}: {what}. Set \
                 {} to the manifest's number",
                GracePeriod::VARIABLE
            ),
        );
    }
    match found.ours(pod.container.as_deref()) {
        Some(ours) => {
            if let Unseen::Sleep(slept) = ours.unseen() {
                times.slept = slept;
                let told = budget.pre_stop_elapsed;
                if told == Duration::ZERO {
                    tracing::info!(
                        ?slept,
                        "the manifest's preStop sleep: a signal comes after it"
                    );
                } else if told != slept {
                    warn(
                        state,
                        format!(
                            "the manifest's preStop sleep is {slept:?}, the program was told {told:?} \
                             (pre_stop_elapsed): the longer one counts"
                        ),
                    );
                }
            }
        }
        None => warn(
            state,
            format!(
                "the pod has no container {:?}: what the manifest says of hooks and probes is left aside",
                pod.container.as_deref().unwrap_or_default()
            ),
        ),
    }
    state.set_pod_times(times);
    tracing::info!(pod = pod.shown(), uid = found.metadata.uid, "own pod found");
}

/// Asks why, and how long; the deadline may only come earlier (S1).
async fn stop(pod: &OwnPod, state: &State, known: Option<String>, warned: bool) {
    // There is one: the phase is past `Ready`.
    let (Some(stop), Some(reason)) = (
        state.signal().stop,
        state.draft(|draft| draft.reason.clone()),
    ) else {
        return;
    };
    let by = Deadline::at(stop.began) + pod.ask_within.unwrap_or(stop.shares.leave);
    let answered = loop {
        match pod.ask(by).await {
            Err(Trouble { passing: true, .. }) if by.remaining() > AGAIN => sleep(AGAIN).await,
            other => break other,
        }
    };
    match answered.and_then(|answered| pod.judge(&answered, state, &reason, known.as_deref())) {
        Ok((verdict, asked)) => {
            let (kill_in, earlier_by) = act(state, &stop, &verdict, asked);
            tracing::info!(
                pod = pod.shown(),
                cause = %verdict.cause,
                says = verdict.message,
                kill_in_s = kill_in.map(|length| length.as_secs_f64()),
                earlier_by_s = earlier_by.as_secs_f64(),
                "own pod asked"
            );
            state.draft(|draft| {
                if let Some(report) = &mut draft.pod {
                    report.cause = Some(verdict.cause);
                    report.message = verdict.message;
                    report.kill_in = kill_in;
                    report.earlier_by = earlier_by;
                }
            });
        }
        // Said before, in other words.
        Err(trouble) if warned => {
            tracing::debug!(
                pod = pod.shown(),
                trouble = trouble.what,
                "own pod: no answer"
            );
        }
        Err(trouble) => warn(
            state,
            format!(
                "why the pod is stopped is not known, and the stop goes by the program's own numbers: {}",
                trouble.what
            ),
        ),
    }
}

/// Moves the deadline, where the pod has less time than planned: when SIGKILL is due after the trigger, by what the pod
/// says, and by how much that is earlier.
pub(super) fn act(
    state: &State,
    stop: &Stop,
    verdict: &Verdict,
    asked: Instant,
) -> (Option<Duration>, Duration) {
    let after = |from, length: Option<Duration>| {
        length.map(|length| (Deadline::at(from) + length).instant())
    };
    let by_the_trigger = after(stop.began, verdict.from_trigger);
    let by_the_question = after(asked, verdict.from_question);
    let kill = by_the_trigger.into_iter().chain(by_the_question).min();
    // Behind the signal there are two seconds whatever the clocks say (R15).
    let kill = kill.map(|kill| kill.max(stop.began + LEAST));
    let earlier_by = kill.map_or(Duration::ZERO, |kill| state.tighten(kill));
    if verdict.no_lame_duck {
        state.hurry(Haste::EndLameDuck);
    }
    let kill_in = kill.map(|kill| kill.saturating_duration_since(stop.began));
    (kill_in, earlier_by)
}

impl OwnPod {
    /// What the answer says about the stop, and when it was asked for.
    fn judge(
        &self,
        answered: &Answered,
        state: &State,
        reason: &Reason,
        known: Option<&str>,
    ) -> Result<(Verdict, Instant), Trouble> {
        let verdict = match &answered.pod {
            Ok(found) => match self.is_it(found, known) {
                Ok(()) => {
                    let begun = Begun {
                        reason,
                        hook_called: state.signal().hook_called,
                        told_sleep: state.budget().pre_stop_elapsed,
                    };
                    let ours = found.ours(self.container.as_deref()).unwrap_or_default();
                    Verdict::of(found, &ours, &begun, answered.date)
                }
                // It was ours when the process started.
                Err(_) if known.is_some() => Verdict::gone(),
                Err(other) => return Err(other),
            },
            Err(_) if known.is_some() => Verdict::gone(),
            Err(said) => return Err(self.no_such(said)),
        };
        Ok((verdict, answered.asked))
    }

    /// Whether this is the pod, and not another one that has its name now.
    fn is_it(&self, found: &Pod, known: Option<&str>) -> Result<(), Trouble> {
        match known.or(self.uid.as_deref()) {
            Some(uid) if uid != found.metadata.uid => Err(Trouble::lasting(format!(
                "the pod {} is another one (uid {:?}) than this (uid {uid:?}); its name came from {}",
                self.shown(),
                found.metadata.uid,
                self.name_from
            ))),
            _ => Ok(()),
        }
    }

    fn no_such(&self, said: &str) -> Trouble {
        Trouble::lasting(format!(
            "there is no pod {}; its name came from {}, best is {} by the downward API (metadata.name). The API \
             server says {said}",
            self.shown(),
            self.name_from,
            Self::NAME_VARIABLE
        ))
    }
}

/// Says it once, in the log and in the report.
fn warn(state: &State, what: String) {
    tracing::warn!("{what}");
    state.draft(|draft| {
        if let Some(report) = &mut draft.pod {
            report.warnings.push(what);
        }
    });
}
