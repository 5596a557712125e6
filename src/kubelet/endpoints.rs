//! [`Service`]: which pods get new connections, and how late the nodes hear of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A pod in an EndpointSlice (R33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its Ready condition: what the readiness probes say, in a pod that is being deleted, too.
    pub serving: bool,
    /// Whether it has a `deletionTimestamp`.
    pub terminating: bool,
}

impl Endpoint {
    /// A pod that is up.
    pub const READY: Self = Self {
        serving: true,
        terminating: false,
    };

    /// `serving` and not `terminating`.
    #[must_use]
    pub const fn ready(self) -> bool {
        self.serving && !self.terminating
    }
}

/// A Service of type ClusterIP as one node sees it: the endpoints' conditions, behind the delay of the controller and
/// of kube-proxy.
///
/// kube-proxy sends new connections to the ready endpoints. If there are none, it falls back to those that still serve
/// while they terminate (R34). It applies a change at once, but no sooner than `min_sync_period` after the one before:
/// on a quiet cluster that is tens of milliseconds after SIGTERM, in a rollout about a second.
#[derive(Clone, Debug)]
pub struct Service {
    slice_lag: Duration,
    min_sync_period: Duration,
    /// Every state of the slice, and when it was there.
    states: Vec<(Instant, BTreeMap<String, Endpoint>)>,
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// A Service without endpoints. The EndpointSlice is 50 ms behind (15-60 ms were seen), kube-proxy's
    /// `minSyncPeriod` is its default of 1 s.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slice_lag: Duration::from_millis(50),
            min_sync_period: Duration::from_secs(1),
            states: Vec::new(),
        }
    }

    /// How long after a change the EndpointSlice has it at every node.
    #[must_use]
    pub const fn slice_lag(mut self, lag: Duration) -> Self {
        self.slice_lag = lag;
        self
    }

    /// kube-proxy's `minSyncPeriod`.
    #[must_use]
    pub const fn min_sync_period(mut self, period: Duration) -> Self {
        self.min_sync_period = period;
        self
    }

    /// The pod of this name is in this state from now on.
    pub fn set(&mut self, pod: impl Into<String>, endpoint: Endpoint) {
        let mut state = self.latest();
        state.insert(pod.into(), endpoint);
        self.states.push((Instant::now(), state));
    }

    /// The containers of this pod are gone, and with them its endpoint (R19).
    pub fn remove(&mut self, pod: &str) {
        let mut state = self.latest();
        state.remove(pod);
        self.states.push((Instant::now(), state));
    }

    fn latest(&self) -> BTreeMap<String, Endpoint> {
        self.states
            .last()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    /// To which pods this node sends new connections now.
    #[must_use]
    pub fn routes(&self) -> Vec<String> {
        let now = Instant::now();
        let mut applied = &BTreeMap::new();
        let mut synced: Option<Instant> = None;
        let mut states = self.states.iter().peekable();
        while let Some((at, state)) = states.next() {
            let seen = *at + self.slice_lag;
            let sync = synced.map_or(seen, |last| seen.max(last + self.min_sync_period));
            if sync > now {
                break;
            }
            // What changed until then is applied together.
            if states
                .peek()
                .is_some_and(|(next, _)| *next + self.slice_lag <= sync)
            {
                continue;
            }
            (applied, synced) = (state, Some(sync));
        }
        routable(applied)
    }
}

/// R34
fn routable(endpoints: &BTreeMap<String, Endpoint>) -> Vec<String> {
    let those = |wanted: fn(&Endpoint) -> bool| -> Vec<String> {
        let wanted = endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
        wanted.map(|(name, _)| name.clone()).collect()
    };
    let ready = those(|endpoint| endpoint.ready());
    if ready.is_empty() {
        return those(|endpoint| endpoint.serving && endpoint.terminating);
    }
    ready
}
