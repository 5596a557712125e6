//! The long prose, as rustdoc, so that every snippet in it is compiled.

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("connections.md")]
pub mod connections {}

#[doc = include_str!("gateways.md")]
pub mod gateways {}

#[doc = include_str!("grpc.md")]
pub mod grpc {}

#[doc = include_str!("kubernetes.md")]
pub mod kubernetes {}

#[cfg(all(feature = "kubelet", unix))]
#[doc = include_str!("kubelet.md")]
pub mod kubelet {}

#[doc = include_str!("tls.md")]
pub mod tls {}

#[doc = include_str!("registries.md")]
pub mod registries {}

// Without the features its links and snippets have nothing to point at.
#[cfg(all(feature = "hook", unix))]
#[doc = include_str!("hooks.md")]
pub mod hooks {}

// Its snippets call the check.
#[cfg_attr(feature = "check", doc = include_str!("check.md"))]
#[cfg_attr(not(feature = "check"), doc = "Shown with the feature `check`.")]
pub mod check {}

#[doc = include_str!("process.md")]
pub mod process {}

// Its programs are for axum.
#[cfg_attr(feature = "websocket", doc = include_str!("streams.md"))]
#[cfg_attr(
    not(feature = "websocket"),
    doc = "Shown with the feature `websocket`."
)]
pub mod streams {}
