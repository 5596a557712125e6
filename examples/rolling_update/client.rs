//! One request, from the choice of a connection to the last byte of its answer, and what may go wrong with it.
//!
//! Nothing is retried. A request of which anything may have been sent and that fails is a failure. There is one
//! exception, which every careful client makes: a kept connection that is known to be closed or going away *before*
//! the request was handed to it is replaced by a new one. Known means: [`Http1::is_open`] says no, or hyper gives the
//! request back unsent (`TrySendError::take_message`). On a connection dialled for the request even that counts.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gateway::Refused;
use crate::mix::{Ask, Via};
use crate::pool::{Http2Pool, KeepAlive, Member};
use crate::streams::{self, Stay};
use crate::wire::{Http1, NoBody, Payload};

/// Why a request failed, in the order in which a request meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens at the address the gateway dialled, or it knows no address.
    Refused,
    /// Reset or closed before there was a complete response head.
    Reset,
    /// The body ended early, or has the wrong length; what has no end was broken off without a proper one.
    Cut,
    /// Answered, but not with 200 or OK (the service never answers anything else on purpose).
    Http5xx,
    /// Not over in time.
    TimedOut,
}

/// A port of the gateway, and who was refused behind it.
#[derive(Clone)]
pub struct Target {
    pub gateway: SocketAddr,
    pub refused: Refused,
}

/// The service's two ports.
#[derive(Clone)]
pub struct Targets {
    pub http: Target,
    pub grpc: Target,
}

/// All clients of the gateway.
pub struct Clients {
    targets: Targets,
    keep_alive: KeepAlive,
    slow: KeepAlive,
    http2: Http2Pool,
    grpc: Http2Pool,
    /// Who stays leaves.
    over: CancellationToken,
}

impl Clients {
    pub fn new(targets: Targets, rate: u32, over: CancellationToken) -> Self {
        Self {
            targets,
            keep_alive: KeepAlive::new(crate::mix::keep_alive_connections(rate)),
            slow: KeepAlive::new(crate::mix::slow_connections(rate)),
            http2: Http2Pool::new(crate::mix::http2_connections(rate)),
            grpc: Http2Pool::new(crate::mix::http2_connections(rate)),
            over,
        }
    }

    /// Sends one request and reads its answer; when that was there, which for an answer without an end is its beginning.
    ///
    /// # Errors
    ///
    /// Why it failed, for the client's row in the table.
    pub async fn send(&self, ask: Ask) -> Result<Instant, Failure> {
        let stay = || Stay {
            until: Instant::now() + ask.stays,
            over: self.over.clone(),
        };
        match ask.via {
            Via::KeepAlive => self.send_kept(&self.keep_alive, ask).await,
            Via::SlowKeepAlive => self.send_kept(&self.slow, ask).await,
            Via::NewConnection => {
                let mut connection = self.dial_http1().await?;
                let response = self.http1(&mut connection, &ask.path).await?;
                read_answer(response, ask.bytes).await?;
                Ok(Instant::now())
            }
            Via::Http2 => {
                let request = Request::builder()
                    .uri(format!("http://{SERVICE_HOST}{}", ask.path))
                    .body(Payload::default())
                    .expect("the path is one of ours, and valid");
                let response = http2(&self.http2, &self.targets.http, request).await?;
                read_answer(response, ask.bytes).await?;
                Ok(Instant::now())
            }
            Via::Events => {
                let mut connection = self.dial_http1().await?;
                let response = self.http1(&mut connection, &ask.path).await?;
                streams::read_events(response, &stay()).await
            }
            Via::WebSocket => self.websocket(&stay()).await,
            Via::GrpcUnary => {
                let call = streams::call(&ask.path);
                streams::read_unary(http2(&self.grpc, &self.targets.grpc, call).await?).await
            }
            Via::GrpcStream => {
                let call = streams::call(&ask.path);
                let response = http2(&self.grpc, &self.targets.grpc, call).await?;
                streams::read_stream(response, &stay()).await
            }
        }
    }

    /// The same by a connection of this pool.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_kept(&self, pool: &KeepAlive, ask: Ask) -> Result<Instant, Failure> {
        let mut request = http1_request(&ask.path);
        while let Some(mut kept) = pool.take() {
            match kept.connection.sender.try_send_request(request).await {
                Ok(response) => return finish_kept(pool, kept, response, ask.bytes).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.targets.http.no_head(kept.connection.local)),
                },
            }
        }
        let mut new = Member::new(pool, self.dial_http1().await?);
        let response = self.http1(&mut new.connection, &ask.path).await?;
        finish_kept(pool, new, response, ask.bytes).await
    }

    /// One request on a connection dialled for it.
    async fn http1(
        &self,
        connection: &mut Http1,
        path: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = connection.sender.try_send_request(http1_request(path));
        sent.await
            .map_err(|_| self.targets.http.no_head(connection.local))
    }

    async fn dial_http1(&self) -> Result<Http1, Failure> {
        let target = &self.targets.http;
        Http1::dial(target.gateway)
            .await
            .map_err(|local| target.no_connection(local))
    }

    async fn websocket(&self, stay: &Stay) -> Result<Instant, Failure> {
        let target = &self.targets.http;
        let stream = TcpStream::connect(target.gateway)
            .await
            .map_err(|_| Failure::Refused)?;
        let local = stream.local_addr().map_err(|_| Failure::Reset)?;
        // A socket that is dead by now says so to the next who asks.
        let _ = stream.set_nodelay(true);
        let opened = streams::websocket(stream, stay).await;
        opened.map_err(|failed| failed.unwrap_or_else(|| target.no_head(local)))
    }
}

async fn finish_kept(
    pool: &KeepAlive,
    kept: Member,
    response: Response<Incoming>,
    bytes: usize,
) -> Result<Instant, Failure> {
    let reuse = read_answer(response, bytes).await?;
    let answered = Instant::now();
    match reuse {
        Reuse::Yes => pool.put(kept).await,
        Reuse::No => {}
    }
    Ok(answered)
}

async fn http2(
    pool: &Http2Pool,
    target: &Target,
    mut request: Request<Payload>,
) -> Result<Response<Incoming>, Failure> {
    let slot = pool.next_slot();
    loop {
        let (mut connection, new) = slot
            .open(target.gateway)
            .await
            .map_err(|local| target.no_connection(local))?;
        match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut error) => match error.take_message() {
                // GOAWAY was read before the request was written.
                Some(unsent) if !new => request = unsent,
                _ => return Err(target.no_head(connection.local)),
            },
        }
    }
}

impl Target {
    fn no_connection(&self, local: Option<SocketAddr>) -> Failure {
        local.map_or(Failure::Refused, |local| self.no_head(local))
    }

    fn no_head(&self, local: SocketAddr) -> Failure {
        if self.refused.contains(local) {
            Failure::Refused
        } else {
            Failure::Reset
        }
    }
}

const SERVICE_HOST: &str = "demo";

enum Reuse {
    Yes,
    No,
}

fn http1_request(path: &str) -> Request<NoBody> {
    Request::builder()
        .uri(path)
        .header(HOST, HeaderValue::from_static(SERVICE_HOST))
        .body(NoBody::new())
        .expect("the path is one of ours, and valid")
}

/// Reads the answer to its end and compares its length with what the service should have sent.
async fn read_answer(response: Response<Incoming>, bytes: usize) -> Result<Reuse, Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Http5xx);
    }
    let close = response
        .headers()
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::Cut)?;
        read += frame.data_ref().map_or(0, |data| data.len());
    }
    if read != bytes {
        return Err(Failure::Cut);
    }
    Ok(if close { Reuse::No } else { Reuse::Yes })
}
