//! HTTP/1 requests that have begun: half a head, half a body, several in a row, none of the usual kind.

use futures::FutureExt;

use crate::case::{Case, Ends, Got, HANGS, LINGERS, ends, stays};
use crate::harness::{World, late, whole_or};
use crate::support::Http1;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "partial first head, never completed",
            "has five seconds to complete it",
            |w| stalls(w, false).boxed(),
        )
        .ours(stays())
        .alone(HANGS),
        Case::new(
            "partial first head, completed past the linger",
            "is answered, `Connection: close`",
            |w| completes(w, false).boxed(),
        ),
        Case::new(
            "partial second head, never completed",
            "has five seconds to complete it",
            |w| stalls(w, true).boxed(),
        )
        .own(stays())
        .stock(LINGERS)
        .alone(ends(Got::Closed, Ends::AtOnce)),
        Case::new(
            "partial second head, completed past the linger",
            "is answered, `Connection: close`",
            |w| completes(w, true).boxed(),
        )
        .stock(ends(Got::Lost, Ends::Linger))
        .alone(ends(Got::Lost, Ends::AtOnce)),
        Case::new(
            "head sent, body never completed",
            "has all of the drain",
            |w| body_stalls(w).boxed(),
        )
        .request_is_cut("POST /echo"),
        Case::new(
            "head sent, body completed in the drain",
            "is answered",
            |w| body_completes(w, "").boxed(),
        ),
        Case::new(
            "`Expect: 100-continue`, body sent in the drain",
            "is told to continue, and answered",
            |w| body_completes(w, "expect: 100-continue\r\n").boxed(),
        ),
    ]
}

const HALF: &str = "GET /hello HTT";

async fn half_a_head(world: &World, second: bool) -> (Http1, usize) {
    let (mut client, sent) = match second {
        true => (
            world.kept_alive().await,
            "GET /hello HTTP/1.1\r\nhost: test\r\n\r\n".len(),
        ),
        false => (world.http1().await, 0),
    };
    client.send(HALF).await;
    (client, sent + HALF.len())
}

async fn stalls(world: World, second: bool) -> Got {
    let (mut client, sent) = half_a_head(&world, second).await;
    world.will_be_cut(client.local(), sent);
    world.stop().await;
    client.end().await;
    Got::Closed
}

async fn completes(world: World, second: bool) -> Got {
    let (mut client, _) = half_a_head(&world, second).await;
    world.stop().await;
    late().await;
    let sent = client.try_send("P/1.1\r\nhost: test\r\n\r\n").await;
    whole_or(
        Got::Lost,
        sent && world.answered_last(&mut client, b"hello").await,
    )
}

async fn half_a_body(world: &World, header: &str) -> (Http1, usize) {
    let mut client = world.http1().await;
    let head = format!("POST /echo HTTP/1.1\r\nhost: test\r\n{header}content-length: 8\r\n\r\n");
    client.send(&head).await;
    world.stage.entered(1).await;
    if !header.is_empty() {
        return (client, head.len());
    }
    client.send("half").await;
    (client, head.len() + 4)
}

async fn body_stalls(world: World) -> Got {
    let (mut client, sent) = half_a_body(&world, "").await;
    world.will_be_cut(client.local(), sent);
    world.stop().await;
    client.end().await;
    Got::Cut
}

async fn body_completes(world: World, header: &str) -> Got {
    let (mut client, _) = half_a_body(&world, header).await;
    world.stop().await;
    late().await;
    let rest = match header.is_empty() {
        true => "half",
        false => {
            assert_eq!(client.head().await.status, 100);
            "halfhalf"
        }
    };
    client.send(rest).await;
    whole_or(Got::Lost, world.answered(&mut client, b"halfhalf").await)
}
