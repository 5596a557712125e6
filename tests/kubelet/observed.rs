//! The table of what was seen on a real cluster, row by row, with real processes on real clocks.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use prestop::kubelet::{
    Cause, Container, Handler, HttpGet, Node, Pod, Port, Program, Simulated, Timeline, What,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep};

use super::machine::{Times, on_time};
use super::s;

fn app() -> Container {
    Container::new("app")
}

fn sh(script: &str) -> Handler {
    Handler::exec(["sh", "-c", script])
}

/// Ignores SIGTERM, or ends on it.
fn program(ignores: bool) -> Program {
    let script = match ignores {
        true => "trap '' TERM; echo up; exec sleep 600",
        false => "echo up; exec sleep 600",
    };
    Program::new("sh").arg("-c").arg(script).read_output()
}

/// The shell has set its trap when the test begins.
async fn started(pod: Pod, program: Program) -> Node {
    let node = Node::new(pod).container("app", program.clone());
    node.start().await.unwrap();
    program.said("up").await.unwrap();
    node
}

async fn stopped(pod: Pod, program: Program) -> Timeline {
    started(pod, program).await.stop(Cause::delete()).await
}

#[tokio::test]
async fn every_row_of_the_table() {
    tokio::join!(
        on_time(
            "preStop 4 s, grace 10, SIGTERM ignored",
            hook_in_the_grace_period
        ),
        on_time("preStop 60 s, grace 6", hook_longer_than_the_grace_period),
        on_time("preStop exits 7", hook_that_fails),
        on_time("postStart exits 9", post_start_that_fails),
        on_time("preStop httpGet answered after 3 s", http_hook),
        on_time("preStop httpGet answers 500", http_hook_500),
        on_time("preStop httpGet slower than the grace", slow_http_hook),
        on_time("preStop httpGet to a closed port", closed_port),
        on_time("preStop sleep 5", sleep_hook),
    );
}

async fn hook_in_the_grace_period() -> Times {
    let pod = Pod::new(10, [app().pre_stop(Handler::exec(["sleep", "4"]))]);
    let t = stopped(pod, program(true)).await;
    assert_eq!(t.exit_code("app"), Some(137), "{t}");
    assert!(!t.hook_failed(), "{t}");
    let times = [
        ("SIGTERM", t.signalled("app"), 4.0),
        ("SIGKILL", t.killed("app"), 10.0),
    ];
    Times(t, times.into())
}

async fn hook_longer_than_the_grace_period() -> Times {
    let pod = Pod::new(6, [app().pre_stop(Handler::exec(["sleep", "60"]))]);
    let t = stopped(pod, program(true)).await;
    assert!(t.hook_failed(), "{t}");
    let times = [
        ("SIGTERM", t.signalled("app"), 6.0),
        ("SIGKILL", t.killed("app"), 8.0),
    ];
    Times(t, times.into())
}

async fn hook_that_fails() -> Times {
    let pod = Pod::new(10, [app().pre_stop(sh("echo no disk >&2; exit 7"))]);
    let t = stopped(pod, program(false)).await;
    assert!(
        t.to_string()
            .contains("preStop hook FAILED: exited with 7: no disk"),
        "{t}"
    );
    assert_eq!(t.exit_code("app"), Some(143), "it ends normally\n{t}");
    let times = vec![("SIGTERM", t.signalled("app"), 0.0)];
    Times(t, times)
}

async fn post_start_that_fails() -> Times {
    let node = Node::new(Pod::new(4, [app().post_start(sh("sleep 0.5; exit 9"))]))
        .container("app", program(true));
    let error = node.start().await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("postStart hook of container app: exited with 9"),
        "{error}"
    );
    let t = error.timelines[1].clone();
    assert_eq!(
        t.timeout("app"),
        Some(s(4.0)),
        "the normal grace period\n{t}"
    );
    let times = vec![("SIGTERM", t.signalled("app"), 0.0)];
    Times(t, times)
}

type Slot<T> = Arc<Mutex<Option<T>>>;

/// A server where the pod's port 9090 is, and what its hook's request looked like.
async fn answers(after: Duration, status: u16) -> (u16, Slot<HeaderMap>, Slot<Instant>) {
    struct OnDrop(Slot<Instant>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(Instant::now());
        }
    }
    let (asked, ended) = (Slot::default(), Slot::default());
    let (seen, gone) = (Arc::clone(&asked), Arc::clone(&ended));
    let app = Router::new().route(
        "/prestop",
        get(move |headers: HeaderMap| async move {
            *seen.lock().unwrap() = Some(headers);
            let _end = OnDrop(gone);
            sleep(after).await;
            axum::http::StatusCode::from_u16(status).unwrap()
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(axum::serve(listener, app).into_future());
    (port, asked, ended)
}

fn http_pod(grace: u64) -> Pod {
    let text = format!(
        "{{ kind: Pod, spec: {{ terminationGracePeriodSeconds: {grace}, containers: [{{ name: app,
             lifecycle: {{ preStop: {{ httpGet: {{ path: /prestop, port: 9090,
                 httpHeaders: [{{ name: x-token, value: t }}] }} }} }} }}] }} }}"
    );
    Pod::from_yaml(&text).unwrap()
}

async fn http_hook() -> Times {
    let (port, asked, _) = answers(s(3.0), 200).await;
    let t = stopped(http_pod(10), program(false).port(9090, port)).await;
    assert!(!t.hook_failed(), "{t}");
    let asked = asked.lock().unwrap().take().expect("it was asked");
    assert!(
        asked["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("kube-lifecycle/")
    );
    assert_eq!(asked["x-token"], "t");
    let times = vec![("SIGTERM", t.signalled("app"), 3.0)];
    Times(t, times)
}

async fn http_hook_500() -> Times {
    let (port, asked, _) = answers(Duration::ZERO, 500).await;
    let t = stopped(http_pod(10), program(false).port(9090, port)).await;
    assert!(!t.hook_failed() && asked.lock().unwrap().is_some(), "{t}");
    assert!(t.to_string().contains("500 Internal Server Error"), "{t}");
    let times = vec![("SIGTERM", t.signalled("app"), 0.0)];
    Times(t, times)
}

async fn slow_http_hook() -> Times {
    let (port, _, ended) = answers(s(60.0), 200).await;
    let node = started(http_pod(5), program(true).port(9090, port)).await;
    let since = Instant::now();
    let t = node.stop(Cause::delete()).await;
    assert!(t.hook_failed(), "{t}");
    // The request goes on past the deadline, to the end of the container.
    let over = loop {
        if let Some(at) = *ended.lock().unwrap() {
            break at - since;
        }
        sleep(s(0.01)).await;
    };
    assert!(over >= s(7.0), "{over:?}\n{t}");
    let times = [
        ("SIGTERM", t.signalled("app"), 5.0),
        ("SIGKILL", t.killed("app"), 7.0),
    ];
    Times(t, times.into())
}

async fn closed_port() -> Times {
    // Bound, so that nobody else gets it, and not listening.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let t = stopped(http_pod(10), program(false).port(9090, port)).await;
    assert!(
        t.to_string()
            .contains(&format!("GET http://127.0.0.1:{port}/prestop: ")),
        "{t}"
    );
    let times = vec![("SIGTERM", t.signalled("app"), 0.0)];
    Times(t, times)
}

async fn sleep_hook() -> Times {
    let pod = Pod::new(30, [app().pre_stop(Handler::Sleep { seconds: 5 })]);
    let t = stopped(pod, program(false)).await;
    let times = vec![("SIGTERM", t.signalled("app"), 5.0)];
    Times(t, times)
}

#[tokio::test]
async fn a_post_start_hook_writes_a_file() {
    let file = std::env::temp_dir().join(format!("prestop-kubelet-{}", std::process::id()));
    let script = format!("echo started > {}", file.display());
    let pod = Pod::new(10, [app().post_start(sh(&script))]);
    let node = Node::new(pod).container("app", program(false));
    let timeline = node.start().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "started\n",
        "{timeline}"
    );
    std::fs::remove_file(&file).unwrap();
    node.stop(Cause::delete()).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said() {
    let node = Node::new(Pod::new(1, [app()])).container("app", Program::new("/no/such/program"));
    let error = node.start().await.unwrap_err().to_string();
    assert!(
        error.starts_with("container app did not start: /no/such/program: "),
        "{error}"
    );
}

#[tokio::test]
async fn readiness_is_waited_for_and_said_when_it_does_not_come() {
    let pod = |path: &str| {
        let text = format!(
            "{{ kind: Pod, spec: {{ containers: [{{ name: app, readinessProbe: {{ timeoutSeconds: 60, httpGet: {{ path: {path}, port: 9090 }} }} }}] }} }}"
        );
        Pod::from_yaml(&text).unwrap()
    };
    let (port, ..) = answers(Duration::ZERO, 200).await;
    let node = started(pod("/prestop"), program(false).port(9090, port)).await;
    node.ready(s(120.0)).await.unwrap();
    node.stop(Cause::delete()).await;
    let ended = node.ready(s(120.0)).await;
    assert_eq!(
        ended,
        Ok(()),
        "the server is still there, and answers for it"
    );
    let node = started(pod("/wrong"), program(false).port(9090, port)).await;
    let error = node.ready(s(0.2)).await.unwrap_err();
    assert!(
        error.contains("readiness probe of container app still fails") && error.contains("404"),
        "{error}"
    );
    node.stop(Cause::delete()).await;
    let error = node.ready(s(120.0)).await.unwrap_err();
    assert_eq!(error, "container app ended with 143 before it was ready");
}

/// `kubectl delete pod` took 31.3 s, of which the kubelet's own clock is 30: the kernel drops a SIGTERM for which PID 1
/// has no handler.
#[tokio::test(start_paused = true)]
async fn pid_1_without_a_handler_takes_all_of_the_grace_period() {
    let node = Node::new(Pod::new(30, [app()])).container("app", Simulated::ignores_the_signal());
    node.start().await.unwrap();
    let t = node.stop(Cause::delete()).await;
    assert_eq!(t.killed("app"), Some(s(30.0)), "{t}");
}

#[tokio::test]
async fn a_native_sidecar_is_told_only_after_the_container_is_gone() {
    let pod = Pod::new(120, [app()]).sidecar(Container::new("proxy"));
    let slow = Program::new("sh")
        .arg("-c")
        .arg("trap 'sleep 1; exit 0' TERM; echo up; while :; do sleep 0.1; done")
        .read_output();
    let node = Node::new(pod)
        .container("app", slow.clone())
        .container("proxy", program(false));
    node.start().await.unwrap();
    slow.said("up").await.unwrap();
    let t = node.stop(Cause::delete()).await;
    assert_eq!(t.exit_code("app"), Some(0), "{t}");
    assert!(t.signalled("proxy") >= t.exited("app"), "{t}");
    let order: Vec<_> = t
        .events
        .iter()
        .map(|e| (e.container.as_str(), e.what.to_string()))
        .collect();
    assert_eq!(
        order.last().unwrap().1,
        What::SandboxStopped.to_string(),
        "{order:?}"
    );
}

#[test]
fn a_hook_by_hand_is_the_hook_of_the_manifest() {
    let pod = http_pod(10);
    let Some(Handler::HttpGet(HttpGet { port, .. })) =
        &pod.container("app").unwrap().lifecycle.pre_stop
    else {
        panic!("{pod:?}")
    };
    assert_eq!(*port, Port::Number(9090));
}
