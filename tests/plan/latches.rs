//! S1: the phase only rises, the deadline only moves earlier, whoever calls what, and when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prestop::{Deadline, Phase, Reason, ShutdownHandle};

use crate::support::{Act, Random, SayOnPanic, assert_near, ms, plan, s, seeds};

/// What was seen last, by anybody.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    phase: Option<Phase>,
    deadline: Option<Deadline>,
    reason: Option<Reason>,
}

impl Seen {
    fn look(&self, h: &ShutdownHandle) {
        let mut last = self.0.lock().expect("no panic inside");
        let now = Last {
            phase: Some(h.phase()),
            deadline: h.deadline(),
            reason: h.reason(),
        };
        let (was, is) = (last.phase, now.phase);
        assert!(is >= was, "the phase fell from {was:?} to {is:?}");
        if let Some(before) = last.deadline {
            let after = now.deadline.expect("a deadline stays");
            assert!(after <= before, "later: {before:?}, then {after:?}");
        }
        assert!(last.reason.is_none() || last.reason == now.reason);
        *last = now;
    }
}

async fn interfere(h: ShutdownHandle, seen: Seen, mut random: Random) {
    for _ in 0..random.below(8) {
        tokio::time::sleep(random.length(s(4))).await;
        seen.look(&h);
        match random.below(8) {
            0 | 1 => drop(h.trigger(Reason::PreStopHook)),
            2 => drop(h.trigger(Reason::Signal("SIGTERM"))),
            3..=5 => {
                let kill_in = random.length(s(25));
                let before = h.deadline();
                h.trigger_within(Reason::requested("tighter"), kill_in);
                let after = h.deadline().expect("stopping");
                assert!(after.remaining() <= kill_in, "later than was asked");
                assert!(before.is_none_or(|before| after <= before));
            }
            6 => h.end_lame_duck(),
            _ if random.below(4) == 0 => h.force(),
            _ => {}
        }
        seen.look(&h);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_calls_what_the_phase_only_rises_and_the_deadline_only_moves_earlier() {
    for seed in seeds(2_000) {
        let _say = SayOnPanic(seed);
        let mut random = Random::new(seed);
        let c = plan(30)
            .pre_stop_elapsed(random.length(s(15)))
            .lame_duck(random.length(s(4)))
            .pre_stop("stuck", |_| Act::Hang.play())
            .on_stopped("stuck", |_| Act::Hang.play())
            .build()
            .expect("builds");
        let h = c.handle();
        let _stuck = h.guard("stuck").expect("open");
        let seen = Seen::default();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let random = Random::new(random.next());
                tokio::spawn(interfere(h.clone(), seen.clone(), random))
            })
            .collect();
        let last = h.clone();
        tokio::spawn(async move {
            tokio::time::sleep(s(40)).await;
            last.trigger(Reason::requested("at last"));
        });
        let followed = h.clone();
        let follower = tokio::spawn(async move {
            for phase in Phase::ALL {
                followed.wait_for(phase).await;
                assert!(followed.phase() >= phase);
            }
        });
        let watched = (h.clone(), seen.clone());
        let watcher = tokio::spawn(async move {
            while watched.0.phase() < Phase::Stopped {
                watched.1.look(&watched.0);
                tokio::time::sleep(ms(97)).await;
            }
        });
        let report = c.run(h.draining()).await.expect("a report");
        // Past the last deadline by no more than the timer's tick.
        let over =
            tokio::time::Instant::now().duration_since(h.deadline().expect("stopped").instant());
        assert!(over <= ms(2), "ended {over:?} past its deadline\n{report}");
        for task in tasks {
            task.await.expect("no panic");
        }
        follower.await.expect("no panic");
        watcher.await.expect("no panic");
        seen.look(&h);
        assert_eq!(h.phase(), Phase::Stopped);
    }
}

/// The same from real threads, where only the order of the hardware holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_trigger_at_once_begin_one_stop() {
    for round in 0..200 {
        let c = plan(30).build().expect("builds");
        let h = c.handle();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let h = h.clone();
                std::thread::spawn(move || {
                    let mut before = (h.phase(), None::<Deadline>);
                    let mut began = 0;
                    for length in (1..=20).rev() {
                        began += usize::from(
                            h.trigger_within(Reason::requested(format!("{n}")), s(length)),
                        );
                        let now = (h.phase(), h.deadline());
                        assert!(now.0 >= before.0 && now.0.is_stopping());
                        assert!(before.1.is_none() || now.1 <= before.1);
                        before = now;
                    }
                    began
                })
            })
            .collect();
        let report = c.run(h.draining()).await.expect("a report");
        let began: usize = threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .sum();
        assert_eq!(began, 1, "round {round}");
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_is_off_before_anything_else_of_the_stop_can_be_seen() {
    let c = plan(30)
        .pre_stop("looks", |cx| async move {
            assert!(!cx.phase().is_ready() && cx.reason().is_some());
        })
        .build()
        .expect("builds");
    let h = c.handle();
    h.trigger(Reason::PreStopHook);
    assert_eq!(h.phase(), Phase::PreStop, "when the call returns");
    assert!(h.token(Phase::PreStop).is_cancelled());
    assert_near(
        h.time_left().expect("stopping"),
        ms(28_500),
        "the clock runs",
    );
    assert_eq!(h.reason(), Some(Reason::PreStopHook));
    let report = c.run(h.draining()).await.expect("a report");
    assert_near(report.total, Duration::ZERO, "nothing to wait for");
}
