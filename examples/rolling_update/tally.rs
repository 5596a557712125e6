//! What became of the requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::cli::Strategy;
use crate::client::Failure;
use crate::mix::Kind;

/// The counts of one strategy, while it runs.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<[Count; Kind::COUNT]>,
    updating: AtomicBool,
    latest_ms: AtomicU64,
}

#[derive(Default)]
struct Count {
    sent: u64,
    refused: u64,
    reset: u64,
    cut: u64,
    http_5xx: u64,
    timed_out: u64,
    /// Of the answers to requests that started between the first stop and the end of the last one.
    took: Vec<Duration>,
}

impl Count {
    const fn failed(&self) -> u64 {
        self.refused + self.reset + self.cut + self.http_5xx + self.timed_out
    }
}

impl Tally {
    /// Says whether replicas are being stopped at the moment.
    pub fn set_updating(&self, updating: bool) {
        self.updating.store(updating, Ordering::SeqCst);
    }

    pub fn is_updating(&self) -> bool {
        self.updating.load(Ordering::SeqCst)
    }

    /// A request left, so much later than it was due.
    pub fn sent(&self, kind: Kind, late: Duration) {
        self.counts()[kind as usize].sent += 1;
        let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        self.latest_ms.fetch_max(late, Ordering::SeqCst);
    }

    /// By how much the latest request left too late. A harness that can't keep up loses requests by itself.
    pub fn latest(&self) -> Duration {
        Duration::from_millis(self.latest_ms.load(Ordering::SeqCst))
    }

    pub fn failed(&self, kind: Kind, failure: Failure) {
        let count = &mut self.counts()[kind as usize];
        match failure {
            Failure::Refused => count.refused += 1,
            Failure::Reset => count.reset += 1,
            Failure::Cut => count.cut += 1,
            Failure::Http5xx => count.http_5xx += 1,
            Failure::TimedOut => count.timed_out += 1,
        }
    }

    /// An answer that counts for the latency.
    pub fn took(&self, kind: Kind, took: Duration) {
        self.counts()[kind as usize].took.push(took);
    }

    /// Requests sent and requests failed so far.
    pub fn totals(&self) -> (u64, u64) {
        let counts = self.counts();
        let sent = counts.iter().map(|count| count.sent).sum();
        let failed = counts.iter().map(Count::failed).sum();
        (sent, failed)
    }

    pub fn rows(&self, strategy: Strategy, kinds: &[Kind]) -> Vec<Row> {
        let mut counts = self.counts();
        kinds
            .iter()
            .map(|&kind| {
                let count = &mut counts[kind as usize];
                Row {
                    strategy: strategy.name(),
                    client: kind.name(),
                    sent: count.sent,
                    failed: count.failed(),
                    refused: count.refused,
                    reset: count.reset,
                    cut: count.cut,
                    http_5xx: count.http_5xx,
                    timed_out: count.timed_out,
                    p99_ms: p99(&mut count.took),
                }
            })
            .collect()
    }

    fn counts(&self) -> MutexGuard<'_, [Count; Kind::COUNT]> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row of the table. The field names are the keys of the JSON file.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub strategy: &'static str,
    pub client: &'static str,
    pub sent: u64,
    pub failed: u64,
    pub refused: u64,
    pub reset: u64,
    pub cut: u64,
    pub http_5xx: u64,
    pub timed_out: u64,
    /// None when no request of this kind was answered during the update.
    pub p99_ms: Option<f64>,
}

/// The time within which 99 of 100 answers were complete (nearest rank), in milliseconds with one decimal.
fn p99(took: &mut [Duration]) -> Option<f64> {
    took.sort_unstable();
    let rank = (took.len() * 99).div_ceil(100);
    let slowest = took.get(rank.checked_sub(1)?)?;
    Some((slowest.as_secs_f64() * 10_000.0).round() / 10.0)
}
