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
use tokio::time::Instant;

use crate::gateway::Refused;
use crate::mix::{Ask, Via};
use crate::pool::{Http2Pool, KeepAlive, Member};
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

/// The clients of the gateway that ask and are answered.
pub struct Clients {
    target: Target,
    keep_alive: KeepAlive,
    slow: KeepAlive,
    http2: Http2Pool,
}

impl Clients {
    pub fn new(target: Target, rate: u32) -> Self {
        Self {
            target,
            keep_alive: KeepAlive::new(crate::mix::keep_alive_connections(rate)),
            slow: KeepAlive::new(crate::mix::slow_connections(rate)),
            http2: Http2Pool::new(crate::mix::http2_connections(rate)),
        }
    }

    /// Sends one request and reads its answer; when that was whole.
    ///
    /// # Errors
    ///
    /// Why it failed, for the client's row in the table.
    pub async fn send(&self, ask: Ask) -> Result<Instant, Failure> {
        match ask.via {
            Via::KeepAlive => self.send_kept(&self.keep_alive, ask).await,
            Via::SlowKeepAlive => self.send_kept(&self.slow, ask).await,
            Via::NewConnection => {
                let mut connection = self.target.dial_http1().await?;
                let response = self.target.http1(&mut connection, &ask.path).await?;
                read_answer(response, ask.bytes).await?;
                Ok(Instant::now())
            }
            Via::Http2 => {
                let request = Request::builder()
                    .uri(format!("http://{SERVICE_HOST}{}", ask.path))
                    .body(Payload::default())
                    .expect("the path is one of ours, and valid");
                let response = self.target.http2(&self.http2, request).await?;
                read_answer(response, ask.bytes).await?;
                Ok(Instant::now())
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
                    None => return Err(self.target.no_head(kept.connection.local)),
                },
            }
        }
        let mut new = Member::new(pool, self.target.dial_http1().await?);
        let response = self.target.http1(&mut new.connection, &ask.path).await?;
        finish_kept(pool, new, response, ask.bytes).await
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

impl Target {
    /// One request on a connection dialled for it; the head of its answer.
    pub async fn http1(
        &self,
        connection: &mut Http1,
        path: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = connection.sender.try_send_request(http1_request(path));
        sent.await.map_err(|_| self.no_head(connection.local))
    }

    pub async fn dial_http1(&self) -> Result<Http1, Failure> {
        Http1::dial(self.gateway)
            .await
            .map_err(|local| self.no_connection(local))
    }

    /// One request on a shared connection; the head of its answer.
    pub async fn http2(
        &self,
        pool: &Http2Pool,
        mut request: Request<Payload>,
    ) -> Result<Response<Incoming>, Failure> {
        let slot = pool.next_slot();
        loop {
            let (mut connection, new) = slot
                .open(self.gateway)
                .await
                .map_err(|local| self.no_connection(local))?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    // GOAWAY was read before the request was written.
                    Some(unsent) if !new => request = unsent,
                    _ => return Err(self.no_head(connection.local)),
                },
            }
        }
    }

    fn no_connection(&self, local: Option<SocketAddr>) -> Failure {
        local.map_or(Failure::Refused, |local| self.no_head(local))
    }

    pub fn no_head(&self, local: SocketAddr) -> Failure {
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
