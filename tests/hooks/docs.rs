//! What `docs/hooks.md` says is so: its manifests are manifests, and each failure prints what its table says.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use rustix::process::Signal;
use serde_json::Value;

use crate::process::*;
use crate::trust::{is_root, listener_of_another_user};

const DOC: &str = include_str!("../../src/docs/hooks.md");

/// The pods of the page, read as the API server reads them; what it does not know is lost on the way and missed here.
#[test]
fn every_manifest_is_one() {
    let pods: Vec<PodTemplateSpec> = DOC
        .split("```yaml\n")
        .skip(1)
        .map(|rest| {
            let yaml = rest.split("```").next().unwrap();
            let given: Value = serde_yaml_ng::from_str(yaml).unwrap();
            let pod: PodTemplateSpec = serde_json::from_value(given.clone()).unwrap();
            assert_eq!(serde_json::to_value(&pod).unwrap(), given, "lost: {yaml}");
            pod
        })
        .collect();
    assert_eq!(pods.len(), 5);
    for pod in pods {
        let spec = pod.spec.unwrap();
        let container = &spec.containers[0];
        let hook = container
            .lifecycle
            .as_ref()
            .unwrap()
            .pre_stop
            .as_ref()
            .unwrap();
        if let Some(get) = &hook.http_get {
            let host = (spec.host_network == Some(true)).then_some("127.0.0.1");
            assert_eq!(get.host.as_deref(), host);
            assert_eq!(get.path.as_deref(), Some("/prestop"));
            let header = &get.http_headers.as_ref().unwrap()[0];
            assert_eq!(header.name, "X-Prestop-Token");
            prestop::HookToken::new(header.value.as_str()).unwrap();
            for env in container.env.iter().flatten() {
                assert_eq!(env.value.as_ref(), Some(&header.value));
            }
        }
        for mount in container.volume_mounts.iter().flatten() {
            let volumes = spec.volumes.as_ref().unwrap();
            assert!(volumes.iter().any(|volume| volume.name == mount.name));
            assert_eq!(mount.mount_path, "/run/prestop");
        }
    }
}

/// Exit code and text of each row.
fn table() -> Vec<(i32, String)> {
    let rows = DOC.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let code = cells.next()?.parse().ok()?;
        let text = cells.last()?.trim_end_matches(" |").trim_matches('`');
        Some((code, text.to_owned()))
    });
    rows.collect()
}

/// Without what differs from run to run.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    for c in text.chars() {
        if !c.is_ascii_digit() {
            shape.push(c);
        } else if !shape.ends_with('#') {
            shape.push('#');
        }
    }
    shape
}

fn private(socket: &Path) {
    let dir = socket.parent().unwrap();
    DirBuilder::new().mode(0o700).create(dir).unwrap();
}

/// Each row, made to happen.
fn row(number: usize, socket: &Path) -> Option<Ended> {
    let service = |scene| {
        let mut service = Running::service(scene, socket);
        service.says(if scene == "fails to start" {
            "starting"
        } else {
            "ready"
        });
        service
    };
    let started = |seconds| Running::spawn(&mut helper(socket, ["started", "--timeout", seconds]));
    Some(match number {
        0 => Running::spawn(&mut own_binary(socket, &["prestop", "stop"])).ended(),
        1 => {
            private(socket);
            hook(socket).ended()
        }
        2 => {
            private(socket);
            drop(UnixListener::bind(socket).unwrap());
            hook(socket).ended()
        }
        3 => {
            private(socket);
            started("1").ended()
        }
        4 => {
            let mut service = service("fails to start");
            let started = started("60");
            std::thread::park_timeout(std::time::Duration::from_secs(1));
            drop(service.go_on());
            started.ended()
        }
        5 => {
            let mut service = service("dies when it is called");
            let hook = hook(socket);
            service.says("lame_duck");
            drop(service.go_on());
            hook.ended()
        }
        6 => {
            let service = service("serves");
            service.send(Signal::STOP);
            hook(socket).ended()
        }
        7 => {
            private(socket);
            set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
            hook(socket).ended()
        }
        8 => {
            if !is_root() {
                return None;
            }
            private(socket);
            let _listener = listener_of_another_user(socket);
            hook(socket).ended()
        }
        _ => panic!("row {number} is tried by nobody"),
    })
}

#[test]
fn every_row_of_the_table_happens_so() {
    let table = table();
    assert_eq!(table.len(), 9);
    for (number, (code, text)) in table.iter().enumerate() {
        let scratch = Scratch::new();
        let socket = scratch.socket();
        let Some(ended) = row(number, &socket) else {
            continue;
        };
        assert_eq!(ended.code, Some(*code), "{text}: {ended:?}");
        let said = ended
            .stderr
            .replace(socket.to_str().unwrap(), "PATH")
            .replace(socket.parent().unwrap().to_str().unwrap(), "DIRECTORY");
        assert!(
            shape(&said).contains(&shape(text)),
            "row {number}:\n{text}\n{said}"
        );
    }
}
