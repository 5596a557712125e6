//! The lame duck: how long it is, and who can end it.

use std::process::Command;

use prestop::{GracePeriod, Outcome, Phase, ShutdownCoordinator, Stage, WorkKind};

use crate::registries::Fake;
use crate::support::{Act, Log, assert_near, ms, outcome, phase, plan, s, stop};

#[tokio::test(start_paused = true)]
async fn a_lame_duck_lasts_as_long_as_was_set() {
    let report = stop(plan(30).lame_duck(s(7)).build().expect("builds")).await;
    assert_near(phase(&report, Phase::LameDuck).planned, s(7), "planned");
    assert_near(phase(&report, Phase::LameDuck).used, s(7), "used");
    assert_near(report.total, s(7), "nothing else");
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_lasts_until_the_pre_stop_hooks_are_done() {
    let c = plan(30)
        .lame_duck(s(1))
        .pre_stop("slow", |_| Act::Slow(s(6)).play());
    let report = stop(c.build().expect("builds")).await;
    assert_near(phase(&report, Phase::LameDuck).used, s(6), "the hook");
}

/// Set in the environment, which a test must not change: the test starts itself again as a child.
#[test]
fn only_on_kubernetes_is_there_a_lame_duck_by_default() {
    let me = std::env::current_exe().expect("the test binary");
    for (host, expected) in [(Some("10.96.0.1"), "5000 1250 0"), (None, "0 0 0")] {
        let mut child = Command::new(&me);
        child
            .args([
                "--exact",
                "lame_duck::child_default_lame_duck",
                "--nocapture",
            ])
            .args(["--ignored"])
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove(GracePeriod::VARIABLE);
        if let Some(host) = host {
            child.env("KUBERNETES_SERVICE_HOST", host);
        }
        let out = child.output().expect("a child");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            text.contains(&format!("lame ducks: {expected}")),
            "{host:?}: {text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::print_stdout)] // how a child answers
#[ignore = "a child of only_on_kubernetes_is_there_a_lame_duck_by_default"]
async fn child_default_lame_duck() {
    let mut lengths = Vec::new();
    // 4 s, since of all whole seconds it is the one in which a third is too much for the rest.
    for grace in [None, Some(4), Some(3)] {
        let mut c = ShutdownCoordinator::builder_without_signals();
        if let Some(grace) = grace {
            c = c.grace_period(GracePeriod::from_secs(grace).expect("a grace period"));
        }
        let report = stop(c.build().expect("a default builds everywhere")).await;
        lengths.push(phase(&report, Phase::LameDuck).used.as_millis().to_string());
    }
    println!("lame ducks: {}", lengths.join(" "));
}

#[tokio::test(start_paused = true)]
async fn end_lame_duck_ends_it_at_once_or_leaves_it_out() {
    let log = Log::new();
    // Before the trigger, in PreStop, in LameDuck.
    for (at, total) in [(None, 1_000), (Some(ms(500)), 1_000), (Some(s(3)), 3_000)] {
        let fake = Fake::new("slow", &log)
            .visible(s(6))
            .deregister_does(&[Act::Slow(s(1))]);
        let c = plan(30)
            .lame_duck(s(8))
            .registry(fake.clone(), fake.instance())
            .build()
            .expect("builds");
        let h = c.handle();
        match at {
            None => h.end_lame_duck(),
            Some(at) => drop(tokio::spawn(async move {
                h.wait_for(Phase::PreStop).await;
                tokio::time::sleep(at).await;
                h.end_lame_duck();
            })),
        }
        let report = stop(c).await;
        assert_near(report.total, ms(total), &format!("{at:?}\n{report}"));
        assert!(report.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn end_lame_duck_cuts_no_hook_and_no_work() {
    let c = plan(30)
        .lame_duck(s(8))
        .pre_stop("slow", |_| Act::Slow(s(4)).play())
        .build()
        .expect("builds");
    let h = c.handle();
    h.end_lame_duck();
    let worker = h.clone();
    h.spawn("work", async move {
        worker.draining().await;
        tokio::time::sleep(s(2)).await;
    })
    .expect("open");
    let report = stop(c).await;
    assert_near(report.total, s(6), "the hook, then the work");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn force_cuts_hooks_and_work_in_any_phase_but_not_what_is_reserved() {
    // Before the trigger; in LameDuck; in Draining.
    for at in [None, Some(s(4)), Some(s(12))] {
        let log = Log::new();
        let fake = Fake::new("registry", &log);
        let c = plan(30)
            .lame_duck(s(8))
            .registry(fake.clone(), fake.instance())
            .pre_stop("stuck", |_| Act::Hang.play())
            .on_stopped("flush", |_| Act::Slow(s(1)).play())
            .build()
            .expect("builds");
        let h = c.handle();
        h.spawn("stuck", std::future::pending::<()>())
            .expect("open");
        match at {
            None => h.force(),
            Some(at) => drop(tokio::spawn(async move {
                h.wait_for(Phase::PreStop).await;
                tokio::time::sleep(at).await;
                h.force();
            })),
        }
        let report = stop(c).await;
        let at = at.unwrap_or_default();
        // 50 ms for the word that the drain has begun, which the main future waits for; the hook held it back until 10 s.
        let heard = if at < s(10) { ms(50) } else { ms(0) };
        assert_near(
            report.total,
            at + heard + s(1),
            &format!("{at:?}\n{report}"),
        );
        assert_eq!(outcome(&report, "stuck", Stage::PreStop), Outcome::TimedOut);
        assert_eq!(outcome(&report, "flush", Stage::OnStopped), Outcome::Done);
        assert_eq!(log.count("deregister"), 1, "left all the same");
        let cut: Vec<_> = report.stragglers.iter().map(|s| s.kind).collect();
        assert_eq!(
            cut,
            [WorkKind::Task],
            "who leaves when the drain begins is no straggler: {report}"
        );
        assert_eq!(report.exit_code(), 72);
    }
}

#[tokio::test(start_paused = true)]
async fn force_without_a_trigger_stops_nothing() {
    let c = plan(30).build().expect("builds");
    let h = c.handle();
    h.force();
    h.end_lame_duck();
    let work = tokio::spawn({
        let h = h.clone();
        async move {
            h.wait_for(Phase::Ready).await;
            tokio::time::sleep(s(100)).await;
            assert_eq!(h.phase(), Phase::Ready);
        }
    });
    let main = async move {
        work.await.expect("no panic");
    };
    let report = c.run(main).await.expect("a report");
    assert!(report.is_clean(), "{report}");
}

/// No request has come: it is quiet from the beginning, but visibilities hold.
#[tokio::test(start_paused = true)]
async fn a_quiet_lame_duck_ends_early_but_never_before_a_visibility_does() {
    let log = Log::new();
    let fake = Fake::new("registry", &log).visible(s(5));
    let quiet = plan(30).lame_duck(s(12)).end_lame_duck_when_quiet(s(2));
    let report = stop(quiet.build().expect("builds")).await;
    assert_near(report.total, s(2), "quiet");

    let seen = plan(30)
        .lame_duck(s(12))
        .end_lame_duck_when_quiet(s(2))
        .registry(fake.clone(), fake.instance());
    let report = stop(seen.build().expect("builds")).await;
    assert!(
        report.total >= s(5) && report.total <= ms(5_500),
        "the visibility, then at once: {report}"
    );
}

/// G <= 3 s is express: so is what is left when the deadline is tightened to it.
#[tokio::test(start_paused = true)]
async fn a_stop_that_becomes_express_has_no_more_lame_duck() {
    for at in [s(1), s(6)] {
        let log = Log::new();
        let fake = Fake::new("slow", &log)
            .visible(s(10))
            .deregister_does(&[Act::Slow(ms(1_400))]);
        let c = plan(30)
            .registry(fake.clone(), fake.instance())
            .build()
            .expect("builds");
        let h = c.handle();
        tokio::spawn(async move {
            h.wait_for(Phase::PreStop).await;
            tokio::time::sleep(at).await;
            h.trigger_within(crate::support::asked(), s(3));
        });
        let report = stop(c).await;
        assert_near(
            report.total,
            at.max(ms(1_400)),
            &format!("{at:?}\n{report}"),
        );
    }
}
