//! Nacos, by its HTTP APIs for clients: v3, or v1 where the servers do not know that.
//!
//! ```no_run
//! # async fn x(address: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::ShutdownCoordinator;
//! use prestop::registry::Instance;
//! use prestop::registry::nacos::Nacos;
//!
//! let nacos = Nacos::new(["http://nacos-0:8848", "http://nacos-1:8848"])?
//!     .with_namespace("staging")
//!     .with_user("orders", std::env::var("NACOS_PASSWORD")?);
//! let c = ShutdownCoordinator::builder().registry(nacos, Instance::new("orders", address)).build()?;
//! # Ok(()) }
//! ```
//!
//! # What is sent
//!
//! | call | v3 (`/nacos/v3/client/ns/instance`) | v1 (`/nacos/v1/ns/instance`) | when it is not as hoped for |
//! |---|---|---|---|
//! | register | `POST` | `POST` | the same again; twice is the same as once |
//! | heartbeat | `POST` with `heartBeat=true` | `PUT .../beat`, the light one without the instance in it | 21003 or 20404, "not known": registered anew, unless a stop has begun |
//! | leave | `GET .../list`, then `DELETE` | the same | that it was not there is success |
//! | read back | `POST` with `heartBeat=true`: 21003 means gone | `GET .../list`, until it is gone there | still there, or there again: removed again, within the leave budget |
//!
//! Ended by a panic, the watchdog or a third Ctrl-C, the process removes its instance all the same, over a blocking socket
//! ([`LastGasp`](crate::registry::LastGasp)).
//!
//! An instance has no id in Nacos but its address, so a late `DELETE` would hit a successor at the same one. That is what
//! the metadata `prestop.id` and the look before the removal are for: what carries another process's id is left alone. The
//! list is behind, though: Nacos 2 and 3 gather changes for half a second before they tell clients, and the list is what
//! clients are told. A successor that registered within that time would be removed, too. Its own next heartbeat notices,
//! which is why an instance sends its first five a second apart.
//!
//! A heartbeat can bring an instance back (S6), but not these: v3's never does, and v1's does only when it carries
//! the instance, which the light one does not. A heartbeat in flight is waited for before the removal, and where one of v1
//! was never answered, the list is read once more. That v3's is refused when there is no instance makes it the way to read
//! a removal back: it tells at once, where the list takes its half second.
//!
//! # Versions
//!
//! Nacos 3 by v3, Nacos 1.2 to 2.x by v1: what the servers answer decides, at each call, and
//! [`with_api`](Nacos::with_api) decides it by hand. v2 (`/nacos/v2/ns/instance`) is not spoken: Nacos 3 answers 410 to it
//! unless it is told otherwise, and whatever has v2 has v1.
//!
//! gRPC, by which Nacos' own clients register since 2.0, ties the instance to a connection. It would cost a protobuf
//! stack, and save the heartbeats; clients are told of a deregistration by the same push either way.
//!
//! # Dubbo
//!
//! [`ServiceFormat::dubbo`] registers providers as Dubbo's own registry does, [`ServiceFormat::custom`] under any names
//! with any metadata:
//!
//! ```no_run
//! # fn x() -> Result<(), Box<dyn std::error::Error>> {
//! use prestop::registry::nacos::{DubboService, Nacos, ServiceFormat};
//!
//! let orders = DubboService::new("com.example.Orders").with_version("1.0.0");
//! let nacos = Nacos::new(["http://nacos:8848"])?.with_format(ServiceFormat::dubbo([orders]));
//! # Ok(()) }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::deadline::Deadline;
use crate::registry::http::HttpClient;
use crate::registry::{Instance, Registration, Registry, RegistryError};

mod api;
mod entry;
mod format;
mod listing;
mod login;
#[cfg(test)]
mod tests;

pub use api::NacosApi;
use api::Servers;
use entry::{Entry, Looks};
pub use format::{DubboService, ServiceFormat};
use listing::Listing;
use login::Login;

/// Nacos' own: a heartbeat each 5 s, unhealthy without one after 15 s, removed after 30 s.
const TTL: Duration = Duration::from_secs(15);

/// Clients that poll do it each 10 s, unless they are told otherwise, and the list that they are given is up to a second
/// behind.
const VISIBILITY: Duration = Duration::from_secs(11);

/// Where Nacos is below its port, unless it is told otherwise.
const CONTEXT: &str = "/nacos";

/// A Nacos cluster as a registry. The [module](self) says what is sent.
pub struct Nacos {
    servers: Arc<Servers>,
    settings: Settings,
    format: ServiceFormat,
    visibility: Duration,
    disable_first: bool,
}

/// Where instances are put, and how.
#[derive(Clone, Debug)]
struct Settings {
    namespace: String,
    group: String,
    cluster: String,
    weight: f64,
    ephemeral: bool,
    ttl: Duration,
}

impl Nacos {
    /// The cluster with these servers, each `http://host:port` (or `https`, with the feature `tls`), any of which can be
    /// asked. A path is the server's context path, `/nacos` where there is none. Nothing is sent yet.
    ///
    /// A call that finds a server down goes on to the next; one that a server did not answer in time, or answered
    /// with 5xx, begins with the next when it is repeated.
    ///
    /// # Errors
    ///
    /// When there is none, or one is something else, or has a user or password in it.
    pub fn new<U: AsRef<str>>(servers: impl IntoIterator<Item = U>) -> Result<Self, RegistryError> {
        let urls = servers.into_iter().map(|url| with_context(url.as_ref()));
        Ok(Self {
            servers: Arc::new(Servers::new(HttpClient::new(urls)?)),
            settings: Settings {
                namespace: "public".into(),
                group: "DEFAULT_GROUP".into(),
                cluster: "DEFAULT".into(),
                weight: 1.0,
                ephemeral: true,
                ttl: TTL,
            },
            format: ServiceFormat::plain(),
            visibility: VISIBILITY,
            disable_first: false,
        })
    }

    /// The same cluster, asked as this user. The token that Nacos gives for the password is fetched when it is first
    /// needed, renewed when nine tenths of its time are over, and fetched anew when Nacos does not take it any more. It
    /// travels in a header, the password in a body; neither is shown anywhere.
    ///
    /// The user's role needs `rw` on the namespace. With `w` alone everything works but the look at the list: then
    /// [`is_listed`](Registration::is_listed) is `None`, and a late removal may hit a successor at the same address.
    ///
    /// Where Nacos has no login, the user is not used.
    #[must_use]
    pub fn with_user(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let login = Login::new(name.into(), password.into());
        self.each(|servers| servers.with_login(login))
    }

    /// The same cluster, asked by this API alone.
    ///
    /// Default: v3, and v1 where the servers do not know that (or the other way round, once they were replaced). By hand
    /// is for a gateway before Nacos that answers what it does not let through with something else than 404.
    #[must_use]
    pub fn with_api(self, api: NacosApi) -> Self {
        self.each(|servers| servers.with_only(api))
    }

    /// The same cluster, spoken to like this where its servers are `https`. Default: as the system does it.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn with_tls(self, tls: &crate::registry::Tls) -> Self {
        self.servers.use_tls(tls);
        self
    }

    /// The same cluster, with instances in the namespace of this id (not its name).
    ///
    /// Default: `public`.
    #[must_use]
    pub fn with_namespace(mut self, id: impl Into<String>) -> Self {
        self.settings.namespace = id.into();
        self
    }

    /// The same cluster, with services of this group.
    ///
    /// Default: `DEFAULT_GROUP`.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.settings.group = group.into();
        self
    }

    /// The same cluster, with instances in this cluster of their service: what Nacos calls a part of its instances, in
    /// one zone for instance.
    ///
    /// Default: `DEFAULT`.
    #[must_use]
    pub fn with_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.settings.cluster = cluster.into();
        self
    }

    /// The same cluster, with instances of this weight, 0 to 10,000. Nacos refuses any other.
    ///
    /// Default: 1.
    #[must_use]
    pub const fn with_weight(mut self, weight: f64) -> Self {
        self.settings.weight = weight;
        self
    }

    /// The same cluster, with instances that are not ephemeral: Nacos stores them, checks them by TCP or HTTP instead of
    /// waiting for heartbeats, and lists those of a killed process, unhealthy, until somebody removes them. A service
    /// has instances of one kind alone.
    ///
    /// Whether the instance is still stored is looked up in the list that clients are given, every 30 s. That list is half a
    /// second behind and has no instances that an operator disabled, so what it lacks is registered again only when it
    /// was listed before, and was missing twice, a second apart. An operator who disables an instance sees it registered
    /// once more, not again and again; one that is removed before it was ever listed is not noticed.
    ///
    /// Default: ephemeral.
    #[must_use]
    pub const fn with_persistent_instances(mut self) -> Self {
        self.settings.ephemeral = false;
        self
    }

    /// The same cluster, which calls an instance unhealthy when no heartbeat came for this long, and removes it after
    /// twice as long; it looks each 5 s. A heartbeat is sent three times per this time, the first five a second apart.
    ///
    /// Default: 15 s, Nacos' own, and what its clients go by. Anything else is given to it as the metadata
    /// `preserved.heart.beat.interval`, `preserved.heart.beat.timeout` and `preserved.ip.delete.timeout`.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// The same cluster, declaring that clients of the service may still call this long after an instance left.
    ///
    /// Default: 11 s, for clients over HTTP, which poll each 10 s a list that is a second behind. Where all are subscribers over gRPC (Nacos' Java client
    /// since 2.0, its Go client since 2.0), 2 s is enough: Nacos gathers changes for half a second and tells them. Spring
    /// Cloud's load balancer has a cache of its own on top (35 s, `spring.cloud.loadbalancer.cache.ttl`): shorten it, or
    /// declare it here.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// The same cluster, with instances in these services: in all of them, or, when one is refused, in none, until the
    /// next attempt.
    ///
    /// Default: [`ServiceFormat::plain`].
    #[must_use]
    pub fn with_format(mut self, format: ServiceFormat) -> Self {
        self.format = format;
        self
    }

    /// The same cluster, on which a leaving instance is first registered anew with `enabled=false`: clients are given it
    /// no more even where the removal fails then.
    ///
    /// Default: no. It is one call more, and clients are told neither sooner nor later. What an operator has set in the
    /// console for this address goes before what a registration says.
    ///
    /// The call is the registration because v1's own for this, `PUT`, is answered with 410 by Nacos 3, there is none for
    /// clients in v3, and what it sets outlives the registration and meets the successor at the same address.
    #[must_use]
    pub const fn with_disable_first(mut self) -> Self {
        self.disable_first = true;
        self
    }

    fn each(self, change: impl FnOnce(Servers) -> Servers) -> Self {
        // Before the first registration nobody else has them.
        let servers = Arc::try_unwrap(self.servers)
            .map(change)
            .map(Arc::new)
            .unwrap_or_else(|servers| servers);
        Self { servers, ..self }
    }
}

/// The URL with the context path that is meant where it has none.
fn with_context(url: &str) -> String {
    let bare = url.trim_end_matches('/');
    let host = bare.split_once("://").map_or(bare, |(_, host)| host);
    match host.contains(['/', '?', '#']) {
        true => url.to_owned(),
        false => format!("{bare}{CONTEXT}"),
    }
}

impl fmt::Debug for Nacos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nacos")
            .field("servers", &self.servers)
            .field("settings", &self.settings)
            .field("format", &self.format)
            .field("visibility", &self.visibility)
            .field("disable_first", &self.disable_first)
            .finish()
    }
}

#[async_trait]
impl Registry for Nacos {
    fn name(&self) -> &str {
        "nacos"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let services = self.format.services(instance)?;
        let listing = |(name, metadata)| Listing::new(&self.settings, instance, name, metadata);
        let listings = services
            .into_iter()
            .map(listing)
            .collect::<Result<_, _>>()?;
        let entry = Entry {
            servers: self.servers.clone(),
            listings,
            ttl: self.settings.ttl,
            ephemeral: self.settings.ephemeral,
            disable_first: self.disable_first,
            known: true,
            leaving: false,
            unanswered: false,
            beats: 0,
            looks: Looks::default(),
        };
        entry.register(by).await?;
        Ok(Box::new(entry))
    }
}
