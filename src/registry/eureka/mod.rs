//! [`Eureka`]: Netflix's registry, as Spring Cloud runs it.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::registry::Instance;
//! use prestop::registry::eureka::Eureka;
//! use prestop::{GracePeriod, ShutdownCoordinator};
//!
//! let eureka = Eureka::new(["http://eureka-0:8761/eureka", "http://eureka-1:8761/eureka"])?;
//! let c = ShutdownCoordinator::builder()
//!     .grace_period(GracePeriod::from_secs(120)?) // Eureka's clients take 65 s to notice: 30 s are too few
//!     .registry(eureka, Instance::new("orders", "10.0.0.5:8080".parse()?))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! # What is sent
//!
//! | call | request | when it is not as hoped for |
//! |---|---|---|
//! | register | `POST apps/ORDERS` with the instance, `UP`; the first time `DELETE apps/ORDERS/<id>/status`, too | the `POST` again; the `DELETE` with the next heartbeat |
//! | heartbeat | `PUT apps/ORDERS/<id>`; and `DELETE apps/ORDERS/<id>/status` where that has not succeeded yet | 404: registered anew, unless a stop has begun |
//! | leave | `DELETE apps/ORDERS/<id>`, with [`with_out_of_service_first`](Eureka::with_out_of_service_first) after `PUT apps/ORDERS/<id>/status?value=OUT_OF_SERVICE` | 404 is success |
//! | read back | `GET apps/ORDERS/<id>`, of every server | a server that lists it all the same is told itself |
//!
//! Ended by a panic, the watchdog or a third Ctrl-C, the process sends the `DELETE` all the same, over a blocking socket
//! ([`LastGasp`](crate::registry::LastGasp)).
//!
//! # Late news
//!
//! Eureka's servers tell each other half a second later. A heartbeat that reaches a server after the deletion is answered
//! with 404, and then the server that passed it on registers the instance there again; a status that a client sends beside
//! its deletion does the same
//! ([spring-cloud-netflix#1543](https://github.com/spring-cloud/spring-cloud-netflix/issues/1543)). So here one call
//! is over before the next is sent, the deletion goes to the server that took the heartbeats, whose queue keeps the order, and the others
//! are given the time to hear of it before they are told directly (S6).
//!
//! Where the last heartbeat was not answered, and a server does not answer after the deletion either, the outcome is
//! unknown: it may wake up with that heartbeat, pass it on, and register the instance at the one that deleted it. One that
//! kept an earlier heartbeat, and was followed by another server that answered the next, is not waited for: if it wakes
//! up after the stop, the instance may be listed again for a lease.
//!
//! When clients notice, what to set on both sides, and what to do about a grace period of 30 s:
//! [`_docs::registries`](crate::_docs::registries#eureka).

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::header::ACCEPT;

use crate::deadline::Deadline;
use crate::registry::http::HttpClient;
use crate::registry::{Instance, Registration, Registry, RegistryError};

mod entry;
mod info;
mod servers;
#[cfg(test)]
mod tests;

use entry::Entry;
use info::Page;

/// `leaseExpirationDurationInSeconds` of Eureka's own client. A server expects a heartbeat each 30 s of every instance,
/// and counts them.
const TTL: Duration = Duration::from_secs(90);

/// `eviction-interval-timer-in-ms` of a server that says nothing else.
const EVICTION_INTERVAL: Duration = Duration::from_secs(60);

/// 30 s until the server's read-only cache is renewed, 30 s until a client fetches, 5 s for what it does then and for
/// the news to reach the other servers.
const VISIBILITY: Duration = Duration::from_secs(65);

/// Eureka servers, to which instances are registered as Eureka's own client does it.
///
/// Tried with Spring Cloud Netflix. Passwords are never shown.
pub struct Eureka {
    client: Arc<HttpClient>,
    ttl: Duration,
    eviction_interval: Duration,
    visibility: Duration,
    out_of_service_first: bool,
    is_https: bool,
    vip_address: Option<String>,
    home_page: Page,
    status_page: Option<Page>,
    health_check: Option<Page>,
    /// The ids whose overridden status was cleared.
    cleared: Arc<Mutex<HashSet<String>>>,
}

impl Eureka {
    /// The servers with these URLs, each `http://[user:password@]host[:port]/eureka` (or `https`, with the feature `tls`),
    /// as in Spring's `defaultZone`; Netflix's own servers have `/eureka/v2` for a path. In the user and the password
    /// reserved characters are percent-encoded. Nothing is sent yet.
    ///
    /// One server takes the registration and the heartbeats, and tells the others. When it is down, or does not answer,
    /// the next one is asked, and goes on from there.
    ///
    /// # Errors
    ///
    /// When there is none, or one is something else. Passwords are not in the message.
    pub fn new<U: AsRef<str>>(servers: impl IntoIterator<Item = U>) -> Result<Self, RegistryError> {
        let client = servers::client(servers)?.with_header(ACCEPT, "application/json")?;
        Ok(Self {
            client: Arc::new(client),
            ttl: TTL,
            eviction_interval: EVICTION_INTERVAL,
            visibility: VISIBILITY,
            out_of_service_first: false,
            is_https: false,
            vip_address: None,
            home_page: Page::new(None, "/"),
            status_page: None,
            health_check: None,
            cleared: Arc::default(),
        })
    }

    /// The servers that a Spring Cloud client in the same container would use: the variable
    /// `EUREKA_CLIENT_SERVICEURL_DEFAULTZONE`, URLs with commas between them, else `http://127.0.0.1:8761/eureka`.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); the message names the variable.
    pub fn from_env() -> Result<Self, RegistryError> {
        servers::from_env(|name| std::env::var(name).ok())
    }

    /// The same servers, spoken to like this where they are `https`. Default: as the system does it.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn with_tls(self, tls: &crate::registry::Tls) -> Self {
        self.client.use_tls(tls);
        self
    }

    /// The same servers, whose instances expire when no heartbeat came for this long (`durationInSecs`); a heartbeat is
    /// sent three times as often. Counted in whole seconds, rounded up.
    ///
    /// Default: 90 s, and a heartbeat each 30 s, Eureka's own. A server's self-preservation counts on that interval. In
    /// truth Eureka takes twice as long, and up to the [eviction interval](Self::with_eviction_interval) more.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = info::whole_seconds(ttl);
        self
    }

    /// The same servers, which look for expired instances this often (`eureka.server.eviction-interval-timer-in-ms`): so
    /// much longer is an instance listed that could not be taken out.
    ///
    /// Default: 60 s, the servers' own. With self-preservation they may keep it for longer than is known here.
    #[must_use]
    pub const fn with_eviction_interval(mut self, interval: Duration) -> Self {
        self.eviction_interval = interval;
        self
    }

    /// The same servers, declaring that clients of the service may still call this long after an instance left: the sum
    /// of all caches between the registry and a call.
    ///
    /// Default: 65 s. That is 30 s of the servers' read-only cache (`response-cache-update-interval-ms`; nothing with
    /// `use-read-only-response-cache: false`), 30 s between two fetches of a client
    /// (`registry-fetch-interval-seconds`), and 5 s for what it does then. A client's load balancer may keep a list of its own:
    /// [`with_load_balancer_cache`](Self::with_load_balancer_cache).
    ///
    /// A grace period has to be longer than this; `build` says how long.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// The same servers, with clients whose load balancers keep a list of their own for this long, on top of the 65 s:
    /// Ribbon 30 s (so 95 s in all), Spring Cloud LoadBalancer 35 s (`spring.cloud.loadbalancer.cache.ttl`).
    ///
    /// Default: nothing. Replaces what [`with_visibility`](Self::with_visibility) said.
    #[must_use]
    pub const fn with_load_balancer_cache(mut self, cache: Duration) -> Self {
        self.visibility = VISIBILITY.saturating_add(cache);
        self
    }

    /// The same servers, on which a leaving instance is set `OUT_OF_SERVICE` before it is deleted: operators see that it
    /// goes by its own will, and where the deletion fails clients are given it no more.
    ///
    /// Default: no. It is one call more, and clients notice neither sooner nor later.
    #[must_use]
    pub const fn with_out_of_service_first(mut self) -> Self {
        self.out_of_service_first = true;
        self
    }

    /// The same servers, told that the instances speak `https` at their address: the port is the secure one.
    ///
    /// Default: `http`.
    #[must_use]
    pub const fn with_https(mut self) -> Self {
        self.is_https = true;
        self
    }

    /// The same servers, with this virtual address, by which Spring's clients look instances up.
    ///
    /// Default: the service's name, as Spring has it.
    #[must_use]
    pub fn with_vip_address(mut self, vip: impl Into<String>) -> Self {
        self.vip_address = Some(vip.into());
        self
    }

    /// The same servers, with this page as the instances' `healthCheckUrl`: a port of the instance's address, `9090` of
    /// the probe listener for example, and a path. `http`, but for the instance's own port [with
    /// https](Self::with_https).
    ///
    /// Default: none. Eureka's servers do not call it; consoles and gateways may.
    #[must_use]
    pub fn with_health_check(mut self, port: u16, path: impl Into<String>) -> Self {
        self.health_check = Some(Page::new(Some(port), path));
        self
    }

    /// The same servers, with this page as the instances' `statusPageUrl`, to which the server's own console links.
    ///
    /// Default: none.
    #[must_use]
    pub fn with_status_page(mut self, port: u16, path: impl Into<String>) -> Self {
        self.status_page = Some(Page::new(Some(port), path));
        self
    }

    /// The same servers, with this page as the instances' `homePageUrl`.
    ///
    /// Default: `/` at the instance's own port.
    #[must_use]
    pub fn with_home_page(mut self, port: u16, path: impl Into<String>) -> Self {
        self.home_page = Page::new(Some(port), path);
        self
    }
}

#[async_trait]
impl Registry for Eureka {
    fn name(&self) -> &str {
        "eureka"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        for part in [instance.service(), instance.id()] {
            if part.is_empty() || part.contains(['/', '\\']) {
                // Servlet containers answer an encoded slash with a 400 that does not say why.
                return Err(RegistryError::new(format!(
                    "{part:?} cannot be a name in Eureka: it must not be empty, and have no slash in it"
                )));
            }
        }
        let mut entry = Entry::new(self, instance);
        entry.register(self.body(instance), by).await?;
        // An overridden status outlives the process that set it, where an id is used again.
        entry.clear_status_once(by).await;
        Ok(Box::new(entry))
    }
}

impl fmt::Debug for Eureka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client shows its servers without users, its headers' names alone.
        f.debug_struct("Eureka")
            .field("client", &self.client)
            .field("ttl", &self.ttl)
            .field("eviction_interval", &self.eviction_interval)
            .field("visibility", &self.visibility)
            .field("out_of_service_first", &self.out_of_service_first)
            .field("is_https", &self.is_https)
            .field("vip_address", &self.vip_address)
            .finish_non_exhaustive()
    }
}
