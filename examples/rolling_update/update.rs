//! One strategy: the rolling update under load, from the first replica to the last answer.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cli::Strategy;
use crate::client::{Target, Targets};
use crate::fleet::{Fleet, Name, Stop, Surroundings, TTL};
use crate::gateway::{Gateway, LAG, Route};
use crate::load::Load;
use crate::mix::Kind;
use crate::progress::{Progress, counts};
use crate::registration::{GRPC_SERVICE, SERVICE};
use crate::tally::Row;
use prestop::registry::memory::MemoryRegistry;

/// The load runs that long before the first replica is replaced.
const BEFORE: Duration = Duration::from_secs(2);
/// Mostly idle clients need longer until all have a connection again, and the next stop waits for that.
const SETTLED: Duration = Duration::from_secs(6);
/// And that long after the last one, when all of them leave the registry. Otherwise until the last entry is gone.
const AFTER: Duration = Duration::from_secs(3);
const VIEW_LIMIT: Duration = Duration::from_secs(10);

/// Requests that leave so much later than they should say more about the machine than about the replicas.
const TOO_LATE: Duration = Duration::from_millis(500);

/// What does not change from strategy to strategy.
pub struct Plan {
    pub replicas: u16,
    pub rate: u32,
    /// Mostly idle clients in place of the mix.
    pub idle: Option<u32>,
    pub stops: u16,
    pub linger_ms: Option<u64>,
    pub load: Duration,
    pub seed: u64,
}

/// The gateway's two ports.
pub struct Gateways {
    pub http: Gateway,
    pub grpc: Gateway,
}

/// What came of it.
pub struct Outcome {
    pub strategy: Strategy,
    pub rows: Vec<Row>,
    pub stops: Vec<Stop>,
}

/// Runs one strategy. The replicas are in `fleet` all the time, so that they can be ended when this is dropped.
///
/// # Errors
///
/// When the run could not be made as planned; lost requests are an outcome.
pub async fn rolling_update(
    strategy: Strategy,
    plan: &Plan,
    gateways: &Gateways,
    fleet: &mut Fleet,
) -> Result<Outcome, String> {
    let progress = Progress::new();
    let registry = MemoryRegistry::new();
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| format!("binding the registry's port on 127.0.0.1: {error}"))?;
    let registry_address = listener
        .local_addr()
        .map_err(|error| format!("asking for the registry's port: {error}"))?;
    let mut serving = JoinSet::new();
    serving.spawn(registry.clone().serve(listener));
    let routes = [
        gateways.http.route(registry.clone(), SERVICE),
        gateways.grpc.route(registry, GRPC_SERVICE),
    ];
    let target = |gateway: &Gateway, route: &Route| Target {
        gateway: gateway.address(),
        refused: route.refused(),
    };
    let targets = Targets {
        http: target(&gateways.http, &routes[0]),
        grpc: target(&gateways.grpc, &routes[1]),
    };

    let around = Surroundings {
        strategy,
        registry: registry_address,
        visibility: gateways.http.visibility(),
        linger_ms: plan.linger_ms,
    };
    let mut first = Vec::new();
    for _ in 0..plan.replicas {
        first.push(fleet.start(around).await?);
    }
    for name in &first {
        in_view(&routes, name).await?;
    }
    progress.event("all replicas serve, the load starts");

    let (load, kinds) = match plan.idle {
        None => (Load::start(targets, plan.rate, plan.seed), &Kind::MIX[..]),
        Some(clients) => (
            Load::start_idle(targets, clients, plan.seed),
            &[Kind::Idle][..],
        ),
    };
    let end_of_load = Instant::now() + plan.load;
    let update = async {
        sleep(if plan.idle.is_some() { SETTLED } else { BEFORE }).await;
        let stops = match strategy {
            Strategy::Kill
            | Strategy::Exit
            | Strategy::Axum
            | Strategy::AxumSleep
            | Strategy::Prestop
            | Strategy::PrestopAxum => {
                replace_all(plan, around, fleet, &routes, &load, &progress).await?
            }
            Strategy::None => {
                load.tally().set_updating(true);
                sleep_until(end_of_load).await;
                Vec::new()
            }
        };
        let after = if strategy.leaves_registry() {
            AFTER
        } else {
            TTL + LAG + Duration::from_secs(1)
        };
        sleep_until(end_of_load.max(Instant::now() + after)).await;
        fleet.check_alive()?;
        Ok::<_, String>(stops)
    };
    let stops = tokio::select! {
        done = update => done?,
        () = progress.show(&load) => unreachable!("it shows the counts until it is dropped"),
    };
    let tally = load.finish().await;
    let (sent, failed) = tally.totals();
    progress.event(&format!("load ended: {sent} sent, {failed} failed"));
    if tally.latest() > TOO_LATE {
        progress.event(&format!(
            "requests left up to {:.1} s late: this machine is too busy for the rate, and may have lost some itself",
            tally.latest().as_secs_f64()
        ));
    }
    fleet.kill_all().await;
    Ok(Outcome {
        strategy,
        rows: tally.rows(strategy, kinds),
        stops,
    })
}

/// Replaces every replica as a Deployment with maxSurge 1 and maxUnavailable 0 does: one more first, then one less.
/// A Deployment does not wait for the end of the old one before it starts the next new one; here it is waited for, so
/// that what is lost can be put down to one stop.
async fn replace_all(
    plan: &Plan,
    around: Surroundings,
    fleet: &mut Fleet,
    routes: &[Route],
    load: &Load,
    progress: &Progress,
) -> Result<Vec<Stop>, String> {
    let mut stops = Vec::new();
    let mut next_stop = Instant::now();
    for _ in 0..plan.stops {
        let began = Instant::now();
        let new = fleet.start(around).await?;
        in_view(routes, &new).await?;
        progress.event(&format!(
            "{new} started and in the gateway's view after {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        if plan.idle.is_some() {
            sleep_until(next_stop).await;
            next_stop = Instant::now() + SETTLED;
        }
        // The latency is of interest from the first stop to the end of the last one.
        load.tally().set_updating(true);
        let stop = fleet.stop_oldest(around.strategy).await?;
        progress.event(&describe(&stop, load));
        stops.push(stop);
    }
    load.tally().set_updating(false);
    Ok(stops)
}

async fn in_view(routes: &[Route], name: &Name) -> Result<(), String> {
    let seen = async {
        while !routes.iter().all(|route| route.sees(&name.id)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(VIEW_LIMIT, seen)
        .await
        .map_err(|_| format!("replica {name} did not register within {VIEW_LIMIT:?}"))
}

fn describe(stop: &Stop, load: &Load) -> String {
    let forced = if stop.forced {
        ", by SIGKILL after the grace period"
    } else {
        ""
    };
    format!(
        "{} stopped in {:.2} s with {}{forced}; {} so far",
        stop.name,
        stop.took.as_secs_f64(),
        stop.ending(),
        counts(load)
    )
}
