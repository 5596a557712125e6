//! Eureka: Spring Cloud's server. Followed as its clients do it: they fetch, again and again.
//!
//! A stock server has a read-only cache of 30 s, and stock clients fetch each 30 s: 65 s of visibility in all, of which a
//! grace period of 30 s has no room, and a stop that waits for it takes as long. This server is set up without that cache
//! (`eureka.server.use-read-only-response-cache: false`), and its clients fetch each second
//! (`eureka.client.registry-fetch-interval-seconds: 1`): that is what the declared visibility is made of here. Both are the
//! first of the ways out in the guide; who cannot have them needs a grace period of 120 s.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::eureka::Eureka as Adapter;
use prestop::registry::{Registry, RegistryError};
use serde_json::Value;
use tokio::time::sleep;

use super::{Backend, Seen, raw};

/// Between two fetches.
pub const FETCH: Duration = Duration::from_secs(1);
/// Between two looks of the server for what has expired.
pub const EVICTION: Duration = Duration::from_secs(1);

pub struct Eureka;

#[async_trait]
impl Backend for Eureka {
    fn program(&self) -> (&'static str, &'static str) {
        (
            "eureka-server",
            "`.ci/eureka` in the repository builds it of what Maven Central has, and it is found where that puts it",
        )
    }

    fn built_in(&self) -> Option<&'static str> {
        Some("eureka")
    }

    fn ports(&self) -> usize {
        1
    }

    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command> {
        let mut command = Command::new(program);
        // Its only peer is itself: else it looks for one at the usual port.
        let itself = url((Ipv4Addr::LOCALHOST, ports[0]).into());
        command.arg(ports[0].to_string()).arg(dir).args([
            format!("-Deureka.client.service-url.defaultZone={itself}/"),
            "-Deureka.server.use-read-only-response-cache=false".to_owned(),
            format!(
                "-Deureka.server.eviction-interval-timer-in-ms={}",
                EVICTION.as_millis()
            ),
            // An answer that is put together while something changes stays in the other cache, for 180 s by default.
            "-Deureka.server.response-cache-auto-expiration-in-seconds=1".to_owned(),
        ]);
        Ok(command)
    }

    async fn is_ready(&self, at: SocketAddr) -> bool {
        let apps = raw::ask(at, "GET /eureka/apps", "").await;
        apps.is_ok_and(|answer| answer.status == 200)
    }

    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        let eureka = Adapter::new([url(at)])?
            .with_ttl(ttl)
            .with_eviction_interval(EVICTION);
        Ok(Box::new(eureka.with_visibility(visibility)))
    }

    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        let fetch = format!("GET /eureka/apps/{}", service.to_uppercase());
        loop {
            let answer = raw::ask(at, &fetch, "").await?;
            let instances = match answer.status {
                200 => answer.json()?["application"]["instance"].take(),
                // Of nobody it says that it does not know the name.
                404 => Value::Null,
                _ => return Err(io::Error::other(answer.body)),
            };
            let instances = instances.as_array().into_iter().flatten();
            let up = instances.filter(|instance| instance["status"] == "UP");
            seen.are(up.filter_map(address).collect());
            sleep(FETCH).await;
        }
    }
}

fn url(at: SocketAddr) -> String {
    format!("http://{at}/eureka")
}

fn address(instance: &Value) -> Option<SocketAddr> {
    let ip = instance["ipAddr"].as_str()?;
    format!("{ip}:{}", instance["port"]["$"]).parse().ok()
}
