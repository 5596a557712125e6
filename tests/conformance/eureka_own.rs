//! What only Eureka has: statuses that are set in place of its own, peers, users in URLs, and caches that ask for more
//! time than a pod is usually given.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prestop::registry::eureka::Eureka;
use prestop::registry::{Beat, Gone, Instance, Registry};
use prestop::{Deadline, GracePeriod, LeaveOutcome, ShutdownCoordinator};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::contract::{NEVER, Service, address};
use crate::fixture::Fixture;
use crate::fixtures::eureka::{self as fixture, adapter, get, instances, url};
use crate::java_servers;
use crate::proxy::{Proxy, Trouble};
use crate::raw;
use crate::server::{BOUND, Server, Shared};
use crate::site::Site;
use crate::watcher::{Seen, Watcher};

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

/// The instance's own entry, as the server has it.
fn path_of(instance: &Instance) -> String {
    format!("/{}/{}", instance.service().to_uppercase(), instance.id())
}

#[tokio::test]
async fn the_server_reads_an_instance_as_it_was_meant() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let orders = site.instance(4000).with_metadata("version", "1.4.2");
    let eureka = adapter(site.at())
        .with_ttl(Duration::from_secs(120))
        .with_vip_address("shop")
        .with_status_page(4000, "/info")
        .with_health_check(9090, "/readyz");
    let _entry = eureka.register(&orders, soon()).await.unwrap();
    let listed = instances(site.at(), site.service()).await.unwrap();
    let [info] = &listed[..] else {
        panic!("one: {listed:?}");
    };
    for (field, value) in [
        ("instanceId", json!(orders.id())),
        ("app", json!(site.service().to_uppercase())),
        ("hostName", json!("127.0.0.1")),
        ("ipAddr", json!("127.0.0.1")),
        ("vipAddress", json!("shop")),
        ("status", json!("UP")),
        ("overriddenStatus", json!("UNKNOWN")),
        ("port", json!({ "$": 4000, "@enabled": "true" })),
        ("securePort", json!({ "$": 443, "@enabled": "false" })),
        ("homePageUrl", json!("http://127.0.0.1:4000/")),
        ("statusPageUrl", json!("http://127.0.0.1:4000/info")),
        ("healthCheckUrl", json!("http://127.0.0.1:9090/readyz")),
    ] {
        assert_eq!(info[field], value, "{field}: {info}");
    }
    assert_eq!(info["metadata"]["version"], "1.4.2", "{info}");
    assert_eq!(info["dataCenterInfo"]["name"], "MyOwn", "{info}");
    assert_eq!(info["leaseInfo"]["durationInSecs"], 120, "{info}");
    assert_eq!(info["leaseInfo"]["renewalIntervalInSecs"], 40, "{info}");
    // By its virtual address, as Spring's clients ask.
    let request = "GET /eureka/vips/shop";
    let accept = "\r\naccept: application/json";
    let found = raw::ask_with(site.server_at(), request, accept, "").await;
    assert!(found.unwrap().body.contains(orders.id()));
}

#[tokio::test]
async fn with_https_the_server_has_the_secure_port_alone() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let eureka = adapter(site.at()).with_https().with_health_check(4000, "/");
    let orders = site.instance(4000);
    let _entry = eureka.register(&orders, soon()).await.unwrap();
    let info = &instances(site.at(), site.service()).await.unwrap()[0];
    let secure = json!({ "$": 4000, "@enabled": "true" });
    assert_eq!(info["securePort"], secure, "{info}");
    assert_eq!(info["port"]["@enabled"], "false", "{info}");
    let url = "https://127.0.0.1:4000/";
    assert_eq!(info["homePageUrl"], url, "{info}");
    assert_eq!(info["secureHealthCheckUrl"], url, "{info}");
}

#[tokio::test]
async fn out_of_service_takes_it_from_clients_and_ends_with_the_next_start() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let orders = site.instance(4000);
    let first = adapter(site.at()).with_ttl(NEVER);
    let mut entry = first.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    entry.set_out_of_service(soon()).await.unwrap();
    watcher.misses(address(4000)).await;
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    // It is there all the same, and heartbeats leave it as it is.
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));

    // What the adapter does not do again: registered anew in the middle of its life, it stays as it was set.
    let _again = first.register(&orders, soon()).await.unwrap();
    let kept = get(site.at(), &path_of(&orders)).await.unwrap().json();
    assert_eq!(kept.unwrap()["instance"]["status"], "OUT_OF_SERVICE");

    // The next process under the same id.
    let next = adapter(site.at()).with_ttl(NEVER);
    let mut entry = next.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    let now = get(site.at(), &path_of(&orders)).await.unwrap().json();
    assert_eq!(now.unwrap()["instance"]["overriddenStatus"], "UNKNOWN");
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;
}

#[tokio::test]
async fn where_the_deletion_fails_clients_see_it_out_of_service() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let (at, mut watcher) = (
        refuses_deletions(site.server_at()).await,
        site.watch().await,
    );
    let eureka = adapter(at.0).with_ttl(NEVER).with_out_of_service_first();
    let orders = site.instance(4000);
    let mut entry = eureka.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    let error = entry.deregister(soon()).await.unwrap_err();
    assert!(!error.is_unknown(), "{error}");
    assert!(error.to_string().contains("405"), "{error}");
    watcher.misses(address(4000)).await;
    let kept = get(site.server_at(), &path_of(&orders)).await.unwrap();
    assert_eq!(kept.json().unwrap()["instance"]["status"], "OUT_OF_SERVICE");
}

/// spring-cloud-netflix#1543: a status that arrives behind the deletion. The server's own answer to it, since an
/// adapter that waits for each call cannot send one.
#[tokio::test]
async fn a_status_that_comes_after_the_deletion_does_not_bring_it_back() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let orders = site.instance(4000);
    let eureka = adapter(site.at()).with_ttl(NEVER);
    let mut entry = eureka.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    for late in ["status?value=OUT_OF_SERVICE", "?status=UP"] {
        let separator = if late.starts_with('?') { "" } else { "/" };
        let late = format!("PUT /eureka/apps{}{separator}{late}", path_of(&orders));
        let answer = raw::ask(site.server_at(), &late, "").await.unwrap();
        assert_eq!(answer.status, 404, "{late}");
    }
    // Something that came later is seen.
    let marker = site.instance(4001);
    let _marker = eureka.register(&marker, soon()).await.unwrap();
    watcher
        .until("the marker alone", |now| now == [address(4001)])
        .await;
}

/// Two servers, each the other's peer.
struct Peers;

impl Fixture for Peers {
    const NAME: &'static str = "eureka";
    const TTL: Duration = fixture::Eureka::TTL;
    const PORTS: usize = 2;
    const HTTP: bool = true;

    fn shared() -> Option<&'static Shared<Self>> {
        static SHARED: Shared<Peers> = Shared::new();
        Some(&SHARED)
    }

    fn program() -> Option<PathBuf> {
        fixture::Eureka::program()
    }

    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command {
        // The shell gives both its own standard input, at whose end they end.
        let mut command = Command::new("sh");
        let script = r#"exec 3<&0
            "$0" "$1" "$3/one" "-Deureka.client.service-url.defaultZone=http://localhost:$2/eureka/" "$4" <&3 &
            "$0" "$2" "$3/two" "-Deureka.client.service-url.defaultZone=http://localhost:$1/eureka/" "$4" <&3 &
            exec 3<&- <&-
            wait"#;
        std::fs::create_dir_all(dir.join("one")).unwrap();
        std::fs::create_dir_all(dir.join("two")).unwrap();
        let ports = [ports[0], ports[1]].map(|port| port.to_string());
        command.args(["-c", script]).arg(program);
        command.args(ports).arg(dir).arg(fixture::SHORT_RACES);
        command
    }

    async fn is_ready(at: SocketAddr) -> bool {
        fixture::Eureka::is_ready(at).await
    }

    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry> {
        fixture::Eureka::registry(at, ttl)
    }

    async fn follow(at: SocketAddr, service: &str, seen: &Seen) -> std::io::Result<()> {
        fixture::Eureka::follow(at, service, seen).await
    }
}

/// The two of them.
async fn peers() -> Option<[SocketAddr; 2]> {
    let servers = Peers::shared().unwrap().server().await?;
    let both = [0, 1].map(|n| SocketAddr::from(([127, 0, 0, 1], servers.ports()[n])));
    let ready = async {
        while !Peers::is_ready(both[1]).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, ready).await.expect("the second one is up");
    Some(both)
}

async fn watch(at: SocketAddr, service: &str) -> Watcher {
    Watcher::start::<Peers>(at, service).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_gone_from_every_peer_and_no_late_news_brings_it_back() {
    let Some(both) = peers().await else {
        return;
    };
    let service = "peered";
    let [mut here, mut there] = [watch(both[0], service).await, watch(both[1], service).await];
    let eureka = Eureka::new(both.map(url)).unwrap().with_ttl(NEVER);
    let eureka = eureka.with_out_of_service_first();
    let orders = Instance::new(service, address(4000));
    let mut entry = eureka.register(&orders, soon()).await.unwrap();
    // The other one is told half a second later.
    here.sees(address(4000)).await;
    there.sees(address(4000)).await;
    // A heartbeat, a status and the deletion are now to be told it in one go.
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    // It was waited for.
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    for at in both {
        assert_eq!(get(at, &path_of(&orders)).await.unwrap().status, 404);
    }
    // Whatever came of it at the other one was done before these.
    let next = Instance::new(service, address(4001));
    let mut marker = eureka.register(&next, soon()).await.unwrap();
    there.sees(address(4001)).await;
    assert_eq!(marker.deregister(soon()).await.unwrap(), Gone::Removed);
    there.until("nobody is left", <[_]>::is_empty).await;
    here.until("nobody is left", <[_]>::is_empty).await;
    for watcher in [&here, &there] {
        let views = watcher.views();
        let gone = views
            .iter()
            .skip_while(|view| !view.contains(&address(4000)));
        let gone = gone.skip_while(|view| view.contains(&address(4000)));
        let mut after = gone;
        assert!(
            after.all(|view| !view.contains(&address(4000))),
            "{views:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_peer_goes_on_when_one_is_cut_off_and_tells_it_in_the_end() {
    let Some(both) = peers().await else {
        return;
    };
    let service = "handed-over";
    // The first is cut off from the service alone.
    let way = Proxy::start(both[0]).await;
    let [mut here, mut there] = [watch(both[0], service).await, watch(both[1], service).await];
    let eureka = Eureka::new([way.at, both[1]].map(url)).unwrap();
    let eureka = eureka
        .with_ttl(Duration::from_secs(3))
        .with_visibility(Duration::ZERO);
    let orders = Instance::new(service, address(4000));
    let service = Service::start(Box::new(eureka), orders.clone()).await;
    here.sees(address(4000)).await;
    there.sees(address(4000)).await;
    service.is_kept_alive().await;
    way.make(Trouble::Partition);
    timeout(BOUND, way.met(1))
        .await
        .expect("a heartbeat is lost");
    service.is_kept_alive().await;
    let report = service.stop().await;
    let left = &report.registries[0];
    assert_eq!(left.outcome, LeaveOutcome::Removed, "{report}");
    here.misses(address(4000)).await;
    there.misses(address(4000)).await;
    for at in both {
        assert_eq!(get(at, &path_of(&orders)).await.unwrap().status, 404);
    }
}

/// A fixture before the real server: it lets requests through as they are, but answers the deletion of an instance.
async fn refuses_deletions(server: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    gate(server, |head| {
        let deletes = head.starts_with("DELETE ") && !head.contains("/status");
        deletes.then_some("405 Not Here")
    })
    .await
}

/// A fixture in place of Spring Security, before the real server: it asks for a user, as HTTP basic authentication does.
async fn asks_for_a_user(server: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    gate(server, |head| {
        // svc:hush-hush
        let knows = head.contains("\r\nauthorization: Basic c3ZjOmh1c2gtaHVzaA==\r\n");
        (!knows).then_some("401 Who")
    })
    .await
}

/// Hears one request on each connection, and refuses it or hands it on.
async fn gate(
    server: SocketAddr,
    refuses: fn(&str) -> Option<&'static str>,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            connections.spawn(through(client, server, refuses));
        }
    });
    (at, task)
}

async fn through(
    mut client: TcpStream,
    server: SocketAddr,
    refuses: fn(&str) -> Option<&'static str>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    if let Some(status) = refuses(&head) {
        let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    // One on each connection: the server closes it.
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    if server.write_all(head.as_bytes()).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

#[tokio::test]
async fn a_user_in_the_url_lets_it_in_and_is_shown_nowhere() {
    let Some(site) = Site::<fixture::Eureka>::start().await else {
        return;
    };
    let (at, _gate) = asks_for_a_user(site.server_at()).await;
    let mut watcher = site.watch().await;
    let orders = site.instance(4000);
    for wrong in [
        format!("http://{at}/eureka"),
        format!("http://svc:hush@{at}/eureka"),
    ] {
        let eureka = Eureka::new([wrong]).unwrap();
        let refused = eureka.register(&orders, soon()).await.map(drop);
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("401") && message.contains("user"),
            "{message}"
        );
        assert!(!message.contains("hush"), "{message}");
    }
    let eureka = Eureka::new([format!("http://svc:hush-hush@{at}/eureka")]).unwrap();
    let shown = format!("{eureka:?} {eureka:#?}");
    assert!(
        !shown.contains("hush") && !shown.contains("c3Zj"),
        "{shown}"
    );
    let mut entry = eureka.register(&orders, soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;
}

/// The message of the docs, and the way out that it leads to.
#[tokio::test]
async fn thirty_seconds_are_refused_with_the_three_ways_out_of_the_docs() {
    let build = |eureka: Eureka, grace: u64| {
        let orders = Instance::new("orders", address(4000));
        let c = ShutdownCoordinator::builder_without_signals();
        let c = c.grace_period(GracePeriod::from_secs(grace).unwrap());
        c.lame_duck(Duration::ZERO).registry(eureka, orders).build()
    };
    let eureka = || Eureka::new(["http://eureka:8761/eureka"]).unwrap();
    let error = build(eureka(), 30).map(drop).unwrap_err();
    assert!(error.is_budget(), "{error}");
    let said = error.to_string();
    let docs = include_str!("../../src/docs/registries.md");
    let docs: Vec<_> = docs.split_whitespace().collect();
    let said_in_docs: Vec<_> = said.split_whitespace().collect();
    let shown = docs.windows(said_in_docs.len()).any(|w| w == said_in_docs);
    assert!(
        shown,
        "src/docs/registries.md shows another message than this:\n{said}"
    );
    // Each of them is one.
    build(eureka(), 96).expect("a longer grace period");
    let sooner = eureka().with_visibility(Duration::from_secs(15));
    build(sooner, 30).expect("clients that notice sooner, or that retry");
    let ribbon = eureka().with_load_balancer_cache(Duration::from_secs(30));
    let error = build(ribbon, 96).map(drop).unwrap_err();
    assert!(error.to_string().contains("95.0 lame duck"), "{error}");
}

/// How long a server as it comes goes on handing a deleted instance out, to one who asks all the time: by its own rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for a quiet machine: four minutes"]
async fn figures_of_a_stock_server() {
    let Some(server) = Server::<Stock>::start().await else {
        return;
    };
    for round in 0..8 {
        let orders = Instance::new("orders", address(4000 + round));
        let eureka = adapter(server.at());
        let mut entry = eureka.register(&orders, soon()).await.unwrap();
        while !hands_out(server.at(), orders.id()).await {
            sleep(Duration::from_millis(20)).await;
        }
        // It was seen right after a renewal of the cache. Each time a bit further into the 30 s until the next one.
        sleep(Duration::from_millis(3_700) * u32::from(round)).await;
        let begun = Instant::now();
        assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
        let called = begun.elapsed();
        while hands_out(server.at(), orders.id()).await {
            sleep(Duration::from_millis(20)).await;
        }
        println!(
            "left and read back in {called:.1?}, handed out for {:.1?}",
            begun.elapsed()
        );
    }
}

async fn hands_out(at: SocketAddr, id: &str) -> bool {
    let all = get(at, "/").await.unwrap();
    assert_eq!(all.status, 200);
    all.body.contains(id)
}

/// The read-only cache is on, as it is by default.
struct Stock;

impl Fixture for Stock {
    const NAME: &'static str = "eureka";
    const TTL: Duration = fixture::Eureka::TTL;
    const PORTS: usize = 1;
    const HTTP: bool = true;

    fn program() -> Option<PathBuf> {
        fixture::Eureka::program()
    }

    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command {
        let mut command = java_servers::command(program, dir, ports[0]);
        let itself = url(([127, 0, 0, 1], ports[0]).into());
        command.arg(format!("-Deureka.client.service-url.defaultZone={itself}/"));
        command.args([
            "-Deureka.server.use-read-only-response-cache=true",
            "-Deureka.server.response-cache-update-interval-ms=30000",
        ]);
        command
    }

    async fn is_ready(at: SocketAddr) -> bool {
        fixture::Eureka::is_ready(at).await
    }

    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry> {
        fixture::Eureka::registry(at, ttl)
    }

    async fn follow(at: SocketAddr, service: &str, seen: &Seen) -> std::io::Result<()> {
        fixture::Eureka::follow(at, service, seen).await
    }
}
