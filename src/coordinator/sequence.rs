//! The story of one service, in order: one short function per phase.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::deadline::Deadline;
use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::reason::Reason;
use crate::report::{LeaveOutcome, Outcome, RegistryReport, Stage};
use crate::roster::{Straggler, WorkKind};
use crate::state::{Haste, Signal, State, Stop};

use super::hooks::{Hooks, pre_stop, run_hook, skip_hook, until};
use super::registration::{Left, Member, Membership};

/// What an `on_started` hook gets that has no limit of its own: long enough to warm a cache, short enough that a
/// rollout which can't succeed is seen to fail.
const ON_STARTED: Duration = Duration::from_secs(60);

/// How often it is looked whether exempt connections are all that a stock server waits for.
const EXEMPT_ALONE: Duration = Duration::from_millis(10);

/// How often a drain that lasts says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What a forced stop leaves to those who only wait for the word that the drain has begun.
const HEARD: Duration = Duration::from_millis(50);

/// The engine: everything that happens, from the first hook to the report.
pub(super) struct Sequence {
    handle: ShutdownHandle,
    hooks: Hooks,
    memberships: Vec<Membership>,
}

/// When the lame duck ends.
#[derive(Clone, Copy)]
struct LameDuckEnds {
    /// By the plan.
    planned: Instant,
    /// The earliest that a quiet service may end it: every visibility is over.
    visible_until: Instant,
}

/// By the memberships' numbers; `None` where nothing was begun.
type Actors = Vec<Option<Member>>;

impl Sequence {
    pub(super) const fn new(
        handle: ShutdownHandle,
        hooks: Hooks,
        memberships: Vec<Membership>,
    ) -> Self {
        Self {
            handle,
            hooks,
            memberships,
        }
    }

    fn state(&self) -> &Arc<State> {
        self.handle.state()
    }

    pub(super) async fn run(mut self) {
        let actors = self.start().await;
        self.state().token(Phase::PreStop).cancelled().await;
        if self.state().phase() == Phase::Stopped {
            // `run` was dropped, and this task is about to be.
            return;
        }
        let stop = self.stop();

        let hooks = pre_stop(&self.handle, &self.hooks);
        let ends = self.leave(stop, actors).await;
        self.lame_duck(ends, hooks).await;
        self.drain().await;
        self.on_stopped().await;
        self.state().raise(Phase::Stopped);
        self.say_the_end();
    }

    /// The clock as it stands now: a later trigger may have tightened it.
    fn stop(&self) -> Stop {
        self.state()
            .signal()
            .stop
            .expect("the phase is past Ready only after a trigger")
    }

    /// `Starting`: hooks in order, then the registries get the instance. A failed hook triggers the stop.
    async fn start(&mut self) -> Actors {
        let begun = |signal: &Signal| signal.stop.map(|_| Instant::now());
        for index in 0..self.hooks.all.len() {
            let hook = self.hooks.all[index].clone();
            if !hook.runs_in(Stage::OnStarted) {
                continue;
            }
            if self.state().phase().is_stopping() {
                skip_hook(self.state(), &hook, Stage::OnStarted, "the stop had begun");
                continue;
            }
            let limit = hook.limit(Stage::OnStarted).unwrap_or(ON_STARTED);
            match run_hook(&self.handle, &hook, Stage::OnStarted, limit, begun).await {
                Outcome::Done => self.hooks.started[index] = true,
                // By a trigger, which has its own reason.
                Outcome::Cancelled => {}
                bad => {
                    self.handle.trigger(Reason::StartFailed(format!(
                        "on_started hook {:?}: {bad}",
                        hook.name()
                    )));
                }
            }
        }
        let mut actors: Actors = Vec::new();
        for (number, membership) in self.memberships.iter().enumerate() {
            let at_once = membership.required && !self.state().phase().is_stopping();
            actors.push(at_once.then(|| membership.start(number, self.state())));
        }
        self.required(&actors).await;
        if !self.state().raise(Phase::Ready) {
            return actors;
        }
        tracing::info!("ready");
        for (number, membership) in self.memberships.iter().enumerate() {
            actors[number].get_or_insert_with(|| membership.start(number, self.state()));
        }
        actors
    }

    /// Waits until every registry that is required has the instance. One that does not take it triggers the stop.
    async fn required(&self, actors: &Actors) {
        let all = async {
            for member in actors.iter().flatten() {
                member.registered().await;
            }
        };
        let in_time = tokio::time::timeout(ON_STARTED, all);
        tokio::select! {
            biased;
            () = self.state().token(Phase::PreStop).cancelled() => return,
            waited = in_time => if waited.is_ok() {
                return;
            }
        }
        let missing = actors.iter().flatten().filter_map(|member| {
            let is_missing = member.registered().now_or_never().is_none();
            is_missing.then(|| {
                let why = member.error().unwrap_or_else(|| "no answer".to_owned());
                format!(
                    "registry {:?} did not take the instance within {ON_STARTED:?}: {why}",
                    member.membership.name
                )
            })
        });
        let missing: Vec<_> = missing.collect();
        self.handle.trigger(Reason::StartFailed(missing.join("; ")));
    }

    /// `PreStop`: every registry is left, all at once.
    async fn leave(&self, stop: Stop, actors: Actors) -> LameDuckEnds {
        let state = self.state();
        let not_ready = state
            .draft(|draft| draft.timeline.began(Phase::PreStop))
            .unwrap_or_else(Instant::now);
        let was_ready = state
            .draft(|draft| draft.timeline.began(Phase::Ready))
            .is_some();
        for (membership, member) in self.memberships.iter().zip(&actors) {
            if member.is_none() {
                let left = Left::never();
                state.draft(|draft| draft.registries.push(registry_report(membership, &left)));
            }
        }
        let actors: Vec<_> = actors.into_iter().flatten().collect();
        if !was_ready && actors.is_empty() {
            // Nobody was ever sent here: there is nothing to wait for.
            return LameDuckEnds {
                planned: not_ready,
                visible_until: not_ready,
            };
        }
        let budget = if actors.is_empty() {
            Duration::ZERO
        } else {
            stop.shares.leave
        };
        state.draft(|draft| draft.timeline.plan(Phase::PreStop, budget));

        let leaving = actors.into_iter().map(|member| async move {
            let (membership, left) = member.left(state, not_ready).await;
            tracing::info!(registry = %membership.name, outcome = %left.outcome, took = ?left.took, "left");
            state.draft(|draft| draft.registries.push(registry_report(&membership, &left)));
            (membership, left)
        });
        let left = futures::future::join_all(leaving).await;
        // Anew: it may have been tightened meanwhile.
        let stop = self.stop();

        let rule = state.budget().lame_duck;
        let last = left
            .iter()
            .map(|(_, left)| left.at)
            .fold(not_ready, Instant::max);
        let visible_until = left
            .iter()
            .filter(|(_, left)| left.outcome != LeaveOutcome::Skipped && !stop.shares.express)
            .map(|(membership, left)| {
                let listed_until = left.listed_until.map_or(left.at, |t| t.max(left.at));
                (Deadline::at(listed_until) + membership.visibility).instant()
            })
            .fold(last, Instant::max);
        // Not ready yet: nobody but the clients of a registry was ever sent here.
        let floor = match was_ready {
            true => rule.floor(&stop.shares),
            false => Duration::ZERO,
        };
        LameDuckEnds {
            planned: visible_until.max(last + floor),
            visible_until,
        }
    }

    /// `LameDuck`: everything is served until the world has stopped sending and the `pre_stop` hooks are done.
    async fn lame_duck(&self, ends: LameDuckEnds, hooks: AbortOnDropHandle<()>) {
        let state = self.state();
        let now = Instant::now();
        // As far as it fits: the drain keeps the least it needs.
        let end = move |signal: &Signal| match (signal.stop, signal.haste) {
            (Some(stop), Haste::None) if !stop.shares.express => {
                Some(ends.planned.min(stop.lame_duck_by.instant()))
            }
            _ => Some(now),
        };
        let planned = end(&state.signal())
            .unwrap_or(now)
            .saturating_duration_since(now);
        state.draft(|draft| draft.timeline.plan(Phase::LameDuck, planned));
        state.plan_lame_duck(now, planned);
        state.raise(Phase::LameDuck);

        let over = async {
            tokio::select! {
                () = until(state, end) => {}
                () = self.quiet(ends.visible_until) => tracing::info!("quiet: the lame duck ends early"),
            }
        };
        let hooks = async {
            // Each has its limit, and the join task only ends when all have.
            let _ = hooks.await;
            state.pre_stop_done();
        };
        tokio::join!(over, hooks);
    }

    /// Resolves when no request has come for the time that was set and every visibility is over; never where no
    /// such time was set.
    async fn quiet(&self, visible_until: Instant) {
        let Some(quiet) = self.state().budget().lame_duck.until_quiet else {
            return std::future::pending().await;
        };
        let (mut seen, mut since) = (self.state().tally.sums().0, Instant::now());
        while since.elapsed() < quiet || Instant::now() < visible_until {
            tokio::time::sleep((quiet / 4).max(Duration::from_millis(10))).await;
            let now_seen = self.state().tally.sums().0;
            if now_seen != seen {
                (seen, since) = (now_seen, Instant::now());
            }
        }
    }

    /// `Draining`: work in flight finishes. What does not is put on record and cut.
    async fn drain(&self) {
        let state = self.state();
        let planned = self.stop().drain_by.remaining();
        state.draft(|draft| draft.timeline.plan(Phase::Draining, planned));
        state.raise(Phase::Draining);

        let begun = Instant::now();
        let time_is_up = move |signal: &Signal| match (signal.stop, signal.haste) {
            (Some(stop), Haste::None | Haste::EndLameDuck) => Some(stop.drain_by.instant()),
            // Time to hear of the drain: who leaves at once is no straggler.
            (Some(stop), Haste::Force) => Some(stop.drain_by.instant().min(begun + HEARD)),
            (None, _) => Some(begun),
        };
        tokio::select! {
            biased;
            () = state.in_flight.closed_when_idle() => {
                // What is left is exempt.
                state.cut();
            }
            () = until(state, time_is_up) => self.force_close().await,
            () = self.say_what_is_left() => {}
            () = self.cut_exempt_work() => {}
        }
    }

    /// A stock server waits for its connections, and the drain for the server: connections on which all that goes on
    /// is exempt are cut when they are all that it can still be waiting for (S11). The main future goes on, and ends.
    async fn cut_exempt_work(&self) {
        let state = self.state();
        let mut holdback = state.holdback.subscribe();
        loop {
            // The sender lives as long as the state.
            let _ = holdback.wait_for(|held| held.exempt > 0).await;
            let is_main = |left: &Straggler| left.kind == WorkKind::Main;
            if state.in_flight.count() <= 1 && state.roster.stragglers().iter().all(is_main) {
                state.peers.cut_exempt();
            }
            tokio::time::sleep(EXEMPT_ALONE).await;
        }
    }

    async fn force_close(&self) {
        let state = self.state();
        state.in_flight.close();
        let stragglers = state.roster.stragglers();
        for straggler in &stragglers {
            tracing::warn!(%straggler, "cut");
        }
        state.draft(|draft| draft.stragglers = stragglers);
        state.cut();
        tokio::select! {
            biased;
            () = state.in_flight.idle_after_close() => {}
            () = until(state, |signal| signal.stop.map(|stop| stop.force_by.instant())) => tracing::error!(
                left = state.in_flight.count(),
                "cut, but not gone: a thread is blocked, or a guard is held"
            ),
        }
    }

    fn say_the_end(&self) {
        let report = self.state().report();
        let (exit_code, seconds) = (report.exit_code(), report.total.as_secs_f64());
        let (finished, cut) = (report.requests.finished, report.stragglers.len());
        if report.is_clean() {
            tracing::info!(seconds, exit_code, finished, cut, "stopped");
        } else {
            tracing::error!(
                seconds,
                exit_code,
                finished,
                cut,
                "stopped, but not cleanly"
            );
        }
    }

    async fn say_what_is_left(&self) {
        let mut every = tokio::time::interval(SAY_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        every.tick().await;
        loop {
            every.tick().await;
            let left = self.state().roster.stragglers();
            let oldest: Vec<_> = left.iter().take(3).map(ToString::to_string).collect();
            let time = self.stop().drain_by.remaining();
            tracing::info!(left = left.len(), oldest = oldest.join("; "), cut_in = ?time, "still draining");
        }
    }

    /// `Stopping`: hooks in reverse, one after the other, each with an equal part of what is left.
    async fn on_stopped(&self) {
        let state = self.state();
        let planned = self.stop().deadline.remaining();
        state.draft(|draft| draft.timeline.plan(Phase::Stopping, planned));
        state.raise(Phase::Stopping);

        let to_run = self
            .hooks
            .of(Stage::OnStopped)
            .filter(|(_, started)| *started);
        let mut left = u32::try_from(to_run.count()).unwrap_or(u32::MAX);
        for (hook, started) in self.hooks.of(Stage::OnStopped).rev() {
            if !started {
                skip_hook(state, hook, Stage::OnStopped, "it had not started");
                continue;
            }
            let share = self.stop().deadline.remaining() / left.max(1);
            left -= 1;
            let limit = hook
                .limit(Stage::OnStopped)
                .map_or(share, |own| own.min(share));
            run_hook(&self.handle, hook, Stage::OnStopped, limit, |signal| {
                signal.stop.map(|stop| stop.deadline.instant())
            })
            .await;
        }
    }
}

impl Left {
    fn never() -> Self {
        Self {
            outcome: LeaveOutcome::Skipped,
            error: None,
            at: Instant::now(),
            took: Duration::ZERO,
            listed_until: None,
        }
    }
}

fn registry_report(membership: &Membership, left: &Left) -> RegistryReport {
    RegistryReport {
        name: membership.name.to_string(),
        instance: membership.instance.id().to_owned(),
        outcome: left.outcome,
        took: left.took,
        visible_for: left
            .listed_until
            .map(|until| until.saturating_duration_since(left.at)),
        error: left.error.clone(),
    }
}
