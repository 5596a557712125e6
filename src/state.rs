//! [`State`]: the latches. The phase only rises, the deadline only moves earlier, the haste only grows (S1).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Shares};
use crate::deadline::Deadline;
use crate::in_flight::InFlight;
use crate::last_gasp::LastGasps;
use crate::own_pod::PodTimes;
use crate::peers::Peers;
use crate::phase::Phase;
use crate::random::Spread;
use crate::reason::Reason;
use crate::report::{Draft, ShutdownReport};
use crate::roster::Roster;
use crate::sync::lock;
use crate::tally::{StreamTally, Tally};
use crate::timeline::Timeline;

/// How much of a hurry somebody is in. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Haste {
    /// By the plan.
    None,
    /// No lame duck, or no more of it.
    EndLameDuck,
    /// Cut what is in flight now.
    Force,
}

/// The clock of a stop that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// When it began.
    pub(crate) began: Instant,
    /// When SIGKILL is due.
    pub(crate) kill: Instant,
    /// When registries must have been left.
    pub(crate) leave_by: Deadline,
    /// When the drain begins at the latest, so that it is one.
    pub(crate) lame_duck_by: Deadline,
    /// When what is in flight is cut.
    pub(crate) drain_by: Deadline,
    /// When `on_stopped` hooks begin at the latest.
    pub(crate) force_by: Deadline,
    /// When everything must be over.
    pub(crate) deadline: Deadline,
    /// How the time is split.
    pub(crate) shares: Shares,
}

impl Stop {
    fn new(now: Instant, total: Duration) -> Self {
        let shares = Shares::of(total);
        let kill = Deadline::at(now) + total;
        let deadline = kill.earlier_by(shares.exit_reserve);
        let force_by = deadline.earlier_by(shares.on_stopped);
        let drain_by = force_by.earlier_by(shares.force_close);
        let leave_by = (Deadline::at(now) + shares.leave).min(drain_by);
        Self {
            began: now,
            kill: kill.instant(),
            leave_by,
            lame_duck_by: if shares.express {
                leave_by
            } else {
                drain_by.earlier_by(shares.least_drain())
            },
            drain_by,
            force_by,
            deadline,
            shares,
        }
    }

    /// From the beginning to the deadline.
    pub(crate) fn length(&self) -> Duration {
        self.deadline
            .instant()
            .saturating_duration_since(self.began)
    }

    /// Half of the time from the beginning to SIGKILL: a preStop hook blocks no longer, what comes after SIGTERM needs
    /// the other half.
    #[cfg_attr(not(feature = "hook"), allow(dead_code))]
    pub(crate) fn half(&self) -> Instant {
        self.began + self.kill.saturating_duration_since(self.began) / 2
    }

    /// The stop with a SIGKILL that may be earlier, its time split anew. Nothing ever moves later: the split of a
    /// short rest reserves less, so each step keeps the earlier of its two instants (S7).
    fn tightened(self, now: Instant, total: Duration) -> Option<Self> {
        let other = Self::new(now, total);
        (other.kill < self.kill).then(|| Self {
            began: self.began,
            kill: other.kill,
            leave_by: other.leave_by.min(self.leave_by),
            lame_duck_by: other.lame_duck_by.min(self.lame_duck_by),
            drain_by: other.drain_by.min(self.drain_by),
            force_by: other.force_by.min(self.force_by),
            deadline: other.deadline.min(self.deadline),
            shares: other.shares,
        })
    }
}

/// Everything that tasks wait for, in one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub(crate) phase: Phase,
    pub(crate) stop: Option<Stop>,
    /// A preStop hook has called: the kubelet's clock is known, and the hook was no `sleep`.
    pub(crate) hook_called: bool,
    pub(crate) haste: Haste,
    /// Whatever is in flight is cut.
    pub(crate) cut: bool,
    /// When the drain began.
    pub(crate) draining_since: Option<Instant>,
    /// The lame duck, once it is known: when it began and how long it is.
    pub(crate) lame_duck: Option<(Instant, Duration)>,
    /// No `pre_stop` hook can put the end of the lame duck off any more.
    pub(crate) pre_stop_done: bool,
}

/// What `/readyz` says while the service stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// 503 from the first moment of the stop on: what load balancers with health checks of their own need, and what
    /// deaths need that do not delete the pod (probe kills, evictions).
    #[default]
    FailWhenStopping,
    /// 404 from the first moment of the stop on, which is 503 to everybody but an HAProxy with `http-check
    /// disable-on-404`: that one [drains](crate::_docs::gateways#haproxy-by-404) a server that says so, and calls it down
    /// only when it says something else, or nothing. While the service starts it is 503.
    NotFoundWhenStopping,
    /// 200 until the listener closes. A deleted pod leaves its Service whatever its probe says, but as the last one
    /// it stays kube-proxy's fallback only while it is "serving" (R34).
    KeepServing,
}

impl Readiness {
    /// Whether a readiness check passes in this phase.
    #[cfg_attr(
        not(any(feature = "probe", feature = "tonic-health")),
        allow(dead_code)
    )]
    pub(crate) const fn passes(self, phase: Phase) -> bool {
        match self {
            Self::FailWhenStopping | Self::NotFoundWhenStopping => phase.is_ready(),
            Self::KeepServing => matches!(phase, Phase::Ready | Phase::PreStop | Phase::LameDuck),
        }
    }
}

/// When streams are told to end, those whose policy is [`StreamPolicy::Tell`](crate::StreamPolicy::Tell).
#[cfg_attr(not(feature = "middleware"), allow(dead_code, unreachable_pub))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TellAt {
    /// In the first half of the lame duck, each at its own moment, so that they do not come as a herd to the other
    /// pods. A stream that begins in the lame duck is told in the drain: a client that was sent back to this pod is
    /// told twice at the most.
    LameDuck,
    /// When the drain begins, within half of the linger (250 ms by default). By now nothing leads back to this pod, so
    /// a client is interrupted once; and with or without a lame duck it is the same.
    #[default]
    Draining,
}

/// What becomes of a request that arrives in the drain, on a connection that is still open.
#[cfg_attr(not(feature = "middleware"), allow(dead_code, unreachable_pub))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LateRequests {
    /// It is served: the client can't know, and not every client repeats what was refused.
    #[default]
    Serve,
    /// It is answered `503` with `Retry-After: 1`, and on HTTP/1 `Connection: close`; gRPC gets `UNAVAILABLE`. For
    /// services behind a gateway that repeats such requests elsewhere, and whose own take as long as a drain.
    Refuse,
}

/// What keeps stock servers from being told to drain: they close what is idle or untouched in the same instant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holdback {
    /// Listeners that have yet to be swept.
    pub(crate) listeners: usize,
    /// Connections that are open.
    pub(crate) connections: usize,
    /// Of these, connections on which all that goes on is exempt.
    pub(crate) exempt: usize,
}

/// What rooms need to know and nothing below them does.
#[cfg_attr(not(feature = "middleware"), allow(dead_code))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) linger: Duration,
    pub(crate) readiness: Readiness,
    pub(crate) tell_at: TellAt,
    pub(crate) late_requests: LateRequests,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Several times the longest round trip inside a cluster.
            linger: Duration::from_millis(500),
            readiness: Readiness::default(),
            tell_at: TellAt::default(),
            late_requests: LateRequests::default(),
        }
    }
}

/// What all parts of one coordinator share.
#[derive(Debug)]
pub(crate) struct State {
    signal: watch::Sender<Signal>,
    /// The phase again, for those who ask per request: a load instead of a lock.
    phase: AtomicU8,
    tokens: [CancellationToken; Phase::ALL.len()],
    budget: Mutex<Budget>,
    /// What the own pod's manifest says, where it was read. Apart from the budget, which is checked while hooks are added.
    pod_times: Mutex<PodTimes>,
    pub(crate) settings: Settings,
    pub(crate) in_flight: InFlight,
    pub(crate) roster: Roster,
    pub(crate) last_gasps: LastGasps,
    pub(crate) tally: Tally,
    /// The longest pause of any client between two requests that is worth waiting for, in milliseconds.
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) longest_pause: AtomicU64,
    pub(crate) streams: StreamTally,
    /// The places of streams, in the order in which they ask for one.
    #[cfg_attr(not(feature = "middleware"), allow(dead_code))]
    pub(crate) stream_places: Spread,
    /// Of listeners and connections that stock servers were given.
    pub(crate) holdback: watch::Sender<Holdback>,
    /// These connections.
    pub(crate) peers: Peers,
    draft: Mutex<Draft>,
}

impl State {
    pub(crate) fn new(budget: Budget, settings: Settings) -> Self {
        let mut timeline = Timeline::default();
        timeline.mark(Phase::Starting, Instant::now());
        Self {
            signal: watch::Sender::new(Signal {
                phase: Phase::Starting,
                stop: None,
                hook_called: false,
                haste: Haste::None,
                cut: false,
                draining_since: None,
                lame_duck: None,
                pre_stop_done: false,
            }),
            phase: AtomicU8::new(Phase::Starting as u8),
            tokens: std::array::from_fn(|_| CancellationToken::new()),
            budget: Mutex::new(budget),
            pod_times: Mutex::default(),
            settings,
            in_flight: InFlight::new(),
            roster: Roster::new(),
            last_gasps: LastGasps::default(),
            tally: Tally::default(),
            longest_pause: AtomicU64::new(0),
            streams: StreamTally::default(),
            stream_places: Spread::new(),
            holdback: watch::Sender::default(),
            peers: Peers::default(),
            draft: Mutex::new(Draft::new(timeline)),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        // Acquire pairs with the release in `step`: who sees the phase sees what led to it.
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    pub(crate) fn signal(&self) -> Signal {
        *self.signal.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }

    /// Cancelled when the phase is reached or passed.
    pub(crate) fn token(&self, phase: Phase) -> &CancellationToken {
        &self.tokens[phase as usize]
    }

    /// Raises the phase; whether it rose.
    pub(crate) fn raise(&self, phase: Phase) -> bool {
        self.step(|signal| rise(signal, phase))
    }

    /// Begins the stop, or makes its deadline earlier; whether this call began it. `total` is the time until
    /// SIGKILL as the caller knows it, given whether a preStop hook has called.
    pub(crate) fn trigger(&self, reason: Reason, total: impl FnOnce(bool) -> Duration) -> bool {
        let now = Instant::now();
        let (mut began, mut tightened) = (false, false);
        let why = reason.to_string();
        let mut kill_in = Duration::ZERO;
        self.step(|signal| {
            signal.hook_called |= reason == Reason::PreStopHook;
            let total = total(signal.hook_called);
            kill_in = total;
            match signal.stop {
                None => {
                    began = true;
                    signal.stop = Some(Stop::new(now, total));
                    let mut draft = lock(&self.draft);
                    draft.reason = Some(reason);
                    draft.finished_before = self.tally.sums().1;
                    rise(signal, Phase::PreStop)
                }
                Some(stop) => {
                    let tighter = stop.tightened(now, total);
                    tightened = tighter.is_some();
                    signal.stop = tighter.or(signal.stop);
                    tightened
                }
            }
        });
        // Outside of the cell: a subscriber may ask for the phase.
        if began {
            tracing::info!(reason = %why, kill_in_s = kill_in.as_secs_f64(), "stop begins");
        } else if tightened {
            tracing::info!(reason = %why, kill_in_s = kill_in.as_secs_f64(), "deadline moves earlier");
        } else {
            tracing::debug!(reason = %why, "stop has begun already");
        }
        began
    }

    /// Moves SIGKILL, and every step before it, earlier for a stop that has begun; by how much. Zero where it is due by
    /// then anyway (S1).
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn tighten(&self, kill: Instant) -> Duration {
        let now = Instant::now();
        let mut earlier_by = Duration::ZERO;
        self.step(|signal| {
            let Some(stop) = signal.stop else {
                return false;
            };
            let tighter = stop.tightened(now, kill.saturating_duration_since(now));
            signal.stop = tighter.or(signal.stop);
            earlier_by = tighter.map_or(Duration::ZERO, |tighter| stop.kill - tighter.kill);
            tighter.is_some()
        });
        earlier_by
    }

    /// Makes haste.
    pub(crate) fn hurry(&self, haste: Haste) {
        self.step(|signal| {
            let grows = haste > signal.haste;
            signal.haste = signal.haste.max(haste);
            grows
        });
    }

    /// Everything that is in flight is to end now.
    pub(crate) fn cut(&self) {
        self.step(|signal| !std::mem::replace(&mut signal.cut, true));
        self.roster.cut();
    }

    /// The end, whatever came before: everything is cut, the phase is `Stopped`. Without a stop there was none to
    /// plan, but whoever asks for its reason or deadline finds one, as in every phase past `Ready`.
    pub(crate) fn end(&self, reason: Reason) {
        let now = Instant::now();
        self.step(|signal| {
            if signal.stop.is_none() {
                signal.stop = Some(Stop::new(now, Duration::ZERO));
                lock(&self.draft).reason = Some(reason);
            }
            signal.cut = true;
            rise(signal, Phase::Stopped)
        });
        self.roster.cut();
    }

    pub(crate) fn plan_lame_duck(&self, from: Instant, length: Duration) {
        self.step(|signal| {
            signal.lame_duck = Some((from, length));
            true
        });
    }

    pub(crate) fn pre_stop_done(&self) {
        self.step(|signal| !std::mem::replace(&mut signal.pre_stop_done, true));
    }

    /// One change of the cell. Readiness is derived from the phase, and the phase is published before any waiter or
    /// token can act on it (S2).
    fn step(&self, change: impl FnOnce(&mut Signal) -> bool) -> bool {
        let mut risen = None;
        let changed = self.signal.send_if_modified(|signal| {
            let before = signal.phase;
            let changed = change(signal);
            if signal.phase > before {
                let now = Instant::now();
                if signal.phase >= Phase::Draining {
                    signal.draining_since.get_or_insert(now);
                }
                self.phase.store(signal.phase as u8, Ordering::Release);
                lock(&self.draft).timeline.mark(signal.phase, now);
                risen = Some(signal.phase);
            }
            changed
        });
        if let Some(phase) = risen {
            tracing::debug!(%phase, "phase");
            for reached in Phase::ALL.into_iter().filter(|p| *p <= phase) {
                self.token(reached).cancel();
            }
        }
        changed
    }

    /// A copy: it changes only while hooks and registries are added, before the run.
    pub(crate) fn budget(&self) -> Budget {
        lock(&self.budget).clone()
    }

    pub(crate) fn set_budget(&self, budget: Budget) {
        *lock(&self.budget) = budget;
    }

    /// What the own pod's manifest says: from now on no trigger plans with more.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn set_pod_times(&self, times: PodTimes) {
        *lock(&self.pod_times) = times;
    }

    pub(crate) fn pod_times(&self) -> PodTimes {
        *lock(&self.pod_times)
    }

    pub(crate) fn draft<T>(&self, write: impl FnOnce(&mut Draft) -> T) -> T {
        write(&mut lock(&self.draft))
    }

    pub(crate) fn report(&self) -> ShutdownReport {
        let grace = self.budget().grace_with(self.pod_times().grace);
        self.draft(|draft| draft.report(grace, self.tally.sums(), self.streams.sums()))
    }

    /// The report for who ends the process now: what is in flight goes down with it.
    pub(crate) fn last_report(&self) -> ShutdownReport {
        let mut report = self.report();
        if !report.complete && report.stragglers.is_empty() {
            report.stragglers = self.roster.stragglers();
        }
        report
    }
}

fn rise(signal: &mut Signal, phase: Phase) -> bool {
    let rises = phase > signal.phase;
    signal.phase = signal.phase.max(phase);
    rises
}

#[cfg(all(test, not(loom)))]
mod tests;
