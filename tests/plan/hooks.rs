//! S5, S7, S8: whatever a hook does, the stop ends in time, everything else happens, and the report says what it was.

use prestop::{HookName, Outcome, Phase, Stage};
use tokio::time::Instant;

use crate::support::{Act, Actor, Log, asked, assert_near, ms, outcome, phase, plan, s, stop};

/// What the hook does, what its outcome must be, the exit code of a stop with it.
type Case = (Act, fn(&Outcome) -> bool, u8);

const ACTS: [Case; 5] = [
    (Act::Ok, |o| *o == Outcome::Done, 0),
    (Act::Slow(ms(700)), |o| *o == Outcome::Done, 0),
    (Act::Hang, |o| *o == Outcome::TimedOut, 71),
    (
        Act::Fail,
        |o| *o == Outcome::Failed("no luck".to_owned()),
        71,
    ),
    (
        Act::Panic,
        |o| *o == Outcome::Panicked("oh no".to_owned()),
        71,
    ),
];

#[tokio::test(start_paused = true)]
async fn whatever_a_pre_stop_hook_does_the_others_run_and_the_stop_ends_in_time() {
    for (act, expected, code) in ACTS {
        let log = Log::new();
        let c = plan(30)
            .hook(Actor::new("before", &log))
            .pre_stop("odd", move |_| act.play())
            .hook(Actor::new("after", &log))
            .build()
            .expect("builds");
        let report = stop(c).await;
        let got = outcome(&report, "odd", Stage::PreStop);
        assert!(expected(&got), "{act:?}: {got}");
        for name in ["before", "after"] {
            for stage in [Stage::OnStarted, Stage::PreStop, Stage::OnStopped] {
                assert_eq!(outcome(&report, name, stage), Outcome::Done);
                assert_eq!(log.count(&format!("{name} {stage}")), 1);
            }
        }
        assert_eq!(report.exit_code(), code, "{act:?}\n{report}");
        let used = match act {
            Act::Slow(length) => length,
            Act::Hang => s(10),
            Act::Ok | Act::Fail | Act::Panic => s(0),
        };
        assert_near(report.total, used, "the hook's limit is all that is waited");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_an_on_stopped_hook_does_the_others_run_and_the_stop_ends_in_time() {
    for (act, expected, code) in ACTS {
        let log = Log::new();
        let c = plan(30)
            .hook(Actor::new("oldest", &log))
            .on_stopped("odd", move |_| act.play())
            .hook(Actor::new("newest", &log))
            .build()
            .expect("builds");
        let report = stop(c).await;
        let got = outcome(&report, "odd", Stage::OnStopped);
        assert!(expected(&got), "{act:?}: {got}");
        for name in ["oldest", "newest"] {
            assert_eq!(outcome(&report, name, Stage::OnStopped), Outcome::Done);
        }
        let order = report.hooks.iter().filter(|h| h.stage == Stage::OnStopped);
        let order: Vec<_> = order.map(|h| h.name.as_str()).collect();
        assert_eq!(order, ["newest", "odd", "oldest"], "newest first");
        assert_eq!(report.exit_code(), code, "{act:?}\n{report}");
        assert!(report.total <= ms(28_500), "{}", report.total.as_millis());
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_an_on_started_hook_does_wrong_the_start_has_failed() {
    for (act, expected, _) in ACTS {
        let log = Log::new();
        let begun = Instant::now();
        let c = plan(30)
            .hook(Actor::new("before", &log))
            .on_started(HookName::new("odd").within(s(2)), move |_| act.play())
            .hook(Actor::new("after", &log))
            .build()
            .expect("builds");
        let report = stop(c).await;
        let got = outcome(&report, "odd", Stage::OnStarted);
        assert!(expected(&got), "{act:?}: {got}");
        let failed = matches!(act, Act::Hang | Act::Fail | Act::Panic);
        assert_eq!(report.exit_code(), if failed { 70 } else { 0 }, "{report}");
        assert_eq!(log.count("before on_stopped"), 1);
        assert_eq!(log.count("after on_stopped"), usize::from(!failed));
        if act == Act::Hang {
            assert_near(begun.elapsed(), s(2), "its own limit");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_on_started_hook_without_a_limit_gets_a_minute() {
    let begun = Instant::now();
    let c = plan(30).on_started("hang", |_| Act::Hang.play());
    let report = stop(c.build().expect("builds")).await;
    assert_near(begun.elapsed(), s(60), "the default");
    assert_eq!(report.exit_code(), 70);
}

#[tokio::test(start_paused = true)]
async fn pre_stop_hooks_run_all_at_once() {
    let mut c = plan(30);
    for length in 1..=8 {
        c = c.pre_stop(format!("{length} s"), move |_| Act::Slow(s(length)).play());
    }
    let report = stop(c.build().expect("builds")).await;
    assert_near(report.total, s(8), "the slowest, not the sum");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_told_when_it_is_dropped() {
    let log = Log::new();
    let told = |log: &Log| {
        let log = log.clone();
        move |cx: prestop::HookContext| async move {
            log.say(format!("{} {:?}", cx.stage(), cx.remaining()));
        }
    };
    let c = plan(30)
        .on_started("a", told(&log))
        .on_started(HookName::new("b").within(s(7)), told(&log))
        .pre_stop("c", told(&log))
        .pre_stop(HookName::new("d").within(s(3)), told(&log))
        .on_stopped("e", told(&log))
        .on_stopped(HookName::new("f").within(ms(100)), told(&log));
    let _ = stop(c.build().expect("builds")).await;
    assert_eq!(
        log.lines(),
        [
            "on_started 60s",
            "on_started 7s",
            "pre_stop 10s",
            "pre_stop 3s",
            "on_stopped 100ms",
            "on_stopped 28.5s"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_is_dropped() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.say("dropped");
        }
    }
    let log = Log::new();
    let held = Dropped(log.clone());
    let c = plan(30).pre_stop("hang", move |_| async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    let _ = stop(c.build().expect("builds")).await;
    assert_near(log.when("dropped"), s(1 + 10), "at its limit");
}

/// S7: the drain used all of its time, and a hook all of its share; each later one has an equal part of the rest.
#[tokio::test(start_paused = true)]
async fn reserved_time_is_split_among_the_hooks_that_are_left() {
    let log = Log::new();
    let note = |name: &'static str, act: Act| {
        let log = log.clone();
        move |cx: prestop::HookContext| async move {
            log.say(format!("{name} {:?}", cx.remaining()));
            act.play().await
        }
    };
    let c = plan(30)
        .on_stopped("4", note("4", Act::Ok))
        .on_stopped("3", note("3", Act::Hang))
        .on_stopped("2", note("2", Act::Ok))
        .on_stopped("1", note("1", Act::Hang))
        .build()
        .expect("builds");
    let _stuck = c.handle().guard("stuck").expect("open");
    let report = stop(c).await;
    // 3 s are reserved: 3/4 hung away; 2.25/3 not used; 2.25/2 hung away; 1.125 are left.
    assert_eq!(log.lines(), ["1 750ms", "2 750ms", "3 1.125s", "4 1.125s"]);
    assert_near(phase(&report, Phase::Stopping).planned, s(3), "reserved");
    assert_near(phase(&report, Phase::Stopping).used, ms(1_875), "used");
    assert_eq!(report.exit_code(), 72, "{report}");
}

#[tokio::test(start_paused = true)]
async fn all_on_stopped_hooks_hang_and_the_stop_still_ends_by_the_deadline() {
    for (grace, deadline) in [
        (1, 800),
        (3, 2_000),
        (5, 4_000),
        (30, 28_500),
        (600, 595_000),
    ] {
        let mut c = plan(grace);
        for n in 0..7 {
            c = c.on_stopped(format!("{n}"), |_| Act::Hang.play());
        }
        let report = stop(c.build().expect("builds")).await;
        assert!(
            report.total <= ms(deadline + 1),
            "G = {grace}: {:?}",
            report.total
        );
        assert_eq!(report.hooks.len(), 7);
        assert!(report.hooks.iter().all(|h| h.outcome == Outcome::TimedOut));
    }
}

/// S8: an error is shown by code of the user's, too.
#[tokio::test(start_paused = true)]
async fn an_error_that_panics_when_it_is_shown_skips_no_other_step() {
    #[derive(Debug)]
    struct Rude;
    impl std::fmt::Display for Rude {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words")
        }
    }
    impl std::error::Error for Rude {}

    for stage in [Stage::OnStarted, Stage::PreStop, Stage::OnStopped] {
        let log = Log::new();
        let mut c = plan(30)
            .hook(Actor::new("other", &log))
            .build()
            .expect("builds");
        match stage {
            Stage::OnStarted => c.on_started("rude", |_| async { Err::<(), _>(Rude) }),
            Stage::PreStop => c.pre_stop("rude", |_| async { Err::<(), _>(Rude) }),
            Stage::OnStopped => c.on_stopped("rude", |_| async { Err::<(), _>(Rude) }),
        }
        .expect("in time");
        let report = stop(c).await;
        assert!(!outcome(&report, "rude", stage).is_good());
        assert_eq!(log.count("other on_stopped"), 1, "{report}");
    }
}

/// S8: so are names and limits.
#[tokio::test(start_paused = true)]
async fn a_limit_that_panics_during_the_stop_skips_no_other_step() {
    struct Rude;
    #[async_trait::async_trait]
    impl prestop::LifecycleHook for Rude {
        fn name(&self) -> &str {
            "rude"
        }
        fn limit(&self, stage: Stage) -> Option<std::time::Duration> {
            assert!(stage != Stage::OnStopped, "no limits");
            None
        }
    }
    let log = Log::new();
    // Where it is asked is not promised: at build it is the caller's panic, during the stop it is an outcome.
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        plan(30).hook(Actor::new("other", &log)).hook(Rude).build()
    }));
    if let Ok(c) = built {
        let c = c.expect("builds");
        let report = stop(c).await;
        assert_eq!(log.count("other on_stopped"), 1, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trigger_from_inside_any_hook_does_the_same_as_from_outside() {
    for stage in [Stage::OnStarted, Stage::PreStop, Stage::OnStopped] {
        let log = Log::new();
        let mut c = plan(30)
            .hook(Actor::new("other", &log))
            .build()
            .expect("builds");
        let note = log.clone();
        let hook = move |cx: prestop::HookContext| async move {
            note.say(format!("began it: {}", cx.handle().trigger(asked())));
        };
        match stage {
            Stage::OnStarted => c.on_started("self", hook),
            Stage::PreStop => c.pre_stop("self", hook),
            Stage::OnStopped => c.on_stopped("self", hook),
        }
        .expect("in time");
        let report = stop(c).await;
        assert_eq!(report.reason, asked());
        let first = stage == Stage::OnStarted;
        assert_eq!(log.count(&format!("began it: {first}")), 1, "{log:?}");
        assert_eq!(log.count("other on_stopped"), 1);
        assert_near(report.total, s(0), "nobody waits for anybody");
        assert!(report.is_clean(), "{report}");
    }
}
