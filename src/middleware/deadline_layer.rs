//! [`DeadlineLayer`]: no request waits past the stop, and what it calls learns how long it has.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower::{Layer, Service};

use crate::handle::ShutdownHandle;
use crate::request::say_close;
use crate::state::{Haste, Signal, State};
use crate::stream::{DEADLINE_EXCEEDED, is_grpc, only_trailers, refusal};

/// So that the answer still reaches its client before the connection is cut.
const MARGIN: Duration = Duration::from_millis(250);

const TIMEOUT: &str = "grpc-timeout";

/// Caps the time that a request has by the time that the stop leaves it.
///
/// - *Answered, not cut.* A request that has no answer when the drain is about to end is answered: 503 with
///   `Retry-After` (HTTP/1: and `Connection: close`), gRPC with `UNAVAILABLE`; its handler's future is dropped. Without this
///   layer its connection is cut. It counts as finished. A forced stop ends it at once. The body of an answer that has begun
///   is not bounded.
/// - *Handed on.* From the beginning of the stop on, a gRPC request's `grpc-timeout` says what is left, if that is less than
///   what its client set, or if it set none: for the server behind this layer, and for handlers that pass it on to the
///   services that they call.
/// - *Kept.* A gRPC request with a `grpc-timeout` that has no answer by then is answered `DEADLINE_EXCEEDED`, with
///   or without a stop. tonic's own server does the same; under [`serve`](crate::ShutdownCoordinator::serve)
///   nobody else does.
///
/// A `tower::timeout` further in is capped by being further in. For a timeout of one's own in a handler:
/// [`StopSignal::capped`](crate::StopSignal::capped).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), prestop::Error> {
/// use axum::{Router, routing::get};
/// use prestop::{DeadlineLayer, ShutdownCoordinator};
///
/// let c = ShutdownCoordinator::builder().build()?;
/// let app: Router = Router::new().route("/", get(|| async {})).layer(DeadlineLayer::new(&c.handle()));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    handle: ShutdownHandle,
    margin: Duration,
}

impl DeadlineLayer {
    /// The layer for what runs under the coordinator of this handle.
    #[must_use]
    pub fn new(handle: &ShutdownHandle) -> Self {
        Self {
            handle: handle.clone(),
            margin: MARGIN,
        }
    }

    /// How long before the end of the drain a request is answered. Default: 250 ms, so that its answer still reaches a
    /// client that is far away.
    #[must_use]
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of a [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, A, B> Service<Request<A>> for DeadlineService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let state = self.layer.handle.state();
        let margin = self.layer.margin;
        let (version, grpc) = (request.version(), is_grpc(request.headers()));
        let own = grpc.then(|| timeout(request.headers())).flatten();
        if grpc && let Some(cap) = cap(&state.signal(), margin) {
            let left = cap.saturating_duration_since(Instant::now());
            if own.is_none_or(|own| left < own) {
                request.headers_mut().insert(TIMEOUT, header(left));
            }
        }
        DeadlineFuture {
            future: self.inner.call(request),
            own: own.map(|own| Box::pin(sleep(own))),
            cap: Box::pin(capped(state.clone(), margin)),
            version,
            grpc,
        }
    }
}

/// When what has no answer gets one, in a stop that has begun.
fn cap(signal: &Signal, margin: Duration) -> Option<Instant> {
    let drain_by = signal.stop?.drain_by;
    Some(match signal.haste {
        Haste::None | Haste::EndLameDuck => drain_by.earlier_by(margin).instant(),
        Haste::Force => Instant::now(),
    })
}

/// Resolves then, also when the deadline moves.
async fn capped(state: Arc<State>, margin: Duration) {
    let mut signal = state.subscribe();
    drop(state);
    loop {
        let at = cap(&signal.borrow_and_update(), margin);
        let changed = match at {
            Some(at) => tokio::select! {
                biased;
                () = sleep_until(at) => return,
                changed = signal.changed() => changed,
            },
            None => signal.changed().await,
        };
        if changed.is_err() {
            // The coordinator is gone, and with it whoever would cut anything.
            std::future::pending::<()>().await;
        }
    }
}

pin_project! {
    /// The future of a [`DeadlineService`].
    pub struct DeadlineFuture<F> {
        #[pin]
        future: F,
        own: Option<Pin<Box<Sleep>>>,
        cap: BoxFuture<'static, ()>,
        version: Version,
        grpc: bool,
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.future.poll(cx) {
            return Poll::Ready(answer);
        }
        if let Some(own) = this.own
            && own.as_mut().poll(cx).is_ready()
        {
            let (code, message) = (DEADLINE_EXCEEDED, "the deadline of the request has passed");
            return Poll::Ready(Ok(only_trailers(code, message, B::default())));
        }
        ready!(this.cap.as_mut().poll(cx));
        let mut response = refusal(*this.grpc, B::default());
        say_close(*this.version, response.headers_mut());
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for DeadlineFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").finish_non_exhaustive()
    }
}

/// The value of `grpc-timeout`: at most eight digits and a unit. What is not that is left to the server.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3_600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// The same the other way, in milliseconds, or seconds where those have too many digits. Never more than is left.
fn header(left: Duration) -> HeaderValue {
    let (n, unit) = match left.as_millis() {
        millis @ ..=99_999_999 => (millis, 'm'),
        _ => (u128::from(left.as_secs()).min(99_999_999), 'S'),
    };
    HeaderValue::try_from(format!("{n}{unit}")).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, HeaderValue::from_str(value).unwrap());
        timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (value, length) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("100000000n", None),
            ("m", None),
            ("", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
        ] {
            assert_eq!(read(value), length, "{value:?}");
        }
    }

    #[test]
    fn what_is_handed_on_is_never_more_than_what_is_left() {
        for millis in [0, 1, 999, 24_350, 99_999_999, 100_000_000, 90_000_000_001] {
            let left = Duration::from_millis(millis) + Duration::from_micros(999);
            let said = read(header(left).to_str().unwrap()).unwrap();
            assert!(
                said <= left && left - said < Duration::from_secs(1),
                "{said:?}"
            );
        }
    }
}
