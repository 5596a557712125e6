//! Where Dubbo's providers are in ZooKeeper.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::registry::dubbo::DubboService;
use crate::registry::{Instance, RegistryError};

/// What Java's `URLEncoder` leaves as it is.
const ENCODED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'*')
    .remove(b'_');

/// Where the provider's node is.
pub(super) fn path(
    root: &str,
    service: &DubboService,
    instance: &Instance,
    timestamp: u128,
) -> Result<String, RegistryError> {
    let url = service.url(instance, timestamp)?;
    let url = utf8_percent_encode(&url, &ENCODED);
    Ok(format!("{root}/{}/providers/{url}", service.interface()))
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
