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
/// Dropped, it is disarmed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _disarm: DropGuard,
}

impl Watchdog {
    pub(crate) fn start(handle: &ShutdownHandle) -> Result<Self, Error> {
        let failed = |e| Error::new(Kind::Thread("watchdog")).with_source(e);
        let disarm = CancellationToken::new();
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
        // The service's clock may be a paused one: only its lengths count, from here on.
        let seen = Instant::now();
        let mut nudge = self.service.spawn(async {});
        while let Some(stop) = state.signal().stop {
            let left = (stop.length() + slack(&stop)).saturating_sub(seen.elapsed());
            if left.is_zero() && !disarmed.is_cancelled() {
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
            sleep(left.min(Self::LOOK)).await;
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
