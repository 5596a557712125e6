//! The postStart hook: it runs beside the entry point, possibly before it (R26).

use rustix::process::Signal;

use crate::process::*;

fn started(socket: &std::path::Path, seconds: &str) -> Running {
    Running::spawn(&mut helper(socket, ["started", "--timeout", seconds]))
}

#[test]
fn it_waits_until_the_service_is_ready() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("starts slowly", &socket);
    service.says("starting");
    let mut helper = started(&socket, "60");
    let mut own = Running::spawn(&mut own_binary(&socket, &["prestop", "started"]));
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert!(helper.is_running() && own.is_running());
    drop(service.go_on());
    helper.ended().says("ready after");
    own.ended().says("ready after");
    service.send(Signal::TERM);
    service.ended().with(0);
}

#[test]
fn it_waits_for_a_socket_that_is_not_there_yet() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut first = started(&socket, "60");
    let mut service = Running::service("opens its socket late", &socket);
    service.says("here");
    assert!(first.is_running());
    drop(service.go_on());
    first.ended().says("ready");
    service.says("ready");
    service.send(Signal::TERM);
    service.ended().with(0);
}

/// A stale socket is no socket yet: an emptyDir outlives a container that was killed.
#[test]
fn it_waits_for_a_process_where_one_was_killed() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut killed = Running::service("serves", &socket);
    killed.says("ready");
    killed.send(Signal::KILL);
    killed.ended();
    let first = started(&socket, "60");
    let mut service = Running::service("serves", &socket);
    service.says("ready");
    first.ended().says("ready");
    service.send(Signal::TERM);
    service.ended().with(0);
}

#[test]
fn it_fails_when_the_start_fails() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("fails to start", &socket);
    service.says("starting");
    let mut first = started(&socket, "60");
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert!(first.is_running());
    drop(service.go_on());
    let why = "not ready, and will not be: start failed: on_started hook \"open the database\": FAILED: no route to it";
    first.ended().failed(70, &[why]);
    service.ended().with(70);
}

#[test]
fn it_ends_at_its_bound() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    started(&socket, "1")
        .ended()
        .failed(69, &["gave up after 1.", "does not exist"]);
    let mut service = Running::service("starts slowly", &socket);
    service.says("starting");
    started(&socket, "1")
        .ended()
        .failed(75, &["no answer from the process", "after 1."]);
    drop(service.go_on());
    service.says("ready");
    service.send(Signal::TERM);
    service.ended().with(0);
}

/// A preStop hook comes after a postStart hook that failed (R26): it ends the start.
#[test]
fn a_pre_stop_hook_ends_a_start() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("starts slowly", &socket);
    service.says("starting");
    hook(&socket).ended().says("the lame duck is over");
    service.ended().with(0);
}
