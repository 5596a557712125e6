//! [`Timeline`]: when each phase began, and what was planned for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::phase::Phase;

/// The time of one phase of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PhaseTime {
    /// Which phase.
    pub phase: Phase,
    /// The most it was meant to take when it began: `Draining` all that is not reserved for later, `Stopping` all that
    /// is left, so they do not add up. `LameDuck` lasts longer while `pre_stop` hooks run.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "planned_ms", serialize_with = "millis")
    )]
    pub planned: Duration,
    /// What it took, in whole milliseconds: the parts add up to the report's total exactly (S12).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "used_ms", serialize_with = "millis")
    )]
    pub used: Duration,
}

#[cfg(feature = "serde")]
pub(crate) fn millis<S: serde::Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// When each phase began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    begun: Vec<(Phase, Instant)>,
    planned: [Duration; Phase::ALL.len()],
}

impl Timeline {
    /// The phase began now. Phases arrive in their order, since the phase only rises.
    pub(crate) fn mark(&mut self, phase: Phase, now: Instant) {
        self.begun.push((phase, now));
    }

    pub(crate) fn plan(&mut self, phase: Phase, length: Duration) {
        self.planned[phase as usize] = length;
    }

    pub(crate) fn began(&self, phase: Phase) -> Option<Instant> {
        self.begun
            .iter()
            .find(|(p, _)| *p == phase)
            .map(|(_, at)| *at)
    }

    /// The phases of the stop from its trigger until `end`, and their sum. Offsets are cut to milliseconds before
    /// they are subtracted, so that no rounding is lost in the sum.
    pub(crate) fn stop(&self, end: Instant) -> (Vec<PhaseTime>, Duration) {
        let stop: Vec<_> = self
            .begun
            .iter()
            .filter(|(phase, _)| phase.is_stopping())
            .collect();
        let Some((_, trigger)) = stop.first() else {
            return (Vec::new(), Duration::ZERO);
        };
        let offset = |at: Instant| {
            let since = at.saturating_duration_since(*trigger);
            Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        let ends = stop.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let phases = stop
            .iter()
            .zip(ends)
            .filter(|((phase, _), _)| *phase != Phase::Stopped)
            .map(|((phase, from), to)| PhaseTime {
                phase: *phase,
                planned: self.planned[*phase as usize],
                used: offset(to) - offset(*from),
            })
            .collect();
        let stopped = self.began(Phase::Stopped).unwrap_or(end);
        (phases, offset(stopped))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_parts_add_up_to_the_millisecond() {
        let mut timeline = Timeline::default();
        for phase in Phase::ALL {
            timeline.mark(phase, Instant::now());
            tokio::time::advance(Duration::from_micros(1_999)).await;
        }
        let (phases, total) = timeline.stop(Instant::now());
        assert_eq!(phases.len(), 4);
        assert_eq!(total, Duration::from_millis(7), "4 x 1.999 ms, cut");
        assert_eq!(phases.iter().map(|p| p.used).sum::<Duration>(), total);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_is_not_over_ends_now() {
        let mut timeline = Timeline::default();
        timeline.mark(Phase::PreStop, Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        let (phases, total) = timeline.stop(Instant::now());
        assert_eq!(
            (phases[0].used, total),
            (Duration::from_secs(2), Duration::from_secs(2))
        );
    }
}
