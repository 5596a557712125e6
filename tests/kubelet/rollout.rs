//! The rolling restarts of the observed table on paused time: three replicas, maxSurge 1, maxUnavailable 0, a new
//! connection every 10 ms to the Service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prestop::kubelet::{Cause, Container, Handler, Node, Pod, Service, Simulated, StopSignal};
use tokio::time::sleep;

use super::s;

const REPLICAS: usize = 3;

/// Which pods answer, by name.
type Answers = Arc<Mutex<BTreeMap<String, bool>>>;

/// Sent and failed, and how long each pod's stop took.
async fn rolling_restart(pod: Pod, serves_on: Duration) -> (u32, u32, Vec<Duration>) {
    let (service, answers) = (Service::new(), Answers::default());
    let start = |name: String| {
        let (pod, service, answers) = (pod.clone(), service.clone(), answers.clone());
        async move {
            let on_end = (answers.clone(), name.clone());
            let runtime = Simulated::new(move |mut signal: StopSignal| {
                let (answers, name) = on_end.clone();
                async move {
                    signal.received().await;
                    sleep(serves_on).await;
                    answers.lock().unwrap().insert(name, false);
                    0
                }
            });
            let node = Node::new(pod)
                .container("app", runtime)
                .in_service(&service, &name);
            node.start().await.unwrap();
            // A program takes a while to be ready.
            sleep(s(1.0)).await;
            answers.lock().unwrap().insert(name, true);
            node.ready(s(1.0)).await.unwrap();
            node
        }
    };
    let mut nodes = Vec::new();
    for i in 0..REPLICAS {
        nodes.push(start(format!("old-{i}")).await);
    }
    sleep(s(3.0)).await;
    let over = Arc::new(AtomicBool::new(false));
    let load = {
        let (service, answers, over) = (service.clone(), answers.clone(), over.clone());
        tokio::spawn(async move {
            let (mut sent, mut failed) = (0_u32, 0_u32);
            while !over.load(Ordering::Relaxed) {
                let routes = service.routes();
                let to = &routes[sent as usize % routes.len()];
                sent += 1;
                failed += u32::from(!answers.lock().unwrap()[to]);
                sleep(s(0.01)).await;
            }
            (sent, failed)
        })
    };
    let mut took = Vec::new();
    for (i, old) in nodes.into_iter().enumerate() {
        let _new = start(format!("new-{i}")).await;
        // The Deployment's controller hears of it, and deletes the old one.
        sleep(s(0.1)).await;
        let timeline = old.stop(Cause::delete()).await;
        took.push(timeline.took());
        assert!(!timeline.was_killed(), "{timeline}");
    }
    sleep(s(8.0)).await;
    over.store(true, Ordering::Relaxed);
    let (sent, failed) = load.await.unwrap();
    println!("{failed} of {sent} failed, stops took {took:?}");
    (sent, failed, took)
}

fn pod(hook: Option<Handler>) -> Pod {
    let app = Container::new("app");
    Pod::new(
        30,
        [match hook {
            Some(hook) => app.pre_stop(hook),
            None => app,
        }],
    )
}

/// Seen: 89 of 2,000 and 92 of 2,500.
#[tokio::test(start_paused = true)]
async fn a_pod_that_exits_at_once_loses_what_kube_proxy_still_sends() {
    let (_, failed, _) = rolling_restart(pod(None), Duration::ZERO).await;
    assert!((60..=120).contains(&failed), "{failed}");
}

/// Seen: 0 of 2,500.
#[tokio::test(start_paused = true)]
async fn a_sleep_of_five_seconds_before_it_loses_nothing_of_short_requests() {
    let hook = Handler::Sleep { seconds: 5 };
    let (sent, failed, took) = rolling_restart(pod(Some(hook)), Duration::ZERO).await;
    assert_eq!((failed, sent > 2_000), (0, true));
    assert_eq!(took, [s(5.0); REPLICAS]);
}

/// Seen: 0 of 2,250 and 0 of 1,000.
#[tokio::test(start_paused = true)]
async fn a_pod_that_serves_six_seconds_more_loses_nothing_of_short_requests() {
    let (_, failed, took) = rolling_restart(pod(None), s(6.0)).await;
    assert_eq!((failed, took), (0, vec![s(6.0); REPLICAS]));
}
