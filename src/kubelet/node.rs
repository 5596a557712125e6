//! [`Node`]: one pod, and the kubelet's part in its life.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::endpoints::{Endpoint, Service};
use super::grace::Cause;
use super::kill::{Kill, call, called, failed, number};
use super::manifest::{Container, Pod, Probe};
use super::runtime::Runtime;
use super::timeline::{Hook, Record, Timeline, What};

/// A pod on a node, and the kubelet.
pub struct Node {
    pod: Pod,
    containers: BTreeMap<String, Arc<dyn Runtime>>,
    endpoints: Vec<(Service, String)>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("pod", &self.pod)
            .field("containers", &self.containers.keys())
            .finish()
    }
}

/// A pod that did not come up.
#[derive(Debug)]
pub struct StartError {
    message: String,
    /// What happened, to the end of the container whose postStart hook failed.
    pub timelines: Vec<Timeline>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl Node {
    /// A node with this pod, whose containers are still to be told.
    #[must_use]
    pub const fn new(pod: Pod) -> Self {
        Self {
            pod,
            containers: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    /// What runs as the container of this name.
    ///
    /// # Panics
    ///
    /// If the pod has no such container or sidecar; its containers are named.
    #[must_use]
    pub fn container(mut self, name: &str, runtime: impl Runtime) -> Self {
        let names: Vec<_> = self.pod.running().map(|c| c.name.as_str()).collect();
        assert!(
            names.contains(&name),
            "the pod has no container {name}, only {}",
            names.join(", ")
        );
        self.containers.insert(name.to_owned(), Arc::new(runtime));
        self
    }

    /// The pod is an endpoint of this Service, under this name: ready once [`ready`](Self::ready) says so, terminating
    /// from the beginning of a deletion on, gone with its containers (R19, R33). The stop of one container alone changes
    /// nothing (R29) until that container is down; then the pod is not ready.
    #[must_use]
    pub fn in_service(mut self, service: &Service, name: impl Into<String>) -> Self {
        self.endpoints.push((service.clone(), name.into()));
        self
    }

    fn is(&self, endpoint: Option<Endpoint>) {
        for (service, name) in &self.endpoints {
            match endpoint {
                Some(endpoint) => service.set(name, endpoint),
                None => service.remove(name),
            }
        }
    }

    /// The pod.
    #[must_use]
    pub const fn pod(&self) -> &Pod {
        &self.pod
    }

    fn runtime(&self, container: &str) -> Result<&Arc<dyn Runtime>, String> {
        self.containers.get(container).ok_or_else(|| {
            format!("nothing was told to run as container {container}: Node::container(\"{container}\", ..)")
        })
    }

    /// Starts the containers one after the other, sidecars first. Startup probes are asked by [`ready`](Self::ready): no
    /// container waits for a sidecar's. The postStart hook runs beside the container's program; the next container is not
    /// started before it has ended, and nothing bounds it (R26).
    ///
    /// # Errors
    ///
    /// When a container does not start, or its postStart hook fails. Then that container was stopped, preStop hook and
    /// all, as the second timeline tells (a real kubelet would start it again).
    pub async fn start(&self) -> Result<Timeline, StartError> {
        let record = Record::new();
        for container in self.pod.running() {
            let name = &container.name;
            let fail = |message: String| StartError {
                message,
                timelines: Vec::new(),
            };
            let runtime = self.runtime(name).map_err(fail)?;
            let started = runtime.start(container).await;
            started.map_err(|why| fail(format!("container {name} did not start: {why}")))?;
            record.note(name, What::Started);
            let Some(handler) = &container.lifecycle.post_start else {
                continue;
            };
            let hook = Hook::PostStart;
            record.note(name, called(hook, handler));
            let call = call(
                self.pod.host_network,
                container,
                Arc::clone(runtime),
                handler,
            );
            match call.await {
                Ok(said) => record.note(name, What::HookEnded { hook, said }),
                Err(why) => {
                    record.note(name, failed(hook, &why));
                    let cause = Cause::PostStartFailed {
                        container: name.clone(),
                    };
                    let started = record.finish(None, Duration::ZERO);
                    return Err(StartError {
                        message: format!("postStart hook of container {name}: {why}"),
                        timelines: vec![started, self.stop(cause).await],
                    });
                }
            }
        }
        Ok(record.finish(None, Duration::ZERO))
    }

    /// Waits until every startup and readiness probe has succeeded once; what has none is ready. Asked every 50 ms, for
    /// a test need not wait for the manifest's period.
    ///
    /// # Errors
    ///
    /// When that is not so after `within`, or a container has ended; the last answer of the probe is in it.
    pub async fn ready(&self, within: Duration) -> Result<(), String> {
        let by = Instant::now() + within;
        for container in self.pod.running() {
            let runtime = self.runtime(&container.name)?;
            let probes = [
                ("startup", &container.startup_probe),
                ("readiness", &container.readiness_probe),
            ];
            for (kind, probe) in probes {
                let Some(probe) = probe else { continue };
                loop {
                    let answer = self.probe(container, &**runtime, probe).await;
                    let Err(why) = answer else { break };
                    let name = &container.name;
                    if Instant::now() >= by {
                        return Err(format!(
                            "{kind} probe of container {name} still fails after {within:?}: {why}"
                        ));
                    }
                    tokio::select! {
                        code = runtime.exited() => {
                            return Err(format!("container {name} ended with {code} before it was ready"));
                        }
                        () = sleep(Duration::from_millis(50)) => {}
                    }
                }
            }
        }
        self.is(Some(Endpoint::READY));
        Ok(())
    }

    /// Stops the pod, or the one container that the cause names, as the kubelet does. Ends when the containers are gone,
    /// which SIGKILL makes sure of.
    ///
    /// Dropping it leaves the containers as they are.
    pub async fn stop(&self, cause: Cause) -> Timeline {
        let grace = cause.grace_period(&self.pod);
        let record = Record::new();
        let containers: Vec<_> = self
            .pod
            .running()
            .filter(|c| cause.only().is_none_or(|only| only == c.name))
            .filter_map(|c| Some((c, self.containers.get(&c.name)?)))
            .collect();
        // A container that is stopped alone has no order to keep.
        let ordered = cause.only().is_none() && self.pod.sidecars().next().is_some();
        let gone: Vec<_> = containers.iter().map(|_| watch::channel(false).0).collect();
        let sidecars = self.pod.sidecars().count();
        let stops = containers
            .iter()
            .enumerate()
            .map(|(i, (container, runtime))| {
                // R20: containers first, then sidecars in reverse.
                let before = match i < sidecars {
                    true => i + 1..containers.len(),
                    false => 0..0,
                };
                let before = || gone[before].iter().map(watch::Sender::subscribe).collect();
                let kill = Kill {
                    container,
                    runtime: Arc::clone(runtime),
                    host_network: self.pod.host_network,
                    grace,
                    turn: ordered.then(before),
                    record: &record,
                };
                let gone = &gone[i];
                async move {
                    kill.run().await;
                    gone.send_replace(true);
                }
            });
        if cause.deletes() {
            self.is(Some(Endpoint::TERMINATING));
        }
        join_all(stops).await;
        match cause.only() {
            None => {
                record.note("", What::SandboxStopped);
                self.is(None);
            }
            Some(_) => self.is(Some(Endpoint {
                serving: false,
                ..Endpoint::READY
            })),
        }
        record.finish(Some(cause), grace)
    }

    async fn probe(
        &self,
        container: &Container,
        runtime: &dyn Runtime,
        probe: &Probe,
    ) -> Result<(), String> {
        let within = Duration::from_secs(probe.timeout_seconds.max(1));
        let asked = async {
            if let Some(get) = &probe.http_get {
                let status = runtime.http_get(get, number(container, &get.port)?).await?;
                return match status {
                    200..400 => Ok(()),
                    _ => Err(format!("httpGet :{}{} says {status}", get.port, get.path)),
                };
            }
            if let Some(exec) = &probe.exec {
                return runtime.exec(&exec.command).await.map(drop);
            }
            if let Some(tcp) = &probe.tcp_socket {
                return runtime.connect(number(container, &tcp.port)?).await;
            }
            Err("it has none of httpGet, exec and tcpSocket (grpc is not modelled)".into())
        };
        let answer = timeout(within, asked).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
    }
}
