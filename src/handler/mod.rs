//! What handlers call, each in its framework's types: extractor and helpers that end a stream when it is told.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "websocket")]
mod websocket;

#[cfg(feature = "axum")]
pub use self::axum::NoStopSignal;
#[cfg(feature = "websocket")]
pub use websocket::DrainWebSocket;
