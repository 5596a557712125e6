//! [`HttpClient`]: the one small HTTP/1 client of the adapters whose registries speak HTTP.
//!
//! Not a general client: no redirects, no proxies, one idle connection, answers of at most 1 MiB where a call does not
//! allow more. What it does better than one is to end by its deadline, and to say what it tried, where, and how far it
//! got.

// Each adapter is a feature of its own and uses its part of this.
#![allow(dead_code, unused_imports)]

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::registry::RegistryError;
#[cfg(feature = "tls")]
use crate::registry::Tls;
use crate::sync::lock;

mod call;
mod connection;
mod last_gasp;
mod secure;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use call::{Answer, Call, encode};
use connection::{Connection, Failure, chain, share};
use secure::Secure;
use server::Server;

/// A client of the servers of one registry, any of which can be asked.
///
/// A call begins with the server that answered last. It goes on to the next when a server can't be reached, or
/// closed the connection without an answer and the call may be repeated. A server that let a call time out or
/// answered with 5xx is not the first to be asked by the next call.
///
/// The task that drives a connection ends with the call that is dropped, or with the client.
pub(crate) struct HttpClient {
    servers: Vec<Server>,
    headers: HeaderMap,
    /// The server that the next call begins with.
    preferred: AtomicUsize,
    idle: Mutex<Option<Connection>>,
    secure: Secure,
}

/// How far a call got; read when the deadline cut it.
struct Progress {
    server: usize,
    step: &'static str,
    /// A server may have heard the call.
    heard: bool,
    /// What happened at the servers before this one.
    failed: Vec<String>,
}

impl HttpClient {
    /// A client of these servers, each `http[s]://host[:port][/prefix]`.
    ///
    /// # Errors
    ///
    /// When there is none, or one is something else.
    pub(crate) fn new<U: AsRef<str>>(
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Self, RegistryError> {
        let servers = urls
            .into_iter()
            .map(|url| Server::parse(url.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(RegistryError::new("no URL of a registry was given"));
        }
        let user_agent = concat!("prestop/", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            servers,
            headers: HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(user_agent))]),
            preferred: AtomicUsize::new(0),
            idle: Mutex::new(None),
            secure: Secure::default(),
        })
    }

    /// The same client, sending this header with every call. The value is shown nowhere: it may be a token.
    ///
    /// # Errors
    ///
    /// When no header can carry the value.
    pub(crate) fn with_header(
        mut self,
        name: HeaderName,
        value: &str,
    ) -> Result<Self, RegistryError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            RegistryError::new(format!("the value for the header {name} is not valid"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The same client, sending this as `Authorization` to the server with this number, and to no other.
    pub(crate) fn with_authorization(mut self, server: usize, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.servers[server].authorize(value);
        self
    }

    /// How many servers there are; they are numbered from zero, in the order in which they were given.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// From now on https servers are spoken to like this; else as the system does it.
    #[cfg(feature = "tls")]
    pub(crate) fn use_tls(&self, tls: &Tls) {
        self.secure.set(tls);
    }

    /// Makes the call, and reads the whole answer, by the deadline. Any status is an answer.
    ///
    /// # Errors
    ///
    /// When no server answered by then: [unknown](RegistryError::unknown) where one may have heard the call all the
    /// same.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the connection in use. The registry may have heard the call.
    pub(crate) async fn send(&self, call: &Call, by: Deadline) -> Result<Answer, RegistryError> {
        let all = self.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let servers = (0..all).map(|turn| (first + turn) % all).collect();
        self.send_to_one_of(servers, call, by).await
    }

    /// The same, asking the server with this number alone.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As that of [`send`](Self::send).
    pub(crate) async fn send_to(
        &self,
        server: usize,
        call: &Call,
        by: Deadline,
    ) -> Result<Answer, RegistryError> {
        self.send_to_one_of(vec![server], call, by).await
    }

    async fn send_to_one_of(
        &self,
        servers: Vec<usize>,
        call: &Call,
        by: Deadline,
    ) -> Result<Answer, RegistryError> {
        let begun = Instant::now();
        let mut progress = Progress {
            server: 0,
            step: "connecting",
            heard: false,
            failed: Vec::new(),
        };
        let asking = self.ask_all(&servers, call, by, &mut progress);
        if let Some(outcome) = by.bound(asking).await {
            return outcome;
        }
        self.turn_from(progress.server);
        let waited = begun.elapsed().as_millis();
        progress.failed.push(format!(
            "{}: timed out after {waited} ms, {}",
            call.shown(&self.servers[progress.server]),
            progress.step
        ));
        Err(progress.error())
    }

    async fn ask_all(
        &self,
        servers: &[usize],
        call: &Call,
        by: Deadline,
        progress: &mut Progress,
    ) -> Result<Answer, RegistryError> {
        for (turn, server) in servers.iter().enumerate() {
            progress.server = *server;
            // A server that swallows packets takes its share of the time, not all of it.
            let by = share(by, servers.len() - turn);
            match self.ask(call, by, progress).await {
                Ok(answer) => {
                    if answer.status.is_server_error() {
                        self.turn_from(progress.server);
                    }
                    return Ok(answer);
                }
                Err(Failure { what, go_on }) => {
                    self.turn_from(progress.server);
                    let call = call.shown(&self.servers[progress.server]);
                    progress.failed.push(format!("{call}: {what}"));
                    if !go_on {
                        break;
                    }
                }
            }
        }
        Err(progress.error())
    }

    /// Asks one server, on the idle connection if that leads to it.
    async fn ask(
        &self,
        call: &Call,
        connected_by: Deadline,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let idle = lock(&self.idle).take();
        if let Some(mut connection) = idle.filter(|c| c.server == progress.server) {
            progress.step = "waiting for the idle connection";
            if connection.sender.ready().await.is_ok() {
                match self.exchange(call, connection, progress).await {
                    // The server closed it while the request was on its way.
                    Err(failure) if failure.go_on => {}
                    outcome => return outcome,
                }
            }
        }
        progress.step = "connecting";
        let server = &self.servers[progress.server];
        let connection =
            Connection::open(progress.server, server, &self.secure, connected_by).await?;
        self.exchange(call, connection, progress).await
    }

    async fn exchange(
        &self,
        call: &Call,
        mut connection: Connection,
        progress: &mut Progress,
    ) -> Result<Answer, Failure> {
        let server = &self.servers[progress.server];
        let request = call.request(server, &self.headers)?;
        progress.step = "waiting for the answer";
        let heard_before = std::mem::replace(&mut progress.heard, true);
        let answer = connection.sender.send_request(request).await;
        let answer = answer.map_err(|error| {
            // Canceled: never sent.
            progress.heard = heard_before || !error.is_canceled();
            Failure {
                // What answers with something else than HTTP would do so again.
                go_on: error.is_canceled() || (call.is_idempotent() && !error.is_parse()),
                what: chain(&error),
            }
        })?;
        let (head, body) = answer.into_parts();
        progress.step = "reading the body of the answer";
        let limit = call.answer_limit();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| Failure {
            go_on: false,
            what: if error.is::<LengthLimitError>() {
                format!("the body of the answer is longer than {limit} bytes")
            } else {
                chain(&*error)
            },
        })?;
        // Whether it stays open is asked when it is needed.
        let displaced = lock(&self.idle).replace(connection);
        drop(displaced);
        let answer = Answer::new(head.status, body.to_bytes(), call.shown(server));
        Ok(answer.with_headers(head.headers))
    }

    /// The next call begins with the server after this one, unless another call already turned from it.
    fn turn_from(&self, server: usize) {
        let next = (server + 1) % self.servers.len();
        // Relaxed: a hint that orders nothing. Where it fails somebody else has turned.
        let _ = self
            .preferred
            .compare_exchange(server, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Progress {
    fn error(&self) -> RegistryError {
        let message = self.failed.join("; ");
        if self.heard {
            RegistryError::unknown(message)
        } else {
            RegistryError::new(message)
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("servers", &self.servers)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
