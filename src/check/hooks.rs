//! postStart and preStop.

use crate::budget;

use super::document::{Node, Place};
use super::finding::Found;
use super::object::{Container, Pod, number, wrong_type};
use super::rule::Rule;
use super::shell::{self, Command};

/// The kinds of handlers that a hook can have.
const HANDLERS: [&str; 4] = ["exec", "httpGet", "sleep", "tcpSocket"];

pub(super) fn check(pod: Pod<'_>, found: &mut Found) {
    let on_host = pod.spec.at("hostNetwork").is_some_and(Node::is_true);
    for container in pod.running() {
        found.container = container.name();
        for kind in ["postStart", "preStop"] {
            if let Some(hook) = container.hook(kind) {
                either(container, kind, hook, on_host, found);
            }
        }
        if let Some(hook) = container.hook("preStop") {
            command(container, hook, found);
            request(container, hook, found);
            socket(pod, container, hook, found);
        }
        sleeps(pod, container, found);
    }
    found.container = None;
}

/// What holds for both hooks.
fn either(container: Container<'_>, kind: &str, hook: Node<'_>, on_host: bool, found: &mut Found) {
    let handlers = HANDLERS
        .iter()
        .filter(|handler| hook.at(handler).is_some())
        .count();
    if let Some(tcp) = hook.at("tcpSocket") {
        found.add(
            Rule::PS206,
            tcp.place,
            format!("a tcpSocket in {kind} passes the API's validation and fails whenever it is called (R25)"),
            "use exec, httpGet or sleep",
        );
    } else if handlers != 1 {
        found.add(
            Rule::PS206,
            hook.place,
            format!("{kind} has {handlers} handlers, and must have exactly one: the API server refuses it"),
            "keep one of exec, httpGet and sleep",
        );
    }
    let command = hook.under(&["exec", "command"]);
    if let Some(command) = command.filter(|command| !command.is_list()) {
        wrong_type(command, "a list of words", found);
    }
    number(hook.under(&["sleep", "seconds"]), found);
    let Some(get) = hook.at("httpGet") else {
        return;
    };
    if on_host && get.at("host").is_none() {
        found.add(
            Rule::PS207,
            get.place,
            format!("{kind} goes to the pod's address, and a pod on the host's network has none of its own: the hook fails (kubernetes#134285)"),
            "set `host: 127.0.0.1`",
        );
    }
    if let Some(port) = get.at("port")
        && container.port(port).is_none()
    {
        found.add(
            Rule::PS208,
            port.place,
            format!(
                "the container declares no port of the name {:?}: {kind} fails",
                port.text().unwrap_or_default()
            ),
            "declare it under `ports`, or give the number",
        );
    }
    if get.text_at("scheme") == Some("HTTPS") {
        found.add(
            Rule::PS211,
            get.place,
            "the kubelet does not verify the certificate, and asks again without TLS, and without Authorization, when the answer is not TLS",
            "use HTTP on the probe listener, with the token",
        );
    }
}

/// What a hook takes out of the grace period by sleeping.
pub(super) struct Slept {
    pub(super) seconds: f64,
    place: Place,
    by_command: bool,
}

/// None where the hook does not sleep, or it cannot be seen how long.
pub(super) fn slept(hook: Node<'_>) -> Option<Slept> {
    if let Some(seconds) = hook.under(&["sleep", "seconds"]) {
        return Some(Slept {
            seconds: seconds.text()?.parse().ok()?,
            place: seconds.place,
            by_command: false,
        });
    }
    let command = hook.under(&["exec", "command"])?;
    let commands = commands(command);
    if commands
        .iter()
        .any(|c| ["while", "until", "for"].contains(&c.name()))
    {
        return None;
    }
    let slept = commands.iter().filter(|c| c.name() == "sleep");
    let lengths = slept.map(|c| c.words.get(1).and_then(|word| length(word)));
    let lengths: Option<Vec<f64>> = lengths.collect();
    let seconds: f64 = lengths?.iter().sum();
    (seconds > 0.0).then_some(Slept {
        seconds,
        place: command.place,
        by_command: true,
    })
}

/// `5`, `0.5`, `5s`, `2m`.
fn length(word: &str) -> Option<f64> {
    let minutes = word.strip_suffix('m').map(|number| (number, 60.0));
    let (number, unit) = minutes.unwrap_or((word.strip_suffix('s').unwrap_or(word), 1.0));
    let length: f64 = number.parse().ok()?;
    (length >= 0.0 && length.is_finite()).then_some(length * unit)
}

/// The commands that an exec hook runs.
fn commands(command: Node<'_>) -> Vec<Command> {
    let words: Vec<&str> = command.items().filter_map(Node::text).collect();
    match shell::script(&words) {
        Some((_, script)) => shell::commands(script),
        None => vec![Command {
            words: words.into_iter().map(str::to_owned).collect(),
            ..Command::default()
        }],
    }
}

/// Whether the hook tells the crate's own process, which then knows the clock.
fn is_ours(hook: Node<'_>) -> bool {
    let exec = hook
        .under(&["exec", "command"])
        .map(commands)
        .unwrap_or_default();
    let by_command = exec.iter().any(|command| {
        command.name() == "prestop" && command.words.get(1).is_some_and(|w| w == "hook")
            || command.words.get(1).is_some_and(|w| w == "prestop")
    });
    by_command || hook.under(&["httpGet", "path"]).and_then(Node::text) == Some("/prestop")
}

fn sleeps(pod: Pod<'_>, container: Container<'_>, found: &mut Found) {
    let Some(grace) = pod.grace() else { return };
    let hook = container.hook("preStop");
    let slept = hook.and_then(slept);
    #[allow(clippy::cast_precision_loss)] // More than a few million seconds are no grace period.
    let left = grace as f64 - slept.as_ref().map_or(0.0, |slept| slept.seconds);
    if let Some(slept) = &slept {
        let seconds = slept.seconds;
        if left <= 2.0 {
            found.add(
                Rule::PS201,
                slept.place,
                format!("the hook sleeps {seconds} s of a grace period of {grace} s: SIGTERM comes with 2 s left or less, and nothing can drain"),
                format!("sleep at most a third of it, or raise terminationGracePeriodSeconds to {:.0}", seconds + 30.0),
            );
            return;
        }
        if slept.by_command && container.speaks_prestop() {
            found.add(
                Rule::PS203,
                slept.place,
                "a command that sleeps needs the program `sleep`, and often a shell, in the image; without them the hook fails and SIGTERM comes at once",
                format!("use `sleep: {{ seconds: {seconds:.0} }}`, the kubelet's own timer (Kubernetes 1.30), or no hook at all: the crate serves on after SIGTERM"),
            );
        }
    }
    // A hook that calls the process has told it more than a variable could.
    if !container.speaks_prestop() || hook.is_some_and(is_ours) {
        return;
    }
    let name = budget::SLEEP_VARIABLE;
    let seconds = slept.as_ref().map_or(0.0, |slept| slept.seconds);
    let literal = container.literal(name);
    let told = literal.and_then(|value| budget::sleep_from(value.text()?));
    if literal.is_none() && (container.may_have(name) || seconds == 0.0) {
        return;
    }
    if hook.is_some() && slept.is_none() && told.is_some() {
        // A command that takes some time: how long cannot be seen here.
        return;
    }
    if told.is_none_or(|told| (told.as_secs_f64() - seconds).abs() >= 1.0) {
        let at = literal
            .map(|value| value.place)
            .or(slept.as_ref().map(|slept| slept.place));
        let says = match literal.and_then(Node::text) {
            Some(text) => format!("{name} says {text:?}"),
            None => "nothing tells the process, which cannot see the hook".to_owned(),
        };
        found.add(
            Rule::PS202,
            at.unwrap_or(container.0.place),
            format!("the preStop hook takes {seconds} s out of the grace period before SIGTERM, and {says}: it plans with a clock that is wrong by the difference"),
            match slept {
                Some(_) => format!("add env {name}: \"{seconds:.0}\", or call `.pre_stop_elapsed(..)`; or drop the hook, for the crate serves on after SIGTERM"),
                None => format!("remove {name}: there is no hook that sleeps"),
            },
        );
    }
}

/// Signals that tell a program something and end none that expects them; `-0` and `-l` send none at all.
const TELLS: [&str; 9] = ["USR1", "USR2", "HUP", "CONT", "1", "10", "12", "0", "l"];

/// What `kill` and its like send: `-USR1`, `-SIGUSR1`, `-10`, `-s USR1`.
fn signal(kill: &Command) -> Option<&str> {
    let mut words = kill.words.iter().skip(1).map(String::as_str);
    let signal = loop {
        match words.next()? {
            "-s" | "--signal" => break words.next()?,
            "-l" => break "l",
            word => match word.strip_prefix('-') {
                Some(signal)
                    if signal
                        .starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase()) =>
                {
                    break signal;
                }
                _ => {}
            },
        }
    };
    Some(signal.strip_prefix("SIG").unwrap_or(signal))
}

/// The recipes that are passed on, and what is wrong with them.
fn command(container: Container<'_>, hook: Node<'_>, found: &mut Found) {
    let Some(command) = hook.under(&["exec", "command"]) else {
        return;
    };
    let commands = commands(command);
    let stop_signal = container.0.under(&["lifecycle", "stopSignal"]);
    let quits_anyway = stop_signal.and_then(Node::text) == Some("SIGQUIT");
    let is_told = |c: &Command| {
        let quits = c
            .words
            .iter()
            .any(|word| ["quit", "stop"].contains(&word.as_str()));
        let asks = signal(c).is_some_and(|signal| TELLS.contains(&signal));
        let spared = quits_anyway && c.words.iter().any(|word| word == "quit");
        ["nginx", "openresty"].contains(&c.name()) && quits && !spared
            || ["kill", "pkill", "killall"].contains(&c.name()) && !asks
    };
    let waits = |c: &Command| {
        let by_pid = c.name() == "tail" && c.words.iter().any(|word| word.starts_with("--pid"));
        by_pid || ["while", "until", "for", "wait", "sleep"].contains(&c.name())
    };
    let Some(told) = commands.iter().position(is_told) else {
        return;
    };
    let after = &commands[told + 1..];
    if !after.iter().any(waits) {
        let with = commands[told].words.join(" ");
        found.add(
            Rule::PS204,
            command.place,
            format!("`{with}` asks the program to stop and returns: the hook ends at once, and the stop signal follows while the program still works: where it is another one (nginx: SIGTERM is the fast stop, unless the image has STOPSIGNAL SIGQUIT) it cuts what was to finish"),
            "drop the hook and set STOPSIGNAL in the image; or wait for the program: `prestop stop --name nginx --signal QUIT --within 25s`, or run it under `prestop run`",
        );
        return;
    }
    let bounded = commands.iter().any(|c| c.name() == "timeout")
        || after
            .iter()
            .any(|c| c.name() == "for" || c.name() == "[" || c.name() == "test");
    if after.iter().any(|c| ["while", "until"].contains(&c.name())) && !bounded {
        found.add(
            Rule::PS205,
            command.place,
            "the loop has no bound of its own, polls once a second, and dies with PID 1 (event FailedPreStopHook although all went well)",
            "use `prestop stop --name PROGRAM --within 25s`, or no hook",
        );
    }
}

/// The hook on the crate's own probe listener.
fn request(container: Container<'_>, hook: Node<'_>, found: &mut Found) {
    let Some(get) = hook
        .at("httpGet")
        .filter(|get| get.text_at("path") == Some("/prestop"))
    else {
        return;
    };
    let has_token = get.list("httpHeaders").any(|header| {
        let name = header.text_at("name");
        name.is_some_and(|name| name.eq_ignore_ascii_case("x-prestop-token"))
    });
    if !has_token {
        found.add(
            Rule::PS210,
            get.place,
            "/prestop without the header X-Prestop-Token is refused, and for the kubelet a refusal is a success: the stop begins only with SIGTERM",
            "add httpHeaders: [{ name: X-Prestop-Token, value: .. }]",
        );
    }
    let probes = ["readinessProbe", "livenessProbe", "startupProbe"];
    let mut probed = probes
        .iter()
        .filter_map(|probe| container.0.under(&[probe, "httpGet"]))
        .filter(|get| {
            matches!(
                get.text_at("path"),
                Some("/readyz" | "/livez" | "/startupz")
            )
        })
        .filter_map(|get| get.at("port"));
    if let (Some(port), Some(probe)) = (get.at("port"), probed.next())
        && let (Some(hook), Some(probe)) = (container.port(port), container.port(probe))
        && hook != probe
    {
        found.add(
            Rule::PS209,
            port.place,
            format!("the hook asks port {hook}, the probes port {probe}: the crate answers both on its probe listener"),
            format!("use port {probe}"),
        );
    }
}

/// The hook over a Unix socket needs a directory that can be written to.
fn socket(pod: Pod<'_>, container: Container<'_>, hook: Node<'_>, found: &mut Found) {
    let read_only = container
        .0
        .under(&["securityContext", "readOnlyRootFilesystem"]);
    let Some(read_only) = read_only.filter(|said| said.is_true()) else {
        return;
    };
    if hook.at("exec").is_none() || !is_ours(hook) {
        return;
    }
    let cannot = |volume: Node<'_>| {
        let kinds = ["configMap", "secret", "projected", "downwardAPI"];
        volume.entries().any(|(key, _)| kinds.contains(&key))
    };
    let volume = |name: Option<&str>| pod.spec.list("volumes").find(|v| v.text_at("name") == name);
    let writable: Vec<&str> = container
        .0
        .list("volumeMounts")
        .filter(|mount| !mount.at("readOnly").is_some_and(Node::is_true))
        .filter(|mount| !volume(mount.text_at("name")).is_some_and(cannot))
        .filter_map(|mount| mount.text_at("mountPath"))
        .collect();
    // As `HookSocket::from_env` looks for it.
    let own = container.literal("PRESTOP_SOCKET").and_then(Node::text);
    let runtime = container.literal("XDG_RUNTIME_DIR").and_then(Node::text);
    let temporary = container
        .literal("TMPDIR")
        .and_then(Node::text)
        .unwrap_or("/tmp");
    let places = match own {
        Some(own) => vec![own],
        None => vec![runtime.unwrap_or("/run"), "/run/prestop", "/run", temporary],
    };
    let lies_in = |place: &str, mount: &str| {
        let mount = mount.trim_end_matches('/');
        place
            .strip_prefix(mount)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let from_elsewhere =
        own.is_none() && container.may_have("PRESTOP_SOCKET") && container.is_whole();
    if from_elsewhere
        || places
            .iter()
            .any(|p| writable.iter().any(|m| lies_in(p, m)))
    {
        return;
    }
    found.add(
        Rule::PS212,
        read_only.place,
        format!("the root file system is read-only and nothing that can be written to is mounted at {}: the process cannot create the hook's socket", places.last().unwrap_or(&"/run")),
        "mount an emptyDir at /run/prestop, or where PRESTOP_SOCKET says",
    );
}
