//! A request at the edge: its head, when it ends, and what a handler can learn of its connection.
//!
//! A request ends when its response body has ended or was dropped, not when its handler returned (T5).

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::BoxError;
use crate::phase::Phase;
use crate::state::{LateRequests, State};
use crate::stream::{Piece, StreamBody};

/// The head of a request, as a predicate sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    pub(crate) fn of<B>(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        }
    }

    /// Method and path, or where a tunnel leads (CONNECT has no path); never the query, which may hold secrets.
    pub(crate) fn route(&self) -> String {
        let target = match (self.uri.path(), self.uri.authority()) {
            ("", Some(authority)) => {
                let authority = authority.as_str();
                authority.rsplit_once('@').map_or(authority, |(_, at)| at)
            }
            (path, _) => path,
        };
        format!("{} {target}", self.method)
    }
}

/// Says which requests are exempt: probes, metrics scrapes, health watches. They never delay a stop (S11).
pub(crate) type Exempt = Arc<dyn Fn(Head<'_>) -> bool + Send + Sync>;

/// Whether a request is exempt: because the user says so, or because it is a stream of gRPC that waits for news of this
/// very server and so ends only with it.
pub(crate) fn is_exempt(by_user: Option<&Exempt>, head: Head<'_>) -> bool {
    matches!(
        head.uri.path(),
        "/grpc.health.v1.Health/Watch"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    ) || by_user.is_some_and(|is_exempt| is_exempt(head))
}

/// What `serve` tells a handler about the connection of its request, as a request extension.
///
/// ```
/// # use prestop::ConnectionInfo;
/// async fn handler(info: http::Request<()>) -> String {
///     let peer = info.extensions().get::<ConnectionInfo>().and_then(ConnectionInfo::peer);
///     format!("hello {peer:?}")
/// }
/// ```
#[derive(Clone)]
pub struct ConnectionInfo {
    peer: Option<SocketAddr>,
    request: Arc<dyn Countable>,
    key: usize,
}

impl ConnectionInfo {
    #[cfg_attr(not(feature = "server"), allow(dead_code))]
    pub(crate) const fn new(
        peer: Option<SocketAddr>,
        request: Arc<dyn Countable>,
        key: usize,
    ) -> Self {
        Self { peer, request, key }
    }

    /// The client's address; `None` on a Unix socket.
    #[must_use]
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The request is counted already: the layer only passes on what it knows better.
    pub(crate) fn exempt(&self) {
        self.request.exempt(self.key);
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Who counts the requests of a connection.
pub(crate) trait Countable: Send + Sync {
    fn exempt(&self, key: usize);
}

/// Held by the response body: dropped, the request is over.
pub trait Ticket: Unpin {
    /// The last byte of the answer was handed over.
    fn answered(&mut self);
}

/// Sees when the last frame of an answer's body was handed over. The body's own end does not say it: a server asks
/// for no frame after trailers, and for none once `Content-Length` is reached.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Bytes still to come, where that is known.
    left: Option<u64>,
    over: bool,
}

impl Ending {
    /// `empty` for answers whose body is never asked for: to HEAD, 204, 304.
    pub(crate) fn of<B: Body>(response: &http::Response<B>, empty: bool) -> Self {
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let left = match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
            Some(length) => Some(length),
            None => response.body().size_hint().exact(),
        };
        Self {
            left,
            // A server does not poll a body that says it has ended.
            over: empty || left == Some(0) || response.body().is_end_stream(),
        }
    }

    /// Of an answer without a body.
    pub(crate) const fn none() -> Self {
        Self {
            left: Some(0),
            over: true,
        }
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    /// Takes note of what the body gave; whether the answer is whole now.
    pub(crate) fn saw<D: bytes::Buf, E>(
        &mut self,
        frame: &Option<Result<Frame<D>, E>>,
        is_end_stream: bool,
    ) -> bool {
        self.over |= match frame {
            // Short of its length, the server breaks it off.
            None => self.left.is_none_or(|left| left == 0),
            Some(Err(_)) => false,
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.remaining() as u64);
                }
                is_end_stream || frame.is_trailers() || self.left == Some(0)
            }
        };
        self.over
    }
}

pin_project! {
    /// A response body that keeps its request in flight until it has ended or is dropped. A stream among them hears of
    /// the stop.
    #[derive(Debug)]
    pub struct TrackedBody<B, T> {
        #[pin]
        body: StreamBody<B>,
        ending: Ending,
        ticket: T,
    }
}

impl<B: Body, T: Ticket> TrackedBody<B, T> {
    pub(crate) fn new(body: StreamBody<B>, ending: Ending, mut ticket: T) -> Self {
        if ending.is_over() {
            ticket.answered();
        }
        Self {
            body,
            ending,
            ticket,
        }
    }
}

impl<B, T: Ticket> Body for TrackedBody<B, T>
where
    B: Body<Data: From<Bytes>, Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx)).map(|frame| {
            frame.map(|frame| {
                frame.map_data(|piece| match piece {
                    Piece::Theirs(data) => data,
                    Piece::Ours(bytes) => bytes.into(),
                })
            })
        });
        if this.ending.saw(&frame, this.body.is_end_stream()) {
            this.ticket.answered();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether an answer has no body on the wire, whatever its `Body` would say.
pub(crate) fn has_no_body(method: &Method, status: http::StatusCode) -> bool {
    method == Method::HEAD
        || status == http::StatusCode::NO_CONTENT
        || status == http::StatusCode::NOT_MODIFIED
        || status.is_informational()
}

/// Whether a request that arrives now is refused though the drain is on: as the service chose.
pub(crate) fn is_refused(state: &State) -> bool {
    state.phase() >= Phase::Draining && state.settings.late_requests == LateRequests::Refuse
}

/// Whether HTTP ends with this answer: what comes next on its socket, or its stream, is the handler's.
pub(crate) fn leaves_http(version: Version, method: &Method, status: http::StatusCode) -> bool {
    let tunnel = *method == Method::CONNECT && status.is_success();
    tunnel || (version <= Version::HTTP_11 && status == http::StatusCode::SWITCHING_PROTOCOLS)
}

/// Asks an HTTP/1 client to close the connection after this answer, which must not be one that
/// [leaves HTTP](leaves_http). On HTTP/2 the header is forbidden (RFC 9113, 8.2.2); there GOAWAY says it.
pub(crate) fn say_close(version: Version, headers: &mut HeaderMap) {
    let close = http::HeaderValue::from_static("close");
    if version > Version::HTTP_11 {
        return;
    }
    // An offer to upgrade, as in a 426, must be listed in `Connection`, too (RFC 9110, 7.8).
    if headers.contains_key(http::header::UPGRADE) {
        headers.append(http::header::CONNECTION, close);
    } else {
        headers.insert(http::header::CONNECTION, close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_the_path_or_the_tunnel_and_no_secret() {
        let route = |method: Method, uri: &str| {
            let request = http::Request::builder().method(method).uri(uri).body(());
            Head::of(&request.unwrap()).route()
        };
        assert_eq!(route(Method::GET, "/orders?token=1"), "GET /orders");
        assert_eq!(route(Method::GET, "http://user@test/orders"), "GET /orders");
        assert_eq!(
            route(Method::CONNECT, "db.test:5432"),
            "CONNECT db.test:5432"
        );
        assert_eq!(
            route(Method::CONNECT, "user:pass@db.test:5432"),
            "CONNECT db.test:5432"
        );
        assert_eq!(route(Method::OPTIONS, "*"), "OPTIONS *");
    }
}
