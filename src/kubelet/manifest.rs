//! The parts of a manifest by which the kubelet stops a pod, read from the user's real YAML.

use std::fmt;

use serde::Deserialize;
use serde_yaml_ng::Value;

/// A pod as the kubelet sees it. From a manifest by [`Pod::from_yaml`], or by hand.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Pod {
    /// Default: 30, Kubernetes' own (R1).
    #[serde(default = "thirty")]
    pub termination_grace_period_seconds: u64,
    /// Whether the pod has no network of its own (R24).
    #[serde(default)]
    pub host_network: bool,
    /// The init containers; those with `restartPolicy: Always` are sidecars.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub init_containers: Vec<Container>,
    /// The containers.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub containers: Vec<Container>,
}

/// Templates leave keys without a value, which is YAML's null, and means what a missing key means.
fn null_is_nothing<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

const fn thirty() -> u64 {
    30
}

/// One container of a [`Pod`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The entry point's replacement; empty: the image's.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub args: Vec<String>,
    /// Variables; those without a literal value have none here.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub env: Vec<EnvVar>,
    /// Named ports, so that probes and hooks may use the names.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub ports: Vec<ContainerPort>,
    /// postStart and preStop.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub lifecycle: Lifecycle,
    /// Restarts the container when it fails.
    #[serde(default)]
    pub liveness_probe: Option<Probe>,
    /// Takes the pod out of its Services while it fails.
    #[serde(default)]
    pub readiness_probe: Option<Probe>,
    /// Holds the other two back until it succeeds.
    #[serde(default)]
    pub startup_probe: Option<Probe>,
    /// `Always` makes an init container a sidecar.
    #[serde(default)]
    pub restart_policy: Option<String>,
}

/// A variable of a container.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its literal value, if it has one.
    pub value: Option<String>,
}

/// A port of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub container_port: u16,
}

/// The hooks of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Lifecycle {
    /// Called when the container was started, at the same time as its program.
    pub post_start: Option<Handler>,
    /// Called before the stop signal is sent, and a part of the grace period.
    pub pre_stop: Option<Handler>,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneHandler")]
#[non_exhaustive]
pub enum Handler {
    /// A command in the container.
    Exec {
        /// Its words; no shell.
        command: Vec<String>,
    },
    /// A GET request to the pod.
    HttpGet(HttpGet),
    /// The kubelet's own timer (since 1.30).
    Sleep {
        /// How long.
        seconds: u64,
    },
    /// Passes the API's validation, and fails when it is called (R25).
    TcpSocket {
        /// To where it would connect.
        port: Port,
    },
}

/// A hook as it is written: a map with one key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OneHandler {
    exec: Option<Command>,
    http_get: Option<HttpGet>,
    sleep: Option<Sleep>,
    tcp_socket: Option<TcpSocket>,
}

#[derive(Deserialize)]
struct Sleep {
    seconds: u64,
}

impl TryFrom<OneHandler> for Handler {
    type Error = &'static str;

    fn try_from(one: OneHandler) -> Result<Self, Self::Error> {
        match (one.exec, one.http_get, one.sleep, one.tcp_socket) {
            (Some(Command { command }), None, None, None) => Ok(Self::Exec { command }),
            (None, Some(get), None, None) => Ok(Self::HttpGet(get)),
            (None, None, Some(Sleep { seconds }), None) => Ok(Self::Sleep { seconds }),
            (None, None, None, Some(TcpSocket { port })) => Ok(Self::TcpSocket { port }),
            _ => Err("a hook is one of exec, httpGet, sleep and tcpSocket"),
        }
    }
}

/// A request of a hook or a probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HttpGet {
    /// Default: `/`.
    #[serde(default = "root")]
    pub path: String,
    /// A number or the name of one of the container's ports.
    pub port: Port,
    /// Default: the pod's address.
    pub host: Option<String>,
    /// `HTTP` or `HTTPS`. Default: `HTTP`.
    pub scheme: Option<String>,
    /// Sent with it.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub http_headers: Vec<Header>,
}

fn root() -> String {
    "/".to_owned()
}

/// A header of an [`HttpGet`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, which may be a secret.
    pub value: String,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ***", self.name)
    }
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By the name of one of the container's ports.
    Name(String),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A probe of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Probe {
    /// A command that must exit with 0.
    pub exec: Option<Command>,
    /// A request that must be answered with 200 to 399.
    pub http_get: Option<HttpGet>,
    /// A port that must accept.
    pub tcp_socket: Option<TcpSocket>,
    /// Default: 10.
    #[serde(default = "ten")]
    pub period_seconds: u64,
    /// Default: 1.
    #[serde(default = "one")]
    pub timeout_seconds: u64,
    /// Default: 3.
    #[serde(default = "three")]
    pub failure_threshold: u32,
    /// Of the stop that this probe causes; may be longer or shorter than the pod's (R29).
    pub termination_grace_period_seconds: Option<u64>,
}

const fn one() -> u64 {
    1
}

const fn three() -> u32 {
    3
}

const fn ten() -> u64 {
    10
}

/// The command of an exec probe.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Command {
    /// Its words; no shell.
    pub command: Vec<String>,
}

/// The port of a TCP probe.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct TcpSocket {
    /// A number or the name of one of the container's ports.
    pub port: Port,
}

impl Container {
    /// A container with this name, no hooks and no probes.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With this preStop hook.
    #[must_use]
    pub fn pre_stop(mut self, hook: Handler) -> Self {
        self.lifecycle.pre_stop = Some(hook);
        self
    }

    /// With this postStart hook.
    #[must_use]
    pub fn post_start(mut self, hook: Handler) -> Self {
        self.lifecycle.post_start = Some(hook);
        self
    }

    /// The number of one of its ports.
    #[must_use]
    pub fn port(&self, port: &Port) -> Option<u16> {
        match port {
            Port::Number(number) => Some(*number),
            Port::Name(name) => self
                .ports
                .iter()
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port),
        }
    }

    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

impl Handler {
    /// An `exec` hook.
    pub fn exec<W: Into<String>>(command: impl IntoIterator<Item = W>) -> Self {
        Self::Exec {
            command: command.into_iter().map(Into::into).collect(),
        }
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { command } => write!(f, "exec {}", command.join(" ")),
            Self::HttpGet(get) => write!(f, "httpGet :{}{}", get.port, get.path),
            Self::Sleep { seconds } => write!(f, "sleep {seconds}"),
            Self::TcpSocket { port } => write!(f, "tcpSocket :{port}"),
        }
    }
}

/// A manifest that has no pod for the kubelet.
#[derive(Debug)]
pub struct ManifestError(String);

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManifestError {}

impl Pod {
    /// A pod with this `terminationGracePeriodSeconds` and these containers.
    #[must_use]
    pub fn new(grace: u64, containers: impl IntoIterator<Item = Container>) -> Self {
        Self {
            termination_grace_period_seconds: grace,
            host_network: false,
            init_containers: Vec::new(),
            containers: containers.into_iter().collect(),
        }
    }

    /// With this sidecar, after those before it.
    #[must_use]
    pub fn sidecar(mut self, mut container: Container) -> Self {
        container.restart_policy = Some("Always".to_owned());
        self.init_containers.push(container);
        self
    }

    /// The pod of the one workload in this text, one or more YAML documents: a Pod, Deployment, StatefulSet,
    /// DaemonSet, ReplicaSet, Job or CronJob, in a `List`, too. Documents of other kinds are passed over, and so is what
    /// the kubelet needs not know.
    ///
    /// # Errors
    ///
    /// When the text is not YAML (with line and column), a field has the wrong type, or there is not exactly one
    /// workload; then its documents' kinds are named.
    pub fn from_yaml(text: &str) -> Result<Self, ManifestError> {
        let mut pods = Self::all_from_yaml(text)?;
        match pods.len() {
            1 => Ok(pods.remove(0).1),
            0 => Err(ManifestError(
                "there is no Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob in it".into(),
            )),
            _ => {
                let names: Vec<_> = pods.iter().map(|(name, _)| name.as_str()).collect();
                Err(ManifestError(format!(
                    "there are {} workloads in it ({}): take one from Pod::all_from_yaml",
                    names.len(),
                    names.join(", ")
                )))
            }
        }
    }

    /// Every workload in this text with its pod, named as in `Deployment/orders`; those in a `List`, too. Merge keys
    /// (`<<`) are resolved.
    ///
    /// # Errors
    ///
    /// When the text is not YAML (with line and column), a field has the wrong type, or a `<<` has no mapping.
    pub fn all_from_yaml(text: &str) -> Result<Vec<(String, Self)>, ManifestError> {
        let mut found = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let mut document = Value::deserialize(document)
                .map_err(|error| ManifestError(format!("it is not YAML: {error}")))?;
            document
                .apply_merge()
                .map_err(|error| ManifestError(format!("its merge keys (`<<`): {error}")))?;
            let kind = document.get("kind").and_then(Value::as_str);
            let items = document.get("items").and_then(Value::as_sequence);
            match items.filter(|_| kind.is_some_and(|kind| kind.ends_with("List"))) {
                Some(items) => {
                    for item in items {
                        found.extend(workload(item)?);
                    }
                }
                None => found.extend(workload(&document)?),
            }
        }
        Ok(found)
    }

    /// The container or sidecar of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.running().find(|container| container.name == name)
    }

    /// The init containers that run as long as the pod, in the order in which they are declared.
    pub fn sidecars(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().filter(|c| c.is_sidecar())
    }

    /// What runs when the pod is up, in the order in which it was started: sidecars, then containers.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.sidecars().chain(&self.containers)
    }
}

/// The pod of an object, with the object's name, if it is of a kind that has one.
fn workload(object: &Value) -> Result<Option<(String, Pod)>, ManifestError> {
    let at = |path: &[&str]| path.iter().try_fold(object, |value, key| value.get(key));
    let Some(kind) = at(&["kind"]).and_then(Value::as_str) else {
        return Ok(None);
    };
    let spec = match kind {
        "Pod" => at(&["spec"]),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
            at(&["spec", "template", "spec"])
        }
        "CronJob" => at(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => return Ok(None),
    };
    let name = at(&["metadata", "name"]).and_then(Value::as_str);
    let name = format!("{kind}/{}", name.unwrap_or("?"));
    let spec = spec.ok_or_else(|| ManifestError(format!("{name} has no pod spec")))?;
    let pod = Pod::deserialize(spec)
        .map_err(|error| ManifestError(format!("the pod spec of {name}: {error}")))?;
    Ok(Some((name, pod)))
}
