//! A registry inside the process, for demonstrations and tests.
//!
//! It behaves like the real ones where it matters for a stop: entries expire when heartbeats stay away, a heartbeat
//! never brings an entry back, and clients see an instance until it is deregistered or expired. It is not for
//! production: everything is lost when the process ends, anybody who reaches its port may change it, and nothing
//! limits how much it holds.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::Deadline;
//! use prestop::registry::memory::{MemoryRegistry, MemoryRegistryClient};
//! use prestop::registry::{Gone, Instance, Registry};
//! use std::time::Duration;
//!
//! // In one process the registry ...
//! let store = MemoryRegistry::new();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("http://{}", listener.local_addr()?);
//! tokio::spawn(store.clone().serve(listener));
//!
//! // ... in another the service, which would hand the client to its coordinator.
//! let client = MemoryRegistryClient::new(&url)?;
//! let soon = Deadline::after(Duration::from_secs(5));
//! let orders = Instance::new("orders", ([127, 0, 0, 1], 8080).into());
//! let mut registration = client.register(&orders, soon).await?;
//! assert_eq!(store.instances("orders")[0].address, orders.address());
//!
//! assert_eq!(registration.deregister(soon).await?, Gone::Removed);
//! assert!(store.instances("orders").is_empty());
//! # Ok(()) }
//! ```
//!
//! # Over HTTP
//!
//! [`serve`](MemoryRegistry::serve) answers these. Service and id are percent-encoded segments of the path.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /v1/services/{service}/instances/{id}?ttl_ms=10000` with `{"address":"10.0.0.5:8080","metadata":{}}` | 204; `ttl_ms` (at least 1) and `metadata` may be left out |
//! | `PUT /v1/services/{service}/instances/{id}/heartbeat` | 204, or 404 when it is not listed (any more) |
//! | `DELETE /v1/services/{service}/instances/{id}` | 204, or 404 when it was not listed |
//! | `GET /v1/services/{service}/instances/{id}` | 200 with a [`Listed`] as JSON, or 404 |
//! | `GET /v1/services/{service}/instances` | 200 with an array of [`Listed`] as JSON, by id |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::deadline::Deadline;
use crate::registry::{Beat, Gone, Instance, Registration, Registry, RegistryError};
use crate::sync::lock;

mod client;
mod server;

pub use client::MemoryRegistryClient;

/// The shortest expiry that registries are commonly run with: services then see a dead instance longest for 10 s.
const TTL: Duration = Duration::from_secs(10);

/// The registry itself. Clones share what is in it.
///
/// As a [`Registry`] it takes the process's own instances; [`serve`](Self::serve) takes those of others, by way of
/// [`MemoryRegistryClient`].
#[derive(Clone, Debug)]
pub struct MemoryRegistry {
    store: Arc<Store>,
    ttl: Duration,
    visibility: Duration,
}

/// An instance that is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listed {
    /// Its [`id`](Instance::id).
    pub id: String,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// What else is said about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// What a `PUT` says of the instance whose id is in the path.
#[derive(Serialize, Deserialize)]
struct Body {
    address: SocketAddr,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Store {
    /// By service and id.
    entries: Mutex<BTreeMap<String, BTreeMap<String, Entry>>>,
    revision: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    listed: Listed,
    ttl: Duration,
    expires: Deadline,
}

impl MemoryRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            store: Arc::new(Store {
                entries: Mutex::default(),
                revision: watch::Sender::new(0),
            }),
            ttl: TTL,
            visibility: Duration::ZERO,
        }
    }

    /// The same registry, in which an instance expires when no heartbeat came for this long, if its registration
    /// does not say otherwise. Counted in whole milliseconds, at least one.
    ///
    /// Default: 10 s, the shortest expiry that registries are commonly run with. It concerns this clone and those
    /// made of it.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = in_millis(ttl);
        self
    }

    /// The same registry, declaring that clients may still call this long after an instance left. It concerns this
    /// clone and those made of it.
    ///
    /// Default: zero, because [`instances`](Self::instances) reads the store itself. Clients in other processes
    /// can only poll [over HTTP](self#over-http): with such clients, give the longest interval between two polls.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// The instances of a service that are listed now, by id.
    #[must_use]
    pub fn instances(&self, service: &str) -> Vec<Listed> {
        let entries = lock(&self.store.entries);
        let of_service = entries.get(service).into_iter().flat_map(BTreeMap::values);
        let alive = of_service.filter(|entry| entry.is_alive());
        alive.map(|entry| entry.listed.clone()).collect()
    }

    /// A number that rises when an instance is registered or deregistered: then it is time to read
    /// [`instances`](Self::instances) again.
    ///
    /// It does **not** rise when an instance expires, which nothing but the clock brings about. Who has to see that
    /// reads again from time to time.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.store.revision.subscribe()
    }

    fn put(&self, service: &str, listed: Listed, ttl: Duration) {
        let entry = Entry {
            listed,
            ttl,
            expires: Deadline::after(ttl),
        };
        let mut entries = lock(&self.store.entries);
        // What expired goes when something new comes, so that restarts do not pile up.
        entries.retain(|_, of_service| {
            of_service.retain(|_, entry| entry.is_alive());
            !of_service.is_empty()
        });
        entries
            .entry(service.to_owned())
            .or_default()
            .insert(entry.listed.id.clone(), entry);
        drop(entries);
        self.changed();
    }

    /// Whether it was listed, and so is for another time to live.
    fn beat(&self, service: &str, id: &str) -> bool {
        let mut entries = lock(&self.store.entries);
        let entry = entries.get_mut(service).and_then(|of| of.get_mut(id));
        match entry.filter(|entry| entry.is_alive()) {
            Some(entry) => {
                entry.expires = Deadline::after(entry.ttl);
                true
            }
            None => false,
        }
    }

    /// Whether it was listed.
    fn remove(&self, service: &str, id: &str) -> bool {
        let removed = lock(&self.store.entries)
            .get_mut(service)
            .and_then(|of| of.remove(id));
        let was_listed = removed.is_some_and(|entry| entry.is_alive());
        if was_listed {
            self.changed();
        }
        was_listed
    }

    fn find(&self, service: &str, id: &str) -> Option<Listed> {
        let entries = lock(&self.store.entries);
        let entry = entries.get(service)?.get(id)?;
        entry.is_alive().then(|| entry.listed.clone())
    }

    fn changed(&self) {
        self.store.revision.send_modify(|revision| *revision += 1);
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    fn name(&self) -> &str {
        "memory"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        _by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        self.put(instance.service(), Listed::of(instance), self.ttl);
        Ok(Box::new(InProcess {
            registry: self.clone(),
            service: instance.service().to_owned(),
            id: instance.id().to_owned(),
        }))
    }
}

/// A registration in the same process: no call waits, so no deadline can pass.
#[derive(Debug)]
struct InProcess {
    registry: MemoryRegistry,
    service: String,
    id: String,
}

#[async_trait]
impl Registration for InProcess {
    fn listed_for(&self) -> Option<Duration> {
        Some(self.registry.ttl)
    }

    async fn heartbeat(&mut self, _by: Deadline) -> Result<Beat, RegistryError> {
        let is_listed = self.registry.beat(&self.service, &self.id);
        Ok(beat(is_listed, self.registry.ttl))
    }

    async fn deregister(&mut self, _by: Deadline) -> Result<Gone, RegistryError> {
        Ok(gone(self.registry.remove(&self.service, &self.id)))
    }

    async fn is_listed(&mut self, _by: Deadline) -> Result<Option<bool>, RegistryError> {
        Ok(Some(self.registry.find(&self.service, &self.id).is_some()))
    }
}

impl Listed {
    fn of(instance: &Instance) -> Self {
        Self {
            id: instance.id().to_owned(),
            address: instance.address(),
            metadata: instance.metadata().clone(),
        }
    }
}

impl Entry {
    fn is_alive(&self) -> bool {
        !self.expires.is_over()
    }
}

fn beat(is_listed: bool, ttl: Duration) -> Beat {
    if is_listed {
        Beat::Alive {
            // Room for two that get lost.
            next: ttl / 3,
            listed_for: ttl,
        }
    } else {
        Beat::Lost
    }
}

const fn gone(was_listed: bool) -> Gone {
    if was_listed {
        Gone::Removed
    } else {
        Gone::AlreadyGone
    }
}

/// In the unit in which a time to live travels.
fn in_millis(ttl: Duration) -> Duration {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.max(1))
}
