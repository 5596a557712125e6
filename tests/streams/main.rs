//! Streams through a stop, to the byte: server-sent events, WebSockets, gRPC; late requests; deadlines handed on.
#![cfg(all(feature = "websocket", feature = "tonic", not(loom)))]
#![allow(unused_must_use, reason = "not every test looks at the report")]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod deadlines;
mod events;
mod grpc;
mod late;
mod rotation;
mod signal;
mod websocket;

use axum::Router;
use prestop::ShutdownCoordinator;

use support::*;

/// The servers on which everything here is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// `serve`.
    Own,
    /// Stock `axum::serve` on the coordinator's listener, with its layer.
    Stock,
}

const PATHS: [Path; 2] = [Path::Own, Path::Stock];

impl Path {
    async fn serve(self, c: ShutdownCoordinator, app: Router) -> Server {
        match self {
            Self::Own => Server::start(c, app).await,
            Self::Stock => {
                let listener = local().await;
                let (h, addr) = (c.handle(), listener.local_addr().unwrap());
                let app = app.layer(c.layer());
                let web =
                    axum::serve(c.listener(listener), app).with_graceful_shutdown(h.draining());
                Server::running(h, addr, async { c.run(web.into_future()).await.unwrap() }).await
            }
        }
    }
}
