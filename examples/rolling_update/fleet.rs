//! The replicas: pods of one container, which is a child process, started and stopped by the kubelet's rules.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use prestop::kubelet::{Cause, Node, Program, Runtime, Timeline, What};
use tokio::time::Instant;

use crate::cli::Strategy;
use crate::pod::{CONTAINER, GRPC, HTTP, pod, program};
use crate::registration::Addresses;
use crate::registry::RegistryKind;

/// How long the registry believes in a replica that does not beat.
pub const TTL: Duration = Duration::from_secs(10);
/// A busy machine is no reason to give up.
const START_LIMIT: Duration = Duration::from_secs(60);
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

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
    node: Node,
    program: Program,
}

/// What a replica is called: its id in the registry, where it listens, and its pid.
#[derive(Clone, Debug)]
pub struct Name {
    pub id: String,
    pub addresses: Addresses,
    pub pid: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.id, self.pid)
    }
}

/// How one replica was stopped.
#[derive(Clone, Debug)]
pub struct Stop {
    pub name: Name,
    /// When the hook began, or else when the signal was sent.
    pub began: Instant,
    pub timeline: Timeline,
}

impl Stop {
    /// From the beginning to the end of the process.
    pub fn took(&self) -> Duration {
        self.timeline.exited(CONTAINER).unwrap_or_default()
    }

    /// The grace period was over and it got SIGKILL.
    pub fn forced(&self) -> bool {
        self.timeline.was_killed()
    }

    /// How the process ended, in words.
    pub fn ending(&self) -> String {
        ending(self.timeline.exit_code(CONTAINER))
    }

    /// The preStop hook, if there was one.
    pub fn hook(&self) -> Option<Hooked<'_>> {
        let mut called = Duration::ZERO;
        self.timeline.events.iter().find_map(|e| {
            let said = match &e.what {
                What::HookCalled { .. } => {
                    called = e.at;
                    return None;
                }
                What::HookEnded { said, .. } => hook_said(said),
                // Nothing was in flight any more, and the hook had no time to come back: no fault of either.
                What::HookFailed { .. } if self.has_ended_by_its_hook() => Ok("ended with it"),
                What::HookFailed { why, .. } => Err(why.as_str()),
                What::HookAbandoned => Err("it took longer than the grace period"),
                _ => return None,
            };
            let took = e.at.saturating_sub(called);
            Some(Hooked { took, said })
        })
    }

    fn has_ended_by_its_hook(&self) -> bool {
        let told = self.timeline.signalled(CONTAINER);
        told.is_none() && self.timeline.exit_code(CONTAINER) == Some(0)
    }

    pub fn hook_failed(&self) -> bool {
        self.hook().is_some_and(|hook| hook.said.is_err())
    }
}

/// How the hook of one replica went.
pub struct Hooked<'a> {
    pub took: Duration,
    /// What it said, or how it failed.
    pub said: Result<&'a str, &'a str>,
}

/// Any answer to an `httpGet` hook is a success for the kubelet (R23), but not here.
fn hook_said(said: &str) -> Result<&str, &str> {
    match said.split(' ').next().map(str::parse::<u16>) {
        Some(Ok(300..)) => Err(said),
        _ => Ok(said),
    }
}

fn ending(code: Option<i32>) -> String {
    match code {
        Some(code @ ..=128) => format!("exit code {code}"),
        Some(code) => format!("signal {}", code - 128),
        None => "nothing".to_owned(),
    }
}

impl Fleet {
    /// Starts a replica and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it can't be started, or is not ready within a minute.
    pub async fn start(&mut self, around: Surroundings) -> Result<Name, String> {
        self.born += 1;
        let id = format!("r{}", self.born);
        let socket = self.sockets.0.join(&id).join("hook.sock");
        let about = |error: String| format!("starting replica {id}: {error}");
        let program = program(&id, around, socket).map_err(about)?;
        let node = Node::new(pod(around.strategy.hook())?).container(CONTAINER, program.clone());
        let started = node.start().await;
        started.map_err(|error| about(error.to_string()))?;
        // Until it has said better.
        let addresses = Addresses {
            http: NOWHERE,
            grpc: NOWHERE,
        };
        let name = Name {
            pid: program.id().unwrap_or_default(),
            id: id.clone(),
            addresses,
        };
        let replica = Replica {
            name,
            node,
            program,
        };
        self.replicas.push_back(replica);
        let replica = self.replicas.back_mut().expect("it was just pushed");
        replica.node.ready(START_LIMIT).await.map_err(about)?;
        // Its probe has waited for the same line.
        replica.name.addresses = Addresses {
            http: replica.program.here(HTTP).await.map_err(about)?,
            grpc: replica.program.here(GRPC).await.map_err(about)?,
        };
        Ok(replica.name.clone())
    }

    /// Stops the oldest replica as a deletion does, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it had ended by itself.
    pub async fn stop_oldest(&mut self) -> Result<Stop, String> {
        self.check_alive()?;
        let oldest = self.replicas.front();
        let replica = oldest.ok_or("there is no replica to stop")?;
        let began = Instant::now();
        let timeline = replica.node.stop(Cause::delete()).await;
        let name = replica.name.clone();
        self.replicas.pop_front();
        Ok(Stop {
            name,
            began,
            timeline,
        })
    }

    /// # Errors
    ///
    /// When a replica has ended that nobody stopped: what it lost must not be put down to the way of stopping.
    pub fn check_alive(&self) -> Result<(), String> {
        for Replica { name, program, .. } in &self.replicas {
            if let Some(code) = program.exit_code() {
                let how = ending(Some(code));
                return Err(format!("replica {name} ended by itself, with {how}"));
            }
        }
        Ok(())
    }

    /// Kills all that are left, by pid, and waits for them.
    pub async fn kill_all(&mut self) {
        for replica in &self.replicas {
            replica.program.kill();
        }
        while let Some(replica) = self.replicas.pop_front() {
            replica.program.exited().await;
        }
    }
}
