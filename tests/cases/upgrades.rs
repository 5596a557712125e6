//! Sockets that have left HTTP: WebSockets and tunnels.

use std::sync::atomic::Ordering;

use futures::FutureExt;
use prestop::WorkKind;

use crate::case::{Case, Ends, Got, Promise, ends};
use crate::harness::{World, late, settle, whole_or};
use crate::support::Http1;

const BY_THE_EXIT: Promise = ends(Got::Cut, Ends::AtOnce);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("WebSocket, idle", "has all of the drain", |w| {
            idle(w, WS).boxed()
        })
        .socket_is_cut(WorkKind::Upgrade, "GET /ws")
        .alone(BY_THE_EXIT),
        Case::new(
            "WebSocket, busy, closed by its client in the drain",
            "every message is answered",
            |w| busy(w, WS).boxed(),
        )
        .alone(BY_THE_EXIT),
        Case::new(
            "WebSocket whose handler dropped it and works on under a guard",
            "the work is done",
            |w| works_on(w, "/export?guarded").boxed(),
        )
        .alone(BY_THE_EXIT),
        Case::new(
            "WebSocket whose handler dropped it and works on without a guard",
            "nobody knows of the work",
            |w| works_on(w, "/export").boxed(),
        )
        .ours(BY_THE_EXIT)
        .alone(BY_THE_EXIT),
        Case::new("CONNECT, idle tunnel", "has all of the drain", |w| {
            idle(w, CONNECT).boxed()
        })
        .socket_is_cut(WorkKind::Upgrade, "CONNECT db.test:5432")
        .alone(BY_THE_EXIT),
        Case::new(
            "CONNECT, busy tunnel, closed by its client in the drain",
            "every byte comes through",
            |w| busy(w, CONNECT).boxed(),
        )
        .alone(BY_THE_EXIT),
    ]
}

struct Kind {
    head: &'static str,
    status: u16,
    /// What is sent, and what an echo makes of it.
    sends: &'static [u8],
    comes: &'static [u8],
}

/// A masked text frame whose mask is zero; servers do not mask.
const WS: Kind = Kind {
    head: "GET /ws HTTP/1.1\r\nhost: test\r\n",
    status: 101,
    sends: b"\x81\x85\0\0\0\0hello",
    comes: b"\x81\x05hello",
};

const CONNECT: Kind = Kind {
    head: "CONNECT db.test:5432 HTTP/1.1\r\nhost: db.test:5432\r\n",
    status: 200,
    sends: b"hello",
    comes: b"hello",
};

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
     sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

async fn open(world: &World, kind: &Kind) -> (Http1, usize) {
    let mut client = world.http1().await;
    let rest = if kind.status == 101 { UPGRADE } else { "\r\n" };
    let head = format!("{}{rest}", kind.head);
    client.send(&head).await;
    assert_eq!(client.head().await.status, kind.status);
    world.stage.entered(1).await;
    // The request was answered: the socket is what is in flight now.
    world.whole(1);
    (client, head.len())
}

async fn idle(world: World, kind: Kind) -> Got {
    let (mut client, sent) = open(&world, &kind).await;
    world.will_be_cut(client.local(), sent);
    world.stop().await;
    client.end().await;
    Got::Cut
}

async fn echoes(client: &mut Http1, kind: &Kind) -> bool {
    let sent = client.try_send(kind.sends).await;
    let came = client.bytes(kind.comes.len()).await;
    sent && came.is_ok_and(|came| came == kind.comes)
}

async fn busy(world: World, kind: Kind) -> Got {
    let (mut client, _) = open(&world, &kind).await;
    assert!(echoes(&mut client, &kind).await);
    world.stop().await;
    for _ in 0..14 {
        if !echoes(&mut client, &kind).await {
            return Got::Cut;
        }
        settle().await;
    }
    Got::Whole
}

async fn works_on(world: World, path: &str) -> Got {
    let kind = Kind {
        head: &*format!("GET {path} HTTP/1.1\r\nhost: test\r\n").leak(),
        ..WS
    };
    let (mut client, _) = open(&world, &kind).await;
    client.drain().await;
    world.stop().await;
    late().await;
    world.stage.open();
    settle().await;
    whole_or(Got::Cut, world.stage.worked.load(Ordering::SeqCst))
}
