//! What every registry must do for a stop, whichever it is. Each function is a test; `main.rs` lists them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prestop::registry::{Beat, Gone, Instance, LastGasp, Registration, Registry, RegistryError};
use prestop::{
    Deadline, GracePeriod, LeaveOutcome, Phase, Reason, ShutdownCoordinator, ShutdownHandle,
    ShutdownReport,
};
use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::child::Process;
use crate::fixture::Fixture;
use crate::server::{BOUND, Server};
use crate::site::Site;
use crate::watcher::Watcher;

/// Where the server is a test's own, one name does.
pub const SERVICE: &str = "orders";

/// Longer than any test: an entry that is gone did not expire.
pub const NEVER: Duration = Duration::from_secs(600);

/// How much longer than planned a busy machine may take for what is planned.
const MARGIN: Duration = Duration::from_secs(40);

pub fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

pub fn instance(port: u16) -> Instance {
    Instance::new(SERVICE, address(port))
}

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

async fn register(registry: &dyn Registry, instance: &Instance) -> Box<dyn Registration> {
    registry.register(instance, soon()).await.unwrap()
}

/// A service in this process, whose stop is a trigger.
pub struct Service {
    pub h: ShutdownHandle,
    pub run: JoinHandle<ShutdownReport>,
    beats: Arc<Semaphore>,
}

impl Service {
    pub async fn start(registry: Box<dyn Registry>, instance: Instance) -> Self {
        let beats = Arc::new(Semaphore::new(0));
        let registry = Counted {
            registry,
            beats: beats.clone(),
        };
        let c = ShutdownCoordinator::builder_without_signals()
            .grace_period(GracePeriod::from_secs(30).unwrap())
            .lame_duck(Duration::ZERO)
            .registry(registry, instance)
            .build()
            .unwrap();
        let h = c.handle();
        let draining = h.draining();
        let run = tokio::spawn(async move { c.run(draining).await.unwrap() });
        let ready = timeout(BOUND, h.wait_for(Phase::Ready)).await;
        ready.expect("ready");
        Self { h, run, beats }
    }

    /// Waits until it knows that it is registered, which clients may see before it does.
    pub async fn is_kept_alive(&self) {
        let beat = timeout(BOUND, self.beats.acquire()).await;
        beat.expect("a heartbeat").unwrap().forget();
    }

    /// The end of its stop, which must come in time whatever the registry does.
    pub async fn stop(self) -> ShutdownReport {
        self.h.trigger(Reason::requested("the test"));
        let report = timeout(BOUND, self.run).await.expect("it stops").unwrap();
        let leaving = report.phases.iter().find(|p| p.phase == Phase::PreStop);
        let leaving = leaving.expect("it left");
        assert!(leaving.used <= leaving.planned + MARGIN, "{report}");
        report
    }
}

/// The registry, and a permit for each of its heartbeats that was answered.
pub fn counted(registry: Box<dyn Registry>) -> (Box<dyn Registry>, Arc<Semaphore>) {
    let beats = Arc::new(Semaphore::new(0));
    let counted = Counted {
        registry,
        beats: beats.clone(),
    };
    (Box::new(counted), beats)
}

/// A registry that counts the heartbeats that were answered.
struct Counted<T> {
    registry: T,
    beats: Arc<Semaphore>,
}

#[async_trait]
impl Registry for Counted<Box<dyn Registry>> {
    fn name(&self) -> &str {
        self.registry.name()
    }

    fn visibility(&self) -> Duration {
        self.registry.visibility()
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        Ok(Box::new(Counted {
            registry: self.registry.register(instance, by).await?,
            beats: self.beats.clone(),
        }))
    }
}

#[async_trait]
impl Registration for Counted<Box<dyn Registration>> {
    fn listed_for(&self) -> Option<Duration> {
        self.registry.listed_for()
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        self.registry.last_gasp()
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let beat = self.registry.heartbeat(by).await?;
        self.beats.add_permits(1);
        Ok(beat)
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        self.registry.deregister(by).await
    }

    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        self.registry.is_listed(by).await
    }
}

/// Left by this stop. An attempt that got no answer in its 1.5 s, on a busy machine, may have been heard: the next one then
/// finds nothing any more.
#[track_caller]
pub fn assert_left(report: &ShutdownReport) {
    let left = &report.registries[0];
    let in_a_second_attempt = left.took > Duration::from_secs(1);
    assert!(
        left.outcome == LeaveOutcome::Removed
            || left.outcome == LeaveOutcome::AlreadyGone && in_a_second_attempt,
        "{report}"
    );
}

/// Past libtest, which would keep it to itself.
pub fn again(why: &str) {
    let line = format!("AGAIN: {why}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

pub async fn a_registered_instance_is_seen_where_it_is<F: Fixture>(_: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let registry = site.registry(NEVER);
    assert_eq!(registry.name(), F::NAME);
    let mut watcher = site.watch().await;
    assert_eq!(watcher.now(), []);

    let mut entry = register(&*registry, &site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    assert_ne!(entry.is_listed(soon()).await.unwrap(), Some(false));
    let beat = entry.heartbeat(soon()).await.unwrap();
    let Beat::Alive { next, listed_for } = beat else {
        panic!("it was just registered, and is lost");
    };
    assert!(next > Duration::ZERO && next < listed_for, "{beat:?}");

    // Under another name nobody is found, and more than one can be there.
    let other = Instance::new(format!("{}-payments", site.service()), address(4001));
    let _other = register(&*registry, &other).await;
    let _second = register(&*registry, &site.instance(4002)).await;
    watcher.sees(address(4002)).await;
    assert_eq!(watcher.now(), [address(4000), address(4002)]);
}

pub async fn a_deregistered_instance_is_gone_and_no_heartbeat_brings_it_back<F: Fixture>(_: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let registry = site.registry(NEVER);
    let mut watcher = site.watch().await;
    let mut entry = register(&*registry, &site.instance(4000)).await;
    let mut other = register(&*registry, &site.instance(4001)).await;
    watcher.sees(address(4000)).await;
    watcher.sees(address(4001)).await;

    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;
    assert_ne!(entry.is_listed(soon()).await.unwrap(), Some(true));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);

    // S6
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    // What the heartbeat might have done is done when a later change is seen.
    assert_eq!(other.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4001)).await;
    assert_eq!(watcher.now(), []);

    // And the instance may come again.
    let _again = register(&*registry, &site.instance(4000)).await;
    watcher.sees(address(4000)).await;
}

/// A pod that restarts in place comes back at the same address before its predecessor is quite gone.
pub async fn a_late_deregistration_leaves_the_successor_at_the_same_address<F: Fixture>(_: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    // Of different processes, so with an adapter each.
    let (first, second) = (site.registry(NEVER), site.registry(NEVER));
    let mut watcher = site.watch().await;
    let mut old = register(&*first, &site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    let successor = site.instance(4000);
    let mut new = register(&*second, &successor).await;
    let told = async {
        while !F::is_told(site.server_at(), &successor).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, told).await.expect("it is told of");

    old.deregister(soon()).await.unwrap();
    assert_eq!(old.heartbeat(soon()).await.unwrap(), Beat::Lost);
    let mut marker = register(&*first, &site.instance(4001)).await;
    watcher.sees(address(4001)).await;
    assert_eq!(watcher.now(), [address(4000), address(4001)]);
    assert_ne!(new.heartbeat(soon()).await.unwrap(), Beat::Lost);

    marker.deregister(soon()).await.unwrap();
    assert_eq!(new.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.until("nobody is left", <[_]>::is_empty).await;
}

pub async fn an_instance_is_gone_before_its_process_ends<F: Fixture>(module: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let mut child = site.process(module, NEVER, 4000, "serve");
    watcher.sees(address(4000)).await;
    child.send(Signal::TERM);
    child.says("removed").await;
    assert_eq!(child.ended().await, Some(0));
    watcher.misses(address(4000)).await;
}

pub async fn a_killed_process_is_seen_until_its_entry_expires<F: Fixture>(module: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    // Long enough that a machine that stands still for a moment does not make it expire before it is killed.
    let ttl = F::TTL.max(Duration::from_secs(8));
    let mut watcher = site.watch().await;
    let child = site.process(module, ttl, 4000, "serve");
    let left = site.process(module, NEVER, 4001, "serve");
    watcher.sees(address(4000)).await;
    watcher.sees(address(4001)).await;
    child.send(Signal::KILL);
    assert_eq!(child.ended().await, None);
    // Beside it one that leaves: its end is seen first, unless this machine stood still for the whole expiry.
    let begun = Instant::now();
    left.send(Signal::TERM);
    watcher.misses(address(4001)).await;
    if begun.elapsed() < ttl / 4 {
        assert_eq!(watcher.now(), [address(4000)]);
    }
    watcher.misses(address(4000)).await;
    assert_eq!(left.ended().await, Some(0));
}

pub async fn a_registry_that_is_down_at_the_start_gets_the_instance_when_it_is_up<F: Fixture>(
    _: &str,
) {
    let Some(mut site) = Site::<F>::prepare().await else {
        return;
    };
    // Ready all the same: a registry that is down must not stop a rollout.
    let service = Service::start(site.registry(NEVER), site.instance(4000)).await;
    site.up().await;
    let mut watcher = site.watch().await;
    watcher.sees(address(4000)).await;
    let report = service.stop().await;
    assert_left(&report);
    watcher.misses(address(4000)).await;
}

pub async fn a_registry_that_is_down_at_the_stop_costs_at_most_the_leave_budget<F: Fixture>(
    _: &str,
) {
    let Some(mut site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let service = Service::start(site.registry(F::TTL), site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    service.is_kept_alive().await;
    site.kill().await;
    let report = service.stop().await;
    let left = &report.registries[0];
    assert!(
        matches!(left.outcome, LeaveOutcome::Failed | LeaveOutcome::Unknown),
        "{report}"
    );
    assert!(left.error.is_some(), "{report}");
    assert!(left.visible_for.is_some(), "{report}");
    assert_eq!(report.exit_code(), ShutdownReport::DEGRADED, "{report}");
}

pub async fn a_registry_that_is_frozen_at_the_stop_costs_at_most_the_leave_budget<F: Fixture>(
    _: &str,
) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let service = Service::start(site.registry(F::TTL), site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    service.is_kept_alive().await;
    site.freeze();
    let report = service.stop().await;
    let left = &report.registries[0];
    // Whether it was heard only shows when the server wakes.
    assert_eq!(left.outcome, LeaveOutcome::Unknown, "{report}");
    assert!(left.error.is_some(), "{report}");
    assert_eq!(report.exit_code(), ShutdownReport::DEGRADED, "{report}");
    site.thaw();
    watcher.misses(address(4000)).await;
}

pub async fn a_registry_that_forgot_the_instance_gets_it_again<F: Fixture>(_: &str) {
    let Some(mut server) = Server::<F>::start().await else {
        return;
    };
    let mut watcher = Watcher::start::<F>(server.at(), SERVICE).await;
    let service = Service::start(F::registry(server.at(), F::TTL), instance(4000)).await;
    watcher.sees(address(4000)).await;
    drop(watcher);
    server.kill();
    server.up().await;
    let mut watcher = Watcher::start::<F>(server.at(), SERVICE).await;
    watcher.sees(address(4000)).await;
    let report = service.stop().await;
    assert_left(&report);
    watcher.misses(address(4000)).await;
}

pub async fn a_registry_that_comes_back_during_the_stop_does_not_get_the_instance_again<
    F: Fixture,
>(
    _: &str,
) {
    let Some(mut site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let service = Service::start(site.registry(F::TTL), site.instance(4000)).await;
    watcher.sees(address(4000)).await;
    service.is_kept_alive().await;
    drop(watcher);
    site.kill().await;
    // The drain is held open: the registry is back long before the process ends.
    let busy = service.h.guard("a slow request").unwrap();
    let h = service.h.clone();
    let stopping = tokio::spawn(service.stop());
    timeout(BOUND, h.wait_for(Phase::PreStop)).await.unwrap();
    site.up().await;
    let mut watcher = site.watch().await;
    timeout(BOUND, h.wait_for(Phase::Draining)).await.unwrap();
    drop(busy);
    let report = stopping.await.unwrap();
    // Something that came later is seen, and nothing before it.
    let registry = site.registry(NEVER);
    let _marker = register(&*registry, &site.instance(4001)).await;
    watcher.sees(address(4001)).await;
    let mut views = watcher.views();
    if !site.forgets() {
        // It was there all the time, until it left or expired.
        watcher.misses(address(4000)).await;
        views = watcher.views();
        let gone = views.iter().position(|view| !view.contains(&address(4000)));
        views.drain(..gone.unwrap());
    }
    assert!(
        views.iter().all(|view| !view.contains(&address(4000))),
        "{views:?}\n{report}"
    );
}

/// The process ends without its plan: the instance would be listed until it expires, which it never does here.
///
/// A last gasp has 300 ms at the most, and neither it nor its server always get so much of a busy machine: one of several
/// has to be heard. How the process ends is no question of that.
async fn leaves_with_its_last_gasp<F: Fixture>(module: &str, scene: &str) {
    if !F::LAST_GASP {
        return;
    }
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    for port in 4000..4006 {
        let child = site.process(module, NEVER, port, scene);
        watcher.sees(address(port)).await;
        dies(child, scene).await;
        if watcher
            .misses_within(address(port), Duration::from_secs(20))
            .await
        {
            return;
        }
        again(&format!(
            "{}, {scene}: the last gasp was not heard",
            F::NAME
        ));
    }
    panic!("no last gasp was heard");
}

async fn dies(mut child: Process, scene: &str) {
    child.says("registered").await;
    if scene == "panic" {
        child.tell("panic").await;
    } else {
        child.tell("block").await;
        child.says("blocked").await;
    }
    match scene {
        "panic" => {}
        "blocked" => child.send(Signal::TERM),
        _ => {
            // Some of them fall together.
            while !child.has_ended() {
                child.send(Signal::INT);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let code = child.ended().await;
    let expected = match scene {
        "panic" => 101,
        "blocked" => i32::from(ShutdownReport::FORCED),
        _ => 130,
    };
    assert_eq!(code, Some(expected));
}

pub async fn a_process_that_panics_leaves_with_its_last_gasp<F: Fixture>(module: &str) {
    leaves_with_its_last_gasp::<F>(module, "panic").await;
}

pub async fn a_process_that_is_forced_to_exit_leaves_with_its_last_gasp<F: Fixture>(module: &str) {
    leaves_with_its_last_gasp::<F>(module, "forced").await;
}

pub async fn a_process_that_the_watchdog_ends_leaves_with_its_last_gasp<F: Fixture>(module: &str) {
    leaves_with_its_last_gasp::<F>(module, "blocked").await;
}

/// S6, on the real server: the stop comes at any moment of registering and of the first heartbeats.
pub async fn no_stop_at_any_moment_is_followed_by_a_resurrection<F: Fixture>(_: &str) {
    const ROUNDS: u16 = 200;
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    for round in 0..ROUNDS {
        let port = 4000 + round;
        let service = Service::start(site.registry(NEVER), site.instance(port)).await;
        // Registering and the first heartbeat take a few milliseconds: all of that is met.
        sleep(Duration::from_micros(u64::from(round) * 100)).await;
        let report = service.stop().await;
        let left = &report.registries[0];
        assert!(
            matches!(
                left.outcome,
                LeaveOutcome::Removed | LeaveOutcome::AlreadyGone
            ),
            "{report}"
        );
    }
    let registry = site.registry(NEVER);
    let _marker = register(&*registry, &site.instance(3999)).await;
    watcher.sees(address(3999)).await;
    watcher
        .until("the marker alone", |now| now == [address(3999)])
        .await;
    // Each came at most once.
    let views = watcher.views();
    for round in 0..ROUNDS {
        let listed = views
            .iter()
            .map(|view| view.contains(&address(4000 + round)));
        let mut comings = 0;
        let mut before = false;
        for now in listed {
            comings += usize::from(now && !before);
            before = now;
        }
        assert!(comings <= 1, "{} came {comings} times", 4000 + round);
    }
}

/// From the call of `deregister` until a watching client sees it, fifty times; and a killed process beside it.
pub async fn figures<F: Fixture>(module: &str) {
    let Some(site) = Site::<F>::start().await else {
        return;
    };
    let mut watcher = site.watch().await;
    let registry = F::registry(site.server_at(), NEVER);
    let (mut seen, mut called) = (Vec::new(), Vec::new());
    for round in 0..50 {
        let mut entry = register(&*registry, &site.instance(4000 + round)).await;
        watcher.sees(address(4000 + round)).await;
        let begun = Instant::now();
        entry.deregister(soon()).await.unwrap();
        called.push(begun.elapsed());
        let gone = watcher.misses(address(4000 + round)).await;
        seen.push(gone.saturating_duration_since(begun));
    }
    let mut killed = Vec::new();
    for round in 0..5 {
        let port = 5000 + round;
        let child = site.process(module, F::TTL, port, "serve");
        watcher.sees(address(port)).await;
        // Not always at the same moment between two heartbeats.
        sleep(F::TTL / 3 + F::TTL / 15 * u32::from(round)).await;
        let begun = Instant::now();
        child.send(Signal::KILL);
        killed.push(watcher.misses(address(port)).await - begun);
    }
    seen.sort();
    called.sort();
    killed.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "{}: gone for a watching client {:.1} / {:.1} ms after the call (p50 / p99 of 50; the call itself {:.1} / {:.1} ms); \
         killed, with an expiry of {:?}: after {:.1} to {:.1} s (5)",
        F::NAME,
        ms(seen[25]),
        ms(seen[49]),
        ms(called[25]),
        ms(called[49]),
        F::TTL,
        killed[0].as_secs_f64(),
        killed[4].as_secs_f64(),
    );
}
