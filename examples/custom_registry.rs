//! A registry of one's own: a directory that clients read, with a file per instance. 60 lines make the adapter.
//!
//! Run: `cargo run --example custom_registry -- /tmp/registry`, look with `ls -l /tmp/registry/hello`, stop with Ctrl-C.
//! You will see a file that holds the instance's address, is touched every 5 seconds, and is gone the moment the stop
//! begins.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::{Router, routing::get};
use prestop::registry::{Beat, Gone, Instance, LastGasp, Registration, Registry, RegistryError};
use prestop::{Deadline, ShutdownCoordinator};
use tokio::fs;
use tokio::net::TcpListener;

// ---- the adapter

/// Clients take a file that was not touched for this long for that of a dead process.
const TTL: Duration = Duration::from_secs(15);

struct Directory(PathBuf);

struct Entry(PathBuf);

/// An error says what was tried, on what, and what came back. Where it is not known whether the registry heard it, it is
/// `RegistryError::unknown`; a call that is not done by its deadline is dropped, and counts as that, too.
fn failed(what: &str, path: &std::path::Path, error: std::io::Error) -> RegistryError {
    RegistryError::new(format!("{what} {}", path.display())).with_source(error)
}

#[async_trait::async_trait]
impl Registry for Directory {
    fn name(&self) -> &str {
        "directory"
    }

    /// Clients read the directory once a second.
    fn visibility(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn register(
        &self,
        instance: &Instance,
        _: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let service = self.0.join(instance.service());
        let made = fs::create_dir_all(&service).await;
        made.map_err(|error| failed("creating", &service, error))?;
        // The id differs from start to start, so that nobody removes the file of his successor.
        let entry = Entry(service.join(instance.id()));
        let written = fs::write(&entry.0, instance.address().to_string()).await;
        written.map_err(|error| failed("writing", &entry.0, error))?;
        Ok(Box::new(entry))
    }
}

#[async_trait::async_trait]
impl Registration for Entry {
    /// Never brings back what is not there.
    async fn heartbeat(&mut self, _: Deadline) -> Result<Beat, RegistryError> {
        let touched = std::fs::File::options().append(true).open(&self.0);
        match touched.and_then(|file| file.set_modified(SystemTime::now())) {
            Ok(()) => Ok(Beat::Alive {
                next: TTL / 3,
                listed_for: TTL,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Beat::Lost),
            Err(error) => Err(failed("touching", &self.0, error)),
        }
    }

    async fn deregister(&mut self, _: Deadline) -> Result<Gone, RegistryError> {
        match fs::remove_file(&self.0).await {
            Ok(()) => Ok(Gone::Removed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Gone::AlreadyGone),
            Err(error) => Err(failed("removing", &self.0, error)),
        }
    }

    // The rest is optional.

    /// Reads the removal back.
    async fn is_listed(&mut self, _: Deadline) -> Result<Option<bool>, RegistryError> {
        let exists = fs::try_exists(&self.0).await;
        exists
            .map(Some)
            .map_err(|error| failed("looking for", &self.0, error))
    }

    /// When nothing else runs any more: a panic, the watchdog.
    fn last_gasp(&self) -> Option<LastGasp> {
        let file = self.0.clone();
        Some(LastGasp::new(move |_| drop(std::fs::remove_file(file))))
    }
}

// ---- a service that uses it

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let directory = args.next().ok_or("usage: custom_registry DIRECTORY")?;
    let mut c = ShutdownCoordinator::builder().build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    c.registry(Directory(directory.into()), Instance::new("hello", address))?;
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    c.serve(listener, app).await?.exit()
}
