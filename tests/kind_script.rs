//! `examples/kind/run.sh` where there is no cluster: its own logic, with programs in the place of docker, kind and kubectl
//! that write down how they were called and answer as the real ones do.
#![cfg(all(unix, not(loom)))]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the script needs of a system besides the three.
const TOOLS: &[&str] = &[
    "bash", "cat", "dirname", "env", "grep", "mktemp", "rm", "sed", "seq",
];

/// A PATH of its own.
struct Bench(PathBuf);

impl Bench {
    /// With these programs: a name, and what it does after it was written down.
    fn new(name: &str, programs: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("prestop-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("tmp")).expect("the temporary directory is writable");
        for tool in TOOLS {
            let path = std::env::var("PATH").expect("a PATH");
            let found = path.split(':').map(|dir| Path::new(dir).join(tool));
            let found = found.into_iter().find(|file| file.exists());
            symlink(found.expect(tool), dir.join(tool)).expect("a link");
        }
        for (program, does) in programs {
            let file = dir.join(program);
            let text = format!("#!/usr/bin/env bash\necho \"{program} $*\" >>\"$CALLS\"\n{does}\n");
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("ours");
        }
        Self(dir)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new("examples/kind/run.sh")
            .args(args)
            .env_clear()
            .env("PATH", &self.0)
            .env("CALLS", self.0.join("calls"))
            .env("TMPDIR", self.0.join("tmp"))
            .output()
            .expect("it starts")
    }

    /// How the programs were called, in order.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn left_behind(&self) -> usize {
        fs::read_dir(self.0.join("tmp")).expect("ours").count()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A kubectl whose load ends with this last line, and whose Job is over once it has been looked at before.
fn kubectl(last_line: &str) -> String {
    format!(
        r#"case "$*" in
  "get job load"*) [ ! -e "$CALLS.looked" ] || echo 1; : >"$CALLS.looked" ;;
  "logs job/load") echo "{last_line}" ;;
  "get events"*) ;;
esac"#
    )
}

fn bench(name: &str, last_line: &str) -> Bench {
    let kubectl = kubectl(last_line);
    let programs = [
        ("docker", ""),
        ("kind", ""),
        ("kubectl", &*kubectl),
        ("sleep", ""),
    ];
    Bench::new(name, &programs)
}

#[test]
fn it_names_the_tool_that_is_missing_and_what_can_be_had_without() {
    for missing in ["docker", "kind", "kubectl"] {
        let all = ["docker", "kind", "kubectl"].map(|tool| (tool, ""));
        let there: Vec<_> = all
            .into_iter()
            .filter(|(tool, _)| *tool != missing)
            .collect();
        let bench = Bench::new(&format!("missing-{missing}"), &there);
        let ended = bench.run(&[]);
        let said = text(&ended);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(
            said.starts_with(&format!("{missing} is not installed")),
            "{said}"
        );
        assert!(said.contains(".ci/image"), "{said}");
        assert!(bench.calls().is_empty(), "nothing was tried");
    }
}

#[test]
fn it_says_when_docker_does_not_answer() {
    let programs = [("docker", "exit 1"), ("kind", ""), ("kubectl", "")];
    let bench = Bench::new("no-docker", &programs);
    let ended = bench.run(&[]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        text(&ended).contains("docker does not answer"),
        "{}",
        text(&ended)
    );
    assert_eq!(bench.calls(), ["docker info"]);
}

#[test]
fn it_rolls_out_under_load_and_ends_by_what_the_load_saw() {
    let bench = bench("clean", "failed requests: 0 of 4321");
    let ended = bench.run(&[]);
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("== failed requests: 0\n"), "{said}");
    let calls = bench.calls();
    let place = |call: &str| {
        let found = calls.iter().position(|made| made.starts_with(call));
        found.unwrap_or_else(|| panic!("no {call:?} in {calls:#?}"))
    };
    let order = [
        "docker build",
        "kind create cluster --name prestop",
        "kind load docker-image prestop-kind:1 --name prestop",
        "kubectl apply -f examples/kind/deployment.yaml",
        "kubectl rollout status",
        "kubectl apply -f examples/kind/load-job.yaml",
        "kubectl get job load",
        "kubectl logs job/load",
        "kind delete cluster --name prestop",
    ]
    .map(place);
    assert!(order.is_sorted(), "{calls:#?}");
    // Three of them while the load ran, which was looked at right after.
    let during = &calls[order[5]..order[6]];
    let restarts = during
        .iter()
        .filter(|call| call.contains("rollout restart"));
    assert_eq!(restarts.count(), 3, "{calls:#?}");
    assert_eq!(bench.left_behind(), 0, "its kubeconfig is gone");
}

#[test]
fn a_failed_request_is_exit_code_1_and_a_load_without_a_last_line_2() {
    for (name, last_line, code, part) in [
        (
            "lossy",
            "failed requests: 3 of 4321",
            1,
            "== failed requests: 3\n",
        ),
        ("mute", "", 2, "without its last line"),
    ] {
        let bench = bench(name, last_line);
        let ended = bench.run(&[]);
        let said = text(&ended);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(part), "{said}");
        let last = bench.calls().pop().expect("a call");
        assert!(last.starts_with("kind delete cluster"), "{last}");
    }
}

#[test]
fn a_pre_stop_hook_that_failed_is_shown() {
    let kubectl = kubectl("failed requests: 0 of 4321").replace(
        "\"get events\"*) ;;",
        "\"get events\"*) echo event/orders-1 ;;",
    );
    let programs = [
        ("docker", ""),
        ("kind", ""),
        ("kubectl", &*kubectl),
        ("sleep", ""),
    ];
    let ended = Bench::new("hook", &programs).run(&[]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
    assert!(text(&ended).contains("event/orders-1"), "{}", text(&ended));
}

const BUILD: &str = "docker build --file examples/kind/Dockerfile --tag prestop-kind:1 .";

#[test]
fn what_cannot_be_tried_is_exit_code_2_and_the_cluster_goes() {
    let programs = [
        (
            "docker",
            "[ \"$1\" != build ] || { echo 'no space left on device' >&2; exit 1; }",
        ),
        ("kind", ""),
        ("kubectl", ""),
    ];
    let bench = Bench::new("build", &programs);
    let ended = bench.run(&[]);
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("no space left on device"), "{said}");
    // A cluster that an earlier run has kept is not its business yet.
    assert_eq!(bench.calls().last().map(String::as_str), Some(BUILD));

    let programs = [("docker", ""), ("kind", ""), ("kubectl", "exit 1")];
    let bench = Bench::new("apply", &programs);
    let ended = bench.run(&[]);
    assert_eq!(ended.status.code(), Some(2), "{}", text(&ended));
    let last = bench.calls().pop().expect("a call");
    assert!(last.starts_with("kind delete cluster"), "{last}");
}

#[test]
fn keep_keeps_the_cluster_and_uses_the_one_that_is_there() {
    let kubectl = kubectl("failed requests: 0 of 4321");
    let programs = [
        ("docker", ""),
        (
            "kind",
            "[ \"$*\" != 'get clusters' ] || printf 'other\\nprestop\\n'",
        ),
        ("kubectl", &*kubectl),
        ("sleep", ""),
    ];
    let bench = Bench::new("keep", &programs);
    let ended = bench.run(&["--keep"]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
    assert!(text(&ended).contains("run.sh --delete"), "{}", text(&ended));
    let calls = bench.calls();
    assert!(
        !calls.iter().any(|call| call.contains("delete cluster")),
        "{calls:#?}"
    );
    assert!(
        !calls.iter().any(|call| call.contains("create cluster")),
        "{calls:#?}"
    );
}

#[test]
fn delete_does_nothing_else_and_other_arguments_are_refused() {
    let bench = bench("delete", "");
    let ended = bench.run(&["--delete"]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
    assert_eq!(
        bench.calls(),
        ["docker info", "kind delete cluster --name prestop"]
    );
    let ended = bench.run(&["--purge"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(text(&ended).contains("--purge"), "{}", text(&ended));
}
