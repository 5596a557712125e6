//! Section 5 of the design: how the time is split, and that no step overruns its part.

use std::time::Duration;

use prestop::{Outcome, Phase, Stage, WorkKind};

use crate::registries::Fake;
use crate::support::{Act, Log, asked, assert_near, ms, outcome, phase, plan, s, stop};

/// The table of section 5 in milliseconds, written out by hand.
struct Row {
    grace: u64,
    reserve: u64,
    on_stopped: u64,
    force: u64,
    leave: u64,
    hook: u64,
    lame_duck: u64,
}

const TABLE: [Row; 5] = [
    Row {
        grace: 1,
        reserve: 200,
        on_stopped: 150,
        force: 100,
        leave: 200,
        hook: 200,
        lame_duck: 0,
    },
    Row {
        grace: 3,
        reserve: 1_000,
        on_stopped: 500,
        force: 250,
        leave: 500,
        hook: 500,
        lame_duck: 0,
    },
    Row {
        grace: 5,
        reserve: 1_000,
        on_stopped: 500,
        force: 250,
        leave: 750,
        hook: 1_667,
        lame_duck: 1_666,
    },
    Row {
        grace: 30,
        reserve: 1_500,
        on_stopped: 3_000,
        force: 900,
        leave: 4_500,
        hook: 10_000,
        lame_duck: 5_000,
    },
    Row {
        grace: 600,
        reserve: 5_000,
        on_stopped: 10_000,
        force: 2_000,
        leave: 5_000,
        hook: 10_000,
        lame_duck: 5_000,
    },
];

/// Everything is stuck at once: the work, the registry, a hook of each stage.
#[tokio::test(start_paused = true)]
async fn with_everything_stuck_each_phase_has_its_part_and_the_stop_ends_at_the_deadline() {
    for row in TABLE {
        let log = Log::new();
        let fake = Fake::new("dead", &log)
            .beats(s(5), s(0))
            .deregister_does(&[Act::Hang]);
        let c = plan(row.grace)
            .lame_duck(ms(row.lame_duck))
            .registry(fake.clone(), fake.instance())
            .pre_stop("stuck", |_| Act::Hang.play())
            .on_stopped("stuck", |_| Act::Hang.play())
            .build()
            .expect("builds");
        let _stuck = c.handle().guard("stuck work").expect("open");
        let line = line!() - 1;
        let report = stop(c).await;

        let what = |what: &str| format!("G = {}: {what}\n{report}", row.grace);
        let (grace, deadline) = (row.grace * 1_000, row.grace * 1_000 - row.reserve);
        let before = row.hook.max(row.leave + row.lame_duck);
        let drain = deadline - row.on_stopped - row.force - before;
        assert!(drain * 10 >= grace, "the table is no table");
        assert_near(
            phase(&report, Phase::PreStop).planned,
            ms(row.leave),
            &what("leave"),
        );
        assert_near(
            phase(&report, Phase::PreStop).used,
            ms(row.leave),
            &what("leave"),
        );
        assert_near(
            phase(&report, Phase::LameDuck).used,
            ms(before - row.leave),
            &what("lame duck"),
        );
        assert_near(
            phase(&report, Phase::Draining).planned,
            ms(drain),
            &what("drain"),
        );
        assert_near(
            phase(&report, Phase::Draining).used,
            ms(drain + row.force),
            &what("drain and force close"),
        );
        assert_near(
            phase(&report, Phase::Stopping).planned,
            ms(row.on_stopped),
            &what("on_stopped"),
        );
        assert_near(
            phase(&report, Phase::Stopping).used,
            ms(row.on_stopped),
            &what("on_stopped"),
        );
        assert_near(report.total, ms(deadline), &what("deadline"));

        assert_eq!(outcome(&report, "stuck", Stage::PreStop), Outcome::TimedOut);
        assert_eq!(
            outcome(&report, "stuck", Stage::OnStopped),
            Outcome::TimedOut
        );
        let [straggler] = &report.stragglers[..] else {
            panic!("{report}")
        };
        assert_eq!(straggler.kind, WorkKind::Guard);
        assert!(
            straggler.what.contains("\"stuck work\"")
                && straggler.what.contains(&format!("clock.rs:{line}")),
            "{}",
            straggler.what
        );
        assert_eq!(report.exit_code(), 72);
    }
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_do_a_stop_takes_no_time() {
    for grace in [1, 3, 5, 30, 600] {
        let report = stop(plan(grace).build().expect("builds")).await;
        assert_near(report.total, s(0), "nothing to wait for");
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_in_time_is_waited_for_and_no_longer() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let worker = h.clone();
    h.spawn("work", async move {
        worker.draining().await;
        tokio::time::sleep(s(20)).await;
    })
    .expect("open");
    let report = stop(c).await;
    assert_near(report.total, s(20), "the work");
    assert!(report.is_clean(), "{report}");
}

/// Stuck in every phase in turn, with the deadline moved to 2 s from then: nothing waits past it (S5), and what is
/// reserved is reserved (S7).
#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_tightened_in_any_phase_holds_for_all_that_is_left() {
    for at in [ms(100), s(2), s(6), s(9), s(12), s(20)] {
        for kill_in in [s(5), s(2), ms(100), s(0)] {
            let log = Log::new();
            let fake = Fake::new("dead", &log)
                .beats(s(5), s(0))
                .visible(s(3))
                .deregister_does(&[Act::Hang]);
            let c = plan(30)
                .registry(fake.clone(), fake.instance())
                .pre_stop("stuck", |_| Act::Hang.play())
                .on_stopped("stuck", |_| Act::Hang.play())
                .build()
                .expect("builds");
            let h = c.handle();
            let _stuck = h.guard("stuck work").expect("open");
            let tighten = h.clone();
            let tightened = tokio::spawn(async move {
                tighten.wait_for(Phase::PreStop).await;
                tokio::time::sleep(at).await;
                let before = tighten.deadline().expect("stopping");
                assert!(!tighten.trigger_within(asked(), kill_in), "not a new stop");
                let after = tighten.deadline().expect("stopping");
                assert!(after < before);
                after
            });
            let report = stop(c).await;
            let what = format!("tightened to {kill_in:?} at {at:?}\n{report}");
            let deadline = tightened.await.expect("no panic");
            let reserve = match kill_in {
                k if k >= s(3) => s(1),
                k => k / 5,
            };
            assert_near(report.total, at + kill_in - reserve, &what);
            assert!(deadline.is_over());
            assert_eq!(report.registries.len(), 1);
            assert_eq!(
                outcome(&report, "stuck", Stage::OnStopped),
                Outcome::TimedOut
            );
            let share = phase(&report, Phase::Stopping);
            let reserved = match kill_in {
                k if k >= s(3) => ms(500),
                k => k * 15 / 100,
            };
            assert_near(share.used, reserved, &what);
        }
    }
}

/// Tightened by a tenth of a second shortly before the end, the split of what is left must not move any step later.
#[tokio::test(start_paused = true)]
async fn a_tightened_deadline_moves_no_step_later() {
    let c = plan(600)
        .on_stopped("stuck", |_| Act::Hang.play())
        .build()
        .expect("builds");
    let h = c.handle();
    let _stuck = h.guard("stuck").expect("open");
    let tighten = h.clone();
    tokio::spawn(async move {
        tighten.wait_for(Phase::PreStop).await;
        tokio::time::sleep(s(570)).await;
        tighten.trigger_within(asked(), ms(29_900));
    });
    let report = stop(c).await;
    assert_near(
        report.stragglers[0].age,
        s(1 + 583),
        "the drain's end, as planned",
    );
    assert_near(
        phase(&report, Phase::Stopping).used,
        s(10),
        "what was reserved",
    );
    assert_near(report.total, s(595), "the deadline");
}

#[tokio::test(start_paused = true)]
async fn a_later_deadline_changes_nothing() {
    let c = plan(30)
        .on_stopped("stuck", |_| Act::Hang.play())
        .build()
        .expect("builds");
    let h = c.handle();
    assert!(h.trigger_within(asked(), s(10)));
    let first = h.deadline();
    tokio::time::sleep(ms(10)).await;
    for kill_in in [s(10), s(30), Duration::MAX] {
        assert!(!h.trigger_within(asked(), kill_in));
        assert!(!h.trigger(asked()));
        assert_eq!(h.deadline(), first);
    }
    let report = c.run(h.draining()).await.expect("a report");
    assert_near(report.total, s(9), "10 s, and 1 s of them in reserve");
}

#[tokio::test(start_paused = true)]
async fn a_sleep_hook_comes_off_a_signals_time_and_off_no_other() {
    for (reason, deadline) in [
        (prestop::Reason::Signal("SIGTERM"), 20_000 - 1_000),
        (prestop::Reason::PreStopHook, 30_000 - 1_500),
    ] {
        let c = plan(30)
            .pre_stop_elapsed(s(10))
            .on_stopped("stuck", |_| Act::Hang.play())
            .build()
            .expect("builds");
        let h = c.handle();
        h.trigger(reason);
        assert_near(h.time_left().expect("stopping"), ms(deadline), "left");
        let report = c.run(h.draining()).await.expect("a report");
        assert_near(report.total, ms(deadline), "deadline");
    }
}

/// The exact start of the kubelet's clock is known then, and SIGTERM brings no news of it, however soon it comes.
#[tokio::test(start_paused = true)]
async fn a_hook_that_calls_is_no_sleep_hook() {
    for after in [s(0), s(3), s(10)] {
        let c = plan(30)
            .pre_stop_elapsed(s(10))
            .on_stopped("stuck", |_| Act::Hang.play())
            .build()
            .expect("builds");
        let h = c.handle();
        h.trigger(prestop::Reason::PreStopHook);
        let deadline = h.deadline();
        tokio::time::sleep(after).await;
        h.trigger(prestop::Reason::Signal("SIGTERM"));
        assert_eq!(h.deadline(), deadline, "SIGTERM {after:?} after the hook");
        // Who knows better is believed.
        h.trigger_within(prestop::Reason::Signal("SIGTERM"), s(5));
        assert!(h.deadline() < deadline);
    }
}

/// The watchdog's clock is the operating system's, which says nothing about a paused one: a test that gets no processor
/// for longer than its grace period goes on.
#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods)] // blocks its thread, as a busy machine does
async fn a_test_on_a_paused_clock_may_take_longer_than_its_grace_period() {
    let c = plan(1)
        .pre_stop("blocks", |_| async {
            std::thread::sleep(ms(1_500));
        })
        .build()
        .expect("builds");
    let report = stop(c).await;
    assert_near(report.total, s(0), "on the paused clock");
    assert!(report.is_clean(), "{report}");
}
