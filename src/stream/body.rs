//! [`StreamBody`]: a response body that ends cleanly, or is broken off, when its stream is told.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Response, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::ReusableBoxFuture;

use crate::error::BoxError;

use super::events::Events;
use super::messages::{self, Messages, is_grpc};
use super::{StopSignal, StreamPolicy};

/// What goes before the end of a body of server-sent events: a client skips it, a human sees why.
const LAST_COMMENT: &[u8] = b": stopping\n\n";

pin_project! {
    /// A response body; where it is a stream, one that hears of the stop.
    #[derive(Debug)]
    pub(crate) struct StreamBody<B> {
        // None is an answer without a body, or one that was ended.
        #[pin]
        body: Option<B>,
        told: Option<Box<Told>>,
    }
}

/// What listens for a stream.
#[derive(Debug)]
struct Told {
    signal: StopSignal,
    reached: ReusableBoxFuture<'static, ()>,
    is_reached: bool,
    ending: How,
}

/// How it ends.
#[derive(Debug)]
enum How {
    Events(Events),
    Messages(Messages),
    Cut,
    /// By its handler: only the end is taken note of.
    ByHandler,
    /// The end was put, or the break.
    Over,
}

/// Bytes of an answer: the handler's, or ours.
#[derive(Debug)]
pub(crate) enum Piece<D> {
    Theirs(D),
    Ours(Bytes),
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        match self {
            Self::Theirs(data) => data.remaining(),
            Self::Ours(data) => data.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Theirs(data) => data.chunk(),
            Self::Ours(data) => data.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [std::io::IoSlice<'a>]) -> usize {
        match self {
            Self::Theirs(data) => data.chunks_vectored(to),
            Self::Ours(data) => data.chunks_vectored(to),
        }
    }

    fn advance(&mut self, by: usize) {
        match self {
            Self::Theirs(data) => data.advance(by),
            Self::Ours(data) => data.advance(by),
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        match self {
            Self::Theirs(data) => data.copy_to_bytes(len),
            Self::Ours(data) => data.copy_to_bytes(len),
        }
    }
}

impl<B: Body> StreamBody<B> {
    /// The body of an answer to a request with this method. Without a signal it is left alone.
    pub(crate) fn of(
        signal: Option<&StopSignal>,
        method: &Method,
        response: Response<B>,
    ) -> Response<Self> {
        let told = signal.and_then(|signal| {
            let ending = how(signal, method, &response)?;
            Some(Box::new(Told {
                signal: signal.clone(),
                reached: ReusableBoxFuture::new(signal.reached()),
                is_reached: false,
                ending,
            }))
        });
        response.map(|body| Self {
            body: Some(body),
            told,
        })
    }

    pub(crate) const fn empty() -> Self {
        Self {
            body: None,
            told: None,
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.body {
            None => SizeHint::with_exact(0),
            Some(body) => body.size_hint(),
        }
    }
}

/// How the stop ends this answer; `None` where it does not.
fn how<B: Body>(signal: &StopSignal, method: &Method, response: &Response<B>) -> Option<How> {
    let headers = response.headers();
    let policy = response.extensions().get().copied().or(signal.policy());
    // Of a known length, it is an answer and no stream.
    let is_finite = headers.contains_key(header::CONTENT_LENGTH)
        || response.body().size_hint().exact().is_some();
    match policy {
        Some(StreamPolicy::Finish) => None,
        _ if is_finite => None,
        _ if signal.is_told_by_handler() => Some(How::ByHandler),
        Some(StreamPolicy::Cut) => Some(How::Cut),
        Some(StreamPolicy::Tell) if is_grpc(headers) => Some(How::Messages(Messages::default())),
        Some(StreamPolicy::Tell) if is_events(headers) => Some(How::Events(Events::new())),
        None if is_events(headers) && *method == Method::GET => Some(How::Events(Events::new())),
        _ => None,
    }
}

/// Whether these are server-sent events that can be read: compressed, they have no end that is seen from outside.
fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let name = kind.and_then(|kind| kind.split(';').next());
    let plain = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    plain && name.is_some_and(|name| name.trim().eq_ignore_ascii_case("text/event-stream"))
}

type Polled<D> = Poll<Option<Result<Frame<Piece<D>>, BoxError>>>;

impl<B> StreamBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    pub(crate) fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(told) = this.told else {
            let frame = ready!(body.poll_frame(cx));
            return Poll::Ready(frame.map(theirs));
        };
        if let Some(end) = told.end(cx) {
            // What the handler's stream holds is free before the end is sent.
            this.body.set(None);
            return Poll::Ready(Some(end));
        }
        let frame = ready!(body.poll_frame(cx));
        if frame.is_none() {
            told.signal.over();
        }
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => Ok(Frame::data(told.pass(data))),
                Err(frame) => theirs(Ok::<_, BoxError>(frame)),
            },
            Err(error) => Err(error.into()),
        }))
    }
}

fn theirs<D, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Frame<Piece<D>>, BoxError> {
    frame
        .map(|frame| frame.map_data(Piece::Theirs))
        .map_err(Into::into)
}

impl Told {
    /// The last frame, where this is the moment and the place for it.
    fn end<D>(&mut self, cx: &mut Context<'_>) -> Option<Result<Frame<Piece<D>>, BoxError>> {
        if !self.is_reached && self.reached.poll(cx).is_ready() {
            self.is_reached = true;
            if self.signal.is_told_by_handler() {
                self.ending = How::ByHandler;
            }
            match self.ending {
                How::Events(_) | How::Messages(_) => self.signal.tell(),
                How::Cut => self.signal.cut(),
                How::ByHandler | How::Over => {}
            }
        }
        if !self.is_reached {
            return None;
        }
        let end = match &self.ending {
            How::Events(events) if events.is_between() => {
                Ok(Frame::data(Piece::Ours(Bytes::from_static(LAST_COMMENT))))
            }
            How::Messages(messages) if messages.is_between() => {
                Ok(Frame::trailers(messages::told()))
            }
            How::Cut => Err("broken off by the stop, as its policy says".into()),
            How::Events(_) | How::Messages(_) | How::ByHandler | How::Over => return None,
        };
        self.ending = How::Over;
        self.signal.over();
        Some(end)
    }

    /// Bytes on their way to the client; once the stream is told, no more of them than the whole event or message.
    fn pass<D: Buf>(&mut self, mut data: D) -> Piece<D> {
        let is_reached = self.is_reached;
        let mut read = |bytes: &[u8]| match (&mut self.ending, is_reached) {
            (How::Events(events), true) => events.read_to_end_of_event(bytes),
            (How::Messages(messages), true) => messages.read_to_end_of_message(bytes),
            (How::Events(events), false) => {
                events.read(bytes);
                bytes.len()
            }
            (How::Messages(messages), false) => {
                messages.read(bytes);
                bytes.len()
            }
            (How::Cut | How::ByHandler | How::Over, _) => bytes.len(),
        };
        let length = data.remaining();
        if data.chunk().len() == length {
            match read(data.chunk()) {
                all if all == length => Piece::Theirs(data),
                part => Piece::Ours(data.copy_to_bytes(part)),
            }
        } else {
            let mut bytes = data.copy_to_bytes(length);
            bytes.truncate(read(&bytes));
            Piece::Ours(bytes)
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.signal.over();
    }
}
