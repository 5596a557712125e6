//! V1 to V15: the arithmetic of `killContainer`, exact on paused time.

use prestop::kubelet::{Cause, Container, Handler, Node, Pod, Simulated, Timeline};

use super::s;

fn sleep(seconds: u64) -> Handler {
    Handler::Sleep { seconds }
}

fn exec() -> Handler {
    Handler::exec(["/hook"])
}

fn app() -> Container {
    Container::new("app")
}

/// One container, which ignores the stop signal.
async fn one(pod: Pod, runtime: Simulated, cause: Cause) -> Timeline {
    let node = Node::new(pod).container("app", runtime);
    node.start().await.unwrap();
    let timeline = node.stop(cause).await;
    println!("{timeline}");
    timeline
}

/// When it is told, how long the runtime waits, and when SIGKILL comes.
#[track_caller]
fn is(timeline: &Timeline, container: &str, signalled: f64, wait: f64, kill: f64) {
    assert_eq!(
        timeline.signalled(container),
        Some(s(signalled)),
        "SIGTERM\n{timeline}"
    );
    assert_eq!(
        timeline.timeout(container),
        Some(s(wait)),
        "the runtime's timeout\n{timeline}"
    );
    assert_eq!(
        timeline.kill_due(container),
        Some(s(kill)),
        "SIGKILL\n{timeline}"
    );
}

#[tokio::test(start_paused = true)]
async fn v1_without_a_hook_the_signal_comes_at_once() {
    let t = one(
        Pod::new(30, [app()]),
        Simulated::ignores_the_signal(),
        Cause::delete(),
    )
    .await;
    is(&t, "app", 0.0, 30.0, 30.0);
    assert_eq!(t.killed("app"), Some(s(30.0)));
    assert_eq!(t.exit_code("app"), Some(137));
}

#[tokio::test(start_paused = true)]
async fn v2_a_hooks_time_comes_out_of_the_grace_period() {
    let pod = Pod::new(30, [app().pre_stop(sleep(10))]);
    let t = one(pod, Simulated::ignores_the_signal(), Cause::delete()).await;
    is(&t, "app", 10.0, 20.0, 30.0);
    assert!(!t.hook_failed());
}

#[tokio::test(start_paused = true)]
async fn v3_a_hook_that_hangs_leaves_two_seconds() {
    let pod = Pod::new(30, [app().pre_stop(exec())]);
    let t = one(
        pod,
        Simulated::ignores_the_signal().hook_hangs(),
        Cause::delete(),
    )
    .await;
    is(&t, "app", 30.0, 2.0, 32.0);
    assert!(t.hook_failed());
}

#[tokio::test(start_paused = true)]
async fn v4_a_hook_that_fails_is_followed_by_the_signal_at_once() {
    let pod = Pod::new(30, [app().pre_stop(exec())]);
    let runtime = Simulated::ignores_the_signal().hook_fails_after(s(0.2));
    let t = one(pod, runtime, Cause::delete()).await;
    is(&t, "app", 0.2, 30.0, 30.2);
    assert!(t.hook_failed());
}

#[tokio::test(start_paused = true)]
async fn v5_what_is_over_a_whole_second_is_given_back() {
    let pod = Pod::new(30, [app().pre_stop(exec())]);
    let runtime = Simulated::ignores_the_signal().hook_takes(s(9.9));
    is(
        &one(pod, runtime, Cause::delete()).await,
        "app",
        9.9,
        21.0,
        30.9,
    );
}

#[tokio::test(start_paused = true)]
async fn v6_the_minimum_of_two_seconds_holds_after_a_long_hook() {
    let pod = Pod::new(30, [app().pre_stop(exec())]);
    let runtime = Simulated::ignores_the_signal().hook_takes(s(29.5));
    is(
        &one(pod, runtime, Cause::delete()).await,
        "app",
        29.5,
        2.0,
        31.5,
    );
}

#[tokio::test(start_paused = true)]
async fn v7_and_v9_one_second_for_the_hook_of_a_forced_deletion_or_a_hard_eviction() {
    for cause in [Cause::ForceDelete, Cause::HardEviction] {
        let pod = Pod::new(30, [app().pre_stop(sleep(10))]);
        let t = one(pod, Simulated::ignores_the_signal(), cause).await;
        is(&t, "app", 1.0, 2.0, 3.0);
    }
}

#[tokio::test(start_paused = true)]
async fn v8_two_seconds_for_a_forced_deletion_without_a_hook() {
    let t = one(
        Pod::new(30, [app()]),
        Simulated::ignores_the_signal(),
        Cause::ForceDelete,
    )
    .await;
    is(&t, "app", 0.0, 2.0, 2.0);
}

#[tokio::test(start_paused = true)]
async fn v10_a_node_shutdown_gives_its_groups_seconds() {
    let pod = Pod::new(60, [app().pre_stop(sleep(5))]);
    let cause = Cause::NodeShutdown { group: 20 };
    is(
        &one(pod, Simulated::ignores_the_signal(), cause).await,
        "app",
        5.0,
        15.0,
        20.0,
    );
}

#[tokio::test(start_paused = true)]
async fn v11_a_probe_has_a_grace_period_of_its_own() {
    let pod = Pod::from_yaml(
        "{ kind: Pod, metadata: { name: p }, spec: { terminationGracePeriodSeconds: 30, containers: [
             { name: app,
               livenessProbe: { httpGet: { port: 80 }, terminationGracePeriodSeconds: 5 },
               lifecycle: { preStop: { sleep: { seconds: 3 } } } },
             { name: other } ] } }",
    )
    .unwrap();
    let node = Node::new(pod)
        .container("app", Simulated::ignores_the_signal())
        .container("other", Simulated::default());
    node.start().await.unwrap();
    let cause = Cause::LivenessFailed {
        container: "app".to_owned(),
    };
    let t = node.stop(cause).await;
    is(&t, "app", 3.0, 2.0, 5.0);
    assert_eq!(t.signalled("other"), None, "only the one is stopped\n{t}");
}

async fn with_sidecars(pod: Pod, runtimes: Vec<(&str, Simulated)>) -> Timeline {
    let mut node = Node::new(pod);
    for (name, runtime) in runtimes {
        node = node.container(name, runtime);
    }
    node.start().await.unwrap();
    let timeline = node.stop(Cause::delete()).await;
    println!("{timeline}");
    timeline
}

#[tokio::test(start_paused = true)]
async fn v12_a_sidecars_hook_starts_with_the_others_and_its_signal_waits() {
    let pod = Pod::new(30, [app()]).sidecar(Container::new("proxy").pre_stop(sleep(3)));
    let t = with_sidecars(
        pod,
        vec![
            ("app", Simulated::exits_after(s(10.0))),
            ("proxy", Simulated::ignores_the_signal()),
        ],
    )
    .await;
    is(&t, "app", 0.0, 30.0, 30.0);
    is(&t, "proxy", 10.0, 20.0, 30.0);
    assert_eq!(t.exited("app"), Some(s(10.0)));
}

#[tokio::test(start_paused = true)]
async fn v13_a_sidecar_behind_a_container_that_ignores_the_signal_gets_two_seconds() {
    let pod = Pod::new(30, [app()]).sidecar(Container::new("proxy"));
    let t = with_sidecars(
        pod,
        vec![
            ("app", Simulated::ignores_the_signal()),
            ("proxy", Simulated::ignores_the_signal()),
        ],
    )
    .await;
    is(&t, "app", 0.0, 30.0, 30.0);
    is(&t, "proxy", 30.0, 2.0, 32.0);
}

#[tokio::test(start_paused = true)]
async fn v14_sidecars_are_told_in_reverse_order() {
    let pod = Pod::new(30, [app().pre_stop(sleep(5))])
        .sidecar(Container::new("s1"))
        .sidecar(Container::new("s2"));
    let t = with_sidecars(
        pod,
        vec![
            ("app", Simulated::exits_after(s(5.0))),
            ("s1", Simulated::exits_after(s(1.0))),
            ("s2", Simulated::exits_after(s(2.0))),
        ],
    )
    .await;
    is(&t, "app", 5.0, 25.0, 30.0);
    is(&t, "s2", 10.0, 20.0, 30.0);
    is(&t, "s1", 12.0, 18.0, 30.0);
    assert_eq!(t.took(), s(13.0));
}

#[tokio::test(start_paused = true)]
async fn v15_parts_of_seconds_are_given_back_to_each() {
    let pod = Pod::new(30, [app().pre_stop(exec())]).sidecar(Container::new("proxy"));
    let t = with_sidecars(
        pod,
        vec![
            ("app", Simulated::exits_after(s(8.7)).hook_takes(s(20.7))),
            ("proxy", Simulated::ignores_the_signal()),
        ],
    )
    .await;
    is(&t, "app", 20.7, 10.0, 30.7);
    is(&t, "proxy", 29.4, 2.0, 31.4);
}
