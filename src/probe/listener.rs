//! The probes on a listener of their own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use crate::handle::ShutdownHandle;

use super::Probes;
#[cfg(feature = "hook")]
use super::{hook_route::Routes, token::HookToken};

/// More than any cluster asks at once; beyond it the oldest one goes, which is no prober that waits for an answer.
const CONNECTIONS: usize = 256;

/// A prober that says nothing for this long is gone.
const HEAD: Duration = Duration::from_secs(10);

/// Answers probes until it is dropped. Its connections are exempt by being counted nowhere: they are dropped with it.
pub(crate) async fn listen(listener: TcpListener, handle: ShutdownHandle) {
    serve(listener, Probes::new(handle)).await;
}

/// The same, and the preStop hook for who gives the token.
#[cfg(feature = "hook")]
pub(crate) async fn listen_with_hook(
    listener: TcpListener,
    token: HookToken,
    handle: ShutdownHandle,
) {
    serve(
        listener,
        Routes::new(Probes::new(handle.clone()), handle, token),
    )
    .await;
}

async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
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
            http.serve_connection(TokioIo::new(io), TowerToHyperService::new(service.clone()));
        connections.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "probe connection ended");
            }
        })));
    }
}
