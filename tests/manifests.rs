//! The manifests of `examples/kind` and of the guide, read as the API server reads them (`kubectl apply` with strict
//! field validation), and held against the code, the Dockerfile and the script that they go with.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::fs;

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, HTTPGetAction, LifecycleHandler, Namespace, Pod, PodSpec,
    Probe, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use prestop::{GracePeriod, ShutdownCoordinator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const KIND: &str = "examples/kind";
const DOCKERFILE: &str = include_str!("../examples/kind/Dockerfile");
const RUN: &str = include_str!("../examples/kind/run.sh");

fn file(name: &str) -> String {
    let path = format!("{KIND}/{name}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Reads one document as a type of the Kubernetes API. A field that the API does not know is an error, as it is for
/// `kubectl apply`: serde drops it, so it is missing when what was read is written again.
fn strict<T: Resource + DeserializeOwned + Serialize>(yaml: &str) -> Result<T, String> {
    let given: Value = serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())?;
    let header = [given["apiVersion"].as_str(), given["kind"].as_str()];
    if header != [Some(T::API_VERSION), Some(T::KIND)] {
        return Err(format!("{header:?} is not {} {}", T::API_VERSION, T::KIND));
    }
    let read: T = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    let mut lost = Vec::new();
    compare("", &given, &written, &mut lost);
    if lost.is_empty() {
        Ok(read)
    } else {
        Err(format!("unknown or misspelt: {}", lost.join(", ")))
    }
}

/// Every path of `given` that `written` does not have with the same value.
fn compare(path: &str, given: &Value, written: &Value, lost: &mut Vec<String>) {
    match (given, written) {
        (Value::Object(given), Value::Object(written)) => {
            for (key, value) in given {
                let path = format!("{path}.{key}");
                match written.get(key) {
                    Some(written) => compare(&path, value, written, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(written)) if given.len() == written.len() => {
            for (at, (given, written)) in given.iter().zip(written).enumerate() {
                compare(&format!("{path}[{at}]"), given, written, lost);
            }
        }
        (given, written) if given == written => {}
        (given, written) => lost.push(format!("{path} ({given}, read as {written})")),
    }
}

/// One document of a file, whatever of the known kinds it is.
fn of_any_kind(yaml: &str) -> Result<String, String> {
    let given: Value = serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())?;
    let kind = given["kind"].as_str().unwrap_or_default().to_owned();
    match &*kind {
        "Deployment" => strict::<Deployment>(yaml).map(drop)?,
        "StatefulSet" => strict::<StatefulSet>(yaml).map(drop)?,
        "DaemonSet" => strict::<DaemonSet>(yaml).map(drop)?,
        "Service" => strict::<Service>(yaml).map(drop)?,
        "PodDisruptionBudget" => strict::<PodDisruptionBudget>(yaml).map(drop)?,
        "Job" => strict::<Job>(yaml).map(drop)?,
        "CronJob" => strict::<CronJob>(yaml).map(drop)?,
        "ReplicaSet" => strict::<ReplicaSet>(yaml).map(drop)?,
        "Pod" => strict::<Pod>(yaml).map(drop)?,
        "ConfigMap" => strict::<ConfigMap>(yaml).map(drop)?,
        "ServiceAccount" => strict::<ServiceAccount>(yaml).map(drop)?,
        "HorizontalPodAutoscaler" => strict::<HorizontalPodAutoscaler>(yaml).map(drop)?,
        "Namespace" => strict::<Namespace>(yaml).map(drop)?,
        "Role" => strict::<Role>(yaml).map(drop)?,
        "RoleBinding" => strict::<RoleBinding>(yaml).map(drop)?,
        _ => return Err(format!("kind {kind:?} is checked by nobody")),
    }
    Ok(kind)
}

fn deployment() -> Deployment {
    strict(&file("deployment.yaml")).expect("deployment.yaml")
}

fn service() -> Service {
    strict(&file("service.yaml")).expect("service.yaml")
}

fn load_job() -> Job {
    strict(&file("load-job.yaml")).expect("load-job.yaml")
}

fn pod(deployment: &Deployment) -> &PodSpec {
    let spec = deployment.spec.as_ref().expect("a spec");
    spec.template.spec.as_ref().expect("a pod")
}

fn job_pod(job: &Job) -> &PodSpec {
    let spec = job.spec.as_ref().expect("a spec");
    spec.template.spec.as_ref().expect("a pod")
}

fn container(pod: &PodSpec) -> &Container {
    let [container] = &pod.containers[..] else {
        panic!("one container is expected");
    };
    container
}

fn ports(container: &Container) -> BTreeMap<String, i32> {
    let name = |port: &ContainerPort| (port.name.clone().expect("a name"), port.container_port);
    container.ports.iter().flatten().map(name).collect()
}

fn env<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut all = container.env.iter().flatten();
    all.find(|env| env.name == name)?.value.as_deref()
}

fn command(handler: Option<&LifecycleHandler>) -> &[String] {
    let exec = handler.and_then(|handler| handler.exec.as_ref());
    exec.and_then(|exec| exec.command.as_deref())
        .expect("a hook of the kind exec")
}

fn get(probe: Option<&Probe>) -> &HTTPGetAction {
    probe
        .and_then(|probe| probe.http_get.as_ref())
        .expect("a probe of the kind httpGet")
}

/// The word after an instruction of the Dockerfile's last stage.
fn instruction(name: &str) -> &'static str {
    let last = DOCKERFILE.rsplit("\nFROM ").next().expect("a stage");
    let mut lines = last.lines().filter_map(|line| line.strip_prefix(name));
    let word = lines.next().expect("the instruction is there").trim();
    assert_eq!(lines.next(), None, "{name} twice");
    word
}

#[test]
fn every_file_is_what_the_api_takes() {
    let mut kinds = Vec::new();
    for entry in fs::read_dir(KIND).expect("the example is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let yaml = fs::read_to_string(&path).expect("readable");
            for document in yaml.split("\n---\n") {
                let kind = of_any_kind(document);
                kinds.push(kind.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            }
        }
    }
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "Deployment",
            "Job",
            "PodDisruptionBudget",
            "Role",
            "RoleBinding",
            "Service",
            "ServiceAccount"
        ]
    );
}

#[test]
fn the_own_pod_may_be_read_and_nothing_else() {
    let yaml = file("own-pod.yaml");
    let [account, role, binding] = yaml.split("\n---\n").collect::<Vec<_>>()[..] else {
        panic!("three documents are expected");
    };
    let account: ServiceAccount = strict(account).expect("an account");
    let role: Role = strict(role).expect("a role");
    let binding: RoleBinding = strict(binding).expect("a binding");

    let [rule] = &role.rules.expect("rules")[..] else {
        panic!("one rule is expected");
    };
    assert_eq!(rule.api_groups.as_deref(), Some(&[String::new()][..]));
    assert_eq!(rule.resources.as_deref(), Some(&["pods".to_owned()][..]));
    assert_eq!(rule.verbs, ["get"]);
    assert_eq!(
        (binding.role_ref.kind.as_str(), Some(binding.role_ref.name)),
        ("Role", role.metadata.name)
    );
    let [subject] = &binding.subjects.expect("subjects")[..] else {
        panic!("one subject is expected");
    };
    assert_eq!(subject.kind, "ServiceAccount");
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());

    // The guide shows the same, and the warning names the file.
    let guide = include_str!("../src/docs/kubernetes.md");
    let documents = yaml
        .split_once("\napiVersion")
        .expect("below the comment")
        .1;
    assert!(
        guide.contains(documents.trim_end()),
        "the guide shows another one"
    );
    let warning = include_str!("../src/kubernetes/api.rs");
    assert!(warning.contains("examples/kind/own-pod.yaml"));
    // Its pod is that account's, and says who it is.
    let pod = guide
        .split("```yaml\n")
        .find(|block| block.starts_with("serviceAccountName"));
    let pod = pod.expect("the pod is shown").split("\n```").next();
    let pod: Value = serde_yaml_ng::from_str(pod.expect("a block")).expect("YAML");
    assert_eq!(
        pod["serviceAccountName"].as_str(),
        account.metadata.name.as_deref()
    );
    let env = pod["containers"][0]["env"]
        .as_array()
        .expect("an environment");
    for (name, path) in [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
    ] {
        let mut all = env.iter();
        let variable = all.find(|variable| variable["name"] == name).expect(name);
        assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], path);
    }
}

#[test]
fn the_check_can_fail() {
    let good = file("deployment.yaml");
    for (from, to, complaint) in [
        (
            "readinessProbe:",
            "readynessProbe:",
            ".spec.template.spec.containers[0].readynessProbe",
        ),
        ("path: /readyz", "paht: /readyz", "httpGet.paht"),
        ("replicas: 3", "replicas: three", "invalid type"),
        ("value: \"30\"", "value: 30", "invalid type"),
        ("apps/v1", "apps/v1beta1", "apps/v1beta1"),
        ("kind: Deployment", "kind: Deploiment", "Deploiment"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = of_any_kind(&good.replacen(from, to, 1)).expect_err(to);
        assert!(error.contains(complaint), "{to}: {error}");
    }
}

#[test]
fn nothing_is_left_for_the_reader_to_fill_in() {
    for entry in fs::read_dir(KIND).expect("the example is there") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text").to_lowercase();
        for word in [
            "placeholder",
            "todo",
            "fixme",
            "changeme",
            "example.com",
            "<your",
            ":latest",
        ] {
            assert!(!text.contains(word), "{word:?} in {}", path.display());
        }
    }
}

#[test]
fn the_grace_period_is_said_twice_and_is_one_that_the_crate_takes() {
    let (deployment, job) = (deployment(), load_job());
    for pod in [pod(&deployment), job_pod(&job)] {
        let grace = pod.termination_grace_period_seconds.expect("said");
        assert_eq!(
            env(container(pod), GracePeriod::VARIABLE),
            Some(&*grace.to_string())
        );
        GracePeriod::from_secs(grace.try_into().expect("positive")).expect("seconds");
    }
}

#[test]
fn ports_are_those_that_the_program_listens_on_and_others_name() {
    let deployment = deployment();
    let container = container(pod(&deployment));
    let ports = ports(container);
    let program = include_str!("../examples/kind/main.rs");
    for (name, variable) in [
        ("http", "HTTP_ADDRESS"),
        ("grpc", "GRPC_ADDRESS"),
        ("probes", "PROBE_ADDRESS"),
    ] {
        let default = format!("bind(\"{variable}\", \"0.0.0.0:{}\")", ports[name]);
        assert!(program.contains(&default), "no {default} in main.rs");
    }
    assert_eq!(ports.len(), 3);
    for (probe, path) in [
        (&container.startup_probe, "/startupz"),
        (&container.readiness_probe, "/readyz"),
        (&container.liveness_probe, "/livez"),
    ] {
        let get = get(probe.as_ref());
        assert_eq!(get.path.as_deref(), Some(path));
        assert_eq!(get.port, IntOrString::String("probes".to_owned()), "{path}");
    }
    let service = service().spec.expect("a spec");
    for port in service.ports.iter().flatten() {
        let Some(IntOrString::String(target)) = &port.target_port else {
            panic!("a target port by name");
        };
        assert_eq!(ports[target], port.port, "{target}");
    }
}

#[test]
fn hooks_and_entry_point_are_the_binary_that_the_image_holds() {
    let deployment = deployment();
    let container = container(pod(&deployment));
    let app = instruction("COPY").rsplit(' ').next().expect("a target");
    assert_eq!(instruction("ENTRYPOINT"), format!("[{app:?}]"));
    let lifecycle = container.lifecycle.as_ref().expect("hooks");
    assert_eq!(
        command(lifecycle.post_start.as_ref()),
        [app, "prestop", "started"]
    );
    assert_eq!(command(lifecycle.pre_stop.as_ref()), [app, "prestop"]);
    assert_eq!(
        container.command, None,
        "the image's entry point is the program"
    );
    // `load` is the word that the program looks for.
    let job = load_job();
    let args = self::container(job_pod(&job)).args.clone().expect("args");
    assert_eq!(args[0], "load");
    let service = service();
    let name = service.metadata.name.expect("a name");
    let served = service.spec.expect("a spec").ports.expect("ports");
    for (arg, port) in args[1..3].iter().zip(&served) {
        assert_eq!(*arg, format!("{name}:{}", port.port));
    }
}

#[test]
fn the_hooks_socket_has_a_place_on_a_read_only_root() {
    let deployment = deployment();
    let pod = pod(&deployment);
    let container = container(pod);
    let security = container.security_context.as_ref().expect("said");
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let mounts = container.volume_mounts.as_deref().expect("mounts");
    let [mount] = mounts else {
        panic!("one mount is expected");
    };
    // Where HookSocket::from_env looks.
    assert_eq!(mount.mount_path, "/run/prestop");
    let mut volumes = pod.volumes.iter().flatten();
    let volume = volumes
        .find(|volume| volume.name == mount.name)
        .expect("the volume of the mount");
    assert!(volume.empty_dir.is_some());
    // The group may write to the emptyDir.
    let shared = pod.security_context.as_ref().expect("said");
    assert_eq!(shared.fs_group, shared.run_as_group);
}

#[test]
fn nobody_is_root_and_the_user_is_the_image_s() {
    let user = instruction("USER");
    let (uid, gid) = user.split_once(':').expect("uid:gid");
    let (deployment, job) = (deployment(), load_job());
    for pod in [pod(&deployment), job_pod(&job)] {
        let shared = pod.security_context.as_ref().expect("said");
        assert_eq!(shared.run_as_non_root, Some(true));
        assert_eq!(
            shared.run_as_user.map(|id| id.to_string()).as_deref(),
            Some(uid)
        );
        assert_eq!(
            shared.run_as_group.map(|id| id.to_string()).as_deref(),
            Some(gid)
        );
        let own = container(pod).security_context.as_ref().expect("said");
        assert_eq!(own.allow_privilege_escalation, Some(false));
        assert_eq!(own.read_only_root_filesystem, Some(true));
        let dropped = own.capabilities.as_ref().and_then(|c| c.drop.as_deref());
        assert_eq!(dropped, Some(&["ALL".to_owned()][..]));
    }
}

#[test]
fn selectors_meet_the_pods() {
    let deployment = deployment();
    let spec = deployment.spec.as_ref().expect("a spec");
    let labels = spec.template.metadata.as_ref().expect("metadata");
    let labels = labels.labels.as_ref().expect("labels");
    let meets = |selector: &LabelSelector| {
        let wanted = selector.match_labels.as_ref().expect("labels");
        !wanted.is_empty()
            && wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    };
    assert!(meets(&spec.selector));
    for spread in pod(&deployment)
        .topology_spread_constraints
        .iter()
        .flatten()
    {
        assert!(meets(spread.label_selector.as_ref().expect("a selector")));
    }
    let budget: PodDisruptionBudget =
        strict(&file("pod-disruption-budget.yaml")).expect("pod-disruption-budget.yaml");
    let budget = budget.spec.expect("a spec");
    assert!(meets(budget.selector.as_ref().expect("a selector")));
    let Some(IntOrString::Int(away)) = budget.max_unavailable else {
        panic!("maxUnavailable as a number");
    };
    assert!(
        away >= 1 && away < spec.replicas.expect("said"),
        "it would block every drain"
    );
    let service = service().spec.expect("a spec");
    let selector = service.selector.expect("a selector");
    assert!(!selector.is_empty());
    assert!(
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    );
    // The load's own pod is none of them.
    let job = load_job()
        .spec
        .expect("a spec")
        .template
        .metadata
        .expect("metadata");
    let job = job.labels.expect("labels");
    assert!(
        !selector
            .iter()
            .all(|(key, value)| job.get(key) == Some(value))
    );
}

#[test]
fn a_rollout_never_has_less_than_all_replicas() {
    let spec = deployment().spec.expect("a spec");
    let rolling = spec.strategy.expect("said").rolling_update.expect("said");
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)));
    assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)));
}

#[test]
fn the_image_is_the_one_that_the_script_loads_and_nobody_pulls_it() {
    let (deployment, job) = (deployment(), load_job());
    for pod in [pod(&deployment), job_pod(&job)] {
        let container = container(pod);
        let image = container.image.as_deref().expect("an image");
        let (_, tag) = image.split_once(':').expect("a tag");
        assert_ne!(tag, "latest", "its pull policy would be Always");
        assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert!(
            RUN.contains(&format!("image={image}\n")),
            "run.sh does not build {image}"
        );
        assert!(DOCKERFILE.contains(&format!("--tag {image} ")));
    }
}

#[tokio::test]
async fn the_crate_takes_the_manifest_s_grace_period_with_the_hook_and_the_default_lame_duck() {
    let deployment = deployment();
    let grace = pod(&deployment)
        .termination_grace_period_seconds
        .expect("said");
    ShutdownCoordinator::builder_without_signals()
        .grace_period(GracePeriod::from_secs(grace.try_into().expect("positive")).expect("seconds"))
        .lame_duck(std::time::Duration::from_secs(5))
        .build()
        .expect("it fits");
}
/// The YAML blocks of the documentation: whole objects, or what stands in a pod's manifest.
#[test]
fn every_manifest_of_the_docs_is_what_the_api_takes() {
    let mut seen = 0;
    let docs = fs::read_dir("src/docs").expect("the prose is there");
    for file in docs.map(|entry| entry.expect("an entry").path()) {
        // Half of its manifests are wrong, which tests/check holds against what is found in them.
        if file.ends_with("check.md") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("\n```").next().expect("split yields one part");
            for document in block.split("\n---\n") {
                seen += 1;
                if let Err(error) = of_any_kind(document).or_else(|_| of_a_pod(document)) {
                    panic!("{}: {error}:\n{document}", file.display());
                }
            }
        }
    }
    assert!(
        seen >= 8,
        "only {seen} manifests seen: the test reads the wrong files"
    );
}

/// The tables of `prestop check`: a bad manifest must be bad by its rule and not by a typing error, and a good one good.
#[test]
fn the_manifests_of_the_check_are_what_the_api_takes() {
    // What is wrong with these the API says, too, or it is a matter of YAML that only the check reads.
    let left_out = [
        "ps003",
        "ps004",
        "ps206-two",
        "anchors",
        "by-an-alias",
        "in-a-list",
        "odd",
        "patches",
        "as-kubectl",
    ];
    let mut seen = 0;
    for dir in ["tests/check/bad", "tests/check/good"] {
        for entry in fs::read_dir(dir).expect("the manifests are there") {
            let file = entry.expect("an entry").path();
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if left_out.iter().any(|start| name.starts_with(start)) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("text").replace('\r', "");
            for document in text.trim_start_matches('\u{feff}').split("\n---\n") {
                let given: Value = serde_yaml_ng::from_str(document)
                    .unwrap_or_else(|error| panic!("{name}: {error}:\n{document}"));
                let is_of_kubernetes = given["apiVersion"].as_str().is_some_and(|version| {
                    ["v1", "apps/v1", "batch/v1", "autoscaling/v2", "policy/v1"].contains(&version)
                });
                // A Secret's bytes are base64 on several lines, which the API takes and the type does not.
                if is_of_kubernetes && given["kind"] != "Secret" {
                    seen += 1;
                    if let Err(error) = of_any_kind(document) {
                        panic!("{name}: {error}:\n{document}");
                    }
                }
            }
        }
    }
    assert!(seen >= 90, "only {seen} objects seen");
}

#[test]
fn the_check_of_the_docs_can_fail() {
    for wrong in [
        "terminationGracePeriodSecond: 30",
        "spec: { containers: [{ name: app, image: app:1, lifecycle: { prestop: {} } }] }",
        "kind: Pod\nspec: {}",
    ] {
        assert!(
            of_any_kind(wrong).or_else(|_| of_a_pod(wrong)).is_err(),
            "{wrong}"
        );
    }
}

/// A part of a pod: its `spec`, what is in that, or what is in a container.
fn of_a_pod(yaml: &str) -> Result<String, String> {
    let given: Value = serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())?;
    if given["kind"].is_string() {
        return of_any_kind(yaml);
    }
    let given = given.get("spec").unwrap_or(&given);
    part::<PodSpec>(given, "containers", Value::Array(Vec::new()))
        .or_else(|_| part::<Container>(given, "name", Value::String("app".to_owned())))
        .map(|()| "Pod".to_owned())
}

/// This type, whose one required field may be missing.
fn part<T: DeserializeOwned + Serialize>(
    given: &Value,
    required: &str,
    default: Value,
) -> Result<(), String> {
    let mut whole = given.clone();
    let fields = whole.as_object_mut().ok_or("not an object")?;
    fields.entry(required).or_insert(default);
    let read: T = serde_json::from_value(whole).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(read).map_err(|error| error.to_string())?;
    let mut lost = Vec::new();
    compare("", given, &written, &mut lost);
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("unknown or misspelt: {}", lost.join(", ")))
    }
}

#[test]
fn the_guide_s_sums_are_the_grace_period() {
    let guide = include_str!("../src/docs/kubernetes.md");
    let rows: Vec<Vec<&str>> = guide
        .lines()
        .skip_while(|line| !line.starts_with("| | G = "))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    for column in 2..=4 {
        let number = |row: &[&str]| -> f64 {
            let cell = row[column].trim_start_matches("G = ");
            cell.trim_end_matches(" s").parse().expect(cell)
        };
        let sum: f64 = rows[2..].iter().map(|row| number(row)).sum();
        assert!((sum - number(&rows[0])).abs() < 0.001, "{sum}");
    }
    assert_eq!(rows.len(), 7, "{rows:?}");
}

/// Every rule that the documentation cites is in the guide's table, in order.
#[test]
fn the_guide_lists_every_rule() {
    let guide = include_str!("../src/docs/kubernetes.md");
    let listed: Vec<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| R")?.split(' ').next())
        .collect();
    let all: Vec<String> = (1..=34).map(|number| number.to_string()).collect();
    assert_eq!(listed, all);
}
