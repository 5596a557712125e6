//! Connections on which nothing was asked yet, and those that are yet to be accepted.

use futures::FutureExt;
use futures::future::join_all;
use prestop::Phase;
use tokio::net::{TcpSocket, TcpStream};

use crate::case::{Case, Ends, Got, LINGERS, Promise, ends};
use crate::harness::{World, settle, whole_or};
use crate::support::{End, Http1};

const LOST: Promise = ends(Got::Lost, Ends::AtOnce);
const CLOSED: Promise = ends(Got::Closed, Ends::AtOnce);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("nothing sent", "stays readable for the linger", |w| {
            untouched(w).boxed()
        })
        .ours(LINGERS)
        .alone(CLOSED),
        Case::new(
            "nothing sent, asks within the linger",
            "is answered, `Connection: close`",
            |w| asks_late(w, false).boxed(),
        )
        .patient()
        .alone(LOST),
        Case::new("idle keep-alive", "stays readable for the linger", |w| {
            idle(w).boxed()
        })
        .ours(LINGERS)
        .alone(CLOSED),
        Case::new(
            "idle keep-alive, asks within the linger",
            "is answered, `Connection: close`",
            |w| asks_late(w, true).boxed(),
        )
        .patient()
        .alone(LOST),
        Case::new(
            "100 clients have connected and asked, none is accepted yet",
            "are accepted before the listener closes, and answered",
            |w| queued(w).boxed(),
        )
        .alone(LOST),
        Case::new(
            "connects in the lame duck",
            "is accepted and answered",
            |w| in_the_lame_duck(w).boxed(),
        )
        .lame_duck()
        .alone(ends(Got::Refused, Ends::AtOnce)),
        Case::new(
            "no descriptors left: idle clients hold them, others wait in the queue with a request",
            "the listener stays open until idle clients are gone and the queue is empty, at most 250 ms longer than they may linger",
            |w| out_of_descriptors(w).boxed(),
        )
        .few_descriptors()
        .stock(ends(Got::Lost, Ends::Linger))
        .alone(LOST),
        Case::racing(
            "keep-alive, asks in the instant of a phase change, 10,000 times",
            "is answered",
        )
        .alone(ends(Got::Lost, Ends::AtOnce)),
    ]
}

async fn closed(mut client: Http1) -> Got {
    match client.end().await {
        End::Fin => Got::Closed,
        End::Reset => Got::Cut,
    }
}

async fn untouched(world: World) -> Got {
    let client = world.http1().await;
    world.stop().await;
    closed(client).await
}

async fn idle(world: World) -> Got {
    let client = world.kept_alive().await;
    world.stop().await;
    closed(client).await
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: test\r\n\r\n";

async fn asks_last(world: &World, client: &mut Http1) -> bool {
    client.try_send(HELLO).await && world.answered_last(client, b"hello").await
}

async fn asks_late(world: World, used: bool) -> Got {
    let mut client = match used {
        true => world.kept_alive().await,
        false => world.http1().await,
    };
    world.stop().await;
    settle().await;
    settle().await;
    whole_or(Got::Lost, asks_last(&world, &mut client).await)
}

/// The server's only thread is busy while they connect and the stop begins.
async fn queued(world: World) -> Got {
    let mut blocker = world.http1().await;
    blocker.send_get("/block").await;
    world.stage.entered(1).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = world.http1().await;
        client.send_get("/hello").await;
        clients.push(client);
    }
    world.trigger();
    world.stage.unblock();
    let mut whole = world.answered(&mut blocker, b"").await;
    for client in &mut clients {
        whole &= world.answered(client, b"hello").await;
    }
    whole_or(Got::Lost, whole)
}

async fn in_the_lame_duck(world: World) -> Got {
    settle().await;
    world.trigger();
    world.reached(Phase::LameDuck).await;
    let Ok(io) = TcpStream::connect(world.addr).await else {
        return Got::Refused;
    };
    let mut client = Http1::over(io);
    let sent = client.try_send(HELLO).await;
    let whole = sent && world.answered(&mut client, b"hello").await;
    if let Some(h) = world.stage.handle.get() {
        assert_eq!(h.phase(), Phase::LameDuck);
        h.end_lame_duck();
    }
    whole_or(Got::Lost, whole)
}

/// In a process of its own. Client and server share the limit: a socket that exists before the limit is met can still
/// connect, and takes no descriptor until the server accepts it.
async fn out_of_descriptors(world: World) -> Got {
    const QUEUED: usize = 4;
    let sockets: Vec<_> = (0..QUEUED)
        .map(|_| TcpSocket::new_v4().expect("far from the limit"))
        .collect();
    let mut idle = Vec::new();
    while let Ok(socket) = TcpSocket::new_v4() {
        let io = socket.connect(world.addr).await.unwrap();
        let mut client = Http1::over(io);
        client.send_get("/hello").await;
        idle.push(client);
        settle().await;
    }
    // The last one may have taken what its own end in the server needs.
    let waiting = idle.pop().unwrap();
    let mut queued = vec![waiting];
    for socket in sockets {
        let io = socket.connect(world.addr).await.unwrap();
        let mut client = Http1::over(io);
        client.send_get("/hello").await;
        queued.push(client);
    }
    for client in &mut idle {
        assert!(world.answered(client, b"hello").await);
    }
    world.trigger();
    let answers = queued
        .iter_mut()
        .map(|client| world.answered(client, b"hello"));
    let whole = join_all(answers).await.into_iter().all(|whole| whole);
    whole_or(Got::Lost, whole)
}
