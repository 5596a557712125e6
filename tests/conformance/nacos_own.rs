//! What only Nacos has: two APIs, services told apart by namespace, group and cluster, users, `enabled`, Dubbo's names; and
//! that what its v1 could bring back does not come back.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::nacos::{DubboService, Nacos, NacosApi, ServiceFormat};
use prestop::registry::{Beat, Gone, Instance, Registration, Registry, RegistryError};
use prestop::{Deadline, LeaveOutcome};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::contract::{NEVER, Service, address};
use crate::fixture::Fixture;
use crate::fixtures::nacos as fixture;
use crate::fixtures::nacos::hosts_of;
use crate::proxy::{Heard, Proxy, Trouble};
use crate::raw;
use crate::server::{BOUND, Server};
use crate::site::Site;
use crate::watcher::{Seen, Watcher};

type Real = Site<fixture::Nacos>;

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

fn nacos(at: SocketAddr) -> Nacos {
    let nacos = Nacos::new([format!("http://{at}")]).unwrap();
    nacos.with_ttl(NEVER).with_visibility(Duration::ZERO)
}

/// Waits until clients are given what they should be.
async fn given(at: SocketAddr, query: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let list = format!("GET /nacos/v3/client/ns/instance/list?{query}");
    let looking = async {
        loop {
            let hosts = hosts_of(&raw::ask(at, &list, "").await.unwrap()).unwrap();
            if holds(&hosts) {
                return hosts;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let given = timeout(BOUND, looking).await;
    if given.is_err() {
        let now = raw::ask(at, &list, "").await.unwrap().body;
        panic!("waited {BOUND:?} for the list of {query}, which is {now}");
    }
    given.unwrap()
}

#[tokio::test]
async fn metadata_weight_group_and_cluster_are_what_clients_are_given() {
    let Some(site) = Real::start().await else {
        return;
    };
    let orders = site
        .instance(4000)
        .with_metadata("version", "1.4.2 & \u{e9}");
    let nacos = nacos(site.at()).with_weight(0.5).with_group("shop");
    let nacos = nacos.with_cluster("zone-a");
    let mut entry = nacos.register(&orders, soon()).await.unwrap();
    let query = format!(
        "serviceName={}&groupName=shop&clusterName=zone-a",
        site.service()
    );
    let hosts = given(site.at(), &query, |hosts| !hosts.is_empty()).await;
    assert_eq!(hosts[0]["weight"], 0.5);
    assert_eq!(hosts[0]["clusterName"], "zone-a");
    assert_eq!(hosts[0]["metadata"]["version"], "1.4.2 & \u{e9}");
    assert_eq!(hosts[0]["metadata"]["prestop.id"], orders.id());
    assert_eq!(hosts[0]["instanceHeartBeatTimeOut"], 600_000);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
    // Nobody is found elsewhere.
    let elsewhere = format!("serviceName={}", site.service());
    given(site.at(), &elsewhere, <[_]>::is_empty).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    given(site.at(), &query, <[_]>::is_empty).await;
}

#[tokio::test]
async fn namespaces_are_apart() {
    let Some(site) = Real::start().await else {
        return;
    };
    let (here, there) = (nacos(site.at()), nacos(site.at()).with_namespace("staging"));
    let mut here = here.register(&site.instance(4000), soon()).await.unwrap();
    let mut there = there.register(&site.instance(4001), soon()).await.unwrap();
    let is = |port: u16| move |hosts: &[Value]| hosts.len() == 1 && hosts[0]["port"] == port;
    let in_public = format!("serviceName={}&namespaceId=public", site.service());
    let in_staging = format!("serviceName={}&namespaceId=staging", site.service());
    given(site.at(), &in_public, is(4000)).await;
    given(site.at(), &in_staging, is(4001)).await;
    assert_eq!(there.deregister(soon()).await.unwrap(), Gone::Removed);
    given(site.at(), &in_staging, <[_]>::is_empty).await;
    given(site.at(), &in_public, is(4000)).await;
    assert_eq!(here.deregister(soon()).await.unwrap(), Gone::Removed);
}

#[tokio::test]
async fn an_address_of_ipv6_comes_and_goes() {
    let Some(site) = Real::start().await else {
        return;
    };
    let at = "[2001:db8::5]:4000".parse().unwrap();
    let mut watcher = site.watch().await;
    let instance = Instance::new(site.service(), at);
    for api in [NacosApi::V3, NacosApi::V1] {
        let nacos = nacos(site.at()).with_api(api);
        let mut entry = nacos.register(&instance, soon()).await.unwrap();
        watcher.sees(at).await;
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
        assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
        watcher.misses(at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_v1_it_comes_stays_and_goes_too() {
    let Some(site) = Real::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let by_v1 = nacos(site.at()).with_api(NacosApi::V1);
    let mut entry = by_v1.register(&site.instance(4000), soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    // Removed by somebody else, its heartbeat is not known.
    let mut entry = by_v1.register(&site.instance(4001), soon()).await.unwrap();
    let other = nacos(site.at());
    let same = site.instance(4001).with_id("another");
    let mut other = other.register(&same, soon()).await.unwrap();
    other.deregister(soon()).await.unwrap();
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);

    let service = Service::start(Box::new(by_v1), site.instance(4002)).await;
    watcher.sees(address(4002)).await;
    let report = service.stop().await;
    let left = &report.registries[0];
    assert_eq!(left.outcome, LeaveOutcome::Removed, "{report}");
    watcher.misses(address(4002)).await;
}

#[tokio::test]
async fn disabled_it_is_given_to_nobody_and_stays_registered() {
    let Some(site) = Real::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    for api in [NacosApi::V3, NacosApi::V1] {
        let nacos = nacos(site.at()).with_api(api).with_disable_first();
        let orders = site.instance(4000);
        let mut entry = nacos.register(&orders, soon()).await.unwrap();
        watcher.sees(address(4000)).await;
        entry.set_out_of_service(soon()).await.unwrap();
        watcher.misses(address(4000)).await;
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
        assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        // The next registration ends it.
        let mut entry = nacos.register(&orders, soon()).await.unwrap();
        watcher.sees(address(4000)).await;
        assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
        watcher.misses(address(4000)).await;
    }
}

/// Why v1's own call for `enabled`, and v2, are not used.
#[tokio::test]
async fn nacos_3_serves_neither_the_put_of_v1_nor_v2() {
    let Some(site) = Real::start().await else {
        return;
    };
    let query = format!(
        "serviceName={}&ip=127.0.0.1&port=4000&enabled=false",
        site.service()
    );
    for call in ["PUT /nacos/v1/ns/instance", "POST /nacos/v2/ns/instance"] {
        let answer = raw::ask(site.at(), &format!("{call}?{query}"), "").await;
        assert_eq!(answer.unwrap().status, 410, "{call}");
    }
}

#[tokio::test]
async fn persistent_instances_come_and_go() {
    let Some(site) = Real::start().await else {
        return;
    };
    let nacos = nacos(site.at()).with_persistent_instances();
    let mut entry = nacos.register(&site.instance(4000), soon()).await.unwrap();
    let query = format!("serviceName={}", site.service());
    let hosts = given(site.at(), &query, |hosts| !hosts.is_empty()).await;
    assert_eq!(hosts[0]["ephemeral"], false);
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    given(site.at(), &query, <[_]>::is_empty).await;
}

#[tokio::test]
async fn dubbos_consumers_find_every_interface() {
    let Some(site) = Real::start().await else {
        return;
    };
    // Names of their own: the server is everybody's.
    let interface = |n: u8| format!("com.example.Orders{n}{}", site.service().replace('-', "_"));
    let services = [1, 2].map(|n| DubboService::new(interface(n)).with_version("1.0.0"));
    let names = [1, 2].map(|n| format!("serviceName=providers:{}:1.0.0:", interface(n)));
    let nacos = nacos(site.at()).with_format(ServiceFormat::dubbo(services));
    let shop = Instance::new("shop", address(4000)).with_metadata("weight", "50");
    let mut entry = nacos.register(&shop, soon()).await.unwrap();
    for name in &names {
        let hosts = given(site.at(), name, |hosts| hosts.len() == 1).await;
        let metadata = &hosts[0]["metadata"];
        for (key, value) in [
            ("application", "shop"),
            ("category", "providers"),
            ("protocol", "dubbo"),
            ("side", "provider"),
            ("version", "1.0.0"),
            ("weight", "50"),
        ] {
            assert_eq!(metadata[key], value, "{metadata}");
        }
    }
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    for name in &names {
        given(site.at(), name, <[_]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_is_asked_when_one_is_down_and_when_one_is_frozen() {
    let Some(site) = Real::start().await else {
        return;
    };
    let proxy = Proxy::start(site.server_at()).await;
    let Some(down) = Server::<fixture::Nacos>::prepare() else {
        return;
    };
    let urls = [down.at(), proxy.at, site.server_at()].map(|at| format!("http://{at}"));
    let nacos = Nacos::new(urls).unwrap().with_ttl(NEVER);
    let nacos = nacos.with_visibility(Duration::ZERO);
    let mut watcher = site.watch().await;
    let service = Service::start(Box::new(nacos), site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    service.is_kept_alive().await;
    proxy.make(Trouble::Frozen);
    let report = service.stop().await;
    let left = &report.registries[0];
    assert_eq!(left.outcome, LeaveOutcome::Removed, "{report}");
    watcher.misses(address(4000)).await;
}

/// S6: the stop begins while a heartbeat is on its way, which the server hears half a second later. Nothing but waiting for
/// it keeps the removal behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_in_flight_is_heard_before_the_deregistration_and_does_not_bring_it_back() {
    let Some(site) = Real::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    for (first, api) in [(4000, NacosApi::V1), (5000, NacosApi::V3)] {
        // A heartbeat is waited for, but not for long: where this machine stood still for a second, a round says nothing.
        let rounds = 5;
        let mut heard = Vec::new();
        for port in first..first + rounds {
            heard = stop_with_a_late_heartbeat(&site, &mut watcher, port, api).await;
            let late = heard.iter().rposition(|piece| piece.is_late);
            let removal = heard.iter().position(is_removal);
            if late.is_some() && late < removal {
                break;
            }
            assert!(port + 1 < first + rounds, "{api:?}: {heard:?}");
        }
        assert!(heard.iter().any(is_removal), "{api:?}: {heard:?}");
    }
}

fn is_removal(piece: &Heard) -> bool {
    piece.first_line.starts_with("DELETE ")
}

/// What the server heard.
async fn stop_with_a_late_heartbeat(
    site: &Real,
    watcher: &mut Watcher,
    port: u16,
    api: NacosApi,
) -> Vec<Heard> {
    let proxy = Proxy::start(site.server_at()).await;
    let nacos = nacos(proxy.at).with_api(api);
    let service = Service::start(Box::new(nacos), site.instance(port)).await;
    watcher.sees(address(port)).await;
    service.is_kept_alive().await;
    proxy.make(Trouble::Late(Duration::from_millis(500)));
    timeout(BOUND, proxy.met(1)).await.expect("a heartbeat");
    service.h.trigger(prestop::Reason::requested("the test"));
    // What comes after it is passed on at once.
    proxy.make(Trouble::None);
    let report = service.stop().await;
    let left = &report.registries[0];
    assert_eq!(left.outcome, LeaveOutcome::Removed, "{api:?}: {report}");
    watcher.misses(address(port)).await;
    // Told of later, so that all before is told of, too.
    let marker = site.registry(NEVER);
    let marker = marker
        .register(&site.instance(port + 100), soon())
        .await
        .unwrap();
    watcher.sees(address(port + 100)).await;
    drop(marker);
    let views = watcher.views();
    let came = views
        .windows(2)
        .filter(|pair| !pair[0].contains(&address(port)) && pair[1].contains(&address(port)));
    assert_eq!(came.count(), 1, "{views:?}");
    proxy.heard()
}

/// The heartbeat of old clients, which makes the instance anew: what the light one is not.
async fn full_beat(at: SocketAddr, service: &str, port: u16, id: &str) {
    let beat = serde_json::json!({
        "ip": "127.0.0.1", "port": port, "serviceName": format!("DEFAULT_GROUP@@{service}"),
        "cluster": "DEFAULT", "weight": 1.0, "metadata": { "prestop.id": id },
    });
    let beat: String = beat
        .to_string()
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let call = format!(
        "PUT /nacos/v1/ns/instance/beat?serviceName=DEFAULT_GROUP@@{service}&ip=127.0.0.1&port={port}&beat={beat}"
    );
    let answer = raw::ask(at, &call, "").await.unwrap();
    assert_eq!(answer.json().unwrap()["code"], 10200, "{}", answer.body);
}

/// An adapter whose instance somebody brings back once, between the removal and its reading back.
struct Reviving<T> {
    inner: T,
    at: SocketAddr,
    instance: Instance,
    done: AtomicBool,
}

#[async_trait]
impl Registry for Reviving<Nacos> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn visibility(&self) -> Duration {
        Duration::ZERO
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        Ok(Box::new(Reviving {
            inner: self.inner.register(instance, by).await?,
            at: self.at,
            instance: instance.clone(),
            done: AtomicBool::new(false),
        }))
    }
}

#[async_trait]
impl Registration for Reviving<Box<dyn Registration>> {
    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        self.inner.heartbeat(by).await
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        let gone = self.inner.deregister(by).await?;
        if !self.done.swap(true, Ordering::SeqCst) {
            let (service, id) = (self.instance.service(), self.instance.id());
            full_beat(self.at, service, self.instance.address().port(), id).await;
        }
        Ok(gone)
    }

    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        self.inner.is_listed(by).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_brought_back_all_the_same_is_removed_again() {
    let Some(site) = Real::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    for (port, api) in [(4000, NacosApi::V1), (4001, NacosApi::V3)] {
        let reviving = Reviving {
            inner: nacos(site.at()).with_api(api),
            at: site.server_at(),
            instance: site.instance(port),
            done: AtomicBool::new(false),
        };
        let service = Service::start(Box::new(reviving), site.instance(port)).await;
        watcher.sees(address(port)).await;
        service.is_kept_alive().await;
        let report = service.stop().await;
        let left = &report.registries[0];
        assert!(
            matches!(
                left.outcome,
                LeaveOutcome::Removed | LeaveOutcome::AlreadyGone
            ),
            "{api:?}: {report}"
        );
        watcher.misses(address(port)).await;
    }
}

/// A server that lets nobody in without a token, and gives tokens for a few seconds.
struct Guarded;

const TOKEN_SECONDS: u64 = 6;

impl Fixture for Guarded {
    const NAME: &'static str = fixture::Nacos::NAME;
    const TTL: Duration = fixture::Nacos::TTL;
    const PORTS: usize = fixture::Nacos::PORTS;
    const BESIDE: &'static [i16] = fixture::Nacos::BESIDE;
    const HTTP: bool = true;

    fn program() -> Option<PathBuf> {
        fixture::Nacos::program()
    }

    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command {
        let mut command = fixture::Nacos::command(program, dir, ports);
        command.arg("-Dnacos.core.auth.enabled=true");
        let seconds = "nacos.core.auth.plugin.nacos.token.expire.seconds";
        command.arg(format!("-D{seconds}={TOKEN_SECONDS}"));
        command
    }

    async fn is_ready(at: SocketAddr) -> bool {
        fixture::Nacos::is_ready(at).await
    }

    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry> {
        fixture::Nacos::registry(at, ttl)
    }

    async fn follow(_: SocketAddr, _: &str, _: &Seen) -> io::Result<()> {
        unreachable!("what is listed there is asked by the adapter")
    }
}

/// A call about users and what they may do.
async fn ask_auth(at: SocketAddr, call: &str, token: Option<&str>) -> raw::Answer {
    let (method, path) = call.split_once(' ').unwrap();
    let token = token.map(|token| format!("\r\nauthorization: Bearer {token}"));
    let request = format!("{method} /nacos/v3/auth/{path}");
    let answer = raw::ask_with(at, &request, &token.unwrap_or_default(), "").await;
    answer.unwrap()
}

/// What the administrator does, and how it is seen that it is done.
async fn grant(at: SocketAddr, call: &str, look: &str) {
    let mut said = Vec::new();
    while said.len() < 20 {
        // A token for each attempt, since they last so short a time.
        let login = "POST user/login?username=nacos&password=hush-admin";
        let login = ask_auth(at, login, None).await.json().unwrap_or_default();
        let token = login["accessToken"].as_str();
        let answer = ask_auth(at, call, token).await;
        if number(&answer) == Some(0) {
            return;
        }
        // This server says nothing (200, without a body) when it is just up, without a right, and to what is done already.
        let list = ask_auth(at, look, token).await;
        let list_json = list.json().unwrap_or_default();
        if list_json["data"]["totalCount"].as_u64() > Some(0) {
            return;
        }
        let statuses = [answer.status, list.status];
        said.push((token.is_some(), statuses, answer.body, list.body));
        sleep(Duration::from_millis(500)).await;
    }
    panic!("{call}: {said:?}");
}

/// Makes the administrator, where there is none.
async fn make_administrator(at: SocketAddr) {
    let mut said = Vec::new();
    while said.len() < 20 {
        let answer = ask_auth(at, "POST user/admin?password=hush-admin", None).await;
        // 409: by an attempt whose answer did not come.
        if let Some(0 | 409) = number(&answer) {
            return;
        }
        said.push((answer.status, answer.body));
        sleep(Duration::from_millis(500)).await;
    }
    panic!("no administrator: {said:?}");
}

/// The one in the body, where there is one.
fn number(answer: &raw::Answer) -> Option<u64> {
    answer.json().ok()?["code"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_lets_it_in_and_its_token_is_renewed() {
    let Some(server) = Server::<Guarded>::start().await else {
        return;
    };
    let at = server.at();
    make_administrator(at).await;
    for (user, role) in [("svc", "all"), ("writer", "w")] {
        let page = "pageNo=1&pageSize=10&search=accurate";
        let action = if role == "w" { "w" } else { "rw" };
        for (kind, made, looked_for) in [
            (
                "user",
                format!("username={user}&password=hush-hush"),
                format!("username={user}"),
            ),
            (
                "role",
                format!("username={user}&role={role}"),
                format!("username={user}&role={role}"),
            ),
            (
                "permission",
                format!("role={role}&resource=public:*:*&action={action}"),
                format!("role={role}"),
            ),
        ] {
            let call = format!("POST {kind}?{made}");
            let look = format!("GET {kind}/list?{page}&{looked_for}");
            grant(at, &call, &look).await;
        }
    }
    let instance = Instance::new("orders", address(4000));
    let refused = [
        None,
        Some(("svc", "hush-wrong")),
        Some(("nobody", "hush-hush")),
    ];
    for user in refused {
        let nacos = match user {
            Some((name, password)) => nacos(at).with_user(name, password),
            None => nacos(at),
        };
        let message = nacos.register(&instance, soon()).await.err();
        let message = message.expect("it is refused").to_string();
        assert!(message.contains(" answered "), "{message}");
        assert!(!message.contains("hush"), "{message}");
        assert!(user.is_some() || message.contains("with_user"), "{message}");
    }
    // What was granted may take the server a moment to see.
    let granted = |user: &'static str, api| {
        let nacos = nacos(at).with_user(user, "hush-hush").with_api(api);
        let instance = &instance;
        async move {
            let trying = async {
                loop {
                    match nacos.register(instance, soon()).await {
                        Ok(entry) => return entry,
                        Err(_) => sleep(Duration::from_millis(100)).await,
                    }
                }
            };
            timeout(BOUND, trying).await.expect("it is let in")
        }
    };
    for api in [NacosApi::V3, NacosApi::V1] {
        let mut entry = granted("svc", api).await;
        assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        // The token is over, and with it what it was good for.
        sleep(Duration::from_secs(TOKEN_SECONDS + 1)).await;
        assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(true));
        assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    }
    // Who may not read is let out all the same.
    let mut entry = granted("writer", NacosApi::V3).await;
    assert_eq!(entry.is_listed(soon()).await.unwrap(), None);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
}
