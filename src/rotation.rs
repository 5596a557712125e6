//! When a client is asked to leave: the rotation of the lame duck.
//!
//! In the first half of the lame duck a growing share of the clients is asked, each at a moment of its own, so that they
//! do not come as a herd to the other pods; in the second half all are.

use std::time::Duration;

use tokio::time::Instant;

use crate::phase::Phase;
use crate::state::Signal;

/// When a client whose connection began then is asked, in a lame duck from `from` on of this length. `share` is its
/// place among all, between 0 and 1.
///
/// A connection that begins in the lame duck is of a client that was asked before and was sent back here, or that knows
/// of no other pod: it is asked between its beginning and the half, and never at once, so that such a client
/// dials a few times and not without end. In the second half it is asked with its first answer: left alone, it
/// could be idle when the drain closes it, and a handshake more per request is the lesser price.
pub(crate) fn asked_at(from: Instant, length: Duration, began: Instant, share: f64) -> Instant {
    let (begins, half) = (began.max(from), from + length / 2);
    begins + half.saturating_duration_since(begins).mul_f64(share)
}

/// Whether a connection that began then is one of the second half, or later.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) fn is_late(from: Instant, length: Duration, began: Instant) -> bool {
    began >= from + length / 2
}

/// Whether a client whose connection began then is asked now to take its next request elsewhere.
pub(crate) fn is_asked(signal: &Signal, began: Instant, share: f64) -> bool {
    match signal.phase {
        Phase::Starting | Phase::Ready | Phase::PreStop => false,
        Phase::LameDuck => signal
            .lame_duck
            .is_some_and(|(from, length)| asked_at(from, length, began, share) <= Instant::now()),
        Phase::Draining | Phase::Stopping | Phase::Stopped => true,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::random::Spread;

    fn cases() -> ProptestConfig {
        ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 128 },
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    /// No slot of a twentieth of the window gets more than its tenth and a little: the first half is ten of them.
    #[test]
    fn ten_thousand_clients_are_no_herd() {
        const CLIENTS: u32 = 10_000;
        let (from, length) = (Instant::now(), Duration::from_secs(20));
        let spread = Spread::new();
        let mut slots = [0_u32; 20];
        for _ in 0..CLIENTS {
            let at = asked_at(from, length, from - Duration::from_secs(1), spread.next());
            let slot = (at - from).as_secs_f64() / length.as_secs_f64() * 20.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let slot = slot as usize;
            slots[slot.min(19)] += 1;
        }
        assert!(
            slots[..10].iter().all(|n| n.abs_diff(CLIENTS / 10) <= 4),
            "{slots:?}"
        );
        assert_eq!(slots[..10].iter().sum::<u32>(), CLIENTS, "{slots:?}");
    }

    proptest! {
        #![proptest_config(cases())]
        /// Whoever gets an answer in the second half is asked by it, whenever its connection began.
        #[test]
        fn nobody_is_unasked_in_the_second_half(
            length in 1..600_000_u64, began in -60_000..600_000_i64, share in 0.0..1.0_f64, after in 0..300_000_u64,
        ) {
            let (origin, length) = (Instant::now(), Duration::from_millis(length));
            let from = origin + Duration::from_secs(60);
            let began = from.checked_add_signed(began);
            let answered = (from + length / 2).max(began) + Duration::from_millis(after);
            prop_assert!(asked_at(from, length, began, share) <= answered);
        }

        /// Nobody is asked before the lame duck, or before it is there; in the first half hardly anyone at once.
        #[test]
        fn nobody_is_asked_before_its_time(
            length in 2..600_000_u64, began in -60_000..600_000_i64, share in 0.0..1.0_f64,
        ) {
            let (origin, length) = (Instant::now(), Duration::from_millis(length));
            let from = origin + Duration::from_secs(60);
            let began = from.checked_add_signed(began);
            let at = asked_at(from, length, began, share);
            prop_assert!(at >= from && at >= began);
            let begins = began.max(from);
            if !is_late(from, length, began) && share > 0.01 {
                prop_assert!(at - begins >= (length / 2 - (begins - from)).mul_f64(0.0099));
            }
        }

        /// The worst there is: no other pod, every client dials again in the instant in which it is asked.
        #[test]
        fn clients_that_are_always_sent_back_here_dial_a_few_times(clients in 1..200_usize, seconds in 1..60_u64) {
            let (from, length) = (Instant::now(), Duration::from_secs(seconds));
            let spread = Spread::new();
            // In the order of time, as they are accepted.
            let mut dials: Vec<(Instant, usize)> = (0..clients).map(|n| (from, n)).collect();
            let mut counts = vec![0_u32; clients];
            let mut all = 0;
            while let Some(next) = dials.iter().enumerate().min_by_key(|(_, d)| **d).map(|(n, _)| n) {
                let (began, client) = dials.swap_remove(next);
                let at = asked_at(from, length, began, spread.next());
                // A millisecond before the half is as good as in the second.
                if at + Duration::from_millis(1) < from + length / 2 {
                    counts[client] += 1;
                    all += 1;
                    dials.push((at, client));
                }
            }
            let most = counts.iter().max().copied().unwrap_or(0);
            prop_assert!(most <= 40, "{} of {} dials", most, all);
            prop_assert!(all <= 20 * clients, "{} dials of {} clients", all, clients);
        }
    }

    trait Signed {
        fn checked_add_signed(self, millis: i64) -> Self;
    }

    impl Signed for Instant {
        fn checked_add_signed(self, millis: i64) -> Self {
            let length = Duration::from_millis(millis.unsigned_abs());
            if millis < 0 {
                self - length
            } else {
                self + length
            }
        }
    }
}
