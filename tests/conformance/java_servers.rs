//! The servers that `.ci/nacos` and `.ci/eureka` build: that they come up, and that none outlives its parent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fixture::on_path;
use crate::raw;
use crate::server::{BOUND, START, free_ports, or_skip};

const POLL: Duration = Duration::from_millis(20);

/// How one of them is started: on this port of 127.0.0.1, with what it writes in this directory.
pub fn command(program: &Path, dir: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.arg(port.to_string()).arg(dir);
    command
}

/// Ports that Nacos takes beside its own: gRPC for clients and for servers, Raft.
pub const BESIDE_NACOS: &[i16] = &[1000, 1001, -1000];

async fn comes_up_and_ends_with_its_parents_pipe(name: &str, beside: &[i16], ready: &str) {
    let Some(program) = or_skip(on_path(name), name) else {
        return;
    };
    let dir = std::env::temp_dir().join(format!("prestop-{name}-{:x}", fastrand::u64(..)));
    std::fs::create_dir(&dir).unwrap();
    let begun = Instant::now();
    let (mut child, at) = loop {
        assert!(begun.elapsed() < START, "{name} is not up");
        let port = free_ports(1, beside)[0];
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut child = command(&program, &dir, port)
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if answers(at, ready, &mut child).await {
            break (child, at);
        }
        // Its port may have been taken meanwhile.
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::create_dir_all(&dir).unwrap();
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    println!(
        "{name} was up after {:.1} s, {}",
        begun.elapsed().as_secs_f64(),
        resident.unwrap()
    );

    // As when this process is killed.
    drop(child.stdin.take());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < BOUND, "{name} goes on without its parent");
        sleep(POLL).await;
    }
    assert!(raw::ask(at, &format!("GET {ready}"), "").await.is_err());
    assert!(!dir.exists(), "{} is left", dir.display());
}

/// Whether it does before it ends.
async fn answers(at: SocketAddr, ready: &str, child: &mut Child) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < BOUND && child.try_wait().unwrap().is_none() {
        let answer = raw::ask(at, &format!("GET {ready}"), "").await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return true;
        }
        sleep(POLL).await;
    }
    false
}

#[tokio::test]
async fn nacos_comes_up_and_ends_with_its_parents_pipe() {
    comes_up_and_ends_with_its_parents_pipe(
        "nacos-server",
        BESIDE_NACOS,
        "/nacos/v3/admin/core/state/readiness",
    )
    .await;
}

#[tokio::test]
async fn eureka_comes_up_and_ends_with_its_parents_pipe() {
    comes_up_and_ends_with_its_parents_pipe("eureka-server", &[], "/eureka/apps").await;
}
