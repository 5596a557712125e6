//! What a stop makes of a registry, or of a network before it, that is in trouble. The server is real, the trouble is
//! the proxy's. Each function is a test; `main.rs` lists them.

use std::time::Duration;

use prestop::{GracePeriod, LeaveOutcome, Phase, Reason, ShutdownCoordinator};
use tokio::time::timeout;

use crate::contract::{NEVER, Service, address, again, assert_left, counted};
use crate::fixture::Fixture;
use crate::proxy::{Proxy, Trouble};
use crate::server::BOUND;
use crate::site::Site;
use crate::watcher::Watcher;

/// A server, a proxy before it, and a service that is registered through that. The watcher looks past the proxy.
struct Scene<F: Fixture> {
    site: Site<F>,
    proxy: Proxy,
    watcher: Watcher,
    service: Service,
}

impl<F: Fixture> Scene<F> {
    async fn start(ttl: Duration) -> Option<Self> {
        let site = Site::<F>::start().await?;
        let proxy = Proxy::start(site.server_at()).await;
        let mut watcher = site.watch().await;
        let service = Service::start(F::registry(proxy.at, ttl), site.instance(4000)).await;
        watcher.sees(address(4000)).await;
        service.is_kept_alive().await;
        Some(Self {
            site,
            proxy,
            watcher,
            service,
        })
    }
}

pub async fn a_slow_registry_is_left_all_the_same<F: Fixture>(_: &str) {
    let Some(mut scene) = Scene::<F>::start(NEVER).await else {
        return;
    };
    // A deregistration may be two calls, and its reading back another one; each attempt has 1.5 s.
    scene.proxy.make(Trouble::Slow(Duration::from_millis(150)));
    let report = scene.service.stop().await;
    assert_left(&report);
    scene.watcher.misses(address(4000)).await;
}

pub async fn a_registry_that_resets_connections_is_left_when_it_no_longer_does<F: Fixture>(
    _: &str,
) {
    let Some(mut scene) = Scene::<F>::start(NEVER).await else {
        return;
    };
    scene.proxy.make(Trouble::Reset);
    let stopping = tokio::spawn(scene.service.stop());
    // The connection there was, and at least one new one.
    timeout(BOUND, scene.proxy.met(2))
        .await
        .expect("it is tried again");
    scene.proxy.make(Trouble::None);
    let report = stopping.await.unwrap();
    assert_left(&report);
    scene.watcher.misses(address(4000)).await;
}

pub async fn a_registry_that_answers_an_error_is_asked_again_until_it_does_not<F: Fixture>(
    _: &str,
) {
    if !F::HTTP {
        return;
    }
    for status in [429, 500, 503] {
        let Some(mut scene) = Scene::<F>::start(NEVER).await else {
            return;
        };
        scene.proxy.make(Trouble::Status(status));
        let stopping = tokio::spawn(scene.service.stop());
        timeout(BOUND, scene.proxy.met(2))
            .await
            .expect("it is tried again");
        scene.proxy.make(Trouble::None);
        let report = stopping.await.unwrap();
        assert_left(&report);
        scene.watcher.misses(address(4000)).await;
    }
}

pub async fn a_registry_that_only_answers_errors_costs_at_most_the_leave_budget<F: Fixture>(
    _: &str,
) {
    if !F::HTTP {
        return;
    }
    for _ in 0..4 {
        let Some(scene) = Scene::<F>::start(F::TTL).await else {
            return;
        };
        scene.proxy.make(Trouble::Status(503));
        let report = scene.service.stop().await;
        let left = &report.registries[0];
        if left.outcome == LeaveOutcome::Unknown {
            again("an error was not answered in time");
            continue;
        }
        assert_eq!(left.outcome, LeaveOutcome::Failed, "{report}");
        let error = left.error.as_deref().expect("why");
        assert!(error.contains("503"), "{report}");
        assert!(left.visible_for.is_some(), "{report}");
        return;
    }
    panic!("never answered in time");
}

pub async fn a_registry_that_is_cut_off_at_the_stop_costs_at_most_the_leave_budget<F: Fixture>(
    _: &str,
) {
    let Some(mut scene) = Scene::<F>::start(F::TTL).await else {
        return;
    };
    scene.proxy.make(Trouble::Partition);
    let report = scene.service.stop().await;
    let left = &report.registries[0];
    assert_eq!(left.outcome, LeaveOutcome::Unknown, "{report}");
    assert!(
        left.error.is_some() && left.visible_for.is_some(),
        "{report}"
    );
    // The process is as good as dead to the registry, and its entry expires.
    scene.watcher.misses(address(4000)).await;
}

pub async fn after_a_partition_the_instance_comes_back<F: Fixture>(_: &str) {
    let Some(mut scene) = Scene::<F>::start(F::TTL).await else {
        return;
    };
    scene.proxy.make(Trouble::Partition);
    scene.watcher.misses(address(4000)).await;
    scene.proxy.make(Trouble::None);
    scene.watcher.sees(address(4000)).await;
    let report = scene.service.stop().await;
    assert_left(&report);
    scene.watcher.misses(address(4000)).await;
    drop(scene.site);
}

/// All are left at once: what one of them costs is its own.
pub async fn a_dead_registry_does_not_hold_up_another_one<F: Fixture>(_: &str) {
    let (Some(dead), Some(alive)) = (Site::<F>::start().await, Site::<F>::start().await) else {
        return;
    };
    let mut of_dead = dead.watch().await;
    let mut of_alive = alive.watch().await;
    let (of_the_dead, beats) = counted(dead.registry(F::TTL));
    let c = ShutdownCoordinator::builder_without_signals()
        .grace_period(GracePeriod::from_secs(30).unwrap())
        .lame_duck(Duration::ZERO)
        .registry(of_the_dead, dead.instance(4000))
        .registry(alive.registry(NEVER), alive.instance(4000))
        .build()
        .unwrap();
    let h = c.handle();
    let draining = h.draining();
    let run = tokio::spawn(async move { c.run(draining).await.unwrap() });
    of_dead.sees(address(4000)).await;
    of_alive.sees(address(4000)).await;
    // Clients may see it before the adapter knows that it is registered, and what is not registered does not leave.
    let beat = timeout(BOUND, beats.acquire()).await;
    beat.expect("a heartbeat").unwrap().forget();
    dead.freeze();
    h.trigger(Reason::requested("the test"));
    // Gone while the other one is still being waited for.
    of_alive.misses(address(4000)).await;
    let report = timeout(BOUND, run).await.expect("it stops").unwrap();
    let took = |outcomes: &[LeaveOutcome]| {
        let of = report
            .registries
            .iter()
            .find(|r| outcomes.contains(&r.outcome));
        of.unwrap_or_else(|| panic!("none is {outcomes:?}: {report}"))
            .took
    };
    let left = took(&[LeaveOutcome::Removed, LeaveOutcome::AlreadyGone]);
    let waited_for = took(&[LeaveOutcome::Unknown]);
    assert!(left < waited_for, "{report}");
    let leaving = report.phases.iter().find(|p| p.phase == Phase::PreStop);
    assert!(leaving.unwrap().used < left + waited_for, "{report}");
}
