//! How long an idle HTTP/1 connection stays readable in the drain: the linger, or as long as its client's next request
//! can be waited for.
//!
//! A connection is idle then because its client has been silent for the second half of the lame duck, at least: every
//! answer in it says `Connection: close`. To close it is to hope that no request is on its way. With a client that sends
//! every few seconds it is better to wait for the request, and to say it with the answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::state::{Haste, Signal, State};

/// A connection lingers at most so many times the linger, 5 s by default: what is longer is waited for in vain.
pub(super) const LONGEST: u32 = 10;

/// The longest pause between an answer and the next request, among the last few: at least eight, where there were so
/// many, and at most sixteen. One long night does not count for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    recent: Duration,
    before: Duration,
    noted: u8,
}

impl Pauses {
    const AT_LEAST: u8 = 8;

    pub(super) fn note(&mut self, pause: Duration) {
        if self.noted == Self::AT_LEAST {
            self.before = std::mem::take(&mut self.recent);
            self.noted = 0;
        }
        self.recent = self.recent.max(pause);
        self.noted += 1;
    }

    /// A client that made too few to know it by them is taken for one like the `others`.
    pub(super) fn longest(&self, others: Duration) -> Duration {
        let own = self.recent.max(self.before);
        match self.noted < Self::AT_LEAST && self.before.is_zero() {
            true => own.max(others),
            false => own,
        }
    }
}

/// Takes note of a pause of any client, where it is short enough to be waited for. A service whose clients are all busy
/// has short ones alone, and waits for nobody.
pub(super) fn note_for_all(state: &State, pause: Duration) {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let longest = &state.longest_pause;
    // Written rarely: most pauses are shorter than the longest.
    if pause <= state.settings.linger.saturating_mul(LONGEST)
        && millis > longest.load(Ordering::Relaxed)
    {
        longest.fetch_max(millis, Ordering::Relaxed);
    }
}

/// The longest of those.
pub(super) fn longest_of_all(state: &State) -> Duration {
    Duration::from_millis(state.longest_pause.load(Ordering::Relaxed))
}

/// When a connection that has been idle since then is closed: after the linger; or, where its longest pause says that
/// the next request comes within ten times the linger and a quarter of the drain, after that pause and half as much
/// again. A client that has been silent for longer than ever is not waited for, nor is one whose pauses are too long;
/// and nobody who is in a hurry waits.
pub(super) fn closes_at(
    signal: &Signal,
    drain: Instant,
    idle_since: Instant,
    longest_pause: Duration,
    linger: Duration,
) -> Instant {
    let least = idle_since.max(drain) + linger;
    let Some(stop) = signal.stop.filter(|_| signal.haste == Haste::None) else {
        return least;
    };
    let time = stop.drain_by.instant().saturating_duration_since(drain);
    let most = drain + linger.saturating_mul(LONGEST).min(time / 4);
    if idle_since + longest_pause > most {
        return least;
    }
    (idle_since + longest_pause * 3 / 2).min(most).max(least)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    use crate::coordinator::ShutdownCoordinator;
    use crate::handle::ShutdownHandle;
    use crate::phase::Phase;
    use crate::reason::Reason;

    const LINGER: Duration = Duration::from_millis(500);

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A drain of 24.6 s, and its signal.
    fn draining() -> (ShutdownHandle, Signal) {
        let c = ShutdownCoordinator::builder_without_signals()
            .grace_period(crate::GracePeriod::from_secs(30).expect("seconds"))
            .build()
            .expect("the defaults fit");
        let handle = c.handle();
        handle.trigger(Reason::requested("test"));
        handle.state().raise(Phase::Draining);
        let signal = handle.state().signal();
        (handle, signal)
    }

    /// How long after the drain's begin a client's connection is closed that has been silent for so long before it.
    fn lingers(signal: &Signal, silent: Duration, longest_pause: Duration) -> Duration {
        let drain = signal.draining_since.expect("it is on");
        closes_at(signal, drain, drain - silent, longest_pause, LINGER) - drain
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_due_is_waited_for() {
        tokio::time::advance(millis(100_000)).await;
        let (handle, signal) = draining();
        // Due in 1 s; half as much again is for a pause that is longer than ever.
        assert_eq!(
            lingers(&signal, millis(3_000), millis(4_000)),
            millis(3_000)
        );
        // Overdue by less than half, by more.
        assert_eq!(
            lingers(&signal, millis(5_000), millis(4_000)),
            millis(1_000)
        );
        assert_eq!(lingers(&signal, millis(7_000), millis(4_000)), LINGER);
        // Ten times the linger is the most, and what is due after it is not waited for.
        assert_eq!(
            lingers(&signal, millis(4_000), millis(8_900)),
            millis(5_000)
        );
        assert_eq!(lingers(&signal, millis(4_000), millis(9_100)), LINGER);
        assert_eq!(lingers(&signal, millis(4_000), millis(60_000)), LINGER);
        // No pause is known, or only short ones.
        assert_eq!(lingers(&signal, millis(0), millis(0)), LINGER);
        assert_eq!(lingers(&signal, millis(0), millis(100)), LINGER);
        handle.end_lame_duck();
        let hasty = handle.state().signal();
        assert_eq!(lingers(&hasty, millis(3_000), millis(4_000)), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_drain_is_not_spent_on_it() {
        tokio::time::advance(millis(100_000)).await;
        let (handle, _) = draining();
        // 5 s, less 1 for the exit, 0.5 for hooks, 0.25 for the cut, leave 3.25 for the drain.
        handle.trigger_within(Reason::requested("sooner"), millis(5_000));
        let signal = handle.state().signal();
        assert_eq!(
            lingers(&signal, millis(3_000), millis(3_500)),
            millis(3_250) / 4
        );
    }

    /// One that has just connected, or asked once.
    #[tokio::test]
    async fn a_client_that_is_hardly_known_is_taken_for_one_like_the_others() {
        let (handle, _) = draining();
        let state = handle.state();
        for pause in [300, 4_900, 60_000, 2_000] {
            note_for_all(state, millis(pause));
        }
        assert_eq!(
            longest_of_all(state),
            millis(4_900),
            "as far as it is waited for"
        );
        let mut pauses = Pauses::default();
        for _ in 0..7 {
            pauses.note(millis(20));
            assert_eq!(pauses.longest(longest_of_all(state)), millis(4_900));
        }
        for _ in 0..20 {
            pauses.note(millis(20));
            assert_eq!(pauses.longest(longest_of_all(state)), millis(20));
        }
    }

    #[test]
    fn a_long_pause_is_forgotten() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.longest(Duration::ZERO), Duration::ZERO);
        for _ in 0..100 {
            pauses.note(millis(20));
        }
        pauses.note(millis(60_000));
        for _ in 0..7 {
            pauses.note(millis(30));
            assert_eq!(pauses.longest(Duration::ZERO), millis(60_000));
        }
        for _ in 0..16 {
            pauses.note(millis(30));
        }
        assert_eq!(pauses.longest(Duration::ZERO), millis(30));
    }

    /// Clients that pause for 1 to 5 s, and are 10 ms away: how many send in the very moment of the close.
    #[tokio::test(start_paused = true)]
    async fn hardly_a_request_meets_the_close() {
        const CLIENTS: u32 = 200_000;
        const AWAY: Duration = Duration::from_millis(10);
        tokio::time::advance(millis(100_000)).await;
        let (_handle, signal) = draining();
        let mut random = fastrand::Rng::with_seed(1);
        let (mut after_the_linger, mut after_the_pause) = (0, 0);
        for _ in 0..CLIENTS {
            let mut pause = || millis(random.u64(1_000..5_000));
            let mut pauses = Pauses::default();
            for _ in 0..10 {
                pauses.note(pause());
            }
            let pause = pause();
            let silent = pause.mul_f64(random.f64());
            // Who sent in the second half of the lame duck was told, and is gone.
            if silent < millis(2_500) {
                continue;
            }
            let sends = pause - silent;
            let meets =
                |close: Duration| (close.saturating_sub(AWAY)..close + AWAY).contains(&sends);
            after_the_linger += u32::from(meets(LINGER));
            after_the_pause += u32::from(meets(lingers(
                &signal,
                silent,
                pauses.longest(Duration::ZERO),
            )));
        }
        // A pause that is longer by half than ten others is rare.
        assert!(
            after_the_linger > 200 && after_the_pause * 100 < after_the_linger,
            "{after_the_linger} and {after_the_pause} of {CLIENTS}"
        );
    }
}
