//! [`Cause`] and [`PodReport`]: what the own pod says of the stop. Asked in `kubernetes`, kept here for the report.

use std::fmt;
use std::time::Duration;

/// Why Kubernetes stops the container, as the own pod shows it when the stop begins.
///
/// What the kubelet does by itself is not in the pod's status before its containers have ended (it withholds phase,
/// reason and condition; `pkg/kubelet/status/status_manager.go`, `mergePodStatus`). So a probe's kill, an eviction for
/// node pressure and a node shutdown usually look alike: the pod is not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// The pod is deleted: a rollout, a scale-down, `kubectl delete`.
    Deletion,
    /// The pod is deleted by way of the eviction API: `kubectl drain`, a cluster autoscaler (the pod's condition
    /// `DisruptionTarget`, reason `EvictionByEvictionAPI`).
    ApiEviction,
    /// The pod is deleted, or ended by the kubelet, to make room for one of higher priority (`PreemptionByScheduler`).
    Preemption,
    /// The pod is deleted because of a taint of its node (`DeletionByTaintManager`).
    TaintEviction,
    /// The pod's object is gone, or there is a new one of its name: `kubectl delete --force --grace-period=0`. The
    /// kubelet gives such a pod a second (R32).
    ForceDeletion,
    /// The kubelet evicts the pod, because its node runs out of something (`TerminationByKubelet`, status `Evicted`).
    NodePressure,
    /// The node shuts down (`TerminationByKubelet`, status `Terminated`).
    NodeShutdown,
    /// The pod is not deleted, and the container has a liveness or a startup probe: most likely that failed, and the
    /// kubelet starts the container again (R29).
    ProbeFailure,
    /// The pod is not deleted, and no probe can have failed: the kubelet evicts it, the node shuts down, or somebody
    /// in the pod sent the signal.
    NotDeleted,
    /// The pod is not deleted, and the program stops by itself.
    Program,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deletion => "deleted",
            Self::ApiEviction => "evicted by way of the API (a node is drained)",
            Self::Preemption => "preempted by a pod of higher priority",
            Self::TaintEviction => "evicted because of a taint of its node",
            Self::ForceDeletion => "deleted by force",
            Self::NodePressure => "evicted by the kubelet (node pressure)",
            Self::NodeShutdown => "its node shuts down",
            Self::ProbeFailure => {
                "not deleted: a liveness or startup probe has failed, most likely"
            }
            Self::NotDeleted => {
                "not deleted: node pressure, a node shutdown, or a signal from inside of the pod"
            }
            Self::Program => "not deleted: the program stops by itself",
        })
    }
}

/// What is known of the own pod, where the coordinator was told to ask for it (feature `kubernetes`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PodReport {
    /// Which one: `namespace/name`.
    pub pod: String,
    /// Why it is stopped. `None` until the stop has begun and the API server has answered; a stop that is over before
    /// the answer has none.
    pub cause: Option<Cause>,
    /// What the API server says about the cause, in its own words.
    pub message: Option<String>,
    /// The time from the trigger to SIGKILL, by what the pod says. `None` where it does not say more than is known.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "kill_in_ms", serialize_with = "maybe_millis")
    )]
    pub kill_in: Option<Duration>,
    /// By how much that moved SIGKILL, and the deadline with it, earlier than planned.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "earlier_by_ms", serialize_with = "crate::timeline::millis")
    )]
    pub earlier_by: Duration,
    /// What was warned about: why the API server could not be asked, where the manifest and the program differ.
    pub warnings: Vec<String>,
}

impl PodReport {
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) const fn new(pod: String) -> Self {
        Self {
            pod,
            cause: None,
            message: None,
            kill_in: None,
            earlier_by: Duration::ZERO,
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for PodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}: ", self.pod)?;
        match &self.cause {
            Some(cause) => cause.fmt(f)?,
            None => f.write_str("the cause is not known")?,
        }
        if let Some(message) = &self.message {
            write!(f, " ({message:?})")?;
        }
        if let Some(kill_in) = self.kill_in {
            write!(
                f,
                ", SIGKILL {:.1} s after the trigger",
                kill_in.as_secs_f64()
            )?;
        }
        if self.earlier_by > Duration::ZERO {
            write!(
                f,
                ", {:.1} s earlier than planned",
                self.earlier_by.as_secs_f64()
            )?;
        }
        for warning in &self.warnings {
            write!(f, "; {warning}")?;
        }
        Ok(())
    }
}

/// What the pod's manifest says of its time, once it was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodTimes {
    /// Its grace period.
    pub(crate) grace: Option<crate::budget::GracePeriod>,
    /// The length of the container's `sleep` hook.
    pub(crate) slept: Duration,
}

impl PodTimes {
    /// What a trigger plans with, where the program was told of this grace period, and of this hook that it cannot see:
    /// never more than that. The manifest makes it no shorter than a second: behind a signal there are two (R15).
    pub(crate) fn at_most(self, grace: Duration, unseen: Option<Duration>) -> Duration {
        let told = grace.saturating_sub(unseen.unwrap_or_default());
        let theirs = self
            .grace
            .map_or(grace, |theirs| theirs.length().min(grace));
        let over = unseen.map_or(Duration::ZERO, |unseen| unseen.max(self.slept));
        told.min(theirs.saturating_sub(over).max(Duration::from_secs(1)))
    }
}

#[cfg(feature = "serde")]
fn maybe_millis<S: serde::Serializer>(length: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match length {
        Some(length) => crate::timeline::millis(length, to),
        None => to.serialize_none(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let mut pod = PodReport::new("shop/orders-0".to_owned());
        assert_eq!(pod.to_string(), "pod shop/orders-0: the cause is not known");
        pod.cause = Some(Cause::ApiEviction);
        pod.message = Some("Eviction API:\nevicting".to_owned());
        pod.kill_in = Some(Duration::from_secs(10));
        assert_eq!(
            pod.to_string(),
            "pod shop/orders-0: evicted by way of the API (a node is drained) (\"Eviction API:\\nevicting\"), \
             SIGKILL 10.0 s after the trigger"
        );
        pod.message = None;
        pod.cause = Some(Cause::Deletion);
        pod.earlier_by = Duration::from_secs(20);
        pod.warnings = vec!["the manifest differs".to_owned()];
        assert_eq!(
            pod.to_string(),
            "pod shop/orders-0: deleted, SIGKILL 10.0 s after the trigger, 20.0 s earlier than planned; the manifest \
             differs"
        );
    }
}
