//! The command line: what a user may choose, and the hidden role of a replica.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::registry::RegistryKind;

/// Replaces the replicas of a small service under load, once per way of stopping, and counts what is lost.
///
/// Starts a gateway, a registry and, as child processes, the replicas, all on 127.0.0.1. Sends requests through the
/// gateway at a fixed rate and replaces the replicas one by one as a Kubernetes Deployment does (maxSurge 1,
/// maxUnavailable 0). Nothing is retried, and the gateway, like kube-proxy, learns of a change one second late.
///
/// Exit code: 0 when `prestop` lost nothing, 1 when it lost a request, or with a hook needed SIGKILL or its hook failed (or `prestop-axum` did, or the control `none`),
/// 2 when the run could not be made, 130 when it was interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "rolling_update",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Option<Role>,
    #[command(flatten)]
    pub options: Options,
}

/// The same binary plays both parts, so that a replica is a real process with real signals.
#[derive(Debug, Subcommand)]
pub enum Role {
    #[command(hide = true)]
    Replica(ReplicaArgs),
}

#[derive(Debug, Args)]
pub struct Options {
    /// How the replicas are stopped; repeat it for several [default: kill, exit, axum, prestop]
    #[arg(long = "strategy", value_name = "NAME", value_enum)]
    strategies: Vec<Strategy>,

    /// The preStop hook of `prestop`'s replicas: it runs first, then comes SIGTERM; repeat it for several
    #[arg(
        long = "hook",
        value_name = "STYLE",
        value_enum,
        conflicts_with = "strategies"
    )]
    hooks: Vec<Hook>,

    /// The registry that the replicas are in; all but `memory` need their server on PATH, or where `.ci/nacos` and `.ci/eureka` put it
    #[arg(long, value_name = "NAME", value_enum, default_value_t = RegistryKind::Memory)]
    pub registry: RegistryKind,

    /// Requests per second, all kinds of clients together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,

    /// This many mostly idle keep-alive clients in place of the mix; each sends a request every 1 to 5 s
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub idle: Option<u32>,

    /// Replicas of the service
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,

    /// Replicas replaced, per strategy [default: each once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub stops: Option<u16>,

    /// How long prestop keeps idle connections readable in the drain, in milliseconds [default: the crate's]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=20_000))]
    pub linger: Option<u64>,

    /// Shortest time the load lasts, per strategy
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,

    /// One-way network delay between the gateway's clients and the replicas, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=500))]
    pub delay: u64,

    /// Repeats the requests of an earlier run [default: a new one, printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// The gateway's port on 127.0.0.1; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,

    /// Writes the table there as JSON: one array, one object per strategy and client
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// The strategies to run, in order and each once.
    pub fn strategies(&self) -> Vec<Strategy> {
        if !self.hooks.is_empty() {
            return self
                .hooks
                .iter()
                .map(|hook| Strategy::Hooked(*hook))
                .collect();
        }
        if self.strategies.is_empty() {
            return vec![
                Strategy::Kill,
                Strategy::Exit,
                Strategy::Axum,
                Strategy::Prestop,
            ];
        }
        let mut chosen = Vec::new();
        for &strategy in &self.strategies {
            if !chosen.contains(&strategy) {
                chosen.push(strategy);
            }
        }
        chosen
    }
}

/// How an old replica is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// SIGKILL
    Kill,
    /// SIGTERM to a process that does not handle it
    Exit,
    /// SIGTERM, `axum::serve(..).with_graceful_shutdown(..)` and tonic's own, out of the registry at once
    Axum,
    /// The same, five seconds after it has left the registry, as with a preStop `sleep 5`
    AxumSleep,
    /// SIGTERM, this crate: its own loop, and stock tonic
    Prestop,
    /// SIGTERM, this crate around stock `axum::serve(..)` and stock tonic
    PrestopAxum,
    /// Nothing is replaced: shows that gateway and clients lose nothing by themselves
    None,
    /// A preStop hook, SIGTERM, this crate: `coordinator.serve(..)`
    #[value(skip)]
    Hooked(Hook),
}

/// What a manifest has under `preStop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// `exec`: the service's own binary
    ExecOwn,
    /// `exec`: the helper, `prestop hook`
    ExecHelper,
    /// `httpGet` on the probe listener, with the token
    Http,
    /// `sleep`: five seconds, of which the replica was told
    Sleep,
    /// Nothing: SIGTERM comes at once
    None,
}

impl Hook {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExecOwn => "exec-own",
            Self::ExecHelper => "exec-helper",
            Self::Http => "http",
            Self::Sleep => "sleep",
            Self::None => "none",
        }
    }
}

impl Strategy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Exit => "exit",
            Self::Axum => "axum",
            Self::AxumSleep => "axum-sleep",
            Self::Prestop => "prestop",
            Self::PrestopAxum => "prestop-axum",
            Self::None => "none",
            Self::Hooked(Hook::ExecOwn) => "prestop+exec-own",
            Self::Hooked(Hook::ExecHelper) => "prestop+exec-helper",
            Self::Hooked(Hook::Http) => "prestop+http",
            Self::Hooked(Hook::Sleep) => "prestop+sleep",
            Self::Hooked(Hook::None) => "prestop+none",
        }
    }

    /// What happens to an old replica, for the progress lines.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Exit => "SIGTERM, no handler: the process dies at once",
            Self::Axum => {
                "SIGTERM, leaves the registry, axum::serve(..).with_graceful_shutdown(..), tonic likewise"
            }
            Self::AxumSleep => {
                "SIGTERM, leaves the registry, serves on for 5 s, axum::serve(..).with_graceful_shutdown(..)"
            }
            Self::Prestop => "SIGTERM, prestop",
            Self::PrestopAxum => "SIGTERM, prestop around stock axum::serve",
            Self::None => "nothing is replaced",
            Self::Hooked(Hook::ExecOwn) => "preStop exec [APP, prestop], then SIGTERM, prestop",
            Self::Hooked(Hook::ExecHelper) => "preStop exec [prestop, hook], then SIGTERM, prestop",
            Self::Hooked(Hook::Http) => "preStop httpGet /prestop, then SIGTERM, prestop",
            Self::Hooked(Hook::Sleep) => "preStop sleep 5, then SIGTERM, prestop",
            Self::Hooked(Hook::None) => "no preStop hook, SIGTERM, prestop",
        }
    }

    /// Whether the replica takes itself out of the registry. If not, its entry stays until the TTL is over.
    pub const fn leaves_registry(self) -> bool {
        match self {
            Self::Axum
            | Self::AxumSleep
            | Self::Prestop
            | Self::PrestopAxum
            | Self::None
            | Self::Hooked(_) => true,
            Self::Kill | Self::Exit => false,
        }
    }

    /// The hook that comes before the signal.
    pub const fn hook(self) -> Hook {
        match self {
            Self::Hooked(hook) => hook,
            _ => Hook::None,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the harness tells a replica.
#[derive(Clone, Debug, Args)]
pub struct ReplicaArgs {
    #[arg(long, value_enum)]
    pub strategy: Strategy,
    /// The registry's address.
    #[arg(long)]
    pub registry: SocketAddr,
    #[arg(long, value_enum)]
    pub registry_kind: RegistryKind,
    /// This instance's id in the registry.
    #[arg(long)]
    pub id: String,
    /// How long the registry believes in the instance without a heartbeat.
    #[arg(long)]
    pub ttl_ms: u64,
    /// How long clients may still call after the instance has left the registry.
    #[arg(long)]
    pub visibility_ms: u64,
    /// How long prestop keeps idle connections readable.
    #[arg(long)]
    pub linger_ms: Option<u64>,
    /// The hook in its manifest.
    #[arg(long, value_enum)]
    pub hook: Hook,
}
