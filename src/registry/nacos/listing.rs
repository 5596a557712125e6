//! [`Listing`]: one instance in one service, and how both APIs name it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::{NacosApi, Settings};
use crate::registry::http::{Call, encode};
use crate::registry::{Instance, RegistryError};

/// Whose instance it is: Nacos has no id of an instance but its address, which a successor may have, too.
pub(super) const ID: &str = "prestop.id";

/// Ten thousand instances with a kilobyte each, and some more.
const LONGEST_LIST: usize = 16 * 1024 * 1024;

const FORM: &str = "application/x-www-form-urlencoded";

/// An instance in a service.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) service: String,
    id: String,
    ip: IpAddr,
    port: u16,
    namespace: String,
    group: String,
    cluster: String,
    weight: f64,
    ephemeral: bool,
    /// As JSON.
    metadata: String,
}

/// Who is listed under an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Us,
    /// Another process, by the id that it has written down.
    Another,
    Nobody,
}

impl Listing {
    pub(super) fn new(
        settings: &Settings,
        instance: &Instance,
        service: String,
        mut metadata: BTreeMap<String, String>,
    ) -> Result<Self, RegistryError> {
        if service.is_empty() || service.contains("@@") {
            return Err(RegistryError::new(format!(
                "{service:?} cannot be a service in Nacos: give a name without @@, and the group by Nacos::with_group"
            )));
        }
        metadata.insert(ID.to_owned(), instance.id().to_owned());
        for (key, length) in settings.timing() {
            metadata.insert(key.to_owned(), length.as_millis().to_string());
        }
        Ok(Self {
            service,
            id: instance.id().to_owned(),
            ip: instance.address().ip(),
            port: instance.address().port(),
            namespace: settings.namespace.clone(),
            group: settings.group.clone(),
            cluster: settings.cluster.clone(),
            weight: settings.weight,
            ephemeral: settings.ephemeral,
            metadata: serde_json::json!(metadata).to_string(),
        })
    }

    /// Makes it the one that is listed under its address, with everything about it.
    pub(super) fn register(&self, api: NacosApi, enabled: bool) -> Call {
        let mut form = self.named(api);
        form.extend([
            ("enabled", enabled.to_string()),
            ("healthy", "true".into()),
            ("metadata", self.metadata.clone()),
            ("weight", self.weight.to_string()),
        ]);
        // Twice is the same as once.
        Call::new(Method::POST, instance(api))
            .with_body(FORM, encoded(&form))
            .idempotent()
    }

    /// The light heartbeat, which names the instance and does not describe it: no Nacos makes an instance from it.
    pub(super) fn beat(&self, api: NacosApi) -> Call {
        let mut form = self.named(api);
        match api {
            NacosApi::V1 => {
                let path = format!("{}/beat?{}", instance(api), encoded(&form));
                Call::new(Method::PUT, path)
            }
            NacosApi::V3 => {
                form.push(("heartBeat", "true".into()));
                Call::new(Method::POST, instance(api))
                    .with_body(FORM, encoded(&form))
                    .idempotent()
            }
        }
    }

    pub(super) fn remove(&self, api: NacosApi) -> Call {
        let path = format!("{}?{}", instance(api), encoded(&self.named(api)));
        Call::new(Method::DELETE, path)
    }

    /// What clients are given of this service, in this cluster.
    pub(super) fn list(&self, api: NacosApi) -> Call {
        let mut query = self.service(api);
        query.push(match api {
            NacosApi::V1 => ("clusters", self.cluster.clone()),
            NacosApi::V3 => ("clusterName", self.cluster.clone()),
        });
        let path = format!("{}/list?{}", instance(api), encoded(&query));
        Call::new(Method::GET, path).with_answer_limit(LONGEST_LIST)
    }

    /// Who has the address, by such a list.
    pub(super) fn holder(&self, hosts: &[Value]) -> Holder {
        let is_here = |host: &&Value| {
            let ip = host["ip"].as_str().unwrap_or_default();
            // The same address may be written in more than one way.
            let is_ip = ip.parse() == Ok(self.ip) || ip == self.ip.to_string();
            let cluster = host["clusterName"].as_str();
            is_ip
                && host["port"].as_u64() == Some(self.port.into())
                && cluster.is_none_or(|cluster| cluster == self.cluster)
        };
        match hosts.iter().find(is_here) {
            None => Holder::Nobody,
            // Where something has taken the id off, it is rather ours than a stranger's.
            Some(host) => match host["metadata"][ID].as_str() {
                Some(id) if id != self.id => Holder::Another,
                _ => Holder::Us,
            },
        }
    }

    fn service(&self, api: NacosApi) -> Vec<(&'static str, String)> {
        let service = match api {
            // Nacos 1 knows no other way to give the group.
            NacosApi::V1 => format!("{}@@{}", self.group, self.service),
            NacosApi::V3 => self.service.clone(),
        };
        vec![
            ("groupName", self.group.clone()),
            ("namespaceId", self.namespace.clone()),
            ("serviceName", service),
        ]
    }

    fn named(&self, api: NacosApi) -> Vec<(&'static str, String)> {
        let mut form = self.service(api);
        form.extend([
            ("clusterName", self.cluster.clone()),
            ("ephemeral", self.ephemeral.to_string()),
            ("ip", self.ip.to_string()),
            ("port", self.port.to_string()),
        ]);
        form
    }
}

impl Settings {
    /// What Nacos is told where its own values are not meant: 5 s, 15 s and 30 s.
    fn timing(&self) -> Vec<(&'static str, Duration)> {
        match self.ttl == super::TTL || !self.ephemeral {
            true => Vec::new(),
            false => vec![
                ("preserved.heart.beat.interval", self.ttl / 3),
                ("preserved.heart.beat.timeout", self.ttl),
                ("preserved.ip.delete.timeout", self.ttl.saturating_mul(2)),
            ],
        }
    }
}

const fn instance(api: NacosApi) -> &'static str {
    match api {
        NacosApi::V1 => "/v1/ns/instance",
        NacosApi::V3 => "/v3/client/ns/instance",
    }
}

/// As a form, or as a query.
pub(super) fn encoded(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("{key}={}", encode(value)))
        .collect();
    fields.join("&")
}
