//! The watchdog: a thread of its own for what must work when the runtime does not get on: catching signals, and ending
//! the process at the deadline (S5, S10).

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Kind};
use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::report::ShutdownReport;
use crate::state::Stop;

/// A thread with a small runtime of its own. A hook that blocks its worker, a runtime with a single thread, a `poll`
/// that never returns: what keeps the plan from going on, or from hearing SIGTERM, does not keep this thread.
///
/// Dropped, it is disarmed: the deadline is watched no more, and signals do nothing.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _disarm: DropGuard,
}

/// What the thread does beside watching, made by `prepare` inside its runtime: following the signals.
type Duty<F> = Result<F, Error>;

impl Watchdog {
    /// Starts the thread. Returns once `prepare` has, so that its failure is the caller's.
    pub(crate) fn start<F: Future<Output = ()>>(
        handle: &ShutdownHandle,
        prepare: impl FnOnce() -> Duty<F> + Send + 'static,
    ) -> Result<Self, Error> {
        let disarm = CancellationToken::new();
        let watch = Watch {
            handle: handle.clone(),
            disarmed: disarm.clone(),
            service: Handle::current(),
        };
        let (tell, prepared) = sync_channel(1);
        std::thread::Builder::new()
            .name("prestop-watchdog".into())
            .spawn(move || watch.thread(prepare, &tell))
            .map_err(|e| Error::new(Kind::Watchdog).with_source(e))?;
        prepared
            .recv()
            .map_err(|e| Error::new(Kind::Watchdog).with_source(e))??;
        Ok(Self {
            _disarm: disarm.drop_guard(),
        })
    }
}

struct Watch {
    handle: ShutdownHandle,
    disarmed: CancellationToken,
    /// Where the plan runs.
    service: Handle,
}

impl Watch {
    /// The deadline may still move earlier: it is looked at this often once the stop has begun.
    const LOOK: Duration = Duration::from_millis(20);

    fn thread<F: Future<Output = ()>>(
        self,
        prepare: impl FnOnce() -> Duty<F>,
        tell: &SyncSender<Result<(), Error>>,
    ) {
        // The caller waits for exactly one word, so telling it cannot fail.
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => {
                let _ = tell.send(Err(Error::new(Kind::Watchdog).with_source(e)));
                return;
            }
        };
        runtime.block_on(async {
            let duty = match prepare() {
                Ok(duty) => duty,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            tokio::select! {
                biased;
                () = self.disarmed.cancelled() => {}
                () = duty => {}
                () = self.watch() => {}
            }
        });
    }

    async fn watch(&self) {
        let state = self.handle.state();
        state.token(Phase::PreStop).cancelled().await;
        let mut nudge = self.service.spawn(async {});
        while let Some(stop) = state.signal().stop {
            let left = (stop.deadline + slack(&stop)).remaining();
            if left.is_zero() && !self.disarmed.is_cancelled() {
                bite(&state.report());
            }
            // Of several workers one looks after the timers. When it wakes for a task that then blocks it, tokio
            // wakes no other in its place, and the plan's timers stand still though there are threads to spare. A
            // task from outside wakes one, and that one takes them over.
            if nudge.is_finished() {
                nudge = self.service.spawn(async {});
            }
            tokio::time::sleep(left.min(Self::LOOK)).await;
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
