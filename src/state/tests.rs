//! S1, for every step of the plan.

use super::*;
use proptest::prelude::*;

/// Every instant of the plan, in the order of the story.
fn steps(stop: &Stop) -> [Deadline; 4] {
    [stop.leave_by, stop.drain_by, stop.force_by, stop.deadline]
}

/// Under miri each takes seconds, and it cannot write down what failed.
fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]
    /// S1, for every step and not only the last, after any number of changes.
    #[test]
    fn no_trigger_moves_any_step_later(
        first in 0..700_000_u64,
        later in proptest::collection::vec((0..600_000_u64, 0..700_000_u64), 0..8),
    ) {
        let begun = Instant::now();
        let mut stop = Stop::new(begun, Duration::from_millis(first));
        let mut now = begun;
        for (pause, total) in later {
            now += Duration::from_millis(pause);
            let before = stop;
            stop = stop.tightened(now, Duration::from_millis(total)).unwrap_or(stop);
            prop_assert!(stop.kill <= before.kill && stop.lame_duck_by <= before.lame_duck_by);
            for (after, before) in steps(&stop).iter().zip(steps(&before)) {
                prop_assert!(*after <= before);
            }
            prop_assert!(steps(&stop).is_sorted(), "{:?}", steps(&stop));
            prop_assert!(stop.lame_duck_by <= stop.drain_by && stop.deadline.instant() <= stop.kill);
        }
    }
}
