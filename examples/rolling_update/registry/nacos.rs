//! Nacos 3, by its v3 client API. Followed by polls, as its clients over HTTP do it: what they are given is what Nacos pushes
//! to its subscribers over gRPC, half a second after a change.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::nacos::Nacos as Adapter;
use prestop::registry::{Registry, RegistryError};
use serde_json::Value;
use tokio::time::sleep;

use super::{Backend, Seen, raw};

/// Nacos has more than one answer for a change ready only after half a second.
const POLL: Duration = Duration::from_millis(100);

pub struct Nacos;

#[async_trait]
impl Backend for Nacos {
    fn program(&self) -> (&'static str, &'static str) {
        (
            "nacos-server",
            "`.ci/nacos` in the repository builds it of what Maven Central has, and it is found where that puts it",
        )
    }

    fn built_in(&self) -> Option<&'static str> {
        Some("nacos")
    }

    fn ports(&self) -> usize {
        1
    }

    /// gRPC for clients and for servers, Raft.
    fn beside(&self) -> &'static [i16] {
        &[1000, 1001, -1000]
    }

    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command> {
        let mut command = Command::new(program);
        command.arg(ports[0].to_string()).arg(dir);
        Ok(command)
    }

    async fn is_ready(&self, at: SocketAddr) -> bool {
        let state = raw::ask(at, "GET /nacos/v3/admin/core/state/readiness", "").await;
        state.is_ok_and(|answer| answer.status == 200)
    }

    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        let nacos = Adapter::new([format!("http://{at}")])?;
        Ok(Box::new(nacos.with_ttl(ttl).with_visibility(visibility)))
    }

    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        let list = format!("GET /nacos/v3/client/ns/instance/list?serviceName={service}");
        loop {
            let answer = raw::ask(at, &list, "").await?;
            if answer.status != 200 {
                return Err(io::Error::other(answer.body));
            }
            let answer = answer.json()?;
            let hosts = answer["data"].as_array().into_iter().flatten();
            // As `selectInstances` of Nacos' own client does it.
            let usable = hosts.filter(|host| host["healthy"] == true && host["enabled"] != false);
            seen.are(usable.filter_map(address).collect());
            sleep(POLL).await;
        }
    }
}

fn address(host: &Value) -> Option<SocketAddr> {
    let ip = host["ip"].as_str()?.parse().ok()?;
    let port = host["port"].as_u64()?.try_into().ok()?;
    Some(SocketAddr::new(ip, port))
}
