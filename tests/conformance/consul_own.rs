//! What only Consul has: several agents, maintenance, tags, and access control.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prestop::Deadline;
use prestop::registry::consul::Consul;
use prestop::registry::{Beat, Gone, Registry};
use tokio::time::sleep;

use crate::contract::{NEVER, SERVICE, Service, address, instance};
use crate::fixture::Fixture;
use crate::fixtures::consul as fixture;
use crate::raw;
use crate::server::{BOUND, Server};
use crate::watcher::{Seen, Watcher};

const TOKEN: &str = "b1a5c0de-0000-4000-8000-000000000000";

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

fn agent(at: SocketAddr) -> Consul {
    let consul = Consul::agent(&format!("http://{at}")).unwrap();
    consul.with_ttl(NEVER)
}

#[tokio::test]
async fn tags_metadata_and_the_check_are_in_the_catalog() {
    let Some(server) = Server::<fixture::Consul>::start().await else {
        return;
    };
    let orders = instance(4000).with_metadata("version", "1.4.2");
    let consul = agent(server.at()).with_tags(["v1", "blue"]);
    let consul = consul.with_deregister_critical_after(Duration::from_secs(90));
    let _entry = consul.register(&orders, soon()).await.unwrap();
    let listed = raw::ask(server.at(), "GET /v1/health/service/orders", "").await;
    let listed = &listed.unwrap().json().unwrap()[0];
    assert_eq!(listed["Service"]["ID"], orders.id());
    assert_eq!(listed["Service"]["Meta"]["version"], "1.4.2");
    assert_eq!(listed["Service"]["Tags"], serde_json::json!(["v1", "blue"]));
    let checks = listed["Checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["Type"] == "ttl").unwrap();
    assert_eq!(check["Status"], "passing");
    assert_eq!(check["CheckID"], format!("service:{}", orders.id()));
}

#[tokio::test]
async fn maintenance_takes_it_from_clients_and_ends_with_the_next_registration() {
    let Some(server) = Server::<fixture::Consul>::start().await else {
        return;
    };
    let mut watcher = Watcher::start::<fixture::Consul>(server.at(), SERVICE).await;
    let consul = agent(server.at()).with_maintenance_first();
    let orders = instance(4000);
    let mut entry = consul.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    entry.set_out_of_service(soon()).await.unwrap();
    watcher.misses(address(4000)).await;
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    // It is there all the same.
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);

    // Under the same id: Consul would keep the maintenance.
    let mut entry = consul.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;
    let known = format!("GET /v1/agent/service/{}", orders.id());
    let known = raw::ask(server.at(), &known, "").await.unwrap();
    assert_eq!(known.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_agent_takes_the_instance_when_one_is_down_and_when_one_dies() {
    type Agent = Server<fixture::Consul>;
    let (Some(down), Some(mut first)) = (Agent::prepare(), Agent::start().await) else {
        return;
    };
    let second = Agent::start().await.unwrap();
    let urls = [down.at(), first.at(), second.at()].map(|at| format!("http://{at}"));
    let consul = Consul::agents(urls).unwrap();
    // Given up when it has not answered for that long: no shorter than a machine may stand still.
    let consul = consul.with_ttl(Duration::from_secs(8));
    let consul = consul.with_visibility(Duration::ZERO);
    let mut of_first = Watcher::start::<fixture::Consul>(first.at(), SERVICE).await;
    let mut of_second = Watcher::start::<fixture::Consul>(second.at(), SERVICE).await;
    let service = Service::start(Box::new(consul), instance(4000)).await;
    of_first.sees(address(4000)).await;
    service.is_kept_alive().await;
    assert_eq!(of_second.now(), []);
    first.kill();
    of_second.sees(address(4000)).await;
    let report = service.stop().await;
    assert!(report.is_clean(), "{report}");
    of_second.misses(address(4000)).await;
}

/// An agent that lets nobody in without a token.
struct Guarded;

impl Fixture for Guarded {
    const NAME: &'static str = "consul";
    const TTL: Duration = fixture::Consul::TTL;
    const PORTS: usize = fixture::Consul::PORTS;
    const HTTP: bool = true;

    fn program() -> Option<PathBuf> {
        fixture::Consul::program()
    }

    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command {
        let config = dir.join("acl.hcl");
        let text = format!(
            r#"acl {{ enabled = true default_policy = "deny" tokens {{ master = "{TOKEN}" agent = "{TOKEN}" }} }}"#
        );
        std::fs::write(&config, text).unwrap();
        let mut command = fixture::Consul::command(program, dir, ports);
        command.arg("-config-file").arg(config);
        command
    }

    async fn is_ready(at: SocketAddr) -> bool {
        let node = raw::ask(at, &format!("GET /v1/health/node/t?token={TOKEN}"), "").await;
        node.is_ok_and(|answer| answer.body.contains("serfHealth"))
    }

    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry> {
        Box::new(agent(at).with_ttl(ttl).with_token(TOKEN).unwrap())
    }

    async fn follow(at: SocketAddr, service: &str, seen: &Seen) -> io::Result<()> {
        loop {
            let list = format!("GET /v1/health/service/{service}?passing=1&token={TOKEN}");
            let listed = raw::ask(at, &list, "").await?.json()?;
            let listed = listed.as_array().cloned().unwrap_or_default();
            let addresses = listed.iter().map(|entry| {
                let service = &entry["Service"];
                let address = service["Address"].as_str().unwrap();
                format!("{address}:{}", service["Port"]).parse().unwrap()
            });
            seen.are(addresses.collect());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_token_lets_it_in_and_is_shown_nowhere() {
    let Some(server) = Server::<Guarded>::start().await else {
        return;
    };
    let mut watcher = Watcher::start::<Guarded>(server.at(), SERVICE).await;
    for wrong in [None, Some("b1a5c0de-1111-4111-8111-111111111111")] {
        let mut consul = agent(server.at());
        if let Some(token) = wrong {
            consul = consul.with_token(token).unwrap();
        }
        let refused = consul.register(&instance(4000), soon()).await.err();
        let message = refused.expect("it is refused").to_string();
        assert!(message.contains("403"), "{message}");
        assert!(!message.contains("b1a5c0de"), "{message}");
    }
    let consul = Guarded::registry(server.at(), NEVER);
    let mut entry = consul.register(&instance(4000), soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;
    let shown = format!("{:?}", agent(server.at()).with_token(TOKEN).unwrap());
    assert!(!shown.contains("b1a5c0de"), "{shown}");
}
