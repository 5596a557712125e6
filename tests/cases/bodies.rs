//! Response bodies that go slowly, or nowhere.

use futures::FutureExt;
use prestop::{Phase, WorkKind};
use tokio::net::TcpSocket;

use crate::app::BIG;
use crate::case::{Case, Ends, Got, HANGS, Path, ends};
use crate::harness::{World, late, settle, whole_or};
use crate::support::Http1;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "response body never read by the client",
            "has all of the drain",
            |w| never_read(w).boxed(),
        )
        .socket_is_cut(WorkKind::Request, "GET /big")
        .alone(HANGS),
        Case::new("response body read late", "is sent whole", |w| {
            read_late(w).boxed()
        }),
        Case::new("endless body", "is sent on", |w| endless(w).boxed())
            .request_is_cut("GET /endless"),
        Case::new(
            "server-sent events that their handler never ends",
            "are ended after a whole event",
            |w| events(w).boxed(),
        )
        .alone(HANGS),
        Case::new(
            "client resets in the middle of a body",
            "the request ends with its client",
            |w| resets(w).boxed(),
        )
        .ours(ends(Got::Closed, Ends::AtOnce))
        .alone(ends(Got::Closed, Ends::AtOnce)),
    ]
}

async fn asked(world: &World, path: &str) -> Http1 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(100_000).unwrap();
    let mut client = Http1::over(socket.connect(world.addr).await.unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client.send(&request).await;
    world.will_be_cut(client.local(), request.len());
    client
}

async fn never_read(world: World) -> Got {
    let mut client = asked(&world, "/big").await;
    world.stage.entered(1).await;
    world.stop().await;
    // Reading would let it finish: the end is seen once the server's socket is gone.
    match world.path {
        Path::Alone => {
            for _ in 0..4 {
                late().await;
            }
        }
        Path::Own | Path::Stock | Path::Tonic => world.reached(Phase::Stopping).await,
    }
    settle().await;
    client.drain().await;
    assert!(client.buf.len() < BIG, "the buffers hold all of it");
    Got::Cut
}

async fn read_late(world: World) -> Got {
    let mut client = asked(&world, "/big").await;
    world.stage.entered(1).await;
    world.stop().await;
    late().await;
    whole_or(
        Got::Cut,
        world.answered(&mut client, &vec![b'x'; BIG]).await,
    )
}

async fn endless(world: World) -> Got {
    let mut client = asked(&world, "/endless").await;
    client.head().await;
    world.stop().await;
    let mut chunks = 0;
    while client.chunk().await.is_ok() {
        chunks += 1;
    }
    assert!(chunks > 20, "sent on for the whole drain: {chunks}");
    Got::Cut
}

async fn events(world: World) -> Got {
    let mut client = world.http1().await;
    client.send_get("/events").await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap(), b"data: 1\n\n");
    world.stop().await;
    let mut rest = Vec::new();
    loop {
        match client.chunk().await {
            Ok(end) if end.is_empty() => break,
            Ok(chunk) => rest.extend(chunk),
            Err(_) => return Got::Cut,
        }
    }
    assert_eq!(rest, b": stopping\n\n");
    world.whole(1);
    Got::Whole
}

async fn resets(world: World) -> Got {
    let mut client = asked(&world, "/endless").await;
    client.bytes(5_000).await.unwrap();
    // Some bytes that are never read.
    settle().await;
    world.stop().await;
    // Makes the close a reset.
    drop(client);
    Got::Closed
}
