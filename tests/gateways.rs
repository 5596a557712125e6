//! HAProxy, the real one, in front of two replicas under load: one is stopped, and HAProxy itself is asked what it did.
#![cfg(all(unix, not(loom), feature = "axum", feature = "haproxy"))]
// The example's modules, used in part; what may panic in a test may in its helpers.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]
// Waits for another process.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

#[path = "../examples/gateways/load.rs"]
mod load;
#[path = "../examples/gateways/program.rs"]
mod program;
#[path = "../examples/gateways/replica.rs"]
mod replica;

use std::path::{Path, PathBuf};
use std::time::Duration;

use prestop::{Outcome, Phase, Readiness, ShutdownHandle};

use tokio::task::JoinSet;

use load::{Load, ask, exchange};
use program::{Gateway, Server};
use replica::{How, Place, Replica, Stop};

const AGENT: &str = include_str!("../examples/gateways/haproxy-agent.cfg");
const BY_404: &str = include_str!("../examples/gateways/haproxy-404.cfg");

const HOOK: &str = "HAProxy's agent check";

/// Nothing in these tests takes this long.
const BOUND: Duration = Duration::from_secs(60);

/// Longer than any test: it is ended when HAProxy is seen to have drained.
const LAME_DUCK: Duration = Duration::from_secs(40);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(BOUND, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited {BOUND:?} for: {what}"));
}

/// A line past libtest, which would keep it to itself.
fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

/// Whoever was given a request before the drain has all the time to send it: HAProxy may get no processor for a while.
fn prestop() -> How {
    How {
        linger: Duration::from_secs(3),
        limit: LAME_DUCK,
        ..How::new(Stop::Prestop(LAME_DUCK))
    }
}

/// Two replicas, and HAProxy before them.
struct Scene {
    places: [Place; 2],
    replicas: [Option<Replica>; 2],
    haproxy: Gateway,
    program: PathBuf,
    how: How,
}

/// A new HAProxy takes every server for up before it has asked.
async fn asked(haproxy: &Gateway) {
    for name in ["one", "two"] {
        let asked = || haproxy.server(name).unwrap().agent.contains("L7OK");
        until("an agent check", asked).await;
    }
}

/// One more HAProxy before these.
async fn haproxy(program: &Path, config: &str, places: &[Place; 2]) -> Gateway {
    let port = |address: std::net::SocketAddr| address.port().to_string();
    let words = [
        ("SERVICE_1", port(places[0].service)),
        ("SERVICE_2", port(places[1].service)),
        ("PROBES_1", port(places[0].probes)),
        ("PROBES_2", port(places[1].probes)),
        ("AGENT_1", port(places[0].agent)),
        ("AGENT_2", port(places[1].agent)),
    ];
    // So that what it counts and what it does are in order.
    let config = config.replace("global\n", "global\n    nbthread 1\n");
    let args = ["-db", "-f", "DIR/haproxy.cfg"];
    let haproxy = Gateway::start(program, &args, ("haproxy.cfg", &config), &words).await;
    let haproxy = haproxy.unwrap();
    // It listens there after it listens to clients.
    until("the stats socket", || haproxy.server("one").is_ok()).await;
    haproxy
}

impl Scene {
    /// `None`, said aloud, where there is no HAProxy.
    async fn start(config: &str, how: How) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian has it where only root looks.
        let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
        dirs.push("/usr/sbin".into());
        let program = dirs
            .iter()
            .map(|dir| dir.join("haproxy"))
            .find(|p| p.exists());
        let Some(program) = program else {
            assert!(
                std::env::var_os("CI").is_none(),
                "no haproxy in CI (Debian: haproxy)"
            );
            say("SKIPPED: there is no haproxy here (Debian: haproxy)");
            return None;
        };
        let places = [Place::new(), Place::new()];
        let mut replicas = [None, None];
        for (place, replica) in places.iter().zip(&mut replicas) {
            *replica = Some(place.start(how).await);
        }
        let haproxy = haproxy(&program, config, &places).await;
        let scene = Self {
            places,
            replicas,
            haproxy,
            program,
            how,
        };
        for name in ["one", "two"] {
            scene.becomes(name, "UP").await;
        }
        if config.contains("agent-check") {
            asked(&scene.haproxy).await;
        }
        Some(scene)
    }

    fn server(&self, name: &str) -> Server {
        self.haproxy.server(name).unwrap()
    }

    /// Waits until HAProxy says so; what else it says then.
    async fn becomes(&self, name: &str, status: &str) -> Server {
        let mut server = self.server(name);
        until(status, || {
            server = self.server(name);
            server.status == status
        })
        .await;
        server
    }

    /// Both get requests.
    async fn both_serve(&self) {
        let before: Vec<_> = self.places.iter().map(Place::served).collect();
        until("both to serve", || {
            let now = self.places.iter().map(Place::served);
            now.zip(&before).all(|(now, before)| now >= before + 50)
        })
        .await;
    }

    async fn restart(&mut self, index: usize) {
        self.replicas[index] = Some(self.places[index].start(self.how).await);
    }
}

/// Waits for what the lame duck waits for.
async fn acknowledged(h: &ShutdownHandle) {
    let acknowledged = || {
        let hooks = h.report().hooks;
        let hook = hooks.iter().find(|hook| hook.name == HOOK);
        hook.is_some_and(|hook| hook.outcome == Outcome::Done)
    };
    until("the acknowledgement", acknowledged).await;
}

/// The first replica is stopped and started again, under load, twice.
async fn loses_nothing(mut scene: Scene, drained: &str, by_agent: bool) {
    let load = Load::start(scene.haproxy.port, 8, Duration::from_millis(10));
    for _ in 0..2 {
        scene.both_serve().await;
        let replica = scene.replicas[0].take().unwrap();
        let h = replica.h.clone().unwrap();
        replica.stop();
        let at_the_drain = if by_agent {
            acknowledged(&h).await;
            // At once, not soon.
            scene.server("one")
        } else {
            scene.becomes("one", drained).await
        };
        assert_eq!(at_the_drain.status, drained);
        assert_eq!(h.phase(), Phase::LameDuck);
        h.end_lame_duck();
        let report = tokio::time::timeout(BOUND, replica.ended()).await.unwrap();
        let report = report.expect("it has a report");
        assert!(report.is_clean(), "{report}");
        // The load goes on, and none of it goes there.
        let other = scene.places[1].served();
        until("more load", || scene.places[1].served() >= other + 100).await;
        let later = scene.server("one");
        assert_eq!(later.requests, at_the_drain.requests, "after the drain");
        assert_eq!(later.requests, scene.places[0].served(), "all it was given");
        scene.restart(0).await;
        scene.becomes("one", "UP").await;
    }
    scene.both_serve().await;
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, 0, "{outcome:?}\n{}", scene.haproxy.log());
    let served: u64 = scene.places.iter().map(Place::served).sum();
    assert_eq!(outcome.sent, served, "each was served once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_comes_after_the_agents_drain_is_acknowledged_and_none_is_lost() {
    let how = prestop();
    if let Some(scene) = Scene::start(AGENT, how).await {
        loses_nothing(scene, "DRAIN (agent)", true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_comes_after_the_agents_maint_is_acknowledged_and_none_is_lost() {
    let how = How {
        maint: true,
        ..prestop()
    };
    if let Some(scene) = Scene::start(AGENT, how).await {
        loses_nothing(scene, "MAINT", true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_comes_after_the_404_is_fetched_and_none_is_lost() {
    let how = How {
        readiness: Readiness::NotFoundWhenStopping,
        ..prestop()
    };
    if let Some(scene) = Scene::start(BY_404, how).await {
        loses_nothing(scene, "NOLB", false).await;
    }
}

/// The same load and the same HAProxy: a request in flight is lost where nothing waits for it. How many short ones are lost
/// is luck, and only said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_the_requests_in_flight() {
    let Some(mut scene) = Scene::start(AGENT, How::new(Stop::Kill)).await else {
        return;
    };
    // In turn to each server, and longer than the test.
    let to = ([127, 0, 0, 1], scene.haproxy.port).into();
    let mut slow = JoinSet::new();
    for _ in 0..4 {
        let request = "GET /?ms=600000 HTTP/1.1\r\nhost: gateway\r\n\r\n";
        slow.spawn(exchange(None, to, request));
    }
    let [one, two] = &scene.places;
    until("the slow ones", || one.slow() + two.slow() == 4).await;
    let in_flight = one.slow();
    assert!(in_flight > 0, "HAProxy sends to both");
    let load = Load::start(scene.haproxy.port, 8, Duration::from_millis(10));
    scene.both_serve().await;
    let replica = scene.replicas[0].take().unwrap();
    replica.stop();
    replica.ended().await;
    for _ in 0..in_flight {
        let lost = tokio::time::timeout(BOUND, slow.join_next()).await.unwrap();
        let lost = lost.unwrap().unwrap();
        assert!(!matches!(lost, Ok((200, _))), "{lost:?}");
    }
    let outcome = load.finish().await;
    say(&format!(
        "killed: {in_flight} slow requests, and of the others {outcome:?}"
    ));
}

/// Two processes behind one address, told apart by what they send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_is_acknowledged_when_both_of_two_balancers_have_fetched_it() {
    let named = |name| {
        AGENT.replace(
            "agent-inter",
            &format!(r#"agent-send "{name}\n" agent-inter"#),
        )
    };
    let Some(mut scene) = Scene::start(&named("lb1"), prestop()).await else {
        return;
    };
    let other = haproxy(&scene.program, &named("lb2"), &scene.places).await;
    asked(&other).await;
    let replica = scene.replicas[0].take().unwrap();
    let h = replica.h.clone().unwrap();
    replica.stop();
    acknowledged(&h).await;
    for haproxy in [&scene.haproxy, &other] {
        assert_eq!(haproxy.server("one").unwrap().status, "DRAIN (agent)");
    }
    h.end_lame_duck();
    let report = tokio::time::timeout(BOUND, replica.ended()).await.unwrap();
    assert!(report.unwrap().is_clean());
}

/// A request whose session is bound to the first server.
async fn bound_to_one(scene: &Scene) -> (u16, bool) {
    let request = "GET / HTTP/1.1\r\nhost: gateway\r\ncookie: SERVER=one\r\n\r\n";
    let before = scene.places[0].served();
    let to = ([127, 0, 0, 1], scene.haproxy.port).into();
    let (status, _, _) = ask(None, to, request).await.unwrap();
    (status, scene.places[0].served() > before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistent_sessions_come_after_drain_and_not_after_maint() {
    let sticky = AGENT
        .replace("    server one", "    cookie SERVER insert\n    server one")
        .replace("SERVICE_1 check", "SERVICE_1 cookie one check")
        .replace("SERVICE_2 check", "SERVICE_2 cookie two check");
    for maint in [false, true] {
        let how = How { maint, ..prestop() };
        let Some(mut scene) = Scene::start(&sticky, how).await else {
            return;
        };
        assert_eq!(bound_to_one(&scene).await, (200, true));
        let replica = scene.replicas[0].take().unwrap();
        replica.stop();
        let status = if maint { "MAINT" } else { "DRAIN (agent)" };
        scene.becomes("one", status).await;
        assert_eq!(bound_to_one(&scene).await, (200, !maint), "{status}");
        replica.h.clone().unwrap().end_lame_duck();
        let report = tokio::time::timeout(BOUND, replica.ended()).await.unwrap();
        assert!(report.unwrap().is_clean());
    }
}
