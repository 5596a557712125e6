//! Which pods get new connections.

use prestop::kubelet::{Endpoint, Service};
use tokio::time::sleep;

use super::s;

const TERMINATING: Endpoint = Endpoint {
    serving: true,
    terminating: true,
};

#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_drops_an_endpoint_after_the_slices_lag() {
    let mut service = Service::new();
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
    let mut service = Service::new();
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
    let mut service = Service::new().slice_lag(s(0.0)).min_sync_period(s(0.0));
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
