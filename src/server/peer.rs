//! [`StockPeer`]: what a layer says of the requests on a stock server's connection, and what follows for the drain.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::handle::ShutdownHandle;
use crate::peers::{Pair, Peer};
use crate::phase::Phase;
use crate::roster::Work;
use crate::state::Holdback;
use crate::sync::lock;

use super::connection::Connection;

/// A connection of a stock server while it is open.
///
/// Such a connection holds the drain open as a whole, since nobody sees what it does. A layer does see: while all
/// requests on it are exempt, it does not hold the drain (S11). One that was used for others, too, holds it for the
/// linger longer, since a layer does not see when the last bytes of an answer were sent.
pub(super) struct StockPeer {
    pair: Pair,
    shared: Arc<Shared>,
}

struct Shared {
    handle: ShutdownHandle,
    connection: Arc<Connection>,
    requests: Mutex<Requests>,
    changed: Notify,
}

struct Requests {
    exempt: usize,
    others: usize,
    /// When the last of the others ended.
    used: Option<Instant>,
    /// It does not hold the drain.
    released: bool,
    /// A task looks after it.
    watched: bool,
    closed: bool,
}

/// What becomes of the hold.
enum Hold {
    /// Kept until something changes.
    Keep,
    /// Kept until then, if nothing changes.
    KeepUntil(Instant),
    Release,
}

impl StockPeer {
    pub(super) fn enter(handle: &ShutdownHandle, pair: Pair, connection: Arc<Connection>) -> Self {
        let shared = Arc::new(Shared {
            handle: handle.clone(),
            connection,
            requests: Mutex::new(Requests {
                exempt: 0,
                others: 0,
                used: None,
                released: false,
                watched: false,
                closed: false,
            }),
            changed: Notify::new(),
        });
        handle.state().peers.enter(pair, shared.clone());
        Self { pair, shared }
    }
}

impl Drop for StockPeer {
    fn drop(&mut self) {
        self.shared.handle.state().peers.leave(&self.pair);
        let mut requests = lock(&self.shared.requests);
        requests.closed = true;
        self.shared.set_released(&mut requests, false);
        drop(requests);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// The count of connections that are open for exempt work alone, for who waits for the rest.
    fn set_released(&self, requests: &mut Requests, released: bool) {
        if std::mem::replace(&mut requests.released, released) == released {
            return;
        }
        let count = |held: &mut Holdback| match released {
            true => held.exempt += 1,
            false => held.exempt -= 1,
        };
        self.handle.state().holdback.send_modify(count);
    }

    fn hold(&self, requests: &Requests, linger: Duration) -> Hold {
        if requests.exempt == 0 || requests.others > 0 || requests.released || requests.closed {
            return Hold::Keep;
        }
        let Some(used) = requests.used else {
            return Hold::Release;
        };
        // Before the drain nobody asks.
        let Some(drain) = self.handle.state().signal().draining_since else {
            return Hold::Keep;
        };
        let at = used.max(drain) + linger;
        if at > Instant::now() {
            Hold::KeepUntil(at)
        } else if self.connection.has_backlog() {
            Hold::KeepUntil(Instant::now() + linger)
        } else {
            Hold::Release
        }
    }

    fn exempt_began(self: &Arc<Self>, requests: &mut Requests) {
        requests.exempt += 1;
        if !std::mem::replace(&mut requests.watched, true) {
            tokio::spawn(self.clone().look_after());
        }
    }

    /// Runs while the connection is open, once it has had an exempt request.
    async fn look_after(self: Arc<Self>) {
        let linger = self.handle.state().settings.linger;
        let draining = self.handle.wait_for(Phase::Draining);
        tokio::pin!(draining);
        let mut drains = false;
        loop {
            let at = {
                let mut requests = lock(&self.requests);
                if requests.closed {
                    return;
                }
                match self.hold(&requests, linger) {
                    Hold::Keep => None,
                    Hold::KeepUntil(at) => Some(at),
                    Hold::Release => {
                        self.set_released(&mut requests, true);
                        self.connection.release();
                        None
                    }
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = &mut draining, if !drains => drains = true,
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {}
            }
        }
    }
}

impl Peer for Shared {
    fn request_began(self: Arc<Self>, exempt: bool) {
        let mut requests = lock(&self.requests);
        if exempt {
            self.exempt_began(&mut requests);
        } else {
            requests.others += 1;
            // At once: its answer may be over before the task that released it looks again.
            self.connection.hold();
            self.set_released(&mut requests, false);
        }
        drop(requests);
        self.changed.notify_one();
    }

    fn request_became_exempt(self: Arc<Self>) {
        let mut requests = lock(&self.requests);
        requests.others -= 1;
        self.exempt_began(&mut requests);
        drop(requests);
        self.changed.notify_one();
    }

    fn request_ended(self: Arc<Self>, exempt: bool) {
        let mut requests = lock(&self.requests);
        if exempt {
            requests.exempt -= 1;
            if requests.exempt == 0 && requests.released {
                self.connection.hold();
                self.set_released(&mut requests, false);
            }
        } else {
            requests.others -= 1;
            requests.used = Some(Instant::now());
        }
        drop(requests);
        self.changed.notify_one();
    }

    fn cut_exempt(self: Arc<Self>) {
        // Asked and cut under one lock: no request that counts comes between.
        let requests = lock(&self.requests);
        if requests.released {
            self.connection.cut();
        }
    }
}
