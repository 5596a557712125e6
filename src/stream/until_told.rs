//! [`UntilTold`]: any stream, until the stop tells it to end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;

use super::StopSignal;

pin_project! {
    /// A stream until it is told to end; from [`StopSignal::until_told`].
    #[must_use = "a stream does nothing until it is polled"]
    pub struct UntilTold<S: Stream> {
        // Given back when the stream is told: what it holds is free while the last item is still on its way.
        #[pin]
        stream: Option<S>,
        reached: BoxFuture<'static, ()>,
        told: bool,
        last: Option<Box<dyn FnOnce() -> S::Item + Send>>,
        signal: StopSignal,
    }
}

impl<S: Stream> UntilTold<S> {
    pub(super) fn new(signal: &StopSignal, stream: S) -> Self {
        Self {
            stream: Some(stream),
            reached: Box::pin(signal.told()),
            told: false,
            last: None,
            signal: signal.clone(),
        }
    }

    /// The last item of a stream that is told: a farewell event, a status. A stream that ends by itself has none.
    pub fn with_last(mut self, last: impl FnOnce() -> S::Item + Send + 'static) -> Self {
        self.last = Some(Box::new(last));
        self
    }
}

impl<S: Stream> Stream for UntilTold<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        if !*this.told {
            *this.told = this.reached.as_mut().poll(cx).is_ready();
            // What is ready in this moment still comes; a stream that always has one more ends all the same.
            match stream.poll_next(cx) {
                Poll::Ready(None) => {
                    this.stream.set(None);
                    this.signal.over();
                    return Poll::Ready(None);
                }
                Poll::Pending if *this.told => {}
                polled => return polled,
            }
        }
        this.stream.set(None);
        Poll::Ready(this.last.take().map(|last| last()))
    }
}

impl<S: Stream> fmt::Debug for UntilTold<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilTold")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}
