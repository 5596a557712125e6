//! The gRPC side: a service, and the health service that clients with client-side health checking watch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prestop::{Phase, ShutdownHandle};
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::Done;
use crate::orders::orders_server::{Orders, OrdersServer};
use crate::orders::{Order, Receipt};

struct Desk(Arc<Done>);

#[tonic::async_trait]
impl Orders for Desk {
    /// An order that was begun is finished, however late in the stop.
    async fn place(&self, order: Request<Order>) -> Result<Response<Receipt>, Status> {
        let work = Duration::from_millis(order.get_ref().work_ms.min(20_000).into());
        sleep(work).await;
        let number = self.0.grpc.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Response::new(Receipt { number }))
    }
}

pub(crate) fn orders(done: Arc<Done>) -> OrdersServer<impl Orders> {
    OrdersServer::new(Desk(done))
}

/// The names that clients may ask for: the server as a whole, and the service.
const NAMES: [&str; 2] = ["", "orders.v1.Orders"];

/// The health service, not serving from the first moment of the stop on. A watch is a stream that never ends by itself
/// and would hold the drain open until it is cut, so it is ended when the drain begins.
pub(crate) async fn health(h: ShutdownHandle) -> HealthServer<impl Health> {
    let (mut reporter, service) = tonic_health::server::health_reporter();
    for name in NAMES {
        reporter
            .set_service_status(name, ServingStatus::NotServing)
            .await;
    }
    let phases = async move {
        for (phase, status) in [
            (Phase::Ready, Some(ServingStatus::Serving)),
            (Phase::PreStop, Some(ServingStatus::NotServing)),
            (Phase::Draining, None),
        ] {
            h.wait_for(phase).await;
            for name in NAMES {
                match status {
                    Some(status) => reporter.set_service_status(name, status).await,
                    None => reporter.clear_service_status(name).await,
                }
            }
        }
    };
    tokio::spawn(phases);
    service
}
