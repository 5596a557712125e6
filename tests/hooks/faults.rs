//! Every way in which a preStop hook ends: what it says, with which exit code, and that it does end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use prestop::HookSocket;
use rustix::process::Signal;

use crate::process::*;

/// Begun by the hook, which waits for the lame duck and no longer; SIGTERM then changes nothing.
#[test]
fn a_hook_begins_the_stop_and_waits_for_the_lame_duck() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let own = |socket: &Path| Running::spawn(&mut own_binary(socket, &["prestop"]));
    for call in [hook, own] {
        let mut service = Running::service("serves", &socket);
        service.says("ready");
        let mut hook = call(&socket);
        service.says("lame_duck");
        assert!(hook.is_running(), "the lame duck is not over");
        service.send(Signal::TERM);
        drop(service.go_on());
        service.says("draining");
        hook.ended().says("the lame duck is over, draining after");
        service.send(Signal::TERM);
        let ended = service.ended().with(0);
        assert!(ended.stderr.is_empty(), "{ended:?}");
        assert!(!socket.exists(), "removed with the process");
    }
}

/// A hook that the test sees waiting.
struct Waiting(BufReader<UnixStream>);

impl Waiting {
    fn call(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        (&stream).write_all(b"prestop/1 pre-stop\n").unwrap();
        let mut call = Self(BufReader::new(stream));
        let heard = call.line();
        assert!(heard.starts_with("wait "), "{heard}");
        call
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

#[test]
fn a_second_hook_waits_too() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("serves", &socket);
    service.says("ready");
    let mut first = hook(&socket);
    service.says("pre_stop");
    let mut second = Waiting::call(&socket);
    assert!(first.is_running());
    drop(service.go_on());
    first.ended().says("the lame duck is over");
    let answer = second.line();
    assert!(answer.starts_with("done the lame duck is over"), "{answer}");
    service.ended().with(0);
}

#[test]
fn a_hook_after_sigterm_waits_too() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("serves", &socket);
    service.says("ready");
    service.send(Signal::TERM);
    service.says("lame_duck");
    let mut hook = Waiting::call(&socket);
    drop(service.go_on());
    let answer = hook.line();
    assert!(
        answer.starts_with("done the lame duck is over")
            && answer.contains("the stop had begun before (SIGTERM)"),
        "{answer}"
    );
    service.ended().with(0);
}

/// A stop without any lame duck ends in a millisecond; the answer is said before.
#[test]
fn the_answer_comes_before_the_end_of_the_process() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    for _ in 0..20 {
        let mut service = Running::service("does not serve long", &socket);
        service.says("ready");
        hook(&socket).ended().says("the lame duck is over");
        service.ended().with(0);
    }
}

/// A hook is heard, and its clock begins, while the service blocks every thread it has.
#[test]
fn a_blocked_service_hears_the_hook() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("blocks its only thread", &socket);
    service.says("blocked");
    let mut hook = hook(&socket);
    // The announcement came within five seconds, or the hook had given up.
    std::thread::park_timeout(Duration::from_secs(7));
    assert!(hook.is_running());
    drop(service.go_on());
    hook.ended().says("the lame duck is over");
    service.ended().with(0);
}

#[test]
fn no_process() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    hook(&socket)
        .ended()
        .failed(69, &["does not exist", "PRESTOP_SOCKET", "uid"]);
    std::fs::create_dir(socket.parent().unwrap()).unwrap();
    hook(&socket)
        .ended()
        .failed(69, &["hook.sock does not exist"]);
    Running::spawn(&mut own_binary(&socket, &["prestop"]))
        .ended()
        .failed(69, &["hook.sock does not exist"]);
}

#[test]
fn a_socket_of_a_process_that_was_killed() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("serves", &socket);
    service.says("ready");
    service.send(Signal::KILL);
    service.ended();
    assert!(socket.exists(), "left behind");
    hook(&socket)
        .ended()
        .failed(69, &["left behind by a process that has ended"]);

    // The next one takes the place, and the hook reaches it.
    let mut service = Running::service("does not serve long", &socket);
    service.says("ready");
    hook(&socket).ended().says("the lame duck is over");
    service.ended().with(0);
}

#[test]
fn a_second_process_at_the_same_place() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut first = Running::service("does not serve long", &socket);
    first.says("ready");
    let pid = format!("pid {}", first.child.id());
    Running::service("serves", &socket).ended_badly(&[
        "another process",
        &pid,
        "name another path in PRESTOP_SOCKET",
    ]);
    // The first one was not harmed.
    hook(&socket).ended().says("the lame duck is over");
    first.ended().with(0);
}

impl Running {
    /// The service could not be built.
    fn ended_badly(self, parts: &[&str]) {
        let ended = self.ended().with(1);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
}

#[test]
fn a_process_that_goes_away_meanwhile() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("dies when it is called", &socket);
    service.says("ready");
    let hook = hook(&socket);
    service.says("lame_duck");
    drop(service.go_on());
    hook.ended().failed(74, &["went away before it answered"]);
    service.ended().with(3);
}

/// SIGSTOP: the kernel still accepts connections for it.
#[test]
fn a_frozen_process() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let mut service = Running::service("serves", &socket);
    service.says("ready");
    service.send(Signal::STOP);
    hook(&socket).ended().failed(75, &["it is frozen"]);
    service.send(Signal::CONT);
    // What the kernel kept for it is a call like any other.
    service.says("lame_duck");
    // The answer to a call comes with the end of the lame duck, which does not come.
    let late = Running::spawn(&mut helper(&socket, ["hook", "--timeout", "3"]));
    service.send(Signal::STOP);
    let ended = late.ended();
    assert!(
        ended.stderr.contains("no answer from the process"),
        "{ended:?}"
    );
    ended.with(75);
    service.send(Signal::CONT);
    drop(service.go_on());
    service.ended().with(0);
}

/// Whoever is there: the hook ends.
#[test]
fn nonsense_at_the_other_end() {
    for (says, code, part) in [
        (&b""[..], 74, "went away before it answered"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            74,
            "no answer to a hook",
        ),
        (b"wait 100000\ndone", 74, "no answer to a hook"),
        (
            b"wait 18446744073709551615\nrefused by test\n",
            77,
            "refused: by test",
        ),
        (&[b'x'; 10_000], 74, "no answer to a hook"),
        (b"failed twice\n", 70, "twice"),
        (b"\xff\xfe\n", 74, "UTF-8"),
    ] {
        let scratch = Scratch::new();
        let socket = scratch.socket();
        let dir = socket.parent().unwrap();
        std::fs::create_dir(dir).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 19];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"prestop/1 pre-stop\n");
            // The hook may have heard enough.
            let _ = stream.write_all(says);
        });
        let error = HookSocket::at(&socket)
            .call_pre_stop(Some(Duration::from_secs(20)))
            .unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        fake.join().unwrap();
    }
}

#[test]
fn wrong_arguments() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    for args in [
        &["prestop", "stop"][..],
        &["prestop", "--timeout"],
        &["prestop", "started", "--timeout", "1s"],
    ] {
        let ended = Running::spawn(&mut own_binary(&socket, args))
            .ended()
            .with(2);
        assert!(
            ended
                .stderr
                .contains("prestop [started] [--timeout SECONDS]"),
            "{ended:?}"
        );
    }
    for args in [
        &["hook", "now"][..],
        &["hook", "--timeout", "1s"],
        &["nonsense"],
        &[],
    ] {
        let ended = Running::spawn(&mut helper(&socket, args)).ended().with(2);
        assert!(
            ended.stderr.contains("--help") || ended.stderr.contains("Usage"),
            "{ended:?}"
        );
    }
}
