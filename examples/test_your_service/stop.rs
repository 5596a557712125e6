//! The test. In a crate of your own it is `tests/stop.rs`, with `#[tokio::test]` over the function and
//! `env!("CARGO_BIN_EXE_orders")` in place of `current_exe`.

use std::net::SocketAddr;
use std::time::Duration;

use prestop::kubelet::{Cause, Endpoint, Node, Pod, Program, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Problem;

const DEPLOYMENT: &str = include_str!("deployment.yaml");

/// What is in the image, with free ports in place of the manifest's.
fn image() -> Result<Program, Problem> {
    let port = |line: &str, variable| line.strip_prefix(variable)?.parse().ok();
    Ok(Program::new(std::env::current_exe()?)
        .arg("service")
        .env("HTTP_ADDRESS", "127.0.0.1:0")
        .env("PROBE_ADDRESS", "127.0.0.1:0")
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1") // as in every container of a cluster
        .port_from_output(8080, move |line| port(line, "HTTP_ADDRESS=127.0.0.1:"))
        .port_from_output(9090, move |line| port(line, "PROBE_ADDRESS=127.0.0.1:")))
}

pub(crate) async fn a_deleted_pod_loses_no_request() -> Result<(), Problem> {
    let program = image()?;
    let service = Service::new();
    let node = Node::new(Pod::from_yaml(DEPLOYMENT)?)
        .container("orders", program.clone())
        .in_service(&service, "old");
    node.start().await?;
    node.ready(Duration::from_secs(60)).await?;
    while !service.routes_to("old") {
        sleep(Duration::from_millis(10)).await;
    }
    service.set("new", Endpoint::READY); // the next pod of the rollout
    let address = program.here(8080).await?;
    let slow = tokio::spawn(get(address, "/slow"));
    let load = tokio::spawn(async move {
        let mut answered = 0;
        while service.routes_to("old") {
            get(address, "/").await?; // by a new connection each, for as long as they are sent here
            answered += 1;
        }
        Ok::<u32, Problem>(answered)
    });
    let timeline = node.stop(Cause::delete()).await;
    println!("{timeline}\n{} quick requests answered", load.await??);
    slow.await??;
    assert_eq!(timeline.exit_code("orders"), Some(0));
    assert!(!timeline.was_killed());
    Ok(())
}

/// Any HTTP client will do that retries nothing.
async fn get(address: SocketAddr, path: &str) -> Result<(), Problem> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with('\n') {
        true => Ok(()),
        false => Err(format!("{path}: {answer:?}").into()),
    }
}
