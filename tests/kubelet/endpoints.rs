//! Which pods get new connections.

use prestop::kubelet::{Cause, Container, Endpoint, Node, Pod, Service, Simulated};
use tokio::time::{Instant, sleep};

use super::s;

const TERMINATING: Endpoint = Endpoint::TERMINATING;

#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_drops_an_endpoint_after_the_slices_lag() {
    let service = Service::new();
    service.set("a", Endpoint::READY);
    service.set("b", Endpoint::READY);
    sleep(s(5.0)).await;
    service.set("a", TERMINATING);
    sleep(s(0.04)).await;
    assert_eq!(service.routes(), ["a", "b"], "not yet heard of");
    sleep(s(0.02)).await;
    assert_eq!(service.routes(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn in_a_rollout_the_sync_period_is_used_up_by_the_new_pods_event() {
    let service = Service::new();
    service.set("old", Endpoint::READY);
    sleep(s(10.0)).await;
    service.set("new", Endpoint::READY);
    sleep(s(0.1)).await;
    service.set("old", TERMINATING);
    sleep(s(0.9)).await;
    assert_eq!(
        service.routes(),
        ["new", "old"],
        "0.9 s after the stop began"
    );
    sleep(s(0.1)).await;
    assert_eq!(service.routes(), ["new"], "a second after the last sync");
}

#[tokio::test(start_paused = true)]
async fn without_a_ready_endpoint_those_that_serve_while_they_terminate_are_used() {
    let service = Service::new().slice_lag(s(0.0)).min_sync_period(s(0.0));
    service.set("last", TERMINATING);
    assert_eq!(service.routes(), ["last"], "R34");
    service.set(
        "last",
        Endpoint {
            serving: false,
            terminating: true,
        },
    );
    assert!(service.routes().is_empty(), "it failed its readiness probe");
    service.set("last", TERMINATING);
    service.set("next", Endpoint::READY);
    assert_eq!(service.routes(), ["next"]);
    service.remove("next");
    service.remove("last");
    assert!(service.routes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_tells_its_service() {
    let service = Service::new().slice_lag(s(0.0)).min_sync_period(s(0.0));
    let pod = |name| {
        let node = Node::new(Pod::new(30, [Container::new("app")]));
        node.container("app", Simulated::exits_after(s(6.0)))
            .in_service(&service, name)
    };
    let (old, new) = (pod("old"), pod("new"));
    for (node, routes) in [(&old, &["old"][..]), (&new, &["new", "old"])] {
        node.start().await.unwrap();
        assert!(
            service.routes().len() < routes.len(),
            "started is not ready"
        );
        node.ready(s(1.0)).await.unwrap();
        assert_eq!(service.routes(), routes);
    }
    let stop = tokio::spawn(async move { old.stop(Cause::delete()).await });
    sleep(s(0.001)).await;
    assert_eq!(service.routes(), ["new"], "deleted");
    stop.await.unwrap();

    let stop = tokio::spawn(async move { new.stop(Cause::delete()).await });
    sleep(s(5.0)).await;
    assert_eq!(service.routes(), ["new"], "the last one, R34");
    stop.await.unwrap();
    assert!(service.routes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_its_probe_stops_is_sent_to_until_it_is_down() {
    let service = Service::new().slice_lag(s(0.0)).min_sync_period(s(0.0));
    let node = Node::new(Pod::new(30, [Container::new("app")]))
        .container("app", Simulated::exits_after(s(6.0)))
        .in_service(&service, "pod");
    node.start().await.unwrap();
    node.ready(s(1.0)).await.unwrap();
    let container = "app".to_owned();
    let stop = tokio::spawn(async move { node.stop(Cause::LivenessFailed { container }).await });
    sleep(s(5.9)).await;
    assert_eq!(service.routes(), ["pod"], "R29");
    stop.await.unwrap();
    assert!(service.routes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_of_late_counts_from_when_it_was() {
    let service = Service::new().slice_lag(s(1.0)).min_sync_period(s(0.0));
    let ready = |names: &[&str]| -> Vec<_> {
        let all = names
            .iter()
            .map(|name| ((*name).to_owned(), Endpoint::READY));
        all.collect()
    };
    service.replace(Instant::now(), ready(&["a", "b"]));
    sleep(s(5.0)).await;
    let since = Instant::now();
    sleep(s(0.7)).await;
    service.replace(since, ready(&["b"]));
    sleep(s(0.2)).await;
    assert_eq!(service.routes(), ["a", "b"]);
    sleep(s(0.1)).await;
    assert_eq!(service.routes(), ["b"]);
    // What is not later than the last change is taken for as old.
    service.replace(Instant::now(), ready(&["c"]));
    service.replace(since, ready(&["d"]));
    sleep(s(0.9)).await;
    assert_eq!(service.routes(), ["b"]);
    sleep(s(0.1)).await;
    assert_eq!(service.routes(), ["d"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_again_is_no_event() {
    let service = Service::new();
    service.set("old", Endpoint::READY);
    sleep(s(10.0)).await;
    service.set("old", Endpoint::READY);
    sleep(s(0.1)).await;
    service.remove("old");
    sleep(s(0.06)).await;
    assert!(
        service.routes().is_empty(),
        "the sync period was not used up"
    );
}
