//! [`Tally`]: how many requests were started, finished, refused. Sharded by thread like the count in flight.
//! [`StreamTally`]: how many streams were told to end, and what became of them.

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

/// What became of streams that the stop reached. Counted once per stream and stop.
#[derive(Debug, Default)]
pub(crate) struct StreamTally {
    told: AtomicU64,
    ended: AtomicU64,
    cut: AtomicU64,
    cut_by_policy: AtomicU64,
}

// Counted at the request edge, which not every build has.
#[cfg_attr(not(feature = "middleware"), allow(dead_code))]
impl StreamTally {
    pub(crate) fn told(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// Told, and over before the drain was cut.
    pub(crate) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Told, and still open at the cut.
    pub(crate) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Broken off because its policy says so.
    pub(crate) fn cut_by_policy(&self) {
        self.cut_by_policy.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sums(&self) -> StreamSums {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StreamSums {
            told: read(&self.told),
            ended: read(&self.ended),
            cut: read(&self.cut),
            cut_by_policy: read(&self.cut_by_policy),
        }
    }
}

/// What a [`StreamTally`] has counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamSums {
    pub(crate) told: u64,
    pub(crate) ended: u64,
    pub(crate) cut: u64,
    pub(crate) cut_by_policy: u64,
}
