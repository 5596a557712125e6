//! The registry's HTTP front.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Body, Listed, MemoryRegistry};

/// Long enough for some descriptors to come back, short enough to go unnoticed.
const PAUSE: Duration = Duration::from_millis(50);

/// An instance is described in far less.
const BODY_LIMIT: usize = 64 * 1024;

impl MemoryRegistry {
    /// Lets other processes use this registry over HTTP ([the calls](super#over-http)). Never ends: when accepting
    /// fails, because the process is out of file descriptors for instance, it goes on a little later.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the listener and every connection. What was registered stays in the other clones.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let registry = self.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| {
                            let registry = registry.clone();
                            async move { Ok::<_, Infallible>(registry.answer(request).await) }
                        });
                        let connection =
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a connection to the memory registry broke");
                        }
                    });
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "the memory registry cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let segments: Result<Vec<_>, _> = path
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8())
            .collect();
        let Ok(segments) = segments else {
            return text(StatusCode::BAD_REQUEST, "the path is not UTF-8");
        };
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        match *segments.as_slice() {
            ["", "v1", "services", service, "instances"] => match *request.method() {
                Method::GET => json(&self.instances(service)),
                _ => not_allowed("GET"),
            },
            ["", "v1", "services", service, "instances", id] if !id.is_empty() => {
                match *request.method() {
                    Method::GET => match self.find(service, id) {
                        Some(listed) => json(&listed),
                        None => known(false),
                    },
                    Method::DELETE => known(self.remove(service, id)),
                    Method::PUT => {
                        let (service, id) = (service.to_owned(), id.to_owned());
                        self.answer_put(&service, id, request).await
                    }
                    _ => not_allowed("GET, PUT, DELETE"),
                }
            }
            ["", "v1", "services", service, "instances", id, "heartbeat"] => {
                match *request.method() {
                    Method::PUT => known(self.beat(service, id)),
                    _ => not_allowed("PUT"),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    async fn answer_put(
        &self,
        service: &str,
        id: String,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let ttl = match ttl_ms(request.uri().query().unwrap_or_default()) {
            Ok(ttl) => ttl.unwrap_or(self.ttl),
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        let Ok(body) = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await
        else {
            return text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too long, or broke off",
            );
        };
        let Body { address, metadata } = match serde_json::from_slice(&body.to_bytes()) {
            Ok(body) => body,
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let listed = Listed {
            id,
            address,
            metadata,
        };
        self.put(service, listed, ttl);
        known(true)
    }
}

/// The peer gave up before it was accepted: the next one can be taken at once.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

fn ttl_ms(query: &str) -> Result<Option<Duration>, &'static str> {
    let mut values = query.split('&').filter_map(|q| q.strip_prefix("ttl_ms="));
    match values.next().map(str::parse) {
        None => Ok(None),
        Some(Ok(ttl)) if ttl > 0 => Ok(Some(Duration::from_millis(ttl))),
        Some(_) => Err("ttl_ms is a whole number of at least 1"),
    }
}

fn known(is_known: bool) -> Response<Full<Bytes>> {
    if is_known {
        with(StatusCode::NO_CONTENT, "")
    } else {
        text(StatusCode::NOT_FOUND, "no such instance")
    }
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => typed(with(StatusCode::OK, body), "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(with(status, body), "text/plain; charset=utf-8")
}

fn typed(mut response: Response<Full<Bytes>>, as_type: &'static str) -> Response<Full<Bytes>> {
    let as_type = HeaderValue::from_static(as_type);
    response.headers_mut().insert(CONTENT_TYPE, as_type);
    response
}

fn with(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
