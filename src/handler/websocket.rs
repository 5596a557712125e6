//! For axum's WebSockets: a socket that says goodbye when it is told.

use std::fmt;
use std::time::Duration;

use axum::Error;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::stream::StopSignal;

/// How long the client has to answer a Close frame. Several round trips, and what it had sent before; a browser answers
/// in its next turn.
const ANSWER: Duration = Duration::from_secs(5);

impl StopSignal {
    /// The socket, until it is told to end: then [`recv`](DrainWebSocket::recv) sends Close 1001 ("going away"), goes on
    /// giving what the client had on its way, and ends with the client's Close.
    ///
    /// ```
    /// use axum::{extract::ws::WebSocketUpgrade, response::Response};
    /// use prestop::StopSignal;
    ///
    /// async fn echo(stop: StopSignal, upgrade: WebSocketUpgrade) -> Response {
    ///     upgrade.on_upgrade(async move |socket| {
    ///         let mut socket = stop.websocket(socket);
    ///         while let Some(Ok(message)) = socket.recv().await {
    ///             if socket.send(message).await.is_err() {
    ///                 break;
    ///             }
    ///         }
    ///     })
    /// }
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::any(echo));
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "websocket")))]
    #[must_use]
    pub fn websocket(&self, socket: WebSocket) -> DrainWebSocket {
        DrainWebSocket {
            told: Box::pin(self.told()),
            signal: self.clone(),
            socket,
            state: State::Open,
        }
    }
}

/// A WebSocket that says goodbye when it is told; from [`StopSignal::websocket`].
pub struct DrainWebSocket {
    socket: WebSocket,
    told: BoxFuture<'static, ()>,
    signal: StopSignal,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It was told: Close is being said, and the client has until then to answer.
    Told(Instant),
    /// Close was said.
    Closing(Instant),
    Over,
}

impl DrainWebSocket {
    /// The next message; `None` once the socket is over. When it is told, Close 1001 is sent; messages that the client
    /// had sent before it saw that still come, for five seconds at the most and not past the drain.
    ///
    /// The handler must be in here to be told: one that waits elsewhere, to send what comes from elsewhere, selects
    /// between the two.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::recv`]. After one the socket is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no message is lost, and Close is said by the next call.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match self.state {
                State::Open => tokio::select! {
                    biased;
                    () = &mut self.told => {
                        let by = Deadline::after(ANSWER);
                        let by = self.signal.deadline().map_or(by, |drain| drain.min(by));
                        self.state = State::Told(by.instant());
                    }
                    message = self.socket.recv() => return self.pass(message),
                },
                State::Told(by) => self.say_close(by).await,
                State::Closing(by) => {
                    return match tokio::time::timeout_at(by, self.socket.recv()).await {
                        Ok(message) => self.pass(message),
                        Err(_) => self.pass(None),
                    };
                }
                State::Over => return None,
            }
        }
    }

    /// Sends a message. Once Close was said nothing is sent any more.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::send`], and when Close was said.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        if self.state != State::Open {
            return Err(Error::new(std::io::Error::new(
                std::io::ErrorKind::NotConnected,
                "the WebSocket is closing: the server is stopping",
            )));
        }
        self.socket.send(message).await
    }

    /// The subprotocol that was agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&http::HeaderValue> {
        self.socket.protocol()
    }

    /// The socket as axum has it. It is told no more; the handler listens to its [`StopSignal`].
    #[must_use]
    pub fn into_inner(self) -> WebSocket {
        self.socket
    }

    async fn say_close(&mut self, by: Instant) {
        let close = Message::Close(Some(CloseFrame {
            code: close_code::AWAY,
            reason: "the server is stopping".into(),
        }));
        // To a client that takes nothing it may be said for ever. An error is what `recv` has next, too; or it was said
        // already, by a call that was dropped.
        let said = tokio::time::timeout_at(by, self.socket.send(close)).await;
        self.state = match said {
            Ok(_) => State::Closing(by),
            Err(_) => State::Over,
        };
    }

    fn pass(&mut self, message: Option<Result<Message, Error>>) -> Option<Result<Message, Error>> {
        let is_last = match &message {
            None | Some(Err(_)) => true,
            // tungstenite has answered it, or it is the answer; nothing follows.
            Some(Ok(Message::Close(_))) => matches!(self.state, State::Closing(_)),
            Some(Ok(_)) => false,
        };
        if is_last {
            self.state = State::Over;
        }
        message
    }
}

impl fmt::Debug for DrainWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainWebSocket")
            .field("state", &self.state)
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}
