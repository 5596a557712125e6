//! The own pod: why it is stopped, and how long it has, asked from the API server with one GET.
//!
//! `api` asks, `pod` is what is read, `verdict` what it means for a stop, `follow` when it is asked and what becomes of
//! it, `time` the two forms of a moment. Not a Kubernetes client.

mod api;
mod follow;
mod pod;
mod time;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Kind};

pub(crate) use follow::follow;

/// The pod that this process runs in, and the way to the API server, which is asked for it: once at the start, to
/// compare the manifest with what the program was told, and once when a stop begins, for its cause and its true
/// deadline. That deadline can only be earlier than the planned one (S1).
///
/// Nothing waits for an answer, and nothing depends on one: without the right to ask, or without a server, there is one
/// warning and the plan goes on as it is. It takes a service account that may `get` its pods; that, and what each
/// warning means, is in [`_docs::kubernetes`](crate::_docs::kubernetes#the-own-pod).
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::{OwnPod, ShutdownCoordinator};
///
/// let c = ShutdownCoordinator::builder()
///     .kubernetes(OwnPod::from_env_or_none()?) // none with `cargo run` on a laptop
///     .build()?;
/// # drop(c); Ok(()) }
/// ```
///
/// The token is read anew for every question, since it is replaced before it expires, and the server's certificate is
/// trusted by the cluster's own authority alone. Neither is kept, or shown.
#[derive(Clone, Debug)]
pub struct OwnPod {
    /// Base URL of the API server.
    server: String,
    namespace: String,
    name: String,
    /// Where the name came from, for those who must be told that it is wrong.
    name_from: &'static str,
    /// What the downward API said, if it was asked.
    uid: Option<String>,
    /// Ours, where the pod has several.
    container: Option<String>,
    account: PathBuf,
    ask_within: Option<Duration>,
}

impl OwnPod {
    /// The variable with the pod's name: `metadata.name` by the downward API.
    pub const NAME_VARIABLE: &'static str = "POD_NAME";

    /// The variable with the pod's namespace: `metadata.namespace` by the downward API.
    pub const NAMESPACE_VARIABLE: &'static str = "POD_NAMESPACE";

    /// The variable with the pod's uid: `metadata.uid` by the downward API. Without it, the first answer's is kept.
    pub const UID_VARIABLE: &'static str = "POD_UID";

    /// Where Kubernetes mounts `token`, `ca.crt` and `namespace` of the pod's service account.
    pub const ACCOUNT_DIR: &'static str = "/var/run/secrets/kubernetes.io/serviceaccount";

    /// The own pod by what Kubernetes puts into every container: the API server by `KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT`; the name by `POD_NAME`, else `HOSTNAME`, which is the pod's name unless it runs on
    /// the host's network, has a `hostname` of its own, or a name of more than 63 characters; the namespace by
    /// `POD_NAMESPACE`, else by the service account's file.
    ///
    /// No file but that of the namespace is read here, and nobody is asked: a missing token is a warning later, and no
    /// reason not to start.
    ///
    /// # Errors
    ///
    /// [`Error::is_own_pod`] outside of a cluster ([`from_env_or_none`](Self::from_env_or_none) is for programs that
    /// run there, too), and where name or namespace are not known or can't be such. The message says what was looked
    /// for.
    pub fn from_env() -> Result<Self, Error> {
        Self::find(
            |name| std::env::var(name).ok(),
            Path::new(Self::ACCOUNT_DIR),
        )
    }

    /// The same, and `None` outside of a cluster, where `KUBERNETES_SERVICE_HOST` is not set: for a program that runs
    /// on a laptop, too. [`kubernetes`](crate::ShutdownCoordinatorBuilder::kubernetes) takes either.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env), inside of a cluster.
    pub fn from_env_or_none() -> Result<Option<Self>, Error> {
        match std::env::var_os(HOST) {
            None => Ok(None),
            Some(_) => Self::from_env().map(Some),
        }
    }

    /// Which container of the pod this is, where it has several; else the pod is taken as a whole: of their hooks and
    /// probes those count that leave the least time. A native sidecar must be named here. Default: the only one.
    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    /// Where `token` and `ca.crt` are, for a pod without the mount that every service account has
    /// (`automountServiceAccountToken: false`) and a projected volume in its place. Default:
    /// [`ACCOUNT_DIR`](Self::ACCOUNT_DIR).
    #[must_use]
    pub fn account_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.account = dir.into();
        self
    }

    /// How long an answer is waited for when a stop has begun. Nothing is delayed by it, but what comes late moves a
    /// deadline that may be over. Default: as long as registries have for being left, 15 % of the grace period and
    /// 0.5 to 5 s.
    #[must_use]
    pub const fn ask_within(mut self, length: Duration) -> Self {
        self.ask_within = Some(length);
        self
    }

    /// `namespace/name`.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn find(var: impl Fn(&str) -> Option<String>, account: &Path) -> Result<Self, Error> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let refused = |why: String| Error::new(Kind::OwnPod(why));
        let (Some(host), Some(port)) = (var(HOST), var(PORT)) else {
            return Err(refused(format!(
                "there is no own pod to ask for: {HOST} and {PORT} are not both set, so this is not a container of a \
                 cluster. For a program that runs elsewhere, too, use OwnPod::from_env_or_none()"
            )));
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
        let number = port.parse::<u16>().ok().filter(|port| *port > 0);
        let (true, Some(port)) = (host.chars().all(is_host), number) else {
            return Err(refused(format!(
                "{HOST}={host:?} and {PORT}={port:?} are not the address of an API server; Kubernetes sets them in \
                 every container, so leave them as they are"
            )));
        };
        let server = match host.contains(':') {
            true => format!("https://[{host}]:{port}"),
            false => format!("https://{host}:{port}"),
        };
        let (name, name_from) = match (var(Self::NAME_VARIABLE), var("HOSTNAME")) {
            (Some(name), _) => (name, Self::NAME_VARIABLE),
            (None, Some(name)) => (name, "HOSTNAME"),
            (None, None) => {
                return Err(refused(format!(
                    "the own pod's name is not known: neither {} nor HOSTNAME is set. Let the downward API set {} to \
                     metadata.name",
                    Self::NAME_VARIABLE,
                    Self::NAME_VARIABLE
                )));
            }
        };
        let namespace = match var(Self::NAMESPACE_VARIABLE) {
            Some(namespace) => namespace,
            None => {
                let file = account.join("namespace");
                let read = std::fs::read_to_string(&file).map_err(|error| {
                    let (variable, file) = (Self::NAMESPACE_VARIABLE, file.display());
                    let why = format!(
                        "the own pod's namespace is not known: {variable} is not set, and reading {file} failed (is \
                         automountServiceAccountToken false?). Let the downward API set {variable} to \
                         metadata.namespace"
                    );
                    refused(why).with_source(error)
                })?;
                read.trim().to_owned()
            }
        };
        for (what, value) in [("name", &name), ("namespace", &namespace)] {
            // RFC 1123: what Kubernetes names its objects by.
            let is_good =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
            if value.is_empty() || value.len() > 253 || !value.chars().all(is_good) {
                return Err(refused(format!(
                    "the own pod's {what} cannot be {value:?}: let the downward API set {} and {}",
                    Self::NAME_VARIABLE,
                    Self::NAMESPACE_VARIABLE
                )));
            }
        }
        Ok(Self {
            server,
            namespace,
            name,
            name_from,
            uid: var(Self::UID_VARIABLE),
            container: None,
            account: account.to_owned(),
            ask_within: None,
        })
    }
}

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::registry::http::HttpClient;

    fn found(vars: &[(&str, &str)], account: &Path) -> Result<OwnPod, String> {
        let vars: BTreeMap<_, _> = vars.iter().copied().collect();
        let var = |name: &str| vars.get(name).map(ToString::to_string);
        OwnPod::find(var, account).map_err(|error| {
            assert!(error.is_own_pod(), "{error}");
            error.to_string()
        })
    }

    const CLUSTER: [(&str, &str); 2] = [(HOST, "10.96.0.1"), (PORT, "443")];

    #[test]
    fn server_name_and_namespace_are_those_of_the_environment() {
        let nowhere = PathBuf::from("/nonexistent");
        for (host, server) in [
            ("10.96.0.1", "https://10.96.0.1:6443"),
            ("fd00:10:96::1", "https://[fd00:10:96::1]:6443"),
            (
                "kubernetes.default.svc",
                "https://kubernetes.default.svc:6443",
            ),
        ] {
            let vars = [
                (HOST, host),
                (PORT, "6443"),
                ("POD_NAME", "orders-0"),
                ("POD_NAMESPACE", "shop"),
                ("HOSTNAME", "node-7"),
            ];
            let pod = found(&vars, &nowhere).unwrap();
            assert_eq!(pod.server, server);
            assert_eq!(pod.shown(), "shop/orders-0");
            assert_eq!((pod.name_from, &pod.uid), ("POD_NAME", &None));
            HttpClient::new([&pod.server]).unwrap();
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let nowhere = PathBuf::from("/nonexistent");
        let with = |more: &[(&'static str, &'static str)]| {
            let vars: Vec<_> = CLUSTER.iter().chain(more).copied().collect();
            found(&vars, &nowhere).unwrap_err()
        };
        for vars in [vec![], vec![CLUSTER[0]], vec![CLUSTER[1]]] {
            let message = found(&vars, &nowhere).unwrap_err();
            assert!(message.contains("KUBERNETES_SERVICE_HOST"), "{message}");
            assert!(message.contains("from_env_or_none()"), "{message}");
        }
        let message = with(&[]);
        assert!(message.contains("POD_NAME nor HOSTNAME"), "{message}");
        assert!(message.contains("metadata.name"), "{message}");
        let message = with(&[("HOSTNAME", "orders-0")]);
        assert!(message.contains("/nonexistent/namespace"), "{message}");
        assert!(message.contains("POD_NAMESPACE"), "{message}");
        let message = with(&[("POD_NAME", "Orders/0"), ("POD_NAMESPACE", "shop")]);
        assert!(message.contains("cannot be \"Orders/0\""), "{message}");
        for (host, port) in [("10.96.0.1", "x"), ("10.96.0.1", "0"), ("a/b", "443")] {
            let message = found(&[(HOST, host), (PORT, port)], &nowhere).unwrap_err();
            assert!(
                message.contains("not the address of an API server"),
                "{message}"
            );
        }
    }
}
