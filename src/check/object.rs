//! Kubernetes objects in documents, their pods and containers.

use super::document::{Node, Place, Text};
use super::finding::Found;
use super::rule::Rule;

/// A Kubernetes object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'d> {
    pub(super) kind: &'d str,
    pub(super) node: Node<'d>,
    /// The number of its document.
    document: usize,
}

/// A pod template, or a pod itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'d> {
    /// With its metadata.
    pub(super) template: Node<'d>,
    pub(super) spec: Node<'d>,
}

/// The objects of all documents, those in lists too.
pub(super) fn all(text: &Text) -> Vec<Object<'_>> {
    let mut objects = Vec::new();
    for (number, document) in text.documents.iter().enumerate() {
        let root = text.root(document);
        let Some(kind) = root.text_at("kind") else {
            continue;
        };
        if kind.ends_with("List") && root.at("items").is_some_and(Node::is_list) {
            objects.extend(root.list("items").filter_map(|item| of(item, number)));
        } else {
            objects.extend(of(root, number));
        }
    }
    objects
}

fn of(node: Node<'_>, document: usize) -> Option<Object<'_>> {
    Some(Object {
        kind: node.text_at("kind")?,
        node,
        document,
    })
}

/// Keys that stand twice in the object's document; said once, by the first of its objects.
pub(super) fn twice(object: Object<'_>, objects: &[Object<'_>], text: &Text, found: &mut Found) {
    let first = objects
        .iter()
        .find(|o| o.document == object.document && o.is_checked());
    if first.is_none_or(|first| first.node.place != object.node.place) {
        return;
    }
    for (key, place, line) in &text.documents[object.document].twice {
        found.add(
            Rule::PS003,
            *place,
            format!("`{key}` stands in this mapping already, in line {line}: only this one is seen, where the manifest is not refused"),
            "merge the two",
        );
    }
}

impl<'d> Object<'d> {
    pub(super) fn name(self) -> String {
        let name = self.node.under(&["metadata", "name"]).and_then(Node::text);
        format!("{}/{}", self.kind, name.unwrap_or("?"))
    }

    /// Where its pods come from, in the kinds that have any.
    pub(super) fn pod(self) -> Option<Pod<'d>> {
        let template = match self.kind {
            "Pod" => self.node,
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
                self.node.under(&["spec", "template"])?
            }
            "CronJob" => self
                .node
                .under(&["spec", "jobTemplate", "spec", "template"])?,
            _ => return None,
        };
        let spec = template.at("spec")?;
        Some(Pod { template, spec })
    }

    /// Whether a rule looks at it.
    pub(super) fn is_checked(self) -> bool {
        self.pod().is_some() || self.kind == "PodDisruptionBudget"
    }

    /// Whether others send it requests: not a Job, and not a Pod that ends by itself, such as a test of a chart.
    pub(super) fn serves(self) -> bool {
        match self.kind {
            "Job" | "CronJob" => false,
            "Pod" => {
                let restart = self.node.under(&["spec", "restartPolicy"]);
                restart.and_then(Node::text).is_none_or(|r| r == "Always")
            }
            _ => true,
        }
    }
}

impl<'d> Pod<'d> {
    /// The containers that run as long as the pod: its own, then sidecars.
    pub(super) fn running(self) -> impl Iterator<Item = Container<'d>> {
        let sidecars = self
            .spec
            .list("initContainers")
            .map(Container)
            .filter(|c| c.is_sidecar());
        self.containers().chain(sidecars)
    }

    /// `containers`, without the native sidecars.
    pub(super) fn containers(self) -> impl Iterator<Item = Container<'d>> {
        self.spec.list("containers").map(Container)
    }

    /// Whether others send it requests, as far as that can be seen: not where all of its ports are for metrics and the
    /// like. Without any it may serve nevertheless, for Kubernetes does not ask that they are declared.
    pub(super) fn serves(self) -> bool {
        let is_asked = |c: Container<'_>| c.has_ports() || c.0.at("readinessProbe").is_some();
        let declares = |c: Container<'_>| c.0.list("ports").next().is_some();
        self.running().any(is_asked) || !self.running().any(declares)
    }

    /// Seconds, 30 where nothing is said; none where it is not a number.
    pub(super) fn grace(self) -> Option<i64> {
        match self.spec.at("terminationGracePeriodSeconds") {
            None => Some(30),
            Some(said) => said.number(),
        }
    }

    /// Where the grace period is said, or would be.
    pub(super) fn grace_place(self) -> Place {
        let said = self.spec.at("terminationGracePeriodSeconds");
        said.unwrap_or(self.spec).place
    }

    pub(super) fn annotation(self, key: &str) -> Option<Node<'d>> {
        self.template.under(&["metadata", "annotations", key])
    }

    pub(super) fn is_windows(self) -> bool {
        let os = self.spec.under(&["os", "name"]);
        let node = self.spec.under(&["nodeSelector", "kubernetes.io/os"]);
        [os, node]
            .into_iter()
            .flatten()
            .any(|said| said.text() == Some("windows"))
    }
}

/// A container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'d>(pub(super) Node<'d>);

impl<'d> Container<'d> {
    pub(super) fn name(self) -> Option<String> {
        self.0.text_at("name").map(str::to_owned)
    }

    pub(super) fn is_sidecar(self) -> bool {
        self.0.text_at("restartPolicy") == Some("Always")
    }

    /// Whether this is all that is said of it: a patch of kustomize has no image, and what is missing is elsewhere.
    pub(super) fn is_whole(self) -> bool {
        self.0.at("image").is_some()
    }

    pub(super) fn variable(self, name: &str) -> Option<Node<'d>> {
        self.0
            .list("env")
            .filter(|var| var.text_at("name") == Some(name))
            .last()
    }

    /// The literal value of a variable; none where it comes from elsewhere.
    pub(super) fn literal(self, name: &str) -> Option<Node<'d>> {
        let value = self.variable(name)?.at("value")?;
        value.text().filter(|text| !text.contains("$("))?;
        Some(value)
    }

    /// Whether a variable may be set that is not in `env`, or has its value from elsewhere.
    pub(super) fn may_have(self, name: &str) -> bool {
        self.0.at("envFrom").is_some() || self.variable(name).is_some() || !self.is_whole()
    }

    pub(super) fn hook(self, kind: &str) -> Option<Node<'d>> {
        self.0.under(&["lifecycle", kind])
    }

    /// The words of `command` and `args`.
    pub(super) fn words(self) -> Vec<&'d str> {
        let both = self.0.list("command").chain(self.0.list("args"));
        both.filter_map(Node::text).collect()
    }

    /// The options of `prestop run`, where that is what it runs: by its `command`, by `args` for an image whose ENTRYPOINT
    /// is `prestop`, or by `args` with the name.
    pub(super) fn prestop_run(self) -> Option<Vec<Node<'d>>> {
        let both = self.0.list("command").chain(self.0.list("args"));
        let mut words: Vec<Node<'_>> = both.collect();
        let text = |at: usize| words.get(at).and_then(|word| word.text());
        let end = words.iter().position(|word| word.text() == Some("--"));
        let begin = match text(0) {
            Some(program) if is_prestop(program) && text(1) == Some("run") => 2,
            // Others have a `run`, too; ours has a `--` behind it.
            Some("run") if self.0.at("command").is_none() && end.is_some() => 1,
            _ => return None,
        };
        words.truncate(end.unwrap_or(words.len()));
        words.drain(..begin.min(words.len()));
        Some(words)
    }

    /// Whether it has ports for others than a monitoring system and the kubelet, who lose nothing.
    pub(super) fn has_ports(self) -> bool {
        self.for_requests().next().is_some()
    }

    /// Whether it is one of these ports.
    pub(super) fn has_port(self, number: i64) -> bool {
        let mut numbers = self
            .for_requests()
            .filter_map(|port| port.at("containerPort"));
        numbers.any(|port| port.number() == Some(number))
    }

    fn for_requests(self) -> impl Iterator<Item = Node<'d>> {
        let words = [
            "metric", "prom", "monitor", "health", "probe", "debug", "pprof",
        ];
        self.0.list("ports").filter(move |port| {
            let name = port.text_at("name").unwrap_or_default();
            !words.iter().any(|word| name.contains(word))
        })
    }

    /// What a port is by number, where its name is declared.
    pub(super) fn port(self, port: Node<'_>) -> Option<i64> {
        if let Some(number) = port.number() {
            return Some(number);
        }
        let name = port.text()?;
        let named = self
            .0
            .list("ports")
            .find(|p| p.text_at("name") == Some(name))?;
        named.at("containerPort").and_then(Node::number)
    }

    /// Whether the crate is in there, as far as the manifest shows it: a variable, a hook, an entry point or a probe
    /// of its own.
    pub(super) fn speaks_prestop(self) -> bool {
        let mut variables = self.0.list("env").filter_map(|var| var.text_at("name"));
        let by_variable = variables.any(|name| {
            name.starts_with("PRESTOP_")
                || name == crate::budget::GracePeriod::VARIABLE
                || name == crate::budget::SLEEP_VARIABLE
        });
        let mut hooks = ["postStart", "preStop"]
            .into_iter()
            .filter_map(|kind| self.hook(kind));
        let by_hook = hooks.any(|hook| {
            let exec = hook.at("exec").is_some_and(|exec| {
                exec.list("command")
                    .filter_map(Node::text)
                    .take(2)
                    .any(is_prestop)
            });
            let path = hook.under(&["httpGet", "path"]).and_then(Node::text);
            exec || path == Some("/prestop")
        });
        let probes = ["readinessProbe", "livenessProbe", "startupProbe"];
        let asks = |path: &str| {
            let mut gets = probes
                .iter()
                .filter_map(|kind| self.0.under(&[kind, "httpGet"]));
            gets.find(|get| get.text_at("path") == Some(path))
        };
        let plainly = |path| asks(path).is_some_and(|get| get.text_at("scheme") != Some("HTTPS"));
        by_variable
            || by_hook
            || self.words().first().is_some_and(|word| is_prestop(word))
            || asks("/startupz").is_some()
            // Each alone is asked of many programs, and both of Kubernetes' own, by HTTPS.
            || plainly("/readyz") && plainly("/livez")
    }
}

/// Whether a word of a command is the crate's own program, or the call of a hook by that name.
fn is_prestop(word: &str) -> bool {
    word == "prestop" || word.ends_with("/prestop")
}

/// A whole number of a field, of which a rule is told when it is something else.
pub(super) fn number(node: Option<Node<'_>>, found: &mut Found) -> Option<i64> {
    let node = node?;
    let number = node.number();
    if number.is_none() {
        wrong_type(node, "a whole number, without quotes", found);
    }
    number
}

/// The API server refuses it, so none of the other rules can say what it would do.
pub(super) fn wrong_type(node: Node<'_>, wanted: &str, found: &mut Found) {
    let given = match node.text() {
        Some(text) if text.contains("${") || text.contains("{{") => {
            format!("{text:?} is a placeholder: render it first")
        }
        Some(text) => format!("{text:?} is none, and the API server refuses the manifest"),
        None => "a list or a mapping is none, and the API server refuses the manifest".to_owned(),
    };
    found.add(
        Rule::PS004,
        node.place,
        format!("it must be {wanted}; {given}"),
        format!("give {wanted}"),
    );
}
