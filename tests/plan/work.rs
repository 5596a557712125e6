//! Guards and tasks: S3 and S13 for the work that is not a request.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prestop::{Closed, Outcome, Phase, WorkKind};
use tokio::time::Instant;

use crate::support::{Act, asked, assert_near, ms, plan, s, stop};

/// S13: open until `Draining` ends, then a typed refusal.
#[tokio::test(start_paused = true)]
async fn work_is_admitted_until_the_drain_ends_and_refused_from_then_on() {
    let mut c = plan(30).lame_duck(s(2)).build().expect("builds");
    let h = c.handle();
    let inside = h.clone();
    c.on_stopped("asks", move |_| async move {
        assert_eq!(inside.guard("late").err(), Some(Closed));
        assert!(
            inside
                .spawn("late", async { panic!("never polled") })
                .is_err()
        );
    })
    .expect("in time");
    let worker = h.clone();
    h.spawn("work", async move {
        for phase in [
            Phase::Starting,
            Phase::Ready,
            Phase::PreStop,
            Phase::LameDuck,
            Phase::Draining,
        ] {
            worker.wait_for(phase).await;
            drop(worker.guard("now").expect("open"));
        }
        // The follow-up, and the follow-up's own.
        let next = worker.clone();
        worker
            .spawn("follow-up", async move {
                tokio::time::sleep(s(3)).await;
                let last = next.guard("follow-up of the follow-up").expect("open");
                tokio::spawn(async move {
                    tokio::time::sleep(s(3)).await;
                    drop(last);
                });
            })
            .expect("open");
    })
    .expect("open");
    let report = stop(c).await;
    assert_near(report.total, s(8), "lame duck, follow-up, its follow-up");
    assert!(report.is_clean(), "{report}");
    assert_eq!(h.guard("after").err(), Some(Closed));
}

/// S13: the drain's time is up, also while what was cut is still there.
#[tokio::test(start_paused = true)]
async fn work_is_refused_from_the_moment_at_which_stragglers_are_cut() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let _stuck = h.guard("stuck").expect("open");
    h.trigger(asked());
    let asks = tokio::spawn({
        let h = h.clone();
        async move {
            tokio::time::sleep(ms(24_599)).await;
            drop(h.guard("in time").expect("open"));
            tokio::time::sleep(ms(2)).await;
            assert_eq!(h.phase(), Phase::Draining);
            assert_eq!(h.guard("late").err(), Some(Closed));
            assert!(h.spawn("late", async {}).is_err());
        }
    });
    let report = c.run(h.draining()).await.expect("a report");
    asks.await.expect("no panic");
    assert_eq!(report.stragglers.len(), 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_end_is_named_with_its_line_and_aborted() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let task = h.spawn("mail queue", pending::<()>()).expect("open");
    let task_line = line!() - 1;
    tokio::time::sleep(s(1)).await;
    let _held = h.guard("migration").expect("open");
    let guard_line = line!() - 1;
    let report = stop(c).await;

    let cut: Vec<_> = report
        .stragglers
        .iter()
        .map(|s| (s.kind, s.what.to_string()))
        .collect();
    assert_eq!(
        cut,
        [
            (
                WorkKind::Task,
                format!("\"mail queue\" (tests/plan/work.rs:{task_line})")
            ),
            (
                WorkKind::Guard,
                format!("\"migration\" (tests/plan/work.rs:{guard_line})")
            )
        ],
        "oldest first"
    );
    assert_near(report.stragglers[0].age, ms(26_600), "since it was spawned");
    assert!(task.await.expect_err("aborted").is_cancelled());
    assert_eq!(report.exit_code(), 72);
    assert_eq!(report.requests.cut, 0, "no request was cut");
    assert_near(
        report.total,
        ms(25_500),
        "the guard could not be cut: all of the force close",
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_in_the_report_and_in_its_join_handle() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let task = h
        .spawn("fragile", async {
            Act::Panic.play().await.expect("never returns");
        })
        .expect("open");
    let report = stop(c).await;
    assert_eq!(report.tasks.len(), 1, "{report}");
    assert_eq!(report.tasks[0].name, "fragile");
    assert_eq!(
        report.tasks[0].outcome,
        Outcome::Panicked("oh no".to_owned())
    );
    assert_eq!(report.exit_code(), 71);
    assert!(task.await.expect_err("panicked").is_panic());
}

/// A subscriber that takes its time over an event, as one that writes to a slow terminal does: until the report is
/// there, or long enough for it to be if nobody waits.
struct Slow(Arc<AtomicBool>);

impl tracing::Subscriber for Slow {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        let begun = Instant::now();
        while !self.0.load(Ordering::Acquire) && begun.elapsed() < ms(100) {
            std::thread::yield_now();
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The panic is the last thing in flight, and the engine is on another thread (for certain, since it is another
/// runtime's; within one, a woken task mostly stays on its waker's thread): the report waits for it.
#[tokio::test]
async fn a_panic_that_ends_the_drain_is_in_the_report() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let worker = h.clone();
    let reported = Arc::new(AtomicBool::new(false));
    let slow = Slow(reported.clone());
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime");
    let entered = elsewhere.enter();
    h.spawn("fragile", async move {
        worker.draining().await;
        // For this thread, from here to its end.
        std::mem::forget(tracing::subscriber::set_default(slow));
        std::panic::resume_unwind(Box::new("oh no"));
    })
    .expect("open");
    drop(entered);
    h.trigger(asked());
    let report = c.run(h.draining()).await.expect("a report");
    elsewhere.shutdown_background();
    reported.store(true, Ordering::Release);
    assert_eq!(report.exit_code(), 71, "{report}");
}

/// Dropping the join handle detaches; the count stays.
#[tokio::test(start_paused = true)]
async fn a_detached_task_still_holds_the_drain_open() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    drop(h.spawn("detached", tokio::time::sleep(s(6))).expect("open"));
    h.trigger(asked());
    let report = c.run(h.draining()).await.expect("a report");
    assert_near(report.total, s(6), "the task");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_aborted_by_its_owner_holds_nothing_open_and_is_no_failure() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let task = h.spawn("aborted", pending::<()>()).expect("open");
    task.abort();
    let report = stop(c).await;
    assert_near(report.total, s(0), "gone");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_cancelled_at_their_phase_and_no_sooner() {
    let c = plan(30).lame_duck(s(3)).build().expect("builds");
    let h = c.handle();
    let tokens: Vec<_> = Phase::ALL.into_iter().map(|p| (p, h.token(p))).collect();
    let watcher = h.clone();
    let watch = tokio::spawn(async move {
        for (phase, token) in tokens {
            if phase > Phase::Starting {
                token.cancelled().await;
            }
            assert!(watcher.phase() >= phase, "{phase}");
            let later = watcher.token(Phase::Stopped).is_cancelled();
            assert_eq!(later, watcher.phase() == Phase::Stopped);
        }
    });
    h.token(Phase::Draining).cancel();
    assert_eq!(h.phase(), Phase::Starting, "one's own clone");
    let report = stop(c).await;
    assert_near(report.total, s(3), "the lame duck");
    watch.await.expect("no panic");
}
