//! How many seconds a container gets, and why it is stopped: rules R1..R5 and R29..R32.

use std::fmt;
use std::time::Duration;

use super::manifest::Pod;

/// Without any other figure, and after every hook: never less than two seconds for the stop signal (R9, R15).
pub(super) const MINIMUM: u64 = 2;

/// Why the kubelet stops a pod, or one container of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// `kubectl delete`, a rolling update, an eviction through the API: `gracePeriodSeconds` of the request, else the
    /// pod's own (R1). A negative one is 1; 0 is what `--force` sends and leaves 1 s (R32).
    Delete {
        /// `gracePeriodSeconds` of the request.
        grace_period: Option<i64>,
    },
    /// `kubectl delete --force --grace-period=0`: the API object is gone at once, the containers get one second, and
    /// two for the stop signal (R32).
    ForceDelete,
    /// Node-pressure eviction past a hard threshold: one second (R30).
    HardEviction,
    /// Node-pressure eviction past a soft threshold: the kubelet's `evictionMaxPodGracePeriod`, whose default is 0,
    /// at most the pod's own (R30).
    SoftEviction {
        /// `evictionMaxPodGracePeriod`, seconds.
        max_pod_grace_period: u64,
    },
    /// Preemption by a critical pod: the pod's own grace period (R30).
    Preemption,
    /// Graceful node shutdown: the seconds of the pod's priority group, at most the pod's own (R31). Off by default.
    NodeShutdown {
        /// Of the priority group, seconds.
        group: u64,
    },
    /// The liveness probe of this container failed. Only it is stopped, with the probe's own grace period if there is
    /// one, and started again; the pod stays in its Services (R29).
    LivenessFailed {
        /// The container's name.
        container: String,
    },
    /// The startup probe of this container failed; like [`LivenessFailed`](Self::LivenessFailed).
    StartupFailed {
        /// The container's name.
        container: String,
    },
    /// The postStart hook of this container failed: it is stopped like any other, preStop hook and all, with the
    /// pod's grace period (R26). Used by [`Node::start`](super::Node::start).
    PostStartFailed {
        /// The container's name.
        container: String,
    },
}

impl Cause {
    /// A deletion with the pod's own grace period: what a rolling update does.
    #[must_use]
    pub const fn delete() -> Self {
        Self::Delete { grace_period: None }
    }

    /// What each container gets, in seconds, before its hook, and never less than 1 where the pod as a whole is
    /// stopped (R5).
    #[must_use]
    pub fn grace_period(&self, pod: &Pod) -> Duration {
        let own = pod.termination_grace_period_seconds;
        let seconds = match self {
            Self::Delete { grace_period: None } | Self::Preemption => own,
            Self::Delete {
                grace_period: Some(asked),
            } => u64::try_from(*asked).unwrap_or(1),
            Self::ForceDelete | Self::HardEviction => 1,
            Self::SoftEviction {
                max_pod_grace_period,
            } => own.min(*max_pod_grace_period),
            Self::NodeShutdown { group } => own.min(*group),
            Self::LivenessFailed { container } => {
                probe_level(pod, container, |c| &c.liveness_probe)
            }
            Self::StartupFailed { container } => probe_level(pod, container, |c| &c.startup_probe),
            Self::PostStartFailed { .. } => own,
        };
        // A container that is stopped alone keeps its zero, and the minimum of `killContainer`.
        Duration::from_secs(match self.only() {
            Some(_) => seconds,
            None => seconds.max(1),
        })
    }

    /// The one container that is stopped.
    pub(super) fn only(&self) -> Option<&str> {
        match self {
            Self::LivenessFailed { container }
            | Self::StartupFailed { container }
            | Self::PostStartFailed { container } => Some(container),
            Self::Delete { .. }
            | Self::ForceDelete
            | Self::HardEviction
            | Self::SoftEviction { .. }
            | Self::Preemption
            | Self::NodeShutdown { .. } => None,
        }
    }

    /// Whether the pod gets a `deletionTimestamp`, which takes it out of its Services whatever its probes say (R33).
    #[must_use]
    pub const fn deletes(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::ForceDelete)
    }
}

fn probe_level(
    pod: &Pod,
    container: &str,
    probe: impl Fn(&super::manifest::Container) -> &Option<super::manifest::Probe>,
) -> u64 {
    pod.container(container)
        .and_then(|c| probe(c).as_ref()?.termination_grace_period_seconds)
        .unwrap_or(pod.termination_grace_period_seconds)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { grace_period: None } => f.write_str("deleted"),
            Self::Delete {
                grace_period: Some(seconds),
            } => write!(f, "deleted with a grace period of {seconds} s"),
            Self::ForceDelete => f.write_str("deleted by force"),
            Self::HardEviction => f.write_str("evicted, hard threshold"),
            Self::SoftEviction { .. } => f.write_str("evicted, soft threshold"),
            Self::Preemption => f.write_str("preempted"),
            Self::NodeShutdown { .. } => f.write_str("node shutdown"),
            Self::LivenessFailed { container } => write!(f, "liveness probe of {container} failed"),
            Self::StartupFailed { container } => write!(f, "startup probe of {container} failed"),
            Self::PostStartFailed { container } => {
                write!(f, "postStart hook of {container} failed")
            }
        }
    }
}
