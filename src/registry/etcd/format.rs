//! [`KeyFormat`]: what clients of each kind expect to find.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::registry::{Instance, RegistryError};

/// The shape of the key and of its value: what the clients of the service look for.
#[derive(Clone)]
pub struct KeyFormat(Shape);

#[derive(Clone)]
enum Shape {
    GrpcNaming,
    Kratos {
        namespace: String,
        scheme: String,
    },
    GoZero,
    #[allow(clippy::type_complexity)]
    Custom(Arc<dyn Fn(&Instance, i64) -> (String, String) + Send + Sync>),
}

impl KeyFormat {
    /// For gRPC clients with etcd's resolver (`go.etcd.io/etcd/client/v3/naming`, target `etcd:///orders`). The
    /// service's name is the target:
    ///
    /// ```text
    /// orders/10.0.0.5:50051    {"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}
    /// ```
    ///
    /// Metadata, if there is any, is an object of strings. A successor at the same address has the same key.
    #[must_use]
    pub const fn grpc_naming() -> Self {
        Self(Shape::GrpcNaming)
    }

    /// For [kratos](https://go-kratos.dev), in its default namespace. The scheme is that of the endpoint: `grpc` or
    /// `http`, `grpcs` or `https` with TLS. The version is the metadata's `version`, empty without.
    ///
    /// ```text
    /// /microservices/orders/<id>    {"id":"<id>","name":"orders","version":"1.4.2",
    ///                                "metadata":{"version":"1.4.2"},"endpoints":["grpc://10.0.0.5:50051"]}
    /// ```
    #[must_use]
    pub fn kratos(scheme: impl Into<String>) -> Self {
        Self::kratos_in("/microservices", scheme)
    }

    /// The same in another namespace: what kratos's option `Namespace` says.
    #[must_use]
    pub fn kratos_in(namespace: impl Into<String>, scheme: impl Into<String>) -> Self {
        Self(Shape::Kratos {
            namespace: namespace.into(),
            scheme: scheme.into(),
        })
    }

    /// For [go-zero](https://go-zero.dev). The service's name is the `Key` of its configuration; metadata has no
    /// place.
    ///
    /// ```text
    /// orders.rpc/7587862960428234243    10.0.0.5:50051
    /// ```
    #[must_use]
    pub const fn go_zero() -> Self {
        Self(Shape::GoZero)
    }

    /// Key and value from the instance and the id of its lease, by code of your own.
    ///
    /// The key should differ from instance to instance: it is put with the lease, and goes with it.
    ///
    /// ```
    /// use prestop::registry::etcd::KeyFormat;
    ///
    /// let format = KeyFormat::custom(|instance, _lease| {
    ///     (format!("/{}/{}", instance.service(), instance.id()), instance.address().to_string())
    /// });
    /// ```
    #[must_use]
    pub fn custom(
        format: impl Fn(&Instance, i64) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        Self(Shape::Custom(Arc::new(format)))
    }

    pub(super) fn entry(
        &self,
        instance: &Instance,
        lease: i64,
    ) -> Result<(String, String), RegistryError> {
        let (service, id, address) = (instance.service(), instance.id(), instance.address());
        Ok(match &self.0 {
            Shape::GrpcNaming => {
                let metadata = instance.metadata();
                let value = json(&Update {
                    op: 0,
                    addr: address.to_string(),
                    metadata: (!metadata.is_empty()).then_some(metadata),
                })?;
                (format!("{service}/{address}"), value)
            }
            Shape::Kratos { namespace, scheme } => {
                let metadata = instance.metadata();
                let value = json(&ServiceInstance {
                    id,
                    name: service,
                    version: metadata.get("version").map_or("", String::as_str),
                    metadata,
                    endpoints: [format!("{scheme}://{address}")],
                })?;
                (format!("{namespace}/{service}/{id}"), value)
            }
            Shape::GoZero => (format!("{service}/{lease}"), address.to_string()),
            Shape::Custom(format) => format(instance, lease),
        })
    }
}

impl fmt::Debug for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::GrpcNaming => f.write_str("grpc naming"),
            Shape::Kratos { namespace, scheme } => write!(f, "kratos {namespace} {scheme}"),
            Shape::GoZero => f.write_str("go-zero"),
            Shape::Custom(_) => f.write_str("custom"),
        }
    }
}

/// `Update` of etcd's `client/v3/naming/endpoints/internal/update.go`; 0 means "added".
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Update<'a> {
    op: u8,
    addr: String,
    metadata: Option<&'a BTreeMap<String, String>>,
}

/// `ServiceInstance` of kratos's `registry/registry.go`.
#[derive(Serialize)]
struct ServiceInstance<'a> {
    id: &'a str,
    name: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
    endpoints: [String; 1],
}

fn json(value: &impl Serialize) -> Result<String, RegistryError> {
    serde_json::to_string(value).map_err(|error| {
        RegistryError::new("the instance could not be written as JSON").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Instance {
        Instance::new("orders", ([10, 0, 0, 5], 50051).into()).with_id("orders-1")
    }

    fn entry(format: &KeyFormat, instance: &Instance) -> (String, String) {
        format.entry(instance, 7_587_862_960_428_234_243).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn grpc_naming_is_what_etcds_resolver_reads() {
        let format = KeyFormat::grpc_naming();
        assert_eq!(
            entry(&format, &orders()),
            pair(
                "orders/10.0.0.5:50051",
                r#"{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}"#
            )
        );
        let six = Instance::new("a/b", "[2001:db8::5]:80".parse().unwrap());
        let six = six.with_metadata("zone", "a \"1\"");
        assert_eq!(
            entry(&format, &six),
            pair(
                "a/b/[2001:db8::5]:80",
                r#"{"Op":0,"Addr":"[2001:db8::5]:80","Metadata":{"zone":"a \"1\""}}"#
            )
        );
    }

    #[test]
    fn kratos_finds_its_service_instance() {
        assert_eq!(
            entry(&KeyFormat::kratos("grpc"), &orders()),
            pair(
                "/microservices/orders/orders-1",
                r#"{"id":"orders-1","name":"orders","version":"","metadata":{},"endpoints":["grpc://10.0.0.5:50051"]}"#
            )
        );
        let versioned = orders().with_metadata("version", "v2");
        assert_eq!(
            entry(&KeyFormat::kratos_in("/test", "http"), &versioned),
            pair(
                "/test/orders/orders-1",
                r#"{"id":"orders-1","name":"orders","version":"v2","metadata":{"version":"v2"},"endpoints":["http://10.0.0.5:50051"]}"#
            )
        );
    }

    #[test]
    fn go_zero_finds_the_address_under_the_lease() {
        assert_eq!(
            entry(&KeyFormat::go_zero(), &orders()),
            pair("orders/7587862960428234243", "10.0.0.5:50051")
        );
    }
}
