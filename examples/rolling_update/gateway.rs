//! The gateway: a layer 4 load balancer as kube-proxy is one.
//!
//! It knows no HTTP and retries nothing. Its view of the service is the registry's as it was a moment ago, by the rules of
//! `prestop::kubelet::Service`, and a connection stays on the replica it was given, whatever the view says later (conntrack).

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prestop::kubelet::{Endpoint, Service};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::splice::{reset, splice};

/// Age of the view: an endpoint controller and kube-proxy need about that long to pass a change on.
pub const LAG: Duration = Duration::from_secs(1);
/// How often the registry is read.
const REFRESH: Duration = Duration::from_millis(25);
/// By how much the view may be older than `LAG`. No more, even when a busy machine keeps the registry from being read:
/// the replicas rely on it, and a request sent to one that was right to be gone would be lost by the gateway's fault.
const JITTER: Duration = Duration::from_millis(50);
/// Time between choosing a replica and dialling it, generous for a busy machine.
const SLACK: Duration = Duration::from_millis(200);
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Who is in the registry now.
pub type Listed = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// The bound port. It outlives the strategies, each of which has a registry of its own.
pub struct Gateway {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    delay: Duration,
}

impl Gateway {
    /// Binds the gateway's port.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub async fn bind(port: u16, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener: Arc::new(listener),
            delay,
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long a replica may still be called after it has left the registry.
    pub fn visibility(&self) -> Duration {
        LAG + JITTER + SLACK + self.delay
    }

    /// Forwards to the instances in the registry until the route is dropped, which cuts what is still connected.
    pub fn route(&self, listed: Listed) -> Route {
        let view = View {
            source: listed,
            // It applies every change, each as late.
            service: Service::new()
                .slice_lag(LAG)
                .min_sync_period(Duration::ZERO),
            read: Arc::default(),
        };
        let refused = Refused::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(view.clone()));
        tasks.spawn(accept(
            Arc::clone(&self.listener),
            view.clone(),
            refused.clone(),
            self.delay,
        ));
        Route {
            view,
            refused,
            _tasks: tasks,
        }
    }
}

/// A gateway at work for one service.
pub struct Route {
    view: View,
    refused: Refused,
    _tasks: JoinSet<()>,
}

impl Route {
    /// Whether new connections may go to the instance at `address` by now.
    pub fn sees(&self, address: SocketAddr) -> bool {
        self.view.now().contains(&address)
    }

    pub fn refused(&self) -> Refused {
        self.refused.clone()
    }
}

/// Clients whose dial was refused behind the gateway, by their own address.
///
/// kube-proxy would let them see `ECONNREFUSED`. Here the gateway has accepted before it dials, so the client sees a
/// reset, and asks this list what it was.
#[derive(Clone, Default)]
pub struct Refused(Arc<Mutex<HashSet<SocketAddr>>>);

impl Refused {
    pub fn contains(&self, client: SocketAddr) -> bool {
        self.lock().contains(&client)
    }

    fn add(&self, client: SocketAddr) {
        self.lock().insert(client);
    }

    /// A port is used again sooner or later; the new connection starts without the mark of the old one.
    fn forget(&self, client: SocketAddr) {
        self.lock().remove(&client);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The instances a new connection may be given: the registry's, `LAG` ago.
#[derive(Clone)]
struct View {
    source: Listed,
    service: Service,
    /// When the registry was last read.
    read: Arc<Mutex<Option<Instant>>>,
}

impl View {
    fn now(&self) -> Vec<SocketAddr> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if read.is_none_or(|last| now - last >= REFRESH) {
            // What is new may have been so since the last reading.
            let since = read.map_or(now, |last| now.min(last + JITTER));
            let listed = (self.source)();
            let listed = listed.iter().map(|it| (it.to_string(), Endpoint::READY));
            self.service.replace(since, listed);
            *read = Some(now);
        }
        let routes = self.service.routes();
        routes.iter().filter_map(|it| it.parse().ok()).collect()
    }
}

/// Reads the registry regularly, also while nobody connects.
async fn follow(view: View) {
    let mut tick = interval(REFRESH);
    loop {
        tick.tick().await;
        view.now();
    }
}

async fn accept(listener: Arc<TcpListener>, view: View, refused: Refused, delay: Duration) {
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        let Ok((client, peer)) = listener.accept().await else {
            // Out of file descriptors, or the client left before it was accepted: neither is the end.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        refused.forget(peer);
        // The choice is made as the SYN passes, even when it needs its time to arrive.
        let chosen = {
            let view = view.now();
            turn = turn.wrapping_add(1);
            view.get(turn % view.len().max(1)).copied()
        };
        connections.spawn(forward(client, peer, chosen, refused.clone(), delay));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(
    client: TcpStream,
    peer: SocketAddr,
    chosen: Option<SocketAddr>,
    refused: Refused,
    delay: Duration,
) {
    // The SYN travels there, its answer back; only then can the client's first byte leave.
    pause(delay).await;
    let dialled = match chosen {
        Some(address) => dial(address).await,
        None => Err(io::ErrorKind::ConnectionRefused.into()),
    };
    pause(delay).await;
    match dialled {
        Ok(server) => {
            // Nagle's algorithm would add delays that a router does not add.
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            splice(client, server, delay).await;
        }
        Err(_) => {
            refused.add(peer);
            reset(client);
        }
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let server = timeout(DIAL_LIMIT, TcpStream::connect(address)).await??;
    // A dial to a free ephemeral port may be given that very port as its source, and then connects to itself.
    if server.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(server)
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}
