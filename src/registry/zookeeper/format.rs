//! [`NodeFormat`]: what clients of each kind expect to find.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::dubbo;
pub use crate::registry::dubbo::DubboService;
use crate::registry::dubbo::now;
use crate::registry::{Instance, RegistryError};

/// The nodes of an instance: what the clients of the service look for.
#[derive(Clone)]
pub struct NodeFormat(Shape);

#[derive(Clone)]
enum Shape {
    Curator {
        base: String,
        spring: bool,
    },
    Dubbo {
        root: String,
        services: Vec<DubboService>,
        /// Milliseconds since 1970: one for each start of the process.
        timestamp: u128,
    },
    #[allow(clippy::type_complexity)]
    Custom(Arc<dyn Fn(&Instance) -> Vec<(String, Vec<u8>)> + Send + Sync>),
}

/// An ephemeral node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
}

impl NodeFormat {
    /// For clients with Curator's service discovery and this base path: what its `JsonInstanceSerializer` writes.
    ///
    /// ```text
    /// /services/orders/<id>    {"name":"orders","id":"<id>","address":"10.0.0.5","port":8080,"sslPort":null,
    ///                           "payload":null,"registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC",
    ///                           "uriSpec":null}
    /// ```
    ///
    /// The payload is null without metadata, else an object of strings, which Curator reads as a `Map`: for clients with
    /// another class of payload, make the nodes by [`custom`](Self::custom). As with Curator's default the field
    /// `enabled`, which old clients choke on, is left out: that means true.
    #[must_use]
    pub fn curator(base: impl Into<String>) -> Self {
        Self(Shape::Curator {
            base: base.into(),
            spring: false,
        })
    }

    /// For clients with Spring Cloud Zookeeper, in its default place `/services`: the same, with a `ZookeeperInstance` that
    /// carries the metadata for a payload, and its `uriSpec`.
    ///
    /// ```text
    /// "payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
    ///            "id":"<id>","name":"orders","metadata":{}}
    /// ```
    #[must_use]
    pub fn spring_cloud() -> Self {
        Self(Shape::Curator {
            base: "/services".into(),
            spring: true,
        })
    }

    /// For Dubbo's consumers of these interfaces: one node for each, below `/dubbo`, whose name is the provider's URL,
    /// encoded. The instance's service is the application; its metadata become parameters (`weight`, `timeout` ...).
    ///
    /// ```text
    /// /dubbo/com.example.Orders/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.example.Orders%3Fapplication%3Dorders%26...
    /// ```
    ///
    /// This is registration at the level of interfaces, which every version of Dubbo reads. Dubbo 3's registration of
    /// applications needs its metadata service, and is not made. The `readonly` event, by which a Dubbo server tells
    /// the consumers on its connections, is the server's: what speaks the protocol should send it in a
    /// `pre_stop` hook.
    #[must_use]
    pub fn dubbo(services: impl IntoIterator<Item = DubboService>) -> Self {
        Self::dubbo_in("/dubbo", services)
    }

    /// The same below another root: what Dubbo calls the registry's `group`.
    #[must_use]
    pub fn dubbo_in(
        root: impl Into<String>,
        services: impl IntoIterator<Item = DubboService>,
    ) -> Self {
        Self(Shape::Dubbo {
            root: root.into(),
            services: services.into_iter().collect(),
            timestamp: now(),
        })
    }

    /// Paths and data from the instance, by code of your own. Parents that are missing are created.
    ///
    /// ```
    /// use prestop::registry::zookeeper::NodeFormat;
    ///
    /// let format = NodeFormat::custom(|instance| {
    ///     vec![(format!("/live/{}/{}", instance.service(), instance.address()), b"up".to_vec())]
    /// });
    /// ```
    #[must_use]
    pub fn custom(
        format: impl Fn(&Instance) -> Vec<(String, Vec<u8>)> + Send + Sync + 'static,
    ) -> Self {
        Self(Shape::Custom(Arc::new(format)))
    }

    pub(super) fn visibility(&self) -> Duration {
        match self.0 {
            Shape::Curator { .. } | Shape::Custom(_) => Duration::from_secs(1),
            // `DEFAULT_DELAY_NOTIFICATION_TIME` of Dubbo's registry API is 5 s.
            Shape::Dubbo { .. } => Duration::from_secs(6),
        }
    }

    pub(super) fn nodes(&self, instance: &Instance) -> Result<Vec<Node>, RegistryError> {
        self.nodes_at(instance, now())
    }

    fn nodes_at(&self, instance: &Instance, now: u128) -> Result<Vec<Node>, RegistryError> {
        let nodes = match &self.0 {
            Shape::Curator { base, spring } => {
                let base = base.trim_end_matches('/');
                vec![Node {
                    path: format!("{base}/{}/{}", instance.service(), instance.id()),
                    data: curator(instance, *spring, now)?,
                }]
            }
            Shape::Dubbo {
                root,
                services,
                timestamp,
            } => {
                let root = root.trim_end_matches('/');
                let node = |service| {
                    Ok(Node {
                        path: dubbo::path(root, service, instance, *timestamp)?,
                        data: Vec::new(),
                    })
                };
                services
                    .iter()
                    .map(node)
                    .collect::<Result<_, RegistryError>>()?
            }
            Shape::Custom(format) => {
                let node = |(path, data)| Node { path, data };
                format(instance).into_iter().map(node).collect()
            }
        };
        if nodes.is_empty() {
            return Err(RegistryError::new("the format makes no node"));
        }
        nodes.iter().try_for_each(|node| check(&node.path))?;
        Ok(nodes)
    }
}

impl fmt::Debug for NodeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Curator { base, spring } => {
                let kind = if *spring { "spring cloud" } else { "curator" };
                write!(f, "{kind} below {base}")
            }
            Shape::Dubbo { root, services, .. } => {
                write!(f, "dubbo below {root}: {services:?}")
            }
            Shape::Custom(_) => f.write_str("custom"),
        }
    }
}

/// Whether it can be the path of a node with a parent. ZooKeeper would refuse it too, in fewer words.
fn check(path: &str) -> Result<(), RegistryError> {
    let parts = path.strip_prefix('/').map(|rest| rest.split('/'));
    let is_one = parts.is_some_and(|mut parts| {
        parts.all(|part| !matches!(part, "" | "." | "..") && !part.contains(char::is_control))
    });
    if is_one {
        return Ok(());
    }
    Err(RegistryError::new(format!(
        "{path:?} cannot be the path of a node: it is made of the base, the service's name and the instance's id, \
         in which no part may be empty, a dot or two, or have control characters"
    )))
}

/// `ServiceInstance` of `curator-x-discovery`, with its fields in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceInstance<'a> {
    name: &'a str,
    id: &'a str,
    address: String,
    port: u16,
    ssl_port: Option<u16>,
    payload: Option<Payload<'a>>,
    #[serde(rename = "registrationTimeUTC")]
    registration_time_utc: u128,
    service_type: &'static str,
    uri_spec: Option<UriSpec>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Plain(&'a BTreeMap<String, String>),
    Spring {
        #[serde(rename = "@class")]
        class: &'static str,
        id: &'a str,
        name: &'a str,
        metadata: &'a BTreeMap<String, String>,
    },
}

#[derive(Serialize)]
struct UriSpec {
    parts: [Part; 5],
}

#[derive(Serialize)]
struct Part {
    value: &'static str,
    variable: bool,
}

fn curator(instance: &Instance, spring: bool, now: u128) -> Result<Vec<u8>, RegistryError> {
    let (service, id, metadata) = (instance.service(), instance.id(), instance.metadata());
    let part = |value, variable| Part { value, variable };
    let instance = ServiceInstance {
        name: service,
        id,
        address: instance.address().ip().to_string(),
        port: instance.address().port(),
        ssl_port: None,
        payload: if spring {
            Some(Payload::Spring {
                class: "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                id,
                name: service,
                metadata,
            })
        } else {
            (!metadata.is_empty()).then_some(Payload::Plain(metadata))
        },
        registration_time_utc: now,
        service_type: "DYNAMIC",
        // {scheme}://{address}:{port}
        uri_spec: spring.then(|| UriSpec {
            parts: [
                part("scheme", true),
                part("://", false),
                part("address", true),
                part(":", false),
                part("port", true),
            ],
        }),
    };
    serde_json::to_vec(&instance).map_err(|error| {
        RegistryError::new("the instance could not be written as JSON").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: u128 = 1_677_493_734_985;

    fn orders() -> Instance {
        Instance::new("orders", ([10, 0, 0, 5], 8080).into()).with_id("o-1")
    }

    fn nodes(format: &NodeFormat, instance: &Instance) -> Vec<(String, String)> {
        let nodes = format.nodes_at(instance, THEN).unwrap().into_iter();
        let text = |node: Node| (node.path, String::from_utf8(node.data).unwrap());
        nodes.map(text).collect()
    }

    fn pair(path: &str, data: &str) -> (String, String) {
        (path.to_owned(), data.to_owned())
    }

    /// Byte for byte what curator-x-discovery 5.7.1 wrote of the same instance, and it read a payload without a class as
    /// a `LinkedHashMap`.
    #[test]
    fn curator_finds_what_its_own_serializer_writes() {
        let json = r#"{"name":"orders","id":"o-1","address":"10.0.0.5","port":8080,"sslPort":null,"payload":null,"registrationTimeUTC":1677493734985,"serviceType":"DYNAMIC","uriSpec":null}"#;
        for base in ["/services", "/services/"] {
            let found = nodes(&NodeFormat::curator(base), &orders());
            assert_eq!(found, [pair("/services/orders/o-1", json)]);
        }
        let six = Instance::new("a", "[2001:db8::5]:80".parse().unwrap()).with_metadata("k", "v");
        let found = nodes(&NodeFormat::curator("/x/y"), &six);
        assert!(
            found[0].1.contains(r#""address":"2001:db8::5","port":80,"#),
            "{found:?}"
        );
        assert!(found[0].1.contains(r#""payload":{"k":"v"},"#), "{found:?}");
        assert_eq!(found[0].0, format!("/x/y/a/{}", six.id()));
    }

    /// As nodes of Spring Cloud Zookeeper's are; the `uriSpec` byte for byte as Curator wrote it.
    #[test]
    fn spring_cloud_finds_its_zookeeper_instance() {
        let json = r#"{"name":"orders","id":"o-1","address":"10.0.0.5","port":8080,"sslPort":null,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"o-1","name":"orders","metadata":{}},"registrationTimeUTC":1677493734985,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]}}"#;
        let found = nodes(&NodeFormat::spring_cloud(), &orders());
        assert_eq!(found, [pair("/services/orders/o-1", json)]);
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        let named = |name: &str| Instance::new(name, orders().address()).with_id("i");
        let curator = NodeFormat::curator("/services");
        curator.nodes(&named("teams/orders")).unwrap();
        for name in ["", "/orders", "..", "a/./b", "a\nb"] {
            let error = curator.nodes(&named(name)).unwrap_err().to_string();
            assert!(error.contains("cannot be the path of a node"), "{error}");
        }
        NodeFormat::curator("services")
            .nodes(&orders())
            .unwrap_err();
        for none in [NodeFormat::custom(|_| Vec::new()), NodeFormat::dubbo([])] {
            let error = none.nodes(&orders()).unwrap_err().to_string();
            assert!(error.contains("makes no node"), "{error}");
        }
        let custom =
            NodeFormat::custom(|i| vec![(format!("/live/{}", i.address()), b"up".to_vec())]);
        assert_eq!(
            nodes(&custom, &orders()),
            [pair("/live/10.0.0.5:8080", "up")]
        );
    }
}
