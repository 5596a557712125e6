//! Whatever is wrong with the API server, or with the way to it: one warning, and the plan goes on as it is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::child::{Service, Setting};
use crate::fixture::{Answer, Api, Authority, deleted, pod};

/// One warning, with these words; nothing of the plan has changed.
#[track_caller]
fn one_warning(report: &Value, words: &[&str]) {
    let warnings = report["pod"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{report:#}");
    let warning = warnings[0].as_str().unwrap();
    for word in words {
        assert!(warning.contains(word), "no {word:?}: {warning}");
    }
    for word in ["cause", "kill_in_ms"] {
        assert!(report["pod"][word].is_null(), "{report:#}");
    }
    assert_eq!(report["pod"]["earlier_by_ms"], 0);
    assert_eq!(report["grace_ms"], 600_000);
}

fn warned() -> Setting {
    Setting {
        scene: "warned",
        ..Setting::default()
    }
}

#[tokio::test]
async fn an_answer_that_is_of_no_use_is_warned_about_at_the_start_and_never_again() {
    let mut another = pod(600);
    another["metadata"]["uid"] = json!("b00c");
    let forbidden =
        "pods \"orders-7d9f\" is forbidden: User \"system:serviceaccount:shop:default\" cannot get";
    let cases: [(Answer, &[&str]); 8] = [
        (
            Answer::Status(403, forbidden),
            &[
                "examples/kind/own-pod.yaml",
                "\"shop\"",
                "serviceaccount:shop:default",
            ],
        ),
        (
            Answer::Status(401, "Unauthorized"),
            &["does not take the token", "/token"],
        ),
        (
            Answer::Status(404, "pods \"orders-7d9f\" not found"),
            &["no pod shop/orders-7d9f", "POD_NAME", "not found"],
        ),
        (Answer::Status(400, "what?"), &["answered 400"]),
        (
            Answer::Text("<html>a proxy's page</html>"),
            &["is not a pod"],
        ),
        (
            Answer::Text("{\"kind\":\"List\",\"metadata\":{}}"),
            &["is not a pod", "List"],
        ),
        (Answer::Text(""), &["is not a pod"]),
        (Answer::Pod(another), &["is another one", "b00c", "5a0c"]),
    ];
    for (answer, words) in cases {
        let api = Api::start(answer).await;
        let mut setting = warned();
        setting.vars.push(("POD_UID", "5a0c"));
        let mut service = Service::start(&api, setting).await;
        service.says("warning").await;
        one_warning(&service.report().await, words);
    }
}

#[tokio::test]
async fn a_pod_without_a_service_account_is_warned_about() {
    for (file, words) in [
        (
            "token",
            ["/token cannot be read", "automountServiceAccountToken"],
        ),
        ("ca.crt", ["certificate authority", "/ca.crt"]),
    ] {
        let api = Api::start(Answer::Pod(pod(600))).await;
        api.account.remove(file);
        let mut service = Service::start(&api, warned()).await;
        service.says("warning").await;
        one_warning(&service.report().await, &words);
        assert!(api.asked().is_empty());
    }
}

/// Its token must not go to who shows another certificate.
#[tokio::test]
async fn a_server_of_another_authority_is_told_nothing() {
    let api = Api::start(Answer::Pod(pod(600))).await;
    api.account.write("ca.crt", &Authority::new(api.at).ca);
    let mut service = Service::start(&api, warned()).await;
    service.says("warning").await;
    one_warning(
        &service.report().await,
        &["in the TLS handshake", "invalid peer certificate"],
    );
    assert!(api.asked().is_empty());
}

/// Both files are read anew: what was wrong at the start is right when it counts.
#[tokio::test]
async fn an_account_that_was_mended_is_used_by_the_stop() {
    let api = Api::start(Answer::Pod(deleted(pod(600), 60, "2026-11-22T10:01:00Z"))).await;
    let ours = std::fs::read_to_string(api.account.dir().join("ca.crt")).unwrap();
    api.account.write("ca.crt", &Authority::new(api.at).ca);
    let mut service = Service::start(&api, Setting::default()).await;
    service.says("warning").await;
    api.account.write("ca.crt", &ours);
    let report = service.report().await;
    assert_eq!(report["pod"]["cause"], "deletion", "{report:#}");
    assert_eq!(report["pod"]["kill_in_ms"], 60_000);
}

/// At the start it may be the network that is late; the stop says it.
#[tokio::test]
async fn a_server_that_does_not_answer_is_warned_about_by_the_stop() {
    let silent = Api::start(Answer::Silence).await;
    let busy = Api::start(Answer::Status(503, "not yet")).await;
    for (api, words) in [
        (silent, "timed out after"),
        (busy, "answered 503"),
        (Api::refusing(), "connecting to"),
    ] {
        let setting = Setting {
            ask_within: Duration::from_millis(500),
            ..warned()
        };
        let report = Service::start(&api, setting).await.report().await;
        one_warning(&report, &["why the pod is stopped is not known"]);
        let warning = report["pod"]["warnings"][0].as_str().unwrap();
        // On a machine that is slow enough every one of them is.
        assert!(
            warning.contains(words) || warning.contains("timed out after"),
            "no {words:?}: {warning}"
        );
    }
}

/// The stop of a service that has nothing to wait for is over before such an answer could come.
#[tokio::test]
async fn nothing_waits_for_an_answer() {
    let api = Api::start(Answer::Silence).await;
    let setting = Setting {
        scene: "idle",
        ask_within: Duration::from_secs(500),
        ..Setting::default()
    };
    let report = Service::start(&api, setting).await.report().await;
    assert!(report["pod"]["cause"].is_null(), "{report:#}");
    assert_eq!(report["pod"]["warnings"], json!([]));
    // Its own time is next to nothing; waiting were 500 s.
    assert!(report["total_ms"].as_u64().unwrap() < 100_000, "{report:#}");
}

#[tokio::test]
async fn outside_of_a_cluster_there_is_nobody_to_ask() {
    let mut service = Service::on_a_laptop();
    let error = service.says("refused").await;
    assert!(error.contains("KUBERNETES_SERVICE_HOST"), "{error}");
    assert!(error.contains("OwnPod::from_env_or_none()"), "{error}");
    service.says("builds").await;
}
