//! Registries by flags.

use std::net::SocketAddr;
use std::time::Duration;

use prestop::ShutdownCoordinatorBuilder;
use prestop::registry::{self, Instance, RegistryError};

/// Where the program is registered.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// A registry: the program is in it while it is ready, and is taken out first of all. As far as this binary was built
    /// with their features: memory=URL, consul=URL or consul (as $CONSUL_HTTP_ADDR and $CONSUL_HTTP_TOKEN say),
    /// etcd=URL,URL, eureka=URL,URL or eureka (as $EUREKA_CLIENT_SERVICEURL_DEFAULTZONE says), zookeeper=HOST:PORT,HOST:PORT,
    /// nacos=URL,URL (as $NACOS_USERNAME with $NACOS_PASSWORD if they are set, in $NACOS_NAMESPACE and $NACOS_GROUP)
    #[arg(
        long,
        value_name = "KIND=URL",
        env = "PRESTOP_REGISTRY",
        value_delimiter = '\n',
        requires = "service",
        requires = "address"
    )]
    registry: Vec<String>,

    /// The service's name there
    #[arg(long, value_name = "NAME", env = "PRESTOP_SERVICE")]
    service: Option<String>,

    /// Where clients reach the program: the pod's address and a port
    #[arg(long, value_name = "IP:PORT", env = "PRESTOP_ADDRESS")]
    address: Option<SocketAddr>,

    /// How long clients may go on calling once it has left [default: what the kind of registry declares]
    #[arg(long, value_name = "SECONDS", env = "PRESTOP_VISIBILITY", value_parser = crate::seconds)]
    visibility: Option<Duration>,

    /// What else is said about it there
    #[arg(long, value_name = "KEY=VALUE", env = "PRESTOP_METADATA", value_delimiter = '\n', value_parser = pair)]
    metadata: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl RegistryArgs {
    /// Adds the registries to the coordinator.
    ///
    /// # Errors
    ///
    /// When a registry is of an unknown kind, or its URL can't be one.
    pub(crate) fn add_to(
        self,
        mut builder: ShutdownCoordinatorBuilder,
    ) -> Result<ShutdownCoordinatorBuilder, RegistryError> {
        let (Some(service), Some(address)) = (self.service, self.address) else {
            return Ok(builder);
        };
        let mut instance = Instance::new(service, address);
        for (key, value) in self.metadata {
            instance = instance.with_metadata(key, value);
        }
        for registry in &self.registry {
            let (kind, url) = registry.split_once('=').unwrap_or((registry, ""));
            builder = add(builder, kind, url, self.visibility, instance.clone())?;
        }
        Ok(builder)
    }
}

/// One registry more. Which kinds there are is decided by the features of this binary.
#[allow(unused_variables, unused_mut)]
fn add(
    builder: ShutdownCoordinatorBuilder,
    kind: &str,
    url: &str,
    visibility: Option<Duration>,
    instance: Instance,
) -> Result<ShutdownCoordinatorBuilder, RegistryError> {
    let servers = || url.split(',');
    match kind {
        #[cfg(feature = "memory")]
        "memory" => {
            let mut registry = registry::memory::MemoryRegistryClient::new(url)?;
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        #[cfg(feature = "consul")]
        "consul" => {
            let mut registry = match url {
                "" => registry::consul::Consul::from_env()?,
                _ => registry::consul::Consul::agents(servers())?,
            };
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        #[cfg(feature = "etcd")]
        "etcd" => {
            let mut registry = registry::etcd::Etcd::new(servers())?;
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        #[cfg(feature = "eureka")]
        "eureka" => {
            let mut registry = match url {
                "" => registry::eureka::Eureka::from_env()?,
                _ => registry::eureka::Eureka::new(servers())?,
            };
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        #[cfg(feature = "zookeeper")]
        "zookeeper" => {
            let mut registry = registry::zookeeper::ZooKeeper::new(url)?;
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        #[cfg(feature = "nacos")]
        "nacos" => {
            let mut registry = nacos(servers(), |name| std::env::var(name).ok())?;
            if let Some(visibility) = visibility {
                registry = registry.with_visibility(visibility);
            }
            Ok(builder.registry(registry, instance))
        }
        _ => Err(RegistryError::new(format!(
            "{kind:?} is no kind of registry that this binary knows; it was built with{}",
            KINDS
                .iter()
                .map(|kind| format!(" {kind}"))
                .collect::<String>()
        ))),
    }
}

/// A password is not for a command line, which everybody can read. `get` reads a variable; an empty one is none.
#[cfg(feature = "nacos")]
fn nacos<'a>(
    servers: impl Iterator<Item = &'a str>,
    get: impl Fn(&str) -> Option<String>,
) -> Result<registry::nacos::Nacos, RegistryError> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let mut nacos = registry::nacos::Nacos::new(servers)?;
    if let Some(user) = get("NACOS_USERNAME") {
        nacos = nacos.with_user(user, get("NACOS_PASSWORD").unwrap_or_default());
    }
    if let Some(namespace) = get("NACOS_NAMESPACE") {
        nacos = nacos.with_namespace(namespace);
    }
    if let Some(group) = get("NACOS_GROUP") {
        nacos = nacos.with_group(group);
    }
    Ok(nacos)
}

const KINDS: &[&str] = &[
    #[cfg(feature = "memory")]
    "memory",
    #[cfg(feature = "consul")]
    "consul",
    #[cfg(feature = "etcd")]
    "etcd",
    #[cfg(feature = "eureka")]
    "eureka",
    #[cfg(feature = "zookeeper")]
    "zookeeper",
    #[cfg(feature = "nacos")]
    "nacos",
];

#[cfg(all(test, feature = "nacos"))]
mod tests {
    use super::*;

    #[test]
    fn nacos_is_asked_as_its_variables_say_and_the_password_is_not_shown() {
        let get = |name: &str| match name {
            "NACOS_USERNAME" => Some("svc".to_owned()),
            "NACOS_PASSWORD" => Some("hush-hush".to_owned()),
            "NACOS_NAMESPACE" => Some("staging".to_owned()),
            "NACOS_GROUP" => Some(String::new()),
            _ => None,
        };
        let nacos = nacos(["http://a:8848", "http://b:8848"].into_iter(), get).unwrap();
        let shown = format!("{nacos:?}");
        for part in ["svc", "staging", "DEFAULT_GROUP", "http://b:8848/nacos"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!shown.contains("hush"), "{shown}");
    }
}
