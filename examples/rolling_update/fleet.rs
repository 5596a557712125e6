//! The replicas as child processes: started, stopped by a signal to their own pid, waited for.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hyper::{Method, StatusCode};
use prestop::HookSocket;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::call::call;
use crate::cli::{Hook, Strategy};
use crate::kubelet::{Container, GRACE, Hooked, pre_stop};
use crate::registration::Addresses;
use crate::registry::RegistryKind;

/// How long the registry believes in a replica that does not beat.
pub const TTL: Duration = Duration::from_secs(10);
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a replica is told about its surroundings.
#[derive(Clone, Copy)]
pub struct Surroundings {
    pub strategy: Strategy,
    /// The registry, and its address.
    pub kind: RegistryKind,
    pub registry: SocketAddr,
    /// How long it may still be called after it has left the registry.
    pub visibility: Duration,
    pub linger_ms: Option<u64>,
}

/// All children of the harness, oldest first. A child stays in the list until it was waited for.
#[derive(Default)]
pub struct Fleet {
    replicas: VecDeque<Replica>,
    born: usize,
    sockets: Sockets,
}

/// Where the replicas have their hook sockets; gone with the harness.
struct Sockets(PathBuf);

impl Default for Sockets {
    fn default() -> Self {
        let name = format!("rolling-update-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // There is none where no replica had a hook.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Replica {
    name: Name,
    child: Child,
    /// Held open: the child exits when it is closed.
    _stdin: ChildStdin,
    /// Held open too: a child that prints more must not die of it.
    stdout: BufReader<ChildStdout>,
    container: Container,
}

/// What a replica is called: its id in the registry, where it listens, and its pid.
#[derive(Clone, Debug)]
pub struct Name {
    pub id: String,
    pub addresses: Addresses,
    pub pid: Pid,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.id, self.pid.as_raw_nonzero())
    }
}

/// How one replica was stopped.
#[derive(Clone, Debug)]
pub struct Stop {
    pub name: Name,
    /// When the hook began, or else when the signal was sent.
    pub began: Instant,
    /// From then to the end of the process.
    pub took: Duration,
    pub hook: Option<Hooked>,
    pub status: ExitStatus,
    /// The grace period was over and it got SIGKILL.
    pub forced: bool,
}

impl Stop {
    /// How the process ended, in words.
    pub fn ending(&self) -> String {
        ending(self.status)
    }

    pub fn hook_failed(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.said.is_err())
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

impl Fleet {
    /// Starts a replica and waits until it says that it is ready.
    ///
    /// # Errors
    ///
    /// When it can't be started, or is not ready within ten seconds.
    pub async fn start(&mut self, around: Surroundings) -> Result<Name, String> {
        self.born += 1;
        let id = format!("r{}", self.born);
        let socket = self.sockets.0.join(&id).join("hook.sock");
        let replica = spawn(id, around, socket)?;
        let mut name = replica.name.clone();
        self.replicas.push_back(replica);
        let replica = self.replicas.back_mut().expect("a replica was just pushed");
        match timeout(START_LIMIT, replica.ready()).await {
            Ok(Ok(addresses)) => name.addresses = addresses,
            Ok(Err(error)) => return Err(format!("starting replica {name}: {error}")),
            Err(_) => {
                return Err(format!(
                    "replica {name} was not ready within {START_LIMIT:?}"
                ));
            }
        }
        replica.name = name.clone();
        Ok(name)
    }

    /// Stops the oldest replica as `strategy` does, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it had ended by itself, or can't be signalled.
    pub async fn stop_oldest(&mut self, strategy: Strategy) -> Result<Stop, String> {
        self.check_alive()?;
        let replica = self
            .replicas
            .front_mut()
            .ok_or("there is no replica to stop")?;
        let name = replica.name.clone();
        let about = |error: io::Error| format!("stopping replica {name}: {error}");
        let signal = match strategy {
            Strategy::Kill => Signal::KILL,
            Strategy::Exit
            | Strategy::Axum
            | Strategy::AxumSleep
            | Strategy::Prestop
            | Strategy::PrestopAxum
            | Strategy::Hooked(_)
            | Strategy::None => Signal::TERM,
        };
        let began = Instant::now();
        let (hook, left) = pre_stop(strategy.hook(), &replica.container).await;
        // The pid is still this child's: it is only given back by waiting, which happens below.
        kill_process(name.pid, signal).map_err(|error| about(error.into()))?;
        let waited = timeout(left, replica.child.wait()).await;
        let forced = waited.is_err();
        let status = match waited {
            Ok(status) => status.map_err(about)?,
            Err(_) => {
                replica.child.start_kill().map_err(about)?;
                replica.child.wait().await.map_err(about)?
            }
        };
        let took = began.elapsed();
        self.replicas.pop_front();
        Ok(Stop {
            name,
            began,
            took,
            hook,
            status,
            forced,
        })
    }

    /// # Errors
    ///
    /// When a replica has ended that nobody stopped: what it lost must not be put down to the way of stopping.
    pub fn check_alive(&mut self) -> Result<(), String> {
        for replica in &mut self.replicas {
            let name = &replica.name;
            let ended = replica
                .child
                .try_wait()
                .map_err(|error| format!("looking after replica {name}: {error}"))?;
            if let Some(status) = ended {
                return Err(format!(
                    "replica {name} ended by itself, with {}",
                    ending(status)
                ));
            }
        }
        Ok(())
    }

    /// Kills all that are left, by pid, and waits for them.
    pub async fn kill_all(&mut self) {
        for replica in &mut self.replicas {
            // Fails only for a child that has ended, which is what was wanted.
            let _ = replica.child.start_kill();
        }
        while let Some(mut replica) = self.replicas.pop_front() {
            let _ = replica.child.wait().await;
        }
    }
}

impl Replica {
    async fn ready(&mut self) -> Result<Addresses, String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .await
            .map_err(|error| format!("reading its address: {error}"))?;
        let mut addresses = line
            .trim()
            .strip_prefix("listening ")
            .into_iter()
            .flat_map(str::split_whitespace)
            .map_while(|address| address.parse().ok());
        let (Some(http), Some(grpc)) = (addresses.next(), addresses.next()) else {
            return Err(format!(
                "expected \"listening ADDRESS ADDRESS\", it printed {line:?}"
            ));
        };
        self.container.hook_address = addresses.next();
        while call(Method::GET, http, "/readyz", String::new()).await != Ok(StatusCode::OK) {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Addresses { http, grpc })
    }
}

fn spawn(id: String, around: Surroundings, socket: PathBuf) -> Result<Replica, String> {
    let about = |error: io::Error| format!("starting replica {id}: {error}");
    let program = std::env::current_exe().map_err(about)?;
    let mut command = Command::new(program);
    command.arg("replica");
    if let Some(linger) = around.linger_ms {
        command.args(["--linger-ms", &linger.to_string()]);
    }
    let (strategy, hook) = match around.strategy {
        Strategy::Hooked(hook) => (Strategy::Prestop, hook),
        other => (other, Hook::None),
    };
    let mut child = command
        .args(["--strategy", strategy.name()])
        .args(["--hook", hook.name()])
        .args(["--registry", &around.registry.to_string()])
        .args(["--registry-kind", around.kind.name()])
        .args(["--id", &id])
        .args(["--ttl-ms", &TTL.as_millis().to_string()])
        .args([
            "--visibility-ms",
            &around.visibility.as_millis().to_string(),
        ])
        .env(
            "TERMINATION_GRACE_PERIOD_SECONDS",
            GRACE.as_secs().to_string(),
        )
        // What every container in a cluster has; prestop takes its defaults for Kubernetes from it.
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env(HookSocket::VARIABLE, &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A group of its own: Ctrl-C in a terminal goes to the harness alone, which then stops its children.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(about)?;
    // Taken out of the child: waiting for the child would close it first, and so end the replica.
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw)
        .expect("a child that was not waited for has a pid");
    Ok(Replica {
        name: Name {
            id,
            // Until it says better.
            addresses: Addresses {
                http: NOWHERE,
                grpc: NOWHERE,
            },
            pid,
        },
        child,
        _stdin: stdin,
        stdout: BufReader::new(stdout),
        container: Container {
            socket,
            hook_address: None,
        },
    })
}
