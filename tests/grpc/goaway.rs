//! GOAWAY in two steps, as frames: the first names no stream and a PING follows, so that calls on their way are served;
//! the second, after its answer, names the last one.

use prestop::Phase;

use crate::echo::{send_unary, stock};
use crate::support::raw_http2::{GOAWAY, HEADERS, Http2, PING};
use crate::support::*;

const ALL: u32 = 0x7fff_ffff;
/// Longer than any machine needs to send a call.
const LINGER: std::time::Duration = std::time::Duration::from_secs(4);

/// Reads until this stream has ended by trailers, and answers no PING.
async fn whole(client: &mut Http2, stream: u32) {
    loop {
        let frame = client.frame().await.expect("a frame of the answer");
        if frame.stream == stream && frame.ends_stream() {
            assert_eq!(frame.kind, HEADERS, "trailers: {frame:?}");
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_is_told_in_two_steps_and_what_comes_between_is_served() {
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Http2::connect(server.addr).await;
    send_unary(&mut client, 1).await;
    stage.entered(1).await;
    server.stop_to(Phase::Draining).await;

    let first = client.next(GOAWAY).await;
    assert_eq!(first.last_stream(), ALL, "no stream is turned away");
    let ping = client.next(PING).await;
    assert!(ping.is_ping());
    // It had not seen the GOAWAY when it sent this.
    send_unary(&mut client, 3).await;
    stage.entered(2).await;
    client.pong(&ping).await;
    let second = client.next(GOAWAY).await;
    assert_eq!(second.last_stream(), 3, "the last that is served");

    assert!(!server.is_stopped());
    stage.open();
    // Either may end first.
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let frame = client.frame().await.expect("both are answered");
        if frame.ends_stream() {
            assert_eq!(frame.kind, HEADERS, "trailers: {frame:?}");
            ended.push(frame.stream);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 3]);
    client.drain().await;
    assert_eq!(server.clean().await.requests.finished_while_stopping, 2);
}

/// Stock tonic has one signal for "tell them" and "accept no more": `draining()`. An idle connection is told after the
/// linger, and a call that it sends before is served.
#[tokio::test]
async fn an_idle_connection_is_told_after_the_linger() {
    let (server, stage) = stock(builder().linger(LINGER).build().unwrap()).await;
    stage.open();
    let mut client = Http2::connect(server.addr).await;
    send_unary(&mut client, 1).await;
    whole(&mut client, 1).await;
    server.stop_to(Phase::Draining).await;
    send_unary(&mut client, 3).await;
    whole(&mut client, 3).await;
    assert_eq!(client.next(GOAWAY).await.last_stream(), ALL);
    let ping = client.next(PING).await;
    client.pong(&ping).await;
    assert_eq!(client.next(GOAWAY).await.last_stream(), 3);
    client.drain().await;
    server.clean().await;
}
