//! What is read of a pod, and which of its containers is ours.

use std::time::Duration;

use serde::Deserialize;

use super::time;
use crate::budget::GracePeriod;

/// The parts of a `v1.Pod` that say something about its end. What is missing, or unknown, is left out.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Pod {
    pub(super) kind: Option<String>,
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) uid: String,
    /// Where it is set the pod is being deleted. The moment at which its grace period ends (R2).
    pub(super) deletion_timestamp: Option<String>,
    pub(super) deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) termination_grace_period_seconds: Option<i64>,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    /// `Always` makes an init container a sidecar.
    pub(super) restart_policy: Option<String>,
    #[serde(default)]
    pub(super) lifecycle: Lifecycle,
    pub(super) liveness_probe: Option<Probe>,
    pub(super) startup_probe: Option<Probe>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lifecycle {
    pub(super) pre_stop: Option<Handler>,
}

/// A hook that is not `sleep` is one of which only the hook itself knows how long it takes.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Handler {
    pub(super) sleep: Option<Sleep>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Sleep {
    #[serde(default)]
    pub(super) seconds: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) termination_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
    #[serde(default)]
    pub(super) container_statuses: Vec<ContainerStatus>,
    /// Of sidecars, too.
    #[serde(default)]
    pub(super) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    /// Its startup probe has succeeded.
    pub(super) started: Option<bool>,
}

/// The containers of which one is ours.
#[derive(Default)]
pub(super) struct Ours<'a> {
    /// One, where that is certain.
    pub(super) candidates: Vec<&'a Container>,
    /// A sidecar waits for the others before it is told to stop, in its own grace period (R14).
    pub(super) is_sidecar: bool,
}

/// What of the grace period may be over when the signal comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// Nothing: no preStop hook.
    Nothing,
    /// A `sleep` hook.
    Sleep(Duration),
    /// A hook, or a wait, whose length the manifest does not say.
    Unknown,
}

/// Whole seconds of a grace period: never less than one (R5).
pub(super) fn at_least_one(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

impl Pod {
    /// `None` where the container that was named is none of the pod's.
    pub(super) fn ours(&self, name: Option<&str>) -> Option<Ours<'_>> {
        let Some(name) = name else {
            return Some(Ours {
                candidates: self.spec.containers.iter().collect(),
                is_sidecar: false,
            });
        };
        let named = |all: &'_ [Container]| all.iter().position(|it| it.name == name);
        let (main, init) = (&self.spec.containers, &self.spec.init_containers);
        if let Some(at) = named(main) {
            return Some(Ours {
                candidates: vec![&main[at]],
                is_sidecar: false,
            });
        }
        let found = &init[named(init)?];
        Some(Ours {
            candidates: vec![found],
            is_sidecar: found.restart_policy.as_deref() == Some("Always"),
        })
    }

    /// The manifest's grace period: Kubernetes fills in its default of 30 s.
    pub(super) fn grace(&self) -> Option<GracePeriod> {
        let seconds = self.spec.termination_grace_period_seconds?;
        GracePeriod::from_secs(at_least_one(seconds).as_secs()).ok()
    }

    /// When the grace period of a pod that is being deleted ends, in seconds since 1970.
    pub(super) fn deleted_by(&self) -> Option<u64> {
        time::of_the_api(self.metadata.deletion_timestamp.as_deref()?)
    }

    /// The condition with which Kubernetes says that a disruption ends the pod.
    pub(super) fn disruption(&self) -> Option<&Condition> {
        let mut all = self.status.conditions.iter();
        all.find(|condition| condition.kind == "DisruptionTarget" && condition.status == "True")
    }

    fn has_started(&self, container: &Container) -> Option<bool> {
        let status = &self.status;
        let (main, init) = (&status.container_statuses, &status.init_container_statuses);
        // No two containers of a pod have the same name.
        let mut all = main.iter().chain(init);
        all.find(|status| status.name == container.name)?.started
    }
}

impl Ours<'_> {
    pub(super) fn unseen(&self) -> Unseen {
        if self.is_sidecar {
            return Unseen::Unknown;
        }
        let mut hooks = self
            .candidates
            .iter()
            .filter_map(|container| container.lifecycle.pre_stop.as_ref());
        match (hooks.next(), self.candidates.len()) {
            (None, _) => Unseen::Nothing,
            (Some(Handler { sleep: Some(sleep) }), 1) => Unseen::Sleep(Duration::from_secs(
                u64::try_from(sleep.seconds).unwrap_or(0),
            )),
            (Some(_), _) => Unseen::Unknown,
        }
    }

    /// The grace period of a kill by a probe: the probe's own, else the pod's (R9, R29); the shortest that it can be.
    /// `None` where there is no such probe.
    pub(super) fn probe_grace(&self, pod: &Pod) -> Option<Option<Duration>> {
        let probes = self.candidates.iter().flat_map(|container| {
            let (startup, liveness) = (&container.startup_probe, &container.liveness_probe);
            // Liveness is not probed before the startup probe has succeeded, nor startup after that.
            let has_started = match startup {
                Some(_) => pod.has_started(container),
                None => Some(true),
            };
            let startup = startup.iter().filter(move |_| has_started != Some(true));
            startup.chain(liveness.iter().filter(move |_| has_started != Some(false)))
        });
        let of_the_pod = pod.grace().map(GracePeriod::length);
        probes
            .map(|probe| {
                let own = probe.termination_grace_period_seconds.map(at_least_one);
                own.or(of_the_pod)
            })
            .reduce(|one, other| match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            })
    }
}
