//! The registry that the replicas are in: the embedded one, or a real server as a child process. Who is listed is read
//! by a client that shares nothing with the adapter in the replicas.
//!
//! A further kind is a file with a [`Backend`], and its lines in [`RegistryKind`].

mod consul;
mod etcd;
mod eureka;
mod jute;
mod nacos;
mod raw;
mod server;
mod zookeeper;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clap::ValueEnum;
use prestop::registry::memory::{MemoryRegistry, MemoryRegistryClient};
use prestop::registry::{Registry, RegistryError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fleet::TTL;
use crate::gateway::Listed;
use server::Server;

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RegistryKind {
    /// The embedded one, in this process
    Memory,
    /// A Consul agent
    Consul,
    /// A member of etcd
    Etcd,
    /// A ZooKeeper server
    Zookeeper,
    /// A Nacos server
    Nacos,
    /// A Eureka server
    Eureka,
}

impl RegistryKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Zookeeper => "zookeeper",
            Self::Nacos => "nacos",
            Self::Eureka => "eureka",
        }
    }

    fn backend(self) -> Option<&'static dyn Backend> {
        match self {
            Self::Memory => None,
            Self::Consul => Some(&consul::Consul),
            Self::Etcd => Some(&etcd::Etcd),
            Self::Zookeeper => Some(&zookeeper::ZooKeeper),
            Self::Nacos => Some(&nacos::Nacos),
            Self::Eureka => Some(&eureka::Eureka),
        }
    }

    /// How late the gateway may hear of a change: none is late that it reads itself.
    pub fn lag(self) -> Duration {
        match self {
            Self::Memory => Duration::ZERO,
            // A watch takes milliseconds; a busy machine takes its time to give this process the processor.
            Self::Consul | Self::Etcd | Self::Zookeeper => Duration::from_millis(300),
            // It tells its clients half a second late.
            Self::Nacos => Duration::from_millis(1_000),
            Self::Eureka => eureka::FETCH + Duration::from_millis(300),
        }
    }

    /// How long an instance stays listed that does not leave.
    pub fn expiry(self) -> Duration {
        match self {
            Self::Memory | Self::Consul | Self::Etcd | Self::Zookeeper => TTL,
            // It looks each 5 s.
            Self::Nacos => TTL + Duration::from_secs(5),
            // "2 * duration", says its source of the mistake that stays.
            Self::Eureka => 2 * TTL + eureka::EVICTION + eureka::FETCH,
        }
    }

    /// What a reader of the result must know of how it is set up.
    pub const fn note(self) -> &'static str {
        match self {
            Self::Memory | Self::Consul | Self::Etcd | Self::Zookeeper | Self::Nacos => "",
            Self::Eureka => {
                "Eureka is set up to be quick: no read-only cache, and clients that fetch each second. A stock one takes 65 s \
                 until its clients know,\nand a stop that waits for it needs a grace period of 120 s.\n"
            }
        }
    }

    /// What a replica registers with.
    ///
    /// # Errors
    ///
    /// When the adapter can't be made for this address.
    pub fn adapter(
        self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        match self.backend() {
            None => Ok(Box::new(
                MemoryRegistryClient::new(&format!("http://{at}"))?
                    .with_ttl(ttl)
                    .with_visibility(visibility),
            )),
            Some(backend) => backend.adapter(at, ttl, visibility),
        }
    }
}

/// A kind of real server.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The program on `PATH`, and where one gets it.
    fn program(&self) -> (&'static str, &'static str);

    /// The directory below `target` where a script of the repository builds it, if one does.
    fn built_in(&self) -> Option<&'static str> {
        None
    }

    /// How many ports it needs. Clients use the first.
    fn ports(&self) -> usize;

    /// Ports that it takes by itself, by their distance from the first.
    fn beside(&self) -> &'static [i16] {
        &[]
    }

    /// How it is started on these ports of 127.0.0.1, with everything it writes in `dir`.
    ///
    /// # Errors
    ///
    /// When its configuration can't be written.
    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command>;

    /// Whether it answers as a server that can be used.
    async fn is_ready(&self, at: SocketAddr) -> bool;

    /// What a replica registers with.
    ///
    /// # Errors
    ///
    /// When the adapter can't be made for this address.
    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError>;

    /// Tells `seen` the addresses that clients are given for `service`: at once, and after every change, until the
    /// connection breaks; then it is called again.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()>;
}

/// Who is listed, and since when who is not.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<View>>>);

/// Who was listed from a moment on.
type View = (Instant, Vec<SocketAddr>);

impl Seen {
    /// These are, from now on.
    pub fn are(&self, addresses: Vec<SocketAddr>) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if history.last().is_none_or(|(_, last)| *last != addresses) {
            history.push((Instant::now(), addresses));
        }
    }

    fn now(&self) -> Vec<SocketAddr> {
        let history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history
            .last()
            .map(|(_, now)| now.clone())
            .unwrap_or_default()
    }

    fn gone_at(&self, address: SocketAddr) -> Option<Instant> {
        let history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = history
            .iter()
            .rposition(|(_, now)| now.contains(&address))?;
        history.get(last + 1).map(|(at, _)| *at)
    }
}

/// A registry at work, for the services it was started for. Dropped, its server is ended.
pub struct Running {
    at: SocketAddr,
    followed: Vec<Followed>,
    _tasks: JoinSet<()>,
    _server: Option<Server>,
}

/// A service, and who is listed for it.
struct Followed {
    service: &'static str,
    source: Listed,
    seen: Seen,
}

impl Running {
    /// Starts the registry, empty.
    ///
    /// # Errors
    ///
    /// When its program is not there, or does not get ready.
    pub async fn start(kind: RegistryKind, services: &[&'static str]) -> Result<Self, String> {
        let Some(backend) = kind.backend() else {
            return embedded(services).await;
        };
        let server = Server::start(backend).await?;
        let mut tasks = JoinSet::new();
        let at = server.at();
        let mut follow = |service| {
            let seen = Seen::default();
            let (told, read) = (seen.clone(), seen.clone());
            tasks.spawn(async move {
                loop {
                    // It broke off: what was seen last counts until it is there again.
                    let _ = backend.follow(at, service, &told).await;
                    sleep(Duration::from_millis(20)).await;
                }
            });
            Followed {
                service,
                source: Arc::new(move || read.now()),
                seen,
            }
        };
        Ok(Self {
            at,
            followed: services.iter().map(|service| follow(*service)).collect(),
            _tasks: tasks,
            _server: Some(server),
        })
    }

    /// Where replicas reach it.
    pub const fn at(&self) -> SocketAddr {
        self.at
    }

    /// Who is listed now for a service that is followed.
    pub fn source(&self, service: &str) -> Listed {
        let followed = self.followed.iter().find(|it| it.service == service);
        Arc::clone(&followed.expect("it was started for this service").source)
    }

    /// When `address` was seen gone for good, if it is.
    pub fn gone_at(&self, address: SocketAddr) -> Option<Instant> {
        self.followed.iter().find_map(|it| it.seen.gone_at(address))
    }
}

async fn embedded(services: &[&'static str]) -> Result<Running, String> {
    let about = |error| format!("binding the registry's port on 127.0.0.1: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(about)?;
    let at = listener.local_addr().map_err(about)?;
    let registry = MemoryRegistry::new();
    let serving = registry.clone().serve(listener);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        serving.await;
    });
    let mut follow = |service| {
        let seen = Seen::default();
        let (mut changed, registry, told) = (registry.watch(), registry.clone(), seen.clone());
        let source: Listed = Arc::new(move || {
            let listed = registry.instances(service);
            let addresses: Vec<_> = listed.iter().map(|instance| instance.address).collect();
            told.are(addresses.clone());
            addresses
        });
        let read = Arc::clone(&source);
        tasks.spawn(async move {
            while changed.changed().await.is_ok() {
                read();
            }
        });
        Followed {
            service,
            source,
            seen,
        }
    };
    Ok(Running {
        at,
        followed: services.iter().map(|service| follow(*service)).collect(),
        _tasks: tasks,
        _server: None,
    })
}
