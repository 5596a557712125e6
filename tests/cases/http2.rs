//! HTTP/2 with prior knowledge.

use futures::FutureExt;
use prestop::WorkKind;

use crate::app::PAGE;
use crate::case::{Case, Ends, Got, HANGS, LINGERS, ends};
use crate::harness::{World, late, whole_or};
use crate::support::raw_http2::{DATA, GOAWAY, Http2, OK, PREFACE};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "HTTP/2 preface without SETTINGS",
            "stays readable for the linger",
            |w| preface(w).boxed(),
        )
        .ours(LINGERS)
        .alone(HANGS),
        Case::new(
            "HTTP/2, idle, never acknowledges our PING",
            "is told GOAWAY, stays readable for the linger",
            |w| never_acknowledges(w).boxed(),
        )
        .own(LINGERS)
        .stock(ends(Got::Closed, Ends::TwoLingers))
        .alone(HANGS),
        Case::new(
            "HTTP/2, 100 streams, slow handlers",
            "is told GOAWAY, every stream is answered",
            |w| streams(w).boxed(),
        ),
        Case::new("HTTP/2, window never opened", "has all of the drain", |w| {
            window_closed(w).boxed()
        })
        .socket_is_cut(WorkKind::Request, "GET /page")
        .alone(HANGS),
        Case::new("HTTP/2, window opened late", "is sent whole", |w| {
            window_opened(w).boxed()
        }),
    ]
    .into_iter()
    .map(Case::http2)
    .collect()
}

async fn preface(world: World) -> Got {
    let mut client = Http2::preface(world.addr).await;
    world.will_be_cut(client.local(), PREFACE.len());
    world.stop().await;
    client.drain().await;
    Got::Closed
}

async fn never_acknowledges(world: World) -> Got {
    let mut client = world.http2().await;
    client.get(1, "/hello").await;
    assert_eq!(client.answer(1, false).await, (OK, b"hello".to_vec()));
    world.whole(1);
    world.will_be_cut(client.local(), client.sent);
    world.stop().await;
    client.next(GOAWAY).await;
    client.drain().await;
    Got::Closed
}

async fn streams(world: World) -> Got {
    const STREAMS: usize = 100;
    let mut client = world.http2().await;
    for n in 0..STREAMS {
        client.get(u32::try_from(2 * n + 1).unwrap(), "/slow").await;
    }
    world.stage.entered(STREAMS).await;
    world.stop().await;
    late().await;
    client.next(GOAWAY).await;
    world.stage.open();
    let bodies = client.bodies(STREAMS).await;
    let whole = bodies.len() == STREAMS && bodies.values().all(|body| body == b"slow");
    world.whole(if whole { STREAMS } else { 0 });
    whole_or(Got::Lost, whole)
}

async fn asked_page(world: &World) -> (Http2, usize) {
    let mut client = Http2::with_window(world.addr, 1_000).await;
    client.get(1, "/page").await;
    let first = client.next(DATA).await;
    (client, first.payload.len())
}

async fn window_closed(world: World) -> Got {
    let (mut client, _) = asked_page(&world).await;
    world.will_be_cut(client.local(), client.sent);
    world.stop().await;
    client.drain().await;
    Got::Cut
}

async fn window_opened(world: World) -> Got {
    let (mut client, mut got) = asked_page(&world).await;
    world.stop().await;
    late().await;
    client.open_window(1, 1 << 30).await;
    client.open_window(0, 1 << 30).await;
    while let Ok(frame) = client.frame().await {
        if frame.kind == DATA {
            got += frame.payload.len();
        }
        if frame.is_ping() {
            client.pong(&frame).await;
        }
    }
    world.whole(usize::from(got == PAGE));
    whole_or(Got::Cut, got == PAGE)
}
