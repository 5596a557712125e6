//! The kubelet's hooks into the process: real processes, real sockets, real signals, everything that can go wrong.
//!
//! Processes say on standard output what state they have reached, and the tests wait for that line.
#![cfg(all(unix, not(loom), feature = "axum", feature = "cli"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod docs;
mod faults;
mod http;
mod order;
mod process;
mod scene;
mod start;
mod trust;
