//! The service behind the gateway: one of two, stopped and started again at its address.

use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderValue, header::HeaderName};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::any;
use prestop::haproxy::AgentCheck;
use prestop::{
    GracePeriod, Phase, Readiness, Reason, ShutdownCoordinator, ShutdownHandle, ShutdownReport,
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::program::free_ports;

/// As the configuration files have it.
pub const AGENT_INTER: Duration = Duration::from_millis(500);

/// How the service stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Like a process that is killed: everything is cut.
    Kill,
    /// `axum::serve(..).with_graceful_shutdown(..)`, at once.
    Axum,
    /// prestop, with this as its lame duck.
    Prestop(Duration),
    /// The same, and every answer says so to an Envoy.
    PrestopHeader(Duration),
}

/// How a replica is run.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub stop: Stop,
    pub readiness: Readiness,
    /// In place of `drain`.
    pub maint: bool,
    pub linger: Duration,
    /// For HAProxy's agent checks.
    pub limit: Duration,
}

impl How {
    pub const fn new(stop: Stop) -> Self {
        Self {
            stop,
            readiness: Readiness::FailWhenStopping,
            maint: false,
            // The default.
            linger: Duration::from_millis(500),
            limit: Duration::from_secs(10),
        }
    }
}

/// One place for a replica: its addresses outlive it.
pub struct Place {
    pub service: SocketAddr,
    pub probes: SocketAddr,
    pub agent: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    slow: AtomicU64,
    last: Mutex<Option<Instant>>,
}

pub struct Replica {
    stop: Stop,
    /// Of a prestop one.
    pub h: Option<ShutdownHandle>,
    graceful: CancellationToken,
    run: JoinHandle<Option<ShutdownReport>>,
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

impl Place {
    pub fn new() -> Self {
        let [service, probes, agent] =
            free_ports().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            service,
            probes,
            agent,
            counts: Arc::default(),
        }
    }

    /// Requests that were begun here.
    pub fn served(&self) -> u64 {
        self.counts.served.load(Ordering::SeqCst)
    }

    /// When the last one was.
    pub fn last(&self) -> Option<Instant> {
        *self.counts.last.lock().expect("nobody panics")
    }

    /// Slow requests that are in flight here.
    pub fn slow(&self) -> u64 {
        self.counts.slow.load(Ordering::SeqCst)
    }

    fn app(&self) -> Router {
        let counts = self.counts.clone();
        let answer = move |Query(slow): Query<Slow>| async move {
            counts.served.fetch_add(1, Ordering::SeqCst);
            *counts.last.lock().expect("nobody panics") = Some(Instant::now());
            if slow.ms > 0 {
                let _guard = InFlight::new(&counts.slow);
                tokio::time::sleep(Duration::from_millis(slow.ms)).await;
            }
            "an answer\n"
        };
        Router::new().route("/", any(answer))
    }

    /// A replica that is ready.
    pub async fn start(&self, how: How) -> Replica {
        let stop = how.stop;
        let graceful = CancellationToken::new();
        let (lame_duck, says_so) = match stop {
            Stop::Axum => {
                let listener = bind(self.service).await;
                let ended = graceful.clone().cancelled_owned();
                let serving = axum::serve(listener, self.app()).with_graceful_shutdown(ended);
                // Also where the gateway asks for probes: there it is ready until it is gone.
                let probes = bind(self.probes).await;
                let ready = Router::new().route("/readyz", any(async || "ready\n"));
                let run = tokio::spawn(async move {
                    tokio::select! {
                        ended = async { serving.await } => ended.expect("axum's never fails"),
                        _ = async { axum::serve(probes, ready).await } => {}
                    }
                    None
                });
                return Replica {
                    stop,
                    h: None,
                    graceful,
                    run,
                };
            }
            // It has the coordinator, too: dropped, that cuts what is in flight.
            Stop::Kill => (Duration::ZERO, false),
            Stop::Prestop(lame_duck) => (lame_duck, false),
            Stop::PrestopHeader(lame_duck) => (lame_duck, true),
        };
        let mut agent = AgentCheck::new(bind(self.agent).await)
            .with_agent_inter(AGENT_INTER)
            .with_limit(how.limit);
        if how.maint {
            agent = agent.with_maint();
        }
        let c = ShutdownCoordinator::builder_without_signals()
            .grace_period(GracePeriod::from_secs(120).expect("it is one"))
            .lame_duck(lame_duck)
            .readiness(how.readiness)
            .linger(how.linger)
            .probe_listener(bind(self.probes).await)
            .haproxy_agent(agent)
            .build()
            .expect("it fits");
        let h = c.handle();
        let listener = bind(self.service).await;
        let mut app = self.app();
        if says_so {
            // Envoy's router takes the host out when it sees this on any answer, and does not wait for its next check.
            let h = h.clone();
            app = app.layer(map_response(move |mut response: Response| {
                if h.phase().is_stopping() {
                    let name = HeaderName::from_static("x-envoy-immediate-health-check-fail");
                    let says = HeaderValue::from_static("true");
                    response.headers_mut().insert(name, says);
                }
                ready(response)
            }));
        }
        let run = tokio::spawn(async move { c.serve(listener, app).await.ok() });
        h.wait_for(Phase::Ready).await;
        Replica {
            stop,
            h: Some(h),
            graceful,
            run,
        }
    }
}

impl Replica {
    /// One that has ended.
    pub fn none() -> Self {
        Self {
            stop: Stop::Axum,
            h: None,
            graceful: CancellationToken::new(),
            run: tokio::spawn(async { None }),
        }
    }

    /// Begins its stop.
    pub fn stop(&self) {
        match (self.stop, &self.h) {
            (Stop::Kill, _) => self.run.abort(),
            (Stop::Axum, _) | (_, None) => self.graceful.cancel(),
            (_, Some(h)) => {
                h.trigger(Reason::requested("the gateway's turn"));
            }
        }
    }

    /// Its end; with a report, where it was prestop's.
    pub async fn ended(self) -> Option<ShutdownReport> {
        // An error: it was killed.
        self.run.await.unwrap_or_default()
    }
}

struct InFlight<'a>(&'a AtomicU64);

impl<'a> InFlight<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The predecessor's sockets may take a moment to go.
async fn bind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
