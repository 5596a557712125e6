//! A replica as a pod: the manifest, by which the kubelet of `prestop::kubelet` stops it, and the program in it.

use std::path::PathBuf;
use std::time::Duration;

use prestop::HookSocket;
use prestop::kubelet::{Pod, Program};

use crate::cli::{Hook, Strategy};
use crate::fleet::{Surroundings, TTL};

/// The name of its container.
pub const CONTAINER: &str = "demo";

/// What manifests usually sleep.
pub const SLEEP: Duration = Duration::from_secs(5);

/// The token of the `httpGet` hook.
pub const TOKEN: &str = "rolling-update-0123456789";

/// Its ports in the manifest; here each replica has its own.
pub const HTTP: u16 = 8080;
pub const GRPC: u16 = 50051;
const PROBES: u16 = 9090;

/// What a Deployment has under `template`, with this hook under `preStop`.
///
/// # Errors
///
/// When the manifest does not say what it should.
pub fn pod(hook: Hook) -> Result<Pod, String> {
    let lifecycle = match hook {
        Hook::None => String::new(),
        Hook::ExecOwn => "preStop: { exec: { command: [/app, prestop] } }".to_owned(),
        Hook::ExecHelper => "preStop: { exec: { command: [/prestop, hook] } }".to_owned(),
        Hook::Http => format!(
            "preStop: {{ httpGet: {{ path: /prestop, port: probes,
                 httpHeaders: [{{ name: X-Prestop-Token, value: {TOKEN} }}] }} }}"
        ),
        Hook::Sleep => format!("preStop: {{ sleep: {{ seconds: {} }} }}", SLEEP.as_secs()),
    };
    // With the grace period at its Kubernetes default.
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: demo }}
spec:
  terminationGracePeriodSeconds: 30
  containers:
    - name: {CONTAINER}
      env:
        - {{ name: TERMINATION_GRACE_PERIOD_SECONDS, value: \"30\" }}
      ports:
        - {{ name: http, containerPort: {HTTP} }}
        - {{ name: grpc, containerPort: {GRPC} }}
        - {{ name: probes, containerPort: {PROBES} }}
      readinessProbe:
        httpGet: {{ path: /readyz, port: http }}
        timeoutSeconds: 2
      lifecycle: {{ {lifecycle} }}
"
    );
    Pod::from_yaml(&manifest).map_err(|error| format!("the replicas' manifest: {error}"))
}

/// What runs in it: this program, in its other role.
///
/// # Errors
///
/// When a file that its hook needs is not there.
pub fn program(id: &str, around: Surroundings, socket: PathBuf) -> Result<Program, String> {
    let own = own_binary()?;
    let (strategy, hook) = match around.strategy {
        Strategy::Hooked(hook) => (Strategy::Prestop, hook),
        other => (other, Hook::None),
    };
    let mut program = Program::new(&own)
        .file("/app", &own)
        .arg("replica")
        // Where it listens is the first thing that it says.
        .port_from_output(HTTP, |line| said(line, 0))
        .port_from_output(GRPC, |line| said(line, 1))
        .port_from_output(PROBES, |line| said(line, 2))
        // It ends with the harness, however that ends; Ctrl-C in a terminal goes to the harness alone.
        .hold_stdin()
        .own_group()
        // What every container in a cluster has; prestop takes its defaults for Kubernetes from it.
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env(HookSocket::VARIABLE, socket);
    if hook == Hook::ExecHelper {
        program = program.file("/prestop", helper()?);
    }
    if strategy == Strategy::Kill {
        const SIGKILL: i32 = 9;
        program = program.stop_signal(SIGKILL);
    }
    let mut args = vec![
        ("--strategy", strategy.name().to_owned()),
        ("--hook", hook.name().to_owned()),
        ("--registry", around.registry.to_string()),
        ("--registry-kind", around.kind.name().to_owned()),
        ("--id", id.to_owned()),
        ("--ttl-ms", TTL.as_millis().to_string()),
        ("--visibility-ms", around.visibility.as_millis().to_string()),
    ];
    if let Some(linger) = around.linger_ms {
        args.push(("--linger-ms", linger.to_string()));
    }
    for (name, value) in args {
        program = program.arg(name).arg(value);
    }
    Ok(program)
}

/// One of the ports in `listening ADDRESS ADDRESS [ADDRESS]`.
fn said(line: &str, which: usize) -> Option<u16> {
    let mut addresses = line.strip_prefix("listening ")?.split(' ');
    let (_, port) = addresses.nth(which)?.rsplit_once(':')?;
    port.parse().ok()
}

fn own_binary() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("looking for this program: {error}"))
}

/// The helper binary, beside the directory of the examples.
///
/// # Errors
///
/// When it was not built.
pub fn helper() -> Result<PathBuf, String> {
    let own = own_binary()?;
    let helper = own.ancestors().nth(2).unwrap_or(&own).join("prestop");
    if helper.is_file() {
        Ok(helper)
    } else {
        Err(format!(
            "{} is missing: build it with `cargo build --release --features cli --bin prestop` (without --release for a debug build)",
            helper.display()
        ))
    }
}
