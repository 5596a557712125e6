//! Whatever a container does, and why it is stopped.

use std::time::Duration;

use prestop::kubelet::{Cause, Container, Handler, Node, Pod, Simulated, StopSignal, What};
use proptest::prelude::*;

use super::s;

fn grace_of(cause: &Cause, own: u64) -> u64 {
    cause
        .grace_period(&Pod::new(own, [Container::new("app")]))
        .as_secs()
}

#[test]
fn the_grace_period_by_cause() {
    let ask = |seconds| Cause::Delete {
        grace_period: Some(seconds),
    };
    assert_eq!(grace_of(&Cause::delete(), 30), 30, "R1");
    assert_eq!(grace_of(&Cause::delete(), 0), 1, "R5");
    assert_eq!(grace_of(&ask(5), 30), 5);
    assert_eq!(grace_of(&ask(90), 30), 90, "a deletion may ask for more");
    assert_eq!(grace_of(&ask(-7), 30), 1, "R1");
    assert_eq!(grace_of(&ask(0), 30), 1, "R32");
    assert_eq!(grace_of(&Cause::ForceDelete, 30), 1);
    assert_eq!(grace_of(&Cause::HardEviction, 30), 1);
    let soft = |max_pod_grace_period| Cause::SoftEviction {
        max_pod_grace_period,
    };
    assert_eq!(
        grace_of(&soft(0), 30),
        1,
        "the default of evictionMaxPodGracePeriod"
    );
    assert_eq!(grace_of(&soft(20), 30), 20);
    assert_eq!(grace_of(&soft(90), 30), 30);
    assert_eq!(grace_of(&Cause::Preemption, 30), 30);
    assert_eq!(grace_of(&Cause::NodeShutdown { group: 90 }, 30), 30);
    assert!(Cause::delete().deletes() && !Cause::HardEviction.deletes());
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_that_fails_stops_its_container_pre_stop_hook_and_all() {
    let app = Container::new("app")
        .post_start(Handler::exec(["/started"]))
        .pre_stop(Handler::Sleep { seconds: 4 });
    let runtime = Simulated::ignores_the_signal().hook_fails_after(s(0.5));
    let node = Node::new(Pod::new(10, [app, Container::new("next")]))
        .container("app", runtime)
        .container("next", Simulated::default());
    let error = node.start().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "postStart hook of container app: exited with 1"
    );
    let [started, stopped] = &error.timelines[..] else {
        panic!("{error:?}")
    };
    assert!(started.hook_failed());
    assert!(
        !started.events.iter().any(|e| e.container == "next"),
        "{started}"
    );
    assert_eq!(stopped.signalled("app"), Some(s(4.0)), "{stopped}");
    assert_eq!(stopped.killed("app"), Some(s(10.0)), "{stopped}");
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_holds_the_next_container_back_without_a_bound() {
    let app = Container::new("app").post_start(Handler::exec(["/started"]));
    let node = Node::new(Pod::new(10, [app, Container::new("next")]))
        .container("app", Simulated::default().hook_takes(s(1_000.0)))
        .container("next", Simulated::default());
    let timeline = node.start().await.unwrap();
    let next = timeline
        .events
        .iter()
        .find(|e| e.container == "next")
        .unwrap();
    assert_eq!((next.at, &next.what), (s(1_000.0), &What::Started));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_during_its_hook_gets_no_signal() {
    // The program ends when its hook tells it to, as nginx does on `nginx -s quit`.
    let program = |_: StopSignal| async {
        tokio::time::sleep(s(3.0)).await;
        0
    };
    for (hook, fails) in [
        (Handler::Sleep { seconds: 5 }, false),
        (Handler::exec(["/wait"]), true),
    ] {
        let pod = Pod::new(30, [Container::new("app").pre_stop(hook)]);
        let node = Node::new(pod).container("app", Simulated::new(program).hook_hangs());
        node.start().await.unwrap();
        let t = node.stop(Cause::delete()).await;
        assert_eq!(t.exited("app"), Some(s(3.0)), "{t}");
        assert_eq!(t.signalled("app"), None, "{t}");
        // The exec hook dies with the container, and shows as failed although all went well.
        assert_eq!(t.hook_failed(), fails, "{t}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_hook_is_a_success_whatever_its_status() {
    let pod = |host| {
        let text = format!(
            "{{ kind: Pod, spec: {{ hostNetwork: {host}, containers: [{{ name: app,
                 lifecycle: {{ preStop: {{ httpGet: {{ path: /prestop, port: 9090 }} }} }} }}] }} }}"
        );
        Pod::from_yaml(&text).unwrap()
    };
    for (host_network, status, fails) in [
        (false, Ok(500), false),
        (false, Err("refused".to_owned()), true),
        (true, Ok(200), true),
    ] {
        let answer = move |_| std::future::ready(status.clone());
        let node =
            Node::new(pod(host_network)).container("app", Simulated::default().on_http(answer));
        node.start().await.unwrap();
        let t = node.stop(Cause::delete()).await;
        assert_eq!(t.hook_failed(), fails, "{t}");
        assert_eq!(t.signalled("app"), Some(Duration::ZERO), "{t}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tcp_hook_passes_the_api_and_fails_always() {
    let pod = Pod::from_yaml(
        "{ kind: Pod, spec: { containers: [{ name: app, lifecycle: { preStop: { tcpSocket: { port: 80 } } } }] } }",
    );
    let node = Node::new(pod.unwrap()).container("app", Simulated::default());
    node.start().await.unwrap();
    assert!(node.stop(Cause::delete()).await.hook_failed());
}

/// What a container may do.
fn behaviour() -> impl Strategy<Value = (u64, Option<u64>, Option<u64>)> {
    (
        1..120_u64,
        proptest::option::of(0..150_000_u64),
        proptest::option::of(0..150_000_u64),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// R18: nothing outlives G + 2 s and the part of a second that each truncation gives back.
    #[test]
    fn no_container_outlives_its_grace_period_by_more_than_the_minimum(
        (grace, hook, exit) in behaviour(), (_, side_hook, side_exit) in behaviour(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let simulated = |hook: Option<u64>, exit: Option<u64>| {
            let made = exit.map_or_else(Simulated::ignores_the_signal, |ms| Simulated::exits_after(Duration::from_millis(ms)));
            hook.map_or(made.clone().hook_hangs(), |ms| made.hook_takes(Duration::from_millis(ms)))
        };
        runtime.block_on(async {
            let hooked = |name| Container::new(name).pre_stop(Handler::exec(["/hook"]));
            let pod = Pod::new(grace, [hooked("app")]).sidecar(hooked("side"));
            let node = Node::new(pod).container("app", simulated(hook, exit)).container("side", simulated(side_hook, side_exit));
            node.start().await.unwrap();
            let t = node.stop(Cause::delete()).await;
            assert!(t.took() < Duration::from_secs(grace + 4), "{t}");
            for name in ["app", "side"] {
                let signalled = t.signalled(name).unwrap();
                assert!(signalled <= Duration::from_secs(grace + 1), "{t}");
                assert!(t.timeout(name).unwrap() >= Duration::from_secs(2), "{t}");
                assert_eq!(t.killed(name).is_some(), t.exit_code(name) == Some(137), "{t}");
            }
            assert!(t.signalled("side") >= t.exited("app") || t.signalled("side").unwrap() >= Duration::from_secs(grace), "{t}");
        });
    }
}
