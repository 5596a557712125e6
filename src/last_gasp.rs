//! [`LastGasp`]: leaving a registry when nothing else of the process runs any more.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// How to take an instance out of its registry without a runtime: when the process is ended by a panic, by the watchdog
/// or by a third Ctrl-C.
///
/// A blocking call of milliseconds against the 10 to 60 s for which the registry would list the dead instance. It runs
/// once, on a thread of its own; who ends the process waits for it no longer than the time it is given. A panic that
/// aborts (`panic = "abort"`) leaves no time for it.
pub struct LastGasp(Box<dyn FnOnce(Duration) + Send>);

impl LastGasp {
    /// This is done. It is given the time that there is, at most 300 ms, and must use nothing of tokio: blocking sockets
    /// of the standard library, with time-outs.
    #[must_use]
    pub fn new(leave: impl FnOnce(Duration) + Send + 'static) -> Self {
        Self(Box::new(leave))
    }
}

impl fmt::Debug for LastGasp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGasp").finish_non_exhaustive()
    }
}

/// Those of the registrations there are, by a number that is theirs.
#[derive(Debug, Default)]
pub(crate) struct LastGasps(Mutex<BTreeMap<usize, LastGasp>>);

impl LastGasps {
    /// On one node a deregistration takes 2 ms; it may take a retransmission.
    pub(crate) const BOUND: Duration = Duration::from_millis(300);

    /// From now on this, or nothing, is what becomes of the registration.
    pub(crate) fn put(&self, registration: usize, gasp: Option<LastGasp>) {
        let replaced = match gasp {
            Some(gasp) => lock(&self.0).insert(registration, gasp),
            None => lock(&self.0).remove(&registration),
        };
        // Not under the lock: it is the user's, and so is its drop.
        drop(replaced);
    }

    /// All that are left, at once, each on a thread of its own. Returns when they are done, or this time is over.
    pub(crate) fn breathe(&self, at_most: Duration) {
        let begun = Instant::now();
        let waiting = self.start(at_most);
        loop {
            let left = at_most.saturating_sub(begun.elapsed());
            // Ends with the last thread, which drops the last sender.
            if waiting.recv_timeout(left).is_err() {
                return;
            }
        }
    }

    /// The same, without waiting.
    pub(crate) fn start(&self, at_most: Duration) -> std::sync::mpsc::Receiver<()> {
        let (done, waiting) = channel::<()>();
        for (_, gasp) in std::mem::take(&mut *lock(&self.0)) {
            let done = done.clone();
            // Where there is no thread to be had, the entry expires.
            let _ = std::thread::Builder::new()
                .name("prestop-gasp".into())
                .spawn(move || {
                    // Its panic concerns nobody any more.
                    let _ = catch_unwind(AssertUnwindSafe(|| (gasp.0)(at_most)));
                    drop(done);
                });
        }
        waiting
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_breathe_at_once_and_the_one_that_hangs_costs_the_bound() {
        let (gasps, count) = (LastGasps::default(), Arc::new(AtomicUsize::new(0)));
        let (_held, hang) = std::sync::mpsc::channel::<()>();
        let counting = || {
            let count = count.clone();
            LastGasp::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            })
        };
        gasps.put(0, Some(counting()));
        gasps.put(1, Some(LastGasp::new(|_| panic!("oh no"))));
        gasps.put(2, Some(counting()));
        gasps.put(3, Some(counting()));
        gasps.put(3, None);
        gasps.breathe(Duration::from_secs(20));
        assert_eq!(count.load(Ordering::SeqCst), 2);

        gasps.put(
            4,
            Some(LastGasp::new(move |_| {
                let _ = hang.recv();
            })),
        );
        let begun = Instant::now();
        gasps.breathe(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        gasps.breathe(Duration::from_secs(20));
        assert_eq!(count.load(Ordering::SeqCst), 2, "each once");
    }
}
