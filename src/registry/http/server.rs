//! [`Server`]: the base URL of one server.

use std::fmt;

use http::Uri;
use http::header::HeaderValue;

use crate::registry::RegistryError;

/// The base URL of one server, `http[s]://host[:port][/prefix]`.
pub(super) struct Server {
    is_https: bool,
    authority: HeaderValue,
    /// A name, or an IP address without the brackets.
    host: String,
    port: u16,
    prefix: String,
    /// What it alone is sent as `Authorization`. Shown nowhere.
    authorization: Option<HeaderValue>,
}

impl Server {
    pub(super) fn parse(url: &str) -> Result<Self, RegistryError> {
        let refused = |why: &str| {
            let shown = without_secrets(url);
            Err(RegistryError::new(format!(
                "{shown:?} cannot be the URL of a registry: {why}"
            )))
        };
        let form = "write http://host:port, with a prefix if there is one";
        if url.contains('@') {
            return refused("a user or password in it ends up in logs, give them as a header");
        }
        if url.contains(['?', '#']) {
            return refused("it has a query or a fragment");
        }
        let Ok(uri) = url.parse::<Uri>() else {
            return refused(form);
        };
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") if cfg!(feature = "tls") => true,
            Some("https") => return refused("for https the crate's feature `tls` is needed"),
            _ => return refused(form),
        };
        let Some(authority) = uri.authority() else {
            return refused(form);
        };
        let (host, given) = (authority.host(), authority.port_u16());
        // What follows the host is `:port`, or nothing.
        let rest = &authority.as_str()[host.len()..];
        let port = match given {
            Some(port) if port > 0 => port,
            None if rest.is_empty() && is_https => 443,
            None if rest.is_empty() => 80,
            _ => return refused("its port is not one"),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let Ok(authority) = HeaderValue::from_str(authority.as_str()) else {
            return refused(form);
        };
        if bare.is_empty() {
            return refused(form);
        }
        Ok(Self {
            is_https,
            authority,
            host: bare.to_owned(),
            port,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            authorization: None,
        })
    }

    pub(super) fn authorize(&mut self, value: HeaderValue) {
        self.authorization = Some(value);
    }

    pub(super) const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(super) const fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(super) const fn is_https(&self) -> bool {
        self.is_https
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// What every path begins with; empty, or from a slash on.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority.to_str().unwrap_or_default();
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{authority}{}", self.prefix)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL that was refused, without what stands before the last `@` or after the first `?`.
fn without_secrets(url: &str) -> String {
    let (cut, rest) = url
        .rsplit_once('@')
        .map_or(("", url), |(_, rest)| ("...@", rest));
    let rest = rest.split('?').next().unwrap_or_default();
    format!("{cut}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_ports_and_prefixes_are_understood() {
        for (url, host, port, prefix, shown) in [
            ("http://nacos", "nacos", 80, "", "http://nacos"),
            ("http://a.b:8500/", "a.b", 8500, "", "http://a.b:8500"),
            (
                "http://[::1]:8848/n/v1/",
                "::1",
                8848,
                "/n/v1",
                "http://[::1]:8848/n/v1",
            ),
        ] {
            let server = Server::parse(url).unwrap();
            let found = (server.host(), server.port(), server.prefix());
            assert_eq!(found, (host, port, prefix), "{url}");
            assert_eq!(server.to_string(), shown);
        }
    }

    #[test]
    fn https_needs_the_feature() {
        let parsed = Server::parse("https://consul");
        if cfg!(feature = "tls") {
            let server = parsed.unwrap();
            assert_eq!((server.port(), server.is_https()), (443, true));
            assert_eq!(server.to_string(), "https://consul");
        } else {
            let message = parsed.unwrap_err().to_string();
            assert!(message.contains("feature `tls`"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_secrets() {
        for (url, why) in [
            ("http://user:secret@consul:8500", "give them as a header"),
            ("http://user:se?cret@consul", "give them as a header"),
            ("http://consul:8500?token=secret", "has a query"),
            ("consul:8500", "write http://"),
            ("http://consul:", "port"),
            ("http://consul:0", "port"),
            ("http://consul:65536", "port"),
            ("http://", "write http://"),
            ("http://:80", "write http://"),
            ("/v1", "write http://"),
            ("", "write http://"),
        ] {
            let error = Server::parse(url).map(|s| s.to_string()).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(why), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
            assert!(!message.contains("se?cret"), "{message}");
        }
    }
}
