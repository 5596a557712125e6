//! For axum: the extractor, and server-sent events that end when they are told.

use std::fmt;

use axum::extract::FromRequestParts;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::StatusCode;
use http::request::Parts;

use crate::stream::{StopSignal, UntilTold};

impl StopSignal {
    /// The events until the stream is told to end, then a comment, and the proper end of the answer. For farewells of
    /// one's own: [`until_told`](Self::until_told) and [`with_last`](UntilTold::with_last). Without either, an answer
    /// to GET ends between two events all the same.
    ///
    /// ```
    /// use axum::response::sse::{Event, Sse};
    /// use futures::{Stream, StreamExt};
    /// use prestop::StopSignal;
    /// use std::convert::Infallible;
    ///
    /// async fn prices(stop: StopSignal) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    ///     let prices = futures::stream::repeat(42).map(|price| Ok(Event::default().data(price.to_string())));
    ///     Sse::new(stop.sse(prices))
    /// }
    /// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(prices));
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
    pub fn sse<S, E>(&self, events: S) -> UntilTold<S>
    where
        S: Stream<Item = Result<Event, E>>,
    {
        self.until_told(events)
            .with_last(|| Ok(Event::default().comment("stopping")))
    }
}

impl<S: Sync> FromRequestParts<S> for StopSignal {
    type Rejection = NoStopSignal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, NoStopSignal> {
        parts.extensions.get().cloned().ok_or(NoStopSignal)
    }
}

/// A request without a [`StopSignal`]: it came neither through `serve` nor through a `DrainLayer`. Answered 500.
#[derive(Clone, Copy, Debug)]
pub struct NoStopSignal;

impl fmt::Display for NoStopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the request has no prestop::StopSignal: serve the app with `coordinator.serve`, or wrap it in `coordinator.layer()`",
        )
    }
}

impl std::error::Error for NoStopSignal {}

impl IntoResponse for NoStopSignal {
    fn into_response(self) -> Response {
        tracing::error!(error = %self, "extractor");
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
