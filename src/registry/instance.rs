//! [`Instance`]: what a registry is told.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

/// One running instance of a service, as clients are to find it.
///
/// ```
/// use prestop::registry::Instance;
///
/// let orders = Instance::new("orders", ([10, 0, 0, 5], 8080).into()).with_metadata("version", "1.4.2");
/// assert_eq!(orders.service(), "orders");
/// assert_ne!(orders.id(), Instance::new("orders", orders.address()).id());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: String,
    service: String,
    address: SocketAddr,
    metadata: BTreeMap<String, String>,
}

impl Instance {
    /// An instance of `service` that clients reach at `address`: the pod's address, not what the listener is bound
    /// to.
    ///
    /// The id is made anew by each call, so that a late deregistration of a predecessor at the same address never
    /// hits its successor. Make the instance once per process start.
    #[must_use]
    pub fn new(service: impl Into<String>, address: SocketAddr) -> Self {
        let service = service.into();
        // `RandomState` is seeded by the operating system per process and differs per call.
        let unique = RandomState::new().hash_one((&service, address));
        Self {
            id: format!(
                "{service}-{}-{}-{unique:016x}",
                address.ip(),
                address.port()
            )
            .replace(':', "."),
            service,
            address,
            metadata: BTreeMap::new(),
        }
    }

    /// The same instance under an id of your own. It should differ from start to start.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The same instance with one more piece of metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The id, unique per process start.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Where clients reach it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What else is said about it.
    #[must_use]
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
