//! The connection string, checked before it is used: the client would say so again and again, once a service runs.

use crate::registry::RegistryError;

pub(super) fn check(servers: &str) -> Result<(), RegistryError> {
    let refused = |why: &str| {
        Err(RegistryError::new(format!(
            "{servers:?} cannot be a list of ZooKeeper servers: {why}"
        )))
    };
    if servers.contains("://") {
        return refused("write host:port, without a scheme; there is no TLS");
    }
    let (servers, below) = match servers.find('/') {
        Some(at) => servers.split_at(at),
        None => (servers, ""),
    };
    if below.contains(',') {
        return refused("the path stands behind the last server");
    }
    if below.len() > 1 && (below.ends_with('/') || below.contains("//")) {
        return refused("its path has an empty part");
    }
    for server in servers.split(',') {
        let (host, port) = match server.rsplit_once(':') {
            // The colons of an address in brackets are its own.
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (server, "2181"),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return refused("a host is missing; write host:port,host:port");
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return refused("an IPv6 address stands in brackets");
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return refused("a port is not one; write host:port,host:port");
        }
    }
    Ok(())
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
            check(good).unwrap();
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
            let message = check(bad).unwrap_err().to_string();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }
}
