//! The health service: what it says is the coordinator's readiness first, and the reporter's status second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prestop::{Phase, Readiness, ShutdownCoordinator};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving, Unknown};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;

use crate::echo::channel;
use crate::support::*;

/// Long enough that it does not end while a test looks.
const LAME_DUCK: Duration = LONG;

struct Health {
    server: Server,
    reporter: HealthReporter,
    client: HealthClient<Channel>,
}

/// `orders` serves, `mail` does not, of `later` nobody knows yet, the server as a whole (the empty name) serves.
async fn start(c: ShutdownCoordinator) -> Health {
    let reporter = HealthReporter::new();
    let set = [
        ("orders", ServingStatus::Serving),
        ("mail", ServingStatus::NotServing),
    ];
    for (service, status) in set {
        reporter.set_service_status(service, status).await;
    }
    let server = tonic::transport::Server::builder()
        .layer(c.layer())
        .add_service(c.grpc_health(reporter.clone()));
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let serving = server.serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let server = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    let client = HealthClient::new(channel(&server).await);
    Health {
        server,
        reporter,
        client,
    }
}

fn stops_slowly() -> ShutdownCoordinator {
    builder().lame_duck(LAME_DUCK).build().unwrap()
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

impl Health {
    async fn check(&self, service: &str) -> Result<i32, Code> {
        let mut client = self.client.clone();
        let answer = within("the answer", client.check(about(service))).await;
        answer
            .map(|a| a.into_inner().status)
            .map_err(|status| status.code())
    }

    async fn watch(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let mut client = self.client.clone();
        let answer = within("the answer", client.watch(about(service))).await;
        answer.unwrap().into_inner()
    }

    async fn end(self) {
        self.server.h.end_lame_duck();
        self.server.clean().await;
    }
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> i32 {
    let change = within("a change", watch.message()).await;
    change.unwrap().expect("it stays open").status
}

#[tokio::test]
async fn while_the_service_is_ready_the_reporter_says_how_it_is() {
    let health = start(stops_slowly()).await;
    assert_eq!(health.check("").await, Ok(Serving as i32));
    assert_eq!(health.check("orders").await, Ok(Serving as i32));
    assert_eq!(health.check("mail").await, Ok(NotServing as i32));
    assert_eq!(health.check("later").await, Err(Code::NotFound));
    let mut client = health.client.clone();
    let unknown = client.watch(about("later")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let mut watch = health.watch("orders").await;
    assert_eq!(next(&mut watch).await, Serving as i32);
    for status in [ServingStatus::Unknown, ServingStatus::Serving] {
        health.reporter.set_service_status("orders", status).await;
        let told = next(&mut watch).await;
        assert_eq!(told == Unknown as i32, status == ServingStatus::Unknown);
    }
    health.server.stop();
    health.end().await;
}

#[tokio::test]
async fn every_service_is_not_serving_from_the_first_moment_of_the_stop_on() {
    let mut health = start(stops_slowly()).await;
    let mut watches = [health.watch("").await, health.watch("orders").await];
    for watch in &mut watches {
        assert_eq!(next(watch).await, Serving as i32);
    }
    health.server.stop();
    for service in ["", "orders", "mail"] {
        assert_eq!(
            health.check(service).await,
            Ok(NotServing as i32),
            "{service:?}"
        );
    }
    for watch in &mut watches {
        assert_eq!(next(watch).await, NotServing as i32);
    }
    // Whoever has a clone of the reporter may try.
    for service in ["", "orders", "later"] {
        let serving = ServingStatus::Serving;
        health.reporter.set_service_status(service, serving).await;
        assert_eq!(
            health.check(service).await,
            Ok(NotServing as i32),
            "{service:?}"
        );
        let mut late = health.watch(service).await;
        assert_eq!(next(&mut late).await, NotServing as i32, "{service:?}");
    }
    assert_eq!(health.check("never").await, Err(Code::NotFound));
    for watch in &mut watches {
        let more = tokio::time::timeout(Duration::from_millis(100), watch.message()).await;
        assert!(more.is_err(), "a watch is told of changes alone: {more:?}");
    }
    health.reporter.clear_service_status("orders").await;
    assert_eq!(health.check("orders").await, Err(Code::NotFound));
    health.end().await;
}

/// `KeepServing` is for who asks the kubelet, and for this probe, too.
#[tokio::test]
async fn with_keep_serving_it_serves_until_the_drain() {
    let c = builder()
        .lame_duck(LAME_DUCK)
        .readiness(Readiness::KeepServing)
        .build();
    let health = start(c.unwrap()).await;
    let mut watch = health.watch("orders").await;
    assert_eq!(next(&mut watch).await, Serving as i32);
    let busy = health.server.h.guard("busy").unwrap();
    health.server.stop_to(Phase::LameDuck).await;
    assert_eq!(health.check("orders").await, Ok(Serving as i32));
    health.server.h.end_lame_duck();
    within("the drain", health.server.h.wait_for(Phase::Draining)).await;
    assert_eq!(next(&mut watch).await, NotServing as i32);
    drop(busy);
    health.end().await;
}

#[tokio::test]
async fn nothing_serves_before_everything_has_started() {
    let (start_it, started) = tokio::sync::oneshot::channel::<()>();
    let c = builder()
        .on_started("waits for the test", |_| started)
        .build()
        .unwrap();
    let reporter = HealthReporter::new();
    let server = tonic::transport::Server::builder().add_service(c.grpc_health(reporter));
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let serving = server.serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let run = tokio::spawn(async { c.run(serving).await.unwrap() });
    let endpoint = tonic::transport::Endpoint::new(format!("http://{addr}")).unwrap();
    let mut client = HealthClient::new(within("connect", endpoint.connect()).await.unwrap());
    let answer = client.check(about("")).await.unwrap();
    assert_eq!(answer.into_inner().status, NotServing as i32);
    let mut watch = client.watch(about("")).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, NotServing as i32);
    start_it.send(()).unwrap();
    assert_eq!(next(&mut watch).await, Serving as i32);
    drop((watch, client));
    h.trigger(prestop::Reason::requested("test"));
    within("the report", run).await.unwrap();
}

/// Four clones of the reporter set, add and clear services at random around the moment of the stop; nobody who asks
/// after it is told that anything serves, and no watch goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reporter_can_take_the_stop_back() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..8 {
        let health = start(stops_slowly()).await;
        let over = Arc::new(AtomicBool::new(false));
        let mut flipping = Vec::new();
        for _ in 0..4 {
            let mut random = random.fork();
            let (mut reporter, over) = (health.reporter.clone(), over.clone());
            flipping.push(tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let name = ["", "orders", "later", "mail"][random.usize(..4)];
                    let to = match random.u32(..8) {
                        0 => None,
                        1 => Some(ServingStatus::NotServing),
                        _ => Some(ServingStatus::Serving),
                    };
                    match to {
                        None if name.is_empty() => {}
                        None => reporter.clear_service_status(name).await,
                        Some(status) => reporter.set_service_status(name, status).await,
                    }
                    tokio::task::yield_now().await;
                }
            }));
        }
        let mut watch = health.watch("").await;
        next(&mut watch).await;
        let (asked, before) = (health.client.clone(), random.u64(..3));
        tokio::time::sleep(Duration::from_millis(before)).await;
        health.server.stop();
        // From here on nobody is told that it serves.
        for _ in 0..50 {
            let name = ["", "orders", "later", "mail"][random.usize(..4)];
            if let Ok(answer) = asked.clone().check(about(name)).await {
                assert_eq!(
                    answer.into_inner().status,
                    NotServing as i32,
                    "{name:?}, round {round}"
                );
            }
            if let Ok(watch) = asked.clone().watch(about(name)).await {
                let first = next(&mut watch.into_inner()).await;
                assert_eq!(first, NotServing as i32, "{name:?}, round {round}");
            }
        }
        // What was under way before may still come, then one NOT_SERVING, then nothing.
        let mut told = Vec::new();
        while let Ok(change) =
            tokio::time::timeout(Duration::from_millis(50), watch.message()).await
        {
            told.push(change.unwrap().expect("it stays open").status);
        }
        if let Some((last, before)) = told.split_last() {
            assert_eq!(*last, NotServing as i32, "{told:?}, round {round}");
            assert!(
                before.windows(2).all(|w| w[0] != w[1]),
                "{told:?}, round {round}"
            );
        }
        over.store(true, Ordering::SeqCst);
        for task in flipping {
            task.await.unwrap();
        }
        drop((watch, asked));
        health.end().await;
    }
}
