//! [`Tally`]: how many requests were started, finished, refused. Sharded by thread like the count in flight.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::in_flight::thread_number;

const SHARDS: usize = 16;

/// How many requests there were. Statistics: nothing is decided by them but whether it is quiet.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    shards: [Counters; SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    started: AtomicU64,
    finished: AtomicU64,
    refused: AtomicU64,
}

// Counted at the request edge, which not every build has.
#[cfg_attr(not(feature = "middleware"), allow(dead_code))]
impl Tally {
    fn mine(&self) -> &Counters {
        &self.shards[thread_number() % SHARDS]
    }

    pub(crate) fn started(&self) {
        self.mine().started.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted as started turned out to be exempt. The sum stays right whichever shard takes it back.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) fn not_started(&self) {
        self.mine().started.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn finished(&self) {
        self.mine().finished.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.mine().refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Started, finished, refused so far.
    pub(crate) fn sums(&self) -> (u64, u64, u64) {
        self.shards.iter().fold((0, 0, 0), |(s, f, r), shard| {
            (
                s.wrapping_add(shard.started.load(Ordering::Relaxed)),
                f + shard.finished.load(Ordering::Relaxed),
                r + shard.refused.load(Ordering::Relaxed),
            )
        })
    }
}
