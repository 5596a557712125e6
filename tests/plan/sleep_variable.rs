//! `PRE_STOP_SLEEP_SECONDS`: read where `pre_stop_elapsed` was not called. A variable belongs to a process, so each value
//! is tried in one of its own: this test binary again, with one test of it.

use std::process::Command;

use crate::support::{Act, plan, s};

const VARIABLE: &str = "PRE_STOP_SLEEP_SECONDS";

/// What the child prints, run with this value.
fn with(value: Option<&str>) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this binary"));
    child.args([
        "--exact",
        "sleep_variable::in_the_child",
        "--ignored",
        "--nocapture",
    ]);
    child
        .env_remove(VARIABLE)
        .env_remove("KUBERNETES_SERVICE_HOST");
    if let Some(value) = value {
        child.env(VARIABLE, value);
    }
    let output = child.output().expect("this binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{value:?}: {text}");
    text
}

#[test]
fn the_variable_is_the_default_of_what_code_says() {
    // Of 30 s, without a reserve of 5 % and at least a second.
    for (value, of_the_variable) in [
        (None, "28500 ms"),
        (Some("0"), "28500 ms"),
        (Some("5"), "23750 ms"),
        (Some("10"), "19000 ms"),
    ] {
        let text = with(value);
        assert!(
            text.contains(&format!("variable: {of_the_variable}")),
            "{value:?}: {text}"
        );
        assert!(text.contains("code: 26600 ms"), "{value:?}: {text}");
        assert!(text.contains("hook: 28500 ms"), "{value:?}: {text}");
    }
}

#[test]
fn what_is_no_number_of_seconds_keeps_the_service_from_starting() {
    for value in ["", "5s", "0.5", "-1", " 5", "five", "99999999999"] {
        let text = with(Some(value));
        let error = format!(
            "variable: PRE_STOP_SLEEP_SECONDS={value:?} is not the length of a preStop sleep"
        );
        assert!(text.contains(&error), "{text}");
        assert!(
            text.contains("code: 26600 ms"),
            "code is asked first: {text}"
        );
    }
    let text = with(Some("30"));
    assert!(
        text.contains("30.0 grace period - 30.0 sleep hook"),
        "the arithmetic: {text}"
    );
}

#[tokio::test(start_paused = true)]
#[ignore = "run by the tests above, with its variable"]
async fn in_the_child() {
    let sigterm = prestop::Reason::Signal("SIGTERM");
    for (name, builder, reason) in [
        ("variable", plan(30), sigterm.clone()),
        ("code", plan(30).pre_stop_elapsed(s(2)), sigterm),
        (
            "hook",
            plan(30).pre_stop_elapsed(s(2)),
            prestop::Reason::PreStopHook,
        ),
    ] {
        let c = match builder.on_stopped("stuck", |_| Act::Hang.play()).build() {
            Ok(c) => c,
            Err(error) => {
                assert!(error.is_pre_stop_sleep() || error.is_budget());
                println!("{name}: {error}");
                continue;
            }
        };
        let h = c.handle();
        h.trigger(reason);
        println!(
            "{name}: {} ms",
            h.time_left().expect("stopping").as_millis()
        );
    }
}
