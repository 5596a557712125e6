//! How pods are replaced, and what may disturb them.

use super::rule::Rule;
use super::yaml::{Ask, Node};
use super::{Found, Object};

pub(super) fn check(object: &Object<'_, '_>, others: &[Object<'_, '_>], found: &mut Found) {
    match object.kind {
        "Deployment" => deployment(object.node, found),
        "DaemonSet" | "StatefulSet" => one_by_one(object.node, found),
        "PodDisruptionBudget" => budget(object.node, others, found),
        _ => {}
    }
}

/// `25%` or `1`: how many of these.
fn of(node: Option<&Node<'_>>, replicas: i64, default: i64, up: bool) -> i64 {
    let Some(node) = node else { return default };
    if let Some(number) = node.number() {
        return number;
    }
    let percent = node
        .text()
        .and_then(|text| text.trim_end_matches('%').parse::<i64>().ok());
    let Some(percent) = percent else {
        return default;
    };
    // Kubernetes rounds maxSurge up and maxUnavailable down.
    let extra = if up { 99 } else { 0 };
    (replicas * percent + extra) / 100
}

fn deployment(node: &Node<'_>, found: &mut Found) {
    let replicas = node
        .under(&["spec", "replicas"])
        .and_then(Ask::number)
        .unwrap_or(1);
    let Some(strategy) = node.under(&["spec", "strategy"]) else {
        return;
    };
    if strategy.at("type").and_then(Ask::text) == Some("Recreate") {
        found.add(
            Rule::PS501,
            strategy,
            "Recreate stops every old pod before it starts a new one: nobody serves in between",
            "use RollingUpdate with maxUnavailable: 0, unless two versions must never run side by side",
        );
        return;
    }
    let rolling = strategy.at("rollingUpdate");
    let unavailable = rolling.and_then(|r| r.at("maxUnavailable"));
    let count = of(unavailable, replicas, replicas / 4, false);
    if replicas == 0 || count == 0 {
        return;
    }
    let at = unavailable.unwrap_or(strategy);
    if count >= replicas {
        found.add(
            Rule::PS501,
            at,
            format!("maxUnavailable allows {count} of {replicas} pods to be gone at the same time: nobody serves in between"),
            "maxUnavailable: 0, maxSurge: 1",
        );
    } else if count * 2 > replicas {
        found.add(
            Rule::PS502,
            at,
            format!("maxUnavailable allows {count} of {replicas} pods to be gone at the same time: the others get all of the load"),
            "maxUnavailable: 0, maxSurge: 1",
        );
    }
}

/// DaemonSets and StatefulSets have no surge by default; all at once is all gone.
fn one_by_one(node: &Node<'_>, found: &mut Found) {
    let rolling = node.under(&["spec", "updateStrategy", "rollingUpdate"]);
    let Some(unavailable) = rolling.and_then(|r| r.at("maxUnavailable")) else {
        return;
    };
    let percent = unavailable
        .text()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|p| p.parse::<i64>().ok());
    if percent.is_some_and(|percent| percent >= 100) {
        found.add(
            Rule::PS501,
            unavailable,
            "maxUnavailable: 100% stops all pods at the same time: nobody serves in between",
            "maxUnavailable: 1; a DaemonSet can have maxSurge: 1, too",
        );
    }
}

fn budget(node: &Node<'_>, others: &[Object<'_, '_>], found: &mut Found) {
    let spec = |key: &str| node.under(&["spec", key]);
    let never = |at: &Node<'_>, why: String, found: &mut Found| {
        found.add(
            Rule::PS503,
            at,
            format!("{why}: a node can never be drained politely, and is then drained by force"),
            "maxUnavailable: 1",
        );
    };
    if let Some(unavailable) = spec("maxUnavailable")
        && (unavailable.number() == Some(0) || unavailable.text() == Some("0%"))
    {
        never(unavailable, "maxUnavailable is 0".to_owned(), found);
    }
    let Some(available) = spec("minAvailable") else {
        return;
    };
    if available.text() == Some("100%") {
        never(available, "minAvailable is 100%".to_owned(), found);
    }
    let Some(least) = available.number() else {
        return;
    };
    let labels = |n: Option<&Node<'_>>| -> Vec<(String, String)> {
        let pairs = n.map(Ask::keys).unwrap_or_default();
        pairs
            .iter()
            .filter_map(|(k, v)| Some(((*k).to_owned(), v.text()?.to_owned())))
            .collect()
    };
    let wanted = labels(node.under(&["spec", "selector", "matchLabels"]));
    for other in others
        .iter()
        .filter(|o| matches!(o.kind, "Deployment" | "StatefulSet"))
    {
        let template = other.template();
        let has = labels(template.and_then(|t| t.under(&["metadata", "labels"])));
        let replicas = other
            .node
            .under(&["spec", "replicas"])
            .and_then(Ask::number)
            .unwrap_or(1);
        if !wanted.is_empty() && wanted.iter().all(|label| has.contains(label)) && least >= replicas
        {
            never(
                available,
                format!(
                    "minAvailable is {least} of the {replicas} replicas of {}",
                    other.name()
                ),
                found,
            );
        }
    }
}
