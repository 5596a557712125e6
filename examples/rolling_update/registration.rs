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
/// And that of their port for gRPC.
pub const GRPC_SERVICE: &str = "demo-grpc";

/// Where a replica listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// What a call to the registry may take.
const CALL: Duration = Duration::from_secs(2);

type Entry = Box<dyn prestop::registry::Registration>;

/// What a port registers with, and as what.
pub type Membership = (Box<dyn Registry>, Instance);

/// The entries of both ports.
pub struct Registration([Kept; 2]);

/// An entry and the heartbeat that keeps it alive.
struct Kept {
    leave: oneshot::Sender<()>,
    heart: JoinHandle<Entry>,
}

/// What a replica registers with, and as what: one for each port.
///
/// # Errors
///
/// When the adapter can't be made.
pub fn memberships(args: &ReplicaArgs, addresses: Addresses) -> Result<[Membership; 2], String> {
    let adapter = || {
        args.registry_kind
            .adapter(
                args.registry,
                Duration::from_millis(args.ttl_ms),
                // How old the gateway's view may be.
                Duration::from_millis(args.visibility_ms),
            )
            .map_err(|error| format!("using the registry: {error}"))
    };
    let http = Instance::new(SERVICE, addresses.http).with_id(&args.id);
    // Not every registry has ids by service.
    let grpc = Instance::new(GRPC_SERVICE, addresses.grpc).with_id(format!("{}-grpc", args.id));
    Ok([(adapter()?, http), (adapter()?, grpc)])
}

impl Registration {
    /// Registers both ports and starts the heartbeats.
    ///
    /// # Errors
    ///
    /// When the registry does not take one.
    pub async fn register(args: &ReplicaArgs, addresses: Addresses) -> Result<Self, String> {
        let [http, grpc] = memberships(args, addresses)?;
        Ok(Self([
            Kept::register(http).await?,
            Kept::register(grpc).await?,
        ]))
    }

    /// Stops the heartbeats, waits until they have stopped (one under way would bring its entry back), and removes the
    /// entries.
    ///
    /// # Errors
    ///
    /// When the registry does not answer as it should. An entry that is gone already is what was wanted.
    pub async fn leave(self) -> Result<(), String> {
        let [http, grpc] = self.0;
        let (http, grpc) = tokio::join!(http.leave(), grpc.leave());
        http.and(grpc)
    }
}

impl Kept {
    async fn register((registry, instance): Membership) -> Result<Self, String> {
        let entry = register(&*registry, &instance)
            .await
            .map_err(|error| format!("registering: {error}"))?;
        let (leave, left) = oneshot::channel();
        let heart = tokio::spawn(beat(registry, instance, entry, left));
        Ok(Self { leave, heart })
    }

    async fn leave(self) -> Result<(), String> {
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
