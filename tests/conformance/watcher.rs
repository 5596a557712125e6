//! [`Watcher`]: a client of the registry, as a gateway is one, that shares nothing with the adapter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::fixture::Fixture;
use crate::server::BOUND;

/// What was seen, in order: the first entry is the oldest.
type History = Vec<(Instant, Vec<SocketAddr>)>;

/// Where a fixture tells what clients are given.
#[derive(Clone)]
pub struct Seen(Arc<watch::Sender<History>>);

impl Seen {
    /// These, from now on.
    pub fn are(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort();
        self.0.send_if_modified(|history| {
            let changed = history.last().is_none_or(|(_, last)| *last != addresses);
            if changed {
                history.push((Instant::now(), addresses));
            }
            changed
        });
    }
}

pub struct Watcher {
    history: watch::Receiver<History>,
    _task: JoinSet<()>,
}

impl Watcher {
    /// Follows the instances of `service`. It begins with the first answer, so this waits for one.
    pub async fn start<F: Fixture>(at: SocketAddr, service: &str) -> Self {
        let (sender, history) = watch::channel(History::new());
        let (seen, service) = (Seen(Arc::new(sender)), service.to_owned());
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                // It broke off, or the server is not there.
                let _ = F::follow(at, &service, &seen).await;
                sleep(Duration::from_millis(20)).await;
            }
        });
        let mut watcher = Self {
            history,
            _task: task,
        };
        watcher.until("the first answer", |_| true).await;
        watcher
    }

    /// Waits until what is seen is as it should be; when it was first seen so.
    pub async fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&[SocketAddr]) -> bool + Send,
    ) -> Instant {
        let holds = |history: &History| history.last().is_some_and(|(_, now)| holds(now));
        let waited = timeout(BOUND, self.history.wait_for(holds)).await;
        let waited = waited.map(|history| history.unwrap().last().unwrap().0);
        waited
            .unwrap_or_else(|_| panic!("waited {BOUND:?} for: {what}; seen was {:?}", self.views()))
    }

    pub async fn sees(&mut self, address: SocketAddr) -> Instant {
        self.until("the instance is seen", |now| now.contains(&address))
            .await
    }

    pub async fn misses(&mut self, address: SocketAddr) -> Instant {
        self.until("the instance is gone", |now| !now.contains(&address))
            .await
    }

    /// Whether the instance is gone within this time.
    pub async fn misses_within(&mut self, address: SocketAddr, limit: Duration) -> bool {
        let is_gone = |history: &History| {
            history
                .last()
                .is_some_and(|(_, now)| !now.contains(&address))
        };
        timeout(limit, self.history.wait_for(is_gone)).await.is_ok()
    }

    /// What is seen now.
    pub fn now(&self) -> Vec<SocketAddr> {
        let history = self.history.borrow();
        history.last().unwrap().1.clone()
    }

    /// Everything that was seen, in order.
    pub fn views(&self) -> Vec<Vec<SocketAddr>> {
        let history = self.history.borrow();
        history.iter().map(|(_, seen)| seen.clone()).collect()
    }
}
