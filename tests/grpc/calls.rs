//! Calls that are in flight when the stop begins end as they would have (S3).

use bytes::Bytes;
use prestop::{LateRequests, Phase, WorkKind};
use tonic::{Code, Request};

use crate::echo::{Client, channel, messages, next, stock};
use crate::support::*;

const HELLO: Bytes = Bytes::from_static(b"hello");

#[tokio::test]
async fn a_unary_call_is_answered_in_the_drain() {
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Client::connect(&server).await;
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(1).await;
    server.stop_to_told().await;
    stage.open();
    assert_eq!(call.await.unwrap().unwrap(), HELLO);
    assert_eq!(server.clean().await.requests.finished_while_stopping, 1);
}

#[tokio::test]
async fn a_client_stream_is_read_to_its_end_in_the_drain() {
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Client::connect(&server).await;
    let (parts, stream) = messages();
    parts.send(Bytes::from_static(b"one ")).unwrap();
    let call = tokio::spawn(async move { client.client_streaming(stream).await });
    stage.entered(1).await;
    server.stop_to_told().await;
    for part in [&b"two "[..], b"three"] {
        parts.send(Bytes::from_static(part)).unwrap();
    }
    drop(parts);
    assert_eq!(call.await.unwrap().unwrap(), &b"one two three"[..]);
    assert_eq!(server.clean().await.requests.finished_while_stopping, 1);
}

#[tokio::test]
async fn a_server_stream_ends_with_its_status_in_the_drain() {
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Client::connect(&server).await;
    let mut stream = client.server_streaming(HELLO).await.unwrap();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    server.stop_to_told().await;
    stage.open();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    assert_eq!(next(&mut stream).await, None, "OK, with trailers");
    assert_eq!(server.clean().await.requests.finished_while_stopping, 1);
}

#[tokio::test]
async fn a_bidirectional_stream_goes_on_in_the_drain_until_its_client_ends_it() {
    let (server, _stage) = stock(builder().build().unwrap()).await;
    let mut client = Client::connect(&server).await;
    let (say, stream) = messages();
    let mut echoes = client.bidi(stream).await.unwrap();
    say.send(HELLO).unwrap();
    assert_eq!(next(&mut echoes).await, Some(HELLO));
    server.stop_to_told().await;
    for _ in 0..3 {
        say.send(HELLO).unwrap();
        assert_eq!(next(&mut echoes).await, Some(HELLO));
    }
    drop(say);
    assert_eq!(next(&mut echoes).await, None, "OK, with trailers");
    assert_eq!(server.clean().await.requests.finished_while_stopping, 1);
}

/// Nobody is told to leave before the drain: all kinds of calls begin and end in the lame duck.
#[tokio::test]
async fn every_kind_of_call_is_served_in_the_lame_duck() {
    let lame_duck = std::time::Duration::from_secs(10);
    let (server, stage) = stock(builder().lame_duck(lame_duck).build().unwrap()).await;
    stage.open();
    server.stop_to(Phase::LameDuck).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(client.unary(Request::new(HELLO)).await.unwrap(), HELLO);
    let parts = futures::stream::iter([HELLO, HELLO]);
    assert_eq!(client.client_streaming(parts).await.unwrap().len(), 10);
    let mut stream = client.server_streaming(HELLO).await.unwrap();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    assert_eq!(next(&mut stream).await, Some(HELLO));
    assert_eq!(next(&mut stream).await, None);
    let (say, stream) = messages();
    let mut echoes = client.bidi(stream).await.unwrap();
    say.send(HELLO).unwrap();
    assert_eq!(next(&mut echoes).await, Some(HELLO));
    drop(say);
    assert_eq!(next(&mut echoes).await, None);
    assert_eq!(server.h.phase(), Phase::LameDuck);
    server.h.end_lame_duck();
    assert_eq!(server.clean().await.requests.finished, 4);
}

#[tokio::test]
async fn a_call_that_never_ends_is_cut_at_the_deadline_and_named() {
    let (server, stage) = stock(builder().build().unwrap()).await;
    let mut client = Client::connect(&server).await;
    let mut stream = client.server_streaming(HELLO).await.unwrap();
    assert_eq!(next(&mut stream).await, Some(HELLO));
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(2).await;
    server.stop_to_told().await;
    server.h.force();
    let cut = call.await.unwrap().unwrap_err();
    assert_ne!(cut.code(), Code::Ok);
    within("the cut", stream.message()).await.unwrap_err();
    let report = server.report().await;
    assert_eq!(report.exit_code(), 72, "{report}");
    for route in ["POST /test.Echo/Server", "POST /test.Echo/Unary"] {
        let named = |s: &&prestop::Straggler| s.kind == WorkKind::Request && s.what == route;
        assert_eq!(
            report.stragglers.iter().filter(named).count(),
            1,
            "{report}"
        );
    }
}

/// By choice a call that comes in the drain is refused with what every client takes for "ask elsewhere"; those in flight
/// finish.
#[tokio::test]
async fn a_late_call_is_unavailable_by_choice() {
    // Connections are told GOAWAY when the linger is over; until then they are live.
    let c = builder()
        .linger(std::time::Duration::from_secs(10))
        .late_requests(LateRequests::Refuse)
        .build()
        .unwrap();
    let (server, stage) = stock(c).await;
    let channel = channel(&server).await;
    let mut client = Client::over(channel.clone());
    let call = tokio::spawn(async move { client.unary(Request::new(HELLO)).await });
    stage.entered(1).await;
    server.stop_to(Phase::Draining).await;

    let mut late = Client::over(channel);
    let refused = late.unary(Request::new(HELLO)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(!refused.message().is_empty(), "{refused}");
    let refused = late.server_streaming(HELLO).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    stage.open();
    assert_eq!(call.await.unwrap().unwrap(), HELLO);
    // An idle connection would have the rest of its linger.
    drop(late);
    let report = server.clean().await;
    assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
    assert_eq!(report.requests.refused, 2, "{report}");
}
