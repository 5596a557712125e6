//! [`Phase`]: where a service stands between its start and its end.

use std::fmt;

/// Where a service stands between its start and its end. The order is total and the phase only rises (S1).
///
/// | phase | `/startupz` `/readyz` `/livez` | listener | what happens |
/// |---|---|---|---|
/// | `Starting` | 503 503 200 | accepting | `on_started` hooks run |
/// | `Ready` | 200 200 200 | accepting | registries have the instance, heartbeats run |
/// | `PreStop` | 200 503 200 | accepting | registries are left, `pre_stop` hooks start |
/// | `LameDuck` | 200 503 200 | accepting; on Linux no new handshakes in its last 200 ms | everything is served while the world stops sending; clients are asked to leave |
/// | `Draining` | 200 503 200 | swept, closed | work in flight finishes |
/// | `Stopping` | 200 503 200 | closed | `on_stopped` hooks run in their reserved time |
/// | `Stopped` | none | closed | the report is ready |
///
/// ```
/// use prestop::Phase;
///
/// assert!(Phase::Ready < Phase::LameDuck);
/// assert!(Phase::LameDuck.is_accepting() && !Phase::LameDuck.is_ready());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum Phase {
    /// The process is up, its `on_started` hooks have not all finished.
    Starting,
    /// Everything started; traffic is wanted.
    Ready,
    /// The stop began: not ready, registries are being left, `pre_stop` hooks run; everything is still served.
    PreStop,
    /// Registries are left; the service waits, serving, until nobody sends any more.
    LameDuck,
    /// The listener is closed, work in flight finishes.
    Draining,
    /// `on_stopped` hooks run.
    Stopping,
    /// The end: the report is ready.
    Stopped,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Ready,
        Self::PreStop,
        Self::LameDuck,
        Self::Draining,
        Self::Stopping,
        Self::Stopped,
    ];

    /// Whether traffic is wanted: true in `Ready` alone.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the start is over, however it ended.
    #[must_use]
    pub const fn is_started(self) -> bool {
        !matches!(self, Self::Starting)
    }

    /// Whether a stop has begun.
    #[must_use]
    pub const fn is_stopping(self) -> bool {
        !matches!(self, Self::Starting | Self::Ready)
    }

    /// Whether listeners accept connections.
    #[must_use]
    pub const fn is_accepting(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Ready | Self::PreStop | Self::LameDuck
        )
    }

    /// The name in lower case, as it stands in reports and probe answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::PreStop => "pre_stop",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// The phase with this number, the inverse of `as u8`; anything past the last is `Stopped`.
    pub(crate) const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Starting,
            1 => Self::Ready,
            2 => Self::PreStop,
            3 => Self::LameDuck,
            4 => Self::Draining,
            5 => Self::Stopping,
            _ => Self::Stopped,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_order_of_the_story() {
        assert!(Phase::ALL.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn numbers_round_trip() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_u8(phase as u8), phase);
        }
    }
}
