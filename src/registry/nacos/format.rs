//! [`ServiceFormat`]: in which services an instance is, and what is said about it there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use crate::registry::dubbo::DubboService;
use crate::registry::dubbo::now;
use crate::registry::{Instance, RegistryError};

/// The services of an instance, by name, and its metadata in each.
#[derive(Clone)]
pub struct ServiceFormat(Shape);

/// A service's name, and the metadata.
type Named = (String, BTreeMap<String, String>);

#[derive(Clone)]
enum Shape {
    Plain,
    Dubbo {
        services: Vec<DubboService>,
        /// Milliseconds since 1970: one for each start of the process.
        timestamp: u128,
    },
    #[allow(clippy::type_complexity)]
    Custom(Arc<dyn Fn(&Instance) -> Vec<Named> + Send + Sync>),
}

impl ServiceFormat {
    /// For clients of Nacos' own, Spring Cloud Alibaba's among them: the instance's service and metadata, as they are.
    #[must_use]
    pub const fn plain() -> Self {
        Self(Shape::Plain)
    }

    /// For Dubbo's consumers of these interfaces: one service for each, with the parameters of the provider's URL for
    /// metadata. The instance's own service is the application; its metadata become parameters (`weight`, `timeout`
    /// ...).
    ///
    /// ```text
    /// providers:com.example.Orders:1.0.0:    {"application":"orders","category":"providers","dubbo":"2.0.2",
    ///                                         "interface":"com.example.Orders","path":"com.example.Orders",
    ///                                         "protocol":"dubbo","side":"provider","version":"1.0.0",...}
    /// ```
    ///
    /// This is registration at the level of interfaces, which every version of Dubbo reads. Nacos refuses metadata of
    /// more than 1,024 characters: a service of many methods leaves them as `*`.
    ///
    /// ```
    /// use prestop::registry::nacos::{DubboService, ServiceFormat};
    ///
    /// let format = ServiceFormat::dubbo([DubboService::new("com.example.Orders").with_version("1.0.0")]);
    /// ```
    #[must_use]
    pub fn dubbo(services: impl IntoIterator<Item = DubboService>) -> Self {
        Self(Shape::Dubbo {
            services: services.into_iter().collect(),
            timestamp: now(),
        })
    }

    /// Names and metadata from the instance, by code of your own.
    ///
    /// ```
    /// use prestop::registry::nacos::ServiceFormat;
    ///
    /// let format = ServiceFormat::custom(|instance| {
    ///     let mut metadata = instance.metadata().clone();
    ///     metadata.insert("preserved.register.source".into(), "SPRING_CLOUD".into());
    ///     vec![(instance.service().to_owned(), metadata.clone()), ("everything".to_owned(), metadata)]
    /// });
    /// ```
    #[must_use]
    pub fn custom(
        format: impl Fn(&Instance) -> Vec<(String, BTreeMap<String, String>)> + Send + Sync + 'static,
    ) -> Self {
        Self(Shape::Custom(Arc::new(format)))
    }

    pub(super) fn services(&self, instance: &Instance) -> Result<Vec<Named>, RegistryError> {
        let services = match &self.0 {
            Shape::Plain => vec![(instance.service().to_owned(), instance.metadata().clone())],
            Shape::Dubbo {
                services,
                timestamp,
            } => services
                .iter()
                .map(|service| dubbo(service, instance, *timestamp))
                .collect(),
            Shape::Custom(format) => format(instance),
        };
        if services.is_empty() {
            return Err(RegistryError::new("the format names no service"));
        }
        Ok(services)
    }
}

/// What Dubbo's `NacosRegistry` registers: `URL.getColonSeparatedKey` for the name, and three more parameters.
fn dubbo(service: &DubboService, instance: &Instance, timestamp: u128) -> Named {
    let mut metadata = service.parameters(instance, timestamp);
    let part = |name: &str| metadata.get(name).cloned().unwrap_or_default();
    let (version, group) = (part("version"), part("group"));
    let interface = service.interface();
    for (key, value) in [
        ("category", "providers"),
        ("path", interface),
        ("protocol", service.protocol()),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    (format!("providers:{interface}:{version}:{group}"), metadata)
}

impl fmt::Debug for ServiceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Plain => f.write_str("plain"),
            Shape::Dubbo { services, .. } => write!(f, "dubbo: {services:?}"),
            Shape::Custom(_) => f.write_str("custom"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dubbos_names_and_metadata_are_those_of_its_nacos_registry() {
        let instance =
            Instance::new("shop", ([10, 0, 0, 5], 20880).into()).with_metadata("weight", "50");
        let orders = DubboService::new("com.example.Orders")
            .with_version("1.0.0")
            .with_group("g")
            .with_methods(["place", "cancel"]);
        let (name, metadata) = dubbo(&orders, &instance, 1_700_000_000_000);
        assert_eq!(name, "providers:com.example.Orders:1.0.0:g");
        let expected = [
            ("application", "shop"),
            ("category", "providers"),
            ("deprecated", "false"),
            ("dubbo", "2.0.2"),
            ("dynamic", "true"),
            ("generic", "false"),
            ("group", "g"),
            ("interface", "com.example.Orders"),
            ("methods", "place,cancel"),
            ("path", "com.example.Orders"),
            ("protocol", "dubbo"),
            ("side", "provider"),
            ("timestamp", "1700000000000"),
            ("version", "1.0.0"),
            ("weight", "50"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(metadata, BTreeMap::from(expected));

        let plain = DubboService::new("a.B").with_protocol("tri");
        let (name, metadata) = dubbo(&plain, &instance, 1);
        assert_eq!(name, "providers:a.B::");
        assert_eq!(metadata["protocol"], "tri");
    }

    #[test]
    fn a_format_without_a_service_is_refused() {
        let instance = Instance::new("shop", ([10, 0, 0, 5], 80).into());
        let refused = ServiceFormat::dubbo([]).services(&instance).unwrap_err();
        assert!(refused.to_string().contains("no service"), "{refused}");
    }
}
