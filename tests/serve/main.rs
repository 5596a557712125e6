//! The own accept loop, over real sockets.
#![cfg(all(feature = "axum", not(loom)))]
#![allow(unused_must_use, reason = "not every test looks at the report")]
// What may panic in a test may in its helpers; seeds are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod cut;
mod exempt;
mod http1;
mod http2;
mod listener;
mod slow_heads;
mod stress;
mod tls;
