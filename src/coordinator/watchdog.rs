//! The watchdog: a thread that ends the process when the runtime no longer can (S5).

use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Kind};
use crate::exit::exit;
use crate::handle::ShutdownHandle;
use crate::last_gasp::LastGasps;
use crate::phase::Phase;
use crate::report::ShutdownReport;
use crate::state::Stop;

/// A thread that waits for the deadline on the operating system's clock. A hook that blocks its worker, a runtime
/// with a single thread, a `poll` that never returns: what keeps the plan from going on does not keep this thread. It
/// runs no code of the user's, not even a tracing subscriber; where a registry was not left yet, threads of their own
/// try it once more.
///
/// Dropped, it is disarmed. There is none on a clock that tokio's `test-util` has paused: what the deadline of a test's own
/// clock is worth in real time nobody knows, and a machine that stands still for a second is no runtime that does not get
/// on.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _disarm: DropGuard,
}

impl Watchdog {
    pub(crate) fn start(handle: &ShutdownHandle) -> Result<Self, Error> {
        let failed = |e| Error::new(Kind::Thread("watchdog")).with_source(e);
        let disarm = CancellationToken::new();
        if is_paused() {
            return Ok(Self {
                _disarm: disarm.drop_guard(),
            });
        }
        let watch = Watch {
            handle: handle.clone(),
            service: Handle::current(),
        };
        let disarmed = disarm.clone();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("prestop-watchdog".into())
            .spawn(move || runtime.block_on(disarmed.run_until_cancelled(watch.run(&disarmed))))
            .map_err(failed)?;
        Ok(Self {
            _disarm: disarm.drop_guard(),
        })
    }
}

/// Whether this runtime's clock is a paused one: it stands still while the operating system's goes on.
#[allow(clippy::disallowed_types)] // the operating system's, which it is compared with
fn is_paused() -> bool {
    let (clock, system) = (Instant::now(), std::time::Instant::now());
    while system.elapsed().is_zero() {}
    Instant::now() == clock
}

struct Watch {
    handle: ShutdownHandle,
    /// Where the plan runs.
    service: Handle,
}

impl Watch {
    /// The deadline may still move earlier: it is looked at this often once the stop has begun.
    const LOOK: Duration = Duration::from_millis(20);

    async fn run(&self, disarmed: &CancellationToken) {
        let state = self.handle.state();
        state.token(Phase::PreStop).cancelled().await;
        // The service's clock may be paused yet, and this one goes on: only lengths count, from here on.
        let seen = Instant::now();
        let mut nudge = self.service.spawn(async {});
        let mut looked = seen;
        // How long the plan has been late, as far as this thread was awake to see it.
        let mut late = Duration::ZERO;
        while let Some(stop) = state.signal().stop {
            let now = Instant::now();
            let over = now.duration_since(seen).saturating_sub(stop.length());
            late = match over.is_zero() {
                true => Duration::ZERO,
                // What stood still with the whole process (a machine that is paused, a starved container) is no time that
                // the runtime has had.
                false => late + over.min(now.duration_since(looked)).min(2 * Self::LOOK),
            };
            looked = now;
            let left = slack(&stop).saturating_sub(late);
            if !late.is_zero() && left.is_zero() && !disarmed.is_cancelled() {
                let bound = (stop.shares.exit_reserve / 4).min(LastGasps::BOUND);
                state.last_gasps.breathe(bound);
                bite(&state.last_report());
            }
            // Of several workers one looks after the timers. When it wakes for a task that then blocks it, tokio
            // wakes no other in its place, and the plan's timers stand still though there are threads to spare. A
            // task from outside wakes one, and that one takes them over.
            if nudge.is_finished() {
                nudge = self.service.spawn(async {});
            }
            let until = match over.is_zero() {
                true => stop.length().saturating_sub(now.duration_since(seen)),
                false => left,
            };
            // Never without a pause: a deadline that is met to the nanosecond is not over yet.
            sleep(until.clamp(Duration::from_millis(1), Self::LOOK)).await;
        }
    }
}

/// The plan itself ends at the deadline; a busy machine may need a moment to say so. Taken from the exit reserve.
fn slack(stop: &Stop) -> Duration {
    (stop.shares.exit_reserve / 4).min(Duration::from_millis(500))
}

fn bite(report: &ShutdownReport) -> ! {
    const FORCED: u8 = ShutdownReport::FORCED;
    let words = format!(
        "prestop: the deadline has passed and the runtime does not get on (is a hook or a handler blocking its \
         thread?); the watchdog ends the process with exit code {FORCED}. So far it was:\n{report}"
    );
    exit(i32::from(FORCED), Some(words))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_is_told_from_one_that_goes() {
        assert!(is_paused());
        tokio::time::resume();
        assert!(!is_paused());
        tokio::time::pause();
        assert!(is_paused());
    }
}
