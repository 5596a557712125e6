//! What a real process as a container offers to its test.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use prestop::kubelet::{Cause, Container, Handler, Node, Pod, Program, Runtime, What};
use tokio::time::{sleep, timeout};

use super::s;

fn sh(script: &str) -> Program {
    Program::new("sh").arg("-c").arg(script).read_output()
}

async fn started(program: &Program, container: Container) -> Node {
    let node = Node::new(Pod::new(1, [container])).container("app", program.clone());
    node.start().await.unwrap();
    node
}

fn app() -> Container {
    Container::new("app")
}

#[tokio::test]
async fn a_port_that_the_program_chose_is_where_it_says() {
    let program = sh("sleep 0.3; echo starting; echo listening on 127.0.0.1:4711; exec sleep 600")
        .port(9090, 17)
        .port_from_output(8080, |line| {
            line.strip_prefix("listening on 127.0.0.1:")?.parse().ok()
        });
    let node = started(&program, app()).await;
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(program.here(8080).await, Ok((local, 4711).into()));
    assert_eq!(program.here(9090).await, Ok((local, 17).into()));
    assert_eq!(program.here(7).await, Ok((local, 7).into()), "not told");
    assert_eq!(program.said("start").await.unwrap(), "starting");
    assert_eq!(program.exit_code(), None);
    node.stop(Cause::delete()).await;
    assert_eq!(program.exit_code(), Some(143));
}

#[tokio::test]
async fn what_was_never_said_is_an_error_with_the_last_lines() {
    let program = sh("echo no port today").port_from_output(8080, |line| line.parse().ok());
    started(&program, app()).await;
    for error in [
        program.here(8080).await.unwrap_err(),
        program.said("listening").await.unwrap_err(),
        program.http_get_error().await,
    ] {
        assert!(
            error.contains("never said") && error.contains("no port today"),
            "{error}"
        );
    }
    let error = Program::new("sh").said("x").await.unwrap_err();
    assert!(error.contains("Program::read_output"), "{error}");
}

trait HttpGetError {
    async fn http_get_error(&self) -> String;
}

impl HttpGetError for Program {
    /// Of a probe of port 8080.
    async fn http_get_error(&self) -> String {
        let pod = "{ kind: Pod, spec: { containers: [{ name: app, readinessProbe: { httpGet: { port: 8080 } } }] } }";
        let pod = Pod::from_yaml(pod).unwrap();
        let get = pod.containers[0].readiness_probe.clone().unwrap();
        let error = self.http_get(&get.http_get.unwrap(), 8080).await;
        error.unwrap_err()
    }
}

#[tokio::test]
async fn its_output_is_there_when_it_has_ended_however_much_it_was() {
    let program = sh("seq 1 5000; printf 'no newline'");
    started(&program, app()).await;
    let lines = program.output().await;
    assert_eq!(lines.len(), 2_000, "the first and the last thousand");
    assert_eq!((&*lines[0], &*lines[999]), ("1", "1000"));
    assert_eq!((&*lines[1_998], &*lines[1_999]), ("5000", "no newline"));
    assert!(Program::new("sh").output().await.is_empty());
}

#[tokio::test]
async fn sigkill_takes_all_of_a_group_of_its_own() {
    let program = sh("trap '' TERM; sleep 600 & echo child $!; wait").own_group();
    let node = started(&program, app()).await;
    program.said("child ").await.unwrap();
    let timeline = node.stop(Cause::delete()).await;
    assert!(timeline.was_killed(), "{timeline}");
    // Its output is over when nobody is left who could write, and the child would write for ten minutes.
    let over = timeout(s(120.0), program.output()).await;
    assert!(over.is_ok(), "the child is left");
    assert_eq!(timeline.exit_code("app"), Some(137), "{timeline}");
}

#[tokio::test]
async fn the_input_is_empty_or_stays_open() {
    let empty = sh("cat; echo the end");
    started(&empty, app()).await;
    assert_eq!(empty.output().await, ["the end"]);

    let held = sh("echo up; exec cat").hold_stdin();
    let node = started(&held, app()).await;
    held.said("up").await.unwrap();
    // Time to do it wrong in; there is nothing to wait for.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(held.exit_code(), None);
    let timeline = node.stop(Cause::delete()).await;
    assert_eq!(timeline.exit_code("app"), Some(143), "{timeline}");
}

#[tokio::test]
async fn what_a_hook_says_is_in_the_timeline() {
    let hook = Handler::exec(["sh", "-c", "echo one; echo two; echo to the log >&2"]);
    let program = sh("exec sleep 600");
    let node = Node::new(Pod::new(120, [app().pre_stop(hook)])).container("app", program);
    node.start().await.unwrap();
    let timeline = node.stop(Cause::delete()).await;
    let said = timeline.events.iter().find_map(|e| match &e.what {
        What::HookEnded { said, .. } => Some(said.as_str()),
        _ => None,
    });
    assert_eq!(said, Some("one\ntwo"), "{timeline}");
    assert!(
        timeline
            .to_string()
            .contains("preStop hook ended: one | two\n"),
        "{timeline}"
    );
    assert!(timeline.took() < s(120.0), "{timeline}");
}
