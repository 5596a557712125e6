//! A replica's entry in the registry, for the replicas that keep it by hand.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::call::call;
use crate::cli::ReplicaArgs;

/// The name all replicas register under.
pub const SERVICE: &str = "demo";
/// And that of their port for gRPC.
pub const GRPC_SERVICE: &str = "demo-grpc";

/// Where a replica listens.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// The entries of both ports, and the heartbeats that keep them alive.
pub struct Registration(Vec<(Entry, JoinHandle<()>)>);

#[derive(Clone)]
struct Entry {
    registry: SocketAddr,
    path: String,
    address: SocketAddr,
    ttl_ms: u64,
}

impl Registration {
    /// Registers both addresses and starts the heartbeats, three to a TTL.
    ///
    /// # Errors
    ///
    /// When the registry does not take one.
    pub async fn register(args: &ReplicaArgs, addresses: Addresses) -> Result<Self, String> {
        let mut entries = Vec::new();
        for (service, address) in [(GRPC_SERVICE, addresses.grpc), (SERVICE, addresses.http)] {
            let entry = Entry {
                registry: args.registry,
                path: format!("/v1/services/{service}/instances/{}", args.id),
                address,
                ttl_ms: args.ttl_ms,
            };
            entry.put().await?;
            let heart = tokio::spawn(beat(entry.clone()));
            entries.push((entry, heart));
        }
        Ok(Self(entries))
    }

    /// Stops the heartbeats, waits until they have stopped (one under way would bring the entry back), and removes the
    /// entries.
    ///
    /// # Errors
    ///
    /// When the registry does not answer as it should. An entry that is gone already is what was wanted.
    pub async fn leave(self) -> Result<(), String> {
        for (entry, heart) in self.0 {
            heart.abort();
            // The error is the abort itself.
            let _ = heart.await;
            entry.delete().await?;
        }
        Ok(())
    }
}

impl Entry {
    async fn delete(&self) -> Result<(), String> {
        let status = call(Method::DELETE, self.registry, &self.path, String::new()).await?;
        match status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            other => Err(format!("DELETE {}: {other}", self.path)),
        }
    }

    async fn put(&self) -> Result<(), String> {
        let path = format!("{}?ttl_ms={}", self.path, self.ttl_ms);
        let body = format!(r#"{{"address":"{}","metadata":{{}}}}"#, self.address);
        match call(Method::PUT, self.registry, &path, body).await? {
            StatusCode::NO_CONTENT => Ok(()),
            other => Err(format!("PUT {path}: {other}")),
        }
    }
}

async fn beat(entry: Entry) {
    let path = format!("{}/heartbeat", entry.path);
    loop {
        sleep(Duration::from_millis(entry.ttl_ms / 3)).await;
        // A beat that fails is made up for by the next one; an entry that was lost is made anew.
        let beaten = call(Method::PUT, entry.registry, &path, String::new()).await;
        if beaten == Ok(StatusCode::NOT_FOUND) {
            let _ = entry.put().await;
        }
    }
}
