//! What may happen before HTTP is spoken over TLS, and that nothing is different once it is.

use futures::FutureExt;
use prestop::WorkKind;
use tokio::net::TcpStream;

use crate::case::{Case, Ends, Got, LINGERS, Promise};
use crate::harness::{World, late, settle, whole_or};
use crate::support::tls::{HTTP1, Halting};
use crate::support::{End, Http1, within};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "TLS handshake never begun",
            "stays readable for the linger",
            |w| silent(w).boxed(),
        )
        .own(LINGERS),
        Case::new(
            "TLS handshake never finished",
            "has five seconds to finish it",
            |w| stalls(w).boxed(),
        )
        .own(Promise {
            got: Got::Closed,
            ends: Ends::Deadline,
            report: vec![(WorkKind::Connection, "in handshake")],
        }),
        Case::new(
            "TLS handshake finished past the linger, asks",
            "is answered, `Connection: close`",
            |w| finishes(w).boxed(),
        ),
        Case::new(
            "TLS, partial second head, completed past the linger",
            "is answered, `Connection: close`, closed with `close_notify`",
            |w| completes(w).boxed(),
        ),
    ]
    .into_iter()
    .map(Case::tls)
    .collect()
}

async fn silent(world: World) -> Got {
    let mut client = world.http1().await;
    world.stop().await;
    match client.end().await {
        End::Fin => Got::Closed,
        End::Reset => Got::Cut,
    }
}

/// So much of a ClientHello.
const HALF: usize = 40;

async fn halting(world: &World) -> (Halting, tokio::sync::oneshot::Sender<()>) {
    let io = TcpStream::connect(world.addr).await.unwrap();
    world.will_be_cut(io.local_addr().unwrap(), HALF);
    Halting::new(io, HALF)
}

async fn stalls(world: World) -> Got {
    let (io, _go_on) = halting(&world).await;
    let client = world.tls.as_ref().unwrap().client();
    let handshake = tokio::spawn(async move { client.over(io, HTTP1).await });
    world.stop().await;
    let ended = within("the end", handshake).await.unwrap();
    if ended.is_err() {
        Got::Closed
    } else {
        Got::Whole
    }
}

async fn finishes(world: World) -> Got {
    let (io, go_on) = halting(&world).await;
    let client = world.tls.as_ref().unwrap().client();
    let handshake = tokio::spawn(async move { client.over(io, HTTP1).await });
    world.stop().await;
    late().await;
    go_on.send(()).unwrap();
    let Ok(stream) = within("the handshake", handshake).await.unwrap() else {
        return Got::Lost;
    };
    let mut client = Http1::on(stream);
    client.send_get("/hello").await;
    whole_or(
        Got::Lost,
        world.answered_last(&mut client, b"hello").await && client.end().await == End::Fin,
    )
}

async fn completes(world: World) -> Got {
    let client = world.tls.as_ref().unwrap().client();
    let mut client = Http1::on(client.connect(world.addr, HTTP1).await);
    client.send_get("/hello").await;
    assert!(world.answered(&mut client, b"hello").await);
    client.send("GET /hello HTT").await;
    settle().await;
    world.stop().await;
    late().await;
    let sent = client.try_send("P/1.1\r\nhost: test\r\n\r\n").await;
    whole_or(
        Got::Lost,
        sent && world.answered_last(&mut client, b"hello").await && client.end().await == End::Fin,
    )
}
