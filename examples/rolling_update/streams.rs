//! Clients that stay: server-sent events, WebSockets, gRPC. Each stays for the time it was given and then leaves. Ended
//! before by its server it is content as well, when that was said in the words of its protocol; it would connect again.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

use crate::client::{Failure, Target};
use crate::grpc::{GET, MESSAGE, WATCH};
use crate::pool::Http2Pool;
use crate::wire::Payload;

/// What one of them does, and how long it stays.
#[derive(Clone, Copy)]
pub enum Visit {
    Sse(Duration),
    WebSocket(Duration),
    /// A unary call: one message there, one back.
    Grpc,
    GrpcStream(Duration),
}

/// All of them.
pub struct Visitors {
    http: Target,
    grpc: Target,
    pool: Http2Pool,
    /// Who stays leaves.
    over: CancellationToken,
}

impl Visitors {
    pub fn new(http: Target, grpc: Target, rate: u32, over: CancellationToken) -> Self {
        Self {
            http,
            grpc,
            pool: Http2Pool::new(crate::mix::http2_connections(rate)),
            over,
        }
    }

    /// When it was answered; one that stays, when it got the first of its answer.
    ///
    /// # Errors
    ///
    /// Why it failed, for the client's row in the table.
    pub async fn send(&self, visit: Visit) -> Result<Instant, Failure> {
        let stay = |time| Stay {
            until: Instant::now() + time,
            over: self.over.clone(),
        };
        match visit {
            Visit::Sse(time) => {
                let mut connection = self.http.dial_http1().await?;
                let response = self.http.http1(&mut connection, "/events").await?;
                read_events(response, &stay(time)).await
            }
            Visit::WebSocket(time) => self.websocket(&stay(time)).await,
            Visit::Grpc => read_unary(self.grpc.http2(&self.pool, call(GET)).await?).await,
            Visit::GrpcStream(time) => {
                let response = self.grpc.http2(&self.pool, call(WATCH)).await?;
                read_stream(response, &stay(time)).await
            }
        }
    }

    async fn websocket(&self, stay: &Stay) -> Result<Instant, Failure> {
        let stream = TcpStream::connect(self.http.gateway)
            .await
            .map_err(|_| Failure::Refused)?;
        let local = stream.local_addr().map_err(|_| Failure::Reset)?;
        // A socket that is dead by now says so to the next who asks.
        let _ = stream.set_nodelay(true);
        let opened = websocket(stream, stay).await;
        opened.map_err(|failed| failed.unwrap_or_else(|| self.http.no_head(local)))
    }
}

/// When a client that stays leaves by itself.
struct Stay {
    until: Instant,
    /// All leave: the load ends.
    over: CancellationToken,
}

impl Stay {
    async fn over(&self) {
        tokio::select! {
            () = sleep_until(self.until) => {}
            () = self.over.cancelled() => {}
        }
    }
}

/// Nothing that stays is silent for as long, nor takes as long to end.
const SILENCE: Duration = Duration::from_secs(10);

async fn within<T>(next: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(SILENCE, next).await.map_err(|_| Failure::TimedOut)
}

/// Reads events; the moment of the first is the answer. The end must come between two of them, with the last chunk.
async fn read_events(response: Response<Incoming>, stay: &Stay) -> Result<Instant, Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Http5xx);
    }
    let mut body = response.into_body();
    let (mut first, mut last_two) = (None, [b'\n'; 2]);
    loop {
        let frame = tokio::select! {
            biased;
            frame = within(body.frame()) => frame?,
            () = stay.over(), if first.is_some() => return first.ok_or(Failure::Cut),
        };
        let Some(frame) = frame else {
            break;
        };
        let frame = frame.map_err(|_| Failure::Cut)?;
        for &byte in frame.data_ref().into_iter().flatten() {
            last_two = [last_two[1], byte];
        }
        first.get_or_insert_with(Instant::now);
    }
    match last_two {
        [b'\n', b'\n'] => first.ok_or(Failure::Cut),
        _ => Err(Failure::Cut),
    }
}

/// Sends a message every 100 ms and reads the echoes. The end must be a Close frame that says 1000 or 1001.
/// The error is `None` when the connection broke before it was a WebSocket.
async fn websocket(stream: TcpStream, stay: &Stay) -> Result<Instant, Option<Failure>> {
    let mut socket = match timeout(SILENCE, client_async("ws://demo/echo", stream)).await {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(Error::Http(_))) => return Err(Some(Failure::Http5xx)),
        Ok(Err(_)) => return Err(None),
        Err(_) => return Err(Some(Failure::TimedOut)),
    };
    let opened = Instant::now();
    chat(&mut socket, stay).await.map_err(Some)?;
    Ok(opened)
}

async fn chat(socket: &mut WebSocketStream<TcpStream>, stay: &Stay) -> Result<(), Failure> {
    let mut tick = interval(Duration::from_millis(100));
    let mut leaving = false;
    loop {
        let message = tokio::select! {
            biased;
            message = within(socket.next()) => message?,
            () = stay.over(), if !leaving => {
                leaving = true;
                // An error is what the next read has, too.
                let _ = socket.close(None).await;
                continue;
            }
            _ = tick.tick(), if !leaving => {
                let _ = socket.send(Message::text("hello")).await;
                continue;
            }
        };
        match message {
            Some(Ok(Message::Close(Some(close))))
                if matches!(close.code, CloseCode::Normal | CloseCode::Away) =>
            {
                // The answer to it goes out with the next read, which ends with the connection.
                while let Some(Ok(_)) = within(socket.next()).await? {}
                return Ok(());
            }
            // The answer to a Close without a code has none.
            Some(Ok(Message::Close(None))) if leaving => return Ok(()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Failure::Cut),
            Some(Ok(_)) => {}
        }
    }
}

/// A gRPC call with an empty message.
fn call(path: &str) -> Request<Payload> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://demo{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Payload::new(Bytes::from_static(&[0; 5])))
        .expect("the path is one of ours, and valid")
}

/// The status OK.
const OK: u8 = 0;
/// "Call again, elsewhere."
const UNAVAILABLE: u8 = 14;

/// One message, and the status OK in its trailers.
async fn read_unary(response: Response<Incoming>) -> Result<Instant, Failure> {
    let (messages, status) = read_messages(response, None).await?;
    match (status, messages.len()) {
        (Some(OK), 1) => Ok(Instant::now()),
        (Some(OK), _) => Err(Failure::Cut),
        _ => Err(Failure::Http5xx),
    }
}

/// Messages, and for an end that its server wanted a status in its trailers: OK, or UNAVAILABLE after the first message.
async fn read_stream(response: Response<Incoming>, stay: &Stay) -> Result<Instant, Failure> {
    let (messages, status) = read_messages(response, Some(stay)).await?;
    match (messages.first(), status) {
        // It left by itself, or was sent away.
        (Some(first), None | Some(OK | UNAVAILABLE)) => Ok(*first),
        _ => Err(Failure::Http5xx),
    }
}

/// When each message came, and the status; without one the client has left.
async fn read_messages(
    response: Response<Incoming>,
    stay: Option<&Stay>,
) -> Result<(Vec<Instant>, Option<u8>), Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Http5xx);
    }
    if let Some(status) = status(response.headers()) {
        return Ok((Vec::new(), Some(status)));
    }
    let mut body = response.into_body();
    let (mut messages, mut buffer) = (Vec::new(), BytesMut::new());
    loop {
        let left = async {
            match stay {
                Some(stay) => stay.over().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            biased;
            frame = within(body.frame()) => frame?,
            () = left, if !messages.is_empty() => return Ok((messages, None)),
        };
        // Without trailers it has no end, whatever HTTP/2 says.
        let frame = frame.ok_or(Failure::Cut)?.map_err(|_| Failure::Cut)?;
        if let Some(trailers) = frame.trailers_ref() {
            let status = status(trailers).filter(|_| buffer.is_empty());
            return Ok((messages, Some(status.ok_or(Failure::Cut)?)));
        }
        buffer.extend(frame.data_ref().into_iter().flatten());
        while whole_message(&mut buffer)? {
            messages.push(Instant::now());
        }
    }
}

/// Takes a message off the buffer, if there is a whole one.
fn whole_message(buffer: &mut BytesMut) -> Result<bool, Failure> {
    const PREFIX: usize = 5;
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(false);
    };
    let [_, length @ ..] = *prefix;
    if length
        != u32::try_from(MESSAGE.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
    {
        return Err(Failure::Cut);
    }
    let Some(message) = buffer.get(PREFIX..PREFIX + MESSAGE.len()) else {
        return Ok(false);
    };
    if message != MESSAGE {
        return Err(Failure::Cut);
    }
    buffer.advance(PREFIX + MESSAGE.len());
    Ok(true)
}

fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
