//! etcd, by its JSON gateway: a lease, and a key that lives as long as the lease.
//!
//! ```no_run
//! # async fn x(address: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::ShutdownCoordinator;
//! use prestop::registry::Instance;
//! use prestop::registry::etcd::{Etcd, KeyFormat};
//!
//! let etcd = Etcd::new(["http://etcd-0:2379", "http://etcd-1:2379"])?.with_format(KeyFormat::kratos("grpc"));
//! let c = ShutdownCoordinator::builder().registry(etcd, Instance::new("orders", address)).build()?;
//! # Ok(()) }
//! ```
//!
//! # What is sent
//!
//! | call | request | when it is not as hoped for |
//! |---|---|---|
//! | register | `POST /v3/lease/grant` with an id of our own, `POST /v3/kv/put` with the lease | the same lease and key again |
//! | heartbeat | `POST /v3/lease/keepalive`, `POST /v3/kv/range` | lease or key gone: registered anew, unless a stop has begun |
//! | leave | `POST /v3/lease/revoke` | "lease not found" is success |
//! | read back | `POST /v3/kv/range`: is the key there, under our lease? | the answer of a revoke may be lost: this tells |
//!
//! Ended by a panic, the watchdog or a third Ctrl-C, the process revokes the lease all the same, over a blocking socket
//! ([`LastGasp`](crate::registry::LastGasp)).
//!
//! The key is never deleted by its name. If a successor at the same address has put the same key meanwhile, the key
//! hangs on the successor's lease, and revoking ours leaves it alone.
//!
//! The id of the lease is chosen here, once per process and instance: an attempt whose answer was lost is repeated
//! under the same id, and leaves no second lease behind. A `put` that arrives after the revoke is refused by etcd, so
//! nothing that is late brings the instance back (S6).
//!
//! # Versions
//!
//! etcd 3.4 and later, which have the gateway under `/v3`. Older ones (3.3 at `/v3beta`, 3.2 at `/v3alpha`) are out of
//! support and not supported here.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::deadline::Deadline;
use crate::registry::http::HttpClient;
use crate::registry::{Instance, Registration, Registry, RegistryError};

mod entry;
mod format;
mod gateway;
#[cfg(test)]
mod tests;

use entry::Entry;
pub use format::KeyFormat;
use gateway::Gateway;

/// Three heartbeats, 5 s apart, and what kratos takes.
const TTL: Duration = Duration::from_secs(15);

/// The shortest time to live that etcd counts in.
const SECOND: Duration = Duration::from_secs(1);

/// An etcd cluster as a registry. The [module](self) says what is sent.
///
/// The client is the crate's own, over HTTP/1, so that the feature costs little more than serde and base64.
pub struct Etcd {
    gateway: Arc<Gateway>,
    format: KeyFormat,
    ttl: Duration,
    visibility: Duration,
    /// Seeded by the operating system: ids of leases that no other process comes to.
    ids: RandomState,
}

impl Etcd {
    /// The cluster with these members, each `http://host:port` (or `https`, with the feature `tls`), any of which can be
    /// asked. Nothing is sent yet.
    ///
    /// A call that finds a member down goes on to the next; one that a member did not answer in time, or answered
    /// with 5xx, begins with the next when it is repeated.
    ///
    /// # Errors
    ///
    /// When there is none, or one is something else.
    pub fn new<U: AsRef<str>>(members: impl IntoIterator<Item = U>) -> Result<Self, RegistryError> {
        Ok(Self {
            gateway: Arc::new(Gateway::new(HttpClient::new(members)?)),
            format: KeyFormat::grpc_naming(),
            ttl: TTL,
            visibility: SECOND,
            ids: RandomState::new(),
        })
    }

    /// The same cluster, asked as this user. The token that etcd gives for the password is fetched when it is first
    /// needed and when etcd does not take it any more; neither is shown anywhere.
    ///
    /// The user's role needs `readwrite` on the key. With `write` alone everything works but the reading back: then
    /// [`is_listed`](Registration::is_listed) is `None`.
    ///
    /// Where authentication is switched off in etcd, the user is not used.
    #[must_use]
    pub fn with_user(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let gateway = Arc::unwrap_or_clone(self.gateway).with_user(name.into(), password.into());
        Self {
            gateway: Arc::new(gateway),
            ..self
        }
    }

    /// The same cluster, spoken to like this where its members are `https`. Default: as the system does it.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn with_tls(self, tls: &crate::registry::Tls) -> Self {
        self.gateway.use_tls(tls);
        self
    }

    /// The same cluster, with this shape of key and value.
    ///
    /// Default: [`KeyFormat::grpc_naming`], etcd's own.
    #[must_use]
    pub fn with_format(mut self, format: KeyFormat) -> Self {
        self.format = format;
        self
    }

    /// The same cluster, whose instances expire when no heartbeat came for this long. A heartbeat is sent after each
    /// third of it. Counted in whole seconds, rounded up; etcd grants no less than one and a half times its election
    /// timeout, 2 s by default.
    ///
    /// Default: 15 s. Only what dies without leaving is listed this long, and a process that gets no processor for some
    /// seconds stays listed.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same cluster, declaring that clients of the service may still call this long after an instance left.
    ///
    /// Default: 1 s. Clients watch the key and are told within milliseconds; the rest is for what they do then. Give
    /// the interval where they poll.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// One lease for each instance: positive, and the same at each attempt.
    fn lease_of(&self, instance: &Instance) -> i64 {
        let hash = self.ids.hash_one((instance.service(), instance.id()));
        // 63 bits of it; zero means "choose one" to etcd.
        i64::try_from(hash >> 1).unwrap_or(i64::MAX).max(1)
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("gateway", &self.gateway)
            .field("format", &self.format)
            .field("ttl", &self.ttl)
            .field("visibility", &self.visibility)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for Etcd {
    fn name(&self) -> &str {
        "etcd"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let lease = self.lease_of(instance);
        let (key, value) = self.format.entry(instance, lease)?;
        let ttl = self.gateway.grant(lease, self.ttl, by).await?;
        self.gateway.put(&key, &value, lease, by).await?;
        Ok(Box::new(Entry::new(self.gateway.clone(), key, lease, ttl)))
    }
}
