//! S6: joining and leaving registries. The fake is told how to behave, call by call, and writes down what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prestop::registry::{Beat, Gone, Instance, Registration, Registry, RegistryError};
use prestop::{Deadline, LeaveOutcome, Phase, ShutdownReport};

use crate::support::{
    Act, Log, Random, SayOnPanic, asked, assert_near, ms, phase, plan, s, seeds, stop,
};

/// What the answer is, once the act was played.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Alive, removed.
    Good,
    /// Lost, already gone.
    Missing,
}

#[derive(Debug)]
struct Script {
    acts: Vec<(Act, Answer)>,
    next: usize,
}

impl Script {
    /// The last one repeats.
    fn next(&mut self) -> (Act, Answer) {
        let act = self.acts[self.next.min(self.acts.len() - 1)];
        self.next += 1;
        act
    }
}

#[derive(Debug)]
struct Inner {
    name: String,
    log: Log,
    visibility: Duration,
    every: Duration,
    listed_for: Duration,
    listed: Option<bool>,
    /// A failure is one that may have been heard.
    fails_unknown: bool,
    /// register, heartbeat, deregister
    scripts: [Mutex<Script>; 3],
}

#[derive(Clone, Debug)]
pub(crate) struct Fake(Arc<Inner>);

impl Fake {
    pub(crate) fn new(name: &str, log: &Log) -> Self {
        let good = || {
            Mutex::new(Script {
                acts: vec![(Act::Ok, Answer::Good)],
                next: 0,
            })
        };
        Self(Arc::new(Inner {
            name: name.to_owned(),
            log: log.clone(),
            visibility: Duration::ZERO,
            every: s(5),
            listed_for: s(15),
            listed: None,
            fails_unknown: false,
            scripts: [good(), good(), good()],
        }))
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::get_mut(&mut self.0).expect("not shared yet"));
        self
    }

    fn fails_unknown(self) -> Self {
        self.change(|fake| fake.fails_unknown = true)
    }

    pub(crate) fn visible(self, visibility: Duration) -> Self {
        self.change(|fake| fake.visibility = visibility)
    }

    /// Heartbeats at this pace, listed this long after each.
    pub(crate) fn beats(self, every: Duration, listed_for: Duration) -> Self {
        self.change(|fake| (fake.every, fake.listed_for) = (every, listed_for))
    }

    fn says_it_is_listed(self, listed: bool) -> Self {
        self.change(|fake| fake.listed = Some(listed))
    }

    fn script(self, call: usize, acts: &[(Act, Answer)]) -> Self {
        let acts = acts.to_vec();
        self.change(|fake| fake.scripts[call] = Mutex::new(Script { acts, next: 0 }))
    }

    pub(crate) fn register_does(self, acts: &[Act]) -> Self {
        let acts: Vec<_> = acts.iter().map(|a| (*a, Answer::Good)).collect();
        self.script(0, &acts)
    }

    fn beat_does(self, acts: &[(Act, Answer)]) -> Self {
        self.script(1, acts)
    }

    pub(crate) fn deregister_does(self, acts: &[Act]) -> Self {
        let acts: Vec<_> = acts.iter().map(|a| (*a, Answer::Good)).collect();
        self.script(2, &acts)
    }

    pub(crate) fn instance(&self) -> Instance {
        Instance::new("orders", SocketAddr::from(([10, 0, 0, 5], 8080)))
    }

    async fn call(&self, call: usize, what: &str) -> Result<Answer, RegistryError> {
        /// A call that is dropped has an end, too.
        struct End(Log, String);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.say(format!("{} ends", self.1));
            }
        }
        self.0.log.say(what);
        let _end = End(self.0.log.clone(), what.to_owned());
        let (act, answer) = self.0.scripts[call].lock().expect("no panic").next();
        act.play()
            .await
            .map(|()| answer)
            .map_err(|e| match self.0.fails_unknown {
                true => RegistryError::unknown(format!("the connection broke: {e}")),
                false => RegistryError::new(format!("503: {e}")),
            })
    }
}

#[async_trait::async_trait]
impl Registry for Fake {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn visibility(&self) -> Duration {
        self.0.visibility
    }

    async fn register(
        &self,
        _: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        assert!(!by.is_over());
        self.call(0, "register").await?;
        Ok(Box::new(Entry(self.clone())))
    }
}

struct Entry(Fake);

#[async_trait::async_trait]
impl Registration for Entry {
    async fn heartbeat(&mut self, _: Deadline) -> Result<Beat, RegistryError> {
        Ok(match self.0.call(1, "beat").await? {
            Answer::Good => Beat::Alive {
                next: self.0.0.every,
                listed_for: self.0.0.listed_for,
            },
            Answer::Missing => Beat::Lost,
        })
    }

    async fn deregister(&mut self, _: Deadline) -> Result<Gone, RegistryError> {
        Ok(match self.0.call(2, "deregister").await? {
            Answer::Good => Gone::Removed,
            Answer::Missing => Gone::AlreadyGone,
        })
    }

    async fn is_listed(&mut self, _: Deadline) -> Result<Option<bool>, RegistryError> {
        Ok(self.0.0.listed)
    }
}

/// Runs with these registries and triggers this long after the service is ready.
async fn left(grace: u64, fakes: &[Fake], after: Duration) -> ShutdownReport {
    let mut c = plan(grace);
    for fake in fakes {
        c = c.registry(fake.clone(), fake.instance());
    }
    let c = c.build().expect("builds");
    let h = c.handle();
    let trigger = h.clone();
    tokio::spawn(async move {
        trigger.wait_for(Phase::Ready).await;
        tokio::time::sleep(after).await;
        trigger.trigger(asked());
    });
    c.run(h.draining()).await.expect("a report")
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_registered_when_ready_kept_alive_and_left_once() {
    let log = Log::new();
    let fake = Fake::new("fake", &log);
    let report = left(30, std::slice::from_ref(&fake), s(12)).await;
    assert_eq!(log.count("register"), 1);
    assert_eq!(log.count("beat"), 3, "at 0, 5 and 10 s: {log:?}");
    assert_eq!(log.count("deregister"), 1);
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
    assert_near(report.total, s(0), "no visibility was declared");
    assert!(report.is_clean(), "{report}");
}

/// S6: a heartbeat in flight is over when the deregistration begins, and nothing comes after the deregistration.
#[tokio::test(start_paused = true)]
async fn at_no_offset_does_a_heartbeat_outlive_the_start_of_its_deregistration() {
    let mut met = 0;
    for seed in seeds(400) {
        let _say = SayOnPanic(seed);
        let mut random = Random::new(seed);
        let log = Log::new();
        let slow = |random: &mut Random| {
            let length = random.length(ms(2_500));
            (Act::Slow(length), Answer::Good)
        };
        let beats: Vec<_> = (0..20)
            .map(|_| match random.below(8) {
                0 => (Act::Hang, Answer::Good),
                1 => (Act::Fail, Answer::Good),
                2 => (Act::Panic, Answer::Good),
                3 => (Act::Ok, Answer::Missing),
                _ => slow(&mut random),
            })
            .collect();
        let registers: Vec<_> = (0..20).map(|_| slow(&mut random).0).collect();
        let fake = Fake::new("fake", &log)
            .beats(random.length(s(2)), s(4))
            .beat_does(&beats)
            .register_does(&registers);
        let c = plan(30)
            .registry(fake.clone(), fake.instance())
            .build()
            .expect("builds");
        let h = c.handle();
        let after = random.length(s(15));
        let (trigger, note) = (h.clone(), log.clone());
        tokio::spawn(async move {
            trigger.wait_for(Phase::Ready).await;
            tokio::time::sleep(after).await;
            note.say("stop");
            trigger.trigger(asked());
        });
        let report = c.run(h.draining()).await.expect("a report");

        let lines = log.lines();
        let at = |line: &str| lines.iter().position(|l| l == line);
        let stop = at("stop").expect("stopped");
        assert!(
            !lines[stop..].contains(&"register".to_owned()),
            "registered after the stop began: {lines:?}"
        );
        // One owner: calls never overlap.
        let calls: Vec<_> = lines.iter().filter(|l| *l != "stop").collect();
        for pair in calls.chunks(2) {
            assert_eq!(*pair[1], format!("{} ends", pair[0]), "{lines:?}");
        }
        if let Some(leaving) = at("deregister") {
            assert!(leaving > stop);
            assert!(
                lines[leaving..].iter().all(|l| !l.starts_with("beat")),
                "{lines:?}"
            );
            met += usize::from(lines[stop..leaving].contains(&"beat ends".to_owned()));
        }
        assert!(phase(&report, Phase::PreStop).used <= ms(4_501), "{report}");
    }
    assert!(
        met > 20 || std::env::var("PRESTOP_SEED").is_ok(),
        "only {met} rounds met a heartbeat in flight"
    );
}

/// The stop interrupts the pause between two heartbeats, also when both are due at once.
#[tokio::test(start_paused = true)]
async fn no_heartbeat_begins_after_the_stop_did() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).beats(s(5), s(15));
    let _ = left(30, std::slice::from_ref(&fake), s(10)).await;
    let lines = log.lines();
    let leaving = lines.iter().position(|l| l == "deregister").expect("left");
    assert_eq!(log.count("beat"), 2, "at 0 and 5 s, not at 10 s: {lines:?}");
    assert!(lines[leaving..].iter().all(|l| !l.starts_with("beat")));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_the_registry_forgot_is_registered_again() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).beat_does(&[
        (Act::Ok, Answer::Good),
        (Act::Ok, Answer::Missing),
        (Act::Ok, Answer::Good),
    ]);
    let report = left(30, std::slice::from_ref(&fake), s(12)).await;
    assert_eq!(log.count("register"), 2, "{log:?}");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
}

/// It was registered, and whoever found it then may still call: not "never registered".
#[tokio::test(start_paused = true)]
async fn forgotten_just_before_the_stop_it_is_already_gone() {
    let log = Log::new();
    let fake = Fake::new("fake", &log)
        .visible(s(3))
        .beat_does(&[(Act::Ok, Answer::Missing)])
        .script(2, &[(Act::Ok, Answer::Missing)]);
    let report = left(30, std::slice::from_ref(&fake), ms(1)).await;
    assert_eq!(
        report.registries[0].outcome,
        LeaveOutcome::AlreadyGone,
        "{report}"
    );
    assert_near(report.total, s(3), "clients that have it cached");
}

/// Another server may list it yet, or it has several entries of which one was lost.
#[tokio::test(start_paused = true)]
async fn forgotten_by_the_server_that_was_asked_it_is_left_all_the_same() {
    for (after, registrations, why) in [
        (
            ms(1),
            vec![Act::Ok],
            "the stop comes before it is registered again",
        ),
        (s(30), vec![Act::Ok, Act::Fail], "it is not taken again"),
    ] {
        let log = Log::new();
        let fake = Fake::new("fake", &log)
            .register_does(&registrations)
            .beat_does(&[(Act::Ok, Answer::Missing)]);
        let report = left(30, std::slice::from_ref(&fake), after).await;
        assert_eq!(
            report.registries[0].outcome,
            LeaveOutcome::Removed,
            "{why}: {report}"
        );
        assert_eq!(log.count("deregister"), 1, "{why}: {log:?}");
    }
}

/// The entry that there was does not speak for one that may have come.
#[tokio::test(start_paused = true)]
async fn registered_again_without_an_answer_it_is_unknown() {
    let log = Log::new();
    let fake = Fake::new("fake", &log)
        .register_does(&[Act::Ok, Act::Hang])
        .beat_does(&[(Act::Ok, Answer::Missing)]);
    let report = left(30, std::slice::from_ref(&fake), s(8)).await;
    assert_eq!(
        report.registries[0].outcome,
        LeaveOutcome::Unknown,
        "{report}"
    );
    assert_eq!(log.count("deregister"), 1, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_fails_is_asked_again_until_it_takes_the_instance() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).register_does(&[Act::Fail, Act::Hang, Act::Panic, Act::Ok]);
    let report = left(30, std::slice::from_ref(&fake), s(20)).await;
    assert_eq!(log.count("register"), 4, "{log:?}");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
    assert!(report.is_clean(), "{report}");
}

/// S8: a panic of the adapter's is one missed heartbeat, not the end of the registration.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_panics_is_missed_and_the_instance_is_still_left() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).beat_does(&[
        (Act::Ok, Answer::Good),
        (Act::Panic, Answer::Good),
        (Act::Ok, Answer::Good),
    ]);
    let report = left(30, std::slice::from_ref(&fake), s(20)).await;
    assert!(log.count("beat") > 3, "{log:?}");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
}

#[tokio::test(start_paused = true)]
async fn every_way_of_leaving_has_its_outcome() {
    use LeaveOutcome::{AlreadyGone, Failed, Removed, Unknown};
    let log = Log::new();
    let fake = || Fake::new("fake", &log).beats(s(5), s(0));
    let gone = fake().script(2, &[(Act::Ok, Answer::Missing)]);
    for (fake, outcome, code) in [
        (fake(), Removed, 0),
        (gone, AlreadyGone, 0),
        (fake().deregister_does(&[Act::Hang]), Unknown, 71),
        (fake().deregister_does(&[Act::Fail]), Failed, 71),
        (fake().deregister_does(&[Act::Panic]), Failed, 71),
        (fake().deregister_does(&[Act::Fail, Act::Ok]), Removed, 0),
        (fake().deregister_does(&[Act::Hang, Act::Ok]), Removed, 0),
        (fake().deregister_does(&[Act::Panic, Act::Ok]), Removed, 0),
        (fake().says_it_is_listed(false), Removed, 0),
        (fake().says_it_is_listed(true), Failed, 71),
        // No answer, but it says itself that it is gone.
        (
            fake()
                .deregister_does(&[Act::Hang])
                .says_it_is_listed(false),
            Removed,
            0,
        ),
    ] {
        let name = format!("{fake:?}");
        let report = left(30, std::slice::from_ref(&fake), s(1)).await;
        let got = &report.registries[0];
        assert_eq!(got.outcome, outcome, "{name}\n{report}");
        assert_eq!(got.error.is_some(), code != 0, "{name}\n{report}");
        assert_eq!(report.exit_code(), code, "{name}\n{report}");
        assert!(got.took <= ms(4_501), "{report}");
        assert_near(phase(&report, Phase::PreStop).planned, ms(4_500), "leave");
    }
}

/// S6: a dead registry costs at most its budget, and is asked again within it.
#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_be_left_costs_at_most_the_leave_budget() {
    for (grace, leave) in [(1, 200), (3, 500), (5, 750), (30, 4_500), (600, 5_000)] {
        for act in [Act::Hang, Act::Fail, Act::Slow(s(10)), Act::Panic] {
            let log = Log::new();
            let fake = Fake::new("fake", &log)
                .beats(s(5), s(0))
                .deregister_does(&[act]);
            let report = left(grace, std::slice::from_ref(&fake), s(1)).await;
            assert_near(
                phase(&report, Phase::PreStop).used,
                ms(leave),
                &format!("G = {grace}, {act:?}"),
            );
            assert!(
                log.count("deregister") >= 2,
                "G = {grace}, {act:?}: a second try, {log:?}"
            );
            assert_eq!(report.exit_code(), 71, "{report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn registries_are_left_all_at_once_and_one_waits_for_no_other() {
    let log = Log::new();
    let slow = |n: u64| Fake::new(&format!("{n}"), &log).deregister_does(&[Act::Slow(ms(n * 200))]);
    let fakes: Vec<_> = (1..=7).map(slow).collect();
    let report = left(30, &fakes, s(1)).await;
    assert_near(
        phase(&report, Phase::PreStop).used,
        ms(1_400),
        "the slowest",
    );
    assert_eq!(report.registries.len(), 7);
    for (n, registry) in report.registries.iter().enumerate() {
        assert_eq!(registry.outcome, LeaveOutcome::Removed);
        assert_near(registry.took, ms((n as u64 + 1) * 200), "each its own");
    }

    let dead = Fake::new("dead", &log)
        .beats(s(5), s(0))
        .deregister_does(&[Act::Hang]);
    let report = left(30, &[dead, slow(1)], s(1)).await;
    assert_near(
        phase(&report, Phase::PreStop).used,
        ms(4_500),
        "the dead one's",
    );
    let alive = report.registries.iter().find(|r| r.name == "1");
    assert_near(alive.expect("reported").took, ms(200), "not held up");
}

#[tokio::test(start_paused = true)]
async fn a_visibility_lengthens_the_lame_duck_from_the_moment_of_leaving() {
    let log = Log::new();
    let fakes = [
        Fake::new("a", &log)
            .visible(s(4))
            .deregister_does(&[Act::Slow(ms(1_000))]),
        Fake::new("b", &log).visible(s(2)),
    ];
    let report = left(30, &fakes, s(1)).await;
    assert_near(phase(&report, Phase::PreStop).used, s(1), "leaving a");
    assert_near(phase(&report, Phase::LameDuck).planned, s(4), "a's");
    assert_near(phase(&report, Phase::LameDuck).used, s(4), "a's");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_every_visibility_counts_not_the_longest_visibility() {
    let log = Log::new();
    let fakes = [
        Fake::new("fast and long", &log).visible(s(4)),
        Fake::new("slow and short", &log)
            .visible(s(3))
            .deregister_does(&[Act::Slow(ms(1_400))]),
    ];
    let report = left(30, &fakes, s(1)).await;
    assert_near(phase(&report, Phase::PreStop).used, ms(1_400), "leaving");
    assert_near(phase(&report, Phase::LameDuck).used, s(3), "until 4.4 s");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_left_lengthens_the_lame_duck_until_it_expires_as_far_as_that_fits() {
    for act in [Act::Hang, Act::Fail, Act::Panic] {
        for (listed_for, until) in [(s(9), 9_000), (s(300), 21_600)] {
            let log = Log::new();
            let fake = Fake::new("fake", &log)
                .beats(s(5), listed_for)
                .deregister_does(&[act]);
            // The trigger is right after the first heartbeat.
            let report = left(30, std::slice::from_ref(&fake), ms(1)).await;
            let used = phase(&report, Phase::PreStop).used + phase(&report, Phase::LameDuck).used;
            // As far as it fits: 10 % of 30 s stay for the drain.
            assert_near(used + ms(1), ms(until + 1), &format!("{act:?}\n{report}"));
            let visible = report.registries[0].visible_for.expect("it is known");
            assert_near(visible + ms(4_501), listed_for, "from the end of the try");
        }
    }
}

/// "May have been registered" stays so until it is known better.
#[tokio::test(start_paused = true)]
async fn a_registration_without_an_answer_is_unknown_not_skipped() {
    for after in [ms(500), ms(1_999), ms(2_050), ms(2_500), s(5)] {
        let log = Log::new();
        let fake = Fake::new("fake", &log)
            .visible(s(3))
            .register_does(&[Act::Hang]);
        let report = left(30, std::slice::from_ref(&fake), after).await;
        assert_eq!(
            report.registries[0].outcome,
            LeaveOutcome::Unknown,
            "{after:?}\n{report}"
        );
        assert_near(phase(&report, Phase::LameDuck).used, s(3), "it may be seen");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_connection_broke_is_unknown_not_skipped() {
    let log = Log::new();
    let fake = Fake::new("fake", &log)
        .visible(s(3))
        .fails_unknown()
        .register_does(&[Act::Fail]);
    let report = left(30, std::slice::from_ref(&fake), s(5)).await;
    let outcome = report.registries[0].outcome;
    assert_eq!(outcome, LeaveOutcome::Unknown, "{report}");
    assert_near(phase(&report, Phase::LameDuck).used, s(3), "it may be seen");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_was_refused_leaves_nothing_to_leave() {
    let log = Log::new();
    let fake = Fake::new("fake", &log)
        .visible(s(3))
        .register_does(&[Act::Fail]);
    let report = left(30, std::slice::from_ref(&fake), s(5)).await;
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Skipped);
    assert_eq!(log.count("deregister"), 0);
    assert_near(report.total, s(0), "nobody ever saw it");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_answered_after_the_trigger_is_left() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).register_does(&[Act::Slow(s(1))]);
    let report = left(30, std::slice::from_ref(&fake), ms(100)).await;
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
    assert_eq!(log.count("deregister"), 1, "{log:?}");
}

async fn required(fake: &Fake, stop_after: Duration) -> ShutdownReport {
    let c = plan(30)
        .lame_duck(s(5))
        .required_registry(fake.clone(), fake.instance())
        .build()
        .expect("builds");
    let h = c.handle();
    let (trigger, log) = (h.clone(), fake.0.log.clone());
    tokio::spawn(async move {
        trigger.wait_for(Phase::Ready).await;
        if trigger.phase() == Phase::Ready {
            log.say("ready");
        }
    });
    let trigger = h.clone();
    tokio::spawn(async move {
        tokio::time::sleep(stop_after).await;
        trigger.trigger(asked());
    });
    c.run(h.draining()).await.expect("a report")
}

#[tokio::test(start_paused = true)]
async fn a_service_is_ready_when_the_registry_that_it_requires_has_the_instance() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).register_does(&[Act::Fail, Act::Hang, Act::Slow(s(1))]);
    let report = required(&fake, s(20)).await;
    let lines = log.lines();
    let at = |line: &str| lines.iter().position(|l| l == line);
    let last = lines.iter().rposition(|l| l == "register ends");
    assert!(at("ready") > last, "{lines:?}");
    assert!(at("deregister") > at("ready"), "{lines:?}");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_required_registry_that_does_not_take_the_instance_fails_the_start() {
    for (act, outcome) in [
        (Act::Fail, LeaveOutcome::Skipped),
        (Act::Hang, LeaveOutcome::Unknown),
    ] {
        let log = Log::new();
        let fake = Fake::new("fake", &log).register_does(&[act]);
        let other = Fake::new("other", &log);
        let c = plan(30)
            .lame_duck(s(5))
            .required_registry(other.clone(), other.instance())
            .required_registry(fake.clone(), fake.instance())
            .registry(fake.clone(), fake.instance())
            .build()
            .expect("builds");
        let h = c.handle();
        let begun = tokio::time::Instant::now();
        let report = c.run(h.draining()).await.expect("a report");
        assert_eq!(report.exit_code(), ShutdownReport::START_FAILED, "{report}");
        let text = report.to_string();
        let why = "registry \"fake\" did not take the instance within 60s: ";
        assert!(text.contains(why), "{text}");
        assert!(begun.elapsed() >= s(60), "{report}");
        // What had started is undone.
        let all = &report.registries;
        let left = |name: &'static str| all.iter().filter(move |r| r.name == name);
        let outcomes: Vec<_> = left("fake").map(|r| r.outcome).collect();
        assert!(outcomes.contains(&outcome), "{report}");
        assert!(
            outcomes.contains(&LeaveOutcome::Skipped),
            "the one in the background: {report}"
        );
        assert_eq!(
            left("other").next().expect("reported").outcome,
            LeaveOutcome::Removed
        );
        // It was never ready, so that the lame duck is for the registry's clients alone.
        assert!(phase(&report, Phase::LameDuck).used <= ms(1), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_a_required_registry() {
    for act in [Act::Fail, Act::Hang] {
        let log = Log::new();
        let fake = Fake::new("fake", &log).register_does(&[act]);
        let report = required(&fake, s(3)).await;
        assert_eq!(log.count("ready"), 0, "{log:?}");
        assert!(
            !matches!(report.reason, prestop::Reason::StartFailed(_)),
            "{report}"
        );
        assert!(report.total <= s(5), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_registry_is_not_asked_when_the_start_fails_before() {
    let log = Log::new();
    let fake = Fake::new("fake", &log);
    let c = plan(30)
        .on_started("fail", |_| Act::Fail.play())
        .required_registry(fake.clone(), fake.instance())
        .build()
        .expect("builds");
    let h = c.handle();
    let report = c.run(h.draining()).await.expect("a report");
    assert_eq!(log.count("register"), 0, "{log:?}");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Skipped);
    assert_eq!(report.exit_code(), ShutdownReport::START_FAILED);
}

/// A registry as Nacos is one: a heartbeat that arrives brings an entry back. What is sent arrives later, also when
/// nobody waits for the answer any more.
#[derive(Clone, Debug)]
struct Forgiving {
    listed: Arc<Mutex<Vec<(tokio::time::Instant, bool)>>>,
    random: Arc<Mutex<Random>>,
}

impl Forgiving {
    /// Arrives, and is answered, each after a while that may be longer than anybody waits for.
    async fn hears(&self, listed: bool) {
        let (there, back) = {
            let mut random = self.random.lock().expect("no panic");
            // Shorter than what an attempt at leaving is waited for: nothing can help against a heartbeat that is on
            // its way for longer, and the deregistration not.
            (random.length(ms(1_400)), random.length(ms(3_000)))
        };
        let log = self.listed.clone();
        let arrives = tokio::spawn(async move {
            tokio::time::sleep(there).await;
            let now = tokio::time::Instant::now();
            log.lock().expect("no panic").push((now, listed));
        });
        arrives.await.expect("it arrives");
        tokio::time::sleep(back).await;
    }
}

#[async_trait::async_trait]
impl Registry for Forgiving {
    fn name(&self) -> &str {
        "forgiving"
    }

    fn visibility(&self) -> Duration {
        Duration::ZERO
    }

    async fn register(
        &self,
        _: &Instance,
        _: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        self.hears(true).await;
        Ok(Box::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl Registration for Forgiving {
    async fn heartbeat(&mut self, _: Deadline) -> Result<Beat, RegistryError> {
        self.hears(true).await;
        let next = self.random.lock().expect("no panic").length(s(3));
        Ok(Beat::Alive {
            next,
            listed_for: s(10),
        })
    }

    async fn deregister(&mut self, _: Deadline) -> Result<Gone, RegistryError> {
        self.hears(false).await;
        Ok(Gone::Removed)
    }
}

/// S6: whatever is in flight when the stop comes, and whatever of it is answered, nothing that arrives after the first
/// deregistration brings the instance back.
#[tokio::test(start_paused = true)]
async fn in_ten_thousand_stops_no_heartbeat_in_flight_brings_the_instance_back() {
    let mut met = 0;
    for seed in seeds(10_000) {
        let _say = SayOnPanic(seed);
        let registry = Forgiving {
            listed: Arc::default(),
            random: Arc::new(Mutex::new(Random::new(seed))),
        };
        let after = registry.random.lock().expect("no panic").length(s(12));
        let listed = registry.listed.clone();
        let c = plan(30)
            .registry(
                registry,
                Instance::new("orders", ([10, 0, 0, 5], 8080).into()),
            )
            .build()
            .expect("builds");
        let h = c.handle();
        let trigger = h.clone();
        let stopped = tokio::spawn(async move {
            trigger.wait_for(Phase::Ready).await;
            tokio::time::sleep(after).await;
            trigger.trigger(asked());
            tokio::time::Instant::now()
        });
        let report = c.run(h.draining()).await.expect("a report");
        let stopped = stopped.await.expect("triggered");
        // What is still on its way arrives.
        tokio::time::sleep(s(5)).await;
        let listed = listed.lock().expect("no panic");
        let Some(left) = listed.iter().position(|(_, listed)| !listed) else {
            assert_ne!(
                report.registries[0].outcome,
                LeaveOutcome::Removed,
                "{report}"
            );
            continue;
        };
        assert!(
            listed[left..].iter().all(|(_, listed)| !listed),
            "{listed:?}\n{report}"
        );
        met += usize::from(listed[..left].iter().any(|(at, _)| *at > stopped));
    }
    assert!(
        met > 1_000 || std::env::var("PRESTOP_SEED").is_ok(),
        "only {met} rounds met a heartbeat in flight"
    );
}

/// An entry that never expires is a fair answer.
#[tokio::test(start_paused = true)]
async fn no_length_in_a_heartbeats_answer_is_too_long() {
    let log = Log::new();
    let fake = Fake::new("fake", &log).beats(Duration::MAX, Duration::MAX);
    let report = left(30, std::slice::from_ref(&fake), s(5)).await;
    assert_eq!(
        report.registries[0].outcome,
        LeaveOutcome::Removed,
        "{report}"
    );
}

/// S7: a drain that is stuck does not keep registries from being left, which is first of all.
#[tokio::test(start_paused = true)]
async fn registries_are_left_before_anything_is_waited_for() {
    let log = Log::new();
    let fake = Fake::new("fake", &log);
    let c = plan(30)
        .registry(fake.clone(), fake.instance())
        .pre_stop("hang", |_| Act::Hang.play())
        .build()
        .expect("builds");
    let _stuck = c.handle().guard("stuck").expect("open");
    let report = stop(c).await;
    assert_near(log.when("deregister"), s(1), "at the trigger");
    assert_eq!(report.registries[0].outcome, LeaveOutcome::Removed);
    assert_eq!(report.exit_code(), 72);
}
