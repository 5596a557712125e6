//! Finds in a manifest what would lose requests in a rollout, before the deploy.
//!
//! ```
//! use prestop::check::{Rule, check};
//!
//! let findings = check(
//!     "apiVersion: apps/v1
//! kind: Deployment
//! metadata: { name: orders }
//! spec:
//!   replicas: 3
//!   template:
//!     spec:
//!       terminationGracePeriodSeconds: 60
//!       containers:
//!         - name: app
//!           image: orders:1
//!           env: [{ name: TERMINATION_GRACE_PERIOD_SECONDS, value: '30' }]
//! ",
//! )?;
//! assert_eq!(findings[0].rule, Rule::PS101);
//! assert_eq!(findings[0].place.line, 12);
//! # Ok::<(), prestop::check::CheckError>(())
//! ```
//!
//! The binary's `prestop check FILE...` is this with files, formats and exit codes. The rules, one section each:
//! [`_docs::check`](crate::_docs::check).
//!
//! # Silencing a rule
//!
//! With a reason, or the silence is a finding itself (`PS001`): a comment in the line of the finding or the one above it,
//! `# prestop: allow PS301 tini is the entry point`, or for a whole object the annotation
//! `prestop.rs/allow: "PS301 tini is the entry point"`, several separated by `;`.

mod hooks;
mod pod;
mod probes;
mod rollout;
mod rule;
mod silence;
mod yaml;

use std::fmt;

pub use rule::{Rule, Severity};
pub use yaml::Place;

use silence::Silences;
use yaml::{Ask, Node};

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Where in the text.
    pub place: Place,
    /// The object, as in `Deployment/orders`.
    pub object: String,
    /// What is wrong, and why that matters.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        let (severity, rule, object) = (self.severity, self.rule, &self.object);
        writeln!(
            f,
            "{line}:{column}: {severity}[{rule}] {object}: {}",
            self.message
        )?;
        write!(f, "    {}", self.advice)
    }
}

/// A text that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckError {
    /// What the parser found.
    pub message: String,
    /// Where.
    pub place: Place,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(f, "{line}:{column}: it is not YAML: {}", self.message)
    }
}

impl std::error::Error for CheckError {}

/// Checks every Deployment, StatefulSet, DaemonSet, ReplicaSet, Pod, Job, CronJob and PodDisruptionBudget in a text of
/// one or more YAML documents; what else is in it is passed over. Findings come in the order of their places.
///
/// # Errors
///
/// When the text is not YAML, with line and column.
pub fn check(text: &str) -> Result<Vec<Finding>, CheckError> {
    let documents = yaml::documents(text)?;
    let mut findings = Vec::new();
    let objects: Vec<_> = documents.iter().flat_map(objects).collect();
    for object in &objects {
        let mut found = Found {
            object: object.name(),
            findings: Vec::new(),
        };
        object.check(&objects, &mut found);
        let silences = Silences::of(object.node);
        findings.extend(silences.apply(found));
    }
    silence::comments(text, &mut findings);
    findings.sort_by_key(|finding| (finding.place, finding.rule));
    findings.dedup();
    Ok(findings)
}

/// The document itself, or the items of a `List`.
fn objects<'d, 't>(document: &'d Node<'t>) -> Vec<Object<'d, 't>> {
    let kind = document.at("kind").and_then(Ask::text);
    let nodes = match kind {
        Some("List") => document
            .at("items")
            .map_or(&[][..], Ask::items)
            .iter()
            .collect(),
        _ => vec![document],
    };
    let mut objects = Vec::new();
    for node in nodes {
        if let Some(kind) = node.at("kind").and_then(Ask::text) {
            objects.push(Object { kind, node });
        }
    }
    objects
}

/// A Kubernetes object.
struct Object<'d, 't> {
    kind: &'d str,
    node: &'d Node<'t>,
}

impl<'d, 't> Object<'d, 't> {
    fn name(&self) -> String {
        let name = self.node.under(&["metadata", "name"]).and_then(Ask::text);
        format!("{}/{}", self.kind, name.unwrap_or("?"))
    }

    /// The pod template: its metadata and its spec.
    fn template(&self) -> Option<&'d Node<'t>> {
        match self.kind {
            "Pod" => Some(self.node),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
                self.node.under(&["spec", "template"])
            }
            "CronJob" => self
                .node
                .under(&["spec", "jobTemplate", "spec", "template"]),
            _ => None,
        }
    }

    /// Whether others send it requests: not a Job.
    fn serves(&self) -> bool {
        !matches!(self.kind, "Job" | "CronJob")
    }

    fn check(&self, others: &[Object<'_, '_>], found: &mut Found) {
        if let Some(template) = self.template()
            && let Some(spec) = template.at("spec")
        {
            pod::check(self, template, spec, found);
            hooks::check(spec, found);
            probes::check(self, spec, found);
        }
        rollout::check(self, others, found);
    }
}

/// What was found in one object.
struct Found {
    object: String,
    findings: Vec<Finding>,
}

impl Found {
    fn add(
        &mut self,
        rule: Rule,
        at: &Node<'_>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.findings.push(Finding {
            rule,
            severity: rule.severity(),
            place: at.place(),
            object: self.object.clone(),
            message: message.into(),
            advice: advice.into(),
        });
    }
}

/// The containers that run as long as the pod, sidecars too.
fn containers<'d, 't>(spec: &'d Node<'t>) -> impl Iterator<Item = &'d Node<'t>> {
    let list = |key| spec.at(key).map_or(&[][..], Ask::items).iter();
    let sidecars = list("initContainers").filter(|c| is_sidecar(c));
    list("containers").chain(sidecars)
}

fn is_sidecar(container: &Node<'_>) -> bool {
    container.at("restartPolicy").and_then(Ask::text) == Some("Always")
}

fn name_of<'d>(container: &'d Node<'_>) -> &'d str {
    container.at("name").and_then(Ask::text).unwrap_or("?")
}

/// The node of a variable's literal value.
fn variable<'d, 't>(container: &'d Node<'t>, name: &str) -> Option<&'d Node<'t>> {
    let variables = container.at("env").map_or(&[][..], Ask::items);
    variables
        .iter()
        .find(|var| var.at("name").and_then(Ask::text) == Some(name))
}

/// The words of a command, in one line.
fn words(node: Option<&Node<'_>>) -> Vec<String> {
    let words = node.map_or(&[][..], Ask::items).iter();
    words
        .filter_map(|word| word.text().map(str::to_owned))
        .collect()
}

/// What a port is by number, where its name is declared.
fn port_number(container: &Node<'_>, port: &Node<'_>) -> Option<i64> {
    if let Some(number) = port.number() {
        return Some(number);
    }
    let name = port.text()?;
    let ports = container.at("ports").map_or(&[][..], Ask::items);
    let named = ports
        .iter()
        .find(|p| p.at("name").and_then(Ask::text) == Some(name))?;
    named.at("containerPort").and_then(Ask::number)
}

/// The pod's grace period, 30 s where nothing is said.
fn grace_of(spec: &Node<'_>) -> i64 {
    let grace = spec.at("terminationGracePeriodSeconds");
    grace.and_then(Ask::number).unwrap_or(30)
}
