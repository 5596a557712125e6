//! What only ZooKeeper has: sessions that own nodes, nodes of other shapes, users.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prestop::Deadline;
use prestop::registry::zookeeper::{DubboService, NodeFormat, ZooKeeper};
use prestop::registry::{Beat, Gone, Instance, Registration, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fixtures::zookeeper as fixture;
use crate::fixtures::zookeeper::Raw;
use crate::server::{BOUND, Server};

const NO_AUTH: i32 = -102;

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

fn orders() -> Instance {
    Instance::new("orders", ([10, 0, 0, 5], 20880).into()).with_id("o-1")
}

struct Ensemble(Server<fixture::ZooKeeper>);

impl Ensemble {
    async fn start() -> Option<Self> {
        Server::start().await.map(Self)
    }

    fn zookeeper(&self) -> ZooKeeper {
        self.at(&self.0.at())
    }

    fn at(&self, servers: &impl ToString) -> ZooKeeper {
        let zookeeper = ZooKeeper::new(servers.to_string()).unwrap();
        zookeeper.with_session_timeout(Duration::from_secs(600))
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.0.at()).await.unwrap()
    }
}

async fn register(zookeeper: &ZooKeeper) -> Box<dyn Registration> {
    zookeeper.register(&orders(), soon()).await.unwrap()
}

/// Waits until these are the node's children.
async fn has(raw: &mut Raw, path: &str, children: &[&str]) {
    let waited = timeout(BOUND, async {
        while raw.children(path).await.unwrap() != children {
            raw.changed().await.unwrap();
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited for {path} to have {children:?}"));
}

#[tokio::test]
async fn a_dubbo_provider_is_a_node_for_each_interface_and_all_go_at_once() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    let interfaces = [
        "com.example.Orders",
        "com.example.Refunds",
        "com.example.Stock",
    ];
    let services = interfaces.map(|name| DubboService::new(name).with_version("1.0.0"));
    let format = NodeFormat::dubbo(services);
    let zookeeper = ensemble.zookeeper().with_format(format);
    assert_eq!(zookeeper.visibility(), Duration::from_secs(6));
    let mut entry = register(&zookeeper).await;

    let mut raw = ensemble.raw().await;
    assert_eq!(raw.children("/dubbo").await.unwrap(), interfaces);
    for name in interfaces {
        let providers = raw
            .children(&format!("/dubbo/{name}/providers"))
            .await
            .unwrap();
        let [provider] = &providers[..] else {
            panic!("one is expected: {providers:?}");
        };
        let begins = format!("dubbo%3A%2F%2F10.0.0.5%3A20880%2F{name}%3Fapplication%3Dorders%26");
        assert!(provider.starts_with(&begins), "{provider}");
        assert!(provider.ends_with("%26version%3D1.0.0"), "{provider}");
    }
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);

    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    // The answer came when they were gone; consumers that watch are told.
    for name in interfaces {
        let providers = format!("/dubbo/{name}/providers");
        assert_eq!(raw.children(&providers).await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_node_of_an_earlier_session_is_replaced_and_its_session_takes_nothing_with_it() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    let format =
        || NodeFormat::custom(|i| vec![(format!("/live/{}", i.address()), b"up".to_vec())]);
    let (first, second) = (
        ensemble.zookeeper().with_format(format()),
        ensemble.zookeeper().with_format(format()),
    );
    let mut old = register(&first).await;
    assert_eq!(old.is_listed(soon()).await.unwrap(), Some(true));
    let mut new = register(&second).await;
    let mut raw = ensemble.raw().await;
    has(&mut raw, "/live", &["10.0.0.5:20880"]).await;

    // No fight over it.
    assert_ne!(old.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(old.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(old.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    assert_eq!(raw.children("/live").await.unwrap(), ["10.0.0.5:20880"]);
    assert_eq!(new.is_listed(soon()).await.unwrap(), Some(true));
    assert_ne!(new.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(new.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(raw.children("/live").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_registration_that_is_dropped_takes_its_nodes_out() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    let mut raw = ensemble.raw().await;
    let entry = register(&ensemble.zookeeper()).await;
    has(&mut raw, "/services/orders", &["o-1"]).await;
    drop(entry);
    has(&mut raw, "/services/orders", &[]).await;
}

#[tokio::test]
async fn a_node_that_is_not_ephemeral_is_left_alone() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    // The parent of one is in the way of the other.
    let zookeeper = ensemble.zookeeper();
    let _entry = register(&zookeeper).await;
    let parent = Instance::new("x", orders().address());
    let format = NodeFormat::custom(|_| vec![("/services/orders".into(), Vec::new())]);
    let refused = zookeeper
        .with_format(format)
        .register(&parent, soon())
        .await;
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(
        error.contains("creating /services/orders at 127.0.0.1:"),
        "{error}"
    );
    assert!(error.contains("not ephemeral; delete it"), "{error}");
}

#[tokio::test]
async fn what_a_user_made_is_for_everybody_to_read_and_for_that_user_to_change() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    let zookeeper = ensemble
        .zookeeper()
        .with_digest("svc", "hush:hush")
        .unwrap();
    let mut entry = register(&zookeeper).await;
    let mut raw = ensemble.raw().await;
    let node = "/services/orders/o-1";
    assert!(raw.data(node).await.unwrap().is_some());
    assert_eq!(fixture::delete(&mut raw, node).await, Err(NO_AUTH));
    fixture::digest(&mut raw, "svc:wrong").await;
    assert_eq!(fixture::delete(&mut raw, node).await, Err(NO_AUTH));

    // Another service may be beside it, but not in it.
    let other = ensemble.zookeeper().with_digest("other", "pw").unwrap();
    let beside = Instance::new("payments", orders().address());
    other.register(&beside, soon()).await.unwrap();
    let inside = Instance::new("orders", orders().address());
    let error = other
        .register(&inside, soon())
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not authorized; the digest's user needs"),
        "{error}"
    );

    let mut second = zookeeper.register(&inside, soon()).await.unwrap();
    assert_eq!(second.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(raw.children("/services/orders").await.unwrap(), [""; 0]);
    // And the right password is what it takes.
    let _entry = register(&zookeeper).await;
    fixture::digest(&mut raw, "svc:hush:hush").await;
    assert_eq!(fixture::delete(&mut raw, node).await, Ok(()));
}

#[tokio::test]
async fn servers_that_refuse_or_are_silent_are_passed_over() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    // Bound, and nobody listens.
    let refusing = tokio::net::TcpSocket::new_v4().unwrap();
    refusing.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let refusing_at = refusing.local_addr().unwrap();
    let mut entry = register(&ensemble.at(&format!("{refusing_at},{}", ensemble.0.at()))).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);

    let error = ensemble
        .at(&refusing_at)
        .register(&orders(), soon())
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().contains("no server took the connection"),
        "{error}"
    );
    assert!(!error.is_unknown(), "nobody heard of it");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = format!("{},{}", silent.local_addr().unwrap(), ensemble.0.at());
    let zookeeper = ensemble.at(&servers);
    // Which one is first is random; the coordinator tries again, too.
    let registered = timeout(BOUND, async {
        loop {
            let by = Deadline::after(Duration::from_secs(2));
            if let Ok(entry) = zookeeper.register(&orders(), by).await {
                break entry;
            }
        }
    });
    let mut entry = registered.await.expect("half of the attempts succeed");
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
}

/// One server of an ensemble freezes, the others do not.
#[tokio::test]
async fn a_session_whose_server_is_frozen_is_closed_at_another() {
    let Some(ensemble) = Ensemble::start().await else {
        return;
    };
    let proxy = Proxy::start(ensemble.0.at()).await;
    let zookeeper = ensemble.at(&format!("{},{}", proxy.at, ensemble.0.at()));
    let mut raw = ensemble.raw().await;
    let mut entry = loop {
        let before = proxy.connections.load(Ordering::SeqCst);
        let mut entry = register(&zookeeper).await;
        if proxy.connections.load(Ordering::SeqCst) > before {
            break entry;
        }
        entry.deregister(soon()).await.unwrap();
    };
    has(&mut raw, "/services/orders", &["o-1"]).await;
    proxy.freeze();
    // As the coordinator does it: attempts of their own length, of which the first hears nothing.
    let short = Deadline::after(Duration::from_millis(300));
    let error = entry.deregister(short).await.unwrap_err();
    assert!(
        error.is_unknown() && error.to_string().contains("timed out after"),
        "{error}"
    );
    assert!(entry.is_listed(soon()).await.unwrap_err().is_unknown());
    assert_eq!(
        entry.heartbeat(soon()).await.unwrap(),
        Beat::Lost,
        "it is leaving"
    );
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(raw.children("/services/orders").await.unwrap(), [""; 0]);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
}

/// Carries bytes to the server until it is frozen; then it accepts, and carries nothing.
struct Proxy {
    at: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    frozen: CancellationToken,
    _task: JoinSet<()>,
}

impl Proxy {
    async fn start(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let frozen = CancellationToken::new();
        let mut task = JoinSet::new();
        let (count, is_frozen) = (connections.clone(), frozen.clone());
        task.spawn(async move {
            let mut carrying = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let is_frozen = is_frozen.clone();
                carrying.spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        biased;
                        // Held open, both of them.
                        () = is_frozen.cancelled() => std::future::pending().await,
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        });
        Self {
            at,
            connections,
            frozen,
            _task: task,
        }
    }

    fn freeze(&self) {
        self.frozen.cancel();
    }
}
