//! Probes.

use super::document::Node;
use super::finding::Found;
use super::object::{Container, Object, Pod, number};
use super::rule::Rule;

/// Seconds until a failing pod gets no more requests, at the most. The kubelet's defaults are 3 failures 10 s apart, and
/// Istio's 4 failures 15 s apart.
const SLOW: i64 = 60;

/// Seconds that a start may take before liveness kills it, at the least.
const PATIENCE: i64 = 10;

/// What services call the thing that says "do not kill me".
const ALIVE: [&str; 8] = [
    "/livez",
    "/live",
    "/liveness",
    "/health/live",
    "/health/liveness",
    "/-/healthy",
    "/q/health/live",
    "/actuator/health/liveness",
];

const PROBES: [&str; 3] = ["readinessProbe", "livenessProbe", "startupProbe"];

pub(super) fn check(object: Object<'_>, pod: Pod<'_>, found: &mut Found) {
    let mut complete = true;
    for container in pod.running() {
        found.container = container.name();
        complete &= container.is_whole();
        for kind in PROBES {
            if let Some(probe) = container.0.at(kind) {
                each(pod, container, kind, probe, found);
            }
        }
        if let Some(liveness) = container.0.at("livenessProbe") {
            alive(container, liveness, found);
        }
        if let Some(readiness) = container.0.at("readinessProbe").filter(|_| object.serves()) {
            ready(readiness, found);
        }
    }
    let probed = pod
        .running()
        .any(|container| container.0.at("readinessProbe").is_some());
    if object.serves() && complete && !probed {
        missing(pod, found);
    }
    found.container = None;
}

/// No container of the pod has a readiness probe: the first that takes requests is named.
fn missing(pod: Pod<'_>, found: &mut Found) {
    let Some(container) = pod.containers().find(|c| c.has_ports()) else {
        return;
    };
    found.container = container.name();
    found.add(
        Rule::PS401,
        container.0.place,
        "the container has ports and no readiness probe: it gets requests as soon as it was started, before it can answer them",
        "add readinessProbe: { httpGet: { path: /readyz, port: .. }, periodSeconds: 2 }",
    );
}

fn seconds(probe: Node<'_>, key: &str, default: i64) -> i64 {
    probe.at(key).and_then(Node::number).unwrap_or(default)
}

/// What holds for each of the three.
fn each(pod: Pod<'_>, container: Container<'_>, kind: &str, probe: Node<'_>, found: &mut Found) {
    for key in [
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "failureThreshold",
        "successThreshold",
        "terminationGracePeriodSeconds",
    ] {
        number(probe.at(key), found);
    }
    for action in ["httpGet", "tcpSocket"] {
        if let Some(port) = probe.under(&[action, "port"])
            && container.port(port).is_none()
        {
            found.add(
                Rule::PS208,
                port.place,
                format!(
                    "the container declares no port of the name {:?}: its {kind} always fails",
                    port.text().unwrap_or_default()
                ),
                "declare it under `ports`, or give the number",
            );
        }
    }
    let timeout = seconds(probe, "timeoutSeconds", 1);
    let period = seconds(probe, "periodSeconds", 10);
    // A command may be slow and meant so, and liveness in no hurry.
    if timeout > period && kind == "readinessProbe" && probe.at("exec").is_none() {
        let at = probe.at("timeoutSeconds").unwrap_or(probe).place;
        found.add(
            Rule::PS405,
            at,
            format!("{kind} may take {timeout} s and is asked every {period} s: a failure is noticed later than it looks"),
            "make timeoutSeconds no longer than periodSeconds",
        );
    }
    let own = probe.at("terminationGracePeriodSeconds");
    if let (Some(own), Some(grace)) = (own, pod.grace())
        && let Some(seconds) = own.number()
        && seconds < grace
    {
        found.add(
            Rule::PS106,
            own.place,
            format!("a kill by {kind} gets {seconds} s, not the {grace} s of the pod, and the process cannot see the difference"),
            "leave it out, unless a hung process is worth the cut requests",
        );
    }
}

/// What a probe asks, so that two can be compared.
#[derive(PartialEq, Eq)]
enum Asks<'d> {
    Http(&'d str, Option<i64>),
    Grpc(Option<i64>, Option<&'d str>),
    Exec(Vec<&'d str>),
}

fn asks<'d>(container: Container<'d>, probe: Node<'d>) -> Option<Asks<'d>> {
    let port = |action: Node<'d>| action.at("port").and_then(|port| container.port(port));
    if let Some(get) = probe.at("httpGet") {
        return Some(Asks::Http(path(get), port(get)));
    }
    if let Some(grpc) = probe.at("grpc") {
        return Some(Asks::Grpc(port(grpc), grpc.text_at("service")));
    }
    let command = probe.under(&["exec", "command"])?;
    Some(Asks::Exec(command.items().filter_map(Node::text).collect()))
}

/// Without what comes behind a `?`, and without a slash at its end.
fn path(get: Node<'_>) -> &str {
    let path = get.text_at("path").unwrap_or("/");
    path.split('?').next().unwrap_or(path).trim_end_matches('/')
}

/// Whether services call by it the thing that says "send me nothing": `/health/ready`, `/actuator/health/readiness`.
fn is_ready(path: &str) -> bool {
    matches!(
        path.rsplit('/').next(),
        Some("ready" | "readyz" | "readiness")
    )
}

/// The port of this crate's probe listener and the one that liveness asks, where that is for requests.
fn other_port(container: Container<'_>, liveness: Node<'_>) -> Option<(i64, i64)> {
    let readiness = container.0.under(&["readinessProbe", "httpGet"])?;
    if !container.speaks_prestop() || path(readiness) != "/readyz" {
        return None;
    }
    let actions = ["httpGet", "tcpSocket", "grpc"];
    let action = actions.iter().find_map(|action| liveness.at(action))?;
    let ready = container.port(readiness.at("port")?)?;
    let other = container.port(action.at("port")?)?;
    (other != ready && container.has_port(other)).then_some((ready, other))
}

fn alive(container: Container<'_>, liveness: Node<'_>, found: &mut Found) {
    let asked = asks(container, liveness);
    let readiness = container
        .0
        .at("readinessProbe")
        .and_then(|probe| asks(container, probe));
    let by_its_name = matches!(asked, Some(Asks::Http(path, _)) if is_ready(path));
    // With this crate readiness fails while it drains, whatever it is asked by. Of others that is not known.
    let the_same = container.speaks_prestop() && asked.is_some() && asked == readiness;
    if by_its_name || the_same {
        found.add(
            Rule::PS402,
            liveness.place,
            "liveness asks what readiness asks, which fails while the service starts, waits for a database or drains: the kubelet then kills a process that is at work",
            "ask /livez, which stays green to the end",
        );
    }
    if let Some((ready, other)) = other_port(container, liveness) {
        found.add(
            Rule::PS402,
            liveness.place,
            format!("liveness asks port {other}, whose listener closes when the drain begins, and not port {ready} of /readyz: the kubelet then kills a process that is at work"),
            format!("ask /livez of port {ready}, which is answered to the end"),
        );
    }
    let patience = seconds(liveness, "initialDelaySeconds", 0)
        + seconds(liveness, "periodSeconds", 10).saturating_mul(seconds(
            liveness,
            "failureThreshold",
            3,
        ));
    if container.0.at("startupProbe").is_none() && patience < PATIENCE && container.is_whole() {
        found.add(
            Rule::PS404,
            liveness.place,
            format!("a start that takes longer than {patience} s is killed by its liveness probe, over and over"),
            "add a startupProbe: { httpGet: { path: /startupz, port: .. }, periodSeconds: 1, failureThreshold: 60 }",
        );
    }
}

fn ready(readiness: Node<'_>, found: &mut Found) {
    let period = seconds(readiness, "periodSeconds", 10);
    let threshold = seconds(readiness, "failureThreshold", 3);
    let until = period.saturating_mul(threshold);
    if until > SLOW {
        found.add(
            Rule::PS403,
            readiness.place,
            format!("{threshold} failures {period} s apart: it takes up to {until} s until a failing pod gets no more requests"),
            "periodSeconds: 2, failureThreshold: 2",
        );
    }
    if let Some(get) = readiness
        .at("httpGet")
        .filter(|get| ALIVE.contains(&path(*get)))
    {
        found.add(
            Rule::PS406,
            get.place,
            "readiness asks what liveness asks, which is green as long as the process runs: balancers that go by it send requests before the service is ready, and while it drains",
            "ask /readyz",
        );
    }
}
