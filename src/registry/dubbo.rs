//! [`DubboService`]: what Dubbo's consumers are told of a provider, whichever registry tells them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::registry::Instance;
#[cfg(feature = "zookeeper")]
use crate::registry::RegistryError;

/// An interface that the instance provides to Dubbo's consumers, through ZooKeeper or Nacos.
///
/// ```
/// # #[cfg(feature = "nacos")] use prestop::registry::nacos as registry;
/// # #[cfg(all(feature = "zookeeper", not(feature = "nacos")))] use prestop::registry::zookeeper as registry;
/// use registry::DubboService; // prestop::registry::zookeeper::DubboService, or prestop::registry::nacos::DubboService
///
/// let services = [
///     DubboService::new("com.example.Orders").with_version("1.0.0").with_methods(["place", "cancel"]),
///     DubboService::new("com.example.Payments").with_protocol("tri"),
/// ];
/// ```
#[derive(Clone, Debug)]
pub struct DubboService {
    interface: String,
    protocol: String,
    parameters: BTreeMap<String, String>,
}

impl DubboService {
    /// The interface with this full name, over the protocol `dubbo`.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            protocol: "dubbo".into(),
            parameters: BTreeMap::new(),
        }
    }

    /// The same over another protocol, `tri` for instance.
    #[must_use]
    pub fn with_protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = protocol.into();
        self
    }

    /// The same in this version, which consumers must ask for.
    #[must_use]
    pub fn with_version(self, version: impl Into<String>) -> Self {
        self.with_parameter("version", version)
    }

    /// The same in this group, which consumers must ask for.
    #[must_use]
    pub fn with_group(self, group: impl Into<String>) -> Self {
        self.with_parameter("group", group)
    }

    /// The same with these methods. Default: `*`, which Dubbo writes where it does not know them.
    #[must_use]
    pub fn with_methods<M: Into<String>>(self, methods: impl IntoIterator<Item = M>) -> Self {
        let methods: Vec<String> = methods.into_iter().map(Into::into).collect();
        self.with_parameter("methods", methods.join(","))
    }

    /// The same with one more parameter of the URL.
    #[must_use]
    pub fn with_parameter(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.insert(key.into(), value.into());
        self
    }

    pub(in crate::registry) fn interface(&self) -> &str {
        &self.interface
    }

    #[cfg(feature = "nacos")]
    pub(in crate::registry) fn protocol(&self) -> &str {
        &self.protocol
    }

    /// What the URL says after its `?`.
    pub(in crate::registry) fn parameters(
        &self,
        instance: &Instance,
        timestamp: u128,
    ) -> BTreeMap<String, String> {
        let timestamp = timestamp.to_string();
        let usual = [
            ("application", instance.service()),
            ("deprecated", "false"),
            // The version of the protocol, since 2.6.3.
            ("dubbo", "2.0.2"),
            ("dynamic", "true"),
            ("generic", "false"),
            ("interface", &self.interface),
            ("methods", "*"),
            ("side", "provider"),
            ("timestamp", &timestamp),
        ];
        let usual = usual.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let own = instance.metadata().iter().chain(&self.parameters);
        let own = own.map(|(key, value)| (key.clone(), value.clone()));
        usual.into_iter().chain(own).collect()
    }

    /// `dubbo://10.0.0.5:20880/com.example.Orders?application=orders&...`, its parameters in order, as Dubbo writes it.
    #[cfg(feature = "zookeeper")]
    pub(in crate::registry) fn url(
        &self,
        instance: &Instance,
        timestamp: u128,
    ) -> Result<String, RegistryError> {
        let parameters = self.parameters(instance, timestamp);
        let is_split = |text: &str| text.contains(['&', '=']);
        if let Some((key, _)) = parameters
            .iter()
            .find(|(key, value)| is_split(key) || value.contains('&'))
        {
            return Err(RegistryError::new(format!(
                "the parameter {key:?} of {} cannot be in a URL of Dubbo's: it has a & or =",
                self.interface
            )));
        }
        let parameters: Vec<_> = parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Ok(format!(
            "{}://{}/{}?{}",
            self.protocol,
            instance.address(),
            self.interface,
            parameters.join("&")
        ))
    }
}

/// Milliseconds since 1970: what Dubbo tells one start of a provider from the next by.
pub(in crate::registry) fn now() -> u128 {
    // A clock before 1970 tells nobody anything.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
