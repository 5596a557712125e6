//! HTTP/1 requests whose head has come: handlers that take their time, and clients that take liberties.

use futures::FutureExt;
use tokio::io::AsyncWriteExt;

use crate::case::{Case, Ends, Got, ends};
use crate::harness::{World, late, whole_or};
use crate::support::End;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("slow handler", "is answered, `Connection: close`", |w| {
            slow(w, "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").boxed()
        }),
        Case::new("HTTP/1.0, slow handler", "is answered, and closed", |w| {
            slow(w, "GET /slow HTTP/1.0\r\n\r\n").boxed()
        }),
        Case::new(
            "pipelined: two more requests behind a slow one",
            "the first is answered, `Connection: close`; the others are the client's to send again (RFC 9112, 9.3.2)",
            |w| pipelined(w).boxed(),
        ),
        Case::new("handler that never returns", "has all of the drain", |w| {
            never(w, 1).boxed()
        })
        .request_is_cut("GET /never"),
        Case::new(
            "pipelined behind a handler that never returns",
            "has all of the drain",
            |w| never(w, 3).boxed(),
        )
        .request_is_cut("GET /never"),
        Case::new(
            "half-closed: asked a slow handler and shut its sending side",
            "hyper takes it for a client that is gone, whether a stop is on or not",
            |w| half_closed(w).boxed(),
        )
        .ours(ends(Got::Lost, Ends::AtOnce))
        .alone(ends(Got::Lost, Ends::AtOnce)),
    ]
}

async fn slow(world: World, request: &str) -> Got {
    let mut client = world.http1().await;
    client.send(request).await;
    world.stage.entered(1).await;
    world.stop().await;
    late().await;
    world.stage.open();
    let whole = match request.contains("HTTP/1.1") {
        true => world.answered_last(&mut client, b"slow").await,
        // Closing is its default: nobody says so.
        false => world.answered(&mut client, b"slow").await,
    };
    whole_or(Got::Lost, whole && client.end().await == End::Fin)
}

async fn pipelined(world: World) -> Got {
    let mut client = world.http1().await;
    let one = |path| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client
        .send([one("/slow"), one("/hello"), one("/hello")].concat())
        .await;
    world.stage.entered(1).await;
    world.stop().await;
    late().await;
    world.stage.open();
    let answer = client.try_answer().await;
    let last = answer.is_ok_and(|a| a.body == b"slow" && a.says_close());
    client.end().await;
    world.whole(usize::from(last));
    whole_or(Got::Lost, last)
}

async fn never(world: World, requests: usize) -> Got {
    let mut client = world.http1().await;
    let request = "GET /never HTTP/1.1\r\nhost: test\r\n\r\n".repeat(requests);
    client.send(&request).await;
    world.will_be_cut(client.local(), request.len());
    world.stage.entered(1).await;
    world.stop().await;
    client.end().await;
    Got::Cut
}

async fn half_closed(world: World) -> Got {
    let mut client = world.http1().await;
    client.send_get("/slow").await;
    world.stage.entered(1).await;
    client.io.shutdown().await.unwrap();
    world.stop().await;
    late().await;
    world.stage.open();
    whole_or(Got::Lost, world.answered(&mut client, b"slow").await)
}
