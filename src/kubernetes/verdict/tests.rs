//! What an answer means, without a server.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::budget::{Budget, GracePeriod, LameDuck};
use crate::kubernetes::follow::act;
use crate::own_pod::Cause;
use crate::reason::Reason;
use crate::state::{Settings, State};

const SIGTERM: Reason = Reason::Signal("SIGTERM");

/// The server's clock, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

fn s(length: u64) -> Duration {
    Duration::from_secs(length)
}

/// A pod that the kubelet stops, with this container.
fn pod(container: Value, more: Value) -> Pod {
    let mut pod = json!({
        "kind": "Pod",
        "metadata": { "uid": "1-2-3" },
        "spec": { "terminationGracePeriodSeconds": 30 },
        "status": {},
    });
    pod["spec"]["containers"] = Value::Array(vec![container]);
    merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn moment(seconds: u64) -> String {
    let http = httpdate::fmt_http_date(UNIX_EPOCH + s(seconds));
    let names = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = names.find(&http[8..11]).unwrap() / 3 + 1;
    format!(
        "{}-{month:02}-{}T{}Z",
        &http[12..16],
        &http[5..7],
        &http[17..25]
    )
}

/// Deleted with this grace period, so long ago that this much of it is left.
fn deleted(grace: i64, left: u64) -> Value {
    json!({ "metadata": { "deletionTimestamp": moment(NOW + left), "deletionGracePeriodSeconds": grace } })
}

fn disrupted(reason: &str, message: &str) -> Value {
    let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message });
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }, condition] } })
}

fn judged(pod: &Pod, reason: &Reason, hook_called: bool, told_sleep: Duration) -> Verdict {
    let begun = Begun {
        reason,
        hook_called,
        told_sleep,
    };
    Verdict::of(pod, &pod.ours(None).unwrap(), &begun, Some(NOW))
}

fn by_a_signal(pod: &Pod) -> Verdict {
    judged(pod, &SIGTERM, false, Duration::ZERO)
}

#[track_caller]
fn says(verdict: &Verdict, cause: Cause, from_trigger: u64) {
    assert_eq!(verdict.cause, cause, "{verdict:?}");
    assert_eq!(verdict.from_trigger, Some(s(from_trigger)), "{verdict:?}");
}

#[test]
fn a_deleted_pod_has_the_deletions_grace_period_from_the_trigger_on() {
    let plain = || json!({ "name": "app" });
    for (grace, seconds) in [(30, 30), (5, 5), (90, 90), (1, 1), (0, 1), (-1, 1)] {
        let verdict = by_a_signal(&pod(plain(), deleted(grace, 20)));
        says(&verdict, Cause::Deletion, seconds);
        assert_eq!(verdict.from_question, None, "the timestamp is coarser");
    }
    let mut without = deleted(30, 20);
    without["metadata"]["deletionGracePeriodSeconds"] = Value::Null;
    says(&by_a_signal(&pod(plain(), without)), Cause::Deletion, 30);
}

#[test]
fn the_condition_tells_what_deletes_the_pod() {
    for (reason, cause) in [
        ("EvictionByEvictionAPI", Cause::ApiEviction),
        ("PreemptionByScheduler", Cause::Preemption),
        ("DeletionByTaintManager", Cause::TaintEviction),
        ("DeletionByPodGC", Cause::Deletion),
    ] {
        let mut more = deleted(30, 30);
        merge(&mut more, disrupted(reason, "as it is said"));
        let verdict = by_a_signal(&pod(json!({ "name": "app" }), more));
        // An eviction by way of the API has the whole grace period (R30): a lame duck is what it is for.
        says(&verdict, cause, 30);
        assert!(!verdict.no_lame_duck);
        assert_eq!(verdict.message.as_deref(), Some("as it is said"));
    }
    let mut withdrawn = disrupted("EvictionByEvictionAPI", "");
    withdrawn["status"]["conditions"][1]["status"] = json!("False");
    merge(&mut withdrawn, deleted(30, 30));
    says(
        &by_a_signal(&pod(json!({ "name": "app" }), withdrawn)),
        Cause::Deletion,
        30,
    );
}

#[test]
fn an_eviction_that_can_be_recognised_has_a_second_and_no_lame_duck() {
    let app = || json!({ "name": "app", "livenessProbe": {} });
    let of_status = |reason: &str| json!({ "status": { "reason": reason } });
    for more in [
        disrupted(
            "TerminationByKubelet",
            "The node was low on resource: memory.",
        ),
        of_status("Evicted"),
    ] {
        let verdict = by_a_signal(&pod(app(), more));
        says(&verdict, Cause::NodePressure, 1);
        assert!(verdict.no_lame_duck);
    }
    let shutdown = "Pod was terminated in response to imminent node shutdown.";
    for more in [
        disrupted("TerminationByKubelet", shutdown),
        of_status("Terminated"),
    ] {
        let verdict = by_a_signal(&pod(app(), more));
        says(&verdict, Cause::NodeShutdown, 30);
        assert!(verdict.no_lame_duck);
    }
    let preempted = "Preempted in order to admit critical pod";
    let verdict = by_a_signal(&pod(app(), disrupted("TerminationByKubelet", preempted)));
    says(&verdict, Cause::Preemption, 30);
    assert!(!verdict.no_lame_duck);
}

#[test]
fn a_probes_kill_has_the_probes_own_grace_period() {
    let with =
        |startup: Option<Option<i64>>, liveness: Option<Option<i64>>, started: Option<bool>| {
            let probe = |own: Option<i64>| json!({ "terminationGracePeriodSeconds": own });
            let mut app = json!({ "name": "app" });
            if let Some(own) = startup {
                app["startupProbe"] = probe(own);
            }
            if let Some(own) = liveness {
                app["livenessProbe"] = probe(own);
            }
            let status = json!({ "name": "app", "started": started });
            by_a_signal(&pod(
                app,
                json!({ "status": { "containerStatuses": [status] } }),
            ))
        };
    says(
        &with(None, Some(Some(5)), Some(true)),
        Cause::ProbeFailure,
        5,
    );
    says(
        &with(None, Some(Some(60)), Some(true)),
        Cause::ProbeFailure,
        60,
    );
    says(&with(None, Some(None), Some(true)), Cause::ProbeFailure, 30);
    says(
        &with(None, Some(Some(5)), Some(false)),
        Cause::ProbeFailure,
        5,
    );
    says(
        &with(Some(Some(3)), Some(Some(5)), Some(true)),
        Cause::ProbeFailure,
        5,
    );
    says(
        &with(Some(Some(3)), Some(Some(5)), Some(false)),
        Cause::ProbeFailure,
        3,
    );
    // Which one it was is not known: the shorter.
    says(
        &with(Some(Some(9)), Some(Some(5)), None),
        Cause::ProbeFailure,
        5,
    );
    says(
        &with(Some(None), Some(Some(40)), None),
        Cause::ProbeFailure,
        30,
    );
    says(
        &with(Some(Some(3)), None, Some(false)),
        Cause::ProbeFailure,
        3,
    );
    // A startup probe that has succeeded is not probed any more.
    says(
        &with(Some(Some(3)), None, Some(true)),
        Cause::NotDeleted,
        30,
    );
    says(&with(None, None, Some(true)), Cause::NotDeleted, 30);
}

#[test]
fn whether_a_sidecar_has_started_is_read_from_the_init_containers() {
    let proxy = json!({ "name": "proxy", "restartPolicy": "Always",
        "startupProbe": { "terminationGracePeriodSeconds": 3 },
        "livenessProbe": { "terminationGracePeriodSeconds": 5 } });
    let begun = Begun {
        reason: &SIGTERM,
        hook_called: false,
        told_sleep: Duration::ZERO,
    };
    for (started, seconds) in [(Some(true), 5), (Some(false), 3), (None, 3)] {
        let status = json!({ "name": "proxy", "started": started });
        let of_app = json!({ "name": "app", "started": true });
        let more = json!({ "spec": { "initContainers": [proxy] },
            "status": { "containerStatuses": [of_app], "initContainerStatuses": [status] } });
        let pod = pod(json!({ "name": "app" }), more);
        let ours = pod.ours(Some("proxy")).unwrap();
        let verdict = Verdict::of(&pod, &ours, &begun, Some(NOW));
        says(&verdict, Cause::ProbeFailure, seconds);
    }
}

#[test]
fn what_the_program_does_is_not_the_kubelets() {
    let app = || json!({ "name": "app", "livenessProbe": { "terminationGracePeriodSeconds": 5 } });
    let asked = Reason::requested("a new configuration");
    let verdict = judged(&pod(app(), json!({})), &asked, false, Duration::ZERO);
    assert_eq!(
        (verdict.cause, verdict.from_trigger),
        (Cause::Program, None)
    );
    // At the same time as a deletion: the kubelet's clock is the timestamp's.
    let verdict = judged(&pod(app(), deleted(30, 12)), &asked, false, Duration::ZERO);
    says(&verdict, Cause::Deletion, 30);
    assert_eq!(verdict.from_question, Some(s(11)));
    says(
        &judged(
            &pod(app(), json!({})),
            &Reason::PreStopHook,
            true,
            Duration::ZERO,
        ),
        Cause::ProbeFailure,
        5,
    );
}

#[test]
fn a_sleep_hook_comes_off_a_signals_time_and_off_no_hooks() {
    let app =
        || json!({ "name": "app", "lifecycle": { "preStop": { "sleep": { "seconds": 10 } } } });
    let verdict = by_a_signal(&pod(app(), deleted(30, 20)));
    says(&verdict, Cause::Deletion, 20);
    assert_eq!(verdict.from_question, None, "its length is known");
    // Told less, or more.
    let more = |told| judged(&pod(app(), deleted(30, 20)), &SIGTERM, false, told);
    says(&more(s(4)), Cause::Deletion, 20);
    says(&more(s(14)), Cause::Deletion, 16);
    // A hook that called cannot be that one.
    let called = judged(
        &pod(app(), deleted(30, 30)),
        &Reason::PreStopHook,
        true,
        Duration::ZERO,
    );
    says(&called, Cause::Deletion, 30);
    // `kubectl delete --now` ends the hook, too.
    says(&by_a_signal(&pod(app(), deleted(1, 0))), Cause::Deletion, 1);
    says(&by_a_signal(&pod(app(), json!({}))), Cause::NotDeleted, 20);
}

#[test]
fn a_hook_of_unknown_length_is_measured_by_the_servers_own_clock() {
    for hook in [
        json!({ "exec": { "command": ["/drain"] } }),
        json!({ "httpGet": { "port": 80 } }),
    ] {
        let app = json!({ "name": "app", "lifecycle": { "preStop": hook } });
        for (left, from_question) in [(20, 19), (1, 0), (0, 0)] {
            let verdict = by_a_signal(&pod(app.clone(), deleted(30, left)));
            says(&verdict, Cause::Deletion, 30);
            assert_eq!(verdict.from_question, Some(s(from_question)));
        }
        let mut over = deleted(30, 0);
        over["metadata"]["deletionTimestamp"] = json!(moment(NOW - 7));
        assert_eq!(
            by_a_signal(&pod(app.clone(), over)).from_question,
            Some(s(0))
        );
        let called = judged(&pod(app, deleted(30, 20)), &SIGTERM, true, Duration::ZERO);
        assert_eq!(called.from_question, None, "it called us");
    }
}

#[test]
fn of_several_containers_those_count_that_leave_the_least_time() {
    let with_hook =
        json!({ "name": "app", "lifecycle": { "preStop": { "sleep": { "seconds": 10 } } } });
    let probed = json!({ "name": "side", "livenessProbe": { "terminationGracePeriodSeconds": 4 } });
    let mut more = json!({ "spec": { "containers": [with_hook, probed],
        "initContainers": [{ "name": "proxy", "restartPolicy": "Always" }, { "name": "migrate" }] } });
    let kept = pod(json!({}), more.clone());
    says(&by_a_signal(&kept), Cause::ProbeFailure, 4);
    merge(&mut more, deleted(30, 20));
    let pod = pod(json!({}), more);
    assert_eq!(
        by_a_signal(&pod).from_question,
        Some(s(19)),
        "whose hook it is, is not known"
    );

    let begun = Begun {
        reason: &SIGTERM,
        hook_called: false,
        told_sleep: Duration::ZERO,
    };
    let of = |name| Verdict::of(&pod, &pod.ours(Some(name)).unwrap(), &begun, Some(NOW));
    assert_eq!(
        (of("app").from_trigger, of("app").from_question),
        (Some(s(20)), None)
    );
    assert_eq!(
        (of("side").from_trigger, of("side").from_question),
        (Some(s(30)), None)
    );
    // A sidecar was told when the others had gone.
    assert_eq!(
        (of("proxy").from_trigger, of("proxy").from_question),
        (Some(s(30)), Some(s(19)))
    );
    assert_eq!(of("migrate").from_question, None);
    assert!(pod.ours(Some("nobody")).is_none());
}

fn state(grace: u64) -> State {
    let budget = Budget {
        grace: GracePeriod::from_secs(grace).unwrap(),
        pre_stop_elapsed: Duration::ZERO,
        lame_duck: LameDuck::default(),
        longest_hook: None,
        visibility: None,
    };
    State::new(budget, Settings::default())
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_by_the_pods_clock_counted_from_the_trigger_and_from_the_question() {
    let app = || json!({ "name": "app", "lifecycle": { "preStop": { "exec": {} } } });
    for (grace, left, kill_in) in [
        (30, 30, 30),
        (10, 30, 10),
        (30, 12, 13),
        (30, 0, 2),
        (1, 0, 1),
    ] {
        let state = state(30);
        state.trigger(SIGTERM, |_| s(30));
        let stop = state.signal().stop.unwrap();
        tokio::time::advance(s(2)).await;
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(300)).await;
        let verdict = by_a_signal(&pod(app(), deleted(grace, left)));
        let (told, earlier_by) = act(&state, &stop, &verdict, asked);
        assert_eq!(told, Some(s(kill_in)), "{verdict:?}");
        let now = state.signal().stop.unwrap();
        // The answer came at 2.3 s: what is over is over, but for the half second.
        let due = s(kill_in).max(Duration::from_millis(2_800));
        assert_eq!(now.kill - stop.began, due);
        assert_eq!(earlier_by, s(30) - due);
    }
    let state = state(30);
    state.trigger(SIGTERM, |_| s(30));
    let stop = state.signal().stop.unwrap();
    let (told, earlier_by) = act(&state, &stop, &Verdict::gone(), Instant::now());
    assert_eq!((told, earlier_by), (Some(LEAST), s(29)));
    assert!(state.signal().stop.unwrap().shares.express);
}

/// Whatever a server answers.
fn any_pod() -> impl Strategy<Value = Value> {
    let hook = prop_oneof![
        Just(Value::Null),
        (0..200_i64).prop_map(|n| json!({ "sleep": { "seconds": n } })),
        Just(json!({ "exec": {} })),
    ];
    let seconds = || proptest::option::of(-3..700_i64);
    let reason = prop_oneof![
        Just("EvictionByEvictionAPI"),
        Just("TerminationByKubelet"),
        Just("Evicted")
    ];
    (
        hook,
        seconds(),
        seconds(),
        seconds(),
        proptest::option::of(0..1_000_u64),
        reason,
        any::<bool>(),
    )
        .prop_map(|(hook, grace, own, deletion, left, reason, disruption)| {
            let mut app =
                json!({ "name": "app", "livenessProbe": { "terminationGracePeriodSeconds": own } });
            if !hook.is_null() {
                app["lifecycle"] = json!({ "preStop": hook });
            }
            let mut pod = json!({ "metadata": { "deletionGracePeriodSeconds": deletion },
                "spec": { "terminationGracePeriodSeconds": grace, "containers": [app] } });
            if let Some(left) = left {
                pod["metadata"]["deletionTimestamp"] = json!(moment(NOW + left - 300));
            }
            if disruption {
                merge(&mut pod, disrupted(reason, "preempted, or a node shutdown"));
                pod["status"]["reason"] = json!(reason);
            }
            pod
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// S1: no answer moves the deadline later, whatever is in it; nor to where not even the shortest plan fits.
    #[test]
    fn no_answer_moves_the_deadline_later(
        pod in any_pod(), grace in 1..700_u64, told in 0..40_u64, by_hook in any::<bool>(),
        late in 0..5_000_u64, date in proptest::option::of(0..3_000_000_000_u64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let state = state(grace);
            let reason = if by_hook { Reason::PreStopHook } else { SIGTERM };
            state.trigger(reason.clone(), |_| s(grace));
            let before = state.signal().stop.unwrap();
            let asked = Instant::now();
            tokio::time::advance(Duration::from_millis(late)).await;
            let begun = Begun { reason: &reason, hook_called: by_hook, told_sleep: s(told) };
            let verdict = Verdict::of(&pod, &pod.ours(None).unwrap(), &begun, date.or(Some(NOW)));
            let (kill_in, earlier_by) = act(&state, &before, &verdict, asked);
            let after = state.signal().stop.unwrap();
            assert!(after.kill <= before.kill && after.deadline <= before.deadline);
            assert!(after.drain_by <= before.drain_by && after.lame_duck_by <= before.lame_duck_by);
            assert_eq!(before.kill - after.kill, earlier_by);
            assert!(after.kill >= before.kill.min(before.began + LEAST));
            assert!(kill_in.is_none_or(|told| told >= LEAST));
        });
    }
}
