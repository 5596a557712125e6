//! [`Site`]: what a test has of a registry, a server and the way to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prestop::registry::{Instance, Registry};

use crate::child::Process;
use crate::contract::{SERVICE, address};
use crate::fixture::Fixture;
use crate::proxy::{Proxy, Trouble};
use crate::server::Server;
use crate::watcher::Watcher;

/// A server of its own, or the one that all tests of this process share. What happens to a shared one is then what
/// happens on the way to it: a service cannot tell the two apart, and no other test feels it.
pub struct Site<F: Fixture> {
    server: Place<F>,
    service: String,
}

enum Place<F: Fixture> {
    Own(Server<F>),
    Shared(&'static Server<F>, Proxy),
}

impl<F: Fixture> Site<F> {
    /// One that is up; `None` (said aloud) when the server's program is not there.
    pub async fn start() -> Option<Self> {
        let mut site = Self::prepare().await?;
        match &mut site.server {
            Place::Own(server) => *server = Server::start().await?,
            Place::Shared(_, way) => way.up(),
        }
        Some(site)
    }

    /// One that is yet to come up.
    pub async fn prepare() -> Option<Self> {
        static SITES: AtomicUsize = AtomicUsize::new(0);
        let Some(shared) = F::shared() else {
            return Some(Self {
                server: Place::Own(Server::prepare()?),
                service: SERVICE.to_owned(),
            });
        };
        let server = shared.server().await?;
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            server: Place::Shared(server, Proxy::prepare(server.at())),
            service: format!("{SERVICE}-{number}"),
        })
    }

    /// Where the service under test reaches the registry.
    pub fn at(&self) -> SocketAddr {
        match &self.server {
            Place::Own(server) => server.at(),
            Place::Shared(_, way) => way.at,
        }
    }

    /// Where everybody else does, also while the test's own way is cut.
    pub fn server_at(&self) -> SocketAddr {
        match &self.server {
            Place::Own(server) => server.at(),
            Place::Shared(server, _) => server.at(),
        }
    }

    /// A name that is this test's alone.
    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn instance(&self, port: u16) -> Instance {
        Instance::new(self.service(), address(port))
    }

    pub fn registry(&self, ttl: Duration) -> Box<dyn Registry> {
        F::registry(self.at(), ttl)
    }

    pub async fn watch(&self) -> Watcher {
        Watcher::start::<F>(self.server_at(), self.service()).await
    }

    /// A service in a process of its own, at this port.
    pub fn process(&self, module: &str, ttl: Duration, port: u16, scene: &str) -> Process {
        let address = address(port);
        Process::start(module, self.at(), ttl, self.service(), address, scene)
    }

    /// It comes up, for the first time or again.
    pub async fn up(&mut self) {
        match &mut self.server {
            Place::Own(server) => server.up().await,
            Place::Shared(_, way) => way.up(),
        }
    }

    /// It dies. Whether what it knew is lost says [`forgets`](Self::forgets).
    pub async fn kill(&mut self) {
        match &mut self.server {
            Place::Own(server) => server.kill(),
            Place::Shared(_, way) => way.down().await,
        }
    }

    /// Whether it comes back without the instances that it had.
    pub fn forgets(&self) -> bool {
        matches!(self.server, Place::Own(_))
    }

    /// It accepts connections and answers nothing.
    pub fn freeze(&self) {
        match &self.server {
            Place::Own(server) => server.freeze(),
            Place::Shared(_, way) => way.make(Trouble::Frozen),
        }
    }

    /// It goes on, with what it was sent meanwhile.
    pub fn thaw(&self) {
        match &self.server {
            Place::Own(server) => server.thaw(),
            Place::Shared(_, way) => way.make(Trouble::None),
        }
    }
}

impl<F: Fixture> Drop for Site<F> {
    fn drop(&mut self) {
        // One of its own says it by itself.
        if let (true, Place::Shared(server, _)) = (std::thread::panicking(), &self.server) {
            server.say_log();
        }
    }
}
