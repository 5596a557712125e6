//! [`Consul`]: the agent's HTTP API.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::ShutdownCoordinator;
//! use prestop::registry::Instance;
//! use prestop::registry::consul::Consul;
//!
//! let c = ShutdownCoordinator::builder()
//!     .registry(Consul::from_env()?, Instance::new("orders", "10.0.0.5:8080".parse()?))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! What is sent, when clients notice, and what to set on both sides: [`_docs::registries`](crate::_docs::registries).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::HeaderName;
use serde_json::json;

use crate::deadline::Deadline;
#[cfg(feature = "tls")]
use crate::registry::Tls;
use crate::registry::http::HttpClient;
use crate::registry::{Instance, Registration, Registry, RegistryError};

mod entry;
mod vars;

use entry::Entry;

/// Where an agent listens that was not told otherwise.
const LOCAL_AGENT: &str = "http://127.0.0.1:8500";

/// Three heartbeats, five seconds apart: what Nacos and kratos use, too.
const TTL: Duration = Duration::from_secs(15);

/// How long clients may call after the deregistration: a blocking query answers within milliseconds, DNS and a client
/// that polls take about a second.
const VISIBILITY: Duration = Duration::from_secs(2);

/// What Consul takes at the least; its reaper looks every 30 s.
const DEREGISTER_CRITICAL_AFTER: Duration = Duration::from_secs(60);

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A Consul agent, best the one on the same node, to which instances are registered with a TTL check.
///
/// Deregistering goes to the agent that took the registration, since a deregistration in the catalog is undone by that
/// agent a few seconds later. A killed process is out of `?passing` queries and DNS when its TTL is over; out of the
/// catalog a minute and a half later.
///
/// Tried with Consul 1.8.7. The token is never shown.
pub struct Consul {
    /// One client each, because a registration stays with its agent.
    agents: Vec<Arc<HttpClient>>,
    ttl: Duration,
    visibility: Duration,
    deregister_critical_after: Duration,
    tags: Vec<String>,
    maintenance_first: bool,
}

impl Consul {
    /// The agent at `http://host[:port][/prefix]` (or `https`, with the feature `tls`). Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the URL is none of these, or has a user or password in it.
    pub fn agent(url: &str) -> Result<Self, RegistryError> {
        Self::agents([url])
    }

    /// Several agents: a registration is given to the first that takes it and stays with that one. When its heartbeats
    /// have failed for the whole TTL, the next agent gets it.
    ///
    /// One agent, the node's own, is what Consul is made for; several are for services without one.
    ///
    /// # Errors
    ///
    /// As for [`agent`](Self::agent), and when there is none.
    pub fn agents<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self, RegistryError> {
        let agents = urls
            .into_iter()
            .map(|url| HttpClient::new([url]).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if agents.is_empty() {
            return Err(RegistryError::new("no URL of a Consul agent was given"));
        }
        Ok(Self {
            agents,
            ttl: TTL,
            visibility: VISIBILITY,
            deregister_critical_after: DEREGISTER_CRITICAL_AFTER,
            tags: Vec::new(),
            maintenance_first: false,
        })
    }

    /// The agent that Consul's own tools use, by the same variables: `CONSUL_HTTP_ADDR` (else
    /// `http://127.0.0.1:8500`), `CONSUL_HTTP_SSL`, `CONSUL_HTTP_TOKEN`. A certificate authority of Consul's own is given
    /// with `with_tls` (feature `tls`).
    ///
    /// # Errors
    ///
    /// As for [`agent`](Self::agent) and [`with_token`](Self::with_token); the message names the variable.
    pub fn from_env() -> Result<Self, RegistryError> {
        vars::consul(|name| std::env::var(name).ok())
    }

    /// The same agents, asked with this ACL token. It needs `service:write` on the service's name.
    ///
    /// # Errors
    ///
    /// When no header can carry it.
    pub fn with_token(self, token: &str) -> Result<Self, RegistryError> {
        self.each(|client| client.with_header(TOKEN, token))
    }

    /// The same agents, spoken to like this where they are `https`. Default: as the system does it.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn with_tls(self, tls: &Tls) -> Self {
        for agent in &self.agents {
            agent.use_tls(tls);
        }
        self
    }

    /// The same agents, whose instances turn critical when no heartbeat came for this long; a heartbeat is sent three
    /// times as often. Counted in whole milliseconds, at least one.
    ///
    /// Default: 15 s. Shorter finds killed processes sooner, and costs more heartbeats.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.ttl = Duration::from_millis(millis.max(1));
        self
    }

    /// The same agents, declaring that clients of the service may still call this long after an instance left.
    ///
    /// Default: 2 s, which covers blocking queries, and DNS with Consul's own TTL of zero. Give the longest DNS TTL or
    /// polling interval where there is one.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// The same agents, which remove what has been critical for this long (`DeregisterCriticalServiceAfter`): the
    /// instances of killed processes. In whole seconds; Consul raises what is under a minute to that.
    ///
    /// Default: a minute.
    #[must_use]
    pub const fn with_deregister_critical_after(mut self, after: Duration) -> Self {
        self.deregister_critical_after = after;
        self
    }

    /// The same agents, which give instances these tags.
    #[must_use]
    pub fn with_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// The same agents, on which a leaving instance is put into maintenance before it is deregistered: operators see
    /// why it goes, and where the deregistration fails clients are given it no more.
    ///
    /// Default: no. It is one call more, and clients notice neither sooner nor later.
    #[must_use]
    pub const fn with_maintenance_first(mut self) -> Self {
        self.maintenance_first = true;
        self
    }

    fn each(
        mut self,
        change: impl Fn(HttpClient) -> Result<HttpClient, RegistryError>,
    ) -> Result<Self, RegistryError> {
        let agents = self.agents.into_iter();
        let changed = agents.map(|agent| {
            // Before the first registration nobody else has it.
            let client = Arc::into_inner(agent)
                .ok_or_else(|| RegistryError::new("the agents are in use already"))?;
            change(client).map(Arc::new)
        });
        self.agents = changed.collect::<Result<_, _>>()?;
        Ok(self)
    }

    fn body(&self, instance: &Instance) -> Vec<u8> {
        let address = instance.address();
        let service = json!({
            "ID": instance.id(),
            "Name": instance.service(),
            "Address": address.ip().to_string(),
            "Port": address.port(),
            "Tags": self.tags,
            "Meta": instance.metadata(),
            "Check": {
                "CheckID": entry::check_id(instance),
                "Name": "heartbeat",
                "TTL": format!("{}ms", self.ttl.as_millis()),
                "Status": "passing",
                "DeregisterCriticalServiceAfter":
                    format!("{}s", self.deregister_critical_after.as_secs()),
            },
        });
        service.to_string().into()
    }
}

#[async_trait]
impl Registry for Consul {
    fn name(&self) -> &str {
        "consul"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let body = self.body(instance);
        let mut failed = Vec::new();
        for (turn, agent) in self.agents.iter().enumerate() {
            let mut entry = Entry::new(agent.clone(), instance, self.ttl)
                .with_maintenance_first(self.maintenance_first)
                .with_others(self.agents.len() > 1);
            // An agent that does not answer takes its share of the time, not all of it.
            let left = u32::try_from(self.agents.len() - turn).unwrap_or(u32::MAX);
            let by = by.min(Deadline::after(by.remaining() / left));
            match entry.register(body.clone(), by).await {
                Ok(()) => return Ok(Box::new(entry)),
                // It may be there: registering it elsewhere, too, would leave one behind.
                Err(error) if error.is_unknown() => return Err(error),
                Err(error) => failed.push(error),
            }
        }
        let Some(last) = failed.pop() else {
            return Err(RegistryError::new("no Consul agent was asked"));
        };
        Err(failed.into_iter().rev().fold(last, |last, earlier| {
            RegistryError::new(format!("{earlier}; {last}"))
        }))
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clients show their headers' names alone.
        f.debug_struct("Consul")
            .field("agents", &self.agents)
            .field("ttl", &self.ttl)
            .field("visibility", &self.visibility)
            .field("deregister_critical_after", &self.deregister_critical_after)
            .field("tags", &self.tags)
            .field("maintenance_first", &self.maintenance_first)
            .finish()
    }
}
