//! [`Node`]: one pod, and the kubelet's part in its life.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::grace::{Cause, MINIMUM};
use super::manifest::{self, Handler, HttpGet, Pod, Probe};
use super::timeline::{Hook, Record, Timeline, What};

/// A container as the kubelet sees it through its runtime: [`Simulated`](super::Simulated) on any clock,
/// [`Program`](super::Program) for a real process.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Starts it. Returns when the program was started, not when it is ready (R26).
    ///
    /// # Errors
    ///
    /// When there is nothing to start.
    async fn start(&self, container: &manifest::Container) -> Result<(), String>;

    /// Runs a command in it: `exec` hooks and probes. Not cancelled by the kubelet when it takes too long (R13).
    ///
    /// # Errors
    ///
    /// When it exits with anything but 0, or the container ends before.
    async fn exec(&self, command: &[String]) -> Result<(), String>;

    /// A GET request: `httpGet` hooks and probes. `port` is the number in the manifest.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    async fn http_get(&self, get: &HttpGet, port: u16) -> Result<u16, String>;

    /// Connects to a port: TCP probes. `port` is the number in the manifest.
    ///
    /// # Errors
    ///
    /// When nothing accepts there.
    async fn connect(&self, port: u16) -> Result<(), String>;

    /// The stop signal, to PID 1: SIGTERM, or what the image says.
    fn signal(&self);

    /// SIGKILL.
    fn kill(&self);

    /// Waits for its end. The exit code, 128 + n after signal n. Asked by several at a time, and after its end.
    async fn exited(&self) -> i32;
}

/// A pod on a node, and the kubelet.
pub struct Node {
    pod: Pod,
    containers: BTreeMap<String, Arc<dyn Runtime>>,
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

    /// Starts the containers one after the other: sidecars first, each with its startup probe, then the others. The
    /// postStart hook runs beside the container's program; the next container is not started before it has ended, and
    /// nothing bounds it (R26).
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
            match self.call(container, runtime.clone(), handler).await {
                Ok(()) => record.note(name, What::HookEnded { hook }),
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
                let before = match ordered {
                    true if i < sidecars => i + 1..containers.len(),
                    _ => 0..0,
                };
                let before: Vec<_> = gone[before].iter().map(watch::Sender::subscribe).collect();
                let (record, gone) = (&record, &gone[i]);
                async move {
                    let runtime = Arc::clone(runtime);
                    self.kill_container(container, runtime, grace, ordered, before, record)
                        .await;
                    gone.send_replace(true);
                }
            });
        join_all(stops).await;
        if cause.only().is_none() {
            record.note("", What::SandboxStopped);
        }
        record.finish(Some(cause), grace)
    }

    /// The kubelet's `killContainer`, rules R9 to R16.
    async fn kill_container(
        &self,
        container: &manifest::Container,
        runtime: Arc<dyn Runtime>,
        grace: Duration,
        ordered: bool,
        before: Vec<watch::Receiver<bool>>,
        record: &Record,
    ) {
        let name = &container.name;
        let until_signal = async {
            let mut left = grace;
            if let Some(handler) = &container.lifecycle.pre_stop
                && left > Duration::ZERO
            {
                let hook = Hook::PreStop;
                let since = record.elapsed();
                record.note(name, called(hook, handler));
                // A task of its own, for the kubelet does not cancel it when its time is over (R13).
                let call = tokio::spawn(self.call(container, runtime.clone(), handler));
                match timeout(left, call).await {
                    Ok(Ok(Ok(()))) => record.note(name, What::HookEnded { hook }),
                    Ok(Ok(Err(why))) => record.note(name, failed(hook, &why)),
                    Ok(Err(panic)) => record.note(name, failed(hook, &panic.to_string())),
                    Err(_) => record.note(name, What::HookAbandoned),
                }
                left = left.saturating_sub(whole_seconds(record.elapsed() - since));
            }
            if ordered && left > Duration::ZERO {
                let since = record.elapsed();
                let all_gone = async {
                    for mut gone in before {
                        // The sender is kept until all have stopped.
                        let _ = gone.wait_for(|gone| *gone).await;
                    }
                };
                let _ = timeout(left, all_gone).await;
                left = left.saturating_sub(whole_seconds(record.elapsed() - since));
            }
            left.max(Duration::from_secs(MINIMUM))
        };
        let exit = async {
            let code = runtime.exited().await;
            record.note(name, What::Exited { code });
        };
        tokio::pin!(until_signal, exit);
        let mut has_exited = false;
        let left = loop {
            tokio::select! {
                biased;
                // A container that ends during its hook is noted then; the kubelet waits for the hook all the same.
                () = &mut exit, if !has_exited => has_exited = true,
                left = &mut until_signal => break left,
            }
        };
        if has_exited {
            return;
        }
        record.note(name, What::Signalled { timeout: left });
        runtime.signal();
        if timeout(left, &mut exit).await.is_err() {
            record.note(name, What::Killed);
            runtime.kill();
            exit.await;
        }
    }

    /// Calls a hook; ends with the container at the latest, except for `sleep`, which is the kubelet's own (R25).
    fn call(
        &self,
        container: &manifest::Container,
        runtime: Arc<dyn Runtime>,
        handler: &Handler,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (host_network, container, handler) =
            (self.pod.host_network, container.clone(), handler.clone());
        async move {
            let call = async {
                match &handler {
                    Handler::Exec { command } => runtime.exec(command).await,
                    Handler::HttpGet(get) if host_network && get.host.is_none() => {
                        // R24
                        let why = "a pod on the host's network has no address of its own: set `host: 127.0.0.1`";
                        Err(why.to_owned())
                    }
                    // Whatever the status, it is a success (R23).
                    Handler::HttpGet(get) => runtime
                        .http_get(get, number(&container, &get.port)?)
                        .await
                        .map(drop),
                    Handler::TcpSocket { .. } => {
                        Err("invalid handler: tcpSocket is none for a hook".to_owned())
                    }
                    Handler::Sleep { seconds } => {
                        sleep(Duration::from_secs(*seconds)).await;
                        Ok(())
                    }
                }
            };
            if let Handler::Sleep { .. } = handler {
                return call.await;
            }
            tokio::select! {
                biased;
                done = call => done,
                code = runtime.exited() => Err(format!("the container ended with {code} meanwhile")),
            }
        }
    }

    async fn probe(
        &self,
        container: &manifest::Container,
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
                return runtime.exec(&exec.command).await;
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

fn called(hook: Hook, handler: &Handler) -> What {
    let handler = handler.to_string();
    What::HookCalled { hook, handler }
}

fn failed(hook: Hook, why: &str) -> What {
    let why = why.to_owned();
    What::HookFailed { hook, why }
}

fn number(container: &manifest::Container, port: &manifest::Port) -> Result<u16, String> {
    container
        .port(port)
        .ok_or_else(|| format!("container {} has no port named {port}", container.name))
}

/// R11: what is over a whole second is given back.
const fn whole_seconds(elapsed: Duration) -> Duration {
    Duration::from_secs(elapsed.as_secs())
}
