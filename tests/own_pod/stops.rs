//! A service that is stopped by SIGTERM, and what its report says of its pod.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::child::{Service, Setting};
use crate::fixture::{Answer, Api, deleted, pod};

fn ms(report: &Value, what: &str) -> u64 {
    let ms = report["pod"][what].as_u64();
    ms.unwrap_or_else(|| panic!("no {what}: {report:#}"))
}

/// No other words than these in the report's warnings.
fn warned(report: &Value) -> Vec<&str> {
    let warnings = report["pod"]["warnings"].as_array().unwrap();
    warnings.iter().map(|text| text.as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_drained_node_is_told_by_the_condition_and_the_deadline_is_the_deletions() {
    let api = Api::start(Answer::Pod(pod(600))).await;
    let service = Service::start(&api, Setting::default()).await;
    let mut evicted = deleted(pod(600), 90, "2026-11-22T10:01:30Z");
    evicted["status"]["conditions"][0] = json!({ "type": "DisruptionTarget", "status": "True",
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting" });
    api.answers(Answer::Pod(evicted));
    // Tokens are replaced while a pod runs.
    api.account.write("token", "token-of-the-stop");
    let report = service.report().await;

    assert_eq!(report["reason"]["signal"], "SIGTERM");
    assert_eq!(report["pod"]["pod"], "shop/orders-7d9f");
    assert_eq!(report["pod"]["cause"], "api_eviction");
    assert_eq!(report["pod"]["message"], "Eviction API: evicting");
    assert_eq!(ms(&report, "kill_in_ms"), 90_000, "{report:#}");
    assert_eq!(ms(&report, "earlier_by_ms"), 510_000, "{report:#}");
    assert!(warned(&report).is_empty(), "{report:#}");

    let asked = api.asked();
    for question in &asked {
        assert_eq!(question.path, "/api/v1/namespaces/shop/pods/orders-7d9f");
    }
    let with = |token| asked.iter().any(|question| question.authorization == token);
    assert!(with("Bearer token-of-the-stop"), "{asked:?}");
}

/// The whole way: a plan of ten minutes, a pod that has four seconds, work that never ends.
#[tokio::test]
async fn work_that_does_not_end_is_cut_by_the_pods_deadline() {
    let api = Api::start(Answer::Pod(deleted(pod(600), 4, "2026-11-22T10:00:04Z"))).await;
    let setting = Setting {
        scene: "stuck",
        ..Setting::default()
    };
    let (code, log) = Service::start(&api, setting).await.ended().await;
    // By the plan; or by the watchdog, where the answer or the machine was slow.
    assert_eq!(code, Some(72), "{log}");
    let told = "pod shop/orders-7d9f: deleted, SIGKILL 4.0 s after the trigger, ";
    assert!(log.contains(told), "{log}");
    assert!(log.contains("guard \"stuck\""), "{log}");
}

#[tokio::test]
async fn a_pod_that_is_not_deleted_was_killed_by_a_probe_and_has_its_grace_period() {
    let mut probed = pod(600);
    probed["spec"]["containers"][0]["livenessProbe"] =
        json!({ "httpGet": { "port": 9090 }, "terminationGracePeriodSeconds": 100 });
    let api = Api::start(Answer::Pod(probed)).await;
    let report = Service::start(&api, Setting::default())
        .await
        .report()
        .await;
    assert_eq!(report["pod"]["cause"], "probe_failure");
    assert_eq!(ms(&report, "kill_in_ms"), 100_000);
}

#[tokio::test]
async fn the_manifests_sleep_comes_off_without_having_been_told() {
    let mut sleeping = pod(600);
    sleeping["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "sleep": { "seconds": 40 } } });
    let api = Api::start(Answer::Pod(sleeping.clone())).await;
    let service = Service::start(&api, Setting::default()).await;
    api.answers(Answer::Pod(deleted(sleeping, 600, "2026-11-22T10:09:20Z")));
    let report = service.report().await;
    assert_eq!(report["pod"]["cause"], "deletion");
    assert_eq!(ms(&report, "kill_in_ms"), 560_000);
    assert!(warned(&report).is_empty(), "{report:#}");
}

/// The server's day is years from ours: only its own two moments count.
#[tokio::test]
async fn a_hook_that_was_not_seen_is_measured_whatever_the_time_is_here() {
    let mut hooked = pod(600);
    hooked["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "exec": { "command": ["/drain"] } } });
    // The fixture's clock says 10:00:00.
    let api = Api::start(Answer::Pod(deleted(hooked, 600, "2026-11-22T10:05:01Z"))).await;
    let report = Service::start(&api, Setting::default())
        .await
        .report()
        .await;
    assert_eq!(report["pod"]["cause"], "deletion");
    // 301 s, a second less for what both were cut by; counted from the question, which came a little after SIGTERM.
    let kill_in = ms(&report, "kill_in_ms");
    assert!((300_000..600_000).contains(&kill_in), "{report:#}");
}

#[tokio::test]
async fn a_manifest_that_differs_is_warned_about_once_and_the_shorter_grace_period_counts() {
    for (theirs, planned, words) in [(400, 400, "SIGKILL"), (700, 600, "had more time")] {
        let api = Api::start(Answer::Pod(pod(theirs))).await;
        let mut service = Service::start(&api, Setting::default()).await;
        let warning = service.says("warning").await;
        let numbers = format!(
            "the manifest's terminationGracePeriodSeconds are {theirs} s, the program was told 600 s"
        );
        assert!(warning.contains(&numbers), "{warning}");
        assert!(warning.contains(words), "{warning}");
        assert!(
            warning.contains("TERMINATION_GRACE_PERIOD_SECONDS"),
            "{warning}"
        );
        let report = service.report().await;
        assert_eq!(warned(&report), [warning]);
        assert_eq!(report["grace_ms"], planned * 1_000, "{report:#}");
    }
}

#[tokio::test]
async fn a_server_with_an_ipv6_address_is_found() {
    let listener = match TcpListener::bind("[::1]:0").await {
        Ok(listener) => listener,
        Err(error) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("there is no IPv6 here, and CI must have it: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: there is no IPv6 here: {error}");
            return;
        }
    };
    let api = Api::on(
        listener,
        Answer::Pod(deleted(pod(600), 60, "2026-11-22T10:01:00Z")),
    );
    let report = Service::start(&api, Setting::default())
        .await
        .report()
        .await;
    assert_eq!(report["pod"]["cause"], "deletion", "{report:#}");
}
