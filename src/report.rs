//! [`ShutdownReport`]: what happened, to the millisecond.

mod text;

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::GracePeriod;
use crate::exit::exit;
use crate::own_pod::PodReport;
use crate::phase::Phase;
use crate::reason::Reason;
use crate::roster::{Straggler, WorkKind};
use crate::tally::StreamSums;
use crate::timeline::{PhaseTime, Timeline};

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Stage {
    /// Before the service is ready, one after the other.
    OnStarted,
    /// When the stop begins, all at once.
    PreStop,
    /// After the drain, newest first.
    OnStopped,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OnStarted => "on_started",
            Self::PreStop => "pre_stop",
            Self::OnStopped => "on_stopped",
        })
    }
}

/// How a hook, a task or the main future ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// It did its work.
    Done,
    /// It returned an error, in its own words.
    Failed(String),
    /// It panicked, with this message.
    Panicked(String),
    /// It was still running when its time was up, and was dropped.
    TimedOut,
    /// It was cut short because the stop began: an `on_started` hook that nobody waits for any more.
    Cancelled,
    /// It was not run, and why.
    Skipped(String),
    /// It was still running when this report was made.
    Unfinished,
}

impl Outcome {
    /// Whether nothing went wrong.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Skipped(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Panicked(why) => write!(f, "PANICKED: {why}"),
            Self::TimedOut => f.write_str("TIMED OUT"),
            Self::Cancelled => f.write_str("cut short by the stop"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Unfinished => f.write_str("STILL RUNNING"),
        }
    }
}

/// How one hook went.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HookReport {
    /// Its name.
    pub name: String,
    /// When it ran.
    pub stage: Stage,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "took_ms", serialize_with = "crate::timeline::millis")
    )]
    pub took: Duration,
}

/// A task that went wrong.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// Whether an instance is gone from a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LeaveOutcome {
    /// The instance was there and was removed.
    Removed,
    /// The registry did not have it any more.
    AlreadyGone,
    /// No answer says whether it is gone.
    Unknown,
    /// It is not gone: the registry refused, or was not reached.
    Failed,
    /// The instance had never been registered.
    Skipped,
}

impl fmt::Display for LeaveOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Removed => "removed",
            Self::AlreadyGone => "already gone",
            Self::Unknown => "UNKNOWN",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

/// How leaving one registry went.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegistryReport {
    /// The registry's name.
    pub name: String,
    /// The instance's id.
    pub instance: String,
    /// How it went.
    pub outcome: LeaveOutcome,
    /// How long it took.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "took_ms", serialize_with = "crate::timeline::millis")
    )]
    pub took: Duration,
    /// Where it could not be left: how much longer the registry may list the instance, counted from the end of the
    /// attempt.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub visible_for: Option<Duration>,
    /// The last error, or what is known instead of an answer.
    pub error: Option<String>,
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Requests {
    /// Answered whole, since the process started.
    pub finished: u64,
    /// Of those, finished after the stop began.
    pub finished_while_stopping: u64,
    /// In flight at the end of the drain, and cut.
    pub cut: u64,
    /// Ended without a whole answer, not by the stop: the client went away, the handler panicked, its body failed.
    pub abandoned: u64,
    /// Answered 503 (gRPC: `UNAVAILABLE`) because they came after the drain, or in it where that was asked for with
    /// [`LateRequests::Refuse`](crate::LateRequests::Refuse).
    pub refused: u64,
}

/// What became of streams that the stop reached: server-sent events, WebSockets, gRPC streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Streams {
    /// Told to end.
    pub told: u64,
    /// Of those, over before the end of the drain.
    pub ended: u64,
    /// Broken off: because their policy is [`StreamPolicy::Cut`](crate::StreamPolicy::Cut), or told and open still when
    /// the drain was cut (those stand among the stragglers, too).
    pub cut: u64,
}

/// What a stop did, and how long each part took.
///
/// `Display` writes it as a table; with the feature `serde` it serialises, lengths in milliseconds.
#[must_use = "`.exit()` ends the process with its exit code and says what went wrong; dropped, it is silent"]
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Whether the stop is over. False in what [`ShutdownHandle::report`](crate::ShutdownHandle::report) gives before.
    pub complete: bool,
    /// What began the stop.
    pub reason: Reason,
    /// What the own pod says of it, where that was asked (feature `kubernetes`).
    pub pod: Option<PodReport>,
    /// The grace period it was planned with.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "grace_ms", serialize_with = "crate::timeline::millis")
    )]
    pub grace: Duration,
    /// From the trigger to the end. The phases' times add up to it.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "total_ms", serialize_with = "crate::timeline::millis")
    )]
    pub total: Duration,
    /// Every phase of the stop, in order.
    pub phases: Vec<PhaseTime>,
    /// Every hook, in the order in which they began.
    pub hooks: Vec<HookReport>,
    /// Every task that panicked.
    pub tasks: Vec<TaskReport>,
    /// Every registry.
    pub registries: Vec<RegistryReport>,
    /// How the main future ended: the server, or what was given to `run`.
    pub main: Outcome,
    /// What became of the requests.
    pub requests: Requests,
    /// What became of streams.
    pub streams: Streams,
    /// What was in flight when the drain's time was up, and was cut; oldest first.
    pub stragglers: Vec<Straggler>,
}

impl ShutdownReport {
    /// Exit code: nothing went wrong.
    pub const CLEAN: u8 = 0;
    /// Exit code: an `on_started` hook failed.
    pub const START_FAILED: u8 = 70;
    /// Exit code: a hook, a registry or the main future failed, but no request was lost.
    pub const DEGRADED: u8 = 71;
    /// Exit code: stragglers were cut.
    pub const FORCED: u8 = 72;

    /// The exit code: 0 clean, 70 start failed, 71 degraded, 72 forced. A stop that is not over is forced by who exits
    /// now.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if !self.complete {
            Self::FORCED
        } else if matches!(self.reason, Reason::StartFailed(_)) {
            Self::START_FAILED
        } else if !self.stragglers.is_empty() {
            Self::FORCED
        } else if self.is_degraded() {
            Self::DEGRADED
        } else {
            Self::CLEAN
        }
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == Self::CLEAN
    }

    fn is_degraded(&self) -> bool {
        !self.main.is_good()
            || self.hooks.iter().any(|hook| !hook.outcome.is_good())
            || !self.tasks.is_empty()
            || self
                .registries
                .iter()
                .any(|r| matches!(r.outcome, LeaveOutcome::Unknown | LeaveOutcome::Failed))
    }

    /// Ends the process with [`exit_code`](Self::exit_code). What went wrong, if anything did, is written to
    /// standard error first, so that `kubectl logs --previous` has it without a tracing subscriber.
    ///
    /// Destructors of other threads and tasks do not run: work that must happen belongs in an `on_stopped` hook.
    /// Unlike returning from `main`, this does not wait for `spawn_blocking` work (which cannot be aborted).
    pub fn exit(self) -> ! {
        let code = self.exit_code();
        let words = (code != Self::CLEAN).then(|| self.to_string());
        exit(i32::from(code), words)
    }

    fn verdict(&self) -> &'static str {
        if !self.complete {
            return "NOT OVER";
        }
        match self.exit_code() {
            Self::CLEAN => "clean",
            Self::START_FAILED => "START FAILED",
            Self::FORCED => "FORCED, work was cut",
            _ => "DEGRADED, no request was lost",
        }
    }
}

/// The report while it is being written. The watchdog can read it at any moment.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) timeline: Timeline,
    pub(crate) reason: Option<Reason>,
    pub(crate) pod: Option<PodReport>,
    hooks: Vec<HookDraft>,
    tasks: Vec<TaskReport>,
    pub(crate) registries: Vec<RegistryReport>,
    pub(crate) main: Outcome,
    pub(crate) stragglers: Vec<Straggler>,
    /// Requests finished before the trigger.
    pub(crate) finished_before: u64,
}

#[derive(Debug)]
struct HookDraft {
    name: String,
    stage: Stage,
    begun: Instant,
    end: Option<(Outcome, Duration)>,
}

/// The place of a hook in the draft.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HookKey(usize);

impl Draft {
    pub(crate) const fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            reason: None,
            pod: None,
            hooks: Vec::new(),
            tasks: Vec::new(),
            registries: Vec::new(),
            main: Outcome::Unfinished,
            stragglers: Vec::new(),
            finished_before: 0,
        }
    }

    pub(crate) fn hook_began(&mut self, name: &str, stage: Stage) -> HookKey {
        self.hooks.push(HookDraft {
            name: name.to_owned(),
            stage,
            begun: Instant::now(),
            end: None,
        });
        HookKey(self.hooks.len() - 1)
    }

    pub(crate) fn hook_ended(&mut self, key: HookKey, outcome: Outcome) {
        let hook = &mut self.hooks[key.0];
        hook.end = Some((outcome, hook.begun.elapsed()));
    }

    pub(crate) fn task_failed(&mut self, name: &str, outcome: Outcome) {
        self.tasks.push(TaskReport {
            name: name.to_owned(),
            outcome,
        });
    }

    /// The report as far as it is known now.
    pub(crate) fn report(
        &self,
        grace: GracePeriod,
        tally: (u64, u64, u64),
        streams: StreamSums,
    ) -> ShutdownReport {
        let now = Instant::now();
        let (phases, total) = self.timeline.stop(now);
        let (started, finished, refused) = tally;
        let complete = self.timeline.began(Phase::Stopped).is_some();
        let cut_by_kind = |kinds: &[WorkKind]| {
            let cut = self.stragglers.iter().filter(|s| kinds.contains(&s.kind));
            u64::try_from(cut.count()).unwrap_or(u64::MAX)
        };
        let unanswered = started.saturating_sub(finished);
        ShutdownReport {
            complete,
            reason: self
                .reason
                .clone()
                .unwrap_or(Reason::Requested("not stopped yet".into())),
            pod: self.pod.clone(),
            grace: grace.length(),
            total,
            phases,
            hooks: self.hooks.iter().map(|h| h.report(now)).collect(),
            tasks: self.tasks.clone(),
            registries: self.registries.clone(),
            main: self.main.clone(),
            requests: Requests {
                finished,
                finished_while_stopping: finished.saturating_sub(self.finished_before),
                // The answer to an upgrade was finished; what was cut is the socket.
                cut: cut_by_kind(&[WorkKind::Request, WorkKind::Upgrade]),
                // Before the end they may just be in flight.
                abandoned: if complete {
                    unanswered
                        .saturating_sub(cut_by_kind(&[WorkKind::Request]))
                        .saturating_sub(streams.cut_by_policy)
                } else {
                    0
                },
                refused,
            },
            streams: Streams {
                told: streams.told,
                ended: streams.ended,
                cut: streams.cut + streams.cut_by_policy,
            },
            stragglers: self.stragglers.clone(),
        }
    }
}

impl HookDraft {
    fn report(&self, now: Instant) -> HookReport {
        let (outcome, took) = self.end.clone().unwrap_or_else(|| {
            (
                Outcome::Unfinished,
                now.saturating_duration_since(self.begun),
            )
        });
        HookReport {
            name: self.name.clone(),
            stage: self.stage,
            outcome,
            took,
        }
    }
}
