//! ZooKeeper: a server of its own, with the nodes of Curator's service discovery. Followed by watches.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::zookeeper::ZooKeeper as Adapter;
use prestop::registry::{Registry, RegistryError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::jute::{self, Raw};
use super::{Backend, Seen};

/// Where Debian and Ubuntu keep jars, and which the server needs.
const JARS: &str = "/usr/share/java";
const NEEDED: [&str; 18] = [
    "zookeeper",
    "zookeeper-jute",
    "jetty9-server",
    "jetty9-servlet",
    "jetty9-util",
    "jetty9-http",
    "jetty9-io",
    "metrics-core",
    "netty-buffer",
    "netty-common",
    "netty-handler",
    "netty-transport",
    "netty-transport-native-epoll",
    "snappy-java",
    "slf4j-api",
    "slf4j-simple",
    "commons-cli",
    "commons-io",
];

pub struct ZooKeeper;

#[async_trait]
impl Backend for ZooKeeper {
    fn program(&self) -> (&'static str, &'static str) {
        (
            "java",
            "Debian's packages default-jre-headless and zookeeper",
        )
    }

    fn ports(&self) -> usize {
        1
    }

    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command> {
        let jars = NEEDED.map(|jar| format!("{JARS}/{jar}.jar"));
        if !Path::new(&jars[0]).exists() {
            let why = format!("there is no {}: Debian's package zookeeper has it", jars[0]);
            return Err(io::Error::other(why));
        }
        let config = dir.join("zoo.cfg");
        let text = format!(
            "tickTime=500\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={}\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            dir.join("data").display(),
            ports[0]
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(program);
        command
            .args(["-Xms32m", "-Xmx128m", "-XX:+UseSerialGC"])
            .args(["-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no"])
            .args(["-cp", &jars.join(":")])
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(config);
        Ok(command)
    }

    async fn is_ready(&self, at: SocketAddr) -> bool {
        // `ruok` is answered before the server serves.
        let asking = async {
            let mut stream = jute::connect(at).await?;
            stream.write_all(b"srvr").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            io::Result::Ok(answer.contains("Mode: standalone"))
        };
        matches!(timeout(Duration::from_secs(5), asking).await, Ok(Ok(true)))
    }

    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        let zookeeper = Adapter::new(at.to_string())?;
        let zookeeper = zookeeper.with_session_timeout(ttl);
        Ok(Box::new(zookeeper.with_visibility(visibility)))
    }

    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        let mut client = Raw::connect(at).await?;
        let path = format!("/services/{service}");
        loop {
            let mut addresses = Vec::new();
            for child in client.children(&path).await? {
                // Gone meanwhile: the watch tells.
                if let Some(data) = client.data(&format!("{path}/{child}")).await? {
                    addresses.extend(address(&data));
                }
            }
            seen.are(addresses);
            client.changed().await?;
        }
    }
}

fn address(instance: &[u8]) -> Option<SocketAddr> {
    let instance: Value = serde_json::from_slice(instance).ok()?;
    let ip = instance["address"].as_str()?.parse().ok()?;
    let port = instance["port"].as_u64()?.try_into().ok()?;
    Some(SocketAddr::new(ip, port))
}
