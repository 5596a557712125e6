//! The probes on a listener of their own.

use std::collections::VecDeque;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::handle::ShutdownHandle;

use super::Probes;

/// More than any cluster asks at once; beyond it the oldest one goes, which is no prober that waits for an answer.
const CONNECTIONS: usize = 256;

/// A prober that says nothing for this long is gone.
const HEAD: Duration = Duration::from_secs(10);

/// Answers probes until it is dropped. Its connections are exempt by being counted nowhere: they are dropped with it.
pub(crate) async fn listen(listener: TcpListener, handle: ShutdownHandle) {
    let probes = Probes::new(handle);
    let mut connections = VecDeque::new();
    loop {
        let io = match listener.accept().await {
            Ok((io, _)) => io,
            Err(error) => {
                // Out of descriptors: going on at once would spin.
                tracing::warn!(%error, "probe listener: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.retain(|connection: &AbortOnDropHandle<()>| !connection.is_finished());
        if connections.len() >= CONNECTIONS {
            connections.pop_front();
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let serving =
            http.serve_connection(TokioIo::new(io), TowerToHyperService::new(probes.clone()));
        connections.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "probe connection ended");
            }
        })));
    }
}
