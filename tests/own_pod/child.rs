//! The service, in a process of its own: this binary, started again.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use prestop::{GracePeriod, HookName, OwnPod, Phase, ShutdownCoordinator};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fixture::Api;

/// Nothing in these tests takes this long.
const BOUND: Duration = Duration::from_secs(120);

const GRACE: &str = "PRESTOP_TEST_GRACE";
const ACCOUNT: &str = "PRESTOP_TEST_ACCOUNT";
const ASK_MS: &str = "PRESTOP_TEST_ASK_MS";
const SCENE: &str = "PRESTOP_TEST_SCENE";

/// A running child. Killed when it is dropped.
pub struct Service {
    child: tokio::process::Child,
    out: Lines<BufReader<ChildStdout>>,
    /// Read all the time: a full pipe would hold the child up.
    log: JoinHandle<String>,
}

/// How it is started, beside the environment that Kubernetes gives every container.
pub struct Setting {
    /// Of the program.
    pub grace: u64,
    /// `follows`: its stop lasts until the own pod has told the cause. `warned`: or until there was a warning. `idle`: it
    /// has nothing to wait for. `stuck`: with work that never ends.
    pub scene: &'static str,
    pub ask_within: Duration,
    pub vars: Vec<(&'static str, &'static str)>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            grace: 600,
            scene: "follows",
            ask_within: BOUND,
            vars: vec![("POD_NAME", "orders-7d9f"), ("POD_NAMESPACE", "shop")],
        }
    }
}

impl Service {
    /// Returns when it is ready.
    pub async fn start(api: &Api, setting: Setting) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env("KUBERNETES_SERVICE_HOST", api.at.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", api.at.port().to_string())
            .env_remove("POD_UID")
            .env(GRACE, setting.grace.to_string())
            .env(ACCOUNT, api.account.dir())
            .env(ASK_MS, setting.ask_within.as_millis().to_string())
            .env(SCENE, setting.scene)
            .envs(setting.vars);
        let mut service = Self::spawn(command);
        service.says("ready").await;
        service
    }

    /// Outside of a cluster: it only says what it was told.
    pub fn on_a_laptop() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove("KUBERNETES_SERVICE_PORT")
            .env(SCENE, "laptop");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .args(["--exact", "child::child"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut log = String::new();
            stderr.read_to_string(&mut log).await.unwrap();
            log
        });
        Self { child, out, log }
    }

    /// Waits for a line that begins like this; what follows.
    pub async fn says(&mut self, what: &str) -> String {
        let said = async {
            while let Some(line) = self.out.next_line().await.unwrap() {
                // libtest may have begun the line with the test's name.
                let (_, line) = line.split_once("| ").unwrap_or_default();
                if let Some(rest) = line.strip_prefix(what) {
                    return rest.trim_start_matches(": ").to_owned();
                }
            }
            let log = (&mut self.log).await.unwrap();
            panic!("the child ended without saying {what:?}:\n{log}");
        };
        let said = timeout(BOUND, said).await;
        said.unwrap_or_else(|_| panic!("waited {BOUND:?} for the child to say {what:?}"))
    }

    /// Tells it to stop as the kubelet does.
    pub fn stop(&self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.expect("it runs"), Signal::TERM).unwrap();
    }

    /// Stops it, and waits for its end: the exit code, and what it has written to standard error.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        self.stop();
        let ended = timeout(BOUND, self.child.wait()).await;
        let code = ended.expect("the child ends").unwrap().code();
        (code, self.log.await.unwrap())
    }

    /// Stops it: its report, and that its log holds no token.
    pub async fn report(mut self) -> Value {
        self.stop();
        let json = self.says("report").await;
        let report: Value = serde_json::from_str(&json).unwrap();
        let log = timeout(BOUND, self.log).await;
        let log = log.expect("the child ends").unwrap();
        let ended = timeout(BOUND, self.child.wait()).await;
        let code = ended.expect("the child ends").unwrap().code();
        assert_eq!(code, Some(0), "{report:#}\n{log}");
        assert!(log.contains("message=stopped"), "nothing was logged: {log}");
        for secret in ["token-of-the-start", "token-of-the-stop"] {
            assert!(!log.contains(secret) && !json.contains(secret), "{log}");
        }
        report
    }
}

/// The child's program.
#[test]
#[ignore = "the program that the other tests start"]
fn child() {
    let Ok(scene) = std::env::var(SCENE) else {
        return;
    };
    if scene == "laptop" {
        return laptop();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(service(&scene));
}

/// Outside of a cluster.
fn laptop() {
    let error = OwnPod::from_env().unwrap_err();
    assert!(error.is_own_pod());
    say(&format!("refused: {error:?}"));
    let none = OwnPod::from_env_or_none().unwrap();
    assert!(none.is_none());
    // Neither is an error of the builder's.
    drop(ShutdownCoordinator::builder_without_signals().kubernetes(none));
    say("builds");
}

async fn service(scene: &str) {
    let var = |name: &str| std::env::var(name).unwrap();
    tracing::subscriber::set_global_default(ToStderr).unwrap();
    let pod = OwnPod::from_env()
        .unwrap()
        .account_dir(var(ACCOUNT))
        .ask_within(Duration::from_millis(var(ASK_MS).parse().unwrap()));
    let mut builder = ShutdownCoordinator::builder()
        .grace_period(GracePeriod::from_secs(var(GRACE).parse().unwrap()).unwrap())
        .lame_duck(Duration::ZERO)
        .kubernetes(pod);
    let or_warned = scene == "warned";
    if or_warned || scene == "follows" {
        let hook = HookName::new("until the own pod is known").within(BOUND);
        builder = builder.pre_stop(hook, move |cx| async move {
            loop {
                let pod = cx.handle().report().pod.unwrap();
                if pod.cause.is_some() || or_warned && !pod.warnings.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let c = builder.build().unwrap();
    let h = c.handle();
    let stuck = h.clone();
    let _stuck = (scene == "stuck").then(|| stuck.guard("stuck").unwrap());
    let watched = h.clone();
    tokio::spawn(async move {
        watched.wait_for(Phase::Ready).await;
        say("ready");
        let mut said = 0;
        loop {
            let warnings = watched.report().pod.map(|pod| pod.warnings);
            for warning in warnings.iter().flatten().skip(said) {
                say(&format!("warning: {warning}"));
                said += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let report = c.run(h.draining()).await.unwrap();
    say(&format!(
        "report: {}",
        serde_json::to_string(&report).unwrap()
    ));
    report.exit()
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "| {what}")
        .and_then(|()| out.flush())
        .unwrap();
}

/// Everything that is logged, by anybody.
struct ToStderr;

struct Append(String);

impl Visit for Append {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for ToStderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Append(String::new());
        span.record(&mut line);
        eprintln!("{}", line.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let about = event.metadata();
        let mut line = Append(format!("{} {}:", about.level(), about.target()));
        event.record(&mut line);
        eprintln!("{}", line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
