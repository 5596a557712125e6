//! Streams: answers that end when somebody ends them. What the stop does to them, and what a handler can know of it.

mod body;
mod events;
mod messages;
mod moment;
mod signal;
mod until_told;

pub(crate) use body::{Piece, StreamBody};
pub(crate) use messages::{DEADLINE_EXCEEDED, is_grpc, only_trailers, refusal};
pub use signal::StopSignal;
pub use until_told::UntilTold;

/// What the stop does to a stream. Set per route with [`StreamLayer`](crate::StreamLayer), per request with
/// [`StopSignal::set_policy`], or per answer: as an extension of the response.
///
/// Without one, by what the answer is: server-sent events (`content-type: text/event-stream`) in answer to GET, and
/// WebSockets, are told; everything else finishes. Server-sent events in answer to POST are a finite answer in pieces,
/// as language models give it, and no `EventSource` would ask for the rest.
///
/// ```
/// use axum::{Extension, response::{IntoResponse, Sse, sse::Event}};
/// use prestop::StreamPolicy;
///
/// /// Ends by itself, in time: let it.
/// async fn progress() -> impl IntoResponse {
///     let steps = futures::stream::iter([Ok::<_, std::convert::Infallible>(Event::default().data("100 %"))]);
///     (Extension(StreamPolicy::Finish), Sse::new(steps))
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamPolicy {
    /// It runs to its own end within the drain, and is cut at the deadline like every other request. It is never told.
    Finish,
    /// It is ended cleanly when streams are [told](crate::TellAt): server-sent events after a whole event, with a last
    /// comment and the proper end of the body; a gRPC stream after a whole message, with `UNAVAILABLE` in its trailers;
    /// whatever has a handler that listens to [`StopSignal`], by that handler. What can be ended by nobody (an upgraded
    /// socket, an answer that is neither) runs on as with `Finish`.
    Tell,
    /// It is broken off, without a word, when it would be told: its body is dropped, an HTTP/1 connection closes without
    /// the end of the body, an HTTP/2 stream is reset. The client sees that it is incomplete. Counted as cut in the
    /// report's [`streams`](crate::ShutdownReport::streams), but no straggler: it was asked for, and the exit code stays
    /// what it is. Before its head was sent an answer is not touched. An upgraded socket (WebSocket, `CONNECT`) is broken off on
    /// HTTP/1 under [`serve`](crate::ShutdownCoordinator::serve), and not touched elsewhere.
    Cut,
}
