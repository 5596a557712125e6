//! A service as the article's Java service should have been: it registers, heart-beats, leaves, drains, and exits.
//!
//! What the article does: `kill -SIGTERM $PID && while ps -p $PID; do sleep 1; done` as the preStop hook of a Dubbo service.
//! What goes wrong there: consumers call for as long as the registry (10, 30, 60 s of missing heartbeats) and their caches
//! list the instance; the loop needs a shell, has no bound, and asks once a second. What to watch here: start it with a
//! registry (an embedded one without the second argument), look at the list, send SIGTERM during a slow request, and
//!
//!     cargo run --example java_service -- 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/slow &
//!     kill -TERM $(pidof java_service); curl http://127.0.0.1:8080/instances
//!
//! the list is empty at once, while requests are still served for as long as a consumer may not have noticed (2 s); then
//! the slow request is answered, and the process ends with exit code 0. The report says how long each part took.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use prestop::ShutdownCoordinator;
use prestop::registry::Instance;
use prestop::registry::memory::{Listed, MemoryRegistry, MemoryRegistryClient};
use tokio::net::TcpListener;
use tokio::time::sleep;

const SERVICE: &str = "orders";
/// How long consumers may go on calling after the entry is gone: their caches.
const VISIBILITY: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args.next().as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;

    // The registry: somebody else's by its URL, or one in this process.
    let store = MemoryRegistry::new();
    let url = match args.next() {
        Some(url) => url,
        None => {
            let own = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", own.local_addr()?);
            tokio::spawn(store.clone().serve(own));
            url
        }
    };
    let registry = MemoryRegistryClient::new(&url)?
        .with_ttl(Duration::from_secs(10)) // who dies is listed for this long: heartbeats come every third of it
        .with_visibility(VISIBILITY);
    let c = ShutdownCoordinator::builder()
        .registry(registry, Instance::new(SERVICE, address))
        .on_stopped("close the pool", |_| async { /* the last thing that runs */
        })
        .build()?; // SIGTERM is caught from here on
    let app = Router::new().route("/slow", get(slow)).route(
        "/instances",
        get(async move || Json::<Vec<Listed>>(store.instances(SERVICE))),
    );
    writeln!(io::stdout(), "listening {address}, registry {url}")?;
    let report = c.serve(listener, app).await?;
    writeln!(io::stdout(), "{report}")?;
    report.exit()
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(4)).await;
    "an answer that took 4 s\n"
}
