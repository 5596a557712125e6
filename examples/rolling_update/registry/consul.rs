//! Consul: a development agent, which is its own server. Followed by blocking queries, as its clients do it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::consul::Consul as Adapter;
use prestop::registry::{Registry, RegistryError};

use super::{Backend, Seen, raw};

pub struct Consul;

#[async_trait]
impl Backend for Consul {
    fn program(&self) -> (&'static str, &'static str) {
        (
            "consul",
            "any release of Consul, or `PATH=$PATH:$(.ci/consul)` in the repository, which takes Debian 11's package",
        )
    }

    fn ports(&self) -> usize {
        4
    }

    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command> {
        let config = dir.join("config.hcl");
        let text = format!(
            "disable_update_check = true\n\
             ports {{ http = {} server = {} serf_lan = {} serf_wan = {} dns = -1 grpc = -1 }}\n",
            ports[0], ports[1], ports[2], ports[3]
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(program);
        command
            .args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1"])
            .args(["-node=demo", "-config-file"])
            .arg(config);
        Ok(command)
    }

    async fn is_ready(&self, at: SocketAddr) -> bool {
        // A leader is known a moment before the node is in the catalog.
        let node = raw::ask(at, "GET /v1/health/node/demo", "").await;
        node.is_ok_and(|answer| answer.body.contains("serfHealth"))
    }

    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        let agent = Adapter::agent(&format!("http://{at}"))?;
        Ok(Box::new(agent.with_ttl(ttl).with_visibility(visibility)))
    }

    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        let mut index = "0".to_owned();
        loop {
            let query =
                format!("GET /v1/health/service/{service}?passing=1&wait=55s&index={index}");
            let answer = raw::ask(at, &query, "").await?;
            if answer.status != 200 {
                return Err(io::Error::other(answer.body));
            }
            let listed = answer.json()?;
            let listed = listed.as_array().into_iter().flatten();
            let addresses = listed.filter_map(|entry| {
                let service = &entry["Service"];
                let address = service["Address"].as_str()?;
                format!("{address}:{}", service["Port"]).parse().ok()
            });
            seen.are(addresses.collect());
            index = answer
                .header("x-consul-index")
                .ok_or_else(|| io::Error::other("an answer without an index"))?
                .to_owned();
        }
    }
}
