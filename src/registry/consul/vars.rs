//! The variables of Consul's own tools.

use super::{Consul, LOCAL_AGENT};
use crate::registry::RegistryError;

const ADDRESS: &str = "CONSUL_HTTP_ADDR";
const SSL: &str = "CONSUL_HTTP_SSL";
const TOKEN: &str = "CONSUL_HTTP_TOKEN";

/// `get` reads a variable. An empty one is none.
pub(super) fn consul(get: impl Fn(&str) -> Option<String>) -> Result<Consul, RegistryError> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let about = |name: &str, error: RegistryError| RegistryError::new(format!("{name}: {error}"));
    let consul = match get(ADDRESS) {
        None => Consul::agent(LOCAL_AGENT),
        Some(address) if address.contains("://") => Consul::agent(&address),
        Some(address) => {
            let is_ssl = get(SSL).is_some_and(|ssl| ssl == "true" || ssl == "1");
            let scheme = if is_ssl { "https" } else { "http" };
            Consul::agent(&format!("{scheme}://{address}"))
        }
    };
    let consul = consul.map_err(|error| about(ADDRESS, error))?;
    match get(TOKEN) {
        None => Ok(consul),
        Some(token) => consul
            .with_token(&token)
            .map_err(|error| about(TOKEN, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<String, String> {
        let get = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        consul(get)
            .map(|consul| format!("{consul:?}"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_agent_is_the_one_that_consuls_tools_use() {
        for (vars, agent) in [
            (&[][..], "http://127.0.0.1:8500"),
            (&[(ADDRESS, "")], "http://127.0.0.1:8500"),
            (&[(ADDRESS, "node:8500")], "http://node:8500"),
            (&[(ADDRESS, "http://node:1/base")], "http://node:1/base"),
        ] {
            let shown = read(vars).unwrap();
            assert!(shown.contains(&format!("[{agent}]")), "{shown}");
        }
    }

    #[test]
    fn the_token_is_sent_and_not_shown() {
        let shown = read(&[(TOKEN, "b1gs33cr3t")]).unwrap();
        assert!(shown.contains("x-consul-token"), "{shown}");
        assert!(!shown.contains("b1gs33cr3t"), "{shown}");
        let error = read(&[(TOKEN, "b1gs33cr3t\n")]).unwrap_err();
        assert!(error.starts_with("CONSUL_HTTP_TOKEN: "), "{error}");
        assert!(!error.contains("b1gs33cr3t"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_the_variables_name() {
        let error = read(&[(ADDRESS, "unix:///run/consul.sock")]).unwrap_err();
        assert!(error.starts_with("CONSUL_HTTP_ADDR: "), "{error}");
    }
}
