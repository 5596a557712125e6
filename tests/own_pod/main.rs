//! The own pod, asked by a service in a process of its own that is stopped with real signals. The API server is a
//! fixture (`fixture.rs`): one GET over TLS on a real socket, no cluster.
#![cfg(all(feature = "kubernetes", feature = "serde", unix, not(loom)))]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod child;
mod fixture;
mod stops;
mod trouble;
