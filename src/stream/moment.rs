//! When a stream is told: a moment of its own, so that the clients do not come as a herd to the other pods.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::phase::Phase;
use crate::state::{Haste, Signal, State, TellAt};

/// What the moment depends on besides the stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: TellAt,
    /// When the request began.
    pub(super) began: Instant,
    /// Its place among all, between 0 and 1.
    pub(super) share: f64,
}

impl Place {
    /// When it is told, as far as that is known.
    pub(super) fn moment(&self, signal: &Signal, linger: Duration) -> Option<Instant> {
        if let Some(since) = signal.draining_since {
            // Half of the linger, in which connections stay open anyway: the drain takes no longer for it. A quarter of
            // a short one.
            let left = signal.stop.map_or(Duration::ZERO, |stop| {
                stop.drain_by.instant().saturating_duration_since(since)
            });
            let spread = match signal.haste {
                Haste::None | Haste::EndLameDuck => (linger / 2).min(left / 4),
                Haste::Force => Duration::ZERO,
            };
            return Some((since + spread.mul_f64(self.share)).max(self.began));
        }
        match (self.at, signal.phase, signal.lame_duck) {
            (TellAt::LameDuck, Phase::LameDuck, Some((from, length))) if self.began < from => {
                Some(from + (length / 2).mul_f64(self.share))
            }
            _ => None,
        }
    }

    /// Resolves at the moment.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn reached(self, state: Arc<State>) {
        let linger = state.settings.linger;
        let mut signal = state.subscribe();
        drop(state);
        loop {
            let at = self.moment(&signal.borrow_and_update(), linger);
            match at {
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    changed = signal.changed() => if changed.is_err() { return },
                },
                // An error means that the state is gone: then everything is over.
                None => {
                    if signal.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
