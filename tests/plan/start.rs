//! The start, and stops that come before its end.

use prestop::{Outcome, Phase, Reason, Stage};
use tokio::time::Instant;

use crate::registries::Fake;
use crate::support::{Act, Actor, Log, asked, assert_near, ms, outcome, phase, plan, s, stop};

#[tokio::test(start_paused = true)]
async fn a_failed_start_undoes_in_reverse_what_had_started() {
    let log = Log::new();
    let fake = Fake::new("registry", &log).visible(s(5));
    let c = plan(30)
        .hook(Actor::new("a", &log))
        .hook(Actor::new("b", &log))
        .hook(Actor::new("c", &log).acts(Stage::OnStarted, Act::Fail))
        .hook(Actor::new("d", &log))
        .on_stopped("closure", {
            let log = log.clone();
            move |_| async move { log.say("closure") }
        })
        .registry(fake.clone(), fake.instance())
        .lame_duck(s(5))
        .build()
        .expect("builds");
    let report = stop(c).await;

    let started: Vec<_> = log.lines();
    assert_eq!(
        started,
        [
            "a on_started",
            "b on_started",
            "c on_started",
            "a pre_stop",
            "b pre_stop",
            "closure",
            "b on_stopped",
            "a on_stopped"
        ],
        "not a line of c's or d's stop, and nothing asked of the registry"
    );
    for name in ["c", "d"] {
        for stage in [Stage::PreStop, Stage::OnStopped] {
            let got = outcome(&report, name, stage);
            assert!(matches!(got, Outcome::Skipped(_)), "{name} {stage}: {got}");
        }
    }
    assert!(matches!(
        outcome(&report, "d", Stage::OnStarted),
        Outcome::Skipped(_)
    ));
    let Reason::StartFailed(why) = &report.reason else {
        panic!("{}", report.reason)
    };
    assert!(why.contains("\"c\"") && why.contains("no luck"), "{why}");
    assert_eq!(report.exit_code(), 70);
    assert_eq!(report.registries[0].outcome, prestop::LeaveOutcome::Skipped);
    assert_near(report.total, s(0), "nobody was sent here: no lame duck");
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_70_also_when_its_stop_goes_wrong() {
    let log = Log::new();
    let c = plan(30)
        .hook(Actor::new("a", &log).acts(Stage::OnStopped, Act::Panic))
        .on_started("b", |_| Act::Fail.play())
        .build()
        .expect("builds");
    let _stuck = c.handle().guard("stuck").expect("open");
    let report = stop(c).await;
    assert_eq!(report.exit_code(), 70, "{report}");
    assert_eq!(report.stragglers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_during_the_start_cuts_it_and_undoes_it() {
    let log = Log::new();
    let fake = Fake::new("registry", &log);
    let c = plan(30)
        .hook(Actor::new("done", &log))
        .hook(Actor::new("running", &log).acts(Stage::OnStarted, Act::Slow(s(40))))
        .hook(Actor::new("later", &log))
        .registry(fake.clone(), fake.instance())
        .lame_duck(s(5))
        .build()
        .expect("builds");
    let h = c.handle();
    let trigger = h.clone();
    tokio::spawn(async move {
        tokio::time::sleep(s(2)).await;
        assert_eq!(trigger.phase(), Phase::Starting);
        assert!(trigger.trigger(asked()));
    });
    let begun = Instant::now();
    let report = c.run(h.draining()).await.expect("a report");

    assert_near(begun.elapsed(), s(2), "the running hook was not waited for");
    assert_eq!(
        log.lines(),
        [
            "done on_started",
            "running on_started",
            "done pre_stop",
            "done on_stopped"
        ]
    );
    assert_eq!(
        outcome(&report, "running", Stage::OnStarted),
        Outcome::Cancelled
    );
    assert!(matches!(
        outcome(&report, "later", Stage::OnStarted),
        Outcome::Skipped(_)
    ));
    assert_eq!(report.reason, asked(), "not StartFailed: it was asked for");
    assert_eq!(
        report.exit_code(),
        0,
        "a rollout that is taken back has lost nothing: {report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_trigger_before_the_run_starts_nothing_and_its_clock_runs_from_the_trigger() {
    let log = Log::new();
    let c = plan(30)
        .hook(Actor::new("a", &log))
        .on_stopped("closure", |_| Act::Hang.play())
        .build()
        .expect("builds");
    let h = c.handle();
    assert!(h.trigger(asked()));
    tokio::time::sleep(s(3)).await;
    let report = c.run(h.draining()).await.expect("a report");
    assert!(log.lines().is_empty(), "{log:?}");
    assert_near(
        report.total,
        ms(28_500),
        "from the trigger, not from the run",
    );
    assert_near(phase(&report, Phase::PreStop).used, s(3), "waiting for run");
}

#[tokio::test(start_paused = true)]
async fn triggers_at_the_same_instant_begin_one_stop() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    let triggers: Vec<_> = (0..50)
        .map(|n| {
            let h = h.clone();
            tokio::spawn(async move {
                h.wait_for(Phase::Ready).await;
                tokio::time::sleep(s(1)).await;
                h.trigger(Reason::requested(format!("{n}")))
            })
        })
        .collect();
    let report = c.run(h.draining()).await.expect("a report");
    let mut began = 0;
    for (n, trigger) in triggers.into_iter().enumerate() {
        if trigger.await.expect("no panic") {
            began += 1;
            assert_eq!(report.reason, Reason::requested(format!("{n}")));
        }
    }
    assert_eq!(began, 1);
}

/// T12: what would never run is refused when it is added.
#[tokio::test(start_paused = true)]
async fn a_hook_or_registry_added_after_the_trigger_is_an_error() {
    let log = Log::new();
    let mut c = plan(30).build().expect("builds");
    c.on_stopped("in time", |_| async {}).expect("in time");
    c.handle().trigger(asked());
    let fake = Fake::new("registry", &log);
    let errors = [
        c.on_started("late", |_| async {}),
        c.pre_stop("late", |_| async {}),
        c.on_stopped("late", |_| async {}),
        c.hook(Actor::new("late", &log)),
        c.registry(fake.clone(), fake.instance()),
    ];
    for error in errors {
        let error = error.expect_err("too late");
        assert!(error.is_too_late() && !error.is_budget(), "{error}");
        assert!(error.to_string().contains("the test"), "{error}");
    }
    let h = c.handle();
    let report = c.run(h.draining()).await.expect("a report");
    assert_eq!(report.hooks.len(), 1, "{report}");
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_when_it_is_added_and_changes_nothing() {
    let log = Log::new();
    let mut c = plan(30).build().expect("builds");
    let eureka = Fake::new("eureka", &log).visible(s(65));
    let error = c
        .registry(eureka.clone(), eureka.instance())
        .expect_err("65 s");
    assert!(error.is_budget(), "{error}");
    let long = prestop::HookName::new("long").within(s(25));
    let error = c.pre_stop(long, |_| async {}).expect_err("25 s");
    assert!(error.is_budget(), "{error}");
    c.pre_stop("short", |_| async {})
        .expect("the refused ones are not counted");
    let report = stop(c).await;
    assert_eq!(report.hooks.len(), 1);
    assert!(
        report.registries.is_empty() && report.is_clean(),
        "{report}"
    );
}
