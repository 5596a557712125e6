//! The watchdog: a thread that ends the process when the runtime no longer can (S5).

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::{Either, select};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Kind};
use crate::phase::Phase;
use crate::report::ShutdownReport;
use crate::state::{State, Stop};

/// A thread that waits for the deadline on the operating system's clock. A hook that blocks its worker, a runtime
/// with a single thread, a `poll` that never returns: what keeps the plan from going on does not keep this thread.
///
/// Dropped, it is disarmed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _disarm: DropGuard,
    /// Never sent on: its drop wakes the thread from a timed wait.
    _wake: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(state: &Arc<State>) -> Result<Self, Error> {
        let disarmed = CancellationToken::new();
        let (wake, woken) = mpsc::channel();
        let watch = Watch {
            begun: state.token(Phase::PreStop).clone(),
            state: Arc::downgrade(state),
            disarmed: disarmed.clone(),
            woken,
            runtime: Handle::current(),
        };
        std::thread::Builder::new()
            .name("prestop-watchdog".into())
            .spawn(move || watch.run())
            .map_err(|e| Error::new(Kind::Watchdog).with_source(e))?;
        Ok(Self {
            _disarm: disarmed.drop_guard(),
            _wake: wake,
        })
    }
}

struct Watch {
    begun: CancellationToken,
    state: Weak<State>,
    disarmed: CancellationToken,
    woken: mpsc::Receiver<()>,
    runtime: Handle,
}

impl Watch {
    /// The deadline may still move earlier: it is looked at this often once the stop has begun.
    const LOOK: Duration = Duration::from_millis(20);

    fn run(&self) {
        let begun = std::pin::pin!(self.begun.cancelled());
        let disarmed = std::pin::pin!(self.disarmed.cancelled());
        // Both may be ready, then disarmed counts.
        if let Either::Left(_) = block_on(select(disarmed, begun)) {
            return;
        }
        let mut nudge = self.runtime.spawn(async {});
        while let Some(state) = self.state.upgrade() {
            // Of several workers one looks after the timers. When it wakes for a task that then blocks it, tokio
            // wakes no other in its place, and the plan's timers stand still though there are threads to spare. A
            // task from outside wakes one, and that one takes them over.
            if nudge.is_finished() {
                nudge = self.runtime.spawn(async {});
            }
            let Some(stop) = state.signal().stop else {
                return;
            };
            let left = (stop.deadline + slack(&stop)).remaining();
            if left.is_zero() && !self.disarmed.is_cancelled() {
                bite(&state.report());
            }
            drop(state);
            match self.woken.recv_timeout(left.min(Self::LOOK)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// The plan itself ends at the deadline; a busy machine may need a moment to say so. Taken from the exit reserve.
fn slack(stop: &Stop) -> Duration {
    (stop.shares.exit_reserve / 4).min(Duration::from_millis(500))
}

fn bite(report: &ShutdownReport) -> ! {
    const FORCED: u8 = ShutdownReport::FORCED;
    // A closed standard error must not keep the process from ending.
    let _ = writeln!(
        std::io::stderr(),
        "prestop: the deadline has passed and the runtime does not get on (is a hook or a handler blocking its \
         thread?); the watchdog ends the process with exit code {FORCED}. So far it was:\n{report}"
    );
    std::process::exit(i32::from(FORCED))
}
