//! `/prestop`: the preStop hook as a request, for who gives the token.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tower::Service;

use crate::handle::ShutdownHandle;
use crate::hook_call::{Answer, PreStopCall};

use super::token::HookToken;
use super::{Probes, plain};

const PATH: &str = "/prestop";

const TOKEN: &str = "x-prestop-token";

/// The probes, and the hook beside them.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    probes: Probes,
    handle: ShutdownHandle,
    token: HookToken,
}

impl Routes {
    pub(super) const fn new(probes: Probes, handle: ShutdownHandle, token: HookToken) -> Self {
        Self {
            probes,
            handle,
            token,
        }
    }

    /// Begins the stop when the request may; otherwise the refusal.
    fn call_hook<B>(
        &self,
        request: &Request<B>,
    ) -> Result<PreStopCall, Box<Response<Full<Bytes>>>> {
        let mut given = request.headers().get_all(TOKEN).iter();
        let refused = match (given.next(), given.next()) {
            (None, _) => "this hook takes its token in the header X-Prestop-Token\n",
            (Some(given), None) if self.token.is(given.as_bytes()) => {
                // HEAD, too: whoever looks must not stop anything.
                if request.method() == Method::GET {
                    return Ok(PreStopCall::begin(&self.handle));
                }
                let mut response = plain(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "the hook is called with GET, as the kubelet does\n".into(),
                );
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET"));
                return Err(response.into());
            }
            _ => "the token in X-Prestop-Token is not the one of this hook\n",
        };
        tracing::warn!("a call of {PATH} without the token was refused");
        Err(plain(StatusCode::FORBIDDEN, refused.into()).into())
    }
}

impl<B> Service<Request<B>> for Routes {
    type Response = Response<Answered>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let called = if request.uri().path() == PATH {
            self.call_hook(&request)
        } else {
            Err(self.probes.answer(&request).into())
        };
        match called {
            Err(other) => Box::pin(ready(Ok(other.map(Answered::from)))),
            Ok(call) => Box::pin(async move {
                let answer = call.over().await;
                let text = format!("{}\n", answer.text());
                Ok(plain(StatusCode::OK, text).map(|body| Answered {
                    body,
                    _until_written: Some(answer),
                }))
            }),
        }
    }
}

/// A body that keeps the process from ending until it was written.
#[derive(Debug)]
pub(super) struct Answered {
    body: Full<Bytes>,
    _until_written: Option<Answer>,
}

impl From<Full<Bytes>> for Answered {
    fn from(body: Full<Bytes>) -> Self {
        Self {
            body,
            _until_written: None,
        }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
