//! [`Entry`]: one instance, its key and its lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::gateway::{Gateway, Holder};
use crate::deadline::Deadline;
use crate::registry::{Beat, Gone, LastGasp, Registration, RegistryError};

/// What an expired lease is still listed: etcd looks every 500 ms, and the removal takes a round through the cluster.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) struct Entry {
    gateway: Arc<Gateway>,
    key: String,
    lease: i64,
    /// As granted.
    ttl: Duration,
}

impl Entry {
    pub(super) const fn new(gateway: Arc<Gateway>, key: String, lease: i64, ttl: Duration) -> Self {
        Self {
            gateway,
            key,
            lease,
            ttl,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Registration for Entry {
    fn listed_for(&self) -> Option<Duration> {
        Some(self.ttl + SWEEP)
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        Some(self.gateway.revoke_with_last_gasp(self.lease))
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let Some(ttl) = self.gateway.keep_alive(self.lease, by).await? else {
            return Ok(Beat::Lost);
        };
        match self.gateway.holder(&self.key, self.lease, by).await {
            // Somebody deleted the key and left the lease.
            Ok(Holder::Nobody) => return Ok(Beat::Lost),
            // Two processes that take the key from each other in turns would be worse.
            Ok(Holder::Another) => tracing::warn!(
                registry = "etcd",
                key = self.key,
                "the key was put by another process: is there one with the same address or id?"
            ),
            // That the lease is alive is known by now, whatever came of this question.
            Ok(Holder::Us | Holder::Secret) | Err(_) => {}
        }
        Ok(Beat::Alive {
            next: ttl / 3,
            listed_for: ttl + SWEEP,
        })
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        Ok(match self.gateway.revoke(self.lease, by).await? {
            true => Gone::Removed,
            false => Gone::AlreadyGone,
        })
    }

    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        let holder = self.gateway.holder(&self.key, self.lease, by).await?;
        Ok(match holder {
            Holder::Us => Some(true),
            Holder::Another | Holder::Nobody => Some(false),
            Holder::Secret => None,
        })
    }
}
