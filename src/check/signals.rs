//! Who gets the stop signal, and which one.

use super::document::Place;
use super::finding::Found;
use super::object::{Container, Object, Pod};
use super::rule::Rule;
use super::shell;

/// Proxies that serve the container beside them, by the names that their projects give them.
const PROXIES: [&str; 7] = [
    "istio-proxy",
    "linkerd-proxy",
    "envoy",
    "envoy-proxy",
    "cloud-sql-proxy",
    "cloudsql-proxy",
    "vault-agent",
];

pub(super) fn check(object: Object<'_>, pod: Pod<'_>, found: &mut Found) {
    if pod.is_windows() {
        return;
    }
    for container in pod.running() {
        found.container = container.name();
        if takes_requests(object, pod, container) {
            pid_1(container, found);
        }
        stop_signal(pod, container, found);
    }
    proxies(object, pod, found);
    found.container = None;
}

/// Whether anything is lost when the container does not hear of the stop: a script of a Job or a log shipper loses
/// no request.
fn takes_requests(object: Object<'_>, pod: Pod<'_>, container: Container<'_>) -> bool {
    let asked = ["ports", "readinessProbe", "livenessProbe", "startupProbe"];
    let alone = pod.containers().nth(1).is_none() && !container.is_sidecar();
    container.speaks_prestop()
        || object.serves() && (alone || asked.iter().any(|key| container.0.at(key).is_some()))
}

/// A shell that does not `exec` its program keeps SIGTERM to itself.
fn pid_1(container: Container<'_>, found: &mut Found) {
    let all = container.words();
    let mut words = &all[..];
    let first = words
        .first()
        .map(|word| word.rsplit('/').next().unwrap_or(word));
    let mut under_init = false;
    if let Some(init @ ("tini" | "dumb-init")) = first {
        let own = words
            .iter()
            .skip(1)
            .take_while(|word| word.starts_with('-'))
            .count();
        let options = &words[1..=own];
        // `-g`, `-vg`.
        let has = |letter| {
            let mut clusters = options.iter().filter(|o| !o.starts_with("--"));
            clusters.any(|cluster| cluster.contains(letter))
        };
        let to_the_group = match init {
            "tini" => has('g'),
            _ => !has('c') && !options.contains(&"--single-child"),
        };
        if to_the_group {
            return;
        }
        words = &words[1 + own..];
        under_init = true;
    }
    let Some((shell, script)) = shell::script(words) else {
        return;
    };
    if shell::hands_signals_on(shell, script) {
        return;
    }
    let at = container.0.at("command").or_else(|| container.0.at("args"));
    let piped = shell::commands(script).iter().any(|command| command.apart);
    let advice = match piped {
        true => {
            "a pipeline cannot be replaced by its program: log to standard output and `exec` it, or run the script under `tini -g`"
        }
        false => "start the program with `exec`, or give it as the command without a shell",
    };
    let mut message = match under_init {
        true => format!(
            "what the init process starts is a shell ({shell} -c) that does not end in `exec`: it gets SIGTERM alone and, not being PID 1, dies of it; PID 1 ends with it, and the program under the shell is cut at once"
        ),
        false => format!(
            "PID 1 is a shell ({shell} -c) that does not end in `exec`: SIGTERM stays with it, so the program hears nothing and is killed when the grace period is over"
        ),
    };
    if container.0.at("command").is_none() {
        message.push_str("; unless the image's ENTRYPOINT hands signals on");
    }
    found.add(
        Rule::PS301,
        at.map_or(container.0.place, |at| at.place),
        message,
        advice,
    );
}

fn stop_signal(pod: Pod<'_>, container: Container<'_>, found: &mut Found) {
    let Some(signal) = container.0.under(&["lifecycle", "stopSignal"]) else {
        return;
    };
    let name = signal.text().unwrap_or_default();
    if pod.spec.under(&["os", "name"]).is_none() {
        found.add(
            Rule::PS304,
            signal.place,
            "lifecycle.stopSignal is refused where spec.os.name is not set (KEP-4960)",
            "add `os: { name: linux }` to the pod's spec, or set STOPSIGNAL in the image",
        );
    }
    if name == "SIGKILL" {
        found.add(
            Rule::PS303,
            signal.place,
            "SIGKILL as the stop signal ends the program without any of its grace period",
            "remove lifecycle.stopSignal",
        );
        return;
    }
    if !container.speaks_prestop() || name == "SIGTERM" {
        return;
    }
    let runs = container.prestop_run().is_some();
    let (why, advice) = match name {
        "SIGQUIT" if runs => return,
        "SIGINT" => (
            "SIGINT is Ctrl-C to this crate: a stop without a lame duck, and a second one cuts what is in flight",
            "remove lifecycle.stopSignal: SIGTERM is the default",
        ),
        "SIGQUIT" => (
            "this crate hears SIGQUIT only where it was asked to; else it ends the process with a core dump, or as PID 1 does nothing",
            "call `.signals(Signals::new().and_quit())`, or remove lifecycle.stopSignal",
        ),
        _ => (
            "this crate has no handler for that signal: it ends the process at once, or as PID 1 does nothing",
            "remove lifecycle.stopSignal: SIGTERM is the default",
        ),
    };
    found.add(
        Rule::PS302,
        signal.place,
        format!("the stop signal is {name}: {why}"),
        advice,
    );
}

/// A proxy that is told to stop together with the service behind it may be gone first.
fn proxies(object: Object<'_>, pod: Pod<'_>, found: &mut Found) {
    if !object.serves() || pod.containers().nth(1).is_none() {
        return;
    }
    for container in pod.containers() {
        let Some(name) = container.name() else {
            continue;
        };
        if !PROXIES.contains(&name.as_str()) || waits(container) {
            continue;
        }
        let place: Place = container.0.place;
        found.container = Some(name.clone());
        found.add(
            Rule::PS504,
            place,
            format!("{name} gets SIGTERM at the same moment as the service behind it, and may be gone before the service has drained"),
            "make it a native sidecar (an init container with `restartPolicy: Always`), which is stopped last, or give it a preStop hook that waits",
        );
    }
}

/// By a hook, or by a setting of its own.
fn waits(container: Container<'_>) -> bool {
    let by_setting = ["--max-sigterm-delay", "-term_timeout", "--term_timeout"];
    let told = container.literal("EXIT_ON_ZERO_ACTIVE_CONNECTIONS");
    container.hook("preStop").is_some()
        || told.is_some_and(|value| value.text() == Some("true"))
        || container
            .words()
            .iter()
            .any(|w| by_setting.iter().any(|s| w.starts_with(s)))
}
