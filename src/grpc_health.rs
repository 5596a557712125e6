//! [`GrpcHealth`]: `grpc.health.v1.Health` with the coordinator's readiness above every status.

use std::fmt;
use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use crate::handle::ShutdownHandle;
use crate::state::Signal;

/// The gRPC health service of a coordinator, from [`ShutdownCoordinator::grpc_health`](crate::ShutdownCoordinator::grpc_health).
///
/// Every service it knows is `NOT_SERVING` while the coordinator is not ready: until `Ready`, and from the first moment
/// of the stop on (with [`Readiness::KeepServing`](crate::Readiness::KeepServing) from the drain on), like `/readyz`. In
/// between it is what the `HealthReporter` says.
///
/// A `HealthReporter` alone cannot promise that: each of its clones can set a service, or add one, that is `SERVING`
/// again. Here the answer is made from both at the moment it is given, and the reporter is asked for nothing but what it
/// may know better: names it has never heard of are `NOT_FOUND`, as `tonic-health` answers them.
///
/// A `Watch` hears of a change at once, of each once, and stays open until it is cut: it is
/// [exempt](crate::_docs::grpc#what-never-delays-a-stop) and delays no stop.
pub struct GrpcHealth {
    statuses: HealthService,
    handle: ShutdownHandle,
}

impl GrpcHealth {
    pub(crate) fn server(handle: ShutdownHandle, reporter: HealthReporter) -> HealthServer<Self> {
        HealthServer::new(Self {
            statuses: HealthService::from_health_reporter(reporter),
            handle,
        })
    }
}

impl fmt::Debug for GrpcHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcHealth")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

/// What a client is told of a service with this status.
fn effective(handle: &ShutdownHandle, status: i32) -> i32 {
    let state = handle.state();
    // The latch itself, not a copy in some task: nobody can hear of the stop before this does (S2).
    if state.settings.readiness.passes(state.phase()) {
        status
    } else {
        tonic_health::pb::health_check_response::ServingStatus::from(ServingStatus::NotServing)
            as i32
    }
}

#[tonic::async_trait]
impl Health for GrpcHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let mut answer = self.statuses.check(request).await?;
        let status = &mut answer.get_mut().status;
        *status = effective(&self.handle, *status);
        Ok(answer)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watch = Watch {
            statuses: self.statuses.watch(request).await?.into_inner(),
            signal: self.handle.state().subscribe(),
            handle: self.handle.clone(),
            latest: None,
            told: None,
        };
        let changes = stream::unfold(watch, |mut watch| async {
            watch.next().await.map(|change| (change, watch))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// One client that watches one service.
struct Watch<S> {
    statuses: S,
    signal: watch::Receiver<Signal>,
    /// Keeps the sender of the signal.
    handle: ShutdownHandle,
    /// What the reporter said last.
    latest: Option<i32>,
    /// What the client was told last.
    told: Option<i32>,
}

impl<S> Watch<S>
where
    S: Stream<Item = Result<HealthCheckResponse, Status>> + Unpin,
{
    /// The next change; `None` once the service was taken out of the reporter.
    async fn next(&mut self) -> Option<Result<HealthCheckResponse, Status>> {
        loop {
            self.signal.mark_unchanged();
            if let Some(latest) = self.latest {
                let status = effective(&self.handle, latest);
                if self.told.replace(status) != Some(status) {
                    return Some(Ok(HealthCheckResponse { status }));
                }
            }
            tokio::select! {
                biased;
                // The sender lives as long as the handle.
                _ = self.signal.changed() => {}
                said = self.statuses.next() => match said? {
                    Ok(said) => self.latest = Some(said.status),
                    Err(status) => return Some(Err(status)),
                },
            }
        }
    }
}
