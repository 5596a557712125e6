//! Registries by flags.

use std::net::SocketAddr;

use prestop::ShutdownCoordinatorBuilder;
use prestop::registry::{Instance, RegistryError};

/// Where the program is registered.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// A registry, as KIND=URL: the program is in it while it is ready, and is taken out first of all. Kinds, as far as
    /// this binary was built with their features: memory
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
            builder = add(builder, kind, url, instance.clone())?;
        }
        Ok(builder)
    }
}

fn add(
    builder: ShutdownCoordinatorBuilder,
    kind: &str,
    url: &str,
    instance: Instance,
) -> Result<ShutdownCoordinatorBuilder, RegistryError> {
    match kind {
        #[cfg(feature = "memory")]
        "memory" => {
            let client = prestop::registry::memory::MemoryRegistryClient::new(url)?;
            Ok(builder.registry(client, instance))
        }
        _ => {
            let _ = (builder, url, instance);
            Err(RegistryError::new(format!(
                "{kind:?} is no kind of registry that this binary knows"
            )))
        }
    }
}
