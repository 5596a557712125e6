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
