//! [`GracePeriod`] and [`Budget`]: the time there is, and how it is split. Every rule is a value in this file.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Kind};

/// `terminationGracePeriodSeconds`: the seconds between the kubelet's first step against a container and SIGKILL.
///
/// The clock includes the preStop hook (kubelet rules R9 to R11). The downward API cannot give the number
/// (kubernetes#50032), so the manifest repeats it in `TERMINATION_GRACE_PERIOD_SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GracePeriod(Duration);

impl GracePeriod {
    /// The variable that [`from_env`](Self::from_env) reads.
    pub const VARIABLE: &'static str = "TERMINATION_GRACE_PERIOD_SECONDS";

    /// 30 s, what Kubernetes gives a pod whose manifest says nothing.
    pub const DEFAULT: Self = Self(Duration::from_secs(30));

    /// A year: longer than any grace period that is meant, short enough that no clock overflows.
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);

    const ADVICE: &'static str = "give the whole seconds of the pod's terminationGracePeriodSeconds, \
        from 1 to 31536000, without a unit; or unset it for 30";

    /// A grace period of this many seconds.
    ///
    /// # Errors
    ///
    /// [`Error::is_grace_period`] for 0 (Kubernetes' word for "kill at once": there is nothing to plan) and for
    /// more than a year.
    pub fn from_secs(seconds: u64) -> Result<Self, Error> {
        Self::checked(
            "terminationGracePeriodSeconds",
            &seconds.to_string(),
            Some(seconds),
        )
    }

    /// The grace period from the variable `TERMINATION_GRACE_PERIOD_SECONDS`, else 30 s.
    ///
    /// # Errors
    ///
    /// [`Error::is_grace_period`] when the variable is set to anything else than whole seconds from 1 to 31536000
    /// (`0`, `-5`, `abc`, `30s`): a typo must not become a default that Kubernetes does not share.
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var_os(Self::VARIABLE) {
            None => Ok(Self::DEFAULT),
            Some(value) => {
                let value = value.to_string_lossy();
                Self::checked(Self::VARIABLE, &value, value.parse().ok())
            }
        }
    }

    fn checked(from: &str, value: &str, seconds: Option<u64>) -> Result<Self, Error> {
        seconds
            .filter(|s| (1..=Self::LONGEST.as_secs()).contains(s))
            .map(|s| Self(Duration::from_secs(s)))
            .ok_or_else(|| {
                Error::new(Kind::GracePeriod {
                    from: from.to_owned(),
                    value: value.to_owned(),
                    advice: Self::ADVICE,
                })
            })
    }

    /// The length.
    #[must_use]
    pub const fn length(self) -> Duration {
        self.0
    }
}

impl Default for GracePeriod {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for GracePeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs())
    }
}

/// Names the length of the manifest's preStop `sleep` in whole seconds, for the process, which cannot see it.
pub(crate) const SLEEP_VARIABLE: &str = "PRE_STOP_SLEEP_SECONDS";

/// The length of the `sleep` hook from the variable, else zero.
pub(crate) fn sleep_from_env() -> Result<Duration, Error> {
    let Some(value) = std::env::var_os(SLEEP_VARIABLE) else {
        return Ok(Duration::ZERO);
    };
    let value = value.to_string_lossy();
    sleep_from(&value).ok_or_else(|| {
        Error::new(Kind::PreStopSleep {
            variable: SLEEP_VARIABLE,
            value: value.into_owned(),
        })
    })
}

/// Whole seconds, as `sleep: { seconds: .. }` in the manifest; no more than the longest grace period.
pub(crate) fn sleep_from(value: &str) -> Option<Duration> {
    let seconds = value.parse().ok().map(Duration::from_secs)?;
    (seconds <= GracePeriod::LONGEST).then_some(seconds)
}

/// How a length of time until SIGKILL is split. The drain gets what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// The whole that is split.
    pub(crate) total: Duration,
    /// Between the deadline and SIGKILL: for the exit itself. The kubelet's extra 2 s (R15) are never planned on.
    pub(crate) exit_reserve: Duration,
    /// Reserved for `on_stopped` hooks, whatever the drain used (S7).
    pub(crate) on_stopped: Duration,
    /// Reserved for cutting what is left after the drain.
    pub(crate) force_close: Duration,
    /// For leaving the registries, all at once.
    pub(crate) leave: Duration,
    /// What one `pre_stop` hook gets that has no limit of its own.
    pub(crate) pre_stop: Duration,
    /// Too short for a lame duck: registries are left without waiting for visibility, hooks get the leave budget.
    pub(crate) express: bool,
}

/// At and under this there is no room for a lame duck: kube-proxy alone needs about a second to notice.
const EXPRESS: Duration = Duration::from_secs(3);

/// On Kubernetes, without a registry that says more: endpoint removal was seen to take 0.9 to 1.1 s in a rollout,
/// and bigger clusters and external load balancers add to it.
const LAME_DUCK_ON_KUBERNETES: Duration = Duration::from_secs(5);

/// Under this share of the grace period the drain is no drain: `build()` refuses.
const LEAST_DRAIN: f64 = 0.10;

impl Shares {
    pub(crate) fn of(total: Duration) -> Self {
        let share = |percent: f64| total.mul_f64(percent / 100.0);
        let clamped = |percent: f64, low: f64, high: f64| {
            share(percent).clamp(Duration::from_secs_f64(low), Duration::from_secs_f64(high))
        };
        if total < EXPRESS {
            // The floors below would eat everything: pure shares, the drain keeps 35 %.
            let leave = share(20.0);
            return Self {
                total,
                exit_reserve: share(20.0),
                on_stopped: share(15.0),
                force_close: share(10.0),
                leave,
                pre_stop: leave,
                express: true,
            };
        }
        let express = total <= EXPRESS;
        let leave = clamped(15.0, 0.5, 5.0);
        let mut shares = Self {
            total,
            exit_reserve: clamped(5.0, 1.0, 5.0),
            on_stopped: clamped(10.0, 0.5, 10.0),
            force_close: clamped(3.0, 0.25, 2.0),
            leave,
            pre_stop: leave,
            express,
        };
        if !express {
            let third = (total / 3).min(Duration::from_secs(10));
            shares.pre_stop = third.min(shares.room_before_drain());
        }
        shares
    }

    /// What one `pre_stop` hook gets: its own limit, or the default; in an express stop never past the leave budget.
    pub(crate) fn pre_stop_limit(&self, own: Option<Duration>) -> Duration {
        let limit = own.unwrap_or(self.pre_stop);
        if self.express {
            limit.min(self.leave)
        } else {
            limit
        }
    }

    /// One attempt at leaving a registry: at most half the budget and 1.5 s, so that a lost packet leaves room for
    /// a second one.
    pub(crate) fn leave_attempt(&self) -> Duration {
        (self.leave / 2).min(Duration::from_millis(1500))
    }

    /// What is left for leaving, lame duck and `pre_stop` hooks when all that comes later has its part. A default
    /// that made `build()` fail would be no default: just above 3 s a third is more than that.
    fn room_before_drain(&self) -> Duration {
        let later = self.exit_reserve + self.on_stopped + self.force_close + self.least_drain();
        self.total.saturating_sub(later)
    }

    /// The least the drain must have to be called one.
    pub(crate) fn least_drain(&self) -> Duration {
        self.total.mul_f64(LEAST_DRAIN)
    }
}

/// How long the lame duck is, before it is known how leaving went.
#[derive(Clone, Debug, Default)]
pub(crate) struct LameDuck {
    /// Set in code; else the default of the place we run in.
    pub(crate) length: Option<Duration>,
    /// End early after this long without a new request, once every visibility is over.
    pub(crate) until_quiet: Option<Duration>,
    /// `KUBERNETES_SERVICE_HOST` is set.
    pub(crate) on_kubernetes: bool,
}

impl LameDuck {
    /// The length that holds whatever registries say: what was set, else 5 s on Kubernetes (at most a third of the
    /// time there is, and what leaves a drain: that is less at 4 s), else nothing.
    pub(crate) fn floor(&self, shares: &Shares) -> Duration {
        if shares.express {
            return Duration::ZERO;
        }
        match self.length {
            Some(length) => length,
            None if self.on_kubernetes => LAME_DUCK_ON_KUBERNETES
                .min(shares.total / 3)
                .min(shares.room_before_drain().saturating_sub(shares.leave)),
            None => Duration::ZERO,
        }
    }

    /// The length once every registry was left: a declared visibility is never cut.
    pub(crate) fn length(&self, shares: &Shares, visibility: Duration) -> Duration {
        if shares.express {
            Duration::ZERO
        } else {
            self.floor(shares).max(visibility)
        }
    }
}

/// The grace period, what of it is spent before the process learns of the stop, and everything that has to fit.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub(crate) grace: GracePeriod,
    /// The length of a `sleep` hook, which the process cannot see (R25).
    pub(crate) pre_stop_elapsed: Duration,
    pub(crate) lame_duck: LameDuck,
    /// The longest limit that any `pre_stop` hook was given, with its name.
    pub(crate) longest_hook: Option<(String, Duration)>,
    /// The largest visibility that a registry declared, with its name.
    pub(crate) visibility: Option<(String, Duration)>,
}

impl Budget {
    /// A `pre_stop` hook must fit: its name, and its limit if it has one of its own.
    pub(crate) fn add_hook(&mut self, hook: &Option<(String, Option<Duration>)>) {
        if let Some((name, Some(limit))) = hook
            && self
                .longest_hook
                .as_ref()
                .is_none_or(|(_, longest)| limit > longest)
        {
            self.longest_hook = Some((name.clone(), *limit));
        }
    }

    /// A registry's visibility must fit.
    pub(crate) fn add_visibility(&mut self, name: &str, visibility: Duration) {
        if self
            .visibility
            .as_ref()
            .is_none_or(|(_, longest)| visibility > *longest)
        {
            self.visibility = Some((name.to_owned(), visibility));
        }
    }

    /// The split of a stop that a preStop call began: the whole grace period.
    pub(crate) fn whole(&self) -> Shares {
        Shares::of(self.grace.length())
    }

    /// The split of a stop that a signal began, after a `sleep` hook.
    pub(crate) fn after_pre_stop_hook(&self) -> Shares {
        Shares::of(self.grace.length().saturating_sub(self.pre_stop_elapsed))
    }

    /// The grace period, or that of the pod's manifest if it is shorter.
    pub(crate) fn grace_with(&self, pod: Option<GracePeriod>) -> GracePeriod {
        pod.map_or(self.grace, |pod| pod.min(self.grace))
    }

    /// What the drain gets at the least, in seconds; negative when the parts do not fit.
    fn guaranteed_drain(&self, shares: &Shares) -> f64 {
        let fixed = shares.exit_reserve + shares.on_stopped + shares.force_close;
        shares.total.as_secs_f64() - fixed.as_secs_f64() - self.before_drain(shares).as_secs_f64()
    }

    fn before_drain(&self, shares: &Shares) -> Duration {
        self.hook_limit(shares)
            .max(shares.leave.saturating_add(self.declared_lame_duck(shares)))
    }

    /// The default counts even without hooks: the guaranteed drain is one number per grace period.
    fn hook_limit(&self, shares: &Shares) -> Duration {
        let own = self.longest_hook.as_ref().map(|(_, limit)| *limit);
        shares.pre_stop_limit(own).max(shares.pre_stop_limit(None))
    }

    fn declared_lame_duck(&self, shares: &Shares) -> Duration {
        let visibility = self.visibility.as_ref().map_or(Duration::ZERO, |(_, v)| *v);
        self.lame_duck.length(shares, visibility)
    }

    /// Fails with the arithmetic when the drain would get less than 10 % of the grace period.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let shares = self.after_pre_stop_hook();
        if self.fits(&shares) {
            return Ok(());
        }
        Err(Error::new(Kind::Budget(self.arithmetic(&shares))))
    }

    fn fits(&self, shares: &Shares) -> bool {
        // A `sleep` hook as long as the grace period leaves nothing to split.
        // In whole nanoseconds: what is said to fit does, to the last of them.
        shares.total > Duration::ZERO && self.before_drain(shares) <= shares.room_before_drain()
    }

    /// The smallest grace period in whole seconds in which everything fits.
    fn grace_that_fits(&self) -> Option<u64> {
        let from = self.grace.length().as_secs() + 1;
        (from..from + 86_400).find(|seconds| {
            let total = Duration::from_secs(*seconds).saturating_sub(self.pre_stop_elapsed);
            self.fits(&Shares::of(total))
        })
    }

    /// A visibility is the sum of what lies between the registry and a call, and a choice: what clients do with an
    /// instance that is gone decides whether all of it has to be waited for.
    fn remedy_for_visibility(name: &str, fits: Duration) -> String {
        format!(
            "have the clients of {name:?} notice sooner (shorter caches in the registry and in them, more frequent polls) \
             and declare what that takes with `with_visibility`{}; or, where they try another instance when a connection \
             is refused, declare less: they may then call longer than they are waited for",
            at_most(fits)
        )
    }

    fn arithmetic(&self, shares: &Shares) -> String {
        let s = |d: Duration| format!("{:.1}", d.as_secs_f64());
        let mut terms = format!("{} grace period", s(self.grace.length()));
        if self.pre_stop_elapsed > Duration::ZERO {
            terms += &format!(" - {} sleep hook", s(self.pre_stop_elapsed));
        }
        let lame_duck = self.declared_lame_duck(shares);
        let hook_limit = self.hook_limit(shares);
        let (before, remedy) = if hook_limit > shares.leave.saturating_add(lame_duck) {
            let name = self
                .longest_hook
                .as_ref()
                .map_or("default", |(name, _)| name.as_str());
            (
                format!("{} pre_stop hook {name:?}", s(hook_limit)),
                "give that hook a shorter limit".to_owned(),
            )
        } else {
            let room = shares.room_before_drain();
            // Where the hook does not fit either, no lame duck does.
            let fits = match hook_limit <= room {
                true => room.saturating_sub(shares.leave),
                false => Duration::ZERO,
            };
            let (from, remedy) = match &self.visibility {
                Some((name, visibility)) if *visibility == lame_duck => (
                    format!("visibility of {name:?}"),
                    Self::remedy_for_visibility(name, fits),
                ),
                _ => (
                    "as set".to_owned(),
                    format!("shorten the lame duck{}", at_most(fits)),
                ),
            };
            let (leave, lame_duck) = (s(shares.leave), s(lame_duck));
            (
                format!("{leave} leaving registries - {lame_duck} lame duck ({from})"),
                remedy,
            )
        };
        let grace = self.grace_that_fits().map_or_else(
            || "a longer grace period does not help within a day".to_owned(),
            |n| {
                format!(
                    "set terminationGracePeriodSeconds (and {}) to at least {n}",
                    GracePeriod::VARIABLE
                )
            },
        );
        format!(
            "the stop does not fit into the grace period: {terms} - {} exit reserve - {} on_stopped hooks - {} force close \
             - {before} = {:.1} s for the drain, and under {} s (10 %) it cannot finish work in flight. Ways out: {grace}; or {remedy}",
            s(shares.exit_reserve),
            s(shares.on_stopped),
            s(shares.force_close),
            self.guaranteed_drain(shares),
            s(shares.least_drain()),
        )
    }
}

/// What would fit, if anything did.
fn at_most(fits: Duration) -> String {
    // Rounded down, so that it is true.
    let tenths = fits.as_millis() / 100;
    match tenths {
        0 => String::new(),
        _ => format!(" (at most {}.{} s fit)", tenths / 10, tenths % 10),
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
