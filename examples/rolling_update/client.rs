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

use crate::gateway::Refused;
use crate::mix::{Ask, Via};
use crate::pool::{Http2Pool, KeepAlive, Member};
use crate::wire::{Http1, NoBody};

/// Why a request failed, in the order in which a request meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens at the address the gateway dialled, or it knows no address.
    Refused,
    /// Reset or closed before there was a complete response head.
    Reset,
    /// The body ended early, or has the wrong length.
    Cut,
    /// Answered, but not with 200 (the service never answers anything else on purpose).
    Http5xx,
    /// Not over in time.
    TimedOut,
}

/// All clients of the gateway.
pub struct Clients {
    gateway: SocketAddr,
    refused: Refused,
    keep_alive: KeepAlive,
    slow: KeepAlive,
    http2: Http2Pool,
}

impl Clients {
    pub fn new(gateway: SocketAddr, refused: Refused, rate: u32) -> Self {
        Self {
            gateway,
            refused,
            keep_alive: KeepAlive::new(crate::mix::keep_alive_connections(rate)),
            slow: KeepAlive::new(crate::mix::slow_connections(rate)),
            http2: Http2Pool::new(crate::mix::http2_connections(rate)),
        }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    ///
    /// Why it failed, for the client's row in the table.
    pub async fn send(&self, ask: Ask) -> Result<(), Failure> {
        match ask.via {
            Via::KeepAlive => self.send_kept(&self.keep_alive, ask).await,
            Via::SlowKeepAlive => self.send_kept(&self.slow, ask).await,
            Via::NewConnection => {
                let mut connection = self.dial_http1().await?;
                self.http1(&mut connection, http1_request(&ask.path), ask.bytes)
                    .await
                    .map(drop)
            }
            Via::Http2 => self.http2(ask).await,
        }
    }

    /// The same by a connection of this pool.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_kept(&self, pool: &KeepAlive, ask: Ask) -> Result<(), Failure> {
        let mut request = http1_request(&ask.path);
        while let Some(mut kept) = pool.take() {
            match kept.connection.sender.try_send_request(request).await {
                Ok(response) => return self.finish_kept(pool, kept, response, ask.bytes).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.no_head(kept.connection.local)),
                },
            }
        }
        let mut new = Member::new(pool, self.dial_http1().await?);
        match self.http1(&mut new.connection, request, ask.bytes).await? {
            Reuse::Yes => pool.put(new).await,
            Reuse::No => {}
        }
        Ok(())
    }

    async fn finish_kept(
        &self,
        pool: &KeepAlive,
        kept: Member,
        response: Response<Incoming>,
        bytes: usize,
    ) -> Result<(), Failure> {
        match read_answer(response, bytes).await? {
            Reuse::Yes => pool.put(kept).await,
            Reuse::No => {}
        }
        Ok(())
    }

    /// One request on a connection dialled for it.
    async fn http1(
        &self,
        connection: &mut Http1,
        request: Request<NoBody>,
        bytes: usize,
    ) -> Result<Reuse, Failure> {
        match connection.sender.try_send_request(request).await {
            Ok(response) => read_answer(response, bytes).await,
            Err(_) => Err(self.no_head(connection.local)),
        }
    }

    async fn http2(&self, ask: Ask) -> Result<(), Failure> {
        let mut request = Request::builder()
            .uri(format!("http://{SERVICE_HOST}{}", ask.path))
            .body(NoBody::new())
            .expect("the path is one of ours, and valid");
        let slot = self.http2.next_slot();
        loop {
            let (mut connection, new) = slot
                .open(self.gateway)
                .await
                .map_err(|local| self.no_connection(local))?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => return read_answer(response, ask.bytes).await.map(drop),
                Err(mut error) => match error.take_message() {
                    // GOAWAY was read before the request was written.
                    Some(unsent) if !new => request = unsent,
                    _ => return Err(self.no_head(connection.local)),
                },
            }
        }
    }

    async fn dial_http1(&self) -> Result<Http1, Failure> {
        Http1::dial(self.gateway)
            .await
            .map_err(|local| self.no_connection(local))
    }

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
