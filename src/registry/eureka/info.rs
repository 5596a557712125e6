//! What is said of an instance: Eureka's `InstanceInfo`, in the JSON of its own client.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Eureka;
use crate::registry::Instance;

/// A page of the instances': where it is depends on their address.
#[derive(Clone)]
pub(super) struct Page {
    /// The instance's own without one.
    port: Option<u16>,
    path: String,
}

impl Page {
    pub(super) fn new(port: Option<u16>, path: impl Into<String>) -> Self {
        Self {
            port,
            path: path.into(),
        }
    }

    fn url(&self, address: SocketAddr, is_https: bool) -> String {
        let port = self.port.unwrap_or(address.port());
        let scheme = match is_https && port == address.port() {
            true => "https",
            false => "http",
        };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{}:{port}{slash}{}", host(address), self.path)
    }
}

/// As it stands in a URL: Spring's clients put `hostName` into theirs as it is.
fn host(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Rounded up, at least one: Eureka counts leases in seconds.
pub(super) fn whole_seconds(length: Duration) -> Duration {
    let part = u64::from(length.subsec_nanos() > 0);
    let seconds = length.as_secs().saturating_add(part);
    // Java's `int`.
    Duration::from_secs(seconds.clamp(1, 2_147_483_647))
}

/// Eureka names applications in capitals, and asks that path and body agree.
pub(super) fn app(instance: &Instance) -> String {
    instance.service().to_uppercase()
}

impl Eureka {
    pub(super) fn body(&self, instance: &Instance) -> Vec<u8> {
        let address = instance.address();
        let url = |page: &Page| page.url(address, self.is_https);
        let vip = self.vip_address.as_deref().unwrap_or(instance.service());
        let port =
            |number: u16, enabled: bool| json!({ "$": number, "@enabled": enabled.to_string() });
        let (port, secure_port) = match self.is_https {
            false => (port(address.port(), true), port(443, false)),
            true => (port(80, false), port(address.port(), true)),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis().to_string();
        let interval = whole_seconds(self.ttl / 3);
        let mut info = json!({
            "instanceId": instance.id(),
            "app": app(instance),
            "hostName": host(address),
            "ipAddr": address.ip().to_string(),
            "vipAddress": vip,
            "secureVipAddress": vip,
            "port": port,
            "securePort": secure_port,
            "status": "UP",
            "overriddenStatus": "UNKNOWN",
            "homePageUrl": url(&self.home_page),
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": {
                "renewalIntervalInSecs": interval.as_secs(),
                "durationInSecs": self.ttl.as_secs(),
            },
            "metadata": instance.metadata(),
            "countryId": 1,
            "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": now,
            "lastDirtyTimestamp": now,
            "actionType": "ADDED",
        });
        if let Some(page) = &self.status_page {
            info["statusPageUrl"] = url(page).into();
        }
        if let Some(page) = &self.health_check {
            let of = match page.port.unwrap_or(address.port()) == address.port() && self.is_https {
                true => "secureHealthCheckUrl",
                false => "healthCheckUrl",
            };
            info[of] = url(page).into();
        }
        json!({ "instance": info }).to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn orders() -> Instance {
        Instance::new("orders", ([10, 0, 0, 5], 8080).into()).with_id("o1")
    }

    fn eureka() -> Eureka {
        Eureka::new(["http://eureka:8761/eureka"]).unwrap()
    }

    fn info(eureka: &Eureka, instance: &Instance) -> Value {
        let body: Value = serde_json::from_slice(&eureka.body(instance)).unwrap();
        body["instance"].clone()
    }

    #[test]
    fn an_instance_is_told_as_eurekas_own_client_tells_it() {
        let mut told = info(&eureka(), &orders().with_metadata("zone", "b"));
        for time in ["lastUpdatedTimestamp", "lastDirtyTimestamp"] {
            let millis = told.as_object_mut().unwrap().remove(time).unwrap();
            let millis: u64 = millis.as_str().unwrap().parse().unwrap();
            assert!(millis > 1_700_000_000_000, "{millis}");
        }
        let expected = json!({
            "instanceId": "o1",
            "app": "ORDERS",
            "hostName": "10.0.0.5",
            "ipAddr": "10.0.0.5",
            "vipAddress": "orders",
            "secureVipAddress": "orders",
            "port": { "$": 8080, "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" },
            "status": "UP",
            "overriddenStatus": "UNKNOWN",
            "homePageUrl": "http://10.0.0.5:8080/",
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 },
            "metadata": { "zone": "b" },
            "countryId": 1,
            "isCoordinatingDiscoveryServer": "false",
            "actionType": "ADDED",
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn pages_are_at_the_instances_address() {
        let eureka = eureka()
            .with_health_check(9090, "readyz")
            .with_status_page(8080, "/info")
            .with_home_page(80, "/home")
            .with_vip_address("shop");
        let told = info(&eureka, &orders());
        assert_eq!(told["healthCheckUrl"], "http://10.0.0.5:9090/readyz");
        assert_eq!(told["statusPageUrl"], "http://10.0.0.5:8080/info");
        assert_eq!(told["homePageUrl"], "http://10.0.0.5:80/home");
        assert_eq!(told["vipAddress"], "shop");
    }

    #[test]
    fn with_https_the_port_is_the_secure_one() {
        let six = Instance::new("orders", "[2001:db8::5]:8443".parse().unwrap());
        let eureka = eureka().with_https().with_health_check(8443, "/health");
        let told = info(&eureka, &six);
        assert_eq!(told["securePort"], json!({ "$": 8443, "@enabled": "true" }));
        assert_eq!(told["port"], json!({ "$": 80, "@enabled": "false" }));
        assert_eq!(told["homePageUrl"], "https://[2001:db8::5]:8443/");
        assert_eq!(
            told["secureHealthCheckUrl"],
            "https://[2001:db8::5]:8443/health"
        );
        assert_eq!(told["healthCheckUrl"], Value::Null);
        assert_eq!(told["hostName"], "[2001:db8::5]");
        assert_eq!(told["ipAddr"], "2001:db8::5");
    }

    #[test]
    fn a_lease_is_in_whole_seconds_of_java() {
        let seconds = |ttl| {
            let told = info(&eureka().with_ttl(ttl), &orders());
            let lease = &told["leaseInfo"];
            (
                lease["durationInSecs"].as_u64().unwrap(),
                lease["renewalIntervalInSecs"].as_u64().unwrap(),
            )
        };
        assert_eq!(seconds(Duration::ZERO), (1, 1));
        assert_eq!(seconds(Duration::from_millis(29_001)), (30, 10));
        assert_eq!(seconds(Duration::MAX), (2_147_483_647, 715_827_883));
    }
}
