//! etcd: one member, with the keys of gRPC's naming. Followed by a watch over the JSON gateway.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prestop::registry::etcd::Etcd as Adapter;
use prestop::registry::{Registry, RegistryError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Backend, Seen, raw};

pub struct Etcd;

#[async_trait]
impl Backend for Etcd {
    fn program(&self) -> (&'static str, &'static str) {
        (
            "etcd",
            "Debian's package etcd-server, or any release from 3.4 on",
        )
    }

    fn ports(&self) -> usize {
        2
    }

    fn command(&self, program: &Path, dir: &Path, ports: &[u16]) -> io::Result<Command> {
        let clients = format!("http://127.0.0.1:{}", ports[0]);
        let members = format!("http://127.0.0.1:{}", ports[1]);
        let mut command = Command::new(program);
        command
            .args(["--name", "demo", "--logger", "zap", "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &members])
            .args(["--initial-advertise-peer-urls", &members])
            .args(["--initial-cluster", &format!("demo={members}")])
            .arg("--data-dir")
            .arg(dir.join("data"));
        Ok(command)
    }

    async fn is_ready(&self, at: SocketAddr) -> bool {
        let health = raw::ask(at, "GET /health", "").await;
        health.is_ok_and(|answer| answer.body.contains(r#""true""#))
    }

    fn adapter(
        &self,
        at: SocketAddr,
        ttl: Duration,
        visibility: Duration,
    ) -> Result<Box<dyn Registry>, RegistryError> {
        let etcd = Adapter::new([format!("http://{at}")])?;
        Ok(Box::new(etcd.with_ttl(ttl).with_visibility(visibility)))
    }

    async fn follow(&self, at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        // Every key that begins with `<service>/`: up to the next character after the slash.
        let from = BASE64_STANDARD.encode(format!("{service}/"));
        let to = BASE64_STANDARD.encode(format!("{service}0"));
        let range = json!({ "key": from, "range_end": to }).to_string();
        let now = raw::ask(at, "POST /v3/kv/range", &range).await?.json()?;
        let mut listed = BTreeMap::new();
        for pair in now["kvs"].as_array().into_iter().flatten() {
            put(&mut listed, pair);
        }
        seen.are(listed.values().copied().collect());

        let read = now["header"]["revision"]
            .as_str()
            .and_then(|r| r.parse::<u64>().ok());
        let read = read.ok_or_else(|| io::Error::other(format!("no revision in {now}")))?;
        let next = (read + 1).to_string();
        let watch = json!({
            "create_request": { "key": from, "range_end": to, "start_revision": next },
        });
        let stream = raw::send(at, "POST /v3/watch", &watch.to_string()).await?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next_line().await? {
            // The head comes before it.
            let Ok(answer) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            for event in answer["result"]["events"].as_array().into_iter().flatten() {
                if event["type"] == "DELETE" {
                    listed.remove(&event["kv"]["key"].to_string());
                } else {
                    put(&mut listed, &event["kv"]);
                }
            }
            seen.are(listed.values().copied().collect());
        }
        Ok(())
    }
}

/// By key, as it travels.
fn put(listed: &mut BTreeMap<String, SocketAddr>, pair: &Value) {
    let address = || {
        let value = BASE64_STANDARD.decode(pair["value"].as_str()?).ok()?;
        let value: Value = serde_json::from_slice(&value).ok()?;
        value["Addr"].as_str()?.parse().ok()
    };
    if let Some(address) = address() {
        listed.insert(pair["key"].to_string(), address);
    }
}
