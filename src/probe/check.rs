//! The pure part: which probe is green in which phase, and what it says.

use std::time::Duration;

use crate::phase::Phase;
use crate::state::Readiness;

/// What the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    Ready,
    Startup,
}

impl Probe {
    pub(super) const ALL: [Self; 3] = [Self::Live, Self::Ready, Self::Startup];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
        }
    }

    pub(super) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|probe| probe.path() == path)
    }

    pub(super) const fn is_ok(self, phase: Phase, readiness: Readiness) -> bool {
        match self {
            Self::Live => true,
            Self::Ready => readiness.passes(phase),
            Self::Startup => phase.is_started(),
        }
    }

    const fn words(self, ok: bool) -> &'static str {
        match (self, ok) {
            (Self::Live, _) => "live",
            (Self::Ready, true) => "ready",
            (Self::Ready, false) => "not ready",
            (Self::Startup, true) => "started",
            (Self::Startup, false) => "not started",
        }
    }

    pub(super) fn text(self, ok: bool, phase: Phase, left: Option<Duration>) -> String {
        let left = left.map_or_else(String::new, |left| {
            format!(", {:.1} s left", left.as_secs_f64())
        });
        format!("{}: {phase}{left}\n", self.words(ok))
    }

    pub(super) fn json(self, ok: bool, phase: Phase, left: Option<Duration>) -> String {
        let probe = &self.path()[1..];
        let left = left.map_or_else(
            || "null".to_owned(),
            |left| format!("{:.1}", left.as_secs_f64()),
        );
        format!(
            "{{\"probe\":\"{probe}\",\"ok\":{ok},\"phase\":\"{phase}\",\"seconds_left\":{left}}}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `Phase`, column by column.
    #[test]
    fn each_phase_has_its_answers() {
        use Readiness::{FailWhenStopping, KeepServing, NotFoundWhenStopping};
        let row = |phase, readiness| Probe::ALL.map(|probe| probe.is_ok(phase, readiness));
        for readiness in [FailWhenStopping, NotFoundWhenStopping, KeepServing] {
            assert_eq!(row(Phase::Starting, readiness), [true, false, false]);
            assert_eq!(row(Phase::Ready, readiness), [true, true, true]);
        }
        for phase in Phase::ALL.into_iter().filter(|p| p.is_stopping()) {
            for readiness in [FailWhenStopping, NotFoundWhenStopping] {
                assert_eq!(row(phase, readiness), [true, false, true], "{phase}");
            }
            let still_serving = phase < Phase::Draining;
            assert_eq!(
                row(phase, KeepServing),
                [true, still_serving, true],
                "{phase}, keep serving"
            );
        }
    }

    #[test]
    fn the_answer_says_phase_and_seconds_left() {
        let left = Some(Duration::from_millis(23_420));
        assert_eq!(
            Probe::Ready.text(false, Phase::LameDuck, left),
            "not ready: lame_duck, 23.4 s left\n"
        );
        assert_eq!(
            Probe::Startup.text(true, Phase::Ready, None),
            "started: ready\n"
        );
        assert_eq!(
            Probe::Ready.json(false, Phase::LameDuck, left),
            "{\"probe\":\"readyz\",\"ok\":false,\"phase\":\"lame_duck\",\"seconds_left\":23.4}\n"
        );
        assert_eq!(
            Probe::Live.json(true, Phase::Ready, None),
            "{\"probe\":\"livez\",\"ok\":true,\"phase\":\"ready\",\"seconds_left\":null}\n"
        );
    }
}
