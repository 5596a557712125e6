//! [`Verdict`]: what an answer says about a stop that has begun. Arithmetic alone; who is asked, and when, is elsewhere.

use std::time::Duration;

use super::pod::{Condition, Ours, Pod, Unseen, at_least_one};
use crate::budget::GracePeriod;
use crate::own_pod::Cause;
use crate::reason::Reason;

/// What the kubelet gives a pod that is evicted at once, or whose object is gone (R30, R32). It is the least that any
/// plan is given: behind the signal there are always 2 s (R15), half of which are planned on.
pub(super) const LEAST: Duration = Duration::from_secs(1);

/// A timestamp and a `Date`, both cut to seconds, are a second more apart than they say, or less.
const ROUNDING: Duration = Duration::from_secs(1);

/// How the stop began.
pub(super) struct Begun<'a> {
    pub(super) reason: &'a Reason,
    /// A preStop hook has called: the kubelet's clock is known.
    pub(super) hook_called: bool,
    /// What the program was told of its `sleep` hook.
    pub(super) told_sleep: Duration,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) cause: Cause,
    pub(super) message: Option<String>,
    /// From the trigger to SIGKILL at the most; `None` where the pod does not say.
    pub(super) from_trigger: Option<Duration>,
    /// From the question to SIGKILL at the most, by the server's own clock.
    pub(super) from_question: Option<Duration>,
    /// A lame duck would wait for nobody.
    pub(super) no_lame_duck: bool,
}

impl Verdict {
    fn new(cause: Cause) -> Self {
        Self {
            cause,
            message: None,
            from_trigger: None,
            from_question: None,
            no_lame_duck: false,
        }
    }

    /// Of a pod that was there when the process started, and is not any more.
    pub(super) fn gone() -> Self {
        Self {
            from_trigger: Some(LEAST),
            ..Self::new(Cause::ForceDeletion)
        }
    }

    /// Of a pod. `date` is the server's clock when it answered.
    pub(super) fn of(pod: &Pod, ours: &Ours<'_>, begun: &Begun<'_>, date: Option<u64>) -> Self {
        if pod.metadata.deletion_timestamp.is_some() {
            return Self::deleted(pod, ours, begun, date);
        }
        if let Some(ended) = Self::ended_by_the_kubelet(pod) {
            return ended;
        }
        if !is_the_kubelets(begun.reason) {
            return Self::new(Cause::Program);
        }
        let of_the_pod = pod.grace().map(GracePeriod::length);
        let (cause, grace) = match ours.probe_grace(pod) {
            Some(grace) => (Cause::ProbeFailure, grace),
            // How long an eviction or a node shutdown gives, the pod does not say.
            None => (Cause::NotDeleted, of_the_pod),
        };
        let slept = match unseen(ours, begun) {
            Unseen::Sleep(length) => length,
            // There is nothing to measure it against.
            Unseen::Nothing | Unseen::Unknown => Duration::ZERO,
        };
        Self {
            from_trigger: grace.map(|grace| grace.saturating_sub(slept).max(LEAST)),
            ..Self::new(cause)
        }
    }

    fn deleted(pod: &Pod, ours: &Ours<'_>, begun: &Begun<'_>, date: Option<u64>) -> Self {
        let disruption = pod.disruption();
        let cause = match disruption.and_then(|condition| condition.reason.as_deref()) {
            Some("EvictionByEvictionAPI") => Cause::ApiEviction,
            Some("PreemptionByScheduler") => Cause::Preemption,
            Some("DeletionByTaintManager") => Cause::TaintEviction,
            _ => Cause::Deletion,
        };
        let seconds = pod.metadata.deletion_grace_period_seconds;
        let grace = seconds
            .map(at_least_one)
            .or(pod.grace().map(GracePeriod::length));
        let unseen = unseen(ours, begun);
        let slept = match unseen {
            Unseen::Sleep(length) => length,
            Unseen::Nothing | Unseen::Unknown => Duration::ZERO,
        };
        // R2, R7: the timestamp is the end of the grace period, which for the kubelet is a little later. Not used where
        // the trigger is known to be its beginning: it is coarser.
        let measured = match (unseen, pod.deleted_by(), date) {
            (Unseen::Unknown, Some(end), Some(now)) => {
                let left = Duration::from_secs(end.saturating_sub(now));
                Some(left.saturating_sub(ROUNDING))
            }
            _ => None,
        };
        Self {
            message: disruption.and_then(|condition| condition.message.clone()),
            from_trigger: grace.map(|grace| grace.saturating_sub(slept).max(LEAST)),
            from_question: measured,
            ..Self::new(cause)
        }
    }

    /// What the kubelet does by itself, where it can be seen: usually only when the containers are gone.
    fn ended_by_the_kubelet(pod: &Pod) -> Option<Self> {
        let by_the_kubelet = |condition: &&Condition| {
            let reason = condition.reason.as_deref();
            reason == Some("TerminationByKubelet")
        };
        let condition = pod.disruption().filter(by_the_kubelet);
        let message = condition
            .and_then(|condition| condition.message.as_ref())
            .or(pod.status.message.as_ref());
        let says = |words: &str| {
            message.is_some_and(|message| message.to_ascii_lowercase().contains(words))
        };
        let cause = match pod.status.reason.as_deref() {
            Some("Evicted") => Cause::NodePressure,
            Some("Terminated" | "NodeShutdown" | "Shutdown") => Cause::NodeShutdown,
            Some("Preempting") => Cause::Preemption,
            _ if condition.is_none() => return None,
            _ if says("node shutdown") => Cause::NodeShutdown,
            _ if says("preempt") => Cause::Preemption,
            _ => Cause::NodePressure,
        };
        let of_the_pod = pod.grace().map(GracePeriod::length);
        Some(Self {
            message: message.cloned(),
            from_trigger: match cause {
                Cause::NodePressure => Some(LEAST),
                _ => of_the_pod,
            },
            // A node that goes takes its proxy along, and its seconds are not ours to know.
            no_lame_duck: cause != Cause::Preemption,
            ..Self::new(cause)
        })
    }
}

/// What may have run before the trigger without having been seen.
fn unseen(ours: &Ours<'_>, begun: &Begun<'_>) -> Unseen {
    if begun.hook_called {
        return Unseen::Nothing;
    }
    if !matches!(begun.reason, Reason::Signal(_)) {
        // The program's own trigger: where the kubelet's clock stands is not known.
        return Unseen::Unknown;
    }
    match ours.unseen() {
        Unseen::Unknown => Unseen::Unknown,
        Unseen::Sleep(length) => Unseen::Sleep(length.max(begun.told_sleep)),
        Unseen::Nothing if begun.told_sleep > Duration::ZERO => Unseen::Sleep(begun.told_sleep),
        Unseen::Nothing => Unseen::Nothing,
    }
}

/// Whether it is what the kubelet does to stop a container.
const fn is_the_kubelets(reason: &Reason) -> bool {
    matches!(reason, Reason::Signal(_) | Reason::PreStopHook)
}

#[cfg(test)]
mod tests;
