//! The rules of the budget, one by one and for any grace period.

use super::*;
use proptest::prelude::*;

fn budget(grace: u64) -> Budget {
    Budget {
        grace: GracePeriod::from_secs(grace).expect("a grace period"),
        pre_stop_elapsed: Duration::ZERO,
        lame_duck: LameDuck {
            on_kubernetes: true,
            ..LameDuck::default()
        },
        longest_hook: None,
        visibility: None,
    }
}

#[test]
fn guaranteed_drain_by_the_rules() {
    for (grace, drain) in [
        (3, 0.75),
        (5, 0.83),
        (10, 2.87),
        (30, 14.6),
        (60, 39.2),
        (600, 573.0),
    ] {
        let budget = budget(grace);
        let got = budget.guaranteed_drain(&budget.whole());
        assert!(
            (got - drain).abs() < 0.006,
            "G = {grace}: {got} instead of {drain}"
        );
        budget.check().expect("fits");
    }
}

#[test]
fn the_parts_of_thirty_seconds() {
    let shares = Shares::of(Duration::from_secs(30));
    assert_eq!(shares.exit_reserve, Duration::from_millis(1500));
    assert_eq!(shares.on_stopped, Duration::from_secs(3));
    assert_eq!(shares.force_close, Duration::from_millis(900));
    assert_eq!(shares.leave, Duration::from_millis(4500));
    assert_eq!(shares.leave_attempt(), Duration::from_millis(1500));
    assert_eq!(shares.pre_stop, Duration::from_secs(10));
    assert_eq!(budget(30).lame_duck.floor(&shares), Duration::from_secs(5));
}

#[test]
fn three_seconds_and_less_are_express() {
    for millis in [0, 1, 999, 1000, 2999, 3000] {
        let shares = Shares::of(Duration::from_millis(millis));
        assert!(shares.express);
        assert_eq!(
            budget(30)
                .lame_duck
                .length(&shares, Duration::from_secs(65)),
            Duration::ZERO
        );
        assert_eq!(
            shares.pre_stop_limit(Some(Duration::from_secs(60))),
            shares.leave
        );
    }
    assert!(!Shares::of(Duration::from_millis(3001)).express);
}

#[test]
fn a_declared_visibility_is_never_cut_and_must_fit() {
    let mut eureka = budget(30);
    eureka.visibility = Some(("eureka".into(), Duration::from_secs(65)));
    let message = eureka
        .check()
        .expect_err("65 s do not fit into 30")
        .to_string();
    for part in [
        "30.0 grace period",
        "65.0 lame duck",
        "\"eureka\"",
        "-44.9 s",
        "at least 96",
    ] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    let mut enough = budget(96);
    enough.visibility = eureka.visibility.clone();
    enough.check().expect("the advice is true");
    enough.grace = GracePeriod::from_secs(95).expect("a grace period");
    enough.check().expect_err("and the smallest");
}

#[test]
fn a_visibility_that_does_not_fit_has_three_ways_out_and_each_is_true() {
    let mut slow = budget(30);
    slow.visibility = Some(("slow".into(), Duration::from_secs(65)));
    let message = slow.check().expect_err("65 s").to_string();
    let (_, ways) = message.split_once("Ways out: ").expect("ways out");
    let ways: Vec<_> = ways.split("; or").collect();
    let [raise, sooner, retry] = ways[..] else {
        panic!("three ways: {ways:?}");
    };
    assert!(
        raise.contains("TERMINATION_GRACE_PERIOD_SECONDS"),
        "{raise}"
    );
    assert!(raise.contains("at least 96"), "{raise}");
    assert!(sooner.contains("\"slow\" notice sooner"), "{sooner}");
    assert!(
        sooner.contains("`with_visibility` (at most 17.1 s fit)"),
        "{sooner}"
    );
    assert!(retry.contains("try another instance"), "{retry}");
    slow.visibility = Some(("slow".into(), Duration::from_millis(17_100)));
    slow.check().expect("the most that fits");
    slow.visibility = Some(("slow".into(), Duration::from_millis(17_101)));
    slow.check().expect_err("and no more");
}

#[test]
fn a_lame_duck_that_does_not_fit_is_told_what_would() {
    let mut long = budget(30);
    long.lame_duck.length = Some(Duration::from_secs(20));
    let message = long.check().expect_err("20 s").to_string();
    let advice = "shorten the lame duck (at most 17.1 s fit)";
    assert!(message.ends_with(advice), "{message}");
    long.lame_duck.length = Some(Duration::from_millis(17_100));
    long.check().expect("it is true");
    // After a sleep hook as long as the grace period nothing fits, and nothing is promised.
    long.pre_stop_elapsed = Duration::from_secs(30);
    let message = long.check().expect_err("nothing is left").to_string();
    assert!(!message.contains("fit)"), "{message}");
}

#[test]
fn a_hook_with_a_long_limit_must_fit() {
    let mut long = budget(30);
    long.longest_hook = Some(("export".into(), Duration::from_secs(25)));
    let message = long.check().expect_err("25 s of hook").to_string();
    assert!(
        message.contains("25.0 pre_stop hook \"export\""),
        "{message}"
    );
}

#[test]
fn a_sleep_hook_is_taken_off() {
    let mut slept = budget(30);
    slept.pre_stop_elapsed = Duration::from_secs(20);
    assert_eq!(
        slept.after_pre_stop_hook(),
        Shares::of(Duration::from_secs(10))
    );
    slept.pre_stop_elapsed = Duration::from_secs(30);
    slept.check().expect_err("nothing is left");
}

#[test]
fn odd_values_of_the_variable_are_refused_by_name() {
    for value in [
        "0",
        "-1",
        "abc",
        "30s",
        "",
        " 30",
        "1.5",
        "99999999999999999999",
        "31536001",
    ] {
        let error = GracePeriod::checked(GracePeriod::VARIABLE, value, value.parse().ok())
            .expect_err("not a grace period");
        assert!(error.is_grace_period());
        let text = error.to_string();
        assert!(
            text.contains(GracePeriod::VARIABLE) && text.contains(&format!("{value:?}")),
            "{text}"
        );
    }
    assert_eq!(
        GracePeriod::from_secs(30).expect("thirty"),
        GracePeriod::DEFAULT
    );
}

const YEAR: u64 = 365 * 86_400 * 1_000;

/// From a millisecond to a year, as many short ones as long ones.
fn any_total() -> impl Strategy<Value = Duration> {
    prop_oneof![1..5_000_u64, 1..600_000_u64, 1..=YEAR].prop_map(Duration::from_millis)
}

/// What a user may write: mostly sensible, sometimes nothing, sometimes everything there is.
fn any_length() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0..120_000_u64).prop_map(Duration::from_millis),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::MAX),
    ]
}

fn any_budget() -> impl Strategy<Value = Budget> {
    (
        prop_oneof![1..40_u64, 1..=YEAR / 1_000],
        prop_oneof![4 => Just(Duration::ZERO), 1 => any_length()],
        proptest::option::of(any_length()),
        any::<bool>(),
        proptest::option::of(any_length()),
        proptest::option::of(any_length()),
    )
        .prop_map(
            |(grace, pre_stop_elapsed, length, on_kubernetes, hook, visibility)| Budget {
                grace: GracePeriod::from_secs(grace).expect("in range"),
                pre_stop_elapsed,
                lame_duck: LameDuck {
                    length,
                    until_quiet: None,
                    on_kubernetes,
                },
                longest_hook: hook.map(|limit| ("hook".to_owned(), limit)),
                visibility: visibility.map(|length| ("registry".to_owned(), length)),
            },
        )
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
    /// Rounding may cost a nanosecond per part, never more.
    #[test]
    fn the_parts_never_exceed_the_whole(total in any_total()) {
        let shares = Shares::of(total);
        let reserved = shares.exit_reserve + shares.on_stopped + shares.force_close;
        let parts = reserved + shares.leave + shares.least_drain();
        prop_assert!(parts <= total + Duration::from_nanos(5), "{parts:?} of {total:?}: {shares:?}");
        let hooks = reserved + shares.pre_stop_limit(None) + shares.least_drain();
        prop_assert!(hooks <= total + Duration::from_nanos(5), "{hooks:?} of {total:?}: {shares:?}");
        prop_assert!(shares.leave_attempt() * 2 <= shares.leave, "a second try fits");
    }

    #[test]
    fn no_budget_panics_and_what_fits_leaves_a_drain(budget in any_budget()) {
        let checked = budget.check();
        let total = budget.grace.length().saturating_sub(budget.pre_stop_elapsed);
        let shares = Shares::of(total);
        // By hand, not with the code under test.
        let lame_duck = match (shares.express, budget.lame_duck.length, &budget.visibility) {
            (true, ..) => Duration::ZERO,
            (_, set, seen) => set
                .unwrap_or_default()
                .max(seen.as_ref().map_or(Duration::ZERO, |(_, length)| *length)),
        };
        let hook = shares.pre_stop_limit(budget.longest_hook.as_ref().map(|(_, limit)| *limit));
        let before = hook.max(shares.leave.saturating_add(lame_duck));
        let reserved = shares.exit_reserve + shares.on_stopped + shares.force_close;
        let drain = total.saturating_sub(reserved).saturating_sub(before);
        match checked {
            Ok(()) => prop_assert!(
                !total.is_zero() && drain + Duration::from_nanos(10) >= total / 10,
                "{drain:?} of {total:?}"
            ),
            Err(error) => prop_assert!(error.is_budget() && error.to_string().contains("10 %")),
        }
    }

    /// Nothing but a grace period: whatever it is, the defaults fit, on Kubernetes and elsewhere.
    #[test]
    fn the_defaults_fit_into_any_grace_period(seconds in 1..=YEAR / 1_000, on_kubernetes in any::<bool>()) {
        let mut defaults = budget(seconds);
        defaults.lame_duck.on_kubernetes = on_kubernetes;
        prop_assert!(defaults.check().is_ok());
    }

    #[test]
    fn advice_that_is_given_is_true(budget in any_budget()) {
        if let Err(error) = budget.check()
            && let Some((_, after)) = error.to_string().split_once("to at least ")
        {
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            let seconds = digits.parse().expect("a number");
            if let Ok(grace) = GracePeriod::from_secs(seconds) {
                prop_assert!(Budget { grace, ..budget }.check().is_ok(), "{seconds}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn a_lame_duck_that_is_said_to_fit_does(budget in any_budget()) {
        if let Err(error) = budget.check()
            && let Some((_, after)) = error.to_string().split_once("(at most ")
        {
            let (number, _) = after.split_once(" s fit").expect("seconds");
            let tenths: u64 = number.replace('.', "").parse().expect("one digit behind the point");
            let length = Duration::from_millis(tenths * 100);
            let mut shorter = budget.clone();
            shorter.lame_duck.length = budget.lame_duck.length.map(|set| set.min(length));
            shorter.visibility = budget.visibility.clone().map(|(name, v)| (name, v.min(length)));
            prop_assert!(shorter.check().is_ok(), "{length:?}: {error}");
        }
    }
}

#[test]
fn small_grace_periods_one_by_one_fit_with_nothing_but_defaults() {
    for seconds in 1..=120 {
        budget(seconds).check().expect("the defaults fit");
    }
}
