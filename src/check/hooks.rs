//! postStart and preStop.

use super::rule::Rule;
use super::yaml::{Ask, Node};
use super::{Found, containers, grace_of, name_of, port_number, variable, words};

/// Names the length of the `sleep` hook for the process, which cannot see it.
const SLEPT: &str = "PRE_STOP_SLEEP_SECONDS";

pub(super) fn check(spec: &Node<'_>, found: &mut Found) {
    let on_host = spec.at("hostNetwork").is_some_and(Ask::is_true);
    for container in containers(spec) {
        for kind in ["postStart", "preStop"] {
            if let Some(hook) = container.under(&["lifecycle", kind]) {
                either(container, kind, hook, on_host, found);
            }
        }
        if let Some(hook) = container.under(&["lifecycle", "preStop"]) {
            sleeps(spec, container, hook, found);
            command(container, hook, found);
            request(container, hook, found);
            socket(spec, container, hook, found);
        }
        if let Some(hook) = container.under(&["lifecycle", "postStart"]) {
            post_start(container, hook, found);
        }
    }
}

/// What holds for both hooks.
fn either(container: &Node<'_>, kind: &str, hook: &Node<'_>, on_host: bool, found: &mut Found) {
    if let Some(tcp) = hook.at("tcpSocket") {
        found.add(
            Rule::PS206,
            tcp,
            format!(
                "a tcpSocket in {kind} passes the API's validation and fails whenever it is called"
            ),
            "use exec, httpGet or sleep",
        );
    }
    let Some(get) = hook.at("httpGet") else {
        return;
    };
    if on_host && get.at("host").is_none() {
        found.add(
            Rule::PS207,
            get,
            format!("{kind} goes to the pod's address, and a pod on the host's network has none of its own: the hook fails (kubernetes#134285)"),
            "set `host: 127.0.0.1`",
        );
    }
    if let Some(port) = get.at("port")
        && port_number(container, port).is_none()
    {
        found.add(
            Rule::PS208,
            port,
            format!(
                "container {} declares no port of this name: the hook fails",
                name_of(container)
            ),
            "declare it under `ports`, or give the number",
        );
    }
    if get.at("scheme").and_then(Ask::text) == Some("HTTPS") {
        found.add(
            Rule::PS211,
            get,
            "the kubelet does not verify the certificate, and asks again without TLS, and without Authorization, when the answer is not TLS",
            "use HTTP on the probe listener, with the token",
        );
    }
}

/// Seconds that the hook takes out of the grace period, and where that is written: `sleep`, or a command that sleeps.
fn slept<'d, 't>(hook: &'d Node<'t>) -> Option<(i64, &'d Node<'t>, bool)> {
    if let Some(seconds) = hook.under(&["sleep", "seconds"]) {
        return Some((seconds.number()?, seconds, false));
    }
    let command = hook.under(&["exec", "command"])?;
    let line = words(Some(command)).join(" ");
    let mut rest = line
        .split_whitespace()
        .skip_while(|word| !word.ends_with("sleep"));
    rest.next()?;
    let seconds = rest.next()?.trim_end_matches([';', 's']).parse().ok()?;
    Some((seconds, command, true))
}

fn sleeps(spec: &Node<'_>, container: &Node<'_>, hook: &Node<'_>, found: &mut Found) {
    let Some((seconds, at, by_command)) = slept(hook) else {
        return;
    };
    let grace = grace_of(spec);
    if seconds >= grace - 2 {
        found.add(
            Rule::PS201,
            at,
            format!("the hook sleeps {seconds} s of a grace period of {grace} s: SIGTERM comes with 2 s left or less, and nothing can drain"),
            format!("sleep at most a third of it, or raise terminationGracePeriodSeconds to {}", seconds + 30),
        );
        return;
    }
    if by_command {
        found.add(
            Rule::PS203,
            at,
            "a command that sleeps needs the program `sleep`, and often a shell, in the image; without them the hook fails and SIGTERM comes at once",
            format!("use `sleep: {{ seconds: {seconds} }}`, the kubelet's own timer (Kubernetes 1.30), or no hook at all: the crate serves on after SIGTERM"),
        );
    }
    let told = variable(container, SLEPT).and_then(|var| var.at("value"));
    let told = told.and_then(|value| {
        value
            .text()
            .and_then(|text| text.parse().ok())
            .or(value.number())
    });
    if seconds > 0 && told != Some(seconds) {
        found.add(
            Rule::PS202,
            at,
            format!("the {seconds} s come out of the grace period before SIGTERM, and the process cannot see them: it plans with {grace} s when {} are left", grace - seconds),
            format!("add env {SLEPT}: \"{seconds}\", or call `.pre_stop_elapsed({seconds} s)`; or drop the hook, for the crate serves on after SIGTERM"),
        );
    }
}

/// The article's recipes.
fn command(container: &Node<'_>, hook: &Node<'_>, found: &mut Found) {
    let Some(command) = hook.under(&["exec", "command"]) else {
        return;
    };
    let line = words(Some(command)).join(" ");
    let waits = line.contains("while") || line.contains("until") || line.contains("wait");
    let tells = [
        "nginx -s quit",
        "nginx -s stop",
        "kill ",
        "kill\t",
        "pkill",
        "killall",
    ];
    if line.contains("-s quit") && line.contains("nginx") && !waits {
        found.add(
            Rule::PS204,
            command,
            "`nginx -s quit` only sends SIGQUIT and returns: the hook ends at once, and the SIGTERM that follows overrides the graceful quit with a fast one",
            "run nginx under `prestop run`, or set STOPSIGNAL SIGQUIT in the image and drop the hook",
        );
    } else if tells.iter().any(|tell| line.contains(tell)) && !waits {
        found.add(
            Rule::PS204,
            command,
            format!("the hook of container {} signals its program and returns: the kubelet sends the stop signal right after it", name_of(container)),
            "drop the hook: the kubelet sends SIGTERM itself; or wait for the program with `prestop stop --within`",
        );
    } else if waits && line.contains("while") && !line.contains("timeout ") {
        found.add(
            Rule::PS205,
            command,
            "the loop has no bound of its own, polls once a second, and dies with PID 1 (event FailedPreStopHook although all went well)",
            "use `prestop stop --signal TERM --within 25s`, or no hook",
        );
    }
}

/// The hook on the crate's own probe listener.
fn request(container: &Node<'_>, hook: &Node<'_>, found: &mut Found) {
    let Some(get) = hook.at("httpGet") else {
        return;
    };
    if get.at("path").and_then(Ask::text) != Some("/prestop") {
        return;
    }
    let headers = get.at("httpHeaders").map_or(&[][..], Ask::items);
    let has_token = headers.iter().any(|header| {
        let name = header.at("name").and_then(Ask::text);
        name.is_some_and(|name| name.eq_ignore_ascii_case("x-prestop-token"))
    });
    if !has_token {
        found.add(
            Rule::PS210,
            get,
            "/prestop without the header X-Prestop-Token is refused, and for the kubelet a refusal is a success: the stop begins only with SIGTERM",
            "add httpHeaders: [{ name: X-Prestop-Token, value: .. }]",
        );
    }
    let probes = ["readinessProbe", "livenessProbe", "startupProbe"];
    let mut probed = probes
        .iter()
        .filter_map(|probe| container.under(&[probe, "httpGet", "port"]));
    if let (Some(port), Some(probe)) = (get.at("port"), probed.next())
        && let (Some(hook), Some(probe)) =
            (port_number(container, port), port_number(container, probe))
        && hook != probe
    {
        found.add(
            Rule::PS209,
            port,
            format!("the hook asks port {hook}, the probes port {probe}: the crate answers both on its probe listener"),
            format!("use port {probe}"),
        );
    }
}

/// The hook over a Unix socket needs a directory that can be written to.
fn socket(spec: &Node<'_>, container: &Node<'_>, hook: &Node<'_>, found: &mut Found) {
    let exec = words(hook.under(&["exec", "command"]));
    let ours = match &exec[..] {
        [own, word, ..] if word == "prestop" => Some(own),
        [helper, word, ..] if word == "hook" && helper.ends_with("prestop") => Some(helper),
        _ => None,
    };
    let read_only = container.under(&["securityContext", "readOnlyRootFilesystem"]);
    let (Some(_), Some(read_only)) = (ours, read_only) else {
        return;
    };
    let mounts = container.at("volumeMounts").map_or(&[][..], Ask::items);
    let volumes = spec.at("volumes").map_or(&[][..], Ask::items);
    let writable = mounts.iter().any(|mount| {
        let name = mount.at("name").and_then(Ask::text);
        let empty = volumes
            .iter()
            .any(|v| v.at("name").and_then(Ask::text) == name && v.data_has("emptyDir"));
        empty && !mount.at("readOnly").is_some_and(Ask::is_true)
    });
    if read_only.is_true() && !writable {
        found.add(
            Rule::PS212,
            read_only,
            format!("the root of container {} is read-only and no emptyDir is mounted: the process cannot create the hook's socket", name_of(container)),
            "mount an emptyDir, and name the socket in it by env PRESTOP_SOCKET",
        );
    }
}

fn post_start(container: &Node<'_>, hook: &Node<'_>, found: &mut Found) {
    let exec = words(hook.under(&["exec", "command"]));
    let line = exec.join(" ");
    if exec.iter().any(|word| word.ends_with("prestop")) {
        return;
    }
    if ["migrate", "init", "wget ", "curl ", "chmod", "chown", "cp "]
        .iter()
        .any(|word| line.contains(word))
    {
        found.add(
            Rule::PS213,
            hook,
            format!("postStart of container {} runs beside its program, in no order: the program may have read what the hook was to write", name_of(container)),
            "do it in an init container, or in an `on_started` hook",
        );
    }
}

trait Has {
    /// Whether the key is there, with whatever value: `emptyDir:` alone is null.
    fn data_has(&self, key: &str) -> bool;
}

impl Has for Node<'_> {
    fn data_has(&self, key: &str) -> bool {
        self.keys().iter().any(|(name, _)| *name == key)
    }
}
