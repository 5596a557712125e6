//! [`StreamLayer`]: the stream policy of a route.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use crate::state::TellAt;
use crate::stream::{StopSignal, StreamPolicy};

/// Sets the policy of the streams of a route, or when they are told.
///
/// It goes inside of what gives requests their [`StopSignal`]: under [`serve`](crate::ShutdownCoordinator::serve)
/// anywhere, else further in than the [`DrainLayer`](crate::DrainLayer). Without one it does nothing.
///
/// ```
/// use axum::{Router, routing::get};
/// use prestop::{StreamLayer, StreamPolicy, TellAt};
///
/// async fn handler() {}
/// let app: Router = Router::new()
///     .route("/export", get(handler).layer(StreamLayer::new(StreamPolicy::Finish)))
///     .route("/feed", get(handler).layer(StreamLayer::new(StreamPolicy::Tell).at(TellAt::LameDuck)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StreamLayer {
    policy: StreamPolicy,
    at: Option<TellAt>,
}

impl StreamLayer {
    /// This policy for every stream of the route.
    #[must_use]
    pub const fn new(policy: StreamPolicy) -> Self {
        Self { policy, at: None }
    }

    /// When they are told. Default: as the coordinator says
    /// ([`tell_streams_at`](crate::ShutdownCoordinatorBuilder::tell_streams_at)).
    #[must_use]
    pub const fn at(mut self, at: TellAt) -> Self {
        self.at = Some(at);
        self
    }
}

impl<S> Layer<S> for StreamLayer {
    type Service = StreamService<S>;

    fn layer(&self, inner: S) -> StreamService<S> {
        StreamService {
            inner,
            layer: *self,
        }
    }
}

/// The service of a [`StreamLayer`].
#[derive(Clone, Debug)]
pub struct StreamService<S> {
    inner: S,
    layer: StreamLayer,
}

impl<S, A> Service<Request<A>> for StreamService<S>
where
    S: Service<Request<A>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> S::Future {
        if let Some(stop) = request.extensions().get::<StopSignal>() {
            stop.set_policy(self.layer.policy);
            if let Some(at) = self.layer.at {
                stop.set_tell_at(at);
            }
        }
        self.inner.call(request)
    }
}
