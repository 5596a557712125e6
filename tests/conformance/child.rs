//! A service in a process of its own: this binary, started again. It registers one instance and says how it gets on.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use prestop::registry::{Instance, Registration, Registry, RegistryError};
use prestop::{Deadline, GracePeriod, ShutdownCoordinator, ShutdownReport};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fixture::Fixture;
use crate::server::BOUND;

const REGISTRY: &str = "PRESTOP_TEST_REGISTRY";
const TTL: &str = "PRESTOP_TEST_TTL_MS";
const SERVICE: &str = "PRESTOP_TEST_SERVICE";
const ADDRESS: &str = "PRESTOP_TEST_ADDRESS";
const SCENE: &str = "PRESTOP_TEST_SCENE";

/// A running child. Killed when it is dropped.
pub struct Process {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// `module` is the test module with the `child` to start.
    pub fn start(
        module: &str,
        registry: SocketAddr,
        ttl: Duration,
        service: &str,
        address: SocketAddr,
        scene: &str,
    ) -> Self {
        // libtest leaves the crate's name out.
        let test = module.split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{test}::child")])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(REGISTRY, registry.to_string())
            .env(TTL, ttl.as_millis().to_string())
            .env(SERVICE, service)
            .env(ADDRESS, address.to_string())
            .env(SCENE, scene)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, out }
    }

    /// Waits until it says this.
    pub async fn says(&mut self, what: &str) {
        let said = async {
            while let Some(line) = self.out.next_line().await.unwrap() {
                if line.ends_with(&format!("| {what}")) {
                    return;
                }
            }
            panic!("the child ended without saying {what:?}");
        };
        let said = timeout(BOUND, said).await;
        said.unwrap_or_else(|_| panic!("waited {BOUND:?} for the child to say {what:?}"));
    }

    /// Writes it a line.
    pub async fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        let line = format!("{line}\n");
        stdin.write_all(line.as_bytes()).await.unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn send(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.expect("it runs"), signal).unwrap();
    }

    /// Its exit code; `None` when a signal ended it.
    pub async fn ended(mut self) -> Option<i32> {
        let ended = timeout(BOUND, self.child.wait()).await;
        ended.expect("the child ends").unwrap().code()
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "| {what}")
        .and_then(|()| out.flush())
        .unwrap();
}

/// Says when the instance is registered: others may see it before this process has read the answer.
struct Telling(Box<dyn Registry>);

#[async_trait::async_trait]
impl Registry for Telling {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn visibility(&self) -> Duration {
        self.0.visibility()
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let registered = self.0.register(instance, by).await;
        if registered.is_ok() {
            say("registered");
        }
        registered
    }
}

/// The child's program.
pub fn main<F: Fixture>() {
    let Ok(scene) = std::env::var(SCENE) else {
        return;
    };
    let var = |name: &str| std::env::var(name).unwrap();
    let ttl = Duration::from_millis(var(TTL).parse().unwrap());
    let instance = Instance::new(var(SERVICE), var(ADDRESS).parse().unwrap());
    // A short plan for one that the watchdog ends, with as much time for the last gasp as there ever is.
    let grace = if scene == "blocked" { 4 } else { 30 };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let c = ShutdownCoordinator::builder()
            .grace_period(GracePeriod::from_secs(grace).unwrap())
            .registry(
                Telling(F::registry(var(REGISTRY).parse().unwrap(), ttl)),
                instance,
            )
            .build()
            .unwrap();
        let h = c.handle();
        let told = async {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            match lines.next_line().await.unwrap().as_deref() {
                Some("panic") => panic!("as it was told"),
                // The only thread there is, for good.
                Some("block") => {
                    say("blocked");
                    loop {
                        std::thread::park();
                    }
                }
                _ => std::future::pending::<ShutdownReport>().await,
            }
        };
        let report = tokio::select! {
            report = c.run(h.draining()) => report.unwrap(),
            report = told => report,
        };
        say(&report.registries[0].outcome.to_string());
        report.exit()
    });
}
