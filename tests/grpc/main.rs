//! gRPC: tonic's own server on `c.incoming`, tonic's services on the own loop, and the health service.
#![cfg(all(
    feature = "axum",
    feature = "tonic",
    feature = "tonic-health",
    not(loom)
))]
#![allow(unused_must_use, reason = "not every test looks at the report")]
// What may panic in a test may in its helpers; seeds are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod echo;
mod exempt;
mod goaway;
mod health;
mod own_loop;
