//! [`Deadline`]: one absolute instant that every step is given.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{self, Instant};

/// One absolute instant. Every step of a stop gets such an instant, none a duration of its own choice.
///
/// On tokio's clock, so that tests on paused time mean something.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use prestop::Deadline;
/// use std::time::Duration;
///
/// let stop = Deadline::after(Duration::from_secs(30));
/// let call = stop.min(Deadline::after(Duration::from_millis(1500)));
/// assert_eq!(call.remaining(), Duration::from_millis(1500));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// About thirty years: what `Instant + Duration` can hold everywhere.
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

    /// The deadline `length` from now. A length past about thirty years is cut to that.
    #[must_use]
    pub fn after(length: Duration) -> Self {
        Self::at(Instant::now()) + length
    }

    /// The deadline at this instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// The time left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.0 <= Instant::now()
    }

    /// This deadline moved `length` earlier; unmoved where that would be before the clock's origin.
    #[must_use]
    pub fn earlier_by(self, length: Duration) -> Self {
        // `checked_sub` fails only before the clock's origin; zero subtracted keeps the instant.
        Self(self.0.checked_sub(length).unwrap_or(self.0))
    }

    /// Resolves at the deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost by dropping it.
    pub fn wait(self) -> impl Future<Output = ()> + Send + 'static {
        time::sleep_until(self.0)
    }

    /// The future's output, or `None` when the deadline passed first. The future is dropped then; a deadline
    /// that has already passed still polls the future once.
    ///
    /// # Cancel safety
    ///
    /// As safe as the future it is given.
    pub async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        time::timeout_at(self.0, future).await.ok()
    }
}

impl std::ops::Add<Duration> for Deadline {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0 + length.min(Self::FAR))
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {:.1} s", self.remaining().as_secs_f64())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_length_panics() {
        let far = Deadline::after(Duration::MAX);
        assert!(far.remaining() > Duration::from_secs(86_400 * 365));
        assert!(far.earlier_by(Duration::MAX) <= far);
        assert!(Deadline::after(Duration::ZERO).is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn bound_cuts_at_the_instant() {
        let begun = Instant::now();
        let cut = Deadline::after(Duration::from_secs(3))
            .bound(std::future::pending::<()>())
            .await;
        assert_eq!((cut, begun.elapsed()), (None, Duration::from_secs(3)));
        assert_eq!(
            Deadline::after(Duration::ZERO).bound(async { 1 }).await,
            Some(1)
        );
    }
}
