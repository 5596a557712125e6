//! [`InFlight`]: how much work is in flight, and the one moment after which none is admitted.
//!
//! One word per shard holds the count and the closed bit, so that "closed" and "plus one" are ordered by the
//! hardware (T1). Threads count on shards of their own: no cache line travels between cores per request.
//!
//! Closing is a two-step affair because there are several words. The closer takes a lock, closes the shards one
//! after the other where they are empty, and opens them again when it meets one that is not. Who is turned away by
//! a closed bit asks again under the lock, so a half-done closing is never mistaken for the end (S13). When the
//! last shard closes, every shard has been empty and shut since its own turn: that is the moment of closing.

use std::fmt;
use std::sync::PoisonError;

use crate::sync::{Arc, AtomicUsize, AtomicWaker, Mutex, Ordering};

/// Somebody waits for the shard to be empty.
const WATCHED: usize = 1;
/// Nothing is admitted.
const CLOSED: usize = 1 << 1;
/// One piece of work.
const ONE: usize = 1 << 2;

/// Work was refused because the drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the drain is over, no work is admitted any more")
    }
}

impl std::error::Error for Closed {}

/// The count of work in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    shards: Box<[Arc<Shard>]>,
    /// Held while closing is tried, and by those who must know how the try ended.
    closing: Mutex<()>,
    waker: Arc<AtomicWaker>,
}

/// 128 bytes: two lines, because processors fetch them in pairs.
#[repr(align(128))]
struct Shard {
    word: AtomicUsize,
    waker: Arc<AtomicWaker>,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Relaxed);
        f.debug_struct("Shard")
            .field("count", &(word / ONE))
            .field("closed", &(word & CLOSED != 0))
            .finish_non_exhaustive()
    }
}

impl Shard {
    fn leave(&self) {
        // Release: what the work did happens before the closing that its end allows (`close` acquires).
        let before = self.word.fetch_sub(ONE, Ordering::AcqRel);
        if before & WATCHED != 0 && before / ONE == 1 {
            self.waker.wake();
        }
    }
}

impl InFlight {
    /// Eight shards per hardware thread, so that threads that come and go rarely meet on one; at most 64, since closing
    /// looks at each.
    pub(crate) fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        Self::with_shards((8 * threads.next_power_of_two()).min(64))
    }

    pub(crate) fn with_shards(shards: usize) -> Self {
        let waker = Arc::new(AtomicWaker::new());
        let shard = || {
            Arc::new(Shard {
                word: AtomicUsize::new(0),
                waker: waker.clone(),
            })
        };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            closing: Mutex::new(()),
            waker,
        }
    }

    /// Counts one piece of work until the guard is dropped.
    pub(crate) fn enter(&self) -> Result<InFlightGuard, Closed> {
        self.enter_on(thread_number() % self.shards.len())
    }

    pub(crate) fn enter_on(&self, shard: usize) -> Result<InFlightGuard, Closed> {
        let shard = &self.shards[shard];
        // Acquire pairs with the closer's release: who is refused sees everything that led to the closing.
        if shard.word.fetch_add(ONE, Ordering::AcqRel) & CLOSED == 0 {
            return Ok(InFlightGuard {
                shard: shard.clone(),
            });
        }
        shard.leave();
        // Closed for good, or only until the closer has met a shard that is not empty? The lock tells.
        let _settled = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.word.load(Ordering::Acquire) & CLOSED != 0 {
            return Err(Closed);
        }
        shard.word.fetch_add(ONE, Ordering::AcqRel);
        Ok(InFlightGuard {
            shard: shard.clone(),
        })
    }

    /// The number of pieces in flight. A snapshot per shard: exact once nothing moves.
    pub(crate) fn count(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.word.load(Ordering::Acquire) / ONE)
            .sum()
    }

    /// Closes if nothing is in flight; whether it is closed now.
    fn close_if_idle(&self) -> bool {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let shut = |shard: &Arc<Shard>| {
            let word = shard.word.load(Ordering::Acquire);
            word & CLOSED != 0
                || (word / ONE == 0
                    && shard
                        .word
                        .compare_exchange(word, word | CLOSED, Ordering::AcqRel, Ordering::Acquire)
                        .is_ok())
        };
        // Closed for good before: every shard says so, and none may be opened again.
        if self.all_closed() {
            return true;
        }
        match self.shards.iter().position(|shard| !shut(shard)) {
            None => true,
            Some(busy) => {
                for shard in &self.shards[..busy] {
                    shard.word.fetch_and(!CLOSED, Ordering::AcqRel);
                }
                false
            }
        }
    }

    fn all_closed(&self) -> bool {
        self.shards
            .iter()
            .all(|s| s.word.load(Ordering::Acquire) & CLOSED != 0)
    }

    /// Closes whatever is in flight, and says how much that is.
    pub(crate) fn close(&self) -> usize {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &self.shards {
            shard.word.fetch_or(CLOSED | WATCHED, Ordering::AcqRel);
        }
        self.count()
    }

    /// Resolves when nothing is in flight, and closes at that same moment. For one waiter at a time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped before it resolved, nothing is closed.
    pub(crate) async fn closed_when_idle(&self) {
        for shard in &self.shards {
            shard.word.fetch_or(WATCHED, Ordering::AcqRel);
        }
        std::future::poll_fn(|cx| {
            // Register, then look: a guard dropped after the look finds the waker.
            self.waker.register_by_ref(cx.waker());
            if self.close_if_idle() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }

    /// Resolves when nothing is in flight after [`close`](Self::close). For one waiter at a time.
    pub(crate) async fn idle_after_close(&self) {
        std::future::poll_fn(|cx| {
            self.waker.register_by_ref(cx.waker());
            if self.count() == 0 {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// Counts one piece of work in flight until it is dropped; see [`ShutdownHandle::count`](crate::ShutdownHandle::count).
#[must_use = "dropped at once, it holds nothing open"]
#[derive(Debug)]
pub struct InFlightGuard {
    shard: Arc<Shard>,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.shard.leave();
    }
}

/// A small number for the current thread, given out in order of first use.
pub(crate) fn thread_number() -> usize {
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // During the thread's own teardown the number is gone; any shard will do.
    NUMBER.try_with(|n| *n).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::poll_immediate;

    #[test]
    fn closes_only_when_every_shard_is_empty() {
        let in_flight = InFlight::with_shards(4);
        let guards: Vec<_> = (0..4)
            .map(|s| in_flight.enter_on(s).expect("open"))
            .collect();
        for (left, guard) in (0..4).rev().zip(guards) {
            assert!(!in_flight.close_if_idle());
            assert!(
                in_flight.enter_on(left).is_ok(),
                "a failed closing opens again"
            );
            drop(guard);
            assert_eq!(in_flight.count(), left);
        }
        assert!(in_flight.close_if_idle());
        assert_eq!(in_flight.enter().err(), Some(Closed));
        assert!(in_flight.close_if_idle(), "closed stays closed");
        assert_eq!(in_flight.enter().err(), Some(Closed));
    }

    #[test]
    fn the_last_guard_wakes_the_waiter() {
        let in_flight = InFlight::with_shards(2);
        let (a, b) = (
            in_flight.enter_on(0).expect("open"),
            in_flight.enter_on(1).expect("open"),
        );
        let mut waiting = tokio_test::task::spawn(in_flight.closed_when_idle());
        assert!(waiting.poll().is_pending());
        drop(a);
        assert!(
            waiting.is_woken() && waiting.poll().is_pending(),
            "one is left"
        );
        let follow_up = in_flight
            .enter_on(0)
            .expect("work in flight may start its follow-up");
        drop(b);
        assert!(waiting.poll().is_pending());
        drop(follow_up);
        assert!(waiting.is_woken() && waiting.poll().is_ready());
        assert_eq!(in_flight.enter_on(0).err(), Some(Closed));
    }

    #[test]
    fn a_dropped_wait_closes_nothing() {
        let in_flight = InFlight::with_shards(2);
        let guard = in_flight.enter_on(0).expect("open");
        assert!(in_flight.closed_when_idle().now_or_never().is_none());
        drop(guard);
        drop(in_flight.enter_on(1).expect("still open"));
    }

    #[test]
    fn a_forced_closing_counts_what_is_left() {
        let in_flight = InFlight::with_shards(2);
        let guard = in_flight.enter_on(1).expect("open");
        assert_eq!(in_flight.close(), 1);
        assert_eq!(in_flight.enter_on(0).err(), Some(Closed));
        assert!(
            futures::executor::block_on(poll_immediate(in_flight.idle_after_close())).is_none()
        );
        drop(guard);
        futures::executor::block_on(in_flight.idle_after_close());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::future::block_on;
    use loom::thread;

    fn explore(f: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        // The races that matter need two switches; three keeps the run under a minute.
        model.preemption_bound = Some(3);
        model.check(f);
    }

    /// S3: work that was admitted is over when the closing is, on whichever shards both happen.
    #[test]
    fn no_interleaving_of_admit_and_close_loses_work() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let running = Arc::new(AtomicUsize::new(0));
            let worker = {
                let (in_flight, running) = (in_flight.clone(), running.clone());
                thread::spawn(move || {
                    if let Ok(guard) = in_flight.enter_on(1) {
                        running.fetch_add(1, Ordering::Relaxed);
                        running.fetch_sub(1, Ordering::Relaxed);
                        drop(guard);
                        true
                    } else {
                        false
                    }
                })
            };
            block_on(in_flight.closed_when_idle());
            assert_eq!(
                running.load(Ordering::Relaxed),
                0,
                "closed over running work"
            );
            assert!(in_flight.enter_on(0).is_err() && in_flight.enter_on(1).is_err());
            worker.join().expect("no panic");
            assert_eq!(in_flight.count(), 0);
        });
    }

    /// S13: while a guard is held, its holder may start more work, on any shard, whatever the closer is doing.
    #[test]
    fn work_in_flight_can_always_start_its_follow_up() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let guard = in_flight.enter_on(1).expect("open");
            let worker = {
                let in_flight = in_flight.clone();
                thread::spawn(move || {
                    let follow_up = in_flight.enter_on(0);
                    drop(guard);
                    assert!(follow_up.is_ok(), "refused while work was in flight");
                })
            };
            block_on(in_flight.closed_when_idle());
            worker.join().expect("no panic");
        });
    }

    /// T2: the wake-up of the last guard is never lost, also when two leave at once.
    #[test]
    fn the_waiter_always_wakes() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let leaving: Vec<_> = (0..2)
                .map(|shard| {
                    let guard = in_flight.enter_on(shard).expect("open");
                    thread::spawn(move || drop(guard))
                })
                .collect();
            block_on(in_flight.closed_when_idle());
            assert_eq!(in_flight.count(), 0);
            for thread in leaving {
                thread.join().expect("no panic");
            }
        });
    }

    /// A forced closing either counts an admission or refuses it.
    #[test]
    fn a_forced_closing_counts_or_refuses() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let worker = {
                let in_flight = in_flight.clone();
                thread::spawn(move || in_flight.enter_on(1).ok())
            };
            let left = in_flight.close();
            let guard = worker.join().expect("no panic");
            assert!(guard.is_none() || left >= 1, "admitted, but not counted");
            assert!(in_flight.enter_on(1).is_err());
            drop(guard);
            block_on(in_flight.idle_after_close());
        });
    }

    /// T2 for the forced closing: whoever leaves last, whenever, wakes the waiter.
    #[test]
    fn the_waiter_of_a_forced_closing_always_wakes() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let leaving: Vec<_> = (0..2)
                .map(|shard| {
                    let guard = in_flight.enter_on(shard).expect("open");
                    thread::spawn(move || drop(guard))
                })
                .collect();
            in_flight.close();
            block_on(in_flight.idle_after_close());
            assert_eq!(in_flight.count(), 0);
            for thread in leaving {
                thread.join().expect("no panic");
            }
        });
    }

    /// `run` may be dropped, which closes, while the engine tries to close on another thread and gives up.
    #[test]
    fn a_forced_closing_is_not_undone_by_a_failed_try() {
        explore(|| {
            let in_flight = Arc::new(InFlight::with_shards(2));
            let guard = in_flight.enter_on(1).expect("open");
            let engine = {
                let in_flight = in_flight.clone();
                thread::spawn(move || in_flight.close_if_idle())
            };
            in_flight.close();
            engine.join().expect("no panic");
            assert!(in_flight.enter_on(0).is_err() && in_flight.enter_on(1).is_err());
            drop(guard);
        });
    }
}
