//! [`Service`]: which pods get new connections, and how late the nodes hear of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

    /// A pod that is being deleted and still serves.
    pub const TERMINATING: Self = Self {
        serving: true,
        terminating: true,
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
///
/// Its clones are the same Service. A [`Node`](super::Node) tells it by itself:
/// [`Node::in_service`](super::Node::in_service).
#[derive(Clone, Debug)]
pub struct Service {
    slice_lag: Duration,
    min_sync_period: Duration,
    slice: Arc<Mutex<Slice>>,
}

/// The endpoints by the name of their pod.
type Endpoints = BTreeMap<String, Endpoint>;

#[derive(Debug, Default)]
struct Slice {
    /// What kube-proxy has applied, and when it did.
    applied: (Option<Instant>, Endpoints),
    /// The states that it has not, and when each was there.
    coming: VecDeque<(Instant, Endpoints)>,
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
    pub fn new() -> Self {
        Self {
            slice_lag: Duration::from_millis(50),
            min_sync_period: Duration::from_secs(1),
            slice: Arc::default(),
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
    pub fn set(&self, pod: impl Into<String>, endpoint: Endpoint) {
        self.change(Instant::now(), |endpoints| {
            endpoints.insert(pod.into(), endpoint);
        });
    }

    /// The containers of this pod are gone, and with them its endpoint (R19).
    pub fn remove(&self, pod: &str) {
        self.change(Instant::now(), |endpoints| {
            endpoints.remove(pod);
        });
    }

    /// These are the endpoints, all of them, since that moment: for what is read from elsewhere and heard of late. A
    /// moment before the last change is taken for that of the last change.
    pub fn replace(&self, since: Instant, all: impl IntoIterator<Item = (String, Endpoint)>) {
        let all = all.into_iter().collect();
        self.change(since, |endpoints| *endpoints = all);
    }

    fn change(&self, at: Instant, change: impl FnOnce(&mut Endpoints)) {
        let mut slice = self.lock();
        self.sync(&mut slice);
        let last = slice.coming.back();
        let (at, mut endpoints) = last.map_or_else(
            || (at, slice.applied.1.clone()),
            |(last, endpoints)| (at.max(*last), endpoints.clone()),
        );
        let before = endpoints.clone();
        change(&mut endpoints);
        // What changes nothing is no event.
        if endpoints != before {
            slice.coming.push_back((at, endpoints));
        }
    }

    /// To which pods this node sends new connections now.
    #[must_use]
    pub fn routes(&self) -> Vec<String> {
        let mut slice = self.lock();
        self.sync(&mut slice);
        routable(&slice.applied.1)
    }

    /// Whether this pod is among them.
    #[must_use]
    pub fn routes_to(&self, pod: &str) -> bool {
        self.routes().iter().any(|name| name == pod)
    }

    /// kube-proxy's part, up to now.
    fn sync(&self, slice: &mut Slice) {
        let now = Instant::now();
        while let Some((at, _)) = slice.coming.front() {
            let seen = *at + self.slice_lag;
            let last = slice.applied.0;
            let sync = last.map_or(seen, |last| seen.max(last + self.min_sync_period));
            if sync > now {
                break;
            }
            // What changed until then is applied together.
            while let Some((at, _)) = slice.coming.front()
                && *at + self.slice_lag <= sync
                && let Some((_, endpoints)) = slice.coming.pop_front()
            {
                slice.applied = (Some(sync), endpoints);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slice> {
        self.slice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// R34
fn routable(endpoints: &Endpoints) -> Vec<String> {
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
