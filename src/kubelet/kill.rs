//! The stop of one container, and the calls of its hooks: the kubelet's `killContainer`, rules R9 to R16 and R22 to R26.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::grace::MINIMUM;
use super::manifest::{Container, Handler, Port};
use super::runtime::Runtime;
use super::timeline::{Hook, Record, What};

/// A container that is to be stopped.
pub(super) struct Kill<'a> {
    pub(super) container: &'a Container,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) host_network: bool,
    pub(super) grace: Duration,
    /// In a pod with sidecars: those that must be gone before this one is told (R20).
    pub(super) turn: Option<Vec<watch::Receiver<bool>>>,
    pub(super) record: &'a Record,
}

impl Kill<'_> {
    /// Ends when the container is gone.
    pub(super) async fn run(mut self) {
        let turn = self.turn.take();
        let (name, record) = (&self.container.name, self.record);
        let until_signal = self.until_signal(turn);
        let exit = async {
            let code = self.runtime.exited().await;
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
        self.runtime.signal();
        if timeout(left, &mut exit).await.is_err() {
            record.note(name, What::Killed);
            self.runtime.kill();
            exit.await;
        }
    }

    /// The preStop hook, and the turn among the sidecars; what is left for the stop signal then.
    async fn until_signal(&self, turn: Option<Vec<watch::Receiver<bool>>>) -> Duration {
        let (name, record) = (&self.container.name, self.record);
        let mut left = self.grace;
        if let Some(handler) = &self.container.lifecycle.pre_stop
            && left > Duration::ZERO
        {
            let hook = Hook::PreStop;
            let since = record.elapsed();
            record.note(name, called(hook, handler));
            // A task of its own, for the kubelet does not cancel it when its time is over (R13).
            let runtime = Arc::clone(&self.runtime);
            let call = tokio::spawn(call(self.host_network, self.container, runtime, handler));
            match timeout(left, call).await {
                Ok(Ok(Ok(said))) => record.note(name, What::HookEnded { hook, said }),
                Ok(Ok(Err(why))) => record.note(name, failed(hook, &why)),
                Ok(Err(panic)) => record.note(name, failed(hook, &panic.to_string())),
                Err(_) => record.note(name, What::HookAbandoned),
            }
            left = left.saturating_sub(whole_seconds(record.elapsed() - since));
        }
        if let Some(before) = turn
            && left > Duration::ZERO
        {
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
    }
}

/// Calls a hook, and gives what it said; ends with the container at the latest, except for `sleep`, which is the
/// kubelet's own (R25).
pub(super) fn call(
    host_network: bool,
    container: &Container,
    runtime: Arc<dyn Runtime>,
    handler: &Handler,
) -> impl Future<Output = Result<String, String>> + Send + 'static {
    let (container, handler) = (container.clone(), handler.clone());
    async move {
        let call = async {
            match &handler {
                Handler::Exec { command } => runtime.exec(command).await,
                Handler::HttpGet(get) if host_network && get.host.is_none() => {
                    // R24
                    let why = "a pod on the host's network has no address of its own: set `host: 127.0.0.1`";
                    Err(why.to_owned())
                }
                Handler::HttpGet(get) => {
                    let port = number(&container, &get.port)?;
                    let status = runtime.http_get(get, port).await?;
                    // Whatever the status, it is a success (R23). It is said, for it may not be what was wanted.
                    let known = http::StatusCode::from_u16(status);
                    Ok(known.map_or_else(|_| status.to_string(), |known| known.to_string()))
                }
                Handler::TcpSocket { .. } => {
                    Err("invalid handler: tcpSocket is none for a hook".to_owned())
                }
                Handler::Sleep { seconds } => {
                    sleep(Duration::from_secs(*seconds)).await;
                    Ok(String::new())
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

pub(super) fn called(hook: Hook, handler: &Handler) -> What {
    let handler = handler.to_string();
    What::HookCalled { hook, handler }
}

pub(super) fn failed(hook: Hook, why: &str) -> What {
    let why = why.to_owned();
    What::HookFailed { hook, why }
}

pub(super) fn number(container: &Container, port: &Port) -> Result<u16, String> {
    container
        .port(port)
        .ok_or_else(|| format!("container {} has no port named {port}", container.name))
}

/// R11: what is over a whole second is given back.
const fn whole_seconds(elapsed: Duration) -> Duration {
    Duration::from_secs(elapsed.as_secs())
}
