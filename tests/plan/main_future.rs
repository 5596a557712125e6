//! The future given to `run`: however it ends, and when `run` itself is dropped.

use std::future::pending;
use std::time::Duration;

use futures::FutureExt;
use prestop::{
    Closed, Outcome, Phase, Reason, ShutdownCoordinator, ShutdownHandle, Stage, WorkKind,
};
use tokio::time::Instant;

use crate::registries::Fake;
use crate::support::{Act, Actor, Log, asked, assert_near, ms, outcome, plan, s};

fn counted(log: &Log) -> ShutdownCoordinator {
    plan(30).hook(Actor::new("a", log)).build().expect("builds")
}

#[tokio::test(start_paused = true)]
async fn a_main_future_that_returns_early_is_the_trigger() {
    let log = Log::new();
    let c = counted(&log);
    let main = async {
        tokio::time::sleep(s(100)).await;
    };
    let report = c.run(main).await.expect("a report");
    assert!(matches!(&report.reason, Reason::TaskEnded(how) if how.contains("returned")));
    assert_eq!(report.main, Outcome::Done);
    assert_eq!(log.count("a on_stopped"), 1);
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_main_future_that_fails_is_the_trigger_and_71() {
    let log = Log::new();
    let main = async { Err::<(), _>(std::io::Error::other("port taken")) };
    let report = counted(&log).run(main).await.expect("a report");
    assert!(matches!(&report.reason, Reason::TaskEnded(how) if how.contains("port taken")));
    assert_eq!(report.main, Outcome::Failed("port taken".to_owned()));
    assert_eq!(report.exit_code(), 71);
}

#[tokio::test(start_paused = true)]
async fn a_main_future_that_panics_is_the_trigger_and_71_and_every_step_happens() {
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    let main = async move {
        h.wait_for(Phase::Ready).await;
        assert!(h.phase() != Phase::Ready, "oh no");
    };
    let report = c.run(main).await.expect("a report");
    assert_eq!(report.main, Outcome::Panicked("oh no".to_owned()));
    assert_eq!(report.exit_code(), 71);
    assert_eq!(log.lines(), ["a on_started", "a pre_stop", "a on_stopped"]);
}

#[tokio::test(start_paused = true)]
async fn a_main_future_that_does_not_end_is_a_straggler_and_is_dropped() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.say("dropped");
        }
    }
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    h.trigger(asked());
    let held = Dropped(log.clone());
    let main = async move {
        let _held = held;
        pending::<()>().await;
    };
    let report = c.run(main).await.expect("a report");
    assert_eq!(report.main, Outcome::TimedOut);
    assert_eq!(report.stragglers.len(), 1, "{report}");
    assert_eq!(report.stragglers[0].kind, WorkKind::Main);
    assert_eq!(report.exit_code(), 72);
    assert_near(log.when("dropped"), ms(24_600), "at force close");
    assert_near(report.total, ms(24_600), "once cut it holds nothing up");
}

/// S8: its drop is code of the user's, too.
#[tokio::test(start_paused = true)]
async fn a_main_future_that_panics_when_it_is_cut_skips_no_other_step() {
    struct Rude;
    impl Drop for Rude {
        fn drop(&mut self) {
            panic!("not like this");
        }
    }
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    let rude = Rude;
    let main = async move {
        let _rude = rude;
        h.wait_for(Phase::Ready).await;
        h.trigger(asked());
        pending::<()>().await;
    };
    let ended = std::panic::AssertUnwindSafe(c.run(main))
        .catch_unwind()
        .await;
    let report = ended.expect("no panic of ours").expect("a report");
    assert_eq!(log.count("a on_stopped"), 1, "{report}");
    assert_eq!(report.exit_code(), 72);
}

#[tokio::test(start_paused = true)]
async fn a_main_future_that_outlives_the_trigger_holds_the_drain_open() {
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    h.trigger(asked());
    let main = async move {
        h.draining().await;
        tokio::time::sleep(s(4)).await;
    };
    let report = c.run(main).await.expect("a report");
    assert_near(report.total, s(4), "the main future's end");
    assert!(report.is_clean());
}

/// Dropping `run` is a force close in every phase: work is cut, the phase is `Stopped`, nothing more is called.
#[tokio::test(start_paused = true)]
async fn dropping_the_run_in_any_phase_cuts_everything() {
    // Times at which each phase is under way, counted from the start.
    let phases = [
        (ms(500), Phase::Starting),
        (ms(1_500), Phase::Ready),
        (ms(2_500), Phase::PreStop),
        (ms(4_500), Phase::LameDuck),
        (ms(7_500), Phase::Draining),
        (ms(11_000), Phase::Stopping),
    ];
    for (at, expected) in phases {
        let log = Log::new();
        let fake = Fake::new("registry", &log).deregister_does(&[Act::Slow(ms(1_000))]);
        let c = plan(30)
            .lame_duck(s(3))
            .hook(
                Actor::new("a", &log)
                    .acts(Stage::OnStarted, Act::Slow(s(1)))
                    .acts(Stage::OnStopped, Act::Slow(s(5))),
            )
            .hook(Actor::new("b", &log).acts(Stage::OnStopped, Act::Slow(s(5))))
            .registry(fake.clone(), fake.instance())
            .build()
            .expect("builds");
        let h = c.handle();
        let worker = h.clone();
        let job = h
            .spawn("job", async move {
                worker.draining().await;
                tokio::time::sleep(s(4)).await;
            })
            .expect("open");
        let trigger = h.clone();
        tokio::spawn(async move {
            tokio::time::sleep(s(2)).await;
            trigger.trigger(asked());
        });
        let begun = Instant::now();
        let dropped = tokio::time::timeout_at(begun + at, c.run(h.draining())).await;
        assert!(dropped.is_err(), "{expected}: it was over before");
        let of_the_plan = h.report().phases.last().map(|p| p.phase);
        if expected >= Phase::PreStop {
            assert_eq!(of_the_plan, Some(expected), "the test's own clock");
        }
        assert_eq!(h.phase(), Phase::Stopped, "{expected}");
        assert_eq!(h.guard("late").err(), Some(Closed), "{expected}");
        for phase in Phase::ALL {
            assert!(h.token(phase).is_cancelled(), "{phase} was passed");
        }
        h.wait_for(Phase::Stopped).await;
        match job.await {
            Ok(()) => assert_eq!(expected, Phase::Stopping),
            Err(e) => assert!(e.is_cancelled() && expected < Phase::Stopping, "{e}"),
        }
        let before = log.lines();
        tokio::time::sleep(s(60)).await;
        let mut after = log.lines();
        // Only the ends of calls that were dropped.
        after.retain(|line| !line.ends_with(" ends"));
        let mut before = before;
        before.retain(|line| !line.ends_with(" ends"));
        assert_eq!(before, after, "{expected}: something was called later");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_dropped_run_the_stop_has_a_reason_and_a_deadline_like_any_other() {
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    let run = c.run(pending::<()>());
    assert!(tokio::time::timeout(s(1), run).await.is_err());
    assert_eq!(h.phase(), Phase::Stopped);
    assert!(h.reason().is_some() && h.deadline().is_some(), "{h:?}");
}

/// Two servers, one main future: the paved way of the design.
#[tokio::test(start_paused = true)]
async fn the_report_counts_from_the_trigger_not_from_the_start() {
    async fn server(h: ShutdownHandle, answer: Duration) -> Result<(), std::io::Error> {
        h.draining().await;
        tokio::time::sleep(answer).await;
        Ok(())
    }
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let trigger = h.clone();
    tokio::spawn(async move {
        tokio::time::sleep(s(1_000)).await;
        trigger.trigger(asked());
    });
    let (a, b) = (server(h.clone(), s(1)), server(h, s(3)));
    let main = async { tokio::try_join!(a, b) };
    let report = c.run(main).await.expect("a report");
    assert_near(report.total, s(3), "the slower one");
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_dropped_without_a_run_stops_nothing() {
    let log = Log::new();
    let c = counted(&log);
    let h = c.handle();
    drop(c);
    assert_eq!(h.phase(), Phase::Starting);
    drop(h.guard("still open").expect("open"));
    assert!(log.lines().is_empty());
}

/// S8, on the side of `on_started`: what main did does not change how the start is undone.
#[tokio::test(start_paused = true)]
async fn a_main_future_that_ends_during_the_start_cuts_the_start() {
    let log = Log::new();
    let c = plan(30)
        .hook(Actor::new("slow", &log).acts(Stage::OnStarted, Act::Slow(s(50))))
        .build()
        .expect("builds");
    let main = async {
        tokio::time::sleep(s(1)).await;
        Err::<(), _>("port taken")
    };
    let begun = Instant::now();
    let report = c.run(main).await.expect("a report");
    assert_near(begun.elapsed(), s(1), "at once");
    assert_eq!(
        outcome(&report, "slow", Stage::OnStarted),
        Outcome::Cancelled
    );
    assert_eq!(report.exit_code(), 71, "{report}");
}
