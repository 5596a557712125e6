//! The grace period, what the process knows of it, and who gets the stop signal.

use std::time::Duration;

use crate::budget::{Budget, GracePeriod, LameDuck};

use super::rule::Rule;
use super::yaml::{Ask, Node};
use super::{Found, Object, containers, grace_of, is_sidecar, name_of, variable, words};

/// The annotation of the pod that says how long clients of a registry may still call.
const VISIBILITY: &str = "prestop.rs/registry-visibility-seconds";

/// Proxies that serve the container beside them, by the names that their projects give them.
const PROXIES: [&str; 6] = [
    "istio-proxy",
    "linkerd-proxy",
    "envoy",
    "cloud-sql-proxy",
    "cloudsql-proxy",
    "vault-agent",
];

pub(super) fn check(
    object: &Object<'_, '_>,
    template: &Node<'_>,
    spec: &Node<'_>,
    found: &mut Found,
) {
    let grace = grace_of(spec);
    let said = spec.at("terminationGracePeriodSeconds").unwrap_or(spec);
    if grace == 0 {
        found.add(
            Rule::PS103,
            said,
            "terminationGracePeriodSeconds: 0 is Kubernetes' word for \"kill at once\": nothing is left, drained or flushed",
            "give it the time of the slowest request and 15 s more; 30 is the default",
        );
    } else if (1..=3).contains(&grace) && object.serves() {
        found.add(
            Rule::PS104,
            said,
            format!("{grace} s are too short for a lame duck: kube-proxy alone takes about one second to hear of the stop"),
            "give it at least 10 s",
        );
    }
    for container in containers(spec) {
        told(container, grace, spec, found);
        if !is_sidecar(container) {
            pid_1(container, found);
        }
        stop_signal(container, found);
    }
    visibility(template, grace, found);
    proxies(spec, found);
}

/// `TERMINATION_GRACE_PERIOD_SECONDS` against the spec.
fn told(container: &Node<'_>, grace: i64, spec: &Node<'_>, found: &mut Found) {
    let name = GracePeriod::VARIABLE;
    match variable(container, name) {
        Some(var) => {
            // From a ConfigMap, say: it is not known here.
            let Some(value) = var.at("value") else { return };
            let told = value.text().and_then(|text| text.parse().ok()).or(value.number());
            if told != Some(grace) {
                let text = value.text().map_or_else(|| "something else".to_owned(), str::to_owned);
                let from = match spec.at("terminationGracePeriodSeconds") {
                    Some(_) => "",
                    None => " (the default)",
                };
                found.add(
                    Rule::PS101,
                    value,
                    format!("{name} is {text:?}, but terminationGracePeriodSeconds is {grace}{from}: the process plans its stop by the wrong clock"),
                    format!("set both to the same number: value: \"{grace}\""),
                );
            }
        }
        None if grace != 30 && speaks_prestop(container) => found.add(
            Rule::PS102,
            container,
            format!("container {} plans with 30 s, but terminationGracePeriodSeconds is {grace}: the downward API cannot tell it (kubernetes#50032)", name_of(container)),
            format!("add env {name}: \"{grace}\""),
        ),
        None => {}
    }
}

/// A hook of ours, or a variable of ours, says that the crate is in there.
fn speaks_prestop(container: &Node<'_>) -> bool {
    let hook = container.under(&["lifecycle", "preStop"]);
    let exec = words(hook.and_then(|hook| hook.under(&["exec", "command"])));
    let path = hook
        .and_then(|hook| hook.under(&["httpGet", "path"]))
        .and_then(Ask::text);
    exec.iter().any(|word| word.ends_with("prestop"))
        || path == Some("/prestop")
        || ["PRESTOP_SOCKET", "PRESTOP_HOOK_TOKEN"]
            .iter()
            .any(|name| variable(container, name).is_some())
}

/// A shell that does not `exec` its program keeps SIGTERM to itself.
fn pid_1(container: &Node<'_>, found: &mut Found) {
    let command = container.at("command");
    let mut all = words(command);
    all.extend(words(container.at("args")));
    let Some(shell) = all
        .first()
        .map(|first| first.rsplit('/').next().unwrap_or(first))
    else {
        return;
    };
    if command.is_none() || !["sh", "bash", "ash", "dash", "zsh"].contains(&shell) {
        return;
    }
    let Some(at) = all
        .iter()
        .position(|word| word.starts_with('-') && word.ends_with('c'))
    else {
        return;
    };
    let Some(script) = all.get(at + 1) else {
        return;
    };
    let last = script
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    let last = last.and_then(|line| {
        line.rsplit([';', '&'])
            .map(str::trim)
            .find(|part| !part.is_empty())
    });
    let hands_on = last.is_some_and(|last| last.starts_with("exec "));
    if !hands_on && !script.contains("trap ") {
        found.add(
            Rule::PS301,
            command.unwrap_or(container),
            format!("PID 1 of container {} is a shell: it does not hand SIGTERM on, so the program hears nothing and is killed when the grace period is over", name_of(container)),
            "start the program with `exec`, or give it as the command without a shell",
        );
    }
}

fn stop_signal(container: &Node<'_>, found: &mut Found) {
    let Some(signal) = container.under(&["lifecycle", "stopSignal"]) else {
        return;
    };
    match signal.text() {
        Some("SIGTERM" | "SIGINT") | None => {}
        Some("SIGKILL") => found.add(
            Rule::PS303,
            signal,
            "SIGKILL as the stop signal ends the program without any of its grace period",
            "remove lifecycle.stopSignal",
        ),
        Some(other) => found.add(
            Rule::PS302,
            signal,
            format!("the stop signal is {other} (KEP-4960, off by default before 1.36): a program that has no handler for it dies, or as PID 1 ignores it"),
            "a service with this crate hears SIGTERM and SIGINT; SIGQUIT by `.signals(Signals::default().and_quit())`",
        ),
    }
}

/// What the pod says of its registries, against the budget that the crate itself would make.
fn visibility(template: &Node<'_>, grace: i64, found: &mut Found) {
    let Some(said) = template.under(&["metadata", "annotations", VISIBILITY]) else {
        return;
    };
    let seconds = said
        .text()
        .and_then(|text| text.parse().ok())
        .or(said.number());
    let Some(seconds) = seconds.and_then(|seconds| u64::try_from(seconds).ok()) else {
        found.add(
            Rule::PS105,
            said,
            format!("{VISIBILITY} is not a number of seconds"),
            "65 for Eureka, say; in quotes, as all annotations",
        );
        return;
    };
    let Some(grace) = u64::try_from(grace)
        .ok()
        .and_then(|g| GracePeriod::from_secs(g).ok())
    else {
        return;
    };
    let budget = Budget {
        grace,
        pre_stop_elapsed: Duration::ZERO,
        lame_duck: LameDuck {
            on_kubernetes: true,
            ..LameDuck::default()
        },
        longest_hook: None,
        visibility: Some(("registry".to_owned(), Duration::from_secs(seconds))),
    };
    if let Err(error) = budget.check() {
        found.add(
            Rule::PS105,
            said,
            error.to_string(),
            "build() fails with the same arithmetic, in the pod",
        );
    }
}

fn proxies(spec: &Node<'_>, found: &mut Found) {
    let containers = spec.at("containers").map_or(&[][..], Ask::items);
    if containers.len() < 2 {
        return;
    }
    for container in containers {
        let name = name_of(container);
        let waits = container.under(&["lifecycle", "preStop"]).is_some();
        if PROXIES.contains(&name) && !waits {
            found.add(
                Rule::PS504,
                container,
                format!("{name} gets SIGTERM at the same moment as the service behind it, and may be gone before the service has drained"),
                "make it a native sidecar (an init container with `restartPolicy: Always`), which is stopped last, or give it a preStop hook that waits",
            );
        }
    }
}
