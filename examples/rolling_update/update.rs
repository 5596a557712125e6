//! One strategy: the rolling update under load, from the first replica to the last answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::Strategy;
use crate::client::{Clients, Target};
use crate::fleet::{Fleet, Hooked, Name, Stop, Surroundings};
use crate::gateway::{Gateway, LAG, Route};
use crate::load::Load;
use crate::mix::{Everyone, Kind};
use crate::progress::{Progress, counts};
use crate::registration::{GRPC_SERVICE, SERVICE};
use crate::registry::{RegistryKind, Running};
use crate::tally::Row;

/// The load runs that long before the first replica is replaced.
const BEFORE: Duration = Duration::from_secs(2);
/// Mostly idle clients need longer until all have a connection again, and the next stop waits for that.
const SETTLED: Duration = Duration::from_secs(6);
/// And that long after the last one, when all of them leave the registry. Otherwise until the last entry is gone.
const AFTER: Duration = Duration::from_secs(3);
/// A busy machine is no reason to give up.
const VIEW_LIMIT: Duration = Duration::from_secs(60);

/// Requests that leave so much later than they should say more about the machine than about the replicas.
const TOO_LATE: Duration = Duration::from_millis(500);

/// What does not change from strategy to strategy.
pub struct Plan {
    pub registry: RegistryKind,
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

/// The same, at work.
struct Routes {
    http: Route,
    grpc: Route,
}

/// What came of it.
pub struct Outcome {
    pub strategy: Strategy,
    pub rows: Vec<Row>,
    pub stops: Vec<Stop>,
    /// How long its registry believes in a replica that does not leave.
    pub expiry: Duration,
    /// From each signal until the instance was gone from the registry, for a client that watches it.
    pub unseen: Vec<Duration>,
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
    let registry = Running::start(plan.registry, &[SERVICE, GRPC_SERVICE]).await?;
    let routes = Routes {
        http: gateways.http.route(registry.source(SERVICE)),
        grpc: gateways.grpc.route(registry.source(GRPC_SERVICE)),
    };
    let target = |gateway: &Gateway, route: &Route| Target {
        gateway: gateway.address(),
        refused: route.refused(),
    };
    let http = target(&gateways.http, &routes.http);
    let grpc = target(&gateways.grpc, &routes.grpc);

    let around = Surroundings {
        strategy,
        kind: plan.registry,
        registry: registry.at(),
        visibility: gateways.http.visibility() + plan.registry.lag(),
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
        None => {
            let over = CancellationToken::new();
            let everyone = Everyone::new(http, grpc, plan.rate, over.clone());
            let load = Load::start(everyone, plan.rate, plan.seed, over);
            (load, &Kind::MIX[..])
        }
        Some(clients) => {
            let wire = Clients::new(http, 0);
            (
                Load::start_idle(wire, clients, plan.seed),
                &[Kind::Idle][..],
            )
        }
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
            | Strategy::PrestopAxum
            | Strategy::Hooked(_) => {
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
            plan.registry.expiry() + LAG + Duration::from_secs(1)
        };
        sleep_until(end_of_load.max(Instant::now() + after)).await;
        fleet.check_alive()?;
        Ok::<_, String>(stops)
    };
    let stops = tokio::select! {
        done = update => done?,
        () = progress.show(&load) => unreachable!("it shows the counts until it is dropped"),
    };
    let tally = load.finish().await?;
    let (sent, failed) = tally.totals();
    progress.event(&format!("load ended: {sent} sent, {failed} failed"));
    if tally.latest() > TOO_LATE {
        progress.event(&format!(
            "requests left up to {:.1} s late: this machine is too busy for the rate, and may have lost some itself",
            tally.latest().as_secs_f64()
        ));
    }
    let gone = stops.iter().filter_map(|stop| {
        let gone_at = registry.gone_at(stop.name.addresses.http)?;
        Some(gone_at.saturating_duration_since(stop.began))
    });
    let unseen = gone.collect();
    fleet.kill_all().await;
    Ok(Outcome {
        strategy,
        rows: tally.rows(strategy, kinds),
        stops,
        expiry: plan.registry.expiry(),
        unseen,
    })
}

/// Replaces every replica as a Deployment with maxSurge 1 and maxUnavailable 0 does: one more first, then one less.
/// A Deployment does not wait for the end of the old one before it starts the next new one; here it is waited for, so
/// that what is lost can be put down to one stop.
async fn replace_all(
    plan: &Plan,
    around: Surroundings,
    fleet: &mut Fleet,
    routes: &Routes,
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
        let stop = fleet.stop_oldest().await?;
        progress.event(&describe(&stop, load));
        stops.push(stop);
    }
    load.tally().set_updating(false);
    Ok(stops)
}

async fn in_view(routes: &Routes, name: &Name) -> Result<(), String> {
    let seen = async {
        while !routes.http.sees(name.addresses.http) || !routes.grpc.sees(name.addresses.grpc) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(VIEW_LIMIT, seen)
        .await
        .map_err(|_| format!("replica {name} did not register within {VIEW_LIMIT:?}"))
}

fn describe(stop: &Stop, load: &Load) -> String {
    let forced = if stop.forced() {
        ", by SIGKILL after the grace period"
    } else {
        ""
    };
    let hook = match stop.hook() {
        None => String::new(),
        Some(Hooked { took, said }) => {
            let took = took.as_secs_f64();
            match said {
                Ok("") => format!(" (hook {took:.2} s)"),
                Ok(said) => format!(" (hook {took:.2} s: {said})"),
                Err(error) => format!(" (HOOK FAILED after {took:.2} s: {error})"),
            }
        }
    };
    format!(
        "{} stopped{hook} in {:.2} s with {}{forced}; {} so far",
        stop.name,
        stop.took().as_secs_f64(),
        stop.ending(),
        counts(load)
    )
}
