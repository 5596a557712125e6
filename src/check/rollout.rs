//! How pods are replaced, and what may disturb them.

use super::document::Node;
use super::finding::Found;
use super::object::{Object, number, wrong_type};
use super::rule::Rule;

pub(super) fn check(object: Object<'_>, together: &[Object<'_>], found: &mut Found) {
    match object.kind {
        "Deployment" => deployment(object, together, found),
        "DaemonSet" | "StatefulSet" => one_by_one(object, found),
        "PodDisruptionBudget" => budget(object, together, found),
        _ => {}
    }
}

/// `25%` or `1`.
#[derive(Clone, Copy)]
enum Amount {
    Number(i64),
    Percent(i64),
}

impl Amount {
    /// Tells where it is neither.
    fn of(node: Option<Node<'_>>, found: &mut Found) -> Option<Self> {
        let node = node?;
        let percent = || node.text()?.strip_suffix('%')?.parse().ok();
        let amount = node
            .number()
            .map(Self::Number)
            .or_else(|| percent().map(Self::Percent));
        if amount.is_none() {
            wrong_type(
                node,
                "a whole number without quotes, or a percentage",
                found,
            );
        }
        amount
    }

    /// Of so many. Kubernetes rounds up everywhere but in a Deployment's maxUnavailable.
    fn of_all(self, all: i64, up: bool) -> i64 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => {
                let parts = all.saturating_mul(percent);
                if up {
                    parts.saturating_add(99) / 100
                } else {
                    parts / 100
                }
            }
        }
    }
}

/// What runs at the least: the replicas, or an autoscaler's minimum. None where neither is said.
fn replicas(object: Object<'_>, together: &[Object<'_>]) -> Option<i64> {
    let scales = |other: &&Object<'_>| {
        let target = other.node.under(&["spec", "scaleTargetRef"]);
        ["HorizontalPodAutoscaler", "ScaledObject"].contains(&other.kind)
            && same_namespace(**other, object)
            && target.is_some_and(|target| {
                target.text_at("kind").unwrap_or("Deployment") == object.kind
                    && target.text_at("name") == name(object)
            })
    };
    if let Some(scaler) = together.iter().find(scales) {
        let least = ["minReplicas", "minReplicaCount"];
        let mut least = least
            .iter()
            .filter_map(|key| scaler.node.under(&["spec", key]));
        return Some(least.next().and_then(Node::number).unwrap_or(1));
    }
    object.node.under(&["spec", "replicas"])?.number()
}

fn name(object: Object<'_>) -> Option<&str> {
    object.node.under(&["metadata", "name"])?.text()
}

fn same_namespace(one: Object<'_>, other: Object<'_>) -> bool {
    let of = |object: Object<'_>| {
        let namespace = object.node.under(&["metadata", "namespace"]);
        namespace
            .and_then(Node::text)
            .unwrap_or("default")
            .to_owned()
    };
    of(one) == of(other)
}

fn deployment(object: Object<'_>, together: &[Object<'_>], found: &mut Found) {
    number(object.node.under(&["spec", "replicas"]), found);
    if object.pod().is_some_and(|pod| !pod.serves()) {
        return;
    }
    let Some(strategy) = object.node.under(&["spec", "strategy"]) else {
        return;
    };
    if let Some(kind) = strategy
        .at("type")
        .filter(|kind| kind.text() == Some("Recreate"))
    {
        found.add(
            Rule::PS501,
            kind.place,
            "Recreate stops every old pod before it starts a new one: nobody serves in between",
            "use RollingUpdate with maxUnavailable: 0, unless two versions must never run side by side",
        );
        return;
    }
    let rolling = strategy.at("rollingUpdate");
    let unavailable = rolling.and_then(|rolling| rolling.at("maxUnavailable"));
    let surge = rolling.and_then(|rolling| rolling.at("maxSurge"));
    let at = unavailable.or(surge).unwrap_or(strategy).place;
    let default = Amount::Percent(25);
    let unavailable = Amount::of(unavailable, found).unwrap_or(default);
    let surge = Amount::of(surge, found).unwrap_or(default);
    // Unsaid it is 1, or what an autoscaler makes of it that stands elsewhere; or this is a patch.
    let Some(replicas) = replicas(object, together) else {
        return;
    };
    let (mut gone, more) = (
        unavailable.of_all(replicas, false),
        surge.of_all(replicas, true),
    );
    if gone == 0 && more == 0 {
        // A rollout that could do neither would never end: Kubernetes takes one.
        gone = 1;
    }
    if replicas <= 0 || gone <= 0 {
        return;
    }
    let advice = "maxUnavailable: 0, maxSurge: 1";
    if gone >= replicas {
        found.add(
            Rule::PS501,
            at,
            format!("the strategy allows {gone} of {replicas} pods to be gone at the same time: nobody serves in between"),
            advice,
        );
    } else if gone.saturating_mul(2) > replicas {
        found.add(
            Rule::PS502,
            at,
            format!("the strategy allows {gone} of {replicas} pods to be gone at the same time: the others get all of the load"),
            advice,
        );
    }
}

/// DaemonSets and StatefulSets are replaced one by one unless they say otherwise; all at once is all gone.
fn one_by_one(object: Object<'_>, found: &mut Found) {
    if object.pod().is_some_and(|pod| !pod.serves()) {
        return;
    }
    let rolling = object
        .node
        .under(&["spec", "updateStrategy", "rollingUpdate"]);
    let Some(node) = rolling.and_then(|rolling| rolling.at("maxUnavailable")) else {
        return;
    };
    let replicas = object
        .node
        .under(&["spec", "replicas"])
        .and_then(Node::number);
    let all = match (Amount::of(Some(node), found), replicas) {
        (Some(Amount::Percent(percent)), _) => percent >= 100,
        // A DaemonSet has no replicas.
        (Some(Amount::Number(number)), Some(replicas)) => replicas > 1 && number >= replicas,
        _ => false,
    };
    if all {
        found.add(
            Rule::PS501,
            node.place,
            "maxUnavailable allows all pods to be stopped at the same time: nobody serves in between",
            "maxUnavailable: 1; a DaemonSet can have maxSurge: 1, too",
        );
    }
}

fn budget(object: Object<'_>, together: &[Object<'_>], found: &mut Found) {
    let never = |at: Node<'_>, why: String, found: &mut Found| {
        found.add(
            Rule::PS503,
            at.place,
            format!("{why}: a node can never be drained politely, and is then drained by force"),
            "maxUnavailable: 1, and more than one replica",
        );
    };
    let spec = |key: &str| object.node.under(&["spec", key]);
    if let Some(node) = spec("maxUnavailable")
        && let Some(Amount::Number(0) | Amount::Percent(0)) = Amount::of(Some(node), found)
    {
        never(node, "maxUnavailable is 0".to_owned(), found);
    }
    let Some(node) = spec("minAvailable") else {
        return;
    };
    let least = match Amount::of(Some(node), found) {
        Some(Amount::Percent(percent)) if percent >= 100 => {
            return never(node, format!("minAvailable is {percent}%"), found);
        }
        Some(least) => least,
        None => return,
    };
    let selected = together.iter().filter(|other| {
        ["Deployment", "StatefulSet", "ReplicaSet"].contains(&other.kind)
            && same_namespace(**other, object)
            && selects(object, **other)
    });
    for other in selected {
        let Some(replicas) = replicas(*other, together).filter(|replicas| *replicas > 0) else {
            continue;
        };
        let count = least.of_all(replicas, true);
        if count >= replicas {
            let why = format!(
                "minAvailable asks for {count} of the {replicas} replicas of {}",
                other.name()
            );
            return never(node, why, found);
        }
    }
}

/// Whether the labels of the other's pods are among those that the selector asks for; other selectors are not read.
fn selects(object: Object<'_>, other: Object<'_>) -> bool {
    let Some(selector) = object.node.under(&["spec", "selector"]) else {
        return false;
    };
    let Some(wanted) = selector.at("matchLabels") else {
        return false;
    };
    let Some(labels) = other
        .pod()
        .and_then(|pod| pod.template.under(&["metadata", "labels"]))
    else {
        return false;
    };
    let has = |(key, value): (&str, Node<'_>)| labels.text_at(key) == value.text();
    selector.at("matchExpressions").is_none()
        && wanted.entries().next().is_some()
        && wanted.entries().all(has)
}
