//! [`Connection`]: one connection to one server, with the task that drives it.

use std::error::Error;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

use super::secure::Secure;
use super::server::Server;
use crate::deadline::Deadline;

/// A connection. Dropped, it is closed: its driver is aborted.
pub(super) struct Connection {
    /// Which of the client's servers it leads to.
    pub(super) server: usize,
    pub(super) sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

/// Why one server gave no answer.
pub(super) struct Failure {
    pub(super) what: String,
    /// Nothing speaks against asking again, here or elsewhere.
    pub(super) go_on: bool,
}

impl Connection {
    /// Resolves the name and tries the addresses in turn, each with its share of the time.
    pub(super) async fn open(
        index: usize,
        server: &Server,
        secure: &Secure,
        by: Deadline,
    ) -> Result<Self, Failure> {
        let length = by.remaining().as_millis();
        let addresses: Vec<_> = match by.bound(lookup_host((server.host(), server.port()))).await {
            Some(Ok(addresses)) => addresses.collect(),
            Some(Err(error)) => return Err(Failure::unheard(chain(&error))),
            None => {
                let what = format!("timed out after {length} ms, resolving the name");
                return Err(Failure::unheard(what));
            }
        };
        let mut failed = Vec::new();
        for (turn, address) in addresses.iter().enumerate() {
            let by = share(by, addresses.len() - turn);
            let length = by.remaining().as_millis();
            match by.bound(TcpStream::connect(address)).await {
                Some(Ok(stream)) => {
                    // Each small request waits for its answer: Nagle's algorithm only adds the delay of an ACK.
                    let _ = stream.set_nodelay(true);
                    let Some(started) =
                        by.bound(Self::secured(index, server, secure, stream)).await
                    else {
                        failed.push(format!(
                            "timed out after {length} ms, in the TLS handshake with {address}"
                        ));
                        continue;
                    };
                    return started;
                }
                Some(Err(error)) => failed.push(format!("connecting to {address}: {error}")),
                None => failed.push(format!(
                    "timed out after {length} ms, connecting to {address}"
                )),
            }
        }
        Err(Failure::unheard(failed.join(", ")))
    }

    async fn secured(
        index: usize,
        server: &Server,
        secure: &Secure,
        stream: TcpStream,
    ) -> Result<Self, Failure> {
        if server.is_https() {
            let stream = secure.connect(server, stream).await;
            Self::start(index, stream.map_err(Failure::unheard)?).await
        } else {
            Self::start(index, stream).await
        }
    }

    async fn start(
        server: usize,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::unheard(chain(&error)))?;
        // A set of one, because a set aborts what is in it when it is dropped.
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // How it ended is told to the request in flight, if there is one.
            let _ = connection.await;
        });
        Ok(Self {
            server,
            sender,
            _driver: driver,
        })
    }
}

impl Failure {
    /// The server never heard of the call.
    fn unheard(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            go_on: true,
        }
    }
}

/// An equal share of the time until the deadline, for the next of those that are left.
pub(super) fn share(by: Deadline, left: usize) -> Deadline {
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    by.min(Deadline::after(by.remaining() / left))
}

/// The error and its causes: hyper's own messages leave out what the socket said.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let messages: Vec<_> = causes.map(ToString::to_string).collect();
    messages.join(": ")
}
