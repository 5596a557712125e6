//! Random schedules: S5, S7, S8 and S12 hold for all of them.

use std::time::Duration;

use prestop::{HookName, LeaveOutcome, Outcome, Phase, Reason, Stage};

use crate::registries::Fake;
use crate::support::{Act, Actor, Log, Random, SayOnPanic, asked, ms, plan, s, seeds};

fn act(random: &mut Random) -> Act {
    match random.below(6) {
        0 => Act::Hang,
        1 => Act::Fail,
        2 => Act::Panic,
        3 => Act::Ok,
        _ => Act::Slow(random.length(s(12))),
    }
}

fn acts(random: &mut Random) -> Vec<Act> {
    (0..4).map(|_| act(random)).collect()
}

#[tokio::test(start_paused = true)]
async fn any_schedule_ends_in_time_skips_nothing_and_adds_up() {
    for seed in seeds(1_500) {
        let _say = SayOnPanic(seed);
        let mut random = Random::new(seed);
        let log = Log::new();
        let grace = random.one_of(&[1, 2, 3, 5, 7, 10, 30, 45, 60, 600]);
        let mut c = plan(grace);
        let registries = random.below(3);
        for n in 0..registries {
            let fake = Fake::new(&format!("registry {n}"), &log)
                .visible(random.length(ms(grace * 50)))
                .beats(random.length(s(5)) + ms(1), random.length(s(20)))
                .register_does(&acts(&mut random))
                .deregister_does(&acts(&mut random));
            c = c.registry(fake.clone(), fake.instance());
        }
        let hooks = random.below(4);
        for _ in 0..hooks {
            let mut hook = Actor::new("object", &log);
            if random.below(12) == 0 {
                hook = hook.acts(Stage::OnStarted, act(&mut random));
            }
            c = c.hook(
                hook.acts(Stage::PreStop, act(&mut random))
                    .acts(Stage::OnStopped, act(&mut random)),
            );
        }
        let closures = random.below(3);
        for _ in 0..closures {
            let (a, b) = (act(&mut random), act(&mut random));
            let limit = random.length(ms(grace * 200));
            c = c
                .pre_stop(HookName::new("closure").within(limit), move |_| a.play())
                .on_stopped("closure", move |_| b.play());
        }
        let c = c.build().expect("builds");
        let h = c.handle();
        let mut guards = Vec::new();
        for _ in 0..random.below(4) {
            let guard = h.guard("guard").expect("open");
            let (held, stuck) = (random.length(s(40)), random.below(4) == 0);
            if stuck {
                guards.push(guard);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(held).await;
                    drop(guard);
                });
            }
        }
        for _ in 0..random.below(4) {
            let act = act(&mut random);
            h.spawn("task", act.play()).expect("open");
        }
        let (trigger, at) = (h.clone(), random.length(s(10)));
        tokio::spawn(async move {
            tokio::time::sleep(at).await;
            trigger.trigger(asked());
        });
        for _ in 0..random.below(3) {
            let (h, at, kill_in) = (h.clone(), random.length(s(40)), random.length(s(30)));
            let what = random.below(6);
            tokio::spawn(async move {
                h.wait_for(Phase::PreStop).await;
                tokio::time::sleep(at).await;
                match what {
                    0 => h.force(),
                    1 => h.end_lame_duck(),
                    _ => drop(h.trigger_within(asked(), kill_in)),
                }
            });
        }
        let report = c.run(h.draining()).await.expect("a report");

        // S12.
        let sum: Duration = report.phases.iter().map(|p| p.used).sum();
        assert_eq!(sum, report.total, "{report}");
        let order: Vec<_> = report.phases.iter().map(|p| p.phase).collect();
        let story = [
            Phase::PreStop,
            Phase::LameDuck,
            Phase::Draining,
            Phase::Stopping,
        ];
        assert_eq!(order, story, "{report}");
        // S5: by the deadline as it stood at the end, give or take the timer's tick.
        let end = tokio::time::Instant::now();
        let over = end.saturating_duration_since(h.deadline().expect("stopped").instant());
        assert!(over <= ms(2), "{over:?} past the deadline\n{report}");
        // S8: every step is in the report, whatever became of the others.
        let count = |stage| report.hooks.iter().filter(|h| h.stage == stage).count() as u64;
        assert_eq!(count(Stage::OnStarted), hooks, "{report}");
        assert_eq!(count(Stage::PreStop), hooks + closures, "{report}");
        assert_eq!(count(Stage::OnStopped), hooks + closures, "{report}");
        assert_eq!(report.registries.len() as u64, registries, "{report}");
        let unfinished = report
            .hooks
            .iter()
            .any(|h| h.outcome == Outcome::Unfinished);
        assert!(
            !unfinished && report.main != Outcome::Unfinished,
            "{report}"
        );
        // S7: a stuck drain leaves them all their time, and whoever had no time was not run in vain.
        let stuck = !guards.is_empty();
        assert_eq!(
            report.exit_code(),
            match &report.reason {
                Reason::StartFailed(_) => 70,
                _ if !report.stragglers.is_empty() => 72,
                _ if report.hooks.iter().any(|h| !h.outcome.is_good())
                    || !report.tasks.is_empty()
                    || report.registries.iter().any(|r| {
                        matches!(r.outcome, LeaveOutcome::Unknown | LeaveOutcome::Failed)
                    }) =>
                    71,
                _ => 0,
            },
            "{report}"
        );
        assert!(!stuck || !report.stragglers.is_empty(), "{report}");
        drop(guards);
    }
}
