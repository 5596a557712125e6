//! The connection string, checked before it is used: the client would say so again and again, once a service runs.

use crate::registry::RegistryError;

/// What a connection string says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Servers {
    /// Names, or IP addresses without brackets, and ports.
    pub(super) addresses: Vec<(String, u16)>,
    /// Below which everything lies: empty, or from a slash on.
    pub(super) below: String,
}

impl Servers {
    pub(super) fn parse(servers: &str) -> Result<Self, RegistryError> {
        let refused = |why: &str| {
            Err(RegistryError::new(format!(
                "{servers:?} cannot be a list of ZooKeeper servers: {why}"
            )))
        };
        if servers.contains("://") {
            return refused("write host:port, without a scheme; there is no TLS");
        }
        let (list, below) = match servers.find('/') {
            Some(at) => servers.split_at(at),
            None => (servers, ""),
        };
        if below.contains(',') {
            return refused("the path stands behind the last server");
        }
        if below.len() > 1 && (below.ends_with('/') || below.contains("//")) {
            return refused("its path has an empty part");
        }
        let mut addresses = Vec::new();
        for server in list.split(',') {
            let (host, port) = match server.rsplit_once(':') {
                // The colons of an address in brackets are its own.
                Some((host, port)) if !port.ends_with(']') => (host, port),
                _ => (server, "2181"),
            };
            let bare = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            if host.is_empty() || host.contains(char::is_whitespace) {
                return refused("a host is missing; write host:port,host:port");
            }
            if host.contains(':') && bare.is_none() {
                return refused("an IPv6 address stands in brackets");
            }
            match port.parse() {
                Ok(port) if port > 0 => addresses.push((bare.unwrap_or(host).to_owned(), port)),
                _ => return refused("a port is not one; write host:port,host:port"),
            }
        }
        Ok(Self {
            addresses,
            below: below.trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_understands_is_let_through_and_nothing_else() {
        for good in [
            "zk",
            "zk:2181",
            "a:1,b:2,[::1]:3",
            "[::1],b",
            "a:1,b:2/base/x",
            "a/",
        ] {
            Servers::parse(good).unwrap();
        }
        for (bad, why) in [
            ("", "a host is missing"),
            ("a,,b", "a host is missing"),
            ("/x", "a host is missing"),
            ("a, b", "a host is missing"),
            ("a:0", "a port is not one"),
            ("a:65536", "a port is not one"),
            ("a:", "a port is not one"),
            ("::1", "in brackets"),
            ("http://a:1", "without a scheme"),
            ("tcp+tls://a:1", "no TLS"),
            ("a:1/x,b:2", "behind the last"),
            ("a:1/x/", "an empty part"),
            ("a:1/x//y", "an empty part"),
        ] {
            let message = Servers::parse(bad).unwrap_err().to_string();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn each_server_is_a_host_and_a_port_and_the_rest_a_path() {
        let servers = Servers::parse("a:1,[::1]:3,b/base/x").unwrap();
        let address = |host: &str, port| (host.to_owned(), port);
        let expected = [address("a", 1), address("::1", 3), address("b", 2181)];
        assert_eq!(
            (&servers.addresses[..], &*servers.below),
            (&expected[..], "/base/x")
        );
        assert_eq!(Servers::parse("a/").unwrap().below, "");
    }
}
