//! [`Fixture`]: what the suite has to know of a registry.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prestop::registry::{Instance, Registry};

use crate::server::Shared;
use crate::watcher::Seen;

/// A kind of registry: how its server is run, how the adapter reaches it, how to see what clients see without the
/// adapter.
pub trait Fixture: Send + Sync + 'static {
    /// What the adapter calls itself, [`Registry::name`].
    const NAME: &'static str;
    /// An expiry that the server takes as it is given, as short as that can be.
    const TTL: Duration;
    /// How many ports the server needs.
    const PORTS: usize;
    /// Ports that it takes without being told, by their distance from the first one.
    const BESIDE: &'static [i16] = &[];
    /// Whether the adapter speaks HTTP/1, so that 5xx can be answered in the server's place.
    const HTTP: bool;

    /// Whether the adapter can leave without a runtime, [`Registration::last_gasp`](prestop::registry::Registration).
    const LAST_GASP: bool = true;

    /// Where the one server is kept that the tests of a process share. Without it each test has its own, which only a
    /// server can be that starts quickly. One that is shared must end when its standard input does.
    fn shared() -> Option<&'static Shared<Self>>
    where
        Self: Sized,
    {
        None
    }

    /// The server's program, if it is there.
    fn program() -> Option<PathBuf>;

    /// How the server is started on these ports of 127.0.0.1, with everything it writes in this directory. Clients are
    /// to use the first port.
    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command;

    /// Whether it answers as a server that can be used.
    fn is_ready(at: SocketAddr) -> impl Future<Output = bool> + Send;

    /// The adapter under test, with entries that expire after `ttl`. Its visibility is zero, so that stops are short.
    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry>;

    /// Whether the server tells clients of this registration, and of no older one at the same address. At once, unless it
    /// gathers changes before it tells them.
    fn is_told(at: SocketAddr, instance: &Instance) -> impl Future<Output = bool> + Send {
        let _ = (at, instance);
        async { true }
    }

    /// Tells `seen` the addresses that clients are given for `service`: at once, and after every change, until the
    /// connection breaks; then it is called again. By long poll or watch where the server has one. An address that is
    /// listed twice is told twice.
    fn follow(
        at: SocketAddr,
        service: &str,
        seen: &Seen,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// A program on `PATH`, or in one of the directories in which `.ci/run` puts what is not packaged.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let own = ["consul/root/usr/bin", "nacos", "eureka", "dubbo"].map(|dir| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target")
            .join(dir)
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(own)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
