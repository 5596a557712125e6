//! What the tests of the plan share: a coordinator without surprises, a log of what happened when, a seeded random.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prestop::{
    BoxError, GracePeriod, HookContext, LifecycleHook, Outcome, Phase, PhaseTime, Reason,
    ShutdownCoordinator, ShutdownCoordinatorBuilder, ShutdownReport, Stage,
};
use tokio::time::Instant;

pub(crate) const fn ms(length: u64) -> Duration {
    Duration::from_millis(length)
}

pub(crate) const fn s(length: u64) -> Duration {
    Duration::from_secs(length)
}

/// No signals, no lame duck, nothing from the environment.
pub(crate) fn plan(grace: u64) -> ShutdownCoordinatorBuilder {
    ShutdownCoordinator::builder_without_signals()
        .grace_period(GracePeriod::from_secs(grace).expect("a grace period"))
        .lame_duck(Duration::ZERO)
}

pub(crate) fn asked() -> Reason {
    Reason::requested("the test")
}

/// Runs with a main future that ends when it should; triggers a second after it is ready, so that registries have
/// the instance.
pub(crate) async fn stop(c: ShutdownCoordinator) -> ShutdownReport {
    let h = c.handle();
    let ready = h.clone();
    tokio::spawn(async move {
        ready.wait_for(Phase::Ready).await;
        tokio::time::sleep(s(1)).await;
        ready.trigger(asked());
    });
    c.run(h.draining()).await.expect("a report")
}

/// Equal to the millisecond, which is what tokio's timer has.
#[track_caller]
pub(crate) fn assert_near(got: Duration, want: Duration, what: &str) {
    assert!(
        got.abs_diff(want) <= ms(1),
        "{what}: {got:?} instead of {want:?}"
    );
}

#[track_caller]
pub(crate) fn outcome(report: &ShutdownReport, name: &str, stage: Stage) -> Outcome {
    let mut of = report
        .hooks
        .iter()
        .filter(|h| h.name == name && h.stage == stage);
    let found = of
        .next()
        .unwrap_or_else(|| panic!("no {stage} {name:?} in\n{report}"));
    assert!(of.next().is_none(), "{stage} {name:?} twice in\n{report}");
    found.outcome.clone()
}

#[track_caller]
pub(crate) fn phase(report: &ShutdownReport, phase: Phase) -> PhaseTime {
    *report
        .phases
        .iter()
        .find(|p| p.phase == phase)
        .unwrap_or_else(|| panic!("no {phase} in\n{report}"))
}

/// What happened, when.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    begun: Instant,
    lines: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            lines: Arc::default(),
        }
    }

    pub(crate) fn say(&self, line: impl Into<String>) {
        let line = (self.begun.elapsed(), line.into());
        self.lines.lock().expect("no panic inside").push(line);
    }

    pub(crate) fn timed(&self) -> Vec<(Duration, String)> {
        self.lines.lock().expect("no panic inside").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.timed().into_iter().map(|(_, line)| line).collect()
    }

    pub(crate) fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    #[track_caller]
    pub(crate) fn when(&self, line: &str) -> Duration {
        self.timed()
            .into_iter()
            .find(|(_, l)| l == line)
            .unwrap_or_else(|| panic!("no {line:?} in {:?}", self.timed()))
            .0
    }
}

/// How user code can behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Ok,
    Slow(Duration),
    Hang,
    Fail,
    Panic,
}

impl Act {
    pub(crate) async fn play(self) -> Result<(), BoxError> {
        match self {
            Self::Ok => Ok(()),
            Self::Slow(length) => {
                tokio::time::sleep(length).await;
                Ok(())
            }
            Self::Hang => std::future::pending().await,
            Self::Fail => Err("no luck".into()),
            Self::Panic => panic!("oh no"),
        }
    }
}

/// A hook object that writes down which of its stages ran, and behaves as it is told.
#[derive(Debug)]
pub(crate) struct Actor {
    name: &'static str,
    log: Log,
    acts: [Act; 3],
}

impl Actor {
    pub(crate) fn new(name: &'static str, log: &Log) -> Self {
        Self {
            name,
            log: log.clone(),
            acts: [Act::Ok; 3],
        }
    }

    pub(crate) fn acts(mut self, stage: Stage, act: Act) -> Self {
        self.acts[stage as usize] = act;
        self
    }

    async fn play(&self, cx: &HookContext) -> Result<(), BoxError> {
        self.log.say(format!("{} {}", self.name, cx.stage()));
        self.acts[cx.stage() as usize].play().await
    }
}

#[async_trait::async_trait]
impl LifecycleHook for Actor {
    fn name(&self) -> &str {
        self.name
    }

    async fn on_started(&self, cx: &HookContext) -> Result<(), BoxError> {
        self.play(cx).await
    }

    async fn pre_stop(&self, cx: &HookContext) -> Result<(), BoxError> {
        self.play(cx).await
    }

    async fn on_stopped(&self, cx: &HookContext) -> Result<(), BoxError> {
        self.play(cx).await
    }
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Up to `most`, in microseconds, so that nothing falls on the timer's ticks by itself.
    pub(crate) fn length(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).expect("a short time");
        Duration::from_micros(self.below(most.max(1)))
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).expect("an index")]
    }
}

/// The seeds of a random test: one that was given, or these many.
pub(crate) fn seeds(rounds: u64) -> Vec<u64> {
    match std::env::var("PRESTOP_SEED") {
        Ok(seed) => vec![seed.parse().expect("PRESTOP_SEED is a number")],
        Err(_) => (0..rounds).collect(),
    }
}

/// Says the seed when the round fails.
pub(crate) struct SayOnPanic(pub(crate) u64);

impl Drop for SayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: PRESTOP_SEED={0} repeats it", self.0);
        }
    }
}
