//! A little randomness, for jitter: from the operating system's seed of `RandomState`, spread by a counter.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number between 0 and 1, different for each call.
#[allow(clippy::cast_precision_loss)] // 53 bits are plenty for a jitter
pub(crate) fn share() -> f64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    STATE.get_or_init(RandomState::new).hash_one(number) as f64 / u64::MAX as f64
}

/// Numbers between 0 and 1 that fill the range evenly however many there are, from a random beginning on: multiples of
/// the golden ratio. The moments of many clients, one each, are no herd, and those of two pods differ.
// Of clients, which not every build has.
#[cfg_attr(not(feature = "middleware"), allow(dead_code))]
#[derive(Debug)]
pub(crate) struct Spread {
    from: f64,
    next: AtomicU64,
}

#[cfg_attr(not(feature = "middleware"), allow(dead_code))]
impl Spread {
    pub(crate) fn new() -> Self {
        Self::from(share())
    }

    const fn from(from: f64) -> Self {
        Self {
            from,
            next: AtomicU64::new(0),
        }
    }

    /// The next one.
    #[allow(clippy::cast_precision_loss)] // past 2^53 the shares get coarser
    pub(crate) fn next(&self) -> f64 {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n as f64)
            .mul_add(0.618_033_988_749_894_9, self.from)
            .fract()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// No part of the range gets more than its share and one: of 10,000 clients, in any hundredth of the ramp.
    #[test]
    fn spread_is_even_from_any_beginning_and_after_any_number() {
        for (from, count) in [(0.0, 7_usize), (0.3, 100), (0.999, 1_234), (0.5, 10_000)] {
            let spread = Spread::from(from);
            let mut shares: Vec<f64> = (0..count).map(|_| spread.next()).collect();
            shares.sort_by(f64::total_cmp);
            assert!(shares.iter().all(|s| (0.0..1.0).contains(s)));
            for (n, share) in shares.iter().enumerate() {
                #[allow(clippy::cast_precision_loss)]
                let even = n as f64 / count as f64;
                // The discrepancy of this sequence grows with the logarithm of its length.
                let off = (share - even).abs() * f64::from(u32::try_from(count).unwrap());
                assert!(
                    off < 4.0,
                    "{count} from {from}: the {n}th is at {share}, {off} off"
                );
            }
        }
    }
}
