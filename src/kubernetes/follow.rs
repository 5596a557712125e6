//! When the pod is asked for, and what becomes of the answer.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::OwnPod;
use super::api::{Answered, Trouble};
use super::pod::{Pod, Unseen};
use super::verdict::{Begun, LEAST, Verdict};
use crate::budget::{GracePeriod, SLEEP_VARIABLE};
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
pub(crate) fn follow(pod: OwnPod, handle: ShutdownHandle) -> impl Future<Output = ()> {
    // At once: every report has it.
    let report = PodReport::new(pod.shown());
    handle.state().draft(|draft| draft.pod = Some(report));
    start_and_stop(pod, handle)
}

async fn start_and_stop(pod: OwnPod, handle: ShutdownHandle) {
    let state = handle.state();
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
                            "the manifest's preStop sleep is {slept:?}, the program was told {told:?}: the longer one \
                             counts. Set {SLEEP_VARIABLE} to the manifest's number"
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
    // The first says more than the last, which may only have run out of time.
    let mut first = None;
    let answered = loop {
        match pod.ask(by).await {
            Ok(answered) => break Ok(answered),
            Err(trouble) if !trouble.passing => break Err(trouble),
            Err(trouble) => {
                first.get_or_insert(trouble);
                if by.remaining() <= AGAIN {
                    break Err(first.expect("just put there"));
                }
                sleep(AGAIN).await;
            }
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
    let earlier_by = kill.map_or(Duration::ZERO, |kill| {
        // An answer that comes too late leaves a moment for leaving the registries.
        state.tighten(kill.max(Instant::now() + LEAST / 2))
    });
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::budget::{Budget, LameDuck};
    use crate::own_pod::Cause;
    use crate::state::Settings;

    const SIGTERM: Reason = Reason::Signal("SIGTERM");

    fn own(uid: Option<&str>) -> OwnPod {
        let var = |name: &str| match name {
            OwnPod::UID_VARIABLE => uid.map(ToOwned::to_owned),
            "KUBERNETES_SERVICE_HOST" => Some("10.96.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => Some("orders-0".to_owned()),
        };
        OwnPod::find(var, "/nonexistent".as_ref()).unwrap()
    }

    fn answered(pod: Result<&str, &str>) -> Answered {
        let made = |uid: &str| {
            let containers = json!([{ "name": "app" }]);
            let pod = json!({ "metadata": { "uid": uid }, "spec": { "containers": containers } });
            Box::new(serde_json::from_value(pod).unwrap())
        };
        Answered {
            pod: pod.map(made).map_err(ToOwned::to_owned),
            date: None,
            asked: Instant::now(),
        }
    }

    /// Of a program that was told of 30 s, and of a sleep.
    fn state(told_sleep: u64) -> State {
        let budget = Budget {
            grace: GracePeriod::DEFAULT,
            pre_stop_elapsed: Duration::from_secs(told_sleep),
            lame_duck: LameDuck::default(),
            longest_hook: None,
            visibility: None,
        };
        State::new(budget, Settings::default())
    }

    /// The cause, or what is wrong.
    fn judged(own: &OwnPod, pod: Result<&str, &str>, known: Option<&str>) -> Result<Cause, String> {
        let state = state(0);
        match own.judge(&answered(pod), &state, &SIGTERM, known) {
            Ok((verdict, _)) => {
                let is_gone = verdict.cause == Cause::ForceDeletion;
                assert_eq!(verdict.from_trigger == Some(LEAST), is_gone);
                Ok(verdict.cause)
            }
            Err(trouble) => Err(trouble.what),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_manifests_numbers_count_for_every_trigger_where_they_leave_less_time() {
        // The manifest's grace period and sleep, the sleep that was told; what a signal leaves, and a hook; warnings.
        for (grace, slept, told, signal, hook, warnings) in [
            (30, 0, 0, 30, 30, 0),
            (20, 0, 0, 20, 20, 1),
            (90, 0, 0, 30, 30, 1),
            (30, 8, 0, 22, 30, 0),
            (30, 8, 8, 22, 30, 0),
            (30, 8, 3, 22, 30, 1),
            (30, 8, 11, 19, 30, 1),
            (20, 8, 0, 12, 20, 1),
            (5, 8, 0, 1, 5, 1),
            (0, 0, 0, 1, 1, 1),
        ] {
            let mut app = json!({ "name": "app" });
            if slept > 0 {
                app["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": slept } } });
            }
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "uid": "1" },
                "spec": { "terminationGracePeriodSeconds": grace, "containers": [app] },
            }))
            .unwrap();
            for (reason, left) in [(SIGTERM, signal), (Reason::PreStopHook, hook)] {
                let handle = ShutdownHandle::new(std::sync::Arc::new(state(told)));
                let state = handle.state();
                state.draft(|draft| draft.pod = Some(PodReport::new("a/b".into())));
                compare(&own(None), &pod, state);
                let report = handle.report();
                assert_eq!(report.grace, Duration::from_secs(30.min(grace.max(1))));
                let said = report.pod.unwrap().warnings;
                assert_eq!(said.len(), warnings, "{said:?}");
                handle.trigger(reason.clone());
                let stop = state.signal().stop.unwrap();
                let total = stop.kill - stop.began;
                assert_eq!(total, Duration::from_secs(left), "{pod:?} {reason}");
                // Nor may anybody else give it more.
                handle.trigger_within(SIGTERM, Duration::MAX);
                assert_eq!(state.signal().stop.unwrap().kill, stop.kill);
            }
        }
    }

    #[test]
    fn a_container_that_is_none_of_the_pods_is_warned_about() {
        let answered = answered(Ok("1"));
        let pod = answered.pod.unwrap();
        let state = state(0);
        state.draft(|draft| draft.pod = Some(PodReport::new("a/b".into())));
        compare(&own(None).container("ap"), &pod, &state);
        let warnings = state.report().pod.unwrap().warnings;
        assert!(warnings[0].contains("no container \"ap\""), "{warnings:?}");
        compare(&own(None).container("app"), &pod, &state);
        assert_eq!(state.report().pod.unwrap().warnings.len(), 1);
    }

    /// A pod that was seen and is gone was deleted by force. One that nobody has seen may have been called by a wrong name.
    #[test]
    fn only_a_pod_that_was_there_can_be_gone() {
        let (told, untold) = (own(Some("1")), own(None));
        for own in [&told, &untold] {
            assert_eq!(judged(own, Ok("1"), Some("1")), Ok(Cause::NotDeleted));
            assert_eq!(judged(own, Ok("1"), None), Ok(Cause::NotDeleted));
            assert_eq!(judged(own, Err("no"), Some("1")), Ok(Cause::ForceDeletion));
            assert_eq!(judged(own, Ok("2"), Some("1")), Ok(Cause::ForceDeletion));
            let nobody = judged(own, Err("no"), None).unwrap_err();
            assert!(nobody.contains("no pod orders-0/orders-0"), "{nobody}");
        }
        let other = judged(&told, Ok("2"), None).unwrap_err();
        assert!(other.contains("is another one"), "{other}");
        assert_eq!(judged(&untold, Ok("2"), None), Ok(Cause::NotDeleted));
    }
}
