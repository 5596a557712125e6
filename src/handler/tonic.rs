//! For tonic: responses that stream, and end with a status when they are told.

use futures::Stream;
use tonic::Status;

use crate::stream::{StopSignal, UntilTold};

impl StopSignal {
    /// The messages until the stream is told to end, then `UNAVAILABLE` in its trailers, which clients take for "call
    /// again, elsewhere". In a method that streams its response:
    ///
    /// ```
    /// use futures::{Stream, StreamExt, stream::BoxStream};
    /// use prestop::StopSignal;
    /// use tonic::{Request, Response, Status};
    ///
    /// async fn watch(request: Request<()>) -> Result<Response<BoxStream<'static, Result<u32, Status>>>, Status> {
    ///     let prices = futures::stream::repeat(42).map(Ok);
    ///     Ok(Response::new(match request.extensions().get::<StopSignal>() {
    ///         Some(stop) => stop.grpc(prices).boxed(),
    ///         None => prices.boxed(), // neither under `serve` nor behind a `DrainLayer`
    ///     }))
    /// }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
    pub fn grpc<S, T>(&self, messages: S) -> UntilTold<S>
    where
        S: Stream<Item = Result<T, Status>>,
    {
        self.until_told(messages)
            .with_last(|| Err(Status::unavailable("the server is stopping")))
    }
}
