//! The preStop hook as `httpGet`, on raw sockets.

use std::net::SocketAddr;
use std::time::Duration;

use prestop::{HookToken, Phase, Reason, ShutdownHandle, ShutdownReport};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{Http1, builder, local, until, within};

const TOKEN: &str = "a-token-for-tests-0123456789";

struct Service {
    probes: SocketAddr,
    h: ShutdownHandle,
    /// Ends the lame duck.
    go_on: oneshot::Sender<()>,
    run: JoinHandle<ShutdownReport>,
}

/// A service with the hook on its probe listener, and a lame duck that ends when the test says so.
async fn service() -> Service {
    let listener = local().await;
    let probes = listener.local_addr().unwrap();
    let (go_on, told) = oneshot::channel();
    let c = builder()
        .probe_listener_with_hook(listener, HookToken::new(TOKEN).unwrap())
        .pre_stop("told to go on", |_| told)
        .build()
        .unwrap();
    let h = c.handle();
    let main = h.draining();
    let run = tokio::spawn(async move { c.run(main).await.unwrap() });
    within("ready", h.wait_for(Phase::Ready)).await;
    Service {
        probes,
        h,
        go_on,
        run,
    }
}

fn request(method: &str, path: &str, headers: &[&str]) -> String {
    // As the kubelet sends it.
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: 10.0.0.7:9090\r\nUser-Agent: kube-lifecycle/1.36\r\nAccept: */*\r\n"
    );
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "\r\n"
}

#[tokio::test]
async fn the_hook_waits_for_the_lame_duck_and_answers_before_the_end() {
    let service = service().await;
    let mut kubelet = Http1::connect(service.probes).await;
    let with_token = format!("X-Prestop-Token: {TOKEN}");
    kubelet
        .send(request(
            "GET",
            "/prestop",
            &[&with_token, "Connection: close"],
        ))
        .await;
    within("the stop", service.h.wait_for(Phase::LameDuck)).await;
    assert_eq!(service.h.reason(), Some(Reason::PreStopHook));
    // The second hook waits beside it, SIGTERM changes nothing, the probes answer.
    let mut second = Http1::connect(service.probes).await;
    second
        .send(request("GET", "/prestop", &[&with_token]))
        .await;
    until("both wait", || {
        let waiting = service.h.in_flight();
        let waiting = waiting
            .iter()
            .filter(|w| w.what.contains("answer to the preStop hook"));
        waiting.count() == 2
    })
    .await;
    service.h.trigger(Reason::Signal("SIGTERM"));
    let mut probe = Http1::connect(service.probes).await;
    assert_eq!(probe.get("/livez").await.status, 200);
    assert_eq!(service.h.phase(), Phase::LameDuck);
    service.go_on.send(()).unwrap();
    for hook in [&mut kubelet, &mut second] {
        let answer = hook.answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let text = answer.text();
        assert!(
            text.starts_with("the lame duck is over, draining"),
            "{text}"
        );
        assert!(
            text.contains("in flight: nothing; 28.") || text.contains(" s left"),
            "{text}"
        );
    }
    let report = within("the report", service.run).await.unwrap();
    assert_eq!(report.reason, Reason::PreStopHook);
    assert!(report.is_clean(), "{report}");
}

/// S15.
#[tokio::test]
async fn without_the_token_nothing_is_begun() {
    let service = service().await;
    let right = format!("X-Prestop-Token: {TOKEN}");
    let wrong = [
        vec![],
        vec!["X-Prestop-Token:".to_owned()],
        vec!["X-Prestop-Token: wrong".to_owned()],
        vec![format!("X-Prestop-Token: {}", &TOKEN[1..])],
        vec![format!("X-Prestop-Token: {TOKEN}0")],
        vec![format!("X-Prestop-Token: {}", TOKEN.to_uppercase())],
        vec![format!("X-Prestop-Token: \u{7f}{TOKEN}").replace('\u{7f}', "\t\"")],
        // Two, of which one is right.
        vec![right.clone(), "X-Prestop-Token: wrong".to_owned()],
        vec![format!("Authorization: Bearer {TOKEN}")],
    ];
    let mut kubelet = Http1::connect(service.probes).await;
    for headers in wrong {
        for method in ["GET", "HEAD", "POST"] {
            let headers: Vec<_> = headers.iter().map(String::as_str).collect();
            kubelet.send(request(method, "/prestop", &headers)).await;
            let status = if method == "HEAD" {
                kubelet.head().await.status
            } else {
                let answer = kubelet.answer().await;
                assert!(!answer.text().contains(TOKEN), "{}", answer.text());
                answer.status
            };
            assert_eq!(status, 403, "{method} {headers:?}");
        }
    }
    // The token in the address would stand in logs.
    kubelet
        .send(request("GET", &format!("/prestop?token={TOKEN}"), &[]))
        .await;
    assert_eq!(kubelet.answer().await.status, 403);
    for (method, path) in [
        ("POST", "/prestop"),
        ("HEAD", "/prestop"),
        ("PUT", "/prestop"),
    ] {
        kubelet.send(request(method, path, &[&right])).await;
        let answer = kubelet.head().await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET")),
            "{method}"
        );
        // Its body, where it has one.
        kubelet = Http1::connect(service.probes).await;
    }
    for path in ["/prestop/", "/PRESTOP", "//prestop", "/started"] {
        kubelet.send(request("GET", path, &[&right])).await;
        assert_eq!(kubelet.answer().await.status, 404, "{path}");
    }
    assert_eq!(service.h.phase(), Phase::Ready, "nothing was begun");

    kubelet.send(request("GET", "/prestop", &[&right])).await;
    within("the stop", service.h.wait_for(Phase::LameDuck)).await;
    service.go_on.send(()).unwrap();
    assert_eq!(kubelet.answer().await.status, 200);
    let _ = within("the report", service.run).await.unwrap();
}

/// Off by default.
#[tokio::test]
async fn a_probe_listener_alone_has_no_hook() {
    let listener = local().await;
    let probes = listener.local_addr().unwrap();
    let c = builder().probe_listener(listener).build().unwrap();
    let h = c.handle();
    let mut kubelet = Http1::connect(probes).await;
    kubelet
        .send(request(
            "GET",
            "/prestop",
            &[&format!("X-Prestop-Token: {TOKEN}")],
        ))
        .await;
    assert_eq!(kubelet.answer().await.status, 404);
    assert_eq!(h.phase(), Phase::Starting);
}

/// A kubelet that goes away, or a hook that is given up, leaves the stop as it is.
#[tokio::test]
async fn a_caller_that_goes_away_has_begun_the_stop_all_the_same() {
    let service = service().await;
    let mut kubelet = Http1::connect(service.probes).await;
    kubelet
        .send(request(
            "GET",
            "/prestop",
            &[&format!("X-Prestop-Token: {TOKEN}")],
        ))
        .await;
    within("the stop", service.h.wait_for(Phase::LameDuck)).await;
    drop(kubelet);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(service.h.phase(), Phase::LameDuck);
    service.go_on.send(()).unwrap();
    let report = within("the report", service.run).await.unwrap();
    assert!(report.is_clean(), "{report}");
}
