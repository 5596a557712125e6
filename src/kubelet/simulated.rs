//! [`Simulated`]: a container made of futures, on any clock.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

use super::manifest::{Container, HttpGet};
use super::runtime::Runtime;

/// 128 + SIGKILL.
const KILLED: i32 = 137;

type Program = Arc<dyn Fn(StopSignal) -> BoxFuture<'static, i32> + Send + Sync>;
type OnExec = Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
type OnHttp = Arc<dyn Fn(HttpGet) -> BoxFuture<'static, Result<u16, String>> + Send + Sync>;

/// A container made of futures: no process, no socket, and on tokio's paused clock no time.
///
/// As it is made it exits with 0 as soon as it gets the stop signal, and its hooks succeed at once.
#[derive(Clone)]
pub struct Simulated {
    program: Program,
    on_exec: OnExec,
    on_http: OnHttp,
    signalled: watch::Sender<bool>,
    ended: watch::Sender<Option<i32>>,
}

/// The stop signal, for the future of a [`Simulated`] container.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Resolves when the signal has come; at once if it has.
    pub async fn received(&mut self) {
        if self.0.wait_for(|signalled| *signalled).await.is_err() {
            // The container is gone with its signals.
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated")
            .field("signalled", &*self.signalled.borrow())
            .field("ended", &*self.ended.borrow())
            .finish_non_exhaustive()
    }
}

impl Default for Simulated {
    fn default() -> Self {
        Self::new(|mut signal: StopSignal| async move {
            signal.received().await;
            0
        })
    }
}

impl Simulated {
    /// A container whose program is this future; its output is the exit code.
    pub fn new<F, Fut>(program: F) -> Self
    where
        F: Fn(StopSignal) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = i32> + Send + 'static,
    {
        Self {
            program: Arc::new(move |signal| program(signal).boxed()),
            on_exec: Arc::new(|_| async { Ok(()) }.boxed()),
            on_http: Arc::new(|_| async { Ok(200) }.boxed()),
            signalled: watch::Sender::new(false),
            ended: watch::Sender::new(None),
        }
    }

    /// Exits with 0 that long after the stop signal.
    #[must_use]
    pub fn exits_after(length: Duration) -> Self {
        Self::new(move |mut signal: StopSignal| async move {
            signal.received().await;
            sleep(length).await;
            0
        })
    }

    /// Does nothing on the stop signal: PID 1 without a handler, or a shell that does not hand it on.
    #[must_use]
    pub fn ignores_the_signal() -> Self {
        Self::new(|_| std::future::pending())
    }

    /// What its `exec` hooks and probes do.
    #[must_use]
    pub fn on_exec<F, Fut>(mut self, exec: F) -> Self
    where
        F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.on_exec = Arc::new(move |command| exec(command).boxed());
        self
    }

    /// What its `httpGet` hooks and probes answer.
    #[must_use]
    pub fn on_http<F, Fut>(mut self, http: F) -> Self
    where
        F: Fn(HttpGet) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<u16, String>> + Send + 'static,
    {
        self.on_http = Arc::new(move |get| http(get).boxed());
        self
    }

    /// Its `exec` hooks take so long, and succeed.
    #[must_use]
    pub fn hook_takes(self, length: Duration) -> Self {
        self.on_exec(move |_| async move {
            sleep(length).await;
            Ok(())
        })
    }

    /// Its `exec` hooks fail after so long.
    #[must_use]
    pub fn hook_fails_after(self, length: Duration) -> Self {
        self.on_exec(move |_| async move {
            sleep(length).await;
            Err("exited with 1".to_owned())
        })
    }

    /// Its `exec` hooks never come back.
    #[must_use]
    pub fn hook_hangs(self) -> Self {
        self.on_exec(|_| std::future::pending())
    }

    fn end(&self, code: i32) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(code);
            first
        });
    }
}

#[async_trait]
impl Runtime for Simulated {
    async fn start(&self, _: &Container) -> Result<(), String> {
        let program = (self.program)(StopSignal(self.signalled.subscribe()));
        let (this, mut ended) = (self.clone(), self.ended.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                code = program => this.end(code),
                _ = ended.wait_for(Option::is_some) => {}
            }
        });
        Ok(())
    }

    async fn exec(&self, command: &[String]) -> Result<String, String> {
        (self.on_exec)(command.to_vec()).await?;
        Ok(String::new())
    }

    async fn http_get(&self, get: &HttpGet, _: u16) -> Result<u16, String> {
        (self.on_http)(get.clone()).await
    }

    async fn connect(&self, _: u16) -> Result<(), String> {
        Ok(())
    }

    fn signal(&self) {
        self.signalled.send_replace(true);
    }

    fn kill(&self) {
        self.end(KILLED);
    }

    async fn exited(&self) -> i32 {
        let mut ended = self.ended.subscribe();
        let code = ended.wait_for(Option::is_some).await;
        // The sender is in `self`.
        code.ok().and_then(|code| *code).unwrap_or(KILLED)
    }
}
