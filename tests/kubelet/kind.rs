//! `examples/kind`: its Deployment as it is in the file, its program as `cargo test` has built it, stopped by the kubelet's
//! rules. What was seen on a real cluster, row by row, on this very pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use prestop::kubelet::{
    Cause, Endpoint, Handler, Node, Pod, Program, Service, Simulated, Timeline, What,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::machine::{Times, on_time};
use super::s;

const DEPLOYMENT: &str = include_str!("../../examples/kind/deployment.yaml");
const NAME: &str = "orders";
/// What a coordinator in a cluster takes by default, and so the length of the hook.
const LAME_DUCK: f64 = 5.0;

fn pod() -> Pod {
    Pod::from_yaml(DEPLOYMENT).unwrap()
}

/// The example's program; `cargo test` builds it before it runs a test.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("examples/kind");
    assert!(
        program.exists(),
        "{} is missing: `cargo build --example kind` makes it",
        program.display()
    );
    program
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The image, on this machine: `/app`, free ports, a place for the hooks' socket.
fn image() -> (Program, Scratch) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("prestop-kubelet-kind-{}-{number}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let mut program = Program::new(binary())
        .file("/app", binary())
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("PRESTOP_SOCKET", scratch.0.join("run/hook.sock"));
    for (variable, port) in [
        ("HTTP_ADDRESS", 8080),
        ("GRPC_ADDRESS", 50051),
        ("PROBE_ADDRESS", 9090),
    ] {
        let says = format!("{variable}=127.0.0.1:");
        program = program
            .env(variable, "127.0.0.1:0")
            .port_from_output(port, move |line| line.strip_prefix(&says)?.parse().ok());
    }
    (program, scratch)
}

async fn up(program: &Program) -> Node {
    let node = Node::new(pod()).container(NAME, program.clone());
    let started = node.start().await.unwrap();
    let post_start = Handler::exec(["/app", "prestop", "started"]).to_string();
    let says = started.to_string();
    assert!(
        says.contains(&post_start) && says.contains("postStart hook ended"),
        "{says}"
    );
    node.ready(s(120.0)).await.unwrap();
    node
}

/// The status of an answer; nothing when there is none.
async fn get(program: &Program, port: u16, path: &str) -> Option<u16> {
    let to = program.here(port).await.unwrap();
    let mut stream = TcpStream::connect(to).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Its hook takes the lame duck and comes out of the grace period (*seen*: hook 4 s, grace 10: SIGTERM at 4.05 s), SIGTERM
/// follows it at once (*seen*: 10-14 ms after the answer), and the end is long before SIGKILL.
#[tokio::test]
async fn the_real_program_by_the_real_manifest_on_a_real_clock() {
    on_time("examples/kind", stopped_for_real).await;
}

async fn stopped_for_real() -> Times {
    let (program, _scratch) = image();
    let node = up(&program).await;
    // Something to finish after the hook: a program that ends right behind it would take it with it, in a cluster, too.
    let slow = {
        let program = program.clone();
        tokio::spawn(async move { get(&program, 8080, "/slow?ms=9000").await })
    };
    assert_eq!(get(&program, 8080, "/").await, Some(200));
    let t = node.stop(Cause::delete()).await;
    println!("{t}");
    assert_eq!(slow.await.unwrap(), Some(200), "{t}");
    assert!(!t.hook_failed() && !t.was_killed(), "{t}");
    assert_eq!(t.exit_code(NAME), Some(0), "{t}");
    // The arithmetic, with the time that the hook took here: whole seconds of it are gone (R11).
    let called = at(&t, |what| matches!(what, What::HookCalled { .. }));
    let ended = at(&t, |what| matches!(what, What::HookEnded { .. }));
    let signalled = t.signalled(NAME).expect("it was told");
    let gone = 30 - t.timeout(NAME).expect("it was told").as_secs();
    // The kubelet looks at its clock a moment before the call, and between the end and the signal.
    let took = (ended - called).as_secs()..=signalled.as_secs();
    assert!(took.contains(&gone) && signalled >= ended, "{t}");
    assert!(t.kill_due(NAME) >= Some(s(30.0)), "{t}");
    let said = program.output().await;
    assert!(
        said.iter()
            .any(|line| line.contains("(preStop hook): clean")),
        "{said:#?}"
    );
    let times = [
        ("the hook's end", Some(ended), LAME_DUCK),
        ("SIGTERM", t.signalled(NAME), LAME_DUCK),
    ];
    Times(t, times.into())
}

#[track_caller]
fn at(t: &Timeline, is: impl Fn(&What) -> bool) -> Duration {
    let event = t.events.iter().find(|event| is(&event.what));
    event.unwrap_or_else(|| panic!("it did not happen\n{t}")).at
}

/// *Seen*: readiness probes go on during termination. A request that began before the stop and takes longer than the hook
/// is answered, and SIGTERM does not wait for it.
#[tokio::test]
async fn in_its_stop_it_is_alive_not_ready_and_answers() {
    let (program, _scratch) = image();
    let node = up(&program).await;
    let slow = {
        let program = program.clone();
        tokio::spawn(async move { get(&program, 8080, "/slow?ms=9000").await })
    };
    // Its answer comes after that of the slow request's head, on a connection that was made later.
    assert_eq!(get(&program, 8080, "/").await, Some(200));
    sleep(s(0.5)).await;
    let stop = tokio::spawn(async move { node.stop(Cause::delete()).await });
    while get(&program, 9090, "/readyz").await != Some(503) {
        assert!(!stop.is_finished(), "it was ready to its end");
        sleep(s(0.01)).await;
    }
    assert_eq!(get(&program, 9090, "/livez").await, Some(200));
    let t = stop.await.unwrap();
    assert_eq!(slow.await.unwrap(), Some(200), "{t}");
    assert_eq!(t.exit_code(NAME), Some(0), "{t}");
    assert!(t.signalled(NAME) < t.exited(NAME), "{t}");
}

/// What one row changes in the pod, what its container does then, and when it is told and killed: exactly.
struct Row {
    name: &'static str,
    grace: u64,
    pre_stop: Option<Handler>,
    container: Simulated,
    signalled: f64,
    kill_due: f64,
    hook_failed: bool,
}

#[tokio::test(start_paused = true)]
async fn the_table_on_its_pod_exactly() {
    let own = || pod().container(NAME).unwrap().lifecycle.pre_stop.clone();
    let deaf = Simulated::ignores_the_signal;
    let http =
        || Handler::HttpGet(serde_yaml_ng::from_str("{ path: /prestop, port: probes }").unwrap());
    let answers = |after: f64, status: Result<u16, String>| {
        deaf().on_http(move |_| {
            let status = status.clone();
            async move {
                sleep(s(after)).await;
                status
            }
        })
    };
    let row = |name, grace, pre_stop, container, (signalled, kill_due), hook_failed| Row {
        name,
        grace,
        pre_stop,
        container,
        signalled,
        kill_due,
        hook_failed,
    };
    let rows = [
        row(
            "as it is: 5 s of lame duck",
            30,
            own(),
            deaf().hook_takes(s(LAME_DUCK)),
            (5.0, 30.0),
            false,
        ),
        row(
            "preStop 4 s, grace 10, SIGTERM ignored",
            10,
            own(),
            deaf().hook_takes(s(4.0)),
            (4.0, 10.0),
            false,
        ),
        row(
            "preStop 60 s, grace 6",
            6,
            own(),
            deaf().hook_takes(s(60.0)),
            (6.0, 8.0),
            true,
        ),
        row(
            "preStop exits 7",
            30,
            own(),
            deaf().hook_fails_after(s(0.0)),
            (0.0, 30.0),
            true,
        ),
        row(
            "preStop httpGet answered after 3 s",
            30,
            Some(http()),
            answers(3.0, Ok(200)),
            (3.0, 30.0),
            false,
        ),
        row(
            "preStop httpGet answers 500",
            30,
            Some(http()),
            answers(0.0, Ok(500)),
            (0.0, 30.0),
            false,
        ),
        row(
            "preStop httpGet slower than the grace",
            5,
            Some(http()),
            answers(60.0, Ok(200)),
            (5.0, 7.0),
            true,
        ),
        row(
            "preStop httpGet to a closed port",
            30,
            Some(http()),
            answers(0.0, Err("refused".into())),
            (0.0, 30.0),
            true,
        ),
        row(
            "preStop sleep 5",
            30,
            Some(Handler::Sleep { seconds: 5 }),
            deaf(),
            (5.0, 30.0),
            false,
        ),
        row(
            "PID 1 without a handler",
            30,
            None,
            deaf(),
            (0.0, 30.0),
            false,
        ),
    ];
    for row in rows {
        let mut pod = pod();
        pod.termination_grace_period_seconds = row.grace;
        pod.containers[0].lifecycle.pre_stop = row.pre_stop;
        pod.containers[0].lifecycle.post_start = None;
        let node = Node::new(pod).container(NAME, row.container);
        node.start().await.unwrap();
        let t = node.stop(Cause::delete()).await;
        let name = row.name;
        assert_eq!(t.signalled(NAME), Some(s(row.signalled)), "{name}\n{t}");
        assert_eq!(t.killed(NAME), Some(s(row.kill_due)), "{name}\n{t}");
        assert_eq!(t.hook_failed(), row.hook_failed, "{name}\n{t}");
    }
}

/// *Seen*: an app that serves for more than five seconds after it was deleted loses none of the new connections that
/// kube-proxy still sends it, 0.9 to 1.1 s long.
#[tokio::test]
async fn its_service_sends_nobody_to_it_who_is_not_answered() {
    let (program, _scratch) = image();
    let service = Service::new();
    // The next pod of the rollout is there: nothing falls back to this one.
    service.set("next", Endpoint::READY);
    let node = up(&program).await.in_service(&service, "this");
    node.ready(s(120.0)).await.unwrap();
    let stop = tokio::spawn(async move { node.stop(Cause::delete()).await });
    let mut answers = BTreeMap::<_, u32>::new();
    // The stop may not have begun yet: then it is an endpoint until it has.
    loop {
        let routed = service.routes_to("this");
        if !routed && stop.is_finished() {
            break;
        }
        if routed {
            *answers.entry(get(&program, 8080, "/").await).or_default() += 1;
        }
        sleep(s(0.02)).await;
    }
    let t = stop.await.unwrap();
    let whole = answers.remove(&Some(200));
    assert!(whole > Some(0), "{t}");
    assert_eq!(
        answers,
        BTreeMap::new(),
        "others than {whole:?} of 200\n{t}"
    );
}
