//! Dubbo's provider URLs.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::registry::{Instance, RegistryError};

/// What Java's `URLEncoder` leaves as it is.
const ENCODED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'*')
    .remove(b'_');

/// An interface that the instance provides to Dubbo's consumers.
///
/// ```
/// use prestop::registry::zookeeper::{DubboService, NodeFormat};
///
/// let format = NodeFormat::dubbo([
///     DubboService::new("com.example.Orders").with_version("1.0.0").with_methods(["place", "cancel"]),
///     DubboService::new("com.example.Payments").with_protocol("tri"),
/// ]);
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

    /// `dubbo://10.0.0.5:20880/com.example.Orders?application=orders&...`, its parameters in order, as Dubbo writes it.
    fn url(&self, instance: &Instance, timestamp: u128) -> Result<String, RegistryError> {
        let timestamp = timestamp.to_string();
        let mut parameters = BTreeMap::from([
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
        ]);
        for (key, value) in instance.metadata().iter().chain(&self.parameters) {
            parameters.insert(key, value);
        }
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

/// Where the provider's node is.
pub(super) fn path(
    root: &str,
    service: &DubboService,
    instance: &Instance,
    timestamp: u128,
) -> Result<String, RegistryError> {
    let url = service.url(instance, timestamp)?;
    let url = utf8_percent_encode(&url, &ENCODED);
    Ok(format!("{root}/{}/providers/{url}", service.interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dubbo-common 3.2.16 read the encoded form, and wrote the plain one of it again, byte for byte.
    #[test]
    fn the_url_is_dubbos() {
        let instance =
            Instance::new("shop", ([10, 0, 0, 5], 20880).into()).with_metadata("weight", "50");
        let service = DubboService::new("com.example.Orders")
            .with_version("1.0.0")
            .with_group("g 1")
            .with_methods(["place", "cancel"]);
        let plain = "dubbo://10.0.0.5:20880/com.example.Orders?application=shop&deprecated=false&dubbo=2.0.2\
            &dynamic=true&generic=false&group=g 1&interface=com.example.Orders&methods=place,cancel&side=provider\
            &timestamp=1700000000000&version=1.0.0&weight=50";
        assert_eq!(service.url(&instance, 1_700_000_000_000).unwrap(), plain);
        let encoded = "/dubbo/com.example.Orders/providers/dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.example.Orders%3F\
            application%3Dshop%26deprecated%3Dfalse%26dubbo%3D2.0.2%26dynamic%3Dtrue%26generic%3Dfalse%26group%3Dg%201\
            %26interface%3Dcom.example.Orders%26methods%3Dplace%2Ccancel%26side%3Dprovider%26timestamp%3D1700000000000\
            %26version%3D1.0.0%26weight%3D50";
        let path = path("/dubbo", &service, &instance, 1_700_000_000_000).unwrap();
        assert_eq!(path, encoded);

        let tri = DubboService::new("a.B").with_protocol("tri");
        let url = tri.url(&instance, 1).unwrap();
        assert!(
            url.starts_with("tri://10.0.0.5:20880/a.B?application=shop&"),
            "{url}"
        );
        assert!(url.contains("&methods=*&"), "{url}");
    }

    #[test]
    fn what_would_split_the_url_is_refused() {
        let instance = Instance::new("shop&x=1", ([10, 0, 0, 5], 1).into());
        let error = DubboService::new("a.B").url(&instance, 1).unwrap_err();
        assert!(
            error.to_string().contains("\"application\" of a.B"),
            "{error}"
        );
    }
}
