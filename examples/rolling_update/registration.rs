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

/// An entry and the heartbeat that keeps it alive.
pub struct Registration {
    entry: Entry,
    heart: JoinHandle<()>,
}

#[derive(Clone)]
struct Entry {
    registry: SocketAddr,
    path: String,
    address: SocketAddr,
    ttl_ms: u64,
}

impl Registration {
    /// Registers `address` and starts the heartbeat, three to a TTL.
    ///
    /// # Errors
    ///
    /// When the registry does not take it.
    pub async fn register(args: &ReplicaArgs, address: SocketAddr) -> Result<Self, String> {
        let entry = Entry {
            registry: args.registry,
            path: format!("/v1/services/{SERVICE}/instances/{}", args.id),
            address,
            ttl_ms: args.ttl_ms,
        };
        entry.put().await?;
        let heart = tokio::spawn(beat(entry.clone()));
        Ok(Self { entry, heart })
    }

    /// Stops the heartbeat, waits until it has stopped (one under way would bring the entry back), and removes the
    /// entry.
    ///
    /// # Errors
    ///
    /// When the registry does not answer as it should. An entry that is gone already is what was wanted.
    pub async fn leave(self) -> Result<(), String> {
        self.heart.abort();
        // The error is the abort itself.
        let _ = self.heart.await;
        let entry = &self.entry;
        let status = call(Method::DELETE, entry.registry, &entry.path, String::new()).await?;
        match status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            other => Err(format!("DELETE {}: {other}", entry.path)),
        }
    }
}

impl Entry {
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
