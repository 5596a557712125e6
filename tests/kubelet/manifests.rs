//! The user's real YAML.

use prestop::kubelet::{Handler, Pod, Port};

const DEPLOYMENT: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: orders }
spec: { selector: { app: orders } }
---
# rendered by a template, with nothing in it
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 45
      initContainers:
        - { name: migrate, image: orders:1 }
        - { name: proxy, image: envoy:1, restartPolicy: Always }
      containers:
        - name: app
          image: orders:1
          command:
          env:
            - { name: A, value: "1" }
            - { name: B, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
          ports:
            - { name: probes, containerPort: 9090 }
          lifecycle:
            preStop:
              httpGet:
                path: /prestop
                port: probes
                httpHeaders: [{ name: X-Token, value: s3cret }]
          readinessProbe:
            httpGet: { path: /readyz, port: probes }
        - name: cron
          lifecycle:
"#;

#[test]
fn a_deployment_among_other_documents() {
    let pod = Pod::from_yaml(DEPLOYMENT).unwrap();
    assert_eq!(pod.termination_grace_period_seconds, 45);
    let names: Vec<_> = pod.running().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        ["proxy", "app", "cron"],
        "an init container that ends does not run"
    );
    let app = pod.container("app").unwrap();
    assert_eq!(app.port(&Port::Name("probes".into())), Some(9090));
    assert_eq!(app.port(&Port::Name("no".into())), None);
    let Some(Handler::HttpGet(get)) = &app.lifecycle.pre_stop else {
        panic!("{app:?}")
    };
    assert_eq!(get.path, "/prestop");
    assert!(
        !format!("{pod:?}").contains("s3cret"),
        "a token is not for logs"
    );
    assert_eq!(pod.container("cron").unwrap().lifecycle.pre_stop, None);
}

#[test]
fn the_readmes_deployment() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let pod = Pod::from_yaml(yaml).unwrap();
    assert_eq!(pod.termination_grace_period_seconds, 30);
}

#[test]
fn every_kind_of_workload() {
    for (kind, spec) in [
        ("Pod", "{ containers: [] }"),
        ("Deployment", "{ template: { spec: { containers: [] } } }"),
        ("StatefulSet", "{ template: { spec: { containers: [] } } }"),
        ("DaemonSet", "{ template: { spec: { containers: [] } } }"),
        ("ReplicaSet", "{ template: { spec: { containers: [] } } }"),
        ("Job", "{ template: { spec: { containers: [] } } }"),
        (
            "CronJob",
            "{ jobTemplate: { spec: { template: { spec: { containers: [] } } } } }",
        ),
    ] {
        let pod = Pod::from_yaml(&format!("{{ kind: {kind}, spec: {spec} }}")).unwrap();
        assert_eq!(
            pod.termination_grace_period_seconds, 30,
            "{kind}: the default"
        );
    }
}

#[test]
fn what_is_wrong_with_a_manifest_is_said() {
    let says = |text: &str| Pod::from_yaml(text).unwrap_err().to_string();
    assert!(
        says("kind: [").contains("line 2 column 1"),
        "{}",
        says("kind: [")
    );
    assert!(says("kind: Service").contains("no Pod, Deployment"));
    let two = "{ kind: Pod, metadata: { name: a }, spec: { containers: [] } }\n---\n{ kind: Pod, metadata: { name: b }, spec: { containers: [] } }";
    assert!(
        says(two).contains("2 workloads in it (Pod/a, Pod/b)"),
        "{}",
        says(two)
    );
    assert!(says("{ kind: Job, metadata: { name: j } }").contains("Job/j has no pod spec"));
    let grace =
        "{ kind: Pod, metadata: { name: a }, spec: { terminationGracePeriodSeconds: soon } }";
    assert!(
        says(grace).contains("the pod spec of Pod/a: "),
        "{}",
        says(grace)
    );
    let hook =
        "{ kind: Pod, spec: { containers: [{ name: a, lifecycle: { preStop: { grpc: {} } } }] } }";
    assert!(
        says(hook).contains("a hook is one of exec, httpGet, sleep and tcpSocket"),
        "{}",
        says(hook)
    );
}

#[test]
fn merge_keys_are_resolved() {
    let pod = Pod::from_yaml(
        "x-common: &common { lifecycle: { preStop: { sleep: { seconds: 5 } } }, command: [/a] }\n\
         kind: Pod\n\
         spec:\n  containers:\n    - <<: *common\n      name: app\n      command: [/b]\n",
    )
    .unwrap();
    let app = pod.container("app").unwrap();
    assert_eq!(
        app.lifecycle.pre_stop,
        Some(Handler::Sleep { seconds: 5 }),
        "a hook that stands in another mapping is a hook"
    );
    assert_eq!(app.command, ["/b"], "what is said here outweighs it");
    let error = Pod::from_yaml("kind: Pod\nspec: { <<: 5, containers: [] }").unwrap_err();
    assert!(error.to_string().contains("merge keys"), "{error}");
}

#[test]
fn the_items_of_a_list_are_workloads() {
    let list = "kind: List\nitems:\n  - { kind: Service }\n  - kind: Pod\n    metadata: { name: a }\n    spec: { containers: [{ name: app }] }\n";
    let names = |text: &str| -> Vec<String> {
        let pods = Pod::all_from_yaml(text).unwrap();
        pods.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(list), ["Pod/a"]);
    let both = format!("{list}---\n{}", list.replace("List", "PodList"));
    assert_eq!(names(&both), ["Pod/a", "Pod/a"]);
    assert_eq!(names("kind: List\nitems: []"), [""; 0]);
}
