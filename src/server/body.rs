//! [`ServedBody`]: a response body whose request lasts until its last byte was handed to the socket.
//!
//! A body that has ended is not an answer that was sent: hyper holds frames until the client takes them, behind a
//! full socket or a closed HTTP/2 window. So each data frame holds the request, too.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::BoxError;
use crate::request::Ending;
use crate::stream::{Piece, StreamBody};

use super::ticket::RequestTicket;

pin_project! {
    /// The response body that hyper sees.
    pub(super) struct ServedBody<B> {
        #[pin]
        body: StreamBody<B>,
        ending: Ending,
        ticket: Hold,
    }
}

/// A request, held open. Most bodies are one frame, and that one can have it for itself.
enum Hold {
    Own(RequestTicket),
    Shared(Arc<RequestTicket>),
    /// The last frame has it.
    Gone,
}

impl Hold {
    fn ticket(&self) -> Option<&RequestTicket> {
        match self {
            Self::Own(ticket) => Some(ticket),
            Self::Shared(ticket) => Some(ticket),
            Self::Gone => None,
        }
    }

    /// For a frame that others follow.
    fn share(&mut self) -> Self {
        let shared = match std::mem::replace(self, Self::Gone) {
            Self::Own(ticket) => Arc::new(ticket),
            Self::Shared(ticket) => ticket,
            Self::Gone => return Self::Gone,
        };
        *self = Self::Shared(shared.clone());
        Self::Shared(shared)
    }
}

impl<B: Body> ServedBody<B> {
    /// Of an answer that is ours, to a request that counts for nothing.
    pub(super) const fn refusal() -> Self {
        Self {
            body: StreamBody::empty(),
            ending: Ending::none(),
            ticket: Hold::Gone,
        }
    }

    pub(super) fn new(body: StreamBody<B>, ending: Ending, ticket: RequestTicket) -> Self {
        if ending.is_over() {
            ticket.ended();
        }
        Self {
            body,
            ending,
            ticket: Hold::Own(ticket),
        }
    }
}

impl<B> Body for ServedBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = ServedData<B::Data>;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let over = this.ending.saw(&frame, this.body.is_end_stream());
        if over && let Some(ticket) = this.ticket.ticket() {
            ticket.ended();
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|data| ServedData {
                    data,
                    ticket: if over {
                        std::mem::replace(this.ticket, Hold::Gone)
                    } else {
                        this.ticket.share()
                    },
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer that are still to be sent.
pub(super) struct ServedData<D: Buf> {
    data: Piece<D>,
    ticket: Hold,
}

impl<D: Buf> Drop for ServedData<D> {
    fn drop(&mut self) {
        if self.data.has_remaining()
            && let Some(ticket) = self.ticket.ticket()
        {
            ticket.lost();
        }
    }
}

impl<D: Buf> Buf for ServedData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [std::io::IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(to)
    }

    fn advance(&mut self, by: usize) {
        self.data.advance(by);
    }

    fn copy_to_bytes(&mut self, len: usize) -> bytes::Bytes {
        self.data.copy_to_bytes(len)
    }
}
