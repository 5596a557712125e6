//! Probes.

use super::rule::Rule;
use super::yaml::{Ask, Node};
use super::{Found, Object, containers, grace_of, is_sidecar, name_of, port_number};

/// Longer than this, and the lame duck is over before the endpoint leaves by its probe.
const SLOW: i64 = 15;

/// What services call the thing that says "send me nothing".
const READY: [&str; 4] = ["/readyz", "/ready", "/readiness", "/health/ready"];

pub(super) fn check(object: &Object<'_, '_>, spec: &Node<'_>, found: &mut Found) {
    for container in containers(spec) {
        let name = name_of(container);
        for kind in ["readinessProbe", "livenessProbe", "startupProbe"] {
            if let Some(probe) = container.at(kind) {
                each(container, kind, probe, found);
            }
        }
        let has_ports = !container.at("ports").map_or(&[][..], Ask::items).is_empty();
        if object.serves()
            && has_ports
            && !is_sidecar(container)
            && container.at("readinessProbe").is_none()
        {
            found.add(
                Rule::PS401,
                container,
                format!("container {name} has ports and no readiness probe: it gets requests as soon as it was started, and Kubernetes cannot see that it has begun to stop"),
                "add readinessProbe: { httpGet: { path: /readyz, port: .. }, periodSeconds: 2 }",
            );
        }
        if let Some(liveness) = container.at("livenessProbe") {
            alive(container, liveness, found);
            shortened(spec, liveness, found);
        }
        if let Some(readiness) = container.at("readinessProbe") {
            ready(readiness, found);
        }
    }
}

fn number(probe: &Node<'_>, key: &str, default: i64) -> i64 {
    probe.at(key).and_then(Ask::number).unwrap_or(default)
}

fn each(container: &Node<'_>, kind: &str, probe: &Node<'_>, found: &mut Found) {
    for action in ["httpGet", "tcpSocket"] {
        if let Some(port) = probe.under(&[action, "port"])
            && port_number(container, port).is_none()
        {
            found.add(
                Rule::PS208,
                port,
                format!(
                    "container {} declares no port of this name: its {kind} always fails",
                    name_of(container)
                ),
                "declare it under `ports`, or give the number",
            );
        }
    }
    let (timeout, period) = (
        number(probe, "timeoutSeconds", 1),
        number(probe, "periodSeconds", 10),
    );
    if timeout > period {
        found.add(
            Rule::PS405,
            probe,
            format!("{kind} may take {timeout} s and is asked every {period} s: it is noticed later than it looks"),
            "make timeoutSeconds shorter than periodSeconds",
        );
    }
}

fn alive(container: &Node<'_>, liveness: &Node<'_>, found: &mut Found) {
    let asked = |probe: &Node<'_>| {
        let get = probe.at("httpGet")?;
        let path = get.at("path").and_then(Ask::text).unwrap_or("/").to_owned();
        Some((
            path,
            get.at("port").and_then(|port| port_number(container, port)),
        ))
    };
    let liveness_asks = asked(liveness);
    let same = container
        .at("readinessProbe")
        .and_then(asked)
        .is_some_and(|r| Some(&r) == liveness_asks.as_ref());
    let ready_path = liveness_asks
        .as_ref()
        .is_some_and(|(path, _)| READY.contains(&path.as_str()));
    // One check for both is right for neither, unless it never fails while draining; a path that says "ready" does.
    if ready_path || (same && liveness_asks.is_some_and(|(path, _)| path != "/")) {
        found.add(
            Rule::PS402,
            liveness,
            "liveness asks what readiness asks: it fails while the service drains, or waits for a database, and the kubelet kills it for that",
            "ask /livez, which stays green to the end",
        );
    }
    let grace = number(liveness, "initialDelaySeconds", 0);
    let patience =
        grace + number(liveness, "periodSeconds", 10) * number(liveness, "failureThreshold", 3);
    if container.at("startupProbe").is_none() && patience < 10 {
        found.add(
            Rule::PS404,
            liveness,
            format!("a start that takes longer than {patience} s is killed by its liveness probe, over and over"),
            "add a startupProbe: { httpGet: { path: /startupz, .. }, periodSeconds: 1, failureThreshold: 60 }",
        );
    }
}

/// A probe's own grace period, which a kill by liveness gets instead of the pod's.
fn shortened(spec: &Node<'_>, liveness: &Node<'_>, found: &mut Found) {
    let Some(own) = liveness.at("terminationGracePeriodSeconds") else {
        return;
    };
    let grace = grace_of(spec);
    if let Some(seconds) = own.number()
        && seconds < grace
    {
        found.add(
            Rule::PS106,
            own,
            format!("a kill by liveness gets {seconds} s, not the {grace} s of the pod, and the process cannot see the difference"),
            "leave it out, unless a hung process is worth the cut requests",
        );
    }
}

fn ready(readiness: &Node<'_>, found: &mut Found) {
    let (period, threshold) = (
        number(readiness, "periodSeconds", 10),
        number(readiness, "failureThreshold", 3),
    );
    if period * threshold > 2 * SLOW {
        found.add(
            Rule::PS403,
            readiness,
            format!("{threshold} failures {period} s apart: it takes up to {} s until a failing pod gets no more requests", period * threshold),
            "periodSeconds: 2, failureThreshold: 2",
        );
    }
}
