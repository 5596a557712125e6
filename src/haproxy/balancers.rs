//! Who asks, how often, and who has been told: the pure part.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// More balancers, or checks of one, than anybody runs; whoever connects cannot make this grow.
const SOURCES: usize = 256;
const CHECKS: usize = 256;

/// A gap of less than this share of the interval is no check's own jitter: there are several.
const SEVERAL: f64 = 0.6;

/// A balancer that has not asked for so many intervals when the stop begins is gone, if that is not a pause that a busy
/// machine may make.
const GONE: u32 = 3;
const PAUSE: Duration = Duration::from_secs(10);

/// Who asks: an address, and what it sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    ip: IpAddr,
    text: String,
}

impl Source {
    /// The text is what `agent-send` says, as far as its first line goes.
    pub(super) fn new(ip: IpAddr, text: &[u8]) -> Self {
        let line = text
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .next()
            .unwrap_or_default();
        Self {
            ip: ip.to_canonical(),
            text: String::from_utf8_lossy(line).into_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        if self.text.is_empty() {
            Ok(())
        } else {
            write!(f, " {:?}", self.text)
        }
    }
}

/// What is known of one source.
#[derive(Debug, Default)]
struct History {
    /// When it was told that the service is ready, oldest first.
    sent_here: VecDeque<Instant>,
    /// How often it was told that the service leaves.
    told: usize,
}

impl History {
    fn gaps(&self) -> impl Iterator<Item = Duration> + '_ {
        let next = self.sent_here.iter().skip(1);
        self.sent_here
            .iter()
            .zip(next)
            .map(|(one, other)| other.saturating_duration_since(*one))
    }

    /// How many checks are behind it: those that asked in the last interval, where there must be several.
    fn checks(&self, interval: Duration) -> usize {
        let several = interval.mul_f64(SEVERAL);
        let Some(last) = self.sent_here.back() else {
            return 0;
        };
        // Only what is recent: a restart of the balancer is no second check.
        let in_one = |at: &&Instant| last.saturating_duration_since(**at) < interval;
        let count = self.sent_here.iter().filter(in_one).count();
        let recent = self
            .gaps()
            .skip(self.sent_here.len().saturating_sub(count + 1));
        match recent.min() {
            Some(gap) if gap < several => count,
            _ => 1,
        }
    }

    /// Whether it was still sending when the stop began.
    fn is_active(&self, interval: Duration, since: Instant) -> bool {
        // One that asks more seldom than we were told is seen to.
        let longest = self.gaps().max().unwrap_or_default();
        let silent = interval
            .saturating_mul(GONE)
            .max(PAUSE)
            .max(longest.saturating_mul(2));
        self.sent_here
            .back()
            .is_some_and(|last| since.saturating_duration_since(*last) <= silent)
    }
}

/// Everybody who asks.
#[derive(Debug)]
pub(super) struct Balancers {
    interval: Duration,
    by_source: BTreeMap<Source, History>,
}

impl Balancers {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            by_source: BTreeMap::new(),
        }
    }

    /// It was told that the service is ready.
    pub(super) fn was_sent_here(&mut self, source: Source, at: Instant) {
        if self.by_source.len() >= SOURCES && !self.by_source.contains_key(&source) {
            let oldest = self
                .by_source
                .iter()
                .min_by_key(|(_, history)| history.sent_here.back().copied())
                .map(|(source, _)| source.clone());
            if let Some(oldest) = oldest {
                self.by_source.remove(&oldest);
            }
        }
        let history = self.by_source.entry(source).or_default();
        if history.sent_here.len() >= CHECKS {
            history.sent_here.pop_front();
        }
        history.sent_here.push_back(at);
    }

    /// It was told that the service leaves. One that never heard of the service is of no interest.
    pub(super) fn was_told(&mut self, source: &Source) {
        if let Some(history) = self.by_source.get_mut(source) {
            history.told += 1;
            if history.told == 1 {
                tracing::info!(balancer = %source, "HAProxy was told that the service leaves");
            }
        }
    }

    /// Those that were sending when the stop began, and have not been told yet.
    pub(super) fn missing(&self, since: Instant) -> Vec<Missing> {
        let active = self
            .by_source
            .iter()
            .filter(|(_, history)| history.is_active(self.interval, since));
        let missing = active.filter_map(|(source, history)| {
            let checks = history.checks(self.interval);
            (history.told < checks).then(|| Missing {
                source: source.clone(),
                told: history.told,
                checks,
                gap: history.gaps().max().filter(|gap| *gap > self.interval),
                interval: self.interval,
            })
        });
        missing.collect()
    }
}

/// A balancer that has not been told.
#[derive(Debug)]
pub(super) struct Missing {
    source: Source,
    told: usize,
    checks: usize,
    /// The longest time between two of its checks, where it is longer than the interval.
    gap: Option<Duration>,
    interval: Duration,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.source)?;
        match self.told {
            0 => f.write_str("has not asked its agent check since the stop began")?,
            told => write!(
                f,
                "has asked {told} times of {} since the stop began",
                self.checks
            )?,
        }
        match self.gap {
            Some(gap) => write!(
                f,
                " (it asked every {:.1} s before, and with_agent_inter says {:.1} s)",
                gap.as_secs_f64(),
                self.interval.as_secs_f64()
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn source(name: &str) -> Source {
        Source::new([10, 0, 0, 7].into(), name.as_bytes())
    }

    /// At these moments, in milliseconds, it was told that the service is ready; the stop begins at the end.
    fn asked(name: &str, at: &[u64], stop: u64) -> (Balancers, Instant) {
        let start = Instant::now();
        let mut balancers = Balancers::new(INTERVAL);
        for at in at {
            balancers.was_sent_here(source(name), start + Duration::from_millis(*at));
        }
        (balancers, start + Duration::from_millis(stop))
    }

    /// How often it has to be told.
    fn needed(at: &[u64], stop: u64) -> usize {
        let (mut balancers, since) = asked("", at, stop);
        for told in 0..100 {
            if balancers.missing(since).is_empty() {
                return told;
            }
            balancers.was_told(&source(""));
        }
        panic!("it is never enough")
    }

    #[test]
    fn nobody_asked_and_nobody_is_waited_for() {
        assert_eq!(needed(&[], 5_000), 0);
    }

    #[test]
    fn one_check_is_told_once_whatever_its_jitter() {
        assert_eq!(needed(&[0], 100), 1, "it has just begun");
        assert_eq!(needed(&[0, 2_003, 4_001, 6_000], 7_999), 1);
        assert_eq!(needed(&[0, 1_700, 3_900, 5_600], 5_700), 1, "spread-checks");
        assert_eq!(needed(&[0, 2_000, 6_000], 8_000), 1, "one was lost");
    }

    #[test]
    fn several_checks_behind_one_address_are_all_told() {
        let two = [0, 300, 2_000, 2_300, 4_000, 4_300];
        assert_eq!(needed(&two, 4_400), 2);
        assert_eq!(needed(&two[..5], 4_100), 2);
        let three = [0, 700, 1_400, 2_000, 2_700, 3_400, 4_000];
        assert_eq!(needed(&three, 4_100), 3);
    }

    #[test]
    fn a_reload_is_no_second_check_for_ever() {
        // The old process asked at 0 and 2 s, the new one from 2.5 s on.
        assert_eq!(
            needed(&[0, 2_000, 2_500], 2_600),
            2,
            "they may both be there"
        );
        assert_eq!(needed(&[0, 2_000, 2_500, 4_500, 6_500], 6_600), 1);
    }

    #[test]
    fn one_that_was_gone_before_the_stop_is_not_waited_for() {
        assert_eq!(needed(&[0, 2_000], 12_001), 0);
        assert_eq!(needed(&[0, 2_000], 12_000), 1);
        assert_eq!(needed(&[0, 10_000], 29_000), 1, "it asks every 10 s");
    }

    #[test]
    fn a_text_tells_checks_of_one_address_apart() {
        let (mut balancers, since) = asked("lb1-web\nmore", &[0, 2_000], 2_500);
        for at in [300, 2_300] {
            let at = since - Duration::from_millis(2_500 - at);
            balancers.was_sent_here(source("lb1-api\r\n"), at);
        }
        assert_eq!(balancers.missing(since).len(), 2);
        balancers.was_told(&source("lb1-web"));
        balancers.was_told(&source("lb1-web"));
        balancers.was_told(&source("somebody else"));
        let missing = balancers.missing(since);
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].to_string(),
            "10.0.0.7 \"lb1-api\" has not asked its agent check since the stop began"
        );
    }

    #[test]
    fn a_slow_one_is_named_with_what_to_configure() {
        let (balancers, since) = asked("", &[0, 10_000], 11_000);
        assert_eq!(
            balancers.missing(since)[0].to_string(),
            "10.0.0.7 has not asked its agent check since the stop began (it asked every 10.0 s before, and \
             with_agent_inter says 2.0 s)"
        );
    }

    #[test]
    fn whoever_connects_cannot_make_it_grow() {
        let start = Instant::now();
        let mut balancers = Balancers::new(INTERVAL);
        for n in 0..10_000_u64 {
            let at = start + Duration::from_millis(n);
            balancers.was_sent_here(source(&n.to_string()), at);
            balancers.was_sent_here(source("regular"), at);
        }
        assert_eq!(balancers.by_source.len(), SOURCES);
        assert_eq!(
            balancers.by_source[&source("regular")].sent_here.len(),
            CHECKS
        );
    }
}
