//! What a preStop or postStart call does, whoever carries it: the hook socket or HTTP.

use std::time::Duration;

use tokio::time::Instant;

use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::roster::WorkKind;
use crate::state::Stop;

/// A preStop call that is being waited for. While it lives the drain does not end, so that the process is not gone
/// before its answer is: hooks are told when the drain begins, and that takes no time.
#[derive(Debug)]
pub(crate) struct PreStopCall {
    handle: ShutdownHandle,
    called: Instant,
    guard: Option<Guard>,
}

/// How it went, in one line, and what holds the process until that has been said.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
    _until_said: Option<Guard>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl PreStopCall {
    /// Begins the stop. This moment is the start of the kubelet's clock (R10).
    pub(crate) fn begin(handle: &ShutdownHandle) -> Self {
        // Before the trigger: a stop with nothing to do is over in no time. Refused once a drain is over: then there is
        // nothing to wait for.
        let guard = handle.guard("answer to the preStop hook").ok();
        let called = Instant::now();
        handle.trigger(Reason::PreStopHook);
        Self {
            handle: handle.clone(),
            called,
            guard,
        }
    }

    /// How long the answer may take.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(crate) fn longest(&self) -> Duration {
        let stop = self.handle.state().signal().stop;
        stop.map_or(Duration::ZERO, |stop| {
            stop.half().saturating_duration_since(Instant::now())
        })
    }

    /// Resolves when the lame duck is over, and at half of the grace period: what comes after SIGTERM needs its half.
    pub(crate) async fn over(self) -> Answer {
        let mut signal = self.handle.state().subscribe();
        loop {
            let now = *signal.borrow_and_update();
            // Without a stop there would be nothing to wait for; the trigger has made one.
            let by = now.stop.as_ref().map_or(self.called, Stop::half);
            if now.phase >= Phase::Draining || by <= Instant::now() {
                break;
            }
            tokio::select! {
                // An error means that the state is gone: then everything is over.
                changed = signal.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(by) => {}
            }
        }
        Answer {
            text: self.text(),
            _until_said: self.guard,
        }
    }

    fn text(&self) -> String {
        let phase = self.handle.phase();
        let waited = self.called.elapsed().as_secs_f64();
        let how = if phase >= Phase::Draining {
            format!("the lame duck is over, {phase} after {waited:.1} s")
        } else {
            format!("{phase} goes on after {waited:.1} s, but half of the grace period is used")
        };
        let began = match self.handle.reason() {
            None | Some(Reason::PreStopHook) => String::new(),
            Some(earlier) => format!("; the stop had begun before ({earlier})"),
        };
        let left = self.handle.time_left().unwrap_or_default().as_secs_f64();
        format!(
            "{how}{began}; in flight: {}; {left:.1} s left",
            in_flight(&self.handle)
        )
    }
}

/// Who is still in flight, counted by kind: `3 requests, 1 task`. Idle connections, the main future and calls like
/// this one are not worth waiting for.
fn in_flight(handle: &ShutdownHandle) -> String {
    let all = handle.in_flight();
    let counted = [WorkKind::Request, WorkKind::Upgrade, WorkKind::Task].map(|kind| {
        let count = all.iter().filter(|work| work.kind == kind).count();
        match count {
            0 => None,
            1 => Some(format!("1 {kind}")),
            some => Some(format!("{some} {kind}s")),
        }
    });
    let counted: Vec<_> = counted.into_iter().flatten().collect();
    if counted.is_empty() {
        "nothing".to_owned()
    } else {
        counted.join(", ")
    }
}

/// Resolves when the start is over: `Ok` when the service was ready, `Err` when a stop came before that.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) async fn started(handle: &ShutdownHandle) -> Result<Answer, Answer> {
    let called = Instant::now();
    let guard = handle.guard("answer to the postStart hook").ok();
    handle.wait_for(Phase::Ready).await;
    let waited = called.elapsed().as_secs_f64();
    let was_ready = handle
        .state()
        .draft(|draft| draft.timeline.began(Phase::Ready))
        .is_some();
    let answer = |text| Answer {
        text,
        _until_said: guard,
    };
    match handle.reason() {
        None => Ok(answer(format!("ready after {waited:.1} s"))),
        Some(reason) if was_ready => Ok(answer(format!(
            "it was ready, now {} ({reason})",
            handle.phase()
        ))),
        Some(reason) => Err(answer(format!("not ready, and will not be: {reason}"))),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::budget::GracePeriod;
    use crate::{ShutdownCoordinator, ShutdownCoordinatorBuilder};

    fn grace(seconds: u64) -> ShutdownCoordinatorBuilder {
        ShutdownCoordinator::builder_without_signals()
            .grace_period(GracePeriod::from_secs(seconds).expect("valid"))
            .lame_duck(Duration::ZERO)
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Rounded to what a paused clock's ticks can blur.
    fn near(what: Instant, seconds: u64) -> bool {
        what.elapsed()
            .abs_diff(SECOND * u32::try_from(seconds).expect("few"))
            < SECOND / 50
    }

    /// The second caller waits as long as the first and is told how long it waited itself; SIGTERM in between changes
    /// nothing, also where the manifest was said to have a `sleep`: a hook that calls is none.
    #[tokio::test(start_paused = true)]
    async fn every_call_waits_for_the_end_of_the_lame_duck() {
        let c = grace(30)
            .pre_stop_elapsed(SECOND * 5)
            .lame_duck(SECOND * 6)
            .build()
            .expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        h.wait_for(Phase::Ready).await;

        let began = Instant::now();
        let first = PreStopCall::begin(&h);
        assert_eq!(first.longest(), SECOND * 15);
        let deadline = h.deadline();
        let first = tokio::spawn(first.over());
        tokio::time::sleep(SECOND * 2).await;
        h.trigger(Reason::Signal("SIGTERM"));
        assert_eq!(h.deadline(), deadline, "SIGTERM escalates nothing");
        let second = PreStopCall::begin(&h);
        assert_eq!(second.longest(), SECOND * 13);
        let second = second.over().await;
        assert!(near(began, 6), "{:?}", began.elapsed());
        assert_eq!(
            second.text(),
            "the lame duck is over, draining after 4.0 s; in flight: nothing; 22.5 s left"
        );
        let first = first.await.expect("no panic");
        assert!(first.text().contains("after 6.0 s"), "{}", first.text());

        // Until both have been said, the process stays.
        tokio::time::sleep(SECOND).await;
        assert_eq!(h.phase(), Phase::Draining);
        drop((first, second));
        let report = run.await.expect("no panic").expect("a report");
        assert_eq!(report.reason, Reason::PreStopHook);
        assert!(report.is_clean(), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_past_half_of_the_grace_period() {
        let c = grace(60).lame_duck(SECOND * 36).build().expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        h.wait_for(Phase::Ready).await;
        h.spawn("mail", h.wait_for(Phase::Stopping)).expect("open");
        let began = Instant::now();
        let answer = PreStopCall::begin(&h).over().await;
        assert!(near(began, 30), "{:?}", began.elapsed());
        assert_eq!(
            answer.text(),
            "lame_duck goes on after 30.0 s, but half of the grace period is used; in flight: 1 task; 27.0 s left"
        );
        drop(answer);
        // The half has been used: who calls now is told at once.
        let late = PreStopCall::begin(&h);
        assert_eq!(late.longest(), Duration::ZERO);
        drop(late.over().await);
        assert!(near(began, 30), "{:?}", began.elapsed());
        h.force();
        let _ = run.await.expect("no panic").expect("a report");
    }

    /// The half is that of the time there is, when it has become less.
    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_ends_the_wait_earlier() {
        let c = grace(60).lame_duck(SECOND * 36).build().expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        h.wait_for(Phase::Ready).await;
        let began = Instant::now();
        let call = tokio::spawn(PreStopCall::begin(&h).over());
        tokio::time::sleep(SECOND * 10).await;
        h.trigger_within(Reason::requested("evicted"), SECOND * 30);
        let answer = call.await.expect("no panic");
        assert!(near(began, 20), "{:?}: {}", began.elapsed(), answer.text());
        h.force();
        drop(answer);
        let _ = run.await.expect("no panic").expect("a report");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_somebody_else_began_is_named() {
        let c = grace(30).lame_duck(SECOND * 3).build().expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        h.wait_for(Phase::Ready).await;
        h.trigger(Reason::Signal("SIGTERM"));
        let answer = PreStopCall::begin(&h).over().await;
        assert!(
            answer.text().contains("had begun before (SIGTERM)"),
            "{}",
            answer.text()
        );
        drop(answer);
        let _ = run.await.expect("no panic").expect("a report");
        // The process is about to exit: nothing to wait for, nothing to trigger.
        let late = PreStopCall::begin(&h).over().await;
        assert!(
            late.text()
                .starts_with("the lame duck is over, stopped after 0.0 s"),
            "{}",
            late.text()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_told_as_it_went() {
        let slow = |c: ShutdownCoordinatorBuilder| {
            c.on_started("slow", |_| tokio::time::sleep(SECOND * 3))
        };
        let c = slow(grace(30)).build().expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        let ready = started(&h).await.expect("ready");
        assert_eq!(ready.text(), "ready after 3.0 s");
        h.trigger(Reason::requested("test"));
        let was_ready = started(&h).await.expect("it was");
        assert!(
            was_ready.text().starts_with("it was ready, now"),
            "{}",
            was_ready.text()
        );
        drop((ready, was_ready));
        let _ = run.await.expect("no panic").expect("a report");

        let c = slow(grace(30))
            .on_started("open the database", |_| async { Err::<(), _>("no route") })
            .build()
            .expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        let failed = started(&h).await.expect_err("it failed");
        for part in [
            "not ready, and will not be",
            "open the database",
            "no route",
        ] {
            assert!(failed.text().contains(part), "{part}: {}", failed.text());
        }
        drop(failed);
        assert_eq!(
            run.await.expect("no panic").expect("a report").exit_code(),
            70
        );

        let c = slow(grace(30)).build().expect("builds");
        let h = c.handle();
        let run = tokio::spawn(c.run(h.draining()));
        tokio::time::sleep(SECOND).await;
        h.trigger(Reason::Signal("SIGTERM"));
        let cut = started(&h)
            .await
            .expect_err("a rollout that was taken back");
        assert!(cut.text().contains("SIGTERM"), "{}", cut.text());
        drop(cut);
        let _ = run.await.expect("no panic").expect("a report");
    }
}
