//! ZooKeeper: ephemeral nodes, which live as long as the session that made them.
//!
//! ```no_run
//! # async fn x(address: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::ShutdownCoordinator;
//! use prestop::registry::Instance;
//! use prestop::registry::zookeeper::{NodeFormat, ZooKeeper};
//!
//! let zookeeper = ZooKeeper::new("zk-0:2181,zk-1:2181,zk-2:2181")?.with_format(NodeFormat::spring_cloud());
//! let c = ShutdownCoordinator::builder().registry(zookeeper, Instance::new("orders", address)).build()?;
//! # Ok(()) }
//! ```
//!
//! # What is sent
//!
//! | call | requests | when it is not as hoped for |
//! |---|---|---|
//! | register | connect; `create` each ephemeral node, and its persistent parents where there are none | the node of an earlier session is replaced in one transaction |
//! | heartbeat | `exists` for each node (the session's own pings run beside it) | session over or node gone: registered anew, in a new session, unless a stop has begun |
//! | leave | `exists` for each node and `closeSession`, answer awaited | on another connection, in the same session |
//! | read back | `exists` for each node: is it there, and ours? | |
//!
//! Closing the session takes out every node that it made, in one transaction, and none that a successor at the same
//! path has made since: a node belongs to its session, so a late deregistration never removes another's. A client
//! that is merely dropped before the process exits leaves its nodes behind for the session timeout; this one waits
//! until ZooKeeper has answered.
//!
//! Ended by a panic, the watchdog or a third Ctrl-C, the process deletes its nodes all the same
//! ([`LastGasp`](crate::registry::LastGasp)): by their paths, over a blocking socket, after a look at whose they are. A
//! successor that replaced one in the millisecond between would lose it.
//!
//! # Weight
//!
//! The protocol is not HTTP, so this is the one adapter with a client crate:
//! [`zookeeper-client`](https://docs.rs/zookeeper-client). It does its own I/O over `async-io`, with a thread of its own
//! beside tokio's.
//!
//! # Not supported
//!
//! TLS and SASL: [digest](ZooKeeper::with_digest) is the only authentication.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use zookeeper_client::{Acl, Acls, Client, Connector, Error, Permission};

use crate::deadline::Deadline;
use crate::registry::{Instance, Registration, Registry, RegistryError};

mod dubbo;
mod entry;
mod format;
mod last_gasp;
mod nodes;
mod servers;

use entry::Entry;
pub use format::{DubboService, NodeFormat};
use servers::Servers;

/// Three heartbeats, 5 s apart: as the other adapters have it, and above the lowest that servers grant (4 s with their
/// sample configuration).
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);

/// What is protected is written by those with our password, and read by everybody.
static PROTECTED: [Acl; 2] = [
    Acl::new_const(Permission::ALL, "auth", ""),
    Acl::new_const(Permission::READ, "world", "anyone"),
];

/// A ZooKeeper ensemble as a registry. The [module](self) says what is sent.
#[derive(Clone)]
pub struct ZooKeeper {
    ensemble: Ensemble,
    format: NodeFormat,
    visibility: Option<Duration>,
}

/// Where it is, and as whom it is asked.
#[derive(Clone)]
struct Ensemble {
    servers: String,
    session_timeout: Duration,
    /// `user:password`
    digest: Option<String>,
}

impl ZooKeeper {
    /// The ensemble with these servers: `host:port` of each, separated by commas, and behind the last one the path
    /// below which everything lies, if there is one (`zk-0:2181,zk-1:2181/staging`; it must exist). Nothing is sent
    /// yet.
    ///
    /// Which server is asked first is random. One that refuses connections is passed over.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn new(servers: impl Into<String>) -> Result<Self, RegistryError> {
        let servers = servers.into();
        Servers::parse(&servers)?;
        Ok(Self {
            ensemble: Ensemble {
                servers,
                session_timeout: SESSION_TIMEOUT,
                digest: None,
            },
            format: NodeFormat::curator("/services"),
            visibility: None,
        })
    }

    /// The same ensemble, asked as this user, by ZooKeeper's scheme `digest`. The password is shown nowhere, and crosses
    /// the network as it is.
    ///
    /// What is created then is for this user alone to change, and for everybody to read: the nodes, and their parent
    /// where it was missing (ZooKeeper asks the parent who may delete). Parents further up are for everybody, since
    /// they are shared with other services.
    ///
    /// # Errors
    ///
    /// When the user's name is empty or has a colon in it.
    pub fn with_digest(mut self, user: &str, password: &str) -> Result<Self, RegistryError> {
        if user.is_empty() || user.contains(':') {
            return Err(RegistryError::new(format!(
                "{user:?} cannot be a user of ZooKeeper's digest scheme: it must have a name without a colon"
            )));
        }
        self.ensemble.digest = Some(format!("{user}:{password}"));
        Ok(self)
    }

    /// The same ensemble, with these nodes for an instance.
    ///
    /// Default: [`NodeFormat::curator`] below `/services`.
    #[must_use]
    pub fn with_format(mut self, format: NodeFormat) -> Self {
        self.format = format;
        self
    }

    /// The same ensemble, whose servers end the session, and so take the instance out, when they heard nothing for
    /// this long. They grant what lies between 2 and 20 of their ticks (2 s each in the sample configuration: 4 s to
    /// 40 s), and that counts.
    ///
    /// Default: 15 s. Only what dies without leaving is listed this long. Curator and Dubbo ask for 60 s, which is
    /// that much longer.
    #[must_use]
    pub const fn with_session_timeout(mut self, timeout: Duration) -> Self {
        self.ensemble.session_timeout = timeout;
        self
    }

    /// The same ensemble, declaring that clients of the service may still call this long after an instance left.
    ///
    /// Default: 1 s, or 6 s with [`NodeFormat::dubbo`]. Clients watch the node and are told within milliseconds; the rest
    /// is for what they do then. Dubbo's consumers gather changes that follow each other for up to 5 s before they
    /// act (`delay-notification`).
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = Some(visibility);
        self
    }
}

impl Ensemble {
    fn connector(&self) -> Connector {
        let connector = Client::connector().with_session_timeout(self.session_timeout);
        match &self.digest {
            Some(digest) => connector.with_auth("digest", digest.as_bytes()),
            None => connector,
        }
    }

    /// A new session.
    async fn connect(&self, by: Deadline) -> Result<Client, RegistryError> {
        let begun = Instant::now();
        // Each server once: whoever calls tries again, and knows how often and how long.
        let connecting = self.connector().with_fail_eagerly().connect(&self.servers);
        let why = match by.bound(connecting).await {
            Some(Ok(client)) => return Ok(client),
            Some(Err(Error::NoHosts)) => "no server took the connection".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => format!("timed out after {} ms", begun.elapsed().as_millis()),
        };
        // A session without nodes is nothing that anybody sees.
        Err(RegistryError::new(format!(
            "connecting to {}: {why}",
            self.servers
        )))
    }

    /// Of the nodes, and of their parent.
    fn acls(&self) -> Acls<'static> {
        match &self.digest {
            Some(_) => Acls::new(&PROTECTED),
            None => Acls::anyone_all(),
        }
    }

    /// What was tried, on what, and what came back.
    fn error(&self, what: &str, error: &Error) -> RegistryError {
        let hint = match error {
            Error::NoAuth => "; the digest's user needs create and delete on the node's parent",
            _ => "",
        };
        let message = format!("{what} at {}: {error}{hint}", self.servers);
        match error {
            // It may have been on its way.
            Error::ConnectionLoss | Error::Timeout => RegistryError::unknown(message),
            _ => RegistryError::new(message),
        }
    }

    /// What comes of `call` by the deadline.
    async fn bound<T>(
        &self,
        what: &str,
        by: Deadline,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let begun = Instant::now();
        by.bound(call).await.unwrap_or_else(|| {
            let waited = begun.elapsed().as_millis();
            let message = format!("{what} at {}: timed out after {waited} ms", self.servers);
            Err(RegistryError::unknown(message))
        })
    }
}

impl fmt::Debug for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.digest.as_ref().and_then(|d| d.split(':').next());
        f.debug_struct("Ensemble")
            .field("servers", &self.servers)
            .field("session_timeout", &self.session_timeout)
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper")
            .field("ensemble", &self.ensemble)
            .field("format", &self.format)
            .field("visibility", &self.visibility())
            .finish()
    }
}

#[async_trait]
impl Registry for ZooKeeper {
    fn name(&self) -> &str {
        "zookeeper"
    }

    fn visibility(&self) -> Duration {
        self.visibility.unwrap_or(self.format.visibility())
    }

    /// Dropped or failed half-way, it closes its session, and takes what it made out again.
    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let nodes = self.format.nodes(instance)?;
        let client = self.ensemble.connect(by).await?;
        let creating = async {
            for node in &nodes {
                nodes::create(&self.ensemble, &client, node).await?;
            }
            Ok(())
        };
        self.ensemble
            .bound("creating the nodes", by, creating)
            .await?;
        let paths = nodes.into_iter().map(|node| node.path).collect();
        Ok(Box::new(Entry::new(self.ensemble.clone(), paths, client)))
    }
}
