//! WebSockets: a Close frame with 1001, and the client's answer.

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::any;
use prestop::{Phase, StopSignal, StreamLayer, StreamPolicy, WorkKind};

use crate::support::*;
use crate::{PATHS, Path};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;

/// A client that does nothing by itself.
pub struct Socket(Http1);

impl Socket {
    pub async fn connect(server: &Server, path: &str) -> Self {
        let mut client = server.http1().await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ))
            .await;
        let head = client.head().await;
        assert_eq!(head.status, 101);
        assert_eq!(
            head.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        Self(client)
    }

    /// Sends a frame, masked with zeros (RFC 6455, 5.3).
    pub async fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![
            0x80 | kind,
            0x80 | u8::try_from(payload.len()).unwrap(),
            0,
            0,
            0,
            0,
        ];
        frame.extend(payload);
        self.0.send(frame).await;
    }

    /// The next frame: kind and payload.
    pub async fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.0.bytes(2).await.unwrap();
        assert_eq!(head[0] & 0xf0, 0x80, "one whole frame");
        assert!(head[1] < 126, "short, and not masked");
        let payload = self.0.bytes(usize::from(head[1])).await.unwrap();
        (head[0] & 0x0f, payload)
    }

    pub async fn text(&mut self) -> String {
        let (kind, payload) = self.frame().await;
        assert_eq!(kind, TEXT, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    /// The close code.
    pub async fn close(&mut self) -> u16 {
        let (kind, payload) = self.frame().await;
        assert_eq!(kind, CLOSE, "{payload:?}");
        u16::from_be_bytes(payload[..2].try_into().unwrap())
    }

    pub async fn end(&mut self) -> End {
        self.0.end().await
    }
}

/// Echoes, with the helper.
fn app() -> Router {
    let echo = async |stop: StopSignal, upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async move |socket| {
            let mut socket = stop.websocket(socket);
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Text(_)) {
                    // Refused once Close was said: what the client sent then is read, and that is all.
                    let _ = socket.send(message).await;
                }
            }
        })
    };
    Router::new().route("/ws", any(echo))
}

#[tokio::test]
async fn the_helper_says_1001_and_waits_for_the_answer() {
    for path in PATHS {
        let server = path.serve(builder().build().unwrap(), app()).await;
        let mut socket = Socket::connect(&server, "/ws").await;
        socket.send(TEXT, b"one").await;
        assert_eq!(socket.text().await, "one");
        server.stop();
        assert_eq!(socket.close().await, 1001, "{path:?}");
        let held = server.h.in_flight();
        assert!(
            held.iter()
                .any(|s| matches!(s.kind, WorkKind::Upgrade | WorkKind::Connection)),
            "{path:?}: it waits for the answer"
        );
        // Crossed the Close on its way.
        socket.send(TEXT, b"two").await;
        socket.send(CLOSE, &1001_u16.to_be_bytes()).await;
        assert_eq!(socket.end().await, End::Fin, "{path:?}");
        let report = server.clean().await;
        assert_eq!(
            (report.streams.told, report.streams.ended),
            (1, 1),
            "{report}"
        );
    }
}

/// It says nothing, it does not even close. The helper gives up after five seconds.
#[tokio::test]
async fn a_client_that_never_answers_is_not_waited_for() {
    for path in PATHS {
        let server = path.serve(builder().build().unwrap(), app()).await;
        let mut socket = Socket::connect(&server, "/ws").await;
        server.stop();
        assert_eq!(socket.close().await, 1001);
        assert_eq!(socket.end().await, End::Fin, "{path:?}");
        assert!(server.h.phase() >= Phase::Draining);
        server.clean().await;
    }
}

#[tokio::test]
async fn a_client_that_closes_first_is_none_that_was_told() {
    for path in PATHS {
        let server = path.serve(builder().build().unwrap(), app()).await;
        let mut socket = Socket::connect(&server, "/ws").await;
        socket.send(CLOSE, &1000_u16.to_be_bytes()).await;
        assert_eq!(socket.close().await, 1000);
        assert_eq!(socket.end().await, End::Fin);
        server.stop();
        let report = server.clean().await;
        assert_eq!(report.streams.told, 0, "{report}");
    }
}

/// Nothing of prestop in its handler.
fn unchanged() -> axum::routing::MethodRouter {
    any(async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    })
}

/// For a handler that nobody can change: it holds no pod.
#[tokio::test]
async fn on_the_own_loop_cut_breaks_an_unchanged_handler_s_socket_off() {
    let route = unchanged().layer(StreamLayer::new(StreamPolicy::Cut));
    let app = Router::new().route("/ws", route);
    let server = Path::Own.serve(builder().build().unwrap(), app).await;
    let mut gone = Socket::connect(&server, "/ws").await;
    gone.send(CLOSE, &1000_u16.to_be_bytes()).await;
    gone.close().await;
    assert_eq!(gone.end().await, End::Fin);
    let mut socket = Socket::connect(&server, "/ws").await;
    socket.send(TEXT, b"one").await;
    assert_eq!(socket.text().await, "one");
    server.stop();
    socket.end().await;
    let report = server.clean().await;
    assert_eq!(
        (report.streams.told, report.streams.cut),
        (0, 1),
        "{report}"
    );
}

/// An unchanged handler has all of the drain, as with `Finish`.
#[tokio::test]
async fn an_unchanged_handler_s_socket_lives_on() {
    for path in PATHS {
        let app = Router::new().route("/ws", unchanged());
        let server = path.serve(builder().build().unwrap(), app).await;
        let mut socket = Socket::connect(&server, "/ws").await;
        server.stop_to(Phase::Draining).await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        socket.send(TEXT, b"one").await;
        assert_eq!(socket.text().await, "one", "{path:?}");
        socket.send(CLOSE, &1000_u16.to_be_bytes()).await;
        assert_eq!(socket.close().await, 1000);
        assert_eq!(socket.end().await, End::Fin);
        assert_eq!(server.clean().await.streams.told, 0);
    }
}
