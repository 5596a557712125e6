//! A replica's entry in the registry, for the replicas that keep it by hand.

use std::net::SocketAddr;
use std::time::Duration;

use prestop::Deadline;
use prestop::registry::{Beat, Instance, Registry, RegistryError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cli::ReplicaArgs;

/// The name all replicas register under.
pub const SERVICE: &str = "demo";

/// What a call to the registry may take.
const CALL: Duration = Duration::from_secs(2);

type Entry = Box<dyn prestop::registry::Registration>;

/// An entry and the heartbeat that keeps it alive.
pub struct Registration {
    leave: oneshot::Sender<()>,
    heart: JoinHandle<Entry>,
}

/// What a replica registers with, and as what.
///
/// # Errors
///
/// When the adapter can't be made.
pub fn membership(
    args: &ReplicaArgs,
    address: SocketAddr,
) -> Result<(Box<dyn Registry>, Instance), String> {
    let registry = args
        .registry_kind
        .adapter(
            args.registry,
            Duration::from_millis(args.ttl_ms),
            // How old the gateway's view may be.
            Duration::from_millis(args.visibility_ms),
        )
        .map_err(|error| format!("using the registry: {error}"))?;
    let instance = Instance::new(SERVICE, address).with_id(&args.id);
    Ok((registry, instance))
}

impl Registration {
    /// Registers `address` and starts the heartbeat.
    ///
    /// # Errors
    ///
    /// When the registry does not take it.
    pub async fn register(args: &ReplicaArgs, address: SocketAddr) -> Result<Self, String> {
        let (registry, instance) = membership(args, address)?;
        let entry = register(&*registry, &instance)
            .await
            .map_err(|error| format!("registering: {error}"))?;
        let (leave, left) = oneshot::channel();
        let heart = tokio::spawn(beat(registry, instance, entry, left));
        Ok(Self { leave, heart })
    }

    /// Stops the heartbeat, waits until it has stopped (one under way would bring the entry back), and removes the
    /// entry.
    ///
    /// # Errors
    ///
    /// When the registry does not answer as it should. An entry that is gone already is what was wanted.
    pub async fn leave(self) -> Result<(), String> {
        // It ends only for this.
        let _ = self.leave.send(());
        let mut entry = self
            .heart
            .await
            .map_err(|error| format!("stopping the heartbeat: {error}"))?;
        let left = entry.deregister(Deadline::after(CALL)).await;
        left.map(|_| ())
            .map_err(|error| format!("leaving: {error}"))
    }
}

async fn register(registry: &dyn Registry, instance: &Instance) -> Result<Entry, RegistryError> {
    registry.register(instance, Deadline::after(CALL)).await
}

async fn beat(
    registry: Box<dyn Registry>,
    instance: Instance,
    mut entry: Entry,
    mut left: oneshot::Receiver<()>,
) -> Entry {
    loop {
        let wait = match entry.heartbeat(Deadline::after(CALL)).await {
            Ok(Beat::Alive { next, .. }) => next,
            Ok(Beat::Lost) => {
                if let Ok(again) = register(&*registry, &instance).await {
                    entry = again;
                }
                Duration::from_millis(200)
            }
            // Made up for by the next one.
            Err(_) => Duration::from_millis(200),
        };
        tokio::select! {
            _ = &mut left => return entry,
            () = sleep(wait) => {}
        }
    }
}
